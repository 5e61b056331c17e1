"""The scripts of the papers: those of a clone, or those that were installed."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Final

from dropcore._base.checks import listed, shown
from dropcore.reproduction._experiment import Experiment

__all__ = ["load_script", "script_names"]

_PACKAGE: Final = "dropcore_papers"
_INSTALLED: Final = Path(__file__).parent / "scripts"
_CLONE: Final = Path(__file__).parents[3] / "examples" / "papers"


def script_names() -> list[str]:
    """The names of the experiments of the papers.

    Returns
    -------
    list of str
        Sorted; such as "mnist-max-norm".
    """
    return sorted(path.stem.replace("_", "-") for path in _folder().glob("[a-z]*.py"))


def load_script(name: str) -> Experiment:
    """The experiment of a script.

    Parameters
    ----------
    name : str
        One of `script_names`.

    Returns
    -------
    Experiment

    Raises
    ------
    ValueError
        If there is no such script.
    """
    if name not in script_names():
        near = get_close_matches(str(name).replace("_", "-"), script_names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"no experiment is called {shown(name)}: they are {listed(script_names(), 40)}{hint}"
        )
    if _PACKAGE not in sys.modules:  # so that scripts may import what they share
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(_folder())]
        sys.modules[_PACKAGE] = package
    module = importlib.import_module(f"{_PACKAGE}.{name.replace('-', '_')}")
    experiment: Experiment = module.EXPERIMENT
    return experiment


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _CLONE

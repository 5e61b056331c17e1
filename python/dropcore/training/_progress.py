"""The progress bar of `fit`."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(total: int, progress: bool | None) -> Any:
    """A tqdm bar over updates; None shows it on a terminal and in a notebook."""
    from tqdm.auto import tqdm  # takes long to import, and only training needs it

    if progress is None and in_notebook():
        progress = True
    # tqdm takes None as "only on a terminal".
    return tqdm(total=total, unit="update", disable=None if progress is None else not progress)


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter notebook, whose stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")

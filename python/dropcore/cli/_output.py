"""What a command prints, and the files that it may write."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from dropcore.cli._command import Result
from dropcore.cli._ranks import leads

__all__ = ["as_options", "check_files", "check_output", "note", "print_result"]

READ: Final = ("data", "model", "training_data", "config")
"""Names of options whose files are read."""

WRITTEN: Final = ("output", "log", "storage")
"""Names of options whose files are written."""


_CALLER: Final = re.compile(r"^(read_table|read_arrays|split_target|split|load|save): ")

_ARGUMENT: Final = re.compile(
    r"\b(sep|encoding|decimal|names|missing_values|target|drop|rows)="
    r"\[?(\.\.\.|'[^']*'|\"[^\"]*\")?\]?"
)

_FLAG: Final = re.compile(r"\b(again)=True")


def print_result(result: Result, *, as_json: bool) -> None:
    """Print a result to stdout."""
    if as_json:
        print(json.dumps(_plain(result.data), indent=2, ensure_ascii=False, allow_nan=False))
    elif result.text:
        print(result.text)


def note(text: str) -> None:
    """Print a line to stderr; of several processes one prints it."""
    if leads():
        print(text, file=sys.stderr, flush=True)


def as_options(message: str) -> str:
    """A message of the library in the words of the command line: ``sep=';'`` as ``--sep ';'``."""
    found = _FLAG.sub(r"--\1", _CALLER.sub("", message))
    return _ARGUMENT.sub(lambda match: f"--{match[1].replace('_', '-')} {match[2] or '...'}", found)


def check_output(path: Path, *, force: bool = False, instead: str = "--force") -> None:
    """Raise if a file cannot be written, or exists and may not be replaced.

    Parameters
    ----------
    path : Path
    force : bool
        Whether an existing file may be replaced.
    instead : str
        The options that allow that, for the error.

    Raises
    ------
    OSError
        If it is a directory, its directory is missing or cannot be written to, or it exists.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder}")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists already: choose another name, or add {instead}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written")


def check_files(options: argparse.Namespace) -> None:
    """ValueError if a file would be written that is also read, or written twice."""
    taken: dict[Path, str] = {}
    for name in (*READ, *WRITTEN):
        path = getattr(options, name, None)
        if not isinstance(path, Path):  # --model of `train` is a kind of network
            continue
        other = taken.setdefault(path.resolve(), name)
        if name in WRITTEN and other != name:
            what = other.replace("_", " ")
            raise ValueError(f"{path} is given as --{name} and as the {what}: choose another name")


def _plain(value: Any) -> Any:
    """As JSON takes it: arrays as lists, and null for what is not a finite number."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

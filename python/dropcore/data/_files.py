"""Paths of data files."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from dropcore._base.checks import listed, shown

__all__ = ["existing_file"]


def existing_file(what: str, path: str | os.PathLike[str]) -> Path:
    """`path` if it is a file.

    Raises
    ------
    FileNotFoundError
        If there is none. The message lists files of the folder with similar names.
    IsADirectoryError
        If it is a folder.
    TypeError
        If it is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{what}: path must be the path of a file, got {shown(path)}")
    found = Path(path)
    if found.is_dir():
        raise IsADirectoryError(f"{what}: {found} is a folder; give the path of a file in it")
    if found.exists():
        return found
    if "://" in str(path):
        raise FileNotFoundError(f"{what}: {path} is an address; download the file first")
    hint = ""
    if found.parent.is_dir():
        near = difflib.get_close_matches(found.name, os.listdir(found.parent), 3)
        hint = f"; the folder has {listed(near)}" if near else ""
    else:
        hint = f", nor the folder {found.parent}"
    raise FileNotFoundError(f"{what}: there is no file {found}{hint}")

"""The data of a command: columns to learn from, and the column to predict."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import listed
from dropcore.cli._command import Option
from dropcore.cli._output import note
from dropcore.cli._values import words

__all__ = [
    "CLASSIFICATION",
    "DATA",
    "DROP",
    "READING",
    "REGRESSION",
    "TASK",
    "Examples",
    "fingerprint",
    "read_examples",
    "task_of",
]

CLASSIFICATION: Final = "classification"
REGRESSION: Final = "regression"

MOST_CLASSES: Final = 20
"""Integers with at most so many different values are taken as classes."""

ARRAYS: Final = (".npz", ".npy")

_READING: Final = "data"

DATA = Option(
    "data",
    "a table: CSV, TSV or Parquet, compressed or not; or arrays: .npz with an array called x, or "
    ".npy",
    kind=Path,
    metavar="DATA",
)

READING: Final = (
    Option(
        "--sep",
        "the separator of a CSV; by default detected",
        metavar="CHAR",
        group=_READING,
    ),
    Option(
        "--encoding",
        "encoding of a CSV, such as cp1252; by default UTF-8",
        metavar="NAME",
        group=_READING,
    ),
    Option(
        "--decimal", "the decimal mark of a CSV; by default detected", choices=(".", ","),
        group=_READING,
    ),
    Option(
        "--names",
        "names of the columns, if the first line is data",
        kind=words,
        metavar="COL,COL",
        group=_READING,
    ),
    Option(
        "--missing-values",
        "text that marks a missing value, besides the usual ones, such as ?",
        kind=words,
        metavar="TEXT,TEXT",
        group=_READING,
    ),
)  # fmt: skip

DROP = Option(
    "--drop",
    "columns to leave out, such as identifiers",
    kind=words,
    metavar="COL,COL",
    group=_READING,
)

TASK = Option(
    "--task",
    "by default classification if the target is text, or integers with at most "
    f"{MOST_CLASSES} different values",
    choices=(CLASSIFICATION, REGRESSION),
    group=_READING,
)


@dataclass(frozen=True)
class Examples:
    """Rows of data.

    Attributes
    ----------
    x : DataFrame or ndarray
        What to predict from.
    y : ndarray or None
        What to predict.
    """

    x: Any
    y: Any = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def names(self) -> list[str] | None:
        """Names of the columns of a table."""
        columns = getattr(self.x, "columns", None)
        return None if columns is None else list(map(str, columns))

    def with_columns(self, wanted: Sequence[str]) -> Examples:
        """The columns that a model was trained on, in its order.

        Raises
        ------
        ValueError
            If some are missing. The message names them, and similar columns.
        """
        names = self.names
        if names is None:
            raise ValueError(
                "the model was trained on a table with named columns, so the data must be one, too"
            )
        missing = [name for name in wanted if name not in names]
        if missing:
            near = {name: get_close_matches(name, names, n=1) for name in missing}
            hints = [f"{name!r} may be {found[0]!r}" for name, found in near.items() if found]
            raise ValueError(
                f"the data lacks {_count(missing, 'column')} that the model was trained on: "
                f"{listed(missing, 12)}" + (f"; {', '.join(hints)}" if hints else "")
            )
        return replace(self, x=self.x[list(wanted)])

    def as_numbers(self, network: str) -> Examples:
        """The inputs as an array, for a network that takes no table.

        Raises
        ------
        ValueError
            If columns hold text or have missing values.
        """
        if self.names is None:
            return self
        for name in self.x.columns:
            column = self.x[name]
            if column.dtype.kind not in "iufb":
                raise ValueError(
                    f"--model {network} takes numbers only, and column {name!r} holds "
                    f"{column.iloc[0]!r}: leave it out by --drop, or use --model mlp"
                )
            if column.isna().any():
                raise ValueError(
                    f"--model {network} takes no missing values, and column {name!r} has "
                    f"{int(column.isna().sum())}: fill them in, or use --model mlp"
                )
        return replace(self, x=self.x.to_numpy(dtype=np.float32))


def read_examples(
    path: Path,
    options: argparse.Namespace,
    *,
    target: str | None = None,
    drop: Iterable[str] = (),
    optional: bool = False,
) -> Examples:
    """Read the data of a command.

    Parameters
    ----------
    path : Path
    options : Namespace
        With those of `READING`.
    target : str, optional
        The column, or the array, to predict. Rows without it are left out, with a warning.
    drop : iterable of str
        Columns to leave out.
    optional : bool
        Whether columns may be absent, as the target in data that is to be predicted. Its values
        are then not read.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or has no such column.
    """
    from dropcore.data import read_table, split_target

    if path.suffix in ARRAYS and path.is_file():
        return _from_arrays(path, target, optional)
    settings = {
        name: getattr(options, name)
        for name in ("sep", "encoding", "decimal", "names", "missing_values")
        if getattr(options, name) is not None
    }
    if optional:
        return Examples(read_table(path, **settings))
    frame = read_table(path, target=target, drop=list(drop), **settings)
    return Examples(frame) if target is None else Examples(*split_target(frame, target))


def task_of(y: NDArray[Any], chosen: str | None) -> tuple[str, NDArray[Any]]:
    """Classification or regression, and the targets as their task takes them.

    The choice is printed unless the user made it.

    Raises
    ------
    ValueError
        If text is to be predicted as a number, or all targets are the same.
    """
    text = y.dtype.kind not in "iufb"
    whole = not text and bool((y == np.round(y)).all())
    kinds = len(np.unique(y.astype(str) if text else y))
    first = y[0] if text else y[0].item()
    if kinds < 2:
        raise ValueError(
            f"the target has the value {first!r} in all rows: there is nothing to learn"
        )
    task = chosen
    if task is None:
        few = whole and kinds <= MOST_CLASSES
        task = CLASSIFICATION if text or few else REGRESSION
        reason = (
            f"the target is text of {kinds} kinds"
            if text
            else f"the target has {kinds} different whole numbers"
            if whole
            else "the target holds numbers"
        )
        note(f"{task}: {reason} (--task changes that)")
    if task == REGRESSION:
        if text:
            raise ValueError(
                f"--task regression needs a target of numbers, got text such as {first!r}"
            )
        return task, y.astype(np.float64)
    if text:
        return task, y.astype(str)
    return task, y.astype(np.int64) if whole else y


def fingerprint(path: Path) -> str:
    """A digest of a file, to recognise the training data."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _from_arrays(path: Path, target: str | None, optional: bool) -> Examples:
    from dropcore.data import read_arrays

    found = read_arrays(path)
    arrays: Mapping[str, NDArray[Any]] = {"x": found} if isinstance(found, np.ndarray) else found
    for name in ["x", *([] if target is None or optional else [target])]:
        if name not in arrays:
            raise ValueError(
                f"{path} must have an array called {name!r}, and has {listed(arrays, 12)}"
            )
    y = arrays.get(target) if target is not None else None
    if y is not None and y.shape != (len(arrays["x"]),):
        raise ValueError(
            f"{path}: {target!r} must hold one value for each of the {len(arrays['x'])} rows of "
            f"x, got shape {y.shape}"
        )
    return Examples(arrays["x"], y)


def _count(items: Any, noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"

"""Writes the metrics of each epoch to a CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dropcore._base.checks import check_bool
from dropcore._base.files import check_replaceable, checked_path, replacing
from dropcore.training.callbacks._base import Callback, Run

__all__ = ["CSVLog"]


class CSVLog(Callback):
    """Writes a line for each epoch to a CSV file: its number and the metrics of the history.

    A line is written at the end of its epoch, in one piece, with all digits of the numbers. A
    resumed run continues its file, without the lines of epochs that are trained again. If the file
    is deleted or moved during training, a new one is begun.

    Parameters
    ----------
    path : str or path
        In UTF-8, with the names of the columns in its first line.
    append : bool, default False
        Whether a new run adds its lines to an existing file, which must have the same columns,
        instead of replacing it.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. From `fit`, before training: if a file to append to has other
        columns.
    FileNotFoundError
        From `fit`, before training: if the folder does not exist.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self._path = checked_path("CSVLog", path).absolute()
        self._append = check_bool("CSVLog: append", append)
        self._columns: list[str] = []
        self._begun = False

    def check(self, metrics: Mapping[str, bool]) -> None:
        check_replaceable("CSVLog", self._path)
        self._columns = ["epoch", *metrics]
        if self._append:
            self._kept(None)

    def writes(self) -> Path:
        return self._path

    def on_fit_begin(self, run: Run) -> None:
        self._begun = False
        self._done = run.state.epoch

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        if not self._begun:
            self._begin(self._kept(None) if self._append else [])
        elif not self._path.exists():  # it was deleted or moved away
            self._begin([])
        row = [epoch, *(repr(float(metrics[name])) for name in self._columns[1:])]
        # Without a buffer, so that a process that is killed leaves a whole line or none.
        line = memoryview(_encoded([row]))
        try:
            with open(self._path, "ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    while line:  # a disk that is almost full takes a part
                        line = line[file.write(line) :]
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"CSVLog: the line of epoch {epoch} was not written to {self._path}: "
                f"{error.strerror}",
            ) from None

    def state(self) -> dict[str, Any]:
        return {"columns": self._columns}

    def restore(self, state: dict[str, Any]) -> None:
        self._begin(self._kept(self._done))

    def _begin(self, lines: Sequence[Sequence[str]]) -> None:
        """Replace the file by its first line and these."""
        with replacing("CSVLog", self._path) as temporary:
            temporary.write_bytes(_encoded([self._columns, *lines]))
        self._begun = True

    def _kept(self, epoch: int | None) -> list[list[str]]:
        """The lines of the file, without those after `epoch` at its end.

        Raises
        ------
        ValueError
            If the file has other columns, or was not written by this callback.
        """
        if not self._path.exists():
            return []
        foreign = f"CSVLog: {self._path} was not written by CSVLog: use another file"
        try:
            text = self._path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a system that crashed may leave part of a line
            first, *lines = [*csv.reader(io.StringIO(whole))] or [[]]
        except (UnicodeDecodeError, csv.Error):
            raise ValueError(foreign) from None
        if first and first != self._columns:
            raise ValueError(
                f"CSVLog: {self._path} has the columns {', '.join(first)}, and this run "
                f"{', '.join(self._columns)}: use another file"
            )
        if not all(line and line[0].isdecimal() for line in lines):
            raise ValueError(foreign)
        while epoch is not None and lines and int(lines[-1][0]) > epoch:
            lines.pop()
        return lines


def _encoded(lines: Sequence[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue().encode("utf-8")

"""Finished runs: a line of JSON each, in a file that is appended to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_number, listed, shown
from dropcore._base.files import lock_open
from dropcore.reproduction._experiment import Experiment

__all__ = ["Record", "Results", "append_record", "read_records", "read_results"]


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes
    ----------
    row : str
    seed : int
    settings : dict
        All of them.
    values : dict of str to float
        Of each measure.
    curves : dict of str to pair of lists
        Such as the number of updates, and the error after it.
    updates : int
        Of all networks that were trained.
    seconds, cpu_seconds : float
        Of their training, with the evaluations after each epoch: the time that passed, and that of
        all threads, which does not depend on what else the machine does.
    machine : dict
        Processor, instruction set, threads, versions of dropcore and NumPy.
    """

    row: str
    seed: int
    settings: dict[str, Any]
    values: dict[str, float]
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    updates: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)


class Results:
    """Finished runs of an experiment.

    Methods that take a row or a measure raise ValueError if the experiment does not have it, or if
    the row has no runs.

    Parameters
    ----------
    experiment : Experiment
    records : iterable of Record

    Raises
    ------
    ValueError
        If a run has a row that the experiment does not have, or no value of one of its measures.
    """

    def __init__(self, experiment: Experiment, records: Iterable[Record]) -> None:
        self.experiment = experiment
        self.records = list(records)
        for record in self.records:
            experiment.row(record.row)
            for measure in experiment.measures:
                if measure.name not in record.values:
                    raise ValueError(
                        f"the run of {record.row!r} with seed {record.seed} has no value of "
                        f"{measure.name!r}, only {listed(record.values)}"
                    )

    @property
    def rows(self) -> list[str]:
        """The rows with at least one run, in the order of the experiment."""
        recorded = {record.row for record in self.records}
        return [row.name for row in self.experiment.rows if row.name in recorded]

    def of(self, row: str) -> list[Record]:
        """The runs of a row.

        Parameters
        ----------
        row : str

        Returns
        -------
        list of Record
            Empty if it has none yet.
        """
        name = self.experiment.row(row).name
        return [record for record in self.records if record.row == name]

    def values(self, row: str, measure: str | None = None) -> NDArray[np.float64]:
        """A value for each run of a row.

        Parameters
        ----------
        row : str
        measure : str, optional
            By default the first one.

        Returns
        -------
        float64 array (runs,)
        """
        name = self.experiment.measure(measure).name
        found = [record.values[name] for record in self.of(row)]
        if not found:
            raise ValueError(f"row {row!r} has no runs yet; there are some of {listed(self.rows)}")
        return np.array(found)

    def mean(self, row: str, measure: str | None = None) -> float:
        """The mean over the runs of a row.

        Parameters
        ----------
        row : str
        measure : str, optional
            By default the first one.

        Returns
        -------
        float
        """
        return float(self.values(row, measure).mean())

    def standard_error(self, row: str, measure: str | None = None) -> float:
        """The standard error of the mean over the runs.

        Parameters
        ----------
        row : str
        measure : str, optional
            By default the first one.

        Returns
        -------
        float
            NaN for a single run.
        """
        values = self.values(row, measure)
        if len(values) < 2:
            return math.nan
        return float(values.std(ddof=1) / math.sqrt(len(values)))

    def curve(
        self, row: str, name: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """A curve of a row.

        Parameters
        ----------
        row, name : str
            Of a row, and of one of its curves.

        Returns
        -------
        x : float64 array (points,)
            The abscissae.
        mean : float64 array (points,)
            Over the runs.
        standard_error : float64 array (points,)
            Of the mean; 0 for a single run.

        Raises
        ------
        ValueError
            If there is no such curve, or the runs have other abscissae.
        """
        curves = []
        for record in self.of(row):
            if name not in record.curves:
                raise ValueError(
                    f"row {row!r} has no curve {name!r}; its curves are {listed(record.curves)}"
                )
            curves.append(record.curves[name])
        if not curves:
            raise ValueError(f"row {row!r} has no runs yet; there are some of {listed(self.rows)}")
        x = np.array(curves[0][0], np.float64)
        if any(list(x) != list(other[0]) for other in curves):
            raise ValueError(f"the runs of {row!r} have curves {name!r} of different abscissae")
        y = np.array([values for _, values in curves], np.float64)
        spread = y.std(axis=0, ddof=1) / math.sqrt(len(y)) if len(y) > 1 else np.zeros(len(x))
        return x, y.mean(axis=0), spread

    def cells(self) -> list[list[str]]:
        """A table: its head, and a line for each row with at least one run.

        It has the published figures, ours with their standard errors, the number of runs, their
        updates and time. A measure without any published figure has no column for it.

        Returns
        -------
        list of list of str
            All of one length.
        """
        measures = self.experiment.measures
        published = {row.name: self.experiment.published(row.name) for row in self.experiment.rows}
        known = {name for figures in published.values() for name in figures}
        head = [""]
        for measure in measures:
            if len(measures) == 1:
                head += ["published", measure.label] if known else [measure.label]
            elif measure.name in known:
                head += [f"{measure.label}: published", "ours"]
            else:
                head.append(measure.label)
        lines = [[*head, "runs", "updates", "CPU minutes a run"]]
        for row in self.rows:
            records = self.of(row)
            line = [row]
            for measure in measures:
                if measure.name in known:
                    figure = published[row].get(measure.name)
                    line.append("-" if figure is None else f"{figure:.{measure.digits}f}")
                line.append(self.shown(row, measure.name))
            updates = round(np.mean([record.updates for record in records]))
            minutes = np.mean([record.cpu_seconds for record in records]) / 60
            lines.append([*line, f"{len(records)}", f"{updates:,}", f"{minutes:.1f}"])
        return lines

    def table(self) -> str:
        """Write `cells` as text.

        Returns
        -------
        str
        """
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *(
                cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
            )]).rstrip()
            for line in lines
        )  # fmt: skip

    def shown(self, row: str, measure: str | None = None) -> str:
        """The mean and its standard error as text.

        Parameters
        ----------
        row : str
        measure : str, optional
            By default the first one.

        Returns
        -------
        str
            Such as "1.06 +- 0.02", or "1.06" for a single run.
        """
        chosen = self.experiment.measure(measure)
        digits, error = chosen.digits, self.standard_error(row, chosen.name)
        spread = "" if math.isnan(error) else f" +- {error:.{digits}f}"
        return f"{self.mean(row, chosen.name):.{digits}f}{spread}"


def read_results(experiment: Experiment, path: str | Path) -> Results:
    """The runs that a file has of an experiment.

    Parameters
    ----------
    experiment : Experiment
    path : str or path
        A file that `reproduce` has written.

    Returns
    -------
    Results
        Without runs if the file does not exist.

    Raises
    ------
    ValueError
        If a line is no record, or one of another experiment.
    """
    records = read_records(Path(path))
    try:
        return Results(experiment, records)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}: name the file of this experiment, or delete such lines"
        ) from None


def read_records(path: Path) -> list[Record]:
    """The runs in a file, the last one of each row and seed; none if there is no file.

    A run replaces all earlier ones of its row that have other settings. What a killed process has
    begun to write at the end is ignored.
    """
    if not path.exists():
        return []
    found: dict[tuple[str, int], Record] = {}
    settings: dict[str, dict[str, Any]] = {}
    content = path.read_bytes()
    *lines, last = content[: _end_of_records(path, content)].split(b"\n")
    for number, line in enumerate([*lines, last] if last else lines, 1):
        try:
            record = _record(line)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number} is no record of a run: {error}: correct the line, or "
                "delete it, and its run is repeated"
            ) from None
        if record.settings != settings.setdefault(record.row, record.settings):
            found = {run: one for run, one in found.items() if one.row != record.row}
            settings[record.row] = record.settings
        found[record.row, record.seed] = record
    return list(found.values())


def append_record(path: Path, record: Record) -> None:
    """Add a run; several processes may share a file."""
    with open(path, "ab+") as file:
        lock_open(file.fileno())  # or a line that another process writes now would be truncated
        file.seek(0)
        content = file.read()
        end = _end_of_records(path, content)
        file.truncate(end)
        if end and content[end - 1 : end] != b"\n":
            file.write(b"\n")
        file.write(_line(record).encode())
        file.flush()
        os.fsync(file.fileno())


def _end_of_records(path: Path, content: bytes) -> int:
    """Where the content of a file ends without what a killed process has begun to write.

    A whole last line may have lost its end in an editor.
    """
    whole = content.rfind(b"\n") + 1
    last = content[whole:]
    try:
        json.loads(last)
    except ValueError:  # also of bytes that are no text
        if last[: len(_BEGIN)] == _BEGIN[: len(last)]:
            return whole
    try:
        _record(last)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: the last line is no record of a run: {error}: name a file that reproduce has "
            "written, or a new one"
        ) from None
    return len(content)


_BEGIN: Final = b'{"row": '
"""What each line begins with."""


def _record(line: bytes) -> Record:
    """The record of a line; ValueError or TypeError if it is none."""
    found = json.loads(line.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"it must be an object of JSON, got {shown(found)}")
    record = Record(**found)
    for name, kind in _KINDS.items():
        value = getattr(record, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} must be of type {kind.__name__}, got {shown(value)}")
    numbers = {f"the value of {name!r}": value for name, value in record.values.items()}
    numbers |= {"seconds": record.seconds, "cpu_seconds": record.cpu_seconds}
    for name, value in numbers.items():
        check_number(name, value)
    for name, curve in record.curves.items():
        lists = isinstance(curve, list) and [type(axis) for axis in curve] == [list, list]
        if not lists or len(curve[0]) != len(curve[1]):
            raise ValueError(f"the curve {name!r} must be two lists of one length")
    return record


_KINDS: Final[dict[str, type]] = {
    "row": str, "seed": int, "settings": dict, "values": dict, "curves": dict, "updates": int,
    "machine": dict,
}  # fmt: skip


def _line(record: Record) -> str:
    return json.dumps(asdict(record), allow_nan=False) + "\n"

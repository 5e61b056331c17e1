"""Which runs of an experiment are wanted, and which of them a file has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from dropcore._base.checks import check_bool, is_several, listed, shown
from dropcore._base.files import check_replaceable, checked_path
from dropcore.reproduction._experiment import HELD_OUT, Experiment, checked_seeds
from dropcore.reproduction._records import read_records

__all__ = ["Selection"]

SUFFIX: Final = ".jsonl"


class Selection:
    """The runs that `reproduce` is asked for; its arguments, and the errors they may have.

    Attributes
    ----------
    experiment : Experiment
    path, picture, unfinished : Path
        The file of finished runs, the picture, and the folder of checkpoints.
    runs : list of tuple of str and int
        Rows and seeds in the order in which they are trained.
    held_out : bool
    changed : dict
        Settings that were given.
    """

    def __init__(
        self,
        experiment: Experiment,
        path: str | Path,
        *,
        rows: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        quick: bool = False,
        held_out: bool = False,
        settings: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> None:
        if not isinstance(experiment, Experiment):
            raise TypeError(
                f"experiment must be an Experiment, such as load_script returns, got "
                f"{shown(experiment)}"
            )
        self.experiment, self.changed = experiment, dict(settings or {})
        self.held_out = check_bool("held_out", held_out)
        self._quick, self._again = check_bool("quick", quick), check_bool("again", again)
        wanted = _rows(experiment, rows)
        self._check_changed(wanted)
        given = None if seeds is None else checked_seeds(seeds)
        chosen = {row: given or experiment.seeds_of(row) for row in wanted}
        if quick and given is None:
            chosen = {row: own[:1] for row, own in chosen.items()}
        self._settings = {row: self._settings_of(row) for row in wanted}
        self.runs = [
            (row, seed)
            for seed in sorted(set(chain.from_iterable(chosen.values())))
            for row in wanted
            if seed in chosen[row]
        ]
        self.path = _file_of_runs(path)
        self.picture, self.unfinished = map(self.path.with_suffix, (".png", ".unfinished"))
        for file in (self.path, self.picture):
            check_replaceable("reproduce", file)
        if self.unfinished.exists() and not self.unfinished.is_dir():
            raise NotADirectoryError(
                f"reproduce: checkpoints are written to the folder {self.unfinished}, which is a "
                "file: move it, or name another path"
            )

    def settings_of(self, row: str) -> dict[str, Any]:
        """What is recorded of a run of a row."""
        return self._settings[row]

    def missing(self) -> list[tuple[str, int]]:
        """Rows and seeds that the file does not have.

        Raises
        ------
        ValueError
            If it has runs with other settings, which are not to be replaced.
        """
        records = read_records(self.path)
        other = [
            record
            for record in records
            if record.row in self._settings and record.settings != self._settings[record.row]
        ]
        if other and not self._again:
            record = other[0]
            wanted = self._settings[record.row]
            differing = sorted(
                name
                for name in {*wanted, *record.settings}
                if wanted.get(name) != record.settings.get(name)
            )
            then, now = (
                ", ".join(f"{name}={shown(of.get(name))}" for name in differing)
                for of in (record.settings, wanted)
            )
            raise ValueError(
                f"{self.path} has runs of {record.row!r} with {then}, and now it is {now}: write "
                "to another file, or set again=True, which replaces them"
            )
        done = {(record.row, record.seed) for record in records if record not in other}
        return [run for run in self.runs if run not in done]

    def _settings_of(self, row: str) -> dict[str, Any]:
        settings = self.experiment.settings_of(row, quick=self._quick, changed=self.changed)
        return {**settings, HELD_OUT: self.held_out}

    def _check_changed(self, rows: Sequence[str]) -> None:
        """ValueError for a setting that tells the wanted rows apart."""
        of = [self.experiment.settings_of(row, quick=self._quick) for row in rows]
        for name in self.changed:
            values: list[Any] = []
            for own in of:
                if name in own and own[name] not in values:
                    values.append(own[name])
            if len(values) > 1:
                raise ValueError(
                    f"settings: {name!r} differs between the rows, which have "
                    f"{listed(values, 12)}: set it for rows that share a value, chosen with rows="
                )


def _rows(experiment: Experiment, rows: Sequence[str] | None) -> list[str]:
    if rows is None:
        return [row.name for row in experiment.rows]
    if not is_several(rows):
        raise TypeError(f"rows must be a sequence of names, got {shown(rows)}")
    found = [experiment.row(name).name for name in dict.fromkeys(rows)]
    if not found:
        raise ValueError("rows must have at least one name, got none")
    return found


def _file_of_runs(path: str | Path) -> Path:
    found = checked_path("reproduce", path)
    if found.suffix != SUFFIX:
        raise ValueError(
            f"reproduce: path must end in {SUFFIX}, because the picture and the checkpoints are "
            f"written beside it with other suffixes, got {found}"
        )
    return found

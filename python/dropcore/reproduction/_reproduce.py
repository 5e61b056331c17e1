"""Run an experiment: what is missing in its file, one run after the other."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import dropcore
from dropcore._base.checks import shown
from dropcore.reproduction._experiment import Experiment
from dropcore.reproduction._pictures import draw_rows
from dropcore.reproduction._records import Record, Results, append_record, read_records
from dropcore.reproduction._seeded_run import SeededRun

__all__ = ["missing_runs", "reproduce"]


def reproduce(
    experiment: Experiment,
    path: str | Path,
    *,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    held_out: bool = False,
    settings: Mapping[str, Any] | None = None,
    again: bool = False,
    report: Callable[[str], None] = lambda text: None,
    progress: bool | None = False,
) -> Results:
    """Train every row of an experiment with every seed, and draw the result.

    Runs that the file has are not repeated, and one that was stopped continues from its last
    checkpoint, to the same bits. Several processes may work on one file: each trains the runs that
    no other process trains at the time. On Windows, give them different rows or seeds instead.

    Parameters
    ----------
    experiment : Experiment
    path : str or path
        A JSON Lines file, to which each finished run is added. The picture is written beside it,
        with the suffix ``.png``. Checkpoints are in a folder of the same name with the suffix
        ``.unfinished``.
    rows : sequence of str, optional
        Only these.
    seeds : sequence of int, optional
        Other ones than those of the experiment.
    quick : bool, default False
        The small form, with the first seed alone. It shows that a script works, and nothing else.
    held_out : bool, default False
        Train without a part of the training data, and measure on that part: to choose settings.
        The test data is then not touched.
    settings : dict, optional
        Instead of those of the experiment.
    again : bool, default False
        Whether to replace runs that the file has with other settings. Those of a row count until
        the first new run of that row is finished, and stay in the file.
    report : callable, optional
        Called with a line of text for each run.
    progress : bool, optional
        As in `dropcore.training.fit`.

    Returns
    -------
    Results
        Of all runs that the file now has.

    Raises
    ------
    ValueError
        If an argument is invalid, or the file has runs with other settings.
    OSError
        If the folder of `path` does not exist.
    ImportError
        If matplotlib or safetensors is missing.
    """
    path = Path(path)
    _check_packages()
    missing = missing_runs(
        experiment, path, rows=rows, seeds=seeds, quick=quick, held_out=held_out,
        settings=settings, again=again,
    )  # fmt: skip
    for row, seed in missing:
        own = _settings(experiment, row, quick, held_out, settings)
        run = SeededRun(
            row, seed, own, path.with_suffix(".unfinished"), held_out=held_out, progress=progress
        )
        with run.claimed() as mine:
            if not mine:
                report(f"{row}, seed {seed}: another process trains it")
            elif (row, seed) not in _done(path, {row: own}, again):  # perhaps by now
                record = _record(experiment, run, own)
                append_record(path, record)
                run.finish()  # its checkpoint counts until the record is in the file
                report(_line(experiment, record))
    found = Results(experiment, read_records(path))
    draw(found, path.with_suffix(".png"))
    return found


def missing_runs(
    experiment: Experiment,
    path: Path,
    *,
    rows: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    quick: bool = False,
    held_out: bool = False,
    settings: Mapping[str, Any] | None = None,
    again: bool = False,
) -> list[tuple[str, int]]:
    """Rows and seeds that `reproduce` has to train, in its order; its arguments, and its errors."""
    wanted = [row.name for row in experiment.rows] if rows is None else list(rows)
    chosen = {row: experiment.seeds_of(row) if seeds is None else tuple(seeds) for row in wanted}
    if quick and seeds is None:
        chosen = {row: own[:1] for row, own in chosen.items()}
    given = {row: _settings(experiment, row, quick, held_out, settings) for row in wanted}
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    done = _done(path, given, again)
    return [
        (row, seed)
        for seed in sorted(set(chain.from_iterable(chosen.values())))
        for row in wanted
        if seed in chosen[row] and (row, seed) not in done
    ]


def draw(results: Results, path: Path) -> None:
    """Write the picture of an experiment."""
    from dropcore._base.files import replacing
    from dropcore.plotting._style import new_figure

    figure = new_figure(7.2, 4.2)
    (results.experiment.draw or draw_rows)(figure, results)
    with replacing("reproduce", path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))


def _settings(
    experiment: Experiment,
    row: str,
    quick: bool,
    held_out: bool,
    changed: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is recorded of a run."""
    return {**experiment.settings_of(row, quick=quick, changed=changed), "held_out": held_out}


def _done(path: Path, given: Mapping[str, Mapping[str, Any]], again: bool) -> set[tuple[str, int]]:
    """Rows and seeds that the file has; ValueError if it has them with other settings."""
    records = read_records(path)
    other = [r for r in records if r.row in given and r.settings != given[r.row]]
    if other and not again:
        record = other[0]
        wanted = given[record.row]
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
            f"{path} has runs of {record.row!r} with {then}, and now it is {now}: write to another "
            "file, or set again=True, which replaces them"
        )
    return {(record.row, record.seed) for record in records if record not in other}


def _record(experiment: Experiment, run: SeededRun, settings: dict[str, Any]) -> Record:
    """Train, and return what has come out."""
    started, cpu_started = perf_counter(), process_time()
    values = {name: float(value) for name, value in experiment.train(run).items()}
    names = {measure.name for measure in experiment.measures}
    if set(values) != names or not all(map(math.isfinite, values.values())):
        raise ValueError(
            f"train must return a finite number for each of {sorted(names)}, got {values}"
        )
    return Record(
        run.row, run.seed, settings, values, run.curves, run.updates,
        round(run.seconds or perf_counter() - started, 2),
        round(run.cpu_seconds or process_time() - cpu_started, 2), _machine(),
    )  # fmt: skip


def _line(experiment: Experiment, record: Record) -> str:
    values = ", ".join(
        f"{measure.name} {record.values[measure.name]:.{measure.digits}f}"
        + (f" {measure.unit}" if measure.unit else "")
        for measure in experiment.measures
    )
    published = experiment.published(record.row)
    paper = f" (published: {', '.join(f'{v:g}' for v in published.values())})" * bool(published)
    return (
        f"{record.row}, seed {record.seed}: {values}{paper}, {record.updates:,} updates, "
        f"{record.seconds:.0f} s"
    )


def _machine() -> dict[str, Any]:
    build = dropcore.build_info()
    return {
        "processor": platform.machine(),
        "isa": build["isa"],
        "threads": dropcore.get_num_threads(),
        "dropcore": build["version"],
        "numpy": np.__version__,
    }


def _check_packages() -> None:
    from dropcore._base.extras import require

    require("safetensors", "practice", "repeating an experiment")
    require("matplotlib.figure", "practice", "repeating an experiment")

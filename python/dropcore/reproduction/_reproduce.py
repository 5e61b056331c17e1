"""Run an experiment: what is missing in its file, one run after the other."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

import dropcore
from dropcore._base.checks import shown
from dropcore.reproduction._experiment import Experiment
from dropcore.reproduction._pictures import draw_rows
from dropcore.reproduction._records import Record, Results, append_record, read_results
from dropcore.reproduction._seeded_run import SeededRun
from dropcore.reproduction._selection import Selection

__all__ = ["draw", "repeat", "reproduce"]


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
        A JSON Lines file with the suffix ``.jsonl``, to which each finished run is added. The
        picture is written beside it, with the suffix ``.png``. Checkpoints are in a folder of the
        same name with the suffix ``.unfinished``.
    rows : sequence of str, optional
        Only these.
    seeds : sequence of int, optional
        Other ones than those of the experiment.
    quick : bool, default False
        The small form, with the first seed alone. It shows that a script works, and nothing else.
    held_out : bool, default False
        Train without a part of the training data, and measure on that part: to choose settings.
    settings : dict, optional
        Instead of those of the experiment. Values have the type that the setting has there. A
        setting that differs between the rows can be given only for rows that share its value.
    again : bool, default False
        Whether to replace runs that the file has with other settings. The old runs of a row are
        used until its first new run has finished; they stay in the file.
    report : callable, optional
        Called with a line of text when a run begins, and when it has finished.
    progress : bool, optional
        As in `dropcore.training.fit`.

    Returns
    -------
    Results
        Of all runs that the file now has.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or the file has runs with other settings or of another
        experiment.
    OSError
        If the folder of `path` does not exist, or a file in it cannot be written.
    ImportError
        If matplotlib or safetensors is missing.
    """
    selection = Selection(
        experiment, path, rows=rows, seeds=seeds, quick=quick, held_out=held_out,
        settings=settings, again=again,
    )  # fmt: skip
    return repeat(selection, report=report, progress=progress)


def repeat(
    selection: Selection,
    *,
    report: Callable[[str], None] = lambda text: None,
    progress: bool | None = False,
) -> Results:
    """Train the runs of a selection that its file does not have; as `reproduce`."""
    _check_packages()
    experiment, path = selection.experiment, selection.path
    missing = selection.missing()
    for number, (row, seed) in enumerate(missing, 1):
        run = SeededRun(
            row, seed, selection.settings_of(row), selection.unfinished,
            held_out=selection.held_out, progress=progress,
        )  # fmt: skip
        with run.claimed() as mine:
            if not mine:
                report(f"{row}, seed {seed}: another process trains it")
            elif (row, seed) in selection.missing():  # still
                begins = "continues from its checkpoint" if run.has_files() else "begins"
                of_all = f", run {number} of {len(missing)}" * (len(missing) > 1)
                report(f"{row}, seed {seed}: {begins}{of_all}")
                record = _record(selection, run)
                append_record(path, record)
                run.finish()  # its checkpoint counts until the record is in the file
                report(_line(experiment, record))
    found = read_results(experiment, path)
    if found.records:  # another process may train the first runs
        draw(found, selection.picture)
    return found


def draw(results: Results, path: Path) -> None:
    """Write the picture of an experiment."""
    from dropcore._base.files import replacing
    from dropcore.plotting._style import new_figure

    figure = new_figure(7.2, 4.2)
    (results.experiment.draw or draw_rows)(figure, results)
    with replacing("reproduce", path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."))


def _record(selection: Selection, run: SeededRun) -> Record:
    """Train, and return what has come out."""
    started, cpu_started = perf_counter(), process_time()
    values = _values(selection, run)
    return Record(
        run.row, run.seed, selection.settings_of(run.row), values, run.curves, run.updates,
        round(run.seconds or perf_counter() - started, 2),
        round(run.cpu_seconds or process_time() - cpu_started, 2), _machine(),
    )  # fmt: skip


def _values(selection: Selection, run: SeededRun) -> dict[str, float]:
    """Of each measure, as `Experiment.train` returns them."""
    try:
        returned = selection.experiment.train(run)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if not selection.changed:
            raise
        changed = ", ".join(f"{name}={shown(value)}" for name, value in selection.changed.items())
        raise ValueError(
            f"{run.row!r}, seed {run.seed}, cannot be trained with {changed}: "
            f"{type(error).__name__}: {error}"
        ) from error
    names = [measure.name for measure in selection.experiment.measures]
    if not isinstance(returned, Mapping) or set(returned) != set(names):
        raise ValueError(f"train must return a dict with {sorted(names)}, got {shown(returned)}")
    values = {name: float(value) for name, value in returned.items()}
    if not all(map(math.isfinite, values.values())):
        raise ValueError(f"train must return finite numbers, got {values}")
    return values


def _line(experiment: Experiment, record: Record) -> str:
    published = experiment.published(record.row)
    values = []
    for measure in experiment.measures:
        value = f"{measure.name} {record.values[measure.name]:.{measure.digits}f}"
        value += f" {measure.unit}" * bool(measure.unit)
        if measure.name in published:
            value += f" (published: {published[measure.name]:g})"
        values.append(value)
    return (
        f"{record.row}, seed {record.seed}: {', '.join(values)}, {record.updates:,} updates, "
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

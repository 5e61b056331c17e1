"""``dropcore reproduce``: the experiments of the dropout papers."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dropcore
from dropcore._base.checks import listed
from dropcore.cli._command import Command, Option, Result
from dropcore.cli._output import note
from dropcore.cli._shared import CONFIG, JSON, QUIET, THREADS
from dropcore.cli._values import at_least_zero, positive, words

__all__ = ["COMMAND"]

LIST, ALL = "list", "all"
POLLING: Final = 0.1
PYTHON: Final = {"True": True, "False": False, "None": None}
"""What is written in another way in JSON."""


def run(options: argparse.Namespace) -> Result:
    """Train what is missing in the files of the experiments, and print their tables."""
    from dropcore.reproduction import load_script, script_names
    from dropcore.reproduction._reproduce import repeat
    from dropcore.reproduction._selection import Selection

    if options.names == (LIST,):
        found = {name: load_script(name) for name in script_names()}
        width = max(map(len, found), default=0)
        lines = [f"{name:<{width}}  {e.title} ({e.paper})" for name, e in found.items()]
        known = {name: {"title": e.title, "paper": e.paper} for name, e in found.items()}
        return Result("\n".join(lines), known)
    if len(options.names) > 1 and {ALL, LIST} & set(options.names):
        raise ValueError(f"{ALL!r} and {LIST!r} stand alone, got {listed(options.names)}")
    names = script_names() if options.names == (ALL,) else options.names
    experiments = {name: load_script(name) for name in names}
    _make_folder(options.output)
    suffix = "-quick" * options.quick + "-held-out" * options.held_out
    selections = {
        name: Selection(
            experiment, options.output / f"{name}{suffix}.jsonl", rows=options.rows,
            seeds=options.seeds, quick=options.quick, held_out=options.held_out,
            settings=dict(options.set or ()), again=options.again,
        )
        for name, experiment in experiments.items()
    }  # fmt: skip
    # All of them before the first one is trained, which may take hours.
    missing = [(name, *run) for name, chosen in selections.items() for run in chosen.missing()]
    if options.jobs > 1:
        _in_processes(missing, options)
    shows_progress = sys.stderr.isatty() and not options.quiet
    tables: list[str] = []
    data = {}
    for name, selection in selections.items():
        try:
            results = repeat(
                selection, report=lambda text: None if options.quiet else note(text),
                progress=None if shows_progress else False,
            )  # fmt: skip
        except KeyboardInterrupt:
            note("reproduce: stopped; the same command continues where it was")
            raise
        experiment = selection.experiment
        tables.append(
            f"{experiment.title} ({experiment.paper})\n\n{results.table()}\n\n{selection.path}"
        )
        data[name] = {
            row: {
                measure.name: {
                    "mean": results.mean(row, measure.name),
                    "runs": results.values(row, measure.name).tolist(),
                    "published": experiment.published(row).get(measure.name),
                }
                for measure in experiment.measures
            }
            for row in results.rows
        }
    return Result("\n\n".join(tables), data)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"--output {path} is a file, or is in one: name a folder, which may be a new one"
        ) from None


def _in_processes(runs: Sequence[tuple[str, str, int]], options: argparse.Namespace) -> None:
    """Train each run in a process of its own, several at once, with their share of the threads."""
    threads = max(1, (options.threads or dropcore.get_num_threads()) // options.jobs)
    common = ["--output", str(options.output), "--threads", str(threads)]
    for flag in ("quick", "held_out", "again", "quiet"):
        common += [f"--{flag.replace('_', '-')}"] * getattr(options, flag)
    if options.set:
        common += ["--set", ";".join(f"{n}={json.dumps(value)}" for n, value in options.set)]
    waiting, failed = deque(runs), []
    running: dict[subprocess.Popen[bytes], tuple[str, str, int]] = {}
    with _ended_by_signal():
        try:
            while waiting or running:
                while waiting and len(running) < options.jobs:
                    name, row, seed = run = waiting.popleft()
                    own = [name, *common, "--rows", row, "--seeds", str(seed)]
                    command = [sys.executable, "-m", "dropcore", "reproduce", *own]
                    running[subprocess.Popen(command, stdout=subprocess.DEVNULL)] = run
                time.sleep(POLLING)
                for process in [one for one in running if one.poll() is not None]:
                    run = running.pop(process)
                    if process.returncode:
                        failed.append(run)
        except KeyboardInterrupt:
            note("reproduce: stopped; the same command continues where it was")
            raise
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
    if failed:
        name, row, seed = failed[0]
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} runs failed, the first one {name}, {row!r}, seed "
            f"{seed}; its error is above"
        )


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM ends this process as an exception does, which also ends its children."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(at_least_zero(part.strip()) for part in text.split(","))


def _rows(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


def _settings(text: str) -> tuple[tuple[str, Any], ...]:
    found: list[tuple[str, Any]] = []
    for part in text.split(";"):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not name:
            raise ArgumentTypeError(f"must be name=value, such as epochs=20, got {part!r}")
        if name in dict(found):
            raise ArgumentTypeError(f"{name} is set twice in {text!r}: set it once")
        found.append((name, _value(value)))
    return tuple(found)


def _value(text: str) -> Any:
    """A value of JSON or Python; any other text stands for itself."""
    try:
        return PYTHON[text] if text in PYTHON else json.loads(text)
    except ValueError:
        return text


COMMAND = Command(
    name="reproduce",
    help="repeat an experiment of the dropout papers; a table and a picture",
    description="""
    Train the networks of a published experiment, print their results beside the published ones and
    draw them. `dropcore reproduce list` prints the names of the experiments. A run that is stopped
    continues where it was when the command is given again, and finished runs are not repeated.
    """,
    examples=(
        "dropcore reproduce list",
        "dropcore reproduce ridge",
        "dropcore reproduce mnist-max-norm --quick",
        "dropcore reproduce averaging --held-out --set learning_rate=0.1 --seeds 0 -o choices/0.1",
    ),
    options=(
        Option(
            "names", "experiments with commas between them, or all, or list", kind=words,
            metavar="NAME",
        ),
        Option(
            "--output",
            "the folder for results, pictures and checkpoints; it is created. The results are in "
            "NAME.jsonl, with -quick or -held-out behind the name",
            short="-o",
            kind=Path,
            default=Path("dropcore-papers"),
            metavar="FOLDER",
        ),
        Option("--quick", "a small form, which takes seconds and shows that it works", flag=True),
        Option("--seeds", "other seeds than those of the experiment", kind=_seeds, metavar="N,N"),
        Option("--rows", "only these rows of the table", kind=_rows, metavar="ROW;ROW"),
        Option(
            "--held-out",
            "measure on training data that is held out instead of on the test data, to choose "
            "settings",
            flag=True,
        ),
        Option(
            "--set", "other values of settings, of the same types", kind=_settings,
            metavar="NAME=VALUE;NAME=VALUE",
        ),
        Option("--again", "replace runs that were recorded with other settings", flag=True),
        Option(
            "--jobs",
            "runs at once, each in a process with its share of the threads, which takes less time "
            "than one after the other",
            kind=positive,
            default=1,
            metavar="N",
            group="how it runs",
        ),
        THREADS,
        CONFIG,
        JSON,
        QUIET,
    ),
    run=run,
)  # fmt: skip

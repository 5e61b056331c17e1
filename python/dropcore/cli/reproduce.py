"""``dropcore reproduce``: the experiments of the dropout papers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dropcore
from dropcore.cli._command import Command, Option, Result
from dropcore.cli._output import note
from dropcore.cli._shared import CONFIG, JSON, QUIET, THREADS
from dropcore.cli._values import at_least_zero, positive, words

__all__ = ["COMMAND"]

LIST, ALL = "list", "all"


def run(options: argparse.Namespace) -> Result:
    """Train what is missing in the files of the experiments, and print their tables."""
    from dropcore.reproduction import load_script, reproduce, script_names
    from dropcore.reproduction._reproduce import missing_runs

    if options.names == (LIST,):
        found = {name: load_script(name) for name in script_names()}
        width = max(map(len, found), default=0)
        lines = [f"{name:<{width}}  {e.title} ({e.paper})" for name, e in found.items()]
        known = {name: {"title": e.title, "paper": e.paper} for name, e in found.items()}
        return Result("\n".join(lines), known)
    names = script_names() if options.names == (ALL,) else options.names
    experiments = {name: load_script(name) for name in names}
    options.output.mkdir(parents=True, exist_ok=True)
    suffix = "-quick" * options.quick + "-held-out" * options.held_out
    files = {name: options.output / f"{name}{suffix}.jsonl" for name in experiments}
    given = {
        "rows": options.rows, "seeds": options.seeds, "quick": options.quick,
        "held_out": options.held_out, "settings": dict(options.set or ()), "again": options.again,
    }  # fmt: skip
    if options.jobs > 1:
        runs = [
            (name, *run)
            for name, experiment in experiments.items()
            for run in missing_runs(experiment, files[name], **given)
        ]
        _in_processes(runs, options)
    tables: list[str] = []
    data = {}
    for name, experiment in experiments.items():
        results = reproduce(
            experiment, files[name], report=lambda text: None if options.quiet else note(text),
            **given,
        )  # fmt: skip
        tables.append(
            f"{experiment.title} ({experiment.paper})\n\n{results.table()}\n\n{files[name]}"
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


def _in_processes(runs: Sequence[tuple[str, str, int]], options: argparse.Namespace) -> None:
    """Train each run in a process of its own, several at once, with their share of the threads."""
    threads = max(1, (options.threads or dropcore.get_num_threads()) // options.jobs)
    common = ["--output", str(options.output), "--threads", str(threads)]
    for flag in ("quick", "held_out", "again", "quiet"):
        common += [f"--{flag.replace('_', '-')}"] * getattr(options, flag)
    if options.set:
        common += ["--set", ";".join(f"{n}={json.dumps(value)}" for n, value in options.set)]

    def train(run: tuple[str, str, int]) -> int:
        name, row, seed = run
        command = [sys.executable, "-m", "dropcore", "reproduce", name, *common]
        own = ["--rows", row, "--seeds", str(seed)]
        return subprocess.run([*command, *own], stdout=subprocess.DEVNULL).returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [run for run, status in zip(runs, pool.map(train, runs), strict=True) if status]
    if failed:
        name, row, seed = failed[0]
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} runs failed, the first one {name}, {row!r}, seed "
            f"{seed}; its error is above"
        )


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(at_least_zero(part.strip()) for part in text.split(","))


def _rows(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


def _settings(text: str) -> tuple[tuple[str, Any], ...]:
    found = []
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ArgumentTypeError(f"must be name=value, such as epochs=20, got {part!r}")
        try:
            found.append((name.strip(), json.loads(value)))
        except ValueError:
            found.append((name.strip(), value.strip()))
    return tuple(found)


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
        "dropcore reproduce mnist-max-norm --held-out --set learning_rate=0.1 --seeds 0",
    ),
    options=(
        Option(
            "names", "experiments with commas between them, or all, or list", kind=words,
            metavar="NAME",
        ),
        Option(
            "--output",
            "the folder for results, pictures and checkpoints; it is created",
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
            "--set", "other values of settings", kind=_settings, metavar="NAME=VALUE;NAME=VALUE"
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

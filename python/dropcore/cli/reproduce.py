"""``dropcore reproduce``: the experiments of the dropout papers."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._output import note
from dropcore.cli._shared import CONFIG, JSON, QUIET, THREADS
from dropcore.cli._values import at_least_zero, words

__all__ = ["COMMAND"]

LIST, ALL = "list", "all"


def run(options: argparse.Namespace) -> Result:
    """Train what is missing in the files of the experiments, and print their tables."""
    from dropcore.reproduction import load_script, reproduce, script_names

    if options.names == (LIST,):
        found = {name: load_script(name) for name in script_names()}
        width = max(map(len, found), default=0)
        lines = [f"{name:<{width}}  {e.title} ({e.paper})" for name, e in found.items()]
        known = {name: {"title": e.title, "paper": e.paper} for name, e in found.items()}
        return Result("\n".join(lines), known)
    names = script_names() if options.names == (ALL,) else options.names
    experiments = {name: load_script(name) for name in names}
    options.output.mkdir(parents=True, exist_ok=True)
    tables: list[str] = []
    data = {}
    for name, experiment in experiments.items():
        suffix = "-quick" * options.quick + "-held-out" * options.held_out
        path = options.output / f"{name}{suffix}.jsonl"
        results = reproduce(
            experiment, path, rows=options.rows, seeds=options.seeds, quick=options.quick,
            held_out=options.held_out, settings=dict(options.set or ()), again=options.again,
            report=lambda text: None if options.quiet else note(text),
        )  # fmt: skip
        tables.append(f"{experiment.title} ({experiment.paper})\n\n{results.table()}\n\n{path}")
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
        THREADS,
        CONFIG,
        JSON,
        QUIET,
    ),
    run=run,
)  # fmt: skip

"""``dropcore report``: a report on a saved model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._examples import CLASSIFICATION, DATA, READING, REGRESSION, Examples
from dropcore.cli._output import check_output, note
from dropcore.cli._saved import MODEL, TARGET, Saved, read_model
from dropcore.cli._scores import LEVEL, SAMPLES
from dropcore.cli._shared import CONFIG, DEVICE, FORCE, JSON, SEED, THREADS
from dropcore.cli.explain import TRAINING_DATA, metrics_for, parts_for

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> Result:
    """Write the page."""
    from dropcore.report import write_report

    check_output(options.output, force=options.force)
    saved = read_model(options.model, options)
    parts = parts_for(saved, options)
    held_out = parts.held_out
    found = write_report(
        options.output,
        saved.model,
        parts.training.x,
        parts.training.y,
        validation=None if held_out is None else (held_out.x, held_out.y),
        metrics=metrics_for(saved, parts),
        uncertainty=None if held_out is None else _uncertainty(saved, held_out, options),
        title=options.title or f"{options.model.name} on {options.data.name}",
        key=options.seed,
    )
    note(f"report written to {options.output}")
    data = {"report": str(options.output), "task": saved.kind, "advice": found.advice}
    return Result("\n".join(f"- {advice}" for advice in found.advice), data)


def _uncertainty(saved: Saved, held_out: Examples, options: argparse.Namespace) -> Any:
    """Uncertainty of predictions of held-out rows."""
    from dropcore import uncertainty

    shared: dict[str, Any] = {"key": options.seed, "samples": options.samples}
    if saved.kind == CLASSIFICATION:
        return [uncertainty.sample(saved.model, held_out.x, **shared)]
    if saved.kind == REGRESSION and saved.noise is not None:
        return [
            uncertainty.intervals(
                saved.model, held_out.x, noise=saved.noise, level=options.level, **shared
            )
        ]
    return None


COMMAND = Command(
    name="report",
    help="write a report on a saved model: one HTML file with curves, layers and advice",
    description="""
    Write a report on a saved model: scores, learning curves, uncertainty, weights, activations
    and advice. It is one HTML file, which needs no network. DATA is the file that the
    model was trained on, whose held-out rows are found again, or new rows beside --training-data.
    """,
    examples=(
        "dropcore report cancer.dropcore cancer.csv -o report.html",
        "dropcore report cancer.dropcore test.csv --training-data cancer.csv -o report.html",
    ),
    options=(
        MODEL,
        DATA,
        Option(
            "--output",
            "the file to write, such as report.html",
            short="-o",
            kind=Path,
            metavar="FILE",
            required=True,
        ),
        Option("--title", "title of the report", metavar="TEXT"),
        SAMPLES,
        LEVEL,
        TRAINING_DATA,
        TARGET,
        *READING,
        FORCE,
        SEED,
        THREADS,
        DEVICE,
        JSON,
        CONFIG,
    ),
    run=run,
)

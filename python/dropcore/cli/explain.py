"""``dropcore explain``: diagnose a saved model, in words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._examples import DATA, READING
from dropcore.cli._fitting import Parts
from dropcore.cli._output import note
from dropcore.cli._saved import MODEL, TARGET, Saved, read_model
from dropcore.cli._scores import metrics_of
from dropcore.cli._shared import CONFIG, DEVICE, JSON, SEED, THREADS

if TYPE_CHECKING:
    from dropcore.diagnosis import Diagnosis

__all__ = ["COMMAND", "TRAINING_DATA", "diagnosed", "metrics_for", "parts_for"]

TRAINING_DATA = Option(
    "--training-data",
    "the file that the model was trained on, where DATA is another one",
    kind=Path,
    metavar="FILE",
    group="data",
)


def run(options: argparse.Namespace) -> Result:
    """Diagnose a model."""
    saved = read_model(options.model, options)
    parts = parts_for(saved, options)
    found = diagnosed(saved, parts, options.seed)
    return Result(str(found), {"task": saved.kind, **found.to_dict(), "advice": found.advice})


def parts_for(saved: Saved, options: argparse.Namespace) -> Parts:
    """Rows of training, and rows that the model has not seen."""
    examples = saved.examples(options.data, options)
    parts = saved.parts(options.data, examples)
    if options.training_data is not None:
        if parts is not None:
            raise ValueError(
                f"--training-data has no effect, as {options.data} is the data of training"
            )
        training = saved.examples(options.training_data, options)
        known = saved.parts(options.training_data, training)
        return Parts(training if known is None else known.training, examples)
    if parts is None:
        note(
            f"{options.data} is not the file that the model was trained on: its rows are taken as "
            "those of training; name that file by --training-data to compare the two"
        )
        return Parts(examples, None)
    if parts.held_out is None:
        note("no rows were held out in training, so that overfitting cannot be seen")
    return parts


def metrics_for(saved: Saved, parts: Parts) -> tuple[str, ...]:
    """Names of the scores that `dropcore evaluate` shows, too."""
    outputs = len(saved.model.predict(parts.training.x[:1])[0])
    return metrics_of(saved.kind, outputs)


def diagnosed(saved: Saved, parts: Parts, seed: int) -> Diagnosis:
    """The diagnosis of the model."""
    from dropcore.diagnosis import diagnose

    held_out = parts.held_out
    return diagnose(
        saved.model,
        parts.training.x,
        parts.training.y,
        validation=None if held_out is None else (held_out.x, held_out.y),
        metrics=metrics_for(saved, parts),
        key=seed,
    )


COMMAND = Command(
    name="explain",
    help="diagnose a saved model, and say what to change",
    description="""
    Compare training and held-out rows, measure weights and activations, and say in words what
    is wrong and what to do. DATA is the file that the model was trained on, whose held-out rows
    are found again, or new rows beside --training-data.
    """,
    examples=(
        "dropcore explain cancer.dropcore cancer.csv",
        "dropcore explain cancer.dropcore test.csv --training-data cancer.csv --json",
    ),
    options=(MODEL, DATA, TRAINING_DATA, TARGET, *READING, SEED, THREADS, DEVICE, JSON, CONFIG),
    run=run,
)

"""``dropcore evaluate``: scores of a saved model on rows with known targets."""

from __future__ import annotations

import argparse
from typing import Any

from dropcore.cli._command import Command, Result
from dropcore.cli._examples import DATA, READING
from dropcore.cli._fitting import AUTOENCODER
from dropcore.cli._output import note
from dropcore.cli._saved import MODEL, TARGET, read_model
from dropcore.cli._scores import LEVEL, SAMPLES, sampled_scores, scores, table_of
from dropcore.cli._shared import CONFIG, DEVICE, JSON, SEED, THREADS

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> Result:
    """Measure a model on data with targets."""
    saved = read_model(options.model, options)
    examples = saved.examples(options.data, options)
    parts = saved.parts(options.data, examples)
    groups = {"all": examples}
    if parts is not None:
        note(f"{options.data} is the data of training")
        groups = {"training": parts.training}
        if parts.held_out is not None:
            groups["held out"] = parts.held_out
            note(
                "the held-out rows have chosen the epoch"
                + (" and the noise of the targets" if saved.noise is not None else "")
                + ": rows that the model has never seen judge it better"
            )
    found = {name: scores(saved.model, group, saved.kind) for name, group in groups.items()}
    lines = table_of(found)
    rows = ", ".join(f"{len(group)} {name}" for name, group in groups.items())
    data: dict[str, Any] = {
        "task": saved.kind,
        "rows": {name.replace(" ", "_"): len(group) for name, group in groups.items()},
        "scores": {name.replace(" ", "_"): values for name, values in found.items()},
    }
    if saved.kind != AUTOENCODER:
        sampled = {
            name: sampled_scores(
                saved.model,
                group,
                saved.kind,
                noise=saved.noise,
                samples=options.samples,
                level=options.level,
                seed=options.seed,
            )
            for name, group in groups.items()
        }
        if any(sampled.values()):
            lines += ["", f"with the mean of {options.samples} samples under dropout"]
            lines += table_of(sampled)
        data["monte_carlo"] = {name.replace(" ", "_"): values for name, values in sampled.items()}
    return Result("\n".join([f"{saved.kind}; rows: {rows}", "", *lines]), data)


COMMAND = Command(
    name="evaluate",
    help="score a saved model on rows with known targets",
    description="""
    Print the loss and the metrics of a saved model, without noise and as the mean of samples
    under dropout, with the calibration error of a classifier or the coverage of the intervals of
    a regression. If DATA is the file that the model was trained on, the rows that were held out
    are scored separately.
    """,
    examples=(
        "dropcore evaluate cancer.dropcore test.csv",
        "dropcore evaluate prices.dropcore test.csv --level 0.95 --json",
    ),
    options=(
        MODEL,
        DATA,
        TARGET,
        SAMPLES,
        LEVEL,
        *READING,
        SEED,
        THREADS,
        DEVICE,
        JSON,
        CONFIG,
    ),
    run=run,
)

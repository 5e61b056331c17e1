"""``dropcore predict``: predictions of a saved model, and their uncertainty."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dropcore._base.files import replacing
from dropcore.cli._command import Command, Option, Result
from dropcore.cli._examples import CLASSIFICATION, DATA, READING, REGRESSION, Examples
from dropcore.cli._output import check_output, note
from dropcore.cli._saved import MODEL, Saved, read_model
from dropcore.cli._shared import CONFIG, DEVICE, FORCE, JSON, SEED, THREADS
from dropcore.cli._values import inner_fraction, positive

__all__ = ["COMMAND"]

Columns = dict[str, NDArray[Any]]


def run(options: argparse.Namespace) -> Result:
    """Predict, and write a row for each row of the data."""
    if options.output is not None:
        if options.json:
            raise ValueError("--json prints the predictions and --output writes them: give one")
        check_output(options.output, force=options.force)
    elif options.force:
        raise ValueError("--force has no effect without --output")
    if options.level is not None and options.samples is None:
        raise ValueError("--level is that of intervals, which need --samples, such as 100")
    saved = read_model(options.model, options)
    if options.level is not None and saved.kind != REGRESSION:
        raise ValueError(f"--level is that of intervals of a regression, and this is {saved.kind}")
    examples = saved.new_examples(options.data, options)
    columns = predicted(
        saved, examples, samples=options.samples, level=options.level or 0.9, seed=options.seed
    )
    rows = len(examples)
    if options.json:
        listed = {name: values.tolist() for name, values in columns.items()}
        return Result("", {"task": saved.kind, "rows": rows, "predictions": listed})
    _write(options.output, columns)
    if options.output is not None:
        note(f"{rows} predictions written to {options.output}")
    return Result("")


def predicted(
    saved: Saved, examples: Examples, *, samples: int | None, level: float, seed: int
) -> Columns:
    """Columns of predictions, by name."""
    if saved.kind == CLASSIFICATION:
        return _classes(saved, examples, samples, seed)
    if saved.kind == REGRESSION:
        return _numbers(saved, examples, samples, level, seed)
    return _errors(saved, examples, samples, seed)


def _classes(saved: Saved, examples: Examples, samples: int | None, seed: int) -> Columns:
    labels = saved.labels
    more: Columns = {}
    if samples is None:
        found = np.asarray(saved.model.predict_proba(examples.x), dtype=np.float64)
    else:
        from dropcore.uncertainty import sample

        drawn = sample(saved.model, examples.x, key=seed, samples=samples)
        found, spread = drawn.mean, drawn.std
        if drawn.kind == "binary":
            found = np.concatenate([1 - found, found], axis=-1)
            spread = np.concatenate([spread, spread], axis=-1)
        best = found.argmax(axis=-1)
        more = {
            "std": spread[np.arange(len(best)), best],
            "entropy": np.asarray(drawn.entropy).reshape(len(best), -1)[:, 0],
            "mutual_information": np.asarray(drawn.mutual_information).reshape(len(best), -1)[:, 0],
        }
    best = found.argmax(axis=-1)
    columns: Columns = {"prediction": labels[best], "probability": found.max(axis=-1), **more}
    for place, label in enumerate(labels):
        columns[f"probability_{label}"] = found[:, place]
    return columns


def _numbers(
    saved: Saved, examples: Examples, samples: int | None, level: float, seed: int
) -> Columns:
    if samples is None:
        return _by_output("prediction", np.asarray(saved.model.predict(examples.x)))
    from dropcore.uncertainty import predictive, sample

    if saved.noise is None:
        note(
            "without intervals: the noise of the targets is not known, as no rows were held out "
            "in training"
        )
        drawn = sample(saved.model, examples.x, key=seed, samples=samples)
        return _by_output("prediction", drawn.mean) | _by_output("std", drawn.std)
    mixture = predictive(saved.model, examples.x, key=seed, samples=samples, noise=saved.noise)
    inside = mixture.interval(level)
    return {
        name: column
        for part, values in (
            ("prediction", inside.mean),
            ("std", inside.std),
            ("model_std", mixture.means.std(axis=0)),
            ("lower", inside.lower),
            ("upper", inside.upper),
        )
        for name, column in _by_output(part, values).items()
    }


def _errors(saved: Saved, examples: Examples, samples: int | None, seed: int) -> Columns:
    """Distances of rows from their reconstructions, which are large for unusual rows."""
    state = saved.model.training_state
    assert state is not None
    assert state.preprocessing is not None
    wanted = state.preprocessing.transform(examples.x)
    if samples is None:
        found = np.asarray(saved.model.predict(examples.x))
        return {"error": np.sqrt(np.square(found - wanted).mean(axis=1, dtype=np.float64))}
    outputs = np.asarray(saved.model.predict(examples.x, key=seed, samples=samples))
    each = np.sqrt(np.square(outputs - wanted).mean(axis=2, dtype=np.float64))
    return {"error": each.mean(axis=0), "std": each.std(axis=0)}


def _by_output(name: str, values: NDArray[Any]) -> Columns:
    """A column for each output; one output needs no number."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] == 1:
        return {name: flat[:, 0]}
    return {f"{name}_{place}": flat[:, place] for place in range(flat.shape[1])}


def _write(path: Path | None, columns: Columns) -> None:
    """Write a CSV, to stdout without a path. A file is replaced as a whole."""
    if path is None:
        _write_to(sys.stdout, columns)
        return
    with (
        replacing("--output", path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        _write_to(file, columns)


def _write_to(file: TextIO, columns: Columns) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_texts(values) for values in columns.values())))


def _texts(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "f":
        return [f"{value:.6g}" for value in values.tolist()]
    return values.tolist()


COMMAND = Command(
    name="predict",
    help="predict rows with a saved model, and their uncertainty",
    description="""
    Predict each row of the data, and write a CSV with a row for each. Of classes: the most
    probable one and the probability of each; of numbers: the number; of an autoencoder: how far
    a row is from its reconstruction. With --samples the network is sampled under dropout: the
    predictions are means, with a standard deviation and, of classes, the entropy and the mutual
    information in nats; of numbers, with an interval [lower, upper] that holds the true value
    with probability --level. Columns that the model does not know, such as the target, are
    ignored.
    """,
    examples=(
        "dropcore predict cancer.dropcore new.csv -o predictions.csv",
        "dropcore predict prices.dropcore new.csv --samples 100 --level 0.95 -o predictions.csv",
        "dropcore predict cancer.dropcore new.csv --samples 100 --json",
    ),
    options=(
        MODEL,
        DATA,
        Option(
            "--samples",
            "number of Monte Carlo samples under dropout, such as 100; by default one prediction "
            "without dropout",
            kind=positive,
            metavar="N",
        ),
        Option(
            "--level",
            "probability of the prediction intervals of a regression; by default 0.9",
            kind=inner_fraction,
            metavar="P",
        ),
        Option(
            "--output",
            "the CSV to write; by default stdout",
            short="-o",
            kind=Path,
            metavar="FILE",
        ),
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

"""Scores of predictions, and their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dropcore._base.checks import rounded
from dropcore.cli._command import Option
from dropcore.cli._examples import CLASSIFICATION, REGRESSION, Examples
from dropcore.cli._output import note
from dropcore.cli._values import inner_fraction, positive

if TYPE_CHECKING:
    from dropcore.nn.model import Model

__all__ = [
    "LEVEL",
    "SAMPLES",
    "estimated_noise",
    "metrics_of",
    "sampled_scores",
    "scores",
    "table_of",
]

_DRAWN: Final = 100
"""Samples of Monte Carlo prediction, where no other number is asked for."""

SAMPLES = Option(
    "--samples",
    "number of Monte Carlo samples under dropout",
    kind=positive,
    default=_DRAWN,
    metavar="N",
)

LEVEL = Option(
    "--level",
    "probability of the prediction intervals of a regression",
    kind=inner_fraction,
    default=0.9,
    metavar="P",
)

FEW: Final = 20
"""With fewer held-out rows the estimate of the noise is rough."""


def metrics_of(kind: str, outputs: int) -> tuple[str, ...]:
    """Names of the metrics that are reported besides the loss."""
    if kind == CLASSIFICATION:
        return ("f1", "roc_auc") if outputs >= 2 else ()
    return ("rmse", "mae", "r2") if kind == REGRESSION else ("rmse",)


def scores(model: Model, examples: Examples, kind: str) -> dict[str, float]:
    """Metrics without noise."""
    outputs = len(model.predict(examples.x[:1])[0])
    return model.evaluate(examples.x, examples.y, metrics=metrics_of(kind, outputs))


def estimated_noise(model: Model, held_out: Examples, seed: int) -> float | None:
    """The noise of a regression's targets, from held-out rows; None where it cannot be told."""
    from dropcore.uncertainty import noise_level

    if len(held_out) < FEW:
        note(f"{len(held_out)} rows held out are few: intervals will be rough")
    try:
        return float(noise_level(model, held_out.x, held_out.y, key=seed, samples=_DRAWN))
    except ValueError as error:
        note(f"no intervals can be given: {error}")
        return None


def sampled_scores(
    model: Model, examples: Examples, kind: str, *, noise: float | None, samples: int,
    level: float, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Metrics under Monte Carlo dropout: of probabilities, or of intervals."""
    from dropcore import uncertainty

    assert examples.y is not None
    if kind == CLASSIFICATION:
        found = uncertainty.sample(model, examples.x, key=seed, samples=samples)
        state = model.training_state
        classes = None if state is None else state.classes
        labels = examples.y if classes is None else np.searchsorted(classes, examples.y)
        return {
            "accuracy": float((found.mean.argmax(axis=-1) == labels).mean()),
            "log_likelihood": uncertainty.log_likelihood(found.mean, labels),
            "calibration_error": uncertainty.reliability(found.mean, labels).ece,
            "mean_entropy": float(np.mean(np.asarray(found.entropy))),
        }
    if noise is None:
        return {}
    mixture = uncertainty.predictive(model, examples.x, key=seed, noise=noise, samples=samples)
    targets = np.asarray(examples.y).reshape(mixture.mean.shape)
    inside = mixture.interval(level)
    return {
        "rmse": float(np.sqrt(np.mean((mixture.mean - targets) ** 2))),
        "log_likelihood": mixture.log_likelihood(targets),
        "level": level,
        "coverage": inside.coverage(targets),
        "interval_width": inside.width,
    }


def table_of(columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines with a row for each metric and a column for each set of rows."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    width = max(map(len, names), default=0) + 2
    heads = [max(len(head), 10) + 2 for head in columns]
    lines = [" " * width + "".join(f"{head:>{w}}" for head, w in zip(columns, heads))]
    for name in names:
        cells = [
            f"{rounded(column[name], 4):>{w}}" if name in column else " " * w
            for column, w in zip(columns.values(), heads)
        ]
        lines.append((f"{name:<{width}}" + "".join(cells)).rstrip())
    return lines

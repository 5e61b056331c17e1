"""What `diagnose` returns: measurements and findings, also as text and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore.diagnosis._measures import Activations, Features, WeightNorms
from dropcore.diagnosis._norm_history import NormHistory
from dropcore.training import History

__all__ = [
    "ClassBalance",
    "Diagnosis",
    "Finding",
    "Gap",
    "InputScale",
    "Score",
    "VarianceShift",
]


@dataclass(frozen=True)
class Score:
    """Scores of a model on some samples, without noise.

    Attributes
    ----------
    samples : int
    metrics : dict of str to float
        As `Model.evaluate` returns them.
    errors : dict of str to float
        Standard errors of "loss" (from the means of ten random parts; only from 20 samples on) and
        "accuracy" (binomial).
    skill : float or None
        Improvement over a constant prediction: (accuracy - share of the largest class) /
        (1 - that share) for classes, R2 = 1 - squared error / variance for numbers. None where
        neither is defined.
    """

    samples: int
    metrics: dict[str, float]
    errors: dict[str, float]
    skill: float | None


@dataclass(frozen=True)
class Gap:
    """The difference between training and validation data.

    Attributes
    ----------
    metric : str
        "accuracy", or "loss" where there is none.
    train, validation : float
    error : float
        Standard error of the difference.
    large : bool
        Whether the model is worse on validation data by more than two standard errors, and by more
        than 0.03 of accuracy; of a loss, by more than a quarter (0.1 of a log likelihood) and 0.03
        of R2.
    """

    metric: str
    train: float
    validation: float
    error: float
    large: bool


@dataclass(frozen=True)
class InputScale:
    """Scales of the inputs, as the model sees them: after preprocessing.

    Attributes
    ----------
    largest_mean, largest_std : float
        The largest absolute mean and standard deviation of an input. Channels are the inputs of
        images.
    farthest : str
        Name of the input that is farthest from mean 0 and standard deviation 1.
    mean, std : float
        Its mean and standard deviation.
    """

    largest_mean: float
    largest_std: float
    farthest: str
    mean: float
    std: float


@dataclass(frozen=True)
class VarianceShift:
    """How a dropout changes the variances that a BatchNorm after it sees.

    Attributes
    ----------
    norm, dropout : str
        Paths of the BatchNorm and of the nearest dropout before it.
    ratio : float
        Variance under noise / variance without, the median over features.
    """

    norm: str
    dropout: str
    ratio: float


@dataclass(frozen=True, eq=False)
class ClassBalance:
    """How often classes occur, and how often they are recognised.

    Attributes
    ----------
    names : list of str
    counts : int64 ndarray (classes,)
        Samples of each class.
    recall : float64 ndarray (classes,)
        The fraction of them that is recognised; NaN where there are none.
    """

    names: list[str]
    counts: NDArray[np.int64]
    recall: NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One thing that is probably wrong.

    Attributes
    ----------
    name : str
        Such as "overfitting"; the names are listed in `dropcore.diagnosis`.
    what : str
        A sentence.
    evidence : str
        The numbers that it follows from.
    do : str
        What to do about it.
    """

    name: str
    what: str
    evidence: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}: {self.evidence}. {self.do[:1].upper()}{self.do[1:]}."


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """The measurements and findings of `diagnose`. As text, a summary.

    Attributes
    ----------
    total : int
        Number of training samples.
    parameters : int
        Number of parameters of the model.
    train : Score
        On the training samples that were used.
    validation : Score or None
    gap : Gap or None
        None without validation data.
    weights : tuple of WeightNorms
        Of each layer that multiplies its input.
    activations : tuple of Activations
        Of each hidden layer, on training samples.
    features : Features or None
        The weights of the first layer.
    inputs : InputScale or None
        None for indices.
    classes : ClassBalance or None
        On validation data, else on training data; None without single labels.
    shifts : tuple of VarianceShift
        For each BatchNorm after a dropout.
    history : History
        Of the last `fit`.
    norms : NormHistory or None
        As given.
    findings : tuple of Finding
        What is probably wrong, the most important first.
    """

    total: int
    parameters: int
    train: Score
    validation: Score | None
    gap: Gap | None
    weights: tuple[WeightNorms, ...]
    activations: tuple[Activations, ...]
    features: Features | None
    inputs: InputScale | None
    classes: ClassBalance | None
    shifts: tuple[VarianceShift, ...]
    history: History
    norms: NormHistory | None
    findings: tuple[Finding, ...] = ()

    @property
    def advice(self) -> list[str]:
        """The findings as sentences: what is wrong, its evidence, and what to do."""
        return [str(finding) for finding in self.findings]

    def to_dict(self) -> dict[str, Any]:
        """The measurements for JSON, without histograms and weights of features.

        Numbers that are not finite are None.

        Returns
        -------
        dict
            Numbers, strings, lists and dicts.
        """
        found: dict[str, Any] = {
            "samples": self.total,
            "samples_looked_at": self.train.samples,
            "parameters": self.parameters,
            "train": asdict(self.train),
            "validation": self.validation and asdict(self.validation),
            "gap": self.gap and asdict(self.gap),
            "weights": [
                {
                    "name": w.name,
                    "units": len(w.norms),
                    "mean": w.mean,
                    "largest": w.largest,
                    "bound": w.bound,
                    "clipped": w.clipped,
                }
                for w in self.weights
            ],
            "activations": [
                {
                    "path": a.path,
                    "layer": a.layer,
                    "units": a.units,
                    "sparsity": a.sparsity,
                    "mean": a.mean,
                    "std": a.std,
                    "dead": a.dead.tolist(),
                }
                for a in self.activations
            ],
            "top_inputs": [] if self.features is None else self.features.top(),
            "inputs": self.inputs and asdict(self.inputs),
            "classes": self.classes
            and {
                "names": self.classes.names,
                "counts": self.classes.counts.tolist(),
                "recall": self.classes.recall.tolist(),
            },
            "shifts": [asdict(shift) for shift in self.shifts],
            "findings": [asdict(finding) for finding in self.findings],
        }
        return _jsonable(found)

    def __str__(self) -> str:
        lines = [
            f"{self.parameters:,} parameters, {self.total:,} training samples"
            + (f", of which {self.train.samples:,} were used" if self._subsampled else ""),
            f"training    {_scored(self.train)}",
        ]
        if self.validation is None:
            lines.append("validation  none: without validation data overfitting cannot be seen")
        else:
            lines.append(f"validation  {_scored(self.validation)}")
        if self.weights:
            lines += ["", _row("norms of incoming weights", "mean", "largest", "bound", "clipped")]
            for w in self.weights:
                bound = "" if w.bound is None else f"{w.bound:.3g}"
                clipped = "" if w.clipped is None else f"{100 * w.clipped:.0f} %"
                lines.append(_row(w.name, f"{w.mean:.3g}", f"{w.largest:.3g}", bound, clipped))
        if self.activations:
            lines += ["", _row("hidden activations", "zeros", "dead", "mean", "std")]
            for a in self.activations:
                dead = f"{len(a.dead)}/{a.units}"
                lines.append(
                    _row(f"{a.path}, {a.layer}", f"{100 * a.sparsity:.0f} %", dead,
                         f"{a.mean:.3g}", f"{a.std:.3g}")
                )  # fmt: skip
        lines.append("")
        lines += [f"- {advice}" for advice in self.advice] or ["Nothing looks wrong."]
        return "\n".join(lines)

    __repr__ = __str__

    @property
    def _subsampled(self) -> bool:
        return self.train.samples < self.total


def _scored(score: Score) -> str:
    parts = []
    for name, value in score.metrics.items():
        error = score.errors.get(name)
        parts.append(f"{name} {value:.4g}" + ("" if error is None else f" ± {error:.1g}"))
    return f"{', '.join(parts)} ({score.samples:,} samples)"


def _row(name: str, *columns: str) -> str:
    return (f"{name:<34}" + "".join(f"{column:>10}" for column in columns)).rstrip()


def _jsonable(value: Any) -> Any:
    """The value with plain numbers; None for those that are not finite."""
    if isinstance(value, Mapping):
        return {name: _jsonable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value

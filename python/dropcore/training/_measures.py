"""The metrics of a call of `fit` or `evaluate`, from batches to a number."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from dropcore._backends import to_device
from dropcore._base.checks import shown, users_level
from dropcore._base.device import array_namespace, on_device
from dropcore._base.extras import require
from dropcore.losses import (
    Array,
    BinaryCrossEntropy,
    CheckedLoss,
    GaussianNLL,
    Loss,
    Number,
    Shape,
    SoftmaxCrossEntropy,
    binary_cross_entropy,
    softmax_cross_entropy,
)
from dropcore.training.metrics import METRICS, Metric, top_of

__all__ = ["Measures"]

_OF_NUMBERS = ("mse", "rmse", "mae", "r2")
_OF_LABELS = ("f1", "precision", "recall")


class Outcome(NamedTuple):
    """Outputs and targets that count, a row for each, with steps of sequences as rows.

    Attributes
    ----------
    outputs : ndarray (rows,) or (rows, outputs)
        Logits, or numbers in the units of y.
    targets : ndarray (rows,) or (rows, outputs)
        Labels, shares of classes, or numbers.
    weight : float64 ndarray (rows,) or None
    """

    outputs: Array
    targets: Array
    weight: Array | None


# --- means over samples: sum and weight of a batch -----------------------------------------------

Totals = Callable[["Outcome"], tuple[Number, Number]]


def _log_loss_of(loss: CheckedLoss) -> Totals:
    def totals(rows: Outcome) -> tuple[Number, Number]:
        weight = loss.weight(rows.targets, rows.weight)
        return loss.compute(*rows)[0] * weight, weight

    return totals


def _top(k: int) -> Totals:
    def totals(rows: Outcome) -> tuple[Number, Number]:
        logits, labels = rows.outputs, _labels(rows.targets)[:, None]
        xp = array_namespace(logits)
        own = xp.take_along_axis(logits, labels, axis=-1)
        # Of equal outputs the first comes first, as in argmax. NaN is above all, and never right.
        before = xp.arange(logits.shape[-1]) < labels
        rank = (~(logits <= own) | ((logits == own) & before)).sum(axis=-1)
        return _weighted(rank < k, rows.weight)

    return totals


def _squares(rows: Outcome) -> tuple[Number, Number]:
    d = rows.outputs - rows.targets
    return _weighted(d * d, rows.weight)


def _absolutes(rows: Outcome) -> tuple[Number, Number]:
    return _weighted(abs(rows.outputs - rows.targets), rows.weight)


def _weighted(values: Array, weight: Array | None) -> tuple[Number, Number]:
    """The weighted sum of values (rows, ...), and the sum of their weights."""
    if weight is None:
        return _number(values.sum(dtype=np.float64)), float(values.size)
    each = weight.reshape(-1, *[1] * (values.ndim - 1))
    # A row that does not count may be infinite.
    shares = array_namespace(values).where(each > 0, values * each, 0)
    each_row = values.size / max(1, len(values))
    return _number(shares.sum(dtype=np.float64)), _number(weight.sum() * each_row)


def _number(found: Any) -> Number:
    """A float; an array on a device is not read."""
    return found if on_device(found) else float(found)


# --- of all samples at once ----------------------------------------------------------------------

Score = Callable[[Outcome], float]


def _of_labels(name: str, binary: bool) -> Score:
    """F1, precision or recall of predicted labels."""
    function = getattr(_sklearn(name), f"{name}_score")

    def score(rows: Outcome) -> float:
        predicted, labels, weight = rows
        average = "binary" if binary else "macro"
        return float(
            function(labels, predicted, average=average, sample_weight=weight, zero_division=0.0)
        )

    return score


def _roc_auc(rows: Outcome) -> float:
    _check_finite(rows.outputs)
    probabilities, labels, weight = rows
    classes = probabilities.shape[-1] if probabilities.ndim > 1 else 2
    several = labels.ndim > 1
    for column in labels.T if several else [labels]:
        missing = sorted(set(range(2 if several else classes)) - set(np.unique(column).tolist()))
        if missing:
            raise _UndefinedError(f"no sample of class {', '.join(map(str, missing[:6]))}")
    if probabilities.ndim > 1 and classes == 2 and not several:
        probabilities = probabilities[:, 1]
    function = _sklearn("roc_auc").roc_auc_score
    return float(function(labels, probabilities, multi_class="ovr", sample_weight=weight))


def _check_finite(outputs: Array) -> None:
    if not np.isfinite(outputs).all():
        raise _UndefinedError("outputs that are not finite")


def _r2(rows: Outcome) -> float:
    if len(rows.targets) < 2:
        raise _UndefinedError("fewer than two samples")
    _check_finite(rows.outputs)
    function = _sklearn("r2").r2_score
    return float(function(rows.targets, rows.outputs, sample_weight=rows.weight))


def _of_one_s_own(metric: Metric) -> Score:
    def score(rows: Outcome) -> float:
        weight = {"sample_weight": rows.weight} if metric.weighted else {}
        found = metric.function(rows.outputs, rows.targets, **weight)
        if np.ndim(found) or np.asarray(found).dtype.kind not in "fiub":
            raise TypeError(
                f"the function of Metric({metric.name!r}) must return a number, got {shown(found)}"
            )
        return float(found)

    return score


def _sklearn(name: str) -> Any:
    return require("sklearn.metrics", "metrics", f"the metric {name!r}")


class _UndefinedError(Exception):
    """The data does not define a metric."""


# --- the metrics of a call -----------------------------------------------------------------------


class Measures:
    """The metrics that a call of `fit` or `evaluate` was asked for, checked against its loss.

    Parameters
    ----------
    given : list or tuple of str and Metric
    loss : Loss
    outputs : tuple
        Shape of one sample's output.
    weighted : bool
        Whether there are weights of samples.
    data : str
        The data, as a warning calls it, such as "the validation data".
    scaling : TargetScaling, optional
        The scaling of y.

    Raises
    ------
    TypeError, ValueError
        If there is no such metric, or it does not fit the loss.
    ImportError
        If scikit-learn is needed and missing.
    """

    def __init__(
        self,
        given: Any,
        loss: Loss,
        outputs: Shape,
        *,
        weighted: bool,
        data: str,
        scaling: Any = None,
    ) -> None:
        if not isinstance(given, list | tuple):
            single = isinstance(given, str | Metric)
            raise TypeError(
                "metrics must be a list of names such as 'f1' and Metric objects, got "
                f"{shown(given)}{'; put it into a list' if single else ''}"
            )
        self._loss, self._data, self._scaling = loss, data, scaling
        self._of = _predicted_by(loss)
        units = outputs[-1] if outputs else 1
        self._binary = units == (2 if self._of == "classes" else 1)
        self.directions = {"loss": False}
        if isinstance(loss, CheckedLoss) and loss.classifies:
            self.directions["accuracy"] = True
        self._totals: dict[str, Totals] = {}
        self._of_labels: dict[str, Score] = {}
        self._of_outputs: dict[str, Score] = {}
        self._warned: set[str] = set()
        for item in given:
            if not isinstance(item, str | Metric):
                raise TypeError(
                    "metrics must hold names and objects such as Metric('name', function), got "
                    f"{shown(item)}"
                )
            name = item.name if isinstance(item, Metric) else item
            if name in self.directions and name != "accuracy":
                raise ValueError(f"metrics: {name!r} is measured already; leave it out")
            if isinstance(item, Metric):
                if weighted and not item.weighted:
                    raise ValueError(
                        f"metrics: there are weights of samples, and Metric({name!r}) takes none: "
                        "give it weighted=True and a function that takes sample_weight="
                    )
                self._of_outputs[name] = _of_one_s_own(item)
                self.directions[name] = item.higher_is_better
            else:
                self._add(name, units)

    def _add(self, name: str, units: int | None) -> None:
        """Add a metric by name."""
        k = top_of(name)
        if k is None and name not in METRICS:
            raise ValueError(_unknown(name))
        self._check_fit(name)
        self.directions[name] = METRICS.get(name, True)
        if k is not None:
            if units is not None and not 0 < k < units:
                raise ValueError(
                    f"metrics: {name!r} of {units} outputs is always {min(k, 1)}, so k must be in "
                    f"[1, {units - 1}]"
                )
            self._totals[name] = _top(k)
        elif name == "log_loss":
            yes_or_no = self._of == "yes or no"
            self._totals[name] = _log_loss_of(
                binary_cross_entropy if yes_or_no else softmax_cross_entropy
            )
        elif name == "mae":
            self._totals[name] = _absolutes
        elif name in ("mse", "rmse"):
            self._totals[name] = _squares
        elif name in _OF_LABELS:
            self._of_labels[name] = _of_labels(name, self._binary)
        elif name != "accuracy":  # which the loss counts itself
            _sklearn(name)  # missing packages are noticed now
            self._of_outputs[name] = self._area if name == "roc_auc" else _r2

    def _area(self, rows: Outcome) -> float:
        return _roc_auc(Outcome(rows.outputs, self._true_labels(rows.targets), rows.weight))

    def _check_fit(self, name: str) -> None:
        """ValueError unless the loss predicts what a metric is of."""
        of, classes = self._of, self._of in ("classes", "yes or no")
        choices = [other for other in METRICS if (other not in _OF_NUMBERS) == classes]
        if name == "accuracy":
            fits, problem = "accuracy" in self.directions, "is for classes"
        elif name in _OF_NUMBERS:
            fits, problem = of == "numbers", "is for numbers"
        elif name in METRICS:
            fits, problem = classes, "is for classes"
        else:
            fits, problem = of == "classes", "is for several classes, of which one is right"
        if fits:
            return
        if of == "unknown":
            choices, problem = [], f"{problem}, and this does not say what it predicts"
        own = "Metric(name, function)"
        raise ValueError(
            f"metrics: {name!r} does not fit the loss {self._loss!r}: it {problem}; use "
            f"{', '.join([*map(repr, choices), own])}"
        )

    @property
    def asked(self) -> list[str]:
        """The names beside loss and accuracy."""
        return [name for name in self.directions if name not in ("loss", "accuracy")]

    @property
    def keeps_batches(self) -> bool:
        """Whether `kept` returns something for the end of the epoch."""
        return bool(self._of_labels or self._of_outputs)

    def totals(self, outputs: Array, targets: Array, weight: Array | None) -> dict[str, Any]:
        """Sum and weight of a batch, for each metric that is a mean of samples.

        Parameters
        ----------
        outputs : ndarray, shape (rows, ...)
            As given to the loss, without padded steps.
        targets : ndarray
        weight : float64 ndarray (rows,) or None

        Returns
        -------
        dict of str to (Number, Number)
        """
        if not self._totals:
            return {}
        rows = self._rows(outputs, targets, weight)
        if not len(rows.targets):
            return {}
        with np.errstate(all="ignore"):
            return {name: total(rows) for name, total in self._totals.items()}

    def kept(
        self, outputs: Array, targets: Array, weight: Array | None
    ) -> tuple[Array, Array, Array | None]:
        """What the other metrics need of a batch: predicted labels, or outputs; in new arrays."""
        rows = self._rows(outputs, targets, weight)
        if not self._of_outputs:
            rows = self._predicted(rows)
        # The arrays of a CUDA graph are overwritten by the next batch.
        return (
            rows.outputs.copy(),
            rows.targets.copy(),
            None if rows.weight is None else rows.weight.copy(),
        )

    def result(
        self, means: Mapping[str, float], kept: list[tuple[Array, Array, Array | None]]
    ) -> dict[str, float]:
        """All metrics, in the order in which they were named.

        Parameters
        ----------
        means : dict of str to float
            Those of what `totals` returned, and loss and accuracy.
        kept : list
            What `kept` returned for each batch.

        Warns
        -----
        RuntimeWarning
            Once for each metric that the data does not define.
        """
        found = dict(means)
        if self._of_labels or self._of_outputs:
            rows = _joined(kept)
            if self._of_outputs:
                found |= self._scores(self._of_labels, self._predicted(rows))
                found |= self._scores(self._of_outputs, self._shown(rows))
            else:
                found |= self._scores(self._of_labels, rows)
        if "rmse" in self._totals:
            found["rmse"] = found.get("rmse", 0.0) ** 0.5
        # Nothing counts where a name is missing.
        return {name: found.get(name, 0.0) for name in self.directions}

    def _scores(self, scores: Mapping[str, Score], rows: Outcome) -> dict[str, float]:
        found = {}
        for name, score in scores.items():
            try:
                if not len(rows.targets):
                    raise _UndefinedError("no sample that counts")
                found[name] = score(rows)
            except _UndefinedError as error:
                found[name] = float("nan")
                if name not in self._warned:
                    self._warned.add(name)
                    warnings.warn(
                        f"{name} is not defined, and NaN, because {self._data} has {error}",
                        RuntimeWarning,
                        stacklevel=users_level(),
                    )
        return found

    def _rows(self, outputs: Array, targets: Array, weight: Array | None) -> Outcome:
        """A row for each target that counts; numbers in float64 and in the units of y."""
        if self._of == "unknown":
            return Outcome(outputs, targets, weight)
        xp, samples = array_namespace(outputs), len(targets)
        if isinstance(self._loss, GaussianNLL):
            outputs = outputs[..., 0]
        units = outputs.shape[-1] if outputs.ndim > 1 else 1
        if self._of == "classes":
            outputs = outputs.reshape(-1, units)
            targets = targets.reshape(outputs.shape if targets.dtype.kind == "f" else -1)
        else:
            shape = (-1,) if units == 1 else (-1, units)
            outputs, targets = outputs.reshape(shape), targets.reshape(shape)
        if weight is not None:
            weight = xp.repeat(weight, len(targets) // max(1, samples))
        if self._of == "numbers":
            outputs, targets = self._in_units_of_y(outputs), self._in_units_of_y(targets)
        ignored = getattr(self._loss, "ignore_label", None)
        if ignored is not None and targets.dtype.kind != "f":
            counted = xp.flatnonzero(targets != ignored)
            outputs, targets = outputs[counted], targets[counted]
            weight = None if weight is None else weight[counted]
        return Outcome(outputs, targets, weight)

    def _in_units_of_y(self, values: Array) -> Array:
        found = values.astype(np.float64)
        if self._scaling is not None:
            xp = array_namespace(values)
            found *= xp.asarray(self._scaling.scale, np.float64)
            found += xp.asarray(self._scaling.mean, np.float64)
        return found

    def _predicted(self, rows: Outcome) -> Outcome:
        """Predicted and true labels."""
        found = rows.outputs.argmax(axis=-1) if self._of == "classes" else rows.outputs > 0
        return Outcome(found, self._true_labels(rows.targets), rows.weight)

    def _true_labels(self, targets: Array) -> Array:
        return _labels(targets) if self._of == "classes" else targets > 0.5

    def _shown(self, rows: Outcome) -> Outcome:
        """Probabilities instead of logits."""
        if self._of not in ("classes", "yes or no"):
            return rows
        assert isinstance(self._loss, CheckedLoss)
        logits = rows.outputs.astype(np.float64)
        return Outcome(self._loss.probabilities(logits), rows.targets, rows.weight)


def _predicted_by(loss: Loss) -> Literal["classes", "yes or no", "numbers", "unknown"]:
    """What a loss takes outputs for."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return "classes"
    if isinstance(loss, BinaryCrossEntropy):
        return "yes or no"
    if isinstance(loss, CheckedLoss) and not loss.classifies:
        return "numbers"
    return "unknown"


def _labels(targets: Array) -> Array:
    """Labels (rows,), also where there is a share for each class."""
    return targets.argmax(axis=-1) if targets.ndim > 1 else targets


def _joined(kept: list[tuple[Array, Array, Array | None]]) -> Outcome:
    """All batches as one, on the host, without rows of no weight."""
    if not kept:
        return Outcome(np.empty((0, 1)), np.empty(0), None)
    outputs, targets = (
        to_device(array_namespace(kept[0][0]).concatenate([batch[i] for batch in kept]), "cpu")
        for i in (0, 1)
    )
    if kept[0][2] is None:
        return Outcome(outputs, targets, None)
    weight = np.concatenate([to_device(batch[2], "cpu") for batch in kept])
    counted = np.flatnonzero(weight)
    return Outcome(outputs[counted], targets[counted], weight[counted])


def _unknown(name: str) -> str:
    choices = [*METRICS, "top_2"]
    if name == "seconds":
        return "metrics: the history has 'seconds' without being asked for it"
    if name in ("top_k", "top"):
        return f"metrics: {name!r} needs a number, such as 'top_5'"
    near = difflib.get_close_matches(name, choices, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"metrics: there is no metric {name!r}; use {', '.join(map(repr, choices))} (or another "
        f"k), or Metric(name, function){hint}"
    )

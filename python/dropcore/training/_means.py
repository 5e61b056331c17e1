"""The loss of a batch, and what batches add to the means of an epoch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dropcore._backends import to_device
from dropcore._base.device import array_namespace, on_device
from dropcore.losses import Array, CheckedLoss, Loss, Number
from dropcore.training._data import Batch
from dropcore.training._measures import Measures

__all__ = ["Found", "Means", "Scored", "loss_of"]


class Scored(NamedTuple):
    """Outputs and targets that count in the loss: padded steps are left out."""

    outputs: Array
    targets: Any
    sample_weight: Array | None


def loss_of(loss: Loss, out: Array, batch: Batch) -> tuple[Number, Array, Scored]:
    """The loss of outputs, its gradient, and what counted.

    Of padded sequences only the valid steps reach the loss, as rows (steps, ...).

    Raises
    ------
    TypeError, ValueError
        If a function of one's own returns something else.
    """
    y, weight, valid = batch.y, batch.sample_weight, batch.valid
    if valid is None:
        value, gradient = _called(loss, out, y, weight)
        return value, gradient, Scored(out, y, weight)
    xp, steps = array_namespace(out), out.shape[1]
    scored = Scored(
        out.reshape(-1, *out.shape[2:])[valid],
        y.reshape(-1, *y.shape[2:])[valid],
        None if weight is None else weight[valid // steps],
    )
    whole = xp.zeros((out.shape[0] * steps, *out.shape[2:]), out.dtype)
    value = 0.0
    if len(valid):
        value, whole[valid] = _called(loss, *scored)
    return value, whole.reshape(out.shape), scored


def _called(loss: Loss, out: Array, y: Any, weight: Array | None) -> tuple[Number, Array]:
    if isinstance(loss, CheckedLoss):
        return loss.compute(out, y, weight)
    found = loss(out, y)
    if not isinstance(found, tuple | list) or len(found) != 2 or np.ndim(found[0]):
        raise TypeError(
            "loss(outputs, targets) must return (value, doutputs), a number and an array like "
            f"outputs, got {_described(found)}"
        )
    value = found[0] if on_device(found[0]) else float(found[0])
    gradient = array_namespace(out).asarray(found[1], out.dtype)
    if gradient.shape != out.shape:
        raise ValueError(
            "loss(outputs, targets) must return the gradient of outputs in their shape, "
            f"{out.shape}, got {gradient.shape}"
        )
    return value, gradient


def _described(found: Any) -> str:
    """What a loss returned, without the numbers of arrays."""
    if isinstance(found, tuple | list):
        parts = ", ".join(map(_described, found))
        order = "; is the order (gradient, value)?" if len(found) == 2 and np.ndim(found[0]) else ""
        return f"({parts}){order}"
    shape = getattr(found, "shape", ())
    return f"an array of shape {shape}" if shape else repr(found)


class Found(NamedTuple):
    """What a batch adds to the means of an epoch.

    Attributes
    ----------
    totals : dict of str to (Number, Number)
        For each mean its sum over the rows, and the sum of their weights.
    kept : list of tuple
        What the other metrics need of it.
    """

    totals: dict[str, tuple[Number, Number]]
    kept: list[tuple[Any, Any, Any]]

    def on_host(self) -> Found:
        """The same in host memory, for other processes."""
        totals = {name: (float(a), float(b)) for name, (a, b) in self.totals.items()}
        arrays = [
            tuple(None if part is None else to_device(part, "cpu") for part in each)
            for each in self.kept
        ]
        return Found(totals, arrays)  # type: ignore[arg-type]


class Means:
    """Loss and metrics over several batches, which need not have one size.

    Parameters
    ----------
    loss : Loss
    measures : Measures
    sums : dict
        Where sum and weight of each mean are kept.
    scored : list
        Where the other metrics keep what they need of each batch.
    """

    def __init__(
        self,
        loss: Loss,
        measures: Measures,
        sums: dict[str, list[Number]],
        scored: list[tuple[Any, Any, Any]],
    ) -> None:
        self._loss, self._measures = loss, measures
        self._sums, self._scored = sums, scored

    def of_batch(self, value: Number, scored: Scored) -> Found:
        """What a batch, or a block of its rows, adds, by its loss, its outputs and targets."""
        loss, (out, y, sample_weight) = self._loss, scored
        if not len(y):
            return Found({}, [])
        checked = loss if isinstance(loss, CheckedLoss) else None
        weight = float(len(y)) if checked is None else checked.weight(y, sample_weight)
        totals = {"loss": (value * weight, weight)}
        if checked is not None and checked.classifies:
            totals["accuracy"] = checked.n_correct(out, y, sample_weight)
        totals |= self._measures.totals(*scored)
        return Found(totals, [self._measures.kept(*scored)] if self.keeps_batches else [])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all means, "loss" first, and of the other metrics."""
        return tuple(self._measures.directions)

    @property
    def keeps_batches(self) -> bool:
        """Whether a metric needs the outputs of all batches at once."""
        return self._measures.keeps_batches

    def add(self, found: Found) -> None:
        """Add what `of_batch` found."""
        for name, (total, weight) in found.totals.items():
            before = self._sums.get(name, [0.0, 0.0])
            self._sums[name] = [before[0] + total, before[1] + weight]
        self._scored += found.kept

    def result(self) -> dict[str, float]:
        """Loss and metrics; means are 0 where nothing counts."""
        sums = {name: (float(total), float(n)) for name, (total, n) in self._sums.items()}
        means = {name: total / (weight or 1.0) for name, (total, weight) in sums.items()}
        return self._measures.result(means, self._scored)

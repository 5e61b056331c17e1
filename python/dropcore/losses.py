"""Losses and metrics of a batch.

A loss is a function ``loss(outputs, targets) -> (value, doutputs)``: the mean over the batch and
its gradient. Any function will do. Those here are objects that also say what targets may be, so
that training can refuse wrong ones before it begins. Of outputs on a GPU they give a value that is
there too, as an array without axes, and do not look at the targets' numbers: nothing waits for the
device. Names for them are in `LOSSES`:

==========================  ==========================================================
"softmax_cross_entropy"     ``SoftmaxCrossEntropy()``, one class out of several
"binary_cross_entropy"      ``BinaryCrossEntropy()``, yes or no for each output
"mse"                       ``MeanSquaredError()``
"mae"                       ``MeanAbsoluteError()``
"huber"                     ``Huber(1.0)``
"gaussian_nll"              ``GaussianNLL()``, a mean and a variance for each target
==========================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._base.checks import check_number
from dropcore._base.device import array_namespace, on_device

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CheckedLoss",
    "GaussianNLL",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Number",
    "SoftmaxCrossEntropy",
    "accuracy",
    "binary_cross_entropy",
    "check_labels",
    "softmax_cross_entropy",
]

Array = NDArray[Any]

Shape = tuple[int | None, ...]
"""None is an axis of any length."""

Loss = Callable[[Array, Array], tuple[Any, Array]]

Number = Any
"""A float; on a GPU a float64 array without axes."""


class CheckedLoss:
    """A loss that knows its targets."""

    classifies: bool = False
    """Whether `n_correct` says how many outputs are right."""

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[Number, Array]:
        """The mean over the batch, and its gradient like outputs."""
        raise NotImplementedError

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        """`targets` as an array, if they can be those of outputs of that shape.

        Raises
        ------
        TypeError, ValueError
            If not.
        """
        found = self.fitted(targets, outputs_shape)
        self.check_values(found, outputs_shape)
        return found

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        """`targets` as an array of the right kind and shape, whatever its numbers are.

        Raises
        ------
        TypeError, ValueError
            If they are not of that kind and shape.
        """
        return _fitted(targets, outputs_shape)

    def check_values(self, targets: Array, outputs_shape: Shape) -> None:
        """ValueError unless the numbers of fitted targets may be there."""
        _check_finite(targets)

    def weight(self, targets: Array) -> Number:
        """What counts in a mean over these targets, to join means of several batches."""
        return float(len(targets))

    def n_correct(self, outputs: Array, targets: Array) -> tuple[Number, Number]:
        """How many outputs hit their target, and how many count."""
        raise NotImplementedError

    def _of(self, outputs: Array, targets: ArrayLike) -> Array:
        """The targets of a call, where the outputs are."""
        if not on_device(outputs):
            return self.check(targets, outputs.shape)
        return self.fitted(array_namespace(outputs).asarray(targets), outputs.shape)


# --- classes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxCrossEntropy(CheckedLoss):
    """Cross-entropy of the softmax of logits against classes.

    Targets are integer labels, or a probability for each class such as one-hot rows. A label is
    one-hot: q. With label_smoothing e among n classes and class weights w::

        r      = w * ((1 - e) * q + e / n)
        loss   = sum of -r * log(softmax(z)) / sum of w * q
        dz     = (softmax(z) * (sum of r over the classes) - r) / sum of w * q

    so that without weights it is the mean over the labels. z = logits - max(logits), which changes
    nothing but keeps exp from overflowing.

    Parameters
    ----------
    class_weights : sequence of float, optional
        How much each class counts, not negative. By default all count 1.
    label_smoothing : float, default 0.0
        In [0, 1].
    ignore_label : int, optional
        A label that stands for none, such as that of padding. It counts nowhere. A batch of
        nothing else has a loss and gradients of zero.

    Raises
    ------
    TypeError, ValueError
        If a number is none, or out of its range. When it is called: if targets do not fit the
        outputs, labels are not integers or not those of a class, or probabilities do not sum to 1.

    References
    ----------
    Label smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture for computer
    vision", section 7.
    """

    _: KW_ONLY
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    ignore_label: int | None = None
    classifies = True

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            if isinstance(self.class_weights, Mapping) or not isinstance(
                self.class_weights, Iterable
            ):
                raise TypeError(
                    "SoftmaxCrossEntropy: class_weights must be a sequence, a number for each "
                    f"class in order, got {self.class_weights!r}"
                )
            object.__setattr__(self, "class_weights", tuple(self.class_weights))
            for weight in self.class_weights:
                check_number("SoftmaxCrossEntropy: a class weight", weight, "[0, inf)")
        check_number("SoftmaxCrossEntropy: label_smoothing", self.label_smoothing, "[0, 1]")

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[Number, Array]:
        xp, found = array_namespace(outputs), self._of(outputs, targets)
        outputs = xp.ascontiguousarray(outputs)
        z = outputs - outputs.max(axis=-1, keepdims=True)
        gradient = xp.exp(z)
        total = gradient.sum(axis=-1, keepdims=True)
        gradient /= total
        if found.dtype.kind in "iu" and self == SoftmaxCrossEntropy():
            # Plain labels: no array of shares is made.
            at = xp.arange(found.size), found.reshape(-1)
            classes = outputs.shape[-1]
            losses = xp.log(total).reshape(-1) - z.reshape(-1, classes)[at]
            gradient.reshape(-1, classes)[at] -= 1
            gradient /= found.size
            return _mean(losses), gradient
        shares, count = self._shares(found, outputs), self.weight(found)
        share = _inverse(count)
        mass = shares.sum(axis=-1, keepdims=True)
        # A logit of -inf may have a share of 0.
        n_correct = xp.where(shares != 0, shares * xp.where(shares != 0, z, 0), 0)
        losses = mass * xp.log(total) - n_correct.sum(axis=-1, keepdims=True)
        gradient *= mass
        gradient -= shares
        gradient *= outputs.dtype.type(share) if isinstance(share, float) else share.astype(z.dtype)
        return _number(losses.sum(dtype=np.float64) * share), gradient

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        classes = outputs_shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights must hold one number for each of the {classes} outputs, got "
                f"{len(self.class_weights)}"
            )
        found: Any = targets if on_device(targets) else np.asarray(targets)
        if classes != 1 and found.ndim == len(outputs_shape) and found.shape[-1] == 1:
            found = found[..., 0]  # labels in a column
        if found.ndim < len(outputs_shape):
            return _fitted_labels(found, outputs_shape)
        found = _fitted(found, outputs_shape)
        return found if found.dtype.kind == "f" else found.astype(np.float32)

    def check_values(self, targets: Array, outputs_shape: Shape) -> None:
        if targets.dtype.kind in "iu":
            _check_range(targets, outputs_shape[-1], self.ignore_label)
            return
        _check_finite(targets)
        found = targets
        sums = found.sum(axis=-1, dtype=np.float64)
        low, worst = float(found.min()), float(sums.ravel()[abs(sums - 1).argmax()])
        if low < 0 or not abs(worst - 1) <= 1e-3:
            raise ValueError(
                "targets with an axis for the classes are probabilities: each must be in [0, 1] "
                f"and those of a row sum to 1, got {low:.4g} at the least and a sum of "
                f"{worst:.4g}"
            )

    def weight(self, targets: Array) -> Number:
        if self.class_weights is None and self.ignore_label is None and targets.dtype.kind in "iu":
            return float(targets.size)
        xp = array_namespace(targets)
        if targets.dtype.kind in "iu":
            counted = self._counted(targets)
            if self.class_weights is None:
                return _number(counted.sum(dtype=np.float64))
            weights = xp.asarray(self.class_weights, np.float64)
            return _number((weights[xp.where(counted, targets, 0)] * counted).sum())
        weights = 1.0 if self.class_weights is None else xp.asarray(self.class_weights, np.float64)
        return _number((targets * weights).sum(dtype=np.float64))

    def n_correct(self, outputs: Array, targets: Array) -> tuple[Number, Number]:
        best = outputs.argmax(axis=-1)
        if targets.dtype.kind == "f":
            targets = targets.argmax(axis=-1)
        right = best == targets
        if self.ignore_label is None:
            return _number(right.sum()), float(right.size)
        counted = self._counted(targets)
        return _number((right & counted).sum()), _number(counted.sum())

    def _counted(self, labels: Array) -> Array:
        """Which labels are of a class."""
        if self.ignore_label is None:
            return labels == labels
        return labels != self.ignore_label

    def _shares(self, targets: Array, outputs: Array) -> Array:
        """r of the docstring."""
        xp = array_namespace(outputs)
        if targets.dtype.kind == "f":
            shares = targets.astype(outputs.dtype)
        else:
            counted = self._counted(targets).reshape(-1)
            at = xp.arange(targets.size), xp.where(counted, targets.reshape(-1), 0)
            shares = xp.zeros(outputs.shape, outputs.dtype)
            shares.reshape(-1, outputs.shape[-1])[at] = counted
        if self.label_smoothing:
            smooth = self.label_smoothing * shares.sum(axis=-1, keepdims=True) / shares.shape[-1]
            shares *= outputs.dtype.type(1 - self.label_smoothing)
            shares += smooth.astype(outputs.dtype)
        if self.class_weights is not None:
            shares *= xp.asarray(self.class_weights, outputs.dtype)
        return shares


@dataclass(frozen=True)
class BinaryCrossEntropy(CheckedLoss):
    """Cross-entropy of the sigmoid of each logit z against a target t in [0, 1].

    With s = 1 / (1 + exp(-z)), and the mean over all n numbers::

        loss = mean of -t log(s) - (1 - t) log(1 - s) = mean of max(z, 0) - z t + log(1 + exp(-|z|))
        dz   = (s - t) / n

    The second form has no logarithm of 0. A target hits if z is above 0 and t above 1/2, or neither
    is.
    """

    classifies = True

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[Number, Array]:
        xp, t = (
            array_namespace(outputs),
            self._of(outputs, targets).astype(outputs.dtype, copy=False),
        )
        small = xp.exp(-abs(outputs))
        losses = xp.maximum(outputs, 0) - outputs * t + xp.log1p(small)
        sigmoid = xp.where(outputs >= 0, outputs.dtype.type(1), small) / (1 + small)
        gradient = (sigmoid - t) / outputs.dtype.type(outputs.size)
        return _mean(losses), gradient

    def check_values(self, targets: Array, outputs_shape: Shape) -> None:
        _check_finite(targets)
        low, high = targets.min(), targets.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"targets must be in [0, 1], got {low if low < 0 else high}")

    def n_correct(self, outputs: Array, targets: Array) -> tuple[Number, Number]:
        right = (outputs > 0) == (targets > 0.5)
        return _number(right.sum()), float(right.size)


# --- numbers -------------------------------------------------------------------------------------


class _OfDifferences(CheckedLoss):
    """The mean of a function of each output's distance from its target."""

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[Number, Array]:
        wanted = self._of(outputs, targets).astype(outputs.dtype, copy=False)
        losses, gradient = self.each(outputs - wanted)
        gradient /= outputs.dtype.type(outputs.size)
        return _mean(losses), gradient

    def each(self, d: Array) -> tuple[Array, Array]:
        """The function of each difference, and its derivative in a new array."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeanSquaredError(_OfDifferences):
    """loss = mean of (y - t)^2 over all n numbers, dy = 2 (y - t) / n."""

    def each(self, d: Array) -> tuple[Array, Array]:
        return d * d, 2 * d


@dataclass(frozen=True)
class MeanAbsoluteError(_OfDifferences):
    """loss = mean of abs(y - t) over all n numbers, dy = sign(y - t) / n, which is 0 at 0."""

    def each(self, d: Array) -> tuple[Array, Array]:
        return abs(d), array_namespace(d).sign(d)


@dataclass(frozen=True)
class Huber(_OfDifferences):
    """Squares near the target and distances far from it.

    With d = y - t::

        loss = mean over all n numbers of d^2 / 2                        where abs(d) <= delta
                                          delta (abs(d) - delta / 2)     elsewhere
        dy   = min(max(d, -delta), delta) / n

    Parameters
    ----------
    delta : float, default 1.0
        Positive.

    Raises
    ------
    TypeError, ValueError
        If it is not such a number.

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter".
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_number("Huber: delta", self.delta, "(0, inf)")

    def each(self, d: Array) -> tuple[Array, Array]:
        slope = d.clip(-self.delta, self.delta)
        return slope * (d - slope / 2), slope


@dataclass(frozen=True)
class GaussianNLL(CheckedLoss):
    """Negative log likelihood of targets under Gaussians that the network describes.

    Outputs (..., 2) are a mean m and the logarithm s of a variance for each target t::

        loss = mean over all n targets of (s + (t - m)^2 exp(-s) + log(2 pi)) / 2
        dm   = (m - t) exp(-s) / n             ds = (1 - (t - m)^2 exp(-s)) / (2 n)

    References
    ----------
    Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution".
    """

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[Number, Array]:
        xp, t = (
            array_namespace(outputs),
            self._of(outputs, targets).astype(outputs.dtype, copy=False),
        )
        d, precision = outputs[..., 0] - t, xp.exp(-outputs[..., 1])
        excess = d * d * precision
        losses = (outputs[..., 1] + excess + outputs.dtype.type(math.log(2 * math.pi))) / 2
        gradient = xp.stack([d * precision, (1 - excess) / 2], axis=-1)
        gradient /= outputs.dtype.type(t.size)
        return _mean(losses), gradient

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        if outputs_shape[-1] != 2:
            raise ValueError(
                "GaussianNLL: outputs must be (..., 2), a mean and the logarithm of a variance, "
                f"got {tuple(outputs_shape)}"
            )
        return _fitted(targets, outputs_shape[:-1])


# --- names ---------------------------------------------------------------------------------------

softmax_cross_entropy: Final = SoftmaxCrossEntropy()
binary_cross_entropy: Final = BinaryCrossEntropy()

LOSSES: Final[dict[str, Loss]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": MeanSquaredError(),
    "mae": MeanAbsoluteError(),
    "huber": Huber(),
    "gaussian_nll": GaussianNLL(),
}


# --- metrics and checks --------------------------------------------------------------------------


def accuracy(logits: Array, labels: Array) -> float:
    """Fraction of the rows (..., classes) whose largest entry is at the label (...)."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def check_labels(
    labels: ArrayLike, logits_shape: Shape, ignore_label: int | None = None
) -> NDArray[np.integer]:
    """`labels` as an array, if they can be the labels of logits of that shape.

    Parameters
    ----------
    labels : array_like of int, shape (...)
    logits_shape : tuple
        (..., classes)
    ignore_label : int, optional
        A label that may also be there.

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If a label is out of range, the shapes do not fit or there are no labels.
    """
    found = _fitted_labels(labels, logits_shape)
    _check_range(found, logits_shape[-1], ignore_label)
    return found


def _fitted_labels(labels: ArrayLike, logits_shape: Shape) -> Array:
    """`labels` as integers of the right shape."""
    found: Any = labels if on_device(labels) else np.asarray(labels)
    *lead, classes = logits_shape
    if found.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers in [0, {classes}), got dtype {found.dtype}")
    if not _fits(found.shape, lead):
        flat = found.ndim == 1 and len(lead) > 1
        hint = "; is there a Flatten or a pooling missing?" if flat else ""
        raise ValueError(
            f"labels must have shape {tuple(lead)}, one for each row of outputs "
            f"{tuple(logits_shape)}, got {found.shape}{hint}"
        )
    if found.size == 0:
        raise ValueError("labels must not be empty")
    return found


def _check_range(labels: Array, classes: int | None, ignore_label: int | None) -> None:
    """ValueError unless labels are in [0, classes), or the one that is ignored."""
    counted = labels if ignore_label is None else labels[labels != ignore_label]
    if counted.size == 0:
        return
    low, high = counted.min(), counted.max()
    if low < 0 or (classes is not None and high >= classes):
        also = "" if ignore_label is None else f" or {ignore_label}, which is ignored"
        raise ValueError(
            f"labels must be in [0, {classes}), the network's outputs{also}, "
            f"got {low if low < 0 else high}"
        )


def _fitted(targets: ArrayLike, wanted: Shape) -> Array:
    """`targets` as numbers of the shape `wanted`; a last axis of 1 may be there or not."""
    found: Any = targets if on_device(targets) else np.asarray(targets)
    if found.dtype.kind not in "fiub":
        raise TypeError(f"targets must be an array of real numbers, got dtype {found.dtype}")
    given = found.shape
    if not _fits(given, wanted) and wanted[-1:] == (1,) and _fits(given, wanted[:-1]):
        found = found[..., None]
    elif not _fits(given, wanted) and given[-1:] == (1,) and _fits(given[:-1], wanted):
        found = found[..., 0]
    if not _fits(found.shape, wanted):
        raise ValueError(f"targets must have shape {tuple(wanted)}, as outputs do, got {given}")
    if found.size == 0:
        raise ValueError("targets must not be empty")
    return found


def _check_finite(targets: Array) -> None:
    """ValueError unless all targets are finite."""
    if targets.dtype.kind != "f":
        return
    finite = array_namespace(targets).isfinite(targets)
    if not finite.all():
        at = tuple(map(int, array_namespace(targets).argwhere(~finite)[0]))
        raise ValueError(f"targets must be finite, got {targets[at]} at {at}")


def _mean(losses: Array) -> Number:
    return _number(losses.mean(dtype=np.float64))


def _inverse(count: Number) -> Number:
    """1 / count, and 0 where nothing counts."""
    if isinstance(count, float):
        return 1.0 / count if count else 0.0
    xp = array_namespace(count)
    return xp.where(count > 0, 1.0 / xp.maximum(count, 1e-300), 0.0)


def _number(found: Any) -> Number:
    """A float, or what is on the device as it is."""
    return found if on_device(found) else float(found)


def _fits(shape: tuple[int, ...], wanted: Shape | list[int | None]) -> bool:
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted))

"""Losses and metrics of a batch.

A loss is a function ``loss(outputs, targets) -> (value, doutputs)``: the mean over the batch and
its gradient. Any function will do. Those here are objects that also say what targets may be, so
that training can refuse wrong ones before it begins; names for them are in `LOSSES`:

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

from dropcore.checks import check_number

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CheckedLoss",
    "GaussianNLL",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SoftmaxCrossEntropy",
    "accuracy",
    "binary_cross_entropy",
    "check_labels",
    "softmax_cross_entropy",
]

Array = NDArray[Any]

Shape = tuple[int | None, ...]
"""None is an axis of any length."""

Loss = Callable[[Array, Array], tuple[float, Array]]


class CheckedLoss:
    """A loss that knows its targets."""

    classifies: bool = False
    """Whether `correct` says which outputs hit."""

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[float, Array]:
        """The mean over the batch, and its gradient like outputs."""
        raise NotImplementedError

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        """`targets` as an array, if they can be those of outputs of that shape.

        Raises
        ------
        TypeError, ValueError
            If not.
        """
        raise NotImplementedError

    def weight(self, targets: Array) -> float:
        """What counts in a mean over these targets, to join means of several batches."""
        return float(len(targets))

    def correct(self, outputs: Array, targets: Array) -> NDArray[np.bool_]:
        """Which of the outputs that count hit their target."""
        raise NotImplementedError


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

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[float, Array]:
        found = self.check(targets, outputs.shape)
        z = outputs - outputs.max(axis=-1, keepdims=True)
        gradient = np.exp(z)
        total = gradient.sum(axis=-1, keepdims=True)
        gradient /= total
        if found.dtype.kind in "iu" and self == SoftmaxCrossEntropy():
            # Plain labels: no array of shares is made.
            at = found[..., None]
            losses = np.log(total) - np.take_along_axis(z, at, axis=-1)
            hit = np.take_along_axis(gradient, at, axis=-1) - 1
            np.put_along_axis(gradient, at, hit, axis=-1)
            gradient /= found.size
            return float(losses.mean(dtype=np.float64)), gradient
        shares, count = self._shares(found, outputs), self.weight(found)
        scale = outputs.dtype.type(1 / count if count else 0)
        mass = shares.sum(axis=-1, keepdims=True)
        # A logit of -inf may have a share of 0.
        hits = np.multiply(shares, z, out=np.zeros_like(z), where=shares != 0)
        losses = mass * np.log(total) - hits.sum(axis=-1, keepdims=True)
        gradient *= mass
        gradient -= shares
        gradient *= scale
        return float(losses.sum(dtype=np.float64)) / (count or 1.0), gradient

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        classes = outputs_shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights must hold one number for each of the {classes} outputs, got "
                f"{len(self.class_weights)}"
            )
        found = np.asarray(targets)
        if classes != 1 and found.ndim == len(outputs_shape) and found.shape[-1] == 1:
            found = found[..., 0]  # labels in a column
        if found.ndim < len(outputs_shape):
            return check_labels(found, outputs_shape, self.ignore_label)
        found = _checked(found, outputs_shape)
        found = found if found.dtype.kind == "f" else found.astype(np.float32)
        sums = found.sum(axis=-1, dtype=np.float64)
        if found.min() < 0 or not (np.abs(sums - 1) <= 1e-3).all():
            raise ValueError(
                "targets with an axis for the classes are probabilities: each must be in [0, 1] "
                f"and those of a row sum to 1, got {found.min():.4g} at the least and a sum of "
                f"{sums.ravel()[np.abs(sums - 1).argmax()]:.4g}"
            )
        return found

    def weight(self, targets: Array) -> float:
        if targets.dtype.kind in "iu":
            counted = targets.ravel()
            if self.ignore_label is not None:
                counted = counted[counted != self.ignore_label]
            if self.class_weights is None:
                return float(counted.size)
            return float(np.asarray(self.class_weights)[counted].sum())
        weights = 1.0 if self.class_weights is None else np.asarray(self.class_weights)
        return float((targets * weights).sum(dtype=np.float64))

    def correct(self, outputs: Array, targets: Array) -> NDArray[np.bool_]:
        best = outputs.argmax(axis=-1)
        if targets.dtype.kind == "f":
            return np.asarray(best == targets.argmax(axis=-1))
        if self.ignore_label is None:
            return np.asarray(best == targets)
        counted = targets != self.ignore_label
        return np.asarray(best[counted] == targets[counted])

    def _shares(self, targets: Array, outputs: Array) -> Array:
        """r of the docstring."""
        if targets.dtype.kind == "f":
            shares = targets.astype(outputs.dtype)
        else:
            counted = targets != self.ignore_label
            at = np.where(counted, targets, 0)[..., None]
            shares = np.zeros(outputs.shape, outputs.dtype)
            np.put_along_axis(shares, at, counted[..., None], axis=-1)
        if self.label_smoothing:
            smooth = self.label_smoothing * shares.sum(axis=-1, keepdims=True) / shares.shape[-1]
            shares *= outputs.dtype.type(1 - self.label_smoothing)
            shares += smooth.astype(outputs.dtype)
        if self.class_weights is not None:
            shares *= np.asarray(self.class_weights, outputs.dtype)
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

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[float, Array]:
        t = self.check(targets, outputs.shape).astype(outputs.dtype, copy=False)
        small = np.exp(-np.abs(outputs))
        losses = np.maximum(outputs, 0) - outputs * t + np.log1p(small)
        sigmoid = np.where(outputs >= 0, 1, small) / (1 + small)
        gradient = (sigmoid - t) / outputs.dtype.type(outputs.size)
        return float(losses.mean(dtype=np.float64)), gradient

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        found = _checked(targets, outputs_shape)
        low, high = found.min(), found.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"targets must be in [0, 1], got {low if low < 0 else high}")
        return found

    def correct(self, outputs: Array, targets: Array) -> NDArray[np.bool_]:
        return np.asarray((outputs > 0) == (targets > 0.5))


# --- numbers -------------------------------------------------------------------------------------


class _OfDifferences(CheckedLoss):
    """The mean of a function of each output's distance from its target."""

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[float, Array]:
        wanted = self.check(targets, outputs.shape).astype(outputs.dtype, copy=False)
        losses, gradient = self.each(outputs - wanted)
        gradient /= outputs.dtype.type(outputs.size)
        return float(losses.mean(dtype=np.float64)), gradient

    def each(self, d: Array) -> tuple[Array, Array]:
        """The function of each difference, and its derivative in a new array."""
        raise NotImplementedError

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        return _checked(targets, outputs_shape)


@dataclass(frozen=True)
class MeanSquaredError(_OfDifferences):
    """loss = mean of (y - t)^2 over all n numbers, dy = 2 (y - t) / n."""

    def each(self, d: Array) -> tuple[Array, Array]:
        return d * d, 2 * d


@dataclass(frozen=True)
class MeanAbsoluteError(_OfDifferences):
    """loss = mean of abs(y - t) over all n numbers, dy = sign(y - t) / n, which is 0 at 0."""

    def each(self, d: Array) -> tuple[Array, Array]:
        return np.abs(d), np.sign(d)


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
        slope = np.clip(d, -self.delta, self.delta)
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

    def __call__(self, outputs: Array, targets: ArrayLike) -> tuple[float, Array]:
        t = self.check(targets, outputs.shape).astype(outputs.dtype, copy=False)
        d, precision = outputs[..., 0] - t, np.exp(-outputs[..., 1])
        excess = d * d * precision
        losses = (outputs[..., 1] + excess + outputs.dtype.type(math.log(2 * math.pi))) / 2
        gradient = np.stack([d * precision, (1 - excess) / 2], axis=-1)
        gradient /= outputs.dtype.type(t.size)
        return float(losses.mean(dtype=np.float64)), gradient

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        if outputs_shape[-1] != 2:
            raise ValueError(
                "GaussianNLL: outputs must be (..., 2), a mean and the logarithm of a variance, "
                f"got {tuple(outputs_shape)}"
            )
        return _checked(targets, outputs_shape[:-1])


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
    found = np.asarray(labels)
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
    counted = found if ignore_label is None else found[found != ignore_label]
    if counted.size == 0:
        return found
    low, high = counted.min(), counted.max()
    if low < 0 or (classes is not None and high >= classes):
        also = "" if ignore_label is None else f" or {ignore_label}, which is ignored"
        raise ValueError(
            f"labels must be in [0, {classes}), the network's outputs{also}, "
            f"got {low if low < 0 else high}"
        )
    return found


def _checked(targets: ArrayLike, wanted: Shape) -> Array:
    """`targets` as finite numbers of the shape `wanted`; a last axis of 1 may be there or not."""
    found = np.asarray(targets)
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
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        at = tuple(map(int, np.argwhere(~np.isfinite(found))[0]))
        raise ValueError(f"targets must be finite, got {found[at]} at {at}")
    return found


def _fits(shape: tuple[int, ...], wanted: Shape | list[int | None]) -> bool:
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted))

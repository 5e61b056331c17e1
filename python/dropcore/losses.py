"""Losses and metrics of a batch.

A loss is a function ``loss(outputs, targets) -> (value, doutputs)``: the mean over the batch and
its gradient. Any such function will do. The losses of this module are objects that also check
targets, so that training refuses wrong ones before it begins, and that take weights of samples. For
outputs on a GPU the value is a CuPy array without axes, and the values of the targets are not
checked, so that no call waits for the device. The names of the losses are in `LOSSES`:

==========================  ==========================================================
"softmax_cross_entropy"     ``SoftmaxCrossEntropy()``, one class out of several
"binary_cross_entropy"      ``BinaryCrossEntropy()``, yes or no for each output
"mse"                       ``MeanSquaredError()``
"mae"                       ``MeanAbsoluteError()``
"huber"                     ``Huber(1.0)``
"gaussian_nll"              ``GaussianNLL()``, a mean and a variance for each target
==========================  ==========================================================

Values are float64 numbers, and do not overflow where the outputs are float32. Gradients have the
dtype of the outputs.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
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
    "softmax_cross_entropy",
]

Array = NDArray[Any]

Shape = tuple[int | None, ...]
"""None is an axis of any length."""

Loss = Callable[[Array, Array], tuple[Any, Array]]
"""Takes outputs and targets, and returns the mean over the batch and its gradient."""

Number = Any
"""A float; on a GPU a float64 array without axes."""


class CheckedLoss:
    """A loss that checks its targets and takes weights of samples.

    A subclass writes `compute`, and the other methods where it differs.
    """

    classifies: bool = False
    """Whether there is an accuracy: `n_correct` counts the outputs that are right."""

    def __call__(
        self, outputs: Array, targets: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Number, Array]:
        """Mean over the batch, and its gradient with respect to the outputs.

        Parameters
        ----------
        outputs : ndarray, shape (rows, ...)
        targets : array_like
            As the class says.
        sample_weight : array_like, shape (rows,), optional
            How much each row counts in the mean; not negative. By default all count 1.

        Returns
        -------
        value : float
        doutputs : ndarray, shape (rows, ...)

        Raises
        ------
        TypeError, ValueError
            If outputs, targets or weights are not as described.
        """
        check_outputs(outputs)
        weight = None
        if on_device(outputs):
            xp = array_namespace(outputs)
            found = self.fitted(xp.asarray(targets), outputs.shape)
            if sample_weight is not None:
                weight = xp.asarray(sample_weight, np.float64)
        else:
            found = self.check(targets, outputs.shape)
            if sample_weight is not None:
                weight = checked_sample_weight("sample_weight", sample_weight, len(outputs))
        return self.compute(outputs, found, weight)

    def compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Array]:
        """As a call, without any check.

        Parameters
        ----------
        outputs : ndarray, shape (rows, ...)
        targets : ndarray
            As `check` or `fitted` returned them, on the device of the outputs.
        sample_weight : float64 ndarray, shape (rows,), optional
        """
        raise NotImplementedError

    def check(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        """Return `targets` as an array, checked against outputs of that shape.

        Parameters
        ----------
        targets : array_like
            As the class says.
        outputs_shape : tuple of int or None
            The shape (rows, ...) of the outputs; None is an axis of any length.

        Returns
        -------
        ndarray
            For `compute`.

        Raises
        ------
        TypeError, ValueError
            If they cannot be the targets of such outputs.
        """
        found = self.fitted(targets, outputs_shape)
        self.check_values(found, outputs_shape)
        return found

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        """Return `targets` as an array of the right dtype and shape; values are not checked.

        Parameters
        ----------
        targets : array_like
            As the class says.
        outputs_shape : tuple of int or None
            As for `check`.

        Returns
        -------
        ndarray
            For `check_values` and `compute`.

        Raises
        ------
        TypeError, ValueError
            If dtype or shape are wrong.
        """
        return _fitted(targets, outputs_shape)

    def check_values(self, targets: Array, outputs_shape: Shape) -> None:
        """Raise ValueError if a value of fitted targets is not allowed.

        Parameters
        ----------
        targets : ndarray
            As `fitted` returned them.
        outputs_shape : tuple of int or None
            As for `check`.
        """
        _check_finite(targets)

    def probabilities(self, outputs: Array) -> Array:
        """The probabilities that outputs stand for, in their shape and dtype, if it classifies.

        Parameters
        ----------
        outputs : ndarray, shape (rows, ...)
            Of a network, such as logits.

        Returns
        -------
        ndarray
            Of the shape and dtype of `outputs`.
        """
        raise NotImplementedError

    def weight(self, targets: Array, sample_weight: Array | None = None) -> Number:
        """Weight of these targets when means of several batches are averaged.

        Parameters
        ----------
        targets : ndarray
            As `check` returned them.
        sample_weight : float64 ndarray, shape (rows,), optional
            By default all rows count 1.

        Returns
        -------
        float
            The number of rows, or the sum of their weights.
        """
        if sample_weight is None:
            return float(len(targets))
        return _number(sample_weight.sum())

    def n_correct(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Number]:
        """Number of outputs that are right, and number that count, both weighted.

        Parameters
        ----------
        outputs : ndarray, shape (rows, ...)
            Of a network.
        targets : ndarray
            As `check` returned them.
        sample_weight : float64 ndarray, shape (rows,), optional
            By default all rows count 1.

        Returns
        -------
        right : float
            Sum of the weights of outputs that are right.
        count : float
            Sum of the weights of all outputs that count.
        """
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
    nothing but keeps exp from overflowing. A weight of a sample multiplies its w.

    Parameters
    ----------
    class_weights : sequence of float, optional
        Weight of each class, in order, not negative. By default all are 1.
    label_smoothing : float, default 0.0
        In [0, 1].
    ignore_label : int, optional
        A label that counts nowhere, such as that of padding. A batch of nothing else has a loss
        and gradients of zero.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a number or out of range. When called: if targets do not fit the
        outputs, labels are not integers or out of range, probabilities do not sum to 1, or there is
        only one output, whose softmax is always 1.

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
        what = "SoftmaxCrossEntropy"
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", _class_weights(what, self.class_weights))
        check_number(f"{what}: label_smoothing", self.label_smoothing, "[0, 1]")
        if self.ignore_label is not None:
            try:
                if isinstance(self.ignore_label, bool):
                    raise TypeError
                label = operator.index(self.ignore_label)
            except TypeError:
                raise TypeError(
                    f"{what}: ignore_label must be an integer label, got {self.ignore_label!r}"
                ) from None
            object.__setattr__(self, "ignore_label", label)

    def compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Array]:
        with np.errstate(all="ignore"):
            return self._compute(outputs, targets, sample_weight)

    def _compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None
    ) -> tuple[Number, Array]:
        xp = array_namespace(outputs)
        outputs = xp.ascontiguousarray(outputs)
        top = outputs.max(axis=-1, keepdims=True)
        gradient = outputs - top
        xp.exp(gradient, out=gradient)
        total = gradient.sum(axis=-1, keepdims=True)
        gradient /= total
        # In float64: the difference of two logits can overflow in their own dtype.
        log_total = xp.log(total.astype(np.float64))
        log_total += top
        is_label = targets.dtype.kind in "iu"
        if (
            is_label
            and sample_weight is None
            and self.ignore_label is None
            and self.class_weights is None
            and not self.label_smoothing
        ):
            # The fast path for plain labels makes no array of shares.
            classes = outputs.shape[-1]
            at = xp.arange(0, targets.size * classes, classes)
            at += targets.reshape(-1).astype(at.dtype, copy=False)
            losses = log_total.reshape(-1) - outputs.reshape(-1)[at]
            gradient.reshape(-1)[at] -= 1
            gradient /= targets.size
            return _mean(losses), gradient
        shares = self._shares(targets, outputs)
        if sample_weight is not None:
            shares *= _along_rows(sample_weight, shares).astype(shares.dtype)
        share = _inverse(self.weight(targets, sample_weight))
        mass = shares.sum(axis=-1, keepdims=True)
        # A logit of -inf may have a share of 0.
        losses = xp.where(shares != 0, shares * (log_total - outputs), 0)
        gradient *= mass
        gradient -= shares
        gradient *= (
            outputs.dtype.type(share) if isinstance(share, float) else share.astype(outputs.dtype)
        )
        return _number(losses.sum(dtype=np.float64) * share), gradient

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        if not outputs_shape or outputs_shape[-1] == 1:
            raise ValueError(
                f"SoftmaxCrossEntropy needs an output for each of at least 2 classes, got outputs "
                f"of shape {tuple(outputs_shape)}: the softmax of one output is always 1. For yes "
                "or no use 'binary_cross_entropy', for numbers 'mse'"
            )
        classes = outputs_shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"class_weights must hold one number for each of the {classes} outputs, got "
                f"{len(self.class_weights)}"
            )
        found = _as_array(targets)
        if found.ndim == len(outputs_shape) and found.shape[-1] == 1:
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
        if targets.size == 0:
            return
        sums = targets.sum(axis=-1, dtype=np.float64)
        low, worst = float(targets.min()), float(sums.ravel()[abs(sums - 1).argmax()])
        if low < 0 or not abs(worst - 1) <= 1e-3:
            raise ValueError(
                "targets with an axis for the classes are probabilities: each must be in [0, 1] "
                f"and those of a row sum to 1, got {low:.4g} at the least and a sum of "
                f"{worst:.4g}"
            )

    def probabilities(self, outputs: Array) -> Array:
        xp = array_namespace(outputs)
        with np.errstate(all="ignore"):
            found: Array = xp.exp(outputs - outputs.max(axis=-1, keepdims=True))
            found /= found.sum(axis=-1, keepdims=True)
        return found

    def weight(self, targets: Array, sample_weight: Array | None = None) -> Number:
        is_label = targets.dtype.kind in "iu"
        if (
            is_label
            and sample_weight is None
            and self.class_weights is None
            and self.ignore_label is None
        ):
            return float(targets.size)
        xp = array_namespace(targets)
        each: Any = 1.0 if self.class_weights is None else xp.asarray(self.class_weights, "f8")
        if is_label:
            counted = self._counted(targets)
            if self.class_weights is not None:
                each = each[xp.where(counted, targets, 0)]
            rows = counted * each
        else:
            rows = (targets * each).sum(axis=-1, dtype=np.float64)
        if sample_weight is not None:
            rows = rows * _along_rows(sample_weight, rows)
        return _number(rows.sum(dtype=np.float64))

    def n_correct(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Number]:
        best = outputs.argmax(axis=-1)
        if targets.dtype.kind == "f":
            return _counts(best == targets.argmax(axis=-1), None, sample_weight)
        counted = None if self.ignore_label is None else self._counted(targets)
        return _counts(best == targets, counted, sample_weight)

    def _counted(self, labels: Array) -> Array:
        """True for each label that counts."""
        if self.ignore_label is None:
            return array_namespace(labels).ones(labels.shape, bool)
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

    The second form has no logarithm of 0. An output is right if z > 0 and t > 1/2, or neither. With
    class weights v of no and w of yes each number counts u = v + (w - v) t, and the mean and the
    gradient are those weighted by u, divided by the sum of u.

    Parameters
    ----------
    class_weights : sequence of two float, optional
        Weights of no and of yes, not negative. By default both are 1.

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """

    _: KW_ONLY
    class_weights: tuple[float, ...] | None = None
    classifies = True

    def __post_init__(self) -> None:
        if self.class_weights is None:
            return
        weights = _class_weights("BinaryCrossEntropy", self.class_weights)
        if len(weights) != 2:
            raise ValueError(
                "BinaryCrossEntropy: class_weights must be two numbers, of no and of yes, got "
                f"{len(weights)}"
            )
        object.__setattr__(self, "class_weights", weights)

    def compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Array]:
        xp, t = array_namespace(outputs), targets.astype(outputs.dtype, copy=False)
        with np.errstate(all="ignore"):
            small = xp.exp(-abs(outputs))
            losses = xp.maximum(outputs, 0) - outputs * t + xp.log1p(small)
            gradient = _sigmoid(outputs, small) - t
            if self.class_weights is None:
                return _mean_and_gradient(losses, gradient, sample_weight)
            each = self._weights(targets, sample_weight)
            share = _inverse(_number(each.sum()))
            gradient *= (each * share).astype(gradient.dtype)
            counted = xp.where(each > 0, losses * each, 0)  # what does not count may be infinite
            return _number(counted.sum(dtype=np.float64) * share), gradient

    def _weights(self, targets: Array, sample_weight: Array | None) -> Array:
        """How much each number counts, in float64."""
        assert self.class_weights is not None
        no, yes = self.class_weights
        each = no + (yes - no) * targets.astype(np.float64)
        return each if sample_weight is None else each * _along_rows(sample_weight, each)

    def weight(self, targets: Array, sample_weight: Array | None = None) -> Number:
        if self.class_weights is None:
            return super().weight(targets, sample_weight)
        return _number(self._weights(targets, sample_weight).sum())

    def probabilities(self, outputs: Array) -> Array:
        with np.errstate(all="ignore"):
            return _sigmoid(outputs, array_namespace(outputs).exp(-abs(outputs)))

    def check_values(self, targets: Array, outputs_shape: Shape) -> None:
        _check_finite(targets)
        if targets.size == 0:
            return
        low, high = targets.min(), targets.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"targets must be in [0, 1], got {low if low < 0 else high}")

    def n_correct(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Number]:
        return _counts((outputs > 0) == (targets > 0.5), None, sample_weight)


def _class_weights(what: str, given: Any) -> tuple[float, ...]:
    """Weights of classes as a tuple of numbers that are not negative.

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    if isinstance(given, Mapping | str) or not isinstance(given, Iterable):
        hint = "; fit takes class_weight, 'balanced' or a dict of labels"
        named = isinstance(given, Mapping | str)
        raise TypeError(
            f"{what}: class_weights must be a sequence, a number for each class in order, got "
            f"{given!r}{hint if named else ''}"
        )
    found = tuple(given)
    for weight in found:
        check_number(f"{what}: a class weight", weight, "[0, inf)")
    return found


# --- numbers -------------------------------------------------------------------------------------


class _OfDifferences(CheckedLoss):
    """The mean of a function of the difference between each output and its target."""

    def compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Array]:
        with np.errstate(all="ignore"):
            d = outputs - targets.astype(outputs.dtype, copy=False)
            gradient = self.slope(d)
            # In float64: the square of a float32 can overflow.
            losses = self.each(d.astype(np.float64, copy=False))
            return _mean_and_gradient(losses, gradient, sample_weight)

    def each(self, d: Array) -> Array:
        """The function of each difference.

        Parameters
        ----------
        d : ndarray
            Outputs minus targets, in float64.

        Returns
        -------
        ndarray
            Of the shape of d.
        """
        raise NotImplementedError

    def slope(self, d: Array) -> Array:
        """Its derivative, in a new array.

        Parameters
        ----------
        d : ndarray
            Outputs minus targets, in the dtype of the outputs.

        Returns
        -------
        ndarray
            Of the shape and dtype of d.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class MeanSquaredError(_OfDifferences):
    """loss = mean of (y - t)^2 over all n numbers, dy = 2 (y - t) / n."""

    def each(self, d: Array) -> Array:
        return d * d

    def slope(self, d: Array) -> Array:
        return 2 * d


@dataclass(frozen=True)
class MeanAbsoluteError(_OfDifferences):
    """loss = mean of abs(y - t) over all n numbers, dy = sign(y - t) / n, which is 0 at 0."""

    def each(self, d: Array) -> Array:
        return abs(d)

    def slope(self, d: Array) -> Array:
        found: Array = array_namespace(d).sign(d)
        return found


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
        If it is not a positive number.

    References
    ----------
    Huber 1964, "Robust estimation of a location parameter".
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_number("Huber: delta", self.delta, "(0, inf)")

    def each(self, d: Array) -> Array:
        slope = self.slope(d)
        return slope * (d - slope / 2)

    def slope(self, d: Array) -> Array:
        delta = float(self.delta)  # a float64 of NumPy would change the dtype
        return d.clip(-delta, delta)


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

    def compute(
        self, outputs: Array, targets: Array, sample_weight: Array | None = None
    ) -> tuple[Number, Array]:
        xp, t = array_namespace(outputs), targets.astype(outputs.dtype, copy=False)
        with np.errstate(all="ignore"):
            d, precision = outputs[..., 0] - t, xp.exp(-outputs[..., 1])
            gradient = xp.stack([d * precision, (1 - d * d * precision) / 2], axis=-1)
            # In float64: the square and the exponential of a float32 can overflow.
            s, d = outputs[..., 1].astype(np.float64), d.astype(np.float64)
            losses = (s + d * d * xp.exp(-s) + math.log(2 * math.pi)) / 2
            return _mean_and_gradient(losses, gradient, sample_weight)

    def fitted(self, targets: ArrayLike, outputs_shape: Shape) -> Array:
        if outputs_shape[-1:] != (2,):
            raise ValueError(
                "GaussianNLL needs outputs of shape (..., 2), a mean and the logarithm of a "
                f"variance, got {tuple(outputs_shape)}: the last layer must have 2 units"
            )
        return _fitted(targets, outputs_shape[:-1])


# --- names ---------------------------------------------------------------------------------------

softmax_cross_entropy: Final = SoftmaxCrossEntropy()
"""`SoftmaxCrossEntropy` without options, to be called with logits and labels."""

binary_cross_entropy: Final = BinaryCrossEntropy()
"""`BinaryCrossEntropy` without options, to be called with logits and targets."""

LOSSES: Final[dict[str, Loss]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": MeanSquaredError(),
    "mae": MeanAbsoluteError(),
    "huber": Huber(),
    "gaussian_nll": GaussianNLL(),
}
"""The losses by the names that ``fit(loss=...)`` takes."""


# --- metrics and checks --------------------------------------------------------------------------


def accuracy(logits: Array, labels: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Fraction of the rows whose largest logit is that of the label.

    Parameters
    ----------
    logits : ndarray, shape (..., classes)
    labels : array_like of int, shape (...) or (..., 1)
        Or a probability for each class, such as one-hot rows, of the shape of `logits`.
    sample_weight : array_like, shape (rows,), optional
        How much each row counts.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or labels are not integers in [0, classes).
    """
    check_outputs(logits, "fiu")
    xp = array_namespace(logits)
    targets = labels if xp is np else xp.asarray(labels)
    found = softmax_cross_entropy.fitted(targets, logits.shape)
    weight = None
    if sample_weight is not None:
        weight = xp.asarray(checked_sample_weight("sample_weight", sample_weight, len(logits)))
    softmax_cross_entropy.check_values(found, logits.shape)
    right, count = softmax_cross_entropy.n_correct(logits, found, weight)
    return float(right) / float(count)


def check_outputs(outputs: Any, kinds: str = "f") -> None:
    """Raise TypeError unless `outputs` is an array of numbers of these kinds."""
    if not (isinstance(outputs, np.ndarray) or on_device(outputs)):
        raise TypeError(
            f"outputs must be a NumPy or CuPy array, got {type(outputs).__name__}; use np.asarray"
        )
    check_not_masked("outputs", outputs)
    if outputs.dtype.kind not in kinds:
        raise TypeError(f"outputs must be floating-point numbers, got dtype {outputs.dtype}")
    if outputs.ndim == 0:
        raise ValueError("outputs must be of shape (rows, ...), got ()")


def check_not_masked(name: str, x: Any) -> None:
    """Raise TypeError for a masked array, whose hidden values would be used."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must be an array without hidden values, got a masked array: use "
            ".filled(value), or leave those samples out"
        )


def checked_sample_weight(name: str, weight: Any, rows: int) -> NDArray[np.float64]:
    """Return `weight` as float64 (rows,), finite, not negative and not all zero.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    check_not_masked(name, weight)
    found = np.asarray(to_device(weight, "cpu"))
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, got dtype {found.dtype}")
    if found.shape == (rows, 1):
        found = found[:, 0]  # a column
    if found.shape != (rows,):
        raise ValueError(
            f"{name} must hold one number for each of the {rows} samples, got shape {found.shape}"
        )
    found = found.astype(np.float64)
    if not (np.isfinite(found).all() and (found >= 0).all()):
        bad = found[~(np.isfinite(found) & (found >= 0))][0]
        raise ValueError(f"{name} must be finite and not negative, got {bad}")
    if not found.any():
        raise ValueError(f"{name} must not be all zero: no sample would count")
    return found


def _as_array(targets: Any) -> Array:
    check_not_masked("targets", targets)
    return targets if on_device(targets) else np.asarray(targets)


def _fitted_labels(labels: Array, logits_shape: Shape) -> Array:
    """`labels` as integers of the right shape."""
    *lead, classes = logits_shape
    kind = labels.dtype.kind
    if kind not in "iu":
        hint = {
            "f": "use .astype(np.int64), or loss='mse' if they are numbers to predict",
            "b": "use .astype(np.int64), or one output and loss='binary_cross_entropy'",
        }.get(kind, "classes, y = np.unique(y, return_inverse=True) numbers the classes")
        if kind == "f" and bool(array_namespace(labels).isnan(labels).any()):
            hint = "NaN is no label: leave out samples without one, then use .astype(np.int64)"
        raise TypeError(
            f"labels must be integers in [0, {classes}), got dtype {labels.dtype}: {hint}"
        )
    if not _fits(labels.shape, lead):
        flat = labels.ndim == 1 and len(lead) > 1
        hint = "; is there a Flatten or a pooling missing?" if flat else ""
        raise ValueError(
            f"labels must have shape {tuple(lead)}, one for each row of outputs "
            f"{tuple(logits_shape)}, got {labels.shape}{hint}"
        )
    if labels.size == 0:
        raise ValueError("labels must not be empty")
    return labels


def _check_range(labels: Array, classes: int | None, ignore_label: int | None) -> None:
    """Raise ValueError unless labels are in [0, classes) or ignored."""
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
    """`targets` as numbers of the shape `wanted`; a last axis of 1 may be missing or added."""
    found = _as_array(targets)
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
    """Raise ValueError unless all targets are finite."""
    if targets.dtype.kind != "f":
        return
    finite = array_namespace(targets).isfinite(targets)
    if not finite.all():
        at = tuple(map(int, array_namespace(targets).argwhere(~finite)[0]))
        raise ValueError(f"targets must be finite, got {targets[at]} at {at}")


def _sigmoid(outputs: Array, small: Array) -> Array:
    """1 / (1 + exp(-outputs)), with small = exp(-abs(outputs)), which cannot overflow."""
    xp = array_namespace(outputs)
    found: Array = xp.where(outputs >= 0, outputs.dtype.type(1), small) / (1 + small)
    return found


# --- means ---------------------------------------------------------------------------------------


def _mean_and_gradient(
    losses: Array, gradient: Array, sample_weight: Array | None
) -> tuple[Number, Array]:
    """The mean of losses (rows, ...), and its gradient from that of each, in place."""
    if sample_weight is None:
        gradient /= gradient.dtype.type(losses.size)
        return _mean(losses), gradient
    xp = array_namespace(losses)
    share = _inverse(_number(sample_weight.sum() * (losses.size // len(losses))))
    rows = _along_rows(sample_weight, losses)
    weighted = xp.where(rows > 0, losses * rows, 0)  # a row that does not count may be infinite
    gradient *= (_along_rows(sample_weight, gradient) * share).astype(gradient.dtype)
    return _number(weighted.sum(dtype=np.float64) * share), gradient


def _counts(
    right: Array, counted: Array | None, sample_weight: Array | None
) -> tuple[Number, Number]:
    """How many are right and how many count, weighted."""
    if sample_weight is None:
        if counted is None:
            return _number(right.sum()), float(right.size)
        return _number((right & counted).sum()), _number(counted.sum())
    rows = _along_rows(sample_weight, right)
    if counted is not None:
        rows = rows * counted
    each = right.size // len(right) if counted is None else 1
    return _number((right * rows).sum()), _number(rows.sum() * each)


def _along_rows(sample_weight: Array, x: Array) -> Array:
    """Weights (rows,) that broadcast to x (rows, ...)."""
    return sample_weight.reshape(-1, *[1] * (x.ndim - 1))


def _mean(losses: Array) -> Number:
    return _number(losses.sum(dtype=np.float64) / losses.size)


def _inverse(count: Number) -> Number:
    """1 / count, and 0 where nothing counts."""
    if isinstance(count, numbers.Real):
        return 1.0 / float(count) if count else 0.0
    xp = array_namespace(count)
    return xp.where(count > 0, 1.0 / xp.maximum(count, 1e-300), 0.0)


def _number(found: Any) -> Number:
    """A float; an array on a device is returned as it is."""
    return found if on_device(found) else float(found)


def _fits(shape: tuple[int, ...], wanted: Shape | list[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        b in (None, a) for a, b in zip(shape, wanted, strict=True)
    )

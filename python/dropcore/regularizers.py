"""Regularisers: penalties on a parameter, or on the outputs of a layer.

A layer's ``regularizer=`` applies to its weights: the training loop adds the gradient of the
penalty to that of the loss. `dropcore.nn.ActivityRegularization` behind a layer applies one to its
outputs. The reported loss is that of the data alone, so that it can be compared between
regularisers and with the validation loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import backend_of, dense, to_device
from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_number
from dropcore._base.device import array_namespace, on_device
from dropcore._base.sharing import Share, added, current_share

__all__ = ["L1", "L1L2", "L2", "ActivityRegularizer", "KLSparsity", "Regularizer"]

Array = NDArray[Any]


class Regularizer(Protocol):
    """The methods that training needs of a regulariser."""

    def penalty(self, weight: Array) -> float:
        """The penalty that is added to the loss.

        Parameters
        ----------
        weight : ndarray
            The parameter.

        Returns
        -------
        float
            Not negative.
        """

    def add_gradient(self, weight: Array, gradient: Gradient) -> Gradient:
        """The sum of `gradient` and the gradient of the penalty, in a new array.

        Parameters
        ----------
        weight : ndarray
            The parameter.
        gradient : ndarray or compact gradient
            That of the loss.

        Returns
        -------
        ndarray
            Of the shape and dtype of `weight`.
        """


class ActivityRegularizer(Protocol):
    """The methods that `dropcore.nn.ActivityRegularization` needs of a regulariser."""

    def activity_penalty(self, y: Array) -> float:
        """The penalty of outputs (batch, ...) that is added to the loss of the batch.

        Parameters
        ----------
        y : ndarray, shape (batch, ...)
            Outputs of a layer.

        Returns
        -------
        float
            Not negative.
        """

    def activity_gradient(self, y: Array) -> Array:
        """The gradient of `activity_penalty`, a new array like y.

        Parameters
        ----------
        y : ndarray, shape (batch, ...)
            Outputs of a layer.

        Returns
        -------
        ndarray
            Of the shape and dtype of y.
        """


class _SumOverElements:
    """A penalty that is a sum over the elements of a weight, or of the outputs for a sample."""

    def penalty(self, weight: Array) -> float:
        raise NotImplementedError

    def gradient(self, weight: Array) -> Array:
        """The gradient of `penalty`, a new array like weight.

        Parameters
        ----------
        weight : ndarray
            The parameter.

        Returns
        -------
        ndarray
            Of the shape and dtype of `weight`.
        """
        raise NotImplementedError

    def add_gradient(self, weight: Array, gradient: Gradient) -> Gradient:
        """The sum of `gradient` and the gradient of the penalty, in a new array.

        Parameters
        ----------
        weight : ndarray
            The parameter.
        gradient : ndarray or compact gradient
            That of the loss.

        Returns
        -------
        ndarray
            Of the shape and dtype of `weight`.
        """
        total = self.gradient(weight)
        total += dense(gradient)
        return total

    def activity_penalty(self, y: Array) -> float:
        """The mean over the samples of a batch.

        Parameters
        ----------
        y : ndarray, shape (batch, ...)
            Outputs of a layer.

        Returns
        -------
        float
            The sum over their elements, divided by the number of samples.
        """
        return self.penalty(y) / len(y) if len(y) else 0.0

    @np.errstate(under="ignore")
    def activity_gradient(self, y: Array) -> Array:
        """The gradient of `activity_penalty`.

        Parameters
        ----------
        y : ndarray, shape (batch, ...)
            Outputs of a layer.

        Returns
        -------
        ndarray
            Of the shape and dtype of y.
        """
        gradient = self.gradient(y)
        gradient /= max(len(y), 1)
        return gradient


@dataclass(frozen=True)
class L1(_SumOverElements):
    """strength * sum of abs(w), with the gradient strength * sign(w), which is 0 at 0.

    Parameters
    ----------
    strength : float
        Not negative.

    Raises
    ------
    TypeError, ValueError
        If `strength` is not a number or is out of range.

    References
    ----------
    Tibshirani 1996, "Regression shrinkage and selection via the lasso".
    """

    strength: float

    def __post_init__(self) -> None:
        check_number("L1: strength", self.strength, "[0, inf)")

    def penalty(self, weight: Array) -> float:
        return float(self.strength) * float(abs(_checked(weight)).sum(dtype=np.float64))

    @np.errstate(under="ignore")
    def gradient(self, weight: Array) -> Array:
        weight = _checked(weight)
        signs = array_namespace(weight).sign(weight, out=_empty_like(weight))
        signs *= weight.dtype.type(self.strength)
        return signs


@dataclass(frozen=True)
class L2(_SumOverElements):
    """strength * sum of w^2, with the gradient 2 * strength * w.

    This is Keras' convention. For the same effect lambda in lambda / 2 * ||w||^2, and the
    weight_decay of PyTorch's optimisers, are twice as large.

    Parameters
    ----------
    strength : float
        Not negative.

    Raises
    ------
    TypeError, ValueError
        If `strength` is not a number or is out of range.

    References
    ----------
    Krogh and Hertz 1991, "A simple weight decay can improve generalization".
    """

    strength: float

    def __post_init__(self) -> None:
        check_number("L2: strength", self.strength, "[0, inf)")

    def penalty(self, weight: Array) -> float:
        weight = _checked(weight)
        if weight.dtype.itemsize == 2:
            weight = weight.astype(np.float32)
        return float(self.strength) * backend_of("weight", weight).sum_squares(weight)

    @np.errstate(under="ignore")
    def gradient(self, weight: Array) -> Array:
        weight = _checked(weight)
        factor = weight.dtype.type(2 * self.strength)
        return array_namespace(weight).multiply(weight, factor, out=_empty_like(weight))


@dataclass(frozen=True)
class L1L2(_SumOverElements):
    """The sum of both: l1 * sum of abs(w) + l2 * sum of w^2, the elastic net.

    Parameters
    ----------
    l1, l2 : float
        Strengths, not negative.

    Raises
    ------
    TypeError, ValueError
        If a strength is not a number or is out of range.

    References
    ----------
    Zou and Hastie 2005, "Regularization and variable selection via the elastic net".
    """

    l1: float
    l2: float

    def __post_init__(self) -> None:
        check_number("L1L2: l1", self.l1, "[0, inf)")
        check_number("L1L2: l2", self.l2, "[0, inf)")

    def penalty(self, weight: Array) -> float:
        return L1(self.l1).penalty(weight) + L2(self.l2).penalty(weight)

    @np.errstate(under="ignore")
    def gradient(self, weight: Array) -> Array:
        total = L1(self.l1).gradient(weight)
        total += L2(self.l2).gradient(weight)
        return total


@dataclass(frozen=True)
class KLSparsity:
    """Keep the mean activation of each unit close to a small target.

    The outputs y are in [0, 1], such as those of a sigmoid. m is the mean of a unit over all axes
    but the last, of n numbers::

        penalty = strength * sum over the units of t log(t / m) + (1 - t) log((1 - t) / (1 - m))
        dy      = strength / n * ((1 - t) / (1 - m) - t / m)

    This is the divergence KL(t || m) between two Bernoulli distributions. m is clipped to [1e-7,
    1 - 1e-7], as the divergence is infinite at 0 and 1. The mean is that of the batch, so the
    penalty of a batch is not the mean of the penalties of its parts.

    Parameters
    ----------
    strength : float
        Not negative.
    target : float, default 0.05
        t, in (0, 1).

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or is out of range; in use, if a mean is outside [0, 1]. On
        a GPU, where checking the means would wait for the device, the result is NaN instead.

    References
    ----------
    Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2"; in comparison
    with dropout, Srivastava et al. 2014, table 9.
    """

    strength: float
    target: float = 0.05
    margin: ClassVar[float] = 1e-7

    def __post_init__(self) -> None:
        check_number("KLSparsity: strength", self.strength, "[0, inf)")
        check_number("KLSparsity: target", self.target, "(0, 1)")

    def activity_penalty(self, y: Array) -> float:
        t, m = float(self.target), to_device(self._means(_checked(y)), "cpu")
        divergence = t * np.log(t / m) + (1 - t) * np.log((1 - t) / (1 - m))
        return float(self.strength) * float(divergence.sum())

    @np.errstate(under="ignore")
    def activity_gradient(self, y: Array) -> Array:
        y = _checked(y)
        t, m = float(self.target), self._means(y)
        each = float(self.strength) * y.shape[-1] / max(y.size, 1) * ((1 - t) / (1 - m) - t / m)
        gradient = _empty_like(y)
        gradient[...] = each
        return gradient

    def _means(self, y: Array) -> NDArray[np.float64]:
        xp = array_namespace(y)
        share = current_share()
        if share is not None:
            means = _means_of_batch(y, share)
        elif y.size:
            means = y.mean(axis=tuple(range(y.ndim - 1)), dtype=np.float64)
        else:  # an empty batch has no divergence
            return xp.full(y.shape[-1:], float(self.target))
        if on_device(y):
            inside = (means >= 0) & (means <= 1)
            return xp.where(inside, xp.clip(means, self.margin, 1 - self.margin), np.nan)
        if (means < 0).any() or (means > 1).any():
            bad = means[(means < 0) | (means > 1)][0]
            raise ValueError(
                f"{self!r} takes activations in [0, 1], such as those of a sigmoid, got a unit "
                f"whose mean is {bad:.4g}"
            )
        return np.clip(means, self.margin, 1 - self.margin)


def _means_of_batch(y: Array, share: Share) -> NDArray[np.float64]:
    """The mean of each unit over a batch of which y is a block."""
    sums = to_device(y.sum(axis=tuple(range(y.ndim - 1)), dtype=np.float64), "cpu")
    numbers = np.concatenate([[y.size // max(y.shape[-1], 1)], sums])
    count, *found = share.combined(numbers, added)
    means = np.array(found) / max(count, 1.0)
    return to_device(means, "cuda" if on_device(y) else "cpu")


def _checked(x: Array) -> Array:
    """x, if its dtype is one of real numbers; the gradient of integers would be rounded to 0."""
    array: Array = backend_of("x", x).as_array("regularizer: x", x)
    return array


def _empty_like(x: Array) -> Array:
    return backend_of("x", x).empty(x.shape, x.dtype)

"""Losses and metrics of a batch.

A loss is a function ``loss(outputs, targets) -> (value, doutputs)``: the mean over the batch and
its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LOSSES", "Loss", "accuracy", "check_labels", "softmax_cross_entropy"]

Loss = Callable[[NDArray[Any], NDArray[Any]], tuple[float, NDArray[Any]]]


def softmax_cross_entropy(logits: NDArray[Any], labels: ArrayLike) -> tuple[float, NDArray[Any]]:
    """Cross-entropy of the softmax of `logits` against integer labels.

    With z = logits - max(logits), which changes nothing but keeps exp from overflowing::

        loss     = mean of log(sum(exp(z))) - z[label]
        dlogits  = (softmax(z) - onehot(label)) / number of labels

    Parameters
    ----------
    logits : ndarray of float, shape (..., classes)
    labels : array_like of int, shape (...)
        In [0, classes).

    Returns
    -------
    loss : float
    dlogits : ndarray, shape and dtype of logits

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If a label is out of range, the shapes do not fit or there are no labels.
    """
    labels = check_labels(labels, logits.shape)
    at = labels[..., None]
    z = logits - logits.max(axis=-1, keepdims=True)
    exp = np.exp(z)
    total = exp.sum(axis=-1, keepdims=True)
    losses = np.log(total) - np.take_along_axis(z, at, axis=-1)
    dlogits = exp / total
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, axis=-1) - 1, axis=-1)
    dlogits /= labels.size
    return float(losses.mean(dtype=np.float64)), dlogits


def accuracy(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Fraction of the rows (..., classes) whose largest entry is at the label (...)."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def check_labels(labels: ArrayLike, logits_shape: tuple[int | None, ...]) -> NDArray[np.integer]:
    """`labels` as an array, if they can be the labels of logits of that shape.

    Parameters
    ----------
    labels : array_like of int, shape (...)
    logits_shape : tuple
        (..., classes)

    Raises
    ------
    TypeError, ValueError
        As `softmax_cross_entropy`.
    """
    found = np.asarray(labels)
    *lead, classes = logits_shape
    if found.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers in [0, {classes}), got dtype {found.dtype}")
    if found.shape != tuple(lead):
        raise ValueError(
            f"labels must have shape {tuple(lead)}, one for each row of outputs "
            f"{tuple(logits_shape)}, got {found.shape}"
        )
    if found.size == 0:
        raise ValueError("labels must not be empty")
    low, high = found.min(), found.max()
    if low < 0 or (classes is not None and high >= classes):
        raise ValueError(
            f"labels must be in [0, {classes}), the network's outputs, "
            f"got {low if low < 0 else high}"
        )
    return found


LOSSES: Final[dict[str, Loss]] = {"softmax_cross_entropy": softmax_cross_entropy}

"""Batch and layer normalisation of arrays, and their gradients.

Arrays are (..., features), float32 or float64. Moments are float64 whatever the array is: they are
summed from differences, so that a mean of 10^4 beside a deviation of 1 costs no digits. No result
depends on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore.workspace import empty

__all__ = [
    "batch_moments",
    "batch_normalize",
    "batch_normalize_backward",
    "layer_normalize",
    "layer_normalize_backward",
]

Array = npt.NDArray[Any]
Moments = npt.NDArray[np.float64]


def batch_moments(x: Array) -> tuple[Moments, Moments]:
    """Mean and variance of each feature over all other axes; the variance is the mean square.

    Raises
    ------
    ValueError
        If there are no rows to take them of.
    """
    rows = _matrix(x)
    mean, variance = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    _core.batch_moments(rows, mean, variance)
    return mean, variance


def batch_normalize(
    x: Array, mean: Moments, variance: Moments, gamma: Array, beta: Array, *, epsilon: float
) -> Array:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, all of them (features,)."""
    y = empty(x.shape, x.dtype)
    _core.batch_normalize(_matrix(x), _matrix(y), mean, variance, epsilon, gamma, beta)
    return y


def batch_normalize_backward(
    dy: Array,
    x: Array,
    mean: Moments,
    variance: Moments,
    gamma: Array,
    *,
    epsilon: float,
    input_gradient: bool = True,
) -> tuple[Array | None, Array, Array]:
    """Gradients of `batch_normalize` with the moments of x itself, which depend on x.

    With h = (x - mean) / sqrt(variance + epsilon) and means over all axes but the last::

        dx     = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - h mean(dy h))
        dgamma = sum(dy h)
        dbeta  = sum(dy)

    Returns
    -------
    dx : ndarray, or None without `input_gradient`
    dgamma, dbeta : ndarray (features,)
    """
    expect_gradient(dy, x)
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    dx = empty(x.shape, x.dtype) if input_gradient else None
    if x.size:
        out = None if dx is None else _matrix(dx)
        _core.batch_normalize_back(
            _matrix(x), _matrix(dy), out, mean, variance, epsilon, gamma, dgamma, dbeta
        )
    return dx, dgamma, dbeta


def layer_normalize(
    x: Array, gamma: Array, beta: Array, *, epsilon: float
) -> tuple[Array, Moments, Moments]:
    """y = (x - mean) scale gamma + beta with scale = 1 / sqrt(variance + epsilon) of each row.

    Returns
    -------
    y : ndarray, like x
    mean, scale : float64 ndarray (rows,)
        What the way back needs.
    """
    rows, y = _matrix(x), empty(x.shape, x.dtype)
    mean, scale = np.empty(len(rows)), np.empty(len(rows))
    _core.layer_normalize(rows, _matrix(y), mean, scale, epsilon, gamma, beta)
    return y, mean, scale


def layer_normalize_backward(
    dy: Array, x: Array, mean: Moments, scale: Moments, gamma: Array
) -> tuple[Array, Array, Array]:
    """Gradients of `layer_normalize`.

    With h = (x - mean) scale, g = dy gamma, and means over the last axis::

        dx     = scale (g - mean(g) - h mean(g h))
        dgamma = sum(dy h)      over all other axes
        dbeta  = sum(dy)

    Returns
    -------
    dx : ndarray
    dgamma, dbeta : ndarray (features,)
    """
    expect_gradient(dy, x)
    dgamma, dbeta = np.zeros_like(gamma), np.zeros_like(gamma)
    dx = empty(x.shape, x.dtype)
    if x.size:
        _core.layer_normalize_back(
            _matrix(x), _matrix(dy), _matrix(dx), mean, scale, gamma, dgamma, dbeta
        )
    return dx, dgamma, dbeta


def expect_gradient(dy: Array, x: Array) -> None:
    if dy.shape != x.shape or dy.dtype != x.dtype:
        raise ValueError(
            f"dy must have the shape of the output, {x.shape} of {x.dtype}, got {dy.shape} of "
            f"{dy.dtype}"
        )


def _matrix(x: Array) -> Array:
    """Contiguous (rows, features)."""
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])

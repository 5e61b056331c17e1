"""Batch and layer normalisation of arrays, and their gradients.

Arrays are (..., features), float32 or float64. Moments are always float64. They are summed from
differences, so that no digits are lost where the mean is much larger than the deviation. No result
depends on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.checks import check_gradient
from dropcore._base.device import array_namespace

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
        If there are no rows.
    """
    backend, rows = _matrices(x)
    mean, variance = (backend.empty(rows.shape[1:], np.float64) for _ in range(2))
    backend.batch_moments(rows, mean, variance)
    return mean, variance


def batch_normalize(
    x: Array, mean: Moments, variance: Moments, gamma: Array, beta: Array, *, epsilon: float
) -> Array:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, all of them (features,)."""
    backend, rows = _matrices(x)
    y = backend.empty(rows.shape, x.dtype)
    backend.batch_normalize(rows, y, mean, variance, epsilon, gamma, beta)
    return y.reshape(x.shape)


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
    check_gradient(dy, x.shape, x.dtype)
    backend, rows, gradient = _matrices(x, dy)
    dgamma, dbeta = _sums(gamma, x), _sums(gamma, x)
    dx = backend.empty(rows.shape, x.dtype) if input_gradient else None
    if x.size:
        backend.batch_normalize_back(
            rows, gradient, dx, mean, variance, epsilon, gamma, dgamma, dbeta
        )
    return None if dx is None else dx.reshape(x.shape), dgamma, dbeta


def layer_normalize(
    x: Array, gamma: Array, beta: Array, *, epsilon: float
) -> tuple[Array, Moments, Moments]:
    """y = (x - mean) scale gamma + beta with scale = 1 / sqrt(variance + epsilon) of each row.

    Returns
    -------
    y : ndarray, like x
    mean, scale : float64 ndarray (rows,)
        For the backward pass.
    """
    backend, rows = _matrices(x)
    y = backend.empty(rows.shape, x.dtype)
    mean, scale = (backend.empty(rows.shape[:1], np.float64) for _ in range(2))
    backend.layer_normalize(rows, y, mean, scale, epsilon, gamma, beta)
    return y.reshape(x.shape), mean, scale


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
    check_gradient(dy, x.shape, x.dtype)
    backend, rows, gradient = _matrices(x, dy)
    dgamma, dbeta = _sums(gamma, x), _sums(gamma, x)
    dx = backend.empty(rows.shape, x.dtype)
    if x.size:
        backend.layer_normalize_back(rows, gradient, dx, mean, scale, gamma, dgamma, dbeta)
    return dx.reshape(x.shape), dgamma, dbeta


def _matrices(*arrays: Array) -> tuple[Any, ...]:
    """The backend of some arrays, and the arrays as contiguous (rows, features)."""
    backend = backend_of("x", arrays[0])
    return backend, *(
        backend.contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in arrays
    )


def _sums(gamma: Array, x: Array) -> Array:
    """An array for sums over the rows of x: zeros if there are no rows."""
    if x.size:
        return backend_of("gamma", gamma).empty(gamma.shape, gamma.dtype)
    return array_namespace(gamma).zeros_like(gamma)

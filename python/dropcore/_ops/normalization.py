"""Batch and layer normalisation of arrays, and their gradients.

Arrays are (..., features), float32 or float64. Moments are always float64. They are summed from
differences, so that no digits are lost where the mean is much larger than the deviation. No result
depends on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, to_device
from dropcore._base.checks import check_gradient
from dropcore._base.device import array_namespace, on_device
from dropcore._base.sharing import Numbers, Share, added

__all__ = [
    "Moments",
    "batch_moments",
    "batch_normalize",
    "batch_normalize_backward",
    "layer_normalize",
    "layer_normalize_backward",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of each feature over all rows of a batch.

    Attributes
    ----------
    mean, variance : float64 ndarray (features,)
        The variance is the mean square.
    rows : int
        Of the batch, also where another process has some of them; 0 if there are none.
    """

    mean: Numbers
    variance: Numbers
    rows: int


def batch_moments(x: Array, share: Share | None = None) -> Moments:
    """Moments over all axes but the last, and over all blocks of the batch if x is one of them."""
    backend, rows = _matrices(x)
    mean, variance = (array_namespace(x).zeros(rows.shape[1:], np.float64) for _ in range(2))
    if x.size:
        backend.batch_moments(rows, mean, variance)
    found = Moments(mean, variance, len(rows))
    return found if share is None else _of_all_blocks(found, share)


def _of_all_blocks(own: Moments, share: Share) -> Moments:
    where = "cuda" if on_device(own.mean) else "cpu"
    numbers = np.concatenate(
        [[own.rows], to_device(own.mean, "cpu"), to_device(own.variance, "cpu") * own.rows]
    )
    found = share.combined(numbers, _merged)
    rows, (mean, squares) = int(found[0]), found[1:].reshape(2, -1)
    variance = squares / max(rows, 1)
    return Moments(to_device(mean.copy(), where), to_device(variance, where), rows)


def _merged(a: Numbers, b: Numbers) -> Numbers:
    """Numbers of rows, means and sums of squares of two groups as those of both.

    Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance".
    """
    if not a[0] or not b[0]:
        return b if not a[0] else a
    rows, part = a[0] + b[0], b[0] / (a[0] + b[0])
    (mean, squares), (other, other_squares) = a[1:].reshape(2, -1), b[1:].reshape(2, -1)
    difference = other - mean
    squares = squares + other_squares + difference * difference * (part * a[0])
    return np.concatenate([[rows], mean + difference * part, squares])


def batch_normalize(
    x: Array, mean: Numbers, variance: Numbers, gamma: Array, beta: Array, *, epsilon: float
) -> Array:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, all of them (features,)."""
    backend, rows = _matrices(x)
    y = backend.empty(rows.shape, x.dtype)
    backend.batch_normalize(rows, y, mean, variance, epsilon, gamma, beta)
    return y.reshape(x.shape)


def batch_normalize_backward(
    dy: Array,
    x: Array,
    moments: Moments,
    gamma: Array,
    *,
    epsilon: float,
    input_gradient: bool = True,
    share: Share | None = None,
) -> tuple[Array | None, Array, Array]:
    """Gradients of `batch_normalize` with the moments of the batch itself, which depend on x.

    With h = (x - mean) / sqrt(variance + epsilon) and means over all rows of the batch::

        dx     = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - h mean(dy h))
        dgamma = sum(dy h)
        dbeta  = sum(dy)

    Returns
    -------
    dx : ndarray, or None without `input_gradient`
    dgamma, dbeta : ndarray (features,)
        Of the rows of x.
    """
    check_gradient(dy, x.shape, x.dtype)
    backend, rows, gradient = _matrices(x, dy)
    mean, variance = moments.mean, moments.variance
    own = array_namespace(x).zeros(2 * x.shape[-1], np.float64)
    if x.size:
        backend.batch_sums(rows, gradient, mean, variance, epsilon, own)
    dbeta, dgamma = own.astype(gamma.dtype).reshape(2, -1)
    if not input_gradient:
        return None, dgamma, dbeta
    sums = own
    if share is not None:
        found = share.combined(to_device(own, "cpu"), added)
        sums = to_device(found, "cuda" if on_device(own) else "cpu")
    dx = backend.empty(rows.shape, x.dtype)
    if x.size:
        backend.batch_normalize_back(
            rows, gradient, dx, mean, variance, epsilon, gamma, sums, float(moments.rows)
        )
    return dx.reshape(x.shape), dgamma, dbeta


def layer_normalize(
    x: Array, gamma: Array, beta: Array, *, epsilon: float
) -> tuple[Array, Numbers, Numbers]:
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
    dy: Array, x: Array, mean: Numbers, scale: Numbers, gamma: Array
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

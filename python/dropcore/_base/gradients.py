"""Gradients in the forms that an optimiser takes faster than an array of the weight's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore._backends.memory import empty
from dropcore._base.device import cuda_backend

__all__ = ["BlockGradient", "Gradient", "ProductGradient", "dense"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class BlockGradient:
    """The gradient of a weight between units that a mask dropped: a block, and zero elsewhere.

    A unit that is dropped for the whole batch has weights whose gradient is exactly zero. The
    product of what lives is small, and the optimiser takes it as it is: nothing of the size of the
    weight is made. ``np.asarray(gradient)`` gives the whole array.

    Attributes
    ----------
    values : ndarray (live rows, live columns)
    rows, columns : int64 arrays, sorted
        Where `values` belongs.
    shape : (int, int), or (int,) of a bias, which is one row
        Of the parameter.
    """

    values: Array
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def row_positions(self) -> npt.NDArray[np.int64]:
        """For each row of the weight its row in `values`, or -1."""
        at = np.full(math.prod(self.shape[:-1]), -1, np.int64)
        at[self.rows] = np.arange(len(self.rows))
        return at

    def dense(self) -> Array:
        """The whole array, where `values` is."""
        if not isinstance(self.values, np.ndarray):
            flat = (math.prod(self.shape[:-1]), self.shape[-1])
            return (
                cuda_backend()
                .scatter(self.values, self.rows, self.columns, flat)
                .reshape(self.shape)
            )
        whole = np.zeros(self.shape, self.dtype)
        whole.reshape(-1, self.shape[-1])[np.ix_(self.rows, self.columns)] = self.values
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(
                "a BlockGradient has no array of the weight's shape: one has to be made"
            )
        whole = self.dense()
        return whole if dtype is None else whole.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class ProductGradient:
    """The gradient x.T @ dz of a weight, before it is worked out.

    An optimiser multiplies it a block at a time and updates the weights while the block is in the
    cache: the gradient as a whole is never stored. ``np.asarray(gradient)`` works it out.

    Attributes
    ----------
    x : ndarray (rows, in)
    dz : ndarray (rows, out)
    """

    x: Array
    dz: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[1], self.dz.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    def dense(self) -> Array:
        """The whole array, where x and dz are."""
        if not isinstance(self.x, np.ndarray):
            cuda = cuda_backend()
            there: Array = cuda.empty(self.shape, self.dtype)
            cuda.product(there, cuda.Factor(self.x), cuda.Factor(self.dz), transpose_a=True)
            return there
        whole = empty(self.shape, self.dtype)
        _core.product(whole, _core.Factor(self.x), _core.Factor(self.dz), transpose_a=True)
        return whole

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a ProductGradient has no array yet: one has to be made")
        whole = self.dense()
        return whole if dtype is None else whole.astype(dtype, copy=False)


Gradient = Array | BlockGradient | ProductGradient
"""What a layer gives for a parameter, and an optimiser takes."""


def dense(gradient: Gradient) -> Array:
    """A gradient as an array, where it is."""
    return gradient.dense() if isinstance(gradient, BlockGradient | ProductGradient) else gradient

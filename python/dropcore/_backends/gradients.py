"""Gradients in the forms that an optimiser takes faster than an array of the weight's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore._backends.memory import empty

__all__ = ["BlockGradient", "Gradient", "ProductGradient"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class BlockGradient:
    """Gradient of a weight when whole units are dropped: a block of the kept rows and columns.

    Outside the block the gradient is exactly zero. An optimiser applies the block directly, so
    that no array of the shape of the weight is needed. ``np.asarray(gradient)`` returns one.

    Attributes
    ----------
    values : ndarray (kept rows, kept columns)
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
        """The whole gradient as a NumPy array."""
        whole = np.empty(self.shape, self.dtype)
        self.write(whole)
        return whole

    def write(self, out: Array) -> None:
        """Write the whole gradient into a contiguous array of its shape."""
        out[...] = 0
        rows = out.reshape(math.prod(self.shape[:-1]), self.shape[-1])
        rows[np.ix_(self.rows, self.columns)] = self.values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a BlockGradient has no array of its own: one has to be computed")
        whole = self.dense()
        return whole if dtype is None else whole.astype(dtype, copy=False)


@dataclass(frozen=True, eq=False)
class ProductGradient:
    """Gradient x.T @ dz of a weight, not yet computed.

    An optimiser computes it block by block and updates the weights while a block is in the cache,
    so that the whole gradient is never stored. ``np.asarray(gradient)`` computes it.

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
        """The whole gradient as a NumPy array."""
        whole = empty(self.shape, self.dtype)
        self.write(whole)
        return whole

    def write(self, out: Array) -> None:
        """Write the whole gradient into a contiguous array of its shape."""
        _core.product(out, _core.Factor(self.x), _core.Factor(self.dz), transpose_a=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a ProductGradient has no array of its own: one has to be computed")
        whole = self.dense()
        return whole if dtype is None else whole.astype(dtype, copy=False)


Gradient = Array | BlockGradient | ProductGradient
"""Gradient of a parameter, in the forms that an optimiser accepts."""

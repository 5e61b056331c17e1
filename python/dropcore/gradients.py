"""Gradients that are zero by construction for all but some rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Gradient", "LiveBlock"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class LiveBlock:
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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a LiveBlock has no array of the weight's shape: one has to be made")
        whole = np.zeros(self.shape, self.dtype if dtype is None else dtype)
        whole.reshape(-1, self.shape[-1])[np.ix_(self.rows, self.columns)] = self.values
        return whole


Gradient = Array | LiveBlock
"""What a layer gives for a parameter, and an optimiser takes."""

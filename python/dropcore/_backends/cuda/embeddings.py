"""Lookup of rows of a weight, and the gradient of the weight."""

from __future__ import annotations

import numpy as np

from dropcore._backends.cuda.kernels import (
    Array,
    blocks_for,
    contiguous,
    empty,
    int64s,
    launch,
    library,
    ptr,
)
from dropcore._backends.gradients import BlockGradient


def take_rows(weight: Array, indices: Array, padding: int | None) -> Array:
    """weight[indices], with zeros for the padding.

    An index out of range gives a row of NaN: checking for one would synchronise with the device.
    """
    weight, indices = contiguous(weight), _indices(indices)
    y = empty((*indices.shape, weight.shape[1]), weight.dtype)
    if y.size:
        launch(weight, "embedding", "take_rows", blocks_for(y.size), ptr(weight),
               *int64s(weight.shape), ptr(indices), *int64s((indices.size, _padding(padding))),
               ptr(y))  # fmt: skip
    return y


def add_rows(
    dy: Array, indices: Array, padding: int | None, shape: tuple[int, int]
) -> BlockGradient:
    """The sum of the rows of dy (indices.size, N) for each index, in the order of the batch.

    The number of distinct indices is not known without synchronising, so the block has a row for
    every index of the batch. Of equal indices the first has the sum and the others are zero. The
    padding and indices out of range come last, as index `shape[0]`, and are zero.
    """
    xp = library()
    indices, dy = _indices(indices), contiguous(dy)
    n, (rows, columns) = indices.size, shape
    keys, starts = (empty((n,), np.int64) for _ in range(2))
    sums = empty((n, columns), dy.dtype)
    every_column = xp.arange(columns, dtype=np.int64)
    if n == 0:
        return BlockGradient(sums, keys, every_column, shape)
    launch(indices, "indices", "row_keys", blocks_for(n), ptr(indices),
           *int64s((n, rows, _padding(padding))), ptr(keys))  # fmt: skip
    order = xp.argsort(keys)  # CuPy's is stable
    keys = keys[order]
    launch(keys, "indices", "run_starts", blocks_for(n), ptr(keys), np.int64(n), ptr(starts))
    launch(dy, "embedding", "sum_pieces", blocks_for(sums.size), ptr(dy),
           *int64s((rows, columns)), ptr(keys), ptr(order), ptr(starts), np.int64(n),
           ptr(sums))  # fmt: skip
    launch(dy, "embedding", "add_pieces", blocks_for(sums.size), np.int64(columns), ptr(starts),
           np.int64(n), ptr(sums))  # fmt: skip
    return BlockGradient(sums, keys, every_column, shape)


def _indices(indices: Array) -> Array:
    return contiguous(indices if indices.dtype == np.int64 else indices.astype(np.int64))


def _padding(padding: int | None) -> int:
    return -1 if padding is None else padding

"""Rows of a weight by index, and the gradient of the weight."""

from __future__ import annotations

import numpy as np

from dropcore._backends.cuda.launching import (
    Array,
    at,
    blocks_for,
    contiguous,
    empty,
    launch,
    library,
    numbers,
)
from dropcore._backends.gradients import BlockGradient


def take_rows(weight: Array, indices: Array, padding: int | None) -> Array:
    """weight[indices], with zeros for the padding.

    A row that is not there is NaN: to find out whether there are any would be to wait.
    """
    weight, indices = contiguous(weight), _indices(indices)
    y = empty((*indices.shape, weight.shape[1]), weight.dtype)
    if y.size:
        launch(weight, "embedding", "take_rows", blocks_for(y.size), at(weight),
               *numbers(weight.shape), at(indices), *numbers((indices.size, _padding(padding))),
               at(y))  # fmt: skip
    return y


def add_rows(
    dy: Array, indices: Array, padding: int | None, shape: tuple[int, int]
) -> BlockGradient:
    """The sum of the rows of dy (indices.size, N) for each index, in the order of the batch.

    How many different ones there are is not known without waiting: the block has a row for each
    index of the batch. Of equal ones the first has the sum and the others are zero; the padding and
    indices of no row come last, as index `shape[0]`, and are zero.
    """
    xp = library()
    indices, dy = _indices(indices), contiguous(dy)
    n, (rows, columns) = indices.size, shape
    keys, starts = (empty((n,), np.int64) for _ in range(2))
    sums = empty((n, columns), dy.dtype)
    every_column = xp.arange(columns, dtype=np.int64)
    if n == 0:
        return BlockGradient(sums, keys, every_column, shape)
    launch(indices, "indices", "row_keys", blocks_for(n), at(indices),
           *numbers((n, rows, _padding(padding))), at(keys))  # fmt: skip
    order = xp.argsort(keys)  # CuPy's is stable
    keys = keys[order]
    launch(keys, "indices", "run_starts", blocks_for(n), at(keys), np.int64(n), at(starts))
    launch(dy, "embedding", "sum_pieces", blocks_for(sums.size), at(dy),
           *numbers((rows, columns)), at(keys), at(order), at(starts), np.int64(n),
           at(sums))  # fmt: skip
    launch(dy, "embedding", "add_pieces", blocks_for(sums.size), np.int64(columns), at(starts),
           np.int64(n), at(sums))  # fmt: skip
    return BlockGradient(sums, keys, every_column, shape)


def _indices(indices: Array) -> Array:
    return contiguous(indices if indices.dtype == np.int64 else indices.astype(np.int64))


def _padding(padding: int | None) -> int:
    return -1 if padding is None else padding

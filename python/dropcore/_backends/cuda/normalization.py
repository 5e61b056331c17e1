"""Batch and layer normalisation of CuPy arrays; the functions are those of the core."""

from __future__ import annotations

import numpy as np

from dropcore._backends.cuda.kernels import (
    WARP,
    Array,
    blocks_for,
    empty,
    int64s,
    launch,
    ptr,
    threads_per_row,
)

MODULE = "normalization"
ROWS_PER_CHUNK = 64  # at least
CHUNKS = 256  # at most
TASKS = 2048  # blocks, approximately at most


def _cut(rows: int, columns: int) -> tuple[int, int, int]:
    """Rows of a chunk, chunks, and tiles of columns, which depend on the shape alone.

    So sums are always added in the same order.
    """
    tiles = -(-columns // WARP)
    wanted = max(1, min(-(-rows // ROWS_PER_CHUNK), CHUNKS, -(-TASKS // tiles)))
    chunk = -(-rows // wanted)
    return chunk, -(-rows // chunk), tiles


def batch_moments(x: Array, mean: Array, variance: Array) -> None:
    """The mean and the (biased) variance of the columns of x, in float64."""
    rows, columns = x.shape
    if x.size == 0:
        raise ValueError(f"there are no moments of {rows} rows of {columns} columns")
    chunk, chunks, tiles = _cut(rows, columns)
    sums = empty((chunks, columns, 2), np.float64)
    launch(x, MODULE, "moment_sums", tiles * chunks, ptr(x), *int64s((rows, columns, chunk)),
           ptr(sums))  # fmt: skip
    launch(x, MODULE, "moments", tiles, ptr(sums), np.int64(chunks), ptr(x),
           *int64s((rows, columns)), ptr(mean), ptr(variance))  # fmt: skip


def batch_normalize(
    x: Array, y: Array, mean: Array, variance: Array, epsilon: float, gamma: Array, beta: Array
) -> None:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta by columns; moments in float64."""
    if x.size:
        chunk, chunks, tiles = _cut(*x.shape)
        launch(x, MODULE, "map_columns", tiles * chunks, ptr(x), ptr(y),
               *int64s(x.shape, (chunk,)), ptr(mean), ptr(variance), np.float64(epsilon),
               ptr(gamma), ptr(beta))  # fmt: skip


def batch_sums(
    x: Array, dy: Array, mean: Array, variance: Array, epsilon: float, sums: Array
) -> None:
    """Sums over the rows, (2, columns) in float64: of dy, and of dy (x - mean) / deviation."""
    rows, columns = x.shape
    if rows == 0:
        raise ValueError("there is no gradient of a batch of no rows")
    chunk, chunks, tiles = _cut(rows, columns)
    parts = empty((chunks, columns, 2), np.float64)
    launch(x, MODULE, "batch_sums", tiles * chunks, ptr(x), ptr(dy),
           *int64s((rows, columns, chunk)), ptr(mean), ptr(parts))  # fmt: skip
    launch(x, MODULE, "batch_sums_added", tiles, ptr(parts), *int64s((chunks, columns)), ptr(mean),
           ptr(variance), np.float64(epsilon), ptr(sums))  # fmt: skip


def batch_normalize_back(
    x: Array, dy: Array, dx: Array, mean: Array, variance: Array, epsilon: float, gamma: Array,
    sums: Array, count: float,
) -> None:  # fmt: skip
    """dx = gamma scale (dy - sums[0] / count - h sums[1] / count), with h = (x - mean) scale.

    The moments and the sums are those of the whole batch, of `count` rows, of which x holds some.
    """
    chunk, chunks, tiles = _cut(*x.shape)
    launch(x, MODULE, "map_columns_back", tiles * chunks, ptr(x), ptr(dy), ptr(dx),
           *int64s(x.shape, (chunk,)), ptr(mean), ptr(variance), np.float64(epsilon), ptr(gamma),
           ptr(sums), np.float64(count))  # fmt: skip


def layer_normalize(
    x: Array, y: Array, mean: Array, scale: Array, epsilon: float, gamma: Array, beta: Array
) -> None:
    """y = (x - mean) scale gamma + beta by rows; writes mean and scale of each row, in float64."""
    if x.size:
        width = threads_per_row(x.shape[1])
        launch(x, MODULE, "normalize_rows", blocks_for(x.shape[0] * width), ptr(x), ptr(y),
               *int64s(x.shape), np.int32(width), np.float64(epsilon), ptr(gamma), ptr(beta),
               ptr(mean), ptr(scale))  # fmt: skip


def layer_normalize_back(
    x: Array, dy: Array, dx: Array, mean: Array, scale: Array, gamma: Array, dgamma: Array,
    dbeta: Array,
) -> None:  # fmt: skip
    """The gradients, from the mean and scale that layer_normalize wrote."""
    rows, columns = x.shape
    if x.size == 0:
        raise ValueError("there is no gradient of a batch of nothing")
    width = threads_per_row(columns)
    launch(x, MODULE, "normalize_rows_back", blocks_for(rows * width), ptr(x), ptr(dy), ptr(dx),
           *int64s((rows, columns)), np.int32(width), ptr(mean), ptr(scale),
           ptr(gamma))  # fmt: skip
    chunk, chunks, tiles = _cut(rows, columns)
    sums = empty((chunks, columns, 2), np.float64)
    launch(x, MODULE, "layer_sums", tiles * chunks, ptr(x), ptr(dy),
           *int64s((rows, columns, chunk)), ptr(mean), ptr(scale), ptr(sums))  # fmt: skip
    launch(x, MODULE, "layer_gradients", tiles, ptr(sums), *int64s((chunks, columns)), ptr(dgamma),
           ptr(dbeta))  # fmt: skip

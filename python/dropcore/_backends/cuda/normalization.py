"""Batch and layer normalisation of CuPy arrays; what is said of the core's functions holds here."""

from __future__ import annotations

import numpy as np

from dropcore._backends.cuda.launching import (
    WARP,
    Array,
    at,
    blocks_for,
    empty,
    launch,
    numbers,
    threads_a_row,
)

MODULE = "normalization"
ROWS_A_CHUNK, CHUNKS, TASKS = 64, 256, 2048  # at least; at most; about as many blocks at most


def _cut(rows: int, columns: int) -> tuple[int, int, int]:
    """Rows of a chunk, chunks, and tiles of columns: of the shape alone, for sums in one order."""
    tiles = -(-columns // WARP)
    wanted = max(1, min(-(-rows // ROWS_A_CHUNK), CHUNKS, -(-TASKS // tiles)))
    chunk = -(-rows // wanted)
    return chunk, -(-rows // chunk), tiles


def batch_moments(x: Array, mean: Array, variance: Array) -> None:
    """Of the columns of x, in float64; the variance is the mean square (biased)."""
    rows, columns = x.shape
    if x.size == 0:
        raise ValueError(f"there are no moments of {rows} rows of {columns} columns")
    chunk, chunks, tiles = _cut(rows, columns)
    sums = empty((chunks, columns, 2), np.float64)
    launch(x, MODULE, "moment_sums", tiles * chunks, at(x), *numbers((rows, columns, chunk)),
           at(sums))  # fmt: skip
    launch(x, MODULE, "moments", tiles, at(sums), np.int64(chunks), at(x),
           *numbers((rows, columns)), at(mean), at(variance))  # fmt: skip


def batch_normalize(
    x: Array, y: Array, mean: Array, variance: Array, epsilon: float, gamma: Array, beta: Array
) -> None:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta by columns; moments in float64."""
    if x.size:
        chunk, chunks, tiles = _cut(*x.shape)
        launch(x, MODULE, "map_columns", tiles * chunks, at(x), at(y),
               *numbers(x.shape, (chunk,)), at(mean), at(variance), np.float64(epsilon), at(gamma),
               at(beta))  # fmt: skip


def batch_normalize_back(
    x: Array, dy: Array, dx: Array | None, mean: Array, variance: Array, epsilon: float,
    gamma: Array, dgamma: Array, dbeta: Array,
) -> None:  # fmt: skip
    """The gradients, where mean and variance are those of x itself. dx may be None."""
    rows, columns = x.shape
    if x.size == 0:
        raise ValueError("there is no gradient of a batch of nothing")
    chunk, chunks, tiles = _cut(rows, columns)
    sums = empty((chunks, columns, 2), np.float64)
    maps = empty((3, columns), x.dtype)
    shape = numbers((rows, columns, chunk))
    launch(x, MODULE, "batch_sums", tiles * chunks, at(x), at(dy), *shape, at(mean), at(sums))
    launch(
        x, MODULE, "batch_gradients", tiles, at(sums), *numbers((chunks, rows, columns)), at(mean),
        at(variance), np.float64(epsilon), at(gamma), at(dgamma), at(dbeta), at(maps),
    )  # fmt: skip
    if dx is not None:
        launch(x, MODULE, "map_columns_back", tiles * chunks, at(x), at(dy), at(dx), *shape,
               at(mean), at(maps))  # fmt: skip


def layer_normalize(
    x: Array, y: Array, mean: Array, scale: Array, epsilon: float, gamma: Array, beta: Array
) -> None:
    """y = (x - mean) scale gamma + beta by rows; mean and scale, of each row, in float64."""
    if x.size:
        width = threads_a_row(x.shape[1])
        launch(x, MODULE, "normalize_rows", blocks_for(x.shape[0] * width), at(x), at(y),
               *numbers(x.shape), np.int32(width), np.float64(epsilon), at(gamma), at(beta),
               at(mean), at(scale))  # fmt: skip


def layer_normalize_back(
    x: Array, dy: Array, dx: Array, mean: Array, scale: Array, gamma: Array, dgamma: Array,
    dbeta: Array,
) -> None:  # fmt: skip
    """The gradients, from the mean and scale that layer_normalize gave."""
    rows, columns = x.shape
    if x.size == 0:
        raise ValueError("there is no gradient of a batch of nothing")
    width = threads_a_row(columns)
    launch(x, MODULE, "normalize_rows_back", blocks_for(rows * width), at(x), at(dy), at(dx),
           *numbers((rows, columns)), np.int32(width), at(mean), at(scale), at(gamma))  # fmt: skip
    chunk, chunks, tiles = _cut(rows, columns)
    sums = empty((chunks, columns, 2), np.float64)
    launch(x, MODULE, "layer_sums", tiles * chunks, at(x), at(dy),
           *numbers((rows, columns, chunk)), at(mean), at(scale), at(sums))  # fmt: skip
    launch(x, MODULE, "layer_gradients", tiles, at(sums), *numbers((chunks, columns)), at(dgamma),
           at(dbeta))  # fmt: skip

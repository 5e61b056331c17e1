"""Products of CuPy arrays with masks: cuBLAS, with passes of ours before and behind."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from dropcore._backends.cuda.arrays import resident
from dropcore._backends.cuda.blas import multiply
from dropcore._backends.cuda.endings import finished, unfinished
from dropcore._backends.cuda.launching import (
    WARP,
    Array,
    at,
    blocks_for,
    contiguous,
    draw,
    empty,
    launch,
    library,
    numbers,
    real_of,
)
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore._base.decisions import Decisions
from dropcore.key import Key

CHUNKS = 64  # of rows whose columns are summed up on their own, at most


class Factor:
    """A factor of a product, with its mask applied and of what lives only."""

    def __init__(
        self,
        array: Array,
        rows: Array | None = None,
        columns: Array | None = None,
        bits: Array | None = None,
        bit_strides: tuple[int, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        if bits is not None:
            assert bit_strides in (None, (array.shape[1], 1))
            array = finished(contiguous(array), None, bits=bits, scale=scale, out=None)
            scale = 1.0
        if rows is not None or columns is not None:
            array = compact(array, rows, columns, scale)
        elif scale != 1.0:
            array = array * array.dtype.type(scale)
        self.array = array


def product(
    out: Array,
    a: Factor,
    b: Factor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array | None = None,
    relu: bool = False,
    bits: Array | None = None,
    scale: float = 1.0,
) -> None:
    """out = act(a @ b + bias) ∘ mask, the end in one pass over what cuBLAS gives."""
    left = a.array.T if transpose_a else a.array
    right = b.array.T if transpose_b else b.array
    multiply(left, right, out)
    if bias is not None or relu or bits is not None or scale != 1.0:
        finished(out, bias, kind="relu" if relu else None, bits=bits, scale=scale, out=out)


def unfinish(dz: Array | None, y: Array | None, dy: Array, scale: float, dbias: Array) -> None:
    """dz = dy * scale where y is not 0 (everywhere without y), and its sums of columns in dbias."""
    if dz is not None:
        unfinished(dy, y, kind=None if y is None else "relu", scale=scale, out=dz)
    sum_columns(dy if dz is None else dz, dbias)


def sum_columns(x: Array, out: Array) -> None:
    """out = the sums of the columns of contiguous (rows, columns), of its dtype."""
    rows, columns = x.shape
    if x.size == 0:
        out[...] = 0
        return
    chunk = max(64, -(-rows // CHUNKS))
    chunks = -(-rows // chunk)
    sums = empty((chunks, columns), real_of(x.dtype))
    launch(x, "columns", "sum_columns", -(-columns // WARP) * chunks, at(x),
           *numbers((rows, columns, chunk)), at(sums))  # fmt: skip
    launch(x, "columns", "add_chunks", blocks_for(columns), at(sums),
           *numbers((chunks, columns)), at(out))  # fmt: skip


def positions(units: Array, size: int) -> Array:
    """For each of `size` units its place among the sorted `units`, its first one, or -1."""
    units, places = library().asarray(units), empty((size,), np.int64)
    if size:
        launch(places, "indices", "find_units", blocks_for(size), at(units),
               *numbers((len(units), size)), at(places))  # fmt: skip
    return places


def compact(x: Array, rows: Array | None, columns: Array | None, scale: float = 1.0) -> Array:
    """x[rows][:, columns] * scale of a matrix; None means all of them."""
    x = contiguous(x)
    shape = tuple(n if u is None else len(u) for n, u in zip(x.shape, (rows, columns), strict=True))
    out = empty(shape, x.dtype)
    if out.size:
        launch(
            x, "live", "select_live", blocks_for(out.size), at(x), np.int64(x.shape[1]),
            at(rows), at(columns), *numbers(shape), real_of(x.dtype)(scale), at(out),
        )  # fmt: skip
    return out


def scatter(x: Array, rows: Array | None, columns: Array | None, shape: tuple[int, int]) -> Array:
    """The way back from `compact`: zero but for what lives."""
    x = contiguous(x)
    out = empty(shape, x.dtype)
    places = [
        None if units is None else positions(units, n)
        for n, units in zip(shape, (rows, columns), strict=True)
    ]
    if out.size:
        launch(
            x, "live", "scatter_live", blocks_for(out.size), at(x),
            np.int64(x.shape[1]), at(places[0]), at(places[1]), *numbers(shape), at(out),
        )  # fmt: skip
    return out


def dense(gradient: BlockGradient | ProductGradient) -> Array:
    """A gradient as an array of the shape of its weight."""
    if isinstance(gradient, BlockGradient):
        flat = math.prod(gradient.shape[:-1]), gradient.shape[-1]
        return scatter(gradient.values, gradient.rows, gradient.columns, flat).reshape(
            gradient.shape
        )
    whole = empty(gradient.shape, gradient.dtype)
    product(whole, Factor(gradient.x), Factor(gradient.dz), transpose_a=True)
    return whole


def dropconnect_matmul(which: str, out: Array, a: Array, b: Array, mask: Decisions) -> None:
    """One of the three products with a (B, K, N) weight mask; adds to contiguous out.

    "y": a = x (B, K), b = w (K, N).  "dw": a = x, b = dz (B, N).  "dx": a = dz, b = w.
    """
    samples, k, n = mask.shape
    if samples * k * n == 0:
        return
    bits = None if mask.bits is None else resident(mask, "bits")
    warps = {"y": samples * -(-n // WARP), "dw": -(-k * n // WARP), "dx": samples * k}[which]
    launch(
        out, "connect", f"product_{which}", blocks_for(warps * WARP), at(out), at(a),
        at(b), *numbers((samples, k, n)), at(bits),
        *draw(mask.key or Key(0), mask.domain, cast(int, mask.threshold), mask.offset),
    )  # fmt: skip

"""Products of CuPy arrays with masks: cuBLAS, with kernels for masks and epilogues around it."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from dropcore._backends.cuda.arrays import cached_on
from dropcore._backends.cuda.blas import multiply
from dropcore._backends.cuda.epilogue import (
    Bits,
    apply_epilogue,
    apply_epilogue_backward,
)
from dropcore._backends.cuda.kernels import (
    WARP,
    Array,
    blocks_for,
    contiguous,
    draw,
    empty,
    int64s,
    launch,
    library,
    ptr,
    real_of,
)
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore._base.decisions import Decisions
from dropcore.key import Key

CHUNKS = 64  # of rows whose columns are summed separately, at most


class Factor:
    """A factor of a product: its mask applied, and only the kept rows and columns."""

    def __init__(
        self,
        array: Array,
        rows: Array | None = None,
        columns: Array | None = None,
        bits: Bits = None,
        bit_strides: tuple[int, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        if bits is not None:
            assert bit_strides in (None, (array.shape[1], 1))
            array = apply_epilogue(contiguous(array), bits=bits, scale=scale)
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
    bits: Bits = None,
    scale: float = 1.0,
    activation: str = "identity",
    parameter: float = 0.0,
    saved: Array | None = None,
    saves_input: bool = False,
) -> None:
    """out = act(a @ b + bias) ∘ mask: a product of cuBLAS, and one pass for the epilogue.

    The arguments behind `scale` are those of `apply_epilogue`; ``relu=True`` is the activation that
    the core's products have too.
    """
    left = a.array.T if transpose_a else a.array
    right = b.array.T if transpose_b else b.array
    multiply(left, right, out)
    name = "relu" if relu else activation
    if bias is not None or name != "identity" or bits is not None or scale != 1.0:
        apply_epilogue(
            out, bias, activation=name, parameter=parameter, bits=bits, scale=scale, saved=saved,
            saves_input=saves_input, out=out,
        )  # fmt: skip


def epilogue_backward(
    dz: Array | None,
    y: Array | None,
    dy: Array,
    scale: float,
    dbias: Array,
    *,
    activation: str = "relu",
    parameter: float = 0.0,
    bits: Bits = None,
) -> None:
    """dz = (dy ∘ mask) act'(y), and its sums over the rows in dbias.

    Without y the activation is the identity. For activations that save their input y is that.
    """
    if dz is not None:
        apply_epilogue_backward(
            dy, y, activation="identity" if y is None else activation, parameter=parameter,
            bits=bits, scale=scale, out=dz,
        )  # fmt: skip
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
    launch(x, "columns", "sum_columns", -(-columns // WARP) * chunks, ptr(x),
           *int64s((rows, columns, chunk)), ptr(sums))  # fmt: skip
    launch(x, "columns", "add_chunks", blocks_for(columns), ptr(sums),
           *int64s((chunks, columns)), ptr(out))  # fmt: skip


def positions(units: Array, size: int) -> Array:
    """For each of `size` units its (first) position in the sorted `units`, or -1."""
    units, places = library().asarray(units), empty((size,), np.int64)
    if size:
        launch(places, "indices", "find_units", blocks_for(size), ptr(units),
               *int64s((len(units), size)), ptr(places))  # fmt: skip
    return places


def compact(x: Array, rows: Array | None, columns: Array | None, scale: float = 1.0) -> Array:
    """x[rows][:, columns] * scale of a matrix; None means all of them."""
    x = contiguous(x)
    shape = tuple(n if u is None else len(u) for n, u in zip(x.shape, (rows, columns), strict=True))
    out = empty(shape, x.dtype)
    if out.size:
        launch(
            x, "compact", "compact", blocks_for(out.size), ptr(x), np.int64(x.shape[1]),
            ptr(rows), ptr(columns), *int64s(shape), real_of(x.dtype)(scale), ptr(out),
        )  # fmt: skip
    return out


def scatter(x: Array, rows: Array | None, columns: Array | None, shape: tuple[int, int]) -> Array:
    """The inverse of `compact`: zero outside the given rows and columns."""
    x = contiguous(x)
    out = empty(shape, x.dtype)
    places = [
        None if units is None else positions(units, n)
        for n, units in zip(shape, (rows, columns), strict=True)
    ]
    if out.size:
        launch(
            x, "compact", "scatter", blocks_for(out.size), ptr(x),
            np.int64(x.shape[1]), ptr(places[0]), ptr(places[1]), *int64s(shape), ptr(out),
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
    bits = None if mask.bits is None else cached_on(mask, "bits")
    warps = {"y": samples * -(-n // WARP), "dw": -(-k * n // WARP), "dx": samples * k}[which]
    launch(
        out, "dropconnect", f"dropconnect_{which}", blocks_for(warps * WARP), ptr(out), ptr(a),
        ptr(b), *int64s((samples, k, n)), ptr(bits),
        *draw(mask.key or Key(0), mask.domain, cast(int, mask.threshold), mask.offset),
    )  # fmt: skip

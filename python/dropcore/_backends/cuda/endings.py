"""The end of a product: bias, activation, mask and residual in one pass, and the way back."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from dropcore._backends.cpu import expect_broadcast
from dropcore._backends.cuda.launching import (
    NO_DRAW,
    Array,
    at,
    blocks_for,
    blocks_for_groups,
    draw,
    empty,
    launch,
    numbers,
    real_of,
    threads_a_row,
)
from dropcore._backends.cuda.masks import element_bits
from dropcore._base.decisions import Decisions
from dropcore.key import Key

ACTIVATIONS = {
    None: 0, "relu": 1, "leaky_relu": 2, "elu": 3, "selu": 4, "gelu": 5, "gelu_tanh": 6,
    "silu": 7, "tanh": 8, "sigmoid": 9, "softplus": 10,
}  # fmt: skip
ALL_KEPT, DRAWN, GIVEN, UNITS = range(4)


def finished(
    z: Array,
    bias: Array | None,
    *,
    kind: str | None = None,
    parameter: float = 0.0,
    mask: Decisions | None = None,
    bits: Array | None = None,
    scale: float = 1.0,
    residual: Array | None = None,
    out: Array | None,
) -> Array:
    """act(z + bias) ∘ mask + residual in one pass; out may be z.

    Parameters
    ----------
    z : contiguous cupy.ndarray (..., N)
    bias : (N,), optional
    kind, parameter
        Of the activation.
    mask : Mask, optional
        It broadcasts to z.
    bits : uint8, optional
        Instead of a mask, in the shape of z; with `scale`.
    residual : of the shape of z, optional
    out : of the shape of z, or None for a new array
    """
    y = empty(z.shape, z.dtype) if out is None else out
    _ended("finish", z, y, (at(bias), at(residual)), kind, parameter, mask, bits, scale)
    return y


def unfinished(
    dy: Array,
    held: Array | None,
    *,
    kind: str | None = None,
    parameter: float = 0.0,
    mask: Decisions | None = None,
    scale: float = 1.0,
    out: Array | None = None,
) -> Array:
    """The way back through `finished`: (dy ∘ mask) act'(held), held as `Activation` says."""
    dz = empty(dy.shape, dy.dtype) if out is None else out
    _ended("unfinish", dy, dz, (at(held),), kind, parameter, mask, None, scale)
    return dz


def _ended(
    name: str, z: Array, y: Array, arrays: tuple[Any, ...], kind: str | None, parameter: float,
    mask: Decisions | None, bits: Array | None, scale: float,
) -> None:  # fmt: skip
    if z.size == 0:
        return
    real, where, place = real_of(z.dtype), ALL_KEPT if bits is None else GIVEN, NO_DRAW
    if mask is not None:
        expect_broadcast(mask, z.shape, "y")
        whole = mask.shape == z.shape
        units = mask.size == z.shape[-1] == math.prod(mask.shape[-1:])
        if not isinstance(mask.scale, float) or not (whole or units):
            raise ValueError("a pass over a layer's end takes a mask of elements or of units")
        scale *= mask.scale
        if whole and mask.bits is None and mask.run == 1 and isinstance(mask.threshold, int):
            where = DRAWN
            place = draw(cast(Key, mask.key), mask.domain, mask.threshold, mask.offset)
        else:
            where, bits = GIVEN if whole else UNITS, element_bits(mask)
    launch(
        z, "ending", name, blocks_for_groups(z.size), at(z), at(y), np.int64(z.size),
        np.int64(z.shape[-1]), *arrays, real(parameter), np.int32(where), real(scale), at(bits),
        *place, KIND=ACTIVATIONS[kind],
    )  # fmt: skip


def activate(name: str, parameter: float, x: Array, out: Array, dy: Array | None = None) -> None:
    """out = f(x), which may be x; or with dy the way back, x being what `Activation` holds."""
    if dy is None:
        finished(x, None, kind=name, parameter=parameter, out=out)
    else:
        unfinished(dy, x, kind=name, parameter=parameter, out=out)


def softmax(x: Array, out: Array, dy: Array | None = None) -> None:
    """Along the last axis: out = softmax(x), or with dy its gradient, where x is the softmax.

    All contiguous, of one dtype; out may be x or dy.
    """
    if x.size == 0:
        return
    n = x.shape[-1]
    width = threads_a_row(n)
    name, arrays = ("softmax", (x, out)) if dy is None else ("softmax_back", (x, dy, out))
    launch(x, "softmax", name, blocks_for(x.size // n * width), *map(at, arrays),
           *numbers((x.size // n, n)), np.int32(width))  # fmt: skip

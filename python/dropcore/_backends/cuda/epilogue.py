"""The epilogue of a product, bias, activation and dropout in one pass, and its backward pass."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from dropcore._backends.cuda.kernels import (
    NO_DRAW,
    Array,
    blocks_for,
    blocks_for_groups,
    draw,
    empty,
    enumerator,
    int64s,
    launch,
    ptr,
    real_of,
    threads_per_row,
)
from dropcore._backends.cuda.masks import is_drawable
from dropcore._base.decisions import Decisions
from dropcore.key import Key

Bits = Array | Decisions | None
"""Packed bits in the shape of an array, a mask that the kernel draws, or None to keep all."""


def apply_epilogue(
    z: Array,
    bias: Array | None = None,
    *,
    activation: str = "identity",
    parameter: float = 0.0,
    bits: Bits = None,
    scale: float = 1.0,
    saved: Array | None = None,
    saves_input: bool = False,
    out: Array | None = None,
) -> Array:
    """act(z + bias) * scale where kept, else 0, in one pass.

    Parameters
    ----------
    z : cupy.ndarray (..., N), contiguous
    bias : (N,), optional
    activation, parameter
        Of `Activation`, elementwise.
    bits : uint8 or Decisions, optional
        What `decisions` returns for a mask in the shape of z.
    scale : float
    saved : of the shape of z, optional
        Out: z + bias if `saves_input`, else act(z + bias). It may be z.
    out : of the shape of z, optional
        It may be z.
    """
    y = empty(z.shape, z.dtype) if out is None else out
    if z.size:
        launch(
            z, "epilogue", "apply_epilogue", blocks_for_groups(z.size), ptr(z), ptr(y),
            np.int64(z.size), np.int64(z.shape[-1]), ptr(bias), real_of(z.dtype)(parameter),
            ptr(saved), np.int32(saves_input), *_dropped(z, bits, scale),
            ACTIVATION=enumerator("ACTIVATION", activation),
        )  # fmt: skip
    return y


def apply_epilogue_backward(
    dy: Array,
    saved: Array | None,
    *,
    activation: str = "identity",
    parameter: float = 0.0,
    bits: Bits = None,
    scale: float = 1.0,
    out: Array | None = None,
) -> Array:
    """dz = dy * scale * act'(saved) where kept, else 0; `saved` is None for the identity."""
    dz = empty(dy.shape, dy.dtype) if out is None else out
    if dy.size:
        launch(
            dy, "epilogue", "epilogue_backward", blocks_for_groups(dy.size), ptr(dy), ptr(dz),
            np.int64(dy.size), ptr(saved), real_of(dy.dtype)(parameter),
            *_dropped(dy, bits, scale), ACTIVATION=enumerator("ACTIVATION", activation),
        )  # fmt: skip
    return dz


def _dropped(z: Array, bits: Bits, scale: float) -> tuple[Any, ...]:
    """The arguments that say what is dropped."""
    given, drawn, where = None, NO_DRAW, "all_kept"
    if isinstance(bits, Decisions):
        assert is_drawable(bits)
        assert bits.size == z.size
        where = "drawn"
        drawn = draw(cast(Key, bits.key), bits.domain, cast(int, bits.threshold), bits.offset)
    elif bits is not None:
        given, where = bits, "given"
    code = np.int32(enumerator("DECISIONS", where))
    return code, real_of(z.dtype)(scale), ptr(given), *drawn


def activate(name: str, parameter: float, x: Array, out: Array, dy: Array | None = None) -> None:
    """out = f(x), which may be x; or with dy the backward pass, x being what `Activation` saves."""
    if dy is None:
        apply_epilogue(x, activation=name, parameter=parameter, out=out)
    else:
        apply_epilogue_backward(dy, x, activation=name, parameter=parameter, out=out)


def softmax(x: Array, out: Array, dy: Array | None = None) -> None:
    """Along the last axis: out = softmax(x), or with dy its gradient, where x is the softmax.

    All are contiguous and of one dtype; out may be x or dy.
    """
    if x.size == 0:
        return
    n = x.shape[-1]
    width = threads_per_row(n)
    name, arrays = ("softmax", (x, out)) if dy is None else ("softmax_back", (x, dy, out))
    launch(x, "softmax", name, blocks_for(x.size // n * width), *map(ptr, arrays),
           *int64s((x.size // n, n)), np.int32(width))  # fmt: skip

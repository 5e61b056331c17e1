"""Masks, dropout and noise of CuPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from dropcore._backends.cuda.arrays import cached_on, expect_out_like
from dropcore._backends.cuda.kernels import (
    AXES,
    Array,
    address,
    blocks_for,
    blocks_for_groups,
    contiguous,
    draw,
    empty,
    int64s,
    launch,
    library,
    ptr,
    real_of,
)
from dropcore._base.decisions import Decisions
from dropcore._base.strides import bit_strides, expect_broadcast
from dropcore.key import Key

NOISE = 1  # the domain of noise in the mask contract

# ---- broadcasting ----


def collapsed(
    shape: Sequence[int], *strides: Sequence[int]
) -> tuple[list[int], list[list[int]]] | None:
    """Shape and strides with axes merged where possible, AXES of each; None if more remain.

    Two neighbouring axes are merged if every stride of the outer one is that of the inner one times
    its length. That holds for shared axes too, where both strides are 0.
    """
    extent: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, n in enumerate(shape):
        own = [s[axis] for s in strides]
        if n == 1:
            continue
        if extent and all(step[-1] == s * n for step, s in zip(steps, own, strict=True)):
            extent[-1] *= n
            for step, s in zip(steps, own, strict=True):
                step[-1] = s
        else:
            extent.append(n)
            for step, s in zip(steps, own, strict=True):
                step.append(s)
    missing = AXES - len(extent)
    if missing < 0:
        return None
    return [1] * missing + extent, [[0] * missing + step for step in steps]


def _broadcast_strides(array: Array, shape: tuple[int, ...]) -> list[int]:
    """The strides, in elements, of an array that is broadcast to shape."""
    own = [
        0 if n == 1 else stride // array.itemsize
        for n, stride in zip(array.shape, array.strides, strict=True)
    ]
    return [0] * (len(shape) - array.ndim) + own


# ---- masks ----


def resolve_keep(rate: Any, keep: Any) -> Array:
    """The fractions kept, from an array of either; clamped to [0, 1], with NaN as 0."""
    xp = library()
    kept = (keep if rate is None else 1.0 - rate.astype(np.float64)).astype(np.float64)
    return xp.where(kept > 0, xp.minimum(kept, 1.0), 0.0)


def thresholds(keep: Array) -> tuple[Array, Array]:
    """round(keep * 2^32), half to even, and the scale, for an array of fractions kept."""
    xp = library()
    threshold = xp.rint(keep * 4294967296.0).astype(np.uint64)
    return threshold, xp.where(threshold > 0, 1.0 / xp.where(threshold > 0, keep, 1.0), 0.0)


def drawn_bits(mask: Decisions) -> Array:
    """The bits of a mask on the device, one per decision."""
    xp = library()
    if mask.bits is not None:
        return cached_on(mask, "bits")
    key, n = cast(Key, mask.key), math.prod(mask.drawn_shape)
    bits = empty((-(-n // 8),), np.uint8)
    if n == 0:
        return bits
    if isinstance(mask.threshold, int):
        launch(
            bits, "mask", "draw_bits", blocks_for(-(-n // 128)), ptr(bits), np.int64(n),
            *draw(key, mask.domain, mask.threshold, mask.offset),
        )  # fmt: skip
        return bits
    each = cached_on(mask, "threshold")
    axes = collapsed(mask.drawn_shape, _broadcast_strides(each, mask.drawn_shape))
    if axes is None:
        each = contiguous(xp.broadcast_to(each, mask.drawn_shape))
        axes = [1] * (AXES - 1) + [n], [[0] * (AXES - 1) + [1]]
    extent, (stride,) = axes
    launch(
        bits, "mask", "draw_bits_each", blocks_for(bits.size), ptr(bits), np.int64(n), ptr(each),
        *int64s(extent, stride), *address(key, mask.domain), np.uint64(mask.offset),
    )  # fmt: skip
    return bits


def to_bool(mask: Decisions) -> Array:
    """A mask as a boolean array of its shape."""
    xp = library()
    kept = empty(mask.drawn_shape, np.bool_)
    if kept.size:
        bits = drawn_bits(mask)
        launch(bits, "mask", "unpack_bits", blocks_for(kept.size), ptr(bits), ptr(kept),
                np.int64(kept.size))  # fmt: skip
    if mask.run > 1:
        kept = xp.repeat(kept, min(mask.run, mask.shape[-1]), axis=-1)[..., : mask.shape[-1]]
    return contiguous(kept).reshape(mask.shape)


def pack(kept: Array) -> Array:
    """A boolean array as bits, flat in C order."""
    kept = contiguous(kept)
    bits = empty((-(-kept.size // 8),), np.uint8)
    if kept.size:
        launch(kept, "mask", "pack_bits", blocks_for(bits.size), ptr(kept), ptr(bits),
                np.int64(kept.size))  # fmt: skip
    return bits


def kept_at(
    kept: Array, indices: Array, key: Key, domain: int, threshold: int, offset: int = 0
) -> None:
    """Fill contiguous `kept` (uint8, 0 or 1) for scattered indices, contiguous int64."""
    if kept.size:
        launch(kept, "mask", "kept_at", blocks_for(kept.size), ptr(kept), ptr(indices),
               np.int64(kept.size), *draw(key, domain, threshold, offset))  # fmt: skip


def element_bits(mask: Decisions) -> Array:
    """One bit per element of the mask's shape, also for runs."""
    return drawn_bits(mask) if mask.run == 1 else pack(to_bool(mask))


def is_drawable(mask: Decisions) -> bool:
    """Whether a kernel that handles an array of the mask's shape can draw the mask itself."""
    return mask.bits is None and mask.run == 1 and isinstance(mask.threshold, int)


def decisions(mask: Decisions) -> Array | Decisions:
    """What products and epilogues take as `bits`: the mask itself if the kernel can draw it."""
    return mask if is_drawable(mask) else element_bits(mask)


# ---- dropout ----


def dropout(x: Array, mask: Decisions, out: Array | None, name: str = "x") -> Array:
    """``where(mask, x * scale, 0)``, into out or a new array."""
    xp = library()
    out = empty(x.shape, x.dtype) if out is None else expect_out_like(out, x, name)
    expect_broadcast(mask.shape, x.shape, name)
    if x.size == 0:
        return out
    source, real = contiguous(x), real_of(x.dtype)
    target = out if out.flags.c_contiguous else empty(x.shape, x.dtype)
    scale = mask.element_scale()
    arrays = ptr(source), ptr(target), np.int64(x.size)
    whole = mask.shape == x.shape and isinstance(scale, float)
    if whole and is_drawable(mask):
        launch(
            x, "dropout", "dropout_drawn", blocks_for_groups(x.size), *arrays,
            real(scale), *draw(cast(Key, mask.key), mask.domain, cast(int, mask.threshold),
                           mask.offset),
        )  # fmt: skip
    elif whole:
        bits = element_bits(mask)
        launch(x, "dropout", "dropout_given", blocks_for(x.size // 8 + 1), *arrays,
                real(scale), ptr(bits))  # fmt: skip
    else:
        bits = element_bits(mask)
        scales = None
        if not isinstance(scale, float):
            scales = cached_on(mask, "scale") if scale is mask.scale else xp.asarray(scale)
        steps = bit_strides(mask.shape, x.ndim)
        scale_steps = [0] * x.ndim if scales is None else _broadcast_strides(scales, x.shape)
        axes = collapsed(x.shape, steps, scale_steps)
        if axes is None:  # too many axes for a kernel: expand everything to the shape of x
            bits = pack(xp.broadcast_to(to_bool(mask), x.shape))
            if scales is not None:
                scales = contiguous(xp.broadcast_to(scales, x.shape))
            one = [0] * (AXES - 1) + [1]
            axes = [1] * (AXES - 1) + [x.size], [one, one]
        extent, (bit_step, scale_step) = axes
        launch(
            x, "dropout", "dropout_shared", blocks_for(x.size), *arrays,
            real(scale if scales is None else 1.0), ptr(bits), ptr(scales),
            *int64s(extent, bit_step, scale_step),
        )  # fmt: skip
    if target is not out:
        out[...] = target
    return out


# ---- noise ----


def normal(z: Array, key: Key, offset: int) -> None:
    """Fill contiguous z with standard normals."""
    if z.size:
        launch(z, "noise", "normal", blocks_for(z.size // 4 + 2), ptr(z),
                np.int64(z.size), *address(key, NOISE), np.uint64(offset))  # fmt: skip


def noise_words(words: Array, key: Key, offset: int) -> None:
    """Fill contiguous uint32 words with those of the noise domain."""
    if words.size:
        launch(words, "mask", "noise_words", blocks_for(words.size), ptr(words),
                np.int64(words.size), *address(key, NOISE), np.uint64(offset))  # fmt: skip


def uniforms(words: Array, key: Key, domain: int, offset: int) -> None:
    """Fill contiguous uint32 words with the uniforms of decisions."""
    if words.size:
        launch(words, "mask", "uniforms", blocks_for(words.size // 4 + 32), ptr(words),
                np.int64(words.size), *address(key, domain), np.uint64(offset))  # fmt: skip

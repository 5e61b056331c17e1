"""Masks, dropout and noise of CuPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from dropcore._backends.cpu import bit_strides, expect_broadcast
from dropcore._backends.cpu import to_bool as cpu_to_bool
from dropcore._backends.cuda.arrays import expect_out, is_array, overlap, resident, same_memory
from dropcore._backends.cuda.launching import (
    Array,
    address,
    at,
    blocks_for,
    blocks_for_groups,
    contiguous,
    draw,
    empty,
    launch,
    library,
    numbers,
    real_of,
)
from dropcore._base.decisions import Decisions
from dropcore.key import Key

AXES = 4  # of broadcasting


# ---- broadcasting ----


def collapsed(
    shape: Sequence[int], *strides: Sequence[int]
) -> tuple[list[int], list[list[int]]] | None:
    """Shape and strides with axes that go together made one, four of each; None for more.

    Two neighbours go together where every stride of the outer one is that of the inner one times
    its length, as it also is along shared axes, where both are 0.
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
    """In elements, of an array that broadcasts to shape."""
    own = [
        0 if n == 1 else stride // array.itemsize
        for n, stride in zip(array.shape, array.strides, strict=True)
    ]
    return [0] * (len(shape) - array.ndim) + own


# ---- masks ----


def resolve_keep(rate: Any, keep: Any) -> Array:
    """The fraction kept from an array of either; clamped to [0, 1], NaN to 0, without a look."""
    xp = library()
    kept = (keep if rate is None else 1.0 - rate.astype(np.float64)).astype(np.float64)
    return xp.where(kept > 0, xp.minimum(kept, 1.0), 0.0)


def thresholds(keep: Array) -> tuple[Array, Array]:
    """Of an array of fractions kept: round(keep * 2^32), half to even, and the scale."""
    xp = library()
    threshold = xp.rint(keep * 4294967296.0).astype(np.uint64)
    return threshold, xp.where(threshold > 0, 1.0 / xp.where(threshold > 0, keep, 1.0), 0.0)


def drawn_bits(mask: Decisions) -> Array:
    """The bits of a mask on the device, one for each decision."""
    xp = library()
    if mask.bits is not None:
        return resident(mask, "bits")
    key, n = cast(Key, mask.key), math.prod(mask.drawn_shape)
    bits = empty((-(-n // 8),), np.uint8)
    if n == 0:
        return bits
    if isinstance(mask.threshold, int):
        launch(
            bits, "mask", "draw_bits", blocks_for(-(-n // 128)), at(bits), np.int64(n),
            *draw(key, mask.domain, mask.threshold, mask.offset),
        )  # fmt: skip
        return bits
    each = resident(mask, "threshold")
    axes = collapsed(mask.drawn_shape, _broadcast_strides(each, mask.drawn_shape))
    if axes is None:
        each = contiguous(xp.broadcast_to(each, mask.drawn_shape))
        axes = [1] * (AXES - 1) + [n], [[0] * (AXES - 1) + [1]]
    extent, (stride,) = axes
    launch(
        bits, "mask", "draw_bits_each", blocks_for(bits.size), at(bits), np.int64(n), at(each),
        *numbers(extent, stride), *address(key, mask.domain), np.uint64(mask.offset),
    )  # fmt: skip
    return bits


def to_bool(mask: Decisions) -> Array:
    """A mask as a boolean array of its shape."""
    xp = library()
    kept = empty(mask.drawn_shape, np.bool_)
    if kept.size:
        bits = drawn_bits(mask)
        launch(bits, "mask", "unpack_bits", blocks_for(kept.size), at(bits), at(kept),
                np.int64(kept.size))  # fmt: skip
    if mask.run > 1:
        kept = xp.repeat(kept, mask.run, axis=-1)[..., : mask.shape[-1]]
    return contiguous(kept).reshape(mask.shape)


def pack(kept: Array) -> Array:
    """A boolean array as bits, flat in C order."""
    kept = contiguous(kept)
    bits = empty((-(-kept.size // 8),), np.uint8)
    if kept.size:
        launch(kept, "mask", "pack_bits", blocks_for(bits.size), at(kept), at(bits),
                np.int64(kept.size))  # fmt: skip
    return bits


def kept_at(
    kept: Array, indices: Array, key: Key, domain: int, threshold: int, offset: int = 0
) -> None:
    """Fill contiguous `kept` (uint8, 0 or 1) for scattered indices, contiguous int64."""
    if kept.size:
        launch(kept, "mask", "kept_at", blocks_for(kept.size), at(kept), at(indices),
               np.int64(kept.size), *draw(key, domain, threshold, offset))  # fmt: skip


def element_bits(mask: Decisions) -> Array:
    """One bit an element of the mask's shape, also with runs."""
    return drawn_bits(mask) if mask.run == 1 else pack(to_bool(mask))


def kept_units(mask: Decisions, groups: int = 1) -> list[Array]:
    """For each group of units their sorted indices of what is kept.

    A mask that the host can draw is drawn there: units are few, and nothing has to wait for the
    device to learn their number.
    """
    xp = library()
    on_host = not is_array(mask.bits) and not is_array(mask.threshold)
    kept = (cpu_to_bool(mask) if on_host else xp.asnumpy(to_bool(mask))).reshape(groups, -1)
    return [xp.asarray(np.flatnonzero(row).astype(np.int64, copy=False)) for row in kept]


# ---- dropout ----


def dropout(x: Array, mask: Decisions, out: Array | None, name: str = "x") -> Array:
    """``where(mask, x * scale, 0)``, into out or a new array."""
    xp = library()
    if out is None:
        out = empty(x.shape, x.dtype)
    else:
        out = expect_out(out, x.shape, x.dtype, name)
        if out is not x and overlap(out, x) and not same_memory(out, x):
            raise ValueError(
                f"out overlaps {name} without being the same array: give {name} itself or "
                "memory of its own"
            )
    expect_broadcast(mask, x.shape, name)
    if x.size == 0:
        return out
    source, real = contiguous(x), real_of(x.dtype)
    target = out if out.flags.c_contiguous else empty(x.shape, x.dtype)
    scale = mask.element_scale()
    arrays = at(source), at(target), np.int64(x.size)
    whole = mask.shape == x.shape and isinstance(scale, float)
    if whole and mask.bits is None and mask.run == 1 and isinstance(mask.threshold, int):
        launch(
            x, "dropout", "dropout_drawn", blocks_for_groups(x.size), *arrays,
            real(scale), *draw(cast(Key, mask.key), mask.domain, mask.threshold, mask.offset),
        )  # fmt: skip
    elif whole:
        bits = element_bits(mask)
        launch(x, "dropout", "dropout_given", blocks_for(x.size // 8 + 1), *arrays,
                real(scale), at(bits))  # fmt: skip
    else:
        bits = element_bits(mask)
        scales = None
        if not isinstance(scale, float):
            scales = resident(mask, "scale") if scale is mask.scale else xp.asarray(scale)
        steps = bit_strides(mask.shape, x.ndim)
        scale_steps = [0] * x.ndim if scales is None else _broadcast_strides(scales, x.shape)
        axes = collapsed(x.shape, steps, scale_steps)
        if axes is None:  # more axes than a kernel takes: everything in the shape of x
            bits = pack(xp.broadcast_to(to_bool(mask), x.shape))
            if scales is not None:
                scales = contiguous(xp.broadcast_to(scales, x.shape))
            one = [0] * (AXES - 1) + [1]
            axes = [1] * (AXES - 1) + [x.size], [one, one]
        extent, (bit_step, scale_step) = axes
        launch(
            x, "dropout", "dropout_shared", blocks_for(x.size), *arrays,
            real(scale if scales is None else 1.0), at(bits), at(scales),
            *numbers(extent, bit_step, scale_step),
        )  # fmt: skip
    if target is not out:
        out[...] = target
    return out


# ---- noise ----


def normal(z: Array, key: Key, offset: int) -> None:
    """Fill contiguous z with standard normals."""
    if z.size:
        launch(z, "noise", "normal", blocks_for(z.size // 4 + 2), at(z),
                np.int64(z.size), *address(key, 1), np.uint64(offset))  # fmt: skip


def noise_words(words: Array, key: Key, offset: int) -> None:
    """Fill contiguous uint32 words with those of the noise domain."""
    if words.size:
        launch(words, "mask", "noise_words", blocks_for(words.size), at(words),
                np.int64(words.size), *address(key, 1), np.uint64(offset))  # fmt: skip


def uniforms(words: Array, key: Key, domain: int, offset: int) -> None:
    """Fill contiguous uint32 words with the uniforms that decide."""
    if words.size:
        launch(words, "mask", "uniforms", blocks_for(words.size // 4 + 32), at(words),
                np.int64(words.size), *address(key, domain), np.uint64(offset))  # fmt: skip

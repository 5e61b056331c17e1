"""NumPy arrays through the compiled core."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore.key import Key
from dropcore.mask import Mask

Array = npt.NDArray[Any]

DTYPES = ("float32", "float64", "float16", "bfloat16")
# The core's numbers for them. bfloat16 joins when an array of it is first seen: it belongs to
# another package, and the name of a dtype is slow to ask for.
CODES = {np.dtype(name): code for code, name in enumerate(DTYPES[:3])}
BFLOAT16 = 3


def as_array(name: str, x: object, allowed: tuple[str, ...] = DTYPES) -> Array:
    """x as an array of a dtype that is taken, not copied."""
    array = x if type(x) is np.ndarray else np.asarray(x)
    code = CODES.get(array.dtype)
    if code is not None and DTYPES[code] in allowed:
        return array
    if array.dtype.name not in allowed:
        raise TypeError(
            f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {array.dtype}"
            + ("; use .astype(np.float32)" if array.dtype.kind in "biu" else "")
        )
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    if array.dtype.name == "bfloat16":
        CODES[array.dtype] = BFLOAT16
    return array


def expect_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """`out` if it can take a result of that shape and dtype, those of the array called name."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have the shape and dtype of {name}, {shape} {dtype}, got "
            f"{out.shape} {out.dtype}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only: give an array that can be written")
    if 0 in out.strides and any(
        s == 0 and n > 1 for s, n in zip(out.strides, shape, strict=True) if out.size
    ):
        raise ValueError("out has elements that share memory (a stride of 0)")
    return out


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share an element; also said where finding out would take too long."""
    if not np.may_share_memory(a, b):  # bounds only: cheap
        return False
    try:
        return np.shares_memory(a, b, max_work=cast(Any, 100_000))  # the stubs know only -1 and 0
    except np.exceptions.TooHardError:
        return True


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same order."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


def dropout(x: Array, mask: Mask, out: Array | None, name: str = "x") -> Array:
    """``where(mask, x * scale, 0)``, into out or a new array."""
    if out is None:
        out = np.empty(x.shape, x.dtype)
    else:
        out = expect_out(out, x.shape, x.dtype, name)
        if out is not x and overlap(out, x) and not same_memory(out, x):
            raise ValueError(
                f"out overlaps {name} without being the same array: give {name} itself or "
                "memory of its own"
            )
    code = CODES[x.dtype]
    source, target = x, out
    if code == BFLOAT16:  # which exports no buffer
        source, target = x.view(np.uint16), out.view(np.uint16)
    if (
        mask.shape == x.shape
        and mask._bits is None
        and mask.run == 1
        and isinstance(mask._threshold, int)
        and _straight(x)
        and (out is x or _straight(out))
    ):
        key = cast(Key, mask.key)
        _core.dropout(
            target, source, code, key.seed, key.stream, key.step, mask.domain,
            mask._threshold, cast(float, mask.scale), mask.offset,
        )  # fmt: skip
        return out
    expect_broadcast(mask, x.shape, name)
    scale = mask._element_scale()
    _core.apply(
        target, source, code, mask._element_bits(), bit_strides(mask.shape, x.ndim),
        scale if isinstance(scale, float) else 1.0,
        None if isinstance(scale, float) else np.broadcast_to(scale, x.shape),
    )  # fmt: skip
    return out


def _straight(x: Array) -> bool:
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def expect_broadcast(mask: Mask, shape: tuple[int, ...], name: str) -> None:
    """ValueError unless the mask broadcasts to shape."""
    if len(mask.shape) <= len(shape):
        own = (1,) * (len(shape) - len(mask.shape)) + mask.shape
        if all(m in (1, n) for m, n in zip(own, shape, strict=True)):
            return
    raise ValueError(
        f"a mask of shape {mask.shape} does not broadcast to {name} of shape {shape}: every axis, "
        "counted from the last, must be 1 or that of the array"
    )


def bit_strides(mask_shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """How far each axis of an array steps through the mask's bits; 0 along shared axes."""
    own = [0 if n == 1 else math.prod(mask_shape[axis + 1 :]) for axis, n in enumerate(mask_shape)]
    return (0,) * (ndim - len(own)) + tuple(own)


def max_norm_(w: Array, max_norm: float, axes: tuple[int, ...]) -> Array:
    """Project in place the vectors that run over `axes`."""
    if w.size == 0:
        return w
    first, last = axes[0], axes[-1]
    if w.flags.c_contiguous and w.flags.aligned and last - first + 1 == len(axes):
        outer = math.prod(w.shape[:first])
        length = math.prod(w.shape[first : last + 1])
        _core.max_norm(w, outer, length, w.size // (outer * length), max_norm)
        return w
    # Any other layout: a copy with the vectors in rows, and back if one was clipped.
    end = tuple(range(w.ndim - len(axes), w.ndim))
    rows = np.moveaxis(w, axes, end)
    copy = np.array(rows, order="C")
    length = math.prod(copy.shape[end[0] :])
    if _core.max_norm(copy, w.size // length, length, 1, max_norm):
        rows[...] = copy
    return w

"""Checks, copies and memory of CuPy arrays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from dropcore._backends.cuda.kernels import DTYPES, Array, library
from dropcore._base import strides
from dropcore._base.device import recording


def is_array(x: object) -> bool:
    """Whether x is an array of this backend."""
    return isinstance(x, library().ndarray)


def as_array(name: str, x: Array, allowed: tuple[str, ...] = DTYPES) -> Array:
    """x if its dtype is supported; an array of another library on the device is not copied."""
    if is_array(x):
        array = x
    elif hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
        array = library().from_dlpack(x)
    else:
        array = library().asarray(x)
    if array.dtype.name not in allowed:
        raise TypeError(
            f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {array.dtype}"
            + ("; use .astype(np.float32)" if array.dtype.kind in "biu" else "")
        )
    return array


_copies: WeakKeyDictionary[Any, dict[tuple[str, int], tuple[Array, int, Any]]] = WeakKeyDictionary()
"""By owner; by attribute and device: the copy, the stream that made it, and an event behind it."""


def cached_on(owner: Any, name: str) -> Array:
    """On the current device, an array that is an attribute of its owner and never changes.

    It is copied there once: a copy in every step would take longer than the work on it. Another
    stream than that of the copy waits for it on the device.
    """
    xp = library()
    array = getattr(owner, name)
    if is_array(array):
        return array
    copies = _copies.setdefault(owner, {})
    place = name, xp.cuda.Device().id
    stream = xp.cuda.get_current_stream()
    if place not in copies or not is_array(copies[place][0]):
        copies[place] = xp.asarray(array), stream.ptr, stream.record()
    copy, made_on, event = copies[place]
    if stream.ptr != made_on:
        if recording():  # a captured stream cannot wait for work outside of its graph
            event.synchronize()
        else:
            stream.wait_event(event)
    return copy


def synchronize() -> None:
    """Wait until the work of the current stream is done."""
    library().cuda.get_current_stream().synchronize()


def expect_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """`out` if it can take a result of that shape and dtype, those of the array called name."""
    if not is_array(out):
        raise TypeError(f"out must be a cupy.ndarray, as {name} is, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have the shape and dtype of {name}, {shape} {dtype}, got "
            f"{out.shape} {out.dtype}"
        )
    if any(s == 0 and n > 1 for s, n in zip(out.strides, shape, strict=True) if out.size):
        raise ValueError("out has elements that share memory (a stride of 0)")
    return out


def _addresses(x: Array) -> npt.NDArray[np.void]:
    """A NumPy array with the addresses and strides of x, whose elements must not be read."""
    interface = {"version": 3, "data": (x.data.ptr, True), "typestr": f"|V{x.itemsize}",
                 "shape": x.shape, "strides": x.strides}  # fmt: skip
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share an element; True also if that would take too long to find out."""
    # cupy.shares_memory sorts the addresses of all elements, and synchronises.
    return bool(a.size and b.size) and strides.overlap(_addresses(a), _addresses(b))


def may_overlap(a: Array, b: Array) -> bool:
    """Whether the address ranges of two arrays intersect."""
    return bool(a.size and b.size) and strides.may_overlap(_addresses(a), _addresses(b))


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same order."""
    return a.data.ptr == b.data.ptr and a.strides == b.strides


def expect_out_like(out: Array, x: Array, name: str) -> Array:
    """`out` if it can take a result like x, which it may be but not overlap in another way."""
    target = expect_out(out, x.shape, x.dtype, name)
    if target is not x and overlap(target, x) and not same_memory(target, x):
        raise ValueError(
            f"out overlaps {name} without being the same array: give {name} itself or "
            "a separate array"
        )
    return target

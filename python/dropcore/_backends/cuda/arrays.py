"""What is said of CuPy arrays before anything is done with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from dropcore._backends import cpu
from dropcore._backends.cuda.launching import DTYPES, Array, library


def is_array(x: object) -> bool:
    """Whether x is what this backend works on."""
    return isinstance(x, library().ndarray)


def as_array(name: str, x: Array, allowed: tuple[str, ...] = DTYPES) -> Array:
    """x, if its dtype is taken; of another library's array on the device its memory."""
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


_residents: WeakKeyDictionary[Any, dict[tuple[str, int], Array]] = WeakKeyDictionary()


def resident(owner: Any, name: str) -> Array:
    """On the current device, the array that an object holds under a name and never changes.

    It is copied there once: a copy in every step would take longer than what is done with it.
    """
    xp = library()
    array = getattr(owner, name)
    if is_array(array):
        return array
    copies = _residents.setdefault(owner, {})
    place = name, xp.cuda.Device().id
    if not is_array(copies.get(place)):
        copies[place] = xp.asarray(array)
    return copies[place]


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
    """A NumPy array that is where x is, of which nothing can be read."""
    interface = {"version": 3, "data": (x.data.ptr, True), "typestr": f"|V{x.itemsize}",
                 "shape": x.shape, "strides": x.strides}  # fmt: skip
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share an element; also said where finding out would take too long."""
    # CuPy would sort the addresses of all elements, and wait for it.
    return bool(a.size and b.size) and cpu.overlap(_addresses(a), _addresses(b))


def may_overlap(a: Array, b: Array) -> bool:
    """Whether the ranges of two arrays' addresses meet."""
    return bool(a.size and b.size) and cpu.may_overlap(_addresses(a), _addresses(b))


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same order."""
    return a.data.ptr == b.data.ptr and a.strides == b.strides

"""Where arrays are, without importing anything for it, and how they get there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any

import numpy as np

__all__ = [
    "DEVICES",
    "array_namespace",
    "cached_on",
    "checked_device",
    "cuda_backend",
    "lies_on_device",
    "on_device",
    "recorded",
    "recording",
    "special_of",
    "to_device",
]

DEVICES = ("cpu", "cuda")
"""Where arrays can be: in NumPy's or in CuPy's memory."""

DLPACK_CUDA = 2
"""The number of NVIDIA's GPUs in DLPack."""


def on_device(x: Any) -> bool:
    """Whether x is a CuPy array."""
    cupy = sys.modules.get("cupy")  # where nobody imported it there is none of its arrays
    return cupy is not None and isinstance(x, cupy.ndarray)


def lies_on_device(x: Any) -> bool:
    """Whether x is any library's array on a GPU, which CuPy can take over without a copy."""
    place = getattr(type(x), "__dlpack_device__", None)
    if place is not None:
        return int(place(x)[0]) == DLPACK_CUDA
    return hasattr(type(x), "__cuda_array_interface__")


def array_namespace(x: Any) -> Any:
    """The module with the functions of x: NumPy or CuPy."""
    return sys.modules["cupy"] if on_device(x) else np


def special_of(x: Any) -> Any:
    """The module with the special functions of x: SciPy's or CuPy's."""
    return import_module("cupyx.scipy.special" if on_device(x) else "scipy.special")


def cuda_backend() -> Any:
    """The backend of CuPy arrays, which is imported when the first one comes."""
    return import_module("dropcore._backends.cuda")


def checked_device(what: str, device: object) -> str:
    """`device`, if there is such a place; ValueError, ImportError or RuntimeError if not."""
    if device not in DEVICES:
        raise ValueError(
            f"{what}: device must be 'cpu' or 'cuda', CuPy's current device, got {device!r}"
        )
    if device == "cuda":
        cuda_backend().require_device()
    return str(device)


def to_device(array: Any, device: str) -> Any:
    """The array in the memory of a device; itself if it is there already."""
    if on_device(array) == (device == "cuda"):
        return array
    xp = cuda_backend().library()
    return xp.asarray(array) if device == "cuda" else xp.asnumpy(array)


_recording: ContextVar[bool] = ContextVar("recording", default=False)


@contextmanager
def recorded() -> Iterator[None]:
    """Inside, work is recorded to be done again with other steps: see _backends/cuda/graphs.py."""
    before = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(before)


def recording() -> bool:
    """Whether work is recorded to be done again."""
    return _recording.get()


def cached_on(like: Any, owner: Any, name: str) -> Any:
    """An array that its owner never changes, where `like` is: a GPU gets it once.

    Parameters
    ----------
    like : array
    owner : object
    name : str
        Of the attribute that holds the array.
    """
    array = getattr(owner, name)
    if on_device(array) or not on_device(like):
        return array
    return cuda_backend().resident(owner, name)

"""Find the device of an array without importing CuPy."""

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
    "lies_on_device",
    "on_device",
    "recorded",
    "recording",
    "special_of",
]

DEVICES = ("cpu", "cuda")
"""Where arrays can be: in NumPy's or in CuPy's memory."""

DLPACK_CUDA = 2
"""The number of NVIDIA's GPUs in DLPack."""


def on_device(x: Any) -> bool:
    """Whether x is a CuPy array."""
    cupy = sys.modules.get("cupy")  # without an import there are no CuPy arrays
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

"""Arrays whose memory is used again: a training step goes to the system for none."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core

__all__ = ["empty"]

SMALL = 1 << 14
"""Bytes below which the system's allocator is as fast."""


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """`numpy.empty`, from memory that earlier arrays have given back.

    When the last reference to the array and its views is gone, its memory is kept for the next
    array of the same size. At most `_core.POOL_BYTES` are kept; the rest is returned to the
    system.

    Raises
    ------
    MemoryError
        If there is not enough memory, or the size exceeds the address space.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape)
    if size * kind.itemsize < SMALL:
        return np.empty(shape, kind)
    if size * kind.itemsize > sys.maxsize:
        raise MemoryError(f"no memory for an array of shape {shape} and dtype {kind}")
    buffer = memoryview(_core.PooledBuffer(size * kind.itemsize))
    return np.frombuffer(buffer, kind, size).reshape(shape)

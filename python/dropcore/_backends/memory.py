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

    Once nobody refers to the array or to a view of it, its memory waits for the next array of the
    same size. At most `_core.POOL_BYTES` wait at a time; the rest goes back to the system.

    Raises
    ------
    MemoryError
        If there is not as much, or no address space has as much.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape)
    if size * kind.itemsize < SMALL:
        return np.empty(shape, kind)
    if size * kind.itemsize > sys.maxsize:
        raise MemoryError(f"no memory for an array of shape {shape} and dtype {kind}")
    room = memoryview(_core.PooledBuffer(size * kind.itemsize))
    return np.frombuffer(room, kind, size).reshape(shape)

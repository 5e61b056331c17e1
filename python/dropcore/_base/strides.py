"""Shapes, strides and memory of arrays, for every backend."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

__all__ = ["bit_strides", "expect_broadcast", "may_overlap", "overlap"]

MAX_WORK = 100_000  # to find out whether strided arrays share an element


def expect_broadcast(mask_shape: tuple[int, ...], shape: tuple[int, ...], name: str) -> None:
    """ValueError unless a mask of mask_shape broadcasts to the array of that shape and name."""
    if len(mask_shape) <= len(shape):
        own = (1,) * (len(shape) - len(mask_shape)) + mask_shape
        if all(m in (1, n) for m, n in zip(own, shape, strict=True)):
            return
    raise ValueError(
        f"a mask of shape {mask_shape} does not broadcast to {name} of shape {shape}: every axis, "
        "counted from the last, must be 1 or that of the array"
    )


def bit_strides(mask_shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The stride of each axis of an array in the bits of its mask; 0 along shared axes."""
    own = [0 if n == 1 else math.prod(mask_shape[axis + 1 :]) for axis, n in enumerate(mask_shape)]
    return (0,) * (ndim - len(own)) + tuple(own)


def may_overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether the address ranges of two arrays intersect."""
    return np.may_share_memory(a, b)


def overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays share an element; True also if that would take too long to find out."""
    if not np.may_share_memory(a, b):  # compares bounds only, and is cheap
        return False
    try:
        return np.shares_memory(a, b, max_work=cast(Any, MAX_WORK))  # the stubs know only -1 and 0
    except np.exceptions.TooHardError:
        return True

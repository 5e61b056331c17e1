"""Large arrays a block of rows at a time, so that what is computed of them needs little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ["holds_for_all", "row_blocks"]

_BLOCK: Final = 1 << 18
"""Elements that are looked at together."""


def row_blocks(x: Any) -> Iterator[slice]:
    """Slices of the first axis of an array, each of about 250,000 elements."""
    rows = max(1, _BLOCK * len(x) // max(1, x.size))
    for start in range(0, len(x), rows):
        yield slice(start, min(start + rows, len(x)))


def holds_for_all(x: Any, test: Callable[[Any], Any]) -> bool:
    """Whether `test`, which returns an array of bool, is true for all of x, a block at a time."""
    return all(bool(test(x[rows]).all()) for rows in row_blocks(x))

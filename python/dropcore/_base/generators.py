"""Random numbers that are not masks: initial weights and shuffles.

Masks follow the mask contract and are drawn by :class:`dropcore.Mask`. Everything else comes from
NumPy's Philox, seeded from the same seed, so that one number repeats a whole run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from dropcore.key import Key, as_key

__all__ = ["DATA", "SHUFFLE", "WEIGHTS", "generator", "generators"]

WEIGHTS: Final = 1
SHUFFLE: Final = 2
DATA: Final = 3


def generator(key: Key | int, purpose: int, number: int = 0) -> np.random.Generator:
    """A generator of its own for each seed, purpose and number.

    Parameters
    ----------
    key : Key or int
        Only its seed counts.
    purpose : int
        `WEIGHTS`, `SHUFFLE` or `DATA` (splits and noise of data sets), below 2**32.
    number : int, default 0
        Tells generators of one purpose apart, such as the epoch of a shuffle. Below 2**32.

    Returns
    -------
    numpy.random.Generator
        Over Philox with the 128-bit key (seed, purpose << 32 | number).
    """
    # A list with integers beyond 2**63 would pass through float64 and lose its low bits.
    words = np.array([as_key(key).seed, purpose << 32 | number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))


def generators(key: Key | int, purpose: int) -> Callable[[int], np.random.Generator]:
    """`generator` as a function of the number, without the cost of new objects.

    It returns one object, which each call puts to the beginning of that number.
    """
    found = generator(key, purpose)
    begin = found.bit_generator.state

    def at(number: int) -> np.random.Generator:
        begin["state"]["key"][1] = purpose << 32 | number
        found.bit_generator.state = begin
        return found

    return at

"""Random numbers that are not masks: initial weights and splits.

Masks and the order of an epoch follow the mask contract. Everything else comes from NumPy's Philox,
seeded from the same seed, so that one number repeats a whole run.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dropcore.key import Key, as_key

__all__ = ["DATA", "WEIGHTS", "generator"]

WEIGHTS: Final = 1
DATA: Final = 3


def generator(key: Key | int, purpose: int, number: int = 0) -> np.random.Generator:
    """A generator of its own for each seed, purpose and number.

    Parameters
    ----------
    key : Key or int
        Only its seed counts.
    purpose : int
        `WEIGHTS` or `DATA` (splits and noise of data sets), below 2**32.
    number : int, default 0
        Tells generators of one purpose apart, such as that of a split. Below 2**32.

    Returns
    -------
    numpy.random.Generator
        Over Philox with the 128-bit key (seed, purpose << 32 | number).
    """
    # A list with integers beyond 2**63 would pass through float64 and lose its low bits.
    words = np.array([as_key(key).seed, purpose << 32 | number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=words))

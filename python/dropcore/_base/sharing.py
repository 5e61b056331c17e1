"""The share of a batch that a call computes, where other calls or processes compute the rest.

`fit` cuts a batch into blocks of rows, each of which goes through the model by itself. Most layers
need not know: the masks of a block follow from its row offset, and the gradients of all blocks are
added. The few whose result depends on all rows ask `current_share` for the numbers of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Merge", "Numbers", "Share", "added", "current_share", "penalties_added", "sharing",
]  # fmt: skip

Numbers = NDArray[np.float64]

Merge = Callable[[Numbers, Numbers], Numbers]
"""The numbers of two neighbouring groups of rows as those of both; the arrays do not change."""


class Share(Protocol):
    """A block of the rows of a batch.

    Attributes
    ----------
    rows : int
        Of the whole batch.
    adds_penalties : bool
        Whether the gradient of this block has the terms that do not depend on rows, such as the
        penalty of a learned rate: one block of the batch adds them.
    moves_buffers : bool
        Whether the backward pass of this block moves the buffers of the model, such as running
        means: one block of each process moves them.
    """

    rows: int
    adds_penalties: bool
    moves_buffers: bool

    def combined(self, numbers: Numbers, merge: Merge) -> Numbers:
        """The numbers of all blocks, merged in one fixed order.

        All blocks must call it equally often, with arrays of one shape.

        Parameters
        ----------
        numbers : float64 ndarray
            Of this block, in host memory.
        merge : callable
        """


_CURRENT: ContextVar[Share | None] = ContextVar("dropcore_share", default=None)


def current_share() -> Share | None:
    """The block that is being computed; None if the rows are all of the batch."""
    return _CURRENT.get()


def penalties_added() -> bool:
    """Whether gradients have the terms that do not depend on rows."""
    share = current_share()
    return share is None or share.adds_penalties


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Make `share` the block that is being computed."""
    token = _CURRENT.set(share)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def added(a: Numbers, b: Numbers) -> Numbers:
    """The sum, as a `Merge`."""
    return a + b

"""The blocks of rows that a batch is cut into, and which of them belong to this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dropcore._base.checks import check_integer
from dropcore._base.extras import require
from dropcore._base.sharing import Merge, Numbers, sharing
from dropcore.distributed._group import Alone

__all__ = ["WHOLE", "Block", "Blocks", "checked_blocks", "computed", "tree"]


@dataclass(frozen=True)
class Blocks:
    """Which rows of each batch this process computes.

    Block s of `count` has the rows [n s / count, n (s + 1) / count) of a batch of n rows, rounded
    down. A process has the blocks [first, last).

    Attributes
    ----------
    count : int
        Blocks of a batch.
    first, last : int
        Those of this process.
    """

    count: int = 1
    first: int = 0
    last: int = 1

    def rows(self, n: int) -> list[range]:
        """The rows of each block of this process, in a batch of n rows."""
        return [
            range(n * s // self.count, n * (s + 1) // self.count)
            for s in range(self.first, self.last)
        ]


WHOLE = Blocks()
"""All rows in one block."""


def checked_blocks(blocks: Any, group: Alone, batch_size: int | None) -> Blocks | None:
    """The blocks of this process for the arguments of `fit`; None if the batch is not cut.

    Raises
    ------
    TypeError, ValueError
        If `blocks` is not a power of two, or does not suit the number of ranks or the batch.
    """
    ranks = group.size
    if blocks is None:
        if batch_size is not None and ranks > batch_size:
            raise ValueError(
                f"comm: {ranks} ranks need batches of at least as many samples, got "
                f"batch_size={batch_size}"
            )
        return None if ranks == 1 else Blocks(ranks, group.rank, group.rank + 1)
    count = check_integer("blocks", blocks, 1)
    if count & (count - 1):
        raise ValueError(f"blocks must be a power of two, such as 4 or 8, got {count}")
    if count % ranks:
        fitting = ", ".join(str(1 << k) for k in range(count.bit_length()))
        raise ValueError(f"blocks={count} is for {fitting} ranks, got {ranks}")
    if batch_size is not None and count > batch_size:
        raise ValueError(
            f"blocks={count} of batch_size={batch_size} samples would leave blocks without any: "
            "use fewer blocks or larger batches"
        )
    each = count // ranks
    return Blocks(count, group.rank * each, (group.rank + 1) * each)


def tree(values: Sequence[Any], merge: Callable[[Any, Any], Any]) -> Any:
    """Merge neighbours, then neighbours of what was merged, and so on; of 2**k values."""
    while len(values) > 1:
        values = [merge(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


class Block:
    """One block of a batch while it is computed: see `Share`.

    Attributes
    ----------
    place : int
        Among the blocks of this process.
    rows : int
        Of the whole batch.
    adds_penalties, moves_buffers : bool
    """

    def __init__(
        self, place: int, number: int, rows: int, combine: Callable[[Numbers, Merge], Numbers]
    ) -> None:
        self.place, self.rows = place, rows
        self.adds_penalties, self.moves_buffers = number == 0, place == 0
        self._combine = combine

    def combined(self, numbers: Numbers, merge: Merge) -> Numbers:
        return self._combine(numbers, merge)


def computed(blocks: Blocks, group: Alone, rows: int, task: Callable[[Block], Any]) -> list[Any]:
    """The results of a task for each block of this process, of a batch of so many rows.

    The tasks run on one thread, since the core has one pool of threads for each, and take turns:
    where one asks for the numbers of all blocks, the next one goes on.
    """
    numbers = range(blocks.first, blocks.last)
    if len(numbers) == 1:
        block = Block(0, numbers[0], rows, group.combined)
        with sharing(block):
            return [task(block)]
    greenlets: Any = require("greenlet", "mpi", "a process that computes several blocks")
    turns = greenlets.getcurrent()

    def combine(own: Numbers, merge: Merge) -> Numbers:
        found: Numbers = turns.switch((own, merge))
        return found

    def run(block: Block) -> Any:
        with sharing(block):
            return task(block)

    running = [greenlets.greenlet(run) for _ in numbers]
    found = [
        each.switch(Block(place, number, rows, combine))
        for place, (each, number) in enumerate(zip(running, numbers, strict=True))
    ]
    while any(not each.dead for each in running):
        merge = found[0][1]
        both = group.combined(tree([own for own, _ in found], merge), merge)
        found = [each.switch(both) for each in running]
    return found

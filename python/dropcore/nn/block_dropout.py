"""DropBlock: dropout of neighbourhoods."""

from __future__ import annotations

import math
from typing import Any

from dropcore._base.checks import check_integer
from dropcore._base.device import array_namespace
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn.dropout import MaskLayer, check_row_offset, first_element
from dropcore.nn.layer import Array
from dropcore.nn.rates import Given

__all__ = ["BlockDropout"]


class BlockDropout(MaskLayer):
    """Drop blocks of neighbouring positions, for each sample and channel separately (DropBlock).

    A block begins at a position, if it fits there, with probability gamma, so that about `rate` of
    all positions belong to one. They are fewer where blocks overlap: even at rate 1 some may be
    kept::

        gamma = rate * product over the axes of size / (block * (size - block + 1))
        y = x * m * (positions of the sample) / (its kept positions)

    The paper normalises by the count of kept positions in the batch; here each sample has its own
    count, so that no sample depends on how the batch is cut. A sample with none is zero.

    Parameters
    ----------
    rate, keep : float or callable
        As for `Dropout`.
    block_size : int, default 7
        Edge of a block; the whole axis where that is shorter.

    Raises
    ------
    TypeError, ValueError
        For a rate outside [0, 1] or a block size that is not positive.

    References
    ----------
    Ghiasi, Lin and Le 2018, "DropBlock: a regularization method for convolutional networks".
    """

    homogeneous = True

    def __init__(self, rate: Given = None, *, keep: Given = None, block_size: int = 7) -> None:
        super().__init__(rate, keep)
        self.block_size = check_integer("BlockDropout: block_size", block_size, 1)

    def shared(self, ndim: int) -> set[int]:
        if ndim not in (3, 4):
            raise ValueError(
                f"{self!r} expects an input (batch, time, features) or (batch, height, width, "
                f"channels), got one with {ndim} axes, the batch among them"
            )
        return set()

    def mask(
        self, shape: tuple[int, ...], key: Key | int, row_offset: int = 0, like: Any = None
    ) -> Mask:
        self.shared(len(shape))
        row_offset = check_row_offset(shape, row_offset)
        address = as_key(key)
        blocks = [min(self.block_size, n) for n in shape[1:-1]]
        fits = [n - block + 1 if n else 0 for n, block in zip(shape[1:-1], blocks, strict=True)]
        own = (shape[0], *fits, shape[-1])
        keep = self._rate.keep_for_rows(address.step, len(shape), shape[0], row_offset, like)
        cover = math.prod(shape[1:-1]) / max(math.prod(blocks) * math.prod(fits), 1)
        begins = Mask(own, (1.0 - keep) * cover, key=address, offset=first_element(own, row_offset))
        kept = ~_spread(~begins.to_bool(like), blocks)
        n_kept = kept.sum(axis=tuple(range(1, len(shape))), keepdims=True)
        return Mask.given(kept, keep=n_kept / max(math.prod(shape[1:]), 1))


def _spread(begins: Array, blocks: list[int]) -> Array:
    """All positions of the blocks that begin where `begins` is true, axis by axis."""
    xp, spread = array_namespace(begins), begins
    for axis, block in enumerate(blocks, 1):
        n = spread.shape[axis]
        shape = list(spread.shape)
        shape[axis] = n + block - 1 if n else 0
        wider = xp.zeros(shape, bool)
        views = xp.moveaxis(wider, axis, 0)
        for shift in range(block):
            part = views[shift : shift + n]
            xp.logical_or(part, xp.moveaxis(spread, axis, 0), out=part)
        spread = wider
    return spread

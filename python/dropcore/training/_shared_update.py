"""An update of the weights that several blocks of a batch, or several processes, make together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.device import array_namespace
from dropcore._base.sharing import added
from dropcore.distributed._blocks import Block, Blocks, computed
from dropcore.distributed._group import Alone
from dropcore.distributed._reduction import Reduction
from dropcore.key import Key
from dropcore.losses import Array, Loss, Number
from dropcore.optim import Optimizer
from dropcore.training._means import Found, Means, loss_of
from dropcore.training._nonfinite import first_nonfinite
from dropcore.training._sources import Piece
from dropcore.training._update import Update
from dropcore.training.state import TrainingState

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["SharedUpdate"]


class SharedUpdate(Update):
    """An update by a batch that is cut into blocks.

    The gradient of the batch is the sum of those of the blocks, each by its share of the mean loss.
    The loss is exchanged between the forward and the backward pass, so that either all processes
    make the update or none.

    Parameters
    ----------
    model, optimizer, loss, state
        As of `Update`.
    blocks : Blocks
    group : Alone or Group
    fixed : bool
        Whether the order of the sum must not depend on the number of processes.
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        loss: Loss,
        state: TrainingState,
        *,
        blocks: Blocks,
        group: Alone,
        fixed: bool,
    ) -> None:
        super().__init__(model, optimizer, loss, state)
        self._blocks, self._group = blocks, group
        self._reduction = Reduction(group, self._params, blocks, fixed=fixed)
        self._bad: Piece | None = None

    def make(self, pieces: Sequence[Piece], key: Key, means: Means) -> tuple[Number, Found]:
        names = means.names
        self._bad = None

        def step(block: Block) -> tuple[Array, Found]:
            with np.errstate(all="ignore"):
                return self._step(block, pieces[block.place], key, means)

        steps = computed(self._blocks, self._group, pieces[0].rows, step)
        whole = steps[0][0]
        total, weight = whole[1]
        value = float(total / (weight or 1.0))
        if not math.isfinite(value):
            return value, Found({}, [])
        kept = [each for _, found in steps for each in found.kept]
        if means.keeps_batches:
            kept = [each for of_rank in self._group.gathered(kept) for each in of_rank]
        with np.errstate(all="ignore"):
            self._apply(self._reduction.result())
        totals = {n: (float(a), float(b)) for n, (a, b) in zip(names, whole[1:], strict=True)}
        return value, Found(totals, kept)

    def _step(self, block: Block, piece: Piece, key: Key, means: Means) -> tuple[Array, Found]:
        """Forward and backward pass of a block; the totals of all blocks, and its own outputs."""
        batch = piece.batch
        out, _, backward = self._model.forward_from(
            batch.x, None, key=key, row_offset=piece.row_offset, **batch.lengths_kwargs
        )
        if len(batch.x):
            value, dout, scored = loss_of(self._loss, out, batch)
            found = means.of_batch(value, scored).on_host()
        else:
            dout, found = array_namespace(out).zeros_like(out), Found({}, [])
        own = np.zeros((1 + len(means.names), 2))
        own[0, 0] = len(batch.x)
        for place, name in enumerate(means.names, 1):
            own[place] = found.totals.get(name, (0.0, 0.0))
        if not np.isfinite(own[1, 0]):
            self._bad = piece
        whole = block.combined(own, added)
        if whole[0, 0] != piece.rows:
            raise ValueError(
                f"the ranks have different batches: this one has {piece.rows} rows, and the parts "
                f"of all ranks have {whole[0, 0]:.0f} together"
            )
        if np.isfinite(whole[1, 0]):
            share = own[1, 1] / (whole[1, 1] or 1.0)
            if share != 1:
                dout = dout * dout.dtype.type(share)
            self.partial = bool(self._model.buffers)  # which the backward pass moves
            for grads in _by_stage(backward, dout):
                self._reduction.add(block.place, grads)
        return whole, found

    def culprit(self, pieces: Sequence[Piece], key: Key) -> str:
        own = None
        if self._bad is not None:
            batch = self._bad.batch
            own = first_nonfinite(self._model, batch.x, key, batch.lengths)
        told = self._group.gathered(own)
        found = [f"on rank {rank}, {text}" for rank, text in enumerate(told) if text is not None]
        if self._group.size == 1:
            found = [text for text in told if text is not None]
        return "; ".join(found[:3]) or "the loss of each block is finite, and their sum is not"


def _by_stage(backward: Any, dout: Array) -> Iterator[dict[str, Gradient]]:
    """The gradients for an update, as they are computed if the model can tell them apart."""
    by_stage = getattr(backward, "by_stage", None)
    if by_stage is not None:
        yield from by_stage(dout)
    else:
        yield backward(dout, input_gradient=False, for_update=True)[1]

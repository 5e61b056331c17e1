"""The updates of an epoch, which `fit` repeats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dropcore._base.device import on_device
from dropcore.distributed._blocks import WHOLE, Blocks
from dropcore.distributed._group import Alone
from dropcore.key import Key
from dropcore.losses import Loss, Number
from dropcore.optim import Optimizer
from dropcore.training._data import Batch
from dropcore.training._interrupts import Interrupts
from dropcore.training._means import Found, Means, Scored
from dropcore.training._measures import Measures
from dropcore.training._nonfinite import nonfinite_weights
from dropcore.training._shared_update import SharedUpdate
from dropcore.training._sources import Piece, Source
from dropcore.training._update import Update
from dropcore.training._warnings import divergence_hints
from dropcore.training.callbacks._base import Run
from dropcore.training.state import Snapshot, TrainingState, UnfinishedEpoch

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer
    from dropcore.training._graphed_step import GraphedStep

__all__ = ["Training"]


@dataclass
class Training:
    """What stays the same during a call of `fit`."""

    model: Layer
    optimizer: Optimizer
    loss: Loss
    source: Source
    state: TrainingState
    address: Key
    interrupts: Interrupts
    cuda_graph: bool
    measures: Measures
    group: Alone
    blocks: Blocks | None
    fixed: bool
    update: Update | None = None
    good: Snapshot | None = None
    graphed: GraphedStep[tuple[Number, Scored]] | None = None

    def use(self, optimizer: Optimizer) -> None:
        """Go on with an optimiser that differs in its learning rate only."""
        self.optimizer = optimizer
        if self.update is not None:
            self.update.optimizer = optimizer
        if self.graphed is not None:
            self.graphed.use(optimizer)

    def epoch(
        self,
        run: Run,
        advance: Callable[[Number | None], object],
        after_update: Sequence[Callable[[Run], object]],
    ) -> dict[str, float]:
        """Go through the data once, or through what is left of it, and return the metrics.

        `advance(loss)` and the functions `after_update` are called after each update.
        """
        model, state, address = self.model, self.state, self.address
        loss = self.loss
        if self.good is None:
            self.good = Snapshot(model, state)
        else:
            self.good.renew()
        if self.update is None or not self.update.is_current():
            self.update = self._new_update()
        update = self.update
        progress = state.unfinished
        if progress is None:
            progress = state.unfinished = UnfinishedEpoch()
        for _ in range(progress.batches):
            advance(None)
        means = Means(loss, self.measures, progress.sums, progress.scored)
        for pieces in self.source.pieces(self.blocks or WHOLE, state.epoch, progress.batches):
            here = address.at(step=address.step + state.step)
            with self.interrupts.deferred:
                self.group.doing(f"update {state.step + 1}")
                made = state.step
                try:
                    value, found = self._update(update, pieces, here, means)
                    fine = on_device(value) or math.isfinite(value)
                    if fine:
                        means.add(found)
                        progress.batches += 1
                except Exception:
                    # Part of an update, or one without its metrics, which cannot be taken back.
                    if update.partial or state.step != made:
                        self.good.restore()
                    raise
            if not fine:
                culprit = update.culprit(pieces, here)
                raise self._diverged(f"the loss is {value}", culprit, self.good)
            advance(value)
            for function in after_update:
                function(run)
        bad = nonfinite_weights(model)
        if bad:
            raise self._diverged("the weights are not finite", bad, self.good)
        metrics = means.result()
        if not math.isfinite(metrics["loss"]):  # a device is not asked after every update
            raise self._diverged(
                f"the loss is {metrics['loss']}", "the weights are finite", self.good
            )
        return metrics

    def _new_update(self) -> Update:
        what = self.model, self.optimizer, self.loss, self.state
        if self.blocks is None:
            return Update(*what)
        return SharedUpdate(*what, blocks=self.blocks, group=self.group, fixed=self.fixed)

    def _update(
        self, update: Update, pieces: list[Piece], here: Key, means: Means
    ) -> tuple[Number, Found]:
        batch = pieces[0].batch
        if self.cuda_graph and self.graphed is None and len(batch.x) == self.source.size:
            self.graphed = _graphed(update, self.optimizer, self.state, batch)
        if self.graphed is not None and self.graphed.fits(batch.x, batch.y):
            value, scored = self.graphed(batch.x, batch.y, here)
            return value, means.of_batch(value, scored)
        return update.make(pieces, here, means)

    def _diverged(self, what: str, culprit: str, good: Snapshot) -> FloatingPointError:
        """The error to raise, when model and state are back at the start of the epoch."""
        step, epoch = self.state.step, self.state.epoch + 1
        with self.interrupts.deferred:
            good.restore()
        begun = self.state.unfinished is None
        place = f"the start of epoch {epoch}" if begun else "where training was resumed"
        return FloatingPointError(
            f"{what} at step {step}, in epoch {epoch}: {culprit}. Weights and optimiser state are "
            f"back to {place}; {divergence_hints(self.model, self.source.data)}"
        )


def _graphed(
    update: Update, optimizer: Optimizer, state: TrainingState, batch: Batch
) -> GraphedStep[tuple[Number, Scored]]:
    from dropcore.training._graphed_step import GraphedStep

    def of_arrays(x: Any, y: Any, key: Key) -> tuple[Number, Scored]:
        value, scored, *_ = update(Batch(x, y), key)
        return value, scored

    return GraphedStep(of_arrays, optimizer, state, batch.x, batch.y)

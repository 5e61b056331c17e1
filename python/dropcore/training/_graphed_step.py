"""Updates on a GPU as one CUDA graph that is launched again for every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dropcore._backends.cuda.graphs import Graph
from dropcore._backends.cuda.updates import hyperparameters_of
from dropcore.key import Key
from dropcore.losses import Array
from dropcore.optim import Optimizer, rule_of
from dropcore.training.state import TrainingState

__all__ = ["GraphedStep"]

Result = TypeVar("Result")


class GraphedStep(Generic[Result]):
    """An update that runs once, is recorded with the second batch, and is launched from then on.

    Parameters
    ----------
    update : callable
        ``update(x, targets, key)`` makes an update, counts it in `state` and returns arrays.
    optimizer : Optimizer
    state : TrainingState
    x, targets : cupy.ndarray
        A batch. All batches must have these shapes and dtypes.
    """

    def __init__(
        self,
        update: Callable[[Array, Array, Key], Result],
        optimizer: Optimizer,
        state: TrainingState,
        x: Array,
        targets: Array,
    ) -> None:
        self._update, self._state = update, state
        self._rule = rule_of(optimizer)
        self._graph = Graph()
        self._x = self._graph.empty(x.shape, x.dtype)
        self._targets = self._graph.empty(targets.shape, targets.dtype)
        self._rehearsed = False
        self._first: Key | None = None
        self._found: Any = None

    def use(self, optimizer: Optimizer) -> None:
        """Go on with an optimiser that differs in its hyperparameters only."""
        self._rule = rule_of(optimizer)

    def fits(self, x: Array, targets: Array) -> bool:
        """Whether a batch is of the size that was recorded."""
        return x.shape == self._x.shape and targets.shape == self._targets.shape

    def __call__(self, x: Array, targets: Array, key: Key) -> Result:
        """Make an update. The next call overwrites the arrays that are returned."""
        self._x[...] = x
        self._targets[...] = targets
        if not self._rehearsed:
            self._graph.set(0, self._hyperparameters())
            self._rehearsed = True
            return self._graph.rehearse(lambda: self._update(self._x, self._targets, key))
        if self._first is None:
            self._graph.set(0, self._hyperparameters())
            step = self._state.step
            try:
                self._found = self._graph.record(lambda: self._update(self._x, self._targets, key))
            except BaseException:
                self._state.step = step
                raise
            self._first = key
        else:
            self._graph.set(key.step - self._first.step, self._hyperparameters())
            self._state.step += 1
        self._graph.launch()
        return self._found

    def _hyperparameters(self) -> dict[str, float]:
        """The hyperparameters of the next update."""
        return hyperparameters_of(*self._rule(self._state.step - self._state.begun))

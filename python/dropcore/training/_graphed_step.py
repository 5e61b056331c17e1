"""Updates on a GPU as one CUDA graph that is launched again for every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dropcore._backends.cuda.graphs import Graph
from dropcore._backends.cuda.updates import captured_hyperparameters
from dropcore._base.device import array_namespace
from dropcore.key import Key
from dropcore.losses import Number
from dropcore.nn.layer import Array
from dropcore.optim import Optimizer
from dropcore.training._state import TrainingState

__all__ = ["GraphedStep"]

Update = Callable[[Array, Array, Key], tuple[Number, Array]]
"""(x, targets, key) -> the loss and the outputs, after an update."""


class GraphedStep:
    """An update that is done once, recorded with the second batch, and launched from then on.

    Parameters
    ----------
    update : callable
        Which makes an update and counts it in `state`.
    optimizer : Optimizer
    state : TrainingState
    x, targets : cupy.ndarray
        A batch. All batches must have these shapes and dtypes.
    """

    def __init__(
        self, update: Update, optimizer: Optimizer, state: TrainingState, x: Array, targets: Array
    ) -> None:
        self._update, self._optimizer, self._state = update, optimizer, state
        self._graph = Graph()
        self._x = self._graph.empty(x.shape, x.dtype)
        self._targets = self._graph.empty(targets.shape, targets.dtype)
        self._rehearsed = False
        self._first: Key | None = None
        self._found: Any = None
        one = array_namespace(x).zeros((1,), x.dtype if x.dtype.kind == "f" else "float32")
        self._like = {"one": one}
        self._slots = {kind: {"one": one.copy()} for kind in state.slots}

    def fits(self, x: Array, targets: Array) -> bool:
        """Whether a batch is of the size that was recorded."""
        return x.shape == self._x.shape and targets.shape == self._targets.shape

    def __call__(self, x: Array, targets: Array, key: Key) -> tuple[Number, Array]:
        """Make an update. What is returned is overwritten by the next call."""
        self._x[...] = x
        self._targets[...] = targets
        if not self._rehearsed:
            self._graph.set(0, self._numbers())
            self._rehearsed = True
            return self._graph.rehearse(lambda: self._update(self._x, self._targets, key))
        if self._first is None:
            self._graph.set(0, self._numbers())
            step = self._state.step
            try:
                self._found = self._graph.record(lambda: self._update(self._x, self._targets, key))
            except BaseException:
                self._state.step = step
                raise
            self._first = key
        else:
            self._graph.set(key.step - self._first.step, self._numbers())
            self._state.step += 1
        self._graph.launch()
        return self._found

    def _numbers(self) -> list[float]:
        """The numbers of the optimiser's rule in the update that comes."""
        step = self._state.step - self._state.begun
        with captured_hyperparameters() as found:
            self._optimizer.apply(self._like, {"one": self._like["one"].copy()}, self._slots, step)
        return found

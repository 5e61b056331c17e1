"""Where training stands: what a second call of `fit` goes on from, and goes back to."""

from __future__ import annotations

from dataclasses import dataclass, field

from dropcore.nn.layer import Layer
from dropcore.optim import Arrays, Optimizer, State, kind_of

__all__ = ["Snapshot", "TrainingState"]


@dataclass(eq=False)
class TrainingState:
    """How far a model has been trained.

    Attributes
    ----------
    step : int
        Updates made. It is the step of the next update's masks.
    epoch : int
        Epochs finished. It is the number of the next epoch's shuffle.
    optimizer : str
        The class that `slots` belong to.
    begun : int
        Updates that had been made when `slots` were new: the optimiser counts its steps from there.
    slots : dict
        The optimiser's state.
    """

    step: int = 0
    epoch: int = 0
    optimizer: str = ""
    begun: int = 0
    slots: State = field(default_factory=dict)

    def prepare(self, optimizer: Optimizer, params: Arrays) -> None:
        """Keep the slots if they are of the same kind of optimiser, else start new ones."""
        name, fresh = kind_of(optimizer), optimizer.init(params)
        if name != self.optimizer or fresh.keys() != self.slots.keys():
            self.optimizer, self.slots, self.begun = name, fresh, self.step


class Snapshot:
    """A copy of a model's weights and training state, taken at creation, to go back to."""

    def __init__(self, model: Layer, state: TrainingState) -> None:
        self._state = state
        self._counts = state.step, state.epoch
        live = [
            *model.params.values(),
            *model.buffers.values(),
            *(a for slot in state.slots.values() for a in slot.values()),
        ]
        self._saved = [(array, array.copy()) for array in live]

    def restore(self) -> None:
        """Put everything back in place."""
        self._state.step, self._state.epoch = self._counts
        for array, saved in self._saved:
            array[...] = saved

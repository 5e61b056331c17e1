"""Training progress: what the next `fit` resumes from, and what a failed epoch returns to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dropcore.losses import CheckedLoss, Loss
from dropcore.optim import Arrays, Optimizer, State, kind_of
from dropcore.training.history import History

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["Snapshot", "TrainingState", "training_state_of"]


@dataclass(eq=False)
class TrainingState:
    """How far a model has been trained: ``model.training_state``.

    Attributes
    ----------
    step : int
        Number of updates made, which is the step of the next update's masks.
    epoch : int
        Number of finished epochs, which is the number of the next epoch's shuffle.
    optimizer : str
        The class that `slots` belong to.
    begun : int
        Value of `step` when `slots` were new: the optimiser counts its steps from there.
    slots : dict
        The state of the optimiser.
    loss : Loss or None
        The loss of the last `fit` or `step`, which `evaluate` uses. A function of one's own is left
        out of pickles and copies.
    feature_names : list of str or None
        The columns of the data frame that the last `fit` got.
    history : History
        The epochs of the last call of `fit`, also if it was interrupted.
    """

    step: int = 0
    epoch: int = 0
    optimizer: str = ""
    begun: int = 0
    slots: State = field(default_factory=dict)
    loss: Loss | None = None
    feature_names: list[str] | None = None
    history: History = field(default_factory=History)

    def prepare(self, optimizer: Optimizer, params: Arrays) -> None:
        """Keep the slots if they belong to such an optimiser and these parameters; else renew."""
        name = kind_of(optimizer)
        # Of one number of each parameter: `init` checks it, and allocates next to nothing.
        kinds = optimizer.init({path: array.reshape(-1)[:1] for path, array in params.items()})
        if (
            name != self.optimizer
            or kinds.keys() != self.slots.keys()
            or any(slot.keys() != params.keys() for slot in self.slots.values())
        ):
            slots = optimizer.init(params)
            self.optimizer, self.slots, self.begun = name, slots, self.step

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if not isinstance(self.loss, CheckedLoss):
            state["loss"] = None
        return state


class Snapshot:
    """A copy of the weights and the training state of a model, which `restore` puts back."""

    def __init__(self, model: Layer, state: TrainingState) -> None:
        self._state = state
        self._counts = state.step, state.epoch
        arrays = [
            *model.params.values(),
            *model.buffers.values(),
            *(a for slot in state.slots.values() for a in slot.values()),
        ]
        self._saved = [(array, array.copy()) for array in arrays]

    def restore(self) -> None:
        """Put everything back in place."""
        self._state.step, self._state.epoch = self._counts
        for array, saved in self._saved:
            array[...] = saved


def training_state_of(model: Layer) -> TrainingState:
    """The training state of the model, which is new where there is none."""
    if model.training_state is None:
        model.training_state = TrainingState()
    return model.training_state

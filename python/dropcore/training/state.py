"""Training progress: what the next `fit` resumes from, and what a failed epoch returns to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from dropcore.key import Key
from dropcore.losses import CheckedLoss, Loss, Number
from dropcore.optim import Arrays, Optimizer, State, kind_of
from dropcore.training.history import History

if TYPE_CHECKING:
    from dropcore.data import Preprocessing, TargetScaling
    from dropcore.nn.layer import Layer

__all__ = ["Snapshot", "TrainingState", "UnfinishedEpoch", "training_state_of"]


@dataclass(eq=False)
class UnfinishedEpoch:
    """An epoch that has begun, which ``fit(resume=True)`` finishes.

    Attributes
    ----------
    batches : int
        Number of updates made.
    sums : dict of str to [float, float]
        For each metric the sum over these updates, and the weight that it is divided by. On a GPU
        they may be arrays without axes.
    scored : list of tuple
        Outputs, targets and weights of samples (or None) of each update, if a metric needs all at
        once.
    """

    batches: int = 0
    sums: dict[str, list[Number]] = field(default_factory=dict)
    scored: list[tuple[Any, Any, Any]] = field(default_factory=list)


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
        The epochs of the last call of `fit`, also if it was interrupted, and of those that it
        resumed.
    call : dict of str to str
        Those arguments of the last `fit` that decide its updates, and the number of samples, in
        words: ``fit(resume=True)`` needs the same.
    key : Key or None
        Of the last `fit` or `step`, which the next one uses if it is given none.
    classes : ndarray or None
        The user's labels, sorted: output k stands for ``classes[k]``. None where labels are the
        numbers of the outputs.
    preprocessing : Preprocessing or None
        What x goes through, fitted to the data of training.
    target_scaling : TargetScaling or None
        What y was standardised by.
    callbacks : dict of str to dict
        What callbacks need if training is resumed, by the name of their class.
    learning_rate_factor : float
        What callbacks have set the learning rate to, as a multiple of the optimiser's own.
    stopped : bool
        Whether a callback ended the last call of `fit`.
    unfinished : UnfinishedEpoch or None
        The epoch that was interrupted, if one was.
    notes : dict of str to value
        What else belongs to the model: numbers, strings, None, lists and dicts of these. `fit`
        leaves it alone, and it is saved. The command line keeps the name of the target here.
    """

    step: int = 0
    epoch: int = 0
    optimizer: str = ""
    begun: int = 0
    slots: State = field(default_factory=dict)
    loss: Loss | None = None
    feature_names: list[str] | None = None
    history: History = field(default_factory=History)
    call: dict[str, str] = field(default_factory=dict)
    key: Key | None = None
    classes: NDArray[Any] | None = None
    preprocessing: Preprocessing | None = None
    target_scaling: TargetScaling | None = None
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    learning_rate_factor: float = 1.0
    stopped: bool = False
    unfinished: UnfinishedEpoch | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def prepare(self, optimizer: Optimizer, params: Arrays) -> None:
        """Keep the slots if they belong to such an optimiser and these parameters; else renew.

        Parameters
        ----------
        optimizer : Optimizer
            That of the next update.
        params : dict of str to ndarray
            By path, as ``layer.params``.
        """
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
    """A copy of the weights and the training state of a model, which `restore` puts back.

    It is for arrays that are changed in place: those of the model and the state at creation.
    """

    def __init__(self, model: Layer, state: TrainingState) -> None:
        self._state = state
        arrays = [
            *model.params.values(),
            *model.buffers.values(),
            *(a for slot in state.slots.values() for a in slot.values()),
        ]
        self._saved = [(array, array.copy()) for array in arrays]
        self._count()

    def renew(self) -> None:
        """Copy everything again, into the same memory."""
        for array, saved in self._saved:
            saved[...] = array
        self._count()

    def _count(self) -> None:
        self._counts = self._state.step, self._state.epoch
        # Its lists grow, and what is in them stays.
        self._unfinished = _shallow(self._state.unfinished)

    def restore(self) -> None:
        """Put everything back in place."""
        self._state.step, self._state.epoch = self._counts
        self._state.unfinished = _shallow(self._unfinished)
        for array, saved in self._saved:
            array[...] = saved


def _shallow(epoch: UnfinishedEpoch | None) -> UnfinishedEpoch | None:
    """A copy whose dict and list are its own."""
    if epoch is None:
        return None
    return replace(epoch, sums=dict(epoch.sums), scored=list(epoch.scored))


def training_state_of(model: Layer) -> TrainingState:
    """The training state of the model, which is new where there is none."""
    if model.training_state is None:
        model.training_state = TrainingState()
    return model.training_state

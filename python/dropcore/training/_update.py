"""One update of the weights, which `fit` repeats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dropcore._backends.gradients import Gradient
from dropcore._base.device import on_device
from dropcore.key import Key
from dropcore.losses import Array, Loss, Number
from dropcore.optim import Optimizer
from dropcore.training._choices import (
    address_of,
    announce_loss,
    check_address,
    check_model,
    named_loss,
    optimizer_of,
)
from dropcore.training._data import (
    Batch,
    Data,
    check_feature_names,
    checked_data,
    feature_names,
    model_dtype,
)
from dropcore.training._interrupts import Interrupts
from dropcore.training._labels import announce_classes
from dropcore.training._means import Found, Means, Scored, loss_of
from dropcore.training._nonfinite import first_nonfinite
from dropcore.training._sources import Piece
from dropcore.training.state import TrainingState, training_state_of

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["StepResult", "Update", "prepare", "put_back", "step"]


class StepResult(NamedTuple):
    """What `step` returns.

    Attributes
    ----------
    loss : float
        Of the batch, before the update, without the penalties of regularisers. On a GPU an array
        without axes.
    outputs : ndarray
        Of the model under noise, before the update.
    state
        Of recurrent layers at the end of the batch's sequences; None if the model carries none.
    """

    loss: Number
    outputs: Array
    state: Any


def step(
    model: Layer,
    optimizer: str | Optimizer,
    loss: str | Loss | None,
    x: ArrayLike,
    y: ArrayLike,
    key: Key | int | None = None,
    *,
    lengths: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    state: Any = None,
) -> StepResult:
    """Make one update of a model, exactly as `fit` does.

    The moments of BatchNorm move, gradients of regularisers are added, constraints hold afterwards,
    frozen parameters stay, and ``model.training_state`` counts the update and keeps the state of
    the optimiser. A loop of one's own is::

        for epoch in range(epochs):
            for rows in np.random.default_rng(epoch).permutation(len(x)).reshape(-1, 32):
                result = training.step(model, "adam", "mse", x[rows], y[rows], key=7)
            print(epoch, result.loss)

    Parameters
    ----------
    model : Layer
        Missing weights are drawn, as by `fit`.
    optimizer : str or Optimizer
    loss : str or callable or None
        None is the loss of the last update, or chosen as by `fit`.
    x : array_like, shape (batch, ...)
    y : array_like, shape (batch, ...)
    key : Key or int, optional
        Of the whole run, the same for every update: ``training_state.step`` is added to its step.
        Needed if the model draws masks.
    lengths : array_like of int, shape (batch,), optional
    sample_weight : array_like, shape (batch,), optional
        All as in `fit`.
    state : optional
        What recurrent layers start from: ``result.state`` of the update before, where sequences go
        on from batch to batch. By default they start anew. No gradient flows into it.

    Returns
    -------
    StepResult
        A tuple ``(loss, outputs, state)``.

    Raises
    ------
    TypeError, ValueError
        As `fit`, before anything is changed.
    FloatingPointError
        If the loss is not finite. It names the first layer whose output is not, and no update is
        made. On a GPU the loss is not checked, since that would wait for the device: check
        ``result.loss`` from time to time.
    MemoryError
        If there is not enough memory. If some of the weights or moments had changed already, a note
        of the error says so; else the model is as it was.
    """
    check_model(model)
    rule, address = optimizer_of(optimizer), address_of(model, key)
    if model.training_state is not None and feature_names(x) is not None:
        check_feature_names("x", x, model.training_state.feature_names)
    data = checked_data(model, x, y, lengths, sample_weight, loss=named_loss(loss, model))
    before = model.training_state
    check_address(model, address, 0 if before is None else before.step, 1)
    assert data.loss is not None
    with Interrupts() as interrupts:
        with interrupts.deferred:
            kept = {} if before is None else dict(vars(before))
            training = prepare(model, rule, address, data, announce=loss is None)
        first = training.step
        batch, here = data.take(slice(None)), address.at(step=address.step + first)
        update = Update(model, rule, data.loss, training)
        with interrupts.deferred:
            try:
                value, _, outputs, left = update(batch, here, state)
            except Exception as error:
                if update.partial:
                    error.add_note(
                        f"Part of update {first} was made: go on from a model that was saved or "
                        "copied before, or use fit, which goes back to the start of the epoch."
                    )
                elif training.step == first:
                    put_back(model, before, kept)
                raise
    if not on_device(value) and not math.isfinite(value):
        culprit = first_nonfinite(model, batch.x, here, batch.lengths)
        raise FloatingPointError(
            f"the loss is {value} at step {training.step}, and no update was made: {culprit}"
        )
    return StepResult(value, outputs, left)


class Update:
    """An update of the weights by a batch.

    What an update needs of the model is looked up once, at creation: make another one where
    `is_current` is false.

    Parameters
    ----------
    model : Layer
    optimizer : Optimizer
    loss : Loss
    state : TrainingState
        Which is counted on.

    Attributes
    ----------
    optimizer : Optimizer
        May be replaced by one that differs in its learning rate only.
    partial : bool
        Whether the last update failed when some of the arrays had changed, as where memory runs out
        between two layers.
    """

    def __init__(
        self, model: Layer, optimizer: Optimizer, loss: Loss, state: TrainingState
    ) -> None:
        self.optimizer, self.partial = optimizer, False
        self._model, self._loss, self._state = model, loss, state
        self._frozen = frozen = model.frozen()
        self._params = {p: array for p, array in model.params.items() if p not in frozen}
        self._constraints = {p: c for p, c in model.constraints.items() if p in self._params}
        self._regularizers = {p: r for p, r in model.regularizers.items() if p in self._params}

    def is_current(self) -> bool:
        """Whether the parameters that are frozen are still those of the creation."""
        return self._frozen == self._model.frozen()

    def __call__(
        self, batch: Batch, key: Key, carried: Any = None
    ) -> tuple[Number, Scored, Array, Any]:
        """Make an update, unless the loss is not finite. Interrupts must be deferred meanwhile.

        On a GPU the loss is not read and the update is always made: the host does not wait for the
        device before the end of the epoch.

        Returns
        -------
        value : float
        scored : Scored
        outputs : ndarray
        state
            Of recurrent layers, for the sequences that follow.
        """
        # What is not finite is reported with its layer, which a warning cannot name.
        with np.errstate(all="ignore"):
            out, left, backward = self._model.forward_from(
                batch.x, carried, key=key, **batch.lengths_kwargs
            )
            value, dout, scored = loss_of(self._loss, out, batch)
            if on_device(value) or math.isfinite(value):
                self.partial = bool(self._model.buffers)  # which the backward pass moves
                self._apply(backward(dout, input_gradient=False, for_update=True)[1])
        return value, scored, out, left

    def make(self, pieces: Sequence[Piece], key: Key, means: Means) -> tuple[Number, Found]:
        """Make an update by the blocks of a batch, unless the loss is not finite.

        Parameters
        ----------
        pieces : sequence of Piece
            Those of this process: here the whole batch.
        key : Key
        means : Means
            Of the epoch.

        Returns
        -------
        value : float
            The loss of the batch.
        found : Found
            What the batch adds to the means.
        """
        value, scored, *_ = self(pieces[0].batch, key)
        fine = on_device(value) or math.isfinite(value)
        return value, means.of_batch(value, scored) if fine else Found({}, [])

    def culprit(self, pieces: Sequence[Piece], key: Key) -> str:
        """What is not finite, after an update that was not made."""
        batch = pieces[0].batch
        return first_nonfinite(self._model, batch.x, key, batch.lengths)

    def _apply(self, grads: dict[str, Gradient]) -> None:
        params, state = self._params, self._state
        if len(grads) != len(params):  # some are frozen
            grads = {path: grads[path] for path in params}
        for path, regularizer in self._regularizers.items():
            grads[path] = regularizer.add_gradient(params[path], grads[path])
        self.partial = True
        try:
            self.optimizer.apply(
                params, grads, state.slots, state.step - state.begun, self._constraints
            )
        except BaseException:
            # An optimiser of one's own failed: the weights that remain satisfy their constraints.
            for path, constraint in self._constraints.items():
                constraint(params[path])
            raise
        state.step += 1
        self.partial = False


def prepare(
    model: Layer,
    optimizer: Optimizer,
    address: Key,
    data: Data,
    *,
    announce: bool,
    quiet: bool = False,
) -> TrainingState:
    """Build the model for checked data and return its training state, ready for an update.

    With `announce` a loss that was chosen is printed, unless `quiet`; so are labels' names.
    """
    shape = data.x.shape[1:]
    if not model.built or model.input_shape != shape:
        model.build(shape, key=address, dtype=model_dtype(model))
    params = model.params
    if not params:
        raise ValueError(f"the model has no weights to train: {model!r}")
    if params.keys() <= model.frozen():
        raise ValueError("all parameters of the model are frozen: nothing is left to train")
    state = training_state_of(model)
    assert data.loss is not None
    classes = data.known.classes
    # False and True are 0 and 1 to anybody.
    encoded = classes is not None and classes.dtype != bool
    if announce and state.loss is None and not quiet:
        announce_loss(data.loss, model.output_shape(shape), encoded=encoded)
    if classes is not None and encoded and state.classes is None and not quiet:
        announce_classes(classes)
    state.loss, state.key, state.classes = data.loss, address, classes
    state.preprocessing, state.target_scaling = data.known.preprocessing, data.known.scaling
    state.prepare(optimizer, params)
    return state


def put_back(model: Layer, state: TrainingState | None, kept: Mapping[str, Any]) -> None:
    """Give the model back the training state that it had, if it had one, with what was in it."""
    if state is not None:
        vars(state).update(kept)
    model.training_state = state

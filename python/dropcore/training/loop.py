"""The loop: fit, predict, evaluate."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from dropcore._backends import to_device
from dropcore._base.device import array_namespace, on_device
from dropcore._base.generators import SHUFFLE, generator
from dropcore.key import Key, as_key
from dropcore.losses import LOSSES, CheckedLoss, Loss, Number
from dropcore.nn.layer import Array, Layer
from dropcore.optim import Optimizer
from dropcore.training._data import Data, checked_count, checked_data, model_dtype
from dropcore.training._nonfinite import first_nonfinite, nonfinite_weights
from dropcore.training._state import Snapshot, TrainingState
from dropcore.training.history import History

if TYPE_CHECKING:
    from dropcore.training._graphed_step import GraphedStep

__all__ = ["evaluate", "fit", "predict"]


def fit(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    epochs: int,
    optimizer: Optimizer,
    batch_size: int = 32,
    loss: str | Loss = "softmax_cross_entropy",
    key: Key | int | None = None,
    validation_data: tuple[ArrayLike, ArrayLike] | None = None,
    progress: bool | None = None,
    lengths: ArrayLike | None = None,
    cuda_graph: bool = False,
) -> History:
    """Train a model on arrays.

    Everything random hangs on the key's seed: the initial weights, the order of the samples in each
    epoch, and the masks, which are addressed by (seed, site, update, row). The same seed on a fresh
    model repeats every bit, for any number of threads. A second call goes on where the first
    stopped, with the same optimiser state, so that two calls of 5 epochs are one of 10. An
    optimiser of another kind begins at its step 0, its learning rate too.

    All arguments are checked before anything is changed.

    Parameters
    ----------
    model : Layer
        Its missing weights are drawn, in float32. For float64 call ``model.build`` first.
    x : array_like, shape (samples, ...)
        Real numbers, converted batch by batch to the dtype of the weights. May be read-only or a
        memory map. For a model on a GPU batches are copied there, unless x and y are there already,
        as CuPy arrays: that is faster.
    y : array_like, shape (samples, ...)
        For cross-entropy integer labels in [0, classes), or a probability for each class; else as
        the loss says.
    epochs : int
        How many more times to go through the data.
    optimizer : Optimizer
        Such as ``SGD(0.1, momentum=0.9)``.
    batch_size : int, default 32
        Samples in an update; the last one of an epoch may have fewer.
    loss : str or callable
        A name or an object from `dropcore.losses`, or any function ``loss(outputs, targets) ->
        (value, doutputs)``, the mean over the batch and its gradient. Regularisers add their
        gradients; what is reported is this loss alone.
    key : Key or int, optional
        Needed if the model has dropout. Without it weights and order are those of seed 0.
    validation_data : (x, y) or (x, y, lengths), optional
        Evaluated after each epoch, without noise.
    progress : bool, optional
        Whether to show a progress bar; by default if stderr is a terminal.
    lengths : array_like of int, shape (samples,), optional
        Of sequences (samples, time, ...) that are padded at the end: the number of valid steps of
        each. For models with a recurrent layer or a pooling over time.
    cuda_graph : bool, default False
        Of a model on a GPU: record the update of a whole batch and launch it as one CUDA graph from
        then on, with the same masks. That saves the host's time, which small models are bound by.
        Nothing in a step may come from the host: no lengths, no rates that change with the step or
        are arrays, no clipping by norm.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        For arguments that cannot be meant.
    FloatingPointError
        If the loss or the weights are not finite. It names the step and the first layer to blame;
        weights, optimiser state and counts are back to the start of the epoch. On a GPU that is
        seen at the end of the epoch, not at the step.
    KeyboardInterrupt
        From the user, with the weights of the last update, so that the model may be used and
        trained on.
    """
    epochs = checked_count("epochs", epochs, 0)
    batch_size = checked_count("batch_size", batch_size, 1)
    if isinstance(optimizer, type) or not all(hasattr(optimizer, m) for m in ("init", "apply")):
        raise TypeError(
            f"optimizer must have the methods init and apply, as SGD(0.1) has, got {optimizer!r}"
        )
    criterion = _criterion(loss)
    address = _address(model, key)
    data = checked_data(model, x, y, lengths, criterion=criterion)
    if validation_data is not None:
        if not isinstance(validation_data, tuple | list) or not 2 <= len(validation_data) <= 3:
            kind = type(validation_data).__name__
            raise TypeError(
                f"validation_data must be a pair of arrays (x, y), got {kind}; with lengths of "
                "sequences (x, y, lengths)"
            )
        held_out = checked_data(
            model, *validation_data, criterion=criterion, name="validation ", like=data
        )

    model.build(data.x.shape[1:], key=address, dtype=model_dtype(model))
    if model.training_state is None:
        model.training_state = TrainingState()
    state = model.training_state
    state.prepare(optimizer, model.params)

    if cuda_graph and model.device != "cuda":
        raise ValueError("cuda_graph is for models on a GPU: use model.to('cuda') first")
    if cuda_graph and lengths is not None:
        raise ValueError("cuda_graph takes no lengths of sequences, which change with the batch")

    def update(
        x_batch: Array, y_batch: Array, here: Key, **lengths_kwargs: Any
    ) -> tuple[Number, Array]:
        return _update(model, optimizer, criterion, state, x_batch, y_batch, here, lengths_kwargs)

    replayed: GraphedStep | None = None
    history = History()
    updates = math.ceil(len(data) / batch_size)
    # tqdm takes None as "only on a terminal".
    hidden = None if progress is None else not progress
    with tqdm(total=epochs * updates, unit="update", disable=hidden) as bar:
        for _ in range(epochs):
            started = perf_counter()
            good = Snapshot(model, state)
            means = _Means(criterion)
            order = generator(address, SHUFFLE, state.epoch).permutation(len(data))
            for start in range(0, len(order), batch_size):
                x_batch, y_batch, lengths_kwargs = data.take(order[start : start + batch_size])
                here = address.at(step=address.step + state.step)
                if cuda_graph and replayed is None and len(x_batch) == batch_size:
                    from dropcore.training._graphed_step import GraphedStep

                    replayed = GraphedStep(update, optimizer, state, x_batch, y_batch)
                if replayed is not None and replayed.fits(x_batch, y_batch):
                    value, out = replayed(x_batch, y_batch, here)
                else:
                    value, out = update(x_batch, y_batch, here, **lengths_kwargs)
                if not on_device(value) and not math.isfinite(value):
                    culprit = first_nonfinite(model, x_batch, here, **lengths_kwargs)
                    raise _diverged(f"the loss is {value}", culprit, state, good)
                means.add(value, out, y_batch)
                bar.update()
            bad = nonfinite_weights(model)
            if bad:
                raise _diverged("the weights are not finite", bad, state, good)
            metrics = means.result()
            if not math.isfinite(metrics["loss"]):  # a device is not asked after every update
                raise _diverged(
                    f"the loss is {metrics['loss']}", "the weights are finite", state, good
                )
            state.epoch += 1
            if validation_data is not None:
                found = _evaluate(model, held_out, criterion, max(batch_size, 1024))
                metrics |= {f"val_{name}": number for name, number in found.items()}
            bar.set_postfix({"epoch": state.epoch} | metrics)
            history.append(state.epoch, metrics | {"seconds": perf_counter() - started})
    return history


def predict(
    model: Layer, x: ArrayLike, *, batch_size: int = 1024, lengths: ArrayLike | None = None
) -> Array:
    """Outputs of a model for each sample, without noise.

    Parameters
    ----------
    model : Layer
    x : array_like, shape (samples, ...)
        As in `fit`.
    batch_size : int, default 1024
    lengths : array_like of int, optional
        As in `fit`.

    Returns
    -------
    ndarray, shape (samples, ...)
        Where x is. What the last layer gives: for a classifier the logits, whose
        ``argmax(axis=-1)`` are the labels.

    Raises
    ------
    TypeError, ValueError
        As `fit`, and if the model has no weights yet.
    """
    batch_size = checked_count("batch_size", batch_size, 1)
    data = checked_data(model, x, lengths=lengths)
    outputs = []
    for start in range(0, len(data), batch_size):
        x_batch, _, lengths_kwargs = data.take(slice(start, start + batch_size))
        outputs.append(
            to_device(model(x_batch, **lengths_kwargs), "cuda" if on_device(data.x) else "cpu")
        )
    return array_namespace(outputs[0]).concatenate(outputs)


def evaluate(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    loss: str | Loss = "softmax_cross_entropy",
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> dict[str, float]:
    """Mean loss over the samples, without noise, and the accuracy where classes are told apart.

    Parameters
    ----------
    model : Layer
    x : array_like, shape (samples, ...)
    y : array_like, shape (samples, ...)
    loss : str or callable
        All as in `fit`.
    batch_size : int, default 1024
    lengths : array_like of int, optional
        As in `fit`.

    Returns
    -------
    dict of str to float
        "loss" and, for cross-entropies, "accuracy".

    Raises
    ------
    TypeError, ValueError
        As `predict`.
    """
    batch_size = checked_count("batch_size", batch_size, 1)
    criterion = _criterion(loss)
    data = checked_data(model, x, y, lengths, criterion=criterion)
    return _evaluate(model, data, criterion, batch_size)


def _update(
    model: Layer,
    optimizer: Optimizer,
    criterion: Loss,
    state: TrainingState,
    x: Array,
    y: NDArray,
    key: Key,
    lengths_kwargs: dict[str, Any],
) -> tuple[Number, Array]:
    """Make one update, or none if the loss is not finite. Returns the loss and the outputs.

    On a GPU the loss stays there, and the update is made whatever it is: nobody looks until the end
    of the epoch.
    """
    # Numbers that are not finite are reported with their layer, which a warning cannot name.
    with np.errstate(over="ignore", invalid="ignore"):
        out, backward = model.forward(x, key=key, **lengths_kwargs)
        value, dout = _of_loss(criterion, out, y)
        if on_device(value) or math.isfinite(value):
            dout = array_namespace(out).asarray(dout, out.dtype)
            _, grads = backward(dout, input_gradient=False, for_update=True)
            params, constraints = model.params, model.constraints
            for path, regularizer in model.regularizers.items():
                grads[path] = regularizer.add_gradient(params[path], grads[path])
            try:
                optimizer.apply(params, grads, state.slots, state.step - state.begun, constraints)
            except BaseException:
                # The user interrupts the update: what is left satisfies its constraints.
                for path, constraint in constraints.items():
                    constraint(params[path])
                raise
            state.step += 1
    return value, out


def _of_loss(criterion: Loss, out: Array, y: NDArray) -> tuple[Number, Array]:
    """The loss and its gradient; TypeError or ValueError if a function gives something else."""
    found = criterion(out, y)
    if isinstance(criterion, CheckedLoss):
        return found
    if not isinstance(found, tuple | list) or len(found) != 2 or np.ndim(found[0]):
        raise TypeError(
            "loss(outputs, targets) must return (value, doutputs), a number and an array like "
            f"outputs, got {found!r}"
        )
    value = found[0] if on_device(found[0]) else float(found[0])
    gradient = array_namespace(out).asarray(found[1], out.dtype)
    if gradient.shape != out.shape:
        raise ValueError(
            "loss(outputs, targets) must return the gradient of outputs in their shape, "
            f"{out.shape}, got {gradient.shape}"
        )
    return value, gradient


def _evaluate(model: Layer, data: Data, criterion: Loss, batch_size: int) -> dict[str, float]:
    means = _Means(criterion)
    for start in range(0, len(data), batch_size):
        x, y, lengths_kwargs = data.take(slice(start, start + batch_size))
        out = model(x, **lengths_kwargs)
        means.add(_of_loss(criterion, out, y)[0], out, y)
    return means.result()


class _Means:
    """Means over several batches, which need not be of one size."""

    def __init__(self, criterion: Loss) -> None:
        self._criterion = criterion
        self._sums: dict[str, list[Number]] = {}

    def add(self, value: Number, out: Array, y: NDArray) -> None:
        """A batch's loss, outputs and targets."""
        loss = self._criterion
        weight = loss.weight(y) if isinstance(loss, CheckedLoss) else float(len(y))
        self._note("loss", value * weight, weight)
        if isinstance(loss, CheckedLoss) and loss.classifies:
            self._note("accuracy", *loss.n_correct(out, y))

    def result(self) -> dict[str, float]:
        """The means; 0 where nothing counts."""
        sums = {name: (float(total), float(n)) for name, (total, n) in self._sums.items()}
        return {name: total / (weight or 1.0) for name, (total, weight) in sums.items()}

    def _note(self, name: str, total: Number, weight: Number) -> None:
        before = self._sums.get(name, [0.0, 0.0])
        self._sums[name] = [before[0] + total, before[1] + weight]


def _criterion(loss: str | Loss) -> Loss:
    if callable(loss) and not isinstance(loss, type):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        choices = ", ".join(map(repr, LOSSES))
        error = ValueError if isinstance(loss, str) else TypeError
        raise error(
            f"loss must be {choices}, an object such as Huber(1.0) or a callable, got {loss!r}"
        )
    return LOSSES[loss]


def _address(model: Layer, key: Key | int | None) -> Key:
    if key is not None:
        return as_key(key)
    stochastic = [
        f"layer {path}, {layer!r}" if path else repr(layer)
        for path, layer in model.tree()
        if layer.draws
    ]
    if stochastic:
        raise ValueError(
            f"the model draws masks ({'; '.join(stochastic)}) and fit has no key to "
            "draw them from: write fit(..., key=0), or any other seed"
        )
    return Key(0)


def _diverged(what: str, culprit: str, state: TrainingState, good: Snapshot) -> FloatingPointError:
    step, epoch = state.step, state.epoch + 1
    good.restore()
    return FloatingPointError(
        f"{what} at step {step}, in epoch {epoch}: {culprit}. Weights and optimiser state are back "
        f"to the start of epoch {epoch}; a smaller learning rate may help"
    )

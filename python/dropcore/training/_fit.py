"""The training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from dropcore._base.checks import check_bool, users_level
from dropcore._base.device import on_device
from dropcore.key import Key
from dropcore.losses import Loss, Number
from dropcore.optim import Optimizer, kind_of
from dropcore.training._choices import (
    address_of,
    check_address,
    check_model,
    checked_count,
    named_loss,
    optimizer_of,
)
from dropcore.training._data import Batch
from dropcore.training._inference import Means, mean_metrics, measures_of
from dropcore.training._interrupts import Interrupts
from dropcore.training._measures import Measures
from dropcore.training._nonfinite import first_nonfinite, nonfinite_weights
from dropcore.training._progress import progress_of
from dropcore.training._sets import sets_of
from dropcore.training._sources import Arrays, Batches, Source
from dropcore.training._update import Scored, Update, prepare, put_back
from dropcore.training._warnings import (
    divergence_hints,
    warn_of_constant_columns,
    warn_of_one_class,
    warn_of_unlikely_input,
    warn_of_unlikely_output,
)
from dropcore.training.callbacks._base import (
    Callback,
    EpochEnd,
    Run,
    callbacks_of,
    check_files,
    check_kept,
    overrides,
)
from dropcore.training.history import History
from dropcore.training.metrics import Metric
from dropcore.training.state import Snapshot, TrainingState, UnfinishedEpoch

if TYPE_CHECKING:
    from dropcore.data import Preprocessing
    from dropcore.nn.layer import Layer
    from dropcore.training._graphed_step import GraphedStep

__all__ = ["fit"]

_PLAIN: Final = frozenset({bool, int, float, str, type(None)})

Validation = (
    tuple[ArrayLike, ArrayLike]
    | tuple[ArrayLike, ArrayLike, ArrayLike]
    | Mapping[str, ArrayLike]
    | Iterable[Any]
)
"""(x, y), (x, y, lengths of sequences), a dict of these and sample_weight, or batches."""


def fit(
    model: Layer,
    x: ArrayLike | Iterable[Any],
    y: ArrayLike | None = None,
    *,
    epochs: int,
    optimizer: str | Optimizer = "adam",
    batch_size: int | None = None,
    loss: str | Loss | None = None,
    key: Key | int | None = None,
    validation_data: Validation | None = None,
    validation_split: float | None = None,
    progress: bool | None = None,
    lengths: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    preprocessing: Preprocessing | None = None,
    scale_targets: bool = False,
    shuffle: bool | None = None,
    metrics: Sequence[str | Metric] = (),
    callbacks: Sequence[Callback | EpochEnd] = (),
    resume: bool = False,
    cuda_graph: bool = False,
) -> History:
    """Train a model on arrays, or on an iterable of batches.

    All randomness derives from the seed of the key: the initial weights, the order of the samples
    in each epoch, and the masks, which are addressed by (seed, stream, update, row). The same seed
    on a fresh model repeats every bit, for any number of threads. A second call resumes where the
    first stopped, with the state of the optimiser, so that two calls of 5 epochs are one of 10;
    callbacks begin anew, unless ``resume=True``. An optimiser of another kind begins at its step 0,
    also with its learning rate.

    All arguments are checked before anything is changed.

    Parameters
    ----------
    model : Layer
        Its missing weights are drawn, in float32. For float64 call ``model.build`` first. The
        parameters of frozen layers stay as they are; moments of BatchNorm move in any case.
    x : array_like, shape (samples, ...), or iterable of batches
        Real numbers, converted batch by batch to the dtype of the weights. May be read-only or a
        memory map. For a model on a GPU batches are copied there, unless x and y are there already,
        as CuPy arrays, which is faster. The columns of a data frame are remembered: later ones must
        have the same, in the same order. Without y, an iterable whose items are ``(x, y)`` or ``(x,
        y, sample_weight)``, or dicts of x, y, lengths and sample_weight, of arrays or of anything
        that ``np.asarray`` takes, such as a PyTorch DataLoader. It is gone through once an epoch,
        and need not have a length; a generator, which ends after one, suits ``epochs=1``.
    y : array_like, shape (samples, ...)
        For cross-entropy labels, or a probability for each class; else as the loss says. Labels are
        integers in [0, outputs). Others, such as text, or integers that begin at 1, are encoded in
        sorted order, if there are as many as outputs (two for a single output): this is printed,
        and they are kept as ``model.training_state.classes``. From then on labels in any y must be
        among them.
    epochs : int
        How many more times to go through the data; with `resume` how many times in all.
    optimizer : str or Optimizer, default "adam"
        "adam" is ``Adam(1e-3)``, "sgd" is ``SGD(0.01, momentum=0.9)``: both suit standardised data.
    batch_size : int, optional
        Samples in an update of arrays, by default 32; the last one of an epoch may have fewer.
    loss : str or callable, optional
        A name or an object from `dropcore.losses`, or any function ``loss(outputs, targets) ->
        (value, doutputs)``, the mean over the batch and its gradient. Regularisers add their
        gradients; the loss that is reported is without them. By default the loss of the last `fit`;
        without one it is chosen and printed:

        - two or more outputs, and an integer for each row of outputs: "softmax_cross_entropy";
        - one output, and targets of 0 and 1 only: "binary_cross_entropy";
        - one output and other numbers, or a number for each of several outputs: "mse";
        - numbers that may be probabilities for each of several outputs: ValueError.
    key : Key or int, optional
        Needed if the model draws masks. By default that of the last `fit`; for a new model seed 0.
    validation_data : (x, y) or (x, y, lengths) or dict or iterable of batches, optional
        Evaluated after each epoch, without noise. Its sequences or images may have other lengths
        where the model takes any. A dict has "x" and "y", and may have "lengths" and
        "sample_weight".
    validation_split : float, optional
        Instead of `validation_data`: the fraction of the samples, in (0, 1), to hold out. They are
        drawn at random from the seed of the key, so that the same seed holds the same rows out in
        every call; of labels in proportion to the classes.
    progress : bool, optional
        By default a bar on a terminal and in a notebook, and nothing elsewhere. True also writes a
        line for each epoch to stderr where that is a file or a pipe; False shows nothing.
    lengths : array_like of int, shape (samples,), optional
        Of sequences (samples, time, ...) that are padded at the end: the number of valid steps of
        each. For models with a recurrent layer or a pooling over time. Where the outputs have steps
        too, padded steps count neither in the loss nor in the accuracy nor in gradients, whatever
        `y` holds there; a function as `loss` gets the valid steps as rows.
    sample_weight : array_like, shape (samples,), optional
        How much each sample counts in the mean loss of its batch and in the metrics, not negative.
    class_weight : dict or "balanced", optional
        How much each class counts in the training loss, and only there, by its label in y:
        ``{"no": 1.0, "yes": 5.0}``. "balanced" is n / (number of classes * n of the class), with
        which all classes count the same. For the cross-entropies, with labels.
    preprocessing : dropcore.data.Preprocessing, optional
        What turns x, a table with text and missing values, into numbers. A copy of it is fitted to
        the training part of x and stays with the model: later calls of `fit`, `predict` and
        `evaluate` take such tables, and transform them in the same way.
    scale_targets : bool, default False
        Whether numbers to predict are standardised, by mean and standard deviation of the training
        part. The loss is that of the standardised targets; `predict` and metrics by name are in the
        units of y. It stays with the model, too.
    shuffle : bool, optional
        Whether each epoch takes the samples of arrays in an order of its own, by default true.
    metrics : sequence of str or Metric, default ()
        Measured in each epoch beside the loss and the accuracy of a classifier: names such as "f1"
        or "rmse", and objects, see `dropcore.training.metrics`. Those of the training data are
        measured under noise, with the weights of each update, as the loss is.
    callbacks : sequence of Callback or callable, default ()
        Objects of `dropcore.training.callbacks`, or functions: ``function(epoch, metrics)`` is
        called after each epoch with its number, from 1, and a dict of what the history got.
        Training stops if one returns something true; the others are called all the same. They may
        freeze layers or change weights in place. Those that save the model are called last. Ctrl-C
        waits until all have been called.
    resume : bool, default False
        Continue the call that trained the model, instead of beginning another one. `epochs` is then
        the total number of epochs, those already done included. An interrupted epoch is finished
        with its remaining batches, and the history continues. So do the callbacks and the learning
        rate that they have set. If a callback ended that call, nothing is left to train. A script
        that loads its last checkpoint, if there is one, and calls `fit` with ``resume=True`` can be
        stopped and run again unchanged, and ends with the same bits. All arguments but `epochs`,
        `progress` and `cuda_graph` must be as before; an error names the one that differs. Of the
        data the number of samples is compared, not the values.
    cuda_graph : bool, default False
        Of a model on a GPU: record the update of a whole batch and launch it as one CUDA graph from
        then on, with the same masks. That saves host time, which bounds small models. Nothing in a
        step may come from the host: no lengths, no weights of samples, no rates that change with
        the step or are arrays, no clipping by norm. Layers that are frozen at the first update
        stay so until `fit` returns.

    Returns
    -------
    History
        Also available as ``model.training_state.history``, for instance after Ctrl-C.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    FloatingPointError
        If the loss or the weights are not finite. It names the step and the first layer that is
        not finite; weights, optimiser state and counts are those of the start of the epoch. On a
        GPU this is noticed at the end of the epoch, not at the step.
    KeyboardInterrupt
        If the user interrupts. The model is then as the last complete update left it (weights,
        optimiser state, moments and count), so that it can be used and trained on; `EarlyStopping`
        puts the best weights back first. The epoch that was interrupted does not count: another
        `fit` goes through all data again, in the order of that epoch, unless ``resume=True``
        finishes it.

    Warns
    -----
    UserWarning
        If the last layer applies the softmax or sigmoid of the loss once more, the model ends with
        a dropout, images seem to have their channels first, or all labels or a whole column of x
        are the same.
    RuntimeWarning
        If the validation loss is not finite, or a metric is not defined on the data.
    """
    check_model(model)
    epochs = checked_count("epochs", epochs, 0)
    if batch_size is not None:
        batch_size = checked_count("batch_size", batch_size, 1)
    if shuffle is not None:
        shuffle = check_bool("shuffle", shuffle)
    cuda_graph = check_bool("cuda_graph", cuda_graph)
    if progress is not None:
        progress = check_bool("progress", progress)
    resume = check_bool("resume", resume)
    rule = optimizer_of(optimizer)
    criterion = named_loss(loss, model)
    address = address_of(model, key)
    hooks = callbacks_of(callbacks)
    if cuda_graph:
        _check_graph(model, lengths, sample_weight)
    before = model.training_state
    kept = {} if before is None else dict(vars(before))
    if resume and before is not None and before.step and criterion is None:
        raise ValueError(
            "resume=True continues with the loss of the run, a function of your own, which files "
            "and copies of a model do not hold: give it as loss="
        )
    done = 0 if before is None else before.epoch
    last = epochs if resume else done + epochs
    to_train = max(last - done, 0)
    sets = sets_of(
        model,
        x,
        y,
        loss=criterion,
        key=address,
        epochs=to_train,
        batch_size=batch_size,
        shuffle=shuffle,
        validation_data=validation_data,
        class_weight=class_weight,
        lengths=lengths,
        sample_weight=sample_weight,
        validation_split=validation_split,
        preprocessing=preprocessing,
        scale_targets=scale_targets,
    )
    source, data, held_out = sets.training, sets.training.data, sets.validation
    if cuda_graph and isinstance(source, Batches):
        raise ValueError("cuda_graph is for arrays, and x without y is an iterable of batches")
    measures = measures_of(model, metrics, data, "the data of an epoch")
    held_out_measures = None
    if held_out is not None:
        held_out_measures = measures_of(model, metrics, held_out.data, "the validation data")
    measured = _measured(measures, held_out_measures)
    call = _in_words(
        optimizer=rule,
        loss=data.loss,
        validation_split=validation_split,
        class_weight=None if class_weight is None else getattr(sets.loss, "class_weights", None),
        sample_weight="given" if data.sample_weight is not None else None,
        lengths="given" if data.lengths is not None else None,
        metrics=measures.asked,
        **source.arguments(),
    )
    updates = to_train * (source.count or 1)
    if resume and before is not None:
        _check_key(before, address)
        check_kept(before.callbacks, hooks)
        _check_history(before, measured)
        _check_call(before, call, rule)
        if before.unfinished is not None and to_train:
            updates -= before.unfinished.batches
    for hook in hooks:
        hook.check(measured)
    check_files(hooks)
    check_address(model, address, 0 if before is None else before.step, max(updates, 0))
    warn_of_unlikely_input(model, data)
    if isinstance(source, Arrays):
        warn_of_one_class(model, data)
        warn_of_constant_columns(data)

    with Interrupts() as interrupts:
        with interrupts.deferred:
            state = prepare(model, rule, address, data, announce=loss is None)
            state.feature_names, state.call = data.names or state.feature_names, call
            if not resume:
                state.history, state.unfinished, state.callbacks = History(), None, {}
                state.learning_rate_factor = 1.0
                state.stopped = False
            history = state.history
            # Within, as it imports tqdm: Python does not recover from an import cut short.
            display = progress_of(state.epoch, to_train, source.count, progress)
        warn_of_unlikely_output(model, data)
        training = _Training(
            model,
            rule,
            sets.loss,
            source,
            state,
            address,
            interrupts,
            cuda_graph,
            measures,
        )
        first = state.step
        run = Run(model, rule, state, history, hooks, training.use)
        run.learning_rate_factor = state.learning_rate_factor
        try:
            for hook in hooks:
                hook.on_fit_begin(run)
            if resume:
                run.restore_callbacks()
            run.keep_callbacks()
        except BaseException:
            put_back(model, before, kept)
            raise
        after_update = [hook.on_update_end for hook in hooks if overrides(hook, "on_update_end")]
        try:
            with display:
                while state.epoch < last and not state.stopped:
                    started = perf_counter()
                    display.begin_epoch(state.epoch + 1)
                    found = training.epoch(run, display.update, after_update)
                    if held_out is not None and held_out_measures is not None:
                        found |= _validated(model, held_out, held_out_measures, state.epoch + 1)
                    found["seconds"] = perf_counter() - started
                    # The callbacks see each epoch that counts.
                    with interrupts.deferred:
                        state.epoch += 1
                        state.unfinished = None
                        history.append(state.epoch, found)
                        _epoch_ended(run, hooks, found)
                    display.end_epoch(state.epoch, found)
        except KeyboardInterrupt:
            _ended(run, hooks, interrupts)
            raise
        except Exception as error:
            # Without an update there is nothing to remember, such as a loss that does not work.
            if state.step == first and not isinstance(error, FloatingPointError):
                put_back(model, before, kept)
            raise
        _ended(run, hooks, interrupts)
    return history


def _measured(training: Measures, validation: Measures | None) -> dict[str, bool]:
    """The names in the history, in their order, and whether higher is better."""
    found = dict(training.directions)
    if validation is not None:
        found |= {f"val_{name}": higher for name, higher in validation.directions.items()}
    return found | {"seconds": False}


def _ended(run: Run, hooks: list[Callback], interrupts: Interrupts) -> None:
    """Tell the callbacks that training has ended."""
    with interrupts.deferred:
        for hook in hooks:
            hook.on_fit_end(run)


def _epoch_ended(run: Run, hooks: list[Callback], metrics: dict[str, float]) -> None:
    """Call the callbacks. What they know is kept before any that saves the model."""
    kept = False
    for hook in hooks:
        if hook.last and not kept:
            run.keep_callbacks()
            kept = True
        if hook.on_epoch_end(run, run.state.epoch, dict(metrics)):
            run.state.stopped = True
    if not kept:
        run.keep_callbacks()


@dataclass
class _Training:
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
            self.update = Update(model, self.optimizer, loss, state)
        update = self.update
        progress = state.unfinished
        if progress is None:
            progress = state.unfinished = UnfinishedEpoch()
        for _ in range(progress.batches):
            advance(None)
        means = Means(loss, self.measures, progress.sums, progress.scored)
        for batch in self.source.batches(state.epoch, progress.batches):
            here = address.at(step=address.step + state.step)
            with self.interrupts.deferred:
                value, scored = self._update(update, batch, here)
                fine = on_device(value) or math.isfinite(value)
                if fine:
                    means.add(value, scored)
                    progress.batches += 1
            if not fine:
                culprit = first_nonfinite(model, batch.x, here, batch.lengths)
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

    def _update(self, update: Update, batch: Batch, here: Key) -> tuple[Number, Scored]:
        if self.cuda_graph and self.graphed is None and len(batch.x) == self.source.size:
            self.graphed = _graphed(update, self.optimizer, self.state, batch)
        if self.graphed is not None and self.graphed.fits(batch.x, batch.y):
            return self.graphed(batch.x, batch.y, here)
        return update(batch, here)[:2]

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


def _check_key(state: TrainingState, address: Key) -> None:
    """ValueError unless the epochs to come have the key of those before."""
    if state.step and state.key is not None and state.key != address:
        raise ValueError(
            "resume=True continues with the masks, the order of samples and the validation_split "
            f"of key={state.key}, got {address}: leave key out, or begin another run with "
            "resume=False"
        )


def _check_history(state: TrainingState, measured: Mapping[str, bool]) -> None:
    """ValueError unless the epochs to come have the metrics of those before."""
    before = list(state.history)
    if before and before != list(measured):
        raise ValueError(
            "resume=True continues with the history, so metrics and validation data must be as "
            f"before: it has {', '.join(before)}, and the epochs to come have "
            f"{', '.join(measured)}; resume=False begins another history"
        )


def _in_words(**arguments: Any) -> dict[str, str]:
    """Arguments of `fit` in words that are the same for equal ones, also in another process."""
    return {name: _described(value) for name, value in arguments.items()}


def _described(value: Any) -> str:
    """A number, an optimiser or a loss in words; other objects by their name or class."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in (list, tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, np.generic):
        return _described(value.item())
    if is_dataclass(kind):
        options = [
            f"{f.name}={_described(getattr(value, f.name))}" for f in fields(value) if f.init
        ]
        return f"{kind.__name__}({', '.join(options)})"
    return str(getattr(value, "__name__", kind.__name__))


def _check_call(state: TrainingState, call: Mapping[str, str], optimizer: Optimizer) -> None:
    """ValueError unless the updates to come are made as those before."""
    if not state.step:
        return
    for name, now in call.items():
        then = state.call.get(name, now)
        if then != now:
            raise ValueError(
                f"resume=True continues the run, which ends with the same bits only with the "
                f"same {name} as before, {then}, got {now}; resume=False begins another run"
            )
    if not state.optimizer:
        raise ValueError(
            "resume=True continues with the state of the optimiser, and the model was saved "
            "without it, by save(optimizer=False): resume=False begins with a new optimiser"
        )
    if state.optimizer != kind_of(optimizer):
        raise ValueError(
            f"resume=True continues with the state of the optimiser {state.optimizer}, which made "
            f"the last update, got {kind_of(optimizer)}; resume=False begins with a new optimiser"
        )


def _check_graph(model: Layer, lengths: object, sample_weight: object) -> None:
    """ValueError if updates cannot be recorded as a CUDA graph."""
    if model.device != "cuda":
        raise ValueError("cuda_graph is for models on a GPU: use model.to('cuda') first")
    for name, given in (("lengths", lengths), ("sample_weight", sample_weight)):
        if given is not None:
            raise ValueError(f"cuda_graph takes no {name}, which change with the batch")


def _graphed(
    update: Update, optimizer: Optimizer, state: TrainingState, batch: Batch
) -> GraphedStep[tuple[Number, Scored]]:
    from dropcore.training._graphed_step import GraphedStep

    def of_arrays(x: Any, y: Any, key: Key) -> tuple[Number, Scored]:
        value, scored, *_ = update(Batch(x, y), key)
        return value, scored

    return GraphedStep(of_arrays, optimizer, state, batch.x, batch.y)


def _validated(model: Layer, source: Source, measures: Measures, epoch: int) -> dict[str, float]:
    """Metrics of validation data; a warning if the loss is not finite."""
    found, bad = mean_metrics(model, source, measures)
    if not math.isfinite(found["loss"]):
        culprit = "" if bad is None else f": {first_nonfinite(model, bad.x, None, bad.lengths)}"
        warnings.warn(
            f"fit: the validation loss is {found['loss']} in epoch {epoch}{culprit}",
            RuntimeWarning,
            stacklevel=users_level(),
        )
    return {f"val_{name}": number for name, number in found.items()}

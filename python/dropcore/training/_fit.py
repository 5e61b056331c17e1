"""The training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike

from dropcore._base.checks import check_bool, users_level
from dropcore.distributed._blocks import checked_blocks
from dropcore.distributed._group import Alone, joined
from dropcore.key import Key
from dropcore.losses import Loss
from dropcore.optim import Optimizer
from dropcore.training._choices import (
    address_of,
    check_address,
    check_model,
    checked_count,
    named_loss,
    optimizer_of,
)
from dropcore.training._epochs import Training
from dropcore.training._in_words import in_words, run_in_words, state_in_words
from dropcore.training._inference import mean_metrics, measures_of
from dropcore.training._interrupts import Interrupts
from dropcore.training._measures import Measures
from dropcore.training._nonfinite import first_nonfinite
from dropcore.training._progress import progress_of
from dropcore.training._resume import check_call, check_history, check_key
from dropcore.training._sets import sets_of
from dropcore.training._sources import Arrays, Batches, Source
from dropcore.training._update import prepare, put_back
from dropcore.training._warnings import (
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

if TYPE_CHECKING:
    from dropcore.data import Preprocessing
    from dropcore.nn.layer import Layer

__all__ = ["fit"]

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
    comm: Any = None,
    blocks: int | None = None,
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
    x : array_like, shape (samples, ...), or ParquetRows, or iterable of batches
        Real numbers, converted batch by batch to the dtype of the weights. May be read-only or a
        memory map. For a model on a GPU batches are copied there, unless x and y are there already,
        as CuPy arrays, which is faster. The columns of a data frame are remembered: later ones must
        have the same, in the same order. Without y, rows of files that need not fit into memory
        (`dropcore.data.ParquetRows`), or an iterable whose items are ``(x, y)`` or ``(x,
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
        Samples in an update of arrays or rows, by default 32; the last of an epoch may have fewer.
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
        Whether each epoch takes the samples of arrays or rows in an order of its own, by default
        true. It is computed, not stored: see `dropcore.Permutation` and `ParquetRows`.
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
    comm : mpi4py communicator or Ranks, optional
        Train on all processes of a communicator, such as ``MPI.COMM_WORLD`` under ``mpirun -n 4``.
        All of them must make the same call, with the same data; of a memory map each reads its own
        rows only. Each process computes some rows of every batch, under the masks that these rows
        have in any case, and the gradients are added up. So `batch_size` is that of all processes
        together, and the result is that of one process, within rounding. All processes end with
        the same model and the same history. Rank 0 alone calls the callbacks that write files, and
        shows the progress. An error of one rank ends all of them; see
        `dropcore.distributed.Ranks`.
    blocks : int, optional
        Cut each batch into so many blocks of rows, a power of two, and add their gradients in one
        fixed order. Then 1, 2, 4, ... `blocks` processes end with the same bits, and a run that was
        stopped may be resumed on another number of them. It may also be used without `comm`.

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
    MemoryError
        If there is not enough memory. The model is then as the last complete update left it, or,
        where memory ran out in the middle of an update, as it was at the start of the epoch. So it
        is after any other error in an update, such as one of a loss of your own. ``resume=True``
        continues, for instance when other programs have ended, with the same bits.
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
    with joined(comm) as group:
        with group.agreed():
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
            all_hooks = callbacks_of(callbacks)
            hooks = [hook for hook in all_hooks if group.leads or not hook.writes_files]
            if cuda_graph:
                _check_graph(model, lengths, sample_weight, shared=bool(comm or blocks))
            before = model.training_state
            kept = {} if before is None else dict(vars(before))
            if resume and before is not None and before.step and criterion is None:
                raise ValueError(
                    "resume=True continues with the loss of the run, a function of your own, which "
                    "files and copies of a model do not hold: give it as loss="
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
                group=group,
                lengths=lengths,
                sample_weight=sample_weight,
                validation_split=validation_split,
                preprocessing=preprocessing,
                scale_targets=scale_targets,
            )
            source, data, held_out = sets.training, sets.training.data, sets.validation
            shares = checked_blocks(blocks, group, source.size)
            if cuda_graph and not isinstance(source, Arrays):
                kind = "an iterable of batches" if isinstance(source, Batches) else "rows of files"
                raise ValueError(f"cuda_graph is for arrays, and x without y is {kind}")
            measures = measures_of(model, metrics, data, "the data of an epoch")
            held_out_measures = None
            if held_out is not None:
                held_out_measures = measures_of(
                    model, metrics, held_out.data, "the validation data"
                )
            measured = _measured(measures, held_out_measures)
            weights = getattr(sets.loss, "class_weights", None)
            call = in_words(
                optimizer=rule,
                loss=data.loss,
                validation_split=validation_split,
                class_weight=None if class_weight is None else weights,
                sample_weight="given" if data.sample_weight is not None else None,
                lengths="given" if data.lengths is not None else None,
                metrics=measures.asked,
                blocks=blocks,
                **source.arguments(),
            )
            updates = to_train * (source.count or 1)
            if resume and before is not None:
                check_key(before, address)
                check_kept(before.callbacks, all_hooks)
                check_history(before, measured)
                check_call(before, call, rule)
                if before.unfinished is not None and to_train:
                    updates -= before.unfinished.batches
            for hook in hooks:
                hook.check(measured)
            check_files(hooks)
            check_address(model, address, 0 if before is None else before.step, max(updates, 0))
            if group.leads:
                warn_of_unlikely_input(model, data)
                if isinstance(source, Arrays):
                    warn_of_one_class(model, data)
                    warn_of_constant_columns(data)
        if group.size > 1:
            group.check_same(run_in_words(model, address, data, call, last))
        with Interrupts() as interrupts:
            with interrupts.deferred:
                state = prepare(
                    model, rule, address, data, announce=loss is None, quiet=not group.leads
                )
                state.feature_names, state.call = data.names or state.feature_names, call
                if not resume:
                    state.history, state.unfinished, state.callbacks = History(), None, {}
                    state.learning_rate_factor = 1.0
                    state.stopped = False
                history = state.history
                # Within, as it imports tqdm: Python does not recover from an import cut short.
                shown = progress if group.leads else False
                display = progress_of(state.epoch, to_train, source.count, shown)
            if group.leads:
                warn_of_unlikely_output(model, data)
            if group.size > 1:
                group.check_same(state_in_words(model, state))
            training = Training(
                model,
                rule,
                sets.loss,
                source,
                state,
                address,
                interrupts,
                cuda_graph,
                measures,
                group,
                shares,
                fixed=blocks is not None,
            )
            first = state.step
            run = Run(model, rule, state, history, hooks, training.use, group)
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
            after_update = [
                hook.on_update_end for hook in hooks if overrides(hook, "on_update_end")
            ]
            try:
                with display:
                    while state.epoch < last and not state.stopped:
                        started = perf_counter()
                        display.begin_epoch(state.epoch + 1)
                        found = training.epoch(run, display.update, after_update)
                        if held_out is not None and held_out_measures is not None:
                            group.doing(f"the validation of epoch {state.epoch + 1}")
                            found |= _validated(
                                model, held_out, held_out_measures, state.epoch + 1, group
                            )
                        found["seconds"] = group.gathered(perf_counter() - started)[0]
                        group.doing(f"the callbacks of epoch {state.epoch + 1}")
                        # The callbacks see each epoch that counts.
                        with interrupts.deferred:
                            state.epoch += 1
                            state.unfinished = None
                            history.append(state.epoch, found)
                            _epoch_ended(run, hooks, found, group)
                        if group.size > 1:
                            group.check_same(state_in_words(model, state))
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


def _epoch_ended(run: Run, hooks: list[Callback], metrics: dict[str, float], group: Alone) -> None:
    """Call the callbacks. What they know is kept before any that saves the model."""
    state = run.state
    for last in (False, True):
        for hook in hooks:
            if hook.last == last and hook.on_epoch_end(run, state.epoch, dict(metrics)):
                state.stopped = True
        # A callback that ends the training of one rank, such as by the time, ends that of all.
        state.stopped = any(group.gathered(state.stopped))
        if not last:
            run.keep_callbacks()


def _check_graph(model: Layer, lengths: object, sample_weight: object, *, shared: bool) -> None:
    """ValueError if updates cannot be recorded as a CUDA graph."""
    if shared:
        raise ValueError(
            "cuda_graph is for updates that one process makes in one piece: leave out comm and "
            "blocks"
        )
    if model.device != "cuda":
        raise ValueError("cuda_graph is for models on a GPU: use model.to('cuda') first")
    for name, given in (("lengths", lengths), ("sample_weight", sample_weight)):
        if given is not None:
            raise ValueError(f"cuda_graph takes no {name}, which change with the batch")


def _validated(
    model: Layer, source: Source, measures: Measures, epoch: int, group: Alone
) -> dict[str, float]:
    """Metrics of validation data; a warning if the loss is not finite."""
    found, bad = mean_metrics(model, source, measures, group)
    if not math.isfinite(found["loss"]):
        own = None if bad is None else first_nonfinite(model, bad.x, None, bad.lengths)
        culprit = next((f": {text}" for text in group.gathered(own) if text is not None), "")
        if group.leads:
            warnings.warn(
                f"fit: the validation loss is {found['loss']} in epoch {epoch}{culprit}",
                RuntimeWarning,
                stacklevel=users_level(),
            )
    return {f"val_{name}": number for name, number in found.items()}

"""Predictions and scores of a trained model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from dropcore._backends import to_device
from dropcore._base.device import array_namespace, on_device
from dropcore.distributed._group import ALONE, Alone
from dropcore.key import Key, as_key
from dropcore.losses import Array, BinaryCrossEntropy, CheckedLoss, GaussianNLL, Loss
from dropcore.training._choices import check_model, checked_count, named_loss
from dropcore.training._data import (
    Batch,
    Data,
    check_feature_names,
    checked_data,
    known_of,
)
from dropcore.training._labels import in_words
from dropcore.training._means import Found, Means, loss_of
from dropcore.training._measures import Measures
from dropcore.training._monte_carlo import check_sampling, sampled
from dropcore.training._sources import Arrays, Batches, Rows, Source, is_array, is_rows
from dropcore.training.metrics import Metric

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = [
    "evaluate", "inputs_of", "mean_metrics", "measures_of", "outputs_of", "predict",
]  # fmt: skip


def predict(
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int | None = None,
    samples: int | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> Array:
    """Outputs of a model for each sample: those of its last layer, such as logits.

    With `key` and `samples` the model is sampled under dropout (Monte Carlo dropout): the mean over
    the first axis is the prediction, and the spread is its uncertainty.

    Parameters
    ----------
    model : Layer
    x : array_like, shape (samples, ...)
        As in `fit`.
    key : Key or int, optional
        Address of the noise. Sample t draws its masks in the domain of Monte Carlo prediction, at
        step ``key.step + t`` and at the rows of `x`: they do not depend on `batch_size`, and they
        differ from those of training with the same key.
    samples : int, optional
        Number of Monte Carlo samples; needed with `key`.
    batch_size : int, default 1024
        Number of rows that are computed at once. If x has fewer, rows of several Monte Carlo
        samples are. The result does not depend on it.
    lengths : array_like of int, optional
        As in `fit`.

    Returns
    -------
    ndarray, shape (samples, ...)
        On the device of x, and in the units of y if `fit` has standardised it. For a classifier
        these are logits; `predict_proba` and `predict_labels` return probabilities and labels. With
        `key` and ``samples=T`` the shape is (T, samples, ...).

    Raises
    ------
    TypeError, ValueError
        As `fit`; if the model has no weights yet; if `key` or `samples` is given without the other;
        if a rate changes with the step.

    References
    ----------
    Gal and Ghahramani 2016, "Dropout as a Bayesian approximation: representing model uncertainty in
    deep learning".
    """
    check_model(model)
    batch_size = checked_count("batch_size", batch_size, 1)
    if (key is None) != (samples is None):
        given, missing = ("samples", "key") if key is None else ("key", "samples")
        raise TypeError(
            f"predict: {given} is given and {missing} is not; Monte Carlo prediction takes both, "
            "as in predict(x, key=0, samples=100), and prediction without noise takes neither"
        )
    data = inputs_of(model, x, lengths)
    if key is None:
        return in_units_of_y(model, outputs_of(model, data, batch_size))
    address, count = as_key(key), checked_count("samples", samples, 1)
    check_sampling(model, address, count)
    outputs: Any = None
    for rows, which, found in sampled(model, data, address, count, batch_size):
        if outputs is None:
            shape = (count, len(data), *found.shape[2:])
            outputs = array_namespace(found).empty(shape, found.dtype)
        outputs[which, rows] = found
    return in_units_of_y(model, outputs)


def in_units_of_y(model: Layer, outputs: Array) -> Array:
    """Outputs of a model whose targets were standardised in the units of y, in the same dtype.

    Of "gaussian_nll" they are the mean, and the logarithm of the variance.
    """
    state, scaling = model.training_state, known_of(model).scaling
    loss = None if state is None else state.loss
    if scaling is None or (isinstance(loss, CheckedLoss) and loss.classifies):
        return outputs
    xp = array_namespace(outputs)
    mean, scale = xp.asarray(scaling.mean), xp.asarray(scaling.scale)
    found = outputs.astype(np.float64)
    if isinstance(loss, GaussianNLL):
        found[..., 0] = found[..., 0] * scale + mean
        found[..., 1] += 2 * xp.log(scale)
    else:
        found = found * scale + mean
    return found.astype(outputs.dtype)


def inputs_of(model: Layer, x: ArrayLike, lengths: ArrayLike | None = None) -> Data:
    """What the user gave for a prediction, as the model takes it."""
    state = model.training_state
    check_feature_names("x", x, None if state is None else state.feature_names)
    return checked_data(model, x, lengths=lengths, targets=False)


def outputs_of(model: Layer, data: Data, batch_size: int) -> Array:
    """Outputs without noise (samples, ...) in units of the loss, on the device of the data."""
    where = "cuda" if on_device(data.x) else "cpu"
    outputs: Any = None
    with np.errstate(all="ignore"):
        for start, batch in _batches(data, batch_size):
            found = to_device(model(batch.x, **batch.lengths_kwargs), where)
            if outputs is None:
                shape = (len(data), *found.shape[1:])
                outputs = array_namespace(found).empty(shape, found.dtype)
            outputs[start : start + len(found)] = found
    result: Array = outputs
    return result


def predict_proba(
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int | None = None,
    samples: int | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> Array:
    """Probability of each class, by a model that was fitted with a cross-entropy.

    Parameters
    ----------
    model : Layer
    x, key, samples, batch_size, lengths
        As in `predict`.

    Returns
    -------
    ndarray, shape (samples, ..., classes)
        In the order of ``model.training_state.classes``, or of the labels 0, 1, ... if that is
        None. A single output of a yes-or-no model gives two columns, no and yes; several outputs
        give the probability of yes for each. With `key` and ``samples=T`` the shape begins with an
        axis of length T, and the mean over it is the prediction.

    Raises
    ------
    TypeError, ValueError
        As `predict`; if the model was fitted with another loss, or with none.
    """
    check_model(model)
    loss = _loss_of_classes("predict_proba", model)
    outputs = predict(model, x, key=key, samples=samples, batch_size=batch_size, lengths=lengths)
    found = loss.probabilities(outputs)
    if isinstance(loss, BinaryCrossEntropy) and outputs.shape[-1] == 1:
        return array_namespace(found).concatenate([1 - found, found], axis=-1)
    return found


def predict_labels(
    model: Layer, x: ArrayLike, *, batch_size: int = 1024, lengths: ArrayLike | None = None
) -> Array:
    """The most probable class of each sample, as a label of the y that the model was fitted to.

    Parameters
    ----------
    model : Layer
    x, batch_size, lengths
        As in `predict`.

    Returns
    -------
    ndarray, shape (samples, ...)
        Labels as in y, or 0, 1, ... A yes-or-no model with several outputs gives 0 or 1 for each.

    Raises
    ------
    TypeError, ValueError
        As `predict_proba`.
    """
    check_model(model)
    loss = _loss_of_classes("predict_labels", model)
    outputs = predict(model, x, batch_size=batch_size, lengths=lengths)
    if not isinstance(loss, BinaryCrossEntropy):
        return in_words(outputs.argmax(axis=-1), known_of(model).classes)
    yes = (outputs > 0).astype(np.int64)
    return in_words(yes[..., 0], known_of(model).classes) if yes.shape[-1] == 1 else yes


def _loss_of_classes(what: str, model: Layer) -> CheckedLoss:
    """The loss that the model was fitted with; ValueError if it was not one of classes."""
    loss = None if model.training_state is None else model.training_state.loss
    if isinstance(loss, CheckedLoss) and loss.classifies:
        return loss
    found = "remembers no loss of a fit" if loss is None else f"was fitted with {loss!r}"
    raise ValueError(
        f"{what} is for models fitted with 'softmax_cross_entropy' or 'binary_cross_entropy', and "
        f"this one {found}: use predict, which returns its outputs"
    )


def evaluate(
    model: Layer,
    x: ArrayLike | Iterable[Any],
    y: ArrayLike | None = None,
    *,
    loss: str | Loss | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    metrics: Sequence[str | Metric] = (),
) -> dict[str, float]:
    """Mean loss over the samples, without noise, and metrics such as the accuracy of a classifier.

    Parameters
    ----------
    model : Layer
    x : array_like, shape (samples, ...), or iterable of batches
    y : array_like, shape (samples, ...)
        Left out if x yields batches. Labels are those of the last `fit`.
    loss : str or callable, optional
        By default the loss of the last `fit`.
    batch_size : int, default 1024
    lengths : array_like of int, optional
    sample_weight : array_like, shape (samples,), optional
    metrics : sequence of str or Metric, default ()
        All as in `fit`.

    Returns
    -------
    dict of str to float
        "loss", for cross-entropies "accuracy", and the metrics by their names.

    Raises
    ------
    TypeError, ValueError
        As `predict`, and if the model has not been fitted and no loss is named.
    """
    check_model(model)
    batch_size = checked_count("batch_size", batch_size, 1)
    criterion = named_loss(loss, model)
    if criterion is None:
        raise ValueError(
            "evaluate: the model remembers no loss of a fit, so name one, such as "
            "evaluate(x, y, loss='softmax_cross_entropy')"
        )
    source: Source
    if y is None and not is_array(x):
        for name, given in (("lengths", lengths), ("sample_weight", sample_weight)):
            if given is not None:
                raise ValueError(
                    f"{name} is for arrays, and x without y is "
                    f"{'rows of files' if is_rows(x) else 'an iterable of batches'}: batches may "
                    "be dicts of x, y, lengths and sample_weight"
                )
        if is_rows(x):
            source = Rows(model, "x", x, batch_size, criterion)
        else:
            source = Batches(model, "x", x, criterion)
    else:
        state = model.training_state
        check_feature_names("x", x, None if state is None else state.feature_names)
        arrays = cast(ArrayLike, x)
        data = checked_data(model, arrays, y, lengths, sample_weight, loss=criterion)
        source = Arrays(data, batch_size)
    return mean_metrics(model, source, measures_of(model, metrics, source.data, "the data"))[0]


def measures_of(model: Layer, metrics: Sequence[str | Metric], data: Data, words: str) -> Measures:
    """The metrics of checked data, which warnings call `words`."""
    assert data.loss is not None
    return Measures(
        metrics,
        data.loss,
        data.outputs,
        weighted=data.sample_weight is not None,
        data=words,
        scaling=data.known.scaling,
    )


def mean_metrics(
    model: Layer, source: Source, measures: Measures, group: Alone = ALONE
) -> tuple[dict[str, float], Batch | None]:
    """Metrics over all samples, and the first batch whose loss is not finite.

    The ranks of a group share the batches out, and add what they found in the order of the batches,
    which makes the result independent of their number.
    """
    loss = source.data.loss
    assert loss is not None
    means, bad = Means(loss, measures, {}, []), None
    own: list[Found] = []
    with np.errstate(all="ignore"):
        for batch in source.batches(turn=group.rank, turns=group.size):
            out = model(batch.x, **batch.lengths_kwargs)
            value, _, scored = loss_of(loss, out, batch)
            if bad is None and not on_device(value) and not math.isfinite(value):
                bad = batch
            own.append(means.of_batch(value, scored))
    if group.size > 1:
        own = [each.on_host() for each in own]
    for turn in itertools.zip_longest(*group.gathered(own)):
        for found in turn:
            if found is not None:
                means.add(found)
    return means.result(), bad


def _batches(data: Data, batch_size: int) -> Iterator[tuple[int, Batch]]:
    for start in range(0, len(data), batch_size):
        yield start, data.take(slice(start, start + batch_size))

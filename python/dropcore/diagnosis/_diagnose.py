"""`diagnose`: all measurements of a trained model, and the findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.checks import check_integer, shown
from dropcore._base.generators import DATA, generator
from dropcore.diagnosis._diagnosis import (
    ClassBalance,
    Diagnosis,
    Gap,
    InputScale,
    Score,
    VarianceShift,
)
from dropcore.diagnosis._findings import findings_of
from dropcore.diagnosis._layers import in_order, lowest_keep, outputs
from dropcore.diagnosis._measures import (
    Block,
    first_layer_features,
    measured_activations,
    weight_norms,
)
from dropcore.diagnosis._norm_history import NormHistory
from dropcore.key import MONTE_CARLO, Key, as_key
from dropcore.losses import CheckedLoss, GaussianNLL, Loss
from dropcore.nn.model import Model
from dropcore.training import TrainingState
from dropcore.training._choices import named_loss
from dropcore.training._data import Data
from dropcore.training._inference import inputs_of
from dropcore.training._labels import encoded, plain
from dropcore.training.metrics import Metric

__all__ = ["diagnose"]

PARTS = 10
"""Parts of the samples whose losses give the standard error of the mean loss."""


def diagnose(
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    validation: tuple[Any, ...] | None = None,
    lengths: ArrayLike | None = None,
    loss: str | Loss | None = None,
    metrics: Sequence[str | Metric] = (),
    norms: NormHistory | None = None,
    image_shape: tuple[int, ...] | None = None,
    max_samples: int | None = 2000,
    batch_size: int = 256,
    bins: int = 40,
    key: Key | int = 0,
) -> Diagnosis:
    """Measure a trained model and say what is probably wrong with it.

    The model is not changed. Of large data, `max_samples` rows of each part are used, chosen by
    `key`, block by block; the result says how many.

    Parameters
    ----------
    model : Model
        With weights.
    x, y : array_like
        The training data, as given to `fit`.
    validation : (x, y) or (x, y, lengths), optional
        Held-out data. Without it overfitting cannot be seen.
    lengths : array_like of int, optional
        Valid steps of padded sequences of `x`.
    loss : str or callable, optional
        By default that of the last `fit`.
    metrics : sequence of str or Metric, default ()
        More scores, as `Model.evaluate` takes them.
    norms : NormHistory, optional
        Recorded during training, to detect growing norms.
    image_shape : tuple of int, optional
        (height, width) or (height, width, 3) of images that are flat rows of x, so that weights of
        the first layer are shown as images.
    max_samples : int or None, default 2000
        Largest number of samples of each part; None for all.
    batch_size : int, default 256
        Samples of a block whose activations are in memory at once.
    bins : int, default 40
        Number of bins of histograms.
    key : Key or int, default 0
        Chooses the samples, and the noise whose effect on BatchNorm is measured.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid or the model cannot take the data; if the model has no weights, or
        no loss is known.

    References
    ----------
    Growing norms: Srivastava et al. 2014, section 5.1. Sparse activations and features: section 7.
    Variance shift: Li, Chen, Hu and Yang 2019, "Understanding the disharmony between dropout and
    batch normalization by variance shift".

    Examples
    --------
    >>> import numpy as np
    >>> from dropcore.nn import Dense, Sequential
    >>> x = np.random.default_rng(0).standard_normal((50, 20), dtype=np.float32)
    >>> y = np.arange(50) % 2
    >>> model = Sequential([Dense(64, activation="relu"), Dense(2)])
    >>> _ = model.fit(x[:30], y[:30], epochs=50, loss="softmax_cross_entropy", progress=False)
    >>> found = diagnose(model, x[:30], y[:30], validation=(x[30:], y[30:]))
    >>> found.findings[0].name
    'overfitting'
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"diagnose: model must be a model such as Sequential([...]), got {shown(model)}"
        )
    if not model.built:
        raise ValueError("diagnose: the model has no weights yet: call fit first")
    if max_samples is not None:
        check_integer("diagnose: max_samples", max_samples, 1)
    batch_size = check_integer("diagnose: batch_size", batch_size, 1)
    bins = check_integer("diagnose: bins", bins, 1)
    if norms is not None and not isinstance(norms, NormHistory):
        raise TypeError(
            f"diagnose: norms must be a NormHistory that fit got as a callback, got {shown(norms)}"
        )
    address = as_key(key)
    held_out = _checked_validation(validation)
    _check_image_shape(image_shape)

    criterion = named_loss(loss, model)
    part = _Part.of("", x, y, lengths, max_samples, address)
    other = None
    if held_out is not None:
        other = _Part.of("validation ", *held_out, max_samples, address)
    train = _score(model, part, criterion, metrics, address)
    score = None if other is None else _score(model, other, criterion, metrics, address)
    data = inputs_of(model, part.x, part.lengths)
    state = model.training_state or TrainingState()

    def blocks() -> Iterator[Block]:
        for start in range(0, len(data), batch_size):
            batch = data.take(slice(start, start + batch_size))
            yield batch.x, batch.lengths

    found = Diagnosis(
        total=part.total,
        parameters=sum(array.size for array in model.params.values()),
        train=train,
        validation=score,
        gap=None if score is None else _gap(train, score, criterion),
        weights=tuple(weight_norms(model)),
        activations=tuple(measured_activations(model, blocks, bins)),
        features=first_layer_features(model, _input_names(state), image_shape),
        inputs=_input_scale(data, _input_names(state)),
        classes=_balance(model, other or part, criterion),
        shifts=tuple(_shifts(model, data, batch_size, address)),
        history=state.history,
        norms=norms,
    )
    return replace(found, findings=findings_of(model, found))


# --- the samples ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one part of the data.

    Attributes
    ----------
    x, y
        As given, but for rows that are left out.
    lengths : array or None
    total : int
        Number of rows before.
    """

    x: Any
    y: Any
    lengths: Any
    total: int

    @classmethod
    def of(cls, name: str, x: Any, y: Any, lengths: Any, limit: int | None, key: Key) -> _Part:
        """The rows of a part that are used, in their order."""
        x, y = (column if hasattr(column, "shape") else np.asarray(column) for column in (x, y))
        counts = [column.shape[0] if column.shape else 0 for column in (x, y)]
        if not counts[0] or counts[0] != counts[1]:
            raise ValueError(
                f"diagnose: {name}x and {name}y must hold one row for each sample and at least "
                f"one, got {counts[0]} and {counts[1]}"
            )
        lengths = None if lengths is None else np.asarray(lengths)
        total = counts[0]
        if limit is None or total <= limit:
            return cls(x, y, lengths, total)
        rows = np.sort(generator(key, DATA).choice(total, limit, replace=False))
        return cls(x, y, lengths, total).take(rows)

    def take(self, rows: Any) -> _Part:
        """Some of the rows."""
        x, y = (c.iloc[rows] if hasattr(c, "iloc") else c[rows] for c in (self.x, self.y))
        return _Part(x, y, None if self.lengths is None else self.lengths[rows], self.total)

    @property
    def lengths_kwargs(self) -> dict[str, Any]:
        return {} if self.lengths is None else {"lengths": self.lengths}


def _checked_validation(validation: Any) -> tuple[Any, Any, Any] | None:
    if validation is None:
        return None
    if not isinstance(validation, tuple | list) or not 2 <= len(validation) <= 3:
        raise TypeError(
            "diagnose: validation must be a pair of arrays (x, y), or (x, y, lengths), got "
            f"{shown(validation)}"
        )
    return validation[0], validation[1], validation[2] if len(validation) == 3 else None


def _check_image_shape(shape: Any) -> None:
    fine = isinstance(shape, tuple | list) and len(shape) in (2, 3)
    if shape is not None and not (fine and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ValueError(
            "diagnose: image_shape must be (height, width) or (height, width, channels), got "
            f"{shown(shape)}"
        )


# --- scores --------------------------------------------------------------------------------------


def _score(
    model: Model, part: _Part, loss: Loss | None, names: Sequence[str | Metric], key: Key
) -> Score:
    metrics = model.evaluate(part.x, part.y, loss=loss, metrics=names, **part.lengths_kwargs)
    count, errors = len(part.y), {}
    if count >= 2 * PARTS:
        order = generator(key, DATA, 1).permutation(count)  # data may be sorted
        parts = [part.take(np.sort(order[first::PARTS])) for first in range(PARTS)]
        means = [model.evaluate(p.x, p.y, loss=loss, **p.lengths_kwargs)["loss"] for p in parts]
        errors["loss"] = float(np.std(means, ddof=1) / math.sqrt(PARTS))
    if "accuracy" in metrics:
        right = min(max(metrics["accuracy"], 0.0), 1.0)
        errors["accuracy"] = math.sqrt(right * (1 - right) / count)
    return Score(count, dict(metrics), errors, _skill(model, part, loss))


def _skill(model: Model, part: _Part, loss: Loss | None) -> float | None:
    predicted = _predictions(model, part)
    if isinstance(loss, CheckedLoss) and loss.classifies:
        classes = _classes(model, part, predicted)
        if classes is None:
            return None
        labels, chosen = classes
        usual = float(np.bincount(labels).max() / len(labels))
        return None if usual == 1 else (float(np.mean(labels == chosen)) - usual) / (1 - usual)
    if isinstance(loss, GaussianNLL):
        predicted = predicted[..., 0]
    wanted = np.asarray(to_device(part.y, "cpu"), np.float64).reshape(len(predicted), -1)
    given = predicted.astype(np.float64).reshape(len(predicted), -1)
    spread = float(np.square(wanted - wanted.mean(axis=0)).sum())
    if given.shape != wanted.shape or part.lengths is not None or spread == 0:
        return None
    return 1.0 - float(np.square(given - wanted).sum()) / spread


def _predictions(model: Model, part: _Part) -> NDArray[Any]:
    found: NDArray[Any] = to_device(model.predict(part.x, **part.lengths_kwargs), "cpu")
    return found


def _classes(
    model: Model, part: _Part, predicted: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Right and predicted classes (samples,), numbered from 0; None unless samples have one."""
    names = _class_names(model)
    given = plain("y", np.asarray(to_device(part.y, "cpu")))
    outputs_axis = predicted.shape[-1] if predicted.ndim > 1 else 1
    if predicted.ndim != 2 or part.lengths is not None:
        return None
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim == 2 and given.shape[1] == outputs_axis and given.dtype.kind == "f":
        labels = given.argmax(axis=1)
    elif given.ndim == 1:
        labels = given if names is None else encoded("y", given, None, names)
        labels = labels.astype(np.int64)
    else:
        return None
    if outputs_axis == 1:
        return labels, (predicted[:, 0] > 0).astype(np.int64)
    inside = (labels >= 0) & (labels < outputs_axis)  # others are ignored by the loss
    return (labels[inside], predicted.argmax(axis=1)[inside]) if inside.any() else None


def _class_names(model: Model) -> NDArray[Any] | None:
    return None if model.training_state is None else model.training_state.classes


def _gap(train: Score, validation: Score, loss: Loss | None) -> Gap:
    name = "accuracy" if "accuracy" in train.metrics else "loss"
    first, second = train.metrics[name], validation.metrics[name]
    errors = [score.errors.get(name, math.nan) for score in (train, validation)]
    error = math.hypot(*errors)
    worse = first - second if name == "accuracy" else second - first
    least = 0.03
    if name == "loss":
        least = 0.1 if isinstance(loss, GaussianNLL) else 0.25 * abs(first)
    large = worse > least and worse > 2 * error
    if name == "loss" and train.skill is not None and validation.skill is not None:
        large = large and train.skill - validation.skill > 0.03  # a small loss may double
    return Gap(name, first, second, error, bool(large))


def _balance(model: Model, part: _Part, loss: Loss | None) -> ClassBalance | None:
    if not (isinstance(loss, CheckedLoss) and loss.classifies):
        return None
    predicted = _predictions(model, part)
    found = _classes(model, part, predicted)
    if found is None:
        return None
    labels, chosen = found
    number = max(predicted.shape[-1], 2)
    counts = np.bincount(labels, minlength=number)
    right = np.bincount(labels[labels == chosen], minlength=number)
    names = _class_names(model)
    return ClassBalance(
        [str(name) for name in (range(number) if names is None else names)],
        counts,
        np.divide(right, counts, out=np.full(number, np.nan), where=counts > 0),
    )


# --- inputs and noise ----------------------------------------------------------------------------


def _input_names(state: TrainingState) -> Sequence[str] | None:
    """Names of the inputs as the model sees them: after the preprocessing."""
    if state.preprocessing is not None:
        return list(state.preprocessing.feature_names_out)
    return state.feature_names


def _input_scale(data: Data, names: Sequence[str] | None) -> InputScale | None:
    if data.dtype.kind == "i":
        return None
    x = np.asarray(to_device(data.take(slice(None)).x, "cpu"), np.float64)
    columns = x.reshape(-1, x.shape[-1])
    means, stds = columns.mean(axis=0), columns.std(axis=0)
    worst = int(np.argmax(np.maximum(np.abs(means), stds)))
    named = names is not None and len(names) == len(means) and x.ndim == 2
    return InputScale(
        float(np.abs(means).max()),
        float(stds.max()),
        repr(names[worst]) if named and names is not None else str(worst),
        float(means[worst]),
        float(stds[worst]),
    )


def _shifts(model: Model, data: Data, rows: int, key: Key) -> Iterator[VarianceShift]:
    """How the nearest dropout before each BatchNorm changes its inputs' variances."""
    order = list(in_order(model))
    behind: dict[str, str] = {}
    dropout = ""
    for path, layer in order:
        if type(layer).__name__ == "BatchNorm" and dropout:
            behind[path] = dropout
        if layer.draws and lowest_keep(layer) < 1:
            dropout = path
    if not behind:
        return
    batch = data.take(slice(0, max(rows, 256)))
    noise = Key(key.seed, key.stream, key.step, domain=MONTE_CARLO)
    found: list[dict[str, NDArray[np.float64]]] = []
    for address in (None, noise):
        variances, x = {}, batch.x
        for path, _, y in outputs(model, batch.x, address, lengths=batch.lengths):
            if path in behind:
                flat = to_device(x, "cpu").astype(np.float64).reshape(-1, x.shape[-1])
                variances[path] = flat.var(axis=0)
            x = y
        found.append(variances)
    for path, dropout in behind.items():
        clean, noisy = (variances[path] for variances in found)
        alive = clean > 0
        if alive.any():
            ratio = float(np.median(noisy[alive] / clean[alive]))
            yield VarianceShift(path, dropout, ratio)

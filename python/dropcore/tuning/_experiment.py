"""One model, trained on some rows of the data and scored on others."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_integer, shown
from dropcore._base.device import on_device
from dropcore._base.extras import require
from dropcore._base.generators import DATA, generator
from dropcore.key import Key
from dropcore.losses import LOSSES, CheckedLoss, Loss, MeanAbsoluteError, MeanSquaredError
from dropcore.nn import Model
from dropcore.training import TrainingState, fit
from dropcore.training.callbacks import EpochEnd
from dropcore.training.metrics import METRICS, Metric, top_of
from dropcore.tuning._cluster import end_if_unwanted, on_worker

__all__ = [
    "Experiment",
    "Split",
    "as_rows",
    "checked_options",
    "fingerprint_of",
    "splits_of",
]

Rows = NDArray[np.int64]
Split = tuple[Rows, Rows]
"""Positions of the rows to train on, and of those to score on."""

OWN: Final = ("model", "x", "y", "key", "progress", "validation_data", "resume", "metrics")
"""Arguments of `fit` that a search sets itself, or that make no sense for several models."""

ALWAYS: Final = ("loss", "accuracy")
"""What `evaluate` returns without being asked."""

BY_ROW: Final = ("sample_weight", "lengths")
"""Arguments of `fit` with a number for each sample."""


@dataclass(frozen=True)
class Experiment:
    """Data, and how models are trained on it.

    Attributes
    ----------
    x, y : array or table
        With a row for each sample.
    options : dict
        Arguments of `fit`.
    metric : str, Metric or None
        None for the usual one of the loss, which `probed` finds.
    classes : array or None
        The labels of a classification, sorted, which `probed` finds.
    """

    x: Any
    y: Any
    options: dict[str, Any]
    metric: str | Metric | None
    classes: NDArray[Any] | None = None

    def train(
        self,
        model: Model,
        rows: Rows | None,
        key: Key,
        *,
        test: Rows | None = None,
        report: EpochEnd | None = None,
        **changes: Any,
    ) -> None:
        """Fit the model to some rows, or to all of them.

        Parameters
        ----------
        model : Model
        rows : int64 array or None
        key : Key
        test : int64 array, optional
            Rows for the validation data.
        report : callable, optional
            Called after each epoch, after the callbacks of the options.
        **changes
            Arguments of `fit` in place of the options.
        """
        options = self.options | changes
        # Callbacks and preprocessing learn: each model has its own.
        options = copy.deepcopy({k: v for k, v in options.items() if k not in BY_ROW})
        if test is not None:
            held_out = self._by_row(test, ("lengths",))
            options["validation_data"] = (
                taken(self.x, test), taken(self.y, test), *held_out.values()
            )  # fmt: skip
        if report is not None:
            options["callbacks"] = [*options.get("callbacks", ()), report]
            options["metrics"] = self.measured
        if on_worker():
            options["callbacks"] = [*options.get("callbacks", ()), end_if_unwanted]
        options |= self._by_row(rows, BY_ROW)
        # Known classes are the same in all folds, and are not announced again.
        model.training_state = TrainingState(classes=self.classes)
        model.fit(taken(self.x, rows), taken(self.y, rows), key=key, progress=False, **options)

    @property
    def metric_name(self) -> str:
        """The name of the metric, which is known."""
        assert self.metric is not None
        return self.metric.name if isinstance(self.metric, Metric) else self.metric

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is better."""
        if isinstance(self.metric, Metric):
            return self.metric.higher_is_better
        return METRICS.get(self.metric_name, top_of(self.metric_name) is not None)

    @property
    def measured(self) -> tuple[str | Metric, ...]:
        """The argument `metrics` of `fit` and `evaluate`."""
        assert self.metric is not None
        return () if self.metric in ALWAYS else (self.metric,)

    def score(self, model: Model, rows: Rows) -> float:
        """The metric of a model on some rows, without noise."""
        found = model.evaluate(
            taken(self.x, rows), taken(self.y, rows), metrics=self.measured,
            **self._by_row(rows, BY_ROW),
        )  # fmt: skip
        if self.metric_name not in found:
            raise ValueError(
                f"metric must be another one: {self.metric_name!r} is not there with the loss "
                f"{self.options['loss']!r}"
            )
        return found[self.metric_name]

    def run(self, model: Model, split: Split, key: Key) -> dict[str, Any]:
        """Train on the first part of a split and score on both.

        Returns
        -------
        dict
            "score" of the rows to score on, and "train_score" of those to train on, None if
            training diverged; "seconds"; "diverged", the message, or "".
        """
        train, test = split
        started = perf_counter()
        found: dict[str, Any] = {"score": None, "train_score": None, "diverged": ""}
        try:
            self.train(model, train, key)
            scores = self.score(model, test), self.score(model, train)
            if not np.isfinite(scores).all():
                raise FloatingPointError(f"the scores are {scores[0]} and {scores[1]}")
            found |= {"score": scores[0], "train_score": scores[1]}
        except FloatingPointError as error:
            found["diverged"] = str(error)
        return found | {"seconds": perf_counter() - started}

    def probed(self, model: Model, split: Split, key: Key, **changes: Any) -> Experiment:
        """The same with the loss that `fit` chooses, and the metric.

        The model is built and scored, and not trained: mistakes are raised before the work, and the
        choice of a loss and the numbers of the labels are announced once.
        """
        train, test = split
        self.train(model, train, key, **changes | {"epochs": 0, "callbacks": ()})
        assert model.training_state is not None
        loss, classes = model.training_state.loss, model.training_state.classes
        assert loss is not None
        metric = default_metric(loss) if self.metric is None else self.metric
        options = self.options | {"loss": loss}
        found = replace(self, options=options, metric=metric, classes=classes)
        found.score(model, test)
        return found

    def _by_row(self, rows: Rows | None, names: Sequence[str]) -> dict[str, Any]:
        given = {name: self.options.get(name) for name in names}
        return {name: taken(value, rows) for name, value in given.items() if value is not None}


def default_metric(loss: Loss) -> str:
    """Accuracy of a classification, the error in the units of the targets, or the loss."""
    if isinstance(loss, CheckedLoss) and loss.classifies:
        return "accuracy"
    kinds: dict[type, str] = {MeanSquaredError: "rmse", MeanAbsoluteError: "mae"}
    return kinds.get(type(loss), "loss")


def checked_options(what: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `fit`.

    Raises
    ------
    TypeError
        If `fit` has no such argument, it is not the user's, or there are no epochs.
    """
    known = inspect.signature(fit).parameters
    for name in options:
        if name in OWN:
            hint = "give metric, the one that counts" if name == "metrics" else "it is set here"
            raise TypeError(f"{what}: {name} is not an option of {what}: {hint}")
        if name not in known:
            raise TypeError(f"{what}: neither {what} nor fit has an argument {name!r}")
    if "epochs" not in options:
        raise TypeError(f"{what}: give epochs, the number of times to go through the data")
    return dict(options)


def checked_experiment(
    what: str, x: Any, y: Any, options: Mapping[str, Any], metric: Any
) -> Experiment:
    """The experiment of a user's arguments.

    Raises
    ------
    TypeError, ValueError
        If x and y are not rows of the same number, an option is none of `fit`, or there is no such
        metric.
    """
    if isinstance(metric, str) and metric not in ("loss", *METRICS) and top_of(metric) is None:
        names = ", ".join(map(repr, ("loss", *METRICS)))
        raise ValueError(f"{what}: metric must be {names}, 'top_5', or a Metric, got {metric!r}")
    if metric is not None and not isinstance(metric, str | Metric):
        raise TypeError(f"{what}: metric must be a name or a Metric, got {shown(metric)}")
    found = Experiment(
        as_rows(f"{what}: x", x), as_rows(f"{what}: y", y), checked_options(what, options), metric
    )
    if len(found.y) != len(found.x):
        raise ValueError(
            f"{what}: y must hold one target for each of the {len(found.x)} samples, got "
            f"{len(found.y)}"
        )
    return found


def key_of_fold(key: Key, fold: int) -> Key:
    """A seed for each fold, so that standard errors include that of the initial weights."""
    return Key((key.seed + fold) % (1 << 64), key.stream, key.step)


# --- rows ----------------------------------------------------------------------------------------


def as_rows(name: str, data: Any) -> Any:
    """`data` as something with rows: an array or a table.

    Raises
    ------
    TypeError
        If it is something else, such as an iterable of batches.
    """
    if hasattr(data, "iloc") or isinstance(data, np.ndarray) or on_device(data):
        return data
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        raise TypeError(
            f"{name} must be an array or a table with a row for each sample, got {shown(data)}"
        )
    return np.asarray(data)


def taken(data: Any, rows: Rows | None) -> Any:
    """Some rows of an array or a table."""
    if rows is None:
        return data
    return data.iloc[rows] if hasattr(data, "iloc") else as_rows("data", data)[rows]


def splits_of(what: str, y: Any, n: int, folds: Any, loss: Any, key: Key) -> list[Split]:
    """Training and test rows of each fold.

    Parameters
    ----------
    what : str
        The caller, for messages.
    y : array or table
    n : int
        Number of samples.
    folds : int, splitter or iterable of (train, test)
        As scikit-learn's `cross_validate` takes it. A number shuffles, and keeps the fractions of
        classes in a classification.
    loss : str, Loss or None
        As given to `fit`.
    key : Key
        Whose seed shuffles.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two folds, or not enough samples of a class.
    """
    selection = require("sklearn.model_selection", "tune", what)
    if hasattr(folds, "split"):
        # Splitters look at the number of rows of x alone.
        found = list(folds.split(np.zeros((n, 1)), np.asarray(y)))
    elif not isinstance(folds, Iterable) or isinstance(folds, str):
        count = check_integer(f"{what}: folds", folds, 2)
        if count > n:
            raise ValueError(f"{what}: folds must be at most the {n} samples, got {count}")
        seed = int(generator(key, DATA).integers(1 << 32))
        labels = np.asarray(y)
        if stratifies(labels, loss, count):
            _check_classes(what, labels, count)
            splitter = selection.StratifiedKFold(count, shuffle=True, random_state=seed)
        else:
            splitter = selection.KFold(count, shuffle=True, random_state=seed)
        found = list(splitter.split(np.zeros((n, 1)), labels))
    else:
        found = list(folds)
    splits = [(np.asarray(train, np.int64), np.asarray(test, np.int64)) for train, test in found]
    if len(splits) < 2 or any(not len(train) or not len(test) for train, test in splits):
        raise ValueError(
            f"{what}: folds must give at least two splits, each with samples to train on and to "
            f"score on, got {len(splits)}"
        )
    return splits


def holdout_of(what: str, y: Any, n: int, fraction: float, loss: Any, key: Key) -> list[Split]:
    """One split, with the fractions of the classes if there are classes.

    Parameters
    ----------
    what, y, n, loss, key
        As `splits_of` takes them.
    fraction : float
        Of the samples to score on.

    Raises
    ------
    ValueError
        If a part would be empty, or a class has a single sample.
    """
    selection = require("sklearn.model_selection", "tune", what)
    labels = np.asarray(y)
    by_class = stratifies(labels, loss, 2)
    if by_class:
        _check_classes(what, labels, 2)
    try:
        train, test = selection.train_test_split(
            np.arange(n), test_size=fraction, stratify=labels if by_class else None,
            random_state=int(generator(key, DATA).integers(1 << 32)),
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{what}: validation={fraction:g} of {n} samples: {error}") from None
    return [(np.asarray(train, np.int64), np.asarray(test, np.int64))]


def stratifies(labels: NDArray[Any], loss: Any, folds: int) -> bool:
    """Whether folds keep the fractions of classes: for a classification with one label a row."""
    if labels.ndim != 1:
        return False
    named = LOSSES.get(loss) if isinstance(loss, str) else loss
    if named is not None:
        return isinstance(named, CheckedLoss) and named.classifies
    # Without a loss, numbers may be targets of a regression.
    return labels.dtype.kind not in "f" and int(_counts(labels).min()) >= folds


def _check_classes(what: str, labels: NDArray[Any], folds: int) -> None:
    counts = _counts(labels)
    if counts.min() < folds:
        rare = np.unique(labels)[counts.argmin()]
        raise ValueError(
            f"{what}: class {rare!s} has {counts.min()} samples, and each of the {folds} parts of "
            "the data needs one: use fewer folds, or leave the class out"
        )


def _counts(labels: NDArray[Any]) -> NDArray[np.int64]:
    return np.unique(labels, return_counts=True)[1]


# --- what an experiment is -----------------------------------------------------------------------


def fingerprint_of(value: Any) -> str:
    """A short text that differs for different data, options and models."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], object], value: Any) -> None:
    if hasattr(value, "iloc"):
        pandas = require("pandas", "tables", "a table")
        names = value.columns if hasattr(value, "columns") else [value.name]
        update(str(list(names)).encode())
        value = pandas.util.hash_pandas_object(value, index=False).to_numpy()
    if on_device(value):
        value = value.get()
    if isinstance(value, np.ndarray) and value.dtype != object:
        update(f"{value.dtype} {value.shape}".encode())
        for start in range(0, len(value), max(1, (1 << 22) // max(1, value[:1].nbytes))):
            stop = start + max(1, (1 << 22) // max(1, value[:1].nbytes))
            update(np.ascontiguousarray(value[start:stop]).tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value):
            update(f"{name}=".encode())
            _feed(update, value[name])
    elif isinstance(value, list | tuple):
        update(f"[{len(value)}".encode())
        for one in value:
            _feed(update, one)
    elif isinstance(value, np.ndarray):
        update(json.dumps([str(one) for one in value.ravel()]).encode())
    else:
        # Addresses of functions and objects differ from run to run.
        update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).encode())

"""The data of a call of `fit`: the training set, the validation set, and weights of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.blocks import row_blocks
from dropcore._base.checks import check_bool, check_number, listed, shown
from dropcore._base.device import on_device
from dropcore._base.generators import DATA, generator
from dropcore.distributed._group import ALONE, Alone
from dropcore.key import Key
from dropcore.losses import BinaryCrossEntropy, CheckedLoss, Loss, SoftmaxCrossEntropy
from dropcore.training._data import (
    Data,
    Learning,
    check_feature_names,
    check_not_ignored,
    checked_data,
    feature_names,
    known_of,
)
from dropcore.training._labels import plain, takes_labels
from dropcore.training._sources import (
    Arrays,
    Batches,
    Rows,
    Source,
    is_array,
    is_rows,
    refuse_iterator,
)

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["Sets", "sets_of"]

DEFAULT_SIZE: Final = 32
"""Samples in an update."""

_SPLIT: Final = 1 << 31
"""The generator of splits, beside those of data sets."""

_PARTS: Final = ("x", "y", "lengths", "sample_weight")


@dataclass(frozen=True, eq=False)
class Sets:
    """What `fit` trains on and validates with.

    Attributes
    ----------
    training : Source
    validation : Source or None
    loss : Loss
        For training: that of the data, or one with weights of classes.
    """

    training: Source
    validation: Source | None
    loss: Loss


def sets_of(
    model: Layer,
    x: Any,
    y: Any,
    *,
    loss: Loss | None,
    key: Key,
    epochs: int,
    batch_size: int | None,
    shuffle: bool | None,
    validation_data: Any,
    class_weight: Any,
    group: Alone = ALONE,
    **options: Any,
) -> Sets:
    """Check the data given to `fit`; `epochs` is the number of epochs to train.

    Parameters
    ----------
    **options
        Those that are for arrays only: lengths, sample_weight, validation_split, preprocessing,
        scale_targets.
    """
    training: Source
    size = batch_size or DEFAULT_SIZE
    order = key if shuffle is None or shuffle else None
    if y is None and is_rows(x):
        _refuse_options("rows of files", class_weight, options)
        training = Rows(model, "x", x, size, loss, key=order)
        validation: Data | Source | None = None
    elif y is None and not is_array(x):
        training = _batches(model, x, loss, epochs, batch_size, shuffle, class_weight, options)
        validation = None
    else:
        data, validation = _arrays(model, x, y, loss, key, validation_data, group, **options)
        training = Arrays(data, size, order)
    if validation_data is not None:
        validation = _validation(model, validation_data, training.data, epochs, max(size, 1024))
    assert training.data.loss is not None
    training_loss = training.data.loss
    if class_weight is not None:
        training_loss = _weighted(model, training.data, class_weight)
    if isinstance(validation, Data):
        validation = Arrays(validation, max(size, 1024))
    return Sets(training, validation, training_loss)


def _arrays(
    model: Layer,
    x: Any,
    y: Any,
    loss: Loss | None,
    key: Key,
    validation_data: Any,
    group: Alone,
    *,
    lengths: Any,
    sample_weight: Any,
    validation_split: Any,
    preprocessing: Any,
    scale_targets: Any,
) -> tuple[Data, Data | None]:
    """Checked arrays for training, and those split off for validation."""
    learning = _learning(model, preprocessing, scale_targets)
    rows = held_out = None
    if validation_split is not None:
        if validation_data is not None:
            raise ValueError("fit: give validation_data or validation_split, not both")
        rows, held_out = _split(x, y, validation_split, loss, key)
        learning = replace(learning, rows=rows)
    names = None
    if known_of(model).preprocessing is None and learning.preprocessing is None:
        names = feature_names(x)
        if model.training_state is not None:
            check_feature_names("x", x, model.training_state.feature_names)
    data = checked_data(model, x, y, lengths, sample_weight, loss=loss, learn=learning, group=group)
    data = replace(data, names=names)
    if rows is None or held_out is None:
        return data, None
    for part, of in (("training", rows), ("validation", held_out)):
        weight, valid = data.sample_weight, data.valid
        check_not_ignored(
            f"validation_split: of the {len(of)} samples for {part}",
            data.y[of],
            None if valid is None else valid[of],
            data.loss,
        )
        if weight is not None and not weight[of].any():
            raise ValueError(
                f"validation_split: sample_weight is 0 for all {len(of)} samples for {part}, so "
                "that none would count: use another fraction or key, or give validation_data"
            )
        if valid is not None and not valid[of].any():
            raise ValueError(
                f"validation_split: lengths leave no step of the outputs of all {len(of)} samples "
                f"for {part}: use another fraction or key, or give validation_data"
            )
    return replace(data, rows=rows), replace(data, rows=held_out)


def _batches(
    model: Layer,
    x: Any,
    loss: Loss | None,
    epochs: int,
    batch_size: int | None,
    shuffle: bool | None,
    class_weight: Any,
    options: Mapping[str, Any],
) -> Batches:
    """An iterable of batches for training, whose first batch is checked.

    Raises
    ------
    TypeError, ValueError
        Also if an argument of `fit` needs all samples.
    """
    for name, given in (("batch_size", batch_size), ("shuffle", shuffle)):
        if given is not None:
            raise ValueError(
                f"{name} is for arrays, and x without y is an iterable of batches: the batches are "
                "taken as they come"
            )
    _refuse_options("an iterable of batches", class_weight, options)
    refuse_iterator("x", x, epochs)
    return Batches(model, "x", x, loss)


def _refuse_options(what: str, class_weight: Any, options: Mapping[str, Any]) -> None:
    """TypeError or ValueError if an argument of `fit` needs arrays of all samples."""
    for name, given, advice in (
        ("lengths", options["lengths"] is not None,
         "batches may be dicts of x, y and lengths"),
        ("sample_weight", options["sample_weight"] is not None,
         "batches may be (x, y, sample_weight)"),
        ("validation_split", options["validation_split"] is not None,
         "hold some batches or rows out and give them as validation_data"),
        ("class_weight='balanced'", isinstance(class_weight, str),
         "give a dict of a number for each label"),
        ("preprocessing", options["preprocessing"] is not None,
         "fit it to some data, and transform what x yields"),
        ("scale_targets", bool(options["scale_targets"]),
         "standardise the targets of x, by dropcore.data.TargetScaling"),
    ):  # fmt: skip
        if given:
            raise ValueError(f"{name} is for arrays, and x without y is {what}: {advice}")
    check_bool("scale_targets", options["scale_targets"])


def _learning(model: Layer, preprocessing: Any, scale_targets: Any) -> Learning:
    """What is learned from the data; TypeError or ValueError if the model cannot begin to."""
    if preprocessing is not None:
        from dropcore.data import Preprocessing

        if not isinstance(preprocessing, Preprocessing):
            raise TypeError(
                "preprocessing must be a dropcore.data.Preprocessing, such as Preprocessing(), got "
                f"{shown(preprocessing)}"
            )
    scale = check_bool("scale_targets", scale_targets)
    known, state = known_of(model), model.training_state
    if (
        preprocessing is not None
        and known.preprocessing is not None
        and preprocessing.options != known.preprocessing.options
    ):
        then, now = (_as_arguments(p.options) for p in (known.preprocessing, preprocessing))
        raise ValueError(
            f"preprocessing: the model keeps the one that it was fitted with, of {then}, got "
            f"{now}: leave preprocessing out, or use a new model"
        )
    if state is not None and state.step:
        for name, wanted, found in (
            ("preprocessing", preprocessing is not None, known.preprocessing),
            ("scale_targets", scale, known.scaling),
        ):
            if wanted and found is None:
                raise ValueError(
                    f"{name}: the model was trained without it, so that its weights belong "
                    "to data as they are; use a new model"
                )
    return Learning(preprocessing, scale)


def _as_arguments(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


# --- validation ----------------------------------------------------------------------------------


def _split(
    x: Any, y: Any, part: Any, loss: Loss | None, key: Key
) -> tuple[NDArray[np.intp] | None, NDArray[np.intp] | None]:
    """Rows for training and for validation, each in ascending order."""
    share = check_number("validation_split", part, "(0, 1)")
    if not hasattr(y, "__len__") or not hasattr(x, "__len__") or len(x) != len(y):
        return None, None  # which the checks of data refuse
    samples = len(y)
    count = round(samples * share)
    if not 0 < count < samples:
        raise ValueError(
            f"validation_split={part} of {samples} samples leaves {count} for validation and "
            f"{samples - count} for training: each needs at least one"
        )
    order = generator(key, DATA, _SPLIT).permutation(samples)
    labels = _strata(y, loss)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Every so many rows one, evenly over the classes, which follow each other now.
    taken = np.diff(np.arange(samples + 1) * count // samples) > 0
    return np.sort(order[~taken]), np.sort(order[taken])


def _strata(y: Any, loss: Loss | None) -> NDArray[Any] | None:
    """The class of each sample; None if targets are not classes."""
    if on_device(y) or isinstance(y, np.ma.MaskedArray):
        return None
    if loss is not None and not (isinstance(loss, CheckedLoss) and loss.classifies):
        return None
    labels = plain("y", np.asarray(y))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if isinstance(loss, SoftmaxCrossEntropy) and labels.ndim == 2 and labels.dtype.kind in "fiub":
        shares = abs(labels.sum(axis=1) - 1) < 1e-3
        if shares.all():
            labels = labels.argmax(axis=1)
    kinds = "iubUS" if loss is None else "fiubUS"
    if labels.ndim != 1 or labels.dtype.kind not in kinds:
        return None
    found: NDArray[Any] = np.unique(labels, return_inverse=True)[1]
    return found


def _validation(
    model: Layer, given: Any, data: Data, epochs: int, batch_size: int
) -> Data | Source:
    """Validation data as the user gave them, checked."""
    if is_rows(given):
        return Rows(model, "validation_data", given, batch_size, data.loss, data)
    if _yields_batches(given):
        refuse_iterator("validation_data", given, epochs)
        return Batches(model, "validation_data", given, data.loss, data)
    if isinstance(given, Mapping):
        if not {"x", "y"} <= given.keys() <= set(_PARTS):
            raise ValueError(
                "validation_data as a dict must have x and y, and may have lengths and "
                f"sample_weight, got {sorted(given, key=str)}"
            )
        parts = dict(given)
    elif isinstance(given, tuple | list) and 2 <= len(given) <= 3:
        parts = dict(zip(_PARTS[:3], given, strict=False))
        if len(given) == 3 and not model.takes_lengths:
            raise ValueError(
                "validation_data: the third part of a tuple are lengths of sequences, which no "
                "layer of the model takes; give weights of samples as "
                "{'x': ..., 'y': ..., 'sample_weight': ...}"
            )
    else:
        raise TypeError(
            "validation_data must be a pair of arrays (x, y), with lengths of sequences (x, y, "
            "lengths), a dict of x, y, lengths and sample_weight, or an iterable of batches, got "
            f"{shown(given) if isinstance(given, tuple | list) else type(given).__name__}"
        )
    check_feature_names("validation x", parts["x"], data.names)
    return checked_data(model, **parts, loss=data.loss, name="validation ", like=data)


def _yields_batches(given: Any) -> bool:
    """Whether validation data are batches, and neither a pair of arrays nor a mistake."""
    if isinstance(given, list):
        # [x, y] is a pair, and so is a pair of lists of numbers.
        return bool(given) and all(map(_is_batch, given))
    if isinstance(given, tuple | Mapping | str) or is_array(given):
        return False
    return hasattr(given, "__iter__")


def _is_batch(item: Any) -> bool:
    """Whether it is a tuple, list or dict of arrays."""
    if isinstance(item, Mapping):
        return True
    return isinstance(item, tuple | list) and any(map(is_array, item))


# --- weights of classes --------------------------------------------------------------------------


def _weighted(model: Layer, data: Data, class_weight: Any) -> Loss:
    """The loss of the data with weights of classes.

    Raises
    ------
    TypeError, ValueError
        If the loss takes none, or there is not a weight for each class.
    """
    loss, y = data.loss, data.y
    outputs = model.output_shape(data.x.shape[1:])
    if not isinstance(loss, SoftmaxCrossEntropy | BinaryCrossEntropy):
        raise ValueError(
            f"class_weight is for 'softmax_cross_entropy' and 'binary_cross_entropy', got the loss "
            f"{loss!r}; sample_weight suits any loss of dropcore.losses"
        )
    if loss.class_weights is not None:
        raise ValueError(
            f"class_weight: the loss {loss!r} has class_weights of its own: give one of them"
        )
    if on_device(y) or not takes_labels(loss, y, outputs):
        raise ValueError(
            "class_weight needs a label for each output row in host memory, got targets of shape "
            f"{y.shape} of {y.dtype}"
        )
    count = 2 if isinstance(loss, BinaryCrossEntropy) else outputs[-1]
    assert count is not None
    names = list(range(count)) if data.known.classes is None else data.known.classes.tolist()
    if isinstance(class_weight, str) and class_weight == "balanced":
        weights = _balanced(data, count)
    elif isinstance(class_weight, Mapping):
        weights = _given(class_weight, names)
    else:
        raise TypeError(
            "class_weight must be 'balanced' or a dict of a number for each label, such as "
            f"{{{names[0]!r}: 1.0, {names[1]!r}: 5.0}}, got {shown(class_weight)}"
        )
    return replace(loss, class_weights=weights)


def _balanced(data: Data, count: int) -> tuple[float, ...]:
    """Weights that give all classes of the training set the same total weight."""
    y, valid = data.y, data.valid
    if data.rows is not None:
        y, valid = y[data.rows], None if valid is None else valid[data.rows]
    labels = y if valid is None else y[valid]
    ignored = getattr(data.loss, "ignore_label", None)
    found = np.zeros(count, np.int64)
    for rows in row_blocks(labels):
        block = labels[rows].reshape(-1).astype(np.int64)
        if ignored is not None:
            block = block[block != ignored]
        found += np.bincount(block, minlength=count)
    present = max(1, int((found > 0).sum()))
    return tuple((found.sum() / (present * np.maximum(found, 1))).tolist())


def _given(class_weight: Mapping[Any, Any], names: list[Any]) -> tuple[float, ...]:
    """The weights of a dict, in the order of the outputs."""
    by_name = {
        label.item() if isinstance(label, np.generic) else label: weight
        for label, weight in class_weight.items()
    }
    missing = [name for name in names if name not in by_name]
    unknown = [label for label in by_name if label not in names]
    if missing or unknown:
        parts = [
            f"{what} {listed(labels)}"
            for what, labels in (("missing", missing), ("unknown", unknown))
            if labels
        ]
        raise ValueError(
            f"class_weight must have a number for each of the {len(names)} labels: "
            f"{'; '.join(parts)}"
        )
    weights = tuple(
        check_number(f"class_weight of {name!r}", by_name[name], "[0, inf)") for name in names
    )
    if not any(weights):
        raise ValueError("class_weight must not be all zero: no sample would count")
    return weights

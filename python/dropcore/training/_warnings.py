"""Warnings about probable mistakes in models and data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np

from dropcore._base.blocks import holds_for_all, row_blocks
from dropcore._base.checks import users_level
from dropcore._base.device import on_device
from dropcore.losses import BinaryCrossEntropy, CheckedLoss, SoftmaxCrossEntropy
from dropcore.training._labels import takes_labels

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer
    from dropcore.training._data import Data

__all__ = [
    "constant_columns_expected",
    "divergence_hints",
    "warn_of_constant_columns",
    "warn_of_one_class",
    "warn_of_unlikely_input",
    "warn_of_unlikely_output",
]

_LARGE = 1e3
"""Standardised data stays below."""

_FEW = 16
"""Fewer samples than that may be alike by chance."""

_WIDE = 50
"""Columns of an array with which some are expected to be zero."""

_SHOWN = 6


def warn_of_unlikely_output(model: Layer, data: Data) -> None:
    """Warn if the last layer does not suit the loss or drops outputs."""
    path, last = _last_layer(model)
    name = f"layer {path}, {last!r}" if path else repr(last)
    doubled = {SoftmaxCrossEntropy: "softmax", BinaryCrossEntropy: "sigmoid"}.get(type(data.loss))
    if doubled is not None and doubled in (
        getattr(last, "activation", None),
        type(last).__name__.lower(),
    ):
        warnings.warn(
            f"fit: the loss takes logits and applies the {doubled} itself, and {name}, applies one "
            "before it, which slows learning down: leave it out, and apply it to what predict "
            "returns",
            UserWarning,
            stacklevel=users_level(),
        )
    if last.draws and not last.params:
        warnings.warn(
            f"fit: the model ends with {name}, so that noise is applied to the outputs which are "
            "compared with y: put it before the last layer with weights",
            UserWarning,
            stacklevel=users_level(),
        )


def warn_of_unlikely_input(model: Layer, data: Data) -> None:
    """Warn if images seem to have their channels first."""
    sample = data.x.shape[1:]
    channels = (1, 2, 3, 4)
    if (
        len(sample) == 3
        and sample[0] in channels
        and sample[1] == sample[2] > max(channels)
        and any("2D" in type(layer).__name__ for _, layer in model.tree())
    ):
        warnings.warn(
            f"fit: x has samples of shape {sample}, which looks like (channels, height, width); "
            "layers expect (height, width, channels): use np.moveaxis(x, 1, -1)",
            UserWarning,
            stacklevel=users_level(),
        )


def warn_of_one_class(model: Layer, data: Data) -> None:
    """Warn if all labels are the same."""
    y, loss = data.y, data.loss
    if on_device(y) or not isinstance(loss, CheckedLoss) or not loss.classifies:
        return
    if not takes_labels(loss, y, model.output_shape(data.x.shape[1:])):
        return
    rows = slice(None) if data.rows is None else data.rows
    y = y[rows] if data.valid is None else y[rows][data.valid[rows]]
    if y.size and holds_for_all(y, lambda block: block == y.flat[0]):
        classes = data.known.classes
        label = y.flat[0] if classes is None else classes[y.flat[0]]
        warnings.warn(
            f"fit: all labels in y are {label.item()!r}: with one class there is nothing to learn",
            UserWarning,
            stacklevel=users_level(),
        )


_expected: ContextVar[bool] = ContextVar("constant_columns_expected", default=False)


@contextmanager
def constant_columns_expected() -> Iterator[None]:
    """Inside, columns that are constant cause no warning.

    Unlike the filters of `warnings`, which belong to the process, this holds for one thread.
    """
    before = _expected.set(True)
    try:
        yield
    finally:
        _expected.reset(before)


def warn_of_constant_columns(data: Data) -> None:
    """Warn of features that are the same in all samples of the training set.

    Zeros are left out of wide arrays, where they are usual: pixels at an edge, words that do not
    occur.
    """
    x, rows = data.x, data.rows
    indices = data.dtype.kind == "i"
    if _expected.get() or x.ndim != 2 or indices or on_device(x) or len(data) < _FEW:
        return
    if data.known.preprocessing is not None:  # which names them itself
        return
    at = 0 if rows is None else rows[0]
    first = np.array(x[at])
    # A short first block leaves few columns to look at.
    columns, start, size = np.arange(x.shape[1]), 1, _FEW
    while start < len(data) and len(columns):
        block = slice(start, start + size)
        part = x[block if rows is None else rows[block]][:, columns]
        columns = columns[(part == first[columns]).all(axis=0)]
        start, size = start + size, 1 << 12
    if data.names is None and x.shape[1] > _WIDE:
        columns = columns[first[columns] != 0]
    if len(columns):
        names = [repr(column if data.names is None else data.names[column])
                 for column in columns[:_SHOWN].tolist()]  # fmt: skip
        more = f" and {len(columns) - _SHOWN} others" if len(columns) > _SHOWN else ""
        what = (
            f"column {names[0]} of x is {first[columns[0]].item()!r} in all samples, so it holds"
            if len(columns) == 1
            else f"columns {', '.join(names)}{more} of x are the same in all samples, so they hold"
        )
        warnings.warn(
            f"fit: {what} no information: leave out what is always constant, and train on samples "
            "in which the rest varies",
            UserWarning,
            stacklevel=users_level(),
        )


def divergence_hints(model: Layer, data: Data) -> str:
    """What may help against a loss that is not finite."""
    hints = ["a smaller learning rate may help"]
    if any(_is_unit_dropout(layer) for _, layer in model.tree()):
        hints.append(
            "unit masks, which the model draws, make noisier gradients than element masks and need "
            "a smaller learning rate"
        )
    for name, array in (("x", data.x), ("y", data.y)):
        if array.dtype.kind == "f" and not on_device(array):
            peak = max(float(np.abs(array[rows]).max()) for rows in row_blocks(array))
            if peak > _LARGE:
                hints.append(
                    f"{name} reaches {peak:.2g}: standardise it (subtract its mean, divide by its "
                    "standard deviation)"
                )
    return "; ".join(hints)


def _last_layer(model: Layer) -> tuple[str, Layer]:
    path, layer = "", model
    while layers := getattr(layer, "layers", None):
        name = str(len(layers) - 1)
        path, layer = f"{path}.{name}" if path else name, layers[-1]
    return path, layer


def _is_unit_dropout(layer: Layer) -> bool:
    """Whether the layer drops units for the whole batch."""
    if any(kind.__name__ == "UnitDropout" for kind in type(layer).__mro__):
        return True
    shared = getattr(layer, "shared_axes", None)
    if shared is None or not layer.draws:
        return False
    return 0 in (shared if isinstance(shared, tuple | list) else (shared,))

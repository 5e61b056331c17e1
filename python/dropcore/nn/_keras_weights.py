"""Weights in the order of Keras 3, without importing it.

Keras has the same layouts and the same order of gates, so that only the order of the arrays and
their names differ. It is, layer by layer:

=============================  =====================================================
`Dense`, `Conv1D`, `Conv2D`    kernel, bias
`Embedding`                    embeddings
`SimpleRNN`, `GRU`, `LSTM`     kernel, recurrent_kernel, bias; `GRU` is ``reset_after``
`Bidirectional`                those of the forward layer, then of the backward one
`BatchNorm`                    gamma, beta, moving_mean, moving_variance
`LayerNorm`                    gamma, beta
`MultiHeadAttention`           kernel and bias of query, key, value and output, as in
                               ``MultiHeadAttention``, and ``GroupQueryAttention``
`CrossAttention`               the same
`LearnedPositions`             embeddings
=============================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import to_device
from dropcore._base.checks import shown
from dropcore.nn.attention import CrossAttention, MultiHeadAttention
from dropcore.nn.convolution import Conv1D, Conv2D
from dropcore.nn.dense import Dense
from dropcore.nn.embedding import Embedding
from dropcore.nn.layer import Layer
from dropcore.nn.normalization import BatchNorm, LayerNorm
from dropcore.nn.positions import LearnedPositions
from dropcore.nn.recurrent import GRU, Recurrent

__all__ = ["load_keras_weights", "to_keras_weights"]

_ORDER: Final = ("weight", "recurrent_weight", "bias", "gamma", "beta", "mean", "variance")

_KNOWN: Final = (
    Dense, Conv1D, Conv2D, Embedding, Recurrent, BatchNorm, LayerNorm, LearnedPositions
)  # fmt: skip


def to_keras_weights(model: Layer) -> list[NDArray[Any]]:
    """The weights and running moments, for ``set_weights`` of a Keras model of the same layers.

    Parameters
    ----------
    model : Layer
        Built. Layers of branches come in the order of the branches.

    Returns
    -------
    list of ndarray
        Copies on the CPU, in the dtype of the model.

    Raises
    ------
    ValueError
        If the model is not built, or a layer with weights has no counterpart in Keras.

    Examples
    --------
    >>> keras_model.set_weights(to_keras_weights(model))  # doctest: +SKIP
    """
    dtypes = [array.dtype for array in model.params.values()]
    return [
        np.array(to_device(array, "cpu"), dtype=dtypes[0] if dtypes else np.float32)
        for _, _, _, array in _arrays_of("to_keras_weights", model)
    ]


def load_keras_weights(model: Layer, weights: Iterable[Any]) -> None:
    """Take the weights and running moments from ``get_weights()`` of a Keras model.

    Arrays are matched in order. Their number and shapes are checked, but two layers of one shape
    could be exchanged unnoticed: compare outputs. Nothing is changed unless everything fits.
    BatchNorm and LayerNorm start with other values of epsilon in Keras: give the layers its.

    Parameters
    ----------
    model : Layer
        Built with the same layers. It is changed.
    weights : list of array_like
        Floating-point numbers, which are converted to the dtype of the model.

    Raises
    ------
    TypeError
        If it is not a list of arrays of floating-point numbers.
    ValueError
        If the model is not built, a layer with weights has no counterpart in Keras, or the number
        or the shapes of the arrays differ.

    Examples
    --------
    >>> load_keras_weights(model, keras_model.get_weights())  # doctest: +SKIP
    """
    what = "load_keras_weights"
    if isinstance(weights, dict | str) or not isinstance(weights, Iterable):
        raise TypeError(
            f"{what}: weights must be a list of arrays, such as model.get_weights(), got "
            f"{shown(weights)}"
        )
    given = [np.asarray(array) for array in weights]
    own = _arrays_of(what, model)
    if len(given) != len(own):
        raise ValueError(f"{what}: the model has {len(own)} arrays, got {len(given)}")
    values = []
    for (path, layer, name, array), value in zip(own, given, strict=True):
        place = f"{name} of layer {path or '(top)'}, {layer!r}"
        if value.dtype.kind != "f":
            raise TypeError(f"{what}: {place} must be floating-point numbers, got {value.dtype}")
        if value.shape != array.shape:
            hint = ""
            if isinstance(layer, GRU) and name == "bias" and value.ndim == 1:
                hint = "; a GRU of Keras needs reset_after=True"
            raise ValueError(
                f"{what}: {place} has shape {array.shape}, got an array of shape "
                f"{value.shape}{hint}"
            )
        with np.errstate(over="ignore"):
            found = value.astype(array.dtype)
        if (np.isinf(found) & np.isfinite(value)).any():
            raise ValueError(f"{what}: {place} gets numbers too large for {array.dtype}")
        values.append(found)
    for (_, _, _, array), value in zip(own, values, strict=True):
        array[...] = to_device(value, model.device)


def _arrays_of(what: str, model: Layer) -> list[tuple[str, Layer, str, Any]]:
    """The path, layer, name and array of all weights, in the order of Keras."""
    if not model.built:
        raise ValueError(f"{what}: call build(input_shape, key=...) first")
    found: list[tuple[str, Layer, str, Any]] = []
    for path, layer in model.tree():
        if isinstance(layer, MultiHeadAttention | CrossAttention):
            for name, (weight, bias) in layer.projections().items():
                found.append((path, layer, f"{name} weight", weight))
                if bias is not None:
                    found.append((path, layer, f"{name} bias", bias))
            continue
        arrays = dict(layer.params) | dict(layer.buffers)
        own = [name for name in arrays if name.split(".")[0] not in layer.children]
        if own and not (isinstance(layer, _KNOWN) and {*own} <= {*_ORDER}):
            raise ValueError(
                f"{what}: layer {path or '(top)'}, {layer!r} has no counterpart in Keras; save "
                "and load take every model"
            )
        found += [(path, layer, name, arrays[name]) for name in sorted(own, key=_ORDER.index)]
    return found

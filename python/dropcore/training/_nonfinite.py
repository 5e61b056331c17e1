"""Which layer is to blame for a loss that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._base.device import array_namespace
from dropcore.key import Key
from dropcore.nn.layer import Array, Layer
from dropcore.nn.sequential import Sequential

__all__ = ["first_nonfinite", "nonfinite_weights"]


def nonfinite_weights(model: Layer, path: str = "") -> str | None:
    """Describe the first layer with a weight that is not finite, if there is one."""
    for place, layer in model.tree(path):
        for name, weight in layer._params.items():
            bad = weight.size - int(array_namespace(weight).isfinite(weight).sum())
            if bad:
                return (
                    f"{bad} of the {weight.size} values in the {name} of {_called(place, layer)} "
                    "are not finite"
                )
    return None


def first_nonfinite(model: Layer, x: Array, key: Key, lengths: Any = None) -> str:
    """Describe the first layer, in the order of the network, that is not finite on `x`.

    Parameters
    ----------
    model : Layer
    x : ndarray, shape (batch, ...)
    key : Key
        Of the training step that went wrong.
    lengths : ndarray, optional
        Of its sequences.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found, _ = _walk(model, x, key, lengths, "")
    return found or "all weights and outputs are finite, it is the loss itself that is not"


def _walk(
    layer: Layer, x: Array, key: Key | None, lengths: Any, path: str
) -> tuple[str | None, Array]:
    if isinstance(layer, Sequential):
        for name, child, own in layer.children_with_keys(key):
            found, x = _walk(child, x, own, lengths, f"{path}.{name}" if path else name)
            if found:
                return found, x
            lengths = None if lengths is None else child.output_lengths(lengths)
        return None, x
    found = nonfinite_weights(layer, path)
    if found is None:
        x, _ = layer.forward(x, key=key, **layer.lengths_kwargs(lengths))
        if not array_namespace(x).isfinite(x).all():
            found = f"the output of {_called(path, layer)} is not finite"
    return found, x


def _called(path: str, layer: Layer) -> str:
    return f"layer {path}, {layer!r}," if path else repr(layer)

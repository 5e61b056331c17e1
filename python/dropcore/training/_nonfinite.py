"""Find the first layer whose numbers are not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dropcore._base.device import array_namespace
from dropcore.key import Key

if TYPE_CHECKING:
    from dropcore.losses import Array
    from dropcore.nn.layer import Layer

__all__ = ["first_nonfinite", "nonfinite_weights"]


def nonfinite_weights(model: Layer, path: str = "") -> str | None:
    """Describe the first parameter with a value that is not finite, if there is one."""
    params = model.params
    with np.errstate(all="ignore"):
        # A sum is not finite if a term is not. One that overflows is looked at more closely.
        suspects = [name for name, weight in params.items() if not math.isfinite(weight.sum())]
    for name in suspects:
        weight = params[name]
        bad = weight.size - int(array_namespace(weight).isfinite(weight).sum())
        if bad:
            place, _, own = name.rpartition(".")
            whole = ".".join(part for part in (path, place) if part)
            layer = _called(whole, dict(model.tree())[place])
            return f"{bad} of the {weight.size} values in the {own} of {layer} are not finite"
    return None


def first_nonfinite(model: Layer, x: Array, key: Key | None, lengths: Any = None) -> str:
    """Describe the first layer, in the order of the network, that is not finite on `x`.

    Parameters
    ----------
    model : Layer
    x : ndarray, shape (batch, ...)
    key : Key or None
        That of the training step that failed; None for inference.
    lengths : ndarray, optional
        Valid steps of its sequences.
    """
    with np.errstate(all="ignore"):
        for path, layer, y in model.trace(x, key, lengths=lengths):
            found = nonfinite_weights(layer, path)
            if found:
                return found
            if not array_namespace(y).isfinite(y).all():
                return f"the output of {_called(path, layer)} is not finite"
    return "all weights and outputs are finite, it is the loss itself that is not"


def _called(path: str, layer: Layer) -> str:
    return f"layer {path}, {layer!r}," if path else repr(layer)

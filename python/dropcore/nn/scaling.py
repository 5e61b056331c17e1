"""Conversion between the two scalings of dropout."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dropcore._base.device import array_namespace
from dropcore.nn.branches import Parallel
from dropcore.nn.dropout import Dropout
from dropcore.nn.layer import Layer
from dropcore.nn.sequential import Sequential

__all__ = ["set_scaling_"]

SCALINGS: Final = ("inverted", "test")


def set_scaling_(model: Layer, scaling: str) -> None:
    """Change the scaling of all dropouts of a model without changing its outputs.

    A network that is trained unscaled, ``Dropout(scaling="test")``, multiplies the input of a
    dropout by keep at inference. Its outputs are the same if the weights after the dropout are
    multiplied by keep once instead. The papers finish a network like this, and inverted scaling
    stores such weights all the time. So, in place, for every dropout whose scaling changes::

        "inverted"    weights after it <- weights * keep       the finished network of the papers
        "test"        weights after it <- weights / keep       to continue training pretrained
                                                               weights unscaled

    Outputs without a key stay the same up to rounding. Bounds of max-norm constraints do not
    change: see `dropcore.constraints.MaxNorm.paper`.

    Parameters
    ----------
    model : Layer
        A model that is built. Between a dropout and the weights after it there may be layers that
        are homogeneous, such as Flatten, pooling or ReLU.
    scaling : "inverted" or "test"

    Raises
    ------
    ValueError
        For another `scaling`, or a dropout without weights that can take its scale: at the end of
        the model, before a sigmoid, with a rate that changes or is 1. Nothing is changed then.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", sections 4 (weights at test time) and 6.1.2
    (pretraining).
    """
    if scaling not in SCALINGS:
        raise ValueError(f"set_scaling_: scaling must be 'inverted' or 'test', got {scaling!r}")
    if not isinstance(model, Layer):
        raise TypeError(f"set_scaling_: model must be a layer, got {type(model).__name__}")
    if not model.built:
        raise ValueError(
            "set_scaling_: the model has no weights yet: call build(input_shape, key=...) or "
            "fit(..., key=...) first"
        )
    changes: list[tuple[Any, Any]] = []
    factor = _walk(model, "", None, scaling, changes)
    if factor is not None:
        raise ValueError(
            "set_scaling_: there are no weights after the last dropout of the model, so nothing "
            "can take its scale"
        )
    for weight, own in changes:
        weight *= own
    for _, layer in model.leaves():
        if isinstance(layer, Dropout):
            layer.scaling = scaling


def _walk(
    layer: Layer, path: str, factor: Any, scaling: str, changes: list[tuple[Any, Any]]
) -> Any:
    """The factor that is left after `layer`, or None; adds the weights that take one to changes."""
    if isinstance(layer, Dropout) and layer.scaling != scaling:
        return (1.0 if factor is None else factor) * _factor(layer, path, scaling)
    if isinstance(layer, Sequential):
        for name, child in layer.children.items():
            factor = _walk(child, f"{path}.{name}" if path else name, factor, scaling, changes)
        return factor
    if isinstance(layer, Parallel):
        left = [
            _walk(child, f"{path}.{name}" if path else name, factor, scaling, changes)
            for name, child in layer.children.items()
        ]
        if any(one is not None for one in left):
            if layer.merge == "concat" or any(not _equal(one, left[0]) for one in left):
                raise ValueError(
                    f"set_scaling_: layer {path}, {layer!r}, has branches that leave different "
                    "scales of dropout to what follows"
                )
            return left[0]
        return None
    if any(isinstance(one, Dropout) and one.scaling != scaling for _, one in layer.leaves()):
        raise ValueError(
            f"set_scaling_: layer {path}, {layer!r}, is a container of another class: the weights "
            "after the dropout in it are not known"
        )
    if factor is None or layer.homogeneous:
        return factor
    weights = [layer.params[name] for name in layer.input_weights]
    # The inputs are the last but one axis of every weight; a keep for each unit goes along it.
    along = np.asarray(factor)[..., None]
    if not weights or any(along.size not in (1, weight.shape[-2]) for weight in weights):
        raise ValueError(
            f"set_scaling_: layer {path}, {layer!r}, cannot take over the scale of the dropout in "
            "front of it"
        )
    changes += [
        (weight, array_namespace(weight).asarray(along.astype(weight.dtype))) for weight in weights
    ]
    return None


def _factor(dropout: Dropout, path: str, scaling: str) -> Any:
    keep = dropout.keep
    if callable(keep) or np.ndim(keep) > 1 or not np.all(np.asarray(keep) > 0):
        raise ValueError(
            f"set_scaling_: layer {path}, {dropout!r}, must keep a fixed fraction above 0, one for "
            "all or one for each unit"
        )
    return keep if scaling == "inverted" else 1.0 / keep


def _equal(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and bool(np.all(a == b))

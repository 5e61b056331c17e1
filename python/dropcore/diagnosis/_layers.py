"""The layers of a model as data meets them: their outputs, and how much they keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dropcore.key import Key
from dropcore.nn.branches import Parallel
from dropcore.nn.dropout import RatedLayer
from dropcore.nn.layer import Array, Layer
from dropcore.nn.learned_dropout import ConcreteDropout, VariationalDropout
from dropcore.nn.recurrent import NOISE, Recurrent
from dropcore.nn.sequential import Sequential

__all__ = ["in_order", "lowest_keep", "outputs"]


def outputs(
    layer: Layer, x: Array, key: Key | None = None, *, lengths: Array | None = None, path: str = ""
) -> Iterator[tuple[str, Layer, Array]]:
    """Yield path, layer and output of each layer at inference, in the order of the network.

    `Layer.trace` follows a training step, in which BatchNorm uses the moments of the batch. Here it
    uses its running moments, as in a prediction. The branches of a `Parallel` come before it.

    Parameters
    ----------
    layer : Layer
    x : ndarray (batch, ...)
    key : Key, optional
        Of the noise; without it there is none.
    lengths : int64 ndarray (batch,), optional
        Valid steps of padded sequences.
    path : str, default ""
        Of `layer`.
    """
    if isinstance(layer, Sequential):
        for name, child, own in layer.children_with_keys(key):
            place = f"{path}.{name}" if path else name
            for step in outputs(child, x, own, lengths=lengths, path=place):
                yield step
                x = step[2]
            lengths = None if lengths is None else child.output_lengths(lengths)
        return
    if isinstance(layer, Parallel):
        for name, branch, own in layer.children_with_keys(key):
            yield from outputs(branch, x, own, lengths=lengths, path=f"{path}.{name}".lstrip("."))
    options: dict[str, Any] = layer.lengths_kwargs(lengths)
    yield path, layer, layer(x, key, **options)


def in_order(layer: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers in the order in which data passes them: those inside a Sequential, one by one.

    Other containers stand for themselves.
    """
    if not isinstance(layer, Sequential):
        yield path, layer
        return
    for name, child in layer.children.items():
        yield from in_order(child, f"{path}.{name}" if path else name)


def lowest_keep(layer: Layer) -> float:
    """The smallest fraction that a layer keeps of its inputs or states; 1 without dropout.

    Rates that change with the step count as those of step 0.
    """
    if isinstance(layer, ConcreteDropout | VariationalDropout):
        return 1.0 - layer.learned_rate
    if isinstance(layer, RatedLayer):
        kept = layer.expected_keep()
        return 1.0 - float(np.mean(layer.rate(0))) if kept is None else kept
    if isinstance(layer, Recurrent):
        # Zoneout keeps previous values; it takes nothing away.
        rates = [getattr(layer, name) for name in NOISE if not name.startswith("zoneout")]
        return 1.0 - max(float(rate(0)) if callable(rate) else rate for rate in rates)
    return 1.0

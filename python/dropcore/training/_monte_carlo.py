"""Monte Carlo prediction: outputs of a model under many keys, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dropcore._backends import to_device
from dropcore._base.device import array_namespace, on_device
from dropcore.key import MONTE_CARLO, Key
from dropcore.losses import Array
from dropcore.training._choices import check_address
from dropcore.training._data import Data

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["check_sampling", "sampled"]

_RATES = (
    "rate",
    "keep",
    "stddev",
    "dropout",
    "recurrent_dropout",
    "weight_dropout",
    "zoneout",
)  # fmt: skip
"""Attributes of layers that may be functions of the step."""


def check_sampling(model: Layer, key: Key, samples: int) -> None:
    """ValueError if a model cannot be sampled that often at that address."""
    _check_constant_rates(model)
    check_address(model, key, 0, samples)


def sampled(
    model: Layer, data: Data, key: Key, samples: int, batch_size: int
) -> Iterator[tuple[slice, slice, Array]]:
    """Outputs under noise, a part of the rows and of the samples at a time.

    What comes before the first noise is computed once for each batch of rows. A batch of fewer
    than `batch_size` rows is computed for several samples at once, so that products have about
    `batch_size` rows.

    Parameters
    ----------
    model : Layer
    data : Data
    key : Key
        Sample t draws in the domain of Monte Carlo prediction, at step ``key.step + t``.
    samples : int
    batch_size : int

    Yields
    ------
    rows, which : slice
        Of the data, and of the samples. All samples of some rows come before those of the next.
    outputs : ndarray, shape (samples of this part, rows of this part, ...)
        On the device of the data; read-only where samples are equal.
    """
    where = "cuda" if on_device(data.x) else "cpu"
    for start in range(0, len(data), batch_size):
        rows = slice(start, min(start + batch_size, len(data)))
        batch = data.take(rows)
        with np.errstate(all="ignore"):
            draw = model.sampler(batch.x, row_offset=start, **batch.lengths_kwargs)
        at_once = max(1, batch_size // len(batch.x))
        for first in range(0, samples, at_once):
            which = slice(first, min(first + at_once, samples))
            keys = [
                Key(key.seed, key.stream, key.step + t, domain=MONTE_CARLO)
                for t in range(which.start, which.stop)
            ]
            with np.errstate(all="ignore"):
                outputs = to_device(draw(keys), where)
            xp = array_namespace(outputs)
            yield rows, which, xp.broadcast_to(outputs, (len(keys), *outputs.shape[1:]))


def _check_constant_rates(model: Layer) -> None:
    """ValueError if a rate is a function of the step, which means the sample in Monte Carlo."""
    for path, layer in model.tree():
        for name in _RATES if layer.draws else ():
            if callable(getattr(layer, name, None)):
                what = f"layer {path}, {layer!r}" if path else repr(layer)
                raise ValueError(
                    f"predict: {name} of {what}, is a function of the training step, and a step of "
                    f"Monte Carlo prediction is the number of the sample: use a model with the "
                    "number that is meant"
                )

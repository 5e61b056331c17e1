"""Recurrent layers by the name of their cell, and their states."""

from __future__ import annotations

import numpy as np

from dropcore.nn import GRU, LSTM, SimpleRNN
from support.arrays import normal

CELLS = ("tanh", "relu", "gru", "lstm")


def layer_of(cell, units, **options):
    if cell in ("tanh", "relu"):
        return SimpleRNN(units, activation=cell, **options)
    return {"gru": GRU, "lstm": LSTM}[cell](units, **options)


def parts_of(layer):
    return 2 if isinstance(layer, LSTM) else 1


def some_state(layer, batch, dtype=np.float64, seed=7):
    """An initial state that is not zero."""
    parts = tuple(
        0.5 * normal(batch, layer.units, seed=seed + i).astype(dtype)
        for i in range(parts_of(layer))
    )
    return parts if len(parts) > 1 else parts[0]

"""A run of `fit` in words, which tell two runs apart."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dropcore._backends import to_device
from dropcore._version import __version__
from dropcore.key import Key
from dropcore.training._data import Data
from dropcore.training.state import TrainingState

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["in_words", "run_in_words", "state_in_words"]

_PLAIN: Final = frozenset({bool, int, float, str, type(None)})

_SAMPLES: Final = 64
"""Samples whose values are compared."""


def in_words(**arguments: Any) -> dict[str, str]:
    """Arguments of `fit` in words that are the same for equal ones, also in another process."""
    return {name: _described(value) for name, value in arguments.items()}


def _described(value: Any) -> str:
    """A number, an optimiser or a loss in words; other objects by their name or class."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in (list, tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, np.generic):
        return _described(value.item())
    if is_dataclass(kind):
        options = [
            f"{f.name}={_described(getattr(value, f.name))}" for f in fields(value) if f.init
        ]
        return f"{kind.__name__}({', '.join(options)})"
    return str(getattr(value, "__name__", kind.__name__))


def run_in_words(
    model: Layer, address: Key, data: Data, call: Mapping[str, str], epochs: int
) -> dict[str, str]:
    """What all ranks of a run must have in common before it begins, by how a message calls it."""
    rows = np.unique(np.linspace(0, len(data) - 1, _SAMPLES).astype(np.int64))
    batch = data.take(rows)
    frozen = sorted(model.frozen())
    return {
        "the version of dropcore": __version__,
        "the key": repr(address),
        "the model": f"{model!r}{f', frozen: {frozen}' if frozen else ''}",
        "the number of epochs to train to": str(epochs),
        "the number of samples": str(len(data)),
        "the shape of a sample": str(data.x.shape[1:]),
        **{f"the argument {name}": value for name, value in call.items()},
        "the values of x": f"those with checksum {_checksum([batch.x])}",
        "the values of y": f"those with checksum {_checksum([batch.y])}",
    }


def state_in_words(model: Layer, state: TrainingState) -> dict[str, str]:
    """What all ranks of a run must have in common while it goes on."""
    return {
        "the number of updates": str(state.step),
        "the number of epochs": str(state.epoch),
        "the factor of the learning rate": str(state.learning_rate_factor),
        "the state of the model": "that of checksum "
        + _checksum([*model.params.values(), *model.buffers.values()]),
        "the state of the optimiser": "that of checksum "
        + _checksum(array for slot in state.slots.values() for array in slot.values()),
    }


def _checksum(arrays: Iterable[Any]) -> str:
    found = 0
    for array in arrays:
        here = np.ascontiguousarray(to_device(array, "cpu"))
        found = zlib.crc32(here.reshape(-1).view(np.uint8).data, found)
    return f"{found:08x}"

"""Optimisers.

An optimiser is a recipe that holds no numbers of the network. It has two methods: `init` gives the
state that goes with the parameters, and `apply` makes an update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SGD", "Arrays", "Optimizer", "State"]

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by the path of the parameter they belong to, such as ``"0.weight"``."""

State = dict[str, dict[str, NDArray[Any]]]
"""Kind of state -> path of the parameter -> array, such as ``state["velocity"]["0.weight"]``."""


class Optimizer(Protocol):
    """What training asks of an optimiser."""

    def init(self, params: Arrays) -> State:
        """State before the first update, in new arrays."""

    def apply(self, params: Arrays, grads: Arrays, state: State, step: int) -> None:
        """Make update number `step` (from 0) on `params` and `state` in place."""


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum if it is given.

    For each parameter w with gradient g, velocity v, learning rate a and momentum m::

        w <- w - a g                                  momentum = 0
        v <- m v - a g      w <- w + v                momentum > 0
        v <- m v - a g      w <- w + m v - a g        nesterov=True

    Parameters
    ----------
    learning_rate : float or callable
        Positive; or a function of the step, counted from 0, that returns it.
    momentum : float, default 0.0
        In [0, 1).
    nesterov : bool, default False
        Look ahead along the velocity. Needs momentum.

    Raises
    ------
    ValueError
        If a number is out of its range, or for nesterov without momentum.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in
    deep learning", equations 1-4.
    """

    learning_rate: float | Callable[[int], float]
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        rate = self.learning_rate
        if not callable(rate) and not 0 < rate < np.inf:
            raise ValueError(
                "SGD: learning_rate must be a positive number or a function of the "
                f"step, got {rate!r}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {self.momentum!r}")
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def init(self, params: Arrays) -> State:
        """Velocities of zero, or nothing without momentum."""
        if not self.momentum:
            return {}
        return {"velocity": {path: np.zeros_like(array) for path, array in params.items()}}

    def apply(self, params: Arrays, grads: Arrays, state: State, step: int) -> None:
        """Update `params` and the velocities in place."""
        rate = self.learning_rate(step) if callable(self.learning_rate) else self.learning_rate
        # A NumPy float64 would widen float32 arrays, a Python float does not.
        rate, momentum = float(rate), float(self.momentum)
        for path, weight in params.items():
            change = grads[path] * -rate
            if momentum:
                velocity = state["velocity"][path]
                velocity *= momentum
                velocity += change
                if self.nesterov:
                    change += momentum * velocity
                else:
                    change = velocity
            weight += change

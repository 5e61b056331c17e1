"""Optimisers.

An optimiser is a recipe that holds no numbers of the network. It has two methods: `init` gives the
state that goes with the parameters, and `apply` makes an update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dropcore.constraints import Constraint, MaxNorm
from dropcore.gradients import Gradient
from dropcore.updates import adam_, sgd_

__all__ = ["SGD", "Adam", "Arrays", "Gradients", "Optimizer", "State"]

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by the path of the parameter they belong to, such as ``"0.weight"``."""

Gradients = Mapping[str, Gradient]
"""Gradients by the path of their parameter."""

Constraints = Mapping[str, Constraint]
"""What must hold after every update, by the path of the parameter."""

NO_CONSTRAINTS: Constraints = MappingProxyType({})

State = dict[str, dict[str, NDArray[Any]]]
"""Kind of state -> path of the parameter -> array, such as ``state["velocity"]["0.weight"]``."""


class Optimizer(Protocol):
    """What training asks of an optimiser."""

    def init(self, params: Arrays) -> State:
        """State before the first update, in new arrays."""

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = ...,
    ) -> None:
        """Make update number `step` (from 0) on `params` and `state` in place.

        Each parameter satisfies its constraint when its update is done, also if the user interrupts
        the rest.
        """


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
    lazy : bool, default False
        Pass over the weights of units that a mask drops for the whole batch: neither they nor their
        velocities move. That is faster, and another optimiser; without it their velocities decay
        and move them on.

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
    lazy: bool = False

    def __post_init__(self) -> None:
        check_learning_rate("SGD", self.learning_rate)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {self.momentum!r}")
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def init(self, params: Arrays) -> State:
        """Velocities of zero, or nothing without momentum."""
        return {"velocity": zeros_like(params)} if self.momentum else {}

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Update `params` and the velocities in place."""
        velocities = state.get("velocity", {})
        rate = value_at(self.learning_rate, step)
        for path, weight in params.items():
            update = partial(
                sgd_,
                weight,
                grads[path],
                velocities.get(path),
                learning_rate=rate,
                momentum=self.momentum,
                nesterov=self.nesterov,
                lazy=self.lazy,
            )
            constrained(update, weight, constraints.get(path))


@dataclass(frozen=True)
class Adam:
    """Adam: steps scaled by running means of the gradient and of its square.

    For each parameter w with gradient g at step t = 1, 2, ..., learning rate a::

        m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
        w <- w - a (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    Parameters
    ----------
    learning_rate : float or callable, default 1e-3
        Positive; or a function of the step, counted from 0, that returns it.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the means, in [0, 1).
    epsilon : float, default 1e-8
        Positive.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    learning_rate: float | Callable[[int], float] = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_learning_rate("Adam", self.learning_rate)
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Adam: {name} must be in [0, 1), got {getattr(self, name)!r}")
        if not self.epsilon > 0:
            raise ValueError(f"Adam: epsilon must be positive, got {self.epsilon!r}")

    def init(self, params: Arrays) -> State:
        """Means of zero."""
        return {"mean": zeros_like(params), "square": zeros_like(params)}

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Update `params` and the means in place."""
        rate = value_at(self.learning_rate, step)
        for path, weight in params.items():
            update = partial(
                adam_,
                weight,
                grads[path],
                state["mean"][path],
                state["square"][path],
                step=step + 1,
                learning_rate=rate,
                beta_1=self.beta_1,
                beta_2=self.beta_2,
                epsilon=self.epsilon,
            )
            constrained(update, weight, constraints.get(path))


def zeros_like(params: Arrays) -> dict[str, NDArray[Any]]:
    """An array of zeros for each parameter."""
    return {path: np.zeros_like(array) for path, array in params.items()}


def value_at(value: float | Callable[[int], float], step: int) -> float:
    """A number, or what a schedule gives at `step`."""
    return float(value(step) if callable(value) else value)


def check_learning_rate(what: str, rate: Any) -> None:
    """ValueError unless it is a positive number or a function."""
    if not callable(rate) and not 0 < rate < np.inf:
        raise ValueError(
            f"{what}: learning_rate must be a positive number or a function of the step, got "
            f"{rate!r}"
        )


def constrained(
    update: Callable[..., object], weight: NDArray[Any], constraint: Constraint | None
) -> None:
    """Update `weight` and see to its constraint, in one pass where the update can."""
    if type(constraint) is MaxNorm:  # exactly: one made from it may do something else
        update(max_norm=constraint.max_norm, axis=constraint.axes(weight))
        return
    update()
    if constraint is not None:
        constraint(weight)

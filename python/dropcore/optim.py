"""Optimisers.

An optimiser is a recipe that holds no numbers of the network. It has two methods: `init` gives the
state that goes with the parameters, and `apply` makes an update. Where one takes a number that may
change, such as the learning rate, it also takes a function of the step, such as those in
`dropcore.schedules`.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import dense
from dropcore._backends.gradients import BlockGradient, Gradient
from dropcore._base.checks import check_number
from dropcore._base.device import array_namespace
from dropcore.constraints import Constraint, MaxNorm
from dropcore.schedules import Schedule, value_at
from dropcore.updates import adadelta_, adagrad_, adam_, clipping_factor, rmsprop_, sgd_

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Arrays",
    "Clip",
    "Gradients",
    "Optimizer",
    "RMSprop",
    "State",
]

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


class _EachParameter:
    """An optimiser whose parameters do not know of each other."""

    def init(self, params: Arrays) -> State:
        """State before the first update: arrays of zeros, by their kind and path."""
        return {kind: zeros_like(params) for kind in self._kinds()}

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Make update number `step` (from 0) on `params` and `state` in place."""
        rule = self._rule(step)
        for path, weight in params.items():
            own = {kind: arrays[path] for kind, arrays in state.items()}
            update = partial(rule, weight, grads[path], **own)
            constrained(update, weight, constraints.get(path))

    def _kinds(self) -> tuple[str, ...]:
        """The kinds of state, named as the arguments of the rule."""
        raise NotImplementedError

    def _rule(self, step: int) -> Callable[..., object]:
        """An update of `dropcore.updates` with its numbers."""
        raise NotImplementedError

    def _rate(self, step: int) -> float:
        """The learning rate, which a schedule may have brought to 0."""
        rate = value_at(self.learning_rate, step)  # type: ignore[attr-defined]
        if not 0 <= rate < np.inf:
            raise ValueError(
                f"{type(self).__name__}: learning_rate must be finite and not negative, got "
                f"{rate!r} at step {step}"
            )
        return rate

    def _check(self, **intervals: str) -> None:
        """ValueError unless the learning rate and the numbers of those names are in range."""
        name = type(self).__name__
        check_learning_rate(name, self.learning_rate)  # type: ignore[attr-defined]
        for attribute, interval in intervals.items():
            check_number(f"{name}: {attribute}", getattr(self, attribute), interval)


@dataclass(frozen=True)
class SGD(_EachParameter):
    """Stochastic gradient descent, with momentum if it is given.

    For each parameter w with gradient g, velocity v, learning rate a and momentum m::

        w <- w - a g                                  momentum = 0
        v <- m v - a g      w <- w + v                momentum > 0
        v <- m v - a g      w <- w + m v - a g        nesterov=True

    with g + weight_decay w for g.

    Parameters
    ----------
    learning_rate : float or callable
        Positive; or a function of the step, counted from 0, that returns it.
    momentum : float or callable, default 0.0
        In [0, 1); or a function of the step, as the papers raise it from 0.5 to 0.99.
    nesterov : bool, default False
        Look ahead along the velocity. Needs momentum.
    lazy : bool, default False
        Pass over the weights of units that a mask drops for the whole batch: neither they nor their
        velocities move. That is faster, and another optimiser; without it their velocities decay
        and move them on.
    weight_decay : float, default 0.0
        Of every parameter, biases too, and coupled: it is the gradient of
        ``weight_decay / 2 * ||w||^2`` and passes through the velocity, as in PyTorch. A layer's
        ``regularizer=L2(weight_decay / 2)`` is the same for its weights alone.

    Raises
    ------
    ValueError
        If a number is out of its range, or for nesterov without momentum.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in
    deep learning", equations 1-4.
    """

    learning_rate: float | Schedule
    momentum: float | Schedule = 0.0
    nesterov: bool = False
    lazy: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check(weight_decay="[0, inf)")
        if not callable(self.momentum):
            check_number("SGD: momentum", self.momentum, "[0, 1)")
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def _kinds(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(
            sgd_,
            learning_rate=self._rate(step),
            momentum=check_number(
                f"SGD: momentum at step {step}", value_at(self.momentum, step), "[0, 1)"
            ),
            nesterov=self.nesterov,
            lazy=self.lazy,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class Adam(_EachParameter):
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

    learning_rate: float | Schedule = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        self._check(beta_1="[0, 1)", beta_2="[0, 1)", epsilon="(0, inf)")

    def _kinds(self) -> tuple[str, ...]:
        return "mean", "square"

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(
            adam_,
            step=step + 1,
            learning_rate=self._rate(step),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with a weight decay that does not pass through its means.

    Before the step of `Adam`, w <- (1 - learning_rate * weight_decay) w.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in `Adam`.
    weight_decay : float, default 0.01
        Of every parameter, biases too, as in PyTorch.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2, whose decay
    lambda is learning_rate * weight_decay here.
    """

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(weight_decay="[0, inf)")

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(super()._rule(step), weight_decay=self.weight_decay)


@dataclass(frozen=True)
class RMSprop(_EachParameter):
    """RMSprop: steps scaled by a running mean of the gradient's square.

    For each parameter w with gradient g, learning rate a::

        v <- beta v + (1 - beta) g^2                  s = v
        m <- beta m + (1 - beta) g                    s = v - m^2              centered=True
        w <- w - a g / (sqrt(s) + epsilon)                                     momentum = 0
        u <- momentum u - a g / (sqrt(s) + epsilon)           w <- w + u       momentum > 0

    Parameters
    ----------
    learning_rate : float or callable, default 1e-2
        Positive; or a function of the step, counted from 0, that returns it.
    beta : float, default 0.99
        Decay of the means, in [0, 1); rho in Keras, alpha in PyTorch.
    momentum : float or callable, default 0.0
        In [0, 1); or a function of the step.
    centered : bool, default False
        Scale by an estimate of the gradient's standard deviation.
    epsilon : float, default 1e-8
        Positive.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Tieleman and Hinton 2012, "Lecture 6.5: RMSprop"; centered, Graves 2013, "Generating sequences
    with recurrent neural networks", equations 38-45.
    """

    learning_rate: float | Schedule = 1e-2
    beta: float = 0.99
    momentum: float | Schedule = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        self._check(beta="[0, 1)", epsilon="(0, inf)")
        if not callable(self.momentum):
            check_number("RMSprop: momentum", self.momentum, "[0, 1)")

    def _kinds(self) -> tuple[str, ...]:
        centre = ("mean",) if self.centered else ()
        return ("square", *centre, *(("velocity",) if self.momentum else ()))

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(
            rmsprop_,
            learning_rate=self._rate(step),
            beta=self.beta,
            momentum=check_number(
                f"RMSprop: momentum at step {step}", value_at(self.momentum, step), "[0, 1)"
            ),
            epsilon=self.epsilon,
        )


@dataclass(frozen=True)
class Adagrad(_EachParameter):
    """Adagrad: each weight's step shrinks with the gradients that it has seen.

    For each parameter w with gradient g, learning rate a::

        v <- v + g^2            w <- w - a g / (sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate : float or callable, default 1e-2
        Positive; or a function of the step, counted from 0, that returns it.
    initial : float, default 0.0
        What v starts with, not negative.
    epsilon : float, default 1e-10
        Positive.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization".
    """

    learning_rate: float | Schedule = 1e-2
    initial: float = 0.0
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        self._check(initial="[0, inf)", epsilon="(0, inf)")

    def init(self, params: Arrays) -> State:
        """Sums of `initial`."""
        full = {p: array_namespace(w).full_like(w, self.initial) for p, w in params.items()}
        return {"square": full}

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(adagrad_, learning_rate=self._rate(step), epsilon=self.epsilon)


@dataclass(frozen=True)
class Adadelta(_EachParameter):
    """Adadelta: steps as large as the last ones, scaled by the gradients.

    For each parameter w with gradient g, learning rate a::

        v <- rho v + (1 - rho) g^2          d = sqrt(u + epsilon) / sqrt(v + epsilon) g
        u <- rho u + (1 - rho) d^2          w <- w - a d

    Parameters
    ----------
    learning_rate : float or callable, default 1.0
        Positive; or a function of the step, counted from 0, that returns it. The paper has none.
    rho : float, default 0.95
        Decay of the means, in [0, 1).
    epsilon : float, default 1e-6
        Positive. It sets the size of the first steps.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Zeiler 2012, "ADADELTA: an adaptive learning rate method", algorithm 1.
    """

    learning_rate: float | Schedule = 1.0
    rho: float = 0.95
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        self._check(rho="[0, 1)", epsilon="(0, inf)")

    def _kinds(self) -> tuple[str, ...]:
        return "square", "change"

    def _rule(self, step: int) -> Callable[..., object]:
        return partial(
            adadelta_, learning_rate=self._rate(step), rho=self.rho, epsilon=self.epsilon
        )


@dataclass(frozen=True)
class Clip:
    """Another optimiser that gets gradients within bounds.

    With ``value`` each number g becomes min(max(g, -value), value); then with ``norm`` all of them
    together, as one vector g of all parameters, become g * min(1, norm / ||g||).

    A gradient with a NaN is not hidden: with it the norm is NaN, and the other optimiser gets all
    as they are, so that training finds weights that are not finite and says where. The same goes
    for an infinite norm; by value an infinite number is clipped as any other.

    Parameters
    ----------
    optimizer : Optimizer
    norm, value : float, optional
        Positive. At least one of them.

    Raises
    ------
    TypeError
        If `optimizer` is none.
    ValueError
        If a bound is not positive, or there is none.

    References
    ----------
    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks",
    algorithm 1; by value, Graves 2013.

    Examples
    --------
    >>> Clip(SGD(1.0), norm=5.0).norm
    5.0
    """

    optimizer: Optimizer
    norm: float | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, type) or not hasattr(self.optimizer, "apply"):
            raise TypeError(
                f"Clip: optimizer must be an optimiser, such as SGD(0.1), got {self.optimizer!r}"
            )
        if self.norm is None and self.value is None:
            raise ValueError("Clip: give norm, value or both, got neither")
        for name in ("norm", "value"):
            if getattr(self, name) is not None:
                check_number(f"Clip: {name}", getattr(self, name), "(0, inf)")

    @property
    def kind(self) -> str:
        """The class that the state belongs to: that of the optimiser inside."""
        return kind_of(self.optimizer)

    def init(self, params: Arrays) -> State:
        """State of the optimiser inside."""
        return self.optimizer.init(params)

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Make update number `step` (from 0) with clipped gradients."""
        self.optimizer.apply(
            params, self.clipped({path: grads[path] for path in params}), state, step, constraints
        )

    def clipped(self, grads: Gradients) -> Gradients:
        """The gradients within the bounds; those given do not change."""
        # Worked out once: a product would be multiplied for its norm and again for the update.
        found: dict[str, Gradient] = {
            path: g if isinstance(g, BlockGradient) else dense(g) for path, g in grads.items()
        }
        if self.value is not None:
            low, high = -self.value, self.value
            found = {
                path: _each(g, lambda a: array_namespace(a).clip(a, low, high))
                for path, g in found.items()
            }
        if self.norm is not None:
            factor = clipping_factor(found.values(), self.norm)
            if factor is not None:
                found = {
                    path: _each(g, lambda a: a * factor.astype(a.dtype))
                    for path, g in found.items()
                }
        return found


def _each(
    gradient: Gradient, function: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any] | BlockGradient:
    """A function that leaves zeros alone, of every number of a gradient that is not a product."""
    if isinstance(gradient, BlockGradient):
        return replace(gradient, values=function(gradient.values))
    return function(dense(gradient))


def kind_of(optimizer: Optimizer) -> str:
    """The class that an optimiser's state belongs to."""
    return getattr(optimizer, "kind", type(optimizer).__name__)


def zeros_like(params: Arrays) -> dict[str, NDArray[Any]]:
    """An array of zeros for each parameter."""
    return {path: array_namespace(array).zeros_like(array) for path, array in params.items()}


def check_learning_rate(what: str, rate: Any) -> None:
    """TypeError or ValueError unless it is a positive number or a function."""
    if callable(rate) and not isinstance(rate, type):
        return
    number = isinstance(rate, numbers.Real)
    if not number or not 0 < rate < np.inf:
        raise (ValueError if number else TypeError)(
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

"""Optimisers.

An optimiser holds hyperparameters, and no arrays. `init` creates the state for some parameters, and
`apply` makes an update of them in place. A learning rate or a momentum may also be a function of
the step, such as those of `dropcore.schedules`. The steps of all optimisers are counted from 0.

`dropcore.updates` has the same rules as functions of arrays, and states their formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import dense
from dropcore._backends.gradients import BlockGradient, Gradient
from dropcore._base.checks import check_bool, check_number
from dropcore._base.device import array_namespace, on_device
from dropcore.constraints import Constraint, MaxNorm
from dropcore.functional import expect_weights
from dropcore.schedules import Scaled, Schedule, value_at
from dropcore.updates import INTERVALS, clipping_factor, global_norm, update_unchecked

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

State = MutableMapping[str, dict[str, NDArray[Any]]]
"""Kind of state -> path of the parameter -> array, such as ``state["velocity"]["0.weight"]``."""


class Optimizer(Protocol):
    """The methods that training needs of an optimiser."""

    def init(self, params: Arrays) -> State:
        """State before the first update, in new arrays.

        Parameters
        ----------
        params : dict of str to ndarray
            By path, as ``layer.params``.

        Returns
        -------
        dict
            Arrays by kind and path.
        """

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = ...,
    ) -> None:
        """Make update number `step` (from 0) on `params` and `state` in place.

        Parameters without a gradient are frozen: they are skipped. Each other parameter satisfies
        its constraint when its update is done, also if the user interrupts the rest.

        Parameters
        ----------
        params : dict of str to ndarray
            Changed in place.
        grads : dict
            Gradients by the path of their parameter.
        state : dict
            Of `init`, changed in place.
        step : int
            The number of updates before this one.
        constraints : dict of str to callable, optional
            By the path of the parameter that they hold for.
        """


class _ParameterwiseOptimizer:
    """An optimiser that updates each parameter by itself."""

    _rule: ClassVar[str]
    """The name of its function in `dropcore.updates`."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name == "learning_rate":
                check_learning_rate(name, value)
            elif isinstance(field.default, bool):
                check_bool(f"{name}: {field.name}", value)
            elif field.name in INTERVALS and not (field.name == "momentum" and callable(value)):
                check_number(f"{name}: {field.name}", value, INTERVALS[field.name])

    def init(self, params: Arrays) -> State:
        """State before the first update, in new arrays, by kind and path.

        Parameters
        ----------
        params : dict of str to ndarray
            By path, as ``layer.params``.

        Returns
        -------
        dict
            Arrays by kind and path.

        Raises
        ------
        TypeError, ValueError
            If params is no mapping, or a parameter is not an array that can be updated in place.
        """
        if not isinstance(params, Mapping):
            raise TypeError(
                f"{type(self).__name__}: params must be a mapping of names to arrays, such as "
                f"model.params, got {type(params).__name__}"
            )
        for path, weight in params.items():
            expect_weights(type(self).__name__, f"parameter {path!r}", weight)
        return {kind: self._first(params) for kind in self._kinds() if kind is not None}

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Make update number `step` (from 0) on `params` and `state` in place.

        `init` has checked the parameters and made the state, so only the gradients are checked.

        Parameters
        ----------
        params : mapping of str to ndarray
            Those that `init` was given.
        grads : mapping of str to gradient
            By path. Parameters without one are frozen: they, their state and their constraint are
            skipped.
        state : dict
            From `init`.
        step : int
        constraints : mapping of str to constraint, optional
            By path.

        Raises
        ------
        TypeError, ValueError
            If a gradient belongs to no parameter, or has another shape or dtype.
        """
        numbers = self._numbers(step)
        slots = [None if kind is None else state[kind] for kind in self._kinds()]
        expect_parameters(self, params, grads)
        for path, gradient in grads.items():  # all of them, before anything changes
            weight = params[path]
            shape, dtype = getattr(gradient, "shape", None), getattr(gradient, "dtype", None)
            if shape != weight.shape or dtype != weight.dtype:
                self._refuse(path, weight, gradient)
        for path, weight in params.items():
            if path not in grads:
                continue
            gradient = grads[path]
            own = tuple([None if slot is None else slot[path] for slot in slots])
            constraint = constraints.get(path)
            if type(constraint) is MaxNorm:  # a subclass may do something else
                axes = constraint.axes(weight.ndim)
                update_unchecked(
                    self._rule, weight, gradient, own, numbers, float(constraint.max_norm), axes
                )
                continue
            update_unchecked(self._rule, weight, gradient, own, numbers)
            if constraint is not None:
                constraint(weight)

    def rule(self, step: int) -> tuple[str, tuple[float, ...]]:
        """The name of the update function and its hyperparameters, for updates in a CUDA graph.

        Parameters
        ----------
        step : int
            The number of updates before this one.

        Returns
        -------
        name : str
            Of a function of `dropcore.updates`.
        numbers : tuple of float
            Its hyperparameters, in order.
        """
        return self._rule, self._numbers(step)

    def scaled(self, factor: float) -> Any:
        """The same optimiser whose learning rate, also that of a schedule, is `factor` times it.

        Parameters
        ----------
        factor : float
            Positive.

        Returns
        -------
        Optimizer
            A new one of this class.
        """
        rate = self.learning_rate  # type: ignore[attr-defined]
        return replace(
            self,  # type: ignore[type-var]
            learning_rate=Scaled(rate, factor) if callable(rate) else rate * factor,
        )

    def _kinds(self) -> tuple[str | None, ...]:
        """The kinds of state in the order of the rule, with None for what is not used."""
        raise NotImplementedError

    def _numbers(self, step: int) -> tuple[float, ...]:
        """The hyperparameters at a step, in the order of the rule."""
        raise NotImplementedError

    def _first(self, params: Arrays) -> dict[str, NDArray[Any]]:
        """One kind of state before the first update."""
        return {path: array_namespace(w).zeros_like(w) for path, w in params.items()}

    def _scheduled(self, name: str, step: int) -> float:
        """A hyperparameter that may be a schedule, which may bring a learning rate to 0."""
        value = getattr(self, name)
        if not callable(value):
            return float(value)
        what = f"{type(self).__name__}: {name} at step {step}"
        return check_number(what, value_at(value, step), INTERVALS[name])

    def _refuse(self, path: str, weight: NDArray[Any], gradient: Gradient) -> NoReturn:
        what = f"{type(self).__name__}: the gradient of parameter {path!r}"
        if not hasattr(gradient, "shape") or not hasattr(gradient, "dtype"):
            raise TypeError(f"{what} must be an array, got {type(gradient).__name__}")
        if gradient.shape != weight.shape:
            raise ValueError(f"{what} must have its shape, {weight.shape}, got {gradient.shape}")
        raise TypeError(f"{what} must be {weight.dtype}, as it is, got {gradient.dtype}")


@dataclass(frozen=True)
class SGD(_ParameterwiseOptimizer):
    """Stochastic gradient descent, optionally with momentum: the rule of `updates.sgd_`.

    Parameters
    ----------
    learning_rate : float or callable
        Positive; or a function of the step, counted from 0, that returns it.
    momentum : float or callable, default 0.0
        In [0, 1); or a function of the step, as the papers raise it from 0.5 to 0.99.
    nesterov : bool, default False
        Look ahead along the velocity. Needs momentum.
    lazy : bool, default False
        Skip the weights of units that a mask drops for the whole batch, and their velocities. This
        is faster, but a different optimiser: by default these velocities decay and still move the
        weights.
    weight_decay : float, default 0.0
        Coupled weight decay of every parameter, biases too, as in PyTorch: the gradient of
        ``weight_decay / 2 * ||w||^2`` is added to that of the loss, and so enters the velocity. A
        layer's ``regularizer=L2(weight_decay / 2)`` does the same for its weights alone.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range, or for nesterov without momentum.

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

    _rule: ClassVar[str] = "sgd_"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def _kinds(self) -> tuple[str | None, ...]:
        return ("velocity" if self.momentum else None,)

    def _numbers(self, step: int) -> tuple[float, ...]:
        return (
            self._scheduled("learning_rate", step), self._scheduled("momentum", step),
            self.nesterov, self.lazy, float(self.weight_decay),
        )  # fmt: skip


@dataclass(frozen=True)
class Adam(_ParameterwiseOptimizer):
    """Adam: the running mean of the gradient over the root of that of its square.

    The rule of `updates.adam_`.

    Parameters
    ----------
    learning_rate : float or callable, default 1e-3
        Positive; or a function of the step, counted from 0, that returns it.
    beta_1, beta_2 : float, default 0.9 and 0.999
        Decay of the two means, in [0, 1).
    epsilon : float, default 1e-8
        Positive.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range.

    References
    ----------
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    learning_rate: float | Schedule = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8

    _rule: ClassVar[str] = "adam_"

    def _kinds(self) -> tuple[str | None, ...]:
        return "mean", "square"

    def _numbers(self, step: int) -> tuple[float, ...]:
        return (
            step, self._scheduled("learning_rate", step), float(self.beta_1), float(self.beta_2),
            float(self.epsilon), self._decay(),
        )  # fmt: skip

    def _decay(self) -> float:
        return 0.0


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay, which does not enter the running means.

    The rule of `updates.adam_` with its `weight_decay`.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        As in `Adam`.
    weight_decay : float, default 0.01
        Not negative. It applies to every parameter, biases too, as in PyTorch.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2, whose decay
    lambda is learning_rate * weight_decay here.
    """

    weight_decay: float = 0.01

    def _decay(self) -> float:
        return float(self.weight_decay)


@dataclass(frozen=True)
class RMSprop(_ParameterwiseOptimizer):
    """RMSprop: the gradient over the root of a running mean of its square.

    The rule of `updates.rmsprop_`.

    Parameters
    ----------
    learning_rate : float or callable, default 1e-2
        Positive; or a function of the step, counted from 0, that returns it.
    rho : float, default 0.99
        Decay of the running means, in [0, 1). PyTorch calls it alpha.
    momentum : float or callable, default 0.0
        In [0, 1); or a function of the step.
    centered : bool, default False
        Divide by an estimate of the standard deviation of the gradient instead.
    epsilon : float, default 1e-8
        Positive.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range.

    References
    ----------
    Tieleman and Hinton 2012, "Lecture 6.5: RMSprop"; centered, Graves 2013, "Generating sequences
    with recurrent neural networks", equations 38-45.
    """

    learning_rate: float | Schedule = 1e-2
    rho: float = 0.99
    momentum: float | Schedule = 0.0
    centered: bool = False
    epsilon: float = 1e-8

    _rule: ClassVar[str] = "rmsprop_"

    def _kinds(self) -> tuple[str | None, ...]:
        return (
            "square", "mean" if self.centered else None, "velocity" if self.momentum else None,
        )  # fmt: skip

    def _numbers(self, step: int) -> tuple[float, ...]:
        return (
            self._scheduled("learning_rate", step), float(self.rho),
            self._scheduled("momentum", step), float(self.epsilon),
        )  # fmt: skip


@dataclass(frozen=True)
class Adagrad(_ParameterwiseOptimizer):
    """Adagrad: the gradient over the root of the sum of its squares.

    The rule of `updates.adagrad_`.

    Parameters
    ----------
    learning_rate : float or callable, default 1e-2
        Positive; or a function of the step, counted from 0, that returns it.
    initial_accumulator : float, default 0.0
        The value that the sums start from, not negative.
    epsilon : float, default 1e-10
        Positive.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range.

    References
    ----------
    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization".
    """

    learning_rate: float | Schedule = 1e-2
    initial_accumulator: float = 0.0
    epsilon: float = 1e-10

    _rule: ClassVar[str] = "adagrad_"

    def _kinds(self) -> tuple[str | None, ...]:
        return ("square",)

    def _first(self, params: Arrays) -> dict[str, NDArray[Any]]:
        start = self.initial_accumulator
        return {path: array_namespace(w).full_like(w, start) for path, w in params.items()}

    def _numbers(self, step: int) -> tuple[float, ...]:
        return self._scheduled("learning_rate", step), float(self.epsilon)


@dataclass(frozen=True)
class Adadelta(_ParameterwiseOptimizer):
    """Adadelta: steps in proportion to the size of the previous ones.

    The rule of `updates.adadelta_`.

    Parameters
    ----------
    learning_rate : float or callable, default 1.0
        Positive; or a function of the step, counted from 0, that returns it. The paper has none.
    rho : float, default 0.95
        Decay of the running means, in [0, 1).
    epsilon : float, default 1e-6
        Positive. It sets the size of the first steps.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter is not a number or is out of range.

    References
    ----------
    Zeiler 2012, "ADADELTA: an adaptive learning rate method", algorithm 1.
    """

    learning_rate: float | Schedule = 1.0
    rho: float = 0.95
    epsilon: float = 1e-6

    _rule: ClassVar[str] = "adadelta_"

    def _kinds(self) -> tuple[str | None, ...]:
        return "square", "change"

    def _numbers(self, step: int) -> tuple[float, ...]:
        return self._scheduled("learning_rate", step), float(self.rho), float(self.epsilon)


@dataclass(frozen=True)
class Clip:
    """Clip the gradients for another optimiser.

    With ``value`` each number g becomes min(max(g, -value), value). Then, with ``norm``, the
    gradients of all parameters together, as one vector g, become g * min(1, norm / ||g||).

    Clipping does not hide a NaN. If the norm is NaN or infinite, the gradients are passed on
    unchanged, so that training finds the weights that are not finite and names them. By value an
    infinite number is clipped like any other.

    Parameters
    ----------
    optimizer : Optimizer
    norm, value : float, optional
        Positive. At least one of them is needed.

    Raises
    ------
    TypeError
        If `optimizer` is not an optimiser, or a bound is not a number.
    ValueError
        If a bound is not positive, or none is given.

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
        """State of the optimiser inside.

        Parameters
        ----------
        params : dict of str to ndarray
            By path, as ``layer.params``.

        Returns
        -------
        dict
            Arrays by kind and path.
        """
        return self.optimizer.init(params)

    def apply(
        self,
        params: Arrays,
        grads: Gradients,
        state: State,
        step: int,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> None:
        """Make update number `step` (from 0) with clipped gradients.

        Parameters
        ----------
        params, grads, state, step, constraints
            As for `Optimizer.apply`.
        """
        expect_parameters(self, params, grads)
        self.optimizer.apply(params, self.clipped(grads), state, step, constraints)

    def rule(self, step: int) -> tuple[str, tuple[float, ...]]:
        """The rule of the optimiser inside, whose hyperparameters do not depend on the bounds.

        Parameters
        ----------
        step : int
            The number of updates before this one.

        Returns
        -------
        name : str
            Of a function of `dropcore.updates`.
        numbers : tuple of float
            Its hyperparameters, in order.
        """
        return rule_of(self.optimizer)(step)

    def scaled(self, factor: float) -> Clip:
        """The same bounds around the optimiser inside, with its learning rate times `factor`.

        Parameters
        ----------
        factor : float
            Positive.

        Returns
        -------
        Clip
            A new one.
        """
        return replace(self, optimizer=scaled(self.optimizer, factor))

    @np.errstate(under="ignore")
    def clipped(self, grads: Gradients) -> Gradients:
        """The clipped gradients, in new arrays where they change.

        Parameters
        ----------
        grads : dict
            Gradients by the path of their parameter.

        Returns
        -------
        dict
            By the same paths.
        """
        # A product is computed here once. Otherwise the norm and the update would each compute it.
        found: dict[str, Gradient] = {
            path: g if isinstance(g, BlockGradient) else dense(g) for path, g in grads.items()
        }
        if self.value is not None:
            high = float(self.value)  # a float64 of NumPy would change the dtype
            low = -high
            found = {
                path: _each(g, lambda a: array_namespace(a).clip(a, low, high))
                for path, g in found.items()
            }
        if self.norm is not None:
            factor = clipping_factor(found.values(), self.norm)
            if factor is not None:
                scale = self._scale(found, factor)
                found = {path: _each(g, scale) for path, g in found.items()}
        return found

    def _scale(self, grads: Gradients, factor: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """The multiplication by norm / ||g||."""
        bound = self.norm
        if on_device(factor):  # which may be too small for the gradients' dtype, as below
            return lambda a: (a.astype(np.float64) * factor).astype(a.dtype)
        if bound is None or factor >= np.finfo(np.float32).tiny:
            return lambda a: a * factor.astype(a.dtype)
        # The factor is too small for the gradients' dtype: divide and multiply in float64.
        norm = global_norm(grads.values())
        return lambda a: (a.astype(np.float64) / norm * bound).astype(a.dtype)


def _each(
    gradient: Gradient, function: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any] | BlockGradient:
    """Apply a function that maps 0 to 0 to every number of a gradient that is no product."""
    if isinstance(gradient, BlockGradient):
        return replace(gradient, values=function(gradient.values))
    return function(dense(gradient))


def rule_of(optimizer: Optimizer) -> Callable[[int], tuple[str, tuple[float, ...]]]:
    """The method `rule` of an optimiser; TypeError if it has none."""
    rule: Any = getattr(optimizer, "rule", None)
    if rule is None:
        raise TypeError(
            "cuda_graph=True takes an optimiser of dropcore.optim, or one that has rule(step) as "
            f"they have, got {optimizer!r}: use cuda_graph=False"
        )
    return rule


def scaled(optimizer: Optimizer, factor: float) -> Optimizer:
    """An optimiser like `optimizer` whose learning rate is `factor` times its own.

    Raises
    ------
    TypeError
        If it has no method ``scaled(factor)``, as those of this module have.
    """
    if factor == 1:
        return optimizer
    method: Any = getattr(optimizer, "scaled", None)
    if method is None:
        raise TypeError(
            "the learning rate can be changed between updates for an optimiser of dropcore.optim, "
            f"or one that has scaled(factor) as they have, got {optimizer!r}"
        )
    found: Optimizer = method(factor)
    return found


def kind_of(optimizer: Optimizer) -> str:
    """The class that an optimiser's state belongs to."""
    return getattr(optimizer, "kind", type(optimizer).__name__)


def expect_parameters(optimizer: Optimizer, params: Arrays, grads: Gradients) -> None:
    """ValueError if a gradient belongs to none of the parameters."""
    if not grads.keys() <= params.keys():
        unknown = sorted(grads.keys() - params.keys())
        raise ValueError(
            f"{type(optimizer).__name__}: got gradients for {unknown}, which are not among the "
            f"parameters, {sorted(params)}"
        )


def check_learning_rate(what: str, rate: Any) -> None:
    """TypeError or ValueError unless it is a positive number or a function of the step."""
    if callable(rate) and not isinstance(rate, type):
        return
    try:
        check_number("", rate, "(0, inf)")
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{what}: learning_rate must be a positive number or a function of the step, got "
            f"{rate!r}"
        ) from None

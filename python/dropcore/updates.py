"""Optimiser steps on arrays, with the projection onto the max-norm ball in the same pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np

from dropcore._backends import backend_of, dense
from dropcore._backends.gradients import Array, BlockGradient, Gradient, ProductGradient
from dropcore._base.checks import check_bool, check_integer, check_number, expect_unmasked
from dropcore._base.device import array_namespace, on_device
from dropcore.functional import bound_and_axes, expect_weights

__all__ = [
    "adadelta_",
    "adagrad_",
    "adam_",
    "clipping_factor",
    "dense",
    "global_norm",
    "rmsprop_",
    "sgd_",
]

INTERVALS: Final = {
    "learning_rate": "[0, inf)",
    "momentum": "[0, 1)",
    "beta_1": "[0, 1)",
    "beta_2": "[0, 1)",
    "rho": "[0, 1)",
    "epsilon": "(0, inf)",
    "weight_decay": "[0, inf)",
    "initial_accumulator": "[0, inf)",
}
"""The hyperparameters of all rules, and the values that are allowed."""


def sgd_(
    w: Array,
    g: Gradient,
    velocity: Array | None = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    lazy: bool = False,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """Make a step of stochastic gradient descent in place, and project the new weights.

    For weights w with gradient g, velocity v, learning rate a and momentum m, every operation
    rounded on its own in the dtype of w::

        w <- w + g (-a)                                       without velocity
        v <- v m + g (-a)      w <- w + v                     with velocity
        v <- v m + g (-a)      w <- w + (g (-a) + m v)        nesterov=True

    where g stands for g + weight_decay w if `weight_decay` is not 0. Then, if `max_norm` is given,
    ``w <- w * min(1, max_norm / ||w||)`` for the vectors that run over `axis`, as in `max_norm_`.
    Denormal numbers are treated as zero.

    Parameters
    ----------
    w : numpy.ndarray of float32 or float64
        Changed in place.
    g : numpy.ndarray, BlockGradient or ProductGradient
        Of the shape and dtype of w.
    velocity : numpy.ndarray, optional
        Of the shape and dtype of w, changed in place.
    learning_rate : float
    momentum : float, default 0.0
        Needs `velocity`.
    nesterov : bool, default False
    lazy : bool, default False
        Do not touch weights and velocities outside the block of a BlockGradient. By default these
        velocities decay and still move the weights.
    weight_decay : float, default 0.0
        Multiple of w that is added to g: the gradient of ``weight_decay / 2 * ||w||^2``.
    max_norm : float, optional
        Largest norm, > 0.
    axis : int or tuple of int
        The axes that the norm runs over; needed with `max_norm`.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError
        If w is not an array of one of these dtypes, another array is not one or has another dtype,
        or a hyperparameter is not a number.
    ValueError
        If shapes differ, two arrays share memory, w or a state is read-only, a hyperparameter is
        out of range (as for `dropcore.optim`, but a learning rate of 0 is allowed), `max_norm` is
        not positive, or one of `max_norm` and `axis` is given without the other.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, equations 1-4; Srivastava et al. 2014, section 5.1.
    """
    rate, mass, decay = hyperparameters(
        "sgd_", learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    nesterov, lazy = check_bool("sgd_: nesterov", nesterov), check_bool("sgd_: lazy", lazy)
    projection = _checked("sgd_", w, g, {"velocity": velocity}, ("velocity",), max_norm, axis)
    if velocity is None and (mass or nesterov):
        raise ValueError("sgd_: momentum needs velocity, an array like w that starts at zero")
    update_unchecked("sgd_", w, g, (velocity,), (rate, mass, nesterov, lazy, decay), *projection)
    return w


def adam_(
    w: Array,
    g: Gradient,
    mean: Array,
    square: Array,
    *,
    step: int,
    learning_rate: float = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """Make a step of Adam in place, and project the new weights.

    For weights w with gradient g, running mean m and running mean square v, with t = step + 1::

        m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
        w <- w - learning_rate (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    where w on the right stands for (1 - learning_rate weight_decay) w. The projection and denormal
    numbers are as in `sgd_`.

    Parameters
    ----------
    w, g
        As in `sgd_`.
    mean, square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    step : int
        The number of updates before this one, counted from 0.
    learning_rate, beta_1, beta_2, epsilon : float
    weight_decay : float, default 0.0
        Decoupled weight decay, as in AdamW: it does not enter the running means.
    max_norm, axis
        As in `sgd_`.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError, ValueError
        As `sgd_`, and if `step` is not an integer or is negative.

    References
    ----------
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1; Loshchilov and
    Hutter 2019, "Decoupled weight decay regularization".
    """
    rate, *rest = hyperparameters(
        "adam_", learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon,
        weight_decay=weight_decay,
    )  # fmt: skip
    number = check_integer("adam_: step", step, 0, 1 << 62)
    projection = _checked("adam_", w, g, {"mean": mean, "square": square}, (), max_norm, axis)
    update_unchecked("adam_", w, g, (mean, square), (number, rate, *rest), *projection)
    return w


def rmsprop_(
    w: Array,
    g: Gradient,
    square: Array,
    mean: Array | None = None,
    velocity: Array | None = None,
    *,
    learning_rate: float,
    rho: float = 0.99,
    momentum: float = 0.0,
    epsilon: float = 1e-8,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """Make a step of RMSprop in place, and project the new weights.

    For weights w with gradient g and running mean square v, every operation rounded on its own in
    the dtype of w::

        v <- rho v + (1 - rho) g^2                            s = v
        m <- rho m + (1 - rho) g                              s = max(v - m^2, 0), with mean
        w <- w - learning_rate g / (sqrt(s) + epsilon)
        u <- momentum u - learning_rate g / (sqrt(s) + epsilon)      w <- w + u, with velocity

    The projection and denormal numbers are as in `sgd_`.

    Parameters
    ----------
    w, g
        As in `sgd_`.
    square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    mean : numpy.ndarray, optional
        Like `square`. If given, the square is centered.
    velocity : numpy.ndarray, optional
        Like `square`. Needed for momentum.
    learning_rate, rho, momentum, epsilon : float
    max_norm, axis
        As in `sgd_`.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError, ValueError
        As `sgd_`.

    References
    ----------
    Tieleman and Hinton 2012, "Lecture 6.5: RMSprop"; centered, Graves 2013, "Generating sequences
    with recurrent neural networks", equations 38-45.
    """
    numbers = hyperparameters(
        "rmsprop_", learning_rate=learning_rate, rho=rho, momentum=momentum, epsilon=epsilon
    )
    states = {"square": square, "mean": mean, "velocity": velocity}
    projection = _checked("rmsprop_", w, g, states, ("mean", "velocity"), max_norm, axis)
    if velocity is None and momentum:
        raise ValueError("rmsprop_: momentum needs velocity, an array like w that starts at zero")
    update_unchecked("rmsprop_", w, g, (square, mean, velocity), numbers, *projection)
    return w


def adagrad_(
    w: Array,
    g: Gradient,
    square: Array,
    *,
    learning_rate: float,
    epsilon: float = 1e-10,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """Make a step of Adagrad in place, and project the new weights.

    For weights w with gradient g and the sum v of its squares::

        v <- v + g^2        w <- w - learning_rate g / (sqrt(v) + epsilon)

    The projection and denormal numbers are as in `sgd_`.

    Parameters
    ----------
    w, g
        As in `sgd_`.
    square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    learning_rate, epsilon : float
    max_norm, axis
        As in `sgd_`.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError, ValueError
        As `sgd_`.

    References
    ----------
    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic
    optimization".
    """
    numbers = hyperparameters("adagrad_", learning_rate=learning_rate, epsilon=epsilon)
    projection = _checked("adagrad_", w, g, {"square": square}, (), max_norm, axis)
    update_unchecked("adagrad_", w, g, (square,), numbers, *projection)
    return w


def adadelta_(
    w: Array,
    g: Gradient,
    square: Array,
    change: Array,
    *,
    learning_rate: float = 1.0,
    rho: float = 0.95,
    epsilon: float = 1e-6,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """Make a step of Adadelta in place, and project the new weights.

    For weights w with gradient g and running mean squares, v of the gradient and u of the changes::

        v <- rho v + (1 - rho) g^2              d = sqrt(u + epsilon) / sqrt(v + epsilon) g
        u <- rho u + (1 - rho) d^2              w <- w - learning_rate d

    The projection and denormal numbers are as in `sgd_`.

    Parameters
    ----------
    w, g
        As in `sgd_`.
    square, change : numpy.ndarray
        v and u, of the shape and dtype of w, zero at first, changed in place.
    learning_rate, rho, epsilon : float
    max_norm, axis
        As in `sgd_`.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError, ValueError
        As `sgd_`.

    References
    ----------
    Zeiler 2012, "ADADELTA: an adaptive learning rate method", algorithm 1.
    """
    numbers = hyperparameters("adadelta_", learning_rate=learning_rate, rho=rho, epsilon=epsilon)
    states = {"square": square, "change": change}
    projection = _checked("adadelta_", w, g, states, (), max_norm, axis)
    update_unchecked("adadelta_", w, g, (square, change), numbers, *projection)
    return w


def update_unchecked(
    rule: str,
    w: Array,
    g: Gradient,
    states: tuple[Array | None, ...],
    numbers: tuple[float, ...],
    bound: float = 0.0,
    axes: tuple[int, ...] = (),
) -> None:
    """A step by the name of its rule, for arguments that are known to fit.

    Parameters
    ----------
    rule : str
        The name of a function of this module.
    w, g
        As for that function.
    states, numbers : tuple
        In the order of the backends' functions of that name.
    bound, axes
        The largest norm, 0 for none, and the sorted axes that it runs over.
    """
    getattr(backend_of("w", w), rule)(w, g, *states, *numbers, bound, axes)


def hyperparameters(what: str, **given: Any) -> tuple[float, ...]:
    """The numbers as floats; TypeError or ValueError for one that is not allowed."""
    return tuple(
        check_number(f"{what}: {name}", value, INTERVALS[name]) for name, value in given.items()
    )


@np.errstate(under="ignore")
def global_norm(gradients: Iterable[Gradient]) -> float:
    """The Euclidean norm of several gradients as one vector.

    It is summed in float64, in an order that does not depend on the number of threads. It is NaN if
    any number is NaN, and otherwise infinite if any is.

    Parameters
    ----------
    gradients : iterable of ndarray or compact gradient
        Of one device.

    Returns
    -------
    float
        On a GPU a cupy.ndarray of shape ().

    Raises
    ------
    TypeError
        If a gradient is not of float32 or float64, or they are given as a mapping.
    """
    if isinstance(gradients, Mapping) or not isinstance(gradients, Iterable):
        advice = "; use .values()" if isinstance(gradients, Mapping) else ""
        raise TypeError(
            "global_norm: gradients must be an iterable of arrays, got "
            f"{type(gradients).__name__}{advice}"
        )
    arrays = [_numbers_of(g) for g in gradients]
    total = sum((backend_of("g", array).sum_squares(array) for array in arrays), 0.0)
    if math.isnan(total) or 1e-280 < total < math.inf:
        return math.sqrt(total)
    # Squares left float64's range. In units of the largest number they do not.
    largest = max((float(abs(array).max()) for array in arrays if array.size), default=0.0)
    if largest == 0 or math.isinf(largest):
        return largest
    units = (array.astype(np.float64) / largest for array in arrays)
    return largest * math.sqrt(sum((backend_of("g", u).sum_squares(u) for u in units), 0.0))


@np.errstate(under="ignore")
def clipping_factor(gradients: Iterable[Gradient], bound: float) -> Any:
    """The factor that brings the `global_norm` of gradients down to `bound`.

    Parameters
    ----------
    gradients : iterable of ndarray or compact gradient
        As for `global_norm`.
    bound : float
        The largest norm, positive.

    Returns
    -------
    float64 or None
        bound / norm. None, or 1, if the norm is not above the bound or is not finite. On a GPU it
        is a cupy.ndarray of shape (), so that the host does not wait for it.

    Raises
    ------
    TypeError, ValueError
        If a gradient is not of float32 or float64, or `bound` is not a positive number.
    """
    bound = check_number("clipping_factor: bound", bound, "(0, inf)")
    arrays = [_numbers_of(g) for g in gradients]
    there = [array for array in arrays if on_device(array) and array.size]
    if not there:
        norm = global_norm(arrays)
        return np.float64(bound / norm) if bound < norm < math.inf else None
    xp, unit = array_namespace(there[0]), None
    if any(array.dtype == np.float64 for array in there):  # whose squares may leave the range
        unit = abs(there[0]).max().astype(np.float64)
        for array in there[1:]:
            unit = xp.maximum(unit, abs(array).max())
        unit = xp.where((unit > 0) & (unit < math.inf), unit, 1.0)
        there = [array / unit for array in there]
    total = sum(backend_of("g", array).square_sum(array) for array in there)
    norm = xp.sqrt(total) if unit is None else xp.sqrt(total) * unit
    return xp.where(norm < math.inf, bound / xp.maximum(norm, bound), 1.0)


def _numbers_of(g: Gradient) -> Array:
    """The numbers of a gradient that can be nonzero, as an array of float32 or float64."""
    array = g.values if isinstance(g, BlockGradient) else dense(g)
    numbers: Array = backend_of("g", array).as_array("g", array, ("float32", "float64"))
    return numbers


def _checked(
    what: str,
    w: Array,
    g: Gradient,
    states: Mapping[str, Array | None],
    optional: tuple[str, ...],
    max_norm: float | None,
    axis: int | Iterable[int] | None,
) -> tuple[float, tuple[int, ...]]:
    """The bound, 0 for none, and its axes, after all arrays were checked."""
    expect_weights(what, "w", w)
    backend = backend_of("w", w)
    given: dict[str, Gradient] = {"w": w, "g": g}
    array: Any
    for name, array in {"g": g, **states}.items():
        if array is None and name in optional:
            continue
        lazy = isinstance(array, BlockGradient | ProductGradient)
        if not lazy and not backend.is_array(array):
            where = ", and w is on the GPU" if on_device(w) else ""
            raise TypeError(f"{what}: {name} must be an array, got {type(array).__name__}{where}")
        expect_unmasked(f"{what}: {name}", array)
        if array.dtype != w.dtype:
            raise TypeError(f"{what}: {name} must be {w.dtype}, as w is, got {array.dtype}")
        if array.shape != w.shape:
            raise ValueError(
                f"{what}: {name} must have the shape of w, {w.shape}, got {array.shape}"
            )
        if name != "g":
            expect_weights(what, name, array)
        given[name] = array
    for (name, one_gradient), (other, two_gradient) in combinations(given.items(), 2):
        if any(
            backend.is_array(one) and backend.is_array(two) and backend.may_overlap(one, two)
            for one in _parts(one_gradient)
            for two in _parts(two_gradient)
        ):
            raise ValueError(f"{what}: {other} shares memory with {name}; give a separate array")
    if max_norm is None:
        if axis is not None:
            raise ValueError(f"{what}: axis is about max_norm: give both or neither, got {axis!r}")
        return 0.0, ()
    if axis is None:
        raise ValueError(f"{what}: max_norm needs axis, the axes that the norm runs over")
    return bound_and_axes(what, w, max_norm, axis)


def _parts(gradient: Gradient) -> Iterator[Array]:
    """The arrays that a gradient is made of."""
    if isinstance(gradient, BlockGradient):
        yield gradient.values
    elif isinstance(gradient, ProductGradient):
        yield from (gradient.x, gradient.dz)
    else:
        yield gradient

"""Optimiser steps on arrays, with the projection onto the max-norm ball in the same pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from dropcore._backends import backend_of, dense
from dropcore._backends.gradients import Array, BlockGradient, Gradient, ProductGradient
from dropcore._base.device import array_namespace, on_device
from dropcore.functional import axes_of, expect_weights

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
    """A step of stochastic gradient descent in place, and the projection of what it gives.

    For weights w with gradient g, velocity v, learning rate a and momentum m, every operation
    rounded on its own in the dtype of w::

        w <- w + g (-a)                                       without velocity
        v <- v m + g (-a)      w <- w + v                     with velocity
        v <- v m + g (-a)      w <- w + (g (-a) + m v)        nesterov=True

    with g + weight_decay w for g where that is not 0, and then, as `max_norm_` does it,
    ``w <- w * min(1, max_norm / ||w||)`` for the vectors that run over `axis`. Denormal numbers
    count as zero.

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
        Leave weights and velocities alone where g is a BlockGradient and they are outside of it.
        Without it their velocity goes on to decay and to move them.
    weight_decay : float, default 0.0
        How much of w is added to g: the gradient of ``weight_decay / 2 * ||w||^2``.
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
        If w is not an array of a dtype that is taken, or the others have another dtype.
    ValueError
        If shapes differ, w or velocity is read-only, the learning rate is negative, infinite or
        NaN, `max_norm` is not positive, or one of `max_norm` and `axis` comes without the other.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, equations 1-4; Srivastava et al. 2014, section 5.1.
    """
    backend = backend_of("w", w)
    bound, axes = _checked("sgd_", w, g, {"velocity": velocity}, max_norm, axis)
    if velocity is None and (momentum or nesterov):
        raise ValueError("sgd_: momentum needs velocity, an array like w that starts at zero")
    rate = _rate("sgd_", learning_rate)
    backend.sgd_(
        w, g, velocity, rate, float(momentum), nesterov, lazy, float(weight_decay), bound, axes
    )
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
    """A step of Adam in place, and the projection of what it gives.

    For weights w with gradient g, running mean m and running mean square v at step t = 1, 2, ...::

        m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
        w <- w - learning_rate (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    with (1 - learning_rate weight_decay) w for w on the right, and then as in `sgd_`. Denormal
    numbers count as zero.

    Parameters
    ----------
    w, g, max_norm, axis
        As in `sgd_`.
    mean, square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    step : int
        Counted from 1.
    learning_rate, beta_1, beta_2, epsilon : float
    weight_decay : float, default 0.0
        The decoupled one of AdamW, which does not pass through the means.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError, ValueError
        As `sgd_`, and if `step` is below 1.

    References
    ----------
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1; Loshchilov and
    Hutter 2019, "Decoupled weight decay regularization".
    """
    backend = backend_of("w", w)
    bound, axes = _checked("adam_", w, g, {"mean": mean, "square": square}, max_norm, axis)
    step = operator.index(step)
    if step < 1:
        raise ValueError(f"adam_: step counts from 1, got {step}")
    backend.adam_(
        w, g, mean, square, int(step), _rate("adam_", learning_rate), float(beta_1), float(beta_2),
        float(epsilon), float(weight_decay), bound, axes,
    )  # fmt: skip
    return w


def rmsprop_(
    w: Array,
    g: Gradient,
    square: Array,
    mean: Array | None = None,
    velocity: Array | None = None,
    *,
    learning_rate: float,
    beta: float = 0.99,
    momentum: float = 0.0,
    epsilon: float = 1e-8,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """A step of RMSprop in place, and the projection of what it gives.

    For weights w with gradient g and running mean square v, every operation rounded on its own in
    the dtype of w::

        v <- beta v + (1 - beta) g^2                          s = v
        m <- beta m + (1 - beta) g                            s = max(v - m^2, 0), with mean
        w <- w - learning_rate g / (sqrt(s) + epsilon)
        u <- momentum u - learning_rate g / (sqrt(s) + epsilon)      w <- w + u, with velocity

    and then as in `sgd_`. Denormal numbers count as zero.

    Parameters
    ----------
    w, g, max_norm, axis
        As in `sgd_`.
    square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    mean : numpy.ndarray, optional
        The same: centers the square.
    velocity : numpy.ndarray, optional
        The same, for momentum.
    learning_rate, beta, momentum, epsilon : float

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
    backend = backend_of("w", w)
    states = {"square": square, "mean": mean, "velocity": velocity}
    bound, axes = _checked("rmsprop_", w, g, states, max_norm, axis)
    if velocity is None and momentum:
        raise ValueError("rmsprop_: momentum needs velocity, an array like w that starts at zero")
    backend.rmsprop_(
        w, g, square, mean, velocity, _rate("rmsprop_", learning_rate), float(beta),
        float(momentum), float(epsilon), bound, axes,
    )  # fmt: skip
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
    """A step of Adagrad in place, and the projection of what it gives.

    For weights w with gradient g and the sum v of its squares::

        v <- v + g^2        w <- w - learning_rate g / (sqrt(v) + epsilon)

    and then as in `sgd_`. Denormal numbers count as zero.

    Parameters
    ----------
    w, g, max_norm, axis
        As in `sgd_`.
    square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    learning_rate, epsilon : float

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
    backend = backend_of("w", w)
    bound, axes = _checked("adagrad_", w, g, {"square": square}, max_norm, axis)
    backend.adagrad_(w, g, square, _rate("adagrad_", learning_rate), float(epsilon), bound, axes)
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
    """A step of Adadelta in place, and the projection of what it gives.

    For weights w with gradient g and running mean squares, v of the gradient and u of the changes::

        v <- rho v + (1 - rho) g^2              d = sqrt(u + epsilon) / sqrt(v + epsilon) g
        u <- rho u + (1 - rho) d^2              w <- w - learning_rate d

    and then as in `sgd_`. Denormal numbers count as zero.

    Parameters
    ----------
    w, g, max_norm, axis
        As in `sgd_`.
    square, change : numpy.ndarray
        v and u, of the shape and dtype of w, zero at first, changed in place.
    learning_rate, rho, epsilon : float

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
    backend = backend_of("w", w)
    bound, axes = _checked("adadelta_", w, g, {"square": square, "change": change}, max_norm, axis)
    rate = _rate("adadelta_", learning_rate)
    backend.adadelta_(w, g, square, change, rate, float(rho), float(epsilon), bound, axes)
    return w


def global_norm(gradients: Iterable[Gradient]) -> float:
    """The Euclidean norm of all the numbers in some gradients together.

    Summed in float64, in an order that does not depend on the number of threads. NaN if one of
    them is, else infinite if one of them is.
    """
    arrays = [_numbers_of(g) for g in gradients]
    total = sum((backend_of("g", array).sum_squares(array) for array in arrays), 0.0)
    if math.isnan(total) or 1e-280 < total < math.inf:
        return math.sqrt(total)
    # Squares that left float64's range: in units of the largest number none does.
    largest = max((float(abs(array).max()) for array in arrays if array.size), default=0.0)
    if largest == 0 or math.isinf(largest):
        return largest
    units = (array.astype(np.float64) / largest for array in arrays)
    return largest * math.sqrt(sum((backend_of("g", u).sum_squares(u) for u in units), 0.0))


def clipping_factor(gradients: Iterable[Gradient], bound: float) -> Any:
    """What gradients are multiplied by, for a `global_norm` of at most `bound`.

    Returns
    -------
    float64, or None
        bound / norm; None, or 1, where the norm is not above the bound, or is not finite. On a GPU
        it is a cupy.ndarray of shape (), so that nothing waits for it.
    """
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
    """An array of all that is not zero."""
    if isinstance(g, BlockGradient):
        return g.values
    if isinstance(g, ProductGradient):
        return dense(g)
    return g if on_device(g) else np.asarray(g)


def _checked(
    what: str,
    w: Array,
    g: Gradient,
    states: dict[str, Array | None],
    max_norm: float | None,
    axis: int | Iterable[int] | None,
) -> tuple[float, tuple[int, ...]]:
    """The bound, 0 for none, and the axes, after a look at everything else."""
    expect_weights(what, "w", w)
    backend = backend_of("w", w)
    for name, array in {"g": g, **states}.items():
        if array is None:
            continue
        whole = backend.is_array(array)
        if not whole and not isinstance(array, BlockGradient | ProductGradient):
            where = ", and w is on the GPU" if on_device(w) else ""
            raise TypeError(f"{what}: {name} must be an array, got {type(array).__name__}{where}")
        if array.dtype != w.dtype:
            raise TypeError(f"{what}: {name} must be {w.dtype}, as w is, got {array.dtype}")
        if array.shape != w.shape:
            raise ValueError(
                f"{what}: {name} must have the shape of w, {w.shape}, got {array.shape}"
            )
        if name != "g":
            expect_weights(what, name, array)
        if whole and backend.may_overlap(w, array):
            raise ValueError(f"{what}: {name} shares memory with w; give memory of its own")
    if max_norm is None:
        if axis is not None:
            raise ValueError(f"{what}: axis is about max_norm: give both or neither, got {axis!r}")
        return 0.0, ()
    if axis is None:
        raise ValueError(f"{what}: max_norm needs axis, the axes that the norm runs over")
    return axes_of(what, w, max_norm, axis)


def _rate(what: str, value: Any) -> float:
    rate = float(value)
    if not 0 <= rate < math.inf:
        raise ValueError(f"{what}: learning_rate must be finite and not negative, got {value!r}")
    return rate

"""Optimiser steps on arrays, with the projection onto the max-norm ball in the same pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np

from dropcore.backends import backend_of
from dropcore.functional import axes_of, expect_weights
from dropcore.gradients import Array, Gradient, LiveBlock, ProductGradient

__all__ = ["adam_", "sgd_"]


def sgd_(
    w: Array,
    g: Gradient,
    velocity: Array | None = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    lazy: bool = False,
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """A step of stochastic gradient descent in place, and the projection of what it gives.

    For weights w with gradient g, velocity v, learning rate a and momentum m, every operation
    rounded on its own in the dtype of w::

        w <- w + g (-a)                                       without velocity
        v <- v m + g (-a)      w <- w + v                     with velocity
        v <- v m + g (-a)      w <- w + (g (-a) + m v)        nesterov=True

    and then, as `max_norm_` does it, ``w <- w * min(1, max_norm / ||w||)`` for the vectors that run
    over `axis`. Denormal numbers count as zero.

    Parameters
    ----------
    w : numpy.ndarray of float32 or float64
        Changed in place.
    g : numpy.ndarray, LiveBlock or ProductGradient
        Of the shape and dtype of w.
    velocity : numpy.ndarray, optional
        Of the shape and dtype of w, changed in place.
    learning_rate : float
    momentum : float, default 0.0
        Needs `velocity`.
    nesterov : bool, default False
    lazy : bool, default False
        Leave weights and velocities alone where g is a LiveBlock and they are outside of it.
        Without it their velocity goes on to decay and to move them.
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
        If shapes differ, w or velocity is read-only, or `max_norm` is not positive.

    References
    ----------
    Sutskever, Martens, Dahl and Hinton 2013, equations 1-4; Srivastava et al. 2014, section 5.1.
    """
    backend = backend_of("w", w)
    bound, axes = _checked("sgd_", w, g, {"velocity": velocity}, max_norm, axis)
    if velocity is None and (momentum or nesterov):
        raise ValueError("sgd_: momentum needs velocity, an array like w that starts at zero")
    backend.sgd_(w, g, velocity, float(learning_rate), float(momentum), nesterov, lazy, bound, axes)
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
    max_norm: float | None = None,
    axis: int | Iterable[int] | None = None,
) -> Array:
    """A step of Adam in place, and the projection of what it gives.

    For weights w with gradient g, running mean m and running mean square v at step t = 1, 2, ...::

        m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
        w <- w - learning_rate (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)

    and then as in `sgd_`. Denormal numbers count as zero.

    Parameters
    ----------
    w, g, max_norm, axis
        As in `sgd_`.
    mean, square : numpy.ndarray
        Of the shape and dtype of w, zero at first, changed in place.
    step : int
        Counted from 1.
    learning_rate, beta_1, beta_2, epsilon : float

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
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """
    backend = backend_of("w", w)
    bound, axes = _checked("adam_", w, g, {"mean": mean, "square": square}, max_norm, axis)
    step = operator.index(step)
    if step < 1:
        raise ValueError(f"adam_: step counts from 1, got {step}")
    backend.adam_(
        w, g, mean, square, int(step), float(learning_rate), float(beta_1), float(beta_2),
        float(epsilon), bound, axes,
    )  # fmt: skip
    return w


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
    for name, array in {"g": g, **states}.items():
        if array is None:
            continue
        if not isinstance(array, np.ndarray | LiveBlock | ProductGradient):
            raise TypeError(f"{what}: {name} must be an array, got {type(array).__name__}")
        if array.dtype != w.dtype:
            raise TypeError(f"{what}: {name} must be {w.dtype}, as w is, got {array.dtype}")
        if array.shape != w.shape:
            raise ValueError(
                f"{what}: {name} must have the shape of w, {w.shape}, got {array.shape}"
            )
        if name != "g":
            expect_weights(what, name, array)
        if isinstance(array, np.ndarray) and np.may_share_memory(w, array):
            raise ValueError(f"{what}: {name} shares memory with w; give memory of its own")
    if max_norm is None:
        return 0.0, ()
    if axis is None:
        raise ValueError(f"{what}: max_norm needs axis, the axes that the norm runs over")
    return axes_of(what, w, max_norm, axis)

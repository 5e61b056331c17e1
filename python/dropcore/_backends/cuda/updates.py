"""Updates of weights that are CuPy arrays, and their projection onto the max-norm ball."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from dropcore._backends.cuda.launching import (
    WARP,
    Array,
    at,
    blocks_for,
    contiguous,
    empty,
    launch,
    library,
    numbers,
)
from dropcore._backends.cuda.products import dense, positions
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient

CHUNKS = 64  # of rows whose columns are summed up on their own, at most
PIECE = 1 << 16  # of a sum of squares
RULES = {"none": 0, "sgd": 1, "adam": 2, "rmsprop": 3, "adagrad": 4, "adadelta": 5}


# ---- weights ----


def max_norm_(w: Array, max_norm: float, axes: tuple[int, ...]) -> None:
    """Project in place the vectors that run over `axes`."""
    _update("none", w, None, (None, None, None), max_norm, axes)


def sgd_(
    w: Array, g: Gradient, velocity: Array | None, learning_rate: float, momentum: float,
    nesterov: bool, lazy: bool, weight_decay: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("sgd", w, g, (None, velocity, None), max_norm, axes, lazy=lazy, nesterov=nesterov,
            rate=learning_rate, momentum=momentum, decay=weight_decay)  # fmt: skip


def adam_(
    w: Array, g: Gradient, mean: Array, square: Array, step: int, learning_rate: float,
    beta_1: float, beta_2: float, epsilon: float, weight_decay: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """Step number `step`, from 0, projected if max_norm is not 0."""
    t = step + 1
    _update(
        "adam", w, g, (mean, square, None), max_norm, axes,
        rate=learning_rate / (1.0 - beta_1**t), beta_1=beta_1, beta_2=beta_2,
        rest_1=1.0 - beta_1, rest_2=1.0 - beta_2, scale=1.0 / math.sqrt(1.0 - beta_2**t),
        epsilon=epsilon, keep=1.0 - learning_rate * weight_decay,
    )  # fmt: skip


def rmsprop_(
    w: Array, g: Gradient, square: Array, mean: Array | None, velocity: Array | None,
    learning_rate: float, rho: float, momentum: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("rmsprop", w, g, (mean, square, velocity), max_norm, axes, rate=learning_rate,
            beta_2=rho, rest_2=1.0 - rho, momentum=momentum, epsilon=epsilon)  # fmt: skip


def adagrad_(
    w: Array, g: Gradient, square: Array, learning_rate: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("adagrad", w, g, (None, square, None), max_norm, axes, rate=learning_rate,
            epsilon=epsilon)  # fmt: skip


def adadelta_(
    w: Array, g: Gradient, square: Array, change: Array, learning_rate: float, rho: float,
    epsilon: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("adadelta", w, g, (change, square, None), max_norm, axes, rate=learning_rate,
            beta_2=rho, rest_2=1.0 - rho, epsilon=epsilon)  # fmt: skip


# What the numbers of a rule are called in the kernels.
NUMBERS = ("rate", "momentum", "decay", "beta_1", "beta_2", "rest_1", "rest_2", "scale", "epsilon",
           "keep")  # fmt: skip


# While a graph is captured: where on the device the numbers of its rule will be.
_moving: ContextVar[Array | None] = ContextVar("moving", default=None)
# Where numbers go instead of an update, when they are asked for.
_asked: ContextVar[list[float] | None] = ContextVar("asked", default=None)


@contextmanager
def numbers_from(moving: Array) -> Iterator[None]:
    """Inside, updates take the numbers of their rule from float64 (len(NUMBERS),) on the device."""
    before = _moving.set(moving)
    try:
        yield
    finally:
        _moving.reset(before)


@contextmanager
def captured_hyperparameters() -> Iterator[list[float]]:
    """Inside, updates change nothing and leave the numbers of their rule in the list."""
    found: list[float] = []
    before = _asked.set(found)
    try:
        yield found
    finally:
        _asked.reset(before)


def _update(
    rule: str,
    w: Array,
    g: Gradient | None,
    states: tuple[Array | None, Array | None, Array | None],
    max_norm: float,
    axes: tuple[int, ...],
    *,
    lazy: bool = False,
    nesterov: bool = False,
    **given: float,
) -> None:
    """Move contiguous copies where the arrays are not, with the vectors in rows if need be."""
    if (asked := _asked.get()) is not None:
        asked[:] = [given.get(name, 0.0) for name in NUMBERS]
        return
    xp = library()
    if w.size == 0:
        return
    live: tuple[Any, ...] = (None, None, np.int64(1), np.int64(0))
    gradient: Array | None = None
    if isinstance(g, BlockGradient):
        gradient = contiguous(g.values)
        rows, width = math.prod(g.shape[:-1]), g.shape[-1]
        live = (positions(g.rows, rows), positions(g.columns, width), np.int64(width),
                np.int64(gradient.shape[-1]))  # fmt: skip
    elif isinstance(g, ProductGradient):
        gradient = dense(g)
    elif g is not None:
        gradient = contiguous(g)

    def recipe(states: Sequence[Array | None]) -> tuple[Any, ...]:
        return (
            np.int32(RULES[rule]), np.int32(lazy), np.int32(nesterov),
            *(np.float64(given.get(name, 0.0)) for name in NUMBERS), at(_moving.get()),
            at(gradient), at(live[0]), at(live[1]), *live[2:], *(at(a) for a in states),
        )  # fmt: skip

    own: list[Any] = [None if a is None else contiguous(a) for a in (w, *states)]
    adjacent = bool(axes) and axes[-1] - axes[0] + 1 == len(axes)
    if not max_norm or adjacent:
        _apply(own[0], recipe(own[1:]), max_norm, axes)
    else:
        if rule != "none":
            _apply(own[0], recipe(own[1:]), 0.0, ())
        end = tuple(range(w.ndim - len(axes), w.ndim))
        last = xp.moveaxis(own[0], axes, end)
        moved = contiguous(last)
        if moved.data.ptr == own[0].data.ptr:  # axes of length 1 only: nothing moved
            moved = moved.copy()
        _apply(moved, _no_rule(), max_norm, end)
        last[...] = moved
    for array, changed in zip((w, *states), own, strict=True):
        if array is not None and changed is not array:
            array[...] = changed


def _no_rule() -> tuple[Any, ...]:
    return (
        *(np.int32(0),) * 3, *(np.float64(0.0),) * len(NUMBERS), *(np.uint64(0),) * 4,
        np.int64(1), np.int64(0), *(np.uint64(0),) * 3,
    )  # fmt: skip


def _apply(w: Array, recipe: tuple[Any, ...], bound: float, axes: tuple[int, ...]) -> None:
    """A rule and the projection of vectors over adjacent axes, on contiguous arrays."""
    if not bound:
        launch(w, "update", "update_flat", blocks_for(w.size), at(w), np.int64(w.size),
                *recipe)  # fmt: skip
        return
    n = math.prod(w.shape[axes[0] : axes[-1] + 1])
    outer = math.prod(w.shape[: axes[0]])
    inner = w.size // (outer * n)
    if inner == 1:
        threads = 32 if n <= 256 else 128 if n <= 2048 else 256 if n <= 1 << 16 else 1024
        launch(
            w, "update", "update_rows", outer, at(w), np.int64(outer), np.int64(n),
            np.float64(bound), *recipe, threads=threads,
        )  # fmt: skip
        return
    columns, rows = outer * inner, max(64, -(-n // CHUNKS))
    chunks = -(-n // rows)
    parts = 3 if w.dtype == np.float64 else 1
    sums = empty((chunks * parts * columns,), np.float64)
    factors = empty((2 * columns,), np.float64)
    layout = numbers((outer, n, inner, rows))
    tasks = -(-columns // WARP) * chunks
    launch(w, "update", "update_columns", tasks, at(w), *layout, at(sums), *recipe)
    launch(
        w, "update", "column_factors", blocks_for(columns), at(sums),
        *numbers((chunks, columns, n)), np.float64(bound), at(factors),
    )  # fmt: skip
    launch(w, "update", "shorten_columns", tasks, at(w), *layout, at(factors))


def sum_squares(array: Array) -> float:
    """The sum of the squares in float64. Waits for the device."""
    return float(square_sum(array))


def square_sum(array: Array) -> Array:
    """The sum of the squares in float64, which stays on the device."""
    if array.size == 0:
        return library().zeros((), np.float64)
    array, pieces = contiguous(array), -(-array.size // PIECE)
    sums = empty((pieces,), np.float64)
    launch(array, "update", "square_sums", pieces, at(array),
            np.int64(array.size), np.int64(PIECE), at(sums))  # fmt: skip
    return sums.sum()

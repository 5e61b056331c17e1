"""Updates of weights that are CuPy arrays, and their projection onto the max-norm ball."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from dropcore._backends.cuda.kernels import (
    HYPERPARAMETERS,
    WARP,
    Array,
    blocks_for,
    contiguous,
    empty,
    enumerator,
    int64s,
    launch,
    library,
    ptr,
)
from dropcore._backends.cuda.products import dense, positions
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient

CHUNKS = 64  # of rows whose columns are summed separately, at most
PIECE = 1 << 16  # elements of a partial sum of squares

# ---- the hyperparameters of each rule ----


def hyperparameters_of(rule: str, numbers: Sequence[float]) -> dict[str, float]:
    """What the kernels compute with, from the numbers that an update of this module is given.

    Parameters
    ----------
    rule : "sgd_", "adam_", "rmsprop_", "adagrad_" or "adadelta_"
    numbers : sequence of float
        The arguments of that update between its states and its bound.
    """
    return _HYPERPARAMETERS_OF[rule](*numbers)


def _sgd(
    learning_rate: float, momentum: float, nesterov: bool, lazy: bool, weight_decay: float
) -> dict[str, float]:
    return {"rate": learning_rate, "momentum": momentum, "decay": weight_decay}


def _adam(
    step: int, learning_rate: float, beta_1: float, beta_2: float, epsilon: float,
    weight_decay: float,
) -> dict[str, float]:  # fmt: skip
    t = step + 1
    return {
        "rate": learning_rate / (1.0 - beta_1**t), "beta_1": beta_1, "beta_2": beta_2,
        "rest_1": 1.0 - beta_1, "rest_2": 1.0 - beta_2, "scale": 1.0 / math.sqrt(1.0 - beta_2**t),
        "epsilon": epsilon, "keep": 1.0 - learning_rate * weight_decay,
    }  # fmt: skip


def _rmsprop(learning_rate: float, rho: float, momentum: float, epsilon: float) -> dict[str, float]:
    return {"rate": learning_rate, "beta_2": rho, "rest_2": 1.0 - rho, "momentum": momentum,
            "epsilon": epsilon}  # fmt: skip


def _adagrad(learning_rate: float, epsilon: float) -> dict[str, float]:
    return {"rate": learning_rate, "epsilon": epsilon}


def _adadelta(learning_rate: float, rho: float, epsilon: float) -> dict[str, float]:
    return {"rate": learning_rate, "beta_2": rho, "rest_2": 1.0 - rho, "epsilon": epsilon}


_HYPERPARAMETERS_OF: dict[str, Callable[..., dict[str, float]]] = {
    "sgd_": _sgd, "adam_": _adam, "rmsprop_": _rmsprop, "adagrad_": _adagrad,
    "adadelta_": _adadelta,
}  # fmt: skip

VALUES = np.dtype([(name, np.float64) for name in HYPERPARAMETERS])
"""The kernels' struct hyperparameters."""


def values_of(hyperparameters: Mapping[str, float]) -> npt.NDArray[np.void]:
    """Hyperparameters as an argument of a kernel; those that a rule lacks are 0."""
    values = np.zeros((), VALUES)
    for name, value in hyperparameters.items():
        values[name] = value
    return values


# While a graph is recorded: where on the device the hyperparameters of its launches will be.
_captured: ContextVar[Array | None] = ContextVar("captured", default=None)


@contextmanager
def hyperparameters_from(captured: Array) -> Iterator[None]:
    """Inside, updates read their hyperparameters from float64 on the device, in kernel order."""
    before = _captured.set(captured)
    try:
        yield
    finally:
        _captured.reset(before)


# ---- an update ----

UPDATE = np.dtype(
    [
        ("values", VALUES), ("captured", np.uint64), ("gradient", np.uint64),
        ("row_position", np.uint64), ("column_position", np.uint64), ("width", np.int64),
        ("block_width", np.int64), ("mean", np.uint64), ("square", np.uint64),
        ("velocity", np.uint64), ("change", np.uint64), ("rule", np.int32), ("lazy", np.int32),
        ("nesterov", np.int32),
    ],
    align=True,
)  # fmt: skip
"""The kernels' struct update."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an update of weights needs besides the weights; by default a projection alone.

    Attributes
    ----------
    rule : str
        One of the enumeration "RULE" of the kernels.
    hyperparameters : mapping
    gradient : cupy.ndarray, optional
        Contiguous, in the shape of the weights; or the block of a BlockGradient.
    row_position, column_position : int64, optional
        For each row and column of the weights its position in the block, or -1.
    width, block_width : int
        Columns of the weights and of the block.
    states : mapping
        Contiguous arrays like the weights by name: mean, square, velocity, change.
    lazy, nesterov : bool
    """

    rule: str = "projection"
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    gradient: Array | None = None
    row_position: Array | None = None
    column_position: Array | None = None
    width: int = 1
    block_width: int = 0
    states: Mapping[str, Array] = field(default_factory=dict)
    lazy: bool = False
    nesterov: bool = False

    def argument(self) -> npt.NDArray[np.void]:
        """The argument of the kernels, which CuPy passes by value."""
        update = np.zeros((), UPDATE)
        update["values"] = values_of(self.hyperparameters)
        update["captured"] = ptr(_captured.get())
        for name in ("gradient", "row_position", "column_position"):
            update[name] = ptr(getattr(self, name))
        for name, state in self.states.items():
            update[name] = ptr(state)
        for name in ("width", "block_width", "lazy", "nesterov"):
            update[name] = getattr(self, name)
        update["rule"] = enumerator("RULE", self.rule)
        return update


def _with_gradient(update: Update, g: Gradient) -> Update:
    if isinstance(g, BlockGradient):
        block = contiguous(g.values)
        rows, width = math.prod(g.shape[:-1]), g.shape[-1]
        return replace(
            update, gradient=block, row_position=positions(g.rows, rows),
            column_position=positions(g.columns, width), width=width, block_width=block.shape[-1],
        )  # fmt: skip
    whole = dense(g) if isinstance(g, ProductGradient) else g
    return replace(update, gradient=contiguous(whole))


def max_norm_(w: Array, max_norm: float, axes: tuple[int, ...]) -> None:
    """Project in place the vectors that run over `axes`."""
    if w.size:
        own = contiguous(w)
        _project(own, max_norm, axes)
        if own is not w:
            w[...] = own


def sgd_(
    w: Array, g: Gradient, velocity: Array | None, learning_rate: float, momentum: float,
    nesterov: bool, lazy: bool, weight_decay: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    values = _sgd(learning_rate, momentum, nesterov, lazy, weight_decay)
    update = Update(rule="sgd", hyperparameters=values, lazy=lazy, nesterov=nesterov)
    _update(update, w, g, {"velocity": velocity}, max_norm, axes)


def adam_(
    w: Array, g: Gradient, mean: Array, square: Array, step: int, learning_rate: float,
    beta_1: float, beta_2: float, epsilon: float, weight_decay: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """Step number `step`, from 0, projected if max_norm is not 0."""
    values = _adam(step, learning_rate, beta_1, beta_2, epsilon, weight_decay)
    update = Update(rule="adam", hyperparameters=values)
    _update(update, w, g, {"mean": mean, "square": square}, max_norm, axes)


def rmsprop_(
    w: Array, g: Gradient, square: Array, mean: Array | None, velocity: Array | None,
    learning_rate: float, rho: float, momentum: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    update = Update(rule="rmsprop", hyperparameters=_rmsprop(learning_rate, rho, momentum, epsilon))
    states = {"square": square, "mean": mean, "velocity": velocity}
    _update(update, w, g, states, max_norm, axes)


def adagrad_(
    w: Array, g: Gradient, square: Array, learning_rate: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    update = Update(rule="adagrad", hyperparameters=_adagrad(learning_rate, epsilon))
    _update(update, w, g, {"square": square}, max_norm, axes)


def adadelta_(
    w: Array, g: Gradient, square: Array, change: Array, learning_rate: float, rho: float,
    epsilon: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    update = Update(rule="adadelta", hyperparameters=_adadelta(learning_rate, rho, epsilon))
    _update(update, w, g, {"square": square, "change": change}, max_norm, axes)


def _update(
    update: Update,
    w: Array,
    g: Gradient,
    states: Mapping[str, Array | None],
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """Apply a rule and the projection, in one pass if the vectors allow it."""
    if w.size == 0:
        return
    given = {name: state for name, state in states.items() if state is not None}
    own, own_states = contiguous(w), {name: contiguous(state) for name, state in given.items()}
    update = _with_gradient(replace(update, states=own_states), g)
    if max_norm and _adjacent(axes):
        _apply(own, update, max_norm, axes)
    else:
        _apply(own, update, 0.0, ())
        if max_norm:
            _project(own, max_norm, axes)
    if own is not w:
        w[...] = own
    for name, state in given.items():
        if own_states[name] is not state:
            state[...] = own_states[name]


def _adjacent(axes: tuple[int, ...]) -> bool:
    return axes[-1] - axes[0] + 1 == len(axes)


def _project(w: Array, max_norm: float, axes: tuple[int, ...]) -> None:
    """The projection of contiguous weights."""
    if _adjacent(axes):
        _apply(w, Update(), max_norm, axes)
        return
    last = tuple(range(w.ndim - len(axes), w.ndim))
    view = library().moveaxis(w, axes, last)
    rows = contiguous(view)
    if rows.data.ptr == w.data.ptr:  # only axes of length 1 moved
        rows = rows.copy()
    _apply(rows, Update(), max_norm, last)
    view[...] = rows


def _apply(w: Array, update: Update, bound: float, axes: tuple[int, ...]) -> None:
    """A rule and the projection of the vectors over adjacent axes, on contiguous arrays."""
    argument = update.argument()
    if not bound:
        launch(w, "update", "update_flat", blocks_for(w.size), ptr(w), np.int64(w.size), argument)
        return
    n = math.prod(w.shape[axes[0] : axes[-1] + 1])
    outer = math.prod(w.shape[: axes[0]])
    inner = w.size // (outer * n)
    if inner == 1:
        threads = 32 if n <= 256 else 128 if n <= 2048 else 256 if n <= 1 << 16 else 1024
        launch(
            w, "update", "update_rows", outer, ptr(w), np.int64(outer), np.int64(n),
            np.float64(bound), argument, threads=threads,
        )  # fmt: skip
        return
    columns, rows = outer * inner, max(64, -(-n // CHUNKS))
    chunks = -(-n // rows)
    parts = 3 if w.dtype == np.float64 else 1
    sums = empty((chunks * parts * columns,), np.float64)
    factors = empty((2 * columns,), np.float64)
    layout = int64s((outer, n, inner, rows))
    tasks = -(-columns // WARP) * chunks
    launch(w, "update", "update_columns", tasks, ptr(w), *layout, ptr(sums), argument)
    launch(
        w, "update", "column_factors", blocks_for(columns), ptr(sums),
        *int64s((chunks, columns, n)), np.float64(bound), ptr(factors),
    )  # fmt: skip
    launch(w, "update", "shorten_columns", tasks, ptr(w), *layout, ptr(factors))


def sum_squares(array: Array) -> float:
    """The sum of the squares in float64. Synchronises with the device."""
    return float(square_sum(array))


def square_sum(array: Array) -> Array:
    """The sum of the squares in float64, left on the device."""
    if array.size == 0:
        return library().zeros((), np.float64)
    array, pieces = contiguous(array), -(-array.size // PIECE)
    sums = empty((pieces,), np.float64)
    launch(array, "update", "square_sums", pieces, ptr(array),
            np.int64(array.size), np.int64(PIECE), ptr(sums))  # fmt: skip
    return sums.sum()

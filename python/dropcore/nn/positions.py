"""The positions of steps in a sequence, which attention alone does not know."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends import backend_of, to_device
from dropcore._backends.gradients import BlockGradient, Gradient
from dropcore._base.checks import check_integer, check_number
from dropcore._base.device import array_namespace, on_device
from dropcore.constraints import Constraint, with_default_axis
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_built, check_dtype, check_gradient
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Array, BackwardFrom, Shape, Stateful
from dropcore.regularizers import Regularizer

__all__ = ["LearnedPositions", "SinusoidalPositions"]


class _Positions(Stateful):
    """The base of both: y[b, t] = x[b, t] + positions[t].

    The state is the number of steps so far.
    """

    carries_state = True

    def _first(self, state: Any) -> int:
        """The position of the first step."""
        return 0 if state is None else check_integer(f"{self!r}: state", state, 0)

    def _added(self, x: Array, positions: Array) -> Array:
        """x + positions in memory that earlier arrays have given back."""
        out = backend_of("x", x).empty(x.shape, x.dtype)
        y: Array = array_namespace(x).add(x, positions, out=out)
        return y

    def _check_sequences(self, x: Array) -> None:
        check_array(self, x)
        if x.ndim != 3:
            raise ValueError(f"{self!r} expects x of shape (batch, time, features), got {x.shape}")


class LearnedPositions(_Positions):
    """Add a vector that is learned for each position: y[b, t] = x[b, t] + weight[t].

    The gradient of weight[t] is the sum of dy[:, t] over the batch. `forward_from` continues the
    positions; its state is the number of steps so far.

    Parameters
    ----------
    max_length : int
        Number of positions, the longest sequence that the layer takes. `weight` is (max_length,
        features).
    initializer : str or callable, default "zaremba_uniform"
        Of `weight`, by default U(-0.05, 0.05), as for `Embedding`.
    constraint : callable, optional
        What must hold for `weight` after every update; norms run over its rows.
    regularizer : Regularizer, optional
        What is added to the loss for `weight`.

    Raises
    ------
    TypeError, ValueError
        If `max_length` is not a positive integer, or for an unknown initializer.

    References
    ----------
    Gehring, Auli, Grangier, Yarats and Dauphin 2017, "Convolutional sequence to sequence learning",
    section 3.1.
    """

    _fixed = frozenset({"max_length", "initializer"})

    def __init__(
        self,
        max_length: int,
        *,
        initializer: str | Initializer = "zaremba_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.max_length = check_integer("LearnedPositions: max_length", max_length, 1)
        initializer_of("LearnedPositions: initializer", initializer)
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        own = None if constraint is None else with_default_axis(constraint, -1)
        self._register("weight", own, regularizer)

    @property
    def built(self) -> bool:
        return bool(self._params)

    def output_shape(self, input_shape: Shape) -> Shape:
        features = self._params["weight"].shape[1] if self.built else None
        steps, found = input_shape if len(input_shape) == 2 else (None, None)
        if found is None or found < 1 or features not in (None, found):
            expected = "features" if features is None else features
            raise ValueError(
                f"{self!r} expects samples of shape (time, {expected}), got {input_shape}"
            )
        if steps is not None:
            self._check_length(steps)
        return input_shape

    def _check_length(self, steps: int) -> None:
        if steps > self.max_length:
            raise ValueError(
                f"{self!r} has vectors for {self.max_length} positions, got a sequence of {steps} "
                "steps; create the layer with a larger max_length, or cut the sequences"
            )

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        features = input_shape[-1]
        assert features is not None  # checked by output_shape
        shape, fans = (self.max_length, features), (1, features)
        self._params["weight"] = drawn(self.initializer, rng, shape, dtype, fans=fans)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        return {"weight": (self.max_length, None)}, {}

    def forward_from(
        self,
        x: Array,
        state: int | None = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, int, BackwardFrom]:
        self._check_sequences(x)
        check_built(self)
        weight = self._params["weight"]
        if x.shape[2] != weight.shape[1]:
            raise ValueError(
                f"{self!r} expects x of shape (batch, time, {weight.shape[1]}), got {x.shape}"
            )
        check_dtype(self, x, weight.dtype)
        self.checked_lengths(x, lengths)
        first = self._first(state)
        last = first + x.shape[1]
        self._check_length(last)

        def backward(
            dy: Array,
            dstate: None = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], None]:
            check_gradient(self, dy, x.shape, x.dtype)
            xp = array_namespace(x)
            values = dy.sum(axis=0, dtype=x.dtype)
            if for_update:
                rows, columns = (
                    xp.arange(*ends, dtype=np.int64) for ends in ((first, last), (x.shape[2],))
                )
                block = BlockGradient(values, rows, columns, weight.shape)
                return dy if input_gradient else None, {"weight": block}, None
            whole = xp.zeros(weight.shape, x.dtype)
            whole[first:last] = values
            return dy if input_gradient else None, {"weight": whole}, None

        return self._added(x, weight[first:last]), last, backward


class SinusoidalPositions(_Positions):
    """Add sines and cosines of each position, which need no training.

    For position t and feature 2i or 2i + 1 of d features::

        y[b, t, 2i] = x[b, t, 2i] + sin(t / max_wavelength^(2i / d))
        y[b, t, 2i + 1] = x[b, t, 2i + 1] + cos(t / max_wavelength^(2i / d))

    They are as large as 1: vectors of words should be, too, as with ``Embedding(...,
    initializer=Normal(1.0))``. Sequences may have any length. `forward_from` continues the
    positions; its state is the number of steps so far.

    Parameters
    ----------
    max_wavelength : float, default 10000.0
        The longest wavelength, divided by 2 pi.

    Raises
    ------
    ValueError
        If `max_wavelength` is not finite and positive.

    References
    ----------
    Vaswani et al. 2017, "Attention is all you need", section 3.5.
    """

    def __init__(self, max_wavelength: float = 10000.0) -> None:
        super().__init__()
        self.max_wavelength = check_number(
            "SinusoidalPositions: max_wavelength", max_wavelength, "(0, inf)"
        )
        self._table: tuple[Any, Array] | None = None  # what it was computed for, and positions

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 2 or not input_shape[1]:
            raise ValueError(
                f"{self!r} expects samples of shape (time, features), got {input_shape}"
            )
        return input_shape

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_table": None}

    def forward_from(
        self,
        x: Array,
        state: int | None = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, int, BackwardFrom]:
        self._check_sequences(x)
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(f"{self!r} expects x of float32 or float64, got {x.dtype}")
        self.checked_lengths(x, lengths)
        first = self._first(state)
        last = first + x.shape[1]

        def backward(
            dy: Array,
            dstate: None = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], None]:
            check_gradient(self, dy, x.shape, x.dtype)
            return dy if input_gradient else None, {}, None

        return self._added(x, self._positions(last, x)[first:last]), last, backward

    def _positions(self, steps: int, x: Array) -> Array:
        """The vectors of at least so many positions, as they are added to x."""
        kind = (x.shape[2], x.dtype, on_device(x), self.max_wavelength)
        known = self._table
        if known is None or known[0] != kind or len(known[1]) < steps:
            length = max(64, 1 << (steps - 1).bit_length())  # not anew for each step of a text
            table = sinusoids(length, x.shape[2], self.max_wavelength)
            there = to_device(table.astype(x.dtype), "cuda" if on_device(x) else "cpu")
            known = self._table = kind, there
        return known[1]


def sinusoids(steps: int, features: int, max_wavelength: float) -> np.ndarray[Any, Any]:
    """The vectors of positions 0 ... steps - 1 in float64."""
    even = np.arange(0, features, 2)
    angles = np.arange(steps)[:, None] / max_wavelength ** (even / features)
    table = np.empty((steps, features))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : features // 2])
    return table

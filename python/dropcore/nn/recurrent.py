"""Recurrent layers: SimpleRNN, GRU, LSTM."""

from __future__ import annotations

import inspect
import math
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_bool, check_integer, expect_unmasked
from dropcore._base.device import array_namespace, on_device
from dropcore._ops.recurrent import GATES, RecurrentOp
from dropcore.constraints import Constraint
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_built, check_dtype
from dropcore.nn.dropout import check_row_offset
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Array, BackwardFrom, Shape, Stateful
from dropcore.nn.rates import Rate, Schedule
from dropcore.regularizers import Regularizer

__all__ = ["GRU", "LSTM", "Recurrent", "SimpleRNN"]

NOISE: Final = {
    "dropout": "x_mask",
    "recurrent_dropout": "state_mask",
    "weight_dropout": "weight_mask",
    "zoneout": "zoneout",
    "zoneout_cell": "zoneout_cell",
}
"""The kinds of noise in the order of their streams, and their names in `RecurrentOp`."""

Lengths = NDArray[np.int64]

LAST_STEP = (1 << 32) - 1


class Recurrent(Stateful):
    """The base of recurrent layers: all but the formula of the cell.

    A cell computes the next state from a_t = x_t @ weight + h_{t-1} @ recurrent_weight + bias. The
    product of the inputs is computed for all steps at once; the steps run in the core.

    Parameters
    ----------
    units, return_sequences, reverse, dropout, recurrent_dropout, weight_dropout, zoneout
        As for `LSTM`.
    use_bias, initializer, recurrent_initializer, constraint, recurrent_constraint
        As for `LSTM`.
    regularizer, recurrent_regularizer
        As for `LSTM`.
    """

    takes_lengths = True
    carries_state = True
    input_weights = ("weight",)
    own_streams = 4  # the first ones of NOISE
    cell: str

    _fixed = frozenset(
        {"units", "use_bias", "unit_forget_bias", "initializer", "recurrent_initializer"}
    )

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        reverse: bool = False,
        dropout: float | Schedule = 0.0,
        recurrent_dropout: float | Schedule = 0.0,
        weight_dropout: float | Schedule = 0.0,
        zoneout: float | Schedule = 0.0,
        use_bias: bool = True,
        initializer: str | Initializer = "glorot_uniform",
        recurrent_initializer: str | Initializer = "orthogonal",
        constraint: Constraint | None = None,
        recurrent_constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
        recurrent_regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        what = type(self).__name__
        self.units = check_integer(f"{what}: units", units, 1)
        self.return_sequences = check_bool(f"{what}: return_sequences", return_sequences)
        self.reverse = check_bool(f"{what}: reverse", reverse)
        self._rates: dict[str, Rate] = {}
        self.dropout = self._checked_rate("dropout", dropout)
        self.recurrent_dropout = self._checked_rate("recurrent_dropout", recurrent_dropout)
        self.weight_dropout = self._checked_rate("weight_dropout", weight_dropout)
        self.zoneout = self._checked_rate("zoneout", zoneout)
        self.use_bias = check_bool(f"{what}: use_bias", use_bias)
        self.initializer = initializer
        self.recurrent_initializer = recurrent_initializer
        initializer_of(f"{what}: initializer", initializer)
        initializer_of(f"{what}: recurrent_initializer", recurrent_initializer)
        self.constraint, self.recurrent_constraint = constraint, recurrent_constraint
        self.regularizer, self.recurrent_regularizer = regularizer, recurrent_regularizer
        self._register("weight", constraint, regularizer)
        self._register("recurrent_weight", recurrent_constraint, recurrent_regularizer)

    def __init_subclass__(cls) -> None:
        """Give a subclass that takes ``**options`` the signature with all arguments."""
        own = inspect.signature(cls.__init__).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in own):
            shared = list(inspect.signature(Recurrent).parameters.values())
            added = [p for p in own if p.kind is p.KEYWORD_ONLY]
            signature = inspect.Signature([shared[0], *added, *shared[1:]])
            cls.__signature__ = signature

    def _checked_rate(self, name: str, rate: float | Schedule) -> float | Schedule:
        what = f"{type(self).__name__}: {name}"
        if rate is None:
            raise TypeError(f"{what} must be a number in [0, 1] or a function, got None")
        self._rates[name] = Rate(what, rate, None, arrays=False)
        return cast(float | Schedule, self._rates[name].rate)

    @property
    def _noises(self) -> list[tuple[str, str]]:
        return list(NOISE.items())[: self.own_streams]

    def noise_notes(self, shape: Shape) -> list[str]:
        rates = {name: getattr(self, name) for name, _ in self._noises}
        return [f"{name} {rate!r}" for name, rate in rates.items() if rate != 0.0]

    @property
    def draws(self) -> bool:
        return bool(self.noise_notes(()))

    @property
    def built(self) -> bool:
        return bool(self._params)

    @property
    def gates(self) -> int:
        return GATES[self.cell]

    def output_shape(self, input_shape: Shape) -> Shape:
        features = self._params["weight"].shape[0] if self.built else None
        found = input_shape[-1] if len(input_shape) == 2 else None
        if found is None or found < 1 or features not in (None, found):
            expected = "in_features" if features is None else features
            hint = (
                "; a recurrent layer in front of another needs return_sequences=True"
                if len(input_shape) == 1
                else ""
            )
            raise ValueError(
                f"{self!r} expects samples of shape (time, {expected}), got {input_shape}{hint}"
            )
        return (input_shape[0], self.units) if self.return_sequences else (self.units,)

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        features, width = input_shape[-1], self.gates * self.units
        assert features is not None  # checked by output_shape
        for name, draw, rows in (
            ("weight", self.initializer, features),
            ("recurrent_weight", self.recurrent_initializer, self.units),
        ):
            self._params[name] = drawn(draw, rng, (rows, width), dtype, gates=self.gates)
        if self.use_bias:
            self._params["bias"] = self._initial_bias(dtype)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        width = self.gates * self.units
        bias: dict[str, Shape] = {"bias": self._bias_shape} if self.use_bias else {}
        return {"weight": (None, width), "recurrent_weight": (self.units, width)} | bias, {}

    def _initial_bias(self, dtype: np.dtype[Any]) -> Array:
        return np.zeros(self._bias_shape, dtype)

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def forward_from(
        self,
        x: Array,
        state: Any = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Lengths | None = None,
    ) -> tuple[Array, Any, BackwardFrom]:
        """`forward` from a given state; it also returns the last state.

        Parameters
        ----------
        x : ndarray (batch, time, in)
        state : ndarray h (batch, H), or the tuple (h, c) of LSTM, optional
            Zeros by default. Pass the state after the previous piece for truncated backpropagation.
        key, row_offset
            As in `forward`.
        lengths : int array (batch,), optional
            Valid steps of each sequence.

        Returns
        -------
        y : ndarray
        state
            After the last valid step, in the form of `state`.
        backward : callable
            ``dx, grads, dstate = backward(dy, dstate=None)``.
        """
        self._check(x)
        lengths = self.checked_lengths(x, lengths)
        weight = self._params["weight"]
        op = RecurrentOp(
            self.cell, x, weight, self._params["recurrent_weight"], self._params.get("bias"),
            self._state(state, len(x), weight.dtype), lengths=lengths, reverse=self.reverse,
            sequences=self.return_sequences, **self._noise(x.shape, key, row_offset),
        )  # fmt: skip

        def backward(
            dy: Array,
            dstate: Any = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], Any]:
            given = None if dstate is None else self._state(dstate, len(x), weight.dtype)
            dx, (dweight, drecurrent, dbias), dfirst = op.backward(
                dy, given, input_gradient=input_gradient, for_update=for_update
            )
            grads: dict[str, Gradient] = {"weight": dweight, "recurrent_weight": drecurrent}
            if dbias is not None:
                grads["bias"] = dbias
            return dx, grads, self._unpacked(dfirst)

        return op.y, self._unpacked(op.state), backward

    def _noise(
        self, shape: tuple[int, ...], key: Key | int | None, row_offset: int
    ) -> dict[str, Any]:
        """The masks of a call: each kind of noise has its own stream."""
        row_offset = check_row_offset((shape[0], shape[1] * max(shape[2], self.units)), row_offset)
        batch, steps, features = shape
        shapes = {
            "dropout": (batch, 1, features),
            "recurrent_dropout": (batch, self.units),
            "weight_dropout": (self.units, self.gates * self.units),
            "zoneout": (batch, steps, self.units),
            "zoneout_cell": (batch, steps, self.units),
        }
        found: dict[str, Any] = {}
        key = None if key is None else as_key(key)
        for stream, (name, argument) in enumerate(self._noises):
            if key is None and not name.startswith("zoneout"):
                continue
            own, step = shapes[name], LAST_STEP if key is None else key.step
            keep = self._rates[name](step)
            if keep == 1.0:
                continue
            if key is None:
                found[argument] = keep  # the share of the new state in the expectation
                continue
            offset = 0 if name == "weight_dropout" else row_offset * math.prod(own[1:])
            here = key.at(stream=key.stream + stream)
            found[argument] = Mask(own, keep=keep, key=here, offset=offset)
        return found

    def _check(self, x: Array) -> None:
        check_array(self, x)
        check_built(self)
        weight = self._params["weight"]
        if x.ndim != 3 or x.shape[-1] != weight.shape[0]:
            raise ValueError(
                f"{self!r} expects x of shape (batch, time, {weight.shape[0]}), got {x.shape}"
            )
        check_dtype(self, x, weight.dtype)

    def _state(self, state: Any, batch: int, dtype: np.dtype[Any]) -> tuple[Array, ...]:
        """The parts of a state, checked."""
        own, weight = (batch, self.units), self._params["weight"]
        if state is None:
            zeros = array_namespace(weight).zeros
            return tuple(zeros(own, dtype) for _ in self._parts)
        parts = tuple(state) if len(self._parts) > 1 else (state,)
        for name, part in zip(self._parts, parts, strict=False):
            expect_unmasked(f"{self!r}: state {name}", part)
        if len(parts) != len(self._parts) or any(
            getattr(part, "shape", None) != own
            or part.dtype != dtype
            or on_device(part) != on_device(weight)
            for part in parts
        ):
            raise ValueError(
                f"{self!r} expects a state {' and '.join(self._parts)} of shape {own} and "
                f"{dtype}{' on the GPU' if on_device(weight) else ''}, got "
                f"{', '.join(map(_kind_of, parts))}"
            )
        return parts

    def _unpacked(self, parts: tuple[Array, ...]) -> Any:
        return parts if len(parts) > 1 else parts[0]

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("h",)


class SimpleRNN(Recurrent):
    """Elman's network: h_t = activation(x_t @ weight + h_{t-1} @ recurrent_weight + bias).

    Backward, with dh of the output and of the next step: da = dh * (1 - h * h) under tanh, or
    dh * (h > 0) under ReLU, and dh_{t-1} = da @ recurrent_weight.T.

    Parameters
    ----------
    units : int
        H, the width of the state. `weight` is (in, H), `recurrent_weight` (H, H), `bias` (H,).
    activation : "tanh" or "relu", default "tanh"
    return_sequences, reverse, dropout, recurrent_dropout, weight_dropout, zoneout
        As for `LSTM`.
    use_bias, initializer, recurrent_initializer, constraint, recurrent_constraint
        As for `LSTM`.
    regularizer, recurrent_regularizer
        As for `LSTM`.

    References
    ----------
    Elman 1990, "Finding structure in time".
    """

    def __init__(self, units: int, *, activation: str = "tanh", **options: Any) -> None:
        if activation not in ("tanh", "relu"):
            raise ValueError(f"SimpleRNN: activation must be 'tanh' or 'relu', got {activation!r}")
        self.activation = activation
        super().__init__(units, **options)

    @property
    def cell(self) -> str:  # type: ignore[override]
        return self.activation


class GRU(Recurrent):
    """Gated recurrent unit, with the reset gate after the product (Keras, cuDNN, PyTorch).

    With biases b of the input and c of the state::

        z = sigmoid(x @ K_z + b_z + h @ R_z + c_z)      r = sigmoid(x @ K_r + b_r + h @ R_r + c_r)
        n = tanh(x @ K_n + b_n + r * (h @ R_n + c_n))   h' = (1 - z) * n + z * h

    The gates lie in this order in the weights. What z * h carries on is not dropped by
    `recurrent_dropout`.

    Parameters
    ----------
    units : int
        H, the width of the state. `weight` is (in, 3 * H), `recurrent_weight` (H, 3 * H), `bias`
        (2, 3 * H), b and c.
    return_sequences, reverse, dropout, recurrent_dropout, weight_dropout, zoneout
        As for `LSTM`.
    use_bias, initializer, recurrent_initializer, constraint, recurrent_constraint
        As for `LSTM`.
    regularizer, recurrent_regularizer
        As for `LSTM`.

    References
    ----------
    Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder".
    """

    cell = "gru"

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return 2, self.gates * self.units


class LSTM(Recurrent):
    """Long short-term memory.

    With a = x @ weight + h @ recurrent_weight + bias, whose gates lie in the order i, f, g, o::

        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)     g = tanh(a_g)
        c_t = f * c_{t-1} + i * g                              h_t = o * tanh(c_t)

    The state is (h, c). Zoneout of h takes o * tanh of the new c, whatever zoneout of c keeps.

    Parameters
    ----------
    units : int
        H, the width of the state. `weight` is (in, 4 * H), `recurrent_weight` (H, 4 * H), `bias`
        (4 * H,).
    zoneout_cell : float or callable, default 0.0
        Probability that a unit of c keeps its previous value.
    unit_forget_bias : bool, default True
        Start the bias of the forget gate at 1.
    return_sequences : bool, default False
        Whether the output is h after every step, (batch, time, H), or after the last, (batch, H).
    reverse : bool, default False
        Run from the last step to the first. Outputs keep the positions of their inputs.
    dropout : float or callable, default 0.0
        Rate for the inputs: one mask for each sequence, the same at every step, (batch, 1, in).
    recurrent_dropout : float or callable, default 0.0
        Rate for h in the product: one mask for each sequence, (batch, H). What the cell carries on
        without a product (c) is not dropped.
    weight_dropout : float or callable, default 0.0
        Rate for the recurrent weight: one mask for the whole batch, the same at every step.
    zoneout : float or callable, default 0.0
        Probability that a unit of h keeps its previous value: masks (batch, time, H), nothing is
        scaled. Without a key h is the expectation, zoneout * h_{t-1} + (1 - zoneout) * h_t.
    use_bias : bool, default True
        Whether there is a `bias`. It starts at zero, but for `unit_forget_bias`.
    initializer, recurrent_initializer : str or callable
        Of the weights, "glorot_uniform" and "orthogonal" by default, or ``f(rng, shape)``; drawn
        for each gate on its own.
    constraint, recurrent_constraint : callable, optional
        What must hold for the weights after every update.
    regularizer, recurrent_regularizer : optional
        What is added to the loss for the weights.

    Raises
    ------
    TypeError
        If `units` or a rate is not a number.
    ValueError
        If one is out of range, or an initializer is unknown.

    Notes
    -----
    A rate may be a function of the key's step; zoneout without a key then has the rate of the last
    step, 2**32 - 1. Each kind of noise has a stream of its own, whether its rate is zero or not.

    With `lengths` (batch,), the steps after the end of a sequence do not change its state, and
    their output is zero. ``forward_from`` takes a state and returns the last one: h, or (h, c).

    References
    ----------
    Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins 2000,
    "Learning to forget"; Gal and Ghahramani 2016, "A theoretically grounded application of dropout
    in recurrent neural networks" (dropout, recurrent_dropout); Merity et al. 2018, "Regularizing
    and optimizing LSTM language models" (weight_dropout); Krueger et al. 2017, "Zoneout:
    regularizing RNNs by randomly preserving hidden activations".
    """

    cell = "lstm"
    own_streams = 5

    def __init__(
        self,
        units: int,
        *,
        zoneout_cell: float | Schedule = 0.0,
        unit_forget_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(units, **options)
        self.zoneout_cell = self._checked_rate("zoneout_cell", zoneout_cell)
        self.unit_forget_bias = check_bool("LSTM: unit_forget_bias", unit_forget_bias)

    def _initial_bias(self, dtype: np.dtype[Any]) -> Array:
        bias = super()._initial_bias(dtype)
        bias[self.units : 2 * self.units] = self.unit_forget_bias
        return bias

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("h", "c")


def _kind_of(part: Any) -> str:
    if not hasattr(part, "dtype"):
        return type(part).__name__
    return f"{part.shape} of {part.dtype}{' on the GPU' if on_device(part) else ''}"

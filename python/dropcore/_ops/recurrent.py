"""Recurrent layers as operations, forward and backward, with their masks.

The product of the inputs is computed for all steps of the sequence at once. The recurrence runs in
the core, where each thread takes some rows of the batch from the first step to the last; on a GPU
it runs step by step for the whole batch.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, dense
from dropcore._backends.gradients import Gradient, ProductGradient
from dropcore._base.checks import check_gradient
from dropcore.mask import Mask

__all__ = ["GATES", "RecurrentOp"]

Array = npt.NDArray[Any]
State = tuple[Array, ...]

GATES: Final = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
"""The cells, and their numbers of gates."""


class RecurrentOp:
    """A recurrent cell over a batch of sequences, and its backward pass.

    Parameters
    ----------
    cell : "tanh", "relu", "lstm" or "gru"
    x : ndarray (B, T, F)
    weight : ndarray (F, gates * H)
    recurrent_weight : ndarray (H, gates * H), contiguous
    bias : ndarray (gates * H,), of GRU (2, 3 * H), or None
    state : tuple of ndarrays (B, H)
        h, and of LSTM also c. Not changed.
    lengths : int64 (B,), optional
        Valid steps of each sequence.
    reverse : bool
        Whether to run from the last valid step to the first.
    sequences : bool
        Whether y is h after every step, (B, T, H), or after the last, (B, H).
    x_mask : Mask, optional
        Broadcasts to x.
    state_mask : Mask (B, H), optional
        Of h where it enters the product, the same at every step.
    weight_mask : Mask (H, gates * H), optional
        Of the recurrent weight.
    zoneout, zoneout_cell : Mask (B, T, H) or float, optional
        Of h and of c: 1 takes the new value. A float is the share of the new one in a mixture.

    Attributes
    ----------
    y : ndarray
    state : tuple of ndarrays (B, H)
        After the last valid step.
    """

    def __init__(
        self,
        cell: str,
        x: Array,
        weight: Array,
        recurrent_weight: Array,
        bias: Array | None,
        state: State,
        *,
        lengths: npt.NDArray[np.int64] | None = None,
        reverse: bool = False,
        sequences: bool = True,
        x_mask: Mask | None = None,
        state_mask: Mask | None = None,
        weight_mask: Mask | None = None,
        zoneout: Mask | float | None = None,
        zoneout_cell: Mask | float | None = None,
    ) -> None:
        self.cell, self.weight, self.bias, self.sequences = cell, weight, bias, sequences
        self.x_mask, self.weight_mask = x_mask, weight_mask
        self.backend = backend = backend_of("weight", weight)
        xp, empty = backend.xp, backend.empty
        batch, steps, features = x.shape
        units, width = recurrent_weight.shape
        kind = weight.dtype
        if lengths is not None:  # the padding may hold anything
            lengths = xp.asarray(lengths)
            x = xp.where((xp.arange(steps) < lengths[:, None])[..., None], x, x.dtype.type(0))
        if x_mask is not None:
            x = backend.dropout(x, x_mask, empty(x.shape, kind))
        self.x = backend.contiguous(x).reshape(batch * steps, features)
        gates = empty((batch, steps, width), kind)
        inner = None  # the recurrent bias that stays with the recurrent part of n
        if bias is not None and cell == "gru":
            bias, inner = bias[0].copy(), bias[1, 2 * units :]
            bias[: 2 * units] += self.bias[1, : 2 * units]  # type: ignore[index]
        elif cell == "gru":
            inner = xp.zeros(units, kind)
        backend.product(
            gates.reshape(batch * steps, width), backend.Factor(self.x), backend.Factor(weight),
            bias=bias,
        )  # fmt: skip
        states = batch, steps, units
        self.entering = empty(states, kind)
        kept = None
        if cell == "lstm" or (cell == "gru" and state_mask is not None):
            kept = empty(states, kind)
        elif cell == "gru":
            kept = self.entering
        self.core = backend.Recurrence(
            cell, self._weights(recurrent_weight, weight_mask), gates, self.entering, kept=kept,
            extra=empty(states, kind) if cell in ("lstm", "gru") else None, bias=inner,
            lengths=lengths, reverse=reverse,
            state_mask=None if state_mask is None else self._bits(state_mask),
            zone_h=self._zone(zoneout), zone_c=self._zone(zoneout_cell),
        )  # fmt: skip
        self.state = tuple(xp.array(part, kind, order="C") for part in state)
        y = empty(states, kind) if sequences else None
        self.core.forward(self.state[0], self._c(self.state), y)
        self.y = self.state[0] if y is None else y
        self.gates_shape = gates.shape

    def backward(
        self,
        dy: Array,
        dstate: State | None = None,
        *,
        input_gradient: bool = True,
        for_update: bool = False,
    ) -> tuple[Array | None, tuple[Gradient, Gradient, Array | None], State]:
        """dx, the gradients of weight, recurrent weight and bias, and that of the first state.

        Parameters
        ----------
        dy : ndarray, like y
        dstate : tuple of ndarrays, like `state`, optional
        """
        kind, backend = self.weight.dtype, self.backend
        xp, empty = backend.xp, backend.empty
        check_gradient(dy, self.y.shape, kind)
        given = tuple(map(xp.zeros_like, self.state)) if dstate is None else dstate
        before = tuple(xp.array(part, kind, order="C") for part in given)
        if not self.sequences:
            before[0][...] += dy
        dgates = empty(self.gates_shape, kind)
        dback = empty(self.gates_shape, kind) if self.cell == "gru" else dgates
        steps = backend.contiguous(dy) if self.sequences else None
        self.core.backward(steps, before[0], self._c(before), dgates, dback)
        rows, width = len(self.x), self.gates_shape[-1]
        dz, dq = dgates.reshape(rows, width), dback.reshape(rows, width)
        dweight: Gradient = ProductGradient(self.x, dz)
        drecurrent: Gradient = ProductGradient(
            self.entering.reshape(rows, self.entering.shape[2]), dq
        )
        if not for_update or not rows:
            dweight, drecurrent = dense(dweight), dense(drecurrent)
        if self.weight_mask is not None:
            drecurrent = backend.dropout(dense(drecurrent), self.weight_mask, None)
        dx = None
        if input_gradient:
            dx = empty(self.x.shape, kind)
            backend.product(dx, backend.Factor(dz), backend.Factor(self.weight), transpose_b=True)
            dx = dx.reshape(*self.gates_shape[:2], self.x.shape[1])
            if self.x_mask is not None:
                dx = backend.dropout(dx, self.x_mask, dx)
        return dx, (dweight, drecurrent, self._bias_gradient(dz, dq)), before

    def _bias_gradient(self, dz: Array, dq: Array) -> Array | None:
        if self.bias is None:
            return None
        dbias = self.backend.empty(self.bias.shape, self.bias.dtype)
        parts = dbias.reshape(-1, dz.shape[1])
        for index, of in zip(range(len(parts)), (dz, dq), strict=False):
            self.backend.sum_columns(of, parts[index])
        return dbias

    def _c(self, state: State) -> Array | None:
        return state[1] if self.cell == "lstm" else None

    def _weights(self, w: Array, mask: Mask | None) -> Any:
        if mask is None:
            return self.backend.Factor(w)
        bits, scale = self._bits(mask)
        return self.backend.Factor(w, bits=bits, bit_strides=(w.shape[1], 1), scale=scale)

    def _bits(self, mask: Mask) -> tuple[Any, float]:
        if not isinstance(mask.scale, float):
            raise ValueError("a recurrent layer's masks have one rate for all elements")
        return self.backend.element_bits(mask), mask.scale

    def _zone(self, zoneout: Mask | float | None) -> tuple[Any, float] | None:
        """Bits and share, as the core takes them.

        With bits the share is not used.
        """
        if isinstance(zoneout, Mask):
            return self.backend.element_bits(zoneout), 0.0
        return None if zoneout is None else (None, zoneout)

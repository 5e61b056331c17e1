"""The recurrence of a batch of sequences: a product and a kernel for each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.cuda.endings import finished
from dropcore._backends.cuda.launching import (
    Array,
    at,
    blocks_for,
    empty,
    launch,
    library,
    numbers,
    real_of,
)
from dropcore._backends.cuda.products import Factor, product

CELLS = {"tanh": 0, "relu": 1, "lstm": 2, "gru": 3}


class Recurrence:
    """The steps of a recurrent layer behind the product of its inputs, there and back.

    Each step is the product of the state with the recurrent weights and one kernel, which does all
    the rest. The host starts one after the other and waits for none. What the way back needs stays
    in the arrays that are given; they are contiguous.

    Parameters
    ----------
    cell : "tanh", "relu", "lstm" or "gru"
    weights : Factor (H, gates * H)
    gates : (B, T, gates * H)
        In what the product of the inputs gave; after `forward` the activations.
    entering : (B, T, H)
        Out: h as it entered the product.
    kept : (B, T, H), of LSTM and GRU
        Out: what the cell carries on, c or h; it may be `entering`.
    extra : (B, T, H), of LSTM and GRU
        Out: tanh of c, or the recurrent part of the candidate.
    bias : (H,), of GRU
        Of that part.
    lengths : int64 (B,), optional
        Valid steps of each sequence; a host array is moved to the device.
    reverse : bool
    state_mask : (bits, scale), optional
        (B, H), of h where it enters the product.
    zone_h, zone_c : (bits, share), optional
        Bits (B, T, H), 1 for the new value; or None and the share of it.
    """

    def __init__(
        self,
        cell: str,
        weights: Factor,
        gates: Array,
        entering: Array,
        kept: Array | None = None,
        extra: Array | None = None,
        bias: Array | None = None,
        lengths: Array | None = None,
        reverse: bool = False,
        state_mask: tuple[Array, float] | None = None,
        zone_h: tuple[Array | None, float] | None = None,
        zone_c: tuple[Array | None, float] | None = None,
    ) -> None:
        self.weights, self.gates, self.entering = weights, gates, entering
        self.kept, self.extra, self.bias = kept, extra, bias
        self.batch, self.steps, self.width = gates.shape
        self.units = weights.array.shape[0]
        self.lengths = None if lengths is None else library().asarray(lengths)
        self.order = range(self.steps - 1, -1, -1) if reverse else range(self.steps)
        self.state_mask = state_mask
        # The kernels are given addresses: the arrays behind them must stay as long as this.
        self._masks = [state_mask or (None, 1.0), zone_h or (None, 1.0), zone_c or (None, 1.0)]
        real = real_of(gates.dtype)
        self._run = (
            np.int32(CELLS[cell]),
            *numbers((self.batch, self.steps, self.units, self.width // self.units)),
            at(self.lengths),
            *(part for bits, number in self._masks for part in (at(bits), real(number))),
        )

    def forward(self, h: Array, c: Array | None, y: Array | None) -> None:
        """h, c (B, H): first state in, last out. y (B, T, H) or None."""
        if self.batch == 0 or self.steps == 0:
            return
        factor = h
        if self.state_mask is not None:
            bits, scale = self.state_mask
            factor = finished(h, None, bits=bits, scale=scale, out=None)
        room = empty((self.batch, self.width), h.dtype)
        arrays = (self.gates, self.extra, self.entering, self.kept, self.bias, h, c, factor, y)
        places = [at(array) for array in (room, *arrays)]
        for t in self.order:
            product(room, Factor(factor), self.weights)
            self._step("step_forward", np.int64(t), *places)

    def backward(
        self, dy: Array | None, dh: Array, dc: Array | None, dgates: Array, dback: Array
    ) -> None:
        """dh and dc: in the gradients of the last state, out of the first.

        dgates (B, T, gates * H), out: of the product of the inputs; dback: of that of the states,
        which is another array for GRU only.
        """
        if self.batch == 0 or self.steps == 0:
            return
        factor = empty((self.batch, self.width), dh.dtype)
        room = empty((self.batch, self.units), dh.dtype)
        arrays = (self.gates, self.extra, self.kept, dy, dh, dc, dgates, dback, factor)
        places, behind = [at(array) for array in arrays], at(None)
        for t in reversed(self.order):
            self._step("step_back", np.int64(t), behind, *places)
            product(room, Factor(factor), self.weights, transpose_b=True)
            behind = at(room)
        self._step("finish_back", behind, at(dh))

    def _step(self, name: str, *arguments: Any) -> None:
        blocks = blocks_for(self.batch * self.units)
        launch(self.gates, "recurrent", name, blocks, *self._run, *arguments)

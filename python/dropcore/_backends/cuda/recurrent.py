"""The recurrence of a batch of sequences: one product and one kernel per step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.cuda.epilogue import apply_epilogue
from dropcore._backends.cuda.kernels import (
    Array,
    blocks_for,
    empty,
    enumerator,
    int64s,
    launch,
    library,
    ptr,
    real_of,
)
from dropcore._backends.cuda.products import Factor, product


class Recurrence:
    """The steps of a recurrent layer after the product of its inputs, forward and backward.

    Each step is the product of the state with the recurrent weights, and one kernel for everything
    else. The host launches them without synchronising. What the backward pass needs stays in the
    arrays of the constructor, which are contiguous.

    Parameters
    ----------
    cell : "tanh", "relu", "lstm" or "gru"
    weights : Factor (H, gates * H)
    gates : (B, T, gates * H)
        In: the product of the inputs. After `forward`: the activations.
    entering : (B, T, H)
        Out: h as the product read it.
    kept : (B, T, H), of LSTM and GRU
        Out: the state of the cell, c or h; it may be `entering`.
    extra : (B, T, H), of LSTM and GRU
        Out: tanh of c, or the recurrent part of the candidate.
    bias : (H,), of GRU
        Of that part.
    lengths : int64 (B,), optional
        Valid steps of each sequence; a host array is moved to the device.
    reverse : bool
    state_mask : (bits, scale), optional
        (B, H), of h where the product reads it.
    zone_h, zone_c : (bits, share), optional
        Bits (B, T, H), 1 for the new value; or None and the share of the new value.
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
        # Kernels take addresses, so the arrays must live as long as this object.
        self._masks = [state_mask or (None, 1.0), zone_h or (None, 1.0), zone_c or (None, 1.0)]
        real = real_of(gates.dtype)
        self._run = (
            np.int32(enumerator("CELL", cell)),
            *int64s((self.batch, self.steps, self.units, self.width // self.units)),
            ptr(self.lengths),
            *(part for bits, number in self._masks for part in (ptr(bits), real(number))),
        )

    def forward(self, h: Array, c: Array | None, y: Array | None) -> None:
        """h, c (B, H): the first state in, the last one out. y (B, T, H) or None."""
        if self.batch == 0 or self.steps == 0:
            return
        factor = h
        if self.state_mask is not None:
            bits, scale = self.state_mask
            factor = apply_epilogue(h, bits=bits, scale=scale)
        buffer = empty((self.batch, self.width), h.dtype)
        arrays = (self.gates, self.extra, self.entering, self.kept, self.bias, h, c, factor, y)
        places = [ptr(array) for array in (buffer, *arrays)]
        for t in self.order:
            product(buffer, Factor(factor), self.weights)
            self._step("step_forward", np.int64(t), *places)

    def backward(
        self, dy: Array | None, dh: Array, dc: Array | None, dgates: Array, dback: Array
    ) -> None:
        """dh and dc: in, the gradients of the last state; out, those of the first.

        dgates (B, T, gates * H), out: the gradient of the product of the inputs. dback, out: that
        of the product of the states, a different array for GRU only.
        """
        if self.batch == 0 or self.steps == 0:
            return
        factor = empty((self.batch, self.width), dh.dtype)
        buffer = empty((self.batch, self.units), dh.dtype)
        arrays = (self.gates, self.extra, self.kept, dy, dh, dc, dgates, dback, factor)
        places, behind = [ptr(array) for array in arrays], ptr(None)
        for t in reversed(self.order):
            self._step("step_backward", np.int64(t), behind, *places)
            product(buffer, Factor(factor), self.weights, transpose_b=True)
            behind = ptr(buffer)
        self._step("finish_backward", behind, ptr(dh))

    def _step(self, name: str, *arguments: Any) -> None:
        blocks = blocks_for(self.batch * self.units)
        launch(self.gates, "recurrent", name, blocks, *self._run, *arguments)

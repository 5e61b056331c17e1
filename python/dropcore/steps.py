"""The step of a dense layer with the dropout behind it, forward and backward, in one product each.

What a layer calls instead of `masked_matmul`, `dropout` and their gradients one after the other.
The mask of the output is applied where the product ends; and where a mask drops units for the whole
batch, only what lives is stored, multiplied and handed on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore.activation import Activation
from dropcore.backends.cpu import dropout
from dropcore.gradients import Gradient, LiveBlock, ProductGradient
from dropcore.mask import Mask
from dropcore.workspace import empty

__all__ = ["DenseStep", "LiveUnits", "drops_units"]

Array = npt.NDArray[Any]
Units = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LiveUnits:
    """An array (..., width) of which only the live units are there: the others are zero.

    Attributes
    ----------
    values : ndarray (..., live)
    units : int64 (live,), sorted
    width : int
    """

    values: Array
    units: Units
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.values.shape[:-1], self.width)

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @classmethod
    def of(cls, x: Array, mask: Mask) -> LiveUnits:
        """x under a mask that drops units."""
        units = mask.indices()
        values = x[..., units]
        values *= x.dtype.type(mask.scale)
        return cls(values, units, x.shape[-1])


def drops_units(mask: Mask) -> bool:
    """Whether one decision for each unit holds for the whole batch, at one rate."""
    return isinstance(mask.scale, float) and math.prod(mask.shape[:-1]) == 1 < mask.size


class DenseStep:
    """y = act(x @ w + bias) ∘ mask, and the way back.

    Parameters
    ----------
    x : ndarray or LiveUnits, (..., K)
    w : ndarray (K, N), contiguous
    bias : ndarray (N,) or None
    relu : bool
        The activation that the product applies itself.
    activation : Activation, optional
        Another one.
    mask : Mask, optional
        Of y, (..., N).
    live : bool
        Whether y may be LiveUnits.
    """

    def __init__(
        self,
        x: Array | LiveUnits,
        w: Array,
        bias: Array | None,
        *,
        relu: bool = False,
        activation: Activation | None = None,
        mask: Mask | None = None,
        live: bool = False,
    ) -> None:
        self.w, self.bias, self.relu, self.activation = w, bias, relu, activation
        self.x_units: Units | None = None
        self.y_units: Units | None = None
        self.x_shape = x.shape
        if isinstance(x, LiveUnits):
            self.x_units, x = x.units, x.values
        self.x = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        self.scale = 1.0
        self.after: Mask | None = None  # a mask that the product cannot apply
        bits = None
        shape = (*self.x_shape[:-1], w.shape[1])
        if mask is not None:
            if drops_units(mask) and live and (activation is None or activation.elementwise):
                self.y_units, self.scale = mask.indices(), float(mask.scale)
            elif activation is None and mask.shape == shape and isinstance(mask.scale, float):
                bits, self.scale = mask._element_bits(), mask.scale
            else:
                self.after = mask
        self.width = w.shape[1] if self.y_units is None else len(self.y_units)
        self.y2 = self.held = empty((len(self.x), self.width), w.dtype)
        if bias is not None and self.y_units is not None:
            bias = bias[self.y_units]
        _core.product(
            self.y2, _core.Factor(self.x), self._weights(), bias=bias, relu=relu, bits=bits,
            scale=1.0 if activation else self.scale,
        )  # fmt: skip
        values = self.y2.reshape(*shape[:-1], self.width)
        if activation is not None:
            values, self.held = activation.forward(values, spare=True)
            if self.after is not None:
                values = dropout(values, self.after, None)
            elif self.scale != 1.0:
                values = values * values.dtype.type(self.scale)
        elif self.after is not None:
            dropout(values, self.after, values)
        elif bits is not None and not relu:
            self.after, self.scale = mask, 1.0  # the way back cannot tell from y what was dropped
        self.y = values if self.y_units is None else LiveUnits(values, self.y_units, w.shape[1])

    def _weights(self) -> _core.Factor:
        return _core.Factor(self.w, rows=self.x_units, columns=self.y_units)

    def backward(
        self, dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Array | None, Gradient, Gradient | None]:
        """dx, dw and dbias; dx and dy have the live units only, where x and y do.

        The gradients of the parameters are arrays, unless they are for an update.
        """
        shape = self.y.values.shape if isinstance(self.y, LiveUnits) else self.y.shape
        if dy.shape != shape or dy.dtype != self.w.dtype:
            raise ValueError(
                f"dy must have the shape of the output, {shape} of {self.w.dtype}, got "
                f"{dy.shape} of {dy.dtype}"
            )
        if self.after is not None:
            dy = dropout(dy, self.after, None)
        dz = np.ascontiguousarray(dy).reshape(self.y2.shape)
        dbias = empty((self.width,), self.w.dtype)
        if self.relu:
            dy, dz = dz, empty(dz.shape, dz.dtype)
            _core.unfinish(dz, self.y2, dy, self.scale, dbias)
        else:
            if self.scale != 1.0:
                dz = dz * dz.dtype.type(self.scale)
            if self.activation is not None:
                dz = self.activation.backward(dz, self.held.reshape(dz.shape))
            np.sum(dz, axis=0, out=dbias)
        dx = None
        if input_gradient:
            dx = empty(self.x.shape, self.w.dtype)
            _core.product(dx, _core.Factor(dz), self._weights(), transpose_b=True)
            dx = dx.reshape(*self.x_shape[:-1], self.x.shape[1])
        dw, db = self._weight_gradient(dz), self._bias_gradient(dbias)
        if not for_update:
            dw, db = np.asarray(dw), None if db is None else np.asarray(db)
        return dx, dw, db

    def _weight_gradient(self, dz: Array) -> Gradient:
        gradient = ProductGradient(self.x, dz)
        if self.x_units is None and self.y_units is None:
            return gradient
        dw = np.asarray(gradient)
        rows, columns = (
            np.arange(n, dtype=np.int64) if units is None else units
            for n, units in zip(self.w.shape, (self.x_units, self.y_units), strict=True)
        )
        return LiveBlock(dw, rows, columns, self.w.shape)

    def _bias_gradient(self, dbias: Array) -> Gradient | None:
        if self.bias is None:
            return None
        if self.y_units is None:
            return dbias
        return LiveBlock(dbias[None], np.zeros(1, np.int64), self.y_units, self.bias.shape)

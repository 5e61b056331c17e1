"""A dense layer with the dropout after it, forward and backward, as one product each.

The product applies the mask of the output. Where a mask drops units for the whole batch, only the
kept units are computed, stored and passed on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, dense
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient
from dropcore._base.checks import check_gradient
from dropcore._ops.activation import Activation
from dropcore._ops.epilogue import CompactActivation, Epilogue
from dropcore.mask import Mask

__all__ = ["DenseOp"]

Array = npt.NDArray[Any]
Units = npt.NDArray[np.int64]


class DenseOp:
    """y = act(x @ w + bias) ∘ mask, and its backward pass.

    Parameters
    ----------
    x : ndarray or CompactActivation, (..., K)
    w : ndarray (K, N), contiguous
    bias : ndarray (N,) or None
    relu : bool
        The activation that the product applies itself.
    activation : Activation, optional
        Another one.
    mask : Mask, optional
        Of y, (..., N).
    compact : bool
        Whether y may be CompactActivation.
    """

    def __init__(
        self,
        x: Array | CompactActivation,
        w: Array,
        bias: Array | None,
        *,
        relu: bool = False,
        activation: Activation | None = None,
        mask: Mask | None = None,
        compact: bool = False,
    ) -> None:
        self.w, self.bias = w, bias
        self.backend = backend = backend_of("w", w)
        self.x_units: Units | None = None
        self.x_shape = x.shape
        if isinstance(x, CompactActivation):
            self.x_units, x = x.units, x.values
        self.x = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        shape = (*self.x_shape[:-1], w.shape[1])
        self.epilogue = epilogue = Epilogue(
            shape, backend, relu=relu, activation=activation, mask=mask, compact=compact
        )
        self.y_units = units = epilogue.units
        width = w.shape[1]
        if units is not None:
            width, bias = len(units), None if bias is None else bias[units]
        z = backend.empty((len(self.x), width), w.dtype)
        backend.product(
            z, backend.Factor(self.x), self._weights(), bias=bias, **epilogue.arguments(z)
        )
        if len(shape) != 2:
            z = z.reshape(*shape[:-1], width)
        self.values, self.saved = epilogue.forward(z)
        self.y = self.values if units is None else CompactActivation(self.values, units, w.shape[1])

    def _weights(self) -> Any:
        return self.backend.Factor(self.w, rows=self.x_units, columns=self.y_units)

    def backward(
        self, dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Array | None, Gradient, Gradient | None]:
        """dx, dw and dbias; dx and dy hold the kept units only where x and y do.

        The gradients of the parameters are arrays unless they are for an update.
        """
        check_gradient(dy, self.values.shape, self.w.dtype)
        dz, dbias = self.epilogue.backward(dy, self.saved)
        dx = None
        if input_gradient:
            dx = self.backend.empty(self.x.shape, self.w.dtype)
            self.backend.product(dx, self.backend.Factor(dz), self._weights(), transpose_b=True)
            dx = dx.reshape(*self.x_shape[:-1], self.x.shape[1])
        dw, db = self._weight_gradient(dz), self._bias_gradient(dbias)
        if not for_update:
            dw, db = dense(dw), None if db is None else dense(db)
        return dx, dw, db

    def _weight_gradient(self, dz: Array) -> Gradient:
        gradient = ProductGradient(self.x, dz)
        if self.x_units is None and self.y_units is None:
            return gradient
        xp = self.backend.xp
        rows, columns = (
            xp.arange(n, dtype=np.int64) if units is None else units
            for n, units in zip(self.w.shape, (self.x_units, self.y_units), strict=True)
        )
        return BlockGradient(dense(gradient), rows, columns, self.w.shape)

    def _bias_gradient(self, dbias: Array) -> Gradient | None:
        if self.bias is None:
            return None
        if self.y_units is None:
            return dbias
        return BlockGradient(
            dbias[None], self.backend.xp.zeros(1, np.int64), self.y_units, self.bias.shape
        )

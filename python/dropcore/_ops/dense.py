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

from dropcore._backends import backend_of, dense, kept_units
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient
from dropcore._base.device import recording
from dropcore._ops.activation import Activation
from dropcore.mask import Mask

__all__ = ["CompactActivation", "DenseOp", "Epilogue", "is_unit_mask"]

Array = npt.NDArray[Any]
Units = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CompactActivation:
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
    def of(cls, x: Array, mask: Mask) -> CompactActivation:
        """x under a mask that drops units."""
        units = mask.indices(like=x)
        values = x[..., units]
        values *= x.dtype.type(mask.scale)
        return cls(values, units, x.shape[-1])


def is_unit_mask(mask: Mask) -> bool:
    """Whether only live units may be worked out: one decision a unit, for the whole batch.

    Not in a graph, where every launch has other units.
    """
    one = isinstance(mask.scale, float) and math.prod(mask.shape[:-1]) == 1 < mask.size
    return one and not recording()


class Epilogue:
    """The epilogue of a product, y = act(z) ∘ mask, and its backward pass.

    What the backend's product can apply itself is in `arguments`: relu or, on a GPU, any
    elementwise activation, and a mask in the shape of y. `finish` does the rest.

    Parameters
    ----------
    shape : tuple of int
        Of y.
    backend
        Of y.
    relu : bool
        The activation that the product applies itself.
    activation : Activation, optional
        Another one.
    mask : Mask, optional
    live : bool
        Whether only the live units of y may be worked out, where the mask drops units: they are
        `units` then.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        backend: Any,
        *,
        relu: bool,
        activation: Activation | None,
        mask: Mask | None,
        live: bool = False,
    ) -> None:
        self.shape, self.relu, self.activation = shape, relu, activation
        self.backend = backend
        self.units: Units | None = None
        self.bits: Any = None  # the mask, as the product takes it
        self._factor = 1.0  # of what is kept
        self._after: Mask | None = None  # a mask that the product cannot apply
        fuses = activation is not None and activation.elementwise and backend.FUSES_ACTIVATIONS
        self._fused = activation if fuses else None
        in_product = activation is None or fuses
        if mask is not None:
            if live and is_unit_mask(mask) and (activation is None or activation.elementwise):
                self.units, self._factor = kept_units(backend, mask)[0], float(mask.scale)
            elif in_product and mask.shape == shape and isinstance(mask.scale, float):
                self.bits, self._factor = backend.decisions(mask), mask.scale
            else:
                self._after = mask
        self.scale = self._factor if in_product else 1.0
        # Without relu y does not tell the backward pass what was dropped.
        drawn = self.bits is not None and not relu and not fuses
        self._again = mask if drawn else self._after
        self._factor_back = 1.0 if drawn else self._factor
        self._saved: Array | None = None

    def arguments(self, z: Array) -> dict[str, Any]:
        """The keyword arguments of the product, or convolution, that computes z."""
        arguments = {"relu": self.relu, "bits": self.bits, "scale": self.scale}
        if self._fused is None:
            return arguments
        if self._fused.saves_input or self.bits is not None or self.scale != 1.0:
            self._saved = self.backend.empty(z.shape, z.dtype)
        return arguments | {
            "activation": self._fused.name,
            "parameter": self._fused.parameter,
            "saves_input": self._fused.saves_input,
            "saved": self._saved,
        }

    def finish(self, z: Array) -> tuple[Array, Array]:
        """y, from the result of the product, which it may overwrite; and what `back` needs."""
        if self._fused is not None:
            saved = z if self._saved is None else self._saved
            return z if self._after is None else self.backend.dropout(z, self._after, None), saved
        if self.activation is None:
            if self._after is not None:
                self.backend.dropout(z, self._after, z)
            return z, z
        y, saved = self.activation.forward(z, may_overwrite=True)
        if self._after is not None:
            y = self.backend.dropout(y, self._after, None)
        elif self._factor != 1.0:
            y = y * y.dtype.type(self._factor)
        return y, saved

    def back(self, dy: Array, saved: Array) -> tuple[Array, Array]:
        """dz (rows, units) and its sum over the rows, from dy."""
        if self._again is not None:
            dy = self.backend.dropout(dy, self._again, None)
        empty, epilogue_backward = self.backend.empty, self.backend.epilogue_backward
        dy, factor = self.backend.contiguous(dy), self._factor_back
        dy = dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1])
        saved = saved.reshape(dy.shape)
        dbias = empty(dy.shape[1:], dy.dtype)
        if self._fused is not None:
            dz = empty(dy.shape, dy.dtype)
            epilogue_backward(
                dz, saved, dy, factor, dbias, activation=self._fused.name,
                parameter=self._fused.parameter, bits=self.bits,
            )  # fmt: skip
            return dz, dbias
        if self.activation is not None:
            dz = self.activation.backward(
                dy * dy.dtype.type(factor) if factor != 1.0 else dy, saved
            )
            epilogue_backward(None, None, dz, 1.0, dbias)
            return dz, dbias
        to = empty(dy.shape, dy.dtype) if self.relu or factor != 1.0 else None
        epilogue_backward(to, saved if self.relu else None, dy, factor, dbias)
        return dy if to is None else to, dbias


class DenseOp:
    """y = act(x @ w + bias) ∘ mask, and the way back.

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
    live : bool
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
        live: bool = False,
    ) -> None:
        self.w, self.bias = w, bias
        self.backend = backend = backend_of("w", w)
        self.x_units: Units | None = None
        self.x_shape = x.shape
        if isinstance(x, CompactActivation):
            self.x_units, x = x.units, x.values
        self.x = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        shape = (*self.x_shape[:-1], w.shape[1])
        self.epilogue = epilogue = Epilogue(
            shape, backend, relu=relu, activation=activation, mask=mask, live=live
        )
        self.y_units = epilogue.units
        self.width = w.shape[1] if self.y_units is None else len(self.y_units)
        z = backend.empty((len(self.x), self.width), w.dtype)
        if bias is not None and self.y_units is not None:
            bias = bias[self.y_units]
        backend.product(
            z, backend.Factor(self.x), self._weights(), bias=bias, **epilogue.arguments(z)
        )
        values, self.saved = epilogue.finish(z.reshape(*shape[:-1], self.width))
        self.y = (
            values if self.y_units is None else CompactActivation(values, self.y_units, w.shape[1])
        )

    def _weights(self) -> Any:
        return self.backend.Factor(self.w, rows=self.x_units, columns=self.y_units)

    def backward(
        self, dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Array | None, Gradient, Gradient | None]:
        """dx, dw and dbias; dx and dy have the live units only, where x and y do.

        The gradients of the parameters are arrays, unless they are for an update.
        """
        shape = self.y.values.shape if isinstance(self.y, CompactActivation) else self.y.shape
        if dy.shape != shape or dy.dtype != self.w.dtype:
            raise ValueError(
                f"dy must have the shape of the output, {shape} of {self.w.dtype}, got "
                f"{dy.shape} of {dy.dtype}"
            )
        dz, dbias = self.epilogue.back(dy, self.saved)
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

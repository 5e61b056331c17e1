"""The end of a product: activation, dropout mask and scale, and their gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import kept_units
from dropcore._base.device import recording
from dropcore._ops.activation import Activation
from dropcore.mask import Mask

__all__ = ["CompactActivation", "Epilogue", "is_unit_mask"]

Array = npt.NDArray[Any]
Units = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CompactActivation:
    """An array (..., width) that stores the kept units only: the others are zero.

    Attributes
    ----------
    values : ndarray (..., kept)
    units : int64 (kept,), sorted
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
        values = x.take(units, axis=-1)  # indexing takes four times as long
        values *= x.dtype.type(mask.scale)
        return cls(values, units, x.shape[-1])


def is_unit_mask(mask: Mask) -> bool:
    """Whether the mask has one decision a unit for the whole batch, so that units can be skipped.

    Not in a graph, where every launch has other units.
    """
    one = isinstance(mask.scale, float) and math.prod(mask.shape[:-1]) == 1 < mask.size
    return one and not recording()


class Epilogue:
    """The end of a product, y = act(z) ∘ mask, and its backward pass.

    What the backend's product can apply itself is in `arguments`: relu or, on a GPU, any
    elementwise activation, and a mask in the shape of y. `forward` does the rest.

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
    compact : bool
        Whether only the kept units of y may be computed, if the mask drops units. They are in
        `units` then, which is None otherwise.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        backend: Any,
        *,
        relu: bool,
        activation: Activation | None,
        mask: Mask | None,
        compact: bool = False,
    ) -> None:
        self.relu, self.activation, self.backend = relu, activation, backend
        fuses = activation is not None and activation.elementwise and backend.FUSES_ACTIVATIONS
        self._fused = activation if fuses else None
        self.units: Units | None = None
        self.bits: Any = None  # the mask, as the product takes it
        self.scale = self._factor = self._factor_back = 1.0  # of kept elements
        self._after: Mask | None = None  # a mask that the product cannot apply
        self._again: Mask | None = None  # a mask that the backward pass applies
        self._saved: Array | None = None
        if mask is not None:
            self._apply(mask, shape, compact)

    def _apply(self, mask: Mask, shape: tuple[int, ...], compact: bool) -> None:
        """Choose where the mask is applied."""
        activation, backend = self.activation, self.backend
        in_product = activation is None or self._fused is not None
        if compact and is_unit_mask(mask) and (activation is None or activation.elementwise):
            self.units, self._factor = kept_units(backend, mask)[0], float(mask.scale)
        elif in_product and mask.shape == shape and isinstance(mask.scale, float):
            self.bits, self._factor = backend.decisions(mask), mask.scale
        else:
            self._after = mask
        self.scale = self._factor if in_product else 1.0
        # Without relu, y does not tell the backward pass what was dropped.
        drawn = self.bits is not None and not self.relu and self._fused is None
        self._again = mask if drawn else self._after
        self._factor_back = 1.0 if drawn else self._factor

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

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """y from the product's z, which may be overwritten, and the array that `backward` needs."""
        if self._fused is not None:
            saved = z if self._saved is None else self._saved
            return z if self._after is None else self.backend.dropout(z, self._after, None), saved
        if self.activation is None:
            if self._after is not None:
                self.backend.dropout(z, self._after, z)
            return z, z if self.relu else None
        y, saved = self.activation.forward(z, may_overwrite=True)
        if self._after is not None:
            y = self.backend.dropout(y, self._after, None)
        elif self._factor != 1.0:
            y = y * y.dtype.type(self._factor)
        return y, saved

    def backward(self, dy: Array, saved: Array | None) -> tuple[Array, Array]:
        """dz (rows, units) and its sum over the rows, from dy."""
        if self._again is not None:
            dy = self.backend.dropout(dy, self._again, None)
        empty, epilogue_backward = self.backend.empty, self.backend.epilogue_backward
        dy, factor = self.backend.contiguous(dy), self._factor_back
        dy = dy if dy.ndim == 2 else dy.reshape(math.prod(dy.shape[:-1]), dy.shape[-1])
        if saved is not None and saved.shape != dy.shape:
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
            assert saved is not None
            dz = self.activation.backward(
                dy * dy.dtype.type(factor) if factor != 1.0 else dy, saved
            )
            epilogue_backward(None, None, dz, 1.0, dbias)
            return dz, dbias
        out = empty(dy.shape, dy.dtype) if self.relu or factor != 1.0 else None
        epilogue_backward(out, saved, dy, factor, dbias)
        return dy if out is None else out, dbias

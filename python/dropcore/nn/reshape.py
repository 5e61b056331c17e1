"""The same numbers in another shape."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import is_several
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.layer import Array, Backward, Layer, Shape

__all__ = ["Flatten", "Reshape"]


class Reshape(Layer):
    """Each sample in another shape, with the elements in the same C order.

    Parameters
    ----------
    target_shape : tuple of int
        Of one sample, without the batch axis. One -1 is computed from the other lengths.

    Raises
    ------
    TypeError, ValueError
        If `target_shape` is not made of integers >= 0 and at most one -1.
    """

    homogeneous = True

    def __init__(self, target_shape: Iterable[int]) -> None:
        super().__init__()
        if isinstance(target_shape, int) or not is_several(target_shape):
            raise TypeError(
                f"Reshape: target_shape must be a tuple, the shape of one sample, got "
                f"{target_shape!r}; did you mean ({target_shape},)?"
            )
        lengths = tuple(target_shape)
        try:
            self.target_shape = tuple(operator.index(n) for n in lengths)
        except TypeError:
            self.target_shape = (True,)
        if any(isinstance(n, bool) for n in (*lengths, *self.target_shape)):
            raise TypeError(f"Reshape: target_shape must be integers, got {lengths}")
        if min(self.target_shape, default=0) < -1 or self.target_shape.count(-1) > 1:
            raise ValueError(
                "Reshape: target_shape takes lengths >= 0 and at most one -1, got "
                f"{self.target_shape}"
            )

    def output_shape(self, input_shape: Shape) -> Shape:
        if None in input_shape:
            raise ValueError(f"{self!r} needs samples of a known shape, got {input_shape}")
        return self._target(tuple(n for n in input_shape if n is not None))

    def _target(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        size = math.prod(shape)
        known = math.prod(n for n in self.target_shape if n >= 0)
        free = -1 in self.target_shape
        if size % max(known, 1) if free else size != known:
            raise ValueError(
                f"{self!r} cannot take samples of shape {shape}, which hold {size} numbers"
            )
        return tuple(size // max(known, 1) if n < 0 else n for n in self.target_shape)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        shape = x.shape
        target = (len(x), *self._target(shape[1:]))

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, target, x.dtype)
            return dy.reshape(shape) if input_gradient else None, {}

        return x.reshape(target), backward


class Flatten(Reshape):
    """Each sample as a vector: (batch, ...) -> (batch, product of the rest), in C order."""

    def __init__(self) -> None:
        super().__init__((-1,))

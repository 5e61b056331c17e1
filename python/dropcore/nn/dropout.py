"""Dropout layers."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from dropcore.functional import dropout, dropout_backward
from dropcore.gradients import Gradient
from dropcore.key import Key, as_key
from dropcore.mask import Mask, resolve_keep
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.steps import LiveUnits

__all__ = ["Dropout"]


class Dropout(Layer):
    """Zero a random part of the elements and scale up the rest.

    With m = 1 where an element lives, which has probability keep = 1 - rate::

        y = x * m / keep          dx = dy * m / keep

    Without a key y = x. The backward pass draws m again, so nothing is stored.

    Parameters
    ----------
    rate : float, optional
        Fraction dropped, in [0, 1]. 0.5 if neither `rate` nor `keep` is given.
    keep : float, optional
        Fraction kept, 1 - rate; the papers' p. Instead of `rate`.
    shared_axes : int or iterable of int, default ()
        Axes along which one decision holds, counted with the batch axis: with ``shared_axes=1``
        on (batch, time, features) a feature is dropped at all times.

    Raises
    ------
    TypeError
        If rate or keep is not a number, or an axis not an integer.
    ValueError
        If rate or keep is outside [0, 1], or both are given.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", JMLR 15.
    """

    own_sites = 1

    def __init__(
        self,
        rate: float | None = None,
        *,
        keep: float | None = None,
        shared_axes: int | Iterable[int] = (),
    ) -> None:
        super().__init__()
        if isinstance(rate, numbers.Real) and rate > 1 and float(rate).is_integer():
            raise ValueError(
                f"Dropout: rate is the fraction dropped, in [0, 1], got {rate}; "
                f"did you mean Dense({rate})?"
            )
        self.keep = resolve_keep(rate, keep, what="Dropout")
        axes = shared_axes if isinstance(shared_axes, Iterable) else (shared_axes,)
        self.shared_axes = tuple(operator.index(axis) for axis in axes)
        # What was given is kept as it was, because 1 - (1 - rate) is another float64.
        self._given = {"rate": rate, "keep": keep}

    @property
    def rate(self) -> float:
        """Fraction dropped."""
        given = self._given["rate"]
        return 1.0 - self.keep if given is None else float(given)

    def config(self) -> dict[str, Any]:
        given = {name: value for name, value in self._given.items() if value is not None}
        return given | ({"shared_axes": self.shared_axes} if self.shared_axes else {})

    def output_shape(self, input_shape: Shape) -> Shape:
        self._shared(1 + len(input_shape))
        return input_shape

    def mask(self, shape: tuple[int, ...], key: Key | int, row: int = 0) -> Mask:
        """The mask of an input of `shape` whose first row is `row` of the global batch."""
        shared = self._shared(len(shape))
        own = tuple(1 if axis in shared else n for axis, n in enumerate(shape))
        offset = 0 if 0 in shared else row * math.prod(own[1:])
        return Mask(own, keep=self.keep, key=as_key(key), offset=offset)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row: int = 0
    ) -> tuple[Array, Backward]:
        if key is None:
            return x, _pass_on
        mask = self.mask(x.shape, key, row)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            return dropout_backward(dy, mask=mask) if input_gradient else None, {}

        return dropout(x, mask=mask), backward

    def forward_live(self, x: Array, mask: Mask) -> tuple[LiveUnits, Backward]:
        """`forward` with a mask that drops units, for a layer behind it that takes LiveUnits."""
        y = LiveUnits.of(x, mask)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            if not input_gradient:
                return None, {}
            dx = np.zeros(x.shape, x.dtype)
            dx[..., y.units] = dy * x.dtype.type(mask.scale)
            return dx, {}

        return y, backward

    def _shared(self, ndim: int) -> set[int]:
        for axis in self.shared_axes:
            if not -ndim <= axis < ndim:
                raise ValueError(
                    f"{self!r} shares axis {axis}, which an input with {ndim} axes (the batch is "
                    "axis 0) does not have"
                )
        return {axis % ndim for axis in self.shared_axes}


def _pass_on(
    dy: Array, *, input_gradient: bool = True, for_update: bool = False
) -> tuple[Any, dict[str, Gradient]]:
    return dy, {}

"""Pooling layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_bool
from dropcore._ops.geometry import (
    Geometry,
    Padding,
    Pair,
    padding_of,
    per_axis,
    simplest,
    simplest_padding,
    valid_steps,
)
from dropcore._ops.pooling import Pooling, padding_inside
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.layer import Array, Backward, Layer, Shape

__all__ = [
    "AveragePool1D",
    "AveragePool2D",
    "GlobalAveragePool1D",
    "GlobalAveragePool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "MaxPool1D",
    "MaxPool2D",
]


class _Pool(Layer):
    """The base of pooling layers; `_pooling` gives the windows."""

    homogeneous = True
    axes: int
    average: bool

    def _pooling(self, x: Array, lengths: Array | None) -> Pooling:
        raise NotImplementedError

    def _check(self, shape: Shape, found: Any) -> None:
        if len(shape) != self.axes + 1:
            place = "time" if self.axes == 1 else "height, width"
            raise ValueError(f"{self!r} expects samples of shape ({place}, channels), got {found}")

    def _pooled(self, x: Array, lengths: Array | None = None) -> tuple[Array, Backward]:
        check_array(self, x)
        self._check(x.shape[1:], x.shape[1:])
        lengths = self.checked_lengths(x, lengths)
        pooling = self._pooling(x, lengths)
        y, argmax = pooling.forward(x)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.shape, y.dtype)
            return pooling.backward(dy, argmax) if input_gradient else None, {}

        return y, backward


class _OverTime(_Pool):
    """Pooling over time, of the valid steps of each sequence only."""

    axes = 1

    @property
    def takes_lengths(self) -> bool:
        return True

    def forward(
        self,
        x: Array,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, Backward]:
        return self._pooled(x, lengths)

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        return self._pooled(x, lengths)[0]


class _WindowPool(_Pool):
    count_include_pad = False

    def __init__(
        self,
        pool_size: int | Pair = 2,
        *,
        stride: int | Pair | None = None,
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        window = per_axis(f"{name}: pool_size", pool_size, self.axes)
        self.pool_size = simplest(window)
        self.stride = (
            None if stride is None else simplest(per_axis(f"{name}: stride", stride, self.axes))
        )
        self.padding = simplest_padding(padding_inside(f"{name}: padding", padding, window))

    def output_shape(self, input_shape: Shape) -> Shape:
        self._check(input_shape, input_shape)
        size = per_axis("pool_size", self.pool_size, self.axes)
        step = size if self.stride is None else per_axis("stride", self.stride, self.axes)
        try:
            out = Geometry.out_of(
                input_shape[:-1], size, step, (1,) * self.axes,
                padding_of("padding", self.padding, self.axes),
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}, got samples of shape {input_shape}") from None
        return (*out, input_shape[-1])

    def output_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        stride = self.pool_size if self.stride is None else self.stride
        return valid_steps(lengths, self.pool_size, stride, 1, self.padding, self.axes)

    def _pooling(self, x: Array, lengths: Array | None) -> Pooling:
        try:
            return Pooling(
                x.shape, self.pool_size, stride=self.stride, padding=self.padding,
                average=self.average, count_include_pad=self.count_include_pad, lengths=lengths,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}, got x of shape {x.shape}") from None

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        return self._pooled(x)


class _MaxPool(_WindowPool):
    average = False


class _AveragePool(_WindowPool):
    average = True

    def __init__(
        self,
        pool_size: int | Pair = 2,
        *,
        stride: int | Pair | None = None,
        padding: Padding = "valid",
        count_include_pad: bool = False,
    ) -> None:
        super().__init__(pool_size, stride=stride, padding=padding)
        self.count_include_pad = check_bool(
            f"{type(self).__name__}: count_include_pad", count_include_pad
        )


class MaxPool1D(_OverTime, _MaxPool):
    """The maximum of each window of a sequence (batch, time, channels).

    With ties the first one counts: dx = dy there and 0 elsewhere, summed over the windows that
    overlap. A NaN is greater than anything.

    Parameters
    ----------
    pool_size : int, default 2
        Steps of a window.
    stride : int, optional
        From window to window; by default `pool_size`.
    padding : "valid", "same", int or (int, int), default "valid"
        Steps before and after, less than a window, which are no maximum of anything. "same" gives
        ceil(time / stride) windows. With `lengths`, steps after the end of a sequence count as
        padding.

    Raises
    ------
    TypeError, ValueError
        For another size or padding.
    """


class MaxPool2D(_MaxPool):
    """The maximum of each window of an image (batch, height, width, channels).

    As `MaxPool1D`, with sizes that are one number for both axes, or two; `padding` also takes
    ((top, bottom), (left, right)).

    Parameters
    ----------
    pool_size : int or (int, int), default 2
    stride : int or (int, int), optional
    padding : "valid", "same", int or pairs, default "valid"

    Raises
    ------
    TypeError, ValueError
        For another size or padding.
    """

    axes = 2


class AveragePool1D(_OverTime, _AveragePool):
    """The mean of each window of a sequence (batch, time, channels).

    y = sum of x / count, dx = dy / count, summed over the windows that overlap.

    Parameters
    ----------
    pool_size, stride, padding
        As in `MaxPool1D`.
    count_include_pad : bool, default False
        Whether count is the size of the window, or the number of its steps inside the sequence.

    Raises
    ------
    TypeError, ValueError
        For another size or padding.
    """


class AveragePool2D(_AveragePool):
    """The mean of each window of an image (batch, height, width, channels).

    y = sum of x / count, dx = dy / count, summed over the windows that overlap.

    Parameters
    ----------
    pool_size, stride, padding
        As in `MaxPool2D`.
    count_include_pad : bool, default False
        Whether count is the size of the window, or the number of its elements inside the image.

    Raises
    ------
    TypeError, ValueError
        For another size or padding.
    """

    axes = 2


class _GlobalPool(_Pool):
    def output_shape(self, input_shape: Shape) -> Shape:
        self._check(input_shape, input_shape)
        return input_shape[-1:]

    def _pooling(self, x: Array, lengths: Array | None) -> Pooling:
        return Pooling(x.shape, None, average=self.average, lengths=lengths)

    def _pooled(self, x: Array, lengths: Array | None = None) -> tuple[Array, Backward]:
        y, inner = super()._pooled(x, lengths)
        shape = len(x), x.shape[-1]

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, shape, y.dtype)
            return inner(dy.reshape(y.shape), input_gradient=input_gradient)

        return y.reshape(shape), backward


class _GlobalPool2D(_GlobalPool):
    axes = 2

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        return self._pooled(x)


class GlobalMaxPool1D(_OverTime, _GlobalPool):
    """The maximum of each channel over time: (batch, time, channels) -> (batch, channels).

    With `lengths` only over the steps that each sequence has; of none of them it is 0.
    """

    average = False


class GlobalMaxPool2D(_GlobalPool2D):
    """The maximum of each channel: (batch, height, width, channels) -> (batch, channels)."""

    average = False


class GlobalAveragePool1D(_OverTime, _GlobalPool):
    """The mean of each channel over time: (batch, time, channels) -> (batch, channels).

    With `lengths` only over the steps that each sequence has; of none of them it is 0.
    """

    average = True


class GlobalAveragePool2D(_GlobalPool2D):
    """The mean of each channel: (batch, height, width, channels) -> (batch, channels)."""

    average = True

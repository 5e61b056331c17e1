"""Maxima and averages over windows of sequences and images, and their gradients.

A sequence is an image of height 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, real_array
from dropcore._ops.geometry import Geometry, Padding, Pair, Sides, padding_of, per_axis

__all__ = ["Pooling", "padding_inside"]

Array = npt.NDArray[Any]


def padding_inside(what: str, padding: Any, window: Pair) -> str | Sides:
    """`padding_of`, for padding that is smaller than a window.

    Raises
    ------
    TypeError, ValueError
        As `padding_of`, and for padding of a window's size or more.
    """
    sides = padding_of(what, padding, len(window))
    if not isinstance(sides, str) and any(
        max(side) >= n for side, n in zip(sides, window, strict=True)
    ):
        raise ValueError(f"{what} must be smaller than the window of {window}, got {padding!r}")
    return sides


class Pooling:
    """Windows over sequences (batch, time, channels) or images (batch, height, width, channels).

    For every window and channel::

        y = max of x, and dx = dy where x was the maximum           (the first of several)
        y = sum of x / count, and dx = dy / count                   with average=True

    summed over the windows that contain an element. A NaN is greater than anything. The result does
    not depend on the number of threads.

    Parameters
    ----------
    shape : tuple of int
        Of x.
    size : int, one for each axis, or None
        Of a window; None is one window over everything.
    stride : int or one for each axis, optional
        That of the windows, by default their size.
    padding : "valid", "same", int or pairs, default "valid"
        As in `ConvolutionOp`, but smaller than a window. Padding is never the maximum.
    average : bool, default False
    count_include_pad : bool, default False
        Whether `count` is the size of the window, or the number of its elements in the image.
    lengths : int64 (batch,), optional
        Number of valid steps of each padded sequence. Others are in no window; an empty window
        gives 0.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, padding of a window's size or more, or windows
        larger than the padded image.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        size: int | Pair | None,
        *,
        stride: int | Pair | None = None,
        padding: Padding = "valid",
        average: bool = False,
        count_include_pad: bool = False,
        lengths: npt.ArrayLike | None = None,
    ) -> None:
        if len(shape) not in (3, 4):
            raise ValueError(
                "x must be (batch, time, channels) or (batch, height, width, channels), got shape "
                f"{shape}"
            )
        self.shape, self.average = shape, average
        axes = len(shape) - 2
        if size is None:
            whole = tuple(max(n, 1) for n in shape[1:-1])
            one = (1,) * axes
            where = Geometry(shape[1:-1], one, whole, one, one, (0,) * axes)
        else:
            window = per_axis("size", size, axes)
            sides = padding_inside("padding", padding, window)
            step = window if stride is None else per_axis("stride", stride, axes)
            where = Geometry.of(shape[1:-1], window, step, (1,) * axes, sides)
        self.out_shape = (shape[0], *where.out, shape[-1])
        where = where.as_images()
        if lengths is not None:
            lengths = np.ascontiguousarray(lengths, np.int64)
            if axes != 1 or lengths.shape != shape[:1]:
                raise ValueError(
                    f"lengths must be one for each of {shape[0]} sequences, got shape "
                    f"{lengths.shape}"
                )
            if lengths.size and not 0 <= lengths.min() <= lengths.max() <= shape[1]:
                raise ValueError(
                    f"lengths must be in [0, {shape[1]}], got {lengths.min()} ... {lengths.max()}"
                )
        self._arguments = (
            (shape[0], *where.image, shape[-1]), where.out, where.kernel, where.stride,
            where.pad_before, count_include_pad, lengths,
        )  # fmt: skip
        self._made: dict[Any, Any] = {}

    def _windows(self, backend: Any) -> Any:
        """The windows for a backend; lengths are copied to a device once."""
        if backend not in self._made:
            self._made[backend] = backend.Windows(*self._arguments)
        return self._made[backend]

    def forward(self, x: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.int32] | None]:
        """y, and for maxima their positions in the windows, for `backward`."""
        backend = backend_of("x", x)
        x = real_array(backend, "x", x)
        if x.shape != self.shape:
            raise ValueError(f"x must have shape {self.shape}, got {x.shape}")
        y = backend.empty(self.out_shape, x.dtype)
        argmax = None if self.average else backend.empty(self.out_shape, np.int32)
        backend.pool(y, x, self._windows(backend), argmax)
        return y, argmax

    def backward(self, dy: npt.ArrayLike, argmax: npt.NDArray[np.int32] | None) -> Array:
        """dx, from dy and what `forward` returned."""
        backend = backend_of("dy", dy)
        dy = real_array(backend, "dy", dy)
        if dy.shape != self.out_shape:
            raise ValueError(f"dy must have the shape of y, {self.out_shape}, got {dy.shape}")
        if (argmax is None) != self.average:
            raise ValueError("maxima need argmax, and averages take none")
        dx = backend.empty(self.shape, dy.dtype)
        backend.pool_back(dx, dy, self._windows(backend), argmax)
        return dx

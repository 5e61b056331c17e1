"""Pooling of CuPy arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dropcore._backends.cuda.launching import Array, at, blocks_for, launch, library, numbers


class Windows:
    """Windows over images (batch, height, width, channels).

    Parameters
    ----------
    images : tuple of 4 int
        Their shape.
    out : (height, width) of the positions
    kernel, stride, before : (along the height, along the width)
    count_padding : bool
        Whether an average is over all of a window, padding among it.
    lengths : int64 (batch,) or None
        How much of the width of each image there is: NumPy's, or on the device already.
    """

    def __init__(
        self,
        images: tuple[int, ...],
        out: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        before: tuple[int, ...],
        count_padding: bool = False,
        lengths: npt.NDArray[np.int64] | Array | None = None,
    ) -> None:
        if math.prod(kernel) >= 1 << 31:
            raise ValueError("a window has fewer than 2**31 places")
        self.batch = images[0]
        self.lengths = None if lengths is None else library().asarray(lengths)
        self.arguments = (
            *numbers(images[1:], out, kernel, stride, before), np.int32(count_padding),
            at(self.lengths),
        )  # fmt: skip


def pool(y: Array, x: Array, windows: Windows, place: Array | None = None) -> None:
    """y = maxima of the windows of x and their places (int32, like y), or without them averages."""
    if y.size:
        launch(x, "pool", "pool", blocks_for(y.size), at(x), at(y), at(place), np.int64(y.size),
               *windows.arguments)  # fmt: skip


def pool_back(dx: Array, dy: Array, windows: Windows, place: Array | None = None) -> None:
    """dx, with the places that `pool` found, or without them of averages."""
    if dx.size:
        launch(dy, "pool", "pool_back", blocks_for(dx.size), at(dy), at(dx), at(place),
               np.int64(dx.size), *windows.arguments)  # fmt: skip

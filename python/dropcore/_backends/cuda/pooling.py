"""Pooling of CuPy arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dropcore._backends.cuda.kernels import Array, blocks_for, int64s, launch, library, ptr


class Windows:
    """Windows over images (batch, height, width, channels).

    Parameters
    ----------
    images : tuple of 4 int
        Their shape.
    out : (height, width) of the output
    kernel, stride, pad_before : (along the height, along the width)
    count_padding : bool
        Whether an average includes the padding of its window.
    lengths : int64 (batch,) or None
        The valid width of each image, in host or device memory.
    """

    def __init__(
        self,
        images: tuple[int, ...],
        out: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        pad_before: tuple[int, ...],
        count_padding: bool = False,
        lengths: npt.NDArray[np.int64] | Array | None = None,
    ) -> None:
        if math.prod(kernel) >= 1 << 31:
            raise ValueError("a window must have fewer than 2**31 positions")
        self.batch = images[0]
        self.lengths = None if lengths is None else library().asarray(lengths)
        self.arguments = (
            *int64s(images[1:], out, kernel, stride, pad_before), np.int32(count_padding),
            ptr(self.lengths),
        )  # fmt: skip


def pool(y: Array, x: Array, windows: Windows, argmax: Array | None = None) -> None:
    """y = the maxima of the windows of x, with their indices (int32, like y); or averages."""
    if y.size:
        launch(x, "pool", "pool", blocks_for(y.size), ptr(x), ptr(y), ptr(argmax), np.int64(y.size),
               *windows.arguments)  # fmt: skip


def pool_back(dx: Array, dy: Array, windows: Windows, argmax: Array | None = None) -> None:
    """dx, of maxima with the indices that `pool` wrote, else of averages."""
    if dx.size:
        launch(dy, "pool", "pool_back", blocks_for(dx.size), ptr(dy), ptr(dx), ptr(argmax),
               np.int64(dx.size), *windows.arguments)  # fmt: skip

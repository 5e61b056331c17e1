"""Convolutions of CuPy arrays: patches are written to memory and multiplied by cuBLAS."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dropcore._backends.cuda.blas import multiply
from dropcore._backends.cuda.epilogue import Bits, apply_epilogue
from dropcore._backends.cuda.kernels import (
    Array,
    blocks_for,
    empty,
    int64s,
    launch,
    library,
    ptr,
)
from dropcore._base.device import recording

PIECE_BYTES = 256 << 20
"""Of patches that are in memory at a time; one position at least."""


class Patches:
    """Images (batch, height, width, channels) as a matrix: positions x elements of a patch.

    Parameters
    ----------
    images : contiguous
    out : (height, width) of the output
    kernel, stride, dilation, pad_before : (along the height, along the width)
    groups : int
        The channels are cut into that many slices, each with its own matrix.
    """

    def __init__(
        self,
        images: Array,
        out: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        pad_before: tuple[int, ...],
        groups: int = 1,
    ) -> None:
        self.images, self.groups, self.itemsize = images, groups, images.itemsize
        batch, *image, channels = images.shape
        taken = channels // groups
        self.positions, self.depth = batch * math.prod(out), math.prod(kernel) * taken
        self._layout = (groups, taken, *image, *out, *kernel, *stride, *dilation, *pad_before)
        self._pixels = (
            math.prod(kernel) == math.prod(stride) == groups == 1
            and tuple(image) == tuple(out)
            and not any(pad_before)
        )

    def pieces(self) -> Iterator[tuple[slice, Array]]:
        """Slices of the positions, in order, and their patches (groups, positions, depth).

        The patches are valid until the next ones are requested. Where the positions are cut depends
        on the shape alone.
        """
        if self.positions == 0:
            return
        if self._pixels:  # the images already are the patches
            yield slice(0, self.positions), self.images.reshape(1, self.positions, self.depth)
            return
        width = self.groups * self.depth
        rows = min(max(PIECE_BYTES // (width * self.itemsize), 1), self.positions)
        buffer = empty((rows * width,), self.images.dtype)
        for first in range(0, self.positions, rows):
            here = min(rows, self.positions - first)
            patches = buffer[: here * width].reshape(self.groups, here, self.depth)
            launch(self.images, "patches", "write_patches", blocks_for(patches.size),
                   ptr(self.images), ptr(patches),
                   *int64s((first, here), self._layout))  # fmt: skip
            yield slice(first, first + here), patches


def convolution(
    c: Array,
    a: Patches,
    w: Array,
    bias: Array | None = None,
    relu: bool = False,
    bits: Bits = None,
    scale: float = 1.0,
    activation: str = "identity",
    parameter: float = 0.0,
    saved: Array | None = None,
    saves_input: bool = False,
) -> None:
    """c__mn = act(patches__mk @ w__kn + bias__n) ∘ mask.

    All arrays are contiguous; w is (patch, groups * maps of a group). The epilogue's arguments are
    those of `products.product`.
    """
    c = c.reshape(a.positions, w.size // a.depth)
    weights = _of_groups(w.reshape(a.depth, c.shape[1]), a.groups)
    for positions, patches in a.pieces():
        _multiply(patches, weights, _of_groups(c[positions], a.groups))
    name = "relu" if relu else activation
    if bias is not None or name != "identity" or bits is not None or scale != 1.0:
        apply_epilogue(
            c, bias, activation=name, parameter=parameter, bits=bits, scale=scale, saved=saved,
            saves_input=saves_input, out=c,
        )  # fmt: skip


def kernel_gradient(dw: Array, a: Patches, dz: Array) -> None:
    """dw__kn = patches__mk^T @ dz__mn, all contiguous; pieces are added in order."""
    dw = dw.reshape(a.depth, dw.size // a.depth)
    dz = dz.reshape(a.positions, dw.shape[1])
    if a.positions == 0:
        dw[...] = 0
    to = _of_groups(dw, a.groups)
    for positions, patches in a.pieces():
        factors = patches.swapaxes(1, 2), _of_groups(dz[positions], a.groups)
        _multiply(*factors, to, add=positions.start > 0)


def _of_groups(matrix: Array, groups: int) -> Array:
    """(rows, groups * n) as (groups, rows, n)."""
    rows, columns = matrix.shape
    return matrix.reshape(rows, groups, columns // groups).swapaxes(0, 1)


def _multiply(left: Array, right: Array, out: Array, *, add: bool = False) -> None:
    """out = left @ right for each group; with `add` it is added to out."""
    if len(out) == 1 and not add:
        multiply(left[0], right[0], out[0])
        return
    if len(out) > 1 and not left.flags.c_contiguous:
        # For batched products CuPy copies factors that are not in C order. Transposed, the product
        # copies the small factor and not the patches.
        left, right, out = (m.swapaxes(1, 2) for m in (right, left, out))
    made = empty(out.shape, out.dtype)
    if len(out) == 1 or recording():  # CuPy refuses batched products then
        for matrices in zip(left, right, made, strict=True):
            multiply(*matrices)
    else:
        library().matmul(left, right, out=made)
    if add:
        out += made
    else:
        out[...] = made

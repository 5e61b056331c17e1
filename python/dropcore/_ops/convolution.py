"""Convolutions of sequences and images, with the dropout after them, and their gradients.

A convolution is a product of patches. In the core the patches are never stored: see
src/cdrop/convolution.pxi. On a GPU they are written to memory in pieces. A sequence is an image of
height 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from dropcore._backends import backend_of, real_array
from dropcore._base.checks import check_gradient
from dropcore._ops.activation import Activation
from dropcore._ops.epilogue import Epilogue
from dropcore._ops.geometry import Geometry, Padding, Pair, padding_of, per_axis
from dropcore.mask import Mask

__all__ = ["ConvolutionOp"]

Array = npt.NDArray[Any]


class ConvolutionOp:
    """y = act(x * w + bias) ∘ mask, a convolution of sequences or images, and its backward pass.

    For images, with the channels c of the group that the map n belongs to, and x zero outside of
    the image::

        z[b, i, j, n] = bias[n] + sum over k, l, c of
            x[b, i stride + k dilation - before, j stride + l dilation - before, c] w[k, l, c, n]

    Kernels are not flipped (a cross-correlation, as in other libraries). The product applies bias,
    relu and mask. On the CPU the patches are never stored, and the result does not depend on the
    number of threads.

    Parameters
    ----------
    x : float32 or float64, (batch, time, channels) or (batch, height, width, channels)
    w : the dtype of x, (kernel, channels, maps) or (height, width, channels, maps)
        With the channels of one group.
    bias : the dtype of x, (maps,), optional
    stride, dilation : int, or one for each axis, default 1
    padding : "valid", "same", int or pairs, default "valid"
        Zeros around x: a number for all sides, one for each axis, or (before, after) for each.
        "same" gives ceil(size / stride) outputs; where it is odd, one more zero comes after.
    groups : int, default 1
        Group g of the channels feeds group g of the maps only.
    relu : bool, default False
        The activation that the product applies itself.
    activation : Activation, optional
        Another one.
    mask : Mask, optional
        Of y.

    Attributes
    ----------
    y : ndarray (batch, out time, maps) or (batch, out height, out width, maps)

    Raises
    ------
    TypeError
        For other dtypes, or sizes that are not integers.
    ValueError
        For shapes that do not fit, or a kernel that is larger than the padded image.
    """

    def __init__(
        self,
        x: npt.ArrayLike,
        w: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        *,
        stride: int | Pair = 1,
        padding: Padding = "valid",
        dilation: int | Pair = 1,
        groups: int = 1,
        relu: bool = False,
        activation: Activation | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.backend = backend = backend_of("x", x)
        if backend_of("w", w) is not backend:
            raise TypeError(
                f"x and w must be on one device, got {type(x).__module__}.{type(x).__name__} and "
                f"{type(w).__module__}.{type(w).__name__}: move one of them"
            )
        self.x = x = real_array(backend, "x", x)
        self.w = w = real_array(backend, "w", w)
        if x.ndim not in (3, 4) or w.ndim != x.ndim:
            raise ValueError(
                "x must be (batch, time, channels) or (batch, height, width, channels), and w "
                f"(kernel, channels, maps) or (height, width, channels, maps), got {x.shape} and "
                f"{w.shape}"
            )
        channels, maps = w.shape[-2:]
        if x.dtype != w.dtype:
            raise TypeError(f"x and w must have one dtype, got {x.dtype} and {w.dtype}")
        if groups < 1 or x.shape[-1] != channels * groups or maps % groups or not w.size:
            raise ValueError(
                f"w of shape {w.shape} in {groups} groups needs x with {channels * groups} "
                f"channels, and maps that divide into the groups, got x of shape {x.shape}"
            )
        if bias is not None:
            bias = real_array(backend, "bias", bias)
            if bias.shape != (maps,) or bias.dtype != x.dtype:
                raise ValueError(
                    f"bias must have shape ({maps},) and dtype {x.dtype}, got {bias.shape} "
                    f"{bias.dtype}"
                )
        axes = x.ndim - 2
        where = Geometry.of(
            x.shape[1:-1],
            w.shape[:-2],
            per_axis("stride", stride, axes),
            per_axis("dilation", dilation, axes),
            padding_of("padding", padding, axes),
        )
        shape = (len(x), *where.out, maps)
        self.geometry, self.groups = where.as_images(), groups
        self.epilogue = Epilogue(shape, backend, relu=relu, activation=activation, mask=mask)
        z = backend.empty(shape, x.dtype)
        backend.convolution(
            z.reshape(math.prod(shape[:-1]), maps), self._patches(), w, bias=bias,
            **self.epilogue.arguments(z),
        )  # fmt: skip
        self.y, self.saved = self.epilogue.forward(z)

    def _patches(self) -> Any:
        where = self.geometry
        return self.backend.Patches(
            self.x.reshape(len(self.x), *where.image, self.x.shape[-1]), where.out, where.kernel,
            where.stride, where.dilation, where.pad_before, self.groups,
        )  # fmt: skip

    def backward(
        self, dy: Array, *, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        """dx, or None without `input_gradient`, dw and dbias.

        With dz = (dy ∘ mask) act'(z), the gradient of the input is the convolution of dz with the
        reversed kernel, once for each phase of the stride; that of the kernel is the product of the
        transposed patches with dz.

        Raises
        ------
        TypeError, ValueError
            If dy does not have the shape and dtype of y.
        """
        check_gradient(dy, self.y.shape, self.y.dtype)
        dy = real_array(self.backend, "dy", dy)
        dz, dbias = self.epilogue.backward(dy, self.saved)
        dw = self.backend.empty(self.w.shape, self.w.dtype)
        self.backend.kernel_gradient(dw, self._patches(), dz)
        if not input_gradient:
            return None, dw, dbias
        dz = dz.reshape(len(self.x), *self.geometry.out, dz.shape[-1])
        return self._input_gradient(dz).reshape(self.x.shape), dw, dbias

    def _input_gradient(self, dz: Array) -> Array:
        """Convolutions of dz (batch, height, width, maps) with the reversed kernel."""
        where, groups, backend = self.geometry, self.groups, self.backend
        channels, maps = self.w.shape[-2:]
        flipped = self.w.reshape(*where.kernel, channels, groups, maps // groups)
        flipped = flipped.transpose(0, 1, 4, 3, 2)
        dx = backend.empty((len(dz), *where.image, groups * channels), dz.dtype)
        rows, columns = (
            [_phase(where, axis, n) for n in range(min(where.stride[axis], where.image[axis]))]
            for axis in (0, 1)
        )
        for top, (row_taps, *row) in enumerate(rows):
            for left, (column_taps, *column) in enumerate(columns):
                part = dx[:, top :: where.stride[0], left :: where.stride[1]]
                kernel = backend.contiguous(flipped[row_taps, column_taps])
                if not part.size or not kernel.size:
                    part[...] = 0
                    continue
                # Phases are interleaved. A single one is written in place.
                alone = part.flags.c_contiguous
                to = part if alone else backend.empty(part.shape, dx.dtype)
                dilation, pad_before = zip(row, column, strict=True)
                patches = backend.Patches(
                    dz, part.shape[1:3], kernel.shape[:2], (1, 1), dilation, pad_before, groups
                )
                backend.convolution(to, patches, kernel)
                if not alone:
                    part[...] = to
        return dx


def _phase(geometry: Geometry, axis: int, phase: int) -> tuple[slice, int, int]:
    """The taps that reach the inputs phase, phase + stride, ..., and how dz is convolved for them.

    Input h is read through tap k by output i where h + before = i stride + k dilation. For one
    phase of h that holds for every (stride / gcd)th tap. With these flipped around it is a
    convolution of stride 1, given by the taps, its dilation and its padding before.
    """
    stride, dilation = geometry.stride[axis], geometry.dilation[axis]
    kernel, place = geometry.kernel[axis], phase + geometry.pad_before[axis]
    common = math.gcd(stride, dilation)
    some = range(min(stride, kernel))
    first = next((k for k in some if (place - k * dilation) % stride == 0), kernel)
    taps = range(first, kernel, stride // common)
    if not taps:
        return slice(0, 0), 1, 0
    step = dilation // common
    pad_before = (len(taps) - 1) * step - (place - first * dilation) // stride
    last = taps[0] - 1
    return slice(taps[-1], last if last >= 0 else None, -(stride // common)), step, pad_before

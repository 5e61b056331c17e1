"""Convolutions of sequences and images, with the dropout behind them, and their gradients.

Patches are rows of a product's factor that is never stored: see src/cdrop/convolution.pxi. A
sequence is an image of height 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore.backends.cpu import as_array
from dropcore.geometry import Geometry, Padding, Pair, one_or_each, padding_of
from dropcore.mask import Mask
from dropcore.steps import Ending
from dropcore.workspace import empty

__all__ = ["convolve", "convolve_backward"]

Array = npt.NDArray[Any]


def convolve(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Pair = 1,
    padding: Padding = "valid",
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    y_mask: Mask | None = None,
) -> Array:
    """y = act(x * w + bias) ∘ mask, the convolution of sequences or images.

    For images, with the input channels c of the group that the map n belongs to, and x zero
    outside of the image::

        z[b, i, j, n] = sum over k, l, c of
            x[b, i stride + k dilation - before, j stride + l dilation - before, c] w[k, l, c, n]

    Kernels are not flipped (a cross-correlation, as in all libraries). The patches are never
    stored. Any number of threads gives the same bits.

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
    activation : {None, "relu"}
        Applied where the product ends, and so are the bias and the mask.
    y_mask : Mask, optional
        Of y.

    Returns
    -------
    ndarray (batch, out time, maps) or (batch, out height, out width, maps)

    Raises
    ------
    TypeError
        For other dtypes, or sizes that are not integers.
    ValueError
        For shapes that do not belong together, or a kernel that is larger than the padded image.
    """
    x, w, geometry = _checked(x, w, stride, padding, dilation, groups)
    ending = _ending(x, w, geometry, activation, y_mask)
    y2 = empty((math.prod(ending.shape[:-1]), w.shape[-1]), x.dtype)
    if bias is not None:
        bias = np.ascontiguousarray(as_array("bias", bias, ("float32", "float64")))
        if bias.shape != w.shape[-1:] or bias.dtype != x.dtype:
            raise ValueError(
                f"bias must have shape {w.shape[-1:]} and dtype {x.dtype}, got {bias.shape} "
                f"{bias.dtype}"
            )
    _core.convolution(
        y2, _patches(x, geometry, groups), w.reshape(-1, w.shape[-1]), bias=bias,
        relu=ending.relu, bits=ending.bits, scale=ending.scale,
    )  # fmt: skip
    return ending.finish(y2.reshape(ending.shape))


def convolve_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    stride: int | Pair = 1,
    padding: Padding = "valid",
    dilation: int | Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    y_mask: Mask | None = None,
    input_gradient: bool = True,
) -> tuple[Array | None, Array, Array]:
    """The gradients of `convolve`.

    With dz = (dy ∘ mask) act'(z), the gradient of the input is the convolution of dz with the
    kernel turned around, once for each phase of the stride; that of the kernel is the product of
    the patches, transposed, with dz.

    Parameters
    ----------
    dy : the dtype of x, the shape of y
    x, w, stride, padding, dilation, groups, activation, y_mask
        As given to `convolve`.
    y : ndarray
        What it returned.
    input_gradient : bool, default True
        Whether dx is wanted.

    Returns
    -------
    dx : like x, or None
    dw : like w
    dbias : (maps,)

    Raises
    ------
    TypeError, ValueError
        As `convolve`, and for another shape or dtype of dy or y.
    """
    x, w, geometry = _checked(x, w, stride, padding, dilation, groups)
    ending = _ending(x, w, geometry, activation, y_mask)
    both = []
    for name, given in (("dy", dy), ("y", y)):
        array = as_array(name, given, ("float32", "float64"))
        if array.shape != ending.shape or array.dtype != x.dtype:
            raise ValueError(
                f"{name} must have the shape of the output, {ending.shape} of {x.dtype}, got "
                f"{array.shape} of {array.dtype}"
            )
        both.append(array)
    maps = w.shape[-1]
    dz, dbias = ending.back(both[0], np.ascontiguousarray(both[1]).reshape(-1, maps))
    dw = empty(w.shape, w.dtype)
    _core.kernel_gradient(dw.reshape(-1, maps), _patches(x, geometry, groups), dz)
    dx = None
    if input_gradient:
        dz = dz.reshape(len(x), *geometry.out, maps)
        dx = _input_gradient(dz, w, geometry, groups).reshape(x.shape)
    return dx, dw, dbias


def _checked(
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    stride: int | Pair,
    padding: Padding,
    dilation: int | Pair,
    groups: int,
) -> tuple[Array, Array, Geometry]:
    """x and w, contiguous, and where the patches of the images lie."""
    x = np.ascontiguousarray(as_array("x", x, ("float32", "float64")))
    w = np.ascontiguousarray(as_array("w", w, ("float32", "float64")))
    if x.dtype != w.dtype:
        raise TypeError(f"x and w must have one dtype, got {x.dtype} and {w.dtype}")
    if x.ndim not in (3, 4) or w.ndim != x.ndim:
        raise ValueError(
            "x must be (batch, time, channels) or (batch, height, width, channels) and w (kernel, "
            f"channels, maps) or (height, width, channels, maps), got {x.shape} and {w.shape}"
        )
    if groups < 1 or x.shape[-1] != w.shape[-2] * groups or w.shape[-1] % groups or not w.size:
        raise ValueError(
            f"w of shape {w.shape} in {groups} groups takes {w.shape[-2] * groups} channels and "
            f"its maps must divide into the groups, got x of shape {x.shape}"
        )
    axes = x.ndim - 2
    geometry = Geometry.of(
        x.shape[1:-1],
        w.shape[:-2],
        one_or_each("stride", stride, axes),
        one_or_each("dilation", dilation, axes),
        padding_of("padding", padding, axes),
    )
    return x, w, geometry.as_images()


def _ending(
    x: Array, w: Array, geometry: Geometry, activation: str | None, mask: Mask | None
) -> Ending:
    if activation not in (None, "relu"):
        raise ValueError(f"activation must be None or 'relu', got {activation!r}")
    out = geometry.out[4 - x.ndim :]
    return Ending((len(x), *out, w.shape[-1]), relu=activation == "relu", mask=mask)


def _patches(x: Array, geometry: Geometry, groups: int) -> _core.Patches:
    return _core.Patches(
        x.reshape(len(x), *geometry.image, x.shape[-1]), geometry.out, geometry.kernel,
        geometry.stride, geometry.dilation, geometry.before, groups,
    )  # fmt: skip


def _input_gradient(dz: Array, w: Array, geometry: Geometry, groups: int) -> Array:
    """Convolutions of dz (batch, height, width, maps) with the kernel turned around."""
    *_, channels, maps = w.shape
    turned = w.reshape(*geometry.kernel, channels, groups, maps // groups)
    turned = turned.transpose(0, 1, 4, 3, 2)
    dx = empty((len(dz), *geometry.image, groups * channels), dz.dtype)
    rows, columns = (
        [_phase(geometry, axis, phase) for phase in range(geometry.stride[axis])] for axis in (0, 1)
    )
    for top, (row_taps, *row) in enumerate(rows):
        for left, (column_taps, *column) in enumerate(columns):
            part = dx[:, top :: geometry.stride[0], left :: geometry.stride[1]]
            kernel = turned[row_taps, column_taps]
            if not part.size or not kernel.size:
                part[...] = 0
                continue
            # Phases lie between each other: only one that is all of dx is written where it belongs.
            alone = part.flags.c_contiguous
            to = part if alone else empty(part.shape, dx.dtype)
            dilation, before = zip(row, column, strict=True)
            patches = _core.Patches(
                dz, part.shape[1:3], kernel.shape[:2], (1, 1), dilation, before, groups
            )
            _core.convolution(
                to.reshape(-1, groups * channels), patches,
                np.ascontiguousarray(kernel).reshape(-1, groups * channels),
            )  # fmt: skip
            if not alone:
                part[...] = to
    return dx


def _phase(geometry: Geometry, axis: int, phase: int) -> tuple[slice, int, int]:
    """Which taps reach the inputs phase, phase + stride, ..., and how dz is convolved for them.

    Input h is read through tap k by output i where h + before = i stride + k dilation. For one
    phase of h that holds for every (stride / gcd)th tap. With these turned around it is a
    convolution of stride 1: the taps, its dilation and its padding before.
    """
    stride, dilation = geometry.stride[axis], geometry.dilation[axis]
    kernel, place = geometry.kernel[axis], phase + geometry.before[axis]
    common = math.gcd(stride, dilation)
    first = next((k for k in range(stride) if (place - k * dilation) % stride == 0), kernel)
    taps = range(first, kernel, stride // common)
    if not taps:
        return slice(0, 0), 1, 0
    step = dilation // common
    before = (len(taps) - 1) * step - (place - first * dilation) // stride
    last = taps[0] - 1
    return slice(taps[-1], last if last >= 0 else None, -(stride // common)), step, before

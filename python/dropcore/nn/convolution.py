"""Convolutional layers."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._ops.convolution import ConvolutionOp
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
from dropcore.constraints import Constraint
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_built, check_dtype
from dropcore.nn.initializers import Initializer
from dropcore.nn.layer import Array, Backward, Shape, read_only
from dropcore.nn.weighted import Weighted
from dropcore.regularizers import Regularizer

__all__ = ["Conv1D", "Conv2D"]


class _Convolution(Weighted):
    axes: int

    _fixed = Weighted._fixed | {"filters", "kernel_size", "groups"}

    def __init__(
        self,
        filters: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = "valid",
        dilation: int | Pair = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        initializer: str | Initializer = "he_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(activation, use_bias, initializer, constraint, regularizer)
        name = type(self).__name__
        self.filters = check_integer(f"{name}: filters", filters, 1)
        self.kernel_size = simplest(per_axis(f"{name}: kernel_size", kernel_size, self.axes))
        self.stride = simplest(per_axis(f"{name}: stride", stride, self.axes))
        self.padding = simplest_padding(padding_of(f"{name}: padding", padding, self.axes))
        self.dilation = simplest(per_axis(f"{name}: dilation", dilation, self.axes))
        self.groups = check_integer(f"{name}: groups", groups, 1)
        if self.filters % self.groups:
            raise ValueError(f"{name}: filters must divide into {groups} groups, got {filters}")

    def _expected(self, batch: str = "") -> str:
        """What samples look like, for messages."""
        channels = self._params["weight"].shape[-2] * self.groups if self.built else "channels"
        place = "time" if self.axes == 1 else "height, width"
        return f"({batch}{place}, {channels})"

    def output_shape(self, input_shape: Shape) -> Shape:
        channels = self._params["weight"].shape[-2] * self.groups if self.built else None
        found = input_shape[-1] if len(input_shape) == self.axes + 1 else None
        if not found or channels not in (None, found):
            raise ValueError(
                f"{self!r} expects samples of shape {self._expected()}, got {input_shape}"
            )
        if found % self.groups:
            raise ValueError(
                f"{self!r} expects channels that divide into {self.groups} groups, got "
                f"{input_shape}"
            )
        kernel, stride, dilation = (
            per_axis("", numbers, self.axes)
            for numbers in (self.kernel_size, self.stride, self.dilation)
        )
        padding = padding_of("", self.padding, self.axes)
        try:
            out = Geometry.out_of(input_shape[:-1], kernel, stride, dilation, padding)
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}, got samples of shape {input_shape}") from None
        return (*out, self.filters)

    def output_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return valid_steps(
            lengths, self.kernel_size, self.stride, self.dilation, self.padding, self.axes
        )

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        channels = input_shape[-1]
        assert channels is not None  # checked by output_shape
        kernel = per_axis("", self.kernel_size, self.axes)
        shape = (*kernel, channels // self.groups, self.filters)
        # An input feeds the maps of its own group only.
        fans = math.prod(kernel) * shape[-2], math.prod(kernel) * self.filters // self.groups
        self._draw(shape, rng, dtype, fans)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        bias: dict[str, Shape] = {"bias": (self.filters,)} if self.use_bias else {}
        kernel = per_axis("", self.kernel_size, self.axes)
        return {"weight": (*kernel, None, self.filters)} | bias, {}

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        self.check(x)
        return self.forward_masked(x)

    def forward_masked(
        self, x: Array, mask: Mask | None = None, *, compact: bool = False
    ) -> tuple[Array, Backward]:
        """`forward` and the dropout after it in one product, as Sequential calls them.

        Parameters
        ----------
        x : ndarray
            Accepted by `check`.
        mask : Mask, optional
            Of the output.
        compact : bool
            Has no effect: all maps are computed.

        Returns
        -------
        y : ndarray
            The masked output.
        backward : callable
            As of `forward`.
        """
        op = ConvolutionOp(
            x, self._params["weight"], self._params.get("bias"), stride=self.stride,
            padding=self.padding, dilation=self.dilation, groups=self.groups,
            relu=self.activation == "relu", activation=self._function, mask=mask,
        )  # fmt: skip

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dx, dweight, dbias = op.backward(dy, input_gradient=input_gradient)
            grads: dict[str, Gradient] = {"weight": dweight}
            if self.use_bias:
                grads["bias"] = dbias
            return dx, grads

        return read_only(op.y) if op.saved is op.y else op.y, backward

    def check(self, x: Array) -> tuple[int, ...]:
        """The shape of the output; TypeError or ValueError for an x that the layer cannot take.

        Parameters
        ----------
        x : ndarray
            A batch.

        Returns
        -------
        tuple of int
            With the batch axis.
        """
        check_array(self, x)
        check_built(self)
        if x.ndim != self.axes + 2 or x.shape[-1] != self._params["weight"].shape[-2] * self.groups:
            raise ValueError(
                f"{self!r} expects x of shape {self._expected('batch, ')}, got {x.shape}"
            )
        check_dtype(self, x, self._params["weight"].dtype)
        return cast(tuple[int, ...], (len(x), *self.output_shape(x.shape[1:])))


class Conv1D(_Convolution):
    """Convolution over time: (batch, time, channels) -> (batch, out time, filters).

    y[b, i, n] = activation(bias[n] + sum over k, c of
    x[b, i stride + k dilation - before, c] weight[k, c, n]), with x zero outside. The gradients,
    with dz = dy * activation'::

        dweight[k, c, n] = sum over b, i of x[b, i stride + k dilation - before, c] dz[b, i, n]
        dx[b, t, c] = sum over i, k with i stride + k dilation - before = t, and n, of
            dz[b, i, n] weight[k, c, n]
        dbias = sum of dz over batch and time

    Parameters
    ----------
    filters : int
        Maps of the output. `weight` is (kernel, channels / groups, filters), `bias` (filters,).
    kernel_size : int
    stride : int, default 1
        Steps from output to output.
    padding : "valid", "same", int or (before, after), default "valid"
        Zeros around the sequence. "same" gives ceil(time / stride) steps; where their number is
        odd, one more comes after. ``((kernel_size - 1) * dilation, 0)`` looks at the past only.
    dilation : int, default 1
        Steps from weight to weight.
    groups : int, default 1
        Group g of the channels feeds group g of the filters only.
    activation : str, optional
        A name of `dropcore.nn.activations.ACTIVATIONS`. "relu" is applied inside the product, which
        saves a pass over the output.
    use_bias : bool, default True
    initializer, constraint, regularizer
        Of `weight`, as in `Dense`.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers, filters that do not divide into the groups, or an
        unknown padding, activation or initializer.
    """

    axes = 1


class Conv2D(_Convolution):
    """Convolution of images: (batch, height, width, channels) -> (batch, height, width, filters).

    The formula is that of `Conv1D`, with the sum over k along two axes.

    Parameters
    ----------
    filters : int
        Maps of the output. `weight` is (height, width, channels / groups, filters), `bias`
        (filters,).
    kernel_size : int or (height, width)
    stride : int or (height, width), default 1
    padding : "valid", "same", int, two of them, or ((top, bottom), (left, right)), default "valid"
    dilation : int or (height, width), default 1
    groups, activation, use_bias, initializer, constraint, regularizer
        As in `Conv1D`.

    Raises
    ------
    TypeError, ValueError
        As `Conv1D`.
    """

    axes = 2

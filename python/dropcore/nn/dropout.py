"""Dropout of elements, units, feature maps and paths: one mask, applied in one pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer, is_several
from dropcore._base.decisions import INDEX_LIMIT
from dropcore._base.device import array_namespace
from dropcore._ops.epilogue import CompactActivation
from dropcore.functional import dropout, dropout_backward
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.nn.rates import Given, Rate

__all__ = [
    "DropPath",
    "Dropout",
    "MaskLayer",
    "RatedLayer",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "UnitDropout",
    "check_row_offset",
    "first_element",
    "identity_backward",
    "mode_of",
    "multiply_backward",
]


class RatedLayer(Layer):
    """A layer with a `dropcore.nn.rates.Rate`, given as `rate` or as `keep`."""

    _rate: Rate

    @property
    def rate(self) -> Any:
        """Fraction dropped: a number, an array, or a function of the step."""
        return self._rate.rate

    @property
    def keep(self) -> Any:
        """Fraction kept, 1 - rate."""
        return self._rate.keep

    def expected_keep(self) -> float | None:
        """The mean fraction kept over units or rows; None if it changes with the step.

        Returns
        -------
        float or None
            In [0, 1].
        """
        return None if self._rate.is_schedule else float(np.mean(self.keep))

    def rate_note(self) -> str:
        """The rate in words, for a summary.

        Returns
        -------
        str
            Such as "keep 0.5".
        """
        kept = self.expected_keep()
        if kept is not None:
            return f"keep {kept:.4g}"
        return ", ".join(f"{name} {given!r}" for name, given in self._rate.config().items())

    def _argument(self, name: str) -> Any:
        return self._rate.given[name] if name in ("rate", "keep") else super()._argument(name)

    def _arguments(self, changed: str = "") -> dict[str, Any]:
        found = super()._arguments(changed)
        if changed in ("rate", "keep"):  # the other one no longer holds
            found |= {"rate": None, "keep": None}
        return found


class MaskLayer(RatedLayer):
    """A layer that masks its input. `shared` says which elements share a decision.

    Parameters
    ----------
    rate, keep
        As `dropcore.nn.rates.Rate` takes them.
    """

    own_streams = 1

    def __init__(self, rate: Given = None, keep: Given = None) -> None:
        super().__init__()
        self._rate = Rate(type(self).__name__, rate, keep)

    def output_shape(self, input_shape: Shape) -> Shape:
        self.shared(1 + len(input_shape))
        return input_shape

    def noise_notes(self, shape: Shape) -> list[str]:
        """How many elements of an output are expected to be kept.

        Parameters
        ----------
        shape : tuple of int or None
            Of one sample of the output.

        Returns
        -------
        list of str
            One note.
        """
        kept = self.expected_keep()
        if kept is None or None in shape:
            return [self.rate_note()]
        size = math.prod(n for n in shape if n is not None)
        return [f"keep {kept:.4g}: {kept * size:,.5g} of {size:,} kept"]

    def shared(self, ndim: int) -> set[int]:
        """The axes of an input with `ndim` axes along which decisions are shared.

        Parameters
        ----------
        ndim : int
            Number of axes, that of the batch included.

        Returns
        -------
        set of int
            Not negative.
        """
        raise NotImplementedError

    def mask(
        self, shape: tuple[int, ...], key: Key | int, row_offset: int = 0, like: Any = None
    ) -> Mask:
        """The mask of an input of `shape` whose first row is row `row_offset` of the global batch.

        Its arrays, such as those of rates, are on the device of `like`.

        Parameters
        ----------
        shape : tuple of int
            Of the input, (batch, ...).
        key : Key or int
            With the stream of the layer.
        row_offset : int, default 0
            Index of the first row in the global batch.
        like : ndarray, optional
            An array on the device where the mask is used.

        Returns
        -------
        Mask
            It broadcasts to `shape`.
        """
        address, shared = as_key(key), self.shared(len(shape))
        row_offset = check_row_offset(shape, row_offset)
        own = tuple(1 if axis in shared else n for axis, n in enumerate(shape)) if shared else shape
        keep = self._rate.keep_for_rows(address.step, len(shape), shape[0], row_offset, like)
        offset = 0 if 0 in shared else first_element(own, row_offset)
        return Mask(own, keep=keep, key=address, offset=offset)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        if key is None:
            return self._expected(x, row_offset)
        return self.forward_under(x, self.mask(x.shape, key, row_offset, x))

    def forward_under(self, x: Array, mask: Mask) -> tuple[Array, Backward]:
        """`forward` with a given mask.

        Parameters
        ----------
        x : ndarray, shape (batch, ...)
            The input.
        mask : Mask
            It broadcasts to x.

        Returns
        -------
        y : ndarray
            Of the shape and dtype of x.
        backward : callable
            As of `forward`.
        """

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, x.shape, x.dtype)
            return dropout_backward(dy, mask=mask) if input_gradient else None, {}

        return dropout(x, mask=mask), backward

    def _expected(self, x: Array, row_offset: int) -> tuple[Array, Backward]:
        """`forward` without a key."""
        return x, identity_backward(self, x)


class Dropout(MaskLayer):
    """Zero a random part of the elements and scale up the rest.

    With m = 1 where an element is kept, which has probability keep = 1 - rate::

        y = x * m / keep          dx = dy * m / keep

    Without a key y = x. The backward pass draws m again, so nothing is stored. With
    ``scaling="test"``, as in the papers, y = x * m with a key, and y = x * keep without one.

    Parameters
    ----------
    rate : float, array_like or callable
        Fraction dropped, in [0, 1]. Give `rate` or `keep`. An array broadcasts to the mask, the
        batch included: (units,) for a rate per unit, (rows, 1) for one per row of the global batch.
        A function of the step is a schedule, ``rate(key.step)``.
    keep : float, array_like or callable
        Fraction kept, 1 - rate; the papers' p.
    shared_axes : int or iterable of int, default ()
        Axes along which decisions are shared, counted with the batch axis: with ``shared_axes=1``
        on (batch, time, features) a feature is dropped at all times. Keras' noise_shape has a 1
        there.
    scaling : "inverted" or "test", default "inverted"
        See above, and `dropcore.nn.set_scaling_`.
    mask : Mask or array_like of bool, optional
        A given mask, True = kept, used for every key. It broadcasts to the input; with a batch axis
        it has the rows of the global batch. An array is scaled by 1 / keep, with keep = 1 unless
        `rate` or `keep` is given; a `Mask` has its own scale.

    Raises
    ------
    TypeError
        If neither `rate` nor `keep` is given, one is not a number, or an axis is not an integer.
    ValueError
        If rate or keep is outside [0, 1], both are given, or arguments contradict each other. The
        integer 1 is refused as a rate; 1.0 drops everything.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", JMLR 15.
    """

    homogeneous = True
    shared_axes: tuple[int, ...] = ()

    def __init__(
        self,
        rate: Given = None,
        *,
        keep: Given = None,
        shared_axes: int | Iterable[int] = (),
        scaling: str = "inverted",
        mask: Mask | npt.ArrayLike | None = None,
    ) -> None:
        given = rate is not None or keep is not None
        super().__init__(rate, keep if given or mask is None else 1.0)
        what = type(self).__name__
        self.shared_axes = tuple_of_axes(shared_axes)
        if scaling not in ("inverted", "test"):
            raise ValueError(f"{what}: scaling must be 'inverted' or 'test', got {scaling!r}")
        if scaling == "test" and self._rate.is_schedule:
            raise ValueError(
                f"{what}: scaling='test' multiplies by keep at inference, where there is no step: "
                "give a number or an array, or scaling='inverted'"
            )
        self.scaling = scaling
        self._given: Mask | None = None
        self._own_scale = isinstance(mask, Mask)
        if mask is not None:
            self._given = self._checked(mask, given)

    def _checked(self, mask: Mask | npt.ArrayLike, given: bool) -> Mask:
        """The given mask; the rate becomes that of its scale."""
        what = type(self).__name__
        if self.shared_axes or self._rate.is_schedule or (isinstance(mask, Mask) and given):
            raise ValueError(
                f"{what}: mask= has its own shape, and a Mask its own scale: give no shared axes, "
                "no schedule, and a rate only with an array"
            )
        if isinstance(mask, Mask):
            scale = np.asarray(mask.scale)
            keep = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
            self._rate = Rate(what, None, keep if keep.ndim else float(keep))
            return mask
        return Mask.given(mask, keep=self._rate(0))

    def expected_keep(self) -> float | None:
        if self._given is None:
            return super().expected_keep()
        return float(np.mean(self._given.to_bool()))

    def _argument(self, name: str) -> Any:
        if name == "mask":
            return None if self._given is None else self._given.to_bool()
        return super()._argument(name)

    def _arguments(self, changed: str = "") -> dict[str, Any]:
        found = super()._arguments(changed)
        if self._own_scale:  # the exact scale, which keep does not give
            found |= {"mask": self._given, "rate": None, "keep": None}
        return found

    def shared(self, ndim: int) -> set[int]:
        return shared_axes_of(self, self.shared_axes, ndim)

    def mask(
        self, shape: tuple[int, ...], key: Key | int, row_offset: int = 0, like: Any = None
    ) -> Mask:
        row_offset = check_row_offset(shape, row_offset)
        if self._given is None:
            mask = self._drawn(shape, key, row_offset, like)
        else:
            as_key(key)  # which must be one, though nothing is drawn
            mask = self._rows(shape, row_offset, like)
        return mask if self.scaling == "inverted" else mask.rescaled(1.0)

    def _drawn(self, shape: tuple[int, ...], key: Key | int, row_offset: int, like: Any) -> Mask:
        return super().mask(shape, key, row_offset, like)

    def _rows(self, shape: tuple[int, ...], row_offset: int, like: Any) -> Mask:
        """The given mask, for some rows of the global batch."""
        mask = self._given
        assert mask is not None
        own = mask.shape[max(len(mask.shape) - len(shape) + 1, 0) :]  # without the batch
        if len(mask.shape) > len(shape) or any(
            m not in (1, n) for m, n in zip(reversed(own), reversed(shape), strict=False)
        ):
            raise ValueError(
                f"{type(self).__name__}: mask= of shape {mask.shape} does not broadcast to an "
                f"input of shape {shape}"
            )
        if len(mask.shape) < len(shape) or mask.shape[0] in (1, shape[0] if row_offset == 0 else 1):
            return mask
        if row_offset + shape[0] > mask.shape[0]:
            raise ValueError(
                f"{type(self).__name__}: mask= has {mask.shape[0]} rows, and the batch has the "
                f"rows {row_offset} ... {row_offset + shape[0] - 1}"
            )
        keep = self._rate.keep_for_rows(0, len(shape), shape[0], row_offset, like)
        return Mask.given(mask.to_bool(like)[row_offset : row_offset + shape[0]], keep=keep)

    def _expected(self, x: Array, row_offset: int) -> tuple[Array, Backward]:
        if self.scaling == "inverted":
            return x, identity_backward(self, x)
        keep = self._rate.keep_for_rows(0, x.ndim, len(x), row_offset, x)
        return multiply_backward(
            self, x, x.dtype.type(keep) if isinstance(keep, float) else keep.astype(x.dtype)
        )

    def forward_compact(self, x: Array, mask: Mask) -> tuple[CompactActivation, Backward]:
        """`forward` with a unit mask, for a next layer that takes a CompactActivation.

        Parameters
        ----------
        x : ndarray, shape (batch, ..., units)
            The input.
        mask : Mask
            Of shape (1, ..., units).

        Returns
        -------
        y : CompactActivation
            The units that are kept.
        backward : callable
            As of `forward`.
        """
        y = CompactActivation.of(x, mask)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.values.shape, x.dtype)
            if not input_gradient:
                return None, {}
            dx = array_namespace(x).zeros(x.shape, x.dtype)
            dx[..., y.units] = dy * x.dtype.type(mask.scale)
            return dx, {}

        return y, backward


class _SpatialDropout(Dropout):
    """`Dropout` with the axes of space or time shared."""

    axes = ""  # of a map

    def __init__(
        self,
        rate: Given = None,
        *,
        keep: Given = None,
        data_format: str = "channels_last",
        scaling: str = "inverted",
    ) -> None:
        super().__init__(rate, keep=keep, scaling=scaling)
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                f"{type(self).__name__}: data_format must be 'channels_last' or "
                f"'channels_first', got {data_format!r}"
            )
        self.data_format = data_format

    def shared(self, ndim: int) -> set[int]:
        axes = ("batch", *self.axes.split(", "))
        if self.data_format == "channels_first":
            axes = (axes[0], axes[-1], *axes[1:-1])
        if ndim != len(axes):
            raise ValueError(
                f"{self!r} expects an input ({', '.join(axes)}), got one with {ndim} axes, the "
                "batch among them"
            )
        return maps_shared(ndim) if self.data_format == "channels_last" else set(range(2, ndim))


class SpatialDropout1D(_SpatialDropout):
    """Drop whole features of a sequence: one decision for each sample and feature.

    Neighbouring steps are correlated, so dropping one of them alone would hide little.

    Parameters
    ----------
    rate, keep
        As for `Dropout`.
    data_format : "channels_last" or "channels_first", default "channels_last"
        Where the features of the input are: (batch, time, features), as in the other layers, or
        (batch, features, time), for arrays of libraries that store them so.
    scaling
        As for `Dropout`.

    Raises
    ------
    ValueError
        If `data_format` is neither, or as for `Dropout`.

    References
    ----------
    Tompson, Goroshin, Jain, LeCun and Bregler 2015, "Efficient object localization using
    convolutional networks".
    """

    axes = "time, features"


class SpatialDropout2D(_SpatialDropout):
    """Drop whole feature maps of images: one decision for each sample and map.

    The input is (batch, height, width, channels), or (batch, channels, height, width) with
    ``data_format="channels_first"``.

    Parameters
    ----------
    rate, keep, data_format, scaling
        As for `SpatialDropout1D`.

    References
    ----------
    That of `SpatialDropout1D`.
    """

    axes = "height, width, channels"


class SpatialDropout3D(_SpatialDropout):
    """Drop whole feature maps of volumes or films: one decision for each sample and map.

    The input is (batch, depth, height, width, channels), or (batch, channels, depth, height, width)
    with ``data_format="channels_first"``.

    Parameters
    ----------
    rate, keep, data_format, scaling
        As for `SpatialDropout1D`.

    References
    ----------
    That of `SpatialDropout1D`.
    """

    axes = "depth, height, width, channels"


class UnitDropout(Dropout):
    """Drop units for the whole batch, or for groups of its rows.

    `Dropout` with a mask (1, ..., units). Between Dense layers in a Sequential the products then
    skip dropped units: at 0.5 on both sides a quarter of the multiplications remains, forward and
    backward. It is another estimator than dropping elements: all samples of a batch use the same
    thinned network, and the gradient is noisier.

    Parameters
    ----------
    rate, keep
        As for `Dropout`.
    group : int, optional
        Rows of the global batch that share a mask, 0 ... group - 1, group ... and so on. By default
        all of them. Products under several masks are computed whole: groups save no time.
    scaling
        As for `Dropout`.

    References
    ----------
    Graham, Reizenstein and Robinson 2015, "Efficient batchwise dropout training using submatrices".
    """

    def __init__(
        self,
        rate: Given = None,
        *,
        keep: Given = None,
        group: int | None = None,
        scaling: str = "inverted",
    ) -> None:
        super().__init__(rate, keep=keep, scaling=scaling)
        self.group = (
            None if group is None else check_integer("UnitDropout: group", group, 1, 1 << 62)
        )

    def shared(self, ndim: int) -> set[int]:
        if ndim < 2:
            raise ValueError(f"{self!r} expects an input (batch, ..., units), got {ndim} axes")
        return set(range(ndim - 1)) if self.group is None else maps_shared(ndim)

    def _drawn(self, shape: tuple[int, ...], key: Key | int, row_offset: int, like: Any) -> Mask:
        if self.group is None:
            return super()._drawn(shape, key, row_offset, like)
        first, last = row_offset // self.group, -(-(row_offset + shape[0]) // self.group)
        groups = super()._drawn((last - first, *shape[1:]), key, first, like)
        in_group = (
            array_namespace(like).arange(row_offset, row_offset + shape[0]) // self.group - first
        )
        scale = groups.scale
        if not isinstance(scale, float) and scale.ndim == len(shape):
            scale = scale[in_group]
        return Mask.given(groups.to_bool(like)[in_group]).rescaled(scale)


class DropPath(Dropout):
    """Stochastic depth: drop the residual branch of a sample as a whole.

    At the end of a `Residual` only the shortcut of the sample is left: y = x + m / keep * f(x). The
    branch is computed in any case. Rates that rise with depth: `dropcore.nn.rates_over_depth`.

    Parameters
    ----------
    rate, keep
        As for `Dropout`.
    mode : "row" or "batch", default "row"
        Whether samples are dropped separately, or all of a batch at once, as in the paper.
    scaling
        As for `Dropout`. The paper trains unscaled, ``scaling="test"``.

    References
    ----------
    Huang, Sun, Liu, Sedra and Weinberger 2016, "Deep networks with stochastic depth".
    """

    def __init__(
        self,
        rate: Given = None,
        *,
        keep: Given = None,
        mode: str = "row",
        scaling: str = "inverted",
    ) -> None:
        super().__init__(rate, keep=keep, scaling=scaling)
        self.mode = mode_of("DropPath", mode)

    def shared(self, ndim: int) -> set[int]:
        return set(range(1 if self.mode == "row" else 0, ndim))


def tuple_of_axes(axes: int | Iterable[int]) -> tuple[int, ...]:
    """`shared_axes` as a tuple of int."""
    given: tuple[Any, ...] = tuple(axes) if is_several(axes) else (axes,)
    try:
        found = tuple(map(operator.index, given))
    except TypeError:
        found = (True,)
    if any(isinstance(axis, bool) for axis in (*given, *found)):
        raise TypeError(
            f"shared_axes must be an integer or several, got {axes!r} of type {type(axes).__name__}"
        )
    return found


def shared_axes_of(layer: Layer, axes: tuple[int, ...], ndim: int) -> set[int]:
    """`axes` of an input with `ndim` axes, counted from 0."""
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{layer!r} shares axis {axis}, which an input with {ndim} axes (the batch is "
                "axis 0) does not have"
            )
    return {axis % ndim for axis in axes}


def maps_shared(ndim: int) -> set[int]:
    """The axes between the batch and the last one: (batch, ..., features) by whole maps."""
    return set(range(1, ndim - 1))


def mode_of(what: str, mode: str) -> str:
    """`mode` if it says that each row of the batch decides, or that one decision holds for all."""
    if mode not in ("row", "batch"):
        raise ValueError(f"{what}: mode must be 'row' or 'batch', got {mode!r}")
    return mode


def check_row_offset(shape: tuple[int, ...], row_offset: int) -> int:
    """`row_offset` as an int, if rows of an array of `shape` can begin there.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer, negative, or beyond the 2**63 elements that have decisions.
    """
    if type(row_offset) is not int or row_offset < 0:
        row_offset = check_integer("row_offset", row_offset, 0)
    if row_offset:
        most = INDEX_LIMIT // max(math.prod(shape[1:]), 1) - shape[0]
        check_integer("row_offset", row_offset, 0, max(most, 0))
    return row_offset


def first_element(shape: tuple[int, ...], row_offset: int) -> int:
    """Index of the first element of an array that starts at `row_offset` of the global batch."""
    return row_offset * math.prod(shape[1:]) if row_offset else 0


def identity_backward(layer: Layer, x: Array) -> Backward:
    """The backward pass of y = x."""

    def backward(
        dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Any, dict[str, Gradient]]:
        check_gradient(layer, dy, x.shape, x.dtype)
        return dy, {}

    return backward


def multiply_backward(layer: Layer, x: Array, factor: Array) -> tuple[Array, Backward]:
    """y = x * factor in the dtype of x, rounded once, and its backward pass."""

    def backward(
        dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Any, dict[str, Gradient]]:
        check_gradient(layer, dy, x.shape, x.dtype)
        return product(dy) if input_gradient else None, {}

    @np.errstate(under="ignore")
    def product(array: Array) -> Array:
        return (array * factor).astype(array.dtype, copy=False)

    return product(x), backward

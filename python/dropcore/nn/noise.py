"""Gaussian noise, and dropout that keeps mean and variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_number
from dropcore._base.device import array_namespace, on_device, recording
from dropcore.functional import alpha_dropout, alpha_dropout_backward
from dropcore.key import MONTE_CARLO, Key, as_key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.dropout import (
    MaskLayer,
    RatedLayer,
    check_row_offset,
    first_element,
    identity_backward,
    maps_shared,
    multiply_backward,
    shared_axes_of,
    tuple_of_axes,
)
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.nn.rates import Given, Rate
from dropcore.noise import normal

__all__ = ["AlphaDropout", "FeatureAlphaDropout", "GaussianDropout", "GaussianNoise", "noise_like"]

MONTE_CARLO_OFFSET: Final = 1 << 62
"""Index of the first element of noise in Monte Carlo prediction."""


def noise_like(x: Array, key: Key | int, row_offset: int) -> Array:
    """A standard normal for each element of x, whose first row is row `row_offset` of the batch.

    Float32 for x of 16 bits, so that the result is rounded once. All noise has one domain; that of
    Monte Carlo prediction has indices of its own, so that no sample repeats the noise of a step.
    """
    address = as_key(key)
    offset = first_element(x.shape, check_row_offset(x.shape, row_offset))
    if address.domain == MONTE_CARLO:
        offset += MONTE_CARLO_OFFSET
    dtype = np.float32 if x.dtype.name in ("float16", "bfloat16") else x.dtype
    return normal(x.shape, key=address, offset=offset, dtype=dtype, like=x)


class GaussianNoise(Layer):
    """Add noise: y = x + stddev * z with z standard normal, and dx = dy. Without a key y = x.

    Parameters
    ----------
    stddev : float or callable
        Not negative. A function of the step is a schedule, ``stddev(key.step)``.

    Raises
    ------
    TypeError, ValueError
        If it is not a number, negative or NaN.

    References
    ----------
    Sietsma and Dow 1991, "Creating artificial neural networks that generalize".
    """

    own_streams = 1

    def __init__(self, stddev: float | Callable[[int], float]) -> None:
        super().__init__()
        if not callable(stddev):
            stddev = check_number("GaussianNoise: stddev", stddev, "[0, inf)")
        self.stddev = stddev

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"stddev {self.stddev!r}"]

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        if key is None:
            return x, identity_backward(self, x)
        step = as_key(key).step
        if callable(self.stddev) and recording():
            raise ValueError(
                "GaussianNoise: a stddev that changes with the step cannot be recorded in a CUDA "
                "graph: use cuda_graph=False, or a number"
            )
        given = self.stddev(step) if callable(self.stddev) else self.stddev
        y = noise_like(x, key, row_offset)
        with np.errstate(under="ignore"):
            y *= y.dtype.type(check_number("GaussianNoise: stddev", given, "[0, inf)"))
            y += x
            return y.astype(x.dtype, copy=False), identity_backward(self, x)


class GaussianDropout(RatedLayer):
    """Multiply by noise: y = x * (1 + s * z), s**2 = rate / keep, z standard normal.

    Dropout and this have the same mean and variance. dx = dy * (1 + s * z); without a key y = x.

    Parameters
    ----------
    rate, keep : float, array_like or callable
        As for `Dropout`; something must be kept.

    Raises
    ------
    TypeError, ValueError
        As for `Dropout`, and for keep = 0, where the noise would be infinite.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 10.
    """

    own_streams = 1
    homogeneous = True

    def __init__(self, rate: Given = None, *, keep: Given = None) -> None:
        super().__init__()
        self._rate = Rate("GaussianDropout", rate, keep)
        if not self._rate.is_schedule:
            self._stddev(self._rate(0))

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def noise_notes(self, shape: Shape) -> list[str]:
        return [self.rate_note()]

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        if key is None:
            return x, identity_backward(self, x)
        keep = self._rate.keep_for_rows(as_key(key).step, x.ndim, len(x), row_offset, x)
        factor = noise_like(x, key, row_offset)
        with np.errstate(under="ignore"):
            factor *= self._stddev(keep).astype(factor.dtype)
        factor += 1
        return multiply_backward(self, x, factor)

    def _stddev(self, keep: Any) -> Array:
        if not on_device(keep) and not np.all(keep):
            raise ValueError(f"{self!r}: rate must be below 1 (keep above 0): the noise has a "
                             "variance of rate / keep")  # fmt: skip
        return array_namespace(keep).sqrt((1.0 - keep) / keep)


class AlphaDropout(MaskLayer):
    """Dropout that keeps mean 0 and variance 1, for networks of SELU units.

    A dropped element becomes c = -1.7581, where SELU saturates, and all are shifted and scaled so
    that the mean and the variance of its input, 0 and 1, are those of its output::

        y = a * (x if kept else c) + b
        a = (keep * (1 + rate * c**2)) ** -0.5          b = -a * rate * c          dx = a * dy * m

    Without a key y = x. Where nothing is kept, y is zero.

    Parameters
    ----------
    rate, keep : float, array_like or callable
        As for `Dropout`.
    shared_axes : int or iterable of int, default ()
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As for `Dropout`.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter 2017, "Self-normalizing neural networks".
    """

    def __init__(
        self, rate: Given = None, *, keep: Given = None, shared_axes: int | Iterable[int] = ()
    ) -> None:
        super().__init__(rate, keep)
        self.shared_axes = tuple_of_axes(shared_axes)

    def shared(self, ndim: int) -> set[int]:
        return shared_axes_of(self, self.shared_axes, ndim)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        if key is None:
            return x, identity_backward(self, x)
        mask = self.mask(x.shape, key, row_offset, x)
        y = alpha_dropout(x, mask=mask)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.shape, y.dtype)
            return alpha_dropout_backward(dy, mask=mask) if input_gradient else None, {}

        return y, backward


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole feature maps: one decision for each sample and channel.

    Parameters
    ----------
    rate, keep
        As for `AlphaDropout`. The input is (batch, ..., channels).
    """

    def __init__(self, rate: Given = None, *, keep: Given = None) -> None:
        super().__init__(rate, keep=keep)

    def shared(self, ndim: int) -> set[int]:
        if ndim < 3:
            raise ValueError(
                f"{self!r} expects an input (batch, ..., channels) with axes between them, got "
                f"{ndim} axes"
            )
        return maps_shared(ndim)

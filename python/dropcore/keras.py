"""Keras layers and constraints with the masks and the words of both libraries.

The layers replace those of the same name in `keras.layers`, take the same arguments and draw from
the same `keras.random.SeedGenerator`. They work on the backends JAX (on the CPU), PyTorch and
NumPy, eager and compiled, and draw the same masks on each: a layer whose seed generator is in the
state (seed, n) draws the mask of ``Key.from_words(seed, n)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dropcore import functional
from dropcore._base.checks import check_number
from dropcore._base.extras import require
from dropcore.key import Key

require("keras", "keras", "dropcore.keras")

import keras  # noqa: E402
from keras import ops  # noqa: E402

__all__ = [
    "AlphaDropout",
    "Dropout",
    "MaxNorm",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
]

BACKENDS = ("jax", "torch", "numpy")

if keras.backend.backend() not in BACKENDS:
    raise ImportError(
        f"dropcore.keras works on the backends {', '.join(BACKENDS)}, and Keras is on "
        f"{keras.backend.backend()}: set the environment variable KERAS_BACKEND before Keras is "
        "imported"
    )

_ROOM = {"float16": 2**-10, "bfloat16": 2**-7}
"""The part of a bound that the rounding of shortened weights may need, where it is not 2**-20."""

_registered = keras.saving.register_keras_serializable(package="dropcore")


@_registered
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout`.

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    noise_shape : tuple of int or None, optional
        The shape of the mask. Each of its numbers is None, the length of that axis of the input,
        or 1: decisions are shared along that axis.
    seed : int, optional
    **kwargs
        Of `keras.Layer`.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        shared = _shared_axes(self.noise_shape, inputs)
        return _dropout(inputs, self.rate, self.seed_generator, shared)


class _Spatial:
    """Drops whole feature maps: the decisions are shared along all axes but batch and channels."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:  # type: ignore[attr-defined]
            return inputs
        first = getattr(self, "data_format", "channels_last") == "channels_first"
        shared = range(2, inputs.ndim) if first else range(1, inputs.ndim - 1)
        return _dropout(inputs, self.rate, self.seed_generator, shared)  # type: ignore[attr-defined]


@_registered
class SpatialDropout1D(_Spatial, keras.layers.SpatialDropout1D):
    """`keras.layers.SpatialDropout1D`, with the same arguments: (batch, steps, channels)."""


@_registered
class SpatialDropout2D(_Spatial, keras.layers.SpatialDropout2D):
    """`keras.layers.SpatialDropout2D`, with the same arguments, also with its channels first."""


@_registered
class SpatialDropout3D(_Spatial, keras.layers.SpatialDropout3D):
    """`keras.layers.SpatialDropout3D`, with the same arguments, also with its channels first."""


@_registered
class AlphaDropout(keras.layers.AlphaDropout):
    """`keras.layers.AlphaDropout`, with the same arguments and the mask of `Dropout`.

    With c = -1.7581, where SELU saturates, and keep = 1 - rate::

        y = a * (x if kept else c) + b
        a = (keep * (1 + rate * c**2)) ** -0.5        b = -a * rate * c

    At rate = 1 it gives zeros, where that of Keras divides by zero.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0:
            return inputs
        keep, c = 1.0 - self.rate, -1.7580993408473766
        shared = _shared_axes(self.noise_shape, inputs)
        wide = inputs
        if keras.backend.standardize_dtype(inputs.dtype) in _ROOM:
            wide = ops.cast(inputs, "float32")
        # a * (x or c) + b = a * (x - c or 0) + (a * c + b), whose middle is a dropout.
        y = _dropout(wide - c, self.rate, self.seed_generator, shared)
        a = (keep * (1.0 + self.rate * c**2)) ** -0.5 if keep else 0.0
        return ops.cast(y * (a * keep) + a * c * keep, inputs.dtype)


@_registered
class MaxNorm(keras.constraints.MaxNorm):
    """Bound the norms of weights, and leave those alone that are within the bound.

    `keras.constraints.MaxNorm` divides all weights by ``norm + epsilon``, so that weights inside
    the ball shrink in every step. Here a longer vector gets the norm ``max_value * (1 - 2**-20)``,
    less by a few roundings of float32, and the others do not change. A second call changes nothing.

    Parameters
    ----------
    max_value : float, default 2
        Positive.
    axis : int or list of int, default 0
        The axes that the norm runs over: 0 for Dense, [0, 1, 2] for Conv2D.

    Raises
    ------
    TypeError, ValueError
        If max_value is not a positive number.
    """

    def __init__(self, max_value: float = 2, axis: int | list[int] = 0) -> None:
        check_number("MaxNorm: max_value", max_value, "(0, inf)")
        super().__init__(max_value, axis)

    def __call__(self, w: Any) -> Any:
        """The weights within the bound."""
        w = ops.convert_to_tensor(w)
        wide = w
        if keras.backend.standardize_dtype(w.dtype) in _ROOM:
            wide = ops.cast(w, "float32")
        axis = tuple(self.axis) if isinstance(self.axis, Iterable) else self.axis
        # In units of the largest weight no square overflows.
        largest = ops.max(ops.abs(wide), axis=axis, keepdims=True)
        unit = ops.where(largest > 0, largest, ops.ones_like(largest))
        norm = unit * ops.sqrt(ops.sum(ops.square(wide / unit), axis=axis, keepdims=True))
        wanted = self.max_value * (
            1.0 - _ROOM.get(keras.backend.standardize_dtype(w.dtype), 2**-20)
        )
        shorter = ops.cast(wide * (wanted / ops.maximum(norm, self.max_value)), w.dtype)
        return ops.where((norm > self.max_value) & ops.isfinite(norm), shorter, w)


def _shared_axes(noise_shape: tuple[int | None, ...] | None, x: Any) -> tuple[int, ...]:
    """The axes along which a noise shape shares decisions."""
    if noise_shape is None:
        return ()
    if len(noise_shape) != len(x.shape) or any(
        m not in (None, 1, n) and n is not None for m, n in zip(noise_shape, x.shape)
    ):
        raise ValueError(
            "noise_shape must have None, 1 or the length of the axis for each axis of x, got "
            f"{tuple(noise_shape)} for x of shape {tuple(x.shape)}"
        )
    return tuple(axis for axis, m in enumerate(noise_shape) if m == 1)


def _dropout(x: Any, rate: float, generator: Any, shared: Iterable[int]) -> Any:
    """Dropout with the mask of the generator's next state."""
    words = generator.next()
    if keras.backend.backend() == "jax":
        from dropcore.jax import dropout

        return dropout(x, rate, key=words, shared_axes=shared)
    if keras.backend.backend() == "torch":
        import torch

        import dropcore.torch  # noqa: F401  (registers the operator)

        low, high = (words.to(torch.int64) & 0xFFFFFFFF).unbind()
        seed = low | high << 32
        return torch.ops.dropcore.dropout(x, seed, rate, 0, 0, list(shared), None)
    return functional.dropout(x, rate, key=Key.from_words(*words), shared_axes=shared)

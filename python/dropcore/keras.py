"""Keras layers and constraints with the masks and the words of both libraries.

The layers replace those of the same name in `keras.layers`, take the same arguments and draw from
the same `keras.random.SeedGenerator`. They work on the backends JAX (on the CPU), PyTorch,
TensorFlow (not inside of XLA) and NumPy, eager and compiled, and draw the same masks on each: a
layer whose seed generator is in the state (seed, n) draws the mask of ``Key.from_words(seed, n)``.
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

__all__ = ["AlphaDropout", "Dropout", "MaxNorm", "SpatialDropout1D", "SpatialDropout2D",
           "SpatialDropout3D"]  # fmt: skip

BACKEND, BACKENDS = keras.backend.backend(), ("jax", "torch", "tensorflow", "numpy")

if BACKEND not in BACKENDS:
    raise ImportError(
        f"dropcore.keras works on the backends {', '.join(BACKENDS)}, and Keras is on {BACKEND}: "
        "set the environment variable KERAS_BACKEND before Keras is imported"
    )

# The part of a bound that the rounding of shortened weights may need, where it is not 2**-20.
_ROOM = {"float16": 2**-10, "bfloat16": 2**-7}

_registered = keras.saving.register_keras_serializable(package="dropcore")


class _Dropping:
    """What the layers share."""

    rate: float
    noise_shape: tuple[int | None, ...] | None
    seed_generator: Any
    # Keras sets it in each layer, and reads it where XLA is wanted.
    supports_jit = property(lambda self: BACKEND != "tensorflow", lambda self, value: None)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self._dropped(inputs) if training and self.rate else inputs

    def _dropped(self, x: Any) -> Any:
        return _dropout(x, self.rate, self.seed_generator, self._shared_axes(x))

    def _shared_axes(self, x: Any) -> list[int]:
        """The axes along which decisions are shared."""
        shape = (None,) * len(x.shape) if self.noise_shape is None else self.noise_shape
        fits = (m in (None, 1, n) or n is None for m, n in zip(shape, x.shape))
        if len(shape) != len(x.shape) or not all(fits):
            raise ValueError(
                "noise_shape must have None, 1 or the length of the axis for each axis of x, got "
                f"{shape} for x of shape {tuple(x.shape)}"
            )
        return [axis for axis, m in enumerate(shape) if m == 1]


@_registered
class Dropout(_Dropping, keras.layers.Dropout):
    """`keras.layers.Dropout`.

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    noise_shape : tuple of int or None, optional
        The shape of the mask: for each axis None, its length, or 1 to share decisions along it.
    seed : int, optional
    **kwargs
        Of `keras.Layer`.
    """


class _Spatial(_Dropping):
    """Drops whole feature maps."""

    def _shared_axes(self, x: Any) -> list[int]:
        first = getattr(self, "data_format", "channels_last") == "channels_first"
        return list(range(2, len(x.shape)) if first else range(1, len(x.shape) - 1))


@_registered
class SpatialDropout1D(_Spatial, keras.layers.SpatialDropout1D):
    """`keras.layers.SpatialDropout1D`: whole features of (batch, steps, channels).

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    seed, name, dtype : optional
        As in Keras.
    """


@_registered
class SpatialDropout2D(_Spatial, keras.layers.SpatialDropout2D):
    """`keras.layers.SpatialDropout2D`: whole feature maps, channels last or first.

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    data_format, seed, name, dtype : optional
        As in Keras.
    """


@_registered
class SpatialDropout3D(_Spatial, keras.layers.SpatialDropout3D):
    """`keras.layers.SpatialDropout3D`: whole feature maps, channels last or first.

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    data_format, seed, name, dtype : optional
        As in Keras.
    """


@_registered
class AlphaDropout(_Dropping, keras.layers.AlphaDropout):
    """`keras.layers.AlphaDropout` with the mask of `Dropout`.

    With c = -1.7581, where SELU saturates, and keep = 1 - rate::

        y = a * (x if kept else c) + b
        a = (keep * (1 + rate * c**2)) ** -0.5        b = -a * rate * c

    At rate = 1 it gives zeros, where that of Keras divides by zero.

    Parameters
    ----------
    rate : float
        Fraction dropped, in [0, 1].
    noise_shape, seed : optional
        As for `Dropout`.
    **kwargs
        Of `keras.Layer`.
    """

    def _dropped(self, x: Any) -> Any:
        keep, c = 1.0 - self.rate, functional.SELU_SATURATION
        # a * (x or c) + b = a * (x - c or 0) + (a * c + b), whose middle is a dropout.
        y = super()._dropped(_wide(x) - c)
        scale = functional.alpha_scale(keep) * keep
        return ops.cast(scale * y + scale * c, x.dtype)


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
        wide = _wide(w)
        axis = tuple(self.axis) if isinstance(self.axis, Iterable) else self.axis
        # In units of the largest weight nothing overflows. What is not finite has a norm of NaN.
        largest = ops.max(ops.abs(wide), axis=axis, keepdims=True)
        unit = ops.where(largest > 0, largest, ops.ones_like(largest))
        norm = ops.sqrt(ops.sum(ops.square(wide / unit), axis=axis, keepdims=True))
        wanted = self.max_value * (1 - _ROOM.get(keras.backend.standardize_dtype(w.dtype), 2**-20))
        shorter = ops.cast(wide / unit * (wanted / ops.maximum(norm, 1.0)), w.dtype)
        return ops.where(norm > self.max_value / unit, shorter, w)


def _wide(x: Any) -> Any:
    """x, in float32 if it has 16 bits."""
    return ops.cast(x, "float32") if keras.backend.standardize_dtype(x.dtype) in _ROOM else x


def _dropout(x: Any, rate: float, generator: Any, shared: list[int]) -> Any:
    """Dropout with the mask of the generator's next state."""
    words = generator.next()
    if BACKEND == "jax":
        from dropcore.jax import dropout

        return dropout(x, rate, key=words, shared_axes=shared)
    if BACKEND == "torch":
        import torch

        import dropcore.torch  # noqa: F401  (registers the operator)

        low, high = (words.to(torch.int64) & 0xFFFFFFFF).unbind()
        return torch.ops.dropcore.dropout(x, low | high << 32, rate, 0, 0, shared, "dropout")

    def drop(x: Any, words: Any) -> Any:
        return functional.dropout(x, rate, key=Key.from_words(*words), shared_axes=shared)

    if BACKEND == "numpy":
        return drop(x, words)
    import tensorflow

    @tensorflow.custom_gradient
    def dropped(x: Any) -> Any:
        name = "dropcore_needs_jit_compile_False"  # which XLA shows when it refuses the operator
        y = tensorflow.numpy_function(drop, [x, words], x.dtype, stateful=False, name=name)
        return tensorflow.ensure_shape(y, x.shape), dropped

    return dropped(x)

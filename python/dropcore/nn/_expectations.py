"""What layers expect of their arguments, in words."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from dropcore._base.device import on_device
from dropcore._ops.dense import CompactActivation

if TYPE_CHECKING:
    from dropcore.nn.layer import Array, Layer, Shape

__all__ = ["check_array", "check_built", "check_gradient", "checked_shape", "short"]


def check_array(layer: Layer, x: Any) -> None:
    """TypeError or ValueError unless x is an array with a batch axis."""
    if not hasattr(x, "dtype"):
        raise TypeError(
            f"{short(layer)} expects an array, got {type(x).__name__}; use np.asarray(x, dtype)"
        )
    weights = next(iter(layer._params.values()), None)
    array = x.values if isinstance(x, CompactActivation) else x
    apart = weights is not None and on_device(weights) != on_device(array)
    if apart and not (on_device(weights) and layer.integer_input):  # NumPy's indices are moved
        found = (
            "on a GPU and x is not: use cupy.asarray(x), or model.to('cpu')"
            if on_device(weights)
            else "not on a GPU and x is: use model.to('cuda'), or cupy.asnumpy(x)"
        )
        raise TypeError(f"{short(layer)}: the weights are {found}")
    if x.ndim < 1:
        raise ValueError(f"{short(layer)} expects an array with a batch axis, got a scalar")


def check_built(layer: Layer) -> None:
    """ValueError unless the layer has its weights."""
    if not layer.built:
        raise ValueError(
            f"{short(layer)} has no weights yet: call build(input_shape, key=...) or "
            "fit(..., key=...) first"
        )


def check_gradient(layer: Layer, dy: Array, shape: tuple[int, ...]) -> None:
    """ValueError unless dy has the shape of the output."""
    if dy.shape != shape:
        raise ValueError(
            f"{short(layer)}: dy must have the shape of the output, {shape}, got {dy.shape}"
        )


def short(layer: Layer) -> str:
    """A layer in messages: of those that hold others, which may be many, the name of the class."""
    return type(layer).__name__ if layer.children else repr(layer)


def checked_shape(what: str, shape: Any) -> Shape:
    """`shape` as the shape of one sample; TypeError or ValueError if it is none."""
    found = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else None
    if found is None or any(
        n is not None and (isinstance(n, bool) or not hasattr(n, "__index__")) for n in found
    ):
        such = f"({shape},)" if isinstance(shape, int) else "(28, 28, 1)"
        raise TypeError(
            f"{what}: input_shape must be a tuple of integers, the shape of one sample without the "
            f"batch axis, such as {such}, got {shape!r}"
        )
    if any(n is not None and n < 0 for n in found):
        raise ValueError(f"{what}: input_shape must have no negative lengths, got {shape!r}")
    return tuple(None if n is None else operator.index(n) for n in found)

"""What a layer says about inputs, gradients and shapes that it cannot take."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dropcore._base import checks
from dropcore._base.device import on_device
from dropcore._ops.epilogue import CompactActivation

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer, Shape

__all__ = [
    "check_array",
    "check_built",
    "check_dtype",
    "check_gradient",
    "checked_shape",
    "short",
]


def check_array(layer: Layer, x: Any) -> None:
    """TypeError or ValueError unless x is an array of numbers with a batch axis."""
    array = x.values if isinstance(x, CompactActivation) else x
    if type(array) is not np.ndarray or layer.device != "cpu":
        _check_foreign(layer, array)
    if array.dtype.kind in "OSUMmcT":
        raise TypeError(
            f"{short(layer)} expects an array of real numbers, got dtype {array.dtype}; use "
            ".astype(np.float32)"
        )
    if array.ndim < 1:
        raise ValueError(f"{short(layer)} expects an array with a batch axis, got a scalar")


def _check_foreign(layer: Layer, x: Any) -> None:
    """`check_array` for what is not a plain NumPy array on the CPU."""
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        raise TypeError(
            f"{short(layer)} expects a plain array, got {type(x).__name__}; use x.filled(value) or "
            "np.asarray(x)"
        )
    if not isinstance(x, np.ndarray) and not on_device(x):
        found, hint = type(x).__name__, "np.asarray(x, dtype)"
        if hasattr(x, "toarray"):
            hint = "x.toarray()"
        elif type(x).__module__.partition(".")[0] == "torch":
            found, hint = "torch.Tensor", "x.numpy(), or cupy.asarray(x) for a tensor on a GPU"
        raise TypeError(f"{short(layer)} expects an array, got {found}; use {hint}")
    weights = next(iter(layer.params.values()), None)
    apart = weights is not None and on_device(weights) != on_device(x)
    if apart and not (on_device(weights) and layer.integer_input):  # NumPy's indices are moved
        found = (
            "on a GPU and x is not: use cupy.asarray(x), or model.to('cpu')"
            if on_device(weights)
            else "not on a GPU and x is: use model.to('cuda'), or cupy.asnumpy(x)"
        )
        raise TypeError(f"{short(layer)}: the weights are {found}")


def check_dtype(layer: Layer, x: NDArray[Any] | CompactActivation, dtype: np.dtype[Any]) -> None:
    """TypeError unless x has the dtype of the layer's parameters."""
    if x.dtype != dtype:
        raise TypeError(
            f"{short(layer)} has {dtype} weights and expects x of that dtype, got {x.dtype}; use "
            f"x.astype(np.{dtype}), or model.predict(x), which converts"
        )


def check_built(layer: Layer) -> None:
    """ValueError unless the layer has its weights."""
    if not layer.built:
        raise ValueError(
            f"{short(layer)} has no weights yet: call build(input_shape, key=...) or "
            "fit(..., key=...) first"
        )


def check_gradient(layer: Layer, dy: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """TypeError unless dy is an array, ValueError unless it has the output's shape and dtype."""
    if type(dy) is not np.ndarray or dy.shape != shape or dy.dtype != dtype:
        checks.check_gradient(dy, shape, dtype, f"{short(layer)}: ")


def short(layer: Layer) -> str:
    """The layer as messages show it: its repr, or the name of its class if it has children."""
    return type(layer).__name__ if layer.children else repr(layer)


def checked_shape(what: str, shape: Any) -> Shape:
    """`shape` as the shape of one sample; TypeError or ValueError for anything else."""
    if hasattr(shape, "dtype") and np.ndim(shape) != 1:
        raise TypeError(
            f"{what}: input_shape must be the shape of one sample, got an array of shape "
            f"{np.shape(shape)}; use x.shape[1:]"
        )
    found = tuple(shape) if checks.is_several(shape) else None
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

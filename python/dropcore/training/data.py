"""What is accepted as data, and batches of it in the model's dtype.

Data stays where it is: it is checked block by block and converted batch by batch, so that it may be
read-only, of another dtype or a memory map.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore.losses import check_labels, softmax_cross_entropy
from dropcore.nn.layer import Array, Layer

__all__ = ["batch", "checked_count", "checked_inputs", "checked_targets", "model_dtype"]

_BLOCK = 1 << 20


def model_dtype(model: Layer) -> np.dtype[Any]:
    """The dtype of the weights, float32 where there are none yet."""
    first = next(iter(model.params.values()), None)
    return np.dtype(np.float32) if first is None else first.dtype


def checked_count(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def checked_inputs(name: str, x: ArrayLike, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`x` as an array of its own dtype whose values are finite in `dtype`.

    Raises
    ------
    TypeError
        If it is not an array of real numbers.
    ValueError
        If it is empty or holds a value that is not finite in `dtype`.
    """
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} must be a dense array, got {type(x).__name__}; use .toarray()")
    data = np.asarray(x)
    if data.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {data.dtype}")
    if data.ndim == 0 or data.size == 0:
        raise ValueError(f"{name} must be of shape (samples, ...) and not empty, got {data.shape}")
    if data.dtype.kind == "f":
        rows = max(1, _BLOCK * len(data) // data.size)
        for start in range(0, len(data), rows):
            finite = np.isfinite(batch(data, slice(start, start + rows), dtype))
            if not finite.all():
                place = np.argwhere(~finite)[0]
                place[0] += start
                at = tuple(map(int, place))
                raise ValueError(f"{name} must be finite in {dtype}, got {data[at]} at {at}")
    return data


def checked_targets(
    name: str, y: ArrayLike, samples: int, outputs: tuple[int | None, ...], criterion: object
) -> NDArray[Any]:
    """`y` as an array, if it can be the targets of outputs (samples, *outputs).

    Raises
    ------
    TypeError, ValueError
        If there is not one for each sample or, for cross-entropy, as `check_labels`.
    """
    targets = np.asarray(y)
    if targets.ndim == 0 or len(targets) != samples:
        found = f"shape {targets.shape}" if targets.ndim == 0 else f"{len(targets)}"
        raise ValueError(
            f"{name} must hold one target for each of the {samples} samples, got {found}"
        )
    if criterion is softmax_cross_entropy:
        return check_labels(targets, (samples, *outputs))
    return targets


def batch(x: NDArray[Any], rows: slice | NDArray[np.integer], dtype: np.dtype[Any]) -> Array:
    """Some rows, contiguous and in `dtype`."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x[rows], dtype=dtype)

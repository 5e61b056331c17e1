"""What is accepted as data, and batches of it in the model's dtype.

Data stays where it is: it is checked block by block and converted batch by batch, so that it may be
read-only, of another dtype or a memory map. For a model on a GPU batches are copied there, unless
the data is there already.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.device import array_namespace, on_device
from dropcore.losses import CheckedLoss
from dropcore.nn.layer import Array, Layer

__all__ = ["Data", "checked_count", "checked_data", "model_dtype"]

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Data:
    """Checked samples, which stay where they are until a batch of them is taken.

    Attributes
    ----------
    x : ndarray (samples, ...)
    y : ndarray (samples, ...) or None
    lengths : ndarray (samples,) or None
        Valid steps of each padded sequence.
    dtype : dtype
        That batches of x are converted to.
    device : str
        Where batches of x and y are wanted.
    """

    x: NDArray[Any]
    y: Any
    lengths: NDArray[np.int64] | None
    dtype: np.dtype[Any]
    device: str

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: slice | NDArray[np.integer]) -> tuple[Array, Any, dict[str, Any]]:
        """Some samples: x in `dtype`, y, and what else a call of the model takes by name."""
        lengths_kwargs = {} if self.lengths is None else {"lengths": self.lengths[rows]}
        x = to_device(batch(self.x, rows, self.dtype), self.device)
        y = None if self.y is None else to_device(taken(self.y, rows), self.device)
        return x, y, lengths_kwargs


def checked_data(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    *,
    criterion: object = None,
    name: str = "",
    like: Data | None = None,
) -> Data:
    """What a user gave, if the model can take it.

    Parameters
    ----------
    model : Layer
    x, y, lengths
        As in `fit`; y is None where there are no targets.
    criterion : Loss, optional
        Which says what targets may be.
    name : str, default ""
        Put before the names of the arguments in messages, such as "validation ".
    like : Data, optional
        Whose samples have the shape that these must have.

    Raises
    ------
    TypeError, ValueError
        If not.
    """
    dtype = input_dtype(model)
    inputs = checked_inputs(f"{name}x", x, dtype)
    if like is not None and inputs.shape[1:] != like.x.shape[1:]:
        raise ValueError(
            f"{name}x must have samples of shape {like.x.shape[1:]}, as x has, "
            f"got {inputs.shape[1:]}"
        )
    steps = None
    if lengths is not None:
        if not model.takes_lengths:
            raise ValueError(f"{name}lengths: no layer of the model takes lengths of sequences")
        steps = checked_lengths(f"{name}lengths", lengths, inputs)
    outputs = model.output_shape(inputs.shape[1:])
    targets = None if y is None else checked_targets(f"{name}y", y, len(inputs), outputs, criterion)
    for what, array in (("x", inputs), ("y", targets)):
        if on_device(array) and model.device == "cpu":
            raise TypeError(
                f"{name}{what} is on a GPU and the model is not: use model.to('cuda'), or "
                f"cupy.asnumpy({what})"
            )
    return Data(inputs, targets, steps, dtype, model.device)


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


def input_dtype(model: Layer) -> np.dtype[Any]:
    """The dtype that batches are converted to: that of the weights, or indices."""
    return np.dtype(np.int64) if model.integer_input else model_dtype(model)


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
    try:
        data = as_data(x)
    except ValueError:
        raise ValueError(
            f"{name} must be an array of samples of one shape; pad sequences and give lengths="
        ) from None
    if dtype.kind == "i":
        if data.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be integers, the indices that the first layer looks up, got dtype "
                f"{data.dtype}; use .astype(np.int64)"
            )
    elif data.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {data.dtype}")
    if data.ndim == 0 or data.size == 0:
        raise ValueError(f"{name} must be of shape (samples, ...) and not empty, got {data.shape}")
    if data.dtype.kind == "f":
        rows = max(1, _BLOCK * len(data) // data.size)
        for start in range(0, len(data), rows):
            xp = array_namespace(data)
            finite = xp.isfinite(batch(data, slice(start, start + rows), dtype))
            if not finite.all():
                first, *rest = map(int, xp.argwhere(~finite)[0])
                at = (start + first, *rest)
                raise ValueError(f"{name} must be finite in {dtype}, got {data[at]} at {at}")
    return data


def checked_targets(
    name: str, y: ArrayLike, samples: int, outputs: tuple[int | None, ...], criterion: object
) -> NDArray[Any]:
    """`y` as an array, if it can be the targets of outputs (samples, *outputs).

    Raises
    ------
    TypeError, ValueError
        If there is not one for each sample, or as the loss says in its `check`.
    """
    targets = as_data(y)
    if targets.ndim == 0 or len(targets) != samples:
        found = f"shape {targets.shape}" if targets.ndim == 0 else f"{len(targets)}"
        raise ValueError(
            f"{name} must hold one target for each of the {samples} samples, got {found}"
        )
    if isinstance(criterion, CheckedLoss):
        return criterion.check(targets, (samples, *outputs))
    return targets


def checked_lengths(name: str, lengths: ArrayLike, x: NDArray[Any]) -> NDArray[np.int64]:
    """`lengths` as int64 (samples,), each in [0, time].

    Parameters
    ----------
    name : str
    lengths : array_like of int, shape (samples,)
    x : ndarray, shape (samples, time, ...)

    Raises
    ------
    TypeError, ValueError
        If they are not integers, not one for each sample or beyond the data.
    """
    found = np.asarray(lengths)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {found.dtype}")
    if x.ndim < 2 or found.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must hold one number for each sequence of data of shape (samples, time, ...), "
            f"got shape {found.shape} for data of shape {x.shape}"
        )
    if found.size and not 0 <= found.min() <= found.max() <= x.shape[1]:
        bad = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"{name} must be in [0, {x.shape[1]}], the steps of the data, got {bad}")
    return found.astype(np.int64)


def as_data(x: Any) -> NDArray[Any]:
    """x as an array, where it is."""
    return x if on_device(x) else np.asarray(x)


def taken(x: Array, rows: slice | NDArray[np.integer]) -> Array:
    """Some rows, where x is."""
    if on_device(x) and not isinstance(rows, slice):
        rows = to_device(rows, "cuda")
    return x[rows]


def batch(x: NDArray[Any], rows: slice | NDArray[np.integer], dtype: np.dtype[Any]) -> Array:
    """Some rows, contiguous and in `dtype`, where x is."""
    with np.errstate(over="ignore"):
        return array_namespace(x).ascontiguousarray(taken(x, rows), dtype=dtype)

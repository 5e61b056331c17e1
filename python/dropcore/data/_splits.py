"""Splits of data into parts for training, validation and testing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.checks import check_integer, check_number, shown
from dropcore._base.device import on_device
from dropcore._base.extras import require
from dropcore._base.generators import DATA, generator
from dropcore.key import Key

__all__ = ["split", "split_rows"]


def split(
    *data: Any,
    validation: float | int = 0.2,
    test: float | int = 0,
    stratify: ArrayLike | None = None,
    key: Key | int = 0,
) -> tuple[Any, ...]:
    """Split data at random into parts for training, validation and, optionally, testing.

    Parameters
    ----------
    *data : data frames, arrays or lists of the same length
        Such as inputs and labels, which are split alike.
    validation : float or int, default 0.2
        A fraction of the samples, in [0, 1), or their number. 0 leaves the part out.
    test : float or int, default 0
        As `validation`.
    stratify : array (samples,), optional
        Labels: every part gets their classes in the same proportions, by scikit-learn.
    key : Key or int, default 0
        The same seed gives the same split.

    Returns
    -------
    tuple
        The parts for training, validation and testing. Each is a tuple like `data`, or the part
        itself if there is one argument. Samples stay in their order. Parts are copies; for data
        larger than memory take the rows by `split_rows`, or use ``fit(validation_split=)``.

    Raises
    ------
    TypeError
        If data is neither a data frame, nor an array, nor a list.
    ValueError
        If lengths differ, a part would be empty, or a class is too small to be in every part.

    Examples
    --------
    >>> x, y = np.arange(10.0).reshape(5, 2), np.array([0, 1, 0, 1, 0])
    >>> (x_train, y_train), (x_held, y_held) = split(x, y, validation=0.4, stratify=y, key=7)
    >>> len(x_train), sorted(y_held.tolist())
    (3, [0, 1])
    """
    if not data:
        raise TypeError("split: give the data to split, such as x and y")
    lengths = [_length(number, item) for number, item in enumerate(data)]
    if len(set(lengths)) > 1:
        raise ValueError(f"split: data must be of the same length, got {lengths}")
    parts = split_rows(lengths[0], validation=validation, test=test, stratify=stratify, key=key)
    if len(data) == 1:
        return tuple(_taken(data[0], rows) for rows in parts)
    return tuple(tuple(_taken(item, rows) for item in data) for rows in parts)


def split_rows(
    samples: int,
    *,
    validation: float | int = 0.2,
    test: float | int = 0,
    stratify: ArrayLike | None = None,
    key: Key | int = 0,
) -> tuple[NDArray[np.int64], ...]:
    """Which samples `split` puts into each part.

    Parameters
    ----------
    samples : int
        Number of samples.
    validation, test, stratify, key
        As for `split`.

    Returns
    -------
    tuple of int64 arrays
        For training, validation and testing, sorted. Each sample is in one of them.

    Raises
    ------
    TypeError, ValueError
        As for `split`.
    """
    samples = check_integer("split: the number of samples", samples, 1)
    sizes = {
        name: size
        for name, share in (("validation", validation), ("test", test))
        if (size := _size(name, share, samples))
    }
    if not sizes:
        raise ValueError("split: validation and test are both 0, so that there is nothing to split")
    if sum(sizes.values()) >= samples:
        parts = " and ".join(f"{size} for {name}" for name, size in sizes.items())
        raise ValueError(f"split: {samples} samples leave none for training after {parts}")
    if stratify is None:
        shuffled = generator(key, DATA).permutation(samples)
        ends = np.cumsum(list(sizes.values()))
        *held, train = np.split(shuffled, ends)
        return tuple(np.sort(rows) for rows in (train, *held))
    return _stratified(np.arange(samples), sizes, _labels(stratify, samples), key)


def _stratified(
    rows: NDArray[np.int64], sizes: Mapping[str, int], labels: NDArray[np.int64], key: Key | int
) -> tuple[NDArray[np.int64], ...]:
    selection = require("sklearn.model_selection", "tables", "a stratified split")
    held = []
    for number, (name, size) in enumerate(sizes.items()):
        counts = np.bincount(labels[rows])
        classes = np.count_nonzero(counts)
        smallest = int(counts[counts > 0].min())
        parts = len(sizes) - number + 1
        if smallest < parts:
            raise ValueError(
                f"split: stratify has a class of {smallest} sample{'s' * (smallest > 1)}"
                f"{' left' if number else ''}, too few to be in {parts} parts: leave out rare "
                "classes or merge them, and leave out stratify for targets of a regression"
            )
        if min(size, len(rows) - size) < classes:
            raise ValueError(
                f"split: {size} of {len(rows)} samples for {name} cannot hold each of the "
                f"{classes} classes of stratify: make the smaller part larger"
            )
        random = np.random.RandomState(generator(key, DATA, 1 + number).bit_generator)
        rows, part = selection.train_test_split(
            rows, test_size=size, stratify=labels[rows], random_state=random
        )
        held.append(np.sort(part))
    return (np.sort(rows), *held)


def _size(name: str, share: Any, samples: int) -> int:
    """The number of samples of a part."""
    if isinstance(share, int | np.integer) and not isinstance(share, bool):
        return check_integer(f"split: {name}", share, 0)
    fraction = check_number(f"split: {name}", share, "[0, 1)")
    return max(1, int(fraction * samples + 0.5)) if fraction else 0


def _labels(stratify: ArrayLike, samples: int) -> NDArray[np.int64]:
    """Labels of any type as numbers of classes."""
    if isinstance(stratify, str | bool) or np.ndim(stratify) == 0:
        raise TypeError(
            f"split: stratify must be an array of labels, such as y, got {shown(stratify)}"
        )
    found = np.asarray(stratify)
    if found.shape != (samples,):
        raise ValueError(
            f"split: stratify must hold one label for each of the {samples} samples, got shape "
            f"{found.shape}"
        )
    missing = np.array([value is None or value != value for value in found.tolist()])
    if missing.any():
        raise ValueError(f"split: stratify has no label for sample {int(np.argmax(missing))}")
    if found.dtype.kind == "O":
        found = found.astype(str)
    return np.unique(found, return_inverse=True)[1]


def _length(number: int, item: Any) -> int:
    if isinstance(item, list | tuple):
        return len(item)
    shape = getattr(item, "shape", None)
    if not isinstance(shape, tuple) or not shape:
        raise TypeError(
            f"split: argument {number} must be a data frame, an array or a list of samples, got "
            f"{shown(item)}"
        )
    return int(shape[0])


def _taken(item: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(item, list | tuple):
        return [item[row] for row in rows]
    if hasattr(item, "iloc"):
        return item.iloc[rows]
    return item[to_device(rows, "cuda") if on_device(item) else rows]

"""Sources of batches: arrays, or an iterable of batches."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from dropcore._base.checks import shown
from dropcore._base.device import on_device
from dropcore.distributed._blocks import WHOLE, Blocks
from dropcore.key import Key
from dropcore.losses import Loss
from dropcore.permutation import Permutation
from dropcore.training._data import Batch, Data, check_feature_names, checked_data, feature_names

if TYPE_CHECKING:
    from dropcore.data import ParquetRows
    from dropcore.nn.layer import Layer

__all__ = ["Arrays", "Batches", "Piece", "Rows", "Source", "is_array", "is_rows", "refuse_iterator"]


_FIRST: Final = 1024
"""Rows of files for which the model is built and the loss is chosen."""


class Piece(NamedTuple):
    """A block of rows of a batch.

    Attributes
    ----------
    batch : Batch
        The rows, of which there may be none.
    row_offset : int
        The position of the first one in the whole batch.
    rows : int
        Of the whole batch.
    """

    batch: Batch
    row_offset: int
    rows: int


class Source:
    """A set of samples that is iterated over in batches, once or several times.

    Attributes
    ----------
    data : Data
        All samples, or those of the first batch.
    count : int or None
        Number of batches, if it is known.
    size : int or None
        Samples in a batch, if it is the same for all but the last.
    """

    data: Data
    count: int | None
    size: int | None = None

    def pieces(
        self, blocks: Blocks, epoch: int = 0, skip: int = 0, *, turn: int = 0, turns: int = 1
    ) -> Iterator[list[Piece]]:
        """Of the batches of an epoch the blocks of this process.

        Parameters
        ----------
        blocks : Blocks
        epoch : int
        skip : int
            How many batches at the beginning to leave out.
        turn, turns : int
            Of every `turns` batches only the one at position `turn` is taken.
        """
        raise NotImplementedError

    def batches(self, *, turn: int = 0, turns: int = 1) -> Iterator[Batch]:
        """The whole batches, as those of `pieces`."""
        for (piece,) in self.pieces(WHOLE, turn=turn, turns=turns):
            yield piece.batch

    def arguments(self) -> dict[str, Any]:
        """What decides which samples are in which batch, by the arguments of `fit`."""
        return {"batch_size": None, "shuffle": None, "samples": None}


class Arrays(Source):
    """Checked arrays, in an order of its own for each epoch if there is a key."""

    size: int

    def __init__(self, data: Data, batch_size: int, key: Key | None = None) -> None:
        self.data, self.size = data, batch_size
        self._key = key
        self.count = math.ceil(len(data) / batch_size)

    def pieces(
        self, blocks: Blocks, epoch: int = 0, skip: int = 0, *, turn: int = 0, turns: int = 1
    ) -> Iterator[list[Piece]]:
        samples, size = len(self.data), self.size
        order = None if self._key is None else Permutation(samples, Key(self._key.seed, step=epoch))
        for start in range((skip + turn) * size, samples, size * turns):
            rows = min(size, samples - start)
            found = []
            for block in blocks.rows(rows):
                first = start + block.start
                here: Any = slice(first, first + len(block))
                if order is not None:
                    here = order.rows(first, len(block))
                found.append(Piece(self.data.take(here), block.start, rows))
            yield found

    def arguments(self) -> dict[str, Any]:
        shuffled = self._key is not None
        return {"batch_size": self.size, "shuffle": shuffled, "samples": len(self.data)}


class Rows(Source):
    """Rows of files, which are checked as they are read.

    Parameters
    ----------
    model : Layer
    name : str
        Of the argument, for messages, such as "x".
    rows : ParquetRows
    batch_size : int
    loss : Loss, optional
        Which checks the targets. By default it is chosen for the first rows.
    like : Data, optional
        Samples that the model will be built for.
    key : Key, optional
        Of the order of the rows; by default that of the files.

    Raises
    ------
    TypeError, ValueError
        If the model cannot take the first rows.
    """

    size: int

    def __init__(
        self,
        model: Layer,
        name: str,
        rows: ParquetRows,
        batch_size: int,
        loss: Loss | None,
        like: Data | None = None,
        key: Key | None = None,
    ) -> None:
        self._model, self._name, self._rows, self._key = model, name, rows, key
        self.size, self.count = batch_size, math.ceil(len(rows) / batch_size)
        state = model.training_state
        names = None if state is None else state.feature_names
        check_feature_names(name, rows, names if like is None else like.names)
        x, y = rows.read(0, min(len(rows), _FIRST))
        first = checked_data(model, x, y, loss=loss, name=f"{name}: ", like=like)
        self.data = replace(first, names=feature_names(rows))

    def pieces(
        self, blocks: Blocks, epoch: int = 0, skip: int = 0, *, turn: int = 0, turns: int = 1
    ) -> Iterator[list[Piece]]:
        key = None if self._key is None else Key(self._key.seed, step=epoch)
        batches = self._rows.batches(self.size, key=key)
        for number in range(skip + turn, len(batches), turns):
            n = min(self.size, len(self._rows) - number * self.size)
            yield [
                Piece(self._batch(batches, number, block), block.start, n)
                for block in blocks.rows(n)
            ]

    def _batch(self, batches: Any, number: int, block: range) -> Batch:
        if not block:
            return self.data.take(slice(0, 0))
        x, y = batches.take(number, block.start, block.stop)
        name = f"{self._name}: batch {number + 1}: "
        found = checked_data(self._model, x, y, loss=self.data.loss, name=name, like=self.data)
        return found.take(slice(None))

    def arguments(self) -> dict[str, Any]:
        rows = self._rows
        return {
            "batch_size": self.size,
            "shuffle": self._key is not None,
            "samples": len(rows),
            "columns": rows.columns,
            "streams": rows.streams,
            "window": rows.window,
        }


class Batches(Source):
    """An iterable of batches, each of which is checked as it comes.

    Parameters
    ----------
    model : Layer
    name : str
        Of the argument, for messages, such as "x".
    given : iterable
        Of ``(x, y)`` or ``(x, y, sample_weight)``, or of dicts of these and lengths. Unless it is
        an iterator, it can be iterated over several times. Its first batch is taken at once.
    loss : Loss, optional
        Which checks the targets. By default it is chosen for the first batch.
    like : Data, optional
        Samples that the model will be built for.

    Raises
    ------
    TypeError, ValueError
        If it yields nothing, or the model cannot take the first batch.
    """

    def __init__(
        self, model: Layer, name: str, given: Any, loss: Loss | None, like: Data | None = None
    ) -> None:
        if isinstance(given, Mapping | str | bytes) or not isinstance(given, Iterable):
            called = callable(given) and not isinstance(given, type)
            raise TypeError(
                f"{name} must be an array with y, or without it an iterable of batches (x, y), got "
                f"{shown(given)}{'; call it' if called else ''}"
            )
        self._model, self._name, self._given = model, name, given
        try:
            self.count = len(given)  # type: ignore[arg-type]
        except TypeError:
            self.count = None
        self._rest: Iterator[Any] | None = iter(given)
        try:
            self._first = next(self._rest)
        except StopIteration:
            raise ValueError(f"{name} yields no batch") from None
        self._loss, self._like = loss, like
        self.data = self._checked(1, self._first)
        self._loss, self._like = self.data.loss, self.data

    def pieces(
        self, blocks: Blocks, epoch: int = 0, skip: int = 0, *, turn: int = 0, turns: int = 1
    ) -> Iterator[list[Piece]]:
        number = 0
        for number, item in enumerate(self._items(), 1):
            if number <= skip or (number - 1 - skip) % turns != turn:
                continue
            data = self._checked(number, item)
            yield [
                Piece(data.take(slice(block.start, block.stop)), block.start, len(data))
                for block in blocks.rows(len(data))
            ]
        if number < max(skip, 1):
            done = f", of which {skip} are done" if skip else ""
            raise ValueError(
                f"{self._name} yields {number or 'no'} batches in epoch {epoch + 1}{done}: each "
                "iteration over it must begin anew, as with a list or a DataLoader"
            )

    def _items(self) -> Iterator[Any]:
        """All batches; the first time those that follow the one that was taken."""
        if self._rest is None:
            return iter(self._given)
        items, self._rest = itertools.chain([self._first], self._rest), None
        self._first = None
        return items

    def _checked(self, number: int, item: Any) -> Data:
        name = f"{self._name}: batch {number}"
        if isinstance(item, Mapping):
            if not {"x", "y"} <= item.keys() <= {"x", "y", "lengths", "sample_weight"}:
                raise ValueError(
                    f"{name} as a dict must have x and y, and may have lengths and sample_weight, "
                    f"got {sorted(item, key=str)}"
                )
            parts = dict(item)
        elif isinstance(item, tuple | list) and 2 <= len(item) <= 3 and not _is_sample(item):
            parts = dict(zip(("x", "y", "sample_weight"), item, strict=False))
        else:
            found = shown(item)
            if isinstance(item, tuple | list):
                words = " numbers" if _is_sample(item) else ""
                found = f"a {type(item).__name__} of {len(item)}{words}"
            raise TypeError(
                f"{name} must be (x, y) or (x, y, sample_weight), got {found}: if {self._name} "
                "holds samples, give y"
            )
        return checked_data(
            self._model, **parts, loss=self._loss, name=f"{name}: ", like=self._like
        )


def is_rows(x: Any) -> TypeGuard[ParquetRows]:
    """Whether x are rows of files."""
    from dropcore.data import ParquetRows

    return isinstance(x, ParquetRows)


def is_array(x: Any) -> TypeGuard[ArrayLike]:
    """Whether x is an array or a data frame."""
    return on_device(x) or isinstance(x, np.ndarray) or hasattr(x, "__array__")


def _is_sample(item: Iterable[Any]) -> bool:
    """Whether it holds numbers, and no arrays."""
    return all(isinstance(part, numbers.Number) for part in item)


def refuse_iterator(name: str, given: Any, epochs: int) -> None:
    """TypeError if an iterator, such as a generator, would be needed more than once."""
    if epochs > 1 and isinstance(given, Iterator):
        raise TypeError(
            f"{name} is {type(given).__name__}, which yields its batches once, and there are "
            f"{epochs} epochs: give a list, a DataLoader or another object whose __iter__ begins "
            "anew, or call fit with epochs=1 for each generator"
        )

"""Rows of Parquet files, read a few row groups at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dropcore._base.checks import check_integer, listed, shown
from dropcore._base.extras import require
from dropcore.data._columns import expect_column
from dropcore.data._files import existing_file
from dropcore.key import Key, as_key
from dropcore.permutation import Permutation

__all__ = ["ParquetRows"]

_WHAT: Final = "ParquetRows"

# Streams of the permutations of an epoch, whose step it is. 0 is that of arrays.
_OF_GROUPS: Final = 1
_OF_WINDOWS: Final = 2
_MOST_WINDOWS: Final = (1 << 21) - _OF_WINDOWS

Part = tuple[NDArray[Any], NDArray[Any]]


class ParquetRows:
    """The rows of Parquet files that need not fit into memory, for ``fit(rows, ...)``.

    `fit` reads a few row groups at a time. Every epoch has an order of its own, which depends on
    the seed, the epoch, `batch_size`, `streams` and `window`, and not on the number of processes:
    see Notes. `evaluate` and `validation_data` take the rows in the order of the files.

    Parameters
    ----------
    path : path, or list of paths
        A Parquet file, a folder of files that end with ``.parquet``, in the order of their names,
        or several files. All have the same columns.
    target : str or list of str
        The column, or columns, that a model is to predict.
    columns : list of str, optional
        The features, in this order. By default all columns but `target` and `drop`.
    drop : list of str, default ()
        Columns to leave out.
    dtype : dtype, default float32
        Of the features: float32, float64, or int64 for the indices of an embedding.
    streams : int, default 8
        Parts that the row groups are dealt to. Each batch takes its share from every one. Of N
        processes, each reads the row groups of ``streams / N`` streams.
    window : int, default 2
        Row groups whose rows are mixed in each stream.

    Attributes
    ----------
    columns : list of str
        Names of the features.
    target : list of str
    groups : int
        Number of row groups that have rows.
    streams, window : int

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no Parquet file in the folder.
    ImportError
        If pyarrow is missing.
    TypeError
        If a column does not hold numbers or booleans, or an argument is of another type.
    ValueError
        If a file is empty, damaged or of another format, a column is missing or has missing values,
        the files differ in their columns, or an argument is outside its range.

    Notes
    -----
    The row groups are put in a random order, and the rows that this gives are cut into `streams`
    parts of the lengths that the batches need. In a part, the rows of each `window` row groups are
    permuted. Row j of a batch of n rows comes from stream s if n s / streams <= j <
    n (s + 1) / streams, rounded down, so that a process that computes some blocks of each batch
    reads the row groups of these streams only. All permutations are :class:`dropcore.Permutation`.

    A process holds `window` row groups for each of its streams. A batch mixes rows of
    ``streams * window`` row groups; where files are sorted, more of them mix better. Row groups of
    10^4 to 10^5 rows suit best: ``pyarrow.parquet.write_table(table, path, row_group_size=...)``.

    Examples
    --------
    >>> rows = ParquetRows("flights/", target="delay", drop=["id"])  # doctest: +SKIP
    >>> model.fit(rows, loss="mse", epochs=3, batch_size=512, key=7)  # doctest: +SKIP
    >>> x, y = rows.read(0, 1000)  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        target: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        drop: Sequence[str] = (),
        dtype: DTypeLike = np.float32,
        streams: int = 8,
        window: int = 2,
    ) -> None:
        self.streams = check_integer(f"{_WHAT}: streams", streams, 1)
        self.window = check_integer(f"{_WHAT}: window", window, 1)
        self._dtype = np.dtype(dtype)
        if self._dtype not in (np.float32, np.float64, np.int64):
            raise TypeError(f"{_WHAT}: dtype must be float32, float64 or int64, got {self._dtype}")
        self.target = _names("target", target)
        if not self.target:
            raise ValueError(f"{_WHAT}: target must name a column, got none")
        self._single = isinstance(target, str)
        wanted = None if columns is None else _names("columns", columns)
        unwanted = _names("drop", drop)
        if wanted is not None and unwanted:
            raise ValueError(f"{_WHAT}: give columns or drop, not both")
        both = [name for name in self.target if name in (wanted or unwanted)]
        if both:
            place = "drop" if wanted is None else "columns"
            raise ValueError(f"{_WHAT}: {listed(both)} cannot be both in target and in {place}")

        self._files = _files(path)
        first = _metadata(self._files[0])
        names = _schema(self._files[0], first).names
        for name in (*self.target, *(wanted or unwanted)):
            expect_column(_WHAT, names, name, f"in {self._files[0]}")
        self.columns = wanted or [n for n in names if n not in (*self.target, *unwanted)]
        if not self.columns:
            raise ValueError(f"{_WHAT}: {self._files[0]} has no columns besides target and drop")
        self._groups: list[tuple[int, int]] = []
        sizes: list[int] = []
        kinds = _kinds(self._files[0], first, self._read, None)
        for number, file in enumerate(self._files):
            found = first if number == 0 else _metadata(file)
            _kinds(file, found, self._read, kinds)
            _expect_no_missing(file, found, self._read)
            for group in range(found.num_row_groups):
                rows = found.row_group(group).num_rows
                if rows:
                    self._groups.append((number, group))
                    sizes.append(rows)
        if not sizes:
            raise ValueError(f"{_WHAT}: {listed(map(str, self._files))} has no rows")
        whole = self.columns if self._dtype == np.int64 else []
        _expect_integers(kinds, whole, self.target)
        dtypes = [_target_dtype(kinds[name]) for name in self.target]
        self._no_targets = np.empty((0, len(dtypes)), np.result_type(*dtypes))
        self._sizes = np.array(sizes, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])

    @property
    def groups(self) -> int:
        """Number of row groups that have rows."""
        return len(self._groups)

    @property
    def _read(self) -> list[str]:
        """The columns that are read."""
        return [*self.columns, *self.target]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return (
            f"<ParquetRows: {len(self)} rows in {self.groups} row groups of {len(self._files)} "
            f"files, {len(self.columns)} features, target {listed(self.target)}>"
        )

    def read(self, start: int, stop: int) -> Part:
        """Rows in the order of the files.

        Parameters
        ----------
        start, stop : int
            The rows [start, stop), of those in [0, len(rows)).

        Returns
        -------
        x : array (stop - start, features)
            Of the dtype of the features.
        y : array (stop - start,), or (stop - start, targets) for a list of targets
            Integers as int64, booleans as bool, others as float64.

        Raises
        ------
        ValueError
            If the rows are none of the files, or the files have changed.
        """
        first = check_integer(f"{_WHAT}.read: start", start, 0, len(self))
        last = check_integer(f"{_WHAT}.read: stop", stop, first, len(self))
        return self._of_groups(np.arange(self.groups), self._starts, first, last)

    def batches(self, batch_size: int, *, key: Key | int | None = None) -> RowBatches:
        """The batches of an epoch, as `fit` takes them.

        Parameters
        ----------
        batch_size : int
        key : Key or int, optional
            Seed, and the number of the epoch as its step. By default the order of the files.

        Returns
        -------
        iterable of (x, y)
            With a length. Its method ``take(batch, first, last)`` returns the rows [first, last)
            of a batch, for which it reads their row groups only.

        Raises
        ------
        TypeError, ValueError
            If an argument is invalid.

        Examples
        --------
        >>> for x, y in rows.batches(256, key=Key(7, step=2)):  # doctest: +SKIP
        ...     train(x, y)
        """
        size = check_integer(f"{_WHAT}.batches: batch_size", batch_size, 1)
        return RowBatches(self, size, None if key is None else as_key(key))

    def _of_groups(
        self, order: NDArray[np.int64], starts: NDArray[np.int64], first: int, last: int
    ) -> Part:
        """The rows [first, last) of row groups in some order, which begin at `starts`."""
        x = np.empty((last - first, len(self.columns)), self._dtype)
        y: list[NDArray[Any]] = []
        at = int(np.searchsorted(starts, first, "right")) - 1
        done = first
        while done < last:
            begin, end = int(starts[at]), min(int(starts[at + 1]), last)
            rows = slice(done - begin, end - begin)
            table = self._table(int(order[at]))
            for place, name in enumerate(self.columns):
                x[done - first : end - first, place] = table[name][rows]
            targets = [table[name][rows] for name in self.target]
            y.append(np.stack(targets, axis=1).astype(self._no_targets.dtype))
            done, at = end, at + 1
        whole = np.concatenate([self._no_targets, *y])
        return x, whole[:, 0] if self._single else whole

    def _table(self, number: int) -> dict[str, NDArray[Any]]:
        """The columns of a row group."""
        arrow = require("pyarrow", "tables", "reading a Parquet file")
        parquet = require("pyarrow.parquet", "tables", "reading a Parquet file")
        of, group = self._groups[number]
        file, found = self._files[of], {}
        try:
            # By this thread alone: a window is read as a whole, and the core has its own threads.
            with parquet.ParquetFile(file, pre_buffer=False) as opened:
                table = opened.read_row_group(group, columns=self._read, use_threads=False)
        except MemoryError:
            raise
        except (arrow.ArrowException, OSError, LookupError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{_WHAT}: {file} is damaged, or was changed: {reason}") from None
        if table.num_rows != self._sizes[number] or not {*self._read} <= {*table.column_names}:
            raise ValueError(f"{_WHAT}: {file} was changed: create the object again")
        for name in self._read:
            column = table.column(name)
            if column.null_count:
                raise _missing(file, name, column.null_count, group)
            found[name] = column.to_numpy()
        return found


@dataclass(frozen=True)
class _Window:
    """Some row groups of a stream: the places [first, last) of the row groups in their order."""

    number: int
    first: int
    last: int


class RowBatches:
    """The batches of an epoch, of which any rows can be taken.

    Parameters
    ----------
    rows : ParquetRows
    batch_size : int
    key : Key or None
        Seed, and the epoch as its step; None for the order of the files.
    """

    def __init__(self, rows: ParquetRows, batch_size: int, key: Key | None) -> None:
        self._rows, self._size, self._key = rows, batch_size, key
        self._total, groups = len(rows), rows.groups
        self._streams, self._window = (1, 1) if key is None else (rows.streams, rows.window)
        self._order = np.arange(groups)
        if key is not None:
            self._order = Permutation(groups, key.at(stream=_OF_GROUPS)).rows()
        self._starts = np.concatenate([[0], np.cumsum(rows._sizes[self._order])])
        whole, rest = divmod(self._total, batch_size)
        lengths = [
            whole * len(self._share(s, batch_size)) + len(self._share(s, rest))
            for s in range(self._streams)
        ]
        self._cuts = np.concatenate([[0], np.cumsum(lengths)])
        self._open: dict[int, tuple[_Window, Part]] = {}

    def __len__(self) -> int:
        return -(-self._total // self._size)

    def __iter__(self) -> Iterator[Part]:
        for batch in range(len(self)):
            yield self.take(batch, 0, self._rows_of(batch))

    def _rows_of(self, batch: int) -> int:
        return min(self._size, self._total - batch * self._size)

    def take(self, batch: int, first: int, last: int) -> Part:
        """The rows [first, last) of a batch."""
        n = self._rows_of(batch)
        parts: list[Part] = []
        for stream in range(self._streams):
            share = self._share(stream, n)
            begin, end = max(first, share.start), min(last, share.stop)
            if begin < end:
                before = batch * len(self._share(stream, self._size)) - share.start
                parts += self._of_stream(stream, before + begin, before + end)
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    def _share(self, stream: int, n: int) -> range:
        """The rows of a batch of n that come from a stream."""
        return range(n * stream // self._streams, n * (stream + 1) // self._streams)

    def _of_stream(self, stream: int, first: int, last: int) -> Iterable[Part]:
        """The rows at the places [first, last) of a stream, a window after the other."""
        first, last = int(self._cuts[stream]) + first, int(self._cuts[stream]) + last
        while first < last:
            window, (x, y) = self._window_at(stream, first)
            end = min(last, window.last)
            places: Any = slice(first - window.first, end - window.first)
            if self._key is not None:
                number = _OF_WINDOWS + window.number % _MOST_WINDOWS
                order = Permutation(window.last - window.first, self._key.at(stream=number))
                places = order.rows(first - window.first, end - first)
            yield x[places], y[places]
            first = end

    def _window_at(self, stream: int, place: int) -> tuple[_Window, Part]:
        """The window of a stream with that place, read if it is another one than before."""
        held = self._open.get(stream)
        if held is not None and held[0].first <= place < held[0].last:
            return held
        self._open.pop(stream, None)
        begin, end = int(self._cuts[stream]), int(self._cuts[stream + 1])
        # Row groups are counted from the one in which the stream begins.
        origin = int(np.searchsorted(self._starts, begin, "right")) - 1
        at = int(np.searchsorted(self._starts, place, "right")) - 1
        step = (at - origin) // self._window
        left = origin + step * self._window
        right = min(left + self._window, len(self._starts) - 1)
        window = _Window(
            stream + self._streams * step,
            max(begin, int(self._starts[left])),
            min(end, int(self._starts[right])),
        )
        part = self._rows._of_groups(self._order, self._starts, window.first, window.last)
        self._open[stream] = window, part
        return self._open[stream]


# --- files and columns ---------------------------------------------------------------------------


def _files(path: Any) -> list[Path]:
    if isinstance(path, list | tuple):
        if not path:
            raise ValueError(f"{_WHAT}: path must name a file, got none")
        return [existing_file(_WHAT, each) for each in path]
    if isinstance(path, str | os.PathLike) and Path(path).is_dir():
        found = sorted(Path(path).glob("*.parquet"))
        if not found:
            raise FileNotFoundError(
                f"{_WHAT}: the folder {path} has no files that end with .parquet"
            )
        return found
    return [existing_file(_WHAT, path)]


def _metadata(file: Path) -> Any:
    arrow = require("pyarrow", "tables", "reading a Parquet file")
    parquet = require("pyarrow.parquet", "tables", "reading a Parquet file")
    try:
        return parquet.read_metadata(file)
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{_WHAT}: {file} is not a Parquet file, or is damaged: {reason}; tables of other "
            "formats are written as Parquet by dropcore.data.read_table(path).to_parquet(...)"
        ) from None


def _schema(file: Path, metadata: Any) -> Any:
    """Names and types of the columns; ValueError if two have one name."""
    schema = metadata.schema.to_arrow_schema()
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{_WHAT}: {file} has two columns of the name {listed(twice)}: rename one of them"
        )
    return schema


def _names(what: str, names: Any) -> list[str]:
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{_WHAT}: {what} must be a column's name or several, got {shown(names)}")
    if len(set(found)) < len(found):
        raise ValueError(f"{_WHAT}: {what} names a column twice, got {shown(names)}")
    return list(found)


def _kinds(file: Path, metadata: Any, names: Sequence[str], like: Any) -> dict[str, Any]:
    """The types of columns; TypeError or ValueError if they cannot be read, or differ."""
    types = require("pyarrow.types", "tables", "reading a Parquet file")
    schema = _schema(file, metadata)
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise ValueError(
            f"{_WHAT}: {file} lacks the columns {listed(missing)} of the first file: all files "
            "must have the same columns"
        )
    found = {name: schema.field(name).type for name in names}
    for name, kind in found.items():
        whole = types.is_integer(kind)
        if not (whole or types.is_floating(kind) or types.is_boolean(kind)):
            raise TypeError(
                f"{_WHAT}: the column {name!r} of {file} must hold numbers or booleans, got "
                f"{kind}: leave it out by drop=, or write it as numbers, such as those of "
                "pandas.factorize"
            )
        if like is not None and kind != like[name]:
            raise ValueError(
                f"{_WHAT}: the column {name!r} of {file} is {kind}, and in the first file "
                f"{like[name]}: all files must have the same columns"
            )
    return found


def _expect_integers(
    kinds: Mapping[str, Any], features: Sequence[str], target: Sequence[str]
) -> None:
    """TypeError if columns that become int64 hold other numbers."""
    types = require("pyarrow.types", "tables", "reading a Parquet file")
    for name in features:
        if types.is_floating(kinds[name]):
            raise TypeError(
                f"{_WHAT}: dtype int64 is for columns of integers, and {name!r} is {kinds[name]}: "
                "use float32, or leave the column out"
            )
    for name in (*features, *target):
        if types.is_uint64(kinds[name]):
            raise TypeError(
                f"{_WHAT}: the column {name!r} becomes int64 and is uint64: write it as int64"
            )


def _target_dtype(kind: Any) -> type[np.generic]:
    types = require("pyarrow.types", "tables", "reading a Parquet file")
    if types.is_boolean(kind):
        return np.bool_
    return np.int64 if types.is_integer(kind) else np.float64


def _expect_no_missing(file: Path, metadata: Any, names: Sequence[str]) -> None:
    """ValueError if the statistics of a file count missing values."""
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group)
        for place in range(found.num_columns):
            column = found.column(place)
            counted = column.statistics
            if column.path_in_schema in names and counted is not None and counted.null_count:
                raise _missing(file, column.path_in_schema, counted.null_count, group)


def _missing(file: Path, name: str, count: int, group: int) -> ValueError:
    return ValueError(
        f"{_WHAT}: the column {name!r} of {file} has {count} missing values in row group {group}: "
        "fill them, or leave these rows out, when the file is written"
    )

"""Tables from CSV and Parquet files, by pandas."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import listed, shown, users_level
from dropcore._base.extras import require
from dropcore.data._columns import expect_column, is_number_text
from dropcore.data._files import existing_file

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["read_table", "split_target"]

_SEPARATORS: Final = (",", ";", "\t", "|")
_SAMPLE: Final = 1 << 16
"""Characters in which the separator is looked for."""

_RECORDS: Final = 200
_PARQUET: Final = b"PAR1"
_OTHERS: Final = {
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".ods": "save the sheet as CSV",
    ".json": "use pandas.read_json",
    ".jsonl": "use pandas.read_json(path, lines=True)",
    ".feather": "use pandas.read_feather",
    ".h5": "use pandas.read_hdf",
    ".pkl": "loading a pickle runs code; save the table as CSV or Parquet",
    ".pickle": "loading a pickle runs code; save the table as CSV or Parquet",
    ".npy": "use dropcore.data.read_arrays",
    ".npz": "use dropcore.data.read_arrays",
    ".zst": "decompress it, or compress it by gzip",
}
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMA: Final = re.compile(r"\s*[+-]?\d+,\d+\s*")
_POINT: Final = re.compile(r"\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*")
_FILTERS: Final = threading.Lock()
"""Held while the filters of warnings, which belong to the process, are changed."""


def read_table(
    path: str | os.PathLike[str],
    *,
    target: str | Sequence[str] | None = None,
    sep: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    names: Sequence[str] | None = None,
    missing_values: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> DataFrame:
    """Read a table from a CSV or Parquet file.

    Parameters
    ----------
    path : path
        A file of text, which may be compressed (.gz, .bz2, .xz, .zip), or a Parquet file
        (.parquet, .pq).
    target : str or list of str, optional
        The column, or columns, that a model is to predict. Rows without a
        value of it are left out, with a warning that counts them.
    sep : str, optional
        The separator of values. By default the one of ``,``, ``;``, tab and ``|`` with which the
        first lines have the same number of values.
    encoding : str, optional
        Of the text. By default that of its byte order mark, else UTF-8.
    decimal : "." or ",", optional
        The decimal mark. By default a comma if that is not the separator and all numbers are
        written with commas.
    names : list of str, optional
        Names of the columns, for a file whose first line is data.
    missing_values : list of str, default ()
        Text that marks a missing value, besides empty text, ``NA``, ``N/A``, ``NaN``, ``null`` and
        ``None``.
    drop : list of str, default ()
        Columns to leave out, such as identifiers.

    Returns
    -------
    DataFrame
        With the file's columns in their order, and rows numbered from 0.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ImportError
        If pandas is missing.
    ValueError
        If the file is empty, damaged, or of another format or encoding; if it has no rows, two
        columns of the same name, a first line of numbers, or no column `target`. The message says
        what to do.

    Warns
    -----
    UserWarning
        If rows without a target are left out, or a first column without a name, such as the index
        that pandas writes.

    See Also
    --------
    split_target : Divide a table into features and target.
    """
    file = existing_file("read_table", path)
    targets = _given_names("target", target)
    unwanted = _given_names("drop", drop)
    both = [name for name in targets if name in unwanted]
    if both:
        raise ValueError(f"read_table: {listed(both)} cannot be both in target and in drop")
    with file.open("rb") as stream:
        is_parquet = stream.read(4) == _PARQUET
    text_only = {
        "sep": sep, "encoding": encoding, "decimal": decimal, "names": names,
        "missing_values": missing_values or None,
    }  # fmt: skip
    if is_parquet or file.suffix.lower() in (".parquet", ".pq"):
        for name, value in text_only.items():
            if value is not None:
                raise ValueError(f"read_table: {name} is for text, and {file} is a Parquet file")
        table = _read_parquet(file)
    else:
        table = _read_text(file, sep, encoding, decimal, names, missing_values)
    if not len(table):
        raise ValueError(f"read_table: {file} has names of columns and no rows below them")
    for name in (*targets, *unwanted):
        expect_column("read_table", table.columns, name, f"in {file}")
    if targets:
        table = _with_targets(file, table, targets)
    table = table.drop(columns=unwanted)
    if table.shape[1] == len(targets):
        raise ValueError(
            f"read_table: {file} has no columns besides "
            f"{listed([*targets, *unwanted]) if targets else 'those in drop'}"
            + ("" if is_parquet or sep is not None else "; is sep=... another one?")
        )
    return table


def split_target(table: DataFrame, target: str | Sequence[str]) -> tuple[DataFrame, NDArray[Any]]:
    """Separate the inputs of a table from the targets.

    Parameters
    ----------
    table : DataFrame
    target : str or list of str

    Returns
    -------
    x : DataFrame
        The other columns.
    y : array (rows,), or (rows, targets) for a list
        Numbers as int64 or float64, booleans as bool, text as str objects.

    Raises
    ------
    ValueError
        If there is no such column, no other column, or a target is missing.
    """
    names = _given_names("target", target)
    if not names:
        raise ValueError("split_target: target must name a column, got none")
    for name in names:
        expect_column("split_target", table.columns, name, "in the table")
    x = table.drop(columns=names)
    if not x.shape[1]:
        raise ValueError("split_target: the table has no columns besides the target")
    missing = table[names].isna().any(axis=1)
    if missing.any():
        raise ValueError(
            f"split_target: {int(missing.sum())} rows have no target, the first of which is row "
            f"{int(np.argmax(missing))}: leave them out by .dropna(subset={names})"
        )
    columns = [_plain_target(table[name]) for name in names]
    if isinstance(target, str):
        return x, columns[0]
    return x, np.stack(columns, axis=1)


def _plain_target(column: Any) -> NDArray[Any]:
    kind = getattr(column.dtype, "kind", "O")
    if kind in "mM":
        raise TypeError(
            f"split_target: the target {column.name!r} holds dates: turn it into numbers"
        )
    if kind == "b":
        return column.to_numpy(dtype=bool)
    if kind in "iu":
        return column.to_numpy(dtype=np.uint64 if column.max() > 2**63 - 1 else np.int64)
    if kind == "f":
        return column.to_numpy(dtype=np.float64)
    return column.to_numpy(dtype=object)


# --- names of columns ----------------------------------------------------------------------------


def _given_names(what: str, names: Any) -> list[str]:
    if names is None:
        return []
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        raise TypeError(
            f"read_table: {what} must be a column's name or several, got {shown(names)}"
        )
    if len(set(found)) < len(found):
        raise ValueError(f"read_table: {what} names a column twice, got {shown(names)}")
    return list(found)


def _check_names(file: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"read_table: {file} has two columns of the name {listed(twice)}: rename one of them"
        )


def _with_targets(file: Path, table: Any, targets: list[str]) -> Any:
    missing = table[targets].isna().any(axis=1)
    count = int(missing.sum())
    if count == len(table):
        raise ValueError(f"read_table: all {count} rows of {file} have no target {listed(targets)}")
    if count:
        warnings.warn(
            f"read_table: {count} of {len(table)} rows of {file} have no target "
            f"{listed(targets)} and are left out",
            UserWarning,
            stacklevel=users_level(),
        )
        table = table[~missing].reset_index(drop=True)
    return table


# --- Parquet -------------------------------------------------------------------------------------


def _read_parquet(file: Path) -> Any:
    pandas = require("pandas", "tables", "reading a Parquet file")
    arrow = require("pyarrow", "tables", "reading a Parquet file")
    parquet = require("pyarrow.parquet", "tables", "reading a Parquet file")
    if not file.stat().st_size:
        raise ValueError(f"read_table: {file} is empty")
    try:
        names = parquet.read_schema(file).names
        # pyarrow cannot read two columns of one name.
        twice = len(set(names)) < len(names)
        table = None if twice else pandas.read_parquet(file, engine="pyarrow")
    except (arrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"read_table: {file} is not a Parquet file, or is damaged: {reason}"
        ) from None
    _check_names(file, names)
    assert table is not None  # or the names would have been refused
    named = [name for name in table.index.names if name is not None]
    return table.reset_index(drop=not named)


# --- text ----------------------------------------------------------------------------------------


def _read_text(
    file: Path,
    sep: str | None,
    encoding: str | None,
    decimal: str | None,
    names: Sequence[str] | None,
    missing_values: Sequence[str],
) -> Any:
    _check_text_options(sep, encoding, decimal, names, missing_values)
    pandas = require("pandas", "tables", "reading a CSV file")
    advice = _OTHERS.get(file.suffix.lower())
    if advice:
        raise ValueError(f"read_table: {file} is neither CSV nor Parquet: {advice}")
    with _opened(file) as stream:
        sample, encoding = _decoded(file, stream, encoding)
    if sep is None:
        sep = _separator(sample)
    records = _records(sample, sep)
    first = next(records, None)
    if first is None:
        raise ValueError(f"read_table: {file} is empty")
    if decimal is None:
        decimal = _decimal(records, sep)
    if names is None:
        columns = [name or f"Unnamed: {place}" for place, name in enumerate(first)]
        if all(is_number_text(name) for name in first):
            raise ValueError(
                f"read_table: the first line of {file} holds numbers, {listed(first)}, and not "
                "names of columns: add a line of names, or give names=[...]"
            )
        _check_names(file, columns)
    else:
        columns = list(names)
        if len(columns) != len(first):
            raise ValueError(
                f"read_table: {file} has {len(first)} columns, got {len(columns)} names: "
                f"{listed(columns)}"
            )
    try:
        with _opened(file) as stream, _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            table = pandas.read_csv(
                stream,
                sep=sep,
                encoding=encoding,
                decimal=decimal,
                header=None if names is not None else 0,
                names=columns,
                index_col=False,
                na_values=list(missing_values) or None,
                skipinitialspace=True,
                low_memory=False,
            )
    except (pandas.errors.ParserError, pandas.errors.ParserWarning) as error:
        reason = re.sub(r"^Error tokenizing data\. C error: ", "", str(error).strip())
        if isinstance(error, pandas.errors.ParserWarning):
            reason = "its lines have more values than there are names of columns"
        raise ValueError(
            f"read_table: {file} is not a table with the separator {sep!r}: {reason}; correct the "
            "file, or give sep="
        ) from None
    return table if names is not None else _without_unnamed(file, table, first)


def _without_unnamed(file: Path, table: Any, header: Sequence[str]) -> Any:
    """Leave out the index that pandas writes, and what a separator at the end of lines adds."""
    for place, name in enumerate(header):
        column = f"Unnamed: {place}"
        if name or column not in table.columns:
            continue
        if not table[column].isna().all():
            if place:
                raise ValueError(
                    f"read_table: column {place + 1} of {file} has no name: name it in the first "
                    "line, or give names=[...] after deleting that line"
                )
            warnings.warn(
                f"read_table: the first column of {file} has no name, as the index that pandas "
                "writes, and is left out",
                UserWarning,
                stacklevel=users_level(),
            )
        table = table.drop(columns=column)
    return table


def _check_text_options(
    sep: Any, encoding: Any, decimal: Any, names: Any, missing_values: Any
) -> None:
    if sep is not None and (not isinstance(sep, str) or len(sep) != 1 or sep in '\r\n"'):
        raise ValueError(f"read_table: sep must be one character, such as ';', got {shown(sep)}")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except (LookupError, TypeError):
            raise ValueError(
                "read_table: encoding must be one that Python knows, such as 'utf-8' or 'cp1252', "
                f"got {shown(encoding)}"
            ) from None
    if decimal not in (None, ".", ","):
        raise ValueError(f"read_table: decimal must be '.' or ',', got {shown(decimal)}")
    if isinstance(names, str):
        raise TypeError(f"read_table: names must be a list of strings, got {shown(names)}")
    _given_names("names", names)
    if isinstance(missing_values, str) or not all(isinstance(v, str) for v in missing_values):
        raise TypeError(
            f"read_table: missing_values must be a list of strings, got {shown(missing_values)}"
        )


# --- the bytes of a file -------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed.

    Raises
    ------
    ValueError
        If they are damaged.
    """
    with file.open("rb") as stream:
        magic = stream.read(6)
    kind = next((kind for start, kind in _COMPRESSED if magic.startswith(start)), None)
    if kind is None:
        with file.open("rb") as stream:
            yield stream
        return
    # Imported here, as Python may have been built without them.
    import bz2
    import gzip
    import lzma
    import zlib

    try:
        with ExitStack() as stack:
            if kind == "zip":
                archive = stack.enter_context(zipfile.ZipFile(file))
                yield stack.enter_context(_member(file, archive))
            else:
                opener: Any = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[kind]
                yield stack.enter_context(opener(file, "rb"))
    except (
        EOFError,
        OSError,
        RuntimeError,  # encrypted, or compressed by a method that zipfile does not know
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(
            f"read_table: {file} is damaged and cannot be decompressed: {error}"
        ) from None


_COMPRESSED: Final = (
    (b"PK\3\4", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\0", "xz"),
)


def _member(file: Path, archive: zipfile.ZipFile) -> Any:
    members = [name for name in archive.namelist() if not name.endswith("/")]
    if "[Content_Types].xml" in members:
        raise ValueError(f"read_table: {file} is a spreadsheet: save the sheet as CSV")
    if len(members) != 1:
        raise ValueError(
            f"read_table: {file} must hold one file, got {listed(members)}: extract the table"
        )
    return archive.open(members[0])


def _decoded(file: Path, stream: BinaryIO, encoding: str | None) -> tuple[str, str]:
    """The beginning of the text, and its encoding, after all of it was decoded.

    Raises
    ------
    ValueError
        If it is not text, or has another encoding.
    """
    block = stream.read(1 << 20)
    if not block.strip():
        raise ValueError(f"read_table: {file} is empty")
    used = encoding
    if used is None:
        used = next((name for mark, name in _BYTE_ORDER_MARKS if block.startswith(mark)), "utf-8")
    decoder = codecs.getincrementaldecoder(used)()
    sample, lines = "", 1
    while True:
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            if b"\0" in block:
                raise _no_text(file) from None
            line = lines + error.object[: error.start].count(b"\n")
            advice = (
                "give its encoding: encoding='cp1252' for Western European text of Windows, "
                "'latin-1', 'utf-16', ..."
                if encoding is None
                else "give another encoding"
            )
            raise ValueError(
                f"read_table: {file} is not {used}: byte 0x{error.object[error.start]:02x} in line "
                f"{line}; {advice}"
            ) from None
        if "\0" in text:
            raise _no_text(file)
        lines += text.count("\n")
        if len(sample) < _SAMPLE:
            sample += text[: _SAMPLE - len(sample)]
        if not block:
            break
        block = stream.read(1 << 20)
    return _whole_lines(sample), used


def _no_text(file: Path) -> ValueError:
    return ValueError(
        f"read_table: {file} is not text but a binary file; tables are read from CSV and Parquet"
    )


def _whole_lines(sample: str) -> str:
    """The sample without the line that its end cuts."""
    if len(sample) < _SAMPLE:
        return sample
    end = max(sample.rfind("\n"), sample.rfind("\r"))
    return sample[: end + 1] or sample


# --- how values are written ----------------------------------------------------------------------


def _records(sample: str, sep: str) -> Iterator[list[str]]:
    """The lines of a sample as lists of values."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=sep, skipinitialspace=True)
    for record in itertools.islice((r for r in reader if r), _RECORDS):
        yield [value.strip() for value in record]


def _separator(sample: str) -> str:
    """The separator with which most lines have as many values as the first, "," if none has."""
    best = (0.0, 1, ",")
    for sep in _SEPARATORS:
        widths = [len(record) for record in _records(sample, sep)]
        if widths and widths[0] > 1:
            same = sum(width == widths[0] for width in widths) / len(widths)
            if (same, widths[0]) > best[:2]:
                best = (same, widths[0], sep)
    return best[2]


def _decimal(records: Iterator[list[str]], sep: str) -> str:
    if sep == ",":
        return "."
    values = [value for record in records for value in record]
    commas = any(map(_COMMA.fullmatch, values)) and not any(map(_POINT.fullmatch, values))
    return "," if commas else "."

"""Columns of tables as plain numbers or plain text, whatever dtype they come in."""

from __future__ import annotations

import difflib
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import expect_unmasked, listed, shown
from dropcore._base.device import on_device
from dropcore._base.extras import require

__all__ = [
    "CATEGORY",
    "EMPTY",
    "NUMBER",
    "Table",
    "as_table",
    "category",
    "expect_column",
    "is_number_text",
]

NUMBER: Final = "number"
CATEGORY: Final = "category"
EMPTY: Final = "empty"
"""A column in which all values are missing."""

_DATES: Final = ("date", "datetime", "datetime64", "time", "timedelta", "timedelta64", "period")
_ADVICE: Final = {
    "M": "turn dates into numbers, such as x[{0!r}].dt.year or the days since a fixed date, or "
    "leave the column out",
    "m": "turn durations into numbers by x[{0!r}].dt.total_seconds()",
    "c": "give the real and the imaginary part as two columns",
    "S": "decode the bytes by x[{0!r}].str.decode('utf-8')",
    "O": "give one number, text or boolean for each row",
}


@dataclass(frozen=True, eq=False)
class Table:
    """A data frame, or a 2-D array, column by column.

    Attributes
    ----------
    data : DataFrame or ndarray (rows, columns)
        An array holds numbers or booleans only.
    names : tuple of str
    named : bool
        Whether the names come from the user. Otherwise they are x0, x1, ...
    first : int
        Number of the first row, for messages.
    """

    data: Any
    names: tuple[str, ...]
    named: bool
    first: int = 0

    def __len__(self) -> int:
        return len(self.data)

    @property
    def is_array(self) -> bool:
        """Whether this is an array of numbers."""
        return isinstance(self.data, np.ndarray)

    def rows(self, rows: slice) -> Table:
        """Some rows of all columns."""
        data = self.data[rows] if self.is_array else self.data.iloc[rows]
        return Table(data, self.names, self.named, self.first + rows.start)

    def kind(self, position: int) -> str:
        """What a column holds: `NUMBER`, `CATEGORY`, or `EMPTY` if all its values are missing.

        Raises
        ------
        TypeError
            If it holds something else, such as dates.
        """
        if self.is_array:
            column = self.data[:, position]
            missing = column.dtype.kind == "f" and np.isnan(column).all()
            return EMPTY if missing else NUMBER
        types = require("pandas", "tables", "a data frame").api.types
        column, name = self.data.iloc[:, position], self.names[position]
        if column.isna().all():
            return EMPTY
        if isinstance(column.dtype, types.CategoricalDtype) or types.is_bool_dtype(column.dtype):
            return CATEGORY
        kind = getattr(column.dtype, "kind", "O")
        if kind in "iuf" and types.is_numeric_dtype(column.dtype):
            return NUMBER
        found = types.infer_dtype(column, skipna=True)
        if found in ("integer", "floating", "mixed-integer-float", "decimal"):
            return NUMBER
        if found in ("string", "boolean"):
            return CATEGORY
        if found in ("mixed", "mixed-integer"):
            values = list(column.dropna())
            if all(_is_number(value) for value in values):
                return NUMBER
            if all(
                isinstance(value, str | bool | np.bool_) or _is_number(value) for value in values
            ):
                return CATEGORY
        if found in _DATES:
            kind = "m" if found.startswith("timedelta") else "M"
        elif found in ("complex", "bytes"):
            kind = {"complex": "c", "bytes": "S"}[found]
        advice = _ADVICE.get(kind, _ADVICE["O"]).format(name)
        raise TypeError(
            f"column {name!r} must hold numbers, text or booleans, got {column.dtype} "
            f"({found}): {advice}"
        )

    def numbers(self, position: int) -> NDArray[np.float64]:
        """A column as float64, NaN where a value is missing.

        Raises
        ------
        ValueError
            If a value is not a number, or infinite.
        """
        name = self.names[position]
        if self.is_array:
            with np.errstate(over="ignore"):
                found = self.data[:, position].astype(np.float64)
        else:
            found = self._parsed(position)
        infinite = np.isinf(found)
        if infinite.any():
            raise ValueError(
                f"column {name!r} must be finite or missing, got {found[infinite][0]} in row "
                f"{self.first + int(np.argmax(infinite))}: replace infinities by NaN or by numbers"
            )
        return found

    def _parsed(self, position: int) -> NDArray[np.float64]:
        pandas = require("pandas", "tables", "a data frame")
        column, name = self.data.iloc[:, position], self.names[position]
        try:
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError, OverflowError):
            pass
        values = pandas.Series(column.to_numpy(dtype=object))
        found = pandas.to_numeric(values.map(_plain), errors="coerce")
        wrong = found.isna() & values.notna()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"column {name!r} must hold numbers, as it did in training, got "
                f"{shown(values.iloc[row])} in row {self.first + row} ({int(wrong.sum())} such "
                "rows in all): correct the values or make them missing (NaN)"
            )
        return found.to_numpy(dtype=np.float64, na_value=np.nan)

    def texts(self, position: int) -> NDArray[np.object_]:
        """A column as str objects, NaN where a value is missing.

        Whole numbers are written without a point, so that 1, 1.0 and "1" are one category.
        """
        pandas = require("pandas", "tables", "a column of text")
        column = self.data[:, position] if self.is_array else self.data.iloc[:, position]
        codes, found = pandas.factorize(np.asarray(column, dtype=object))
        texts = np.array([*map(category, found), np.nan], dtype=object)
        return texts[codes]


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool | np.bool_)


def is_number_text(text: str) -> bool:
    """Whether a text is a number, with a decimal point or a decimal comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def category(value: object) -> str:
    """A value as the name of a category: 1, 1.0 and "1" are the same."""
    if isinstance(value, bool | np.bool_):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def _plain(value: object) -> object:
    """A number of any type, such as Decimal, as a float; anything else as it is."""
    if isinstance(value, str) or value is None:
        return value
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return "?"


def as_table(what: str, x: Any) -> Table:
    """A data frame or a 2-D array as a `Table`.

    Parameters
    ----------
    what : str
        The caller and its argument, for messages.
    x : DataFrame, or array-like (rows, columns)

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it has no rows or no columns, is not 2-D, or has two columns of the same name.
    """
    expect_unmasked(what, x)
    if on_device(x):
        raise TypeError(f"{what} must be a table in host memory; use cupy.asnumpy")
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        return _of_frame(what, x)
    if hasattr(x, "iloc"):
        raise TypeError(
            f"{what} must be a table of rows and columns, got one column (a Series): use "
            ".to_frame()"
        )
    if hasattr(x, "to_pandas"):
        raise TypeError(
            f"{what} must be a pandas DataFrame or a 2-D array, got {type(x).__name__}: use "
            ".to_pandas()"
        )
    if hasattr(x, "toarray"):
        raise TypeError(f"{what} must be a dense array, got {type(x).__name__}; use .toarray()")
    if x is None or isinstance(x, Mapping | str | bytes | set | frozenset):
        hint = "; use pandas.DataFrame(x)" if isinstance(x, Mapping) else ""
        raise TypeError(
            f"{what} must be a pandas DataFrame or a 2-D array, got "
            f"{'None' if x is None else type(x).__name__}{hint}"
        )
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError(f"{what} must have rows of the same length") from None
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{what} must be a table of shape (rows, columns) and not empty, got shape "
            f"{array.shape}{'; x[:, None] is one column' if array.ndim == 1 else ''}"
        )
    names = tuple(f"x{number}" for number in range(array.shape[1]))
    if array.dtype.kind in "fiub":
        return Table(array, names, named=False)
    if array.dtype.kind not in "OUTSmMc":
        raise TypeError(f"{what} must hold numbers or text, got dtype {array.dtype}")
    pandas = require("pandas", "tables", "an array of text")
    return Table(pandas.DataFrame(array.astype(object)), names, named=False)


def _of_frame(what: str, x: Any) -> Table:
    if getattr(x.columns, "nlevels", 1) > 1:
        raise ValueError(
            f"{what} must have one name for each column, got {x.columns.nlevels} levels of names; "
            "use x.columns = ['_'.join(map(str, name)) for name in x.columns]"
        )
    names = tuple(str(name) for name in x.columns)
    if not len(x) or not names:
        raise ValueError(f"{what} must have rows and columns, got shape {x.shape}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{what} must have columns of different names, got {listed(twice)} twice")
    return Table(x, names, named=True)


def expect_column(caller: str, columns: Iterable[Any], name: str, where: str) -> None:
    """ValueError if there is no column of that name; it lists those there are."""
    found = [str(column) for column in columns]
    if name in found:
        return
    folded = {column.strip().casefold(): column for column in found}
    near = difflib.get_close_matches(name.strip().casefold(), folded, 1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    raise ValueError(f"{caller}: no column {name!r} {where}, which has {listed(found, 12)}{hint}")

"""Tables of mixed columns as arrays of numbers, by scikit-learn's transformers."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_integer, listed, shown, users_level
from dropcore._base.extras import require
from dropcore.data._columns import EMPTY, NUMBER, Table, as_table, is_number_text
from dropcore.data._learned import (
    MOST_CATEGORIES,
    REASONS,
    CategoricalColumn,
    DroppedColumn,
    LearnedColumn,
    NumericColumn,
    by_kind,
    fields_of,
    read,
    written,
)
from dropcore.data._transformers import MISSING, canonical, learned_from, new_transformer, rebuilt

__all__ = ["Preprocessing"]

_BLOCK: Final = 1 << 21
"""Cells that are transformed at once, which bounds the memory beyond the result."""

_FORMAT: Final = 1


class Preprocessing:
    """Turn a table of numbers, text and missing values into an array for a network.

    It is built from scikit-learn's transformers. In numeric columns, missing values are replaced by
    the median (``SimpleImputer``), and values are standardised to mean 0 and standard deviation 1
    (``StandardScaler``). If a column has missing values in training, an indicator column of 0 and 1
    is added for it. Columns of text, categories and booleans are one-hot encoded
    (``OneHotEncoder``); a missing value is a category of its own, and rare categories share an
    output. Columns without information are dropped, with a warning that names them.

    Fit it to the training part of the data only. ``fit(..., preprocessing=Preprocessing())`` of a
    model does so, and keeps it with the model.

    Parameters
    ----------
    min_frequency : int, default 2
        Categories in fewer rows of the training data are rare. 1 keeps all.
    max_categories : int, default 100
        Largest number of outputs of a column, in [2, 10000]. Beyond it, the categories with the
        fewest rows are rare.

    Attributes
    ----------
    columns : tuple of str
        Names of the table's columns, in order. Columns of an array are called x0, x1, ...
    feature_names_out : tuple of str
        Names of the result's columns: ``age``, ``age is missing``, ``city=Bern``,
        ``city=(other)``.
    dropped : dict of str to str
        Columns that are not used, and why: "constant", "empty" or "identifier".
    fitted : bool
        Whether `fit` has been called.

    Examples
    --------
    >>> preprocessing = Preprocessing().fit(np.array([[1.0, 10], [3.0, 10.5]]))
    >>> preprocessing.transform(np.array([[2.0, 10.5], [3.0, 10.0]]))
    array([[ 0.,  1.],
           [ 1., -1.]], dtype=float32)
    """

    def __init__(self, *, min_frequency: int = 2, max_categories: int = 100) -> None:
        self.min_frequency = check_integer("Preprocessing: min_frequency", min_frequency, 1)
        self.max_categories = check_integer(
            "Preprocessing: max_categories", max_categories, 2, MOST_CATEGORIES
        )
        self._named = False
        self._learned: tuple[LearnedColumn, ...] | None = None
        self._transformer: Any = None

    # --- what was learned ------------------------------------------------------------------------

    @property
    def fitted(self) -> bool:
        """Whether `fit` has been called."""
        return self._learned is not None

    @property
    def options(self) -> dict[str, int]:
        """The arguments that it was made with, by their names."""
        return {"min_frequency": self.min_frequency, "max_categories": self.max_categories}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it was fitted to."""
        return tuple(column.name for column in self._known())

    @property
    def dropped(self) -> dict[str, str]:
        """Columns that are not used, and why."""
        return {c.name: c.reason for c in self._known() if isinstance(c, DroppedColumn)}

    @property
    def feature_names_out(self) -> tuple[str, ...]:
        """Names of the columns of the result."""
        numbers, categories = by_kind(self._known())
        names = [column.name for column in numbers]
        names += [f"{column.name} is missing" for column in numbers if column.indicator]
        for column in categories:
            names += [f"{column.name}={name}" for name in column.categories]
            if column.rare:
                names.append(f"{column.name}=(other)")
        return tuple(names)

    def _known(self) -> tuple[LearnedColumn, ...]:
        if self._learned is None:
            raise RuntimeError("Preprocessing: call fit(x) with the training data first")
        return self._learned

    def __repr__(self) -> str:
        if self._learned is None:
            options = (f"{name}={value}" for name, value in self.options.items())
            return f"Preprocessing({', '.join(options)})"
        return (
            f"<Preprocessing of {len(self._learned)} columns to "
            f"{len(self.feature_names_out)} features>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return self.to_config() == other.to_config()

    __hash__ = None  # type: ignore[assignment]  # it changes when it is fitted

    def __reduce__(self) -> tuple[Any, ...]:
        return Preprocessing.from_config, (self.to_config(),)

    # --- learning --------------------------------------------------------------------------------

    def fit(self, x: Any) -> Preprocessing:
        """Learn medians, means, scales and categories.

        Parameters
        ----------
        x : DataFrame or array (rows, columns)
            Training data. Columns hold numbers, booleans or text, of any dtype of pandas or
            NumPy, with NaN, None or NA where a value is missing.

        Returns
        -------
        Preprocessing
            This object.

        Raises
        ------
        TypeError
            If a column holds something else, such as dates.
        ValueError
            If a number is infinite, or no column is left.

        Warns
        -----
        UserWarning
            If columns are constant, empty, look like identifiers, or mix numbers and text.
        """
        table = as_table("Preprocessing.fit: x", x)
        require("sklearn", "tables", "Preprocessing")
        learned, columns = _screened(table)
        frame = canonical(table.names, columns, len(table))
        transformer = new_transformer(
            [columns[name].dtype != object for name in columns],
            min_frequency=self.min_frequency,
            max_categories=self.max_categories,
        )
        if columns:
            with np.errstate(all="ignore"):  # overflow, found below
                transformer.fit(frame)
            learned |= learned_from(transformer, list(columns), columns)
        _warn_of_dropped(learned, len(table))
        if all(isinstance(column, DroppedColumn) for column in learned.values()):
            raise ValueError(
                "Preprocessing.fit: no column of x holds information: "
                + ", ".join(f"{c.name!r} is {c.reason}" for c in list(learned.values())[:6])  # type: ignore[union-attr]
            )
        found = tuple(learned[name] for name in table.names)
        built = rebuilt(found)
        self._learned, self._transformer, self._named = found, built, table.named
        return self

    # --- transforming ----------------------------------------------------------------------------

    def transform(self, x: Any) -> NDArray[np.float32]:
        """Apply what was learned to a table.

        Parameters
        ----------
        x : DataFrame or array (rows, columns)
            With the columns of the training data. In a data frame they may be in any order, and
            those in `dropped` may be absent.

        Returns
        -------
        float32 array (rows, features)
            In C order. Its columns are named by `feature_names_out`.

        Raises
        ------
        ValueError
            If columns are missing or unknown, or a column of numbers holds something else.

        Warns
        -----
        UserWarning
            If a column has unknown categories and no output for rare ones, or has missing values
            and had none in training.
        """
        known = self._known()
        table = as_table("Preprocessing.transform: x", x)
        places = self._places(table)
        used = [c for c in known if not isinstance(c, DroppedColumn)]
        names = tuple(c.name for c in used)
        result = np.empty((len(table), len(self.feature_names_out)), np.float32)
        unknown: dict[str, dict[str, None]] = {}
        missing: dict[str, int] = {}
        rows = max(1, _BLOCK // len(table.names))
        for start in range(0, len(table), rows):
            block = table.rows(slice(start, start + rows))
            columns: dict[str, NDArray[Any]] = {}
            for column in used:
                position = places[column.name]
                columns[column.name] = (
                    block.numbers(position)
                    if isinstance(column, NumericColumn)
                    else block.texts(position)
                )
                _note(column, columns[column.name], unknown, missing)
            frame = canonical(names, columns, len(block))
            with np.errstate(over="ignore"):
                result[start : start + rows] = self._transformer.transform(frame)
        _warn_of_news(unknown, missing)
        if not np.isfinite(result).all():
            feature = int(np.argmax(~np.isfinite(result).all(0)))
            raise ValueError(
                f"Preprocessing.transform: {self.feature_names_out[feature]!r} does not fit into "
                "float32 after scaling: its values are far outside those of training"
            )
        return result

    def _places(self, table: Table) -> dict[str, int]:
        """Where each column of training is in a table."""
        known = self.columns
        if not (table.named and self._named):
            if len(table.names) != len(known):
                raise ValueError(
                    f"Preprocessing.transform: x must have {len(known)} columns, {listed(known)}, "
                    f"got {len(table.names)}"
                )
            if table.named != self._named:
                has, had = ("has no", "had") if self._named else ("has", "had no")
                warnings.warn(
                    f"Preprocessing.transform: x {has} column names, and the training data {had} "
                    "column names, so columns are matched by their order, which cannot be checked",
                    UserWarning,
                    stacklevel=users_level(),
                )
            return {name: position for position, name in enumerate(known)}
        places = {name: position for position, name in enumerate(table.names)}
        dropped = self.dropped
        missing = [name for name in known if name not in places and name not in dropped]
        of_training = set(known)
        new = [name for name in table.names if name not in of_training]
        if missing or new:
            parts = []
            if missing:
                parts.append(f"missing {listed(missing)}")
            if new:
                parts.append(f"unknown {listed(new)}")
            near = [
                f"{close[0]!r} may be {name!r}"
                for name in missing
                if (close := difflib.get_close_matches(name, new, 1))
            ]
            hint = f" ({'; '.join(near[:3])})" if near else ""
            raise ValueError(
                f"Preprocessing.transform: x must have the columns of training, {listed(known)}: "
                f"{'; '.join(parts)}{hint}"
            )
        return places

    # --- as plain data ---------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        """Everything that was learned, as numbers, strings, lists and dicts for JSON.

        Returns
        -------
        dict
            `from_config` returns an object that transforms to the same bits.
        """
        return {
            "format": _FORMAT,
            "min_frequency": self.min_frequency,
            "max_categories": self.max_categories,
            "named": self._named,
            "columns": None if self._learned is None else [written(c) for c in self._learned],
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Create the object that `to_config` described.

        Parameters
        ----------
        config : dict

        Returns
        -------
        Preprocessing
            As learned.

        Raises
        ------
        ValueError
            If it is something else. Nothing in a config is executed, and its size bounds the
            memory used.
        """
        try:
            fields = fields_of(
                "the config", config, "format", "min_frequency", "max_categories", "named",
                "columns",
            )  # fmt: skip
            if fields["format"] != _FORMAT:
                raise ValueError(
                    f"format must be {_FORMAT}, got {shown(fields['format'])}: a newer dropcore "
                    "may have written it"
                )
            found = cls(
                min_frequency=fields["min_frequency"], max_categories=fields["max_categories"]
            )
            if not isinstance(fields["named"], bool):
                raise ValueError(f"named must be true or false, got {shown(fields['named'])}")
            if fields["columns"] is not None:
                learned = read(fields["columns"])
                require("sklearn", "tables", "Preprocessing")
                found._learned, found._named = learned, fields["named"]
                found._transformer = rebuilt(learned)
        except (TypeError, ValueError) as error:
            message = str(error).removeprefix("Preprocessing: ")
            raise ValueError(f"Preprocessing.from_config: {message}") from None
        return found


# --- looking at columns --------------------------------------------------------------------------


def _screened(table: Table) -> tuple[dict[str, LearnedColumn], dict[str, NDArray[Any]]]:
    """Columns without information, and the others as float64 or as str objects."""
    dropped: dict[str, LearnedColumn] = {}
    columns: dict[str, NDArray[Any]] = {}
    for position, name in enumerate(table.names):
        kind = table.kind(position)
        if kind == EMPTY:
            dropped[name] = DroppedColumn(name, "empty")
        elif kind == NUMBER:
            found = table.numbers(position)
            if found.min() == found.max():  # NaN where a value is missing
                dropped[name] = DroppedColumn(name, "constant")
            else:
                columns[name] = found
                _warn_of_unlikely_numbers(name, found)
        else:
            texts = table.texts(position)
            if (texts == texts[0]).all():
                dropped[name] = DroppedColumn(name, "constant")
            else:
                columns[name] = texts
                _warn_of_numbers_as_text(name, texts)
    return dropped, columns


def _warn_of_unlikely_numbers(name: str, values: NDArray[np.float64]) -> None:
    if np.nanmin(values) == np.nanmax(values):
        warnings.warn(
            f"column {name!r} has the same value in all rows that have one: it only tells whether "
            "a value is missing",
            UserWarning,
            stacklevel=users_level(),
        )
    if len(values) >= 20 and (np.diff(values) == 1).all():
        warnings.warn(
            f"column {name!r} counts the rows ({values[0]:g}, {values[1]:g}, ...): leave it out "
            "unless the order of rows is informative for new data, too",
            UserWarning,
            stacklevel=users_level(),
        )


def _warn_of_numbers_as_text(name: str, texts: NDArray[np.object_]) -> None:
    """Text that is mostly numbers: a mark for missing values, or a decimal comma."""
    found = [text for text in texts if isinstance(text, str)]
    wrong = [text for text in dict.fromkeys(found) if not is_number_text(text)]
    count = sum(map(is_number_text, found))
    if 2 * count <= len(found) or len(set(found)) <= 2:
        return
    if not wrong:
        what = "holds numbers written as text"
        advice = "convert it by pandas.to_numeric unless the numbers are names"
    else:
        what = f"holds {count} numbers and text such as {listed(wrong, 3)}"
        advice = (
            "if the text marks missing values, read the file with "
            f"missing_values=[{wrong[0]!r}], or replace it by NaN"
        )
    warnings.warn(
        f"column {name!r} {what}, and is treated as categories: {advice}",
        UserWarning,
        stacklevel=users_level(),
    )


def _warn_of_dropped(learned: Mapping[str, LearnedColumn], rows: int) -> None:
    what = {
        "constant": "the same value in all rows",
        "empty": "no values",
        "identifier": "a different text in almost every row, as identifiers, dates and free text "
        "do: turn dates into numbers, count the words of texts, such as by scikit-learn's "
        "CountVectorizer, or keep more categories by min_frequency=1 and max_categories",
    }
    for reason in REASONS:
        names = [
            c.name for c in learned.values() if isinstance(c, DroppedColumn) and c.reason == reason
        ]
        if names:
            leaves = (
                "column {} is left out, which has"
                if len(names) == 1
                else ("columns {} are left out, which have")
            )
            warnings.warn(
                f"Preprocessing: {leaves.format(listed(names))} {what[reason]}",
                UserWarning,
                stacklevel=users_level(),
            )
    wide = [
        c.name
        for c in learned.values()
        if isinstance(c, CategoricalColumn) and c.rare and len(c.categories) >= max(20, rows // 10)
    ]
    if wide:
        warnings.warn(
            f"Preprocessing: {listed(wide)} of text with many categories for {rows} rows: leave "
            "identifiers out, and merge categories",
            UserWarning,
            stacklevel=users_level(),
        )


def _note(
    column: LearnedColumn,
    values: NDArray[Any],
    unknown: dict[str, dict[str, None]],
    missing: dict[str, int],
) -> None:
    """Collect unknown categories and unexpected missing values of a block."""
    if isinstance(column, NumericColumn) and not column.indicator:
        count = int(np.isnan(values).sum())
        if count:
            missing[column.name] = missing.get(column.name, 0) + count
    elif isinstance(column, CategoricalColumn) and not column.rare:
        found = {MISSING if isinstance(v, float) else v: None for v in values}
        new = [name for name in found if name not in column.categories]
        if new:
            unknown.setdefault(column.name, {}).update(dict.fromkeys(new))


def _warn_of_news(unknown: Mapping[str, Mapping[str, None]], missing: Mapping[str, int]) -> None:
    for name, categories in unknown.items():
        warnings.warn(
            f"column {name!r} has categories that are not in the training data, "
            f"{listed(categories)}: all its outputs are 0 in these rows",
            UserWarning,
            stacklevel=users_level(),
        )
    for name, count in missing.items():
        warnings.warn(
            f"column {name!r} has {count} missing value{'s' * (count > 1)} and had none in "
            "training: its median is used",
            UserWarning,
            stacklevel=users_level(),
        )

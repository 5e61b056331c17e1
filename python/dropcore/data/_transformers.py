"""The transformers of scikit-learn that a preprocessing is built from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.extras import require
from dropcore.data._columns import CATEGORY, NUMBER
from dropcore.data._learned import (
    CategoricalColumn,
    DroppedColumn,
    LearnedColumn,
    NumericColumn,
    by_kind,
)

__all__ = ["MISSING", "canonical", "learned_from", "new_transformer", "rebuilt"]

_CELLS: Final = 1 << 24
"""Cells of the largest table that the transformers are built from."""

MISSING: Final = "missing"
"""The category of missing values."""

_LEAST_SHARE: Final = 0.1
"""Of the rows in categories of their own. Below it most texts are seen once, as free text is."""


def canonical(names: tuple[str, ...], columns: Mapping[str, NDArray[Any]], rows: int) -> Any:
    """Columns, in this order, for the transformers: an array of numbers, or a data frame."""
    found = [columns[name] for name in names if name in columns]
    if all(column.dtype != object for column in found):
        return np.column_stack(found) if found else np.empty((rows, 0))
    pandas = require("pandas", "tables", "Preprocessing of text")
    return pandas.DataFrame(
        {str(i): pandas.Series(column, dtype=column.dtype) for i, column in enumerate(found)}
    )


def new_transformer(numeric: list[bool], *, min_frequency: int, max_categories: int | None) -> Any:
    """Transformers of columns, of which these are numeric and the others are text."""
    compose = require("sklearn.compose", "tables", "Preprocessing")
    impute = require("sklearn.impute", "tables", "Preprocessing")
    pipeline = require("sklearn.pipeline", "tables", "Preprocessing")
    scalers = require("sklearn.preprocessing", "tables", "Preprocessing")
    numbers = [i for i, is_number in enumerate(numeric) if is_number]
    texts = [i for i, is_number in enumerate(numeric) if not is_number]
    parts = []
    if numbers:
        steps = (
            impute.SimpleImputer(strategy="median", add_indicator=True),
            scalers.StandardScaler(),
        )
        parts.append((NUMBER, pipeline.make_pipeline(*steps), numbers))
    if texts:
        steps = (
            impute.SimpleImputer(strategy="constant", fill_value=MISSING),
            scalers.OneHotEncoder(
                handle_unknown="infrequent_if_exist",
                min_frequency=min_frequency if min_frequency > 1 else None,
                max_categories=max_categories,
                sparse_output=False,
            ),
        )
        parts.append((CATEGORY, pipeline.make_pipeline(*steps), texts))
    found = compose.ColumnTransformer(parts, sparse_threshold=0.0)
    return found.set_output(transform="default")


def learned_from(
    transformer: Any, names: list[str], columns: Mapping[str, NDArray[Any]]
) -> dict[str, LearnedColumn]:
    """What fitted transformers have learned, from their documented attributes."""
    found: dict[str, LearnedColumn] = {}
    steps = transformer.named_transformers_
    numbers = [name for name in names if columns[name].dtype != object]
    if numbers:
        imputer, scaler = (step for _, step in steps[NUMBER].steps)
        incomplete = [] if imputer.indicator_ is None else list(imputer.indicator_.features_)
        for i, name in enumerate(numbers):
            indicator = i in incomplete
            fill, mean = float(imputer.statistics_[i]), float(scaler.mean_[i])
            scale, variance = float(scaler.scale_[i]), float(scaler.var_[i])
            if not np.isfinite([fill, mean, scale, variance]).all():
                raise ValueError(
                    f"Preprocessing.fit: column {name!r} holds numbers too large for float64 "
                    "arithmetic; divide them by a constant"
                )
            # A standard deviation that is lost to rounding counts as 0, whose scale is 1.
            varies = indicator or scale != 1 or variance > 0.5
            found[name] = (
                NumericColumn(name, fill, mean, scale, indicator)
                if varies
                else DroppedColumn(name, "constant")
            )
    texts = [name for name in names if columns[name].dtype == object]
    if texts:
        encoder = steps[CATEGORY].steps[-1][1]
        rare = getattr(encoder, "infrequent_categories_", [None] * len(texts))
        for name, all_categories, infrequent in zip(texts, encoder.categories_, rare, strict=True):
            few = set() if infrequent is None else set(infrequent)
            frequent = tuple(str(c) for c in all_categories if c not in few)
            values = columns[name]
            repeated = 2 * len(all_categories) <= len(values)
            found[name] = (
                CategoricalColumn(name, frequent, rare=bool(few))
                if frequent and (repeated or _share(values, frequent) >= _LEAST_SHARE)
                else DroppedColumn(name, "identifier")
            )
    return found


def _share(values: NDArray[Any], categories: tuple[str, ...]) -> float:
    """Fraction of the rows of a column that are in one of the categories."""
    known = set(categories)
    named = sum((MISSING if isinstance(value, float) else value) in known for value in values)
    return named / len(values)


def rebuilt(learned: tuple[LearnedColumn, ...]) -> Any:
    """Fitted transformers that know what was learned.

    They are fitted to a small table that has missing values in the same columns, and the same
    categories: two rows of each, and one of a rare category. The numbers that they learned are then
    set.
    """
    numbers, categories = by_kind(learned)
    used = [column for column in learned if not isinstance(column, DroppedColumn)]
    rows = 2 + 2 * max((len(column.categories) for column in categories), default=0)
    if rows * len(used) > _CELLS:
        raise ValueError(
            f"Preprocessing: {len(used)} columns with up to {rows // 2 - 1} categories are too "
            "many: lower max_categories, or leave columns out"
        )
    table: dict[str, NDArray[Any]] = {}
    for column in used:
        if isinstance(column, NumericColumn):
            values = np.zeros(rows)
            values[0] = np.nan if column.indicator else 1.0
            table[column.name] = values
        else:
            other = "other"
            while other in column.categories:
                other += "_"
            seen = [*column.categories, *column.categories] + [other] * column.rare
            seen += [column.categories[0]] * (rows - len(seen))
            table[column.name] = np.array(seen, dtype=object)
    names = tuple(column.name for column in used)
    found = new_transformer(
        [isinstance(column, NumericColumn) for column in used], min_frequency=2, max_categories=None
    )
    with np.errstate(all="ignore"):
        found.fit(canonical(names, table, rows))
    if numbers:
        imputer, scaler = (step for _, step in found.named_transformers_[NUMBER].steps)
        imputer.statistics_ = np.array([column.fill for column in numbers])
        # Indicators of missing values stay 0 or 1, as categories do: standardised, a rare one would
        # be far larger than all other inputs.
        indicators = sum(column.indicator for column in numbers)
        scaler.mean_ = np.array([column.mean for column in numbers] + [0.0] * indicators)
        scaler.scale_ = np.array([column.scale for column in numbers] + [1.0] * indicators)
        scaler.var_ = scaler.scale_**2
    return found

"""What a preprocessing has learned of each column, also as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dropcore._base.checks import check_number, shown
from dropcore.data._columns import CATEGORY, NUMBER

__all__ = [
    "MOST_CATEGORIES",
    "REASONS",
    "CategoricalColumn",
    "DroppedColumn",
    "LearnedColumn",
    "NumericColumn",
    "by_kind",
    "fields_of",
    "read",
    "written",
]

MOST_CATEGORIES: Final = 10_000
"""The largest number of categories of a column."""

REASONS: Final = ("constant", "empty", "identifier")
"""Why a column is dropped."""


@dataclass(frozen=True)
class NumericColumn:
    """What was learned of a column of numbers.

    Attributes
    ----------
    name : str
    fill : float
        The median, used where a value is missing.
    mean, scale : float
        Subtracted, and divided by.
    indicator : bool
        Whether an output of 0 and 1 says where values are missing.
    """

    name: str
    fill: float
    mean: float
    scale: float
    indicator: bool


@dataclass(frozen=True)
class CategoricalColumn:
    """What was learned of a column of categories.

    Attributes
    ----------
    name : str
    categories : tuple of str
        Those with an output of their own, in order.
    rare : bool
        Whether all other categories share an output.
    """

    name: str
    categories: tuple[str, ...]
    rare: bool


@dataclass(frozen=True)
class DroppedColumn:
    """A column without information, and why: "constant", "empty" or "identifier"."""

    name: str
    reason: str


LearnedColumn = NumericColumn | CategoricalColumn | DroppedColumn


def by_kind(
    learned: tuple[LearnedColumn, ...],
) -> tuple[list[NumericColumn], list[CategoricalColumn]]:
    """The columns of numbers, whose outputs come first, and those of categories."""
    numbers = [column for column in learned if isinstance(column, NumericColumn)]
    return numbers, [column for column in learned if isinstance(column, CategoricalColumn)]


def written(column: LearnedColumn) -> dict[str, Any]:
    """A column as JSON takes it."""
    if isinstance(column, NumericColumn):
        return {
            "name": column.name,
            "kind": NUMBER,
            "fill": column.fill,
            "mean": column.mean,
            "scale": column.scale,
            "indicator": column.indicator,
        }
    if isinstance(column, CategoricalColumn):
        return {
            "name": column.name,
            "kind": CATEGORY,
            "categories": list(column.categories),
            "rare": column.rare,
        }
    return {"name": column.name, "kind": "dropped", "reason": column.reason}


def fields_of(what: str, found: Any, *names: str) -> Mapping[str, Any]:
    """A dict that has exactly these keys."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{what} must be a dict, as to_config returns, got {shown(found)}")
    if set(found) != set(names):
        raise ValueError(f"{what} must have the keys {', '.join(names)}, got {shown(list(found))}")
    return found


def read(found: Any) -> tuple[LearnedColumn, ...]:
    """Columns from a list of what `written` returned; ValueError for anything else."""
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"columns must be a list, got {shown(found)}")
    columns = tuple(_column(f"column {number}", item) for number, item in enumerate(found))
    if len({column.name for column in columns}) < len(columns):
        raise ValueError("two columns have the same name")
    if all(isinstance(column, DroppedColumn) for column in columns):
        raise ValueError("all columns are dropped")
    return columns


def _column(what: str, found: Any) -> LearnedColumn:
    kind = found.get("kind") if isinstance(found, Mapping) else None
    if kind == NUMBER:
        fields = fields_of(what, found, "name", "kind", "fill", "mean", "scale", "indicator")
        indicator = fields["indicator"]
        if not isinstance(indicator, bool):
            raise ValueError(f"{what}: indicator must be true or false, got {shown(indicator)}")
        return NumericColumn(
            _name(what, fields["name"]),
            check_number(f"{what}: fill", fields["fill"]),
            check_number(f"{what}: mean", fields["mean"]),
            check_number(f"{what}: scale", fields["scale"], "(0, inf)"),
            indicator,
        )
    if kind == CATEGORY:
        fields = fields_of(what, found, "name", "kind", "categories", "rare")
        categories = fields["categories"]
        if (
            not isinstance(categories, list | tuple)
            or not 1 <= len(categories) <= MOST_CATEGORIES
            or not all(isinstance(category, str) for category in categories)
            or list(categories) != sorted(set(categories))
        ):
            raise ValueError(
                f"{what}: categories must be 1 to {MOST_CATEGORIES} strings in order, got "
                f"{shown(categories)}"
            )
        if not isinstance(fields["rare"], bool):
            raise ValueError(f"{what}: rare must be true or false, got {shown(fields['rare'])}")
        return CategoricalColumn(_name(what, fields["name"]), tuple(categories), fields["rare"])
    if kind == "dropped":
        fields = fields_of(what, found, "name", "kind", "reason")
        if fields["reason"] not in REASONS:
            raise ValueError(
                f"{what}: reason must be one of {', '.join(REASONS)}, got {shown(fields['reason'])}"
            )
        return DroppedColumn(_name(what, fields["name"]), fields["reason"])
    raise ValueError(f"{what} must be a number, a category or dropped, got {shown(found)}")


def _name(what: str, found: Any) -> str:
    if not isinstance(found, str):
        raise ValueError(f"{what}: name must be a string, got {shown(found)}")
    return found

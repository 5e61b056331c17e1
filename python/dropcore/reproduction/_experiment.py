"""What an experiment is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dropcore._base.checks import check_integer, check_number, is_several, listed, shown

if TYPE_CHECKING:
    from dropcore.reproduction._records import Results
    from dropcore.reproduction._seeded_run import SeededRun

__all__ = ["HELD_OUT", "Experiment", "Measure", "Row", "checked_seeds"]


HELD_OUT: Final = "held_out"
"""What is recorded beside the settings: whether a run was measured on held-out training data."""


def _name(what: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{what}: name must be a text, got {shown(name)}")
    return name


class Measure:
    """A number that every run of an experiment returns.

    Parameters
    ----------
    name : str
        Such as "test error".
    unit : str, default ""
        Such as "%".
    digits : int, default 2
        After the decimal point, in tables.

    Raises
    ------
    TypeError, ValueError
        If `name` is not a text, or `digits` is negative.
    """

    def __init__(self, name: str, unit: str = "", digits: int = 2) -> None:
        self.name, self.unit = _name("Measure", name), unit
        self.digits = check_integer("Measure: digits", digits, 0)

    def __repr__(self) -> str:
        return f"Measure({self.name!r}, {self.unit!r}, {self.digits})"

    @property
    def label(self) -> str:
        """The name and the unit, as in "test error, %"."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


class Row:
    """A network, or a setting, of an experiment.

    Parameters
    ----------
    name : str
        Unique in its experiment.
    published : float or dict of str to float, optional
        The figure of the paper: of the first measure, or of several by their names.
    seeds : sequence of int, optional
        Instead of those of the experiment, for a row that takes long.
    **settings : int, float, str, bool, None, list or dict
        Added to the settings of the experiment, or instead of them.

    Raises
    ------
    TypeError, ValueError
        If `name` is not a text, a figure is not a number, a seed is not an integer of at least 0,
        or JSON cannot hold a setting.
    """

    def __init__(
        self,
        name: str,
        published: float | Mapping[str, float] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        self.name, self.published = _name("Row", name), published
        figures = published if isinstance(published, Mapping) else {"published": published}
        for what, figure in figures.items():
            if figure is not None:
                check_number(f"row {name!r}: {what}", figure)
        self.settings: dict[str, Any] = as_json(f"row {name!r}: settings", settings)
        self.seeds = None if seeds is None else checked_seeds(seeds)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Row({self.name!r}, {self.published!r}{settings})"


class Experiment:
    """Networks to compare, the figures that were published, and how to train one of them.

    Parameters
    ----------
    title : str
        A one-line title.
    paper : str
        Authors, year, and the number of the table or figure.
    rows : sequence of Row
    train : callable
        ``train(run) -> dict``: trains one row with one seed, given as a `SeededRun`, and returns
        the value of each measure by its name. Values are finite numbers.
    settings : dict
        What all rows have in common. They are recorded with every run.
    quick : dict
        Replaces some of `settings` in the quick form, which takes about a second a row.
    measures : sequence of Measure, default (Measure("test error", "%"),)
    seeds : sequence of int, default (0, 1, 2)
        Fixed beforehand. The quick form takes the first.
    draw : callable, optional
        ``draw(figure, results)`` draws on an empty figure of matplotlib what `Results` holds. By
        default a dot for each row, with its standard error, beside the published figure.

    Raises
    ------
    TypeError, ValueError
        If two rows or two measures have the same name, `quick` names a setting that does not exist,
        a figure is published of a measure that does not exist, or JSON cannot hold a setting.
    """

    def __init__(
        self,
        *,
        title: str,
        paper: str,
        rows: Sequence[Row],
        train: Callable[[SeededRun], Mapping[str, float]],
        settings: Mapping[str, Any],
        quick: Mapping[str, Any],
        measures: Sequence[Measure] = (Measure("test error", "%"),),
        seeds: Sequence[int] = (0, 1, 2),
        draw: Callable[[Any, Results], None] | None = None,
    ) -> None:
        if not callable(train):
            raise TypeError(f"train must be a function of a run, got {shown(train)}")
        self.title, self.paper, self.train, self.draw = title, paper, train, draw
        self.rows, self.measures = tuple(rows), tuple(measures)
        self.seeds = checked_seeds(seeds)
        self.settings: dict[str, Any] = as_json("settings", dict(settings))
        self.quick: dict[str, Any] = as_json("quick", dict(quick))
        for what, own in (("rows", self.rows), ("measures", self.measures)):
            names = [one.name for one in own]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{what}: need different names, got {listed(names, 12)}")
        if HELD_OUT in self._examples():
            raise ValueError(f"settings: {HELD_OUT!r} is recorded of every run: take another name")
        self._check_settings("quick", self.quick)
        for row in self.rows:
            for name in self.published(row.name):
                if name not in [measure.name for measure in self.measures]:
                    raise ValueError(f"row {row.name!r}: {name!r} is no measure of the experiment")

    def row(self, name: str) -> Row:
        """The row of a name.

        Parameters
        ----------
        name : str

        Returns
        -------
        Row

        Raises
        ------
        ValueError
            If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ValueError(
            f"row {shown(name)}: the rows are {listed([row.name for row in self.rows], 40)}"
        )

    def measure(self, name: str | None = None) -> Measure:
        """The measure of a name.

        Parameters
        ----------
        name : str, optional
            By default the first one.

        Returns
        -------
        Measure

        Raises
        ------
        ValueError
            If there is none.
        """
        for measure in self.measures:
            if name is None or measure.name == name:
                return measure
        known = listed([measure.name for measure in self.measures], 40)
        raise ValueError(f"measure {shown(name)}: the measures are {known}")

    def published(self, row: str) -> dict[str, float]:
        """The published figures of a row.

        Parameters
        ----------
        row : str

        Returns
        -------
        dict of str to float
            By the names of the measures; empty if none was published.
        """
        found = self.row(row).published
        if found is None:
            return {}
        return dict(found) if isinstance(found, Mapping) else {self.measures[0].name: found}

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """The seeds of a row: its own, or those of the experiment.

        Parameters
        ----------
        row : str

        Returns
        -------
        tuple of int
        """
        own = self.row(row).seeds
        return self.seeds if own is None else own

    def settings_of(
        self, row: str, *, quick: bool = False, changed: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """All settings of a row.

        Parameters
        ----------
        row : str
        quick : bool, default False
            Whether to take those of the quick form.
        changed : dict, optional
            Instead of some of them. Values have the type that the setting has in the experiment.

        Returns
        -------
        dict of str to value

        Raises
        ------
        TypeError, ValueError
            If there is no such row, or `changed` has a setting that does not exist or a value of
            another type.
        """
        given: dict[str, Any] = as_json("settings", dict(changed or {}))
        self._check_settings("settings", given)
        known = self._examples()
        for name, value in given.items():
            _check_kind(f"settings: {name}", value, known[name])
        own = self.row(row).settings
        return {**self.settings, **own, **(self.quick if quick else {}), **given}

    def _examples(self) -> dict[str, list[Any]]:
        """The values that each setting has, in the experiment, in its rows and in `quick`."""
        found: dict[str, list[Any]] = {}
        for settings in (self.settings, *(row.settings for row in self.rows), self.quick):
            for name, value in settings.items():
                found.setdefault(name, []).append(value)
        return found

    def _check_settings(self, what: str, given: Mapping[str, Any]) -> None:
        """ValueError for a name that is no setting of the experiment or of one of its rows."""
        known = {*self.settings, *(name for row in self.rows for name in row.settings)}
        for name in given:
            if name not in known:
                raise ValueError(
                    f"{what}: {name!r} is no setting of this experiment, which has "
                    f"{listed(sorted(known), 40)}"
                )


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Seeds as a tuple of int; TypeError or ValueError unless they are integers of at least 0."""
    if not is_several(seeds):
        raise TypeError(f"seeds must be a sequence of integers, got {shown(seeds)}")
    found = tuple(check_integer("seeds", seed, 0) for seed in seeds)
    if not found:
        raise ValueError("seeds must have at least one seed, got none")
    return found


def as_json(what: str, value: Any) -> Any:
    """A value as it is when JSON has been written and read, such as a tuple as a list."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{what} must be numbers, texts, bools, None, lists and dicts, which are recorded as "
            f"JSON: {error}"
        ) from None


def _check_kind(what: str, value: Any, examples: Sequence[Any]) -> None:
    """TypeError unless the value is of a type of the examples; an int may stand for a float."""
    kinds = {type(example) for example in examples}
    as_float = type(value) is int and float in kinds
    if kinds != {type(None)} and type(value) not in kinds and not as_float:
        known = listed({json.dumps(example): example for example in examples}.values())
        raise TypeError(f"{what} must be a value of the type of {known}, got {shown(value)}")
    items = [item for example in examples if isinstance(example, list) for item in example]
    if isinstance(value, list) and items:
        if not value:
            raise ValueError(f"{what} must have at least one item, got []")
        for item in value:
            _check_kind(f"{what}: an item", item, items)

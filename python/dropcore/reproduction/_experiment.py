"""What an experiment is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dropcore._base.checks import listed, shown

if TYPE_CHECKING:
    from dropcore.reproduction._records import Results
    from dropcore.reproduction._seeded_run import SeededRun

__all__ = ["Experiment", "Measure", "Row"]


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
    """

    def __init__(self, name: str, unit: str = "", digits: int = 2) -> None:
        self.name, self.unit, self.digits = name, unit, digits

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
    """

    def __init__(
        self,
        name: str,
        published: float | Mapping[str, float] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        self.name, self.published, self.settings = name, published, settings
        self.seeds = None if seeds is None else tuple(seeds)

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
    ValueError
        If two rows have the same name, `quick` names a setting that does not exist, or a figure
        is published of a measure that does not exist.
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
        self.title, self.paper, self.train, self.draw = title, paper, train, draw
        self.rows, self.measures, self.seeds = tuple(rows), tuple(measures), tuple(seeds)
        self.settings, self.quick = dict(settings), dict(quick)
        names = [row.name for row in self.rows]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"rows: need different names, got {listed(names, 12)}")
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
            Instead of some of them.

        Returns
        -------
        dict of str to value

        Raises
        ------
        ValueError
            If there is no such row, or `changed` names a setting that does not exist.
        """
        self._check_settings("settings", changed or {})
        own = self.row(row).settings
        return {**self.settings, **own, **(self.quick if quick else {}), **(changed or {})}

    def _check_settings(self, what: str, given: Mapping[str, Any]) -> None:
        """ValueError for a name that is no setting of the experiment or of one of its rows."""
        known = {*self.settings, *(name for row in self.rows for name in row.settings)}
        for name in given:
            if name not in known:
                raise ValueError(
                    f"{what}: {name!r} is no setting of this experiment, which has "
                    f"{listed(sorted(known), 40)}"
                )

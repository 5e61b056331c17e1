"""The score as a function of the fraction kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_integer, check_number, shown
from dropcore._base.extras import require
from dropcore.key import Key, as_key
from dropcore.nn import Model, width_for
from dropcore.training.metrics import Metric
from dropcore.tuning._experiment import (
    Experiment,
    Split,
    checked_experiment,
    fingerprint_of,
    key_of_fold,
    splits_of,
)
from dropcore.tuning._parallel import jobs_of
from dropcore.tuning._progress import Bar
from dropcore.tuning._results import Results
from dropcore.tuning._verdict import Difference, difference_of, verdict_of

__all__ = ["KEEPS", "Sensitivity", "sensitivity"]

KEEPS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""The grid of Srivastava et al. 2014, section 7.3, and no dropout."""

Widths = int | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Scores for each keep and fold, and the verdict on them.

    Attributes
    ----------
    keeps : ndarray of float64, shape (keeps,)
        In descending order.
    scores : ndarray of float64, shape (keeps, folds)
        Of the samples that a model was not trained on, without noise. NaN where training diverged.
    train_scores : ndarray of float64, shape (keeps, folds)
        Of the samples that it was trained on.
    metric : str
    higher_is_better : bool
        Whether a higher score is better, as for accuracy; not for a loss.
    widths : list or None
        The width, or widths, of the hidden layers at each keep; None if `build` takes none.
    fix : str
        "n" or "n*keep".
    splits : list of (ndarray of int64, ndarray of int64)
        Positions of the samples that each fold trained on, and of those that it was scored on.
    kind : str
        "flat", "unstable", "no dropout" (is as good), "worse" (with dropout) or "too few folds".
    best : float
        The keep with the best mean score.
    flat : (float, float) or None
        Lowest and highest keep of the flat region around `best`, if it extends over 0.2 or more.
    recommended : float
        0.5 if it is in the flat region, else the keep in its middle; 1.0 where no dropout is as
        good.
    verdict : str
        The result in words.
    """

    keeps: NDArray[np.float64]
    scores: NDArray[np.float64]
    train_scores: NDArray[np.float64]
    metric: str
    higher_is_better: bool
    widths: list[Widths] | None
    fix: str
    splits: list[Split]
    kind: str
    best: float
    flat: tuple[float, float] | None
    recommended: float
    verdict: str

    @property
    def ratio(self) -> float:
        """Test samples divided by training samples of a fold, for standard errors."""
        return ratio_of(self.splits)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean score of each keep, shape (keeps,); NaN where training diverged in a fold."""
        return self.scores.mean(axis=1)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """Of each mean, shape (keeps,): see `Difference`."""
        folds = self.scores.shape[1]
        return self.scores.std(axis=1, ddof=1) * math.sqrt(1 / folds + self.ratio)

    def compare(
        self, keep: float, other: float = 1.0, *, of: Sensitivity | None = None
    ) -> Difference:
        """The difference between two keeps, paired by fold.

        ``compare(result.best)`` tells whether dropout helps at all, and
        ``wide.compare(0.5, 0.5, of=narrow)``, with `wide` from ``fix="n*keep"``, whether a wider
        layer does. The score of the best keep is optimistic, because it was chosen by that score.

        Parameters
        ----------
        keep, other : float
            The difference is positive where `keep` is better.
        of : Sensitivity, optional
            The result that `other` belongs to, of the same metric and folds; by default this one.

        Returns
        -------
        Difference
            Its mean over the folds, and the standard error of it.

        Raises
        ------
        ValueError
            If a keep is not in its grid, or metric or folds differ.
        """
        second = self if of is None else of
        same = len(self.splits) == len(second.splits) and all(
            np.array_equal(a, b)
            for mine, others in zip(self.splits, second.splits)
            for a, b in zip(mine, others, strict=True)
        )
        if not same or self.metric != second.metric:
            raise ValueError("compare: of must have the same metric and the same folds")
        return difference_of(
            self.scores[self._row(keep)], second.scores[second._row(other)],
            higher=self.higher_is_better, ratio=self.ratio,
        )  # fmt: skip

    def table(self) -> Any:
        """A data frame with a row for each keep.

        Returns
        -------
        pandas.DataFrame
            In the order of the grid.

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        pandas = require("pandas", "tables", "a table of the sensitivity")
        columns = {
            "keep": self.keeps,
            "rate": np.round(1 - self.keeps, 12),
            **({} if self.widths is None else {"units": self.widths}),
            self.metric: self.mean,
            "standard_error": self.standard_error,
            f"train_{self.metric}": self.train_scores.mean(axis=1),
        }
        return pandas.DataFrame(columns)

    def __str__(self) -> str:
        head = f"keep  {self.metric:>10}  {'± s.e.':>8}  {'training':>10}"
        lines = [
            f"{keep:<4g}  {mean:10.4g}  {error:8.2g}  {train:10.4g}"
            + ("" if self.widths is None else f"  units {self.widths[row]}")
            for row, (keep, mean, error, train) in enumerate(
                zip(self.keeps, self.mean, self.standard_error, self.train_scores.mean(axis=1))
            )
        ]
        return "\n".join([head, *lines, "", self.verdict])

    def _row(self, keep: float) -> int:
        found = np.flatnonzero(np.isclose(self.keeps, keep, rtol=0, atol=1e-9))
        if not len(found):
            raise ValueError(
                f"compare: keep must be one of {', '.join(f'{k:g}' for k in self.keeps)}, got "
                f"{shown(keep)}"
            )
        return int(found[0])


def sensitivity(
    build: Callable[..., Model],
    x: Any,
    y: Any,
    *,
    keeps: Iterable[float] = KEEPS,
    folds: Any = 5,
    fix: str = "n",
    units: int | Sequence[int] | None = None,
    metric: str | Metric | None = None,
    key: Key | int = 0,
    resume: Any = None,
    n_jobs: int | None = None,
    progress: bool | None = None,
    **fit_options: Any,
) -> Sensitivity:
    """Train at each keep with cross-validation, and recommend one.

    At every keep the models of a fold have the same initial weights, the same order of samples and
    the same uniforms of the masks: what is dropped at 0.8 is also dropped at 0.5. Differences
    between keeps, paired by fold, are therefore those of the keep itself.

    Parameters
    ----------
    build : callable
        ``build(keep)``, or ``build(keep, units)`` with `units`: returns a new model, such as
        ``lambda keep: nn.mlp(256, 10, keep=keep)``.
    x, y : array_like or table, shape (samples, ...)
        As for `fit`.
    keeps : iterable of float, default 1.0, 0.9, ... 0.1
        Fractions kept, in (0, 1], at least two. 1.0 shows whether dropout helps.
    folds : int, splitter or iterable of (train, test), default 5
        As scikit-learn's `cross_validate` takes it. With a number, samples are shuffled, and
        stratified for classes. Fold f trains with the seed ``key.seed + f``.
    fix : "n" or "n*keep", default "n"
        What is fixed over the grid. "n": the width. "n*keep": the number of units kept, so that a
        layer has ``width_for(units, keep=keep)`` units.
    units : int or sequence of int, optional
        Width of each hidden layer, the second argument of `build`. Needed for ``fix="n*keep"``,
        where it is the width without dropout.
    metric : str or Metric, optional
        "loss", a name of `dropcore.training.metrics`, or a metric of one's own. By default
        "accuracy" of a classification, "rmse" for "mse" and "mae" for "mae", else "loss".
    key : Key or int, default 0
    resume : str or path, optional
        A JSON file to which the result of each model is written when it is finished. A call with
        the same arguments skips the models in the file; `keeps` may have changed. The file is
        replaced atomically.
    n_jobs : int, optional
        Models that are trained at a time, as joblib takes it: -1 is one for each processor. By
        default the number of ``joblib.parallel_config``, else 1. With
        ``parallel_config(backend="dask", client=client)`` the workers of a Dask cluster train them,
        by default one for each thread of the workers. The results do not depend on it.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal and in a notebook.
    **fit_options
        Arguments of `fit`: `epochs`, which is required, `optimizer`, `batch_size`, `loss`,
        `sample_weight`, ... Preprocessing is fitted on the training part of each fold.

    Returns
    -------
    Sensitivity

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, `build` returns the same model for every keep or one that was
        trained before, or `resume` holds results of other data, folds or options.
    ConnectionError
        If the cluster has no workers, is lost, or its workers die again and again. Finished models
        are in the file `resume`.
    ImportError
        If joblib or scikit-learn is missing, or a worker of the cluster has another version of
        dropcore or none.
    FloatingPointError
        If training diverged at every keep. Otherwise the scores of a model that diverged are NaN.
    KeyboardInterrupt
        If the user interrupts. Finished models are in the file `resume`.

    References
    ----------
    Srivastava et al. 2014, section 7.3: the effect of p with n fixed and with p n fixed. Breiman,
    Friedman, Olshen and Stone 1984, "Classification and regression trees": the rule of one standard
    error.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from dropcore import nn
    >>> x, y = load_iris(return_X_y=True)
    >>> result = sensitivity(
    ...     lambda keep: nn.mlp(32, 3, keep=keep), x, y, keeps=(1.0, 0.5), folds=3, epochs=2,
    ...     loss="softmax_cross_entropy", progress=False,
    ... )
    >>> result.scores.shape
    (2, 3)
    """
    if isinstance(build, Model) or not callable(build):
        raise TypeError(
            "sensitivity: build must be a function of keep that returns a new model, such as "
            f"lambda keep: nn.mlp(256, 10, keep=keep), got {shown(build)}"
        )
    grid = _checked_keeps(keeps)
    wide = _widths(fix, units, grid)
    address = as_key(key)
    experiment = checked_experiment("sensitivity", x, y, fit_options, metric)
    options, n = experiment.options, len(experiment.x)
    splits = splits_of("sensitivity", experiment.y, n, folds, options.get("loss"), address)

    cells = [
        _Cell(row, fold, float(keep), None if wide is None else wide[row])
        for fold in range(len(splits))
        for row, keep in enumerate(grid)
    ]
    # Cells are in the order fold by fold; those of fold 0 have every keep once.
    fresh = [_built(build, cell) for cell in cells[: len(grid)]]
    models = [repr(model) for model in fresh]
    if len(set(models)) == 1:
        raise ValueError(
            "sensitivity: build returns the same model for every keep: it must use its argument, "
            f"as in lambda keep: nn.mlp(256, 10, keep=keep), got {models[0]}"
        )
    experiment = experiment.probed(fresh[0], splits[0], address)
    results = Results("sensitivity", resume, {} if resume is None else {
        "x": fingerprint_of(experiment.x),
        "y": fingerprint_of(experiment.y),
        "folds": fingerprint_of(splits),
        "options of fit": fingerprint_of(options),
        "metric": experiment.metric_name,
        "key": str(address),
    })  # fmt: skip
    names = {
        cell: f"keep {cell.keep!r}, fold {cell.fold}, model {fingerprint_of(models[cell.row])}"
        for cell in cells
    }
    todo = [cell for cell in cells if names[cell] not in results.found]
    shared = _Grid(build, experiment, splits, address)
    jobs = jobs_of("sensitivity", _run, shared, n_jobs)
    running = jobs.run([(cell,) for cell in todo])
    with Bar("sensitivity", len(todo), progress) as bar, closing(running) as trained:
        for cell, result in trained:
            results.add(names[cell], result)
            bar.update()

    table = np.empty((2, len(grid), len(splits)))
    for cell in cells:
        result = results.found[names[cell]]
        found = result["score"], result["train_score"]
        table[:, cell.row, cell.fold] = [np.nan if one is None else one for one in found]
    name, higher = experiment.metric_name, experiment.higher_is_better
    verdict = verdict_of(
        grid, table[0], metric=name, higher=higher, ratio=ratio_of(splits),
        wider=_advice_on_width(fix, units),
    )  # fmt: skip
    return Sensitivity(
        grid, table[0], table[1], name, higher, wide, fix, splits, verdict.kind, verdict.best,
        verdict.flat, verdict.recommended, verdict.text,
    )  # fmt: skip


# --- the models of the grid ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """One model: a keep, with the widths of the layers, and a fold."""

    row: int
    fold: int
    keep: float
    widths: Widths | None


@dataclass(frozen=True)
class _Grid:
    """How the model of a cell is trained and scored."""

    build: Callable[..., Model]
    experiment: Experiment
    splits: list[Split]
    key: Key

    def result(self, cell: _Cell) -> dict[str, Any]:
        """The result of a cell, as it is written to a file."""
        model = _built(self.build, cell)
        key = key_of_fold(self.key, cell.fold)
        return self.experiment.run(model, self.splits[cell.fold], key)


def _run(grid: _Grid, cell: _Cell) -> tuple[_Cell, dict[str, Any]]:
    return cell, grid.result(cell)


def _built(build: Callable[..., Model], cell: _Cell) -> Model:
    """A new model for a cell; TypeError or ValueError if `build` returns anything else."""
    model = build(cell.keep) if cell.widths is None else build(cell.keep, cell.widths)
    if not isinstance(model, Model):
        raise TypeError(
            f"sensitivity: build must return a model, such as nn.mlp(256, 10, keep=keep), got "
            f"{shown(model)}"
        )
    if model.training_state is not None:
        raise ValueError(
            "sensitivity: build must return a new model each time, and this one has been trained"
        )
    return model


def ratio_of(splits: list[Split]) -> float:
    """Mean of test / train, the numbers of samples."""
    return float(np.mean([len(test) / len(train) for train, test in splits]))


# --- arguments -----------------------------------------------------------------------------------


def _checked_keeps(keeps: Iterable[float]) -> NDArray[np.float64]:
    """The grid in descending order."""
    if isinstance(keeps, str) or not isinstance(keeps, Iterable):
        raise TypeError(
            f"sensitivity: keeps must be several fractions kept, such as (1.0, 0.5), got {keeps!r}"
        )
    grid = sorted((check_number("sensitivity: keeps", k, "(0, 1]") for k in keeps), reverse=True)
    if len(set(grid)) < max(2, len(grid)):
        raise ValueError(
            f"sensitivity: keeps must be at least two different fractions kept, got {grid}"
        )
    return np.array(grid)


def _widths(
    fix: str, units: int | Sequence[int] | None, grid: NDArray[np.float64]
) -> list[Widths] | None:
    """The widths at each keep."""
    if fix not in ("n", "n*keep"):
        raise ValueError(f"sensitivity: fix must be 'n' or 'n*keep', got {shown(fix)}")
    if units is None:
        if fix == "n*keep":
            raise ValueError(
                "sensitivity: fix='n*keep' needs units, the width without dropout, and "
                "build(keep, units)"
            )
        return None
    one = not isinstance(units, Sequence)
    layers = tuple(
        check_integer("sensitivity: units", width, 1)
        for width in ((units,) if one else units)  # type: ignore[union-attr]
    )
    if not layers:
        raise ValueError("sensitivity: units must have at least one width, or be left out")
    found = [
        layers if fix == "n" else tuple(width_for(width, keep=float(keep)) for width in layers)
        for keep in grid
    ]
    return [widths[0] if one else widths for widths in found]


def _advice_on_width(fix: str, units: int | Sequence[int] | None) -> Callable[[float], str]:
    """What to try where a layer is too narrow for a keep."""

    def advice(keep: float) -> str:
        if fix == "n*keep":
            return "more units"
        if isinstance(units, int):
            return (
                f"a wider layer, n / keep = {units} / {keep:g} = {width_for(units, keep=keep)} "
                "units"
            )
        return f"wider layers, n / keep, which is {1 / keep:.2g} times as many units"

    return advice

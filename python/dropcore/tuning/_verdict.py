"""What a table of scores says about the fraction kept: the flat region, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Verdict", "difference_of", "verdict_of"]

Scores = NDArray[np.float64]

_FEWEST_FOLDS: Final = 3
_FLAT: Final = 0.2 - 1e-9
"""The least extent of a flat region: three neighbours of the grid 0.1, 0.2, ... 1.0."""


@dataclass(frozen=True)
class Difference:
    """A difference between two settings, paired by fold.

    Attributes
    ----------
    mean : float
        Positive where the first setting is better, whatever the metric.
    standard_error : float
        Of `mean`; NaN with a single fold. Training parts of folds overlap, so that their scores are
        not independent. The variance is therefore multiplied by 1/folds + test/train, the sizes of
        the parts, instead of 1/folds (Nadeau and Bengio 2003).
    better, folds : int
        Number of folds in which the first is better, and of all folds.

    References
    ----------
    Nadeau and Bengio 2003, "Inference for the generalization error", Machine Learning 52.
    """

    mean: float
    standard_error: float
    better: int
    folds: int

    @property
    def is_clear(self) -> bool:
        """Whether the mean is further from 0 than two standard errors."""
        return abs(self.mean) > 2 * self.standard_error

    def __str__(self) -> str:
        return (
            f"{self.mean:+.3g} ± {self.standard_error:.2g} (better in {self.better} of "
            f"{self.folds} folds)"
        )


def difference_of(first: Scores, second: Scores, *, higher: bool, ratio: float) -> Difference:
    """The difference between two rows of scores.

    Parameters
    ----------
    first, second : ndarray of float64, shape (folds,)
    higher : bool
        Whether higher scores are better.
    ratio : float
        Samples of a test part divided by those of its training part.
    """
    gains = first - second if higher else second - first
    n = len(gains)
    error = float(gains.std(ddof=1)) * math.sqrt(1 / n + ratio) if n > 1 else math.nan
    return Difference(float(gains.mean()), error, int((gains > 0).sum()), n)


@dataclass(frozen=True)
class Verdict:
    """What the scores say.

    Attributes
    ----------
    kind : str
        "flat", "unstable", "no dropout" (is as good), "worse" (dropout is) or "too few folds".
    best : float
        The keep with the best mean score.
    flat : (float, float) or None
        Lowest and highest keep of the flat region around the best.
    recommended : float
    text : str
    """

    kind: str
    best: float
    flat: tuple[float, float] | None
    recommended: float
    text: str


def verdict_of(
    keeps: Scores,
    scores: Scores,
    *,
    metric: str,
    higher: bool,
    ratio: float,
    wider: Callable[[float], str],
) -> Verdict:
    """The verdict on a table of scores.

    A keep is as good as the best one if its difference to it, paired by fold, is at most one
    standard error; or two, if both its neighbours are as good, since the score changes smoothly
    with keep. The flat region are the keeps around the best that are as good. With few folds a
    standard error may be small by chance: it counts as no smaller than the median of all. Of a
    plateau of five keeps, three or more are then found in nearly 90 of 100 experiments (scores with
    independent normal errors); by the rule of one standard error alone, in 60.

    Parameters
    ----------
    keeps : ndarray of float64, shape (keeps,)
        In descending order.
    scores : ndarray of float64, shape (keeps, folds)
        NaN where training diverged.
    metric : str
    higher : bool
        Whether higher scores are better.
    ratio : float
        Samples of a test part divided by those of its training part.
    wider : callable
        ``wider(keep)`` says which width to try where a layer is too narrow for a keep.

    Raises
    ------
    FloatingPointError
        If training diverged at every keep.
    """
    if np.isnan(scores).any(axis=1).all():
        raise FloatingPointError(
            "training diverged at every keep: use a smaller learning rate, and standardised data"
        )
    return _Table(keeps, scores, metric, higher, ratio).verdict(wider)


class _Table:
    """The scores, and where they are as good as the best."""

    def __init__(
        self, keeps: Scores, scores: Scores, metric: str, higher: bool, ratio: float
    ) -> None:
        self.keeps, self.scores, self.metric = keeps, scores, metric
        self.higher, self.ratio = higher, ratio
        self.folds = scores.shape[1]
        self.means = scores.mean(axis=1)  # NaN where training diverged in a fold
        self.whole = [not np.isnan(mean) for mean in self.means]
        self.top = int(np.nanargmax(self.means if higher else -self.means))
        self.best = float(keeps[self.top])
        # In descending order keep = 1 is the first, if it is in the grid.
        self.none = 0 if keeps[0] == 1.0 and self.whole[0] else None

    def gain(self, row: int, other: int) -> Difference:
        """How much better a row is than another."""
        return difference_of(
            self.scores[row], self.scores[other], higher=self.higher, ratio=self.ratio
        )

    def within(self, errors: float) -> list[bool]:
        """Whether each keep is within so many standard errors of the best."""
        gains = [self.gain(self.top, row) for row in range(len(self.keeps))]
        known = [
            gain.standard_error
            for row, gain in enumerate(gains)
            if self.whole[row] and row != self.top
        ]
        usual = float(np.median(known)) if known else 0.0
        return [
            whole and gain.mean <= errors * max(gain.standard_error, usual)
            for whole, gain in zip(self.whole, gains, strict=True)
        ]

    def region(self) -> tuple[float, float]:
        """Lowest and highest keep around the best that are as good."""
        one, two = self.within(1), self.within(2)
        between = [
            both and near
            for both, near in zip(
                [False, *(a and b for a, b in zip(one, one[2:])), False], two, strict=True
            )
        ]
        good = [a or b for a, b in zip(one, between, strict=True)]
        low = high = self.top
        while high > 0 and good[high - 1]:
            high -= 1
        while low + 1 < len(good) and good[low + 1]:
            low += 1
        return float(self.keeps[low]), float(self.keeps[high])

    def verdict(self, wider: Callable[[float], str]) -> Verdict:
        """What to do, in words."""
        if self.folds < _FEWEST_FOLDS:
            return self._says(
                "too few folds", None, self.best,
                f"Too few folds to say: {self.folds} give no useful standard error. keep = "
                f"{self.best:g} has the best mean, {self.metric} {self.means[self.top]:.3g}; use "
                "folds=5 or more.",
            )  # fmt: skip
        low, high = self.region()
        flat = (low, high) if high - low >= _FLAT else None
        one = self.within(1)
        if self.none is not None and one[self.none]:
            return self._no_dropout(one, flat, wider)
        if flat is None:
            found = f"no other keep is as good as the best, {self._best()}"
            if sum(one) > 1:
                found = f"{_listed(self.keeps[one])} are as good, {self._best()}"
            return self._says(
                "unstable", None, self.best,
                f"Unstable: {found}. Try {wider(self.best)}, a smaller learning rate, or more "
                f"folds.{self._helps()}",
            )  # fmt: skip
        safe = _safe(self.keeps, flat)
        text = f"Flat from {low:g} to {high:g}: {safe:g} is safe.{self._helps()}"
        if low == self.keeps[-1] and low > 0.1:
            text += f" The grid ends in the flat region: add keeps below {low:g}."
        return self._says("flat", flat, safe, text)

    def _no_dropout(
        self, one: list[bool], flat: tuple[float, float] | None, wider: Callable[[float], str]
    ) -> Verdict:
        """The verdict where keep = 1 is the best, or as good."""
        assert self.none is not None
        others = [self.gain(self.none, row) for row, ok in enumerate(self.whole) if ok and row]
        nearest = min(others, key=lambda loss: loss.mean, default=None)
        if nearest is not None and self.top == self.none and nearest.is_clear:
            return self._says(
                "worse", None, 1.0,
                f"Dropout makes it worse: {self._best()} is the best, by {nearest.mean:.3g} ± "
                f"{nearest.standard_error:.2g} from the next. The network is too small for dropout "
                f"or was trained too briefly: try {wider(0.5)}, or more epochs.",
            )  # fmt: skip
        text = f"No dropout is as good: {self._best()}"
        if self.top == self.none:
            text += " is the best."
        else:
            text += f" and {self._without()}."
        if all(one):
            text += " No keep can be told from the best; more folds would tell smaller differences."
        elif flat is not None:
            text += f" Flat from {flat[0]:g} to {flat[1]:g}."
        return self._says("no dropout", flat, 1.0, text)

    def _says(
        self, kind: str, flat: tuple[float, float] | None, recommended: float, text: str
    ) -> Verdict:
        """The verdict, with a note on keeps that have no score."""
        if self.none is None and kind != "too few folds":
            text += " The scores do not say whether dropout helps, without those of keep = 1."
        lost = np.isnan(self.scores).sum(axis=1)
        if lost.any():
            places = [f"{k:g} ({n} of {self.folds} folds)" for k, n in zip(self.keeps, lost) if n]
            text += (
                f" Training diverged at keep = {', '.join(places)}: use a smaller learning rate."
            )
        return Verdict(kind, self.best, flat, recommended, text)

    def _best(self) -> str:
        return f"{self.metric} {self.means[self.top]:.3g} at keep = {self.best:g}"

    def _without(self) -> str:
        assert self.none is not None
        return f"{self.means[self.none]:.3g} without dropout, {self.gain(self.top, self.none)}"

    def _helps(self) -> str:
        if self.none is None:
            return ""
        clear = self.gain(self.top, self.none).is_clear
        verb = "helps" if clear else "seems to help"
        return f" Dropout {verb}: {self._best()} and {self._without()}."


def _safe(keeps: Scores, flat: tuple[float, float]) -> float:
    """0.5 if it is in the flat region; else the keep of the grid nearest to its middle."""
    low, high = flat
    if low <= 0.5 <= high:
        return 0.5
    return float(min(keeps, key=lambda keep: abs(keep - (low + high) / 2)))


def _listed(keeps: Scores) -> str:
    return ", ".join(f"{keep:g}" for keep in keeps)

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
        In how many folds the first is better, out of how many.

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

    A keep belongs to the flat region if it is next to the best one, or to another of the region,
    and its difference to the best, paired by fold, is at most one standard error.

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
        ``wider(keep)`` says what to try where a layer is too narrow for a keep.

    Raises
    ------
    FloatingPointError
        If training diverged at every keep.
    """
    whole = np.array([not any(row) for row in np.isnan(scores).tolist()])
    if not whole.any():
        raise FloatingPointError(
            "training diverged at every keep: use a smaller learning rate, and standardised data"
        )
    means = np.full(len(keeps), np.nan)
    means[whole] = scores[whole].mean(axis=1)
    top = int(np.nanargmax(means if higher else -means))
    best, folds = float(keeps[top]), scores.shape[1]

    def against(row: int, other: int) -> Difference:
        return difference_of(scores[row], scores[other], higher=higher, ratio=ratio)

    notes = _diverged(keeps, scores)
    if folds < _FEWEST_FOLDS:
        return Verdict(
            "too few folds", best, None, best,
            f"Too few folds to say: {folds} give no useful standard error. keep = {best:g} has the "
            f"best mean, {metric} {means[top]:.3g}; use folds=5 or more." + notes,
        )  # fmt: skip
    within: NDArray[np.bool_] = np.array(
        [ok and (row == top or _within(against(top, row))) for row, ok in enumerate(whole)]
    )
    low = high = top
    while high > 0 and within[high - 1]:
        high -= 1
    while low + 1 < len(keeps) and within[low + 1]:
        low += 1
    region = float(keeps[low]), float(keeps[high])
    flat = region if region[1] - region[0] >= _FLAT else None
    facts = f"{metric} {means[top]:.3g} at keep = {best:g}"
    # In descending order keep = 1 is the first, if it is in the grid.
    none = 0 if keeps[0] == 1.0 and whole[0] else None
    if none is None:
        gain = ""
        notes = " The scores do not say whether dropout helps, without those of keep = 1." + notes
    else:
        gain = f"{facts} and {means[none]:.3g} without dropout, {against(top, none)}."

    if none is not None and within[none]:
        return _no_dropout(keeps, means, within, top, none, against(top, none), flat, facts, notes,
                           wider, [against(none, row) for row in range(len(keeps))
                                   if whole[row] and row != none])  # fmt: skip
    if flat is None:
        near = f"within one standard error of the best, {facts}"
        found = f"no other keep is {near}"
        if within.sum() > 1:
            found = f"the keeps {near}, are {_listed(keeps[within])}"
        text = (
            f"Unstable: {found}. Try a wider layer, {wider(best)}, a smaller learning "
            "rate, or more folds."
        )
        return Verdict("unstable", best, None, best, f"{text}{_helps(gain)}{notes}")
    safe = _safe(keeps, flat)
    text = f"Flat from {flat[0]:g} to {flat[1]:g}: {safe:g} is safe."
    if low == len(keeps) - 1 and flat[0] > 0.1:
        notes = f" The grid ends in the flat region: add keeps below {flat[0]:g}." + notes
    return Verdict("flat", best, flat, safe, f"{text}{_helps(gain)}{notes}")


def _within(difference: Difference) -> bool:
    """Whether a difference is at most its standard error."""
    return difference.mean <= difference.standard_error


def _no_dropout(
    keeps: Scores,
    means: Scores,
    within: NDArray[np.bool_],
    top: int,
    none: int,
    gain: Difference,
    flat: tuple[float, float] | None,
    facts: str,
    notes: str,
    wider: Callable[[float], str],
    losses: list[Difference],
) -> Verdict:
    """The verdict where keep = 1 is the best, or within one standard error of it."""
    best = float(keeps[top])
    if within.sum() == 1:
        nearest = min(losses, key=lambda loss: loss.mean)
        text = (
            f"Dropout makes it worse: {facts} is the best, by {nearest.mean:.3g} ± "
            f"{nearest.standard_error:.2g} from the next. The network is too small for dropout or "
            f"was trained too briefly: try a wider layer, {wider(0.5)}, or more epochs."
        )
        return Verdict("worse", best, None, 1.0, text + notes)
    if top == none:
        text = f"No dropout is as good: {facts} is the best."
    else:
        text = (
            f"No dropout is as good: {facts} and {means[none]:.3g} without dropout, {gain}, which "
            "is within one standard error."
        )
    if within.all():
        text += (
            " No difference between the keeps is larger than its standard error; more folds would "
            "tell smaller ones."
        )
    elif flat is not None:
        text += f" Flat from {flat[0]:g} to {flat[1]:g}."
    return Verdict("no dropout", best, flat, 1.0, text + notes)


def _helps(gain: str) -> str:
    return f" Dropout helps: {gain}" if gain else ""


def _safe(keeps: Scores, flat: tuple[float, float]) -> float:
    """0.5 if it is in the flat region; else the keep of the grid nearest to its middle."""
    low, high = flat
    if low <= 0.5 <= high:
        return 0.5
    return float(min(keeps, key=lambda keep: abs(keep - (low + high) / 2)))


def _diverged(keeps: Scores, scores: Scores) -> str:
    """Where training diverged, in words."""
    lost = np.isnan(scores).sum(axis=1)
    if not lost.any():
        return ""
    places = [f"{keep:g} ({n} of {scores.shape[1]} folds)" for keep, n in zip(keeps, lost) if n]
    return f" Training diverged at keep = {', '.join(places)}: use a smaller learning rate."


def _listed(keeps: Scores) -> str:
    return ", ".join(f"{keep:g}" for keep in keeps)

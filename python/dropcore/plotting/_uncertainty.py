"""How sure predictions are, and whether they are right to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dropcore._base.checks import check_integer
from dropcore.plotting._style import BLUE, FAINT, GREEN, ORANGE, axes_for, legend, literal

if TYPE_CHECKING:
    from dropcore.uncertainty import AveragingCurve, Intervals, Reliability

__all__ = ["averaging_chart", "prediction_intervals", "reliability_diagram"]


def reliability_diagram(reliability: Reliability, *, ax: Any = None) -> Any:
    """Draw how often predictions are right against how confident they are.

    A calibrated model is on the diagonal: of the predictions with a confidence of 0.8, 80 % are
    right. Below it, the model is too sure. Bars show ± 1 standard error, grey columns the share of
    the samples. ECE is the expected calibration error.

    Parameters
    ----------
    reliability : Reliability
        What `dropcore.uncertainty.reliability` returns: `edges` (bins + 1,), `confidence`,
        `accuracy` and `count` (bins,), and `ece`.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    ax = axes_for(ax, height=3.6)
    edges = np.asarray(reliability.edges, np.float64)
    count = np.asarray(reliability.count)
    ax.stairs(
        count / max(count.sum(), 1), edges, fill=True, color=FAINT, alpha=0.3,
        label="share of samples",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="calibrated")
    filled = count > 0
    right = np.asarray(reliability.accuracy, np.float64)[filled]
    error = np.sqrt(right * (1 - right) / count[filled])
    ax.errorbar(
        np.asarray(reliability.confidence, np.float64)[filled], right, yerr=error, fmt="o-",
        color=BLUE, markersize=4, linewidth=1.5, elinewidth=1,
        label=f"model, ECE {reliability.ece:.3f}",
    )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence, the predicted probability")
    ax.set_ylabel("accuracy")
    legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return ax


def averaging_chart(curve: AveragingCurve, *, ax: Any = None) -> Any:
    """Draw the error of averages of Monte Carlo samples against their number, and weight scaling.

    This is figure 11 of Srivastava et al. 2014 for a model and data of one's own.

    Parameters
    ----------
    curve : AveragingCurve
        What `dropcore.uncertainty.averaging_curve` returns: `samples`, `error` and
        `standard_error` (numbers,), `weight_scaling` and `metric`.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    ax = axes_for(ax)
    ax.errorbar(
        curve.samples, curve.error, yerr=curve.standard_error, fmt="o-", color=BLUE, markersize=4,
        linewidth=1.5, elinewidth=1, label="average of samples, ± 1 s.e.",
    )  # fmt: skip
    ax.axhline(
        curve.weight_scaling, color=ORANGE, linewidth=1.5, linestyle="--",
        label=f"weight scaling, {curve.weight_scaling:.3g}",
    )  # fmt: skip
    ax.set_xscale("log")
    ticks = [int(number) for number in curve.samples]
    ax.set_xticks(ticks, [f"{number:g}" for number in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("Monte Carlo samples averaged")
    ax.set_ylabel(literal(curve.metric))
    legend(ax)
    return ax


def prediction_intervals(
    intervals: Intervals, y: ArrayLike, *, by: str = "rank", count: int = 200, ax: Any = None
) -> Any:
    """Draw predictions with their intervals and the true values, and how many are covered.

    Parameters
    ----------
    intervals : Intervals
        What `dropcore.uncertainty.intervals` returns: `lower`, `upper`, `mean` (samples,) and
        `level`.
    y : array_like, shape (samples,)
        The true values.
    by : "rank" or "truth", default "rank"
        Whether samples are ordered by their predictions, with a band for the intervals, or stand
        at their true values, where good predictions are near the diagonal.
    count : int, default 200
        How many samples are drawn, evenly spaced in the order of predictions; the coverage is that
        of all.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If `by` is another word, or y has not one value for each prediction.
    ImportError
        If matplotlib is missing.
    """
    if by not in ("rank", "truth"):
        raise ValueError(f"prediction_intervals: by must be 'rank' or 'truth', got {by!r}")
    count = check_integer("prediction_intervals: count", count, 1)
    truth = np.asarray(y, np.float64)
    mean = np.asarray(intervals.mean, np.float64)
    if truth.size != mean.size or mean.ndim > 2 or mean.shape[1:] not in ((), (1,)):
        raise ValueError(
            f"prediction_intervals: y must hold one value for each prediction, got {truth.shape} "
            f"and {mean.shape}; of several outputs draw one at a time"
        )
    truth, mean = truth.ravel(), mean.ravel()
    lower, upper = (np.asarray(v, np.float64).ravel() for v in (intervals.lower, intervals.upper))
    inside = (lower <= truth) & (truth <= upper)
    order = np.argsort(mean, kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    ax = axes_for(ax)
    name = f"{100 * intervals.level:g} % interval"
    place = np.arange(len(order)) if by == "rank" else truth[order]
    if by == "rank":
        ax.fill_between(
            place, lower[order], upper[order], step="mid", color=BLUE, alpha=0.2, linewidth=0,
            label=name,
        )  # fmt: skip
        ax.plot(place, mean[order], color=BLUE, linewidth=1.5, label="prediction")
        for held, colour, what in ((True, GREEN, "inside"), (False, ORANGE, "outside")):
            rows = inside[order] == held
            share = 100 * np.mean(inside == held)
            ax.plot(
                place[rows], truth[order][rows], ".", color=colour, markersize=5,
                label=f"true value {what}: {share:.0f} %",
            )  # fmt: skip
        ax.set_xlabel("samples, in the order of their predictions")
        ax.set_ylabel("target")
    else:
        reach = np.stack([mean - lower, upper - mean])[:, order].clip(0)
        ax.axline((truth.mean(), truth.mean()), slope=1, color=FAINT, linewidth=1, linestyle="--")
        for held, colour, what in ((True, BLUE, "covers"), (False, ORANGE, "misses")):
            rows = inside[order] == held
            share = 100 * np.mean(inside == held)
            ax.errorbar(
                place[rows], mean[order][rows], yerr=reach[:, rows], fmt="o", color=colour,
                markersize=3, elinewidth=0.8, label=f"{name} {what}: {share:.0f} %",
            )  # fmt: skip
        ax.set_xlabel("true value")
        ax.set_ylabel("prediction")
    legend(ax)
    return ax

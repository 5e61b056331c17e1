"""How a score depends on the fraction that dropout keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dropcore.plotting._style import BLUE, FAINT, axes_for, legend, literal

if TYPE_CHECKING:
    from dropcore.tuning import Sensitivity

__all__ = ["sensitivity_curve"]


def sensitivity_curve(sensitivity: Sensitivity, *, ax: Any = None) -> Any:
    """Draw the score against keep: mean and standard error over the folds, and the flat region.

    Parameters
    ----------
    sensitivity : Sensitivity
        What `dropcore.tuning.sensitivity` returns.
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
    order = np.argsort(sensitivity.keeps)
    keeps = np.asarray(sensitivity.keeps, np.float64)[order]
    scores = np.asarray(sensitivity.scores, np.float64)[order]
    mean, error = scores.mean(axis=1), sensitivity.standard_error[order]
    if sensitivity.flat is not None:
        low, high = sensitivity.flat
        ax.axvspan(
            low, high, color=FAINT, alpha=0.16, linewidth=0, label=f"flat, {low:g} to {high:g}"
        )
    ax.fill_between(keeps, mean - error, mean + error, color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(keeps, mean, "o-", color=BLUE, linewidth=1.8, markersize=4, label="mean ± 1 s.e.")
    at = int(np.abs(keeps - sensitivity.best).argmin())
    ax.plot(
        keeps[at], mean[at], "o", color="none", markeredgecolor=BLUE, markersize=10,
        label=f"best, {sensitivity.best:g}",
    )  # fmt: skip
    ax.set_xlabel("keep, the fraction kept")
    ax.set_ylabel(f"{literal(sensitivity.metric)}, held-out samples")
    legend(ax)
    return ax

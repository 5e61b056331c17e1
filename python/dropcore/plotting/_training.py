"""Curves over the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dropcore._base.extras import require
from dropcore.diagnosis import NormHistory
from dropcore.plotting._style import BLUE, CYCLE, FAINT, INK, ORANGE, axes_for, legend, literal
from dropcore.training.metrics import METRICS

if TYPE_CHECKING:
    from dropcore.training import History

__all__ = ["learning_curves", "norm_curves"]


def learning_curves(
    history: History,
    *,
    metric: str = "loss",
    higher_is_better: bool | None = None,
    ax: Any = None,
) -> Any:
    """Draw a metric of training and validation data over the epochs, and the best epoch.

    The training metric was measured under noise while the weights changed, and is worse than what
    `evaluate` gives.

    Parameters
    ----------
    history : History
        What `fit` returns.
    metric : str, default "loss"
    higher_is_better : bool, optional
        Which epoch is the best. Known for the metrics of `fit`; for one of your own without it no
        epoch is marked.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure, ``ax.figure``.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the history has no such metric.
    ImportError
        If matplotlib is missing.
    """
    curves = {
        "training, under noise": (history.get(metric), ORANGE),
        "validation": (history.get(f"val_{metric}"), BLUE),
    }
    if all(values is None for values, _ in curves.values()):
        known = sorted({name.removeprefix("val_") for name in history if name != "seconds"})
        raise ValueError(
            f"learning_curves: metric must be one that the history has ({', '.join(known)}), got "
            f"{metric!r}"
        )
    ax = axes_for(ax)
    epochs = history.epochs
    for name, (values, colour) in curves.items():
        if values is not None:
            ax.plot(epochs, values, color=colour, linewidth=1.8, label=name)
    held_out = curves["validation"][0]
    better = _higher_is_better(metric)
    better = better if higher_is_better is None else higher_is_better
    if held_out is not None and better is not None and np.isfinite(held_out).any():
        best = int((np.nanargmax if better else np.nanargmin)(held_out))
        epoch, value = epochs[best], held_out[best]
        ax.axvline(epoch, color=FAINT, linewidth=1, linestyle=":")
        ax.plot(
            epoch, value, "o", color=BLUE, markersize=5, label=f"best: {value:.4g}, epoch {epoch}"
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel(literal(metric))
    _whole_numbers(ax)
    legend(ax)
    return ax


def norm_curves(norms: NormHistory, *, ax: Any = None) -> Any:
    """Draw the mean norms of incoming weights over the epochs, a line for each parameter.

    Parameters
    ----------
    norms : NormHistory
        A callback that `fit` got.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If nothing was recorded.
    ImportError
        If matplotlib is missing.
    """
    if not norms.epochs:
        raise ValueError(
            "norm_curves: nothing was recorded: give the NormHistory to fit(callbacks=[norms])"
        )
    ax = axes_for(ax)
    for number, (name, values) in enumerate(norms.mean.items()):
        style = ("-", "--", ":")[number // len(CYCLE) % 3]
        ax.plot(
            norms.epochs, values, style, color=CYCLE[number % len(CYCLE)], linewidth=1.8, label=name
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel("mean norm of incoming weights")
    ax.set_ylim(bottom=0)
    _whole_numbers(ax)
    legend(ax)
    return ax


def _whole_numbers(ax: Any) -> None:
    ticker = require("matplotlib.ticker", "plot", "drawing")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.tick_params(colors=INK)


def _higher_is_better(metric: str) -> bool | None:
    """Of a metric that `fit` knows by its name; None of others."""
    if metric.startswith("top_"):
        return True
    return False if metric == "loss" else METRICS.get(metric)

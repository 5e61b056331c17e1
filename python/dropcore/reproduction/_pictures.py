"""The picture of an experiment that draws none of its own."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from dropcore.plotting._style import BLUE, CYCLE, GRID, INK, ORANGE, legend, styled, title
from dropcore.reproduction._records import Results

__all__ = ["COLORS", "draw_curves", "draw_rows", "legend", "styled"]

COLORS: Final = CYCLE
"""Of rows and lines, in their order; colour-blind readers tell them apart."""


def draw_rows(figure: Any, results: Results) -> None:
    """A dot for each row, with its standard error, beside the published figure.

    Parameters
    ----------
    figure : matplotlib Figure
    results : Results
    """
    measures = results.experiment.measures
    axes = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    heights = np.arange(len(results.rows))[::-1]
    for ax, measure in zip(axes, measures, strict=True):
        styled(ax).grid(axis="x", color=GRID, linewidth=0.8)
        means = [results.mean(row, measure.name) for row in results.rows]
        errors = [results.standard_error(row, measure.name) for row in results.rows]
        ax.errorbar(
            means, heights, xerr=[0 if math.isnan(e) else e for e in errors], fmt="o", color=BLUE,
            capsize=3, label="ours, with standard error",
        )  # fmt: skip
        published = [results.experiment.published(row).get(measure.name) for row in results.rows]
        known = [(x, y) for x, y in zip(published, heights, strict=True) if x is not None]
        if known:
            ax.plot(*zip(*known, strict=True), "D", mfc="none", color=ORANGE, label="published")
        ax.set_yticks(heights, results.rows, color=INK)
        ax.set_ylim(-0.5, len(heights) - 0.5)
        if len(measures) > 2:
            ax.locator_params(axis="x", nbins=6 - min(len(measures), 4))
        ax.set_xlabel(measure.label, color=INK)
    title(axes[0], results.experiment.title)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
        labelcolor=INK, fontsize="small",
    )  # fmt: skip


def draw_curves(ax: Any, results: Results, name: str) -> None:
    """A curve for each row, with a band of one standard error.

    Parameters
    ----------
    ax : matplotlib Axes
    results : Results
    name : str
        Of the curve.
    """
    styled(ax)
    for row, colour in zip(results.rows, CYCLE * len(results.rows)):
        x, mean, error = results.curve(row, name)
        ax.plot(x, mean, color=colour, linewidth=1.6, label=row)
        ax.fill_between(x, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
    legend(ax)

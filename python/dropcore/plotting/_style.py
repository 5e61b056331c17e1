"""The look of all pictures, and the axes that they are drawn on."""

from __future__ import annotations

from typing import Any, Final

from dropcore._base.checks import shown
from dropcore._base.extras import require

__all__ = [
    "BLUE",
    "CYCLE",
    "FAINT",
    "GREEN",
    "GRID",
    "INK",
    "ORANGE",
    "axes_for",
    "legend",
    "literal",
    "new_figure",
    "styled",
    "title",
]

# Colours of Okabe and Ito, which colour-blind readers tell apart.
ORANGE: Final = "#D55E00"
BLUE: Final = "#0072B2"
GREEN: Final = "#009E73"
CYCLE: Final = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")

INK: Final = "#333333"
FAINT: Final = "#767676"
GRID: Final = "#E6E6E6"


def new_figure(width: float, height: float, dpi: float = 150) -> Any:
    """A figure in inches that belongs to no window and to no global state."""
    figure = require("matplotlib.figure", "plot", "drawing")
    return figure.Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def axes_for(ax: Any, *, width: float = 4.8, height: float = 3.2) -> Any:
    """`ax`, or the axes of a new figure, in the style of all pictures.

    Raises
    ------
    TypeError
        If `ax` is no axes of matplotlib.
    ImportError
        If matplotlib is missing.
    """
    axes = require("matplotlib.axes", "plot", "drawing")
    if ax is None:
        ax = new_figure(width, height).subplots()
    elif not isinstance(ax, axes.Axes):
        raise TypeError(
            f"ax must be an Axes of matplotlib, such as figure.subplots(), got {shown(ax)}"
        )
    return styled(ax)


def styled(ax: Any) -> Any:
    """The look of all pictures: thin lines, a grid of values, and no box around.

    Parameters
    ----------
    ax : matplotlib Axes

    Returns
    -------
    matplotlib Axes
        `ax` itself.
    """
    ax.tick_params(colors=INK, length=3)
    for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
        label.set_color(INK)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)
    return ax


def legend(ax: Any, **options: Any) -> None:
    """Names of the lines, without a box.

    Parameters
    ----------
    ax : matplotlib Axes
    **options
        As of its method ``legend``.
    """
    ax.legend(frameon=False, labelcolor=INK, fontsize="small", **options)


def title(ax: Any, text: str) -> None:
    """A title at the left."""
    ax.set_title(text, loc="left", fontsize="medium", color=INK)


def literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")

"""Weights and activations of layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_integer
from dropcore.diagnosis import Activations, Features, WeightNorms
from dropcore.plotting._style import BLUE, GRID, INK, ORANGE, axes_for, legend, literal, title

__all__ = ["activation_histogram", "first_layer", "weight_norm_histogram"]


def first_layer(features: Features, *, count: int | None = None, ax: Any = None) -> Any:
    """Draw what the first layer looks for: images of its weights, or the inputs of most weight.

    Images of units are in a grid, those with the largest norms first. Each is scaled by its own
    largest weight: red is positive, blue negative, white 0. Weights of three channels are drawn as
    colours. Without images, bars show the norms of each input's weights to all units, which are
    comparable if the inputs have one scale.

    Parameters
    ----------
    features : Features
        ``diagnose(...).features``.
    count : int, optional
        How many units, 64 by default, or inputs, 15 by default.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If the weights are neither images nor have inputs with names, as those of Conv1D.
    ImportError
        If matplotlib is missing.
    """
    if count is not None:
        check_integer("first_layer: count", count, 1)
    if features.images is None and not features.names:
        raise ValueError(
            f"first_layer: the weights of {features.name} are no images and have no named inputs"
        )
    if features.images is None:
        return _bars(features, count or 15, ax)
    norms = np.square(features.images, dtype=np.float64).sum(
        axis=tuple(range(1, features.images.ndim))
    )
    order = np.argsort(-norms, kind="stable")[: count or 64]
    ax = axes_for(ax, width=4.8, height=4.8)
    ax.imshow(_mosaic(features.images[order]), interpolation="nearest")
    ax.set_axis_off()
    title(ax, f"{len(order)} of {len(norms)} units of {features.name}, largest norms first")
    return ax


def _bars(features: Features, count: int, ax: Any) -> Any:
    top = features.top(count)[::-1]
    ax = axes_for(ax, height=0.9 + 0.22 * len(top))
    ax.barh(range(len(top)), [norm for _, norm in top], color=BLUE, height=0.7)
    ax.set_yticks(range(len(top)), [literal(_short(name)) for name, _ in top])
    ax.grid(False, axis="y")
    ax.grid(True, axis="x", color=GRID, linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"norm of weights, {features.name}")
    return ax


def _mosaic(images: NDArray[Any]) -> NDArray[Any]:
    """Images (units, height, width) or (..., 3) side by side, as RGB with thin lines between."""
    colours = np.stack([_coloured(image.astype(np.float64)) for image in images])
    units, height, width = colours.shape[:3]
    columns = min(units, max(1, math.ceil(math.sqrt(units * height / width))))
    rows = math.ceil(units / columns)
    grid = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for number, image in enumerate(colours):
        row, column = divmod(number, columns)
        top, left = row * (height + 1), column * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid


def _coloured(image: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = float(np.abs(image).max()) or 1.0
    if image.ndim == 3:
        return 0.5 + 0.5 * image / peak
    share = np.clip(np.abs(image / peak), 0, 1)[..., None]
    ends = np.where(image[..., None] > 0, [0.70, 0.09, 0.17], [0.13, 0.40, 0.67])
    # Not quite white, so that tiles stand out from the lines between them.
    return (1 - share) * 0.955 + share * ends


def activation_histogram(activations: Activations, *, ax: Any = None) -> Any:
    """Draw how often a hidden layer's outputs have each value, on a logarithmic scale.

    Parameters
    ----------
    activations : Activations
        One of ``diagnose(...).activations``.
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = axes_for(ax)
    shares = activations.counts / max(activations.counts.sum(), 1)
    ax.stairs(shares, activations.edges, fill=True, color=BLUE)
    ax.set_yscale("log")
    ax.set_xlabel("output of a unit")
    ax.set_ylabel("share of outputs")
    dead = (
        f", {len(activations.dead)} of {activations.units} units dead"
        if len(activations.dead)
        else ""
    )
    title(
        ax,
        f"layer {activations.path}, {activations.layer}: "
        f"{100 * activations.sparsity:.0f} % zeros{dead}",
    )
    return ax


def weight_norm_histogram(norms: WeightNorms, *, bins: int = 30, ax: Any = None) -> Any:
    """Draw the norms of the incoming weights of a layer's units, and their bound.

    Parameters
    ----------
    norms : WeightNorms
        One of ``diagnose(...).weights``.
    bins : int, default 30
    ax : matplotlib.axes.Axes, optional
        By default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
    """
    check_integer("weight_norm_histogram: bins", bins, 1)
    ax = axes_for(ax)
    bound = norms.bound if norms.bound is not None and math.isfinite(norms.bound) else 0.0
    top = 1.05 * max(norms.largest, bound) or 1.0
    ax.hist(norms.norms, bins=bins, range=(0.0, top), color=BLUE)
    ax.set_xlim(0, top)
    if bound and norms.clipped is not None:
        ax.axvline(
            bound,
            color=ORANGE,
            linewidth=1.5,
            label=f"max-norm {bound:.3g}: holds {100 * norms.clipped:.0f} %",
        )
        legend(ax)
    ax.set_xlabel(f"norm of incoming weights, {norms.name}")
    ax.set_ylabel("units")
    ax.tick_params(colors=INK)
    return ax


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"

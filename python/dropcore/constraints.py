"""Constraints: projections of a parameter that are applied after every update.

A constraint is called with an array of float32, float64, float16 or bfloat16, changes it in place
and returns it. Constraints on norms take `axis`, the axes that the norm runs over. Without `axis`
the layer chooses it. In Dense (in, out), convolutions (height, width, in, out) and recurrent layers
(in, gates * units) it is all axes but the last, the incoming weights of a unit. In Embedding
(words, features) it is the last axis, the vector of a word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_axes, check_axis_numbers, check_number
from dropcore._base.device import array_namespace
from dropcore.functional import FLOATS, expect_weights, project, rounded_within
from dropcore.mask import resolve_keep

__all__ = ["Constraint", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "with_default_axis"]

Constraint = Callable[[NDArray[Any]], object]
"""Called with a parameter after each update. It changes the array in place."""


@dataclass(frozen=True, repr=False)
class _NormConstraint:
    """A constraint on the norms of vectors that run over `axis`."""

    _: KW_ONLY
    axis: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.axis is not None:
            axes = check_axis_numbers(f"{type(self).__name__}: axis", self.axis)
            one = not isinstance(self.axis, Iterable)
            object.__setattr__(self, "axis", axes[0] if one else axes)

    def axes(self, ndim: int) -> tuple[int, ...]:
        """The axes that a vector runs over in a weight of that many axes, sorted.

        Parameters
        ----------
        ndim : int
            Number of axes of the weight.

        Returns
        -------
        tuple of int
            Not negative.

        Raises
        ------
        ValueError
            If one is out of range, or there is none.
        """
        return _axes(type(self).__name__, self.axis, ndim)

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={value!r}" if field.kw_only else repr(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(sorted(shown, key=lambda text: '=' in text))})"


@functools.cache
def _axes(what: str, axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes of a vector; cached, because an update asks for them in every step."""
    found = check_axes(f"{what}: axis", range(ndim - 1) if axis is None else axis, ndim)
    if not found:
        raise ValueError(f"{what}: axis must name the axes that the norm runs over, got ()")
    return found


def with_default_axis(constraint: Constraint, axis: int | tuple[int, ...]) -> Constraint:
    """The constraint with `axis` if it has none: how a layer gives its own default.

    Embedding registers ``with_default_axis(constraint, -1)``, so that ``MaxNorm(1.0)`` bounds the
    vectors of words. A constraint that is not about vectors is returned as it is.

    Parameters
    ----------
    constraint : callable
        Such as ``MaxNorm(2.0)``.
    axis : int or tuple of int
        The axes that a norm runs over, unless the constraint names some.

    Returns
    -------
    callable
        The constraint itself, or a copy with `axis`.
    """
    if isinstance(constraint, _NormConstraint) and constraint.axis is None:
        return replace(constraint, axis=axis)
    return constraint


@dataclass(frozen=True, repr=False)
class MaxNorm(_NormConstraint):
    """Keep the norm of each unit's incoming weights within a bound.

    w <- w * min(1, max_norm / ||w||) for the vector w of each unit. Vectors inside the ball do not
    change.

    The bound applies to the weights as they are stored. Papers that train without the factor 1/keep
    and multiply the weights by keep afterwards use another scale: see `paper`.

    Parameters
    ----------
    max_norm : float
        Positive.
    axis : int or tuple of int, optional
        The axes that the norm runs over. By default those that the layer chooses, or all
        but the last.

    Raises
    ------
    TypeError, ValueError
        If `max_norm` is not a number or is not positive, or `axis` is not an axis.

    References
    ----------
    Srebro and Shraibman 2005, "Rank, trace-norm and max-norm"; with dropout, Srivastava et al.
    2014, section 5.1.
    """

    max_norm: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("MaxNorm: max_norm", self.max_norm, "(0, inf]")

    @classmethod
    def paper(
        cls,
        c: float,
        *,
        rate: float | None = None,
        keep: float | None = None,
        axis: int | tuple[int, ...] | None = None,
    ) -> MaxNorm:
        """The bound c of a paper that trains without scaling: max_norm = keep * c.

        There the weights are multiplied by keep after training. With inverted scaling the stored
        weights are the multiplied ones already, so the bound is smaller by the factor keep: c = 3
        at keep = 0.5 is ``MaxNorm(1.5)``.

        Parameters
        ----------
        c : float
            As printed in the paper.
        rate, keep : float
            Of the dropout in front of these weights; exactly one is needed.
        axis : int or tuple of int, optional
            As in `MaxNorm`.

        Returns
        -------
        MaxNorm
            With the bound that stored weights have.

        Raises
        ------
        TypeError
            If neither rate nor keep is given, or something is not a number.
        ValueError
            If both are given, or the bound is not positive.
        """
        bound = check_number("MaxNorm.paper: c", c, "(0, inf]")
        return cls(bound * resolve_keep(rate, keep, what="MaxNorm.paper"), axis=axis)

    def __call__(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Project `weight` in place and return it."""
        expect_weights("MaxNorm", "weight", weight, FLOATS)
        project(weight, self.max_norm, self.axes(weight.ndim))
        return weight


@dataclass(frozen=True, repr=False)
class UnitNorm(_NormConstraint):
    """Give each unit's incoming weights the length 1: w <- w / ||w||.

    The result is rounded once to the dtype of w. Vectors of zeros, and vectors with a NaN or an
    infinity, do not change.

    Parameters
    ----------
    axis : int or tuple of int, optional
        The axes that the norm runs over. By default those that the layer chooses, or all
        but the last.
    """

    def __call__(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Rescale `weight` in place and return it."""
        return _rescale(self, weight, 1.0, 1.0)


@dataclass(frozen=True, repr=False)
class MinMaxNorm(_NormConstraint):
    """Bring the norm of each unit's incoming weights between two bounds, or closer to them.

    For the vector w of each unit, which does not change between the bounds::

        w <- w / ||w|| * (rate * clip(||w||, min_norm, max_norm) + (1 - rate) * ||w||)

    Vectors of zeros, and vectors with a NaN or an infinity, do not change.

    Parameters
    ----------
    min_norm, max_norm : float
        0 <= min_norm <= max_norm, max_norm > 0.
    axis : int or tuple of int, optional
        The axes that the norm runs over. By default those that the layer chooses, or all
        but the last.
    rate : float, default 1.0
        The fraction of the distance to the bound that each call removes, in (0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or is out of range, or `axis` is not an axis.

    References
    ----------
    The constraint of that name in Keras.
    """

    min_norm: float
    max_norm: float
    _: KW_ONLY
    rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("MinMaxNorm: min_norm", self.min_norm, "[0, inf)")
        check_number("MinMaxNorm: max_norm", self.max_norm, "(0, inf)")
        check_number("MinMaxNorm: rate", self.rate, "(0, 1]")
        if self.min_norm > self.max_norm:
            raise ValueError(
                f"MinMaxNorm: min_norm must be at most max_norm, got {self.min_norm!r} and "
                f"{self.max_norm!r}"
            )

    def __call__(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Rescale `weight` in place and return it."""
        return _rescale(self, weight, self.min_norm, self.max_norm, self.rate, never_above=True)


@dataclass(frozen=True)
class NonNeg:
    """No weight below zero: w <- max(w, 0). A NaN does not change."""

    def __call__(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Change `weight` in place and return it."""
        expect_weights("NonNeg", "weight", weight, FLOATS)
        array_namespace(weight).maximum(weight, 0, out=weight)
        return weight


@np.errstate(invalid="ignore", divide="ignore", under="ignore")
def _rescale(
    constraint: _NormConstraint,
    weight: NDArray[Any],
    min_norm: float,
    max_norm: float,
    rate: float = 1.0,
    *,
    never_above: bool = False,
) -> NDArray[Any]:
    """Bring the norms of vectors between the bounds, or part of the way; the weight itself.

    With `never_above`, rounding leaves no vector longer than `max_norm` that should be inside.
    """
    what = type(constraint).__name__
    expect_weights(what, "weight", weight, FLOATS)
    axes = constraint.axes(weight.ndim)
    if not weight.size:
        return weight
    xp, wide = array_namespace(weight), weight.astype(np.float64)
    # In units of the largest entry no square leaves float64's range. The norm itself may.
    largest = abs(wide).max(axis=axes, keepdims=True)
    direction = wide / largest
    length = xp.sqrt(xp.square(direction).sum(axis=axes, keepdims=True))
    with np.errstate(over="ignore"):
        norms = largest * length
    inside = xp.clip(norms, min_norm, max_norm)
    wanted = direction * (inside / length)
    if rate != 1.0:
        # Not norm + rate * (inside - norm): a large norm would cancel all digits of the bound.
        wanted = rate * wanted + (1.0 - rate) * wide
    moves = (largest > 0) & (largest < np.inf) & (inside != norms)
    xp.copyto(wide, wanted, where=moves)
    rescaled = wide.astype(weight.dtype if weight.dtype.itemsize > 2 else np.float32)
    if never_above:
        limited = rescaled.copy()
        project(limited, max_norm, axes)
        if weight.dtype.itemsize == 2:
            limited = rounded_within(limited, weight.dtype, max_norm, axes)
        # Vectors that a rate below 1 leaves outside the ball are not projected.
        arrives = norms <= (np.inf if rate == 1.0 else max_norm)
        xp.copyto(weight, limited, where=arrives)
        moves = moves & ~arrives
    xp.copyto(weight, rescaled.astype(weight.dtype, copy=False), where=moves)
    return weight

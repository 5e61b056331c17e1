"""Constraints: what must hold for a parameter after every update.

A constraint is called with the array and changes it in place. Those that bound the lengths of
vectors take `axis`, the axes that a vector runs over. Without `axis` the layer supplies it
(`with_default_axis`): the incoming weights of a unit, all axes but the last, in Dense (in, out),
convolutions (height, width, in, out) and recurrent layers (in, gates * units); the vector of a
word, the last axis, in Embedding (words, features).
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_number
from dropcore._base.device import array_namespace
from dropcore.functional import expect_weights, max_norm_, normal_axes
from dropcore.mask import resolve_keep

__all__ = ["Constraint", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "with_default_axis"]

Constraint = Callable[[NDArray[Any]], object]


@dataclass(frozen=True, repr=False)
class _OfVectors:
    """What bounds the lengths of vectors, which run over `axis`."""

    _: KW_ONLY
    axis: int | tuple[int, ...] | None = None

    def axes(self, weight: NDArray[Any]) -> int | tuple[int, ...]:
        """The axes of `weight` that a vector runs over."""
        return tuple(range(weight.ndim - 1)) if self.axis is None else self.axis

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={value!r}" if field.kw_only else repr(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(sorted(shown, key=lambda text: '=' in text))})"


def with_default_axis(constraint: Constraint, axis: int | tuple[int, ...]) -> Constraint:
    """The constraint with `axis` where it has none: how a layer gives its own default.

    With ``self._constraints["weight"] = along(constraint, -1)`` in Embedding ``MaxNorm(1.0)``
    bounds the vectors of words. A constraint that is not about vectors is returned as it is.
    """
    if isinstance(constraint, _OfVectors) and constraint.axis is None:
        return replace(constraint, axis=axis)
    return constraint


@dataclass(frozen=True, repr=False)
class MaxNorm(_OfVectors):
    """Keep the norm of each unit's incoming weights within a bound.

    w <- w * min(1, max_norm / ||w||) for the vector w of each unit; exactly w inside the ball.

    The bound is for the weights as they are stored. Papers that train without the factor 1/keep
    and multiply the weights by keep afterwards state theirs in other units: see `paper`.

    Parameters
    ----------
    max_norm : float
        Positive.
    axis : int or tuple of int, optional
        The axes that the norm runs over; by default those that the layer names, or all but the
        last.

    Raises
    ------
    ValueError
        If `max_norm` is not positive.

    References
    ----------
    Srebro and Shraibman 2005, "Rank, trace-norm and max-norm"; with dropout, Srivastava et al.
    2014, section 5.1.
    """

    max_norm: float

    def __post_init__(self) -> None:
        if not isinstance(self.max_norm, numbers.Real):
            raise TypeError(f"MaxNorm: max_norm must be a number, got {self.max_norm!r}")
        if not self.max_norm > 0:
            raise ValueError(f"MaxNorm: max_norm must be positive, got {self.max_norm!r}")

    @classmethod
    def paper(
        cls,
        c: float,
        *,
        rate: float | None = None,
        keep: float | None = None,
        axis: int | tuple[int, ...] | None = None,
    ) -> MaxNorm:
        """The bound c of a paper that trains unscaled: max_norm = keep * c.

        Such a network multiplies its weights by keep when it is finished. Inverted scaling stores
        those finished weights all along, and so its ball is smaller by keep: c = 3 at keep = 0.5
        is ``MaxNorm(1.5)``.

        Parameters
        ----------
        c : float
            As printed in the paper.
        rate, keep : float
            Of the dropout that feeds these weights; give one of them.
        axis : int or tuple of int, optional
            As in `MaxNorm`.

        Raises
        ------
        ValueError
            If neither or both of rate and keep are given, or the bound is not positive.
        """
        if rate is None and keep is None:
            raise ValueError(
                "MaxNorm.paper: give the rate or the keep of the dropout that feeds "
                "these weights, got neither"
            )
        return cls(c * resolve_keep(rate, keep, what="MaxNorm.paper"), axis=axis)

    def __call__(self, weight: NDArray[Any]) -> None:
        """Project `weight` in place."""
        max_norm_(weight, self.max_norm, axis=self.axes(weight))


@dataclass(frozen=True, repr=False)
class UnitNorm(_OfVectors):
    """Give each unit's incoming weights the length 1: w <- w / ||w||.

    Rounded once in the dtype of w. A vector of zeros stays as it is, and so does one with a NaN or
    an infinity in it.

    Parameters
    ----------
    axis : int or tuple of int, optional
        The axes that the norm runs over; by default those that the layer names, or
        all but the last.
    """

    def __call__(self, weight: NDArray[Any]) -> None:
        """Rescale `weight` in place."""
        _rescale("UnitNorm", weight, self.axes(weight), array_namespace(weight).ones_like)


@dataclass(frozen=True, repr=False)
class MinMaxNorm(_OfVectors):
    """Bring the length of each unit's incoming weights between two bounds, or nearer to them.

    For the vector w of each unit; exactly w between the bounds::

        w <- w / ||w|| * (rate * clip(||w||, min_norm, max_norm) + (1 - rate) * ||w||)

    A vector of zeros has no direction and stays as it is, and so does one with a NaN or an infinity
    in it.

    Parameters
    ----------
    min_norm, max_norm : float
        0 <= min_norm <= max_norm, max_norm > 0.
    rate : float, default 1.0
        How much of the way to go at each update, in (0, 1].
    axis : int or tuple of int, optional
        The axes that the norm runs over; by default those that the layer names, or
        all but the last.

    Raises
    ------
    TypeError, ValueError
        If a number is none, or out of its range.

    References
    ----------
    The constraint of that name in Keras.
    """

    min_norm: float
    max_norm: float
    _: KW_ONLY
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_number("MinMaxNorm: min_norm", self.min_norm, "[0, inf)")
        check_number("MinMaxNorm: max_norm", self.max_norm, "(0, inf)")
        check_number("MinMaxNorm: rate", self.rate, "(0, 1]")
        if self.min_norm > self.max_norm:
            raise ValueError(
                f"MinMaxNorm: min_norm must be at most max_norm, got {self.min_norm!r} and "
                f"{self.max_norm!r}"
            )

    def __call__(self, weight: NDArray[Any]) -> None:
        """Rescale `weight` in place."""

        def wanted(norms: NDArray[np.float64]) -> NDArray[np.float64]:
            inside = array_namespace(norms).clip(norms, self.min_norm, self.max_norm)
            return norms + self.rate * (inside - norms)

        _rescale("MinMaxNorm", weight, self.axes(weight), wanted)


@dataclass(frozen=True)
class NonNeg:
    """No weight below zero: w <- max(w, 0). A NaN stays."""

    def __call__(self, weight: NDArray[Any]) -> None:
        """Change `weight` in place."""
        expect_weights("NonNeg", "weight", weight)
        array_namespace(weight).maximum(weight, 0, out=weight)


def _rescale(
    what: str,
    weight: NDArray[Any],
    axis: int | tuple[int, ...],
    wanted: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    """Give the vectors over `axis` the norms wanted(norms), those that have another one."""
    expect_weights(what, "weight", weight)
    axes = normal_axes((axis,) if isinstance(axis, int) else axis, weight.ndim, f"{what}: axis")
    if not axes:
        raise ValueError(f"{what}: axis must name the axes that the norm runs over, got ()")
    if not weight.size:
        return
    xp, wide = array_namespace(weight), weight.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        # In units of the largest entry no square leaves float64's range.
        largest = abs(wide).max(axis=axes, keepdims=True)
        direction = wide / largest
        length = xp.sqrt(xp.square(direction).sum(axis=axes, keepdims=True))
        norms = largest * length
        target = wanted(norms)
        moved = xp.isfinite(norms) & (target != norms)  # of zeros the norm is NaN here
        xp.copyto(weight, direction * (target / length), where=moved, casting="same_kind")

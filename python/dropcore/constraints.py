"""Constraints: what must hold for a parameter after every update.

A constraint is called with the array and changes it in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from numpy.typing import NDArray

from dropcore.functional import max_norm_
from dropcore.mask import resolve_keep

__all__ = ["Constraint", "MaxNorm"]

Constraint = Callable[[NDArray[Any]], object]


@dataclass(frozen=True)
class MaxNorm:
    """Keep the norm of each unit's incoming weights within a bound.

    w <- w * min(1, max_norm / ||w||) for the vector w of each unit; exactly w inside the ball.

    The bound is for the weights as they are stored. Papers that train without the factor 1/keep
    and multiply the weights by keep afterwards state theirs in other units: see `paper`.

    Parameters
    ----------
    max_norm : float
        Positive.
    axis : int or tuple of int, optional
        The axes that the norm runs over. By default all but the last, which are the incoming
        weights of a unit in Dense (in, out) and in convolutions (height, width, in, out).

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
    _: KW_ONLY
    axis: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
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

    def axes(self, weight: NDArray[Any]) -> int | tuple[int, ...]:
        """The axes of `weight` that the norm runs over."""
        return tuple(range(weight.ndim - 1)) if self.axis is None else self.axis

    def __repr__(self) -> str:
        axis = "" if self.axis is None else f", axis={self.axis!r}"
        return f"MaxNorm({self.max_norm!r}{axis})"

"""Rates of dropout: how they are given, how they change with depth, what widths they ask for."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore._backends import cached_on
from dropcore._base.checks import check_integer, check_number
from dropcore._base.decisions import Keep
from dropcore._base.device import recording
from dropcore.mask import resolve_keep

__all__ = ["Rate", "rates_over_depth", "width_for"]

Schedule = Callable[[int], float]
Given = npt.ArrayLike | Schedule | None


class Rate:
    """The rate that a layer was given: a number, an array, or a function of the step.

    Parameters
    ----------
    what : str
        Which layer asks, for messages.
    rate, keep : float, array_like, or callable of the step, optional
        One of them. A function gets ``key.step`` and returns a number.
    default : float, default 0.5
        The rate if neither is given.
    arrays, schedules : bool, default True
        Whether those are taken.

    Raises
    ------
    TypeError
        For what is none of these.
    ValueError
        Outside [0, 1], NaN, or if both are given.
    """

    def __init__(
        self,
        what: str,
        rate: Given,
        keep: Given,
        *,
        default: float = 0.5,
        arrays: bool = True,
        schedules: bool = True,
    ) -> None:
        if isinstance(rate, numbers.Real) and rate > 1 and float(rate).is_integer():
            hint = "" if ":" in what else f"; did you mean Dense({rate})?"
            raise ValueError(f"{what}: rate is the fraction dropped, in [0, 1], got {rate}{hint}")
        self.what = what
        self.is_schedule = callable(rate) or callable(keep)
        if self.is_schedule:
            if rate is not None and keep is not None:
                raise ValueError(f"{what}: give rate or keep, not both (got {rate!r}, {keep!r})")
            if not schedules:
                raise TypeError(f"{what}: the rate must not change with the step here")
        else:
            numbers_given = cast(Any, rate), cast(Any, keep)
            if rate is None and keep is None:
                self._kept: Any = 1.0 - default
            else:
                self._kept = resolve_keep(*numbers_given, what=what)
            if not isinstance(self._kept, float):
                if not arrays:
                    raise TypeError(f"{what}: rate and keep must be numbers here, not arrays")
                rate, keep = (None if given is None else np.array(given) for given in (rate, keep))
        # What was given is kept as it was, because 1 - (1 - rate) is another float64.
        self.given: dict[str, Any] = {"rate": rate, "keep": keep}

    @property
    def rate(self) -> Any:
        """Fraction dropped: a float, an array, or what gives it for a step."""
        given = self.given["rate"]
        if given is not None:
            return given if callable(given) or np.ndim(given) else float(given)
        return (lambda step: 1.0 - self(step)) if self.is_schedule else 1.0 - self._kept

    @property
    def keep(self) -> Any:
        """Fraction kept: a float, a float64 array, or what gives it for a step."""
        return self if self.is_schedule else self._kept

    def __call__(self, step: int) -> Any:
        """The fraction kept at a step."""
        if not self.is_schedule:
            return self._kept
        if recording():
            raise ValueError(
                f"{self.what}: a rate that changes with the step cannot be recorded in a CUDA "
                "graph: use cuda_graph=False, or a number"
            )
        rate, keep = (None if given is None else given(step) for given in self.given.values())
        kept = resolve_keep(rate, keep, what=f"{self.what}, step {step}")
        if not isinstance(kept, float):
            raise TypeError(f"{self.what}: a schedule must return a number, got {rate or keep!r}")
        return kept

    def keep_for_rows(
        self, step: int, ndim: int, rows: int, row_offset: int, like: Any = None
    ) -> Keep:
        """The fraction kept, for the rows [row, row + rows) of the global batch.

        An array with `ndim` axes has a rate for each of its rows; others are the same for all. It
        comes where `like` is.
        """
        found: Keep = self(step)
        if isinstance(found, float):
            return found
        kept = cached_on(like, self, "_kept")
        if kept.ndim < ndim or kept.shape[0] == 1:
            return kept
        if row_offset + rows > kept.shape[0]:
            raise ValueError(
                f"{self.what}: there are rates for {kept.shape[0]} rows, and the batch has the "
                f"rows {row_offset} ... {row_offset + rows - 1}"
            )
        return kept[row_offset : row_offset + rows]

    def config(self) -> dict[str, Any]:
        """What was given, by name."""
        return {name: given for name, given in self.given.items() if given is not None}

    def __repr__(self) -> str:
        return ", ".join(f"{name}={given!r}" for name, given in self.config().items()) or "rate=0.5"


def width_for(units: int, rate: float | None = None, *, keep: float | None = None) -> int:
    """How many units a layer needs under dropout that needs `units` without: units / keep.

    Of n units n * keep live at a time, and they cannot rely on each other: this is where a search
    for the width begins. Rounded up, and exact for rates as they are written: ``rate=0.9`` means
    nine tenths, not the float64 next to it.

    Parameters
    ----------
    units : int
    rate : float, optional
        Fraction of the units that is dropped; or `keep`.
    keep : float, optional
        Fraction kept, not 0.

    Raises
    ------
    TypeError
        If neither `rate` nor `keep` is given.
    ValueError
        If nothing is kept, or `units` is not positive.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, appendix A.1.

    Examples
    --------
    >>> width_for(512, 0.5)
    1024
    """
    needed = check_integer("width_for: units", units, 1)
    if rate is None and keep is None:
        raise TypeError("width_for: give rate (fraction dropped) or keep (fraction kept)")
    if rate is not None and keep is not None:
        raise ValueError(f"width_for: give rate or keep, not both (got rate={rate}, keep={keep})")
    name, given = ("keep", keep) if rate is None else ("rate", rate)
    exact = Fraction(repr(check_number(f"width_for: {name}", given, "[0, 1]")))
    kept = exact if rate is None else 1 - exact
    if not kept:
        raise ValueError(f"width_for: something must be kept, got {name}={given}")
    return math.ceil(needed / kept)


def rates_over_depth(n: int, last: float, first: float = 0.0) -> list[float]:
    """Rates that rise linearly with depth: block l of 1 ... n gets first + l / n * (last - first).

    The first layers, which the others build on, are dropped least. `first` is the rate of the input
    of block 1, and `last` that of block n.

    Parameters
    ----------
    n : int
        How many blocks.
    last : float
        Rate of the last block, in [0, 1].
    first : float, default 0.0

    Raises
    ------
    ValueError
        If a rate is outside [0, 1], or there are no blocks.

    References
    ----------
    Huang, Sun, Liu, Sedra and Weinberger 2016, "Deep networks with stochastic depth", equation 4:
    the probabilities of survival go from 1 down to that of the last block.

    Examples
    --------
    >>> rates_over_depth(4, 0.5)
    [0.125, 0.25, 0.375, 0.5]
    """
    blocks = check_integer("rates_over_depth: n", n, 1)
    end = check_number("rates_over_depth: last", last, "[0, 1]")
    start = check_number("rates_over_depth: first", first, "[0, 1]")
    return [start + (end - start) * block / blocks for block in range(1, blocks + 1)]

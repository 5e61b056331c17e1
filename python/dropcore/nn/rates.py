"""Rates of dropout: numbers, arrays and schedules, by depth, and the width that they need."""

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
    default : float, optional
        The rate if neither is given; without it one must be.
    arrays, schedules : bool, default True
        Whether arrays and functions are allowed.

    Raises
    ------
    TypeError
        For anything else, or if neither is given.
    ValueError
        Outside [0, 1], NaN, if both are given, or for the integer 1, which may be a mistake.
    """

    def __init__(
        self,
        what: str,
        rate: Given,
        keep: Given,
        *,
        default: float | None = None,
        arrays: bool = True,
        schedules: bool = True,
    ) -> None:
        if isinstance(rate, numbers.Real) and rate > 1 and cast(Any, rate) % 1 == 0:
            hint = "" if ":" in what else f"; did you mean Dense({rate})?"
            raise ValueError(f"{what}: rate is the fraction dropped, in [0, 1], got {rate}{hint}")
        if isinstance(rate, numbers.Integral) and not isinstance(rate, bool) and rate == 1:
            raise ValueError(
                f"{what}: rate=1 drops everything: write 1.0 if that is meant, rate=0.0 or keep=1 "
                "to drop nothing"
            )
        if rate is None and keep is None and default is None:
            raise TypeError(
                f"{what}: give rate, the fraction dropped, or keep, the fraction kept, as in "
                f"{what}(0.5)"
            )
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
                self._kept: Any = 1.0 - cast(float, default)
            else:
                self._kept = resolve_keep(*numbers_given, what=what)
            if not isinstance(self._kept, float):
                if not arrays:
                    raise TypeError(f"{what}: rate and keep must be numbers here, not arrays")
                rate, keep = (None if given is None else np.array(given) for given in (rate, keep))
        # Both are stored as they were given, because 1 - (1 - rate) is another float64.
        self.given: dict[str, Any] = {"rate": rate, "keep": keep}

    @property
    def rate(self) -> Any:
        """Fraction dropped: a float, an array, or a function of the step."""
        given = self.given["rate"]
        if given is not None:
            return given if callable(given) or np.ndim(given) else float(given)
        return (lambda step: 1.0 - self(step)) if self.is_schedule else 1.0 - self._kept

    @property
    def keep(self) -> Any:
        """Fraction kept: a float, a float64 array, or a function of the step."""
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
        ((name, schedule),) = self.config().items()
        found = schedule(step)
        kept: Any = None
        if found is not None:
            kept = resolve_keep(**{"rate": None, "keep": None, name: found},
                                what=f"{self.what}, step {step}")  # fmt: skip
        if not isinstance(kept, float):
            raise TypeError(
                f"{self.what}: a schedule must return a number, got {found!r} at step {step}"
            )
        return kept

    def keep_for_rows(
        self, step: int, ndim: int, rows: int, row_offset: int, like: Any = None
    ) -> Keep:
        """The fraction kept, for rows row_offset ... row_offset + rows - 1 of the global batch.

        An array with `ndim` axes has a rate for each row; others are the same for all rows. Arrays
        are returned on the device of `like`.
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
        return ", ".join(f"{name}={given!r}" for name, given in self.config().items())


def width_for(units: int, rate: float | None = None, *, keep: float | None = None) -> int:
    """The number of units that a layer needs with dropout if it needs `units` without.

    That is units / keep: of n units n * keep are kept at a time, and they cannot rely on each
    other. Use it as the start of a search for the width. It is rounded up, and exact for rates as
    they are written: ``rate=0.9`` means nine tenths, not the nearest float64.

    Parameters
    ----------
    units : int
    rate : float, optional
        Fraction of the units that is dropped; or `keep`.
    keep : float, optional
        Fraction kept, not 0.

    Returns
    -------
    int
        At least `units`.

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

    The first layers, on which the others depend, are dropped least. `first` is the rate of the
    input of block 1, and `last` that of block n.

    Parameters
    ----------
    n : int
        Number of blocks.
    last : float
        Rate of the last block, in [0, 1].
    first : float, default 0.0

    Returns
    -------
    list of float
        One for each block.

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

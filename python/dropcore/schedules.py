"""Schedules: numbers that change from update to update.

A schedule is a function of the step, the number of updates made so far, that returns a float: a
learning rate, a momentum or a dropout rate. Any such callable can be used. The schedules here also
have a repr that rebuilds them, and can be compared, pickled and saved in a config.
"""

from __future__ import annotations

import bisect
import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from dropcore._base.checks import check_bool, check_integer, check_number

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "Piecewise",
    "Scaled",
    "Schedule",
    "WarmUp",
    "value_at",
]

Schedule = Callable[[int], float]
"""Takes the number of the update, from 0, and returns the value of a setting there."""


MAX_STEP: Final = 1 << 62
"""The last step of a schedule, as of `dropcore.updates.adam_`."""


def value_at(value: float | Schedule, step: int) -> float:
    """A number, or the value of a schedule at `step`.

    Parameters
    ----------
    value : float or callable
        A number, or a `Schedule`.
    step : int
        The number of the update, from 0.

    Returns
    -------
    float
        The number itself, or what the schedule returns.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is an integer that is too large for a float.
    """
    found: Any = value(step) if callable(value) else value
    number = found.item() if getattr(found, "ndim", None) == 0 else found
    if not isinstance(number, numbers.Real):
        raise TypeError(f"{value!r} must return a number, got {found!r} at step {step}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{value!r} is an integer that no float holds, at step {step}") from None


@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Parameters
    ----------
    value : float
    """

    value: float

    def __post_init__(self) -> None:
        check_number("Constant: value", self.value)

    def __call__(self, step: int) -> float:
        _checked(self, step)
        return float(self.value)


@dataclass(frozen=True)
class Piecewise:
    """A constant value between each two boundaries: values[i] from boundaries[i - 1] on.

    Parameters
    ----------
    boundaries : sequence of int
        Steps at which the next value begins, positive and strictly ascending.
    values : sequence of float
        One more than boundaries.

    Raises
    ------
    TypeError, ValueError
        If they are not.

    Examples
    --------
    >>> rate = Piecewise(boundaries=[100], values=[0.1, 0.01])
    >>> rate(99), rate(100)
    (0.1, 0.01)
    """

    _: KW_ONLY
    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("boundaries", "values"):
            given = getattr(self, name)
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise TypeError(f"Piecewise: {name} must be a sequence of numbers, got {given!r}")
            object.__setattr__(self, name, tuple(given))
        for value in self.values:
            check_number("Piecewise: each value", value)
        least = 1
        for boundary in self.boundaries:
            least = 1 + check_integer("Piecewise: the next boundary", boundary, least)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                "Piecewise: there must be one value more than boundaries, got "
                f"{len(self.values)} values and {len(self.boundaries)} boundaries"
            )

    def __call__(self, step: int) -> float:
        return float(self.values[bisect.bisect_right(self.boundaries, _checked(self, step))])


@dataclass(frozen=True)
class Exponential:
    """start * factor^(step / steps).

    Parameters
    ----------
    start : float
    factor : float
        Positive.
    steps : int, default 1
        The number of steps in which the value is multiplied by `factor` once.
    staircase : bool, default False
        Use step // steps instead of step / steps, so that the value is constant for `steps` steps,
        such as an epoch.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or is out of range.

    References
    ----------
    Hinton et al. 2012, "Improving neural networks by preventing co-adaptation of feature
    detectors": a factor of 0.998 after each epoch.
    """

    start: float
    factor: float
    steps: int = 1
    staircase: bool = False

    def __post_init__(self) -> None:
        check_number("Exponential: start", self.start)
        check_number("Exponential: factor", self.factor, "(0, inf)")
        check_integer("Exponential: steps", self.steps, 1)
        check_bool("Exponential: staircase", self.staircase)

    def __call__(self, step: int) -> float:
        step = _checked(self, step)
        passed = step // self.steps if self.staircase else step / self.steps
        try:
            power = float(self.factor) ** passed
        except OverflowError:
            power = math.inf
        return float(self.start) * power if self.start else 0.0


@dataclass(frozen=True)
class Linear:
    """start + (end - start) * step / steps, and `end` from step number `steps` on.

    The papers raise the momentum this way: ``Linear(0.5, 0.99, steps=updates_an_epoch * 500)``.

    Parameters
    ----------
    start, end : float
    steps : int

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number, or `steps` is not positive.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        check_number("Linear: start", self.start)
        check_number("Linear: end", self.end)
        check_integer("Linear: steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        return _between(self.start, self.end, min(_checked(self, step) / self.steps, 1.0))


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` down to `end`, once or with warm restarts.

    end + (start - end) * (1 + cos(pi * t / n)) / 2 at step t of a cycle of n steps. After the last
    cycle the value stays `end`.

    Parameters
    ----------
    start : float
    steps : int
        n, the length of the first cycle.
    end : float, default 0.0
    restarts : int, default 0
        The number of further cycles.
    cycle_factor : int, default 1
        The length of a cycle, relative to the one before it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or is out of range.

    References
    ----------
    Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", equation 5.
    """

    start: float
    steps: int
    end: float = 0.0
    restarts: int = 0
    cycle_factor: int = 1

    def __post_init__(self) -> None:
        check_number("Cosine: start", self.start)
        check_integer("Cosine: steps", self.steps, 1)
        check_number("Cosine: end", self.end)
        check_integer("Cosine: restarts", self.restarts, 0)
        check_integer("Cosine: cycle_factor", self.cycle_factor, 1)

    def __call__(self, step: int) -> float:
        step, length, restarts = _checked(self, step), self.steps, self.restarts
        if self.cycle_factor == 1:  # all at once: there may be very many cycles
            step -= length * min(step // length, restarts)
            restarts = 0
        while restarts and step >= length:
            step -= length
            length *= self.cycle_factor
            restarts -= 1
        if step >= length:
            return float(self.end)
        return _between(self.end, self.start, (1 + math.cos(math.pi * step / length)) / 2)


@dataclass(frozen=True)
class WarmUp:
    """Rise linearly to the first value of another schedule, then follow that schedule.

    start + (schedule(0) - start) * (step + 1) / (steps + 1) before step `steps`, and
    schedule(step - steps) from then on. Step 0 is already above `start`, so that with start = 0 no
    step is lost.

    Parameters
    ----------
    schedule : float or callable
    steps : int
        0 or more.
    start : float, default 0.0

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number or is out of range.

    References
    ----------
    Goyal et al. 2017, "Accurate, large minibatch SGD: training ImageNet in 1 hour", section 2.2.
    """

    schedule: float | Schedule
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            check_number("WarmUp: schedule", self.schedule)
        check_integer("WarmUp: steps", self.steps, 0)
        check_number("WarmUp: start", self.start)

    def __call__(self, step: int) -> float:
        step = _checked(self, step)
        if step >= self.steps:
            return value_at(self.schedule, step - self.steps)
        return _between(self.start, value_at(self.schedule, 0), (step + 1) / (self.steps + 1))


@dataclass(frozen=True)
class Scaled:
    """factor * schedule(step).

    Parameters
    ----------
    schedule : float or callable
    factor : float

    Raises
    ------
    TypeError, ValueError
        If an argument is not a number.
    """

    schedule: float | Schedule
    factor: float

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            check_number("Scaled: schedule", self.schedule)
        check_number("Scaled: factor", self.factor)

    def __call__(self, step: int) -> float:
        return value_at(self.schedule, _checked(self, step)) * float(self.factor)


def _checked(schedule: Any, step: int) -> int:
    return check_integer(f"{type(schedule).__name__}: step", step, 0, MAX_STEP)


def _between(start: float, end: float, part: float) -> float:
    """Interpolate from `start` (part = 0) to `end` (part = 1), exact at both."""
    return float(start) * (1 - part) + float(end) * part

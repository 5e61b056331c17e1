"""Checks of numbers that users give."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Final

__all__ = ["check_integer", "check_number"]

WORDS: Final = {"(0, inf)": "positive and finite", "[0, inf)": "finite and not negative",
                "(-inf, inf)": "finite"}  # fmt: skip


def check_number(what: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """`value` as a float.

    Parameters
    ----------
    what : str
        Who asks for what, for the message, such as "SGD: momentum".
    value : float
    interval : str
        Where it may be, such as "[0, 1)"; infinity is in none.

    Raises
    ------
    TypeError
        If it is not a real number.
    ValueError
        If it is outside, or NaN.
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {value!r}")
    number = float(value)
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number > low or (number == low and interval[0] == "[")
    below = number < high or (number == high and interval[-1] == "]")
    if not (above and below and math.isfinite(number)):
        raise ValueError(f"{what} must be {WORDS.get(interval, f'in {interval}')}, got {value!r}")
    return number


def check_integer(what: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int in [least, most].

    Parameters
    ----------
    what : str
        Who asks for what, for the message, such as "Dense: units".
    value : int
    least : int
    most : int, optional

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is outside.
    """
    allowed = "a positive integer" if (least, most) == (1, None) else f"an integer >= {least}"
    if most is not None:
        allowed = f"an integer in [{least}, {most}]"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be {allowed}, got {value!r}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{what} must be {allowed}, got {number}")
    return number

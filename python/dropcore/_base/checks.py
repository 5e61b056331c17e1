"""Checks of the numbers, axes and arrays that users give, and how messages show them."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import sys
from collections.abc import Iterable
from typing import Any, Final, TypeGuard, cast

import numpy as np

from dropcore._base.device import on_device

__all__ = [
    "check_axes",
    "check_axis_numbers",
    "check_bool",
    "check_gradient",
    "check_integer",
    "check_number",
    "expect_no_tensor",
    "expect_one_of_rate_and_keep",
    "expect_unmasked",
    "is_several",
    "listed",
    "rounded",
    "shown",
    "users_level",
]

WORDS: Final = {
    "(0, inf)": "positive and finite",
    "[0, inf)": "finite and not negative",
    "(-inf, inf)": "finite",
    "(0, inf]": "positive",
}


def users_level() -> int:
    """The `stacklevel` with which the caller warns at the line of the user's code.

    It is that of the nearest frame outside the package.
    """
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("dropcore."):
        level, frame = level + 1, frame.f_back
    return level


def shown(value: Any) -> str:
    """The value as messages show it: its repr, or its type if that is long, as of an array."""
    text = repr(value)
    if len(text) <= 80 and "\n" not in text:
        return text
    shape = getattr(value, "shape", None)
    of_shape = f" of shape {shape}" if isinstance(shape, tuple) else ""
    return f"an object of type {type(value).__name__}{of_shape}"


def listed(values: Iterable[object], most: int = 6) -> str:
    """The first values, as their reprs, for a message; if there are more, also how many in all."""
    found = list(values)
    text = ", ".join(map(repr, found[:most]))
    return text if len(found) <= most else f"{text} ... ({len(found)} in all)"


def rounded(value: float, digits: int) -> str:
    """The value with so many significant digits; large ones as 35,300, not as 3.53e+04."""
    if not 10**digits <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    return f"{float(f'{value:.{digits}g}'):,.0f}"


def check_bool(what: str, value: Any) -> bool:
    """`value` as a bool; TypeError if it is neither True nor False."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{what} must be True or False, got {shown(value)}")


def check_number(what: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """`value` as a float.

    Parameters
    ----------
    what : str
        The caller and the name of its argument, for the message, such as "SGD: momentum".
    value : float
    interval : str
        The allowed values, such as "[0, 1)".

    Raises
    ------
    TypeError
        If it is not a real number. A bool is none.
    ValueError
        If it is outside the interval, or NaN.
    """
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{what} must be a number, got {shown(value)}")
        try:
            number = float(value)
        except OverflowError:  # an integer beyond float64's range
            number = math.inf if value > cast(Any, 0) else -math.inf
    else:
        number = value
    low, high, closed_low, closed_high = _bounds(interval)
    if low < number < high or (closed_low and number == low) or (closed_high and number == high):
        return number
    raise ValueError(f"{what} must be {WORDS.get(interval, f'in {interval}')}, got {value!r}")


@functools.cache
def _bounds(interval: str) -> tuple[float, float, bool, bool]:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    return low, high, interval[0] == "[", interval[-1] == "]"


def check_integer(what: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int in [least, most].

    Parameters
    ----------
    what : str
        The caller and the name of its argument, for the message, such as "Dense: units".
    value : int
    least : int
    most : int, optional

    Raises
    ------
    TypeError
        If it is not an integer. A bool is none.
    ValueError
        If it is out of range.
    """
    if type(value) is int:
        number = value
    else:
        found = _index(value)
        if found is None:
            raise TypeError(f"{what} must be {_integers(least, most)}, got {shown(value)}")
        number = found
    if number < least or (most is not None and number > most):
        raise ValueError(f"{what} must be {_integers(least, most)}, got {number}")
    return number


def is_several(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether it is several values: bytes, whose items are integers, are not."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray)


def _index(value: Any) -> int | None:
    """An integer of any type as an int. None for anything else, also for a bool."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _integers(least: int, most: int | None) -> str:
    if most is not None:
        return f"an integer in [{least}, {most}]"
    return "a positive integer" if least == 1 else f"an integer >= {least}"


def check_axis_numbers(what: str, axes: int | Iterable[int]) -> tuple[int, ...]:
    """One axis or several as a tuple of int, for an array that is not known yet.

    Raises
    ------
    TypeError
        If an axis is not an integer.
    """
    found = []
    one = _index(axes) is not None or not is_several(axes)
    for axis in (axes,) if one else cast(Iterable[int], axes):
        number = _index(axis)
        if number is None:
            raise TypeError(f"{what} must be an integer or several, got {axis!r}")
        found.append(number)
    return tuple(found)


def check_axes(what: str, axes: int | Iterable[int], ndim: int) -> tuple[int, ...]:
    """Axes of an array as sorted numbers in [0, ndim).

    Parameters
    ----------
    what : str
        The caller and the name of its argument, for the message, such as "max_norm_: axis".
    axes : int or iterable of int
        Negative ones count from the end.
    ndim : int
        How many axes the array has.

    Raises
    ------
    TypeError
        If an axis is not an integer.
    ValueError
        If an axis is out of range or is named twice.
    """
    given = check_axis_numbers(what, axes)
    for number in given:
        if not -ndim <= number < ndim:
            raise ValueError(
                f"{what}: an array of {ndim} axes has none numbered {number}; allowed is "
                f"{-ndim} ... {ndim - 1}"
            )
    found = {number % ndim for number in given}
    if len(found) != len(given):
        raise ValueError(f"{what} names an axis twice: {given}")
    return tuple(sorted(found))


def expect_one_of_rate_and_keep(what: str, rate: object, keep: object) -> None:
    """Exactly one of the two must be given.

    Raises
    ------
    TypeError
        If neither is given.
    ValueError
        If both are.
    """
    if rate is None and keep is None:
        raise TypeError(f"{what}: give rate (the fraction dropped) or keep (the fraction kept)")
    if rate is not None and keep is not None:
        raise ValueError(f"{what}: give rate or keep, not both (got rate={rate}, keep={keep})")


def expect_unmasked(name: str, x: object) -> None:
    """Refuse NumPy's masked arrays, whose hidden elements would be used.

    Raises
    ------
    TypeError
        If x is one.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a numpy.ma.MaskedArray, whose masked elements would be used: fill them "
            "with .filled(value), or take .data"
        )


def expect_no_tensor(name: str, x: object) -> None:
    """Refuse PyTorch's tensors, whose gradients and device would be lost.

    Raises
    ------
    TypeError
        If x is one.
    """
    torch = sys.modules.get("torch")  # without an import there are no tensors
    if torch is not None and isinstance(x, getattr(torch, "Tensor", ())):
        raise TypeError(
            f"{name} is a torch.Tensor: dropcore.torch has functions and modules for tensors, and "
            "tensor.detach().numpy() is an array that shares its memory"
        )


def check_gradient(dy: Any, shape: tuple[int, ...], dtype: Any, what: str = "") -> None:
    """Check the gradient of an output.

    Parameters
    ----------
    dy : ndarray
    shape, dtype
        Of the output.
    what : str, default ""
        Put before the message, such as "Dense(3): ".

    Raises
    ------
    TypeError
        If it is not an array, or a masked one.
    ValueError
        If it does not have the shape and dtype of the output.
    """
    if type(dy) is not np.ndarray:
        expect_no_tensor(f"{what}dy", dy)
        if not (isinstance(dy, np.ndarray) or on_device(dy)):
            raise TypeError(f"{what}dy must be an array like the output, got {type(dy).__name__}")
        expect_unmasked(f"{what}dy", dy)
    if dy.shape != shape or dy.dtype != dtype:
        raise ValueError(
            f"{what}dy must have the shape of the output, {shape} of {dtype}, got {dy.shape} of "
            f"{dy.dtype}"
        )

"""The values that options take: from text to number, with an error that says what is allowed."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError

__all__ = [
    "at_least_zero",
    "fraction",
    "inner_fraction",
    "jobs",
    "positive",
    "positive_number",
    "rate",
    "rates",
    "several",
    "sizes",
    "thinning",
    "thinnings",
    "words",
]


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def several(text: str) -> int:
    """An integer of at least 2."""
    return _integer(text, 2)


def jobs(text: str) -> int:
    """An integer of at least 1, or -1 for one for each processor."""
    if text == "-1":
        return -1
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"must be an integer of at least 1, or -1, got {text!r}")
    return int(text)


def at_least_zero(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    value = _number(text)
    if not 0 <= value < 1:
        raise ArgumentTypeError(f"must be at least 0 and less than 1, got {text!r}")
    return value


def rate(text: str) -> float:
    """The fraction that is dropped, in [0, 1)."""
    value = _number(text)
    if not 0 <= value < 1:
        raise ArgumentTypeError(
            f"the fraction that is dropped must be at least 0 and less than 1, got {text!r}"
        )
    return value


def thinning(text: str) -> float:
    """The fraction that is kept, in (0, 1]."""
    value = _number(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(
            f"the fraction that is kept must be more than 0 and at most 1, got {text!r}"
        )
    return value


def inner_fraction(text: str) -> float:
    """A number in (0, 1)."""
    value = _number(text)
    if not 0 < value < 1:
        raise ArgumentTypeError(f"must be between 0 and 1, such as 0.9, got {text!r}")
    return value


def rates(text: str) -> tuple[float, ...]:
    """A rate, or one for each layer with commas between them."""
    return tuple(rate(part.strip()) for part in text.split(","))


def thinnings(text: str) -> tuple[float, ...]:
    """A fraction that is kept, or one for each layer with commas between them."""
    return tuple(thinning(part.strip()) for part in text.split(","))


def sizes(text: str) -> tuple[int, ...]:
    """Integers of at least 1 with commas between them."""
    try:
        return tuple(positive(part.strip()) for part in text.split(","))
    except ArgumentTypeError:
        raise ArgumentTypeError(
            "must be integers of at least 1 with commas between them, such as 256,256, "
            f"got {text!r}"
        ) from None


def words(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _integer(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a number, got {text!r}") from None

"""Positions of windows: strides, padding and dilation of convolutions and pooling."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dropcore._base.checks import is_several

__all__ = [
    "Geometry",
    "Padding",
    "Pair",
    "Sides",
    "padding_of",
    "per_axis",
    "simplest",
    "simplest_padding",
    "valid_steps",
]

Pair = tuple[int, ...]
"""A number for each axis of the images: (height, width), or (time,) of sequences."""

Sides = tuple[tuple[int, int], ...]
"""Numbers of zeros before and after, for each axis."""

LARGEST = 1 << 62
"""The largest number that the core is given: sums of two fit into 64 bits."""

Padding = str | int | Iterable[int] | Iterable[Iterable[int]]
"""Padding as users give it: "valid", "same", or numbers of zeros."""


def per_axis(what: str, value: Any, axes: int, least: int = 1) -> Pair:
    """A number for each axis, from one number for all or a number for each.

    Raises
    ------
    TypeError
        For anything else than integers.
    ValueError
        For another count of them, or one below `least` or above `LARGEST`.
    """
    given = tuple(value) if is_several(value) else (value,) * axes
    kind = "a positive integer" if least == 1 else f"an integer >= {least}"
    allowed = kind if axes == 1 else f"{kind} or {axes} of them"
    try:
        numbers = tuple(map(_index, given))
    except TypeError:
        raise TypeError(f"{what} must be {allowed}, got {value!r}") from None
    if len(numbers) != axes or min(numbers) < least:
        raise ValueError(f"{what} must be {allowed}, got {value!r}")
    _check_largest(what, numbers)
    return numbers


def padding_of(what: str, value: Any, axes: int) -> str | Sides:
    """The word "valid" or "same", or numbers before and after for each axis.

    Allowed are one number for all sides, one for each axis, a pair (before, after) for each axis,
    and for sequences also (before, after).

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    pairs = "((top, bottom), (left, right))" if axes == 2 else "(before, after)"
    allowed = f"'valid', 'same', an integer >= 0{', 2 of them' * (axes == 2)} or {pairs}"
    if isinstance(value, str):
        if value not in ("valid", "same"):
            raise ValueError(f"{what} must be {allowed}, got {value!r}")
        return value
    given = tuple(value) if is_several(value) else (value,) * axes
    if axes == 1 and len(given) == 2:
        given = (given,)
    try:
        sides = tuple(
            (_index(pad_before), _index(after))
            for pad_before, after in (
                tuple(side) if is_several(side) else (side, side) for side in given
            )
        )
    except TypeError:
        raise TypeError(f"{what} must be {allowed}, got {value!r}") from None
    except ValueError:
        raise ValueError(f"{what} must be {allowed}, got {value!r}") from None
    if len(sides) != axes or min(map(min, sides)) < 0:
        raise ValueError(f"{what} must be {allowed}, got {value!r}")
    _check_largest(what, itertools.chain(*sides))
    return sides


def simplest(numbers: Pair) -> int | Pair:
    """The shortest value that `per_axis` takes for these numbers."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def simplest_padding(padding: str | Sides) -> str | int | Pair | Sides:
    """The shortest value that `padding_of` takes for this padding."""
    if isinstance(padding, str):
        return padding
    if len({n for side in padding for n in side}) == 1:
        return padding[0][0]
    return padding[0] if len(padding) == 1 else padding


@dataclass(frozen=True)
class Geometry:
    """The windows of a convolution or of pooling over an image.

    Attributes
    ----------
    image, out : pair
        Sizes of the image and of the output.
    kernel, stride, dilation : pair
    before : pair
        Zeros before the image; may be negative, where a window begins inside.
    """

    image: Pair
    out: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pad_before: Pair

    @classmethod
    def of(
        cls, image: Pair, kernel: Pair, stride: Pair, dilation: Pair, padding: str | Sides
    ) -> Self:
        """All windows that fit.

        With reach = dilation * (kernel - 1) + 1 and padding on both sides of the image::

            out = floor((image + before + after - reach) / stride) + 1

        "same" makes out = ceil(image / stride); of an odd number of zeros, one more comes after.

        Raises
        ------
        ValueError
            If a window is larger than the padded image.
        """
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        sides: Sides
        if padding == "valid":
            sides = ((0, 0),) * len(image)
        elif padding == "same":
            total = (
                max((math.ceil(n / s) - 1) * s + r - n, 0)
                for n, s, r in zip(image, stride, reach, strict=True)
            )
            sides = tuple((n // 2, n - n // 2) for n in total)
        else:
            assert not isinstance(padding, str)
            sides = padding
        out = tuple(
            (n + pad_before + after - r) // s + 1
            for n, (pad_before, after), r, s in zip(image, sides, reach, stride, strict=True)
        )
        if min(out) < 1:
            raise ValueError(
                f"a window of {_times(reach)} is larger than the image of {_times(image)} with "
                f"padding {sides}"
            )
        return cls(
            image, out, kernel, stride, dilation, tuple(pad_before for pad_before, _ in sides)
        )

    @classmethod
    def out_of(
        cls,
        image: tuple[int | None, ...],
        kernel: Pair,
        stride: Pair,
        dilation: Pair,
        padding: str | Sides,
    ) -> tuple[int | None, ...]:
        """`out` of `of`, None along axes of unknown size."""
        # Unknown sizes are replaced by one that is large enough.
        known = tuple(
            d * k + 1 if n is None else n for n, k, d in zip(image, kernel, dilation, strict=True)
        )
        out = cls.of(known, kernel, stride, dilation, padding).out
        return tuple(None if n is None else o for n, o in zip(image, out, strict=True))

    def as_images(self) -> Geometry:
        """The geometry for images: a sequence is an image of height 1."""
        if len(self.image) == 2:
            return self
        return Geometry(
            (1, *self.image), (1, *self.out), (1, *self.kernel), (1, *self.stride),
            (1, *self.dilation), (0, *self.pad_before),
        )  # fmt: skip


def valid_steps(
    lengths: npt.NDArray[np.int64],
    kernel: int | Pair,
    stride: int | Pair,
    dilation: int | Pair,
    padding: Padding,
    axes: int,
) -> npt.NDArray[np.int64]:
    """Number of windows along the first axis of sequences with these lengths."""
    (size, *_), (step, *_), (apart, *_) = (
        per_axis("", numbers, axes) for numbers in (kernel, stride, dilation)
    )
    sides = padding_of("", padding, axes)
    if sides == "same":
        return -(-lengths // step)
    around = 0 if isinstance(sides, str) else sum(sides[0])
    out = (lengths + around - (apart * (size - 1) + 1)) // step + 1
    return np.where(lengths > 0, np.maximum(out, 0), 0)


def _check_largest(what: str, numbers: Iterable[int]) -> None:
    most = max(numbers)
    if most > LARGEST:
        raise ValueError(f"{what} must be at most {LARGEST}, got {most}")


def _index(value: Any) -> int:
    """`value` as an int; TypeError for bools and what is no integer."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def _times(numbers: Pair) -> str:
    return " x ".join(map(str, numbers))

"""Noise that is addressed like a mask: the same on any machine, for any part of an array."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.checks import check_integer
from dropcore._base.decisions import INDEX_LIMIT
from dropcore.key import Key, as_key

__all__ = ["normal", "uniform"]

Array = npt.NDArray[Any]

UNIFORM_BITS: Final = {"float64": 32, "float32": 23, "float16": 10, "bfloat16": 7}
"""The random bits of a uniform number: with the half that is added, all that the dtype holds."""


def normal(
    shape: int | tuple[int, ...],
    *,
    key: Key | int,
    offset: int = 0,
    dtype: npt.DTypeLike = np.float32,
    like: Any = None,
) -> Array:
    """Standard normal numbers.

    Element i, counted in C order from `offset` on, is the inverse CDF of u(i) of `uniform`. It is a
    function of the key and i alone: it does not depend on what was drawn before, on the number of
    threads or on the processor, to the last bit.

    Parameters
    ----------
    shape : int or tuple of int
    key : Key or int
        The address. A mask of the same key is independent of the noise.
    offset : int, default 0
        Index of the first element. A worker that holds the rows from r0 on of a larger array passes
        ``r0 * prod(shape[1:])``.
    dtype : float32, float64, float16 or bfloat16, default float32
        float32 is within 4 units in the last place of the true value, float64 within 1e-15 of it.
        float16 and bfloat16 are the float32 numbers, rounded. u takes 2**32 values, and no number
        is beyond 6.4.
    like : array, optional
        If it is a cupy.ndarray, the result is one too.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    TypeError, ValueError
        If the shape, the offset or the dtype is not allowed.

    References
    ----------
    Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution".

    Examples
    --------
    >>> normal(3, key=Key(7)).dtype
    dtype('float32')
    """
    axes, kind = _checked("normal", shape, dtype, offset)
    backend = backend_of("like", like)
    z: Array = backend.empty(axes, kind if kind.itemsize > 2 else np.dtype(np.float32))
    backend.normal(z, as_key(key), offset)
    with np.errstate(under="ignore"):
        return z.astype(kind, copy=False)


def uniform(
    shape: int | tuple[int, ...],
    *,
    key: Key | int,
    offset: int = 0,
    dtype: npt.DTypeLike = np.float32,
    like: Any = None,
) -> Array:
    """Uniform numbers in the open interval (0, 1).

    Element i has a word w of 32 random bits of its own: u(i) = (w + 0.5) / 2**32, which float64
    holds exactly. The other dtypes use the first b bits of w, u(i) = (floor(w / 2**(32 - b)) + 0.5)
    / 2**b, with b = 23 for float32, 10 for float16 and 7 for bfloat16, which is exact too.

    Parameters
    ----------
    shape, key, offset, dtype, like
        As for `normal`, which transforms the float64 numbers of the same key.

    Returns
    -------
    numpy.ndarray
    """
    axes, kind = _checked("uniform", shape, dtype, offset)
    backend = backend_of("like", like)
    words = backend.empty(axes, np.uint32)
    backend.noise_words(words, as_key(key), offset)
    bits = UNIFORM_BITS[kind.name]
    words >>= 32 - bits
    wide = kind if kind.itemsize > 2 else np.dtype(np.float32)
    u: Array = backend.xp.add(words, 0.5, out=backend.empty(axes, wide))
    u *= 2.0**-bits
    return u.astype(kind, copy=False)


def decision_uniform(
    shape: tuple[int, ...], key: Key | int, offset: int = 0, like: Any = None
) -> Array:
    """The uniform numbers, float64, that decide a mask of that shape: kept iff u < keep.

    For relaxed masks. Each element costs 32 planes of bits and their transposition, so use
    `uniform`, which reads one word, for noise.
    """
    backend = backend_of("like", like)
    u32 = backend.empty(shape, np.uint32)
    address = as_key(key)
    backend.uniforms(u32, address, address.domain, offset)
    u = backend.xp.add(u32, 0.5, out=backend.empty(shape, np.float64))
    u *= 2.0**-32
    return u


def _checked(
    what: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike, offset: int
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and the dtype of the result."""
    kind = np.dtype(dtype)
    if kind.name not in UNIFORM_BITS or not kind.isnative:
        raise TypeError(f"{what}: dtype must be float32, float64, float16 or bfloat16, got {kind}")
    axes = shape if isinstance(shape, tuple) else (shape,)
    axes = tuple(check_integer(f"{what}: every axis of shape", n, 0) for n in axes)
    first = check_integer(f"{what}: offset", offset, 0)
    if first + math.prod(axes) > INDEX_LIMIT:
        raise ValueError(f"{what}: offset + size must be <= 2**63, got {first} + {math.prod(axes)}")
    return axes, kind

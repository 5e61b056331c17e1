"""Noise that is addressed like a mask: the same on any machine, for any part of an array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.checks import check_integer
from dropcore._base.decisions import INDEX_LIMIT
from dropcore.key import Key, as_key

__all__ = ["normal", "uniform"]

Array = npt.NDArray[Any]


def normal(
    shape: int | tuple[int, ...],
    *,
    key: Key | int,
    offset: int = 0,
    dtype: npt.DTypeLike = np.float32,
    like: Any = None,
) -> Array:
    """Standard normal numbers.

    Element i, counted in C order from `offset` on, is the inverse CDF of u(i) of `uniform`: a
    function of the key and i alone, whatever was drawn before, and the same bits for any number of
    threads and any processor.

    Parameters
    ----------
    shape : int or tuple of int
    key : Key or int
        The address. A mask of the same key is independent of it.
    offset : int, default 0
        Index of the first element: a worker that holds the rows from r0 on of a larger array says
        ``r0 * prod(shape[1:])``.
    dtype : float32 or float64, default float32
        float32 within 4 units in the last place of the true value, float64 within 1e-15 of it. The
        numbers are those of 2**32 values of u, none of them beyond 6.4.
    like : array, optional
        A cupy.ndarray here makes the result one.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    TypeError, ValueError
        For a shape, an offset or a dtype that cannot be.

    References
    ----------
    Wichura 1988, "Algorithm AS 241: the percentage points of the normal distribution".

    Examples
    --------
    >>> normal(3, key=Key(7)).dtype
    dtype('float32')
    """
    z = _empty("normal", shape, dtype, offset, like)
    backend_of("like", like).normal(z, as_key(key), offset)
    return z


def uniform(
    shape: int | tuple[int, ...],
    *,
    key: Key | int,
    offset: int = 0,
    dtype: npt.DTypeLike = np.float32,
    like: Any = None,
) -> Array:
    """Uniform numbers between 0 and 1, and neither of them.

    Element i has a word w of 32 random bits of its own: u(i) = (w + 0.5) / 2**32, which float64
    holds exactly. float32 has the first 23 bits of w: (floor(w / 2**9) + 0.5) / 2**23.

    Parameters
    ----------
    shape, key, offset, dtype, like
        As for `normal`, whose numbers at the same key are those of these.

    Returns
    -------
    numpy.ndarray
    """
    u = _empty("uniform", shape, dtype, offset, like)
    backend = backend_of("like", like)
    words = backend.empty(u.shape, np.uint32)
    backend.noise_words(words, as_key(key), offset)
    if u.dtype == np.float32:
        words >>= 9
    backend.xp.add(words, 0.5, out=u)
    u *= 2.0**-23 if u.dtype == np.float32 else 2.0**-32
    return u


def decision_uniform(
    shape: tuple[int, ...], key: Key | int, offset: int = 0, like: Any = None
) -> Array:
    """The uniforms, float64, that decide a mask of that shape: kept iff u < keep.

    For relaxed masks. An element costs 32 bits of the generator and their transposition; as noise
    take `uniform`, which reads one word.
    """
    backend = backend_of("like", like)
    u32 = backend.empty(shape, np.uint32)
    address = as_key(key)
    backend.uniforms(u32, address, address.domain, offset)
    u = backend.xp.add(u32, 0.5, out=backend.empty(shape, np.float64))
    u *= 2.0**-32
    return u


def _empty(
    what: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike, offset: int, like: Any
) -> Array:
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise TypeError(f"{what}: dtype must be float32 or float64, got {kind}")
    axes = shape if isinstance(shape, tuple) else (shape,)
    axes = tuple(check_integer(f"{what}: every axis of shape", n, 0) for n in axes)
    first = check_integer(f"{what}: offset", offset, 0)
    if first + math.prod(axes) > INDEX_LIMIT:
        raise ValueError(f"{what}: offset + size must be <= 2**63, got {first} + {math.prod(axes)}")
    return backend_of("like", like).empty(axes, kind)

"""Masks inside functions that Numba compiles.

The functions of this module are called from functions under ``@numba.njit``, also with
``nogil=True``, ``parallel=True`` and ``cache=True``. They draw the masks of the contract and give
the bits of `dropcore.dropout`, `dropcore.Mask`, `dropcore.noise.normal` and `dropcore.max_norm_`,
which they call if Python calls them.

Compiled code has no `Key`. `key` is an integer, the seed, or a tuple of the fields of a `Key`:
(seed, stream), (seed, stream, step) or (seed, stream, step, domain).

Each call runs on the thread that makes it. To use several, divide the rows of an array by
``numba.prange``, and give each part its `offset`, the index of its first element in the whole.

Numba is imported with this module: ``pip install 'dropcore[numba]'``. The folder
``examples/embed_numba`` has a complete example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.c_api import c_addresses
from dropcore._base.extras import require
from dropcore.functional import dropout as _dropout
from dropcore.functional import max_norm_ as _max_norm_
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.noise import normal as _normal

numba = require("numba", "numba", "dropcore.numba")
binding = require("llvmlite.binding", "numba", "dropcore.numba")
types, TypingError = numba.types, numba.TypingError

__all__ = ["dropout", "dropout_", "max_norm_", "normal_", "packed_mask"]

Array = NDArray[Any]
Fields: TypeAlias = int | tuple[int, ...]
Function = TypeVar("Function", bound=Callable[..., Any])


def dropout(x: Array, rate: float, key: Fields, offset: int = 0) -> Array:
    """``where(kept, x / (1 - rate), 0)`` in a new array; with x = dy also the gradient.

    Parameters
    ----------
    x : float32 or float64 array of any shape, in C order
    rate : float
        Fraction dropped, in [0, 1].
    key : int or tuple of int
        The seed, or the fields of a `dropcore.Key`.
    offset : int, default 0
        Index of the first element of x in the whole array.

    Returns
    -------
    array
        Of the shape and dtype of x.

    Raises
    ------
    numba.TypingError
        While the caller is compiled, if x is not such an array or the key is not integers.
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import dropcore
    >>> @numba.njit(nogil=True)
    ... def hidden(x, w, step):
    ...     return dropout(np.maximum(x @ w, 0), 0.5, (7, 1, step))
    >>> x = np.ones((4, 3)); w = np.ones((3, 5))
    >>> key = dropcore.Key(7, stream=1, step=100)
    >>> bool((hidden(x, w, 100) == dropcore.dropout(x @ w, 0.5, key=key)).all())
    True
    """
    return _dropout(x, rate, key=_key(key), offset=offset)


def dropout_(x: Array, rate: float, key: Fields, offset: int = 0) -> Array:
    """`dropout` in place. Returns x itself.

    Parameters
    ----------
    x, rate, key, offset
        As for `dropout`.

    Returns
    -------
    array
        x.
    """
    return _dropout(x, rate, key=_key(key), offset=offset, out=x)


def packed_mask(n: int, rate: float, key: Fields, offset: int = 0) -> NDArray[np.uint8]:
    """The decisions of n elements as bits: element i is kept if ``bits[i // 8] >> i % 8 & 1``.

    Parameters
    ----------
    n : int
    rate, key, offset
        As for `dropout`.

    Returns
    -------
    uint8 (ceil(n / 8),)
        As `dropcore.Mask.packed` returns it.
    """
    return Mask(n, rate, key=_key(key), offset=offset).packed()


def normal_(out: Array, key: Fields, offset: int = 0) -> Array:
    """Fill an array with standard normal numbers. Returns the array itself.

    Parameters
    ----------
    out : float32 or float64 array of any shape, in C order
    key, offset
        As for `dropout`. The decisions of the same key are independent of the numbers.

    Returns
    -------
    array
        Out.
    """
    out[...] = _normal(out.shape, key=_key(key), offset=offset, dtype=out.dtype)
    return out


def max_norm_(w: Array, max_norm: float, axis: int) -> Array:
    """Shorten the rows or columns of w whose norm exceeds a bound, in place. Returns w itself.

    Parameters
    ----------
    w : float32 or float64 (rows, columns), in C order
    max_norm : float
        Positive.
    axis : int
        The axis that a norm runs over: 0 bounds each column, 1 each row.

    Returns
    -------
    array
        w.
    """
    return _max_norm_(w, max_norm, axis=axis)


def _key(key: Fields) -> Key:
    if not isinstance(key, tuple):
        return Key(key)
    return Key(*key[:3], domain=key[3]) if len(key) == 4 else Key(*key)


# ---- the same for compiled code ----

# C functions go by name, not by address, so that Numba can keep code that calls them in a file.
for _name, _address in c_addresses().items():
    binding.add_symbol(f"dropcore_{_name}", _address)

_SUFFIXES = {types.float32: "f32", types.float64: "f64"}
_SIZE = types.uintp
# seed, stream, step, domain, keep, offset, n
_DRAWN = (
    *(types.uint64, types.uint32, types.uint32, types.uint32),
    types.float64,
    types.uint64,
    _SIZE,
)
_NOISE = (types.uint64, types.uint32, types.uint32, types.uint64, _SIZE)
_NORMS = (types.float64, _SIZE, _SIZE, _SIZE)


def _c_function(name: str, *arguments: Any) -> Any:
    """A function of dropcore.h. It returns a status."""
    return types.ExternalFunction(f"dropcore_{name}", types.int32(*arguments))


def _for_array(name: str, array: Any, *arguments: Any) -> Any:
    """The one for the dtype of an array."""
    return _c_function(f"{name}_{_SUFFIXES[array.dtype]}", *arguments)


_packed_mask = _c_function("packed_mask", *_DRAWN, types.CPointer(types.uint8))


def _compiled(function: Function) -> Function:
    decorated: Function = numba.njit(function)
    return decorated


def _overloads(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorates what returns the compiled form of `function` for the types of arguments."""
    # Not strict: it would compare annotations, too.
    decorator: Callable[[Function], Function] = numba.extending.overload(function, strict=False)
    return decorator


def _expect_array(what: str, x: Any, *, change: bool = False) -> Any:
    """The type of a pointer to the elements of an array that C takes."""
    if not isinstance(x, types.Array) or x.dtype not in _SUFFIXES or x.layout != "C":
        raise TypingError(
            f"{what} must be an array of float32 or float64 in C order, got {x}: use "
            "x.astype(np.float32) or np.ascontiguousarray(x)"
        )
    if change and not x.mutable:
        raise TypingError(f"{what} is changed in place and is read-only: give a copy")
    return types.CPointer(x.dtype)


def _expect(what: str, given: Any, kind: Any = types.Integer) -> None:
    """An error of typing unless a number is of that kind: any number, or an integer."""
    found = types.literal(given.value) if isinstance(given, types.Omitted) else given
    if not isinstance(found, types.Integer | kind):
        name = "an integer" if kind is types.Integer else "a number"
        raise TypingError(f"{what} must be {name}, got {found}")


def _fields(key: Fields, offset: int) -> tuple[int, int, int, int]:
    """The checked (seed, stream, step, domain) of a key, in compiled code only."""
    raise NotImplementedError("a key is divided into its fields by compiled code only")


@_overloads(_fields)
def _fields_of(key: Any, offset: Any) -> Any:
    kinds = tuple(key) if isinstance(key, types.BaseTuple) else (key,)
    if not 1 <= len(kinds) <= 4:
        raise TypingError(f"key must have 1 to 4 fields, got {len(kinds)}")
    for kind in kinds:
        _expect("key, and each field of it,", kind)
    _expect("offset", offset)
    if not isinstance(key, types.BaseTuple):
        return lambda key, offset: _checked(key, 0, 0, 0, offset)
    return (
        lambda key, offset: _checked(key[0], 0, 0, 0, offset),
        lambda key, offset: _checked(key[0], key[1], 0, 0, offset),
        lambda key, offset: _checked(key[0], key[1], key[2], 0, offset),
        lambda key, offset: _checked(key[0], key[1], key[2], key[3], offset),
    )[len(kinds) - 1]


@_compiled
def _checked(
    seed: int, stream: int, step: int, domain: int, offset: int
) -> tuple[int, int, int, int]:
    if seed < 0:
        raise ValueError("key: seed must be in [0, 2**64)")
    if stream < 0 or stream >= 1 << 28:
        raise ValueError("key: stream must be in [0, 2**28)")
    if step < 0 or step >= 1 << 32:
        raise ValueError("key: step must be in [0, 2**32)")
    if domain != 0 and domain != 2:
        raise ValueError("key: domain must be 0 (training) or 2 (Monte Carlo prediction)")
    if offset < 0:
        raise ValueError("offset must not be negative")
    return seed, stream, step, domain


@_compiled
def _expect_ok(status: int) -> None:
    if status == -1:
        raise ValueError("rate must be in [0, 1]")
    if status == -3:
        raise ValueError("offset + size must be <= 2**63")
    if status == -4:
        raise ValueError("max_norm must be positive")


@_overloads(dropout)
def _compile_dropout(x: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
    pointer = _expect_array("dropout: x", x)
    _expect("dropout: rate", rate, types.Float)
    draw = _for_array("dropout", x, *_DRAWN, pointer, pointer)

    def compiled(x: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
        seed, stream, step, domain = _fields(key, offset)
        out = np.empty_like(x)
        _expect_ok(
            draw(seed, stream, step, domain, 1.0 - rate, offset, x.size, x.ctypes, out.ctypes)
        )
        return out

    return compiled


@_overloads(dropout_)
def _compile_dropout_(x: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
    pointer = _expect_array("dropout_: x", x, change=True)
    _expect("dropout_: rate", rate, types.Float)
    draw = _for_array("dropout", x, *_DRAWN, pointer, pointer)

    def compiled(x: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
        seed, stream, step, domain = _fields(key, offset)
        _expect_ok(draw(seed, stream, step, domain, 1.0 - rate, offset, x.size, x.ctypes, x.ctypes))
        return x

    return compiled


@_overloads(packed_mask)
def _compile_packed_mask(n: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
    _expect("packed_mask: n", n)
    _expect("packed_mask: rate", rate, types.Float)

    def compiled(n: Any, rate: Any, key: Any, offset: Any = 0) -> Any:
        seed, stream, step, domain = _fields(key, offset)
        if n < 0:
            raise ValueError("n must not be negative")
        bits = np.empty((n + 7) // 8, np.uint8)
        _expect_ok(_packed_mask(seed, stream, step, domain, 1.0 - rate, offset, n, bits.ctypes))
        return bits

    return compiled


@_overloads(normal_)
def _compile_normal_(out: Any, key: Any, offset: Any = 0) -> Any:
    pointer = _expect_array("normal_: out", out, change=True)
    fill = _for_array("normal", out, *_NOISE, pointer)

    def compiled(out: Any, key: Any, offset: Any = 0) -> Any:
        seed, stream, step, _domain = _fields(key, offset)
        _expect_ok(fill(seed, stream, step, offset, out.size, out.ctypes))
        return out

    return compiled


@_overloads(max_norm_)
def _compile_max_norm_(w: Any, max_norm: Any, axis: Any) -> Any:
    pointer = _expect_array("max_norm_: w", w, change=True)
    _expect("max_norm_: max_norm", max_norm, types.Float)
    _expect("max_norm_: axis", axis)
    if w.ndim != 2:
        raise TypingError(f"max_norm_: w must have 2 axes, got {w.ndim}")
    arguments = *_NORMS, pointer, types.CPointer(_SIZE)
    columns = _for_array("max_norm_columns", w, *arguments)
    rows = _for_array("max_norm_rows", w, *arguments)

    def compiled(w: Any, max_norm: Any, axis: Any) -> Any:
        shortened = np.empty(1, np.uintp)
        m, n = w.shape
        if axis == 0 or axis == -2:
            _expect_ok(columns(max_norm, m, n, n, w.ctypes, shortened.ctypes))
        elif axis == 1 or axis == -1:
            _expect_ok(rows(max_norm, m, n, n, w.ctypes, shortened.ctypes))
        else:
            raise ValueError("axis must be 0 (each column is bounded) or 1 (each row)")
        return w

    return compiled

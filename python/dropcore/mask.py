"""Masks: the elements that dropout keeps."""

from __future__ import annotations

import math
import numbers
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, cpu, kept_units
from dropcore._base.checks import (
    check_integer,
    check_number,
    expect_no_tensor,
    expect_one_of_rate_and_keep,
    expect_unmasked,
    is_several,
)
from dropcore._base.decisions import INDEX_LIMIT, Decisions, Keep
from dropcore._base.device import on_device
from dropcore.key import Key, as_key

__all__ = ["Mask"]

FLOATS: Final = ("float32", "float64", "float16", "bfloat16")
"""The dtypes of `Mask.to_array`."""


class Mask(Decisions):
    """The elements that dropout keeps, drawn from a `Key`; `Mask.given` takes a boolean array.

    Element i of the mask, counted in C order over the mask's own `shape` from `offset` on, is kept
    iff u32(i) < round(keep * 2**32). u32 is a function of the key and i alone, so the mask does not
    depend on threads, processor, memory layout or previous draws. Nothing is stored: the mask is
    drawn again wherever it is used.

    Parameters
    ----------
    shape : int or tuple of int
        The mask's own shape. It broadcasts to arrays as in NumPy. Decisions are shared along the
        axes of length 1: (1, K) drops units for a whole batch.
    rate : float or array_like, optional
        Fraction dropped, in [0, 1]. An array broadcasts to the mask's shape: (K,) for a rate per
        unit, (B, 1) per sample.
    keep : float or array_like, optional
        Fraction kept, ``1 - rate``; p in the papers. Exactly one of `rate` and `keep` is needed.
    key : Key or int
        The address. ``7`` means ``Key(7)``.
    offset : int, default 0
        Index of the first element. A worker that holds the rows from r0 on of a larger batch passes
        ``r0 * prod(shape[1:])`` and gets its part of the mask of the whole batch.
    run : int, default 1
        The number of consecutive elements of the last axis that share a decision; the last run may
        be shorter. Indices, `offset`, arrays of rates and `packed` then count runs.

    Attributes
    ----------
    shape : tuple of int
    size : int
        Number of elements of `shape`.
    scale : float or numpy.ndarray
        Factor of the kept elements: ``1 / keep`` in float64, 0 where nothing is kept.
    key : Key or None
        None for a mask that was given.
    offset, run : int
    domain : int
        Of the mask contract: 0 while training.
    drawn_shape : tuple of int
        The shape of the decisions: `shape`, with the last axis divided by `run`.
    threshold : int or uint64 array
        round(keep * 2**32).
    bits : uint8 array or None
        The packed decisions of a mask that was given.

    Raises
    ------
    TypeError
        If neither `rate` nor `keep` is given, or an argument is not a number.
    ValueError
        If a rate is outside [0, 1] or NaN, both are given, an array of rates does not broadcast to
        the mask, or ``offset + size`` exceeds 2**63.

    References
    ----------
    Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> Mask((2, 4), keep=0.5, key=7).to_bool().shape
    (2, 4)
    """

    __slots__ = ()

    def __init__(
        self,
        shape: int | tuple[int, ...],
        rate: npt.ArrayLike | None = None,
        *,
        keep: npt.ArrayLike | None = None,
        key: Key | int,
        offset: int = 0,
        run: int = 1,
    ) -> None:
        kept = resolve_keep(rate, keep, what="Mask")
        own, drawn_shape, run = _shapes(shape, run)
        offset = check_integer("Mask: offset", offset, 0)
        size = math.prod(drawn_shape)
        if offset + size > INDEX_LIMIT:
            raise ValueError(f"Mask: offset + size must be <= 2**63, got {offset} + {size}")
        threshold, scale = _threshold_and_scale(kept, drawn_shape, run)
        self._set(own, drawn_shape, run, as_key(key), offset, threshold, None, scale)

    @classmethod
    def given(cls, kept: npt.ArrayLike, *, keep: npt.ArrayLike = 1.0) -> Mask:
        """A mask from a boolean array.

        Parameters
        ----------
        kept : array_like of bool
            True = kept. Its shape is the mask's.
        keep : float or array_like, default 1.0
            The scale is ``1 / keep``. It is never inferred from the array.

        Returns
        -------
        Mask
            Without a key.

        Raises
        ------
        TypeError
            If `kept` is not boolean.
        ValueError
            If `keep` is outside [0, 1] or NaN.
        """
        expect_unmasked("Mask.given: kept", kept)
        expect_no_tensor("Mask.given: kept", kept)
        array: Any = kept if on_device(kept) else np.asarray(kept)
        if array.dtype != np.bool_:
            raise TypeError(
                f"Mask.given: kept must be a boolean array (True = kept), got {array.dtype}; "
                "compare or use .astype(bool)"
            )
        bits = backend_of("kept", array).pack(array)
        return cls._of_bits(bits, array.shape, keep)

    @classmethod
    def from_packed(
        cls, bits: npt.ArrayLike, shape: int | tuple[int, ...], *, keep: npt.ArrayLike = 1.0
    ) -> Mask:
        """A mask from its packed bits, as `packed` returns them.

        Parameters
        ----------
        bits : uint8 (ceil(size / 8),)
            In C order over `shape`, little-endian, 1 = kept. They are copied, and padding bits are
            ignored.
        shape : int or tuple of int
        keep : float or array_like, default 1.0
            The scale is ``1 / keep``.

        Returns
        -------
        Mask
            Without a key.
        """
        expect_unmasked("Mask.from_packed: bits", bits)
        backend = backend_of("bits", bits)
        packed: Any = backend.xp.asarray(bits)
        own, _, _ = _shapes(shape, 1)
        size = math.prod(own)
        if packed.dtype != np.uint8 or packed.size != -(-size // 8):
            raise ValueError(
                f"Mask.from_packed: shape {own} needs {-(-size // 8)} bytes of uint8, got "
                f"{packed.size} of {packed.dtype}"
            )
        packed = packed.reshape(-1).copy()
        if size % 8:
            packed[-1:] &= np.uint8((1 << size % 8) - 1)
        return cls._of_bits(packed, own, keep)

    @classmethod
    def _of_bits(cls, bits: Any, shape: tuple[int, ...], keep: npt.ArrayLike) -> Mask:
        """A mask that takes over packed bits, whose padding is 0."""
        kept = resolve_keep(None, keep, what="Mask")
        threshold, scale = _threshold_and_scale(kept, shape, 1)
        mask = cls.__new__(cls)
        mask._set(shape, shape, 1, None, 0, threshold, bits, scale)
        return mask

    def packed(self, like: Any = None) -> npt.NDArray[np.uint8]:
        """The mask as bits: uint8 (ceil(n / 8),), little-endian, 1 = kept, padded with 0.

        In C order over `shape`; with ``run > 1`` each bit is a run.
        ``np.unpackbits(bits, bitorder="little")`` is the inverse. The results of this method,
        `to_bool` and `indices` are CuPy arrays if `like` is one, or if the mask holds one.

        Parameters
        ----------
        like : ndarray, optional
            An array on the device where the result is wanted.

        Returns
        -------
        ndarray of uint8, shape (ceil(n / 8),)
            A new array.
        """
        bits: npt.NDArray[np.uint8] = self._backend(like).drawn_bits(self)
        return bits if self.bits is None else bits.copy()

    def to_bool(self, like: Any = None) -> npt.NDArray[np.bool_]:
        """The mask as a boolean array of `shape`: True = kept.

        Parameters
        ----------
        like : ndarray, optional
            As for `packed`.

        Returns
        -------
        ndarray of bool
            Of shape `shape`.
        """
        kept: npt.NDArray[np.bool_] = self._backend(like).to_bool(self)
        return kept

    def to_array(self, dtype: npt.DTypeLike = np.float32, like: Any = None) -> npt.NDArray[Any]:
        """The mask as numbers: `scale` where an element is kept, and 0 where it is dropped.

        This is the factor that dropout multiplies an array of that dtype by, rounded in the same
        way: `dropcore.dropout` of an array of ones. Libraries that hand a mask around and multiply
        by it take this form. An infinity or NaN times 0 is NaN, though, where `dropcore.dropout`
        returns 0.

        Parameters
        ----------
        dtype : float32, float64, float16 or bfloat16, default float32
            The number of the kept elements is `scale`, rounded to float64 or float32, and for the
            16-bit types once more.
        like : array, optional
            If it is a cupy.ndarray, the result is one too.

        Returns
        -------
        numpy.ndarray
            Of `shape`, with 1 along shared axes.

        Raises
        ------
        TypeError
            If the dtype is another one.

        Examples
        --------
        >>> Mask.given([True, False, True], keep=0.5).to_array()
        array([2., 0., 2.], dtype=float32)
        """
        kind = np.dtype(dtype)
        if kind.name not in FLOATS or not kind.isnative:
            raise TypeError(
                f"Mask.to_array: dtype must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {kind}"
            )
        backend = self._backend(like)
        ones = backend.as_array("ones", backend.xp.ones(self.shape, kind))
        factors: npt.NDArray[Any] = backend.dropout(ones, self, ones)
        return factors

    def indices(self, like: Any = None) -> npt.NDArray[np.int64]:
        """Sorted flat indices (int64) of the kept elements, in C order over `shape`.

        Parameters
        ----------
        like : ndarray, optional
            As for `packed`.

        Returns
        -------
        ndarray of int64, shape (kept,)
            In ascending order.
        """
        return kept_units(self._backend(like), self)[0]

    def rescaled(self, scale: float | npt.NDArray[np.float64]) -> Mask:
        """The same decisions with another scale for the kept elements.

        Parameters
        ----------
        scale : float or array of float
            The new scale; an array broadcasts to the mask's shape.

        Returns
        -------
        Mask
            A new one with the same decisions.

        Raises
        ------
        TypeError
            If the scale is not a number or an array of numbers.
        ValueError
            If it is not finite, or an array that does not broadcast to the mask's shape.
        """
        own: Any
        what = "Mask.rescaled: scale"
        if isinstance(scale, numbers.Real | str) or scale is None:
            own = check_number(what, scale)
        else:
            expect_unmasked(what, scale)
            xp = backend_of("scale", scale).xp
            array = xp.asarray(scale)
            if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
                raise TypeError(
                    f"{what} must be a number or an array of numbers, got dtype {array.dtype}"
                )
            own = array.astype(np.float64)
            _expect_rates(own.shape, self.drawn_shape, self.run, "scales")
            if not xp.isfinite(own).all():
                raise ValueError(f"{what} must be finite, got {own}")
        twin = type(self).__new__(type(self))
        fields = (*self._fields()[:-1], own)
        twin._set(*fields)
        return twin

    def _backend(self, like: Any) -> Any:
        """The backend of `like`, or of the mask's own arrays if one is on a device."""
        for array in (like, self.bits, self.threshold):
            if on_device(array):
                return backend_of("mask", array)
        return cpu

    def __repr__(self) -> str:
        if self.key is None:
            return f"<Mask {self.shape} given, scale {self.scale}>"
        extra = f", offset={self.offset}" if self.offset else ""
        extra += f", run={self.run}" if self.run > 1 else ""
        return f"<Mask {self.shape} at {self.key}, scale {self.scale}{extra}>"


def resolve_keep(rate: npt.ArrayLike | None, keep: npt.ArrayLike | None, *, what: str) -> Any:
    """The fraction kept, a float or a float64 array, from `rate` or `keep`.

    Raises
    ------
    TypeError
        If neither is given, or the one that is given is not a number or an array of numbers.
    ValueError
        If both are given, or a number is outside [0, 1] or NaN.
    """
    expect_one_of_rate_and_keep(what, rate, keep)
    name, given = ("rate", rate) if keep is None else ("keep", keep)
    if on_device(given):
        return backend_of(name, given).resolve_keep(rate, keep)
    if type(given) is float:  # the usual case, without the cost of an array
        if not 0.0 <= given <= 1.0:
            raise ValueError(_outside(what, name, given))
        return 1.0 - given if name == "rate" else given
    expect_unmasked(f"{what}: {name}", given)
    array = np.asarray(given)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"{what}: {name} must be a number in [0, 1] or an array of them, got "
            f"{given!r} of type {type(given).__name__}"
        )
    exact = array.astype(np.float64)
    inside = (exact >= 0.0) & (exact <= 1.0)
    if not inside.all():
        raise ValueError(_outside(what, name, exact[~inside].flat[0] if exact.ndim else given))
    kept = 1.0 - exact if name == "rate" else exact
    return float(kept) if kept.ndim == 0 else kept


def _shapes(shape: Any, run: Any) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The shape of a mask, the shape of its decisions, and the run."""
    axes = shape if type(shape) is tuple else _as_tuple(shape)
    for n in axes:
        if type(n) is not int or n < 0:
            axes = tuple(check_integer("Mask: every axis of shape", n, 0) for n in axes)
            break
    run = check_integer("Mask: run", run, 1)
    if run == 1:
        return axes, axes, 1
    if not axes:
        raise ValueError("Mask: run needs a last axis, got shape ()")
    return axes, (*axes[:-1], -(-axes[-1] // run)), run


def _threshold_and_scale(keep: Keep, drawn_shape: tuple[int, ...], run: int) -> tuple[Any, Keep]:
    """T = round(keep * 2^32), half to even, and the scale."""
    if isinstance(keep, float):
        threshold = cpu.threshold(keep)
        return threshold, 1.0 / keep if threshold else 0.0
    _expect_rates(keep.shape, drawn_shape, run, "rates")
    thresholds: tuple[Any, Keep] = backend_of("keep", keep).thresholds(keep)
    return thresholds


def _expect_rates(
    shape: tuple[int, ...], drawn_shape: tuple[int, ...], run: int, name: str
) -> None:
    """ValueError unless an array of that shape broadcasts to the mask's."""
    try:
        if np.broadcast_shapes(shape, drawn_shape) == drawn_shape:
            return
    except ValueError:
        pass
    raise ValueError(
        f"Mask: an array of {name} must broadcast to the mask's shape {drawn_shape}"
        f"{' of runs' if run > 1 else ''}, got {shape}"
    )


def _outside(what: str, name: str, found: object) -> str:
    meaning = "dropped" if name == "rate" else "kept"
    return f"{what}: {name} is the fraction {meaning}, in [0, 1], got {found}"


def _as_tuple(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, numbers.Integral):
        return (int(shape),)
    if not is_several(shape):
        raise TypeError(f"Mask: shape must be an integer or several, got {shape!r}")
    return tuple(shape)

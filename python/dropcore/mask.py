"""Masks: which elements live."""

from __future__ import annotations

import copy
import math
import numbers
import operator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore._base.device import cuda_backend, on_device
from dropcore.key import Key, as_key

__all__ = ["Mask"]

Keep = float | npt.NDArray[np.float64]

TRAINING, NOISE, MONTE_CARLO = 0, 1, 2  # domains of the mask contract
INDEX_LIMIT = 1 << 63


class Mask:
    """Which elements live, drawn from a `Key`; `Mask.given` takes one that you have.

    Element i of the mask, counted in C order over the mask's own `shape` from `offset` on, is kept
    iff u32(i) < round(keep * 2**32), where u32 is a function of the key and i alone: the mask does
    not depend on threads, processor, memory layout or on what was drawn before. Nothing is stored;
    the mask is drawn again wherever it is used.

    Parameters
    ----------
    shape : int or tuple of int
        The mask's own shape. It broadcasts against arrays as NumPy's shapes do, and the axes of
        length 1 are what is shared: (1, K) drops units for a whole batch.
    rate : float or array_like, optional
        Fraction dropped, in [0, 1]. An array broadcasts to the mask's shape: (K,) for a rate per
        unit, (B, 1) per sample.
    keep : float or array_like, optional
        Fraction kept, ``1 - rate``; the papers' p. Give `rate` or `keep`.
    key : Key or int
        The address. ``7`` means ``Key(7)``.
    offset : int, default 0
        Index of the first element: a worker that holds the rows from r0 on of a larger batch says
        ``r0 * prod(shape[1:])`` and gets its part of the mask of the whole batch.
    run : int, default 1
        Decide for runs of that many consecutive elements of the last axis at once; the last run may
        be shorter. Indices, `offset`, arrays of rates and `packed` then count runs.

    Attributes
    ----------
    shape : tuple of int
    scale : float or numpy.ndarray
        What kept elements are multiplied by: ``1 / keep`` in float64, 0 where nothing is kept.

    Raises
    ------
    TypeError
        If neither `rate` nor `keep` is given, or something is not a number.
    ValueError
        If a rate is outside [0, 1] or NaN, both are given, shapes do not fit, or
        ``offset + size`` exceeds 2**63.

    References
    ----------
    Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".

    Examples
    --------
    >>> Mask((2, 4), keep=0.5, key=7).to_bool().shape
    (2, 4)
    """

    __slots__ = ("__weakref__", "_bits", "_drawn_shape", "_threshold", "domain", "key", "offset",
                 "run", "scale", "shape")  # fmt: skip

    shape: tuple[int, ...]
    scale: Keep
    key: Key | None
    offset: int
    run: int
    domain: int
    _drawn_shape: tuple[int, ...]
    _threshold: int | npt.NDArray[np.uint64]
    _bits: npt.NDArray[np.uint8] | None

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
        if rate is None and keep is None:
            raise TypeError("Mask: give rate (fraction dropped) or keep (fraction kept)")
        kept = resolve_keep(rate, keep, what="Mask")
        self._set_shape(shape, run)
        self.key = as_key(key)
        self.domain = TRAINING
        self._bits = None
        self.offset = _whole("offset", offset, 0)
        size = math.prod(self._drawn_shape)
        if self.offset + size > INDEX_LIMIT:
            raise ValueError(f"Mask: offset + size must be <= 2**63, got {self.offset} + {size}")
        self._set_keep(kept)

    @classmethod
    def given(cls, kept: npt.ArrayLike, *, keep: npt.ArrayLike = 1.0) -> Mask:
        """A mask that you have.

        Parameters
        ----------
        kept : array_like of bool
            True = kept. Its shape is the mask's.
        keep : float or array_like, default 1.0
            The scale is ``1 / keep``; it is never inferred from the mask.

        Raises
        ------
        TypeError
            If `kept` is not boolean.
        ValueError
            If `keep` is outside [0, 1] or NaN.
        """
        array: Any = kept if on_device(kept) else np.asarray(kept)
        if array.dtype != np.bool_:
            raise TypeError(
                f"Mask.given: kept must be a boolean array (True = kept), got {array.dtype}; "
                "compare or use .astype(bool)"
            )
        bits = (
            cuda_backend().pack(array)
            if on_device(array)
            else np.packbits(array, axis=None, bitorder="little")
        )
        return cls.from_packed(bits, array.shape, keep=keep)

    @classmethod
    def from_packed(
        cls, bits: npt.ArrayLike, shape: int | tuple[int, ...], *, keep: npt.ArrayLike = 1.0
    ) -> Mask:
        """A mask from its packed bits, as `packed` returns them.

        Parameters
        ----------
        bits : uint8 (ceil(size / 8),)
            Flat over `shape`, little-endian; a 1 is kept.
        shape : int or tuple of int
        keep : float or array_like, default 1.0
            The scale is ``1 / keep``.
        """
        mask = cls.__new__(cls)
        mask._set_shape(shape, 1)
        packed: Any = (cuda_backend().xp if on_device(bits) else np).ascontiguousarray(bits)
        size = math.prod(mask.shape)
        if packed.dtype != np.uint8 or packed.size != -(-size // 8):
            raise ValueError(
                f"Mask.from_packed: shape {mask.shape} needs {-(-size // 8)} bytes of uint8, got "
                f"{packed.size} of {packed.dtype}"
            )
        mask.key = None
        mask.domain = mask.offset = 0
        mask._bits = packed.reshape(-1)
        mask._set_keep(resolve_keep(None, keep, what="Mask"))
        return mask

    def _set_shape(self, shape: int | tuple[int, ...], run: int) -> None:
        axes = shape if isinstance(shape, tuple) else _as_tuple(shape)
        for n in axes:
            if type(n) is not int or n < 0:
                axes = tuple(_whole("every axis of shape", n, 0) for n in axes)
                break
        self.shape = axes
        self.run = run if type(run) is int and run > 0 else _whole("run", run, 1)
        if self.run > 1 and not self.shape:
            raise ValueError("Mask: run needs a last axis, got shape ()")
        self._drawn_shape = (
            self.shape if self.run == 1 else (*self.shape[:-1], -(-self.shape[-1] // self.run))
        )

    def _set_keep(self, keep: Keep) -> None:
        if isinstance(keep, float):
            self._threshold = _core.threshold(keep)
            self.scale = 1.0 / keep if self._threshold else 0.0
            return
        try:
            fits = np.broadcast_shapes(keep.shape, self._drawn_shape) == self._drawn_shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"Mask: an array of rates must broadcast to the mask's shape {self._drawn_shape}"
                f"{' of runs' if self.run > 1 else ''}, got {keep.shape}"
            )
        if on_device(keep):
            self._threshold, self.scale = cuda_backend().thresholds(keep)
            return
        # Exact: keep * 2**32 is a scaling, and rint rounds half to even.
        self._threshold = np.rint(keep * 4294967296.0).astype(np.uint64)
        self.scale = np.divide(1.0, keep, out=np.zeros_like(keep), where=self._threshold > 0)

    @property
    def size(self) -> int:
        """Number of elements of `shape`."""
        return math.prod(self.shape)

    def packed(self, like: Any = None) -> npt.NDArray[np.uint8]:
        """The mask as bits: uint8 (ceil(n / 8),), little-endian, 1 = kept, padded with 0.

        Flat in C order over `shape`; with ``run > 1`` a bit is a run.
        ``np.unpackbits(bits, bitorder="little")`` undoes it. The result of this, `to_bool` and
        `indices` is on the device where `like` is an array there, or the mask's own arrays are.
        """
        if self._on_device(like):
            bits = cuda_backend().drawn_bits(self)
            return bits if self._bits is None else bits.copy()
        if self._bits is not None:
            return self._bits.copy()
        return self._draw()

    def to_bool(self, like: Any = None) -> npt.NDArray[np.bool_]:
        """The mask as a boolean array of `shape`: True = kept."""
        if self._on_device(like):
            return cuda_backend().to_bool(self)
        size = math.prod(self._drawn_shape)
        bits = np.unpackbits(self._held(), count=size, bitorder="little")
        kept = bits.view(np.bool_).reshape(self._drawn_shape)
        if self.run > 1:
            kept = np.repeat(kept, self.run, axis=-1)[..., : self.shape[-1]]
        return np.ascontiguousarray(kept).reshape(self.shape)

    def indices(self, like: Any = None) -> npt.NDArray[np.int64]:
        """Sorted flat indices (int64) of what is kept, in C order over `shape`."""
        if self._on_device(like):
            return cuda_backend().kept_units(self)[0]
        return np.flatnonzero(self.to_bool()).astype(np.int64, copy=False)

    def rescaled(self, scale: float | npt.NDArray[np.float64]) -> Mask:
        """The same decisions with another scale for what is kept."""
        twin = copy.copy(self)
        twin.scale = scale
        return twin

    def _on_device(self, like: Any) -> bool:
        return on_device(like) or on_device(self._bits) or on_device(self._threshold)

    def _draw(self) -> npt.NDArray[np.uint8]:
        key = cast(Key, self.key)
        size = math.prod(self._drawn_shape)
        bits = np.empty(-(-size // 8), dtype=np.uint8)
        where = (key.seed, key.stream, key.step, self.domain)
        if isinstance(self._threshold, int):
            _core.draw(bits, size, *where, self._threshold, self.offset)
        else:
            _core.draw_each(
                bits, np.broadcast_to(self._threshold, self._drawn_shape), *where, self.offset
            )
        return bits

    def _held(self) -> npt.NDArray[np.uint8]:
        """The bits without a copy where they are there already."""
        return self._draw() if self._bits is None else self._bits

    def _element_bits(self) -> npt.NDArray[np.uint8]:
        """One bit an element of `shape`, also with runs."""
        if self.run == 1:
            return self._held()
        return np.packbits(self.to_bool(), axis=None, bitorder="little")

    def _element_scale(self) -> Keep:
        """The scale, broadcastable to `shape`, also with runs."""
        if self.run == 1 or isinstance(self.scale, float):
            return self.scale
        xp = cuda_backend().xp if on_device(self.scale) else np
        over_runs = xp.broadcast_to(self.scale, self._drawn_shape)
        return xp.repeat(over_runs, self.run, axis=-1)[..., : self.shape[-1]]

    def __repr__(self) -> str:
        if self.key is None:
            return f"<Mask {self.shape} given, scale {self.scale}>"
        extra = f", offset={self.offset}" if self.offset else ""
        extra += f", run={self.run}" if self.run > 1 else ""
        return f"<Mask {self.shape} at {self.key}, scale {self.scale}{extra}>"


def resolve_keep(
    rate: npt.ArrayLike | None, keep: npt.ArrayLike | None, *, what: str, default: float = 0.5
) -> Any:
    """The fraction kept, as float or float64 array, from whichever was given."""
    if rate is not None and keep is not None:
        raise ValueError(f"{what}: give rate or keep, not both (got rate={rate}, keep={keep})")
    if rate is None and keep is None:
        return 1.0 - default
    name, given = ("rate", rate) if keep is None else ("keep", keep)
    if on_device(given):
        return cuda_backend().resolve_keep(rate, keep)
    if type(given) is float:  # what a training step gives
        if not 0.0 <= given <= 1.0:
            raise ValueError(_outside(what, name, given))
        return 1.0 - given if name == "rate" else given
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


def _outside(what: str, name: str, found: object) -> str:
    meaning = "dropped" if name == "rate" else "kept"
    return f"{what}: {name} is the fraction {meaning}, in [0, 1], got {found}"


def _as_tuple(shape: Any) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, numbers.Integral) else tuple(shape)


def _whole(name: str, value: object, least: int) -> int:
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        raise TypeError(
            f"Mask: {name} must be an integer, got {value!r} of type {type(value).__name__}"
        ) from None
    if number < least:
        raise ValueError(f"Mask: {name} must be >= {least}, got {number}")
    return number

"""A mask as plain data: what a backend needs to draw it."""

from __future__ import annotations

import math
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from dropcore._base.device import array_namespace
from dropcore.key import TRAINING, Key

__all__ = ["INDEX_LIMIT", "Decisions", "Keep"]

Keep = float | npt.NDArray[np.float64]

INDEX_LIMIT = 1 << 63


class Decisions:
    """The fields of a mask. They cannot be assigned: copies of them are kept on devices.

    Attributes
    ----------
    shape : tuple of int
    drawn_shape : tuple of int
        The shape of the decisions: `shape`, with the last axis divided by `run`.
    run : int
    key : Key or None
        None where `bits` are given.
    domain : int
    offset : int
    threshold : int or uint64 array
        round(keep * 2^32): element i is kept iff u32(i) is less.
    bits : uint8 array or None
        Packed decisions that were given and are not drawn.
    scale : float or float64 array
    """

    __slots__ = ("__weakref__", "bits", "drawn_shape", "key", "offset", "run", "scale",
                 "shape", "threshold")  # fmt: skip

    shape: tuple[int, ...]
    drawn_shape: tuple[int, ...]
    run: int
    key: Key | None
    offset: int
    threshold: int | npt.NDArray[np.uint64]
    bits: npt.NDArray[np.uint8] | None
    scale: Keep

    def _set(
        self,
        shape: tuple[int, ...],
        drawn_shape: tuple[int, ...],
        run: int,
        key: Key | None,
        offset: int,
        threshold: int | npt.NDArray[np.uint64],
        bits: npt.NDArray[np.uint8] | None,
        scale: Keep,
    ) -> None:
        """Set all fields, once."""
        put = object.__setattr__
        put(self, "shape", shape)
        put(self, "drawn_shape", drawn_shape)
        put(self, "run", run)
        put(self, "key", key)
        put(self, "offset", offset)
        put(self, "threshold", threshold)
        put(self, "bits", bits)
        put(self, "scale", scale)
        for array in (threshold, bits, scale):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    def _fields(self) -> tuple[Any, ...]:
        return (self.shape, self.drawn_shape, self.run, self.key, self.offset,
                self.threshold, self.bits, self.scale)  # fmt: skip

    @property
    def domain(self) -> int:
        """The domain of the key; 0 where `bits` are given."""
        return TRAINING if self.key is None else self.key.domain

    @property
    def size(self) -> int:
        """Number of elements of `shape`."""
        return math.prod(self.shape)

    def element_scale(self) -> Keep:
        """The scale, broadcastable to `shape`, also with runs.

        Returns
        -------
        float or float64 array
            A number, or an array that broadcasts to `shape`.
        """
        if self.run == 1 or isinstance(self.scale, float):
            return self.scale
        xp = array_namespace(self.scale)
        over_runs = xp.broadcast_to(self.scale, self.drawn_shape)
        scale: npt.NDArray[np.float64] = xp.repeat(
            over_runs, min(self.run, self.shape[-1]), axis=-1
        )
        return scale[..., : self.shape[-1]]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a {type(self).__name__} cannot be changed: create another one to change {name}"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self._fields())


def restored(cls: type[Decisions], fields: tuple[Any, ...]) -> Decisions:
    """A mask from its pickled fields."""
    mask = cls.__new__(cls)
    mask._set(*fields)
    return mask

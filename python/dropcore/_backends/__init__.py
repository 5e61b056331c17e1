"""The two backends: `cpu` for NumPy arrays (the compiled core) and `cuda` for CuPy arrays.

Both have the same functions and classes; `backend_of` picks one by the array.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import cpu
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient
from dropcore._base.checks import expect_no_tensor
from dropcore._base.decisions import Decisions
from dropcore._base.device import DEVICES, lies_on_device, on_device

__all__ = [
    "backend_of",
    "cached_on",
    "checked_device",
    "cuda_backend",
    "dense",
    "kept_units",
    "real_array",
    "to_device",
    "write_gradient",
]

REAL = ("float32", "float64")


def backend_of(name: str, x: Any) -> Any:
    """The backend for an array: that of CuPy also for other libraries' arrays on a GPU.

    Raises
    ------
    ImportError
        If it is on a GPU and there is no CuPy.
    TypeError
        If it is a tensor of PyTorch, for which a result that is an ndarray would be a surprise.
    """
    if type(x) is np.ndarray:
        return cpu
    if on_device(x):
        return cuda_backend()
    expect_no_tensor(name, x)
    if lies_on_device(x):
        try:
            cuda_backend().library()
        except ImportError as error:
            raise ImportError(f"{name} is on a GPU: {error}") from error
        return cuda_backend()
    return cpu


def real_array(backend: Any, name: str, x: npt.ArrayLike) -> npt.NDArray[Any]:
    """x as an array of the backend, float32 or float64, in C order; TypeError for other dtypes."""
    array: npt.NDArray[Any] = backend.contiguous(backend.as_array(name, x, REAL))
    return array


def cuda_backend() -> Any:
    """The backend of CuPy arrays, imported on first use."""
    return import_module("dropcore._backends.cuda")


def checked_device(what: str, device: object) -> str:
    """`device`, if there is such a place; ValueError, ImportError or RuntimeError if not."""
    if device not in DEVICES:
        raise ValueError(
            f"{what}: device must be 'cpu' or 'cuda', CuPy's current device, got {device!r}"
        )
    if device == "cuda":
        cuda_backend().require_device()
    return str(device)


def to_device(array: Any, device: str) -> Any:
    """The array in the memory of a device; itself if it is there already."""
    if on_device(array) == (device == "cuda"):
        return array
    xp = cuda_backend().library()
    return xp.asarray(array) if device == "cuda" else xp.asnumpy(array)


def cached_on(like: Any, owner: Any, name: str) -> Any:
    """An array that its owner never changes, where `like` is: a GPU gets it once.

    Parameters
    ----------
    like : array
    owner : object
    name : str
        Of the attribute that holds the array.
    """
    array = getattr(owner, name)
    if on_device(array) or not on_device(like):
        return array
    return cuda_backend().cached_on(owner, name)


def kept_units(backend: Any, mask: Decisions, groups: int = 1) -> list[npt.NDArray[np.int64]]:
    """The sorted indices of what a mask keeps, in each group of units, as arrays of a backend.

    A mask that the host can draw is drawn there: units are few, and their number is needed, which
    would synchronise with a device.
    """
    there = on_device(mask.bits) or on_device(mask.threshold)
    kept = backend.xp.asnumpy(backend.to_bool(mask)) if there else cpu.to_bool(mask)
    rows = kept.reshape(groups, -1)
    return [backend.xp.asarray(np.flatnonzero(row).astype(np.int64, copy=False)) for row in rows]


def dense(gradient: Gradient) -> npt.NDArray[Any]:
    """A gradient as an array of the shape of its weight, on the device where it is.

    Parameters
    ----------
    gradient : ndarray or compact gradient
        As a layer's backward pass or a loss returns it.

    Returns
    -------
    ndarray
        The gradient itself if it is an array already.
    """
    if not isinstance(gradient, BlockGradient | ProductGradient):
        return gradient
    place = gradient.values if isinstance(gradient, BlockGradient) else gradient.x
    whole: npt.NDArray[Any] = (
        cuda_backend().dense(gradient) if on_device(place) else gradient.dense()
    )
    return whole


def write_gradient(gradient: Gradient, out: npt.NDArray[Any]) -> None:
    """Write a gradient into a contiguous array of the shape of its weight, on the same device."""
    if isinstance(gradient, BlockGradient | ProductGradient) and not on_device(out):
        gradient.write(out)
    else:
        out[...] = dense(gradient)

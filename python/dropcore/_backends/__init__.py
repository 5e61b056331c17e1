"""Where arrays are worked on: `cpu` (the compiled core), `cuda` (CuPy arrays, kernels of its own)
and `numpy` (the slow, obvious reference).

A backend has one function for each of the array functions; `backend_of` picks it by the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import cpu
from dropcore._base.device import cuda_backend, lies_on_device, on_device

__all__ = ["backend_of", "real_array"]

REAL = ("float32", "float64")


def backend_of(name: str, x: Any) -> Any:
    """The backend for an array: that of CuPy also for other libraries' arrays on a GPU.

    Raises
    ------
    ImportError
        If it is on a GPU and there is no CuPy.
    """
    if type(x) is np.ndarray:
        return cpu
    if on_device(x):
        return cuda_backend()
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

"""Where arrays are worked on: `cpu` (the compiled core), `cuda` (CuPy arrays, kernels of its own)
and `numpy` (the slow, obvious reference).

A backend has one function for each of the array functions; `backend_of` picks it by the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore.backends import cpu
from dropcore.device import cuda_backend, on_device

__all__ = ["backend_of"]


def backend_of(name: str, x: Any) -> Any:
    """The backend for an array; TypeError for one that none takes."""
    if type(x) is np.ndarray:
        return cpu
    if on_device(x):
        return cuda_backend()
    if not isinstance(x, np.ndarray) and hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"{name} is on a GPU ({type(x).__module__}.{type(x).__name__}), where dropcore works "
            "on CuPy arrays: cupy.asarray makes one of it without a copy (pip install cupy-cuda12x)"
        )
    return cpu

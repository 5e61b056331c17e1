"""Where arrays are worked on: `cpu` (the compiled core) and `numpy` (the slow, obvious reference).

A backend has one function for each of the array functions; `backend_of` picks it by the array.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from dropcore.backends import cpu

__all__ = ["backend_of"]


def backend_of(name: str, x: Any) -> ModuleType:
    """The backend for an array; TypeError for one that none takes."""
    if not isinstance(x, np.ndarray) and hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"{name} is on a GPU ({type(x).__module__}.{type(x).__name__}), and this version of "
            "dropcore works on NumPy arrays only: copy it to the host first"
        )
    return cpu

"""What tells arrays on a GPU from others, without importing anything for it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__all__ = ["cuda_backend", "on_device"]


def on_device(x: Any) -> bool:
    """Whether x is a CuPy array."""
    cupy = sys.modules.get("cupy")  # where nobody imported it there is none of its arrays
    return cupy is not None and isinstance(x, cupy.ndarray)


def cuda_backend() -> Any:
    """The backend of CuPy arrays, which is imported when the first one comes."""
    return import_module("dropcore.backends.cuda")

"""The addresses of the functions of dropcore.h, for code that is compiled at run time."""

from __future__ import annotations

import ctypes
from typing import Final

from dropcore._core import _C_API as CAPSULE

__all__ = ["C_FUNCTIONS", "c_addresses"]

C_FUNCTIONS: Final = (
    "packed_mask",
    *(f"dropout_{dtype}" for dtype in ("f32", "f64", "f16", "bf16")),
    *(f"apply_{dtype}" for dtype in ("f32", "f64", "f16", "bf16")),
    *(f"mask_{dtype}" for dtype in ("f32", "f64", "f16", "bf16")),
    "threshold",
    "uniforms",
    *("normal_f32", "normal_f64"),
    *("max_norm_rows_f32", "max_norm_rows_f64", "max_norm_columns_f32", "max_norm_columns_f64"),
)
"""Their names, in the order of the table."""


def c_addresses() -> dict[str, int]:
    """Name and address of each function of the table."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = get_pointer(CAPSULE, b"dropcore._core._C_API")
    # Two numbers of 32 bits come first: the version, and the size of the table in bytes.
    size = ctypes.c_uint32.from_address(table + 4).value
    places = (ctypes.c_void_p * ((size - 8) // ctypes.sizeof(ctypes.c_void_p))).from_address(
        table + 8
    )
    return dict(zip(C_FUNCTIONS, map(int, places), strict=True))

"""Products of matrices by cuBLAS: through CuPy, and past it where CuPy refuses.

CuPy makes no product while a stream is captured. cuBLAS can, with memory of its own to work in: it
is called directly then, in the library that CuPy has loaded.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from dropcore._backends.cuda.launching import Array, library
from dropcore._base.device import recording

WORKSPACE = 32 << 20
"""Bytes that cuBLAS may work in: what NVIDIA recommends for Hopper."""

# The numbers of cublas_api.h and library_types.h.
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32, DEFAULT_ALGORITHM = 68, 70, 77, -1
PLAIN, TRANSPOSED = 0, 1


def multiply(a: Array, b: Array, out: Array) -> None:
    """out = a @ b of matrices (M, K) and (K, N); out is contiguous, a and b may be transposed."""
    if out.size == 0:
        return
    if a.shape[1] == 0:
        out.fill(0)
    elif recording():
        direct(a, b, out)
    else:
        library().matmul(a, b, out=out)


def direct(a: Array, b: Array, out: Array) -> None:
    """`multiply` by a call of cuBLAS itself.

    It knows matrices by columns. By columns, out is its transpose: b.T @ a.T.
    """
    (m, k), n = a.shape, b.shape[1]
    a_way, a_step = _laid_out(a)
    b_way, b_step = _laid_out(b)
    kind = TYPES[out.dtype.name]
    double = out.dtype.name == "float64"
    number = ctypes.c_double if double else ctypes.c_float
    compute = COMPUTE_64F if double else COMPUTE_32F
    if out.dtype.name == "float32" and os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        compute = COMPUTE_TF32  # as CuPy's own products
    one, zero = number(1.0), number(0.0)
    with out.device as device:
        cublas = _Handle.of(device.id)
        cublas.call("cublasSetStream_v2", ctypes.c_void_p(_stream()))
        cublas.call("cublasSetWorkspace_v2", ctypes.c_void_p(cublas.room.data.ptr),
                    ctypes.c_size_t(cublas.room.size))  # fmt: skip
        cublas.call(
            "cublasGemmEx", b_way, a_way, n, m, k, ctypes.byref(one),
            ctypes.c_void_p(b.data.ptr), kind, b_step, ctypes.c_void_p(a.data.ptr), kind, a_step,
            ctypes.byref(zero), ctypes.c_void_p(out.data.ptr), kind, n, compute,
            DEFAULT_ALGORITHM,
        )  # fmt: skip


def _laid_out(x: Array) -> tuple[int, int]:
    """Whether a matrix is stored transposed, and how far its lines are apart."""
    rows, columns = x.shape
    first, second = (stride // x.itemsize for stride in x.strides)
    if columns == 1 or second == 1:
        return PLAIN, max(first, columns) if rows > 1 else columns
    if rows == 1 or first == 1:
        return TRANSPOSED, max(second, rows)
    raise ValueError(f"a factor must be contiguous along an axis, got strides {x.strides}")


def _stream() -> int:
    return int(library().cuda.get_current_stream().ptr)


class _Handle:
    """cuBLAS on one device, and the memory it works in."""

    def __init__(self) -> None:
        self._functions = loaded()
        self._handle = ctypes.c_void_p()
        status = self._functions.cublasCreate_v2(ctypes.byref(self._handle))
        if status:
            raise RuntimeError(f"cublasCreate failed with status {status}")
        self.room = library().empty(WORKSPACE, "uint8")

    @staticmethod
    @cache
    def of(device: int) -> _Handle:
        return _Handle()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of cuBLAS; RuntimeError if it fails."""
        status = getattr(self._functions, name)(self._handle, *arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")


def prepare(device: int) -> None:
    """Make what `direct` needs before a stream is captured: nothing can be made while it is."""
    _Handle.of(device)


@cache
def loaded() -> Any:
    """cuBLAS, which CuPy has loaded or can load."""
    xp = library()
    version = int(xp.cuda.runtime.runtimeGetVersion()) // 1000
    one = xp.ones((1, 1), "float32")
    xp.matmul(one, one)  # loads it
    name = f"cublas64_{version}.dll" if os.name == "nt" else f"libcublas.so.{version}"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise RuntimeError(f"cuBLAS, as {name}, was not found beside CuPy: {error}") from error

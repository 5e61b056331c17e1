"""Products of matrices by cuBLAS: through CuPy, or directly while a stream is captured.

CuPy refuses products while a stream is captured. cuBLAS itself can be captured if it has a
workspace of its own, so it is called directly then, in the library that CuPy has loaded.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any
from weakref import finalize

from dropcore._backends.cuda.kernels import Array, library

WORKSPACE = 32 << 20
"""Bytes of a workspace: what NVIDIA recommends for Hopper."""

# The numbers of cublas_api.h and library_types.h.
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32, DEFAULT_ALGORITHM = 68, 70, 77, -1
PLAIN, TRANSPOSED = 0, 1

_HANDLE, _ADDRESS, _INT, _SIZE = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (ctypes.POINTER(_HANDLE),),
    "cublasDestroy_v2": (_HANDLE,),
    "cublasSetStream_v2": (_HANDLE, _ADDRESS),
    "cublasSetWorkspace_v2": (_HANDLE, _ADDRESS, _SIZE),
    "cublasGemmEx": (
        _HANDLE, _INT, _INT, _INT, _INT, _INT, _ADDRESS, _ADDRESS, _INT, _INT, _ADDRESS, _INT,
        _INT, _ADDRESS, _ADDRESS, _INT, _INT, _INT, _INT,
    ),
}  # fmt: skip
"""The types of the arguments; every function returns an int, 0 for success."""


class Handle:
    """cuBLAS on the current device, with a workspace.

    Each recorded graph has its own: graphs that run at the same time must not share a workspace,
    nor threads that record at the same time a handle, whose stream is set before every product.
    """

    def __init__(self) -> None:
        self._functions = loaded()
        self._handle = _HANDLE()
        _check("cublasCreate_v2", self._functions.cublasCreate_v2(ctypes.byref(self._handle)))
        finalize(self, self._functions.cublasDestroy_v2, self._handle)
        self._workspace = library().empty(WORKSPACE, "uint8")

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        """out = a @ b on the current stream; as `multiply`, without its special cases.

        cuBLAS stores matrices by columns. In that order `out` is its transpose, b.T @ a.T.
        """
        (m, k), n = a.shape, b.shape[1]
        a_operation, a_step = _layout(a)
        b_operation, b_step = _layout(b)
        kind, double = TYPES[out.dtype.name], out.dtype.name == "float64"
        number = ctypes.c_double if double else ctypes.c_float
        compute = COMPUTE_64F if double else COMPUTE_32F
        if out.dtype.name == "float32" and os.environ.get("CUPY_TF32", "0") not in ("", "0"):
            compute = COMPUTE_TF32  # as CuPy's own products
        one, zero = number(1.0), number(0.0)
        with out.device:
            self._call("cublasSetStream_v2", int(library().cuda.get_current_stream().ptr))
            self._call("cublasSetWorkspace_v2", self._workspace.data.ptr, WORKSPACE)
            self._call(
                "cublasGemmEx", b_operation, a_operation, n, m, k, ctypes.addressof(one),
                b.data.ptr, kind, b_step, a.data.ptr, kind, a_step, ctypes.addressof(zero),
                out.data.ptr, kind, n, compute, DEFAULT_ALGORITHM,
            )  # fmt: skip

    def _call(self, name: str, *arguments: int) -> None:
        _check(name, getattr(self._functions, name)(self._handle, *arguments))


_direct: ContextVar[Handle | None] = ContextVar("direct", default=None)


@contextmanager
def products_by(handle: Handle) -> Iterator[None]:
    """Inside, `multiply` calls cuBLAS itself."""
    before = _direct.set(handle)
    try:
        yield
    finally:
        _direct.reset(before)


def multiply(a: Array, b: Array, out: Array) -> None:
    """out = a @ b of matrices (M, K) and (K, N); out is contiguous, a and b may be transposed."""
    if out.size == 0:
        return
    handle = _direct.get()
    if a.shape[1] == 0:
        out.fill(0)
    elif handle is not None:
        handle.multiply(a, b, out)
    else:
        library().matmul(a, b, out=out)


def _layout(x: Array) -> tuple[int, int]:
    """PLAIN or TRANSPOSED, and the distance between rows, or columns, in elements."""
    rows, columns = x.shape
    first, second = (stride // x.itemsize for stride in x.strides)
    if columns == 1 or second == 1:
        return PLAIN, max(first, columns) if rows > 1 else columns
    if rows == 1 or first == 1:
        return TRANSPOSED, max(second, rows)
    raise ValueError(f"a factor must be contiguous along an axis, got strides {x.strides}")


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{name} failed with status {status}")


@cache
def loaded() -> Any:
    """cuBLAS with its signatures, from where CuPy has loaded it."""
    xp = library()
    version = int(xp.cuda.runtime.runtimeGetVersion()) // 1000
    one = xp.ones((1, 1), "float32")
    xp.matmul(one, one)  # loads it
    name = f"cublas64_{version}.dll" if os.name == "nt" else f"libcublas.so.{version}"
    try:
        functions = ctypes.CDLL(name)
    except OSError as error:
        raise RuntimeError(f"cuBLAS, as {name}, was not found beside CuPy: {error}") from error
    for function, signature in SIGNATURES.items():
        getattr(functions, function).argtypes = signature
    return functions

"""Products of matrices by cuBLAS: through CuPy, or directly in the library that CuPy has loaded.

CuPy refuses products while a stream is captured. cuBLAS itself can be captured if it has a
workspace of its own, so it is called directly then. Products of stacks are always direct, because
CuPy would copy factors that are transposed.
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
_STEP = ctypes.c_longlong
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (ctypes.POINTER(_HANDLE),),
    "cublasDestroy_v2": (_HANDLE,),
    "cublasSetStream_v2": (_HANDLE, _ADDRESS),
    "cublasSetWorkspace_v2": (_HANDLE, _ADDRESS, _SIZE),
    "cublasGemmEx": (
        _HANDLE, _INT, _INT, _INT, _INT, _INT, _ADDRESS, _ADDRESS, _INT, _INT, _ADDRESS, _INT,
        _INT, _ADDRESS, _ADDRESS, _INT, _INT, _INT, _INT,
    ),
    "cublasGemmStridedBatchedEx": (
        _HANDLE, _INT, _INT, _INT, _INT, _INT, _ADDRESS, _ADDRESS, _INT, _INT, _STEP, _ADDRESS,
        _INT, _INT, _STEP, _ADDRESS, _ADDRESS, _INT, _INT, _STEP, _INT, _INT, _INT,
    ),
}  # fmt: skip
"""The types of the arguments; every function returns an int, 0 for success."""


class Products:
    """Direct calls of cuBLAS with a handle.

    Parameters
    ----------
    handle : int
        The address of a handle that no other thread uses.
    """

    def __init__(self, handle: int) -> None:
        self._functions, self._handle = loaded(), _HANDLE(handle)

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        """out = a @ b on the current stream; as `multiply`, without its special cases.

        cuBLAS stores matrices by columns. In that order `out` is its transpose, b.T @ a.T.
        """
        (m, k), n = a.shape, b.shape[1]
        kind, number, compute = _kinds(out)
        one, zero = number(1.0), number(0.0)
        (a_operation, a_step), (b_operation, b_step) = _layout(a), _layout(b)
        with out.device:
            self._begin()
            self._call(
                "cublasGemmEx", b_operation, a_operation, n, m, k, ctypes.addressof(one),
                b.data.ptr, kind, b_step, a.data.ptr, kind, a_step, ctypes.addressof(zero),
                out.data.ptr, kind, n, compute, DEFAULT_ALGORITHM,
            )  # fmt: skip

    def multiply_stack(self, a: Array, b: Array, out: Array, accumulate: bool) -> None:
        """As the function `multiply_stack`, without its special cases."""
        (count, m, k), n = a.shape, b.shape[2]
        kind, number, compute = _kinds(out)
        one, before = number(1.0), number(1.0 if accumulate else 0.0)
        (a_operation, a_step), (b_operation, b_step) = _layout(a), _layout(b)
        with out.device:
            self._begin()
            self._call(
                "cublasGemmStridedBatchedEx", b_operation, a_operation, n, m, k,
                ctypes.addressof(one), b.data.ptr, kind, b_step, b.strides[0] // b.itemsize,
                a.data.ptr, kind, a_step, a.strides[0] // a.itemsize, ctypes.addressof(before),
                out.data.ptr, kind, n, out.strides[0] // out.itemsize, count, compute,
                DEFAULT_ALGORITHM,
            )  # fmt: skip

    def _begin(self) -> None:
        """What precedes a product, on its device."""
        self._call("cublasSetStream_v2", int(library().cuda.get_current_stream().ptr))

    def _call(self, name: str, *arguments: int) -> None:
        _check(name, getattr(self._functions, name)(self._handle, *arguments))


class Handle(Products):
    """cuBLAS on the current device, with a workspace.

    Each recorded graph has its own: graphs that run at the same time must not share a workspace,
    nor threads that record at the same time a handle, whose stream is set before every product.
    """

    def __init__(self) -> None:
        functions, handle = loaded(), _HANDLE()
        _check("cublasCreate_v2", functions.cublasCreate_v2(ctypes.byref(handle)))
        super().__init__(handle.value or 0)
        finalize(self, functions.cublasDestroy_v2, handle)
        self._workspace = library().empty(WORKSPACE, "uint8")

    def _begin(self) -> None:
        super()._begin()
        self._call("cublasSetWorkspace_v2", self._workspace.data.ptr, WORKSPACE)


_direct: ContextVar[Products | None] = ContextVar("direct", default=None)


@contextmanager
def products_by(handle: Products) -> Iterator[None]:
    """Inside, all products are direct calls with that handle."""
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


def multiply_stack(a: Array, b: Array, out: Array, *, accumulate: bool = False) -> None:
    """out = a @ b, or out += a @ b, of stacks of matrices (S, M, K) and (S, K, N).

    The matrices of `out` are contiguous, those of a and b may be transposed.
    """
    if out.size == 0:
        return
    if a.shape[2] == 0:
        if not accumulate:
            out.fill(0)
        return
    handle = _direct.get()
    if handle is None:
        handle = Products(out.device.cublas_handle)  # CuPy's own, of this thread
    handle.multiply_stack(a, b, out, accumulate)


def _kinds(out: Array) -> tuple[int, type[Any], int]:
    """The numbers of the dtype and of the arithmetic, and the type of factors of a product."""
    name = out.dtype.name
    if name == "float64":
        return TYPES[name], ctypes.c_double, COMPUTE_64F
    if name == "float32" and os.environ.get("CUPY_TF32", "0") not in ("", "0"):
        return TYPES[name], ctypes.c_float, COMPUTE_TF32  # as CuPy's own products
    return TYPES[name], ctypes.c_float, COMPUTE_32F


def _layout(x: Array) -> tuple[int, int]:
    """Of matrices: PLAIN or TRANSPOSED, and the distance between rows, or columns, in elements."""
    rows, columns = x.shape[-2:]
    first, second = (stride // x.itemsize for stride in x.strides[-2:])
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

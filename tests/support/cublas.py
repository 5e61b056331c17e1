"""A stand-in for cuBLAS, where the products of a graph are called directly."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np

from dropcore._backends.cuda import blas


class FakeBlas:
    """cublasGemmEx as its documentation says, by columns, on the stand-in's memory."""

    def __init__(self):
        self.calls = []
        self.types = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}

    def cublasCreate_v2(self, handle):
        return 0

    def cublasSetStream_v2(self, handle, stream):
        return 0

    def cublasSetWorkspace_v2(self, handle, room, size):
        return 0 if size.value == blas.WORKSPACE else 7

    def cublasGemmEx(self, handle, a_way, b_way, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb,
                     beta, c, c_kind, ldc, compute, algorithm):  # fmt: skip
        def matrix(address, kind, way, rows, columns, step):
            stored = (rows, columns) if way == 0 else (columns, rows)
            assert step >= stored[0]
            size = step * (stored[1] - 1) + stored[0]
            dtype = np.dtype(self.types[kind])
            memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address.value)
            flat = np.frombuffer(memory, dtype)
            by_columns = np.lib.stride_tricks.as_strided(
                flat, stored, (dtype.itemsize, step * dtype.itemsize)
            )
            return by_columns if way == 0 else by_columns.T

        kind = {68: ctypes.c_float, 77: ctypes.c_float, 70: ctypes.c_double}[compute]
        assert ctypes.cast(alpha, ctypes.POINTER(kind))[0] == 1
        assert ctypes.cast(beta, ctypes.POINTER(kind))[0] == 0
        left, right = matrix(a, a_kind, a_way, m, k, lda), matrix(b, b_kind, b_way, k, n, ldb)
        matrix(c, c_kind, 0, m, n, ldc)[...] = left.astype(float) @ right.astype(float)
        self.calls.append(compute)
        return 0

"""A stand-in for cuBLAS, whose functions a graph calls directly."""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np

from dropcore._backends.cuda import blas
from support import host_cupy


class FakeBlas:
    """cublasGemmEx as its documentation says, by columns, on the stand-in's memory.

    The functions are C functions with the signatures that `blas` declares.
    """

    def __init__(self):
        self.calls, self.streams, self.workspaces, self.made = [], {}, {}, itertools.count(1)
        self.on = []  # the handle and the stream of each product
        self.types = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
        self.destroyed = []
        for name, signature in blas.SIGNATURES.items():
            function = ctypes.CFUNCTYPE(ctypes.c_int, *signature)(getattr(self, f"_{name}"))
            setattr(self, name, function)

    def _cublasCreate_v2(self, handle):
        handle[0] = next(self.made)
        return 0

    def _cublasDestroy_v2(self, handle):
        self.destroyed.append(handle)
        return 0

    def _cublasSetStream_v2(self, handle, stream):
        self.streams[handle] = stream or 0
        return 0

    def _cublasSetWorkspace_v2(self, handle, workspace, size):
        self.workspaces[handle] = workspace
        return 0 if size == blas.WORKSPACE else 7

    def _cublasGemmEx(self, handle, a_way, b_way, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb,
                      beta, c, c_kind, ldc, compute, algorithm):  # fmt: skip
        self.on.append((handle, self.streams[handle]))
        host_cupy._flush()

        def matrix(address, kind, way, rows, columns, step):
            stored = (rows, columns) if way == 0 else (columns, rows)
            assert step >= stored[0]
            size = step * (stored[1] - 1) + stored[0]
            dtype = np.dtype(self.types[kind])
            memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
            flat = np.frombuffer(memory, dtype)
            by_columns = np.lib.stride_tricks.as_strided(
                flat, stored, (dtype.itemsize, step * dtype.itemsize)
            )
            return by_columns if way == 0 else by_columns.T

        kind = {68: ctypes.c_float, 77: ctypes.c_float, 70: ctypes.c_double}[compute]
        assert kind.from_address(alpha).value == 1
        assert kind.from_address(beta).value == 0
        left, right = matrix(a, a_kind, a_way, m, k, lda), matrix(b, b_kind, b_way, k, n, ldb)
        matrix(c, c_kind, 0, m, n, ldc)[...] = left.astype(float) @ right.astype(float)
        self.calls.append(compute)
        return 0

"""A stand-in for cuBLAS, whose functions a graph calls directly."""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np

from dropcore._backends.cuda import blas
from support import host_cupy


class FakeBlas:
    """Products as the documentation of cuBLAS says, by columns, on the stand-in's memory.

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

    def _matrix(self, address, kind, way, rows, columns, step):
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

    def _product(self, handle, compute, alpha, beta, left, right, to):
        self.on.append((handle, self.streams[handle]))
        self.calls.append(compute)
        kind = {68: ctypes.c_float, 77: ctypes.c_float, 70: ctypes.c_double}[compute]
        assert kind.from_address(alpha).value == 1
        before = kind.from_address(beta).value
        assert before in (0, 1)
        host_cupy._flush()
        for a, b, c in zip(left, right, to, strict=True):
            old = c.astype(float) if before else 0.0
            c[...] = old + a.astype(float) @ b.astype(float)
        return 0

    def _cublasGemmEx(self, handle, a_way, b_way, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb,
                      beta, c, c_kind, ldc, compute, algorithm):  # fmt: skip
        return self._product(
            handle, compute, alpha, beta, [self._matrix(a, a_kind, a_way, m, k, lda)],
            [self._matrix(b, b_kind, b_way, k, n, ldb)], [self._matrix(c, c_kind, 0, m, n, ldc)],
        )  # fmt: skip

    def _cublasGemmStridedBatchedEx(
        self, handle, a_way, b_way, m, n, k, alpha, a, a_kind, lda, a_step, b, b_kind, ldb, b_step,
        beta, c, c_kind, ldc, c_step, count, compute, algorithm,
    ):  # fmt: skip
        def stack(address, kind, step, *matrix):
            size = np.dtype(self.types[kind]).itemsize
            return [self._matrix(address + s * step * size, kind, *matrix) for s in range(count)]

        return self._product(
            handle, compute, alpha, beta, stack(a, a_kind, a_step, a_way, m, k, lda),
            stack(b, b_kind, b_step, b_way, k, n, ldb), stack(c, c_kind, c_step, 0, m, n, ldc),
        )  # fmt: skip

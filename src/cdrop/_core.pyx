# cython: boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The compiled core: drivers that share out the work of the C kernels among threads.

A. Python hands over checked arguments; what is checked again here is what would read or write
   outside an array. Everything that a user can get wrong is named in Python, with its shapes.
B. A driver takes buffers, decides the team from the work, and enters one parallel region. Threads
   own disjoint parts of `out`, and no result depends on where the parts are cut.
C. All .pxi files are one module: two would hold two states of threads and instruction set.
"""

import os
import warnings

from cython.parallel cimport prange, threadid
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_STRIDES,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.pyport cimport PY_SSIZE_T_MAX
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport sqrt
from libc.string cimport memcpy, memset

from numpy import empty_like, ndarray

from cdrop cimport *

from dropcore.key import Key

include "common.pxi"
include "buffers.pxi"
include "runtime.pxi"
include "memory.pxi"
include "mask.pxi"
include "noise.pxi"
include "permutation.pxi"
include "dropout.pxi"
include "xla.pxi"
include "factors.pxi"
include "tall.pxi"
include "matmul.pxi"
include "update.pxi"
include "update_product.pxi"
include "optimizers.pxi"
include "activation.pxi"
include "attention.pxi"
include "normalization.pxi"
include "recurrent.pxi"
include "planes.pxi"
include "convolution.pxi"
include "pooling.pxi"

_C_API = PyCapsule_New(<void *> cdrop_api, "dropcore._core._C_API", NULL)

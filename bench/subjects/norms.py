"""max_norm_ over the rows and columns of a matrix with nothing to clip."""

from __future__ import annotations

from functools import partial
from math import prod

import numpy as np

import dropcore

from .common import TINY, Call, Case, Kernel, as_torch, keras_compiled, module, normal, ready
from .dropout import copy

SHAPE = (64, 64) if TINY else (4096, 4096)
BOUND = 1000.0


def read(axis: int) -> Call:
    """Reading as much: NumPy's sum of all elements, on one thread."""
    return partial(np.add.reduce, normal(*SHAPE).reshape(-1))


def read_torch(axis: int) -> Call:
    """Reading as much: PyTorch's sum of all elements, on as many threads as dropcore has."""
    return as_torch(normal(*SHAPE)).sum


def copy_matrix(axis: int) -> Call:
    """NumPy's copy of as many float32, on one thread."""
    return copy(prod(SHAPE), 1.0)


def max_norm(axis: int) -> Call:
    """dropcore.max_norm_."""
    return partial(dropcore.max_norm_, normal(*SHAPE), BOUND, axis=axis)


def max_norm_numpy(axis: int) -> Call:
    """The norms in NumPy, and a look whether one is too long."""
    w = normal(*SHAPE)
    return lambda: (np.einsum("ij,ij->" + "ji"[axis], w, w) > BOUND**2).any()


def max_norm_torch(axis: int) -> Call:
    """torch.Tensor.renorm_, whose dim is the axis that stays."""
    return partial(as_torch(normal(*SHAPE)).renorm_, 2, 1 - axis, BOUND)


def max_norm_torch_look(axis: int) -> Call:
    """The norms in PyTorch, and a look whether one is too long."""
    torch = module("torch")
    w = as_torch(normal(*SHAPE))
    return lambda: bool((torch.linalg.vector_norm(w, dim=axis) > BOUND).any())


def max_norm_keras(axis: int) -> Call:
    """keras.constraints.MaxNorm, compiled, which returns new weights."""
    constraint = module("keras").constraints.MaxNorm(BOUND, axis=axis)
    return ready(keras_compiled(lambda w: constraint(w), normal(*SHAPE)))


KERNELS = {
    "max_norm": Kernel(
        reference=read,
        own=max_norm,
        others=[
            read_torch,
            copy_matrix,
            max_norm_numpy,
            max_norm_torch,
            max_norm_torch_look,
            max_norm_keras,
        ],
        cases=[
            Case(f"axis {axis}", (axis,), elements=prod(SHAPE), moved=4 * prod(SHAPE))
            for axis in (0, 1)
        ],
    )
}

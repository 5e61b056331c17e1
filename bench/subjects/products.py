"""Products with every kind of mask, beside the plain products of NumPy and PyTorch.

An element mask and a unit mask are different estimators: that the second is faster says nothing
about which network learns better.
"""

from __future__ import annotations

import itertools
from functools import partial
from math import prod
from typing import Any

import numpy as np

import dropcore
from dropcore import Key, Mask

from .common import (
    TINY,
    Absent,
    Call,
    Case,
    Kernel,
    as_torch,
    blas_threads,
    module,
    named,
    normal,
    touched,
)

Shape = tuple[int, int, int]
"""M, K and N: x is (M, K), w is (K, N)."""

SHAPES: list[Shape] = [
    (128, 784, 1024),
    (128, 1024, 1024),
    (512, 1024, 1024),
    (512, 784, 4096),
    (128, 4096, 4096),
]
CONNECT_SHAPES: list[Shape] = [(16, 1024, 1024), (128, 1024, 1024)]
if TINY:
    SHAPES = CONNECT_SHAPES = [(8, 32, 16)]


def masks_of(kind: str, shape: Shape, step: int = 0) -> dict[str, Mask]:
    """Masks that keep a half, as masked_matmul takes them: "plain" has none."""
    m, k, n = shape
    shapes: dict[str, tuple[int, ...]] = {
        "plain": {},
        "element": {"x_mask": (m, k), "y_mask": (m, n)},
        "unit": {"x_mask": (1, k), "y_mask": (1, n)},
        "weight": {"w_mask": (k, n)},
        "sample": {"w_mask": (m, k, n)},
    }[kind]
    return {
        name: Mask(of, keep=0.5, key=Key(7, stream=stream, step=step))
        for stream, (name, of) in enumerate(shapes.items())
    }


def operands(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and somewhere for x @ w."""
    m, k, n = shape
    return normal(m, k), normal(k, n, seed=1), touched(m, n)


# ---- y = x @ w -----------------------------------------------------------------------------------


def product(shape: Shape, kind: str = "plain") -> Call:
    """dropcore.masked_matmul into an existing array."""
    x, w, y = operands(shape)
    return partial(dropcore.masked_matmul, x, w, out=y, **masks_of(kind, shape))


def product_blas(shape: Shape) -> Call:
    """numpy.matmul into an existing array."""
    blas_threads()
    x, w, y = operands(shape)
    return partial(np.matmul, x, w, out=y)


def product_torch(shape: Shape) -> Call:
    """torch.mm into an existing tensor."""
    torch = module("torch")
    x, w, y = map(as_torch, operands(shape))
    return partial(torch.mm, x, w, out=y)


# ---- dx = dy @ w.T, dw = x.T @ dy, dbias = sum of dy ---------------------------------------------


def product_backward(shape: Shape, kind: str = "plain") -> Call:
    """dropcore.masked_matmul_backward, which returns new arrays."""
    x, w, dy = operands(shape)
    return partial(dropcore.masked_matmul_backward, dy, x, w, **masks_of(kind, shape))


def product_backward_blas(shape: Shape) -> Call:
    """Two products and a sum in NumPy into existing arrays."""
    blas_threads()
    x, w, dy = operands(shape)
    dx, dw, dbias = touched(*x.shape), touched(*w.shape), touched(w.shape[1])

    def call():
        np.matmul(dy, w.T, out=dx)
        np.matmul(x.T, dy, out=dw)
        np.add.reduce(dy, axis=0, out=dbias)

    return call


def product_backward_torch(shape: Shape) -> Call:
    """Two products and a sum in PyTorch into existing tensors."""
    torch = module("torch")
    x, w, dy = map(as_torch, operands(shape))
    dx, dw, dbias = torch.ones_like(x), torch.ones_like(w), torch.ones(w.shape[1])

    def call():
        torch.mm(dy, w.T, out=dx)
        torch.mm(x.T, dy, out=dw)
        torch.sum(dy, dim=0, out=dbias)

    return call


# ---- a layer's share of a training step ----------------------------------------------------------


def front(array: np.ndarray, columns: int) -> np.ndarray:
    """A contiguous matrix with as many rows and fewer columns, in the same memory."""
    return array.reshape(-1)[: len(array) * columns].reshape(len(array), columns)


def layer(shape: Shape, kind: str = "plain", **settings: Any) -> Call:
    """Forward with bias and ReLU, both gradients, momentum SGD; new masks at every call.

    As Sequential and fit go about it. The mask of x is drawn and applied by what comes before, and
    layers around one with unit masks hand over kept units only.
    """
    from dropcore._ops.dense import DenseOp
    from dropcore._ops.epilogue import CompactActivation
    from dropcore.optim import SGD

    x, w, y = operands(shape)
    dy = normal(*y.shape, seed=2)
    params = {"weight": w, "bias": touched(shape[2])}
    try:
        optimizer = SGD(1e-6, momentum=0.95, **settings)
    except TypeError as error:
        raise Absent(f"this SGD has no {', '.join(settings)}") from error
    state, steps = optimizer.init(params), itertools.count()

    def call():
        step = next(steps)
        masks = masks_of(kind, shape, step)
        if kind == "unit":
            units = masks["x_mask"].indices()
            came = CompactActivation(front(x, len(units)), units, shape[1])
        elif kind == "element":
            came = dropcore.dropout(x, mask=masks["x_mask"])
        else:
            came = x
        dense = DenseOp(
            came, w, params["bias"], relu=True, mask=masks.get("y_mask"), compact=kind == "unit"
        )
        back = dy if dense.y_units is None else front(dy, len(dense.y_units))
        _, dw, dbias = dense.backward(back, for_update=True)
        optimizer.apply(params, {"weight": dw, "bias": dbias}, state, step, {})

    return call


# ---- DropConnect with a mask for every sample ----------------------------------------------------


def dropconnect(shape: Shape) -> Call:
    """dropcore.masked_matmul with a weight mask for every sample."""
    return product(shape, "sample")


def dropconnect_decisions(shape: Shape) -> Call:
    """Only drawing as many decisions, into bits."""
    return masks_of("sample", shape)["w_mask"].packed


def dropconnect_numpy(shape: Shape) -> Call:
    """Sample by sample in NumPy: draw a mask with 8-bit thresholds, mask the weights, multiply."""
    blas_threads()
    x, w, y = operands(shape)
    w *= 2  # the masks' 1 / keep
    bits = np.random.SFC64(7)
    kept, masked = np.empty(w.shape, np.bool_), np.empty_like(w)

    def call():
        for row, result in zip(x, y, strict=True):
            drawn = bits.random_raw(w.size // 8).view(np.uint8).reshape(w.shape)
            np.less(drawn, np.uint8(128), out=kept)
            np.multiply(w, kept, out=masked)
            np.matmul(row, masked, out=result)

    return call


def dropconnect_torch(shape: Shape) -> Call:
    """torch.bmm with masks drawn beforehand in each call, which are as large as all weights."""
    if prod(shape) > 1 << 24:
        raise Absent(f"its masks would take {4 * prod(shape) >> 20} MiB, and its weights as much")
    torch = module("torch")
    x, w, y = map(as_torch, operands(shape))
    w *= 2  # the masks' 1 / keep
    masked = torch.ones(shape)
    rows, results = x[:, None, :], y[:, None, :]

    def call():
        masked.bernoulli_(0.5)
        masked.mul_(w)
        torch.bmm(rows, masked, out=results)

    return call


# ---- the table -----------------------------------------------------------------------------------


def shaped(shapes: list[Shape], products: int) -> list[Case]:
    """A case for every shape, with as many products of that size in a call."""
    return [
        Case(
            "x".join(map(str, shape)), (shape,), prod(shape), operations=2 * products * prod(shape)
        )
        for shape in shapes
    ]


KERNELS = {
    "product": Kernel(
        reference=product_blas,
        own=product,
        others=[
            product_torch,
            named(product, "product_element", kind="element"),
            named(product, "product_unit", kind="unit"),
            named(product, "product_weight", kind="weight"),
        ],
        cases=shaped(SHAPES, 1),
    ),
    "product_backward": Kernel(
        reference=product_backward_blas,
        own=product_backward,
        others=[
            product_backward_torch,
            named(product_backward, "product_backward_element", kind="element"),
            named(product_backward, "product_backward_unit", kind="unit"),
        ],
        cases=shaped(SHAPES, 2),
    ),
    "layer": Kernel(
        reference=layer,
        own=named(layer, "layer_unit", kind="unit"),
        others=[
            named(layer, "layer_element", kind="element"),
            named(layer, "layer_unit_lazy", kind="unit", lazy=True),
        ],
        cases=shaped(SHAPES, 3),
    ),
    "dropconnect": Kernel(
        reference=dropconnect_decisions,
        own=dropconnect,
        others=[dropconnect_numpy, dropconnect_torch],
        cases=shaped(CONNECT_SHAPES, 1),
    ),
}

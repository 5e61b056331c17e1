"""What is measured: each kernel of dropcore, a copy, and the peers, as calls without arguments.

Every builder returns a function of no arguments that reads and writes arrays made beforehand.
A peer that is not installed raises ``Absent`` with the reason. All arrays are float32.

Precision of the decisions: dropcore exact to 32 bits, the NumPy idiom 8 bits (the rate is off by
up to 1/256), PyTorch and JAX 24 and 23 bits of a float32 uniform.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np

import dropcore

SIZES = {"layer": 128 * 1024, "cache": 1 << 20, "memory": 1 << 24}
if os.environ.get("DROPCORE_BENCH_TINY"):  # does everything run? The times mean nothing.
    SIZES = dict.fromkeys(SIZES, 4096)
KEEPS = (0.5, 0.9)
Call = Callable[[], object]


class Absent(Exception):
    """A peer cannot be measured here."""


def module(name: str):
    """The peer's module, on as many threads as dropcore has, or Absent."""
    try:
        if name == "torch":
            import torch

            torch.set_num_threads(dropcore.get_num_threads())
            return torch
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        return jax
    except ImportError as error:
        raise Absent(f"{name} is not installed") from error


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def touched(*shape: int) -> np.ndarray:
    """An output array whose pages are there already."""
    return np.ones(shape, np.float32)


# ---- dropout, forward ----------------------------------------------------------------------------


def copy(size: int, keep: float) -> Call:
    """NumPy's copy of as many float32, on one thread."""
    x, y = normal(size), touched(size)
    return partial(np.copyto, y, x)


def copy_torch(size: int, keep: float) -> Call:
    """PyTorch's copy of as many float32, on as many threads as dropcore has."""
    torch = module("torch")
    x, y = torch.from_numpy(normal(size)), torch.from_numpy(touched(size))
    return partial(y.copy_, x)


def scale_in_place(size: int, keep: float) -> Call:
    """NumPy's product by one number over its input, on one thread."""
    x = touched(size)
    return partial(np.multiply, x, np.float32(1), out=x)


def forward(size: int, keep: float) -> Call:
    """dropcore.dropout into an existing array."""
    x, y = normal(size), touched(size)
    return partial(dropcore.dropout, x, keep=keep, key=7, out=y)


def forward_in_place(size: int, keep: float) -> Call:
    """dropcore.dropout over its input: zeros, which stay what they are call after call."""
    x = touched(size)
    x[...] = 0
    return partial(dropcore.dropout, x, keep=keep, key=7, out=x)


def forward_numpy(size: int, keep: float) -> Call:
    """The fastest idiom in NumPy alone: bytes of Philox below an 8-bit threshold."""
    x, y = normal(size), touched(size)
    bits = np.random.Philox(7)
    kept = np.empty(size, np.bool_)
    threshold, scale = np.uint8(min(255, round(keep * 256))), np.float32(1 / keep)

    def call():
        np.less(bits.random_raw(size // 8).view(np.uint8), threshold, out=kept)
        np.multiply(x, kept, out=y)
        np.multiply(y, scale, out=y)

    return call


def forward_torch(size: int, keep: float) -> Call:
    """torch.nn.functional.dropout, eager, without autograd."""
    torch = module("torch")
    x = torch.from_numpy(normal(size))

    def call():
        with torch.no_grad():
            return torch.nn.functional.dropout(x, 1 - keep, training=True)

    return call


def forward_jax(size: int, keep: float) -> Call:
    """Bernoulli and where, compiled, as Flax writes dropout."""
    jax = module("jax")
    x = jax.numpy.asarray(normal(size))
    key = jax.random.key(7)

    @jax.jit
    def dropped(key, x):
        kept = jax.random.bernoulli(key, keep, x.shape)
        return jax.numpy.where(kept, x / keep, 0)

    return lambda: dropped(key, x).block_until_ready()


# ---- dropout, backward ---------------------------------------------------------------------------


def backward(size: int, keep: float) -> Call:
    """dropcore.dropout_backward, which draws the mask again."""
    dy, dx = normal(size), touched(size)
    return partial(dropcore.dropout_backward, dy, keep=keep, key=7, out=dx)


def backward_packed(size: int, keep: float) -> Call:
    """dropcore.dropout_backward from a packed mask."""
    dy, dx = normal(size), touched(size)
    drawn = dropcore.Mask((size,), keep=keep, key=7)
    mask = dropcore.Mask.from_packed(drawn.packed(), drawn.shape, keep=keep)
    return partial(dropcore.dropout_backward, dy, mask=mask, out=dx)


def backward_numpy(size: int, keep: float) -> Call:
    """Two multiplications with the mask of the forward pass at hand."""
    dy, dx = normal(size), touched(size)
    kept, scale = normal(size) < 0, np.float32(1 / keep)

    def call():
        np.multiply(dy, kept, out=dx)
        np.multiply(dx, scale, out=dx)

    return call


def backward_torch(size: int, keep: float) -> Call:
    """PyTorch's autograd of its dropout."""
    torch = module("torch")
    x = torch.from_numpy(normal(size)).requires_grad_()
    y = torch.nn.functional.dropout(x, 1 - keep, training=True)
    dy = torch.from_numpy(normal(size, seed=1))
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


# ---- masks ---------------------------------------------------------------------------------------


def mask(size: int, keep: float) -> Call:
    """A packed mask."""
    return lambda: dropcore.Mask((size,), keep=keep, key=7).packed()


def mask_numpy(size: int, keep: float) -> Call:
    """Bytes of Philox below an 8-bit threshold, packed."""
    bits, threshold = np.random.Philox(7), np.uint8(min(255, round(keep * 256)))

    def call():
        kept = bits.random_raw(size // 8).view(np.uint8) < threshold
        return np.packbits(kept, bitorder="little")

    return call


def mask_torch(size: int, keep: float) -> Call:
    """A mask of one byte an element; PyTorch has no packed ones."""
    torch = module("torch")
    kept = torch.empty(size, dtype=torch.bool)
    return partial(kept.bernoulli_, keep)


# ---- products ------------------------------------------------------------------------------------

PRODUCTS = {"128x784x1024": (128, 784, 1024), "512x1024x1024": (512, 1024, 1024)}
if os.environ.get("DROPCORE_BENCH_TINY"):
    PRODUCTS = {"8x32x16": (8, 32, 16)}


def product_operands(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and somewhere for x @ w."""
    m, k, n = shape
    return normal(m, k), normal(k, n, seed=1), touched(m, n)


def product_blas(shape: tuple[int, int, int]) -> Call:
    """numpy.matmul."""
    x, w, y = product_operands(shape)
    return partial(np.matmul, x, w, out=y)


def product_torch(shape: tuple[int, int, int]) -> Call:
    """torch.mm."""
    torch = module("torch")
    x, w, y = (torch.from_numpy(a) for a in product_operands(shape))
    return partial(torch.mm, x, w, out=y)


def product(shape: tuple[int, int, int], **mask_shapes: tuple[int, ...]) -> Call:
    """dropcore.masked_matmul with a half of every mask's elements kept."""
    x, w, y = product_operands(shape)
    masks = {
        name: dropcore.Mask(of, keep=0.5, key=dropcore.Key(7, stream=stream))
        for stream, (name, of) in enumerate(mask_shapes.items())
    }
    return partial(dropcore.masked_matmul, x, w, out=y, **masks)


def product_masks(shape: tuple[int, int, int]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The kinds of masks by name, as masked_matmul takes them."""
    m, k, n = shape
    return {
        "plain": {},
        "element": {"x_mask": (m, k), "y_mask": (m, n)},
        "unit": {"x_mask": (1, k), "y_mask": (1, n)},
        "weight": {"w_mask": (k, n)},
    }


# ---- max-norm ------------------------------------------------------------------------------------

NORM_SHAPE = (64, 64) if os.environ.get("DROPCORE_BENCH_TINY") else (4096, 4096)


def read(axis: int) -> Call:
    """Reading as much: NumPy's sum of all elements."""
    w = normal(*NORM_SHAPE)
    return partial(np.add.reduce, w.reshape(-1))


def max_norm(axis: int) -> Call:
    """dropcore.max_norm_ with nothing to clip."""
    return partial(dropcore.max_norm_, normal(*NORM_SHAPE), 1000.0, axis=axis)


def max_norm_numpy(axis: int) -> Call:
    """The norms in NumPy, and a look whether one is too long."""
    w = normal(*NORM_SHAPE)
    return lambda: (np.einsum("ij,ij->" + "ji"[axis], w, w) > 1000.0**2).any()


def max_norm_torch(axis: int) -> Call:
    """torch.renorm, whose dim is the axis that stays."""
    torch = module("torch")
    return partial(torch.renorm, torch.from_numpy(normal(*NORM_SHAPE)), 2, 1 - axis, 1000.0)

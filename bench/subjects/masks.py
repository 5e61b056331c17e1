"""Masks alone."""

from __future__ import annotations

from functools import partial

import numpy as np

import dropcore
from dropcore import _core

from .common import Call, Kernel, module
from .dropout import SIZES, copy, copy_torch, elementwise


def mask(size: int, keep: float) -> Call:
    """A packed mask."""
    return lambda: dropcore.Mask((size,), keep=keep, key=7).packed()


def decisions(size: int, keep: float) -> Call:
    """Decisions into an existing packed mask, by the core's own function."""
    bits = np.empty(-(-size // 8), np.uint8)
    threshold = _core.threshold(keep)
    return partial(_core.draw, bits, size, 7, 0, 0, 0, threshold, 0)


def mask_numpy(size: int, keep: float) -> Call:
    """Bytes of NumPy's fastest generator below an 8-bit threshold, packed."""
    bits, threshold = np.random.SFC64(7), np.uint8(min(255, round(keep * 256)))

    def call():
        kept = bits.random_raw(size // 8).view(np.uint8) < threshold
        return np.packbits(kept, bitorder="little")

    return call


def mask_torch(size: int, keep: float) -> Call:
    """A mask of one byte an element; PyTorch has no packed ones."""
    torch = module("torch")
    kept = torch.empty(size, dtype=torch.bool)
    return partial(kept.bernoulli_, keep)


def mask_jax(size: int, keep: float, generator: str = "threefry2x32") -> Call:
    """jax.random.bernoulli, compiled: one byte an element."""
    jax = module("jax")
    with jax.default_prng_impl(generator):
        key = jax.random.key(7)
    drawn = jax.jit(lambda key: jax.random.bernoulli(key, keep, (size,)))
    return lambda: drawn(key).block_until_ready()


def mask_jax_rbg(size: int, keep: float) -> Call:
    """The same with XLA's own generator, which JAX promises less of."""
    return mask_jax(size, keep, generator="rbg")


def mask_thinc(size: int, keep: float) -> Call:
    """thinc's mask: 0 or 1 / keep as float32, on one thread."""
    thinc = module("thinc.api")
    return partial(thinc.NumpyOps().get_dropout_mask, (size,), 1 - keep)


# One plane, two and eight of them, and a threshold that leaves ties.
KEEPS = (0.5, 0.75, 230 / 256, 0.9)

KERNELS = {
    # The copy is of as many float32 as there are decisions.
    "mask": Kernel(
        reference=copy,
        own=mask,
        others=[copy_torch, decisions, mask_numpy, mask_torch, mask_jax, mask_jax_rbg, mask_thinc],
        cases=elementwise(SIZES, KEEPS),
    )
}

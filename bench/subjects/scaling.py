"""Time per element over sizes, and over threads."""

from __future__ import annotations

from . import dropout, masks
from .common import AVAILABLE, TINY, Kernel

POWERS = (10, 12) if TINY else range(10, 27, 2)
# All numbers would take long on a large machine: powers of two and all there are.
THREADS = sorted({1 << power for power in range(AVAILABLE.bit_length())} | {AVAILABLE})


def name(power: int) -> str:
    """2^power elements in words, such as 64 Ki or 16 Mi."""
    return f"{1 << power % 10} {' KM'[power // 10]}i"


KERNELS = {
    "scaling": Kernel(
        reference=dropout.copy,
        own=dropout.forward,
        others=[
            dropout.copy_torch,
            dropout.forward_numpy,
            dropout.forward_torch,
            dropout.forward_jax,
        ],
        cases=dropout.elementwise({name(power): 1 << power for power in POWERS}, (0.5,)),
    ),
    "threads": Kernel(
        reference=dropout.copy_torch,
        own=dropout.forward,
        others=[dropout.backward_packed, masks.mask, dropout.forward_torch],
        cases=dropout.elementwise(dropout.LARGE, (0.5,)),
    ),
}

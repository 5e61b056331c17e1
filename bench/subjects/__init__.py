"""What is measured: each kernel of dropcore, a limit such as a copy, and the peers.

Every builder returns a function of no arguments that reads and writes arrays made beforehand.
A peer that is not installed raises ``Absent`` with the reason. Every peer is written as its users
would write it for speed: into existing arrays where it can, compiled where it can, without
gradients where none are asked for, on as many threads as dropcore. Arrays are float32 unless the
case says otherwise.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

import dropcore

from . import (
    attention,
    dropout,
    masks,
    networks,
    norms,
    optimizers,
    prediction,
    products,
    scaling,
    training,
)
from .common import Absent, Builder, Call, Case, Kernel

__all__ = [
    "KERNELS",
    "Absent",
    "Builder",
    "Call",
    "Case",
    "Kernel",
    "candidates",
    "description",
    "versions",
]

KERNELS: dict[str, Kernel] = (
    dropout.KERNELS
    | masks.KERNELS
    | norms.KERNELS
    | products.KERNELS
    | optimizers.KERNELS
    | training.KERNELS
    | networks.KERNELS
    | attention.KERNELS
    | prediction.KERNELS
    | scaling.KERNELS
)


def candidates(*kernels: str) -> dict[str, Any]:
    """Every builder with every case, as arguments of ``pytest.mark.parametrize``."""
    rows = [
        (kernel, case, builder)
        for kernel in kernels
        for case in KERNELS[kernel].cases
        for builder in KERNELS[kernel].builders
    ]
    return {
        "argnames": ("kernel", "case", "builder"),
        "argvalues": rows,
        "ids": [
            f"{k}-{c.name}-{b.__name__}".replace(", ", "-").replace(" ", "") for k, c, b in rows
        ],
    }


def description(kernel: str, case: Case, builder: Builder) -> dict[str, Any]:
    """What a report needs to know about a time besides the time."""
    return {
        "kernel": kernel,
        "case": case.name,
        "subject": builder.__name__,
        "reference": KERNELS[kernel].reference.__name__,
        "own": KERNELS[kernel].own.__name__,
        "elements": case.elements,
        "moved": case.moved,
        "operations": case.operations,
        "isa": dropcore.build_info()["isa"],
        "threads": dropcore.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of dropcore, Python, NumPy and the peers that have been imported."""
    peers = ("torch", "jax", "keras", "tensorflow", "thinc", "sklearn")
    found = {name: sys.modules[name].__version__ for name in peers if name in sys.modules}
    return {
        "dropcore": dropcore.__version__,
        "Python": platform.python_version(),
        "numpy": np.__version__,
    } | found

"""dropcore: dropout at memory speed, with the same mask everywhere.

The functions take NumPy and CuPy arrays. A mask is addressed by a `Key` and is the same on every
machine, for any number of threads. The public modules, such as `dropcore.nn` and `dropcore.optim`,
are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dropcore._openmp import load_core
from dropcore._version import __version__

load_core()

from dropcore.attending import attention, attention_backward  # noqa: E402
from dropcore.functional import (  # noqa: E402
    alpha_dropout,
    alpha_dropout_backward,
    dropout,
    dropout_backward,
    max_norm_,
)
from dropcore.key import Key  # noqa: E402
from dropcore.mask import Mask  # noqa: E402
from dropcore.permutation import Permutation  # noqa: E402
from dropcore.products import masked_matmul, masked_matmul_backward  # noqa: E402
from dropcore.runtime import (  # noqa: E402
    build_info,
    get_include,
    get_num_threads,
    release_memory,
    set_num_threads,
)

if TYPE_CHECKING:  # imported on first use, with the layers
    from dropcore.nn._saving import load

__all__ = [
    "Key",
    "Mask",
    "Permutation",
    "__version__",
    "alpha_dropout",
    "alpha_dropout_backward",
    "attention",
    "attention_backward",
    "build_info",
    "dropout",
    "dropout_backward",
    "get_include",
    "get_num_threads",
    "load",
    "masked_matmul",
    "masked_matmul_backward",
    "max_norm_",
    "release_memory",
    "set_num_threads",
]

_MODULES = (
    "constraints",
    "data",
    "datasets",
    "diagnosis",
    "distributed",
    "jax",
    "keras",
    "losses",
    "nn",
    "noise",
    "numba",
    "onnx",
    "optim",
    "plotting",
    "reference",
    "regularizers",
    "report",
    "reproduction",
    "schedules",
    "sklearn",
    "thinc",
    "torch",
    "training",
    "tuning",
    "uncertainty",
    "updates",
)  # fmt: skip

# Reachable like the others, and no part of the interface for programs.
_COMMAND = ("cli", "demo")


def __getattr__(name: str) -> Any:
    if name in (*_MODULES, *_COMMAND):
        return importlib.import_module(f"dropcore.{name}")
    if name == "load":
        importlib.import_module("dropcore.nn")  # as a whole, before a part of it
        return importlib.import_module("dropcore.nn._saving").load
    raise AttributeError(f"module 'dropcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})

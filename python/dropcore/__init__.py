"""dropcore: dropout at memory speed, with the same mask everywhere.

The functions take NumPy arrays; a mask is addressed by a `Key` and is the same on any machine, for
any number of threads. `dropcore.nn`, `dropcore.optim`, `dropcore.constraints` and
`dropcore.losses` make networks of them and are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from dropcore._openmp import load_core
from dropcore._version import __version__

load_core()

from dropcore.functional import dropout, dropout_backward, max_norm_  # noqa: E402
from dropcore.key import Key  # noqa: E402
from dropcore.mask import Mask  # noqa: E402
from dropcore.products import masked_matmul, masked_matmul_backward  # noqa: E402
from dropcore.rates import width_for  # noqa: E402
from dropcore.runtime import (  # noqa: E402
    build_info,
    get_include,
    get_num_threads,
    set_num_threads,
)

__all__ = [
    "Key",
    "Mask",
    "__version__",
    "build_info",
    "dropout",
    "dropout_backward",
    "get_include",
    "get_num_threads",
    "masked_matmul",
    "masked_matmul_backward",
    "max_norm_",
    "set_num_threads",
    "width_for",
]

_LAZY = ("constraints", "losses", "nn", "noise", "optim", "training")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"dropcore.{name}")
    raise AttributeError(f"module 'dropcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

"""CuPy arrays, through kernels that are compiled for a device when they are first used there.

Everything runs on CuPy's current stream, and nothing waits for the device, but for what has to: the
number of units that live in a mask that is on the device, and the sum of squares that `global_norm`
returns. Denormal floats count as zero, as in the core, but for masks, dropout and the projection.
"""

from __future__ import annotations

from typing import Any

from dropcore._backends.cuda.arrays import (
    as_array,
    expect_out,
    is_array,
    may_overlap,
    overlap,
    resident,
    same_memory,
)
from dropcore._backends.cuda.embeddings import add_rows, take_rows
from dropcore._backends.cuda.endings import activate, finished, softmax, unfinished
from dropcore._backends.cuda.launching import DTYPES, contiguous, empty, library, require_device
from dropcore._backends.cuda.masks import (
    drawn_bits,
    dropout,
    element_bits,
    kept_at,
    kept_units,
    noise_words,
    normal,
    pack,
    resolve_keep,
    thresholds,
    to_bool,
    uniforms,
)
from dropcore._backends.cuda.normalization import (
    batch_moments,
    batch_normalize,
    batch_normalize_back,
    layer_normalize,
    layer_normalize_back,
)
from dropcore._backends.cuda.patches import Patches, convolution, kernel_gradient
from dropcore._backends.cuda.pooling import Windows, pool, pool_back
from dropcore._backends.cuda.products import (
    Factor,
    compact,
    dense,
    dropconnect_matmul,
    product,
    scatter,
    sum_columns,
    unfinish,
)
from dropcore._backends.cuda.recurrent import Recurrence
from dropcore._backends.cuda.updates import (
    adadelta_,
    adagrad_,
    adam_,
    max_norm_,
    rmsprop_,
    sgd_,
    square_sum,
    sum_squares,
)

__all__ = [
    "DTYPES",
    "PRODUCTS",
    "Factor",
    "Patches",
    "Recurrence",
    "Windows",
    "activate",
    "adadelta_",
    "adagrad_",
    "adam_",
    "add_rows",
    "as_array",
    "batch_moments",
    "batch_normalize",
    "batch_normalize_back",
    "compact",
    "contiguous",
    "convolution",
    "dense",
    "drawn_bits",
    "dropconnect_matmul",
    "dropout",
    "element_bits",
    "empty",
    "expect_out",
    "finished",
    "is_array",
    "kept_at",
    "kept_units",
    "kernel_gradient",
    "layer_normalize",
    "layer_normalize_back",
    "library",
    "max_norm_",
    "may_overlap",
    "noise_words",
    "normal",
    "overlap",
    "pack",
    "pool",
    "pool_back",
    "product",
    "require_device",
    "resident",
    "resolve_keep",
    "rmsprop_",
    "same_memory",
    "scatter",
    "sgd_",
    "softmax",
    "square_sum",
    "sum_columns",
    "sum_squares",
    "take_rows",
    "thresholds",
    "to_bool",
    "unfinish",
    "unfinished",
    "uniforms",
]

PRODUCTS = DTYPES  # of factors: cuBLAS takes all of them, and sums up in float32 at least


def __getattr__(name: str) -> Any:
    if name == "xp":
        return library()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

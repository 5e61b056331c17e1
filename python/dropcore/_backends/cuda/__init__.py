"""The backend of CuPy arrays: kernels that are compiled for a device when first used there.

Everything runs on CuPy's current stream. Only two results synchronise with the device: the units
that are kept by a mask on the device, and the sum of squares that `global_norm` returns. Denormal
floats count as zero, as in the core, except in masks, dropout and the projection.
"""

from __future__ import annotations

from typing import Any

from dropcore._backends.cuda.arrays import (
    as_array,
    cached_on,
    expect_out,
    expect_out_like,
    is_array,
    may_overlap,
    overlap,
    same_memory,
    synchronize,
)
from dropcore._backends.cuda.attending import Attention as attention
from dropcore._backends.cuda.embeddings import add_rows, take_rows
from dropcore._backends.cuda.epilogue import activate, softmax
from dropcore._backends.cuda.kernels import (
    DTYPES,
    REAL,
    contiguous,
    empty,
    library,
    require_device,
)
from dropcore._backends.cuda.masks import (
    decisions,
    drawn_bits,
    dropout,
    element_bits,
    kept_at,
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
    batch_sums,
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
    epilogue_backward,
    product,
    scatter,
    sum_columns,
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
    "ATTENTION",
    "DTYPES",
    "FUSES_ACTIVATIONS",
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
    "attention",
    "batch_moments",
    "batch_normalize",
    "batch_normalize_back",
    "batch_sums",
    "cached_on",
    "compact",
    "contiguous",
    "convolution",
    "decisions",
    "dense",
    "drawn_bits",
    "dropconnect_matmul",
    "dropout",
    "element_bits",
    "empty",
    "epilogue_backward",
    "expect_out",
    "expect_out_like",
    "is_array",
    "kept_at",
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
    "resolve_keep",
    "rmsprop_",
    "same_memory",
    "scatter",
    "sgd_",
    "softmax",
    "square_sum",
    "sum_columns",
    "sum_squares",
    "synchronize",
    "take_rows",
    "thresholds",
    "to_bool",
    "uniforms",
]

PRODUCTS = DTYPES
"""The dtypes of factors: cuBLAS takes all of them, and accumulates in float32 at least."""

ATTENTION = REAL

FUSES_ACTIVATIONS = True
"""Products apply any elementwise activation, not only relu."""


def __getattr__(name: str) -> Any:
    if name == "xp":
        return library()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""CuPy, and the kernels, which are compiled for a device when they are first used there.

The sources are in the folder `kernels`; each is compiled behind `philox.h` and `common.cuh`. A
module of kernels is compiled for one dtype at a time. Everything runs on CuPy's current stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore.key import Key

Array = Any  # cupy.ndarray: CuPy has no types to check against

STORED = {"float32": "float", "float64": "double", "float16": "f16", "bfloat16": "bf16"}
"""The dtypes, and their types in the kernels."""
DTYPES = tuple(STORED)
REAL = DTYPES[:2]

FOLDER = Path(__file__).parent / "kernels"
HEADER = Path(__file__).parents[2] / "include" / "dropcore" / "philox.h"
MODULES: dict[str, tuple[str, ...]] = {
    "mask": (),
    "dropout": DTYPES,
    "noise": REAL,
    "update": REAL,
    "epilogue": DTYPES,
    "columns": DTYPES,
    "compact": DTYPES,
    "dropconnect": REAL,
    "graph": (),
    "patches": REAL,
    "pool": REAL,
    "recurrent": REAL,
    "embedding": REAL,
    "indices": (),
    "softmax": REAL,
    "attention": REAL,
    "normalization": REAL,
}
"""The modules of kernels and the dtypes that each is compiled for; none if it has no such type."""
OPTIONS = ("--std=c++17", "--fmad=false")  # without contraction: the bits of the C core

THREADS = 256  # of a block
BLOCKS = 32  # of a grid, at most, for each multiprocessor
WARP = 32
ENOUGH_WARPS = 4096  # to keep every multiprocessor of a large GPU busy
LONG = 1024  # elements: a longer row is reduced by a block instead of a warp
AXES = 4  # of a broadcast

MISSING = (
    "arrays on a GPU need CuPy and an NVIDIA driver: pip install cupy-cuda12x "
    "(cupy-cuda13x for CUDA 13)"
)

# ---- what Python and the kernels both name ----

ENUMERATIONS: dict[str, tuple[str, ...]] = {
    "ACTIVATION": ("identity", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu",
                   "tanh", "sigmoid", "softplus"),
    "DECISIONS": ("all_kept", "drawn", "given"),
    "RULE": ("projection", "sgd", "adam", "rmsprop", "adagrad", "adadelta"),
    "CELL": ("tanh", "relu", "lstm", "gru"),
}  # fmt: skip
"""What a kernel switches on. The kernels know "relu" of "ACTIVATION" as ACTIVATION_RELU."""

HYPERPARAMETERS = ("rate", "momentum", "decay", "beta_1", "beta_2", "rest_1", "rest_2", "scale",
                   "epsilon", "keep")  # fmt: skip
"""The numbers of an update rule, float64, in the order of the kernels' struct."""


def enumerator(enumeration: str, name: str) -> int:
    """The number of a name in one of `ENUMERATIONS`."""
    return ENUMERATIONS[enumeration].index(name)


def _defines() -> dict[str, str | int]:
    """What is defined in front of every source, so that nothing is declared twice."""
    defines: dict[str, str | int] = {
        "WARP": WARP,
        "LINES": THREADS // WARP,
        "AXES": AXES,
        "HYPERPARAMETERS": ", ".join(HYPERPARAMETERS),
        "N_HYPERPARAMETERS": len(HYPERPARAMETERS),
    }
    for enumeration, names in ENUMERATIONS.items():
        for number, name in enumerate(names):
            defines[f"{enumeration}_{name.upper()}"] = number
    return defines


# ---- CuPy ----


@cache
def library() -> Any:
    """CuPy; ImportError that says what to install."""
    try:
        return import_module("cupy")
    except ImportError as error:
        raise ImportError(f"{MISSING}; importing cupy failed: {error}") from error


def require_device() -> Any:
    """CuPy, if there is a device; else ImportError or RuntimeError that says what to do."""
    xp = library()
    try:
        count = xp.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise RuntimeError(f"{MISSING}; CuPy finds no device: {error}") from error
    if not count:
        raise RuntimeError(f"{MISSING}; CuPy finds no device")
    return xp


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A new uninitialised array on the current device, from CuPy's memory pool."""
    return library().empty(shape, dtype)


def contiguous(x: Array) -> Array:
    """x in C order, copied only if it is not."""
    return x if x.flags.c_contiguous else library().ascontiguousarray(x)


# ---- kernels ----


def source(module: str, dtype: str | None = None, **defines: int) -> str:
    """The complete source of a module of kernels for a dtype.

    Parameters
    ----------
    module, dtype
        As in `MODULES`.
    **defines
        Further macros that are fixed at compile time.
    """
    names = {"STORED": STORED[dtype]} if dtype else {}
    lines = [f"#define {name} {value}" for name, value in (_defines() | names | defines).items()]
    texts = (HEADER, FOLDER / "common.cuh", FOLDER / f"{module}.cu")
    return "\n".join((*lines, *(path.read_text(encoding="utf-8") for path in texts)))


@cache
def _module(name: str, dtype: str | None, defines: tuple[tuple[str, int], ...]) -> Any:
    # A RawModule is compiled once for each device, and CuPy caches the binary on disk.
    return library().RawModule(code=source(name, dtype, **dict(defines)), options=OPTIONS)


@cache
def _kernel(module: str, dtype: str | None, defines: tuple[tuple[str, int], ...], name: str) -> Any:
    return _module(module, dtype, defines).get_function(name)


@cache
def _multiprocessors(device: int) -> int:
    return int(library().cuda.Device(device).attributes["MultiProcessorCount"])


def forget() -> None:
    """Forget CuPy and the compiled kernels."""
    for cached in (library, _module, _kernel, _multiprocessors):
        cached.cache_clear()


def launch(
    like: Array,
    module: str,
    name: str,
    blocks: int,
    *arguments: Any,
    threads: int = THREADS,
    dtype: np.dtype[Any] | None = None,
    **defines: int,
) -> None:
    """Launch a kernel on the device of `like`, compiled for `dtype`, by default that of `like`.

    The grid is limited; the kernels are grid-stride loops, so any number of blocks does the work.
    """
    stored = (like.dtype if dtype is None else dtype).name if MODULES[module] else None
    with like.device as device:
        grid = max(1, min(blocks, BLOCKS * _multiprocessors(device.id)))
        kernel = _kernel(module, stored, tuple(defines.items()), name)
        kernel((grid,), (threads,), arguments)


def blocks_for(work: int) -> int:
    """Blocks of which each thread does one piece of work."""
    return -(-work // THREADS)


def blocks_for_groups(n: int) -> int:
    """Blocks for n elements whose decisions are drawn by warps, in groups of 128 elements.

    A warp draws 32 groups in the time of one. If there are enough groups to keep the GPU busy,
    each warp has 32; if there are few, each has fewer.
    """
    groups = -(-n // 128) + 1  # the first one may be incomplete
    return -(-max(min(groups, ENOUGH_WARPS), groups // WARP) * WARP // THREADS)


def threads_per_row(n: int) -> int:
    """How many threads reduce a row of n elements together: a warp, or a block."""
    return WARP if n <= LONG else THREADS


# ---- arguments ----


def ptr(array: Array | None) -> np.uint64:
    """The address of an array, 0 for None."""
    return np.uint64(0 if array is None else array.data.ptr)


def real_of(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The type that a kernel computes in for arrays of a dtype."""
    return np.float64 if dtype == np.float64 else np.float32


def int64s(*lists: Sequence[int]) -> tuple[np.int64, ...]:
    """Sizes and strides as arguments."""
    return tuple(np.int64(number) for own in lists for number in own)


# While a graph is recorded: a number in device memory that is added to the step of every key.
_step_offset: ContextVar[Array | None] = ContextVar("step_offset", default=None)


@contextmanager
def step_offset_from(offset: Array) -> Iterator[None]:
    """Inside, kernels add the uint32 in `offset` to the steps of their keys."""
    before = _step_offset.set(offset)
    try:
        yield
    finally:
        _step_offset.reset(before)


def address(key: Key, domain: int) -> tuple[Any, ...]:
    """The arguments that say where the words of a mask or of noise come from."""
    return (
        np.uint64(key.seed), np.uint32(key.stream), np.uint32(key.step), ptr(_step_offset.get()),
        np.uint32(domain),
    )  # fmt: skip


def draw(key: Key, domain: int, threshold: int, offset: int) -> tuple[Any, ...]:
    """The arguments of a kernel that draws a mask."""
    return (*address(key, domain), np.uint64(threshold), np.uint64(offset))


NO_DRAW = draw(Key(0), 0, 0, 0)

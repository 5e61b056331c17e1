"""CuPy, and kernels that are compiled for a device when they are first used there.

The kernels are the texts in the folder `kernels`, behind `philox.h`. A module of them is compiled
for one type of number at a time. Everything runs on CuPy's current stream.
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
"""The types of numbers, and what the kernels call them."""
DTYPES = tuple(STORED)
REAL = DTYPES[:2]

FOLDER = Path(__file__).parent / "kernels"
HEADER = Path(__file__).parents[2] / "include" / "dropcore" / "philox.h"
MODULES: dict[str, tuple[str, ...]] = {
    "mask": (),
    "dropout": DTYPES,
    "noise": REAL,
    "update": REAL,
    "ending": DTYPES,
    "columns": DTYPES,
    "live": DTYPES,
    "connect": REAL,
    "graph": (),
    "patches": REAL,
    "pool": REAL,
    "recurrent": REAL,
    "embedding": REAL,
    "indices": (),
    "softmax": REAL,
    "normalization": REAL,
}
"""The modules of kernels, and the types that each is compiled for; none where it has no numbers."""
OPTIONS = ("--std=c++17", "--fmad=false")  # no contraction: the bits of the C core

THREADS = 256
BLOCKS = 32  # of a grid, at most, for each multiprocessor
WARP = 32
ENOUGH_WARPS = 4096  # for every processor to have some to choose from
LONG = 1024  # numbers: above, a row is worth a block

MISSING = (
    "arrays on a GPU need CuPy and an NVIDIA driver: pip install cupy-cuda12x "
    "(cupy-cuda13x for CUDA 13)"
)

# ---- CuPy ----


@cache
def library() -> Any:
    """CuPy; ImportError that says what to install."""
    try:
        return import_module("cupy")
    except ImportError as error:
        raise ImportError(f"{MISSING}; importing cupy failed: {error}") from error


def require_device() -> Any:
    """CuPy, where there is a device; else ImportError or RuntimeError with what to do."""
    xp = library()
    try:
        count = xp.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise RuntimeError(f"{MISSING}; CuPy finds no device: {error}") from error
    if not count:
        raise RuntimeError(f"{MISSING}; CuPy finds no device")
    return xp


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """A new array on the current device; CuPy's pool uses memory again."""
    return library().empty(shape, dtype)


def contiguous(x: Array) -> Array:
    """x in C order."""
    return x if x.flags.c_contiguous else library().ascontiguousarray(x)


# ---- kernels ----


def source(module: str, dtype: str | None = None, **defines: int) -> str:
    """The text of a module of kernels for a type of number, which needs nothing else.

    Parameters
    ----------
    module, dtype
        As in `MODULES`.
    **defines
        What else is fixed when the module is compiled.
    """
    names = {"STORED": STORED[dtype]} if dtype else {}
    lines = [f"#define {name} {value}" for name, value in (names | defines).items()]
    texts = (HEADER, FOLDER / "common.cuh", FOLDER / f"{module}.cu")
    return "\n".join((*lines, *(path.read_text(encoding="utf-8") for path in texts)))


@cache
def _module(name: str, dtype: str | None, defines: tuple[tuple[str, int], ...]) -> Any:
    # A RawModule compiles once for each device, and CuPy keeps what it compiled on disk.
    return library().RawModule(code=source(name, dtype, **dict(defines)), options=OPTIONS)


@cache
def _kernel(module: str, dtype: str | None, defines: tuple[tuple[str, int], ...], name: str) -> Any:
    return _module(module, dtype, defines).get_function(name)


@cache
def _processors(device: int) -> int:
    return int(library().cuda.Device(device).attributes["MultiProcessorCount"])


def forget() -> None:
    """Forget CuPy and the kernels."""
    for cached in (library, _module, _kernel, _processors):
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
    """Start a kernel on the device of `like`; loops in it make up for blocks beyond the limit.

    It is compiled for `dtype`, by default that of `like`.
    """
    stored = (like.dtype if dtype is None else dtype).name if MODULES[module] else None
    with like.device as device:
        grid = max(1, min(blocks, BLOCKS * _processors(device.id)))
        kernel = _kernel(module, stored, tuple(defines.items()), name)
        kernel((grid,), (threads,), arguments)


def blocks_for(work: int) -> int:
    """Blocks of threads that do a piece of work each."""
    return -(-work // THREADS)


def blocks_for_groups(n: int) -> int:
    """Blocks for n elements whose decisions warps draw a group of 128 at a time.

    A warp can decide 32 groups as fast as one. Where there are enough groups to keep a GPU's
    processors busy, each has as many; where there are few, it has fewer.
    """
    groups = -(-n // 128) + 1  # the first one may be cut
    return -(-max(min(groups, ENOUGH_WARPS), groups // WARP) * WARP // THREADS)


def threads_a_row(n: int) -> int:
    """How many threads take a row of n numbers together: a warp, or a block."""
    return WARP if n <= LONG else THREADS


# ---- arguments ----


def at(array: Array | None) -> np.uint64:
    """The address of an array, 0 for none."""
    return np.uint64(0 if array is None else array.data.ptr)


def real_of(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """What numbers of a dtype are worked out in."""
    return np.float64 if dtype == np.float64 else np.float32


def numbers(*lists: Sequence[int]) -> tuple[np.int64, ...]:
    """Sizes and strides."""
    return tuple(np.int64(number) for own in lists for number in own)


# A step in the memory of the device that all addresses add to theirs, while a graph is captured.
_more: ContextVar[Array | None] = ContextVar("more", default=None)


@contextmanager
def steps_from(more: Array) -> Iterator[None]:
    """Inside, the steps of keys are those of the keys plus the uint32 in `more`."""
    before = _more.set(more)
    try:
        yield
    finally:
        _more.reset(before)


def address(key: Key, domain: int) -> tuple[Any, ...]:
    """The arguments that say where a mask or noise comes from."""
    return (
        np.uint64(key.seed), np.uint32(key.stream), np.uint32(key.step), at(_more.get()),
        np.uint32(domain),
    )  # fmt: skip


def draw(key: Key, domain: int, threshold: int, offset: int) -> tuple[Any, ...]:
    """The arguments that say which mask."""
    return (*address(key, domain), np.uint64(threshold), np.uint64(offset))


NO_DRAW = draw(Key(0), 0, 0, 0)

"""CuPy arrays, through kernels that are compiled for a device when they are first used there.

The kernels are the texts in the folder `kernels`, behind `philox.h`. Everything runs on CuPy's
current stream, and nothing waits for the device, but for what has to: the number of units that
live in a mask that is on the device, and the sum of squares that `global_norm` returns.
Denormal numbers stay: flushing them would gain nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore.backends.cpu import bit_strides, expect_broadcast
from dropcore.gradients import Gradient, LiveBlock, ProductGradient
from dropcore.key import Key
from dropcore.mask import Mask

Array = Any  # cupy.ndarray: CuPy has no types to check against

SUFFIX = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
DTYPES = tuple(SUFFIX)
PRODUCTS = DTYPES  # of factors: cuBLAS takes all of them, and sums up in float32 at least

FOLDER = Path(__file__).parent / "kernels"
HEADER = Path(__file__).parents[1] / "include" / "dropcore" / "philox.h"
MODULES = ("mask", "dropout", "noise", "update", "layer", "connect")
OPTIONS = ("--std=c++17", "--fmad=false")  # no contraction: the bits of the C core

THREADS = 256
BLOCKS = 32  # of a grid, at most, for each multiprocessor
WARP = 32
AXES = 4  # of broadcasting
CHUNKS = 64  # of rows whose columns are summed up on their own, at most
PIECE = 1 << 16  # of a sum of squares

RULES = {"none": 0, "sgd": 1, "adam": 2, "rmsprop": 3, "adagrad": 4, "adadelta": 5}
ACTIVATIONS = {
    None: 0, "relu": 1, "leaky_relu": 2, "elu": 3, "selu": 4, "gelu": 5, "gelu_tanh": 6,
    "silu": 7, "tanh": 8, "sigmoid": 9, "softplus": 10,
}  # fmt: skip
ALL_KEPT, DRAWN, GIVEN, UNITS = range(4)

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


def is_array(x: object) -> bool:
    """Whether x is what this backend works on."""
    return isinstance(x, library().ndarray)


def as_array(name: str, x: Array, allowed: tuple[str, ...] = DTYPES) -> Array:
    """x, if its dtype is taken."""
    array = x if is_array(x) else library().asarray(x)
    if array.dtype.name not in allowed:
        raise TypeError(
            f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {array.dtype}"
            + ("; use .astype(np.float32)" if array.dtype.kind in "biu" else "")
        )
    return array


def expect_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """`out` if it can take a result of that shape and dtype, those of the array called name."""
    if not is_array(out):
        raise TypeError(f"out must be a cupy.ndarray, as {name} is, got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have the shape and dtype of {name}, {shape} {dtype}, got "
            f"{out.shape} {out.dtype}"
        )
    if any(s == 0 and n > 1 for s, n in zip(out.strides, shape, strict=True) if out.size):
        raise ValueError("out has elements that share memory (a stride of 0)")
    return out


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays share an element."""
    xp = library()
    return bool(xp.may_share_memory(a, b) and xp.shares_memory(a, b))


def may_overlap(a: Array, b: Array) -> bool:
    """Whether the ranges of two arrays' addresses meet."""
    return bool(library().may_share_memory(a, b))


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same order."""
    return a.data.ptr == b.data.ptr and a.strides == b.strides


def __getattr__(name: str) -> Any:
    if name == "xp":
        return library()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---- kernels ----


@cache
def source(module: str) -> str:
    """The text of a module of kernels, which needs nothing else."""
    texts = (HEADER, FOLDER / "common.cuh", FOLDER / f"{module}.cu")
    return "\n".join(path.read_text(encoding="utf-8") for path in texts)


@cache
def _module(name: str) -> Any:
    # A RawModule compiles once for each device, and CuPy keeps what it compiled on disk.
    return library().RawModule(code=source(name), options=OPTIONS)


@cache
def _kernel(module: str, name: str) -> Any:
    return _module(module).get_function(name)


@cache
def _processors(device: int) -> int:
    return int(library().cuda.Device(device).attributes["MultiProcessorCount"])


def _launch(
    like: Array, module: str, name: str, blocks: int, *arguments: Any, threads: int = THREADS
) -> None:
    """Start a kernel on the device of `like`; loops in it make up for blocks beyond the limit."""
    with like.device as device:
        grid = max(1, min(blocks, BLOCKS * _processors(device.id)))
        _kernel(module, name)((grid,), (threads,), arguments)


def _blocks(work: int) -> int:
    return -(-work // THREADS)


def _at(array: Any) -> np.uint64:
    """The address of an array, 0 for none."""
    return np.uint64(0 if array is None else array.data.ptr)


def _suffix(array: Array) -> str:
    return SUFFIX[array.dtype.name]


def _real(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """What numbers of a dtype are worked out in."""
    return np.float64 if dtype == np.float64 else np.float32


def _straight(x: Array) -> Array:
    return x if x.flags.c_contiguous else library().ascontiguousarray(x)


def _draw(key: Key, domain: int, threshold: int, offset: int) -> tuple[Any, ...]:
    return (*_address(key, domain), np.uint64(threshold), np.uint64(offset))


def _address(key: Key, domain: int) -> tuple[Any, ...]:
    return np.uint64(key.seed), np.uint32(key.stream), np.uint32(key.step), np.uint32(domain)


NO_DRAW = _draw(Key(0), 0, 0, 0)


# ---- broadcasting ----


def collapsed(
    shape: Sequence[int], *strides: Sequence[int]
) -> tuple[list[int], list[list[int]]] | None:
    """Shape and strides with axes that go together made one, four of each; None for more.

    Two neighbours go together where every stride of the outer one is that of the inner one times
    its length, as it also is along shared axes, where both are 0.
    """
    extent: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, n in enumerate(shape):
        own = [s[axis] for s in strides]
        if n == 1:
            continue
        if extent and all(step[-1] == s * n for step, s in zip(steps, own, strict=True)):
            extent[-1] *= n
            for step, s in zip(steps, own, strict=True):
                step[-1] = s
        else:
            extent.append(n)
            for step, s in zip(steps, own, strict=True):
                step.append(s)
    missing = AXES - len(extent)
    if missing < 0:
        return None
    return [1] * missing + extent, [[0] * missing + step for step in steps]


def _broadcast_strides(array: Array, shape: tuple[int, ...]) -> list[int]:
    """In elements, of an array that broadcasts to shape."""
    own = [
        0 if n == 1 else stride // array.itemsize
        for n, stride in zip(array.shape, array.strides, strict=True)
    ]
    return [0] * (len(shape) - array.ndim) + own


def _numbers(*lists: Sequence[int]) -> tuple[np.int64, ...]:
    return tuple(np.int64(number) for numbers in lists for number in numbers)


# ---- masks ----


def resolve_keep(rate: Any, keep: Any) -> Array:
    """The fraction kept from an array of either; clamped to [0, 1], NaN to 0, without a look."""
    xp = library()
    kept = (keep if rate is None else 1.0 - rate.astype(np.float64)).astype(np.float64)
    return xp.where(kept > 0, xp.minimum(kept, 1.0), 0.0)


def thresholds(keep: Array) -> tuple[Array, Array]:
    """Of an array of fractions kept: round(keep * 2^32), half to even, and the scale."""
    xp = library()
    threshold = xp.rint(keep * 4294967296.0).astype(np.uint64)
    return threshold, xp.where(threshold > 0, 1.0 / xp.where(threshold > 0, keep, 1.0), 0.0)


def drawn_bits(mask: Mask) -> Array:
    """The bits of a mask on the device, one for each decision."""
    xp = library()
    if mask._bits is not None:
        return xp.asarray(mask._bits)
    key, n = cast(Key, mask.key), math.prod(mask._drawn_shape)
    bits = empty((-(-n // 8),), np.uint8)
    if n == 0:
        return bits
    if isinstance(mask._threshold, int):
        _launch(
            bits, "mask", "draw_bits", _blocks(-(-n // 256)), _at(bits), np.int64(n),
            *_draw(key, mask.domain, mask._threshold, mask.offset),
        )  # fmt: skip
        return bits
    each = xp.asarray(mask._threshold)
    axes = collapsed(mask._drawn_shape, _broadcast_strides(each, mask._drawn_shape))
    if axes is None:
        each = _straight(xp.broadcast_to(each, mask._drawn_shape))
        axes = [1] * (AXES - 1) + [n], [[0] * (AXES - 1) + [1]]
    extent, (stride,) = axes
    _launch(
        bits, "mask", "draw_bits_each", _blocks(bits.size), _at(bits), np.int64(n), _at(each),
        *_numbers(extent, stride), *_address(key, mask.domain), np.uint64(mask.offset),
    )  # fmt: skip
    return bits


def to_bool(mask: Mask) -> Array:
    """A mask as a boolean array of its shape."""
    xp = library()
    kept = empty(mask._drawn_shape, np.bool_)
    if kept.size:
        bits = drawn_bits(mask)
        _launch(bits, "mask", "unpack_bits", _blocks(kept.size), _at(bits), _at(kept),
                np.int64(kept.size))  # fmt: skip
    if mask.run > 1:
        kept = xp.repeat(kept, mask.run, axis=-1)[..., : mask.shape[-1]]
    return _straight(kept).reshape(mask.shape)


def pack(kept: Array) -> Array:
    """A boolean array as bits, flat in C order."""
    kept = _straight(kept)
    bits = empty((-(-kept.size // 8),), np.uint8)
    if kept.size:
        _launch(kept, "mask", "pack_bits", _blocks(bits.size), _at(kept), _at(bits),
                np.int64(kept.size))  # fmt: skip
    return bits


def element_bits(mask: Mask) -> Array:
    """One bit an element of the mask's shape, also with runs."""
    return drawn_bits(mask) if mask.run == 1 else pack(to_bool(mask))


def live_units(mask: Mask, groups: int = 1) -> list[Array]:
    """For each group of units their sorted indices of what is kept.

    A mask that the host can draw is drawn there: units are few, and nothing has to wait for the
    device to learn their number.
    """
    xp = library()
    on_host = not is_array(mask._bits) and not is_array(mask._threshold)
    kept = (mask.to_bool() if on_host else xp.asnumpy(to_bool(mask))).reshape(groups, -1)
    return [xp.asarray(np.flatnonzero(row).astype(np.int64, copy=False)) for row in kept]


# ---- dropout ----


def dropout(x: Array, mask: Mask, out: Array | None, name: str = "x") -> Array:
    """``where(mask, x * scale, 0)``, into out or a new array."""
    xp = library()
    if out is None:
        out = empty(x.shape, x.dtype)
    else:
        out = expect_out(out, x.shape, x.dtype, name)
        if out is not x and overlap(out, x) and not same_memory(out, x):
            raise ValueError(
                f"out overlaps {name} without being the same array: give {name} itself or "
                "memory of its own"
            )
    expect_broadcast(mask, x.shape, name)
    if x.size == 0:
        return out
    source, real = _straight(x), _real(x.dtype)
    target = out if out.flags.c_contiguous else empty(x.shape, x.dtype)
    scale = mask._element_scale()
    arrays = _at(source), _at(target), np.int64(x.size)
    suffix = _suffix(x)
    whole = mask.shape == x.shape and isinstance(scale, float)
    if whole and mask._bits is None and mask.run == 1 and isinstance(mask._threshold, int):
        _launch(
            x, "dropout", f"dropout_drawn_{suffix}", _blocks(x.size // 16 + 32), *arrays,
            real(scale), *_draw(cast(Key, mask.key), mask.domain, mask._threshold, mask.offset),
        )  # fmt: skip
    elif whole:
        bits = element_bits(mask)
        _launch(x, "dropout", f"dropout_given_{suffix}", _blocks(x.size // 8 + 1), *arrays,
                real(scale), _at(bits))  # fmt: skip
    else:
        bits = element_bits(mask)
        scales = None if isinstance(scale, float) else xp.asarray(scale)
        steps = bit_strides(mask.shape, x.ndim)
        scale_steps = [0] * x.ndim if scales is None else _broadcast_strides(scales, x.shape)
        axes = collapsed(x.shape, steps, scale_steps)
        if axes is None:  # more axes than a kernel takes: everything in the shape of x
            bits = pack(xp.broadcast_to(to_bool(mask), x.shape))
            if scales is not None:
                scales = _straight(xp.broadcast_to(scales, x.shape))
            one = [0] * (AXES - 1) + [1]
            axes = [1] * (AXES - 1) + [x.size], [one, one]
        extent, (bit_step, scale_step) = axes
        _launch(
            x, "dropout", f"dropout_shared_{suffix}", _blocks(x.size), *arrays,
            real(scale if scales is None else 1.0), _at(bits), _at(scales),
            *_numbers(extent, bit_step, scale_step),
        )  # fmt: skip
    if target is not out:
        out[...] = target
    return out


# ---- noise ----


def normal(z: Array, key: Key, offset: int) -> None:
    """Fill contiguous z with standard normals."""
    if z.size:
        _launch(z, "noise", f"normal_{_suffix(z)}", _blocks(z.size // 4 + 2), _at(z),
                np.int64(z.size), *_address(key, 1), np.uint64(offset))  # fmt: skip


def noise_words(words: Array, key: Key, offset: int) -> None:
    """Fill contiguous uint32 words with those of the noise domain."""
    if words.size:
        _launch(words, "noise", "noise_words", _blocks(words.size), _at(words),
                np.int64(words.size), *_address(key, 1), np.uint64(offset))  # fmt: skip


def uniforms(words: Array, key: Key, domain: int, offset: int) -> None:
    """Fill contiguous uint32 words with the uniforms that decide."""
    if words.size:
        _launch(words, "mask", "uniforms", _blocks(words.size), _at(words),
                np.int64(words.size), *_address(key, domain), np.uint64(offset))  # fmt: skip


# ---- weights ----


def max_norm_(w: Array, max_norm: float, axes: tuple[int, ...]) -> None:
    """Project in place the vectors that run over `axes`."""
    _update("none", w, None, (None, None, None), max_norm, axes)


def sgd_(
    w: Array, g: Gradient, velocity: Array | None, learning_rate: float, momentum: float,
    nesterov: bool, lazy: bool, weight_decay: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("sgd", w, g, (None, velocity, None), max_norm, axes, lazy=lazy, nesterov=nesterov,
            rate=learning_rate, momentum=momentum, decay=weight_decay)  # fmt: skip


def adam_(
    w: Array, g: Gradient, mean: Array, square: Array, step: int, learning_rate: float,
    beta_1: float, beta_2: float, epsilon: float, weight_decay: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """Step number `step`, from 1, projected if max_norm is not 0."""
    _update(
        "adam", w, g, (mean, square, None), max_norm, axes,
        rate=learning_rate / (1.0 - beta_1**step), beta_1=beta_1, beta_2=beta_2,
        rest_1=1.0 - beta_1, rest_2=1.0 - beta_2, scale=1.0 / math.sqrt(1.0 - beta_2**step),
        epsilon=epsilon, keep=1.0 - learning_rate * weight_decay,
    )  # fmt: skip


def rmsprop_(
    w: Array, g: Gradient, square: Array, mean: Array | None, velocity: Array | None,
    learning_rate: float, beta: float, momentum: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("rmsprop", w, g, (mean, square, velocity), max_norm, axes, rate=learning_rate,
            beta_2=beta, rest_2=1.0 - beta, momentum=momentum, epsilon=epsilon)  # fmt: skip


def adagrad_(
    w: Array, g: Gradient, square: Array, learning_rate: float, epsilon: float, max_norm: float,
    axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("adagrad", w, g, (None, square, None), max_norm, axes, rate=learning_rate,
            epsilon=epsilon)  # fmt: skip


def adadelta_(
    w: Array, g: Gradient, square: Array, change: Array, learning_rate: float, rho: float,
    epsilon: float, max_norm: float, axes: tuple[int, ...],
) -> None:  # fmt: skip
    """A step, projected if max_norm is not 0."""
    _update("adadelta", w, g, (change, square, None), max_norm, axes, rate=learning_rate,
            beta_2=rho, rest_2=1.0 - rho, epsilon=epsilon)  # fmt: skip


NUMBERS = ("rate", "momentum", "decay", "beta_1", "beta_2", "rest_1", "rest_2", "scale", "epsilon",
           "keep")  # fmt: skip


def _update(
    rule: str,
    w: Array,
    g: Gradient | None,
    states: tuple[Array | None, Array | None, Array | None],
    max_norm: float,
    axes: tuple[int, ...],
    *,
    lazy: bool = False,
    nesterov: bool = False,
    **numbers: float,
) -> None:
    """Move contiguous copies where the arrays are not, with the vectors in rows if need be."""
    xp = library()
    if w.size == 0:
        return
    live: tuple[Any, ...] = (None, None, np.int64(1), np.int64(0))
    gradient: Array | None = None
    if isinstance(g, LiveBlock):
        gradient = _straight(g.values)
        rows, width = math.prod(g.shape[:-1]), g.shape[-1]
        live = (positions(g.rows, rows), positions(g.columns, width), np.int64(width),
                np.int64(gradient.shape[-1]))  # fmt: skip
    elif isinstance(g, ProductGradient):
        gradient = _straight(g.dense())
    elif g is not None:
        gradient = _straight(g)

    def recipe(states: Sequence[Array | None]) -> tuple[Any, ...]:
        return (
            np.int32(RULES[rule]), np.int32(lazy), np.int32(nesterov),
            *(np.float64(numbers.get(name, 0.0)) for name in NUMBERS),
            _at(gradient), _at(live[0]), _at(live[1]), *live[2:], *(_at(a) for a in states),
        )  # fmt: skip

    own: list[Any] = [None if a is None else _straight(a) for a in (w, *states)]
    adjacent = bool(axes) and axes[-1] - axes[0] + 1 == len(axes)
    if not max_norm or adjacent:
        _apply(own[0], recipe(own[1:]), max_norm, axes)
    else:
        if rule != "none":
            _apply(own[0], recipe(own[1:]), 0.0, ())
        end = tuple(range(w.ndim - len(axes), w.ndim))
        last = xp.moveaxis(own[0], axes, end)
        moved = _straight(last)
        if moved.data.ptr == own[0].data.ptr:  # axes of length 1 only: nothing moved
            moved = moved.copy()
        _apply(moved, _no_rule(), max_norm, end)
        last[...] = moved
    for array, changed in zip((w, *states), own, strict=True):
        if array is not None and changed is not array:
            array[...] = changed


def _no_rule() -> tuple[Any, ...]:
    return (
        *(np.int32(0),) * 3, *(np.float64(0.0),) * len(NUMBERS), *(np.uint64(0),) * 3,
        np.int64(1), np.int64(0), *(np.uint64(0),) * 3,
    )  # fmt: skip


def _apply(w: Array, recipe: tuple[Any, ...], bound: float, axes: tuple[int, ...]) -> None:
    """A rule and the projection of vectors over adjacent axes, on contiguous arrays."""
    suffix = _suffix(w)
    if not bound:
        _launch(w, "update", f"update_flat_{suffix}", _blocks(w.size), _at(w), np.int64(w.size),
                *recipe)  # fmt: skip
        return
    n = math.prod(w.shape[axes[0] : axes[-1] + 1])
    outer = math.prod(w.shape[: axes[0]])
    inner = w.size // (outer * n)
    if inner == 1:
        threads = 32 if n <= 256 else 128 if n <= 2048 else 256 if n <= 1 << 16 else 1024
        _launch(
            w, "update", f"update_rows_{suffix}", outer, _at(w), np.int64(outer), np.int64(n),
            np.float64(bound), *recipe, threads=threads,
        )  # fmt: skip
        return
    columns, rows = outer * inner, max(64, -(-n // CHUNKS))
    chunks = -(-n // rows)
    parts = 3 if w.dtype == np.float64 else 1
    sums = empty((chunks * parts * columns,), np.float64)
    factors = empty((2 * columns,), np.float64)
    layout = _numbers((outer, n, inner, rows))
    tasks = -(-columns // WARP) * chunks
    _launch(w, "update", f"update_columns_{suffix}", tasks, _at(w), *layout, _at(sums), *recipe)
    _launch(
        w, "update", f"column_factors_{suffix}", _blocks(columns), _at(sums),
        *_numbers((chunks, columns, n)), np.float64(bound), _at(factors),
    )  # fmt: skip
    _launch(w, "update", f"shorten_columns_{suffix}", tasks, _at(w), *layout, _at(factors))


def positions(units: Array, size: int) -> Array:
    """For each of `size` units its place among the sorted `units`, or -1."""
    xp = library()
    at = xp.full(size, -1, np.int64)
    at[xp.asarray(units)] = xp.arange(len(units), dtype=np.int64)
    return at


def sum_squares(array: Array) -> float:
    """The sum of the squares in float64. Waits for the device."""
    if array.size == 0:
        return 0.0
    array, pieces = _straight(array), -(-array.size // PIECE)
    sums = empty((pieces,), np.float64)
    _launch(array, "update", f"square_sums_{_suffix(array)}", pieces, _at(array),
            np.int64(array.size), np.int64(PIECE), _at(sums))  # fmt: skip
    return float(sums.sum())


# ---- products ----


class Factor:
    """A factor of a product, with its mask applied and of what lives only."""

    def __init__(
        self,
        array: Array,
        rows: Array | None = None,
        columns: Array | None = None,
        bits: Array | None = None,
        bit_strides: tuple[int, int] | None = None,
        scale: float = 1.0,
    ) -> None:
        if bits is not None:
            assert bit_strides in (None, (array.shape[1], 1))
            array = finished(_straight(array), None, bits=bits, scale=scale, out=None)
            scale = 1.0
        if rows is not None or columns is not None:
            array = compact(array, rows, columns, scale)
        elif scale != 1.0:
            array = array * array.dtype.type(scale)
        self.array = array


def product(
    out: Array,
    a: Factor,
    b: Factor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Array | None = None,
    relu: bool = False,
    bits: Array | None = None,
    scale: float = 1.0,
) -> None:
    """out = act(a @ b + bias) ∘ mask, the end in one pass over what cuBLAS gives."""
    left = a.array.T if transpose_a else a.array
    right = b.array.T if transpose_b else b.array
    if left.shape[1] and out.size:
        library().matmul(left, right, out=out)
    else:
        out[...] = 0
    if bias is not None or relu or bits is not None or scale != 1.0:
        finished(out, bias, kind="relu" if relu else None, bits=bits, scale=scale, out=out)


def finished(
    z: Array,
    bias: Array | None,
    *,
    kind: str | None = None,
    parameter: float = 0.0,
    mask: Mask | None = None,
    bits: Array | None = None,
    scale: float = 1.0,
    residual: Array | None = None,
    out: Array | None,
) -> Array:
    """act(z + bias) ∘ mask + residual in one pass; out may be z.

    Parameters
    ----------
    z : contiguous cupy.ndarray (..., N)
    bias : (N,), optional
    kind, parameter
        Of the activation.
    mask : Mask, optional
        It broadcasts to z.
    bits : uint8, optional
        Instead of a mask, in the shape of z; with `scale`.
    residual : of the shape of z, optional
    out : of the shape of z, or None for a new array
    """
    y = empty(z.shape, z.dtype) if out is None else out
    _ended("finish", z, y, (_at(bias), _at(residual)), kind, parameter, mask, bits, scale)
    return y


def unfinished(
    dy: Array,
    held: Array | None,
    *,
    kind: str | None = None,
    parameter: float = 0.0,
    mask: Mask | None = None,
    scale: float = 1.0,
    out: Array | None = None,
) -> Array:
    """The way back through `finished`: (dy ∘ mask) act'(held), held as `Activation` says."""
    dz = empty(dy.shape, dy.dtype) if out is None else out
    _ended("unfinish", dy, dz, (_at(held),), kind, parameter, mask, None, scale)
    return dz


def _ended(
    name: str, z: Array, y: Array, arrays: tuple[Any, ...], kind: str | None, parameter: float,
    mask: Mask | None, bits: Array | None, scale: float,
) -> None:  # fmt: skip
    if z.size == 0:
        return
    real, where, draw = _real(z.dtype), ALL_KEPT if bits is None else GIVEN, NO_DRAW
    if mask is not None:
        expect_broadcast(mask, z.shape, "y")
        whole = mask.shape == z.shape
        units = mask.size == z.shape[-1] == math.prod(mask.shape[-1:])
        if not isinstance(mask.scale, float) or not (whole or units):
            raise ValueError("a pass over a layer's end takes a mask of elements or of units")
        scale *= mask.scale
        if whole and mask._bits is None and mask.run == 1 and isinstance(mask._threshold, int):
            where = DRAWN
            draw = _draw(cast(Key, mask.key), mask.domain, mask._threshold, mask.offset)
        else:
            where, bits = GIVEN if whole else UNITS, element_bits(mask)
    _launch(
        z, "layer", f"{name}_{_suffix(z)}", _blocks(z.size // 16 + 32), _at(z), _at(y),
        np.int64(z.size), np.int64(z.shape[-1]), *arrays, np.int32(ACTIVATIONS[kind]),
        real(parameter), np.int32(where), real(scale), _at(bits), *draw,
    )  # fmt: skip


def column_sums(x: Array) -> Array:
    """The sums of the columns of contiguous (rows, columns), of its dtype."""
    rows, columns = x.shape
    total = empty((columns,), x.dtype)
    if x.size == 0:
        total[...] = 0
        return total
    chunk = max(64, -(-rows // CHUNKS))
    chunks = -(-rows // chunk)
    sums = empty((chunks, columns), _real(x.dtype))
    suffix = _suffix(x)
    _launch(x, "layer", f"column_sums_{suffix}", -(-columns // WARP) * chunks, _at(x),
            *_numbers((rows, columns, chunk)), _at(sums))  # fmt: skip
    _launch(x, "layer", f"add_chunks_{suffix}", _blocks(columns), _at(sums),
            *_numbers((chunks, columns)), _at(total))  # fmt: skip
    return total


def compact(x: Array, rows: Array | None, columns: Array | None, scale: float = 1.0) -> Array:
    """x[rows][:, columns] * scale of a matrix; None means all of them."""
    x = _straight(x)
    shape = tuple(n if u is None else len(u) for n, u in zip(x.shape, (rows, columns), strict=True))
    out = empty(shape, x.dtype)
    if out.size:
        _launch(
            x, "layer", f"compact_{_suffix(x)}", _blocks(out.size), _at(x), np.int64(x.shape[1]),
            _at(rows), _at(columns), *_numbers(shape), _real(x.dtype)(scale), _at(out),
        )  # fmt: skip
    return out


def scatter(x: Array, rows: Array | None, columns: Array | None, shape: tuple[int, int]) -> Array:
    """The way back from `compact`: zero but for what lives."""
    x = _straight(x)
    out = empty(shape, x.dtype)
    at = [
        None if units is None else positions(units, n)
        for n, units in zip(shape, (rows, columns), strict=True)
    ]
    if out.size:
        _launch(
            x, "layer", f"scatter_{_suffix(x)}", _blocks(out.size), _at(x),
            np.int64(x.shape[1]), _at(at[0]), _at(at[1]), *_numbers(shape), _at(out),
        )  # fmt: skip
    return out


def connect_product(which: str, out: Array, a: Array, b: Array, mask: Mask) -> None:
    """One of the three products with a (B, K, N) weight mask; adds to contiguous out.

    "y": a = x (B, K), b = w (K, N).  "dw": a = x, b = dz (B, N).  "dx": a = dz, b = w.
    """
    samples, k, n = mask.shape
    if samples * k * n == 0:
        return
    bits = None if mask._bits is None else library().asarray(mask._bits)
    threads = {"y": samples * n, "dw": k * n, "dx": samples * k * WARP}[which]
    _launch(
        out, "connect", f"connect_{which}_{_suffix(out)}", _blocks(threads), _at(out), _at(a),
        _at(b), *_numbers((samples, k, n)), _at(bits),
        *_draw(mask.key or Key(0), mask.domain, cast(int, mask._threshold), mask.offset),
    )  # fmt: skip

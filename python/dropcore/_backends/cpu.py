"""NumPy arrays through the compiled core."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore import _core
from dropcore._backends.gradients import BlockGradient, Gradient, ProductGradient
from dropcore._backends.memory import empty as empty
from dropcore._base.checks import expect_no_tensor, expect_unmasked
from dropcore._base.decisions import Decisions
from dropcore._base.strides import bit_strides, expect_broadcast
from dropcore._base.strides import may_overlap as may_overlap
from dropcore._base.strides import overlap as overlap
from dropcore._core import Factor as Factor
from dropcore._core import Patches as Patches
from dropcore._core import Recurrence as Recurrence
from dropcore._core import Windows as Windows
from dropcore._core import activate as activate
from dropcore._core import batch_moments as batch_moments
from dropcore._core import batch_normalize as batch_normalize
from dropcore._core import batch_normalize_back as batch_normalize_back
from dropcore._core import batch_sums as batch_sums
from dropcore._core import convolution as convolution
from dropcore._core import dropout_fast as dropout_fast
from dropcore._core import epilogue_backward as epilogue_backward
from dropcore._core import has_openmp as has_openmp
from dropcore._core import isa as isa
from dropcore._core import isas as isas
from dropcore._core import kernel_gradient as kernel_gradient
from dropcore._core import layer_normalize as layer_normalize
from dropcore._core import layer_normalize_back as layer_normalize_back
from dropcore._core import max_threads as max_threads
from dropcore._core import pool as pool
from dropcore._core import pool_back as pool_back
from dropcore._core import product as product
from dropcore._core import release_pool as release_pool
from dropcore._core import release_scratch as release_scratch
from dropcore._core import set_threads as set_threads
from dropcore._core import softmax as softmax
from dropcore._core import sum_columns as sum_columns
from dropcore.key import Key

Array = npt.NDArray[Any]
Vectors = tuple[int, int, int]
Block = tuple[Any, Any]

xp: Any = np
PRODUCTS = ("float32", "float64")  # of factors
ATTENTION = ("float32", "float64")
FUSES_ACTIVATIONS = False
"""Products apply relu; other activations are separate passes."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
# The core's numbers for them. bfloat16 joins when an array of it is first seen: it belongs to
# another package, and the name of a dtype is slow to ask for.
CODES = {np.dtype(name): code for code, name in enumerate(DTYPES[:3])}
BFLOAT16 = 3

PACKED_AT_MOST = 1 << 22  # elements of x that a product with an update packs as a whole


def as_array(name: str, x: object, allowed: tuple[str, ...] = DTYPES) -> Array:
    """x as an array of a dtype that is taken, not copied."""
    if type(x) is np.ndarray:
        array = x
    else:
        expect_unmasked(name, x)
        expect_no_tensor(name, x)
        array = np.asarray(x)
    code = CODES.get(array.dtype)
    if code is not None and DTYPES[code] in allowed:
        return array
    if array.dtype.name not in allowed:
        raise TypeError(
            f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {array.dtype}"
            + _advice(x, array)
        )
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    if array.dtype.name == "bfloat16":
        CODES[array.dtype] = BFLOAT16
    return array


def _advice(x: object, array: Array) -> str:
    """What to do about x, which is an array of a dtype that is not taken."""
    if array.dtype.kind in "biu":
        return "; use .astype(np.float32)"
    if hasattr(x, "toarray"):
        return f" from a {type(x).__name__}; use .toarray()"
    if array.dtype.kind == "O" and not array.ndim:
        return f" from {'None' if x is None else f'a {type(x).__name__}'}"
    return "; use .astype(np.float32), if all elements are numbers" if array.dtype == "O" else ""


def expect_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """`out` if it can take a result of that shape and dtype, those of the array called name."""
    if not isinstance(out, np.ndarray):
        expect_no_tensor("out", out)
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    expect_unmasked("out", out)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"out must have the shape and dtype of {name}, {shape} {dtype}, got "
            f"{out.shape} {out.dtype}"
        )
    if not out.flags.writeable:
        raise ValueError("out is read-only: give an array that can be written")
    if 0 in out.strides and any(
        s == 0 and n > 1 for s, n in zip(out.strides, shape, strict=True) if out.size
    ):
        raise ValueError("out has elements that share memory (a stride of 0)")
    return out


def is_array(x: object) -> bool:
    """Whether x is what this backend works on."""
    return isinstance(x, np.ndarray)


def contiguous(x: Array) -> Array:
    """x in C order."""
    return np.asarray(x, order="C")


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same order."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides


def expect_out_like(out: object, x: Array, name: str) -> Array:
    """`out` if it can take a result like x, which it may be but not overlap in another way."""
    target = expect_out(out, x.shape, x.dtype, name)
    if target is not x and overlap(target, x) and not same_memory(target, x):
        raise ValueError(
            f"out overlaps {name} without being the same array: give {name} itself or "
            "a separate array"
        )
    return target


def dropout(x: Array, mask: Decisions, out: Array | None, name: str = "x") -> Array:
    """``where(mask, x * scale, 0)``, into out or a new array."""
    out = np.empty(x.shape, x.dtype) if out is None else expect_out_like(out, x, name)
    code = CODES[x.dtype]
    source, target = x, out
    if code == BFLOAT16:  # which exports no buffer
        source, target = x.view(np.uint16), out.view(np.uint16)
    if (
        mask.shape == x.shape
        and mask.bits is None
        and mask.run == 1
        and isinstance(mask.threshold, int)
        and isinstance(mask.scale, float)
        and _is_contiguous_aligned(x)
        and (out is x or _is_contiguous_aligned(out))
    ):
        key = cast(Key, mask.key)
        _core.dropout(
            target, source, code, key.seed, key.stream, key.step, mask.domain,
            mask.threshold, mask.scale, mask.offset,
        )  # fmt: skip
        return out
    expect_broadcast(mask.shape, x.shape, name)
    scale = mask.element_scale()
    _core.apply(
        target, source, code, element_bits(mask), bit_strides(mask.shape, x.ndim),
        scale if isinstance(scale, float) else 1.0,
        None if isinstance(scale, float) else np.broadcast_to(scale, x.shape),
    )  # fmt: skip
    return out


def xla_dropout() -> Any:
    """Dropout as a custom call of XLA, in a capsule: `xla_dropout` of the core."""
    return _core.XLA_DROPOUT


def _is_contiguous_aligned(x: Array) -> bool:
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def threshold(keep: float) -> int:
    """round(keep * 2^32), half to even."""
    return _core.threshold(keep)


def thresholds(keep: Array) -> tuple[Array, Array]:
    """Of an array of fractions kept: round(keep * 2^32), half to even, and the scale."""
    # Exact: keep * 2**32 is a scaling, and rint rounds half to even.
    found = np.rint(keep * 4294967296.0).astype(np.uint64)
    return found, np.divide(1.0, keep, out=np.zeros_like(keep), where=found > 0)


def drawn_bits(mask: Decisions) -> npt.NDArray[np.uint8]:
    """The bits of a mask, one for each decision; those that were given are not copied."""
    if mask.bits is not None:
        return mask.bits
    key = cast(Key, mask.key)
    size = math.prod(mask.drawn_shape)
    bits = np.empty(-(-size // 8), dtype=np.uint8)
    where = (key.seed, key.stream, key.step, mask.domain)
    if isinstance(mask.threshold, int):
        _core.draw(bits, size, *where, mask.threshold, mask.offset)
    else:
        each = np.broadcast_to(mask.threshold, mask.drawn_shape)
        _core.draw_each(bits, each, *where, mask.offset)
    return bits


def to_bool(mask: Decisions) -> npt.NDArray[np.bool_]:
    """A mask as a boolean array of its shape."""
    size = math.prod(mask.drawn_shape)
    bits = np.unpackbits(drawn_bits(mask), count=size, bitorder="little")
    kept = bits.view(np.bool_).reshape(mask.drawn_shape)
    if mask.run > 1:
        kept = np.repeat(kept, min(mask.run, mask.shape[-1]), axis=-1)[..., : mask.shape[-1]]
    return np.ascontiguousarray(kept).reshape(mask.shape)


def pack(kept: Array) -> npt.NDArray[np.uint8]:
    """A boolean array as bits, flat in C order."""
    return np.packbits(kept, axis=None, bitorder="little")


def element_bits(mask: Decisions) -> npt.NDArray[np.uint8]:
    """One bit an element of the mask's shape, also with runs."""
    return drawn_bits(mask) if mask.run == 1 else pack(to_bool(mask))


def decisions(mask: Decisions) -> npt.NDArray[np.uint8]:
    """What products take as `bits` for a mask in the shape of an array."""
    return element_bits(mask)


def kept_at(
    kept: Array, indices: Array, key: Key, domain: int, threshold: int, offset: int = 0
) -> None:
    """Fill contiguous `kept` (uint8, 0 or 1) for scattered indices, contiguous int64."""
    _core.kept_at(kept, indices, key.seed, key.stream, key.step, domain, threshold, offset)


def take_rows(weight: Array, indices: Array, padding: int | None) -> Array:
    """weight[indices], with zeros for the padding."""
    y = weight[indices]
    if padding is not None:
        y[indices == padding] = 0
    return y


def add_rows(
    dy: Array, indices: Array, padding: int | None, shape: tuple[int, int]
) -> BlockGradient:
    """The sum of the rows of dy (indices.size, N) for each index, in the order of the batch."""
    flat = indices.reshape(-1)
    if padding is not None:
        valid = flat != padding
        flat, dy = flat[valid], dy[valid]
    order = np.argsort(flat, kind="stable")
    rows, starts = np.unique(flat[order], return_index=True)
    values = np.add.reduceat(dy[order], starts, axis=0) if rows.size else dy[:0]
    columns = np.arange(shape[1], dtype=np.int64)
    return BlockGradient(np.ascontiguousarray(values), rows.astype(np.int64), columns, shape)


def sparse_product(out: Array, x: Any, b: Array) -> None:
    """out = x @ b for CSR x."""
    total = np.zeros(out.shape, out.dtype)
    _core.sparse_product(
        total, np.ascontiguousarray(x.data), x.indptr.astype(np.int64),
        x.indices.astype(np.int64), np.ascontiguousarray(b),
    )  # fmt: skip
    out[...] = total


def dropconnect_matmul(which: str, out: Array, a: Array, b: Array, mask: Decisions) -> None:
    """One of the three products with a (B, K, N) weight mask; adds to contiguous out."""
    key = mask.key or Key(0)
    _core.dropconnect_matmul(
        which, out, a, b, mask.bits, key.seed, key.stream, key.step, mask.domain,
        cast(int, mask.threshold), mask.offset,
    )  # fmt: skip


def attention(
    q: Array,
    k: Array,
    v: Array,
    scale: float,
    causal: bool,
    lengths: Array | None,
    bias: Array | None,
    mask: Decisions | None,
    mask_strides: tuple[int, ...],
) -> _core.Attention:
    """A call of attention, with `forward` and `backward`. The mask's scale is a number."""
    if mask is None:
        return _core.Attention(q, k, v, scale, causal, lengths, bias)
    keep_scale = cast(float, mask.scale)
    where: dict[str, Any]
    if mask.bits is None and mask.run == 1 and mask_strides[2:] == (k.shape[2], 1):
        key = cast(Key, mask.key)
        address = (key.seed, key.stream, key.step, mask.domain, mask.threshold)
        where = {"address": address, "offset": mask.offset}
    else:
        where = {"bits": element_bits(mask)}
    return _core.Attention(
        q, k, v, scale, causal, lengths, bias, bit_strides=mask_strides, keep_scale=keep_scale,
        **where,
    )  # fmt: skip


def normal(z: Array, key: Key, offset: int) -> None:
    """Fill contiguous z with standard normals."""
    _core.normal(z, key.seed, key.stream, key.step, offset)


def noise_words(words: Array, key: Key, offset: int) -> None:
    """Fill contiguous uint32 words with those of the noise domain."""
    _core.noise_words(words, key.seed, key.stream, key.step, offset)


def uniforms(words: Array, key: Key, domain: int, offset: int) -> None:
    """Fill contiguous uint32 words with the uniforms that decide."""
    _core.uniforms(words, key.seed, key.stream, key.step, domain, offset)


def permute(numbers: Array, n: int, key: Key, *, backwards: bool = False) -> None:
    """Replace indices (int64) by what a permutation of [0, n) has there, or the reverse."""
    _core.permute(numbers, n, key.seed, key.stream, key.step, backwards)


def max_norm_(w: Array, max_norm: float, axes: tuple[int, ...]) -> None:
    """Project in place the vectors that run over `axes`."""
    vectors = _vectors(w, axes)
    if vectors:
        _core.max_norm(w, vectors, max_norm)
    elif w.size:
        # Any other layout: a copy with the vectors in rows, and back if one was clipped.
        end = tuple(range(w.ndim - len(axes), w.ndim))
        rows = np.moveaxis(w, axes, end)
        copy = np.array(rows, order="C")
        length = math.prod(copy.shape[end[0] :])
        if _core.max_norm(copy, (w.size // length, length, 1), max_norm):
            rows[...] = copy


def sgd_(
    w: Array,
    g: Gradient,
    velocity: Array | None,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    lazy: bool,
    weight_decay: float,
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """A step, projected if max_norm is not 0."""

    def step(w: Array, vectors: Vectors, bound: float, g: Any, block: Block, velocity: Any) -> None:
        _core.sgd(
            w, g, velocity, learning_rate, momentum, nesterov, vectors, bound, *block, lazy,
            weight_decay,
        )  # fmt: skip

    if lazy and isinstance(g, BlockGradient) and not g.values.size:  # no kept unit, no update
        if max_norm:
            max_norm_(w, max_norm, axes)
        return
    _update(step, w, g, (velocity,), max_norm, axes)


def adam_(
    w: Array,
    g: Gradient,
    mean: Array,
    square: Array,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float,
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """Step number `step`, from 0, projected if max_norm is not 0."""
    keep = 1.0 - learning_rate * weight_decay
    numbers = step + 1, learning_rate, beta_1, beta_2, epsilon

    def adam(
        w: Array, vectors: Vectors, bound: float, g: Any, block: Block, mean: Any, square: Any
    ) -> None:
        _core.adam(w, g, mean, square, *numbers, vectors, bound, *block, keep)

    _update(adam, w, g, (mean, square), max_norm, axes)


def rmsprop_(
    w: Array,
    g: Gradient,
    square: Array,
    mean: Array | None,
    velocity: Array | None,
    learning_rate: float,
    rho: float,
    momentum: float,
    epsilon: float,
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """A step, projected if max_norm is not 0."""
    numbers = learning_rate, rho, momentum, epsilon

    def step(
        w: Array, vectors: Vectors, bound: float, g: Any, block: Block, a: Any, b: Any, c: Any
    ) -> None:
        _core.rmsprop(w, g, a, b, c, *numbers, vectors, bound, *block)

    _update(step, w, g, (square, mean, velocity), max_norm, axes)


def adagrad_(
    w: Array,
    g: Gradient,
    square: Array,
    learning_rate: float,
    epsilon: float,
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """A step, projected if max_norm is not 0."""

    def step(w: Array, vectors: Vectors, bound: float, g: Any, block: Block, square: Any) -> None:
        _core.adagrad(w, g, square, learning_rate, epsilon, vectors, bound, *block)

    _update(step, w, g, (square,), max_norm, axes)


def adadelta_(
    w: Array,
    g: Gradient,
    square: Array,
    change: Array,
    learning_rate: float,
    rho: float,
    epsilon: float,
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """A step, projected if max_norm is not 0."""
    numbers = learning_rate, rho, epsilon

    def step(
        w: Array, vectors: Vectors, bound: float, g: Any, block: Block, square: Any, change: Any
    ) -> None:
        _core.adadelta(w, g, square, change, *numbers, vectors, bound, *block)

    _update(step, w, g, (square, change), max_norm, axes)


def sum_squares(array: Array) -> float:
    """The sum of the squares in float64, of the same bits for any number of threads."""
    return _core.sum_squares(np.require(array, requirements=["C", "A"]))


def square_sum(array: Array) -> np.float64:
    """`sum_squares`, as NumPy's arrays give it."""
    return np.float64(sum_squares(array))


def _update(
    step: Callable[..., None],
    w: Array,
    g: Gradient,
    states: tuple[Array | None, ...],
    max_norm: float,
    axes: tuple[int, ...],
) -> None:
    """Call step(w, vectors, bound, g, block, *states) with contiguous arrays."""
    if w.size == 0:
        return
    contiguous = True
    for a in (w, *states):
        contiguous = contiguous and (a is None or _is_contiguous_aligned(a))
    lines: Vectors = (math.prod(w.shape[:-1]), w.shape[-1] if w.ndim else 1, 1)
    vectors = _vectors(w, axes) if axes else lines
    fused = contiguous and vectors is not None
    block: Block = (None, None)
    if isinstance(g, BlockGradient) and not g.values.size:
        g = g.dense()
    if isinstance(g, BlockGradient):
        block = (g.row_positions(), g.columns)
        if vectors is not None and axes:
            # The rows of a block are lines of w: a vector must not run over several of them.
            fused = fused and w.shape[-1] == (vectors[2] if vectors[2] > 1 else vectors[1])
        g = g.values
    if (
        isinstance(g, ProductGradient)
        and fused
        and (w.ndim == 2 and axes in ((), (0,)))
        and 0 < g.x.size <= PACKED_AT_MOST
    ):
        gradient: Any = (g.x, g.dz)
    elif type(g) is np.ndarray and _is_contiguous_aligned(g):
        gradient = g
    else:
        gradient = np.require(np.asarray(g), requirements=["C", "A"])
    if fused:
        step(w, cast(Vectors, vectors), max_norm, gradient, block, *states)
        return
    own = (w, *states)
    if not contiguous:
        own = tuple(None if a is None else np.array(a, order="C") for a in own)
    step(own[0], lines, 0.0, gradient, block, *own[1:])
    for array, changed in zip((w, *states), own, strict=True):
        if array is not None and changed is not array:
            array[...] = changed
    if max_norm:
        max_norm_(w, max_norm, axes)


def _vectors(w: Array, axes: tuple[int, ...]) -> Vectors | None:
    """w as (outer, n, inner) with the vectors over n; None where its layout does not allow it."""
    first, last = axes[0], axes[-1]
    if w.size == 0 or not _is_contiguous_aligned(w) or last - first + 1 != len(axes):
        return None
    n = math.prod(w.shape[first : last + 1])
    outer = math.prod(w.shape[:first])
    return outer, n, w.size // (outer * n)

"""Attention of CuPy arrays: products of cuBLAS, with kernels for softmax and dropout between them.

Scores are computed for as many heads, or queries of a head, as `SCORES` has room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from dropcore._backends.cuda.blas import multiply_stack
from dropcore._backends.cuda.kernels import (
    NO_DRAW,
    Array,
    blocks_for,
    blocks_for_groups,
    contiguous,
    draw,
    empty,
    enumerator,
    int64s,
    launch,
    library,
    ptr,
    real_of,
    threads_per_row,
)
from dropcore._backends.cuda.masks import element_bits, is_drawable
from dropcore._base.decisions import Decisions
from dropcore.key import Key

SCORES = 64 << 20
"""Bytes of an array of scores, at most, unless those of one query are more."""
GROUP = 128  # elements of a mask that are decided together

Part = tuple[slice, slice]


class Attention:
    """A call of attention and its backward pass: what is given to both.

    Heads that share keys are one matrix here: q and the scores have the shape (pairs, rows, ...),
    where a pair is a batch and a head of keys, and a row a query of one of the heads that share
    them. The arrays are copied unless they are in that order already.

    Parameters
    ----------
    q, k, v : (batch, heads, queries or keys, numbers), of one dtype of REAL
        k and v may have fewer heads, which divide those of q.
    scale : float
    causal : bool
    lengths : int64 (batch,), optional
        On the device.
    bias : (batch or 1, heads or 1, queries or 1, keys), optional
        Of that dtype, with contiguous rows.
    mask : Decisions, optional
        With one scale.
    mask_strides : tuple of int
        The stride of each axis of the scores in the mask.
    """

    def __init__(
        self,
        q: Array,
        k: Array,
        v: Array,
        scale: float,
        causal: bool,
        lengths: Array | None,
        bias: Array | None,
        mask: Decisions | None,
        mask_strides: tuple[int, ...],
    ) -> None:
        batch, heads, queries, _ = q.shape
        key_heads, self._keys = k.shape[1:3]
        self._pairs = batch * key_heads
        self._rows = heads // key_heads * queries if key_heads else 0
        self._seen = None
        if lengths is not None:
            lengths = contiguous(lengths)
            number = library().arange(self._keys, dtype=np.int64)
            self._seen = (number < lengths[:, None])[:, None, :, None]
        self._q = self._stacked(q, self._rows)
        self._k, self._v = (self._stacked(self._only_seen(x), self._keys) for x in (k, v))
        strides: tuple[int, ...] = (0, 0, 0)
        if bias is not None:
            strides = tuple(
                0 if n == 1 else stride // bias.itemsize
                for n, stride in zip(bias.shape[:3], bias.strides[:3], strict=True)
            )
        real = real_of(q.dtype)
        # Kernels take addresses, so the arrays must live as long as this object.
        self._lengths, self._bias = lengths, bias
        self._shape = (
            *int64s((heads, queries, self._keys)), ptr(lengths), np.int32(causal), real(scale),
            ptr(bias), *int64s(strides),
        )  # fmt: skip
        self._bits, self._groups, self._dropped = self._decisions(mask, mask_strides, real)

    def forward(self, out: Array, logsumexp: Array | None = None) -> None:
        """Fill out (batch, heads, queries, numbers) and logsumexp, contiguous, of its rows."""
        y = out if out.flags.c_contiguous else empty(out.shape, out.dtype)
        stack = self._stacked(y, self._rows)
        base, factor = (empty((self._pairs * self._rows,), out.dtype) for _ in range(2))
        for part, (x,) in self._parts(1):
            pairs, rows = part
            multiply_stack(self._q[pairs, rows], _transposed(self._k[pairs]), x)
            width = threads_per_row(self._keys)
            self._launch("attention_sums", blocks_for(x.shape[0] * x.shape[1] * width), part,
                         ptr(x), np.int32(width), ptr(base), ptr(factor),
                         ptr(logsumexp))  # fmt: skip
            self._launch_weights("attention_weights", part, ptr(x), ptr(base), ptr(factor))
            multiply_stack(x, self._v[pairs], stack[pairs, rows])
        if y is not out:
            out[...] = y

    def backward(
        self, dout: Array, out: Array, logsumexp: Array, dq: Array, dk: Array, dv: Array
    ) -> None:
        """Fill dq, dk and dv, of the shapes of q, k and v; logsumexp is contiguous."""
        rows, size = self._pairs * self._rows, out.shape[3]
        dy, mean = self._stacked(dout, self._rows), empty((rows,), out.dtype)
        y = contiguous(out)
        width = threads_per_row(size)
        launch(y, "attention", "attention_means", blocks_for(rows * width), *int64s((rows, size)),
               ptr(y), ptr(dy), np.int32(width), ptr(mean))  # fmt: skip
        own = [x if x.flags.c_contiguous else empty(x.shape, x.dtype) for x in (dq, dk, dv)]
        to_q, to_k, to_v = (
            self._stacked(x, n)
            for x, n in zip(own, (self._rows, self._keys, self._keys), strict=True)
        )
        for part, (x, dx) in self._parts(2):
            pairs, some = part
            q, more = self._q[pairs, some], some.start > 0
            multiply_stack(q, _transposed(self._k[pairs]), x)
            multiply_stack(dy[pairs, some], _transposed(self._v[pairs]), dx)
            self._launch_weights("attention_weights_back", part, ptr(x), ptr(dx), ptr(logsumexp),
                                 ptr(mean))  # fmt: skip
            multiply_stack(dx, self._k[pairs], to_q[pairs, some])
            multiply_stack(_transposed(dx), q, to_k[pairs], accumulate=more)
            multiply_stack(_transposed(x), dy[pairs, some], to_v[pairs], accumulate=more)
        if own[0] is not dq:
            dq[...] = own[0]
        for target, gradient in ((dk, own[1]), (dv, own[2])):
            if gradient is not target or self._seen is not None:
                target[...] = self._only_seen(gradient)

    def _stacked(self, x: Array, rows: int) -> Array:
        return contiguous(x).reshape(self._pairs, rows, x.shape[3])

    def _only_seen(self, x: Array) -> Array:
        """x, (batch, key_heads, keys, numbers), with zeros behind the lengths."""
        return x if self._seen is None else library().where(self._seen, x, x.dtype.type(0))

    def _decisions(
        self, mask: Decisions | None, strides: tuple[int, ...], real: Any
    ) -> tuple[Array | None, int, tuple[Any, ...]]:
        """The bits that are given, groups of a row, and the kernels' arguments."""
        bits, drawn, scale, kind, unit = None, NO_DRAW, 1.0, "all_kept", GROUP
        if mask is not None:
            scale = cast(float, mask.scale)
            if is_drawable(mask) and strides[3] == 1:
                kind = "drawn"
                key, threshold = cast(Key, mask.key), cast(int, mask.threshold)
                drawn = draw(key, mask.domain, threshold, mask.offset)
                # Rows begin at multiples of it: the more, the more groups a row can touch.
                unit = math.gcd(GROUP, mask.offset, *strides[:3])
            else:
                kind, bits = "given", element_bits(mask)
        groups = -(-(self._keys + GROUP - unit) // GROUP)
        where = np.int32(enumerator("DECISIONS", kind))
        arguments = where, real(scale), ptr(bits), *drawn, *int64s(strides, (groups,))
        return bits, groups, arguments

    def _parts(self, arrays: int) -> Iterator[tuple[Part, list[Array]]]:
        """Pairs and rows that are computed at a time, and so many arrays for their scores."""
        row = max(self._keys * self._q.itemsize, 1)
        rows = max(min(SCORES // row, self._rows), 1)
        pairs = max(min(SCORES // (row * rows), self._pairs), 1)  # one if not all rows fit
        rooms = [empty((pairs * rows * self._keys,), self._q.dtype) for _ in range(arrays)]
        for pair in range(0, self._pairs, pairs):
            for first in range(0, max(self._rows, 1), rows):
                last = min(pair + pairs, self._pairs), min(first + rows, self._rows)
                shape = last[0] - pair, last[1] - first, self._keys
                scores = [room[: math.prod(shape)].reshape(shape) for room in rooms]
                yield (slice(pair, last[0]), slice(first, last[1])), scores

    def _launch_weights(self, name: str, part: Part, *arguments: Any) -> None:
        rows = math.prod(s.stop - s.start for s in part)
        self._launch(name, blocks_for_groups(rows * self._groups * GROUP), part, *self._dropped,
                     *arguments)  # fmt: skip

    def _launch(self, name: str, blocks: int, part: Part, *arguments: Any) -> None:
        pairs, rows = part
        count = (pairs.stop - pairs.start) * (rows.stop - rows.start)
        first = pairs.start * self._rows + rows.start
        launch(self._q, "attention", name, blocks, *int64s((first, count)), *self._shape,
               *arguments)  # fmt: skip


def _transposed(stack: Array) -> Array:
    return stack.swapaxes(1, 2)

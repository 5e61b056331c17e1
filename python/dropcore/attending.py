"""Attention with dropout on its weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.checks import (
    check_bool,
    check_integer,
    check_number,
    expect_no_tensor,
    expect_unmasked,
)
from dropcore._base.device import on_device
from dropcore._base.strides import bit_strides, expect_broadcast
from dropcore.key import Key
from dropcore.mask import Mask, resolve_keep

__all__ = ["attention", "attention_backward"]

Array = npt.NDArray[Any]


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    rate: float | None = None,
    *,
    keep: float | None = None,
    key: Key | int | None = None,
    mask: Mask | None = None,
    offset: int = 0,
    mask_heads: int | None = None,
    causal: bool = False,
    bias: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    scale: float | None = None,
    out: Array | None = None,
    return_logsumexp: bool = False,
) -> Any:
    """Scaled dot-product attention with dropout on its weights.

    For each batch and head, with m = 1 for a weight that is kept::

        s = scale * q @ k.T + bias              (queries, keys)
        p = softmax(s)                          over the keys that a query sees
        out = (m ? p * (1 / keep) : 0) @ v

    Scores and weights are computed a tile at a time and never stored: beside its arguments and its
    result, attention needs memory for one copy of k and v of a head per thread. The mask of the
    weights is an element mask of shape (batch, heads, queries, keys), as
    ``Mask((batch, heads, queries, keys), rate, key=key)`` draws it. The softmax is that of all
    keys, dropped or not, as in PyTorch.

    Parameters
    ----------
    q : array_like of float32 or float64, (batch, heads, queries, size)
        Any strides. (batch, queries, heads, size) is ``x.transpose(0, 2, 1, 3)``, which is not
        copied. A cupy.ndarray gives one.
    k : array_like of the same dtype, (batch, key_heads, keys, size)
    v : array_like of the same dtype, (batch, key_heads, keys, value_size)
        `key_heads` is `heads` or divides it: then ``heads // key_heads`` neighbouring heads share
        keys and values (grouped-query attention).
    rate : float, optional
        Fraction of the weights that are dropped, in [0, 1]. Without `rate`, `keep` and `mask`
        nothing is dropped.
    keep : float, optional
        Fraction kept, ``1 - rate``. Give `rate` or `keep`, not both.
    key : Key or int
        The address of the mask, needed with `rate` or `keep`.
    mask : Mask
        Replaces rate, keep, key, offset and mask_heads. It broadcasts to (batch, heads, queries,
        keys) and has one rate.
    offset : int, default 0
        Index of the mask's first element. A worker with the rows from b on of a larger batch
        passes ``b * heads * queries * keys``.
    mask_heads : int, optional
        Number of heads in the mask's shape, if q has only some of them. A worker with the heads
        from h on of the rows from b on passes
        ``offset=(b * mask_heads + h) * queries * keys``. Default: the heads of q.
    causal : bool, default False
        Query i sees the keys 0 ... i only. Needs as many queries as keys.
    bias : array_like of the dtype of q, optional
        Added to the scores; broadcasts to (batch, heads, queries, keys). -inf hides a key. It is
        a constant: no gradient of it is computed.
    allowed : array_like of bool, optional
        True where a query sees a key; broadcasts to (batch, heads, queries, keys).
    lengths : array_like of int, (batch,), optional
        The number of keys that each sample has: the keys behind are not seen.
    scale : float, optional
        Factor of the scores. Default: ``size ** -0.5``.
    out : ndarray, (batch, heads, queries, value_size), optional
        The result is written to it. Its rows are contiguous.
    return_logsumexp : bool, default False
        Also return what `attention_backward` needs.

    Returns
    -------
    out : ndarray, (batch, heads, queries, value_size)
        In the memory order of q. Zero for a query that sees no key.
    logsumexp : ndarray, (batch, heads, queries)
        ``log(sum(exp(s)))`` over the keys seen, in natural units; -inf where there are none. Only
        with `return_logsumexp`.

    Raises
    ------
    TypeError
        If a dtype is not allowed, dtypes differ, or a rate is given without a key.
    ValueError
        If shapes do not fit, arguments contradict each other, a rate is outside [0, 1], or `out`
        overlaps an input.

    Notes
    -----
    A weight of 0 does not remove a NaN or an infinity in `v`, whether its key is dropped or hidden:
    0 times NaN is NaN, as in any product of matrices. Keys and values behind `lengths` are never
    read.

    A weight has the rounding error of its score: at float32, scores of 1e4 give weights with three
    digits.

    References
    ----------
    Vaswani et al. 2017, "Attention is all you need". Dao, Fu, Ermon, Rudra and Ré 2022,
    "FlashAttention: fast and memory-efficient exact attention with IO-awareness". Milakov and
    Gimelshein 2018, "Online normalizer calculation for softmax". Ainslie et al. 2023, "GQA:
    training generalized multi-query transformer models from multi-head checkpoints".

    Examples
    --------
    >>> import numpy as np
    >>> q = np.random.default_rng(0).normal(size=(2, 4, 10, 8)).astype(np.float32)
    >>> attention(q, q, q, 0.1, key=7, causal=True).shape
    (2, 4, 10, 8)
    """
    what = "attention"
    with_sums = check_bool(f"{what}: return_logsumexp", return_logsumexp)
    call = _Call(
        what, q, k, v, rate, keep, key, mask, offset, mask_heads, causal, bias, allowed, lengths,
        scale,
    )  # fmt: skip
    shape = (*call.q.shape[:3], call.v.shape[3])
    y = call.output(shape) if out is None else call.checked_out(out, shape)
    sums = call.backend.empty(shape[:3], call.q.dtype) if with_sums else None
    call.run.forward(y, sums)
    return (y, sums) if with_sums else y


def attention_backward(
    dout: npt.ArrayLike,
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    out: npt.ArrayLike,
    logsumexp: npt.ArrayLike,
    rate: float | None = None,
    *,
    keep: float | None = None,
    key: Key | int | None = None,
    mask: Mask | None = None,
    offset: int = 0,
    mask_heads: int | None = None,
    causal: bool = False,
    bias: npt.ArrayLike | None = None,
    allowed: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    scale: float | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `attention`: its weights are computed and its mask is drawn again.

    Parameters
    ----------
    dout : array_like, (batch, heads, queries, value_size)
        The gradient with respect to `out`.
    q, k, v
        As they were given to `attention`.
    out, logsumexp : array_like
        What `attention` returned with ``return_logsumexp=True``.
    rate, keep, key, mask, offset, mask_heads, causal, bias, allowed, lengths, scale
        As they were given to `attention`.

    Returns
    -------
    dq : ndarray, (batch, heads, queries, size)
        In the memory order of q.
    dk : ndarray, (batch, key_heads, keys, size)
        In the memory order of k.
    dv : ndarray, (batch, key_heads, keys, value_size)
        In the memory order of v.

    Raises
    ------
    TypeError, ValueError
        As `attention`.
    """
    call = _Call(
        "attention_backward", q, k, v, rate, keep, key, mask, offset, mask_heads, causal, bias,
        allowed, lengths, scale,
    )  # fmt: skip
    shape = (*call.q.shape[:3], call.v.shape[3])
    gradient, y = call.like("dout", dout, shape), call.like("out", out, shape)
    sums = call.backend.contiguous(call.like("logsumexp", logsumexp, shape[:3]))
    dq, dk, dv = (_in_order_of(array, array.shape, call) for array in (call.q, call.k, call.v))
    call.run.backward(_with_rows(gradient, call), _with_rows(y, call), sums, dq, dk, dv)
    return dq, dk, dv


class _Dropped(NamedTuple):
    """A mask, and the stride in it of each axis of (batch, heads, queries, keys)."""

    mask: Mask
    strides: tuple[int, ...]


class _Call:
    """The arguments of a call, checked."""

    def __init__(
        self,
        what: str,
        q: npt.ArrayLike,
        k: npt.ArrayLike,
        v: npt.ArrayLike,
        rate: float | None,
        keep: float | None,
        key: Key | int | None,
        mask: Mask | None,
        offset: int,
        mask_heads: int | None,
        causal: bool,
        bias: npt.ArrayLike | None,
        allowed: npt.ArrayLike | None,
        lengths: npt.ArrayLike | None,
        scale: float | None,
    ) -> None:
        self.what = what
        self.backend = backend_of("q", q)
        self.q, self.k, self.v = self._heads("q", q), self._heads("k", k), self._heads("v", v)
        self._check_shapes()
        self.shape = (*self.q.shape[:3], self.k.shape[2])
        causal = check_bool(f"{what}: causal", causal)
        if causal and self.q.shape[2] != self.k.shape[2]:
            raise ValueError(
                f"{what}: causal=True needs as many queries as keys, got {self.q.shape[2]} and "
                f"{self.k.shape[2]}; for queries that continue a sequence give allowed="
            )
        if scale is None:
            factor = self.q.shape[3] ** -0.5 if self.q.shape[3] else 1.0
        else:
            factor = check_number(f"{what}: scale", scale)
        dropped = self._dropped(rate, keep, key, mask, offset, mask_heads)
        if 0 in self.shape:  # there are no weights to drop, and the mask may lie at 2**63
            dropped = None
        self.bias = self._bias(bias, allowed)
        self.run = self.backend.attention(
            self.q, self.k, self.v, factor, causal, self._lengths(lengths), self.bias,
            *(dropped or (None, (0, 0, 0, 0))),
        )  # fmt: skip

    def output(self, shape: tuple[int, ...]) -> Array:
        """An array of that shape in the memory order of q."""
        return _in_order_of(self.q, shape, self)

    def checked_out(self, out: Any, shape: tuple[int, ...]) -> Array:
        """`out`, if the result can be written to it."""
        y: Array = self.backend.expect_out(out, shape, self.q.dtype, "the result")
        if not _has_rows(y):
            raise ValueError(f"{self.what}: the last axis of out must be contiguous")
        for name, array in (("q", self.q), ("k", self.k), ("v", self.v), ("bias", self.bias)):
            if array is not None and self.backend.overlap(y, array):
                raise ValueError(f"{self.what}: out overlaps {name}; give a separate array")
        return y

    def like(self, name: str, x: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
        """An array of that shape and of the dtype of q."""
        array: Array = self._array(name, x)
        if array.shape != shape or array.dtype != self.q.dtype:
            raise ValueError(
                f"{self.what}: {name} must be {shape} of {self.q.dtype}, got {array.shape} of "
                f"{array.dtype}"
            )
        return array

    def _array(self, name: str, x: npt.ArrayLike) -> Array:
        if backend_of(name, x) is not self.backend:
            raise TypeError(
                f"{self.what}: all arrays must be on one device, got {name} of type "
                f"{type(x).__module__}.{type(x).__name__} and q of another"
            )
        array: Array = self.backend.as_array(name, x, self.backend.ATTENTION)
        return array

    def _heads(self, name: str, x: npt.ArrayLike) -> Array:
        array = self._array(name, x)
        if array.ndim != 4:
            rows = "queries" if name == "q" else "keys"
            raise ValueError(
                f"{self.what}: {name} must have the axes (batch, heads, {rows}, size), got shape "
                f"{array.shape}; for one head use {name}[:, None]"
            )
        return _with_rows(array, self)

    def _check_shapes(self) -> None:
        what, q, k, v = self.what, self.q, self.k, self.v
        if not q.dtype == k.dtype == v.dtype:
            raise TypeError(
                f"{what}: q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}"
            )
        if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
            raise ValueError(
                f"{what}: q {q.shape} and k {k.shape} must have the same batch and the same size "
                "(first and last axis)"
            )
        if v.shape[:3] != k.shape[:3]:
            raise ValueError(
                f"{what}: k {k.shape} and v {v.shape} must have the same batch, heads and keys"
            )
        heads, key_heads = q.shape[1], k.shape[1]
        if heads != key_heads and (key_heads == 0 or heads % key_heads):
            raise ValueError(
                f"{what}: the {key_heads} heads of k and v must divide the {heads} heads of q"
            )

    def _dropped(
        self,
        rate: float | None,
        keep: float | None,
        key: Key | int | None,
        mask: Mask | None,
        offset: int,
        mask_heads: int | None,
    ) -> _Dropped | None:
        what = self.what
        if mask is not None:
            return self._given(mask, rate, keep, key, offset, mask_heads)
        if rate is None and keep is None:
            if key is not None or offset != 0 or mask_heads is not None:
                raise ValueError(
                    f"{what}: key, offset and mask_heads have no effect without rate= or keep="
                )
            return None
        if key is None:
            raise TypeError(
                f"{what} needs key= (the address of the mask, such as Key(seed, step=step)) with a "
                "rate; for inference leave the rate out"
            )
        kept = resolve_keep(rate, keep, what=what)
        if not isinstance(kept, float):
            raise ValueError(f"{what} takes one rate for all weights, got an array of rates")
        batch, heads, queries, keys = self.shape
        drawn = heads
        if mask_heads is not None:
            drawn = check_integer(f"{what}: mask_heads", mask_heads, heads)
        # Of a batch of which only some heads are here, the mask reaches to the last of these.
        size = ((batch - 1) * drawn + heads) * queries * keys if batch else 0
        own = (batch, heads, queries, keys) if drawn == heads else (size,)
        strides = (drawn * queries * keys, queries * keys, keys, 1)
        return _Dropped(Mask(own, keep=kept, key=key, offset=offset), strides)

    def _given(
        self,
        mask: Mask,
        rate: float | None,
        keep: float | None,
        key: Key | int | None,
        offset: int,
        mask_heads: int | None,
    ) -> _Dropped:
        what = self.what
        if not isinstance(mask, Mask):
            raise TypeError(
                f"{what}: mask must be a Mask (of dropout), got {type(mask).__name__}; allowed= "
                "takes a boolean array of the keys that queries see, Mask.given(kept) one of the "
                "weights that are kept"
            )
        if any(given is not None for given in (rate, keep, key, mask_heads)) or offset != 0:
            raise ValueError(
                f"{what}: mask= has its own rate, key, shape and offset: give either mask or those"
            )
        if not isinstance(mask.scale, float):
            raise ValueError(f"{what} takes one rate for all weights, got a mask with an array")
        expect_broadcast(mask.shape, self.shape, "the weights")
        return _Dropped(mask, bit_strides(mask.shape, 4))

    def _lengths(self, lengths: npt.ArrayLike | None) -> Any:
        if lengths is None:
            return None
        what, (batch, _, _, keys) = f"{self.what}: lengths", self.shape
        expect_unmasked(what, lengths)
        expect_no_tensor(what, lengths)
        array: Any = lengths if on_device(lengths) else np.asarray(lengths)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{what} must be integers, got {array.dtype}")
        if array.shape != (batch,):
            raise ValueError(f"{what} must be ({batch},), one for each sample, got {array.shape}")
        if not on_device(array) and array.size and not 0 <= array.min() <= array.max() <= keys:
            raise ValueError(
                f"{what} must be in [0, {keys}], the number of keys, got {array.min()} ... "
                f"{array.max()}"
            )
        return self.backend.xp.asarray(array, dtype=np.int64)

    def _bias(self, bias: npt.ArrayLike | None, allowed: npt.ArrayLike | None) -> Array | None:
        """What is added to the scores, with four axes, the last of which is that of the keys."""
        xp, dtype = self.backend.xp, self.q.dtype
        total: Any = None
        if bias is not None:
            total = self._array("bias", bias)
            if total.dtype != dtype:
                raise TypeError(
                    f"{self.what}: bias must have the dtype of q, {dtype}, got {total.dtype}"
                )
            self._expect_scores("bias", total.shape)
        if allowed is not None:
            expect_unmasked("allowed", allowed)
            expect_no_tensor("allowed", allowed)
            seen: Any = allowed if on_device(allowed) else xp.asarray(allowed)
            if seen.dtype != np.bool_:
                raise TypeError(
                    f"{self.what}: allowed must be a boolean array (True: the query sees the "
                    f"key), got {seen.dtype}; a float array that is added is bias="
                )
            self._expect_scores("allowed", seen.shape)
            hidden = dtype.type(-math.inf)
            total = xp.where(seen, dtype.type(0) if total is None else total, hidden)
        if total is None:
            return None
        total = total.reshape((1,) * (4 - total.ndim) + total.shape)
        if total.shape[3] != self.shape[3]:
            total = xp.broadcast_to(total, (*total.shape[:3], self.shape[3]))
        return _with_rows(total, self)

    def _expect_scores(self, name: str, shape: tuple[int, ...]) -> None:
        try:
            if np.broadcast_shapes(shape, self.shape) == self.shape:
                return
        except ValueError:
            pass
        raise ValueError(
            f"{self.what}: {name} must broadcast to (batch, heads, queries, keys) = "
            f"{self.shape}, got {shape}"
        )


def _has_rows(x: Array) -> bool:
    """Whether the numbers of the last axis lie side by side."""
    return x.shape[-1] == 1 or x.size == 0 or x.strides[-1] == x.itemsize


def _with_rows(x: Array, call: _Call) -> Array:
    """x, or a copy whose last axis is contiguous."""
    rows: Array = x if _has_rows(x) else call.backend.xp.ascontiguousarray(x)
    return rows


def _in_order_of(like: Array, shape: tuple[int, ...], call: _Call) -> Array:
    """A new array of that shape, with its heads inside of its rows where those of `like` are."""
    if like.strides[1] >= like.strides[2]:
        plain: Array = call.backend.empty(shape, like.dtype)
        return plain
    batch, heads, rows, size = shape
    inside: Array = call.backend.empty((batch, rows, heads, size), like.dtype)
    return inside.transpose(0, 2, 1, 3)

"""Attention of heads that lie side by side in the rows of a projection, and its backward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.strides import bit_strides
from dropcore.mask import Mask

__all__ = ["AttentionOp"]

Array = npt.NDArray[Any]


class AttentionOp:
    """y = dropout(softmax(q k' / sqrt(size))) v of each head, and its backward pass.

    Parameters
    ----------
    q : ndarray (batch, queries, heads, size)
        Its rows are contiguous; other strides do not matter, as for k and v.
    k, v : ndarray (batch, keys, key_heads, size)
    causal : bool
        Query i sees the keys 0 ... i only, of as many.
    lengths : int64 ndarray (batch,), optional
        Keys that are seen.
    allowed : ndarray of bool, optional
        True where a query sees a key; broadcasts to (batch, heads, queries, keys), and its last
        axis is that of the keys.
    mask : Mask, optional
        Of the weights, (batch, heads, queries, keys).

    Attributes
    ----------
    y : ndarray (batch, queries, heads, size)
        Contiguous.
    """

    def __init__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        lengths: npt.NDArray[np.int64] | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
        mask: Mask | None = None,
    ) -> None:
        self.backend = backend = backend_of("q", q)
        xp, dtype = backend.xp, q.dtype
        hidden = None
        if allowed is not None:
            hidden = xp.where(xp.asarray(allowed), dtype.type(0), dtype.type(-np.inf))
        self._call = backend.attention(
            _heads(q), _heads(k), _heads(v), q.shape[-1] ** -0.5, causal,
            None if lengths is None else xp.asarray(lengths, dtype=np.int64), hidden, mask,
            (0, 0, 0, 0) if mask is None else bit_strides(mask.shape, 4),
        )  # fmt: skip
        batch, queries, heads, _ = q.shape
        self.y = backend.empty(q.shape, dtype)
        self._logsumexp = backend.empty((batch, heads, queries), dtype)
        self._call.forward(_heads(self.y), self._logsumexp)

    def backward(self, dy: Array, dq: Array, dk: Array, dv: Array) -> None:
        """Fill dq, dk and dv, whose rows are contiguous, from dy."""
        self._call.backward(
            _heads(dy), _heads(self.y), self._logsumexp, _heads(dq), _heads(dk), _heads(dv)
        )


def _heads(rows: Array) -> Array:
    """(batch, rows, heads, size) as (batch, heads, rows, size)."""
    return rows.transpose(0, 2, 1, 3)

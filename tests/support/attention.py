"""Arrays for attention, and its results."""

from __future__ import annotations

import numpy as np

from dropcore import attention, attention_backward
from support.arrays import assert_same_bits


def arrays(batch, heads, queries, keys, size, value_size=None, *, key_heads=None, dtype=np.float32,
           seed=0):  # fmt: skip
    """q, k, v and the gradient of the output."""
    rng = np.random.default_rng(seed)
    key_heads = heads if key_heads is None else key_heads
    value_size = size if value_size is None else value_size
    query, key = (batch, heads, queries), (batch, key_heads, keys)
    shapes = ((*query, size), (*key, size), (*key, value_size), (*query, value_size))
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def both(q, k, v, dout, *args, **options):
    """The output, the sums of the softmax, and the three gradients."""
    out, sums = attention(q, k, v, *args, return_logsumexp=True, **options)
    return out, sums, *attention_backward(dout, q, k, v, out, sums, *args, **options)


def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert_same_bits(a, b)

"""The mask contract and the kernels, written for the reader and not for the clock.

This is the oracle of the tests: every number the compiled core produces is compared with one from
here. It is written from the text of the design alone, in NumPy, and needs nothing else of this
package. Nothing in production calls it.

The mask contract, version 2, in one paragraph. A mask is a pure function of (seed, stream, step,
index). Philox4x32-7 turns a block number into four 32-bit words, which are 128 bits. A group is 128
elements and 32 blocks: one bit of each block for each element. The first block of a group holds the
top bit of the uniform number ``u32`` of its elements, the last block holds the lowest bit. An
element is kept where ``u32 < T = round(keep * 2**32)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import ndtri

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "alpha_dropout",
    "attention",
    "attention_backward",
    "convolution",
    "convolution_backward",
    "decisions",
    "dropout",
    "masked_matmul",
    "masked_matmul_backward",
    "max_norm",
    "noise_uniform",
    "noise_words",
    "normal",
    "pack",
    "permutation",
    "philox",
    "pooling",
    "pooling_backward",
    "rmsprop",
    "scale",
    "sgd",
    "threshold",
    "uniform",
    "uniforms",
    "words",
]

Words: TypeAlias = NDArray[np.uint32]
Floats: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[ArrayLike, ArrayLike]
Activation: TypeAlias = Literal["relu"] | None

LOW32 = np.uint64(0xFFFFFFFF)

# Philox4x32: the two multipliers and the two steps of the key (Salmon et al. 2011, table 2).
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 7

GROUP = 128  # elements in a group, bits in a block
PLANES = 32  # blocks in a group, bits of a uniform
GROUPS_AT_ONCE = 4096  # what `uniforms` holds in memory


# The generator ------------------------------------------------------------------------------------


def philox(counter: ArrayLike, key: ArrayLike) -> Words:
    """Philox4x32-7.

    Parameters
    ----------
    counter : array_like of uint32, shape (..., 4)
    key : array_like of uint32, shape (2,)

    Returns
    -------
    ndarray of uint32, shape (..., 4)
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint32).astype(np.uint64), -1, 0)
    k0, k1 = (int(k) for k in np.asarray(key, dtype=np.uint32))
    for _ in range(ROUNDS):
        p0 = MULTIPLIERS[0] * c0
        p1 = MULTIPLIERS[1] * c2
        high0, low0 = p0 >> np.uint64(32), p0 & LOW32
        high1, low1 = p1 >> np.uint64(32), p1 & LOW32
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0 = (k0 + KEY_STEPS[0]) % 2**32
        k1 = (k1 + KEY_STEPS[1]) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(
    seed: int, stream: int, step: int, first_block: int, count: int, *, domain: int = 0
) -> Words:
    """The words of ``count`` consecutive blocks.

    Parameters
    ----------
    seed, stream, step : int
        The key, in [0, 2**64), [0, 2**28) and [0, 2**32).
    first_block, count : int
        Blocks ``first_block ... first_block + count - 1``, below 2**64.
    domain : int, default 0
        In [0, 16). 0: decisions while training, 1: noise, 2: decisions of Monte Carlo prediction,
        3: the order of an epoch.

    Returns
    -------
    ndarray of uint32, shape (count, 4)
    """
    _check("first_block", first_block, 2**64)
    _check("first_block + count", first_block + count, 2**64 + 1)
    blocks = np.uint64(first_block) + np.arange(count, dtype=np.uint64)
    return _block_words(seed, stream, step, domain, blocks)


def _block_words(
    seed: int, stream: int, step: int, domain: int, blocks: NDArray[np.uint64]
) -> Words:
    """The four words of each block of an array of block numbers."""
    _check_address(seed, stream, step, domain)
    counter = np.empty((*blocks.shape, 4), dtype=np.uint32)
    counter[..., 0] = blocks & LOW32
    counter[..., 1] = blocks >> np.uint64(32)
    counter[..., 2] = step
    counter[..., 3] = domain << 28 | stream
    return philox(counter, [seed % 2**32, seed >> 32])


def _check_address(seed: int, stream: int, step: int, domain: int) -> None:
    _check("seed", seed, 2**64)
    _check("stream", stream, 2**28)
    _check("step", step, 2**32)
    _check("domain", domain, 16)


def _check(name: str, value: int, stop: int) -> None:
    if not 0 <= value < stop:
        raise ValueError(f"{name} must be in [0, {stop}), got {value}")


# The uniform --------------------------------------------------------------------------------------


def uniform(
    seed: int, stream: int, step: int, index: ArrayLike, *, domain: int = 0
) -> NDArray[np.uint32]:
    """``u32`` of the contract at each index.

    Parameters
    ----------
    seed, stream, step : int
        The key.
    index : array_like of uint64
        Logical indices in [0, 2**63), in any order and of any shape.
    domain : int, default 0
        0 or 2 for decisions.

    Returns
    -------
    ndarray of uint32, shape of ``index``
    """
    index = _indices(index)
    group, e = index // np.uint64(GROUP), index % np.uint64(GROUP)
    which = (e // np.uint64(32)).astype(np.int64)[..., np.newaxis]
    place = (e % np.uint64(32)).astype(np.uint32)
    u32 = np.zeros(index.shape, dtype=np.uint32)
    for j in range(PLANES):
        block = np.uint64(PLANES) * group + np.uint64(j)
        plane = _block_words(seed, stream, step, domain, block)
        word = np.take_along_axis(plane, which, axis=-1)[..., 0]
        u32 |= (word >> place & np.uint32(1)) << np.uint32(31 - j)
    return u32


def uniforms(
    seed: int, stream: int, step: int, offset: int, count: int, *, domain: int = 0
) -> NDArray[np.uint32]:
    """``u32`` at ``count`` consecutive indices from ``offset`` on.

    The same as :func:`uniform` of them, with each block drawn once and not once for each of the 128
    elements that read it.

    Parameters
    ----------
    seed, stream, step : int
        The key.
    offset, count : int
        ``offset + count`` is at most 2**63.
    domain : int, default 0
        0 or 2 for decisions.

    Returns
    -------
    ndarray of uint32, shape (count,)
    """
    _check("offset", offset, 2**63)
    _check("offset + count", offset + count, 2**63 + 1)
    _check_address(seed, stream, step, domain)
    first, stop = offset // GROUP, -(-(offset + count) // GROUP)
    u32 = np.zeros((stop - first, GROUP), dtype=np.uint32)
    for start in range(first, stop, GROUPS_AT_ONCE):
        groups = min(GROUPS_AT_ONCE, stop - start)
        drawn = words(seed, stream, step, PLANES * start, PLANES * groups, domain=domain)
        planes = drawn.reshape(groups, PLANES, 4)
        piece = u32[start - first : start - first + groups]
        for j in range(PLANES):
            piece |= _bits(planes[:, j]) << np.uint32(31 - j)
    return u32.ravel()[offset - GROUP * first :][:count]


def _indices(index: ArrayLike) -> NDArray[np.uint64]:
    given = np.asarray(index)
    if given.size and (int(given.min()) < 0 or int(given.max()) >= 2**63):
        raise ValueError("index must be in [0, 2**63)")
    return given.astype(np.uint64)


def _bits(block_words: Words) -> Words:
    """The 128 bits of each block: bit ``e`` is bit ``e % 32`` of word ``e // 32``."""
    bits = block_words[..., np.newaxis] >> np.arange(32, dtype=np.uint32) & np.uint32(1)
    return bits.reshape(*block_words.shape[:-1], GROUP)


# The decision -------------------------------------------------------------------------------------


def threshold(keep: ArrayLike) -> int | NDArray[np.uint64]:
    """``T = round(keep * 2**32)``, half to even, so 33 bits.

    Parameters
    ----------
    keep : array_like of float
        The fraction kept, in [0, 1].

    Returns
    -------
    int or ndarray of uint64
        An int for a scalar.

    Raises
    ------
    ValueError
        If any keep is NaN or outside [0, 1].
    """
    exact = np.asarray(keep, dtype=np.float64)
    if not np.all((exact >= 0) & (exact <= 1)):
        raise ValueError(f"keep must be in [0, 1], got {keep!r}")
    # A product with a power of two is exact and rint rounds half to even: one rounding in all.
    rounded = np.rint(exact * 2.0**32).astype(np.uint64)
    return int(rounded) if rounded.ndim == 0 else rounded


def scale(keep: ArrayLike) -> Floats:
    """``1 / keep`` in float64, and 0 where nothing can be kept (``T = 0``).

    Parameters
    ----------
    keep : array_like of float
        The fraction kept, in [0, 1].

    Returns
    -------
    ndarray of float64, shape of ``keep``
    """
    exact = np.asarray(keep, dtype=np.float64)
    some = np.asarray(threshold(exact)) > 0
    return np.where(some, 1.0 / np.where(some, exact, 1.0), 0.0)


def decisions(
    shape: int | tuple[int, ...],
    keep: ArrayLike,
    *,
    seed: int,
    stream: int = 0,
    step: int = 0,
    domain: int = 0,
    offset: int = 0,
    run: int = 1,
) -> NDArray[np.bool_]:
    """The mask: True where an element is kept.

    Parameters
    ----------
    shape : int or tuple of int
        The mask's own shape; axes that a user shares have length 1 here.
    keep : array_like of float
        The fraction kept. An array broadcasts to the drawn shape and never enlarges it.
    seed, stream, step, domain : int
        The address.
    offset : int, default 0
        Added to the C-order index of every element.
    run : int, default 1
        Runs of ``run`` consecutive units on the last axis share a decision. The drawn shape is then
        ``shape`` with ``ceil(shape[-1] / run)`` at its end, and the index counts runs.

    Returns
    -------
    ndarray of bool, shape ``shape``
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if run < 1 or (run > 1 and not shape):
        raise ValueError(f"run must be at least 1, and 1 for a 0-d mask, got {run} for {shape}")
    drawn = (*shape[:-1], -(-shape[-1] // run)) if shape else ()
    u32 = uniforms(seed, stream, step, offset, math.prod(drawn), domain=domain).reshape(drawn)
    kept = u32 < np.broadcast_to(np.asarray(threshold(keep), dtype=np.uint64), drawn)
    if run > 1:
        kept = np.repeat(kept, min(run, shape[-1]), axis=-1)[..., : shape[-1]]
    return kept


def pack(kept: ArrayLike) -> NDArray[np.uint8]:
    """A mask as bits: flat in C order, little-endian in each byte, padded with zeros.

    Parameters
    ----------
    kept : array_like of bool

    Returns
    -------
    ndarray of uint8, shape (ceil(size / 8),)
    """
    return np.packbits(np.asarray(kept, dtype=np.bool_).ravel(), bitorder="little")


# Noise --------------------------------------------------------------------------------------------


def noise_words(seed: int, stream: int, step: int, index: ArrayLike) -> NDArray[np.uint32]:
    """The word of each noise element: word ``i % 4`` of block ``i // 4`` of domain 1.

    Parameters
    ----------
    seed, stream, step : int
        The key.
    index : array_like of uint64
        Logical indices in [0, 2**63).

    Returns
    -------
    ndarray of uint32, shape of ``index``
    """
    index = _indices(index)
    block_words = _block_words(seed, stream, step, 1, index // np.uint64(4))
    which = (index % np.uint64(4)).astype(np.int64)[..., np.newaxis]
    return np.take_along_axis(block_words, which, axis=-1)[..., 0]


def noise_uniform(seed: int, stream: int, step: int, index: ArrayLike) -> Floats:
    """``(word + 0.5) / 2**32``, strictly between 0 and 1 and exact in float64.

    Parameters
    ----------
    seed, stream, step : int
        The key.
    index : array_like of uint64
        Logical indices in [0, 2**63).

    Returns
    -------
    ndarray of float64, shape of ``index``
    """
    return (noise_words(seed, stream, step, index).astype(np.float64) + 0.5) * 2.0**-32


def normal(seed: int, stream: int, step: int, index: ArrayLike) -> Floats:
    """The standard normal of each noise element: the inverse CDF of its uniform.

    Parameters
    ----------
    seed, stream, step : int
        The key.
    index : array_like of uint64
        Logical indices in [0, 2**63).

    Returns
    -------
    ndarray of float64, shape of ``index``
    """
    return np.asarray(ndtri(noise_uniform(seed, stream, step, index)))


# The order of an epoch ----------------------------------------------------------------------------


def permutation(
    n: int, index: ArrayLike, *, seed: int, stream: int = 0, step: int = 0
) -> NDArray[np.int64]:
    """What a permutation of 0 ... n - 1 has at each index, by swap-or-not.

    Round r pairs x with ``(K - x) % n``, where ``K = W * n >> 128`` and W are the 128 bits of block
    2**63. The two swap if bit 0 of the block whose number is the larger of them is 1. There are
    ``32 + ceil(log2(n))`` rounds.

    Parameters
    ----------
    n : int
        In [1, 2**63).
    index : array_like of int
        In [0, n).
    seed, stream, step : int
        In [0, 2**64), [0, 2**21) and [0, 2**32).

    Returns
    -------
    ndarray of int64, shape of ``index``

    References
    ----------
    Hoang, Morris and Rogaway 2012, "An enciphering scheme based on a card shuffle".
    """
    _check("n", n - 1, 2**63 - 1)
    _check("stream", stream, 2**21)
    x = np.array(index, dtype=np.int64)
    for r in range(32 + (n - 1).bit_length()):
        address = (seed, stream << 7 | r, step)
        four = words(*address, 2**63, 1, domain=3)[0]
        total = sum(int(word) << 32 * q for q, word in enumerate(four)) * n >> 128
        partner = (total - x) % n
        blocks = np.maximum(x, partner).astype(np.uint64)
        swap = _block_words(*address, 3, blocks)[..., 0] & np.uint32(1)
        x = np.where(swap == 1, partner, x)
    return x


# Dropout ------------------------------------------------------------------------------------------


def dropout(x: NDArray, kept: ArrayLike, scale: ArrayLike) -> NDArray:
    """``x * scale`` where kept, +0.0 elsewhere, chosen and not multiplied.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
    kept : array_like of bool
        Broadcasts to ``x``.
    scale : array_like of float
        Broadcasts to ``x``. Rounded once, to float64 for float64 and else to float32.

    Returns
    -------
    ndarray, shape and dtype of ``x``
        16-bit values are widened to float32, multiplied there, and rounded to 16 bits.
    """
    x = np.asarray(x)
    if x.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    wide: DTypeLike = np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        product = (x.astype(wide) * np.asarray(scale, dtype=np.float64).astype(wide)).astype(
            x.dtype
        )
    y = np.zeros(x.shape, dtype=x.dtype)
    np.copyto(y, product, where=np.broadcast_to(np.asarray(kept, dtype=np.bool_), x.shape))
    return y


def alpha_dropout(x: NDArray, kept: ArrayLike, keep: ArrayLike) -> NDArray:
    """``a * (x or c) + b``, which keeps mean 0 and variance 1; 0 where keep = 0.

    ``c = -scale * alpha`` of SELU, ``a = (keep * (1 + (1 - keep) * c**2)) ** -0.5`` and
    ``b = -a * (1 - keep) * c``.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
    kept : array_like of bool
        Broadcasts to ``x``.
    keep : array_like of float
        Broadcasts to ``x``.

    Returns
    -------
    ndarray of float64, shape of ``x``
    """
    x, keep = np.asarray(x, np.float64), np.asarray(keep, np.float64)
    c = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (keep * (1 + (1 - keep) * c**2)) ** -0.5
        y = a * np.where(kept, x, c) - a * (1 - keep) * c
    return np.where(keep == 0, 0.0, y)


# The masked product -------------------------------------------------------------------------------


def masked_matmul(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_mask: Pair | None = None,
    w_mask: Pair | None = None,
    y_mask: Pair | None = None,
    activation: Activation = None,
) -> Floats:
    """``y = act((x o Mx) @ (w o Mw) + bias) o My``, in float64.

    Parameters
    ----------
    x : array_like, shape (..., K)
    w : array_like, shape (K, N)
    bias : array_like, shape (N,), optional
    x_mask, w_mask, y_mask : (kept, scale), optional
        Each broadcasts to what it masks. ``w_mask`` may be ``(B, K, N)``: another mask of the
        weights for each entry of the first axis of ``x``.
    activation : {None, "relu"}

    Returns
    -------
    ndarray of float64, shape (..., N)
    """
    z = _product(_masked(x, x_mask), _masked_weights(w, w_mask))
    if bias is not None:
        z = z + np.asarray(bias, dtype=np.float64)
    if activation == "relu":
        z = np.maximum(z, 0.0)
    elif activation is not None:
        raise ValueError(f"activation must be None or 'relu', got {activation!r}")
    return _masked(z, y_mask)


def masked_matmul_backward(
    dy: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    y: ArrayLike,
    *,
    x_mask: Pair | None = None,
    w_mask: Pair | None = None,
    y_mask: Pair | None = None,
    activation: Activation = None,
) -> tuple[Floats, Floats, Floats]:
    """The gradients of :func:`masked_matmul`, in float64.

    With ``dz = (dy o My) o act'(z)``, ``X = x o Mx`` and ``W = w o Mw``::

        dx = (dz @ W.T) o Mx        dw = (X.T @ dz) o Mw        dbias = sum(dz)

    Parameters
    ----------
    dy : array_like, shape (..., N)
    x, w
        As given to the forward pass.
    y : array_like, shape (..., N)
        What the forward pass returned, mask and scale included.
    x_mask, w_mask, y_mask, activation
        As given to the forward pass.

    Returns
    -------
    dx : ndarray of float64, shape (..., K)
    dw : ndarray of float64, shape (K, N)
    dbias : ndarray of float64, shape (N,)
    """
    dz = _masked(dy, y_mask)
    if activation == "relu":
        # Where y is kept it is positive exactly where z is; where it is dropped dz is 0 already.
        dz = np.where(np.asarray(y) > 0, dz, 0.0)
    elif activation is not None:
        raise ValueError(f"activation must be None or 'relu', got {activation!r}")

    used_x = _masked(x, x_mask)
    used_w = _masked_weights(w, w_mask)
    dx = _masked(_product(dz, np.swapaxes(used_w, -1, -2)), x_mask)

    features, outputs = used_w.shape[-2:]
    samples = len(used_w) if used_w.ndim == 3 else 1
    dw = np.zeros((features, outputs))
    for b in range(samples):
        rows = slice(None) if used_w.ndim == 2 else b
        leading = list(range(dz[rows].ndim - 1))
        total = np.tensordot(used_x[rows], dz[rows], axes=(leading, leading))
        dw += _masked(total, _sample(w_mask, b))
    return dx, dw, dz.sum(axis=tuple(range(dz.ndim - 1)))


def _masked(values: ArrayLike, mask: Pair | None) -> Floats:
    values = np.asarray(values).astype(np.float64)
    return values if mask is None else dropout(values, *mask)


def _masked_weights(w: ArrayLike, mask: Pair | None) -> Floats:
    """The weights in use: (K, N), or (B, K, N) where each sample has its own mask."""
    weights = np.asarray(w).astype(np.float64)
    if mask is not None and np.ndim(mask[0]) == 3:
        weights = np.broadcast_to(weights, (len(np.asarray(mask[0])), *weights.shape))
    return _masked(weights, mask)


def _product(x: Floats, w: Floats) -> Floats:
    """``x @ w``; with a (B, K, N) ``w``, entry b of the first axis of ``x`` meets ``w[b]``."""
    if w.ndim == 2:
        return x @ w
    if len(x) != len(w):
        raise ValueError(f"{len(w)} masks of the weights for {len(x)} samples")
    y = np.zeros((*x.shape[:-1], w.shape[-1]))
    for b in range(len(w)):
        y[b] = x[b] @ w[b]
    return y


def _sample(mask: Pair | None, b: int) -> Pair | None:
    """What sample ``b`` sees of a mask of the weights."""
    if mask is None or np.ndim(mask[0]) < 3:
        return mask
    kept, scale = np.asarray(mask[0]), np.asarray(mask[1])
    if scale.ndim == 3:
        scale = np.broadcast_to(scale, kept.shape)[b]
    return kept[b], scale


# Attention ----------------------------------------------------------------------------------------


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: Pair | None = None,
    causal: bool = False,
    bias: ArrayLike = 0.0,
    lengths: ArrayLike | None = None,
    scale: float | None = None,
) -> tuple[Floats, Floats]:
    """``out = (softmax(scale * q @ k.T + bias) o M) @ v`` for each batch and head, in float64.

    Parameters
    ----------
    q : array_like, shape (batch, heads, queries, size)
    k : array_like, shape (batch, key_heads, keys, size)
        Head h of q meets head ``h // (heads // key_heads)`` of k and v.
    v : array_like, shape (batch, key_heads, keys, value_size)
    mask : (kept, scale), optional
        Of the weights: each broadcasts to (batch, heads, queries, keys).
    causal : bool, default False
        Query i sees the keys 0 ... i only.
    bias : array_like, default 0
        Broadcasts to (batch, heads, queries, keys). -inf hides a key.
    lengths : array_like of int, shape (batch,), optional
        The number of keys that each sample has.
    scale : float, optional
        Of the scores. Default: ``size ** -0.5``.

    Returns
    -------
    out : ndarray of float64, shape (batch, heads, queries, value_size)
        Zero for a query that sees no key.
    logsumexp : ndarray of float64, shape (batch, heads, queries)
    """
    whole = _Heads(q, k, v, mask, causal, bias, lengths, scale)
    out = np.zeros((*whole.q.shape[:3], whole.v.shape[3]))
    logsumexp = np.zeros(whole.q.shape[:3])
    for b, h in np.ndindex(*whole.q.shape[:2]):
        _, own_v, _, used, logsumexp[b, h] = whole.head(b, h)
        out[b, h] = used @ own_v
    return out, logsumexp


def attention_backward(
    dout: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: Pair | None = None,
    causal: bool = False,
    bias: ArrayLike = 0.0,
    lengths: ArrayLike | None = None,
    scale: float | None = None,
) -> tuple[Floats, Floats, Floats]:
    """The gradients of :func:`attention`, in float64.

    With the weights p and ``dp = (dout @ v.T) o M``, whose scores have the gradient
    ``ds = p * (dp - sum(p * dp))``::

        dq = scale * ds @ k        dk = scale * ds.T @ q        dv = (p o M).T @ dout

    Parameters
    ----------
    dout : array_like, shape (batch, heads, queries, value_size)
    q, k, v, mask, causal, bias, lengths, scale
        As given to the forward pass.

    Returns
    -------
    dq : ndarray of float64, of the shape of q
    dk, dv : ndarray of float64, of the shapes of k and v
        Zero for keys behind the length of their sample.
    """
    whole = _Heads(q, k, v, mask, causal, bias, lengths, scale)
    dout = np.asarray(dout, dtype=np.float64)
    dq, dk, dv = (np.zeros(array.shape) for array in (whole.q, whole.k, whole.v))
    for b, h in np.ndindex(*whole.q.shape[:2]):
        own_k, own_v, p, used, _ = whole.head(b, h)
        keys, shared = slice(len(own_k)), h // whole.group
        dp = whole.dropped(b, h, dout[b, h] @ own_v.T)
        ds = p * (dp - np.sum(p * dp, axis=1, keepdims=True))
        dq[b, h] = whole.scale * ds @ own_k
        dk[b, shared, keys] += whole.scale * ds.T @ whole.q[b, h]
        dv[b, shared, keys] += used.T @ dout[b, h]
    return dq, dk, dv


class _Heads:
    """The arguments of attention, in float64 and in full."""

    def __init__(
        self,
        q: ArrayLike,
        k: ArrayLike,
        v: ArrayLike,
        mask: Pair | None,
        causal: bool,
        bias: ArrayLike,
        lengths: ArrayLike | None,
        scale: float | None,
    ) -> None:
        self.q, self.k, self.v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
        batch, heads, queries, size = self.q.shape
        key_heads, keys = self.k.shape[1:3]
        shape = (batch, heads, queries, keys)
        self.group = heads // max(key_heads, 1)
        self.causal = causal
        self.bias = np.broadcast_to(np.asarray(bias, dtype=np.float64), shape)
        self.lengths = np.full(batch, keys) if lengths is None else np.asarray(lengths)
        self.scale = (max(size, 1) ** -0.5) if scale is None else scale
        kept, factor = (True, 1.0) if mask is None else mask
        self.kept = np.broadcast_to(np.asarray(kept, dtype=np.bool_), shape)
        self.factor = np.broadcast_to(np.asarray(factor, dtype=np.float64), shape)

    def head(self, b: int, h: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """The k and v that a head sees, its weights without and with dropout, and its logsumexp."""
        n = self.lengths[b]
        k, v = self.k[b, h // self.group, :n], self.v[b, h // self.group, :n]
        s = self.scale * (self.q[b, h] @ k.T) + self.bias[b, h, :, :n]
        if self.causal:
            s[np.arange(n) > np.arange(len(s))[:, np.newaxis]] = -math.inf
        top = np.max(s, axis=1, keepdims=True, initial=-math.inf)
        p = np.exp(s - np.where(top == -math.inf, 0.0, top))
        total = np.sum(p, axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            logsumexp = (np.log(total) + top)[:, 0]
        p /= np.where(total == 0, 1.0, total)
        return k, v, p, self.dropped(b, h, p), logsumexp

    def dropped(self, b: int, h: int, weights: Floats) -> Floats:
        """The weights of a head after dropout."""
        own = (b, h, slice(None), slice(weights.shape[1]))
        return np.where(self.kept[own], weights * self.factor[own], 0.0)


# Convolutions and pooling ----------------------------------------------------------------------


def _taps(
    image: tuple[int, int],
    out: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """(i, j) of the output, (k, l) of the window and (y, x) of the image, where that is inside."""
    for i, j in np.ndindex(out):
        for k, l in np.ndindex(kernel):  # noqa: E741
            y = i * stride[0] + k * dilation[0] - before[0]
            x = j * stride[1] + l * dilation[1] - before[1]
            if 0 <= y < image[0] and 0 <= x < image[1]:
                yield i, j, k, l, y, x


def convolution(
    x: NDArray,
    w: NDArray,
    *,
    out: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
    groups: int = 1,
) -> Floats:
    """The sums of a convolution of images, tap by tap, in float64.

    Parameters
    ----------
    x : (batch, height, width, channels)
    w : (kernel height, kernel width, channels / groups, maps)
    out : (height, width) of the output
    stride, dilation, before : (along the height, along the width)
    groups : int

    Returns
    -------
    ndarray of float64, shape ``(batch, *out, maps)``
    """
    x, w = x.astype(np.float64), w.astype(np.float64)
    channels, maps = w.shape[2], w.shape[3] // groups
    z = np.zeros((len(x), *out, groups * maps))
    for i, j, k, l, row, column in _taps(  # noqa: E741
        x.shape[1:3], out, w.shape[:2], stride, dilation, before
    ):
        for g in range(groups):
            c, n = slice(g * channels, (g + 1) * channels), slice(g * maps, (g + 1) * maps)
            z[:, i, j, n] += x[:, row, column, c] @ w[k, l, :, n]
    return z


def convolution_backward(
    dz: NDArray,
    x: NDArray,
    w: NDArray,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    before: tuple[int, int],
    groups: int = 1,
) -> tuple[Floats, Floats]:
    """dx and dw of :func:`convolution`, in float64, from dz (batch, height, width, maps).

    Parameters
    ----------
    dz : ndarray, shape (batch, height, width, maps)
        The gradient of the output.
    x, w, stride, dilation, before, groups
        As for :func:`convolution`.

    Returns
    -------
    dx : ndarray of float64
        Of the shape of x.
    dw : ndarray of float64
        Of the shape of w.
    """
    dz, x, w = dz.astype(np.float64), x.astype(np.float64), w.astype(np.float64)
    channels, maps = w.shape[2], w.shape[3] // groups
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for i, j, k, l, row, column in _taps(  # noqa: E741
        x.shape[1:3], dz.shape[1:3], w.shape[:2], stride, dilation, before
    ):
        for g in range(groups):
            c, n = slice(g * channels, (g + 1) * channels), slice(g * maps, (g + 1) * maps)
            dx[:, row, column, c] += dz[:, i, j, n] @ w[k, l, :, n].T
            dw[k, l, :, n] += x[:, row, column, c].T @ dz[:, i, j, n]
    return dx, dw


def pooling(
    x: NDArray,
    *,
    out: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
    average: bool = False,
    count_include_pad: bool = False,
) -> Floats:
    """Maxima or averages of the windows of images, in float64.

    Parameters
    ----------
    x : (batch, height, width, channels)
    out : (height, width) of the output
    kernel, stride, before : (along the height, along the width)
    average : bool
    count_include_pad : bool
        Whether an average is over all of the window, or over what is inside of the image.

    Returns
    -------
    ndarray of float64, shape ``(batch, *out, channels)``
        The maximum is NaN where an element is, and 0 of no elements.
    """
    windows: dict[tuple[int, int], list[NDArray]] = {}
    for i, j, _, _, row, column in _taps(x.shape[1:3], out, kernel, stride, (1, 1), before):
        windows.setdefault((i, j), []).append(x[:, row, column].astype(np.float64))
    y = np.zeros((len(x), *out, x.shape[-1]))
    for (i, j), inside in windows.items():
        count = kernel[0] * kernel[1] if count_include_pad else len(inside)
        y[:, i, j] = np.sum(inside, axis=0) / count if average else np.max(inside, axis=0)
    return y


def pooling_backward(
    dy: NDArray,
    x: NDArray,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
    average: bool = False,
    count_include_pad: bool = False,
) -> Floats:
    """dx of :func:`pooling`, in float64; a maximum is the first of several, and the last NaN.

    Parameters
    ----------
    dy : ndarray
        The gradient of the output.
    x, kernel, stride, before, average, count_include_pad
        As for :func:`pooling`.

    Returns
    -------
    ndarray of float64
        Of the shape of x.
    """
    out = dy.shape[1:3]
    places: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j, _, _, row, column in _taps(x.shape[1:3], out, kernel, stride, (1, 1), before):
        places.setdefault((i, j), []).append((row, column))
    dx = np.zeros(x.shape)
    for (i, j), inside in places.items():
        count = kernel[0] * kernel[1] if count_include_pad else len(inside)
        for b, c in np.ndindex(len(x), x.shape[-1]):
            if average:
                for row, column in inside:
                    dx[b, row, column, c] += dy[b, i, j, c] / count
                continue
            values = [x[b, row, column, c] for row, column in inside]
            nans = [n for n, value in enumerate(values) if np.isnan(value)]
            row, column = inside[nans[-1] if nans else int(np.argmax(values))]
            dx[b, row, column, c] += dy[b, i, j, c]
    return dx


# Max-norm -----------------------------------------------------------------------------------------


def max_norm(w: NDArray, max_norm: float, axis: int | tuple[int, ...]) -> NDArray:
    """Vectors longer than ``max_norm`` shortened to it, all others untouched.

    Parameters
    ----------
    w : ndarray of float16, bfloat16, float32 or float64
    max_norm : float
        The bound c >= 0.
    axis : int or tuple of int
        The axes the norm runs over.

    Returns
    -------
    ndarray, shape and dtype of ``w``
        A copy in which the float64 norm of the stored values of every vector is at most c. A vector
        that holds a NaN or an infinity is returned as it is.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must be at least 0, got {max_norm}")
    w = np.asarray(w)
    axes = {a + w.ndim if a < 0 else a for a in ((axis,) if isinstance(axis, int) else axis)}
    others = [a for a in range(w.ndim) if a not in axes]
    result = w.copy()
    # The vectors as rows of a copy: axes that are summed last, one row at a time.
    rows = np.transpose(result, [*others, *sorted(axes)])
    for row in np.ndindex(*(w.shape[a] for a in others)):
        rows[row] = _shortened(rows[row], float(max_norm))
    return result


def _shortened(v: NDArray, bound: float) -> NDArray:
    wide = v.astype(np.float64)
    if not np.all(np.isfinite(wide)) or _within(wide, bound):
        return v
    unit, _ = _balanced(wide)
    factor = bound / math.sqrt(float(np.sum(unit * unit)))
    step = 2.0**-53
    while True:
        short = (unit * factor).astype(v.dtype)
        if _within(short.astype(np.float64), bound):
            return short
        # Rounding to the dtype can lengthen by half an ulp of it: give way, faster each time.
        factor *= 1.0 - step
        step *= 2.0


def _within(v: Floats, bound: float) -> bool:
    """Whether the norm is at most ``bound``, whatever the squares would overflow to."""
    unit, exponent = _balanced(v)
    with np.errstate(over="ignore", under="ignore"):
        return bool(np.sqrt(np.sum(unit * unit)) <= np.ldexp(bound, -exponent))


def _balanced(v: Floats) -> tuple[Floats, int]:
    """``v`` divided by the power of two that brings its largest element next to 1."""
    exponent = math.frexp(float(np.abs(v).max(initial=0.0)))[1]
    return np.ldexp(v, -exponent), exponent


# Optimisers ---------------------------------------------------------------------------------------


def sgd(
    w: NDArray,
    g: NDArray,
    velocity: NDArray | None = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> tuple[NDArray, NDArray | None]:
    """A step of stochastic gradient descent, every operation rounded to the dtype of ``w``.

    Parameters
    ----------
    w, g : ndarray of float32 or float64
        Weights and their gradient.
    velocity : ndarray, optional
        Of the shape and dtype of ``w``.
    learning_rate, momentum : float
    nesterov : bool
        Look ahead along the velocity.
    weight_decay : float
        How much of ``w`` is added to ``g``.

    Returns
    -------
    w : ndarray
        The new one. Denormal numbers stay.
    velocity : ndarray or None
        The new one; None where none was given.
    """
    rate, m = w.dtype.type(learning_rate), w.dtype.type(momentum)
    if weight_decay:
        g = g + w.dtype.type(weight_decay) * w
    change = g * -rate
    if velocity is None:
        return w + change, None
    velocity = velocity * m + change
    if nesterov:
        return w + (change + m * velocity), velocity
    return w + velocity, velocity


def adam(
    w: NDArray,
    g: NDArray,
    mean: NDArray,
    square: NDArray,
    *,
    step: int,
    learning_rate: float = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[NDArray, NDArray, NDArray]:
    """A step of Adam, every operation rounded to the dtype of ``w``.

    The corrections of the means depend on the step alone and are computed in float64.

    Parameters
    ----------
    w, g, mean, square : ndarray of float32 or float64
        Weights, their gradient, and the running means of it and of its square.
    step : int
        Counted from 0.
    learning_rate, beta_1, beta_2, epsilon : float
    weight_decay : float
        Of AdamW: ``w`` is multiplied by 1 - learning_rate * weight_decay first.

    Returns
    -------
    w : ndarray
        The new one. Denormal numbers stay.
    mean, square : ndarray
        The new ones.
    """
    number = w.dtype.type
    rate = number(learning_rate / (1.0 - beta_1 ** (step + 1)))
    scale = number(1.0 / math.sqrt(1.0 - beta_2 ** (step + 1)))
    keep = number(1.0 - learning_rate * weight_decay)
    mean = number(beta_1) * mean + number(1.0 - beta_1) * g
    square = number(beta_2) * square + number(1.0 - beta_2) * (g * g)
    return keep * w - rate * mean / (np.sqrt(square) * scale + number(epsilon)), mean, square


def rmsprop(
    w: NDArray,
    g: NDArray,
    square: NDArray,
    mean: NDArray | None = None,
    velocity: NDArray | None = None,
    *,
    learning_rate: float,
    rho: float = 0.99,
    momentum: float = 0.0,
    epsilon: float = 1e-8,
) -> tuple[NDArray, NDArray, NDArray | None, NDArray | None]:
    """A step of RMSprop, every operation rounded to the dtype of ``w``.

    Parameters
    ----------
    w, g, square : ndarray of float32 or float64
        Weights, their gradient, and the running mean of its square.
    mean : ndarray, optional
        The running mean of the gradient, if it is to be centered.
    velocity : ndarray, optional
        Needed for momentum.
    learning_rate, rho, momentum, epsilon : float

    Returns
    -------
    w, square : ndarray
        The new ones. Denormal numbers stay.
    mean, velocity : ndarray or None
        The new ones; None where none was given.
    """
    number = w.dtype.type
    square = number(rho) * square + number(1.0 - rho) * (g * g)
    spread = square
    if mean is not None:
        mean = number(rho) * mean + number(1.0 - rho) * g
        spread = square - mean * mean
        spread = np.where(spread < 0, number(0), spread)
    change = g * -number(learning_rate) / (np.sqrt(spread) + number(epsilon))
    if velocity is not None:
        velocity = change = velocity * number(momentum) + change
    return w + change, square, mean, velocity


def adagrad(
    w: NDArray, g: NDArray, square: NDArray, *, learning_rate: float, epsilon: float = 1e-10
) -> tuple[NDArray, NDArray]:
    """A step of Adagrad, every operation rounded to the dtype of ``w``.

    Parameters
    ----------
    w, g, square : ndarray of float32 or float64
        Weights, their gradient, and the sum of its squares.
    learning_rate, epsilon : float

    Returns
    -------
    w : ndarray
        The new one. Denormal numbers stay.
    square : ndarray
        The new one.
    """
    number = w.dtype.type
    square = square + g * g
    return w - number(learning_rate) * g / (np.sqrt(square) + number(epsilon)), square


def adadelta(
    w: NDArray,
    g: NDArray,
    square: NDArray,
    change: NDArray,
    *,
    learning_rate: float = 1.0,
    rho: float = 0.95,
    epsilon: float = 1e-6,
) -> tuple[NDArray, NDArray, NDArray]:
    """A step of Adadelta, every operation rounded to the dtype of ``w``.

    Parameters
    ----------
    w, g, square, change : ndarray of float32 or float64
        Weights, their gradient, and the running means of its square and of that of the changes.
    learning_rate, rho, epsilon : float

    Returns
    -------
    w : ndarray
        The new one. Denormal numbers stay.
    square, change : ndarray
        The new ones.
    """
    number = w.dtype.type
    square = number(rho) * square + number(1.0 - rho) * (g * g)
    moved = np.sqrt(change + number(epsilon)) / np.sqrt(square + number(epsilon)) * g
    change = number(rho) * change + number(1.0 - rho) * (moved * moved)
    return w - number(learning_rate) * moved, square, change

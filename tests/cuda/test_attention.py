"""Attention of CuPy arrays: the numbers and the masks of the CPU."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from dropcore import Key, Mask, attention, attention_backward
from dropcore._backends import cuda
from dropcore._backends.cuda import attending, graphs, kernels
from dropcore.nn import (
    CrossAttention,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    Residual,
    Sequential,
)
from dropcore.optim import SGD
from dropcore.updates import dense
from support import host_cupy
from support.arrays import CLOSE, assert_same_bits, on_host
from support.attention import arrays, both
from support.layers import built, mapped

KEY = Key(0x0123456789ABCDEF, stream=5, step=77)
DTYPES = [np.float32, np.float64]


def same_as_the_cpu(gpu, inputs, on=None, **how):
    wanted = both(*inputs, **how)
    put = mapped(how, lambda a: gpu.asarray(a) if isinstance(a, np.ndarray) else a)
    found = both(*([gpu.asarray(a) for a in inputs] if on is None else on), **put)
    for a, b in zip(found, wanted, strict=True):
        assert isinstance(a, gpu.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(on_host(a), b, **CLOSE[inputs[0].dtype.type])
    return found


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(8).normal(size=shape).astype(dtype)


def hidden(*shape):
    """A bias that hides about half of the keys, and all of one query."""
    bias = np.where(np.random.default_rng(9).uniform(size=shape) < 0.5, -np.inf, 0.5)
    bias[..., -1, :] = -np.inf
    return bias


def options(shape, dtype):
    """All kinds of arguments, for scores of that shape."""
    batch, heads, queries, keys = shape
    rng = np.random.default_rng(4)
    every = {
        "plain": {},
        "scale": {"scale": -0.7},
        "rate": {"rate": 0.3, "key": KEY, "offset": 77},
        "all": {"rate": 1.0, "key": KEY},
        "none": {"keep": 1.0, "key": KEY},
        "lengths": {"lengths": np.array([keys, 0, keys // 2][:batch])},
        "bias": {"bias": numbers(*shape, dtype=dtype)},
        "bias of keys": {"bias": numbers(heads, 1, keys, dtype=dtype), "rate": 0.5, "key": 1},
        "bias of queries": {"bias": numbers(batch, 1, queries, 1, dtype=dtype)},
        "hidden": {"bias": hidden(1, 1, queries, keys).astype(dtype), "rate": 0.1, "key": 1},
        "allowed": {"allowed": rng.uniform(size=(queries, keys)) < 0.5, "rate": 0.2, "key": 3},
        "shared": {"mask": Mask((batch, 1, queries, keys), 0.3, key=KEY, offset=13)},
        "shared keys": {"mask": Mask((batch, heads, queries, 1), 0.3, key=KEY)},
        "shared queries": {"mask": Mask((heads, 1, keys), 0.3, key=KEY)},
        "run": {"mask": Mask(shape, 0.3, key=KEY, run=3)},
        "given": {"mask": Mask.given(rng.uniform(size=shape) < 0.5, keep=0.4)},
        "given to heads": {"mask": Mask.given(rng.uniform(size=(heads, 1, keys)) < 0.5, keep=0.5)},
    }
    if queries == keys:
        every["causal"] = {"causal": True, "rate": 0.4, "key": KEY}
        every["everything"] = {
            "causal": True, "rate": 0.4, "key": KEY, "offset": 5, "scale": 0.3,
            "bias": numbers(*shape, dtype=dtype), **every["lengths"],
            "allowed": every["allowed"]["allowed"],
        }  # fmt: skip
    return every


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", options((3, 4, 7, 7), np.float32))
def test_options(gpu, dtype, name):
    for heads, key_heads, queries in ((4, 2, 7), (3, 1, 21)):
        inputs = arrays(3, heads, queries, queries, 4, 3, key_heads=key_heads, dtype=dtype)
        same_as_the_cpu(gpu, inputs, **options((3, heads, queries, queries), dtype)[name])


# (batch, heads, queries, keys, size, value_size, key_heads)
SHAPES = [(1, 1, 1, 1, 1, 1, 1), (2, 2, 3, 130, 5, 2, 2), (1, 4, 33, 5, 1, 9, 1),
          (1, 1, 9, 1100, 2, 2, 1), (1, 2, 2, 128, 3, 1030, 2)]  # fmt: skip
EMPTY = [(0, 2, 3, 4, 2, 2, 1), (2, 0, 3, 4, 2, 2, 0), (2, 2, 0, 4, 2, 3, 1), (2, 2, 3, 0, 2, 2, 1),
         (2, 2, 3, 4, 0, 2, 1), (2, 2, 3, 4, 2, 0, 1)]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes(gpu, dtype, shape):
    inputs = arrays(*shape[:6], key_heads=shape[6], dtype=dtype)
    for how in ({}, {"rate": 0.3, "key": KEY, "offset": 5}, {"lengths": np.arange(shape[0]) % 2}):
        same_as_the_cpu(gpu, inputs, **how)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_nothing_to_attend_to(gpu, shape):
    inputs = arrays(*shape[:6], key_heads=shape[6])
    found = same_as_the_cpu(gpu, inputs, rate=0.5, key=1)
    if not shape[3]:  # without keys
        assert not on_host(found[0]).any()
        assert (on_host(found[1]) == -np.inf).all()
    for gradient, x in zip(found[2:], inputs, strict=False):
        assert gradient.shape == x.shape


# ---- masks ----


def weights(gpu, shape, dtype=np.float32, **how):
    """What is left of the weights, 1 / keys each, from a product with the identity."""
    batch, heads, queries, keys = shape
    q = gpu.zeros((batch, heads, queries, 2), dtype)
    k = gpu.zeros((batch, heads, keys, 2), dtype)
    v = gpu.asarray(np.broadcast_to(np.eye(keys, dtype=dtype), (batch, heads, keys, keys)).copy())
    return on_host(attention(q, k, v, **how))


@pytest.mark.parametrize("keys", [1, 5, 64, 127, 128, 129, 200, 256])
@pytest.mark.parametrize("offset", [0, 1, 64, 127, 128, (1 << 36) + 12345])
def test_masks_are_those_of_the_contract(gpu, keys, offset):
    shape = (2, 2, 3, keys)
    for keep in (0.5, 0.9):
        mask = Mask(shape, keep=keep, key=KEY, offset=offset)
        found = weights(gpu, shape, keep=keep, key=KEY, offset=offset)
        np.testing.assert_array_equal(found != 0, mask.to_bool())
        np.testing.assert_allclose(found[found != 0], mask.scale / keys, rtol=1e-6)


def test_shards_draw_the_mask_of_all(gpu):
    shape = (4, 6, 5, 70)
    whole = Mask(shape, 0.4, key=KEY).to_bool()
    for batch, head in itertools.product((slice(0, 4), slice(1, 3)), (slice(0, 6), slice(2, 5))):
        own = whole[batch, head]
        offset = (batch.start * 6 + head.start) * 5 * 70
        found = weights(gpu, own.shape, rate=0.4, key=KEY, offset=offset, mask_heads=6)
        np.testing.assert_array_equal(found != 0, own)


def test_the_backward_pass_draws_the_same_mask(gpu):
    """dv is the sum of the weights of each key."""
    shape = (2, 2, 9, 150)
    kept = Mask(shape, 0.4, key=KEY, offset=7)
    q, k = gpu.zeros((2, 2, 9, 2), np.float64), gpu.zeros((2, 2, 150, 2), np.float64)
    v, dy = gpu.zeros((2, 2, 150, 1), np.float64), gpu.ones((2, 2, 9, 1), np.float64)
    how = {"rate": 0.4, "key": KEY, "offset": 7}
    y, sums = attention(q, k, v, return_logsumexp=True, **how)
    dv = on_host(attention_backward(dy, q, k, v, y, sums, **how)[2])[..., 0]
    np.testing.assert_allclose(dv, kept.to_bool().sum(axis=2) * kept.scale / 150, rtol=1e-13)


@pytest.mark.parametrize("name", ["rate", "causal", "shared", "given", "everything"])
def test_no_result_depends_on_the_launch_shape(gpu, monkeypatch, name):
    inputs = [gpu.asarray(a) for a in arrays(2, 4, 37, 37, 4, 3, key_heads=2, dtype=np.float32)]
    how = mapped(options((2, 4, 37, 37), np.float32)[name],
                 lambda a: gpu.asarray(a) if isinstance(a, np.ndarray) else a)  # fmt: skip
    wanted = both(*inputs, **how)
    for blocks in (1, 3):
        monkeypatch.setattr(kernels, "BLOCKS", blocks)
        for a, b in zip(both(*inputs, **how), wanted, strict=True):
            assert_same_bits(a, b)


# ---- memory ----


@pytest.mark.parametrize("room", [1, 4 * 24, 4 * 24 * 10, 4 * 24 * 48, 4 * 24 * 48 * 2])
@pytest.mark.parametrize("name", ["rate", "bias", "lengths", "everything"])
def test_scores_of_some_heads_or_queries_at_a_time(host, monkeypatch, room, name):
    """No more memory than the room for scores and copies of the arguments."""
    inputs, sizes = arrays(3, 4, 24, 24, 3, 3, key_heads=2, dtype=np.float32), []
    own = attending.empty

    def empty(shape, dtype):
        sizes.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return own(shape, dtype)

    monkeypatch.setattr(attending, "SCORES", room)
    monkeypatch.setattr(attending, "empty", empty)
    before = len(host_cupy.launches)
    same_as_the_cpu(host, inputs, **options((3, 4, 24, 24), np.float32)[name])
    assert max(sizes) <= max(room, 4 * 24, *(a.nbytes for a in inputs))
    parts = {1: 288, 96: 288, 960: 30, 4608: 6, 9216: 3}[room]
    launched = host_cupy.launches[before:]
    assert launched.count("attention_sums") == launched.count("attention_weights") == parts
    assert launched.count("attention_weights_back") == parts


def swapped(a):
    """The same numbers, with heads inside of rows."""
    return a.swapaxes(1, 2).copy().swapaxes(1, 2)


def test_memory_orders(gpu):
    inputs = arrays(2, 4, 5, 6, 3, 4, key_heads=2, dtype=np.float32)
    on = [swapped(gpu.asarray(a)) for a in inputs]
    found = same_as_the_cpu(gpu, inputs, on, rate=0.3, key=KEY)
    for a, like in zip((found[0], *found[2:]), (on[0], *on[:3]), strict=True):
        assert a.strides[1] == a.shape[3] * 4
        assert like.strides[1] == like.shape[3] * 4
    joined = gpu.asarray(numbers(2, 5, 4, 3 * 3))  # q, k and v beside one another
    q, k, v = (joined[..., 3 * i : 3 * i + 3].transpose(0, 2, 1, 3) for i in range(3))
    wanted = attention(*(on_host(a).copy() for a in (q, k, v)), 0.3, key=KEY)
    np.testing.assert_allclose(on_host(attention(q, k, v, 0.3, key=KEY)), wanted, rtol=1e-5)
    room = gpu.zeros((2, 5, 4, 7), np.float32)
    out = room[..., 2:5].transpose(0, 2, 1, 3)
    assert attention(q, k, v, 0.3, key=KEY, out=out) is out
    np.testing.assert_allclose(on_host(out), wanted, rtol=1e-5)
    assert not on_host(room[..., :2]).any()
    assert not on_host(room[..., 5:]).any()


# ---- numbers ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores(gpu, dtype):
    """The weights of a query have the sum 1 forward, and none is above 1 backward."""
    q, k, v, dy = (gpu.asarray(a) for a in arrays(1, 2, 9, 70, 4, 1, dtype=dtype))
    v[...], dy[...] = 1, 1
    for size in (1e2, 1e4, 1e6):
        y, sums = attention(q * dtype(size), k, v, return_logsumexp=True)
        np.testing.assert_allclose(on_host(y), 1, rtol=10 * np.finfo(dtype).eps)
        wrong = sums - dtype(20)
        for given in (sums, wrong):
            gradients = attention_backward(dy, q * dtype(size), k, v, y, given)
            assert all(np.isfinite(on_host(a)).all() for a in gradients)
            assert on_host(gradients[2]).max() <= 9


# ---- lengths ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_behind_the_lengths_may_be_anything(gpu, dtype):
    q, k, v, dy = arrays(3, 2, 5, 8, 3, 3, key_heads=2, dtype=dtype)
    lengths = np.array([5, 0, 8])
    for x in (k, v):
        x[0, :, 5:] = np.nan
        x[1] = np.inf
    q[1] = dy[1] = np.nan
    found = same_as_the_cpu(gpu, [q, k, v, dy], lengths=lengths, rate=0.2, key=KEY)
    assert all(np.isfinite(on_host(found[i])).all() for i in (0, 2, 3, 4))
    assert not on_host(found[0])[1].any()
    assert (on_host(found[1])[1] == -np.inf).all()


def test_lengths_may_be_anywhere(gpu):
    inputs = arrays(2, 2, 5, 8, 3, 3, key_heads=1, dtype=np.float64)
    on = [gpu.asarray(a) for a in inputs]
    wanted = both(*inputs, lengths=[3, 8])
    there = gpu.asarray(np.array([3, 1, 8, 1]))
    for lengths in ([3, 8], np.array([3, 8], np.uint8), there[::2], there.astype(np.int32)[::2]):
        for a, b in zip(both(*on, lengths=lengths), wanted, strict=True):
            np.testing.assert_allclose(on_host(a), b, **CLOSE[np.float64])
    with pytest.raises(ValueError, match=r"lengths must be in \[0, 8\].*got 3 \.\.\. 9"):
        attention(*on[:3], lengths=[3, 9])


def test_lengths_on_the_device_cannot_lead_out_of_the_arrays(gpu):
    """They are not checked, which would wait: what is more than all keys is all keys."""
    inputs = arrays(2, 2, 5, 8, 3, 3, key_heads=1, dtype=np.float64)
    on = [gpu.asarray(a) for a in inputs]
    wanted = both(*inputs, lengths=[0, 8])
    found = both(*on, lengths=gpu.asarray(np.array([-3, 1 << 40])))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, **CLOSE[np.float64])


# ---- streams and graphs ----


@pytest.mark.parametrize(
    "name", ["rate", "lengths", "allowed", "given", "shared keys", "everything"]
)
def test_attention_waits_for_nothing_and_sends_nothing(host, name):
    inputs = [host.asarray(a) for a in arrays(2, 4, 6, 6, 3, 3, key_heads=2, dtype=np.float32)]
    how = mapped(options((2, 4, 6, 6), np.float32)[name],
                 lambda a: host.asarray(a) if isinstance(a, np.ndarray) else a)  # fmt: skip
    both(*inputs, **how)  # copies what never changes
    before = host_cupy.waits, host_cupy.sent
    both(*inputs, **how)
    assert (host_cupy.waits, host_cupy.sent) == before


@pytest.mark.usefixtures("products_in_graphs")
def test_a_graph_draws_the_masks_of_its_steps(gpu):
    inputs = arrays(2, 4, 40, 40, 3, 3, key_heads=2, dtype=np.float32)
    on = [gpu.asarray(a) for a in inputs]
    lengths = np.array([40, 17])
    there = gpu.asarray(lengths)
    graph = graphs.Graph()

    def work():
        return both(*on, rate=0.4, key=KEY, causal=True, lengths=there)

    graph.set(0, {})
    first = graph.rehearse(work)
    found = graph.record(work)
    for step in (3, 0):
        graph.set(step, {})
        graph.launch()
        key = KEY.at(step=KEY.step + step)
        wanted = both(*inputs, rate=0.4, key=key, causal=True, lengths=lengths)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(on_host(a), b, **CLOSE[np.float32])
    for a, b in zip(first, wanted, strict=True):
        np.testing.assert_allclose(on_host(a), b, **CLOSE[np.float32])
    with pytest.raises(ValueError, match="copies numbers from the host"):
        graph.record(lambda: attention(*on[:3], lengths=lengths))


# ---- wrong use ----


def test_arrays_are_on_one_device_and_of_one_dtype(gpu):
    q, k, v, dy = arrays(1, 2, 3, 3, 2, 2, key_heads=2, dtype=np.float32)
    on = [gpu.asarray(a) for a in (q, k, v, dy)]
    with pytest.raises(TypeError, match=r"on one device, got k of type numpy\.ndarray and q"):
        attention(on[0], k, v)
    with pytest.raises(TypeError, match=r"on one device, got bias of type numpy\.ndarray"):
        attention(*on[:3], bias=np.zeros((3, 3), np.float32))
    y, sums = attention(*on[:3], return_logsumexp=True)
    with pytest.raises(TypeError, match=r"on one device, got dout of type numpy\.ndarray"):
        attention_backward(dy, *on[:3], y, sums)
    with pytest.raises(TypeError, match="q must be float32 or float64, got float16"):
        attention(*(a.astype(np.float16) for a in on[:3]))
    with pytest.raises(TypeError, match=r"out must be a cupy\.ndarray"):
        attention(*on[:3], out=np.zeros_like(q))
    with pytest.raises(ValueError, match="out overlaps q; give a separate array"):
        attention(*on[:3], out=on[0])


def test_what_is_allowed_may_be_on_the_host(gpu):
    inputs = arrays(1, 2, 3, 3, 2, 2, key_heads=2, dtype=np.float32)
    on = [gpu.asarray(a) for a in inputs]
    wanted = attention(*inputs[:3], allowed=np.tri(3, dtype=bool))
    for allowed in (np.tri(3, dtype=bool), gpu.asarray(np.tri(3, dtype=bool))):
        found = attention(*on[:3], allowed=allowed)
        np.testing.assert_allclose(on_host(found), wanted, rtol=1e-5, atol=1e-6)
    assert cuda.ATTENTION == ("float32", "float64")


# ---- layers ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_to_a_context(gpu, dtype):
    layer = built(CrossAttention(4, 0.4, key_heads=2), 6, 8, dtype=dtype)
    there = copy.deepcopy(layer).to("cuda")
    rng = np.random.default_rng(5)
    x, context, dy = (rng.normal(size=(3, n, 8)).astype(dtype) for n in (6, 9, 6))
    found = []
    for own, put in ((layer, np.asarray), (there, gpu.asarray)):
        y, backward = own.forward(
            put(x), context=put(context), key=KEY, lengths=[6, 2, 0], context_lengths=[0, 9, 4]
        )
        gradients, grads = backward(put(dy), for_update=True)
        found.append([y, *gradients, *(dense(grads[name]) for name in sorted(grads))])
    for wanted, other in zip(*found, strict=True):
        assert isinstance(other, gpu.ndarray)
        np.testing.assert_allclose(on_host(other), wanted, **CLOSE[dtype])


def transformer():
    """Words to the next ones."""
    attention = MultiHeadAttention(4, 0.2, causal=True, key_heads=2)
    return Sequential(
        [Embedding(11, 8), LearnedPositions(6), Residual([LayerNorm(), attention, Dropout(0.1)]),
         Residual([LayerNorm(), Dense(16, activation="gelu"), Dropout(0.1), Dense(8)]),
         LayerNorm(), Dense(11)]
    )  # fmt: skip


@pytest.mark.usefixtures("products_in_graphs")
def test_a_transformer_learns_the_same_as_on_the_cpu_also_in_a_graph(gpu):
    rng = np.random.default_rng(2)
    words = rng.integers(0, 11, (24, 7))
    x, y = words[:, :-1], words[:, 1:]
    how = {"epochs": 2, "batch_size": 8, "key": 3, "progress": False}
    ends = []
    for put, more in ((np.asarray, {}), (gpu.asarray, {}), (gpu.asarray, {"cuda_graph": True})):
        model = built(transformer(), 6, dtype=np.float32)
        if put is not np.asarray:
            model.to("cuda")
        history = model.fit(put(x), put(y), optimizer=SGD(0.1, momentum=0.9), **how, **more)
        ends.append((history["loss"], {n: on_host(w) for n, w in model.params.items()}))
    (losses, weights), *others = ends
    for other_losses, other_weights in others:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
        for name, weight in weights.items():
            np.testing.assert_allclose(other_weights[name], weight, rtol=1e-3, atol=1e-5)

"""Every layer on CuPy arrays gives what it gives on NumPy arrays: see host_cupy.py."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_every_layer import CARRYING, EXAMPLES, KEY, batches, built, names

from dropcore.gradients import dense

CLOSE = {np.float32: {"rtol": 2e-5, "atol": 2e-5}, np.float64: {"rtol": 1e-10, "atol": 1e-11}}


def back(gpu, x):
    return x if isinstance(x, np.ndarray | float) else gpu.asnumpy(x)


def stepped(layer, x, dy, key, put, **options):
    """Output, input gradient and parameter gradients of a step, and the output without noise."""
    y, backward = layer.forward(put(x), key=key, row=3)
    dx, grads = backward(put(dy[: len(x)]), **options)
    return [y, dx, layer(put(x)), *(dense(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("layer", "sample"), EXAMPLES, ids=names)
def test_steps(gpu, layer, sample, dtype):
    layer = built(layer, sample, dtype)
    x = batches(layer, sample, 6, dtype)
    other = copy.deepcopy(layer).to("cuda")
    assert all(
        isinstance(w, gpu.ndarray) for w in (*other.params.values(), *other.buffers.values())
    )
    rng = np.random.default_rng(3)
    dy = rng.normal(size=(len(x), *layer.output_shape(sample))).astype(dtype)
    for options in ({}, {"for_update": True}):
        wanted = stepped(layer, x, dy, KEY, lambda a: a, **options)
        found = stepped(other, x, dy, KEY, gpu.asarray, **options)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert isinstance(a, gpu.ndarray)
                assert a.dtype == b.dtype
                np.testing.assert_allclose(back(gpu, a), b, **CLOSE[dtype])
    for name, buffer in layer.buffers.items():
        np.testing.assert_allclose(back(gpu, other.buffers[name]), buffer, **CLOSE[dtype])
    home = other.to("cpu")
    for name, weight in layer.params.items():
        np.testing.assert_array_equal(home.params[name], weight)


def in_two_pieces(layer, x, lengths, dy, put, key):
    """Two pieces of sequences one after the other, the gradient of the state brought back."""
    cut, found, state, ways = x.shape[1] // 2, [], None, []
    for piece, own in ((x[:, :cut], np.minimum(lengths, cut)), (x[:, cut:], lengths - cut)):
        y, state, backward = layer.forward_from(
            put(piece), state, key=key, row=2, lengths=np.maximum(own, 0)
        )
        found += [y, *leaves_of(state)]
        ways.append(backward)
    dstate = None
    for backward, of_y in reversed(list(zip(ways, (found[0], y), strict=True))):
        dx, grads, dstate = backward(put(dy[: of_y.size].reshape(of_y.shape)), dstate)
        found += [dx, *leaves_of(dstate), *(dense(grads[name]) for name in sorted(grads))]
    return found


def leaves_of(state):
    """The arrays of a state, of any kind."""
    if isinstance(state, dict | tuple):
        parts = [state[name] for name in sorted(state)] if isinstance(state, dict) else state
        return [array for part in parts for array in leaves_of(part)]
    return [] if state is None else [state]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("layer", "sample"), CARRYING, ids=names)
def test_pieces_of_sequences(gpu, layer, sample, dtype):
    layer, x = built(layer, sample, dtype), batches(layer, sample, 7, dtype)
    other = copy.deepcopy(layer).to("cuda")
    lengths = np.array([5, 0, 3, 1, 5, 2, 4])
    dy = np.random.default_rng(5).normal(size=7 * 5 * 40).astype(dtype)
    for key in (KEY, None):
        wanted = in_two_pieces(layer, x, lengths, dy, np.asarray, key)
        found = in_two_pieces(other, x, lengths, dy, gpu.asarray, key)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert isinstance(a, gpu.ndarray)
                assert a.dtype == b.dtype
                np.testing.assert_allclose(back(gpu, a), b, **CLOSE[dtype])

"""Every layer on CuPy arrays gives what it gives on NumPy arrays: see host_cupy.py."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_every_layer import EXAMPLES, KEY, batches, built, names

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

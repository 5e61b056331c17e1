"""Batch and layer normalisation: formulas, digits, bits, running moments."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import dropcore
from dropcore import Key, _core
from dropcore._ops.normalization import (
    batch_moments,
    batch_normalize,
    batch_normalize_backward,
    layer_normalize,
    layer_normalize_backward,
)
from dropcore.nn import BatchNorm, Dense, Dropout, LayerNorm, Sequential
from dropcore.optim import SGD
from support import host_cupy
from support.arrays import on_host
from support.differences import check_gradients
from support.layers import built

KEY = Key(5, stream=1, step=2)
DTYPES = (np.float32, np.float64)


def arrays(*shape, dtype=np.float64, seed=0, mean=0.0, std=1.0):
    """x, dy like it, gamma and beta."""
    rng = np.random.default_rng(seed)
    x, dy = mean + std * rng.normal(size=shape), rng.normal(size=shape)
    gamma, beta = rng.uniform(0.5, 2, shape[-1]), rng.normal(size=shape[-1])
    return [a.astype(dtype) for a in (x, dy, gamma, beta)]


def reference(x, dy, gamma, beta, axes, epsilon):
    """y, dx, dgamma, dbeta in long double, straight from the formulas."""
    x, dy, gamma, beta = (a.astype(np.longdouble) for a in (x, dy, gamma, beta))
    mean = x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    h, g = (x - mean) * scale, dy * gamma
    dx = scale * (g - g.mean(axes, keepdims=True) - h * (g * h).mean(axes, keepdims=True))
    others = tuple(range(x.ndim - 1))
    return h * gamma + beta, dx, (dy * h).sum(others), dy.sum(others)


def batch(x, dy, gamma, beta, epsilon=1e-5):
    found = batch_moments(x)
    y = batch_normalize(x, found.mean, found.variance, gamma, beta, epsilon=epsilon)
    return [y, *batch_normalize_backward(dy, x, found, gamma, epsilon=epsilon)]


def layer(x, dy, gamma, beta, epsilon=1e-5):
    y, mean, scale = layer_normalize(x, gamma, beta, epsilon=epsilon)
    return [y, *layer_normalize_backward(dy, x, mean, scale, gamma)]


KINDS = {"batch": (batch, lambda x: tuple(range(x.ndim - 1))), "layer": (layer, lambda x: (-1,))}
kinds = pytest.mark.parametrize("kind", KINDS)


# --- arrays --------------------------------------------------------------------------------------

SHAPES = [
    (2, 1), (3, 5), (31, 8), (32, 15), (33, 16), (65, 17), (1024, 3), (1025, 33), (3000, 7),
    (4, 5, 6), (2, 3, 4, 40), (5, 1000), (1, 1), (31, 1), (257, 33), (9, 1024), (7, 1025),
    (1000, 257), (6, 3001),
]  # fmt: skip


@kinds
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_formulas(xp, kind, shape, dtype):
    function, axes = KINDS[kind]
    given = arrays(*shape, dtype=dtype, mean=2)
    found = map(on_host, function(*map(xp.asarray, given)))
    wanted = reference(*given, axes(given[0]), 1e-5)
    eps = np.finfo(dtype).eps
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        size = 1 + np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs.astype(np.float64), rtol=0, atol=30 * eps * size)


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [1e4, -3e6])
def test_a_large_mean_costs_no_digits(xp, kind, dtype, mean):
    """What is left of x after its rounding counts: the reference takes the same rounded x."""
    function, axes = KINDS[kind]
    given = arrays(500, 70, dtype=dtype, mean=mean)
    found = map(on_host, function(*map(xp.asarray, given)))
    wanted = reference(*given, axes(given[0]), 1e-5)
    tolerance = 2e-6 if dtype == np.float32 else 2e-9 if mean == -3e6 else 1e-11
    for ours, theirs in zip(found, wanted, strict=True):
        size = 1 + np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs.astype(np.float64), rtol=0, atol=tolerance * size)


def test_moments_of_blocks_that_differ(xp):
    """Each block of rows far from the others: their means count in the variance."""
    x = np.repeat(np.arange(40.0), 50)[:, None] * [1.0, -1e3] + arrays(2000, 2)[0]
    found = batch_moments(xp.asarray(x))
    mean, variance = on_host(found.mean), on_host(found.variance)
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-13)
    odd = np.full((100, 1), 7.0, np.float32)
    odd[0] = -1e6  # the number that differences are taken from is the outlier
    variance = on_host(batch_moments(xp.asarray(odd)).variance)
    np.testing.assert_allclose(variance, odd.astype(np.float64).var(0), rtol=1e-12)
    same = xp.asarray(np.full((77, 3), 0.1, np.float32))
    assert on_host(batch_moments(same).variance).tolist() == [0, 0, 0]


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_from_every_instruction_set(kind, dtype, isa):
    function, _ = KINDS[kind]
    for shape in ((1300, 37), (3, 5)):
        given = arrays(*shape, dtype=dtype, mean=3)
        found = function(*given)
        _core.set_isa("scalar")
        wanted = function(*given)
        _core.set_isa(isa)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_for_every_team(kind, dtype, assert_team, threads):
    function, _ = KINDS[kind]
    given = arrays(4001, 130, dtype=dtype)
    found = function(*given)
    assert_team()
    dropcore.set_num_threads(1)
    wanted = function(*given)
    dropcore.set_num_threads(threads)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@kinds
def test_any_layout(kind):
    function, _ = KINDS[kind]
    x, dy, gamma, beta = arrays(40, 12, dtype=np.float32)
    wanted = function(x, dy, gamma, beta)
    wide = np.zeros((40, 24), np.float32)
    wide[:, ::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for other in (wide[:, ::2], np.asfortranarray(x), read_only):
        for ours, theirs in zip(function(other, dy[:], gamma, beta), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(
            function(x, np.asfortranarray(dy), gamma, beta), wanted, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@kinds
def test_nan_stays_where_it_belongs(xp, kind):
    function, _ = KINDS[kind]
    given = arrays(50, 9, dtype=np.float32)
    given[0][20, 3] = np.nan
    y = on_host(function(*map(xp.asarray, given))[0])
    bad = np.zeros(y.shape, bool)
    bad[(slice(None), 3) if kind == "batch" else (20, slice(None))] = True
    np.testing.assert_array_equal(np.isnan(y), bad)


@kinds
def test_nothing_waits_and_nothing_comes_of_an_empty_batch(host, kind):
    function, _ = KINDS[kind]
    given = [host.asarray(a) for a in arrays(40, 9)]
    before = host_cupy.waits
    function(*given)
    assert host_cupy.waits == before
    x, dy, gamma, beta = given
    if kind == "layer":
        found = function(x[:0], dy[:0], gamma, beta)
    else:
        found = batch_normalize_backward(dy[:0], x[:0], batch_moments(x[:0]), gamma, epsilon=1e-5)
        found = [batch_normalize(x[:0], beta, gamma, gamma, beta, epsilon=1e-5), *found]
    assert [a.shape for a in found] == [(0, 9), (0, 9), (9,), (9,)]
    assert not any(on_host(a).any() for a in found)
    assert batch_moments(x[:0]).rows == 0


def test_arguments():
    x, dy, gamma, _ = arrays(4, 3)
    for bad in (dy[:2], dy.astype(np.float32)):
        with pytest.raises(ValueError, match=r"must have the shape of the output, \(4, 3\)"):
            batch_normalize_backward(bad, x, batch_moments(x), gamma, epsilon=1e-5)
        with pytest.raises(ValueError, match=r"must have the shape of the output, \(4, 3\)"):
            layer_normalize_backward(bad, x, np.zeros(4), np.ones(4), gamma)
    with pytest.raises(ValueError, match="mean must have at least 3 elements, got 2"):
        batch_normalize(x, np.zeros(2), np.ones(3), gamma, gamma, epsilon=1e-5)


# --- layers --------------------------------------------------------------------------------------


LAYERS = [
    BatchNorm(), BatchNorm(scale=False), BatchNorm(center=False), BatchNorm(epsilon=0.5),
    LayerNorm(), LayerNorm(scale=False), LayerNorm(center=False), LayerNorm(epsilon=0.5),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("shape", [(6, 7), (3, 2, 5), (40, 3), (5, 17), (7, 1)])
def test_gradients_equal_finite_differences(layer, shape):
    ours = built(layer, *shape[1:])
    check_gradients(ours, arrays(*shape, mean=2)[0], rtol=2e-6, atol=1e-6)
    assert set(ours.params) == {
        name for name, there in (("gamma", layer.scale), ("beta", layer.center)) if there
    }


def test_running_moments_move_in_the_step_that_is_made_and_nowhere_else():
    ours = built(BatchNorm(momentum=0.75), 4)
    x, dy, *_ = arrays(30, 4, mean=3, std=2)
    before = {name: array.copy() for name, array in ours.buffers.items()}

    def moved():
        return any((ours.buffers[name] != array).any() for name, array in before.items())

    ours(x)
    ours(x, KEY)
    _, backward = ours.forward(x, key=KEY)
    backward(dy)
    assert not moved()
    arrays_before = list(ours.buffers.values())
    backward(dy, for_update=True)
    assert all(a is b for a, b in zip(arrays_before, ours.buffers.values(), strict=True))
    np.testing.assert_allclose(
        ours.buffers["mean"], 0.75 * before["mean"] + 0.25 * x.mean(0), rtol=1e-12
    )
    np.testing.assert_allclose(
        ours.buffers["variance"], 0.75 * before["variance"] + 0.25 * x.var(0, ddof=1), rtol=1e-12
    )


def test_running_moments_converge_to_those_of_the_data():
    ours = BatchNorm()
    ours.build((3,), key=0)
    for step in range(400):
        x = arrays(5, 3, dtype=np.float32, seed=step, mean=4, std=2)[0]
        ours.forward(x)[1](x, for_update=True)
    np.testing.assert_allclose(ours.buffers["mean"], 4, atol=0.8)
    np.testing.assert_allclose(ours.buffers["variance"], 4, atol=2.0)
    x = arrays(4000, 3, dtype=np.float32, seed=7, mean=4, std=2)[0]
    np.testing.assert_allclose(ours(x).std(0), 1, atol=0.25)


def test_a_batch_of_one_row():
    ours = built(BatchNorm(), 4)
    x, dy, *_ = arrays(1, 4)
    before = {name: array.copy() for name, array in ours.buffers.items()}
    y, backward = ours.forward(x)
    np.testing.assert_allclose(y[0], ours.params["beta"], rtol=1e-12)
    dx, grads = backward(dy, for_update=True)
    np.testing.assert_allclose(dx, 0, atol=1e-12)
    np.testing.assert_allclose(grads["beta"], dy[0])
    np.testing.assert_array_equal(ours.buffers["variance"], before["variance"])
    assert (ours.buffers["mean"] != before["mean"]).all()


def test_an_empty_batch_moves_nothing():
    ours = built(BatchNorm(), 2, 4)
    before = pickle.dumps(ours.buffers)
    y, backward = ours.forward(np.zeros((0, 2, 4)))
    dx, grads = backward(y, for_update=True)
    assert y.shape == dx.shape == (0, 2, 4)
    assert not grads["gamma"].any()
    assert pickle.dumps(ours.buffers) == before


def test_inference_under_noise_keeps_the_running_moments():
    model = Sequential([Dense(6), Dropout(0.5), BatchNorm(), Dense(2)])
    model.build((4,), key=1)
    x = arrays(5, 4, dtype=np.float32)[0]
    alone = np.concatenate([model(x[i : i + 1], KEY, row_offset=i) for i in range(5)])
    np.testing.assert_allclose(model(x, KEY), alone, rtol=1e-5, atol=1e-6)


def test_a_network_with_normalisation_learns():
    rng = np.random.default_rng(0)
    x = (1e3 + rng.normal(size=(300, 5)) * [1, 2, 3, 4, 5]).astype(np.float32)
    labels = (x[:, 0] > 1e3).astype(int)
    layers = [BatchNorm(), Dense(16, activation="gelu"), Dropout(0.1), LayerNorm(), Dense(2)]
    model = Sequential(layers)
    model.fit(x, labels, epochs=15, optimizer=SGD(0.1, momentum=0.9), key=3, progress=False)
    assert model.evaluate(x, labels)["accuracy"] > 0.95
    np.testing.assert_allclose(model.buffers["0.mean"], 1e3, atol=3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BatchNorm(momentum=1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: BatchNorm(epsilon=0), ValueError, "BatchNorm: epsilon must be positive and f"),
        (lambda: LayerNorm(epsilon=float("nan")), ValueError, "LayerNorm: epsilon must be"),
        (lambda: LayerNorm()(np.zeros((2, 3))), ValueError, r"LayerNorm\(\) has no weights yet"),
        (lambda: BatchNorm().output_shape(()), ValueError, r"\(..., features\), got \(\)"),
        (lambda: built(BatchNorm(), 3).output_shape((4,)), ValueError, r"\(..., 3\), got \(4,\)"),
        (lambda: built(LayerNorm(), 3)(np.zeros((2, 4))), ValueError, r"\(batch, ..., 3\), got"),
        (lambda: built(LayerNorm(), 3)(np.zeros(3)), ValueError, r"\(batch, ..., 3\), got \(3,\)"),
        (lambda: built(LayerNorm(), 3)(np.zeros((2, 3), np.float32)), TypeError,
         "x of float64, as its weights, got float32"),
        (lambda: built(LayerNorm(), 3)([[1.0, 2, 3]]), TypeError, "expects an array, got list"),
        (lambda: built(LayerNorm(scale=False, center=False), 3)(np.zeros((2, 3), int)), TypeError,
         "float32 or float64, as its weights, got int64"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_running_means_move_in_front_of_the_first_weights():
    x = np.random.default_rng(4).standard_normal((64, 3), dtype=np.float32) + 5
    model = Sequential([BatchNorm(scale=False, center=False, momentum=0.0), Dense(2)])
    model.fit(x, np.arange(64) % 2, epochs=1, batch_size=64, optimizer=SGD(0.1), progress=False)
    np.testing.assert_allclose(model.buffers["0.mean"], x.mean(axis=0), rtol=1e-5)

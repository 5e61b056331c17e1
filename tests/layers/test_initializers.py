"""Initial weights: their distributions, their fans, and what a layer makes of them."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from dropcore import Key
from dropcore.nn import Dense
from dropcore.nn.initializers import (
    INITIALIZERS,
    Fill,
    Normal,
    Orthogonal,
    Uniform,
    VarianceScaling,
    drawn,
    initializer_of,
)
from support.layers import small_network

EACH = [VarianceScaling(0.5, "out", "normal"), Orthogonal(2.0), Uniform(0.1), Normal(0.2), Fill(3)]


def rng(seed=0):
    return np.random.default_rng(seed)


def is_uniform(weight, bound):
    """Inside, up to the edge, and as many below a quarter of the way as there should be."""
    assert np.abs(weight).max() <= bound
    assert np.abs(weight).max() > 0.999 * bound
    assert np.mean(weight < -bound / 2) == pytest.approx(0.25, abs=0.01)
    assert np.mean(weight < bound / 2) == pytest.approx(0.75, abs=0.01)


def is_normal(weight, stddev):
    """The fractions below -2, -1, 0 and 1 standard deviations: not truncated."""
    for at, fraction in [(-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134)]:
        assert np.mean(weight < at * stddev) == pytest.approx(fraction, abs=0.01)
    assert np.abs(weight).max() > 3 * stddev


FAN = {"he": lambda i, o: 2 / i, "lecun": lambda i, o: 1 / i, "glorot": lambda i, o: 2 / (i + o)}


@pytest.mark.parametrize("family", FAN)
@pytest.mark.parametrize(
    ("shape", "fans"),
    [((300, 200), (300, 200)), ((5, 4, 20, 100), (400, 2000)), ((3, 100, 50), (300, 150))],
    ids=["dense", "image", "sequence"],
)
def test_variance_is_the_papers(family, shape, fans):
    variance = FAN[family](*fans)
    is_uniform(INITIALIZERS[f"{family}_uniform"](rng(), shape), math.sqrt(3 * variance))
    is_normal(INITIALIZERS[f"{family}_normal"](rng(), shape), math.sqrt(variance))


def test_fan_out():
    weight = VarianceScaling(1.0, "out", "normal")(rng(), (100, 400))
    assert weight.var() == pytest.approx(1 / 400, rel=0.05)


def test_the_papers_own():
    is_normal(INITIALIZERS["hinton_normal"](rng(), (200, 200)), 0.01)
    is_uniform(INITIALIZERS["zaremba_uniform"](rng(), (200, 200)), 0.05)
    is_uniform(Uniform(0.1)(rng(), (200, 200)), 0.1)
    np.testing.assert_array_equal(INITIALIZERS["zeros"](rng(), (3, 4)), np.zeros((3, 4)))
    np.testing.assert_array_equal(INITIALIZERS["ones"](rng(), (3, 4)), np.ones((3, 4)))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25), (3, 3, 4, 50), (3, 3, 4, 20)])
def test_orthogonal_keeps_lengths(shape):
    weight = Orthogonal(2.0)(rng(), shape)
    assert weight.shape == shape
    matrix = weight.reshape(-1, shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_is_uniform_over_the_rotations_and_reflections():
    # Of a matrix drawn uniformly every entry has mean 0; QR alone leaves signs on the diagonal.
    found = np.array([Orthogonal()(rng(seed), (3, 3)) for seed in range(2000)])
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose((found**2).mean(axis=0), 1 / 3, atol=0.04)
    assert np.mean(np.linalg.det(found) > 0) == pytest.approx(0.5, abs=0.05)


def test_an_embedding_gives_one_word_at_a_time():
    table = drawn("lecun_normal", rng(), (1000, 50), np.dtype(np.float64), fans=(1, 50))
    assert table.var() == pytest.approx(1.0, rel=0.02)
    table = drawn("glorot_normal", rng(), (1000, 49), np.dtype(np.float64), fans=(1, 49))
    assert table.var() == pytest.approx(2 / 50, rel=0.02)
    # Those that know no fans are not asked about them.
    assert drawn(Fill(2), rng(), (3, 2), np.dtype(np.float32), fans=(1, 2)).max() == 2


def test_gates_are_drawn_each_for_itself():
    weight = drawn("glorot_normal", rng(), (100, 400), np.dtype(np.float64), gates=4)
    assert weight.shape == (100, 400)
    assert weight.var() == pytest.approx(2 / 200, rel=0.03)
    weight = drawn("orthogonal", rng(), (30, 120), np.dtype(np.float64), gates=4)
    for gate in np.split(weight, 4, axis=-1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(30), atol=1e-12)
    assert not np.allclose(weight[:, :30], weight[:, 30:60])


def test_initial_weights_hang_on_the_seed():
    def weights(seed):
        model = small_network()
        model.build((7,), key=seed)
        return np.concatenate([w.ravel() for w in model.params.values()])

    np.testing.assert_array_equal(weights(3), weights(Key(3, stream=1, step=9)))
    seeds = [0, 1, 2**63, 2**63 + 1, 2**64 - 1]
    assert len({weights(seed).tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_layers_take_each_by_name_and_as_it_is(name):
    named, given = Dense(40, initializer=name), Dense(40, initializer=INITIALIZERS[name])
    for layer in (named, given):
        layer.build((30,), key=3)
        weight = layer.params["weight"]
        assert weight.dtype == np.float32
        assert weight.flags.c_contiguous
        assert weight.flags.writeable
    np.testing.assert_array_equal(named.params["weight"], given.params["weight"])
    assert not named.params["bias"].any()
    assert named.config() == {"units": 40} | ({} if name == "he_uniform" else {"initializer": name})
    assert eval(repr(given)).initializer == INITIALIZERS[name]
    assert pickle.loads(pickle.dumps(given)).initializer == INITIALIZERS[name]


def test_what_an_initialiser_returns_is_copied_and_checked():
    ours = np.ones((3, 2))
    layer = Dense(2, initializer=lambda rng, shape: ours)
    layer.build((3,), key=0, dtype=np.float64)
    layer.params["weight"][0] = 7
    assert (ours == 1).all()
    with pytest.raises(ValueError, match=r"must return an array of shape \(3, 2\), got \(2,\)"):
        Dense(2, initializer=lambda rng, shape: np.ones(2)).build((3,), key=0)


@pytest.mark.parametrize("given", EACH, ids=repr)
def test_repr_rebuilds(given):
    assert eval(repr(given)) == given
    assert pickle.loads(pickle.dumps(given)) == given
    assert len({given, eval(repr(given))}) == 1
    np.testing.assert_array_equal(given(rng(1), (4, 5)), eval(repr(given))(rng(1), (4, 5)))
    assert given(rng(), (4, 5)).dtype == np.float64


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: VarianceScaling(0.0), ValueError, "scale must be positive and finite, got 0.0"),
    (lambda: VarianceScaling(1.0, "all"), ValueError, "fan must be one of .* got 'all'"),
    (lambda: VarianceScaling(1.0, "in", "beta"), ValueError, "distribution .* got 'beta'"),
    (lambda: Uniform(-1), ValueError, "bound must be positive and finite, got -1"),
    (lambda: Normal(math.nan), ValueError, "stddev must be positive and finite, got nan"),
    (lambda: Normal("0.1"), TypeError, "stddev must be a number, got '0.1'"),
    (lambda: Fill(math.inf), ValueError, "value must be finite, got inf"),
    (lambda: Orthogonal(math.nan), ValueError, "gain must be finite"),
    (lambda: Orthogonal()(rng(), (3,)), ValueError, r"at least two axes, got shape \(3,\)"),
    (lambda: initializer_of("LSTM: initializer", "he"), ValueError,
     "LSTM: initializer must be 'he_uniform', .*'ones' or a callable, got 'he'"),
    (lambda: initializer_of("LSTM: initializer", Normal), ValueError, "got <class"),
    (lambda: initializer_of("LSTM: initializer", None), ValueError, "got None"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()

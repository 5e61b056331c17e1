"""Regularisers of weights and of outputs: formulas, gradients, and training with them."""

from __future__ import annotations

import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.constraints import MaxNorm
from dropcore.nn import ActivityRegularization, Dense, Embedding, Layer, ReLU, Sequential
from dropcore.optim import SGD
from dropcore.regularizers import L1, L1L2, L2, KLSparsity
from support.arrays import normal
from support.differences import differences

OF_WEIGHTS = [L1(0.3), L2(0.3), L1L2(0.2, 0.4)]
OF_OUTPUTS = [*OF_WEIGHTS, KLSparsity(0.3), KLSparsity(0.3, 0.4)]
DTYPES = [np.float32, np.float64]


def shares(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.6, shape).astype(dtype)


# --- of weights ----------------------------------------------------------------------------------


def test_by_hand():
    w = np.array([[1.0, -2.0], [0.0, 3.0]])
    assert L1(0.5).penalty(w) == 3.0
    assert L2(0.5).penalty(w) == 7.0
    assert L1L2(0.5, 1.0).penalty(w) == 17.0
    np.testing.assert_array_equal(L1(0.5).gradient(w), [[0.5, -0.5], [0, 0.5]])
    np.testing.assert_array_equal(L2(0.5).gradient(w), w)
    np.testing.assert_array_equal(L1L2(0.5, 1.0).gradient(w), [[2.5, -4.5], [0, 6.5]])


@pytest.mark.parametrize("regularizer", OF_WEIGHTS, ids=repr)
def test_gradient_equals_finite_differences(regularizer):
    w, g = normal(4, 5), normal(4, 5, seed=1)
    wanted = differences(lambda: regularizer.penalty(w), w)
    np.testing.assert_allclose(regularizer.gradient(w), wanted, rtol=1e-7, atol=1e-9)
    before = g.copy()
    np.testing.assert_allclose(regularizer.add_gradient(w, g), g + wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(g, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regularizer", OF_WEIGHTS, ids=repr)
def test_gradients_in_the_forms_for_optimisers(regularizer, dtype):
    w = normal(40, 30, dtype=dtype)
    block = BlockGradient(normal(2, 3, dtype=dtype), np.array([1, 7]), np.array([0, 2, 9]), w.shape)
    product = ProductGradient(normal(6, 40, dtype=dtype), normal(6, 30, dtype=dtype, seed=1))
    for gradient in (block, product, np.asfortranarray(normal(40, 30, dtype=dtype, seed=2))):
        found = regularizer.add_gradient(w, gradient)
        assert isinstance(found, np.ndarray)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, regularizer.gradient(w) + np.asarray(gradient))


def test_penalties_are_sums_in_float64():
    w = np.full((1 << 12, 1 << 11), 0.1, np.float32)
    assert L2(1.0).penalty(w) == pytest.approx(w.size * float(np.float32(0.1)) ** 2, rel=1e-12)
    assert L1(1.0).penalty(w) == pytest.approx(w.size * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("regularizer", OF_WEIGHTS, ids=repr)
def test_training_adds_the_gradient_and_reports_the_loss_of_the_data(regularizer):
    x, y = normal(32, 6), np.random.default_rng(1).integers(0, 3, 32)

    def network(**options):
        model = Sequential([Dense(8, activation="relu", **options), Dense(3)])
        model.build((6,), key=1, dtype=np.float64)
        return model

    with_it, without = network(regularizer=regularizer, constraint=MaxNorm(100.0)), network()
    assert with_it.regularizers == {"0.weight": regularizer}
    w = without.params["0.weight"].copy()
    histories = [m.fit(x, y, epochs=1, optimizer=SGD(0.1)) for m in (with_it, without)]
    assert histories[0]["loss"] == histories[1]["loss"]
    moved = with_it.params["0.weight"] - without.params["0.weight"]
    np.testing.assert_allclose(moved, -0.1 * regularizer.gradient(w), rtol=1e-9, atol=1e-12)
    for name in ("0.bias", "1.weight", "1.bias"):
        np.testing.assert_array_equal(with_it.params[name], without.params[name])


def test_l1_empties_weights_that_do_nothing():
    x = normal(200, 10)
    y = x[:, :1] * 2

    def squares(out, y):
        return float(np.mean((out - y) ** 2)), 2 * (out - y) / out.size

    model = Sequential([Dense(1, regularizer=L1(0.2))])
    model.build((10,), key=0, dtype=np.float64)
    model.fit(x, y, epochs=300, optimizer=SGD(0.01), loss=squares, batch_size=200)
    w = model.params["0.weight"].ravel()
    # Where the columns are uncorrelated the lasso is 2 - 0.2 / 2 and 0; they nearly are.
    assert w[0] == pytest.approx(1.9, abs=0.03)
    assert np.abs(w[1:]).max() < 0.03


def test_an_embedding_takes_one():
    model = Sequential([Embedding(9, 4, regularizer=L2(0.5)), ReLU(), Dense(3)])
    model.build((2,), key=0, dtype=np.float64)
    before = model.params["0.weight"].copy()
    model.fit([[1, 2]], [[0, 1]], epochs=1, optimizer=SGD(0.1))
    unseen = [0, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(model.params["0.weight"][unseen], 0.9 * before[unseen], rtol=1e-12)


# --- of outputs ----------------------------------------------------------------------------------


def test_activity_by_hand():
    y = np.array([[1.0, -2.0], [0.0, 3.0]])
    assert L1(0.5).activity_penalty(y) == 1.5  # per sample
    np.testing.assert_array_equal(L2(0.5).activity_gradient(y), y / 2)
    y = np.array([[0.1, 0.5], [0.3, 0.5]])
    divergence = 0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.5)  # the first unit has none
    assert KLSparsity(3.0, 0.2).activity_penalty(y) == pytest.approx(3 * divergence, rel=1e-12)
    gradient = KLSparsity(3.0, 0.2).activity_gradient(y)
    np.testing.assert_allclose(gradient[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(gradient[:, 1], 3 / 2 * (0.8 / 0.5 - 0.2 / 0.5), rtol=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("regularizer", OF_OUTPUTS, ids=repr)
def test_activity_gradient_equals_finite_differences(regularizer, shape):
    y = shares(*shape)
    found = regularizer.activity_gradient(y)
    assert np.abs(found).max() > 1e-3
    wanted = differences(lambda: regularizer.activity_penalty(y), y)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regularizer", OF_OUTPUTS, ids=repr)
def test_the_layer_is_the_identity_and_adds_the_gradient(regularizer, dtype):
    layer = ActivityRegularization(regularizer)
    x, dy = shares(6, 5, dtype=dtype), normal(6, 5, dtype=dtype)
    before = dy.copy()
    y, backward = layer.forward(x, key=3)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer(x), x)
    dx, grads = backward(dy)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, regularizer.activity_gradient(x) + dy)
    np.testing.assert_array_equal(dy, before)
    assert grads == {}
    assert layer.penalty(x) == regularizer.activity_penalty(x) > 0
    assert backward(dy, input_gradient=False) == (None, {})
    empty = np.zeros((0, 5), dtype)
    assert layer.forward(empty)[1](empty)[0].shape == (0, 5)
    assert layer.penalty(empty) == 0


class Sigmoid(Layer):
    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, *, key=None, row_offset=0):
        y = 1 / (1 + np.exp(-x))
        return y, lambda dy, **_: (dy * y * (1 - y), {})


def test_training_reaches_the_target():
    x = normal(64, 5)
    activity = ActivityRegularization(KLSparsity(5.0, 0.1))
    model = Sequential([Dense(7), Sigmoid(), activity, Dense(2)])
    model.build((5,), key=1, dtype=np.float64)

    def means():
        return Sequential(model.layers[:2])(x).mean(axis=0)

    assert means().mean() > 0.3
    nothing = lambda out, y: (0.0, np.zeros_like(out))  # noqa: E731
    model.fit(x, x, epochs=400, optimizer=SGD(0.2), loss=nothing, batch_size=64)
    np.testing.assert_allclose(means(), 0.1, atol=0.01)


def test_dead_and_saturated_units_have_a_finite_gradient():
    regularizer = KLSparsity(1.0, 0.1)
    for value, sign in ((0.0, -1), (1.0, 1)):
        y = np.full((4, 3), value, np.float32)
        assert np.isfinite(regularizer.activity_penalty(y))
        gradient = regularizer.activity_gradient(y)
        assert np.isfinite(gradient).all()
        assert (sign * gradient > 1e3).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regularizer", OF_OUTPUTS, ids=repr)
def test_underflow_does_not_raise(regularizer, dtype):
    y = np.full((4, 3), np.finfo(dtype).smallest_subnormal, dtype)
    y[:, 1] = np.finfo(dtype).tiny
    with np.errstate(all="raise"):
        assert regularizer.activity_penalty(y) >= 0
        assert np.isfinite(regularizer.activity_gradient(y)).all()
        if not isinstance(regularizer, KLSparsity):
            assert regularizer.penalty(y) >= 0
            assert np.isfinite(regularizer.add_gradient(y, y)).all()


# --- what they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("regularizer", OF_OUTPUTS, ids=repr)
def test_low_precision(regularizer):
    y = shares(6, 5, dtype=np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        low, wide = y.astype(dtype), y.astype(dtype).astype(np.float32)
        penalty = regularizer.activity_penalty(low)
        assert penalty == pytest.approx(regularizer.activity_penalty(wide), rel=1e-6)
        gradient = regularizer.activity_gradient(low)
        assert gradient.dtype == dtype
        eps = float(ml_dtypes.finfo(dtype).eps)
        expected = regularizer.activity_gradient(wide)
        np.testing.assert_allclose(gradient.astype(float), expected, rtol=4 * eps, atol=1e-6)


@pytest.mark.parametrize("regularizer", OF_OUTPUTS, ids=repr)
def test_repr_rebuilds(regularizer):
    assert eval(repr(regularizer)) == regularizer
    assert pickle.loads(pickle.dumps(regularizer)) == regularizer
    assert len({regularizer, eval(repr(regularizer))}) == 1
    layer = ActivityRegularization(regularizer)
    assert eval(repr(layer)).regularizer == regularizer
    assert Layer.from_config(layer.to_config()).regularizer == regularizer


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: L1(-1), ValueError, "L1: strength must be finite and not negative, got -1"),
    (lambda: L2(math.nan), ValueError, "L2: strength must be finite and not negative, got nan"),
    (lambda: L2(0.1).gradient(np.ones(3, int)), TypeError, "float16 or bfloat16, got int64"),
    (lambda: L1(0.1).gradient(np.ones(3, int)), TypeError, "got int64"),
    (lambda: L1L2(0.1, 0.1).penalty(np.ones(3, bool)), TypeError, "got bool"),
    (lambda: KLSparsity(1).activity_gradient(np.ones((3, 2), int)), TypeError, "got int64"),
    (lambda: L2(0.1).penalty(np.ma.ones(3)), TypeError, "numpy.ma.MaskedArray"),
    (lambda: L2(True), TypeError, "L2: strength must be a number, got True"),
    (lambda: L2("a"), TypeError, "L2: strength must be a number, got 'a'"),
    (lambda: L1L2(0, math.inf), ValueError, "L1L2: l2 must be finite and not negative, got inf"),
    (lambda: L1L2(-0.1, 0), ValueError, "L1L2: l1 must be"),
    (lambda: KLSparsity(-1), ValueError, "KLSparsity: strength must be"),
    (lambda: KLSparsity(1, 0.0), ValueError, r"KLSparsity: target must be in \(0, 1\), got 0.0"),
    (lambda: KLSparsity(1).activity_penalty(np.full((3, 2), 1.5)), ValueError,
     r"takes activations in \[0, 1\], .* whose mean is 1.5"),
    (lambda: KLSparsity(1).activity_gradient(np.full((3, 2), -0.5)), ValueError, "mean is -0.5"),
    (lambda: ActivityRegularization(0.1), TypeError, "such as .*, got 0.1"),
    (lambda: ActivityRegularization(L1), TypeError, "got <class"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_strengths_that_are_numbers_of_numpy_change_no_dtype(number):
    w, y = normal(4, 3, dtype=np.float32), np.full((4, 3), 0.25, np.float32)
    for regularizer in (L1(number(0.5)), L2(number(0.5)), L1L2(number(0.5), number(0.25))):
        assert type(regularizer.penalty(w)) is float
        assert regularizer.gradient(w).dtype == np.float32
    sparsity = KLSparsity(number(0.5), number(0.25))
    assert type(sparsity.activity_penalty(y)) is float
    assert sparsity.activity_gradient(y).dtype == np.float32

"""Dropout on linear regression: its closed form, and that training reaches it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dropcore.nn import Dense, Dropout, Sequential, linear_dropout_ridge
from dropcore.optim import SGD
from dropcore.schedules import Exponential

KEEP = 0.6


def data(samples=40, features=5, outputs=2, seed=0):
    """Inputs of different scales that go together, so that every part of the formula shows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, features)) + rng.normal(size=(samples, 1))
    x *= np.geomspace(0.5, 1.5, features)
    y = x @ rng.normal(size=(features, outputs)) + rng.normal(size=(samples, outputs))
    return x, y


def expected_squares(x, y, w, keep):
    """The mean over all masks of a row, each with its probability: what dropout minimises."""
    total = 0.0
    for mask in itertools.product((0, 1), repeat=x.shape[1]):
        live = np.array(mask)
        probability = keep ** live.sum() * (1 - keep) ** (len(live) - live.sum())
        total += probability * np.square(y - (x * live / keep) @ w).sum()
    return total


def test_it_minimises_the_mean_over_all_masks():
    x, y = data()
    w = linear_dropout_ridge(x, y, keep=KEEP)
    best = expected_squares(x, y, w, KEEP)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 1.0):
        for _ in range(5):
            assert expected_squares(x, y, w + size * rng.normal(size=w.shape), KEEP) > best
    # The mean over the masks is the formula, at any weights.
    for at in (w, rng.normal(size=w.shape)):
        ridge = np.square(y - x @ at).sum()
        ridge += (1 - KEEP) / KEEP * np.square(np.sqrt(np.square(x).sum(0))[:, None] * at).sum()
        assert ridge == pytest.approx(expected_squares(x, y, at, KEEP), rel=1e-12)


def test_training_converges_to_it():
    x, y = data()
    wanted = linear_dropout_ridge(x, y, keep=KEEP)
    plain = linear_dropout_ridge(x, y, rate=0)
    model = Sequential([Dropout(keep=KEEP), Dense(2, use_bias=False)])
    model.build((5,), key=3, dtype=np.float64)
    # The curvature of the mean over masks and outputs, whose ends say how fast to go and how long.
    gram = x.T @ x + (1 - KEEP) / KEEP * np.diag(np.square(x).sum(axis=0))
    slow, *_, fast = np.linalg.eigvalsh(gram / len(x))
    assert fast / slow < 40
    # Each row under 100 masks of its own in an update, and a rate that falls to a thousandth, so
    # that the last weights are an average over many masks.
    copies, updates = 100, 1000
    optimizer = SGD(Exponential(0.5 / fast, 1e-3, updates), momentum=0.9)
    model.fit(np.tile(x, (copies, 1)), np.tile(y, (copies, 1)), epochs=updates,
              batch_size=copies * len(x), optimizer=optimizer, loss="mse", key=3)  # fmt: skip
    found = model.params["1.weight"]
    # Five other seeds end between 0.001 and 0.003 away; without dropout it is 1.6.
    assert np.abs(found - wanted).max() < 0.01
    assert np.abs(plain - wanted).max() > 0.1


def test_its_ends():
    x, y = data()
    least_squares = np.linalg.solve(x.T @ x, x.T @ y)
    np.testing.assert_allclose(linear_dropout_ridge(x, y, 0.0), least_squares, rtol=1e-10)
    np.testing.assert_array_equal(linear_dropout_ridge(x, y, keep=0.0), np.zeros((5, 2)))
    small = linear_dropout_ridge(x, y, keep=1e-6)
    np.testing.assert_allclose(small, 0, atol=1e-4)
    assert np.abs(small).max() > 0


def test_shapes_and_forms():
    x, y = data()
    w = linear_dropout_ridge(x, y, 0.4)
    assert w.dtype == np.float64
    np.testing.assert_allclose(w, linear_dropout_ridge(x, y, keep=0.6), rtol=1e-12)
    one = linear_dropout_ridge(x.tolist(), y[:, 1].tolist(), 0.4)
    assert one.shape == (5,)
    np.testing.assert_allclose(one, w[:, 1], rtol=1e-10)
    narrow = linear_dropout_ridge(x.astype(np.float32), y.astype(np.float32), 0.4)
    np.testing.assert_allclose(narrow, w, rtol=1e-4)
    x[:, 2] = 0  # an input that is never there has no weight
    np.testing.assert_allclose(linear_dropout_ridge(x, y, 0.4)[2], 0, atol=1e-12)


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda x, y: linear_dropout_ridge(x, y), ValueError, "give rate or keep, got neither"),
    (lambda x, y: linear_dropout_ridge(x, y, 0.5, keep=0.5), ValueError, "keep"),
    (lambda x, y: linear_dropout_ridge(x, y, 1.5), ValueError, "1.5"),
    (lambda x, y: linear_dropout_ridge(x[:3], y, 0.5), ValueError, r"got \(3, 5\) and \(40, 2\)"),
    (lambda x, y: linear_dropout_ridge(x[0], y, 0.5), ValueError, r"got \(5,\) and \(40, 2\)"),
    (lambda x, y: linear_dropout_ridge(x + 1j, y, 0.5), TypeError, "x must be real numbers"),
    (lambda x, y: linear_dropout_ridge(np.ma.array(x), y, 0.5), TypeError, "x is a numpy.ma"),
    (lambda x, y: linear_dropout_ridge(x, np.ma.array(y), 0.5), TypeError, "y is a numpy.ma"),
    (lambda x, y: linear_dropout_ridge(x, y + np.nan, 0.5), ValueError, "y must be finite"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call(*data())

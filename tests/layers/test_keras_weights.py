"""The list of weights that Keras takes and gives: order, copies, wrong lists."""

import numpy as np
import pytest

from dropcore import nn
from dropcore.nn import load_keras_weights, to_keras_weights


@pytest.fixture
def model():
    found = nn.Sequential([nn.Dense(3), nn.BatchNorm(), nn.Residual([nn.Dense(3)])])
    found.build((2,), key=1)
    return found


def test_the_order_is_that_of_keras(model):
    found = to_keras_weights(model)
    names = ["0.weight", "0.bias", "1.gamma", "1.beta", "1.mean", "1.variance", "2.0.0.weight",
             "2.0.0.bias"]  # fmt: skip
    arrays = dict(model.params) | dict(model.buffers)
    for array, name in zip(found, names, strict=True):
        np.testing.assert_array_equal(array, arrays[name])
        assert not np.shares_memory(array, arrays[name])


def test_a_list_comes_back(model):
    new = [np.full(array.shape, i + 1.0) for i, array in enumerate(to_keras_weights(model))]
    load_keras_weights(model, new)
    for array, wanted in zip(to_keras_weights(model), new, strict=True):
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w[:-1], ValueError, "the model has 8 arrays, got 7"),
        (
            lambda w: [*w[:-1], w[0]],
            ValueError,
            r"bias of layer 2.0.0, Dense\(3\) has shape \(3,\)",
        ),
        (lambda w: [*w[:-1], np.arange(3)], TypeError, "must be floating-point numbers, got int"),
        (lambda w: [*w[:-1], np.full(3, 1e300)], ValueError, "numbers too large for float32"),
        (lambda w: {"a": w}, TypeError, "must be a list of arrays, such as model.get_weights"),
        (lambda w: 3, TypeError, "must be a list of arrays, such as model.get_weights"),
    ],
)
def test_wrong_lists_change_nothing(model, change, error, message):
    before = to_keras_weights(model)
    with pytest.raises(error, match=message):
        load_keras_weights(model, change([array + 1 for array in before]))
    for array, wanted in zip(to_keras_weights(model), before, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_models_that_cannot_be_exchanged():
    with pytest.raises(ValueError, match="call build"):
        to_keras_weights(nn.Sequential([nn.Dense(3)]))
    model = nn.Sequential([nn.VariationalDropout(data_points=9)])
    model.build((3,), key=0)
    with pytest.raises(ValueError, match=r"layer 0, Variational.* has no counterpart in Keras"):
        to_keras_weights(model)

"""Training unscaled and finishing the network: `Dropout(scaling="test")` and `set_scaling_`."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dropcore import Key
from dropcore.nn import (
    Dense,
    Dropout,
    Flatten,
    Layer,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    set_scaling_,
)
from support.layers import built

KEY = Key(3, step=4)


def network(scaling):
    return Sequential(
        [
            Dropout(keep=0.8, scaling=scaling),
            Flatten(),
            Dense(9, activation="relu"),
            Dropout(0.5, scaling=scaling),
            Sequential([ReLU(), Dense(6)]),
            Dropout(0.25, scaling=scaling),
            Parallel([Dense(3), Sequential([Dropout(0.5, scaling=scaling), Dense(2)])]),
        ]
    )


X = np.random.default_rng(0).normal(size=(5, 4, 3))


def test_unscaled_dropout_is_the_mask_and_keep_at_inference():
    layer = Dropout(keep=0.75, scaling="test")
    x = X + 10
    y, backward = layer.forward(x, key=KEY)
    kept = layer.mask(x.shape, KEY).to_bool()
    np.testing.assert_array_equal(y, np.where(kept, x, 0))
    np.testing.assert_array_equal(backward(x)[0], y)
    np.testing.assert_array_equal(layer(x), 0.75 * x)


@pytest.mark.parametrize(("before", "after"), [("test", "inverted"), ("inverted", "test")])
def test_the_other_scaling_is_the_same_network(before, after):
    model = built(network(before), 4, 3)
    other = copy.deepcopy(model)
    set_scaling_(other, after)
    assert {layer.scaling for _, layer in other.leaves() if isinstance(layer, Dropout)} == {after}
    np.testing.assert_allclose(other(X), model(X), 1e-12)
    np.testing.assert_allclose(other.forward(X, key=KEY)[0], model.forward(X, key=KEY)[0], 1e-12)
    set_scaling_(other, before)
    for name, weight in model.params.items():
        np.testing.assert_allclose(other.params[name], weight, 1e-12)


def test_the_finished_weights_are_those_of_the_papers():
    model = built(network("test"), 4, 3)
    finished = copy.deepcopy(model)
    set_scaling_(finished, "inverted")
    factors = {"2": 0.8, "4.1": 0.5, "6.0": 0.75, "6.1.1": 0.375}
    for path, factor in factors.items():
        name = f"{path}.weight"
        np.testing.assert_allclose(finished.params[name], factor * model.params[name], 1e-15)
        np.testing.assert_array_equal(finished.params[f"{path}.bias"], model.params[f"{path}.bias"])


def test_rates_of_units_go_along_the_inputs():
    rates = np.linspace(0, 0.8, 6)
    model = built(Sequential([Dropout(rates, scaling="test"), Dense(3)]), 6)
    x = X[:, 0, :2].repeat(3, axis=1)
    wanted = model(x)
    weight = model.params["1.weight"].copy()
    set_scaling_(model, "inverted")
    np.testing.assert_allclose(model(x), wanted, 1e-12)
    np.testing.assert_allclose(model.params["1.weight"], (1 - rates)[:, None] * weight, 1e-15)


class Own(Layer):
    """A container that nobody knows."""

    def __init__(self, inner):
        super().__init__()
        self.inner = self._add_child("inner", inner)

    def output_shape(self, input_shape):
        return self.inner.output_shape(input_shape)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Dense(3), Dropout(0.5)], "no weights after the last dropout"),
        ([Dropout(0.5), Sigmoid(), Dense(3)], r"layer 1, Sigmoid\(\), cannot take over the scale"),
        ([Dropout(1.0), Dense(3)], r"layer 0, Dropout\(1.0\), must keep a fixed fraction above 0"),
        ([Dropout(lambda step: 0.5), Dense(3)], "must keep a fixed fraction"),
        ([Residual([Dropout(0.5), Dense(6)]), Dropout(0.5), Residual(Dense(6))],
         "layer 2, .* has branches that leave different scales"),
        ([Dropout(0.5), Dense(6), Reshape((2, 3)), Dropout([0.1, 0.2, 0.3]), Flatten(), Dense(2)],
         r"layer 5, Dense\(2\), cannot take over the scale"),
        ([Dropout(0.5), Dense(6), Own(Sequential([Dropout(0.5), Dense(6)]))],
         "layer 2, .* is a container of another class"),
    ],
)  # fmt: skip
def test_nothing_changes_where_no_weights_can_take_the_scale(layers, message):
    model = built(Sequential(layers), 6)
    before = {name: array.copy() for name, array in model.params.items()}
    with pytest.raises(ValueError, match=message):
        set_scaling_(model, "test")
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, before[name])
    assert not any(getattr(layer, "scaling", "") == "test" for _, layer in model.leaves())


def test_another_scaling_is_refused():
    with pytest.raises(ValueError, match="must be 'inverted' or 'test', got 'none'"):
        set_scaling_(network("test"), "none")

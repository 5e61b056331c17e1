"""Predictions with and without noise."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import Key, Mask
from dropcore.key import MONTE_CARLO
from dropcore.nn import (
    LSTM,
    Dense,
    DropConnect,
    Dropout,
    GaussianNoise,
    Layer,
    Sequential,
    SpatialDropout1D,
    UnitDropout,
)

X = np.random.default_rng(0).normal(size=(23, 6)).astype(np.float32)


def built(layers, shape=(6,)):
    model = Sequential(layers)
    model.build(shape, key=1)
    return model


MODELS = {
    "elements": ([Dense(9, activation="relu"), Dropout(0.5), Dense(4), Dropout(0.2)], (6,)),
    "units": ([Dense(9, activation="relu"), UnitDropout(0.5), Dense(4)], (6,)),
    "groups": ([UnitDropout(0.5, group=4), Dense(4)], (6,)),
    "weights": ([DropConnect(5, 0.5)], (6,)),
    "sequences": ([SpatialDropout1D(0.5), LSTM(4, dropout=0.3, recurrent_dropout=0.3)], (3, 2)),
}


@pytest.mark.parametrize(("layers", "shape"), MODELS.values(), ids=MODELS)
def test_samples_do_not_depend_on_the_size_of_batches(layers, shape):
    model = built(layers, shape)
    x = X.reshape(23, *shape)
    whole = model.predict(x, key=Key(5, stream=3), samples=4)
    assert whole.shape[:2] == (4, 23)
    assert whole.dtype == np.float32
    for size in (1, 4, 8, 22):
        found = model.predict(x, key=Key(5, stream=3), samples=4, batch_size=size)
        np.testing.assert_array_equal(found, whole)
    spread = whole.std(axis=0)
    assert (spread > 0).mean() > 0.5
    # More samples begin with the same; a later first step gives the later ones.
    np.testing.assert_array_equal(model.predict(x, key=Key(5, stream=3), samples=2), whole[:2])
    later = model.predict(x, key=Key(5, stream=3, step=2), samples=2)
    np.testing.assert_array_equal(later, whole[2:])


def test_the_masks_are_those_of_the_contract():
    """Domain 2, the number of the sample as step, the row of the data set as row."""
    model = Sequential([Dropout(0.5)])
    ones = np.ones((23, 300), np.float32)
    found = model.predict(ones, key=7, samples=3, batch_size=5)
    for t in range(3):
        mask = Mask((23, 300), rate=0.5, key=Key(7, step=t, domain=MONTE_CARLO))
        np.testing.assert_array_equal(found[t] > 0, mask.to_bool())
        training = Mask((23, 300), rate=0.5, key=Key(7, step=t))
        assert 0.45 < (mask.to_bool() == training.to_bool()).mean() < 0.55


class Witness(Layer):
    own_streams = 1

    def __init__(self):
        super().__init__()
        self.seen = []

    def output_shape(self, input_shape):
        return input_shape

    def __call__(self, x, key=None, *, row_offset=0):
        self.seen.append((key, row_offset))
        return x


def test_what_layers_are_called_with():
    witness = Witness()
    model = Sequential([Dropout(0.5), witness])
    model.predict(X, key=Key(7, stream=4, step=10), samples=2, batch_size=20)
    keys = [Key(7, stream=5, step=step, domain=MONTE_CARLO) for step in (10, 11)]
    assert witness.seen == [(keys[0], 0), (keys[1], 0), (keys[0], 20), (keys[1], 20)]
    witness.seen.clear()
    model.predict(X, batch_size=20)
    assert witness.seen == [(None, 0), (None, 0)]


def test_sampling_changes_nothing_and_averages_to_the_prediction():
    model = built([Dropout(0.3), Dense(4)])
    before = {name: array.copy() for name, array in model.params.items()}
    samples = model.predict(X, key=1, samples=3000)
    np.testing.assert_allclose(samples.mean(axis=0), model.predict(X), atol=0.1)
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Dropout(lambda step: 0.5), "rate"),
        (Dropout(keep=lambda step: 0.5), "rate"),
        (Sequential([GaussianNoise(lambda step: 0.5)]), "stddev"),
        (LSTM(2, recurrent_dropout=lambda step: 0.5), "recurrent_dropout"),
    ],
)
def test_a_rate_that_changes_with_the_step_is_refused(layer, name):
    model = built([layer], (3, 2))
    with pytest.raises(
        ValueError, match=f"predict: {name} of layer 0.* a function of the training"
    ):
        model.predict(X.reshape(23, 3, 2), key=1, samples=2)
    assert model.predict(X.reshape(23, 3, 2)).shape[0] == 23


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": 1}, TypeError, "key is given and samples is not"),
        ({"samples": 3}, TypeError, "samples is given and key is not"),
        ({"key": 1, "samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"key": 1, "samples": 1.5}, TypeError, "samples must be an integer, got 1.5"),
        ({"key": "a", "samples": 2}, TypeError, "'a'"),
        ({"key": Key(1, step=2**32 - 2), "samples": 3}, ValueError, r"beyond 2\*\*32"),
        ({"key": Key(1, stream=2**28 - 1), "samples": 3}, ValueError, "from 2 streams"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(options, error, text):
    model = built([Dropout(0.5), Dense(4), Dropout(0.5)])
    with pytest.raises(error, match=text):
        model.predict(X, **options)

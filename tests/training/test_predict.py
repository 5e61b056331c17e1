"""Predictions with and without noise."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dropcore import Key, Mask
from dropcore.key import MONTE_CARLO
from dropcore.nn import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    Conv2D,
    Dense,
    DropConnect,
    Dropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    Layer,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    SpatialDropout1D,
    SpatialDropout2D,
    Tanh,
    UnitDropout,
)
from dropcore.noise import normal
from support.layers import CARRYING, EXAMPLES, batches, build, names

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


LAYERS = [*EXAMPLES, *CARRYING]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=[names(layer) for layer, _ in LAYERS])
def test_samples_are_those_of_separate_calls(layer, shape):
    """Bit for bit, for any number of rows that are computed at once."""
    model = small_model(layer, shape)
    x = batches(model, shape, 7, np.float32)
    key = Key(2**40 + 3, stream=2, step=9)
    keys = [Key(key.seed, 2, 9 + t, domain=MONTE_CARLO) for t in range(5)]
    wanted = [model(x, each) for each in keys]
    for size in (1, 3, 7, 14, 1000):
        found = model.predict(x, key=key, samples=5, batch_size=size)
        np.testing.assert_array_equal(found, wanted)
    assert not model.noisy or not np.array_equal(wanted[0], wanted[1])


def small_model(layer, shape):
    """Layers before and after it, with and without noise."""
    after = [Dropout(0.3), Tanh(), Dropout(0.2)] if layer.noisy else [Tanh()]
    return build(Sequential([copy.deepcopy(layer), *after]), *shape, dtype=np.float32)


PAPER = [Dropout(0.2), Dense(130, activation="relu"), Dropout(0.5), Dense(70), Dropout(0.5)]
BATCH_NORM = [Dense(130), BatchNorm(), ReLU(), Dropout(0.5), Dense(66), BatchNorm(), Dropout(0.3)]
NETWORKS = {
    "paper": ([*PAPER, Dense(10)], (300,)),
    "no noise on the input": (PAPER[1:], (300,)),
    "batch normalisation": (BATCH_NORM, (300,)),
    "noise inside": ([Dense(40), Residual([Dense(50), Dropout(0.5), Dense(40)]), Dense(9)], (30,)),
    "branches": (
        [Dense(40), Parallel([Dense(3), Sequential([Dense(5), Dropout(0.5)])]), Dense(9)], (30,)
    ),
    "images": (
        [Conv2D(9, 3, activation="relu"), SpatialDropout2D(0.4), Conv2D(5, 3), Flatten(),
         UnitDropout(0.5), Dense(4)], (9, 9, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_samples_of_whole_networks_are_those_of_separate_calls(layers, shape):
    model = build(Sequential(copy.deepcopy(layers)), *shape, dtype=np.float32)
    x = np.random.default_rng(3).normal(size=(37, *shape)).astype(np.float32)
    wanted = [model(x, Key(4, step=t, domain=MONTE_CARLO)) for t in range(6)]
    for size in (5, 37, 80, 1024):
        found = model.predict(x, key=4, samples=6, batch_size=size)
        np.testing.assert_array_equal(found, wanted)


def test_samples_of_sequences_with_lengths():
    rnn = GRU(5, return_sequences=True)
    both = Bidirectional(LSTM(4, dropout=0.3, return_sequences=True))
    model = built([rnn, Dropout(0.3), copy.deepcopy(rnn), both, GRU(5)], (6, 3))
    x = np.random.default_rng(2).normal(size=(9, 6, 3)).astype(np.float32)
    lengths = np.array([6, 1, 3, 2, 5, 0, 6, 4, 2])
    wanted = [model(x, Key(4, step=t, domain=MONTE_CARLO), lengths=lengths) for t in range(4)]
    for size in (2, 9, 30):
        found = model.predict(x, key=4, samples=4, batch_size=size, lengths=lengths)
        np.testing.assert_array_equal(found, wanted)


class Counted(Dense):
    def __init__(self, units):
        super().__init__(units)
        self.rows = []

    def __call__(self, x, key=None, *, row_offset=0):
        self.rows.append(len(x))
        return super().__call__(x, key, row_offset=row_offset)


def test_what_comes_before_the_noise_is_computed_once_and_samples_share_products():
    before, inside, after = Counted(8), Counted(8), Counted(3)
    model = built([Dense(5), Sequential([before, Residual([inside, Dropout(0.5)])]), after])
    model.predict(X, key=1, samples=10, batch_size=100)
    assert before.rows == inside.rows == [23]
    assert after.rows == [92, 92, 46]
    after.rows.clear()
    model.predict(X, key=1, samples=3, batch_size=20)
    assert before.rows == inside.rows == [23, 20, 3]
    assert after.rows == [20, 20, 20, 9]


class Doubling(Sequential):
    """Computes something else than its layers one after the other."""

    def __call__(self, x, key=None, *, row_offset=0, lengths=None):
        return 2 * super().__call__(x, key, row_offset=row_offset)


class Negated(Parallel):
    def forward_from(self, x, state=None, **arguments):
        y, state, backward = super().forward_from(x, state, **arguments)
        return -y, state, backward

    def __call__(self, x, key=None, *, row_offset=0, lengths=None):
        return self.forward(x, key=key, row_offset=row_offset)[0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", [Doubling, Negated])
def test_containers_of_ones_own_are_called_as_they_are(kind, first):
    layers = [kind([Dense(6), Dropout(0.5)]), Dense(2)]
    model = built(layers if first else [Dropout(0.3), *layers])
    wanted = [model(X, Key(4, step=t, domain=MONTE_CARLO)) for t in range(3)]
    np.testing.assert_array_equal(model.predict(X, key=4, samples=3), wanted)


def test_a_recurrent_layer_without_noise_is_computed_once():
    """It has streams, whether it uses them or not."""
    assert not LSTM(4).noisy
    assert Sequential([GRU(4), Sequential([LSTM(4, dropout=0.1)])]).noisy
    witness = CountedGRU(4, return_sequences=True)
    model = built([witness, Dropout(0.5), LSTM(4)], (6, 3))
    model.predict(np.ones((9, 6, 3), np.float32), key=1, samples=5)
    assert witness.calls == 1


class CountedGRU(GRU):
    calls = 0

    def __call__(self, *args, **kwargs):
        CountedGRU.calls += 1
        return super().__call__(*args, **kwargs)


def test_samples_of_a_model_without_noise_are_equal_and_writeable():
    model = built([Dense(4)])
    found = model.predict(X, key=4, samples=3)
    np.testing.assert_array_equal(found, [model.predict(X)] * 3)
    found[0] = 0
    assert found[1].any()


@pytest.mark.parametrize("layer", [GaussianNoise(1.0), GaussianDropout(0.5)], ids=names)
def test_samples_do_not_repeat_the_noise_of_training(layer):
    model = built([layer])
    ones = np.ones((200, 6), np.float32)
    samples = model.predict(ones, key=4, samples=2)
    for t in range(2):
        trained = model(ones, Key(4, step=t))
        assert abs(np.corrcoef(trained.ravel(), samples[t].ravel())[0, 1]) < 0.15
    noise = normal((200, 6), key=Key(4), offset=2**62)  # where the contract puts it
    np.testing.assert_array_equal(samples[0], np.float32(1) + noise)


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

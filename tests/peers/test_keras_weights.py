"""Weights of Keras models in our models, and ours in theirs: the outputs are equal."""

import numpy as np
import pytest

from dropcore import nn
from dropcore.nn import load_keras_weights, to_keras_weights

# Of Keras, whose variables do not know the copy argument of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def attending(k, inner, causal=False):
    """Attention of a sequence to itself."""

    class Attending(k.Layer):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def build(self, shape):
            self.inner.build(shape, shape)

        def call(self, x):
            return self.inner(x, x, use_causal_mask=causal)

    return Attending()


def positions(k, length, features):
    """The sum with an embedding of positions."""

    class Positions(k.Layer):
        def __init__(self):
            super().__init__()
            self.inner = k.Embedding(length, features)

        def build(self, shape):
            self.inner.build()

        def call(self, x):
            return x + self.inner(np.arange(x.shape[1]))

    return Positions()


CASES = {
    "dense": (
        lambda k: [k.Dense(8, activation="relu"), k.Dropout(0.5), k.Dense(3, use_bias=False)],
        [nn.Dense(8, activation="relu"), nn.Dropout(0.5), nn.Dense(3, use_bias=False)],
        (6,),
    ),
    "images": (
        lambda k: [k.Conv2D(6, 3, groups=2, padding="same"), k.BatchNormalization(epsilon=1e-5),
                   k.MaxPooling2D(), k.Flatten(), k.Dense(3)],
        [nn.Conv2D(6, 3, groups=2, padding="same"), nn.BatchNorm(), nn.MaxPool2D(), nn.Flatten(),
         nn.Dense(3)],
        (6, 4, 2),
    ),
    "sequences": (
        lambda k: [k.Conv1D(5, 2), k.LayerNormalization(epsilon=1e-5),
                   k.GRU(4, return_sequences=True), k.LSTM(3, return_sequences=True),
                   k.SimpleRNN(2)],
        [nn.Conv1D(5, 2), nn.LayerNorm(), nn.GRU(4, return_sequences=True),
         nn.LSTM(3, return_sequences=True), nn.SimpleRNN(2)],
        (7, 3),
    ),
    "words": (
        lambda k: [k.Embedding(11, 4), k.Bidirectional(k.LSTM(3)), k.Dense(2)],
        [nn.Embedding(11, 4), nn.Bidirectional(nn.LSTM(3)), nn.Dense(2)],
        (5,),
    ),
    "attention": (
        lambda k: [positions(k, 9, 6), attending(k, k.MultiHeadAttention(2, 3), causal=True),
                   attending(k, k.MultiHeadAttention(3, 5, use_bias=False)),
                   attending(k, k.GroupQueryAttention(4, 6, 2))],
        [nn.LearnedPositions(9), nn.MultiHeadAttention(2, causal=True),
         nn.MultiHeadAttention(3, head_size=5, use_bias=False),
         nn.MultiHeadAttention(6, key_heads=2, head_size=4)],
        (7, 6),
    ),
}  # fmt: skip


def pair(keras, name):
    """Both models with weights of their own, and an input."""
    layers, own, shape = CASES[name]
    theirs = keras.Sequential([keras.Input(shape), *layers(keras.layers)])
    rng = np.random.default_rng(3)
    theirs.set_weights(
        [abs(rng.normal(0, 0.5, w.shape)).astype(np.float32) for w in theirs.get_weights()]
    )
    ours = nn.Sequential(own)
    ours.build(shape, key=5)
    x = rng.normal(size=(4, *shape)).astype(np.float32)
    return theirs, ours, rng.integers(0, 11, (4, *shape)) if name == "words" else x


@pytest.mark.parametrize("name", CASES)
def test_theirs_in_ours(keras, name):
    theirs, ours, x = pair(keras, name)
    load_keras_weights(ours, theirs.get_weights())
    wanted = keras.ops.convert_to_numpy(theirs(x))
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_ours_in_theirs(keras, name):
    theirs, ours, x = pair(keras, name)
    weights = to_keras_weights(ours)
    assert {array.dtype for array in weights} == {np.dtype(np.float32)}
    theirs.set_weights(weights)
    found = keras.ops.convert_to_numpy(theirs(x))
    np.testing.assert_allclose(found, ours(x), rtol=1e-4, atol=1e-5)
    for array, back in zip(weights, theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(array, back)


def test_attention_to_a_context(keras):
    theirs = keras.layers.MultiHeadAttention(2, 3)
    x, context = (np.random.default_rng(n).normal(size=(4, n, 6)).astype("f") for n in (5, 7))
    wanted = keras.ops.convert_to_numpy(theirs(x, context))
    ours = nn.CrossAttention(2)
    ours.build((5, 6), key=1)
    load_keras_weights(ours, theirs.get_weights())
    np.testing.assert_allclose(ours(x, context=context), wanted, rtol=1e-4, atol=1e-5)
    for array, back in zip(to_keras_weights(ours), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(array, back)


def test_the_other_gru_is_refused(keras):
    theirs = keras.Sequential([keras.Input((5, 3)), keras.layers.GRU(4, reset_after=False)])
    ours = nn.Sequential([nn.GRU(4)])
    ours.build((5, 3), key=0)
    with pytest.raises(ValueError, match="a GRU of Keras needs reset_after=True"):
        load_keras_weights(ours, theirs.get_weights())

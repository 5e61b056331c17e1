"""Usual networks: their layers, rates and bounds, and what they refuse."""

import numpy as np
import pytest

from dropcore import nn
from dropcore.constraints import MaxNorm, UnitNorm
from dropcore.nn import (
    LSTM,
    Conv2D,
    Dense,
    Dropout,
    DropPath,
    Embedding,
    Flatten,
    GlobalAveragePool1D,
    LayerNorm,
    LearnedPositions,
    MaxPool2D,
    MultiHeadAttention,
    Reshape,
    Residual,
    Sequential,
    SinusoidalPositions,
)
from dropcore.nn.initializers import Normal

RNG = np.random.default_rng(0)


def fitted(model, x, y, loss):
    model.fit(x, y, epochs=1, batch_size=8, loss=loss, key=1, progress=False)
    return model.predict(x)


def test_an_mlp_is_dense_layers_each_with_its_dropout():
    c = MaxNorm(2.0)
    expected = Sequential(
        [
            Dropout(0.2),
            Dense(8, activation="tanh", constraint=c),
            Dropout(0.5),
            Dense(4, activation="tanh", constraint=c),
            Dropout(0.25),
            Dense(3),
        ]
    )
    model = nn.mlp((8, 4), 3, rate=(0.5, 0.25), input_rate=0.2, max_norm=2.0, activation="tanh")
    assert model.to_config() == expected.to_config()
    x = RNG.normal(size=(16, 5))
    assert fitted(model, x, RNG.integers(0, 3, 16), "softmax_cross_entropy").shape == (16, 3)


def test_keep_is_stored_as_it_was_given():
    model = nn.mlp(8, 1, keep=0.3, input_keep=1)
    assert repr(model) == (
        "Sequential([Dropout(keep=1.0), Dense(8, activation='relu'), Dropout(keep=0.3), Dense(1)])"
    )


def test_a_rate_of_zero_leaves_names_and_streams_as_they_are():
    without, half = nn.mlp((8, 8), 2, rate=0.0), nn.mlp((8, 8), 2, rate=0.5)
    for model in (without, half):
        model.build((5,), key=3)
    assert without.n_streams == half.n_streams == 2
    assert without.params.keys() == half.params.keys()
    for name, weight in half.params.items():
        np.testing.assert_array_equal(without.params[name], weight)


def test_rates_may_be_functions_of_the_step():
    def rising(step):
        return min(0.5, 0.1 * step)

    model = nn.mlp((8, 8), 2, rate=(rising, 0.5), input_rate=rising)
    assert [model[0].rate, model[2].rate, model[4].rate] == [rising, rising, 0.5]


def test_a_linear_model_has_no_hidden_layers():
    assert repr(nn.mlp((), 3, input_rate=0.1)) == "Sequential([Dropout(0.1), Dense(3)])"


def test_a_bound_may_be_any_constraint():
    paper = MaxNorm.paper(3.0, keep=0.5)
    assert nn.mlp(4, 2, max_norm=paper)[0].constraint == MaxNorm(1.5)
    assert nn.mlp(4, 2, max_norm=UnitNorm())[0].constraint == UnitNorm()
    assert nn.mlp(4, 2, max_norm=2)[2].constraint is None


def test_a_cnn_is_convolutions_and_dense_layers():
    model = nn.cnn((4, 6), 3, units=5, rate=0.4, conv_keep=(0.9, 0.8), input_rate=0.1, max_norm=3.0)
    c = MaxNorm(3.0)
    expected = Sequential(
        [
            Dropout(0.1),
            Conv2D(4, 3, padding="same", activation="relu", constraint=c),
            MaxPool2D(2),
            Dropout(keep=0.9),
            Conv2D(6, 3, padding="same", activation="relu", constraint=c),
            MaxPool2D(2),
            Dropout(keep=0.8),
            Flatten(),
            Dense(5, activation="relu", constraint=c),
            Dropout(0.4),
            Dense(3),
        ]
    )
    assert model.to_config() == expected.to_config()
    x = RNG.normal(size=(8, 8, 8, 1))
    assert fitted(model, x, RNG.integers(0, 3, 8), "softmax_cross_entropy").shape == (8, 3)


def test_a_cnn_takes_flat_rows_of_a_known_shape():
    model = nn.cnn(4, 2, units=(), pool_size=1, input_shape=(4, 4, 1))
    assert isinstance(model[0], Reshape)
    assert not any(isinstance(layer, MaxPool2D) for layer in model)
    x = RNG.normal(size=(8, 16))
    assert fitted(model, x, RNG.integers(0, 2, 8), "softmax_cross_entropy").shape == (8, 2)


def test_an_lstm_drops_between_its_layers():
    model = nn.lstm((6, 4), 2, rate=(0.5, 0.25), input_keep=0.75, recurrent_rate=0.1, max_norm=2.0)
    first, second, dropout, output = model
    assert (first.units, first.dropout, first.recurrent_dropout) == (6, 0.25, 0.1)
    assert (second.units, second.dropout, second.recurrent_dropout) == (4, 0.5, 0.1)
    assert (first.return_sequences, second.return_sequences) == (True, False)
    assert (dropout.rate, dropout.shared_axes, output.units) == (0.25, (), 2)
    assert first.constraint == first.recurrent_constraint == MaxNorm(2.0)
    x = RNG.normal(size=(8, 5, 3))
    assert fitted(model, x, RNG.integers(0, 2, 8), "softmax_cross_entropy").shape == (8, 2)


def test_an_lstm_takes_words_and_predicts_every_step():
    model = nn.lstm(
        6, 20, vocabulary=20, embedding=4, padding_index=0, rate=0.5, return_sequences=True
    )
    assert repr(model[0]) == repr(Embedding(20, 4, padding_index=0))
    assert isinstance(model[1], LSTM)
    assert model[2].shared_axes == (1,)
    words = RNG.integers(1, 20, (8, 7))
    outputs = fitted(model, words[:, :-1], words[:, 1:], "softmax_cross_entropy")
    assert outputs.shape == (8, 6, 20)
    assert nn.lstm(6, 2, vocabulary=9)[0].output_dim == 64


def test_a_transformer_is_blocks_of_attention_and_dense_layers():
    model = nn.transformer(
        8, 3, depth=2, heads=2, hidden=12, vocabulary=20, max_length=7, rate=(0.2, 0.3),
        attention_keep=0.75, path_rate=0.5, input_rate=0.1, activation="relu",
    )  # fmt: skip
    how = {"initializer": "glorot_uniform"}
    expected = [Embedding(20, 8), LearnedPositions(7), Dropout(0.1)]
    for rate, path in ((0.2, 0.25), (0.3, 0.5)):
        attention, dense = MultiHeadAttention(2, keep=0.75), Dense(12, activation="relu", **how)
        expected += [
            Residual([LayerNorm(), attention, Dropout(rate), DropPath(path)]),
            Residual([LayerNorm(), dense, Dense(8, **how), Dropout(rate), DropPath(path)]),
        ]
    expected += [LayerNorm(), GlobalAveragePool1D(), Dense(3, **how)]
    assert model.to_config() == Sequential(expected).to_config()
    words = RNG.integers(0, 20, (8, 7))
    assert fitted(model, words, RNG.integers(0, 3, 8), "softmax_cross_entropy").shape == (8, 3)


def test_a_causal_transformer_predicts_the_next_word():
    model = nn.transformer(
        16, 9, depth=1, vocabulary=9, max_length=8, causal=True, return_sequences=True, keep=0.9
    )
    words = (np.arange(9) + np.arange(90)[:, None]) % 9  # each word follows another
    model.fit(words[:, :-1], words[:, 1:], epochs=30, loss="softmax_cross_entropy", key=1,
              optimizer="adam", progress=False)  # fmt: skip
    state, word, said = None, np.array([[4]]), []
    for _ in range(6):
        logits, state, _ = model.forward_from(word, state)
        word = logits[:, -1:].argmax(axis=-1)
        said.append(int(word[0, 0]))
    assert said == [5, 6, 7, 8, 0, 1]
    attention = model[2].layer[1]
    assert (attention.keep, attention.causal, model[2].layer[2].keep) == (0.9, True, 0.9)


def test_a_transformer_takes_vectors_of_sequences_of_any_length():
    model = nn.transformer(8, 1, depth=1, heads=1)
    assert isinstance(model[1], SinusoidalPositions)
    assert repr(model[0]) == "Dense(8)"
    x = RNG.normal(size=(8, 5, 3))
    assert fitted(model, x, RNG.normal(size=(8, 1)), "mse").shape == (8, 1)
    assert model.predict(RNG.normal(size=(2, 90, 3))).shape == (2, 1)
    assert nn.transformer(8, 1, vocabulary=5)[0].initializer == Normal(1.0)


def test_an_autoencoder_is_symmetric():
    model = nn.autoencoder((8, 3), 12, rate=(0.5, 0.0), input_rate=0.2, max_norm=2.0)
    units = [layer.units for layer in model if isinstance(layer, Dense)]
    rates = [layer.rate for layer in model if isinstance(layer, Dropout)]
    assert units == [8, 3, 8, 12]
    assert rates == [0.2, 0.5, 0.0, 0.5]
    x = RNG.normal(size=(16, 12))
    assert fitted(model, x, x, "mse").shape == (16, 12)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: nn.mlp(8, 2, rate=0.5, keep=0.5), ValueError,
         r"mlp: give rate or keep, not both \(got 0.5, 0.5\)"),
        (lambda: nn.mlp(8, 2, input_rate=0.5, input_keep=0.5), ValueError,
         "mlp: give input_rate or input_keep, not both"),
        (lambda: nn.mlp((8, 8), 2, rate=(0.5,)), ValueError,
         "mlp: rate must be a number, or one for each hidden layer: 2, got 1"),
        (lambda: nn.mlp(8, 2, rate=1.5), ValueError, r"mlp: hidden layer: .*, got 1.5"),
        (lambda: nn.mlp(8, 2, rate=1), ValueError, "mlp: hidden layer: rate=1 drops everything"),
        (lambda: nn.mlp(8, 2, keep=(0.5, np.nan)), ValueError, "one for each hidden layer: 1, got"),
        (lambda: nn.mlp(8, 2, keep="half"), TypeError, "mlp: keep must be a number, or one for"),
        (lambda: nn.mlp(8, 2, keep=[[0.5]]), TypeError, "mlp: keep must be a number, or one for"),
        (lambda: nn.mlp((), 2, rate=0.5), ValueError,
         "mlp: rate has no effect, as there is no hidden layer: leave it out"),
        (lambda: nn.mlp((), 2, max_norm=2.0), ValueError, "max_norm holds for the hidden layers"),
        (lambda: nn.mlp(0, 2), ValueError, "mlp: units must be a positive integer, got 0"),
        (lambda: nn.mlp("8", 2), TypeError, "mlp: units must be a positive integer, got '8'"),
        (lambda: nn.mlp(8, 0), ValueError, "mlp: n_outputs must be a positive integer, got 0"),
        (lambda: nn.mlp(8, 2, max_norm=-1), ValueError, "MaxNorm: max_norm must be positive"),
        (lambda: nn.mlp(8, 2, max_norm="3"), TypeError, "max_norm must be a number, or a constr"),
        (lambda: nn.mlp(8, 2, max_norm=MaxNorm), TypeError, "max_norm must be a number, or a"),
        (lambda: nn.mlp(8, 2, activation=None), ValueError, "one linear map: name one"),
        (lambda: nn.mlp(8, 2, activation="rellu"), ValueError, "mlp: activation must be None, 'r"),
        (lambda: nn.cnn((), 2), ValueError, "cnn: filters must have at least one number"),
        (lambda: nn.cnn(4, 2, conv_rate=0.1, conv_keep=0.9), ValueError,
         "cnn: give conv_rate or conv_keep, not both"),
        (lambda: nn.cnn(4, 2, conv_rate=(0.1, 0.2)), ValueError,
         "cnn: conv_rate must be a number, or one for each convolution: 1, got 2"),
        (lambda: nn.cnn(4, 2, units=(), rate=0.5), ValueError, "as there is no dense hidden layer"),
        (lambda: nn.cnn(4, 2, input_shape=(8, 8)), ValueError, r"\(height, width, channels\), got"),
        (lambda: nn.cnn(4, 2, kernel_size=0), ValueError, "cnn: kernel_size must be a positive"),
        (lambda: nn.cnn(4, 2, pool_size=0), ValueError, "cnn: pool_size must be a positive"),
        (lambda: nn.lstm((), 2), ValueError, "lstm: units must have at least one width"),
        (lambda: nn.lstm(4, 2, embedding=8), ValueError, "embedding is for data of words"),
        (lambda: nn.lstm(4, 2, padding_index=0), ValueError, "padding_index is for data of words"),
        (lambda: nn.lstm(4, 2, recurrent_rate=2.0), ValueError, "lstm: recurrent_rate: .*2.0"),
        (lambda: nn.lstm(4, 2, return_sequences=1), TypeError, "return_sequences must be True or"),
        (lambda: nn.transformer(10, 2), ValueError, "heads must divide the 10 units, got 4"),
        (lambda: nn.transformer(8, 2, depth=0), ValueError, "depth must be a positive integer"),
        (lambda: nn.transformer(8, 2, heads=0), ValueError, "heads must be a positive integer"),
        (lambda: nn.transformer(8, 2, hidden=0), ValueError, "hidden must be a positive integer"),
        (lambda: nn.transformer(8, 2, causal=1), TypeError, "transformer: causal must be True or"),
        (lambda: nn.transformer(8, 2, return_sequences=1), TypeError, "return_sequences must be"),
        (lambda: nn.transformer(8, 2, rate=(0.1, 0.2)), ValueError, "for each block: 4, got 2"),
        (lambda: nn.transformer(8, 2, attention_rate=0.1, attention_keep=0.9), ValueError,
         "transformer: give attention_rate or attention_keep, not both"),
        (lambda: nn.transformer(8, 2, path_rate=1.5), ValueError, "path_rate must be .*got 1.5"),
        (lambda: nn.transformer(8, 2, max_length=0), ValueError, "max_length must be a positive"),
        (lambda: nn.transformer(8, 2, activation=None), ValueError, "one linear map: name one"),
        (lambda: nn.autoencoder((), 2), ValueError, "autoencoder: units must have at"),
        (lambda: nn.autoencoder((8, 2), 9, rate=(0.5, 0, 0.5)), ValueError,
         "one for each layer of the encoder: 2, got 3"),
    ],
)  # fmt: skip
def test_what_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()

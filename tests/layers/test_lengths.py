"""The valid steps of padded sequences on their way through a network."""

import numpy as np
import pytest

from dropcore.nn import (
    LSTM,
    AveragePool1D,
    ConcreteDropout,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    GlobalAveragePool1D,
    GlobalMaxPool1D,
    MaxPool1D,
    Parallel,
    Reshape,
    Residual,
    Sequential,
)
from dropcore.optim import SGD

LENGTHS = np.array([12, 3, 7, 1, 0, 11])


def sequences(features=4, steps=12):
    """Sequences of LENGTHS, with zeros behind them."""
    x = np.random.default_rng(3).standard_normal((len(LENGTHS), steps, features))
    x[np.arange(steps) >= LENGTHS[:, None]] = 0
    return x


@pytest.mark.parametrize(
    "layers",
    [
        [Conv1D(5, 3)],
        [Conv1D(5, 3, padding="same")],
        [Conv1D(5, 2, stride=2), Conv1D(5, 2)],
        [Conv1D(5, 3, dilation=2, padding=(4, 0), activation="relu"), Dropout(0.5)],
        [Conv1D(5, 3, stride=3, padding=1)],
        # Padding that does not depend on how long a sequence is.
        [Conv1D(5, 2, stride=2, padding="same")],
        [MaxPool1D(2, padding="same")],
        [AveragePool1D(2, padding="same")],
        [MaxPool1D(2), AveragePool1D(2, stride=1)],
        [Residual([Conv1D(4, 3, padding="same")]), MaxPool1D(3, stride=2)],
        [Parallel([Conv1D(3, 3, padding=1), Conv1D(3, 1)]), Sequential([MaxPool1D(2)])],
    ],
)
@pytest.mark.parametrize("last", [GlobalMaxPool1D, GlobalAveragePool1D, lambda: LSTM(3)])
def test_a_padded_sequence_gives_what_it_gives_alone(layers, last):
    model, x = Sequential([*layers, last()]), sequences()
    model.build((12, 4), key=1, dtype=np.float64)
    y = model(x, lengths=LENGTHS)
    trained, backward = model.forward(x, lengths=LENGTHS)
    np.testing.assert_array_equal(trained, y)
    dx, _ = backward(np.ones_like(y))
    for row, length in enumerate(LENGTHS):
        try:
            alone, back = model.forward(x[row : row + 1, :length])
        except ValueError:  # too short for a window: there is no step
            assert not y[row].any()
            continue
        np.testing.assert_allclose(y[row : row + 1], alone, rtol=1e-12, atol=1e-15)
        d_alone, _ = back(np.ones_like(alone))
        np.testing.assert_allclose(dx[row, :length], d_alone[0], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("padding", ["same", "valid", 1, (0, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_output_lengths_are_those_of_the_sequences_alone(size, stride, padding):
    lengths = np.arange(1, 13)
    layers = [Conv1D(2, size, stride=stride, padding=padding)]
    if isinstance(padding, str):
        layers.append(MaxPool1D(size, stride=stride, padding=padding))
    for layer in layers:
        found = layer.output_lengths(np.append(lengths, 0))
        for length, steps in zip(lengths, found[:-1], strict=True):
            try:
                alone = layer.output_shape((int(length), 4))[0]
            except ValueError:  # too short for a window
                alone = 0
            assert steps == alone
        assert found[-1] == 0


def test_steps_of_images_are_along_their_first_axis():
    model = Sequential([Conv2D(2, (3, 5), stride=(2, 1)), Reshape((5, 8)), LSTM(3)])
    x = sequences(8)[..., None]
    model.build((12, 8, 1), key=1, dtype=np.float64)
    y = model(x, lengths=LENGTHS)
    np.testing.assert_array_equal(
        Sequential(model.layers[:1]).output_lengths(LENGTHS), [5, 1, 3, 0, 0, 5]
    )
    inner = model[1](model[0](x))
    np.testing.assert_array_equal(y, model[2](inner, lengths=np.array([5, 1, 3, 0, 0, 5])))


def test_kims_network_trains_on_padded_sentences():
    x = sequences().astype(np.float32)
    model = Sequential(
        [Parallel([Sequential([Conv1D(3, k), GlobalMaxPool1D()]) for k in (2, 3, 4)]), Dense(2)]
    )
    labels = np.arange(len(x)) % 2
    history = model.fit(x, labels, lengths=LENGTHS, epochs=2, optimizer=SGD(0.1), progress=False)
    assert np.isfinite(history["loss"]).all()
    x[4] = 1e6  # a sequence of no steps
    assert abs(model.predict(x, lengths=LENGTHS)).max() < 1e3


@pytest.mark.parametrize("call", [lambda m: m, lambda m: m.forward])
@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([13] * 6, ValueError, r"lengths in \[0, 12\], got 13 ... 13"),
        ([2.0] * 6, TypeError, "lengths of integers, got float64"),
        ([2] * 5, ValueError, r"lengths of shape \(6,\), one for each sequence, got \(5,\)"),
    ],
)
def test_wrong_lengths(call, lengths, error, words):
    for last in (GlobalMaxPool1D(), LSTM(2)):
        model = Sequential([Conv1D(4, 3), last])
        model.build((12, 4), key=1, dtype=np.float64)
        with pytest.raises(error, match=words):
            call(model)(sequences(), lengths=lengths)
    with pytest.raises(error, match=words):
        call(Parallel([GlobalMaxPool1D()]))(sequences(), lengths=lengths)


def test_lengths_for_a_model_that_takes_none():
    model = Sequential([Conv1D(4, 3)])
    model.build((12, 4), key=1, dtype=np.float64)
    for use in (model, model.forward, model.forward_from):
        with pytest.raises(ValueError, match="Sequential takes no lengths of sequences"):
            use(sequences(), lengths=LENGTHS)


def test_a_learned_rate_in_front_of_a_recurrent_layer():
    layer = ConcreteDropout(LSTM(3), 0.4, data_points=10, shared_axes=1)
    model = Sequential([layer, Dense(2)])
    model.build((12, 4), key=1, dtype=np.float64)
    x = sequences()
    y = model(x, lengths=LENGTHS)
    np.testing.assert_array_equal(y, model[1](layer.layer(x, lengths=LENGTHS)))
    assert not np.array_equal(model.forward(x, key=3, lengths=LENGTHS)[0], y)
    whole, last, _ = model.forward_from(x)
    _, state, _ = model.forward_from(x[:, :5])
    second, end, backward = model.forward_from(x[:, 5:], state)
    np.testing.assert_allclose(second, whole, rtol=1e-12)
    np.testing.assert_allclose(end["0"]["layer"], last["0"]["layer"], rtol=1e-12)
    _, grads, dstate = backward(np.ones_like(second), {"0": {"layer": end["0"]["layer"]}})
    assert grads.keys() == model.params.keys()
    assert [part.shape for part in dstate["0"]["layer"]] == [(6, 3), (6, 3)]
    with pytest.raises(ValueError, match="states of the layers 'layer', got"):
        layer.forward_from(x, {"0": state})

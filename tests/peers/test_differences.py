"""What differs from Keras and PyTorch on purpose, and how."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import optim, schedules
from dropcore.nn import (
    LSTM,
    Conv1D,
    Embedding,
    GlobalAveragePool1D,
    GlobalMaxPool1D,
)
from support.arrays import close, normal
from support.layers import build
from support.peers import (
    LENGTHS,
    RATE,
    by_keras,
    cells,
    mask_of,
    states,
    with_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


def test_epsilon_of_adam_is_that_of_the_algorithm(keras):
    """Keras has the paper's epsilon hat, beside the root of v that is not corrected yet."""
    params, g = {"w": normal(6, 5)}, normal(6, 5, seed=1)
    variable = keras.Variable(params["w"], dtype="float64")
    ours = optim.Adam(RATE, epsilon=0.1)
    ours.apply(params, {"w": g}, ours.init(params), 0)
    theirs = keras.optimizers.Adam(RATE, epsilon=0.1 * np.sqrt(1 - 0.999))
    theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    close(params["w"], keras.ops.convert_to_numpy(variable), tolerance=1e-6)


@pytest.mark.parametrize("kind", ["rmsprop", "adagrad"])
def test_epsilon_stands_outside_of_the_root(keras, kind):
    """As in PyTorch; Keras has it inside."""
    g = np.full(3, 2.0)
    params, variable = {"w": np.zeros(3)}, keras.Variable(np.zeros(3), dtype="float64")
    k = keras.optimizers
    ours, theirs, square = {
        "rmsprop": (optim.RMSprop(RATE, rho=0.75, epsilon=0.5),
                    k.RMSprop(RATE, 0.75, epsilon=0.5), 1.0),
        "adagrad": (optim.Adagrad(RATE, epsilon=0.5),
                    k.Adagrad(RATE, initial_accumulator_value=0.0, epsilon=0.5), 4.0),
    }[kind]  # fmt: skip
    ours.apply(params, {"w": g}, ours.init(params), 0)
    theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    close(params["w"], -RATE * g / (np.sqrt(square) + 0.5))
    wanted = -RATE * g / np.sqrt(square + 0.5)
    close(keras.ops.convert_to_numpy(variable), wanted, tolerance=1e-9)


def test_weight_decay_of_sgd_passes_through_the_velocity(keras):
    """As in PyTorch; Keras multiplies the weight and leaves the velocity alone."""
    w, g = normal(6, 5), normal(6, 5, seed=1)
    params, variable = {"w": w.copy()}, keras.Variable(w, dtype="float64")
    ours = optim.SGD(RATE, momentum=0.5, weight_decay=0.25)
    state = ours.init(params)
    theirs = keras.optimizers.SGD(RATE, momentum=0.5, weight_decay=0.25)
    for step in range(2):
        ours.apply(params, {"w": g}, state, step)
        theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    first = w - RATE * (g + 0.25 * w)
    close(params["w"], first + 0.5 * (first - w) - RATE * (g + 0.25 * first))
    first = (1 - 0.25 * RATE) * w - RATE * g
    second = (1 - 0.25 * RATE) * first - RATE * 1.5 * g
    close(keras.ops.convert_to_numpy(variable), second, tolerance=1e-9)


def test_a_boundary_is_the_first_step_of_the_next_value(keras):
    """As in PyTorch's MultiStepLR; in Keras it is the last of the value before."""
    ours = schedules.Piecewise(boundaries=[3, 5], values=[1.0, 0.5, 0.25])
    theirs = keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.25])
    assert [ours(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert [ours(s) for s in range(8)] == [float(theirs(s)) for s in range(8)]


def test_a_warm_up_does_not_waste_its_first_step(keras):
    """Keras' begins at the rate 0; ours is one step ahead and takes one step more to rise."""
    ours = schedules.WarmUp(schedules.Cosine(0.5, 10), 4)
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.5, warmup_steps=5)
    for step in range(15):
        assert ours(step) == pytest.approx(float(theirs(step + 1)), abs=1e-6)
    assert float(theirs(0)) == 0


def test_fans_of_groups_and_of_embeddings(keras):
    """An input of a grouped convolution feeds its own group; Keras and PyTorch count all filters.

    One word comes at a time: fan in is 1. Keras takes the number of words for it.
    """
    conv = Conv1D(240, 2, groups=4, initializer="glorot_uniform")
    conv.build((9, 80), key=1)
    theirs = keras.layers.Conv1D(240, 2, groups=4)
    theirs.build((None, 9, 80))
    assert np.abs(conv.params["weight"]).max() == pytest.approx(
        np.sqrt(6 / (2 * 20 + 2 * 60)), rel=1e-3
    )
    bound = float(np.abs(keras.ops.convert_to_numpy(theirs.kernel)).max())
    assert bound == pytest.approx(np.sqrt(6 / (2 * 20 + 2 * 240)), rel=1e-3)
    words = Embedding(300, 100, initializer="glorot_uniform")
    words.build((9,), key=1)
    theirs = keras.layers.Embedding(300, 100, "glorot_uniform")
    theirs.build((None, 9))
    assert np.abs(words.params["weight"]).max() == pytest.approx(np.sqrt(6 / 101), rel=1e-3)
    bound = float(np.abs(keras.ops.convert_to_numpy(theirs.embeddings)).max())
    assert bound == pytest.approx(np.sqrt(6 / 400), rel=1e-3)


def test_gates_are_drawn_on_their_own(keras):
    """Each gate's kernel is Glorot's for its own units, and each recurrent one is orthogonal.

    Keras draws (in, gates * units) as one matrix: its kernels are smaller, and its recurrent gates
    are orthogonal only together.
    """
    ours = LSTM(60)
    ours.build((None, 40), key=1)
    theirs = keras.layers.LSTM(60)
    theirs.build((None, 5, 40))
    there = [keras.ops.convert_to_numpy(w) for w in theirs.get_weights()]
    assert np.abs(ours.params["weight"]).max() == pytest.approx(np.sqrt(6 / 100), rel=1e-2)
    assert np.abs(there[0]).max() == pytest.approx(np.sqrt(6 / 280), rel=1e-2)
    for gate in np.split(ours.params["recurrent_weight"], 4, axis=1):
        close(gate @ gate.T, np.eye(60), tolerance=1e-5)
    close(there[1] @ there[1].T, np.eye(60), tolerance=1e-5)
    np.testing.assert_array_equal(ours.params["bias"], there[2])


def test_the_mean_of_no_steps_is_zero(keras):
    """Not 0 / 0, as in Keras: an empty sequence is no reason for a NaN in the weights."""
    x = normal(2, 3, 4, dtype=np.float32)
    lengths = np.array([0, 2])
    y = GlobalAveragePool1D()(x, lengths=lengths)
    layer = keras.layers.GlobalAveragePooling1D()
    theirs = keras.ops.convert_to_numpy(layer(x, mask=mask_of(keras, lengths, 3)))
    assert np.isnan(theirs[0]).all()
    assert (y[0] == 0).all()
    close(y[1], theirs[1])


def test_outputs_behind_the_end_are_zero(keras):
    """Keras repeats the last one there, unless zero_output_for_mask is set."""
    ours, theirs = cells(keras, "gru", 4, np.float32, return_sequences=True)
    x = normal(6, 5, 3, dtype=np.float32)
    with_weights(build(ours, *x.shape[1:], dtype=np.float32), theirs, x)
    valid = np.arange(5) < LENGTHS[:, None]
    y = ours(x, lengths=LENGTHS)
    repeated = keras.ops.convert_to_numpy(theirs(x, mask=mask_of(keras, LENGTHS)))
    close(y[valid], repeated[valid])
    assert (y[~valid] == 0).all()
    assert (repeated[~valid] != 0).any()
    close(repeated[:, -1], ours.forward_from(x, lengths=LENGTHS)[1])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_sequence_of_no_steps_ends_where_it_began(keras, cell):
    """Its output is the state that it was given; Keras' is zero, and its state is ours."""
    ours, theirs = cells(keras, cell, 4, np.float32)
    theirs.return_state = True
    x = normal(2, 5, 3, dtype=np.float32)
    with_weights(build(ours, *x.shape[1:], dtype=np.float32), theirs, x)
    first = states(ours, 2, np.float32)
    lengths = np.array([0, 3])
    y, last, _ = ours.forward_from(x, tuple(first) if cell == "lstm" else first[0], lengths=lengths)
    there, *wanted = map(
        keras.ops.convert_to_numpy,
        theirs(x, initial_state=first, mask=mask_of(keras, lengths)),
    )
    for part, other in zip(last if cell == "lstm" else [last], wanted, strict=True):
        close(part, other)
    np.testing.assert_array_equal(y[0], first[0][0])
    assert (there[0] == 0).all()
    close(y[1], there[1])


def test_the_first_of_equal_maxima_gets_the_gradient(keras):
    """In whole maps too, as in windows everywhere; Keras divides it there."""
    x = np.array([[[1.0], [3.0], [3.0]]], np.float32)
    dy = np.full((1, 1), 2, np.float32)
    np.testing.assert_array_equal(GlobalMaxPool1D().forward(x)[1](dy)[0].ravel(), [0, 2, 0])
    theirs = by_keras(keras, keras.layers.GlobalMaxPooling1D(), [x], [], dy)[1][0]
    np.testing.assert_array_equal(theirs.ravel(), [0, 1, 1])

"""One update, public: what a loop of one's own repeats."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

from dropcore import Key, training
from dropcore.constraints import MaxNorm
from dropcore.losses import MeanSquaredError, softmax_cross_entropy
from dropcore.nn import LSTM, BatchNorm, Dense, Dropout, Embedding, Layer, Sequential
from dropcore.optim import SGD, Adam
from dropcore.regularizers import L2

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 48)


def network():
    return Sequential(
        [
            Dense(8, activation="relu", constraint=MaxNorm(0.5), regularizer=L2(0.1)),
            BatchNorm(),
            Dropout(0.5),
            Dense(3),
        ]
    )


def numbers(model):
    """All that training changes."""
    state = model.training_state
    arrays = [*model.params.values(), *model.buffers.values()]
    arrays += [array for slot in state.slots.values() for array in slot.values()]
    return b"".join(array.tobytes() for array in arrays), state.step


@pytest.mark.parametrize("optimizer", ["adam", SGD(0.1, momentum=0.9)])
def test_steps_are_what_fit_calls(optimizer):
    fitted, stepped = network(), network()
    history = fitted.fit(X, Y, epochs=3, batch_size=20, optimizer=optimizer, key=Key(7, step=5),
                         loss="softmax_cross_entropy", shuffle=False, progress=False)  # fmt: skip
    losses = []
    for _ in range(3):
        for start in range(0, 48, 20):
            rows = slice(start, start + 20)
            result = training.step(
                stepped, optimizer, "softmax_cross_entropy", X[rows], Y[rows], Key(7, step=5)
            )
            losses.append(result.loss)
    assert numbers(stepped) == numbers(fitted)
    assert stepped.training_state.step == 9
    assert history["loss"][-1] == pytest.approx(np.average(losses[-3:], weights=[20, 20, 8]))
    norms = np.linalg.norm(stepped.params["0.weight"].astype(float), axis=0)
    assert (norms <= 0.5).all()
    assert abs(stepped.buffers["1.mean"]).max() > 0.01


def test_what_it_returns():
    model = network()
    model.build((6,), key=7)
    twin = copy.deepcopy(model)
    loss, outputs, state = training.step(model, "sgd", "softmax_cross_entropy", X, Y, 7)
    wanted, _ = twin.forward(X, key=Key(7, step=0))
    np.testing.assert_array_equal(outputs, wanted)
    assert loss == softmax_cross_entropy(wanted, Y)[0]
    assert not state
    # The masks of the second step are others, although the key is the same.
    second = training.step(model, SGD(1e-30), "softmax_cross_entropy", X, Y, 7).outputs
    wanted, _ = model.forward(X, key=Key(7, step=1))
    np.testing.assert_allclose(second, wanted, rtol=1e-6, atol=1e-7)


def test_a_state_goes_from_batch_to_batch():
    words = np.random.default_rng(1).integers(0, 9, (4, 30))
    model = Sequential([Embedding(9, 5), LSTM(6, return_sequences=True), Dense(9)])
    model.build((10,), key=1)
    still = SGD(1e-30)
    state, outputs = None, []
    for start in range(0, 30, 10):
        x = words[:, start : start + 10]
        result = training.step(model, still, "softmax_cross_entropy", x, x, state=state)
        state = result.state
        outputs.append(result.outputs)
    np.testing.assert_allclose(np.concatenate(outputs, 1), model(words), rtol=1e-5, atol=1e-6)
    anew = training.step(model, still, "softmax_cross_entropy", words[:, 10:20], words[:, 10:20])
    assert abs(anew.outputs - outputs[1]).max() > 1e-3


def test_a_language_model_learns_by_carrying_its_state():
    # The next word repeats the one 6 steps before: pieces of 3 words do not show it.
    words = np.tile(np.random.default_rng(3).integers(0, 5, (8, 6)), 41)
    model = Sequential([Embedding(5, 8), LSTM(24, return_sequences=True), Dense(5)])
    for _ in range(20):
        state = None
        for start in range(0, 240, 6):
            piece = words[:, start : start + 7]
            loss, _, state = training.step(
                model, Adam(0.01), "softmax_cross_entropy", piece[:, :-1], piece[:, 1:], state=state
            )
    assert loss < 0.3


def test_the_loss_is_remembered():
    model = Sequential([Dense(1)])
    training.step(model, "sgd", "mse", X, X[:, 0])
    assert model.training_state.loss == MeanSquaredError()
    assert training.step(model, "sgd", None, X, X[:, 0]).loss > 0
    assert model.evaluate(X, X[:, 0]).keys() == {"loss"}


def test_a_loss_that_is_not_finite_makes_no_update():
    model = network()
    training.step(model, "sgd", "softmax_cross_entropy", X, Y, 7)
    before = numbers(model)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1, and no update was made"):
        training.step(model, "sgd", lambda out, y: (np.nan, out), X, Y, 7)
    assert numbers(model) == before


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"optimizer": "adm"}, ValueError, "'adam' or 'sgd', or an object .* got 'adm'"),
        ({"optimizer": X}, TypeError, r"got an object of type ndarray of shape \(48, 6\)$"),
        ({"optimizer": 0.1}, TypeError, "a name such as 'adam', .* got 0.1"),
        ({"loss": "ms"}, ValueError, "got 'ms'"),
        ({"key": None}, ValueError, "no key to draw them from: give one, such as key=0"),
        ({"key": Key(1, stream=2**28 - 1, step=0)}, None, ""),
        ({"key": Key(1, step=2**32 - 1)}, None, ""),
        ({"x": X[:, 0]}, ValueError, r"x must be of shape \(samples, features\), got \(48,\)"),
        ({"y": Y[1:]}, ValueError, "each of the 48 samples, got 47"),
        ({"sample_weight": np.ones(3)}, ValueError, "sample_weight .* each of the 48 samples"),
    ],
)
def test_mistakes_change_nothing(options, error, text):
    model = network()
    usual = {"optimizer": "adam", "loss": "softmax_cross_entropy", "x": X, "y": Y, "key": 7}
    if error is None:
        training.step(model, **usual | options)
        assert model.training_state.step == 1
        return
    with pytest.raises(error, match=text):
        training.step(model, **usual | options)
    assert not model.built
    assert model.training_state is None


@pytest.mark.parametrize("model", [3, None, Sequential, "model"], ids=repr)
def test_what_is_no_layer_is_refused(model):
    text = f"model must be a layer, such as Sequential([Dense(10)]), got {model!r}"
    for call in (
        lambda: training.step(model, "adam", "softmax_cross_entropy", X, Y, 7),
        lambda: training.fit(model, X, Y, epochs=1),
        lambda: training.predict(model, X),
        lambda: training.evaluate(model, X, Y),
    ):
        with pytest.raises(TypeError, match=re.escape(text)):
            call()


@pytest.mark.parametrize("name", ["0.weight", "3.bias"])
def test_weights_that_became_read_only_are_refused(name):
    model = network()
    training.step(model, "adam", "softmax_cross_entropy", X, Y, 7)
    model.params[name].flags.writeable = False
    before = numbers(model)
    with pytest.raises(ValueError, match=f"parameter '{name}' is read-only"):
        training.step(model, "adam", "softmax_cross_entropy", X, Y, 7)
    assert numbers(model) == before


# --- frozen layers -------------------------------------------------------------------------------


def partly_frozen():
    model = network()
    model.build((6,), key=1)
    model[0].trainable = False
    return model


def test_frozen_parameters_stay():
    model = partly_frozen()
    model.params["0.weight"][...] *= 9  # beyond its constraint, which frozen weights do not obey
    before = {name: array.copy() for name, array in model.params.items()}
    model.fit(X, Y, epochs=2, key=1, loss="softmax_cross_entropy", progress=False)
    for name, array in model.params.items():
        assert np.array_equal(array, before[name]) == name.startswith("0."), name
    # Thawed layers are trained again, with the state that belongs to them.
    model[0].trainable = True
    training.step(model, "adam", None, X, Y, 1)
    assert not np.array_equal(model.params["0.weight"], before["0.weight"])


def test_a_model_that_is_all_frozen_is_refused():
    model = Sequential([Dense(3)])
    model.trainable = False
    with pytest.raises(ValueError, match="all parameters of the model are frozen"):
        model.fit(X, Y, epochs=1, loss="softmax_cross_entropy", progress=False)


def test_layers_may_be_thawed_between_epochs():
    model = partly_frozen()
    before = model.params["0.weight"].copy()
    seen = []

    def thaw(epoch, metrics):
        seen.append(np.array_equal(model.params["0.weight"], before))
        if epoch == 2:
            model.trainable = True

    model.fit(X, Y, epochs=3, key=1, loss="softmax_cross_entropy", progress=False,
              callbacks=[thaw])  # fmt: skip
    assert seen == [True, True, False]


# --- progress that is kept -----------------------------------------------------------------------


def test_slots_belong_to_an_optimizer_and_to_parameters():
    state, params = training.TrainingState(), {"a": np.ones(3), "b": np.ones((2, 2))}
    state.prepare(SGD(0.1, momentum=0.9), params)
    first, state.step = state.slots, 5
    assert first["velocity"].keys() == params.keys()
    state.prepare(SGD(0.2, momentum=0.8), dict(reversed(params.items())))
    assert state.slots is first
    assert state.begun == 0
    for optimizer, arrays in [
        (SGD(0.1, momentum=0.9), params | {"c": np.ones(1)}),
        (SGD(0.1), params),
        (Adam(), params),
    ]:
        state.prepare(SGD(0.1, momentum=0.9), params)
        before = state.slots
        state.prepare(optimizer, arrays)
        assert state.slots is not before
        assert state.begun == 5
        assert all(slot.keys() == arrays.keys() for slot in state.slots.values())


def own_loss(out, y):
    return softmax_cross_entropy(out, y)


def test_a_function_as_loss_is_left_out_of_pickles():
    model = Sequential([Dense(3)])
    model.fit(X, Y, epochs=1, loss=lambda out, y: own_loss(out, y), progress=False)
    assert model.evaluate(X, Y).keys() == {"loss"}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.training_state.step == 2
    with pytest.raises(ValueError, match="remembers no loss"):
        twin.evaluate(X, Y)
    model.fit(X, Y, epochs=1, loss="softmax_cross_entropy", progress=False)
    twin = pickle.loads(pickle.dumps(model))
    assert twin.evaluate(X, Y) == model.evaluate(X, Y)
    assert dict(twin.training_state.history) == dict(model.training_state.history)


def test_a_layer_of_ones_own_that_knows_no_state():
    class Doubled(Layer):
        def output_shape(self, input_shape):
            return input_shape

        def forward(self, x, *, key=None, row_offset=0):
            return 2 * x, lambda dy, **_: (2 * dy, {})

    result = training.step(Sequential([Doubled(), Dense(3)]), "sgd", "softmax_cross_entropy", X, Y)
    assert not result.state


def test_the_columns_are_those_of_the_last_fit():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    model = network()
    model.fit(frame, Y, epochs=1, key=1, loss="softmax_cross_entropy", progress=False)
    before = numbers(model)
    with pytest.raises(ValueError, match=r"^x must have the columns .* the same in another order"):
        training.step(model, "adam", None, frame[list("fedcba")], Y, key=1)
    assert numbers(model) == before
    loss = training.step(copy.deepcopy(model), "adam", None, frame, Y, key=1).loss
    assert loss == training.step(model, "adam", None, X, Y, key=1).loss

"""Labels in the user's words: encoded for cross-entropies, remembered, and predicted."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from dropcore import training
from dropcore.losses import SoftmaxCrossEntropy
from dropcore.nn import LSTM, Dense, Dropout, Sequential

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
WORDS = np.array(["apple", "fig", "pear"])
SOFTMAX = {"loss": "softmax_cross_entropy", "progress": False}
SIGMOID = {"loss": "binary_cross_entropy", "progress": False}


def fitted(y, units=3, epochs=2, **options):
    model = Sequential([Dense(units)])
    model.fit(X, y, epochs=epochs, key=1, **SOFTMAX | options)
    return model


def weights(model):
    return b"".join(array.tobytes() for array in model.params.values())


SERIES = {
    "text": lambda pd: pd.Series(WORDS[Y]),
    "categories": lambda pd: pd.Series(WORDS[Y], dtype="category"),
    "nullable": lambda pd: pd.Series(Y + 1, dtype="Int64"),
    "column": lambda pd: pd.DataFrame({"kind": WORDS[Y]}),
}


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (WORDS[Y], WORDS),
        (WORDS[Y][:, None], WORDS),
        (WORDS[Y].tolist(), WORDS),
        (WORDS[Y].astype(object), WORDS),
        (WORDS.astype("S")[Y], WORDS.astype("S")),
        (WORDS[Y].astype(np.dtypes.StringDType()), WORDS),
        (Y + 1, [1, 2, 3]),
        ((Y + 1).astype(np.uint8), [1, 2, 3]),
        (Y - 1, [-1, 0, 1]),
        (np.array([10, 30, 7])[[1, 2, 0]][Y] * 1, [7, 10, 30]),
    ],
)
def test_labels_of_any_kind_train_as_their_numbers_do(y, classes, capsys):
    numbers = np.searchsorted(classes, np.asarray(y).astype(np.asarray(classes).dtype))
    plain = fitted(numbers.reshape(60))
    capsys.readouterr()
    model = fitted(y, validation_data=(X[:9], y[:9]))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    first = np.asarray(classes).tolist()[0]
    assert err.startswith(f"dropcore: the labels in y are encoded: {first!r} as 0, ")
    assert weights(model) == weights(plain)
    np.testing.assert_array_equal(model.training_state.classes, classes)
    assert model.evaluate(X, y) == plain.evaluate(X, numbers.reshape(60))
    found = model.predict_labels(X)
    assert found.shape == (60,)
    np.testing.assert_array_equal(found, np.asarray(classes)[model.predict(X).argmax(-1)])
    model.fit(X, y, epochs=1, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", SERIES)
def test_labels_in_pandas(kind):
    pd = pytest.importorskip("pandas")
    y = SERIES[kind](pd)
    model = fitted(y)
    assert weights(model) == weights(fitted(Y))
    wanted = [1, 2, 3] if kind == "nullable" else WORDS
    np.testing.assert_array_equal(model.training_state.classes, wanted)


def test_labels_that_are_missing_in_pandas():
    pd = pytest.importorskip("pandas")
    for value in (None, np.nan, pd.NA):
        y = pd.Series(WORDS[Y].astype(object))
        y[7] = value
        with pytest.raises(ValueError, match=r"y must have a target .* at 7: leave out samples"):
            fitted(y)


def test_integers_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match=r"^y must be integers in \[-2\*\*63, 2\*\*63\): use text"):
        fitted(np.array([1, 2, 3, 2**70] * 15, object))


def test_numbers_of_outputs_are_left_as_they_are(capsys):
    for y in (Y, np.where(Y == 0, 2, Y)):  # the first class may be missing
        model = fitted(y)
        assert model.training_state.classes is None
        assert capsys.readouterr().err == ""
        np.testing.assert_array_equal(model.predict_labels(X), model.predict(X).argmax(-1))


@pytest.mark.parametrize(
    ("y", "classes"),
    [(WORDS[Y % 2], WORDS[:2]), (Y % 2 + 1, [1, 2]), (Y % 2 > 0, [False, True])],
)
def test_two_classes_of_one_output(y, classes, capsys):
    plain, model = fitted(Y % 2, 1, **SIGMOID), fitted(y, 1, **SIGMOID)
    assert weights(model) == weights(plain)
    np.testing.assert_array_equal(model.training_state.classes, classes)
    found = model.predict_labels(X)
    np.testing.assert_array_equal(found, np.asarray(classes)[(model.predict(X)[:, 0] > 0) * 1])
    assert found.dtype == np.asarray(classes).dtype
    assert np.mean(found == y) == model.evaluate(X, y)["accuracy"]
    assert (capsys.readouterr().err == "") is (y.dtype == bool)


def test_no_and_yes_are_false_and_true_and_0_and_1():
    model = fitted(Y > 0, 1, **SIGMOID)
    assert model.evaluate(X, (Y > 0) * 1) == model.evaluate(X, Y > 0)
    with pytest.raises(ValueError, match=r"the label 2 at .* none of the classes .* False, True$"):
        model.evaluate(X, Y)


def test_the_loss_of_text_is_chosen(capsys):
    for units, loss in [(3, "softmax_cross_entropy"), (1, "binary_cross_entropy")]:
        fitted(WORDS[Y % max(units, 2)], units, loss=None)
        count = max(units, 2)
        assert capsys.readouterr().err.splitlines()[0] == (
            f"dropcore: no loss was named; using loss={loss!r}: y holds labels of {count} classes"
            + ("" if units > 1 else ", and there is one output")
        )


def test_many_classes_are_announced_in_short(capsys):
    y = np.array([f"c{number:02}" for number in range(60)])
    fitted(y, 60)
    assert "'c07' as 7, ... (60 classes); predict_labels" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"60 classes, 'c00', .*, 'c07' \.\.\., and the model 3"):
        fitted(y)


@pytest.mark.parametrize(
    ("y", "units", "options", "text"),
    [
        (WORDS[Y], 2, SOFTMAX, "3 classes, 'apple', 'fig', 'pear', and the model 2 outputs: the "
         "last layer must have 3 units$"),
        (WORDS[Y], 1, SIGMOID, "the model 1 output: the last layer must have 3 units, and the loss "
         "'softmax_cross_entropy'$"),
        (Y + 1, 4, {"epochs": 1} | SOFTMAX, None),
        (Y + 2, 4, SOFTMAX, r"3 classes, 2, 3, 4, .* 4 outputs: the last layer must have 3 units, "
         r"or labels must be in \[0, 4\), the numbers of the outputs$"),
    ],
)  # fmt: skip
def test_as_many_classes_as_outputs(y, units, options, text):
    if text is None:
        assert fitted(y, units, **options).training_state.classes is None
        return
    with pytest.raises(ValueError, match=text):
        fitted(y, units, **options)


def test_classes_are_remembered():
    model = fitted(WORDS[Y])
    unknown = r"^y has the label 'kiwi' at 1, .* none of the classes .* 'apple', 'fig', 'pear'$"
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = weights(twin)
        for call in (twin.evaluate, lambda x, y, twin=twin: twin.fit(x, y, epochs=1, **SOFTMAX)):
            with pytest.raises(ValueError, match=unknown):
                call(X[:2], ["fig", "kiwi"])
            with pytest.raises(ValueError, match=r"^y has the label 0 at 0, which is none of"):
                call(X[:2], [0, 1])
        assert weights(twin) == before
        twin.fit(X[:2], ["pear", "fig"], epochs=1, **SOFTMAX)  # not all of them
        np.testing.assert_array_equal(twin.training_state.classes, WORDS)
    with pytest.raises(ValueError, match=r"^validation y has the label 'kiwi' at 0, "):
        fitted(WORDS[Y], validation_data=(X[:1], ["kiwi"]))


def test_a_step_takes_the_labels_of_fit():
    found = []
    for y in (Y, WORDS[Y]):
        model = fitted(y)
        training.step(model, "adam", None, X[:9], y[:9], 1)
        found.append(weights(model))
    assert found[0] == found[1]


def test_padded_steps_may_hold_any_label():
    x, y = RNG.normal(size=(8, 4, 2)), WORDS[RNG.integers(0, 3, (8, 4))].astype("<U7")
    lengths = np.array([4, 3, 2, 1, 4, 3, 2, 1])
    padded = np.arange(4) >= lengths[:, None]
    y[0], y[4] = [*WORDS, "fig"], [*WORDS, "pear"]
    y[padded] = "padding"
    model = Sequential([LSTM(4, return_sequences=True), Dense(3)])
    model.fit(x, y, epochs=1, lengths=lengths, key=1, **SOFTMAX)
    np.testing.assert_array_equal(model.training_state.classes, WORDS)
    assert model.predict_labels(x, lengths=lengths).shape == (8, 4)
    y[1, 0] = "padding"
    with pytest.raises(ValueError, match=r"^y has the label 'padding' at \(1, 0\)"):
        model.evaluate(x, y, lengths=lengths)


def test_an_ignored_label_is_no_class():
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    y = np.where(RNG.random(60) < 0.2, -1, Y)
    model = fitted(y, loss=loss)
    assert model.training_state.classes is None
    with pytest.raises(ValueError, match=r"in \[0, 3\), the network's outputs or -1"):
        fitted(Y + 1, loss=loss)


# --- probabilities -------------------------------------------------------------------------------


def test_probabilities_of_classes():
    model = fitted(WORDS[Y])
    logits = model.predict(X).astype(np.float64)
    found = model.predict_proba(X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), 1e-5)
    yes = fitted(Y % 2, 1, **SIGMOID)
    p = 1 / (1 + np.exp(-yes.predict(X)[:, 0].astype(np.float64)))
    np.testing.assert_allclose(yes.predict_proba(X), np.stack([1 - p, p], -1), 1e-5)
    each = fitted(np.stack([Y % 2, Y > 1], -1), 2, **SIGMOID)
    p = 1 / (1 + np.exp(-each.predict(X).astype(np.float64)))
    np.testing.assert_allclose(each.predict_proba(X), p, 1e-5)
    np.testing.assert_array_equal(each.predict_labels(X), (p > 0.5) * 1)


def test_probabilities_of_large_logits_are_finite():
    model = fitted(Y)
    model.params["0.weight"][...] *= 1e30
    found = model.predict_proba(X)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(-1), 1, 1e-6)


def test_monte_carlo_probabilities_are_those_of_its_samples():
    model = Sequential([Dropout(0.5), Dense(3)])
    model.fit(X, Y, epochs=1, key=1, **SOFTMAX)
    found = model.predict_proba(X, key=7, samples=4)
    logits = model.predict(X, key=7, samples=4)
    assert found.shape == (4, 60, 3)
    np.testing.assert_array_equal(found.argmax(-1), logits.argmax(-1))


def test_models_without_classes_have_no_probabilities():
    model = Sequential([Dense(3)])
    model.build((6,), key=1)
    for name in ("predict_proba", "predict_labels"):
        with pytest.raises(ValueError, match=f"^{name} is for .* remembers no loss of a fit: use"):
            getattr(model, name)(X)
    model.fit(X, X[:, :3], epochs=1, loss="mse", progress=False)
    with pytest.raises(ValueError, match=r"was fitted with MeanSquaredError\(\): use predict"):
        model.predict_labels(X)


# --- one class -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "units", "options", "text"),
    [
        (Y * 0 + 2, 3, SOFTMAX, "all labels in y are 2: with one class"),
        (Y * 0, 1, SIGMOID, "all labels in y are 0: with one class"),
        (Y < 9, 1, SIGMOID, "all labels in y are True: with one class"),
        (np.ones(60), 1, SIGMOID, None),
        (np.ones((60, 2), int), 2, SIGMOID, None),
    ],
)
def test_one_class_is_warned_of(y, units, options, text):
    if text is None:
        fitted(y, units, **options)
        return
    with pytest.warns(UserWarning, match=text):
        fitted(y, units, **options)

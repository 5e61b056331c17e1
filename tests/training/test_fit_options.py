"""The choices of `fit`: loss, optimizer, order, hook; its history, its warnings."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from dropcore import training
from dropcore.losses import (
    BinaryCrossEntropy,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    softmax_cross_entropy,
)
from dropcore.nn import (
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GaussianNoise,
    GlobalMaxPool2D,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    UnitDropout,
)
from dropcore.optim import SGD, Adam
from dropcore.training import History

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
CLASSES = {"loss": "softmax_cross_entropy", "progress": False}


# --- the loss ------------------------------------------------------------------------------------

SHARES = RNG.dirichlet(np.ones(3), 60)
CHOICES = [
    (Dense(3), Y, SoftmaxCrossEntropy(), "labels of 3 classes"),
    (Dense(100), np.arange(60), SoftmaxCrossEntropy(), "labels of 100 classes"),
    (Dense(3), Y[:, None], SoftmaxCrossEntropy(), "labels of 3 classes"),
    (Dense(2), Y % 2, SoftmaxCrossEntropy(), "labels of 2 classes"),
    (Dense(1), Y % 2, BinaryCrossEntropy(), "0 and 1 only"),
    (Dense(1), Y > 1, BinaryCrossEntropy(), "0 and 1 only"),
    (Dense(1), np.zeros(60), BinaryCrossEntropy(), "0 and 1 only"),
    (Dense(1), Y, MeanSquaredError(), "numbers to predict"),
    (Dense(1), X[:, :1], MeanSquaredError(), "numbers to predict"),
    (Dense(2), X[:, :2], MeanSquaredError(), "numbers to predict"),
]


@pytest.mark.parametrize(("model", "y", "loss", "reason"), CHOICES)
def test_the_loss_is_chosen_and_printed_once(capsys, model, y, loss, reason):
    model = Sequential([model.from_config(model.to_config())])
    history = model.fit(X, y, epochs=1, progress=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("dropcore: no loss was named; using loss=")
    assert reason in err
    assert model.training_state.loss == loss
    name = err.split("'")[1]
    named = Sequential([model[0].from_config(model[0].to_config())])
    assert named.fit(X, y, epochs=1, loss=name, progress=False)["loss"] == history["loss"]
    model.fit(X, y, epochs=1, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("y", [np.eye(3)[Y], np.eye(3, dtype=int)[Y], SHARES, np.eye(3)[Y] > 0,
                               RNG.integers(0, 2, (60, 3))])  # fmt: skip
def test_an_ambiguous_loss_must_be_named(y):
    model = Sequential([Dense(3)])
    with pytest.raises(ValueError, match=r"^y: .* so the loss must be named: loss='softmax_cross"):
        model.fit(X, y, epochs=1, progress=False)
    assert not model.built


def test_evaluate_knows_the_loss_of_fit():
    model = Sequential([Dense(2)])
    with pytest.raises(ValueError, match="remembers no loss of a fit, so name one"):
        model.evaluate(X, X[:, :2])
    model.fit(X, X[:, :2], epochs=1, loss="mae", progress=False)
    assert model.evaluate(X, X[:, :2]) == model.evaluate(X, X[:, :2], loss="mae")
    # The next call of fit goes on with it.
    first = model.evaluate(X, X[:, :2])["loss"]
    history = model.fit(X, X[:, :2], epochs=1, optimizer=SGD(1e-30), progress=False)
    assert history["loss"][0] == pytest.approx(first, rel=1e-6)
    assert model.evaluate(X, X[:, :2], loss="mse") != model.evaluate(X, X[:, :2])


# --- the optimizer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "optimizer"), [("adam", Adam(1e-3)), ("sgd", SGD(0.01, momentum=0.9))]
)
def test_optimizers_by_name(name, optimizer):
    named, made = Sequential([Dense(3)]), Sequential([Dense(3)])
    assert named.fit(X, Y, epochs=2, optimizer=name, **CLASSES)["loss"] == \
        made.fit(X, Y, epochs=2, optimizer=optimizer, **CLASSES)["loss"]  # fmt: skip


def test_adam_is_the_default():
    model = Sequential([Dense(3)])
    model.fit(X, Y, epochs=1, **CLASSES)
    assert model.training_state.optimizer == "Adam"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_names_suit_dropout_on_standardised_digits(optimizer):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = digits.data
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-8)
    model = Sequential(
        [Dropout(0.2), Dense(256, activation="relu"), Dropout(0.5),
         Dense(256, activation="relu"), Dropout(0.5), Dense(10)]
    )  # fmt: skip
    model.fit(x[:1200], digits.target[:1200], epochs=15, optimizer=optimizer, key=1, **CLASSES)
    assert model.evaluate(x[1200:], digits.target[1200:])["accuracy"] > 0.9


# --- the order -----------------------------------------------------------------------------------


def test_without_shuffle_samples_come_in_their_order():
    seen = []

    def loss(out, y):
        seen.append(y)
        return softmax_cross_entropy(out, y)

    Sequential([Dense(60)]).fit(X, np.arange(60), epochs=2, batch_size=25, loss=loss, shuffle=False,
                  progress=False)  # fmt: skip
    assert [len(y) for y in seen] == [25, 25, 10] * 2
    np.testing.assert_array_equal(np.concatenate(seen), np.tile(np.arange(60), 2))


# --- the hook and the history --------------------------------------------------------------------


def test_the_hook_sees_each_epoch_and_may_stop():
    seen = []

    def on_epoch_end(epoch, metrics):
        seen.append((epoch, metrics))
        metrics["loss"] = None  # it is a copy
        return epoch == 3

    model = Sequential([Dense(3)])
    history = model.fit(X, Y, epochs=9, validation_data=(X, Y), callbacks=[on_epoch_end], **CLASSES)
    assert history.epochs == [1, 2, 3]
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert seen[0][1].keys() == {"loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
    assert seen[2][1]["val_loss"] == history["val_loss"][2]
    assert None not in history["loss"]
    assert model.training_state.epoch == 3
    assert model.fit(X, Y, epochs=1, **CLASSES).epochs == [4]


def test_an_error_in_the_hook_leaves_a_counted_epoch():
    model = Sequential([Dense(3)])
    with pytest.raises(ZeroDivisionError):
        model.fit(X, Y, epochs=2, callbacks=[lambda epoch, metrics: 1 / 0], **CLASSES)
    assert model.training_state.epoch == 1
    assert model.training_state.history.epochs == [1]


def test_a_history_is_a_mapping():
    model = Sequential([Dense(3)])
    history = model.fit(X, Y, epochs=2, **CLASSES)
    assert "loss" in history
    assert "acc" not in history
    assert list(history) == ["loss", "accuracy", "seconds"]
    assert len(history) == 3
    assert dict(history) == history.metrics
    assert dict(history.items())["loss"] is history["loss"]
    assert history.get("val_loss") is None
    with pytest.raises(KeyError, match="not 'acc'"):
        history["acc"]
    assert model.training_state.history is history
    assert len(History()) == 0
    assert repr(History()) == "<History of 0 epochs>"


# --- what is probably not meant ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "y", "loss", "text"),
    [
        ([Dense(3), Softmax()], Y, "softmax_cross_entropy", "softmax itself, and layer 1, Soft"),
        ([Dense(3, activation="softmax")], Y, SoftmaxCrossEntropy(label_smoothing=1), "layer 0, "),
        ([Dense(1), Sigmoid()], Y % 2, "binary_cross_entropy", r"sigmoid itself, and layer 1, Sig"),
        ([Sequential([Dense(1, activation="sigmoid")])], Y % 2, "binary_cross_entropy",
         r"layer 0\.0, Dense\(1, activation='sigmoid'\)"),
        ([Dense(3), Dropout(0.5)], Y, "softmax_cross_entropy", r"with layer 1, Dropout\(0\.5\)"),
        ([Dense(3), GaussianNoise(0.5)], Y, "softmax_cross_entropy", "ends with layer 1, Gauss"),
    ],
)  # fmt: skip
def test_a_last_layer_that_is_not_meant(layers, y, loss, text):
    with pytest.warns(UserWarning, match=text) as record:
        Sequential(layers).fit(X, y, epochs=1, loss=loss, key=1, progress=False)
    assert [warning.filename for warning in record] == [__file__]


@pytest.mark.parametrize(
    ("layers", "y", "loss"),
    [
        ([Dense(3), Softmax()], np.eye(3)[Y], "mse"),
        ([Dense(3), Softmax(), Dense(3)], Y, "softmax_cross_entropy"),
        ([Dense(1), Sigmoid()], Y % 2, "mse"),
        ([Dropout(0.5), Dense(3)], Y, "softmax_cross_entropy"),
    ],
)
def test_what_may_be_meant_gives_no_warning(layers, y, loss):
    Sequential(layers).fit(X, y, epochs=1, loss=loss, key=1, progress=False)  # warnings are errors


def test_images_with_their_channels_first():
    x = RNG.normal(size=(6, 3, 16, 16))
    model = Sequential([Conv2D(2, 3), GlobalMaxPool2D(), Dense(3)])
    with pytest.warns(UserWarning, match=r"\(3, 16, 16\), .*np\.moveaxis\(x, 1, -1\)"):
        model.fit(x, Y[:6], epochs=1, **CLASSES)
    fresh = Sequential([Conv2D(2, 3), GlobalMaxPool2D(), Dense(3)])
    fresh.fit(np.moveaxis(x, 1, -1), Y[:6], epochs=1, **CLASSES)
    Sequential([Flatten(), Dense(3)]).fit(x, Y[:6], epochs=1, **CLASSES)


@pytest.mark.parametrize("layers", [[Dropout(0.5)], [ReLU(), ReLU()]])
def test_a_model_without_weights_is_refused(layers):
    model = Sequential(layers)
    with pytest.raises(ValueError, match="the model has no weights to train"):
        model.fit(X, X, epochs=1, loss="mse", key=1, progress=False)
    assert model.training_state is None


# --- what is not finite --------------------------------------------------------------------------


def test_an_infinite_validation_loss_is_named_with_its_epoch():
    model = Sequential([Dense(4), Dense(1)])
    model.build((6,), key=1)
    huge = np.full((4, 6), 3e38, np.float32)
    with pytest.warns(RuntimeWarning, match=r"is (inf|nan) in epoch 1: .* layer 0, Dense\(4\)"):
        history = model.fit(X, X[:, 0], epochs=1, loss="mse", progress=False,
                            validation_data=(huge, np.zeros(4)))  # fmt: skip
    assert not math.isfinite(history["val_loss"][0])
    assert np.isfinite(model.predict(X)).all()


def test_harmless_underflow_does_not_stop_training():
    model = Sequential([Dense(8, activation="relu"), BatchNorm(), Dense(3)])
    model.build((6,), key=1)
    model.params["2.weight"][...] *= 1e4
    with np.errstate(all="raise"):
        model.fit(X, Y, epochs=1, optimizer=SGD(1e-9), validation_data=(X, Y), **CLASSES)
        model.evaluate(X, Y)
        model.predict(X)


@pytest.mark.parametrize(
    ("layers", "x", "y", "words", "not_said"),
    [
        ([Dense(9), UnitDropout(0.5), Dense(1)], X, X[:, 0], ["unit masks"], "standardise"),
        ([Dense(9), Dropout(0.5, shared_axes=0), Dense(1)], X, X[:, 0], ["unit masks"], "standard"),
        ([Dense(9), Dropout(0.5), Dense(1)], X, 1e20 * X[:, 0], [r"y reaches \d\.\de\+20"], "unit"),
        ([Dense(9), Dense(1)], 1e5 * X, X[:, 0], [r"x reaches \d\.\de\+05"], "unit"),
    ],
)
def test_a_diverged_fit_says_what_may_help(layers, x, y, words, not_said):
    model = Sequential(layers)
    with pytest.raises(FloatingPointError, match="a smaller learning rate may help") as found:
        model.fit(x, y, epochs=50, optimizer=SGD(1e18), loss="mse", key=1, progress=False)
    for word in words:
        assert found.match(word)
    assert not_said not in str(found.value)


def test_what_is_public():
    assert set(training.__all__) == {
        "CSVLog", "Callback", "Checkpoint", "EarlyStopping", "History", "Metric",
        "ReduceOnPlateau", "Run", "StepResult", "TensorBoard", "TrainingState",
        "evaluate", "fit", "predict", "predict_labels", "predict_proba", "step",
    }  # fmt: skip


def test_notes_stay_with_the_model():
    model = Sequential([Dense(2)])
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])
    model.fit(x, y, epochs=1, loss="softmax_cross_entropy", key=0, progress=False)
    model.training_state.notes["target"] = "label"
    model.fit(x, y, epochs=1, key=0, progress=False)
    assert model.training_state.notes == {"target": "label"}
    assert copy.deepcopy(model).training_state.notes == {"target": "label"}

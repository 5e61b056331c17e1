"""Metrics by name and of one's own, against scikit-learn."""

from __future__ import annotations

import copy
import sys
import types
import warnings

import numpy as np
import pytest

from dropcore.losses import (
    BinaryCrossEntropy,
    CheckedLoss,
    GaussianNLL,
    Huber,
    SoftmaxCrossEntropy,
)
from dropcore.nn import LSTM, Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.training import Callback, History, Metric
from dropcore.training._measures import Measures
from dropcore.training.metrics import METRICS

sklearn = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(0)
N = 200
X = RNG.normal(size=(N, 5)).astype(np.float32)
WEIGHT = RNG.integers(0, 4, N) * 0.5
FOUR = RNG.integers(0, 4, N)
TWO = RNG.integers(0, 2, N)
YES_OR_NO = RNG.integers(0, 2, (N, 3))
NUMBERS = 3 * RNG.normal(size=(N, 1)) + 10
TRIPLES = RNG.normal(size=(N, 3)) * [1, 2, 3]
WEIGHTS = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])


def network(units, loss=None):
    model = Sequential([Dense(units)])
    model.build((5,), key=3)
    return model


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z.astype(np.float64)))


def evaluated(model, y, names, loss, weight=None, x=X):
    return model.evaluate(x, y, loss=loss, metrics=names, sample_weight=weight, batch_size=33)


# --- scikit-learn's values -----------------------------------------------------------------------


@WEIGHTS
def test_several_classes(weight):
    model = network(4)
    names = ["f1", "top_2", "top_3", "precision", "recall", "log_loss", "roc_auc", "accuracy"]
    found = evaluated(model, FOUR, names, "softmax_cross_entropy", weight)
    logits = model.predict(X)
    p, label = softmax(logits), logits.argmax(axis=1)
    options = {"sample_weight": weight}
    macro = options | {"average": "macro"}
    wanted = {
        "loss": sklearn.log_loss(FOUR, p, **options),
        "accuracy": sklearn.accuracy_score(FOUR, label, **options),
        "f1": sklearn.f1_score(FOUR, label, **macro),
        "top_2": sklearn.top_k_accuracy_score(FOUR, p, k=2, **options),
        "top_3": sklearn.top_k_accuracy_score(FOUR, p, k=3, **options),
        "precision": sklearn.precision_score(FOUR, label, **macro),
        "recall": sklearn.recall_score(FOUR, label, **macro),
        "log_loss": sklearn.log_loss(FOUR, p, **options),
        "roc_auc": sklearn.roc_auc_score(FOUR, p, multi_class="ovr", **options),
    }
    assert list(found) == list(wanted)
    assert found == pytest.approx(wanted, rel=1e-6)
    assert all(type(value) is float for value in found.values())


@WEIGHTS
@pytest.mark.parametrize("units", [1, 2])
def test_two_classes(units, weight):
    """As one output or as two, the metrics are those of class 1."""
    model = network(units)
    loss = "binary_cross_entropy" if units == 1 else "softmax_cross_entropy"
    names = ["f1", "precision", "recall", "roc_auc", "log_loss"]
    found = evaluated(model, TWO, names, loss, weight)
    logits = model.predict(X)
    p = sigmoid(logits[:, 0]) if units == 1 else softmax(logits)[:, 1]
    wanted = {
        name: getattr(sklearn, f"{name}_score")(TWO, p > 0.5, sample_weight=weight)
        for name in ("accuracy", "f1", "precision", "recall")
    }
    wanted["roc_auc"] = sklearn.roc_auc_score(TWO, p, sample_weight=weight)
    wanted["loss"] = wanted["log_loss"] = sklearn.log_loss(TWO, p, sample_weight=weight)
    assert found == pytest.approx(wanted, rel=1e-6)


@WEIGHTS
def test_several_outputs_of_yes_or_no(weight):
    model = network(3)
    names = ["f1", "precision", "recall", "roc_auc", "log_loss"]
    found = evaluated(model, YES_OR_NO, names, "binary_cross_entropy", weight)
    p = sigmoid(model.predict(X))
    macro = {"average": "macro", "sample_weight": weight}
    for name in ("f1", "precision", "recall"):
        wanted = getattr(sklearn, f"{name}_score")(YES_OR_NO, p > 0.5, **macro)
        assert found[name] == pytest.approx(wanted)
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(YES_OR_NO, p, **macro))
    assert found["log_loss"] == pytest.approx(found["loss"])


@WEIGHTS
@pytest.mark.parametrize(("units", "y"), [(1, NUMBERS), (1, NUMBERS[:, 0]), (3, TRIPLES)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_numbers(units, y, loss, weight):
    model = network(units)
    found = evaluated(model, y, ["r2", "rmse", "mae", "mse"], loss, weight)
    p = model.predict(X)
    t = y.reshape(p.shape)
    options = {"sample_weight": weight}
    squared = sklearn.mean_squared_error(t, p, **options)
    wanted = {
        "r2": sklearn.r2_score(t, p, **options),
        "rmse": np.sqrt(squared),
        "mae": sklearn.mean_absolute_error(t, p, **options),
        "mse": squared,
    }
    assert list(found) == ["loss", *wanted]
    del found["loss"]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_mean_of_a_gaussian_is_what_is_predicted():
    model = network(2)
    found = evaluated(model, NUMBERS[:, 0], ["r2", "rmse", "mae"], GaussianNLL())
    p = model.predict(X)[:, 0]
    assert found["r2"] == pytest.approx(sklearn.r2_score(NUMBERS[:, 0], p))
    assert found["mae"] == pytest.approx(abs(NUMBERS[:, 0] - p).mean())


def test_the_loss_does_not_weigh_or_smooth_the_metrics():
    model = network(4)
    names = ["log_loss", "f1", "top_2", "roc_auc"]
    plain = evaluated(model, FOUR, names, "softmax_cross_entropy")
    loss = SoftmaxCrossEntropy(class_weights=(1, 2, 3, 4), label_smoothing=0.1)
    weighted = evaluated(model, FOUR, names, loss)
    assert weighted["loss"] != pytest.approx(plain["loss"], rel=0.01)
    del plain["loss"], weighted["loss"]
    assert weighted == pytest.approx(plain)


def test_ignored_labels_count_nowhere():
    model = network(4)
    names = ["log_loss", "f1", "top_2", "roc_auc"]
    some = np.where(np.arange(N) % 3 == 0, -1, FOUR)
    counted = some >= 0
    found = evaluated(model, some, names, SoftmaxCrossEntropy(ignore_label=-1), WEIGHT)
    wanted = evaluated(
        model, FOUR[counted], names, "softmax_cross_entropy", WEIGHT[counted], X[counted]
    )
    assert found == pytest.approx(wanted)


def test_shares_are_labels_where_labels_are_needed():
    model = network(4)
    names = ["f1", "top_2", "roc_auc", "log_loss"]
    one_hot = evaluated(model, np.eye(4)[FOUR], names, "softmax_cross_entropy")
    assert one_hot == pytest.approx(evaluated(model, FOUR, names, "softmax_cross_entropy"))
    soft = 0.7 * np.eye(4)[FOUR] + 0.3 / 4
    found = evaluated(model, soft, names, "softmax_cross_entropy")
    assert found["log_loss"] == pytest.approx(found["loss"])
    assert found["f1"] == one_hot["f1"]
    soft = np.where(YES_OR_NO, 0.9, 0.2)
    names = ["f1", "roc_auc"]
    found = evaluated(network(3), soft, names, "binary_cross_entropy")
    wanted = evaluated(network(3), YES_OR_NO, names, "binary_cross_entropy")
    assert [found[name] for name in names] == [wanted[name] for name in names]


def test_equal_outputs_come_in_their_order():
    """A constant output is not right for every label."""
    model = network(4)
    model.params["0.weight"][...] = 0
    found = evaluated(model, FOUR, ["top_1", "top_2"], "softmax_cross_entropy")
    assert found["top_1"] == pytest.approx(found["accuracy"])
    assert found["top_1"] == pytest.approx((FOUR == 0).mean())
    assert found["top_2"] == pytest.approx((FOUR < 2).mean())


def test_extreme_logits_overflow_nowhere():
    model = network(4)
    model.params["0.weight"][...] *= 1e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluated(model, FOUR, ["log_loss", "roc_auc"], "softmax_cross_entropy")
    assert found["log_loss"] == pytest.approx(found["loss"])
    assert found["loss"] > 1000
    assert 0 < found["roc_auc"] < 1


def test_padded_steps_count_nowhere():
    x = RNG.normal(size=(12, 6, 3)).astype(np.float32)
    lengths = RNG.integers(1, 7, 12)
    y = RNG.integers(0, 3, (12, 6))
    weight = RNG.uniform(0.5, 2, 12)
    model = Sequential([LSTM(4, return_sequences=True), Dense(3)])
    model.build((6, 3), key=1)
    valid = np.arange(6) < lengths[:, None]
    logits = model.predict(x, lengths=lengths)[valid]
    names = ["f1", "roc_auc", "top_2", "log_loss"]
    seen = []
    own = Metric("own", lambda p, t: seen.append((p.shape, t.shape)) or 0.0)
    options = {"loss": "softmax_cross_entropy", "lengths": lengths, "batch_size": 5}
    found = model.evaluate(x, y, metrics=[*names, own], **options)
    labels, p = y[valid], softmax(logits)
    assert found["f1"] == pytest.approx(
        sklearn.f1_score(labels, logits.argmax(-1), average="macro")
    )
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(labels, p, multi_class="ovr"))
    assert found["top_2"] == pytest.approx(sklearn.top_k_accuracy_score(labels, p, k=2))
    assert seen == [((lengths.sum(), 3), (lengths.sum(),))]
    found = model.evaluate(x, y, metrics=names, sample_weight=weight, **options)
    each = np.repeat(weight, lengths)
    assert found["f1"] == pytest.approx(
        sklearn.f1_score(labels, logits.argmax(-1), average="macro", sample_weight=each)
    )
    assert found["log_loss"] == pytest.approx(sklearn.log_loss(labels, p, sample_weight=each))
    # Without lengths all steps are rows.
    found = model.evaluate(x, y, loss="softmax_cross_entropy", metrics=names, sample_weight=weight)
    logits = model.predict(x).reshape(-1, 3)
    assert found["f1"] == pytest.approx(
        sklearn.f1_score(
            y.ravel(), logits.argmax(-1), average="macro", sample_weight=np.repeat(weight, 6)
        )
    )


def test_numbers_for_every_step():
    x = RNG.normal(size=(12, 6, 3)).astype(np.float32)
    lengths = RNG.integers(1, 7, 12)
    model = Sequential([LSTM(2, return_sequences=True)])
    model.build((6, 3), key=1)
    y = RNG.normal(size=(12, 6, 2))
    found = model.evaluate(x, y, loss="mse", metrics=["r2", "rmse", "mse"], lengths=lengths)
    valid = np.arange(6) < lengths[:, None]
    p = model.predict(x, lengths=lengths)
    assert found["r2"] == pytest.approx(sklearn.r2_score(y[valid], p[valid]), rel=1e-5)
    assert found["mse"] == pytest.approx(found["loss"])
    assert found["rmse"] == pytest.approx(found["loss"] ** 0.5)


# --- in the units of y ---------------------------------------------------------------------------


@WEIGHTS
@pytest.mark.parametrize(
    ("units", "y", "mean", "scale"),
    [
        (1, NUMBERS, 10.0, 3.0),
        (1, NUMBERS[:, 0], 10.0, 3.0),
        (1, NUMBERS, (10.0,), (3.0,)),
        (3, TRIPLES, (0.0, 1.0, -1.0), (1.0, 2.0, 3.0)),
    ],
)
def test_scaled_targets_are_measured_in_the_units_of_y(units, y, mean, scale, weight):
    scaling = types.SimpleNamespace(mean=mean, scale=scale)
    names = ["rmse", "mae", "mse", "r2", Metric("worst", _worst, False, weighted=True)]
    shape = (units,)
    own, scaled = (
        Measures(names, Huber(), shape, weighted=True, data="", scaling=by)
        for by in (None, scaling)
    )
    outputs = RNG.normal(size=(N, units)) * scale + mean
    t = y.reshape(N, units)
    results = []
    for measures, p, target in (
        (own, outputs, t),
        (scaled, (outputs - mean) / scale, (t - mean) / scale),
    ):
        sums = measures.totals(p, target, weight)
        means = {"loss": 0.0} | {name: total / count for name, (total, count) in sums.items()}
        results.append(measures.result(means, [measures.kept(p, target, weight)]))
    assert results[1] == pytest.approx(results[0])
    p, options = outputs, {"sample_weight": weight}
    assert results[0]["mae"] == pytest.approx(sklearn.mean_absolute_error(t, p, **options))


def _worst(outputs, targets, sample_weight):
    return abs(outputs - targets).max()


# --- metrics of one's own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "y", "loss", "outputs", "targets"),
    [
        (4, FOUR, "softmax_cross_entropy", (N, 4), (N,)),
        (4, np.eye(4)[FOUR], "softmax_cross_entropy", (N, 4), (N, 4)),
        (1, TWO, "binary_cross_entropy", (N,), (N,)),
        (3, YES_OR_NO, "binary_cross_entropy", (N, 3), (N, 3)),
        (1, NUMBERS, "mse", (N,), (N,)),
        (3, TRIPLES, "mae", (N, 3), (N, 3)),
        (2, NUMBERS[:, 0], "gaussian_nll", (N,), (N,)),
        (1, NUMBERS, lambda out, y: ((out - y) ** 2).mean(), (N, 1), (N, 1)),
    ],
)
def test_what_a_function_gets(units, y, loss, outputs, targets):
    if callable(loss):
        loss = _mean_and_gradient
    seen = []

    def function(*arrays):
        seen.extend(arrays)
        return np.float32(0.25)

    model = network(units)
    found = evaluated(model, y, [Metric("own", function)], loss)
    assert found["own"] == 0.25
    assert type(found["own"]) is float
    assert [array.shape for array in seen] == [outputs, targets]
    p = model.predict(X)
    if loss == "softmax_cross_entropy":
        p = softmax(p)
    elif loss == "binary_cross_entropy":
        p = sigmoid(p)
    elif loss == "gaussian_nll":
        p = p[:, 0]
    np.testing.assert_allclose(seen[0], p.reshape(outputs), rtol=1e-6)
    np.testing.assert_allclose(seen[1], y.reshape(targets), rtol=1e-12)
    if not callable(loss):
        assert seen[0].dtype == np.float64


def _mean_and_gradient(out, y):
    d = out - y
    return float((d * d).mean()), 2 * d / d.size


def test_a_weighted_function_gets_the_weights():
    metric = Metric("brier", sklearn.brier_score_loss, False, weighted=True)
    swapped = Metric(
        "brier",
        lambda p, y, sample_weight: metric.function(y, p, sample_weight=sample_weight),
        weighted=True,
    )
    model = network(1)
    p = sigmoid(model.predict(X)[:, 0])
    for weight in (None, WEIGHT):
        found = evaluated(model, TWO, [swapped], "binary_cross_entropy", weight)
        wanted = sklearn.brier_score_loss(TWO, p, sample_weight=weight)
        assert found["brier"] == pytest.approx(wanted)


def test_a_loss_of_one_s_own_that_classifies_has_an_accuracy():
    class Own(CheckedLoss):
        classifies = True

        def compute(self, outputs, targets, sample_weight=None):
            return _mean_and_gradient(outputs, targets)

        def n_correct(self, outputs, targets, sample_weight=None):
            return 3.0, 4.0

    model = network(1)
    found = evaluated(model, NUMBERS, ["accuracy", Metric("own", lambda p, y: 1.0)], Own())
    assert found["accuracy"] == 0.75
    assert found["own"] == 1.0
    with pytest.raises(ValueError, match=r"'f1' does not fit the loss .*: it is for classes, and "
                       r"this does not say what it predicts; use Metric"):  # fmt: skip
        evaluated(model, NUMBERS, ["f1"], Own())


# --- in fit --------------------------------------------------------------------------------------


def trained(metrics, *, model=None, **options):
    model = model or Sequential([Dense(16, activation="relu"), Dropout(0.3), Dense(4)])
    history = model.fit(
        X, FOUR, epochs=3, loss="softmax_cross_entropy", key=5, progress=False, metrics=metrics,
        validation_data=(X[:70], FOUR[:70]), **options,
    )  # fmt: skip
    return history, model


def test_metrics_are_in_the_history():
    names = ["f1", "top_2", "roc_auc", Metric("own", lambda p, y: p.mean())]
    history, model = trained(names)
    all_names = ["loss", "accuracy", "f1", "top_2", "roc_auc", "own"]
    assert list(history) == [*all_names, *(f"val_{name}" for name in all_names), "seconds"]
    assert all(len(values) == 3 for values in history.values())
    last = model.evaluate(X[:70], FOUR[:70], metrics=names)
    assert last == {name: history[f"val_{name}"][-1] for name in all_names}
    assert history["own"] == pytest.approx([0.25] * 3)


def test_metrics_do_not_change_what_is_learned():
    plain, model = trained([])
    measured, other = trained(["f1", "roc_auc", "top_2", "log_loss"])
    for name in plain:
        if name != "seconds":
            assert measured[name] == plain[name]
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, other.params[name])
    # Without class weights the log loss is the loss.
    assert measured["log_loss"] == pytest.approx(measured["loss"], rel=1e-12)


def test_training_metrics_are_of_all_outputs_of_the_epoch():
    """With a learning rate of next to nothing they are those of `evaluate`."""
    model = network(4)
    names = ["f1", "precision", "recall", "roc_auc", "top_2"]
    history, _ = trained(names, model=model, optimizer=SGD(1e-30), batch_size=7)
    found = model.evaluate(X, FOUR, metrics=names)
    assert {name: history[name][0] for name in found} == pytest.approx(found)
    history, _ = trained(
        names, model=model, optimizer=SGD(1e-30), batch_size=7, sample_weight=WEIGHT
    )
    found = model.evaluate(X, FOUR, metrics=names, sample_weight=WEIGHT)
    assert {name: history[name][0] for name in found} == pytest.approx(found)


@pytest.mark.parametrize("metrics", [["f1", "top_2"], ["f1", "roc_auc", "top_2"]])
def test_an_interrupted_epoch_is_measured_as_a_whole(metrics):
    wanted, _ = trained(metrics)

    class Presses(Callback):
        def on_update_end(self, run):
            if run.state.step == 10:
                raise KeyboardInterrupt

    model = Sequential([Dense(16, activation="relu"), Dropout(0.3), Dense(4)])
    with pytest.raises(KeyboardInterrupt):
        trained(metrics, model=model, callbacks=[Presses()])
    assert model.training_state.unfinished.batches == 3
    model = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"so metrics and validation data must be as before: it"):
        trained(metrics[:1], model=model, resume=True)
    begun = copy.deepcopy(model)
    begun.training_state.history = History()
    with pytest.raises(ValueError, match=r"with the same metrics as before, \['f1', "):
        trained(metrics[:1], model=begun, resume=True)
    history, _ = trained(metrics, model=model, resume=True)
    for name in wanted:
        if name != "seconds":
            assert history[name] == wanted[name]


# --- what data does not define -------------------------------------------------------------------


def test_one_class_in_the_validation_data_is_nan_with_one_warning():
    model = Sequential([Dense(1)])
    y = np.zeros(20, int)
    with pytest.warns(RuntimeWarning) as found:
        history = model.fit(
            X, TWO, epochs=3, loss="binary_cross_entropy", metrics=["roc_auc", "f1"],
            validation_data=(X[:20], y), progress=False,
        )  # fmt: skip
    assert [str(warning.message) for warning in found] == [
        "roc_auc is not defined, and NaN, because the validation data has no sample of class 1"
    ]
    assert np.isnan(history["val_roc_auc"]).all()
    assert np.isfinite(history["roc_auc"]).all()
    assert history["val_f1"] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("units", "y", "loss", "text"),
    [
        (4, FOUR % 2, "softmax_cross_entropy", "the data has no sample of class 2, 3"),
        (3, YES_OR_NO * [1, 0, 1], "binary_cross_entropy", "the data has no sample of class 1"),
    ],
)
def test_an_undefined_auc_says_what_is_missing(units, y, loss, text):
    with pytest.warns(RuntimeWarning, match=text):
        found = evaluated(network(units), y, ["roc_auc"], loss)
    assert np.isnan(found["roc_auc"])


def test_an_auc_of_labels_that_are_all_ignored_is_not_defined():
    """As on a GPU, where `evaluate` does not look at labels."""
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    measures = Measures(["roc_auc"], loss, (4,), weighted=False, data="the data", scaling=None)
    kept = measures.kept(np.zeros((N, 4)), np.full(N, -1), None)
    with pytest.warns(RuntimeWarning, match="the data has no sample that counts"):
        assert np.isnan(measures.result({}, [kept])["roc_auc"])


def test_a_class_of_no_weight_is_missing():
    with pytest.warns(RuntimeWarning, match="the data has no sample of class 0"):
        found = evaluated(network(1), TWO, ["roc_auc"], "binary_cross_entropy", TWO * 1.0)
    assert np.isnan(found["roc_auc"])


@pytest.mark.parametrize(
    ("units", "y", "loss", "names"),
    [
        (4, FOUR, "softmax_cross_entropy", ["roc_auc", "top_2", "f1", "log_loss"]),
        (1, TWO, "binary_cross_entropy", ["roc_auc", "f1", "log_loss"]),
        (1, NUMBERS, "mse", ["r2", "rmse"]),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite(units, y, loss, names, value):
    model = network(units)
    *_, last = (name for name in model.params if name.endswith("bias"))
    model.params[last][...] = value
    if np.isinf(value) and loss == "binary_cross_entropy":  # the probability is 1
        assert evaluated(model, y, names, loss)["roc_auc"] == 0.5
        return
    with pytest.warns(RuntimeWarning, match="and NaN, because the data has outputs that are not f"):
        found = evaluated(model, y, names, loss)
    assert np.isnan(found[names[0]])
    if np.isnan(value) and units == 4:
        assert found["top_2"] == 0  # no label is among the largest
        model.params[last][1:] = 0.0
        with pytest.warns(RuntimeWarning):
            found = evaluated(model, y, names, loss)
        assert found["top_2"] <= (y > 0).mean()


def test_r2_of_one_sample():
    with pytest.warns(RuntimeWarning, match="r2 is not defined, .* has fewer than two samples"):
        found = network(1).evaluate(X[:1], NUMBERS[:1], loss="mse", metrics=["r2", "mae"])
    assert np.isnan(found["r2"])
    assert found["mae"] > 0


# --- wrong use -----------------------------------------------------------------------------------

CLASSES = "'accuracy', 'log_loss', 'f1', 'precision', 'recall', 'roc_auc', Metric"
OF_NUMBERS = "'mse', 'rmse', 'mae', 'r2', Metric"


@pytest.mark.parametrize(
    ("units", "y", "loss", "metrics", "error", "text"),
    [
        (4, FOUR, "softmax_cross_entropy", "f1", TypeError, "got 'f1'; put it into a list"),
        (4, FOUR, "softmax_cross_entropy", {"f1": 1}, TypeError, "must be a list of names"),
        (4, FOUR, "softmax_cross_entropy", [3], TypeError, "must hold names and objects .*got 3"),
        (4, FOUR, "softmax_cross_entropy", [sklearn.f1_score], TypeError, r"Metric\('name', func"),
        (4, FOUR, "softmax_cross_entropy", ["auc"], ValueError,
         "no metric 'auc'; use 'accuracy'.*did you mean 'roc_auc'?"),
        (4, FOUR, "softmax_cross_entropy", ["acc"], ValueError, "did you mean 'accuracy'"),
        (4, FOUR, "softmax_cross_entropy", ["top_k"], ValueError, "a number, such as 'top_5'"),
        (4, FOUR, "softmax_cross_entropy", ["top_4"], ValueError,
         r"'top_4' of 4 outputs is always 1, so k must be in \[1, 3\]"),
        (4, FOUR, "softmax_cross_entropy", ["top_0"], ValueError, "is always 0"),
        (4, FOUR, "softmax_cross_entropy", ["seconds"], ValueError, "without being asked for"),
        (4, FOUR, "softmax_cross_entropy", ["loss"], ValueError, "'loss' is measured already"),
        (4, FOUR, "softmax_cross_entropy", ["f1", "f1"], ValueError, "'f1' is measured already"),
        (4, FOUR, "softmax_cross_entropy", ["rmse"], ValueError,
         rf"'rmse' does not fit the loss SoftmaxCrossEntropy.*: it is for numbers; use {CLASSES}"),
        (1, TWO, "binary_cross_entropy", ["r2"], ValueError, f"for numbers; use {CLASSES}"),
        (3, YES_OR_NO, "binary_cross_entropy", ["top_2"], ValueError, "of which one is right"),
        (1, NUMBERS, "mse", ["roc_auc"], ValueError, f"it is for classes; use {OF_NUMBERS}"),
        (1, NUMBERS, "mse", ["accuracy"], ValueError, f"it is for classes; use {OF_NUMBERS}"),
        (1, NUMBERS, _mean_and_gradient, ["mae"], ValueError, "it predicts; use Metric"),
        (1, NUMBERS, _mean_and_gradient, ["accuracy"], ValueError, "it predicts; use Metric"),
    ],
)  # fmt: skip
def test_wrong_metrics_are_refused_before_training(units, y, loss, metrics, error, text):
    model = Sequential([Dense(units)])
    with pytest.raises(error, match=rf"^metrics.*{text}"):
        model.fit(X, y, epochs=1, loss=loss, metrics=metrics, progress=False)
    assert not model.built


def test_a_function_without_weights_is_refused_with_weights():
    model = Sequential([Dense(1)])
    with pytest.raises(ValueError, match=r"Metric\('own'\) takes none: give it weighted=True"):
        model.fit(X, NUMBERS, epochs=1, loss="mse", metrics=[Metric("own", lambda p, y: 0.0)],
                  sample_weight=WEIGHT, progress=False)  # fmt: skip
    assert not model.built


@pytest.mark.parametrize("found", [np.zeros(3), "good", None, 1j])
def test_a_function_must_return_a_number(found):
    with pytest.raises(TypeError, match=r"function of Metric\('own'\) must return a number"):
        evaluated(network(1), NUMBERS, [Metric("own", lambda p, y: found)], "mse")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((3, max), TypeError, "name must be a string, got 3"),
        (("", max), ValueError, "must be one of your own"),
        (("val_own", max), ValueError, "puts 'val_' before"),
        (("loss", max), ValueError, "which has 'loss', 'accuracy', 'seconds' itself"),
        (("rmse", max), ValueError, "'rmse' is a metric of dropcore"),
        (("top_7", max), ValueError, "'top_7' is a metric of dropcore"),
        (("own", 3), TypeError, r"must be a function of \(outputs, targets\), got 3"),
        (("own", max, "yes"), TypeError, "higher_is_better must be True or False"),
    ],
)
def test_wrong_arguments_of_a_metric(arguments, error, text):
    with pytest.raises(error, match=f"^Metric: .*{text}"):
        Metric(*arguments)
    with pytest.raises(TypeError, match="weighted must be True or False"):
        Metric("own", max, weighted=1)


def test_a_missing_scikit_learn_is_noticed_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    for name, units, y, loss in [
        ("f1", 1, TWO, "binary_cross_entropy"),
        ("roc_auc", 1, TWO, "binary_cross_entropy"),
        ("r2", 1, NUMBERS, "mse"),
    ]:
        model = Sequential([Dense(units)])
        with pytest.raises(ImportError, match=rf"metric '{name}' needs scikit-learn.*\[metrics\]"):
            model.fit(X, y, epochs=1, loss=loss, metrics=[name], progress=False)
        assert not model.built


def test_no_other_metric_needs_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    evaluated(network(4), FOUR, ["accuracy", "top_2", "log_loss"], "softmax_cross_entropy")
    evaluated(network(1), NUMBERS, ["mse", "rmse", "mae"], "mse")


def test_every_name_is_documented():
    import dropcore.training.metrics as module

    for name in METRICS:
        assert f'"{name}"' in module.__doc__


def test_binary_cross_entropy_of_a_subclass_is_yes_or_no():
    class Own(BinaryCrossEntropy):
        pass

    found = evaluated(network(1), TWO, ["f1"], Own())
    assert found == evaluated(network(1), TWO, ["f1"], "binary_cross_entropy")


def test_the_warning_points_at_the_user():
    with pytest.warns(RuntimeWarning) as found:
        evaluated(network(1), np.zeros(N), ["roc_auc"], "binary_cross_entropy")
    assert found[0].filename == __file__


# --- together with what fit does to data ---------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "y", "loss"),
    [
        (1, NUMBERS[:, 0], "mse"),
        (1, NUMBERS, "huber"),
        (3, TRIPLES, "mse"),
        (2, NUMBERS[:, 0], "gaussian_nll"),
    ],
)
def test_standardised_targets_are_measured_in_their_units(units, y, loss):
    model = Sequential([Dense(units)])
    names = ["rmse", "mae", "r2"]
    history = model.fit(
        X, y, epochs=2, loss=loss, scale_targets=True, metrics=names, validation_split=0.25,
        progress=False, optimizer=SGD(1e-30),
    )  # fmt: skip
    found = model.evaluate(X, y, metrics=names)
    p = model.predict(X)
    p = p[:, :1] if loss == "gaussian_nll" else p
    t = y.reshape(p.shape)
    assert found["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2).mean()), rel=1e-5)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(t, p), rel=1e-5)
    assert found["r2"] == pytest.approx(sklearn.r2_score(t, p), rel=1e-5, abs=1e-5)
    # The parts of the data together are the data.
    of_both = 0.75 * history["mae"][-1] + 0.25 * history["val_mae"][-1]
    assert of_both == pytest.approx(found["mae"], rel=1e-5)


def test_labels_in_words_are_measured_by_their_numbers():
    model = Sequential([Dense(1)])
    words = np.array(["no", "yes"])[TWO]
    seen = []
    own = Metric("own", lambda p, t: seen.append(t) or 0.0)
    model.fit(X, words, epochs=1, loss="binary_cross_entropy", metrics=["f1"], progress=False)
    found = model.evaluate(X, words, metrics=["f1", "roc_auc", own])
    p = model.predict_proba(X)[:, 1]
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(TWO, p))
    labels = model.predict_labels(X)
    assert found["f1"] == pytest.approx(sklearn.f1_score(words, labels, pos_label="yes"))
    np.testing.assert_array_equal(seen[0], TWO)


def test_weights_of_classes_change_no_metric():
    names = ["f1", "log_loss", "roc_auc"]
    results = []
    for weights in (None, "balanced", {0: 5.0, 1: 1.0, 2: 1.0, 3: 2.0}):
        model = network(4)
        history, _ = trained(names, model=model, class_weight=weights, optimizer=SGD(1e-30))
        results.append({name: history[name][0] for name in [*names, "val_loss", "val_f1"]})
    assert results[1] == pytest.approx(results[0])
    assert results[2] == pytest.approx(results[0])


def test_batches_are_measured_as_the_whole():
    batches = [(X[i : i + 30], FOUR[i : i + 30]) for i in range(0, N, 30)]
    names = ["f1", "top_2", "roc_auc"]
    model = network(4)
    history = model.fit(
        batches, epochs=1, loss="softmax_cross_entropy", metrics=names, validation_data=batches,
        progress=False, optimizer=SGD(1e-30),
    )  # fmt: skip
    wanted = model.evaluate(X, FOUR, metrics=names)
    for name in wanted:
        assert history[name] == pytest.approx([wanted[name]])
        assert history[f"val_{name}"] == pytest.approx([wanted[name]])
    assert model.evaluate(batches, metrics=names) == pytest.approx(wanted)

"""What `fit` trains on and validates with: splits, weights of classes, preprocessing, scaling."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from dropcore import training
from dropcore.data import Preprocessing, TargetScaling
from dropcore.key import Key
from dropcore.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from dropcore.nn import GRU, LSTM, Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.training._sets import sets_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = np.repeat([0, 1, 2], [60, 25, 5])
WORDS = np.array(["apple", "fig", "pear"])
SOFTMAX = {"loss": "softmax_cross_entropy", "progress": False, "key": 1}
SIGMOID = {"loss": "binary_cross_entropy", "progress": False, "key": 1}
MSE = {"loss": "mse", "progress": False, "key": 1}
DEFAULTS = {"validation_data": None, "validation_split": None, "class_weight": None,
            "preprocessing": None, "scale_targets": False, "loss": None, "key": Key(1),
            "lengths": None, "sample_weight": None, "epochs": 1, "batch_size": None,
            "shuffle": None}  # fmt: skip


def weights(model):
    return b"".join(array.tobytes() for array in model.params.values())


def sets(y, units=3, x=X, **options):
    return sets_of(Sequential([Dense(units)]), x, y, **DEFAULTS | options)


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "units", "loss"),
    [
        (Y, 3, None),
        (WORDS[Y], 3, None),
        (WORDS[Y][:, None].tolist(), 3, SoftmaxCrossEntropy()),
        (np.eye(3)[Y], 3, SoftmaxCrossEntropy()),
    ],
)
@pytest.mark.parametrize("share", [0.2, 0.1, 0.31])
def test_a_split_keeps_the_shares_of_the_classes(y, units, loss, share):
    found = sets(y, units, validation_split=share, loss=loss)
    train, held_out = found.training.data.rows, found.validation.data.rows
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(90))
    assert len(held_out) == round(90 * share)
    for rows, part in ((train, 1 - share), (held_out, share)):
        assert (np.diff(rows) > 0).all()
        wanted = np.array([60, 25, 5]) * part
        assert (abs(np.bincount(Y[rows], minlength=3) - wanted) <= 1).all()
    other = sets(y, units, validation_split=share, loss=loss, key=Key(2)).validation.data.rows
    again = sets(
        y, units, validation_split=share, loss=loss, key=Key(1, stream=3)
    ).validation.data.rows
    assert not np.array_equal(held_out, other)
    np.testing.assert_array_equal(held_out, again)


def test_a_split_of_numbers_is_random():
    y = np.arange(90.0)
    counts = np.zeros(90, int)
    for seed in range(400):
        rows = sets(y, 1, validation_split=0.1, loss=None, key=Key(seed)).validation.data.rows
        assert len(rows) == 9
        counts[rows] += 1
    assert counts.sum() == 3600
    assert abs(counts - 40).max() < 5 * math.sqrt(36)  # 5 standard deviations
    assert np.ptp([counts[:45].sum(), counts[45:].sum()]) < 200


def test_a_split_is_validation_data_of_these_rows(tmp_path):
    rows = sets(Y, validation_split=0.3, loss=SoftmaxCrossEntropy())
    train, held_out = rows.training.data.rows, rows.validation.data.rows
    options = {"epochs": 3, "batch_size": 16, "optimizer": SGD(0.3, momentum=0.9), **SOFTMAX}
    weight = RNG.random(90)
    split, given = (Sequential([Dropout(0.2), Dense(3)]) for _ in range(2))
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    found = split.fit(mapped, Y, validation_split=0.3, sample_weight=weight, **options)
    wanted = given.fit(
        X[train], Y[train], sample_weight=weight[train], **options,
        validation_data={"x": X[held_out], "y": Y[held_out], "sample_weight": weight[held_out]},
    )  # fmt: skip
    assert weights(split) == weights(given)
    assert {k: v for k, v in found.items() if k != "seconds"} == {
        k: v for k, v in wanted.items() if k != "seconds"
    }
    assert found["val_loss"][-1] == split.evaluate(
        X[held_out], Y[held_out], sample_weight=weight[held_out])["loss"]  # fmt: skip


def test_a_split_of_sequences_takes_their_lengths():
    x, y = RNG.normal(size=(20, 5, 2)), RNG.integers(0, 3, (20, 5))
    lengths = RNG.integers(1, 6, 20)
    split, given = (Sequential([LSTM(3, return_sequences=True), Dense(3)]) for _ in range(2))
    found = split.fit(x, y, epochs=2, validation_split=0.25, lengths=lengths, **SOFTMAX)
    own = {"lengths": lengths, "validation_split": 0.25}
    rows = sets_of(copy.deepcopy(split), x, y, **DEFAULTS | own).validation.data.rows
    others = np.setdiff1d(np.arange(20), rows)
    wanted = given.fit(x[others], y[others], epochs=2, lengths=lengths[others], **SOFTMAX,
                       validation_data=(x[rows], y[rows], lengths[rows]))  # fmt: skip
    assert found["val_loss"] == wanted["val_loss"]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"validation_split": 0.0}, ValueError, r"validation_split must be in \(0, 1\), got 0.0"),
        ({"validation_split": 1}, ValueError, r"validation_split must be in \(0, 1\), got 1"),
        ({"validation_split": "0.2"}, TypeError, "validation_split must be a number, got '0.2'"),
        ({"validation_split": 0.001}, ValueError, "=0.001 of 90 samples leaves 0 for validation"),
        ({"validation_split": 0.999}, ValueError, "leaves 90 for validation and 0 for training"),
        ({"validation_split": 0.2, "validation_data": (X, Y)}, ValueError,
         "validation_data or validation_split, not both"),
        ({"validation_split": 0.2, "y": Y[:80]}, ValueError, "y must hold one target .* got 80"),
        ({"validation_split": 0.2, "y": np.ma.masked_array(Y)}, TypeError, "a masked array"),
        ({"validation_split": 0.2, "y": None}, TypeError, "y must be an array, got None"),
    ],
)  # fmt: skip
def test_splits_that_are_refused(options, error, text):
    model = Sequential([Dense(3)])
    usual = {"x": X, "y": Y, "epochs": 1} | SOFTMAX
    with pytest.raises(error, match=text):
        model.fit(**usual | options)
    assert not model.built


# --- weights of classes and samples --------------------------------------------------------------


@pytest.mark.parametrize("given", [{0: 1.0, 1: 2, 2: 0.5}, "balanced"])
def test_weights_of_classes_are_those_of_the_loss(given):
    own = (1.0, 2.0, 0.5) if given != "balanced" else tuple(30 / np.array([60, 25, 5]))
    options = {"epochs": 3, **SOFTMAX}
    model, wanted = Sequential([Dense(3)]), Sequential([Dense(3)])
    found = model.fit(X, Y, class_weight=given, validation_data=(X, Y), **options)
    loss = SoftmaxCrossEntropy(class_weights=own)
    history = wanted.fit(X, Y, **options | {"loss": loss})
    assert weights(model) == weights(wanted)
    assert found["loss"] == history["loss"]
    assert found["accuracy"] == history["accuracy"]
    # Only the loss of training is weighted.
    assert model.training_state.loss == SoftmaxCrossEntropy()
    assert found["val_loss"][-1] == model.evaluate(X, Y)["loss"]
    assert found["val_loss"][-1] != wanted.evaluate(X, Y)["loss"]


def test_weights_are_by_the_users_labels():
    plain, model = Sequential([Dense(3)]), Sequential([Dense(3)])
    plain.fit(X, Y, epochs=2, class_weight={0: 1, 1: 2, 2: 9}, **SOFTMAX)
    model.fit(X, WORDS[Y], epochs=2, **SOFTMAX,
              class_weight={WORDS[2]: np.float32(9), "apple": 1, "fig": 2})  # fmt: skip
    assert weights(plain) == weights(model)


@pytest.mark.parametrize("given", [{0: 2.0, 1: 0.5}, "balanced", {0: 0, 1: 1.0}])
def test_weights_of_two_classes_of_one_output(given):
    """They are weights of samples, but do not count in the accuracy."""
    y = (Y > 0) * 1
    each = np.array([2.0, 0.5] if given != "balanced" else 45 / np.bincount(y))
    if given == {0: 0, 1: 1.0}:
        each = np.array([0.0, 1.0])
    model, wanted = Sequential([Dense(1)]), Sequential([Dense(1)])
    options = {"epochs": 2, "shuffle": False, "batch_size": 70, **SIGMOID}
    found = model.fit(X, y, class_weight=given, **options)
    history = wanted.fit(X, y, sample_weight=each[y], **options)
    np.testing.assert_allclose(
        model.params["0.weight"], wanted.params["0.weight"], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-6)
    assert all(np.array(found["accuracy"]) * 90 % 1 == 0)


def test_balanced_weights_are_those_of_the_training_part_that_counts():
    found = sets(Y, validation_split=0.5, class_weight="balanced", loss=SoftmaxCrossEntropy())
    counts = np.bincount(Y[found.training.data.rows])
    np.testing.assert_allclose(found.loss.class_weights, 45 / 3 / counts)
    ignoring = SoftmaxCrossEntropy(ignore_label=2)
    found = sets(Y, class_weight="balanced", loss=ignoring)
    assert found.loss == SoftmaxCrossEntropy(
        class_weights=(85 / 120, 85 / 50, 42.5), ignore_label=2
    )


def test_binary_cross_entropy_with_weights_is_the_weighted_mean():
    loss = BinaryCrossEntropy(class_weights=(0.5, 3.0))
    z, t = RNG.normal(size=(7, 2)), RNG.random((7, 2))
    weight = RNG.random(7)
    p = 1 / (1 + np.exp(-z))
    u = (0.5 + 2.5 * t) * weight[:, None]
    value, gradient = loss(z, t, weight)
    each = -t * np.log(p) - (1 - t) * np.log(1 - p)
    np.testing.assert_allclose(value, (u * each).sum() / u.sum())
    np.testing.assert_allclose(gradient, u * (p - t) / u.sum())
    np.testing.assert_allclose(loss.weight(t, weight), u.sum())
    plain = BinaryCrossEntropy()
    np.testing.assert_allclose(BinaryCrossEntropy(class_weights=(1, 1))(z, t)[1], plain(z, t)[1])


@pytest.mark.parametrize(("part", "of"), [("training", 68), ("validation", 22)])
def test_a_split_that_leaves_nothing_that_counts_is_refused(part, of):
    tagger = Sequential([LSTM(3, return_sequences=True), Dense(3)])
    options = {"validation_split": 22 / 90, "loss": SoftmaxCrossEntropy()}
    for model, x, y, name, text in (
        (Sequential([Dense(3)]), X, Y, "sample_weight", "sample_weight is 0"),
        (tagger, np.ones((90, 2, 4)), np.stack([Y, Y], axis=1), "lengths", "lengths leave no step"),
    ):
        found = sets_of(model, x, y, **DEFAULTS | options)
        other = found.validation if part == "training" else found.training
        given = np.zeros(90, int)
        given[other.data.rows] = 2
        with pytest.raises(ValueError, match=f"{text} .*all {of} samples for {part}"):
            sets_of(model, x, y, **DEFAULTS | options | {name: given})
        given[:] = 1
        sets_of(model, x, y, **DEFAULTS | options | {name: given})


def test_weights_of_a_column_are_taken():
    found = []
    for weight in (np.arange(90), np.arange(90.0)[:, None]):
        model = Sequential([Dense(3)])
        model.fit(X, Y, epochs=1, sample_weight=weight, **SOFTMAX)
        found.append(weights(model))
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"one number for each of the 90 samples, got .*\(90, 2\)"):
        Sequential([Dense(3)]).fit(X, Y, epochs=1, sample_weight=np.ones((90, 2)), **SOFTMAX)


@pytest.mark.parametrize(
    ("class_weight", "options", "error", "text"),
    [
        ({0: 1, 1: 1}, {}, ValueError, "a number for each of the 3 labels: missing 2$"),
        ({0: 1, 1: 1, 2: 1, "a": 1}, {}, ValueError, "of the 3 labels: unknown 'a'$"),
        ({0: 1, 1: 1, 2: -1}, {}, ValueError, "class_weight of 2 must be finite and not negative"),
        ({0: 1, 1: 1, 2: "x"}, {}, TypeError, "class_weight of 2 must be a number, got 'x'"),
        ({0: 0, 1: 0, 2: 0}, {}, ValueError, "must not be all zero: no sample would count"),
        ([1, 2, 3], {}, TypeError, r"'balanced' or a dict .* such as \{0: 1.0, 1: 5.0\}, got \[1"),
        ("even", {}, TypeError, "must be 'balanced' or a dict .* got 'even'"),
        ("balanced", {"loss": "mse", "y": X[:, :3]}, ValueError, "class_weight is for 'softmax"),
        ("balanced", {"y": np.eye(3)[Y]}, ValueError, r"needs a label for each .* \(90, 3\)"),
        ("balanced", {"loss": SoftmaxCrossEntropy(class_weights=(1, 1, 2))}, ValueError,
         "has class_weights of its own: give one of them"),
    ],
)  # fmt: skip
def test_weights_that_are_refused(class_weight, options, error, text):
    model = Sequential([Dense(3)])
    usual = {"x": X, "y": Y, "epochs": 1} | SOFTMAX
    with pytest.raises(error, match=text):
        model.fit(class_weight=class_weight, **usual | options)
    assert not model.built


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ((1, 2, 3), ValueError, "must be two numbers, of no and of yes, got 3"),
        ("balanced", TypeError, "class_weights must be a sequence, .* got 'balanced'; fit takes"),
        ((1, -1), ValueError, "a class weight must be finite and not negative, got -1"),
    ],
)
def test_weights_that_a_loss_refuses(given, error, text):
    with pytest.raises(error, match=f"BinaryCrossEntropy: .*{text}"):
        BinaryCrossEntropy(class_weights=given)


# --- preprocessing -------------------------------------------------------------------------------


def table(rows=90, seed=1):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, rows)
    age[::7] = np.nan
    return pd.DataFrame(
        {"age": age, "city": rng.choice(["Bern", "Rome"], rows), "size": rng.normal(size=rows)}
    )


def test_preprocessing_is_fitted_to_the_training_part_and_kept():
    frame, given = table(), Preprocessing()
    model, plain = (Sequential([Dropout(0.1), Dense(3)]) for _ in range(2))
    options = {"epochs": 2, **SOFTMAX}
    found = model.fit(frame, WORDS[Y], preprocessing=given, validation_split=0.2, **options)
    kept = model.training_state.preprocessing
    assert not given.fitted
    rows = sets(Y, validation_split=0.2, loss=SoftmaxCrossEntropy())
    train, held_out = rows.training.data.rows, rows.validation.data.rows
    assert kept == Preprocessing().fit(frame.iloc[train])
    assert kept != Preprocessing().fit(frame)
    others = kept.transform(frame.iloc[held_out]), Y[held_out]
    wanted = plain.fit(kept.transform(frame.iloc[train]), Y[train], validation_data=others,
                       **options)  # fmt: skip
    assert weights(model) == weights(plain)
    assert found["val_loss"] == wanted["val_loss"]
    numbers = kept.transform(frame)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.predict(frame), plain.predict(numbers))
        reordered = frame[["size", "age", "city"]]
        np.testing.assert_array_equal(twin.predict(reordered), plain.predict(numbers))
        assert twin.evaluate(frame, WORDS[Y]) == plain.evaluate(numbers, Y)
    # A further call transforms as the first, with or without the argument.
    for more in ({}, {"preprocessing": Preprocessing()}):
        model.fit(frame[30:], WORDS[Y[30:]], epochs=1, **SOFTMAX | more)
        plain.fit(numbers[30:], Y[30:], epochs=1, **SOFTMAX)
    assert model.training_state.preprocessing is kept
    assert weights(model) == weights(plain)
    result = training.step(model, "adam", None, frame[:9], WORDS[Y[:9]])
    assert result.loss == training.step(plain, "adam", None, numbers[:9], Y[:9]).loss


def test_tables_that_do_not_fit_are_named():
    frame = table()
    model = Sequential([Dense(3)])
    model.fit(frame, Y, epochs=1, preprocessing=Preprocessing(), **SOFTMAX)
    for call in (model.predict, lambda x: model.evaluate(x, Y)):
        with pytest.raises(ValueError, match=r"^x must have .*'city'"):
            call(frame.drop(columns="city"))
    with pytest.raises(ValueError, match=r"^validation x must have .*'city'"):
        model.fit(frame, Y, epochs=1, validation_data=(frame.drop(columns="city"), Y), **SOFTMAX)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"preprocessing": 3}, TypeError, r"must be a dropcore\.data\.Preprocessing, .* got 3"),
        ({"preprocessing": Preprocessing}, TypeError, r"such as Preprocessing\(\), got <class"),
        ({"scale_targets": 1}, TypeError, "scale_targets must be True or False, got 1"),
        ({"scale_targets": True}, ValueError, "scale_targets is for numbers to predict, and the"),
    ],
)
def test_preparations_that_are_refused(options, error, text):
    model = Sequential([Dense(3)])
    with pytest.raises(error, match=text):
        model.fit(X, Y, epochs=1, **SOFTMAX | options)
    assert not model.built


def test_another_preprocessing_of_a_trained_model_is_refused():
    frame = table()
    model = Sequential([Dense(3)])
    options = {"epochs": 1} | SOFTMAX
    y = Y
    model.fit(frame, y, preprocessing=Preprocessing(), **options)
    before = copy.deepcopy(model.training_state)
    text = "of min_frequency=2, max_categories=100, got min_frequency=9, max_categories=100: leave"
    with pytest.raises(ValueError, match=f"preprocessing: the model keeps the one .*, {text}"):
        model.fit(frame, y, preprocessing=Preprocessing(min_frequency=9), **options)
    assert model.training_state.step == before.step
    model.fit(frame, y, preprocessing=Preprocessing(), **options)
    model.fit(frame, y, preprocessing=before.preprocessing, **options)
    assert model.training_state.preprocessing == before.preprocessing


def test_labels_that_are_all_ignored_are_refused():
    y, loss = np.full(len(X), 7), SoftmaxCrossEntropy(ignore_label=7)
    options = {"epochs": 1, "loss": loss, "progress": False}
    model = Sequential([Dense(3)])
    text = "y: all labels are 7, the ignore_label of the loss: none would count"
    some = y.copy()
    some[0] = 1
    for call in (
        lambda: model.fit(X, y, **options),
        lambda: model.fit([(X, some), (X, y)], **options),
        lambda: model.fit(X, some, validation_data=(X, y), **options),
        lambda: training.step(model, "sgd", loss, X, y),
        lambda: model.evaluate(X, y, loss=loss),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    for part in (0.2, 0.8):  # whichever part has the only label
        with pytest.raises(
            ValueError, match=r"split: of the \d+ samples for \w+: all labels are 7"
        ):
            model.fit(X, some, validation_split=part, **options)
    model.fit(X, some, **options)


def test_labels_that_are_ignored_or_padding_are_refused():
    model = Sequential([LSTM(4, return_sequences=True), Dense(3)])
    y = np.array([[7, 1], [7, 2]])
    options = {"epochs": 1, "loss": SoftmaxCrossEntropy(ignore_label=7), "progress": False}
    with pytest.raises(ValueError, match="y: all labels are 7, the ignore_label"):
        model.fit(np.ones((2, 2, 3)), y, lengths=[1, 1], **options)
    model.fit(np.ones((2, 2, 3)), y, lengths=[1, 2], **options)


def test_a_trained_model_keeps_to_data_as_they_were():
    pytest.importorskip("sklearn")
    model = Sequential([Dense(1)])
    model.fit(X, X[:, 0], epochs=1, **MSE)
    for name, value in (("preprocessing", Preprocessing()), ("scale_targets", True)):
        with pytest.raises(ValueError, match=f"^{name}: the model was trained without it"):
            model.fit(X, X[:, 0], epochs=1, **MSE | {name: value})


# --- targets -------------------------------------------------------------------------------------

FAR = 1000 + 50 * X[:, 0].astype(np.float64)


@pytest.mark.parametrize("y", [FAR, FAR[:, None], FAR.astype(np.float32), FAR.round().astype(int)])
def test_standardised_targets(y):
    model = Sequential([Dense(1)])
    model.fit(X, y, epochs=5, optimizer=SGD(0.05), scale_targets=True, validation_split=0.2, **MSE)
    rows = sets(y, 1, validation_split=0.2, loss=MeanSquaredError()).training.data.rows
    scaling = TargetScaling.fit(y.reshape(-1)[rows])
    assert model.training_state.target_scaling == scaling
    found = model.predict(X)
    assert found.shape == (90, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], FAR, atol=80)
    # The loss is that of the standardised targets.
    wanted = np.mean((scaling.transform(found[:, 0]) - scaling.transform(y.reshape(-1))) ** 2)
    np.testing.assert_allclose(model.evaluate(X, y)["loss"], wanted, rtol=1e-3)
    error = model.evaluate(X, y, metrics=["rmse"])["rmse"]
    np.testing.assert_allclose(error, np.sqrt(np.mean((found[:, 0] - y.reshape(-1)) ** 2)), 1e-3)
    again = copy.deepcopy(model)
    again.fit(X[:20], y[:20] * 2, epochs=1, **MSE)
    assert again.training_state.target_scaling == scaling
    samples = Sequential([Dropout(0.5), Dense(1)])
    samples.fit(X, y, epochs=1, scale_targets=True, **MSE)
    drawn = samples.predict(X, key=3, samples=5)
    assert drawn.shape == (5, 90, 1)
    assert 800 < drawn.mean() < 1200


def test_each_output_has_its_own_scale():
    y = np.stack([FAR, X[:, 1] * 1e-3], -1)
    model = Sequential([Dense(2)])
    model.fit(X, y, epochs=60, optimizer=SGD(0.1), scale_targets=True, **MSE)
    assert model.training_state.target_scaling == TargetScaling.fit(y)
    np.testing.assert_allclose(model.predict(X), y, atol=5, rtol=1)
    assert np.corrcoef(model.predict(X)[:, 1], y[:, 1])[0, 1] > 0.99


def test_a_gaussian_in_the_units_of_y():
    model = Sequential([Dense(2)])
    noisy = FAR + RNG.normal(0, 25, 90)
    model.fit(X, noisy, epochs=200, optimizer=SGD(0.05), scale_targets=True,
              **MSE | {"loss": "gaussian_nll"})  # fmt: skip
    mean, log_variance = model.predict(X).T
    np.testing.assert_allclose(np.exp(log_variance / 2).mean(), 25, rtol=0.2)
    np.testing.assert_allclose(mean, FAR, atol=40)
    nll = GaussianNLL()(model.predict(X).astype(np.float64), noisy)[0]
    scale = model.training_state.target_scaling.scale
    np.testing.assert_allclose(nll - math.log(scale), model.evaluate(X, noisy)["loss"], rtol=1e-4)


def test_padded_steps_and_held_out_rows_have_no_share_in_the_scale():
    x, lengths = RNG.normal(size=(12, 4, 2)), np.tile([4, 2, 1], 4)
    y = 50 + x[..., 0]
    padded = np.arange(4) >= lengths[:, None]
    spoiled = np.where(padded, 1e6, y)
    for targets in (spoiled, spoiled[..., None]):
        model = Sequential([GRU(4, return_sequences=True), Dense(1)])
        own = {"validation_split": 0.25, "scale_targets": True, "lengths": lengths}
        found = sets_of(model, x, targets, **DEFAULTS | own).training.data
        part = y[found.rows][~padded[found.rows]]
        assert found.known.scaling == TargetScaling.fit(part)


# --- a block of rows at a time -------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of seven elements, so that few samples are several of them."""
    from dropcore._base import blocks

    monkeypatch.setattr(blocks, "_BLOCK", 7)


def targets_of_a_fit(y, units, **options):
    """The targets that the loss got, in the order of the samples."""
    x = np.arange(len(y), dtype=np.float32)[:, None]
    given = {"epochs": 1, "key": 0, "progress": False, "shuffle": False, "batch_size": len(y)}
    model = Sequential([Dense(units)])
    model.fit(x, y, **given | options)
    return model.training_state


@pytest.mark.parametrize("kind", ["text", "numbers", "columns", "bool"])
def test_labels_are_found_in_all_blocks(small_blocks, kind):
    y = np.array(["a", "b"] * 20 + ["c"] * 3)
    if kind == "numbers":
        y = np.array([5, 7] * 20 + [9] * 3)
    elif kind == "bool":
        y = np.array([False] * 20 + [True])
    elif kind == "columns":
        y = y[:, None]
    state = targets_of_a_fit(y, 1 if kind == "bool" else 3)
    assert state.classes.tolist() == np.unique(y).tolist()
    if kind == "bool":
        return
    x = np.arange(len(y), dtype=np.float32)[:, None]
    model = Sequential([Dense(3)])
    model.fit(x, y, epochs=1, key=0, loss="softmax_cross_entropy", progress=False)
    wrong = y.copy()
    wrong[29] = 6 if kind == "numbers" else "z"
    at = r"\(29, 0\)" if kind == "columns" else "29"
    with pytest.raises(ValueError, match=rf"y has the label '?[6z]'? at {at}, which is none of"):
        model.evaluate(x, wrong)


def test_targets_are_checked_in_all_blocks(small_blocks):
    x = np.zeros((30, 1))
    shares = np.full((30, 2), 0.5)
    cases = [
        (np.where(np.arange(30) == 29, np.nan, 1.0), 1, "mse", "finite"),
        (np.arange(30) // 29 * 4, 3, "softmax_cross_entropy", None),
        (np.where(np.arange(30)[:, None] == 29, 0.6, shares), 2, "softmax_cross_entropy", "sum to"),
        (np.where(np.arange(30) == 29, 1.5, 0.0), 1, "binary_cross_entropy", r"\[0, 1\], got 1.5"),
        (np.where(np.arange(30) == 29, 1.5, 1.0), 3, None, "one number, such as"),
    ]  # fmt: skip
    for y, units, loss, message in cases:
        with pytest.raises(ValueError, match=message):
            Sequential([Dense(units)]).fit(x, y, epochs=1, key=0, loss=loss)
    bad = x.copy()
    bad[29] = np.inf
    with pytest.raises(ValueError, match=r"x must be finite in float32, got inf at \(29, 0\)"):
        Sequential([Dense(1)]).fit(bad, x, epochs=1, key=0)


def test_what_blocks_say_together(small_blocks, capsys):
    from dropcore.data import TargetScaling

    targets_of_a_fit(np.arange(40) // 39, 1)
    assert "binary_cross_entropy" in capsys.readouterr().err
    targets_of_a_fit(np.arange(40) // 39 * 2, 1)
    assert "'mse'" in capsys.readouterr().err
    labels = np.array([0] * 10 + [1] * 30)
    model = Sequential([Dense(2)])
    x = np.random.default_rng(0).normal(size=(40, 1))
    model.fit(x, labels, epochs=1, key=0, class_weight="balanced", loss="softmax_cross_entropy")
    assert "class_weight" in model.training_state.call
    assert "2.0" in model.training_state.call["class_weight"]
    with pytest.warns(UserWarning, match="all labels in y are 1"):
        targets_of_a_fit(np.ones(40, int), 1, loss="binary_cross_entropy")
    y = np.random.default_rng(1).normal(3, 2, (40, 2))
    scaling = TargetScaling.fit(y)
    np.testing.assert_allclose(scaling.mean, y.mean(0), 1e-14)
    np.testing.assert_allclose(scaling.scale, y.std(0), 1e-14)
    np.testing.assert_array_equal(scaling.transform(y), (y - scaling.mean) / scaling.scale)

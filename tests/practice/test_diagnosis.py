"""What `diagnose` measures, and what it says about models that have a known fault."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dropcore.constraints import MaxNorm, UnitNorm
from dropcore.data import Preprocessing
from dropcore.diagnosis import Diagnosis, NormHistory, VarianceShift, diagnose
from dropcore.diagnosis._findings import findings_of
from dropcore.diagnosis._layers import lowest_keep, outputs
from dropcore.losses import SoftmaxCrossEntropy
from dropcore.nn import (
    LSTM,
    BatchNorm,
    Bidirectional,
    ConcreteDropout,
    Conv1D,
    Conv2D,
    Dense,
    DropConnect,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool1D,
    GlobalMaxPool1D,
    LayerNorm,
    Maxout,
    MaxPool1D,
    MaxPool2D,
    MultiHeadAttention,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    Softplus,
)
from dropcore.optim import SGD, Adam
from dropcore.regularizers import L2
from dropcore.training import History


def classes(rows, *, seed=0, features=20, wrong=0.0):
    """Two classes that a linear function separates, with some labels turned around."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    y = (x[:, :4].sum(axis=1) > 0).astype(np.int64)
    turned = rng.random(rows) < wrong
    return x, np.where(turned, 1 - y, y)


def halves(*arrays):
    """The first and the second half of the rows."""
    middle = len(arrays[0]) // 2
    return tuple(a[:middle] for a in arrays), tuple(a[middle:] for a in arrays)


def fitted(model, x, y, **options):
    given = {"epochs": 10, "loss": "softmax_cross_entropy", "key": 0, "progress": False}
    model.fit(x, y, **given | options)
    return model


def mlp(*hidden, rate=0.0, outputs=2, **options):
    layers = []
    for units in hidden:
        layers.append(Dense(units, activation="relu", **options))
        layers += [Dropout(rate)] * bool(rate)
    return Sequential([*layers, Dense(outputs)])


def names(found):
    return [finding.name for finding in found.findings]


def finding(found, name):
    """The one finding of that name."""
    (one,) = [finding for finding in found.findings if finding.name == name]
    return one


@pytest.fixture(scope="module")
def memorised():
    """A wide network that has memorised 100 noisy labels, and its diagnosis."""
    (x, y), (xv, yv) = halves(*classes(200, wrong=0.2))
    norms = NormHistory()
    model = fitted(mlp(128), x, y, epochs=60, optimizer=Adam(3e-3), callbacks=[norms])
    return model, (x, y), (xv, yv), norms


@pytest.fixture(scope="module")
def sound():
    """A model without faults: plenty of data, little dropout, and its diagnosis."""
    (x, y), held_out = halves(*classes(2000, features=6))
    model = mlp(16, rate=0.2)
    fitted(model, x, y, epochs=15, optimizer=Adam(1e-2), validation_data=held_out)
    return model, (x, y), held_out, diagnose(model, x, y, validation=held_out)


# --- findings ------------------------------------------------------------------------------------


def test_a_sound_model_has_no_findings(sound):
    *_, found = sound
    assert found.findings == ()
    assert found.advice == []
    assert str(found).endswith("Nothing looks wrong.")


def test_overfitting_is_found_with_its_numbers(memorised):
    model, (x, y), held_out, norms = memorised
    found = diagnose(model, x, y, validation=held_out, norms=norms)
    told = finding(found, "overfitting")
    train, validation = found.train.metrics["accuracy"], found.validation.metrics["accuracy"]
    assert train > validation + 0.1
    assert f"accuracy is {train:.3g} on training data and {validation:.3g}" in told.evidence
    assert "2,946 parameters for 100 samples" in told.evidence
    assert "the norms of" in told.evidence
    assert "Dropout(0.5)" in told.do
    assert str(told) in found.advice


def test_overfitting_needs_validation_data(memorised):
    model, (x, y), *_ = memorised
    found = diagnose(model, x, y)
    assert found.gap is None
    assert found.validation is None
    assert "overfitting" not in names(found)
    assert "without validation data overfitting cannot be seen" in str(found)


@pytest.mark.parametrize("how", [{"rate": 0.1}, {"regularizer": L2(1e-8)}])
def test_overfitting_of_a_regularised_model_is_another_finding(how):
    (x, y), held_out = halves(*classes(200, wrong=0.2))
    model = fitted(mlp(128, **how), x, y, epochs=60, optimizer=Adam(3e-3))
    found = diagnose(model, x, y, validation=held_out)
    assert "overfitting" not in names(found)
    told = finding(found, "overfitting_with_dropout")
    assert ("keeps 0.9" in told.what) == ("rate" in how)


def test_a_gap_must_be_large_and_significant(memorised):
    model, (x, y), (xv, yv), _ = memorised
    right = model.predict_labels(xv) == yv
    hits, misses = np.flatnonzero(right), np.flatnonzero(~right)
    few = np.r_[hits[:5], misses[:1]]
    found = diagnose(model, x, y, validation=(xv[few], yv[few]))
    assert found.gap.train - found.gap.validation > 0.1
    assert not found.gap.large
    many = np.r_[np.tile(hits[:49], 80), np.tile(misses[:1], 80)]
    found = diagnose(model, x, y, validation=(xv[many], yv[many]), max_samples=None)
    assert found.gap.train - found.gap.validation > 5 * found.gap.error
    assert not found.gap.large


def test_a_dropout_of_rate_0_regularises_nothing():
    (x, y), held_out = halves(*classes(200, wrong=0.2))
    model = Sequential([Dense(128, activation="relu"), Dropout(0.0), Dense(2)])
    fitted(model, x, y, epochs=60, optimizer=Adam(3e-3))
    found = diagnose(model, x, y, validation=held_out)
    assert "overfitting" in names(found)
    assert "overfitting_with_dropout" not in names(found)


def test_a_difference_within_two_standard_errors_is_no_overfitting():
    (x, y), (xv, yv) = halves(*classes(80, wrong=0.2))
    model = fitted(mlp(4), x, y, epochs=5)
    found = diagnose(model, x, y, validation=(xv[:12], yv[:12]))
    assert found.gap.error > 0.1
    assert not found.gap.large
    assert "overfitting" not in names(found)


def test_overfitting_of_a_regression_is_seen_in_the_loss():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((120, 30), dtype=np.float32)
    y = x[:, 0] + rng.standard_normal(120).astype(np.float32)
    model = mlp(128, outputs=1)
    fitted(model, x[:60], y[:60], epochs=150, loss="mse", optimizer=Adam(3e-3))
    found = diagnose(model, x[:60], y[:60], validation=(x[60:], y[60:]))
    assert found.gap.metric == "loss"
    assert found.gap.train < 0.2 < found.gap.validation
    assert found.train.skill == pytest.approx(1 - found.train.metrics["loss"] / y[:60].var(), 1e-4)
    assert "overfitting" in names(found)


def test_a_small_loss_that_doubles_is_no_overfitting():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 5), dtype=np.float32)
    y = x[:, 0] + 0.05 * rng.standard_normal(400).astype(np.float32)
    model = mlp(64, outputs=1)
    fitted(model, x[:200], y[:200], epochs=150, loss="mse", optimizer=Adam(3e-3))
    found = diagnose(model, x[:200], y[:200], validation=(x[200:], y[200:]))
    assert found.gap.validation > 2 * found.gap.train
    assert found.validation.skill > found.train.skill - 0.03
    assert not found.gap.large


def test_too_much_dropout_underfits():
    (x, y), held_out = halves(*classes(1200))
    strong = fitted(mlp(16, 16, rate=0.8), x, y, epochs=40, batch_size=64)
    told = finding(diagnose(strong, x, y, validation=held_out), "underfitting")
    assert "keeps 0.2" in told.evidence
    assert "smaller rate" in told.do
    weak = fitted(mlp(16, 16, rate=0.1), x, y, epochs=40, batch_size=64)
    assert "underfitting" not in names(diagnose(weak, x, y, validation=held_out))


def test_noise_in_the_training_loss_is_no_learning_rate_that_is_too_high():
    x, y = classes(600)
    model = fitted(mlp(16, 16, rate=0.95), x, y, epochs=20, batch_size=64)
    losses = np.array(model.training_state.history["loss"])
    assert np.diff(losses).clip(0).mean() > 0.05 * losses.mean()
    assert "learning_rate_too_high" not in names(diagnose(model, x, y))


def echo(rows, steps=6, kinds=12):
    """Sequences of symbols whose first one is the label."""
    symbols = np.random.default_rng(3).integers(0, kinds, (rows, steps))
    return np.eye(kinds, dtype=np.float32)[symbols], symbols[:, 0]


@pytest.mark.parametrize(("wrap", "epochs"), [(lambda layer: layer, 40), (Bidirectional, 12)])
def test_an_lstm_too_small_for_its_rate_is_named(wrap, epochs):
    x, y = echo(300)

    def model(rate):
        return Sequential([wrap(LSTM(10, dropout=rate, recurrent_dropout=rate)), Dense(12)])

    how = {"epochs": epochs, "optimizer": Adam(1e-2), "key": 1}
    told = finding(diagnose(fitted(model(0.9), x, y, **how), x, y), "recurrent_too_small")
    assert "layer 0 is too small" in told.what
    assert "of 10 units about 1 are kept" in told.what
    assert "100 units" in told.do
    assert "recurrent_too_small" not in names(diagnose(fitted(model(0.0), x, y, **how), x, y))


def test_a_dropout_behind_an_lstm_counts_as_its_rate():
    x, y = echo(300)
    model = Sequential([LSTM(4), Dropout(0.75), Dense(12)])
    fitted(model, x, y, epochs=60, optimizer=Adam(1e-2), key=1)
    assert "layer 0 is too small" in finding(diagnose(model, x, y), "recurrent_too_small").what


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(3.0, momentum=0.9), "learning_rate_too_high"),
        (SGD(0.001), "learning_rate_too_low"),
        (Adam(1e-2), None),
    ],
)
def test_learning_rates(optimizer, expected):
    x, y = classes(400, wrong=0.1)
    model = fitted(mlp(32), x, y, epochs=12, optimizer=optimizer)
    found = [name for name in names(diagnose(model, x, y)) if name.startswith("learning_rate")]
    assert found == [expected] * bool(expected)


def test_few_epochs_say_nothing_about_the_learning_rate():
    x, y = classes(100)
    model = fitted(mlp(8), x, y, epochs=2, optimizer=SGD(0.001))
    assert not [name for name in names(diagnose(model, x, y)) if "learning_rate" in name]


def test_a_training_loss_that_falls_further_than_the_validation_loss_asks_for_no_more_epochs():
    (x, y), held_out = halves(*classes(300, wrong=0.2))
    model = fitted(mlp(64), x, y, epochs=20, optimizer=Adam(3e-3), validation_data=held_out)
    losses = model.training_state.history["loss"]
    assert losses[-1] < losses[-2] < losses[-3]
    assert "learning_rate_too_low" not in names(diagnose(model, x, y, validation=held_out))


def test_the_best_epoch_is_named():
    (x, y), held_out = halves(*classes(200, wrong=0.3))
    model = mlp(64)
    history = fitted(
        model, x, y, epochs=30, optimizer=Adam(1e-2), validation_data=held_out
    ).training_state.history
    told = finding(diagnose(model, x, y, validation=held_out), "best_epoch_passed")
    history.best_epoch = 3  # as EarlyStopping says that the model has its weights
    assert "best_epoch_passed" not in names(diagnose(model, x, y, validation=held_out))
    assert f"in epoch {1 + np.argmin(history['val_loss'])}" in told.evidence


def test_dropout_in_front_of_batch_norm_shifts_variances():
    x, y = classes(400)
    before = Sequential(
        [Dense(16, activation="relu"), Dropout(0.5), Dense(16), BatchNorm(), ReLU(), Dense(2)]
    )
    after = Sequential([Dense(16), BatchNorm(), ReLU(), Dropout(0.5), Dense(2)])
    found = diagnose(fitted(before, x, y), x, y)
    (shift,) = found.shifts
    assert (shift.norm, shift.dropout) == ("3", "1")
    assert shift.ratio > 1.1
    told = finding(found, "dropout_before_batch_norm")
    assert f"{shift.ratio:.2f} times" in told.evidence
    assert "Li et al. 2019" in told.do
    found = diagnose(fitted(after, x, y), x, y)
    assert found.shifts == ()
    assert "dropout_before_batch_norm" not in names(found)


def test_the_variance_shift_is_that_of_the_masks():
    """Of one element x, dropped at rate p, the variance is E[x^2] / keep - E[x]^2."""
    x, y = classes(600, features=8)
    model = Sequential([Dropout(0.5), BatchNorm(), Dense(2)])
    (shift,) = diagnose(fitted(model, x, y), x, y, batch_size=600).shifts
    x64 = x.astype(np.float64)
    exact = ((x64**2).mean(0) / 0.5 - x64.mean(0) ** 2) / x64.var(0)
    assert shift.ratio == pytest.approx(np.median(exact), rel=0.1)


def test_a_dropout_at_rate_0_shifts_nothing():
    x, y = classes(100)
    model = fitted(Sequential([Dropout(0.0), Dense(8), BatchNorm(), Dense(2)]), x, y, epochs=1)
    assert diagnose(model, x, y).shifts == ()


def test_dropout_behind_the_last_layer_is_named():
    x, y = classes(100)
    model = Sequential([Dense(8, activation="relu"), Dense(2), Dropout(0.5)])
    with pytest.warns(UserWarning, match="ends with"):
        fitted(model, x, y, epochs=1)
    told = finding(diagnose(model, x, y), "dropout_after_last_layer")
    assert "layer 2, Dropout(0.5)" in told.evidence
    model = fitted(Sequential([Dense(8), Dropout(0.5), Dense(2)]), x, y, epochs=1)
    assert "dropout_after_last_layer" not in names(diagnose(model, x, y))


def test_a_bound_that_is_never_reached_is_named():
    x, y = classes(200)
    loose = fitted(mlp(16, constraint=MaxNorm(50.0)), x, y, epochs=2)
    told = finding(diagnose(loose, x, y), "max_norm_never_clips")
    assert "of 50 in 0.weight" in told.evidence
    near = diagnose(loose, x, y).weights[0].largest
    tight = fitted(mlp(16, constraint=MaxNorm(0.9 * near)), x, y, epochs=2)
    assert "max_norm_never_clips" not in names(diagnose(tight, x, y))


def test_a_bound_that_was_reached_during_training_is_not_idle():
    x, y = classes(100)
    model = fitted(mlp(8, constraint=MaxNorm(50.0)), x, y, epochs=1)
    norms = NormHistory()
    norms.clipped["0.weight"] = [0.0, 0.25, 0.0]
    assert "max_norm_never_clips" not in names(diagnose(model, x, y, norms=norms))


def test_a_bound_that_holds_everything_is_named_if_little_is_learned():
    x, y = classes(400)
    tight = Sequential([Dense(16, constraint=MaxNorm(1e-4), activation="relu"), Dense(2)])
    told = finding(diagnose(fitted(tight, x, y, epochs=5), x, y), "max_norm_clips_all")
    assert "0.weight (100 %)" in told.evidence
    fine = Sequential([Dense(16, constraint=MaxNorm(0.7), activation="relu"), Dense(2)])
    found = diagnose(fitted(fine, x, y, epochs=20, optimizer=Adam(1e-2)), x, y)
    assert found.weights[0].clipped > 0.9
    assert "max_norm_clips_all" not in names(found)


def test_dead_units_are_counted():
    x, y = classes(200)
    model = fitted(mlp(10), x, y, epochs=2)
    assert "dead_units" not in names(diagnose(model, x, y))
    model.params["0.bias"][3:7] = -100.0
    found = diagnose(model, x, y)
    np.testing.assert_array_equal(found.activations[0].dead, [3, 4, 5, 6])
    assert "4 of 10 in layer 0" in finding(found, "dead_units").evidence


@pytest.mark.parametrize(
    ("scale", "shift", "found"),
    [(1.0, 0.0, False), (1.0, 3.0, False), (200.0, 0.0, True), (1.0, 40.0, True), (1e-3, 0, True)],
)
def test_inputs_that_are_not_standardised(scale, shift, found):
    x, y = classes(200)
    x = x.copy()
    x[:, 5] = x[:, 5] * scale + shift if scale > 1e-2 else x[:, 5]
    x = x * np.float32(scale if scale < 1e-2 else 1.0)
    result = diagnose(fitted(mlp(8), x, y, epochs=1, optimizer=SGD(1e-5)), x, y)
    assert ("inputs_not_standardised" in names(result)) == found
    if found and scale > 1e-2:
        assert "input 5 has mean" in finding(result, "inputs_not_standardised").evidence


def test_pixels_between_0_and_1_are_standardised_enough():
    x, y = classes(200, features=64)
    images = np.clip(x, 0, 1).reshape(200, 8, 8, 1)
    for factor, expected in ((1.0, False), (255.0, True)):
        model = Sequential([Conv2D(4, 3, activation="relu"), Flatten(), Dense(2)])
        fitted(model, images * np.float32(factor), y, epochs=1, optimizer=SGD(1e-6))
        found = names(diagnose(model, images * np.float32(factor), y))
        assert ("inputs_not_standardised" in found) == expected


@pytest.mark.parametrize("learned", [True, False])
def test_a_normalisation_in_front_standardises(learned):
    x, y = classes(200)
    model = Sequential([BatchNorm(scale=learned, center=learned), Dense(2)])
    fitted(model, 300 * x, y, epochs=1)
    assert "inputs_not_standardised" not in names(diagnose(model, 300 * x, y))


def test_a_rare_class_that_is_missed_is_named():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 5), dtype=np.float32)
    y = (rng.random(600) < 0.05).astype(np.int64)
    found = diagnose(fitted(mlp(4), x, y, epochs=15), x, y)
    np.testing.assert_array_equal(found.classes.counts, np.bincount(y))
    told = finding(found, "unbalanced_classes")
    assert told.what == "Class 1 is rare, and often missed"
    assert f"{100 * y.mean():.2g} % of the samples" in told.evidence


def test_a_rare_class_that_is_recognised_is_fine():
    x, y = classes(600)
    y = (x[:, 0] > 1.5).astype(np.int64)
    assert y.mean() < 0.1
    model = fitted(mlp(16), x, y, epochs=30, optimizer=Adam(1e-2))
    assert "unbalanced_classes" not in names(diagnose(model, x, y))


# --- the conditions of findings, at their bounds ------------------------------------------------


def history(losses, held_out=None):
    found = History()
    for epoch, loss in enumerate(losses, start=1):
        more = {} if held_out is None else {"val_loss": held_out[epoch - 1]}
        found.append(epoch, {"loss": loss} | more)
    return found


def told(sound, rate=0.2, *, skill=None, clean=None, dead=None, **changes):
    """Names of the findings about a sound model in which some facts are others."""
    *_, found = sound
    train = found.train
    if skill is not None:
        train = replace(train, skill=skill)
    if clean is not None:
        train = replace(train, metrics={"loss": clean}, errors={"loss": 0.0})
    if dead is not None:
        hidden = replace(found.activations[0], units=10, dead=np.arange(dead))
        changes["activations"] = (hidden,)
    facts = replace(found, train=train, **changes)
    return [finding.name for finding in findings_of(mlp(16, rate=rate), facts)]


STILL = [2.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
CREEPING = [2.4 - 0.0005 * epoch + 0.0002 * (epoch % 2) for epoch in range(30)]


@pytest.mark.parametrize(
    ("losses", "facts", "expected"),
    [
        (STILL, {}, None),
        ([1.0, 0.5, *np.linspace(0.5, 0.58, 9)], {}, "learning_rate_too_high"),  # rises, no jumps
        ([1.0, 0.7, 1.0, 0.7, 1.0, 0.7, 0.6, 0.6, 0.6], {}, "learning_rate_too_high"),  # jumps
        ([1.0, 0.7, 1.0, 0.7, 1.0, 0.7, 0.6, 0.6, 0.6], {"rate": 0.8}, None),  # those of noise
        ([2.4, 2.31, 2.3, 2.31, 2.3, 2.31], {"skill": 0.0, "dead": 6}, "learning_rate_too_high"),
        ([2.4, 2.31, 2.3, 2.31, 2.3, 2.31], {"skill": 0.0, "dead": 2}, None),
        ([2.4, 2.31, 2.3, 2.31, 2.3, 2.31], {"skill": 0.5, "dead": 6}, None),
        (CREEPING, {"skill": 0.0}, "learning_rate_too_low"),
        (CREEPING, {"skill": 0.5}, None),
        (FALLING, {"skill": 0.5}, "learning_rate_too_low"),
        (FALLING, {"skill": 0.8}, None),
        (FALLING[:4], {"skill": 0.5}, None),  # too few epochs
        ([*FALLING[:5], float("nan")], {"skill": 0.5}, None),
    ],
)
def test_the_learning_rate_is_judged_by_the_training_loss(sound, losses, facts, expected):
    found = told(sound, **{"rate": 0.0, "clean": losses[-1], "history": history(losses)} | facts)
    assert [name for name in found if "learning_rate" in name] == [expected] * bool(expected)


@pytest.mark.parametrize(("best", "expected"), [(7, True), (2, False)])
def test_a_validation_loss_that_still_falls_asks_for_more_epochs(sound, best, expected):
    held_out = [0.5 + 0.001 * abs(epoch - best) for epoch in range(8)]
    found = told(sound, skill=0.9, clean=0.3, history=history(FALLING, held_out))
    assert ("learning_rate_too_low" in found) == expected


@pytest.mark.parametrize(
    ("rate", "skill", "clean", "losses", "expected"),
    [
        (0.5, 0.5, 0.4, STILL, True),
        (0.3, 0.5, 0.4, STILL, False),  # the dropout is weak
        (0.5, 0.75, 0.4, STILL, False),  # the score is fine
        (0.5, 0.5, 0.49, STILL, False),  # the noise costs nothing
        (0.5, 0.1, 0.49, STILL, True),  # nothing is learned, so that it cannot cost anything
        (0.5, 0.5, 0.1, FALLING, False),  # training has not ended
    ],
)
def test_underfitting_needs_strong_dropout_and_a_poor_score(
    sound, rate, skill, clean, losses, expected
):
    found = told(sound, rate, skill=skill, clean=clean, history=history(losses))
    assert ("underfitting" in found) == expected


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [
        ([1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], True),
        ([1.0, 0.5, 0.52, 0.52, 0.52, 0.52, 0.52, 0.52], False),  # hardly worse
        ([1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6], False),  # at the end
        ([1.0, 0.5, 0.6, 0.6], False),
        ([1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, float("nan")], False),
    ],
)
def test_the_best_epoch_has_passed_if_it_was_early_and_better(sound, held_out, expected):
    found = told(sound, history=history(STILL[: len(held_out)], held_out))
    assert ("best_epoch_passed" in found) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(1.04, False), (1.06, True), (0.9, True)])
def test_small_shifts_of_variances_are_fine(sound, ratio, expected):
    found = told(sound, shifts=(VarianceShift("3", "1", ratio),))
    assert ("dropout_before_batch_norm" in found) == expected


@pytest.mark.parametrize(("dead", "expected"), [(0, False), (2, False), (3, True)])
def test_a_few_dead_units_are_usual(sound, dead, expected):
    assert ("dead_units" in told(sound, dead=dead)) == expected


@pytest.mark.parametrize(
    ("counts", "recall", "expected"),
    [
        ([500, 100], [0.9, 0.5], True),
        ([500, 110], [0.9, 0.5], False),
        ([500, 100], [0.9, 0.85], False),
    ],
)
def test_a_class_is_rare_from_a_fifth_of_another_on(sound, counts, recall, expected):
    classes = replace(sound[-1].classes, counts=np.array(counts), recall=np.array(recall))
    assert ("unbalanced_classes" in told(sound, classes=classes)) == expected


def test_a_last_dropout_at_rate_0_does_nothing(sound):
    model = Sequential([Dense(2), Dropout(0.0)])
    found = [finding.name for finding in findings_of(model, sound[-1])]
    assert "dropout_after_last_layer" not in found


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "keep"),
    [
        (Dense(3), 1.0),
        (Dropout(0.3), 0.7),
        (Dropout([0.2, 0.4]), 0.7),
        (Dropout(lambda step: 0.25 + step), 0.75),
        (DropConnect(3, 0.4), 0.6),
        (LSTM(3, zoneout=0.9), 1.0),
        (LSTM(3, dropout=0.1, recurrent_dropout=0.4), 0.6),
        (LSTM(3, weight_dropout=lambda step: 0.5 - step), 0.5),
        (ConcreteDropout(Dense(3), 0.2, data_points=10), 0.8),
    ],
)
def test_what_a_layer_keeps(layer, keep):
    assert lowest_keep(layer) == pytest.approx(keep)


def test_a_learned_rate_is_the_current_one():
    layer = ConcreteDropout(Dense(3), 0.2, data_points=10)
    layer.build((4,), key=0)
    layer.params["logit"][...] = 0.0
    assert lowest_keep(layer) == pytest.approx(0.5)


def test_outputs_are_those_of_a_prediction_also_of_padded_sequences():
    x = np.random.default_rng(0).standard_normal((8, 12, 3), dtype=np.float32)
    lengths = np.arange(5, 13)
    model = Sequential(
        [Conv1D(4, 3), MaxPool1D(2), LSTM(5, return_sequences=True), GlobalMaxPool1D(), Dense(2)]
    )
    model.build((12, 3), key=0)
    *_, (path, layer, y) = outputs(model, x, lengths=lengths)
    assert (path, layer) == ("4", model[4])
    np.testing.assert_array_equal(y, model(x, lengths=lengths))
    assert not np.array_equal(y, model(x))


# --- measurements --------------------------------------------------------------------------------


def test_scores_are_those_of_evaluate(sound):
    model, (x, y), held_out, found = sound
    assert found.train.metrics == pytest.approx(model.evaluate(x, y))
    assert found.validation.metrics == pytest.approx(model.evaluate(*held_out))
    right = found.validation.metrics["accuracy"]
    assert found.validation.errors["accuracy"] == pytest.approx((right * (1 - right) / 1000) ** 0.5)


def test_the_standard_error_of_the_loss_is_that_of_its_mean():
    x, y = classes(1000, wrong=0.3)
    model = fitted(mlp(4), x, y, epochs=1)
    z = model.predict(x).astype(np.float64)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(1000), y]
    order = np.argsort(losses)  # data may be sorted by anything
    error = diagnose(model, x[order], y[order]).train.errors["loss"]
    assert error == pytest.approx(losses.std() / 1000**0.5, rel=0.6)  # from ten parts


def test_norms_run_over_the_incoming_weights():
    x, y = classes(50)
    model = fitted(mlp(8, constraint=MaxNorm(0.8)), x, y, epochs=3)
    first, last = diagnose(model, x, y).weights
    weight = model.params["0.weight"].astype(np.float64)
    np.testing.assert_allclose(first.norms, np.linalg.norm(weight, axis=0), rtol=1e-12)
    assert first.bound == 0.8
    assert first.clipped == np.mean(first.norms > 0.8 * (1 - 1e-5)) > 0
    assert (last.name, last.bound, last.clipped) == (
        "2.weight" if False else "1.weight",
        None,
        None,
    )


def test_norms_follow_the_axes_of_the_constraint():
    x, y = classes(50)
    model = fitted(Sequential([Dense(8, constraint=MaxNorm(0.5, axis=1)), Dense(2)]), x, y)
    norms = diagnose(model, x, y).weights[0].norms
    np.testing.assert_allclose(norms, np.linalg.norm(model.params["0.weight"], axis=1), rtol=1e-6)


def test_a_unit_norm_is_no_bound():
    x, y = classes(50)
    model = fitted(Sequential([Dense(8, constraint=UnitNorm()), Dense(2)]), x, y, epochs=1)
    first = diagnose(model, x, y).weights[0]
    assert first.bound is first.clipped is None
    np.testing.assert_allclose(first.norms, 1, rtol=1e-6)


def test_activations_are_those_of_all_rows_whatever_the_blocks():
    x, y = classes(100)
    model = fitted(mlp(12, rate=0.5), x, y, epochs=2)
    hidden = np.maximum(x @ model.params["0.weight"] + model.params["0.bias"], 0)
    for size in (7, 1000):
        (found,) = diagnose(model, x, y, batch_size=size, bins=9).activations
        assert found.path == "0"
        assert found.layer == "Dense, relu"
        assert found.sparsity == pytest.approx(np.mean(hidden == 0))
        assert found.mean == pytest.approx(hidden.mean(), rel=1e-5)
        assert found.std == pytest.approx(hidden.std(), rel=1e-5)
        assert found.counts.sum() == hidden.size
        counts, edges = np.histogram(hidden, 9)
        np.testing.assert_allclose(found.edges, edges, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.counts, counts, atol=2)  # an element at an edge


def test_a_unit_that_lives_in_one_block_only_is_not_dead():
    x = np.zeros((20, 3), np.float32)
    x[2], x[19] = [1, 0, 0], [0, 1, 0]
    x[:, 2] = -np.arange(20)
    model = Sequential([Dense(3, activation="relu"), Dense(2)])
    fitted(model, x, np.arange(20) % 2, epochs=0)
    model.params["0.weight"][...] = np.eye(3)
    (found,) = diagnose(model, x, np.arange(20) % 2, batch_size=10).activations
    np.testing.assert_array_equal(found.dead, [2])
    assert found.sparsity == 58 / 60


def test_the_last_layer_is_not_hidden():
    x, y = classes(30)
    model = fitted(Sequential([Dense(4), ReLU(), Dense(2), Softplus()]), x, y, epochs=1)
    assert [a.path for a in diagnose(model, x, y).activations] == ["0", "1"]


def test_activations_behind_a_batch_norm_are_those_of_inference():
    x, y = classes(100)
    model = fitted(Sequential([Dense(6), BatchNorm(), ReLU(), Dense(2)]), x, y, epochs=2)
    found = diagnose(model, x, y).activations
    assert [a.path for a in found] == ["0", "1", "2"]
    exact = model[:3](x)
    assert found[2].mean == pytest.approx(exact.mean(), rel=1e-5)
    assert found[2].sparsity == np.mean(exact == 0)


def test_padded_steps_are_left_out_of_activations():
    x = np.random.default_rng(0).standard_normal((40, 6, 3), dtype=np.float32)
    lengths = np.tile([2, 6], 20)
    y = np.arange(40) % 2
    model = Sequential([LSTM(5, return_sequences=True), GlobalMaxPool1D(), Dense(2)])
    fitted(model, x, y, epochs=1, lengths=lengths)
    (found,) = diagnose(model, x, y, lengths=lengths).activations
    assert found.counts.sum() == lengths.sum() * 5
    assert found.sparsity == 0
    assert diagnose(model, x, y).activations[0].counts.sum() == 40 * 6 * 5


def test_layers_in_branches_are_measured():
    x, y = classes(60)
    model = Sequential(
        [
            Dense(8, activation="relu"),
            Residual([Dense(8, activation="relu"), Dropout(0.5), Dense(8)]),
            Parallel([Dense(3), Sequential([Dense(4), ReLU()])]),
            Dense(2),
        ]
    )
    found = diagnose(fitted(model, x, y, epochs=1), x, y)
    paths = [a.path for a in found.activations]
    assert paths == ["0", "1.0.0", "1.0.2", "1", "2.0", "2.1.0", "2.1.1", "2"]
    by_path = {a.path: a for a in found.activations}
    assert by_path["2"].units == 7
    assert by_path["1"].mean == pytest.approx(model[:2](x).mean(), rel=1e-4)
    assert len(found.weights) == 6


def test_every_kind_of_weight_has_norms():
    tokens = np.random.default_rng(0).integers(0, 9, (30, 5))
    model = Sequential(
        [Embedding(9, 4), Bidirectional(LSTM(3)), Maxout(4), DropConnect(5, 0.5),
         ConcreteDropout(Dense(3), data_points=30), LayerNorm(), Dense(2)]
    )  # fmt: skip
    found = diagnose(fitted(model, tokens, np.arange(30) % 2, epochs=1), tokens, np.arange(30) % 2)
    sizes = {w.name: len(w.norms) for w in found.weights}
    assert sizes == {
        "0.weight": 9, "1.forward.weight": 12, "1.forward.recurrent_weight": 12,
        "1.backward.weight": 12, "1.backward.recurrent_weight": 12, "2.linear.weight": 8,
        "3.weight": 5, "4.layer.weight": 3, "6.weight": 2,
    }  # fmt: skip
    assert found.inputs is None
    assert found.features is None


def test_both_weights_of_attention_have_norms():
    x, y = np.random.default_rng(0).normal(size=(30, 5, 4)), np.arange(30) % 2
    model = Sequential([MultiHeadAttention(2, 0.1), GlobalAveragePool1D(), Dense(2)])
    found = diagnose(fitted(model, x, y, epochs=1), x, y)
    sizes = {w.name: len(w.norms) for w in found.weights}
    assert sizes == {"0.weight": 12, "0.output_weight": 4, "2.weight": 2}


def test_features_of_images_have_their_shape():
    x, y = classes(60, features=64)
    flat = diagnose(fitted(mlp(5), x, y, epochs=1), x, y, image_shape=(8, 8)).features
    model = Sequential([Flatten(), Dropout(0.2), Dense(5, activation="relu"), Dense(2)])
    fitted(model, x.reshape(60, 8, 8, 1), y, epochs=1)
    image = diagnose(model, x.reshape(60, 8, 8, 1), y).features
    assert flat.images.shape == image.images.shape == (5, 8, 8)
    np.testing.assert_array_equal(image.images.reshape(5, 64).T, model.params["2.weight"])
    conv = Sequential([Conv2D(6, 3), MaxPool2D(2), Flatten(), Dense(2)])
    fitted(conv, x.reshape(60, 8, 8, 1), y, epochs=1)
    kernels = diagnose(conv, x.reshape(60, 8, 8, 1), y).features
    assert kernels.images.shape == (6, 3, 3)
    assert kernels.top() == []


def test_features_are_no_images_where_the_input_is_none():
    x = np.random.default_rng(0).standard_normal((30, 8, 2), dtype=np.float32)
    y = np.arange(30) % 2

    def features_of(layers, data):
        return diagnose(fitted(Sequential(layers), data, y, epochs=1), data, y).features

    assert features_of([LSTM(4), Dense(2)], x).images is None
    assert features_of([Flatten(), Dense(4), Dense(2)], x).images.shape == (4, 8, 2)
    assert features_of([Flatten(), Dense(4), Dense(2)], x[:, :, :1]).images is None
    assert features_of([Parallel([Dense(3), Dense(3)]), Flatten(), Dense(2)], x) is None
    behind = features_of([LayerNorm(), Dense(4), Dense(2)], x[:, 0])
    assert behind.name == "1.weight"
    assert behind.names == ["input 0", "input 1"]


def test_features_of_a_table_are_ranked_by_name():
    pandas = pytest.importorskip("pandas")
    x, y = classes(400, features=6)
    frame = pandas.DataFrame(x, columns=[*"abcdef"])
    model = fitted(mlp(8), frame, y, epochs=20, optimizer=Adam(1e-2))
    found = diagnose(model, frame, y)
    top = found.features.top(4)
    assert {name for name, _ in top} == {*"abcd"}
    assert top == sorted(top, key=lambda entry: -entry[1])
    norm = np.linalg.norm(model.params["0.weight"], axis=1)
    assert dict(top)["a"] == pytest.approx(norm[0], rel=1e-6)
    assert found.features.images is None


def table(rows=200):
    """A table of two numbers with holes and a text, and labels in words."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": rng.normal(50, 10, rows),
            "income": rng.normal(3e4, 1e4, rows),
            "town": rng.choice(["Bern", "Rome"], rows),
        }
    )
    labels = np.where(frame["income"] > 3e4, "rich", "poor")
    frame.loc[::9, "age"] = np.nan
    return frame, labels


def test_a_table_is_looked_at_behind_its_preprocessing():
    frame, labels = table()
    model = mlp(16)
    fitted(model, frame, labels, epochs=20, preprocessing=Preprocessing())
    found = diagnose(model, frame, labels, max_samples=150, metrics=["f1"])
    assert found.classes.names == ["poor", "rich"]
    assert found.inputs.largest_std < 1.2
    assert found.train.metrics["f1"] > 0.8
    assert dict(found.features.top()).keys() == {
        "age", "income", "age is missing", "town=Bern", "town=Rome"
    }  # fmt: skip
    right = model.predict_labels(frame) == labels
    whole = diagnose(model, frame, labels, max_samples=None)
    assert whole.train.metrics["accuracy"] == pytest.approx(right.mean())
    assert whole.classes.recall[1] == pytest.approx(right[labels == "rich"].mean())


def test_scaled_targets_have_the_same_skill():
    frame, _ = table()
    y = 3 * frame["income"].to_numpy() + 1e5
    model = mlp(32, outputs=1)
    fitted(model, frame, y, epochs=60, loss="mse", preprocessing=Preprocessing(),
           scale_targets=True)  # fmt: skip
    found = diagnose(model, frame, y)
    predicted = model.predict(frame)[:, 0]
    exact = 1 - np.square(predicted - y).sum() / np.square(y - y.mean()).sum()
    assert found.train.skill == pytest.approx(exact, abs=1e-6)
    assert exact > 0.9


def test_a_model_on_a_gpu_has_the_same_diagnosis(host):
    x, y = classes(60, features=6)
    found = []
    for device in ("cpu", "cuda"):
        model = mlp(8, rate=0.5, constraint=MaxNorm(1.5)).to(device)
        fitted(model, x, y, epochs=3)
        found.append(diagnose(model, x, y, validation=(x, y)))
    ours, theirs = found
    assert theirs.train.metrics == pytest.approx(ours.train.metrics, rel=1e-4)
    assert names(theirs) == names(ours)
    assert theirs.activations[0].mean == pytest.approx(ours.activations[0].mean, rel=1e-4)
    np.testing.assert_allclose(theirs.weights[0].norms, ours.weights[0].norms, rtol=1e-4)
    np.testing.assert_allclose(theirs.features.weights, ours.features.weights, atol=1e-4)


def test_few_samples_under_noise_are_no_learning_rate_that_is_too_high():
    x, y = classes(40, features=6)
    model = Sequential(
        [Dense(8, activation="relu"), Dropout(0.5), Dense(8), LayerNorm(), ReLU(), Dense(2)]
    )
    for key in range(5):
        fitted(model, x, y, epochs=6, key=key)
        assert "learning_rate_too_high" not in names(diagnose(model, x, y))


@pytest.mark.parametrize("key", range(3))
def test_few_samples_learned_under_dropout_are_no_learning_rate_that_is_too_high(key):
    x, y = classes(60, features=8)
    model = fitted(mlp(64, 64, rate=0.5), x, y, epochs=80, key=key, batch_size=32)
    losses = np.array(model.training_state.history["loss"])
    assert np.diff(losses).clip(0).mean() > 0.05 * losses.mean()
    assert "learning_rate_too_high" not in names(diagnose(model, x, y))


@pytest.mark.parametrize(
    ("total", "rate", "expected"),
    [(10_000, 0.5, True), (40, 0.5, False), (40, 0.0, True)],
)
def test_jumps_must_be_larger_than_those_of_masks(sound, total, rate, expected):
    losses = [1.0, *[0.4, 0.6] * 6]
    found = told(sound, rate, skill=0.9, clean=0.4, history=history(losses), total=total)
    assert ("learning_rate_too_high" in found) == expected


def test_the_loss_of_learned_samples_has_long_tails(sound):
    losses = [1.0, *[0.06, 0.1] * 30]
    for total, expected in ((200, False), (2000, True)):
        found = told(sound, 0.5, skill=0.9, clean=0.05, history=history(losses), total=total)
        assert ("learning_rate_too_high" in found) == expected


def test_jumps_of_a_loss_that_is_small_in_the_end_are_harmless(sound):
    for end, expected in ((0.2, True), (0.01, False)):
        losses = [1.0, *[0.4, 0.6] * 6, end, end, end]
        found = told(sound, 0.0, skill=0.9, clean=end, history=history(losses), total=10_000)
        assert ("learning_rate_too_high" in found) == expected


def test_momentum_is_named_to_those_who_use_it():
    x, y = classes(400, wrong=0.1)
    model = fitted(mlp(32), x, y, epochs=12, optimizer=SGD(3.0, momentum=0.9))
    assert "momentum" in finding(diagnose(model, x, y), "learning_rate_too_high").do
    model.training_state.optimizer = "Adam"
    assert "momentum" not in finding(diagnose(model, x, y), "learning_rate_too_high").do


@pytest.mark.parametrize(
    ("loss", "held_out", "expected"),
    [
        (0.42, STILL, True),
        (0.9, STILL, False),  # worse on validation data
        (0.42, [2.0, 1.0, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5], True),  # the training loss has ended, too
    ],
)
def test_a_model_that_is_worse_on_validation_data_does_not_underfit(
    sound, loss, held_out, expected
):
    *_, found = sound
    other = replace(found.validation, metrics={"loss": loss}, errors={"loss": 0.01})
    gap = replace(found.gap, large=False)
    names = told(sound, 0.5, skill=0.5, clean=0.4, history=history(STILL, held_out),
                 validation=other, gap=gap)  # fmt: skip
    assert ("underfitting" in names) == expected


@pytest.mark.parametrize(
    ("loss", "best", "expected"),
    [
        (0.48, 3, False),  # training went on learning, and validation data did not profit
        (0.48, 18, True),  # it did till the end
        (0.40, 3, True),  # no worse on validation data
    ],
)
def test_a_model_that_early_stopping_held_back_does_not_underfit(sound, loss, best, expected):
    *_, found = sound
    losses = [1.0, *np.linspace(0.6, 0.5, 19)]
    held_out = [0.5 + 0.01 * abs(epoch - best) for epoch in range(20)]
    other = replace(found.validation, metrics={"loss": loss}, errors={"loss": 0.06})
    gap = replace(found.gap, large=False)
    names = told(sound, 0.5, skill=0.5, clean=0.4, history=history(losses, held_out),
                 validation=other, gap=gap)  # fmt: skip
    assert ("underfitting" in names) == expected


def test_a_subsample_is_chosen_by_the_key_and_told():
    x, y = classes(500)
    model = fitted(mlp(8), x, y, epochs=1)
    found = [diagnose(model, x, y, max_samples=100, key=key) for key in (0, 0, 1)]
    assert found[0].train.samples == 100
    assert found[0].total == 500
    assert "500 training samples, of which 100 were used" in str(found[0])
    assert found[0].train.metrics == found[1].train.metrics != found[2].train.metrics
    assert diagnose(model, x, y, max_samples=None).train.samples == 500


def test_nothing_of_the_model_changes():
    x, y = classes(100)
    model = Sequential([Dense(8), Dropout(0.5), BatchNorm(), ReLU(), Dense(2)])
    fitted(model, x, y, epochs=1)
    before = {name: a.copy() for name, a in [*model.params.items(), *model.buffers.items()]}
    steps = model.training_state.step
    diagnose(model, x, y, validation=(x, y))
    for name, array in [*model.params.items(), *model.buffers.items()]:
        np.testing.assert_array_equal(array, before[name])
    assert model.training_state.step == steps


def test_a_diagnosis_is_json(memorised):
    model, (x, y), held_out, norms = memorised
    found = diagnose(model, x, y, validation=held_out, norms=norms)
    assert isinstance(found, Diagnosis)
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert back["gap"]["large"] is True
    assert [entry["name"] for entry in back["findings"]] == names(found)
    assert back["weights"][0]["units"] == 128
    assert "0, Dense, relu" in repr(found)


def test_what_is_not_defined_is_null_in_json():
    x, y = classes(12)
    model = fitted(Sequential([Dense(8), Dense(3)]), x, y, epochs=1)
    found = diagnose(model, x, y, validation=(x, y))
    assert np.isnan(found.classes.recall[2])
    assert found.to_dict()["classes"]["recall"][2] is None
    regression = fitted(mlp(4, outputs=1), x, x[:, 0], epochs=1, loss="mse")
    found = diagnose(regression, x, x[:, 0], validation=(x, x[:, 0]))
    assert "loss" not in found.train.errors  # of fewer than 20 samples
    assert np.isnan(found.gap.error)
    assert found.to_dict()["gap"]["error"] is None


def test_skill_and_recall_of_every_kind_of_target():
    x, y = classes(300)
    softmax = fitted(mlp(8), x, np.eye(2, dtype=np.float32)[y], epochs=10)
    given = np.eye(2, dtype=np.float32)[y]
    right = model_hits = softmax.predict(x).argmax(axis=1) == y
    found = diagnose(softmax, x, given)
    usual = max(y.mean(), 1 - y.mean())
    assert found.train.skill == pytest.approx((right.mean() - usual) / (1 - usual))
    assert found.classes.recall[1] == pytest.approx(model_hits[y == 1].mean())
    binary = fitted(mlp(8, outputs=1), x, y, epochs=10, loss="binary_cross_entropy")
    hits = (binary.predict(x)[:, 0] > 0) == y
    np.testing.assert_allclose(
        diagnose(binary, x, y).classes.recall, [hits[y == 0].mean(), hits[y == 1].mean()]
    )
    gaussian = fitted(mlp(8, outputs=2), x, x[:, :1][:, 0], epochs=30, loss="gaussian_nll")
    mean = gaussian.predict(x)[:, 0]
    exact = 1 - np.square(mean - x[:, 0]).sum() / np.square(x[:, 0] - x[:, 0].mean()).sum()
    assert diagnose(gaussian, x, x[:, 0]).train.skill == pytest.approx(exact, abs=1e-6)


def test_labels_that_the_loss_ignores_count_in_no_class():
    x, y = classes(100)
    labels = np.where(np.arange(100) < 20, -1, y)
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    found = diagnose(fitted(mlp(4), x, labels, epochs=1, loss=loss), x, labels)
    np.testing.assert_array_equal(found.classes.counts, np.bincount(y[20:]))


def test_units_without_variance_have_no_shift():
    x, y = classes(40)
    model = fitted(Sequential([Dropout(0.5), Dense(4), BatchNorm(), Dense(2)]), x, y, epochs=1)
    model.params["1.weight"][...] = 0.0
    assert diagnose(model, x, y).shifts == ()


# --- norms over the epochs -----------------------------------------------------------------------


def test_norms_are_recorded_in_each_epoch(memorised):
    model, *_, norms = memorised
    assert norms.epochs == list(range(1, 61))
    assert len(norms.mean["0.weight"]) == 60
    assert norms.clipped == {}
    (name, first, last), *_ = norms.growing()
    assert last > 1.2 * first
    assert norms.mean[name][-1] == last
    norm = np.linalg.norm(model.params["0.weight"], axis=0)
    assert norms.largest["0.weight"][-1] == pytest.approx(norm.max(), rel=1e-6)


def test_norms_grow_if_they_are_larger_and_still_growing():
    norms = NormHistory()
    norms.mean = {
        "a": [1.0, 1.5, 1.6],
        "b": [1.0, 1.05, 1.1],
        "c": [1.0, 2.5, 2.4],
        "d": [1.0, 2.0, 3.0],
        "e": [2.0],
    }
    assert norms.growing() == [("d", 1.0, 3.0), ("a", 1.0, 1.6)]
    assert [name for name, *_ in norms.growing(1.05)] == ["d", "a", "b"]


def test_a_norm_history_is_restored(memorised):
    *_, norms = memorised
    other = NormHistory()
    other.restore(json.loads(json.dumps(norms.state())))
    assert other.state() == norms.state()
    other.on_fit_begin(None)
    assert other.state() == NormHistory().state()


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": 3}, TypeError, r"validation must be a pair of arrays \(x, y\)"),
        ({"validation": (np.ones((3, 20)), [0])}, ValueError, "validation x and validation y must"),
        ({"image_shape": 8}, ValueError, r"image_shape must be \(height, width\)"),
        ({"image_shape": (8, 0)}, ValueError, "image_shape must be"),
        ({"max_samples": 0}, ValueError, "max_samples must be a positive integer, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer"),
        ({"bins": 1.5}, TypeError, "bins must be a positive integer"),
        ({"norms": [1]}, TypeError, "norms must be a NormHistory"),
        ({"loss": "hinge"}, ValueError, "loss must be 'softmax_cross_entropy'"),
    ],
)
def test_wrong_arguments_are_named(sound, options, error, message):
    model, (x, y), *_ = sound
    with pytest.raises(error, match=message):
        diagnose(model, x, y, **options)


def test_rows_must_agree(sound):
    model, (x, y), *_ = sound
    with pytest.raises(ValueError, match=r"x and y must hold one row .* got 1000 and 999"):
        diagnose(model, x, y[1:])


def test_a_model_needs_weights_and_a_loss():
    x, y = classes(10)
    with pytest.raises(ValueError, match="no weights yet: call fit first"):
        diagnose(mlp(3), x, y)
    model = mlp(3)
    model.build((20,), key=0)
    with pytest.raises(ValueError, match="name one"):
        diagnose(model, x, y)
    assert diagnose(model, x, y, loss="softmax_cross_entropy").train.samples == 10
    with pytest.raises(TypeError, match="model must be a model such as"):
        diagnose(Dense(3), x, y)

"""How sure a model is: Monte Carlo prediction, calibration, intervals."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import scipy.stats

from dropcore import Key
from dropcore.data import Preprocessing, TargetScaling
from dropcore.key import MONTE_CARLO
from dropcore.nn import LSTM, Dense, Dropout, GaussianNoise, Sequential
from dropcore.uncertainty import (
    AveragingCurve,
    Mixture,
    averaging_curve,
    brier_score,
    fit_temperature,
    intervals,
    log_likelihood,
    model_precision,
    noise_level,
    predictive,
    probabilities,
    reliability,
    sample,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)


def network(units, rate=0.5):
    model = Sequential([Dense(16, activation="relu"), Dropout(rate), Dense(units)])
    model.build((5,), key=3)
    return model


def fitted(units, loss, y, **options):
    model = network(units)
    model.fit(X, y, loss=loss, epochs=2, key=1, progress=False, **options)
    return model


# --- sample --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 40, 100, 1000])
def test_moments_are_those_of_the_samples(batch_size):
    """Whatever the parts are in which they are summed up."""
    model = network(3)
    z = model.predict(X, key=5, samples=30).astype(np.float64)
    p = scipy.special.softmax(z, axis=-1)
    found = sample(model, X, key=5, samples=30, kind="classes", batch_size=batch_size)
    assert found.samples is None
    assert found.n_samples == 30
    np.testing.assert_allclose(found.mean, p.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, p.std(axis=0), rtol=1e-9)
    entropy = -(p.mean(axis=0) * np.log(p.mean(axis=0))).sum(axis=-1)
    expected = -(p * np.log(p)).sum(axis=-1).mean(axis=0)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-12)
    np.testing.assert_allclose(found.expected_entropy, expected, rtol=1e-12)
    np.testing.assert_allclose(found.mutual_information, entropy - expected, rtol=1e-8)
    assert (found.mutual_information > 0).all()
    np.testing.assert_array_equal(found.labels, p.mean(axis=0).argmax(axis=-1))
    kept = sample(model, X, key=5, samples=30, kind="classes", keep_samples=True)
    assert kept.samples.dtype == np.float32
    np.testing.assert_allclose(kept.samples, p, rtol=1e-6)


def test_memory_does_not_grow_with_the_number_of_samples():
    x = np.zeros((2000, 5), np.float32)
    model = network(10)
    peaks = []
    for samples in (2, 60):
        tracemalloc.start()
        sample(model, x, key=0, samples=samples, kind="classes")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    all_of_them = 60 * 2000 * 10 * 4
    assert peaks[1] < peaks[0] + 0.05 * all_of_them


def test_moments_of_yes_or_no_and_of_numbers():
    model = network(2)
    z = model.predict(X, key=Key(5, step=3), samples=20).astype(np.float64)
    p = scipy.special.expit(z)
    found = sample(model, X, key=Key(5, step=3), samples=20, kind="binary")
    np.testing.assert_allclose(found.mean, p.mean(axis=0), rtol=1e-12)
    entropy = scipy.stats.bernoulli(p.mean(axis=0)).entropy()
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-9)
    np.testing.assert_allclose(
        found.expected_entropy, scipy.stats.bernoulli(p).entropy().mean(axis=0), rtol=1e-9
    )
    np.testing.assert_array_equal(found.labels, found.mean > 0.5)
    numbers = sample(model, X, key=Key(5, step=3), samples=20, kind="numbers")
    np.testing.assert_allclose(numbers.mean, z.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(numbers.std, z.std(axis=0), rtol=1e-9)
    assert numbers.entropy is numbers.mutual_information is numbers.noise_std is None
    np.testing.assert_array_equal(numbers.predictive_std, numbers.std)
    with pytest.raises(ValueError, match="predictions of kind 'numbers'"):
        _ = numbers.labels


def test_a_predicted_variance_is_part_of_the_predictive_deviation():
    model = network(2)
    z = model.predict(X, key=5, samples=20).astype(np.float64)
    found = sample(model, X, key=5, samples=20, kind="gaussian")
    assert found.mean.shape == (40,)
    np.testing.assert_allclose(found.std, z[..., 0].std(axis=0), rtol=1e-9)
    noise = np.exp(z[..., 1]).mean(axis=0)
    np.testing.assert_allclose(found.noise_std, np.sqrt(noise), rtol=1e-12)
    total = np.sqrt(z[..., 0].var(axis=0) + noise)
    np.testing.assert_allclose(found.predictive_std, total, rtol=1e-9)
    mixture = predictive(model, X, key=5, samples=20, kind="gaussian")
    np.testing.assert_allclose(mixture.std, total, rtol=1e-9)


def test_without_noise_nothing_is_uncertain():
    """Exactly, although 1 / 3 of three equal numbers need not be one of them."""
    model = Sequential([Dense(3)])
    model.build((5,), key=0)
    found = sample(model, X, key=5, samples=3, kind="classes")
    assert not found.std.any()
    assert not found.mutual_information.any()
    np.testing.assert_array_equal(found.entropy, found.expected_entropy)
    np.testing.assert_array_equal(found.mean, probabilities(model.predict(X)))


def test_rounding_makes_no_information_negative():
    """Of noise so small that the two entropies differ by rounding."""
    model = Sequential([GaussianNoise(1e-9)])
    logits = np.random.default_rng(0).normal(size=(2000, 5))
    found = sample(model, logits, key=5, samples=3, kind="classes")
    assert (found.entropy - found.expected_entropy).min() < 0
    assert found.mutual_information.min() == 0


def test_entropies_of_extreme_predictions():
    """A uniform one has log k, a sure one 0, and two sure ones that disagree log 2."""
    model = Sequential([Dropout(0.0)])
    uniform = sample(model, np.zeros((1, 7)), key=0, samples=2, kind="classes")
    np.testing.assert_allclose(uniform.entropy, math.log(7), rtol=1e-15)
    sure = sample(model, np.array([[0.0, 5e3, 0.0]]), key=0, samples=2, kind="classes")
    assert sure.entropy == sure.mutual_information == 0
    yes = sample(model, np.array([[5e3, -5e3, 0.0]]), key=0, samples=2, kind="binary")
    np.testing.assert_allclose(yes.entropy, [[0, 0, math.log(2)]], rtol=1e-15)
    torn = Sequential([Dropout(0.5), Dense(2, use_bias=False)])
    torn.build((1,), key=0)
    torn.params["1.weight"][...] = [[1e4, 0.0]]
    torn = Sequential([torn, Shifted([-5e3, 0.0])])
    found = sample(torn, np.ones((1, 1)), key=0, samples=400, kind="classes")
    np.testing.assert_allclose(found.mean, [[0.5, 0.5]], atol=0.06)
    assert found.expected_entropy == 0
    assert found.mutual_information == found.entropy == pytest.approx(math.log(2), abs=0.01)


def Shifted(by):
    layer = Dense(2)
    layer.build((2,), key=0)
    layer.params["weight"][...] = np.eye(2)
    layer.params["bias"][...] = by
    return layer


def test_a_large_mean_takes_no_digits_from_the_deviation():
    model = Sequential([Dense(1), Dropout(0.5)])
    model.build((1,), key=0, dtype=np.float64)
    model = Sequential([model, Dense(1)])
    model.build((1,), key=0, dtype=np.float64)
    model.params["1.bias"][...] = 1e12
    x = np.ones((30, 1))
    exact = model.predict(x, key=1, samples=100) - 1e12
    found = sample(model, x, key=1, samples=100, kind="numbers")
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=1e-12)


def test_the_loss_says_what_outputs_are():
    y = np.arange(40)
    assert sample(fitted(3, "softmax_cross_entropy", y % 3), X, key=0, samples=2).kind == "classes"
    assert sample(fitted(1, "binary_cross_entropy", y % 2), X, key=0, samples=2).kind == "binary"
    assert sample(fitted(1, "huber", y / 40), X, key=0, samples=2).kind == "numbers"
    assert sample(fitted(2, "gaussian_nll", y / 40), X, key=0, samples=2).kind == "gaussian"
    with pytest.raises(ValueError, match=r"remembers no loss .* kind='classes'"):
        sample(network(3), X, key=0)


@pytest.mark.parametrize("units", [2, 1])
def test_labels_in_the_words_of_the_user(units):
    words = np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)]
    loss = "binary_cross_entropy" if units == 1 else "softmax_cross_entropy"
    model = fitted(units, loss, words)
    found = sample(model, X, key=0, samples=200)
    assert found.labels.shape == (40,)
    assert set(found.labels) <= {"no", "yes"}
    assert (found.labels == model.predict_labels(X)).mean() > 0.8
    curve = averaging_curve(model, X, words, key=0, samples=[1, 50], repeats=2)
    wrong = (model.predict_labels(X) != words).mean()
    assert curve.weight_scaling == pytest.approx(wrong)
    with pytest.raises(ValueError, match="averaging_curve: y has the label 'perhaps' at 0"):
        averaging_curve(model, X, ["perhaps", *words[1:]], key=0, samples=[1], repeats=2)


def test_numbers_are_in_the_units_of_the_targets():
    model = network(2)
    plain = sample(model, X, key=1, samples=10, kind="numbers")
    gaussian = sample(model, X, key=1, samples=10, kind="gaussian")
    y = np.stack([np.arange(40.0), np.arange(40.0)], axis=1)
    model.fit(X, y, epochs=0, loss="mse", key=1, progress=False)
    model.training_state.target_scaling = TargetScaling(mean=(100.0, -5.0), scale=(10.0, 0.5))
    scaled = sample(model, X, key=1, samples=10)
    np.testing.assert_allclose(scaled.mean, plain.mean * [10, 0.5] + [100, -5], rtol=1e-6)
    np.testing.assert_allclose(scaled.std, plain.std * [10, 0.5], rtol=1e-6)
    model.training_state.target_scaling = TargetScaling(mean=100.0, scale=10.0)
    found = sample(model, X, key=1, samples=10, kind="gaussian")
    np.testing.assert_allclose(found.mean, gaussian.mean * 10 + 100, rtol=1e-6)
    np.testing.assert_allclose(found.noise_std, gaussian.noise_std * 10, rtol=1e-6)
    mixture = predictive(model, X, key=1, samples=10, kind="gaussian")
    np.testing.assert_allclose(mixture.std, found.predictive_std, rtol=1e-6)
    curve = averaging_curve(model, X, y, key=1, samples=[1], repeats=2)
    assert curve.weight_scaling == pytest.approx(
        np.sqrt(np.mean((probabilities_free(model) * 10 + 100 - y) ** 2)), rel=1e-5
    )


def probabilities_free(model):
    """Raw outputs."""
    return model(X).astype(np.float64)


@pytest.mark.parametrize(("units", "loss"), [(1, "mse"), (2, "gaussian_nll")])
def test_tables_and_targets_as_they_were_given_to_fit(units, loss):
    """Preprocessing and standardised targets are those of `predict`."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    table = pandas.DataFrame(X * 100 + 7, columns=list("abcde"))
    table["f"] = np.where(X[:, 0] > 0, "left", None)
    y = 1000 + 50 * X[:, 0]
    model = Sequential([Dense(16, activation="relu"), Dropout(0.3), Dense(units)])
    model.fit(table, y, loss=loss, epochs=30, key=1, preprocessing=Preprocessing(),
              scale_targets=True, progress=False)  # fmt: skip
    outputs = model.predict(table, key=2, samples=15).astype(np.float64)
    found = sample(model, table, key=2, samples=15)
    mean = outputs[..., :1] if loss == "mse" else outputs[..., 0]
    np.testing.assert_allclose(found.mean, mean.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, mean.std(axis=0), rtol=1e-2)  # float32 near 1000
    if loss == "mse":
        noise = noise_level(model, table, y, key=2, samples=15)
        covered = intervals(model, table, key=2, samples=15, noise=noise)
    else:
        variance = np.exp(outputs[..., 1]).mean(axis=0)
        np.testing.assert_allclose(found.noise_std, np.sqrt(variance), rtol=1e-5)
        covered = intervals(model, table, key=2, samples=15)
    assert covered.coverage(y) > 0.7
    curve = averaging_curve(model, table, y, key=2, samples=[1, 5], repeats=2)
    single = model.predict(table)[:, 0]
    assert curve.weight_scaling == pytest.approx(np.sqrt(np.mean((single - y) ** 2)), rel=1e-4)


def test_sequences_with_lengths():
    model = Sequential([LSTM(4, return_sequences=True), Dropout(0.5), LSTM(4), Dense(3)])
    model.build((6, 2), key=0)
    x, lengths = np.ones((9, 6, 2), np.float32), np.arange(9) % 7
    given = {"key": 3, "samples": 8, "lengths": lengths}
    p = probabilities(model.predict(x, **given))
    found = sample(model, x, kind="classes", **given)
    np.testing.assert_allclose(found.mean, p.mean(axis=0), rtol=1e-12)
    curve = averaging_curve(
        model, x, np.zeros(9), key=3, samples=[4], repeats=2, lengths=lengths, kind="classes"
    )
    assert curve.errors[0, 0] == (p[:4].mean(axis=0).argmax(axis=-1) != 0).mean()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"samples": 0}, ValueError, "sample: samples must be .* got 0"),
        ({"samples": 2.5}, TypeError, "sample: samples must be"),
        ({"batch_size": 0}, ValueError, "sample: batch_size"),
        ({"kind": "logits"}, ValueError, r"kind must say .* 'classes': .* got 'logits'"),
        ({"kind": 3}, TypeError, "kind must say"),
        ({"temperature": 0.0}, ValueError, "sample: temperature must be positive"),
        ({"kind": "numbers", "temperature": 2.0}, ValueError, "temperature is for logits"),
        ({"keep_samples": 1}, TypeError, "keep_samples must be True or False"),
        ({"key": "a"}, TypeError, "'a'"),
        ({"x": X[:, :3]}, ValueError, "expects"),
        ({"key": Key(1, step=2**32 - 1)}, ValueError, r"beyond 2\*\*32"),
    ],
)
def test_wrong_arguments_of_sample(options, error, text):
    given = {"x": X, "key": 0, "samples": 2, "kind": "classes"} | options
    with pytest.raises(error, match=text):
        sample(network(3), given.pop("x"), **given)
    with pytest.raises(TypeError, match="model must be a layer"):
        sample("model", X, key=0, kind="classes")


# --- averaging -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [9, 40, 200])
def test_averages_of_k_samples_by_hand(batch_size):
    y = (X[:, 0] > 0) + (X[:, 1] > 0).astype(int)
    model = fitted(3, "softmax_cross_entropy", y)
    found = averaging_curve(
        model, X, y, key=Key(4, step=7), samples=[4, 1, 3], repeats=5, batch_size=batch_size
    )
    np.testing.assert_array_equal(found.samples, [1, 3, 4])
    p = probabilities(model.predict(X, key=Key(4, step=7), samples=20))
    for r, (i, k) in itertools.product(range(5), enumerate([1, 3, 4])):
        average = p[4 * r : 4 * r + k].mean(axis=0)
        assert found.errors[r, i] == (average.argmax(axis=-1) != y).mean()
    np.testing.assert_allclose(found.error, found.errors.mean(axis=0))
    standard = scipy.stats.sem(found.errors, axis=0)
    np.testing.assert_allclose(found.standard_error, standard)
    assert found.weight_scaling == (model.predict(X).argmax(axis=-1) != y).mean()
    assert found.metric == "error rate"


def test_averages_of_numbers():
    model = network(1)
    y = X[:, 0] * 2
    found = averaging_curve(model, X, y, key=4, samples=[1, 2], repeats=2, kind="numbers")
    z = model.predict(X, key=4, samples=4).astype(np.float64)[..., 0]
    assert found.metric == "RMSE"
    for r, k in itertools.product(range(2), (1, 2)):
        average = z[2 * r : 2 * r + k].mean(axis=0)
        expected = np.sqrt(np.mean((average - y) ** 2))
        assert found.errors[r, k - 1] == pytest.approx(expected, rel=1e-12)
    assert found.weight_scaling == pytest.approx(
        np.sqrt(np.mean((model.predict(X)[:, 0] - y) ** 2)), rel=1e-5
    )


def test_more_samples_average_to_weight_scaling():
    """A linear network: its mean over the masks is weight scaling, exactly."""
    model = Sequential([Dropout(0.5), Dense(1)])
    model.build((5,), key=0)
    y = model(X)[:, 0]
    found = averaging_curve(model, X, y, key=4, samples=[1, 10, 100], repeats=5, kind="numbers")
    assert found.weight_scaling < 1e-6
    np.testing.assert_allclose(found.error[:2] / found.error[1:], 10**0.5, rtol=0.3)
    assert found.enough is None


def test_how_many_samples_are_enough():
    """The first whose error is within a standard error of weight scaling."""
    k, error, deviation = np.array([1, 2, 5]), np.array([0.3, 0.2, 0.1]), np.array([0.02] * 3)
    for weight_scaling, enough in ((0.29, 1), (0.27, 2), (0.185, 2), (0.09, 5), (0.07, None)):
        curve = AveragingCurve("error rate", k, error, deviation, weight_scaling, error[None])
        assert curve.enough == enough


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"samples": []}, TypeError, "samples must be the numbers"),
        ({"samples": 5}, TypeError, "samples must be the numbers"),
        ({"samples": [0, 1]}, ValueError, "each of samples must be"),
        ({"repeats": 1}, ValueError, "repeats must be .* got 1"),
        ({"y": np.zeros(39, int)}, ValueError, r"y must hold a label .* \(40,\), got \(39,\)"),
        ({"y": np.full(40, 3)}, ValueError, r"y must be labels in \[0, 3\), got 3"),
        ({"y": np.full(40, 0.5)}, TypeError, "integer labels"),
        ({"kind": "numbers"}, ValueError, r"of shape \(40, 3\), got \(40,\)"),
    ],
)
def test_wrong_arguments_of_averaging_curve(options, error, text):
    given = {"y": np.zeros(40, int), "samples": [1, 2], "repeats": 2, "kind": "classes"} | options
    with pytest.raises(error, match=text):
        averaging_curve(network(3), X, given.pop("y"), key=0, **given)


# --- calibration ---------------------------------------------------------------------------------


def test_reliability_by_hand():
    p = [[0.55, 0.45], [0.9, 0.1], [0.1, 0.9], [0.05, 0.95], [0.2, 0.8], [0.0, 1.0]]
    found = reliability(p, [0, 0, 1, 0, 1, 1], bins=10)
    np.testing.assert_allclose(found.edges, np.arange(11) / 10)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 1, 0, 1, 2, 2])
    np.testing.assert_allclose(found.confidence[5:], [0.55, np.nan, 0.8, 0.9, 0.975])
    np.testing.assert_allclose(found.accuracy[5:], [1, np.nan, 1, 1, 0.5])
    assert np.isnan(found.accuracy[:5]).all()
    expected = (1 * 0.45 + 1 * 0.2 + 2 * 0.1 + 2 * 0.475) / 6
    assert found.ece == pytest.approx(expected, rel=1e-12)
    assert found.mce == pytest.approx(0.475, rel=1e-12)


def test_reliability_of_yes_or_no():
    p = [0.0, 0.04, 0.3, 0.3, 0.3, 1.0]
    for shaped in (p, np.reshape(p, (6, 1))):
        found = reliability(shaped, [0, 1, 1, 0, 0, 1], bins=5)
        np.testing.assert_array_equal(found.count, [2, 3, 0, 0, 1])
        np.testing.assert_allclose(found.confidence, [0.02, 0.3, np.nan, np.nan, 1])
        np.testing.assert_allclose(found.accuracy, [0.5, 1 / 3, np.nan, np.nan, 1])
        assert found.ece == pytest.approx((2 * 0.48 + 3 * (1 / 3 - 0.3)) / 6, rel=1e-12)


def test_calibrated_predictions_have_no_calibration_error():
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1, 1], 100_000)
    y = (rng.random((100_000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert reliability(p, y).ece < 0.006
    sharpened = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert reliability(sharpened, y).ece > 0.1


def test_scores_by_hand():
    p, y = [[0.5, 0.3, 0.2], [0.0, 0.25, 0.75]], [0, 1]
    expected = ((0.25 + 0.09 + 0.04) + (0.5625 + 0.5625)) / 2
    assert brier_score(p, y) == pytest.approx(expected, rel=1e-12)
    assert log_likelihood(p, y) == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)
    assert log_likelihood(p, [0, 0]) == -math.inf
    assert brier_score([0.25, 1.0], [1, 1]) == pytest.approx(0.5625 / 2)
    assert log_likelihood([0.25, 0.25], [1, 0]) == pytest.approx(math.log(0.25 * 0.75) / 2)


@pytest.mark.parametrize("kind", ["classes", "binary"])
def test_the_temperature_of_logits_that_were_multiplied(kind):
    rng = np.random.default_rng(2)
    z = rng.normal(size=(50_000, 4) if kind == "classes" else 50_000) * 2
    p = probabilities(z, kind=kind)
    if kind == "classes":
        y = (rng.random((50_000, 1)) > p.cumsum(axis=1)).sum(axis=1)
    else:
        y = (rng.random(50_000) < p).astype(int)
    for factor in (0.4, 1.0, 3.0):
        temperature = fit_temperature(z * factor, y)
        assert temperature == pytest.approx(factor, rel=0.03)
        better = log_likelihood(probabilities(z * factor, kind=kind, temperature=temperature), y)
        for nearby in (0.99, 1.01):
            other = probabilities(z * factor, kind=kind, temperature=temperature * nearby)
            assert log_likelihood(other, y) < better


def test_the_temperature_at_the_optimum_has_no_gradient():
    z, y = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), np.array([0, 1, 1])
    t = fit_temperature(z, y)
    p = probabilities(z, temperature=t)
    slope = sum(p[i] @ z[i] - z[i, y[i]] for i in range(3))  # d loss / d (1 / t)
    assert slope == pytest.approx(0, abs=1e-6)
    assert 0.001 <= fit_temperature(z[:1], y[:1]) < 0.01
    assert fit_temperature([[50.0], [60.0]], [1, 0]) == pytest.approx(1000, rel=0.01)


def test_the_temperature_of_samples():
    model = network(3)
    z = model.predict(X, key=5, samples=6)
    found = sample(model, X, key=5, samples=6, kind="classes", temperature=2.5)
    np.testing.assert_allclose(found.mean, probabilities(z, temperature=2.5).mean(axis=0))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: reliability([[2.0, -1.0]], [0]), ValueError, r"in \[0, 1\], .* of logits take"),
        (lambda: reliability([[0.5, 0.1]], [0]), ValueError, "must sum to 1, got 0.6"),
        (lambda: reliability([[np.nan, 0.1]], [0]), ValueError, r"must be in \[0, 1\]"),
        (lambda: reliability([[0.5, 0.5]], [2]), ValueError, r"labels in \[0, 2\), got 2"),
        (lambda: reliability([[0.5, 0.5]], [0, 1]), ValueError, r"shape \(1,\), got \(2,\)"),
        (lambda: reliability([[0.5, 0.5]], [0], bins=0), ValueError, "bins must be"),
        (lambda: reliability(np.full((2, 2, 2), 0.5), [0]), ValueError, "reshape steps"),
        (lambda: reliability(["a"], [0]), TypeError, "real numbers"),
        (lambda: reliability([], []), ValueError, "not empty"),
        (lambda: brier_score(np.ma.ones(3), [0, 0, 0]), TypeError, "masked"),
        (lambda: log_likelihood([0.5], [0.5]), TypeError, "log_likelihood: labels must be integer"),
        (lambda: fit_temperature([[np.inf, 0]], [0]), ValueError, "finite"),
        (lambda: fit_temperature(np.zeros((2, 2, 2)), [0]), ValueError, r"shape \(2, 2, 2\)"),
        (lambda: probabilities([[1.0]]), ValueError, "at least 2 classes"),
        (lambda: probabilities([[1.0, 2]], kind="numbers"), ValueError, "got 'numbers'"),
        (lambda: probabilities([[1.0, 2]], temperature=-1), ValueError, "temperature must be"),
    ],
)
def test_wrong_probabilities_and_labels(call, error, text):
    with pytest.raises(error, match=text):
        call()


# --- intervals -----------------------------------------------------------------------------------


def test_quantiles_of_a_mixture_are_those_of_a_brute_force_sample():
    rng = np.random.default_rng(3)
    means = rng.normal(size=(7, 4)) * [0.1, 1, 5, 20] + [0, 100, -3, 0]
    mixture = Mixture(means, [1.0, 0.5, 2.0, 1.0])
    draws = means[rng.integers(7, size=400_000)] + rng.normal(size=(400_000, 4)) * [1, 0.5, 2, 1]
    for q in (0.05, 0.3, 0.5, 0.95):
        found = mixture.quantile(q)
        np.testing.assert_allclose(mixture.cdf(found), q, atol=1e-12)
        np.testing.assert_allclose((draws <= found).mean(axis=0), q, atol=0.004)
    np.testing.assert_allclose(mixture.mean, draws.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(mixture.std, draws.std(axis=0), rtol=0.01)
    y = draws[0]
    density = scipy.stats.norm(means, [1, 0.5, 2, 1]).pdf(y).mean(axis=0)
    np.testing.assert_allclose(mixture.log_density(y), np.log(density), rtol=1e-10)
    assert mixture.log_likelihood(y) == pytest.approx(np.log(density).mean())


def test_a_mixture_of_one_is_a_gaussian():
    mixture = Mixture(np.array([[1.0, -2.0]]), 3.0)
    found = mixture.interval(0.9)
    z = scipy.stats.norm.ppf(0.95)
    np.testing.assert_allclose(found.lower, [1 - 3 * z, -2 - 3 * z], rtol=1e-12)
    np.testing.assert_allclose(found.upper, [1 + 3 * z, -2 + 3 * z], rtol=1e-12)
    assert found.width == pytest.approx(6 * z)
    assert found.level == 0.9
    assert found.coverage([1.0, 50.0]) == 0.5
    assert found.coverage(found.upper) == found.coverage(found.lower) == 1.0
    far = mixture.log_density([1.0, 1e8])  # where the density is 0 in float64
    expected = -0.5 * ((1e8 + 2) / 3) ** 2 - math.log(3) - 0.5 * math.log(2 * math.pi)
    assert far[1] == pytest.approx(expected, rel=1e-12)


def test_an_interval_of_two_modes_is_not_symmetric_about_the_mean():
    mixture = Mixture(np.array([[0.0]] * 9 + [[100.0]]), 1.0)
    found = mixture.interval(0.9)
    assert found.lower == pytest.approx(scipy.stats.norm.ppf(0.05 / 0.9), abs=1e-9)
    assert found.upper == pytest.approx(100.0, abs=1e-9)  # 5 % are above: half of the 10 %
    assert found.mean == pytest.approx(10.0)


def test_large_mixtures_are_computed_in_blocks(monkeypatch):
    means = np.random.default_rng(4).normal(size=(5, 6, 7))
    y = np.random.default_rng(5).normal(size=(6, 7))
    mixture = Mixture(means, 0.3)
    wanted = mixture.quantile(0.2), mixture.log_density(y), mixture.cdf(y)
    monkeypatch.setattr("dropcore.uncertainty._intervals._BLOCK", 20)
    for found, whole in zip(
        (mixture.quantile(0.2), mixture.log_density(y), mixture.cdf(y)), wanted, strict=True
    ):
        assert found.shape == (6, 7)
        np.testing.assert_array_equal(found, whole)


def test_the_samples_are_those_of_predict():
    model = network(1)
    mixture = predictive(model, X, key=Key(4, step=2), noise=0.5, samples=6, kind="numbers")
    keys = [Key(4, step=2 + t, domain=MONTE_CARLO) for t in range(6)]
    np.testing.assert_array_equal(mixture.means, [model(X, key) for key in keys])
    np.testing.assert_array_equal(mixture.stds, np.full((6, 40, 1), 0.5))
    found = intervals(model, X, key=Key(4, step=2), noise=0.5, samples=6, kind="numbers", level=0.7)
    np.testing.assert_array_equal(found.upper, mixture.quantile(0.85))
    y = np.arange(40.0)
    assert found.coverage(y) == found.coverage(y[:, None])


def test_the_noise_is_found_where_it_is_known():
    """Targets are samples of the predictive distribution itself."""
    model = Sequential([Dropout(0.5), Dense(1)])
    model.build((5,), key=0)
    x = np.random.default_rng(6).normal(size=(3000, 5)).astype(np.float32)
    rng = np.random.default_rng(7)
    for noise in (0.5, 5.0):
        y = model(x, Key(99))[:, 0] + noise * rng.normal(size=3000)
        found = noise_level(model, x, y, key=1, samples=64, kind="numbers")
        assert found == pytest.approx(noise, rel=0.1)
        mixture = predictive(model, x, key=1, samples=64, noise=found, kind="numbers")
        for factor in (0.97, 1.03):
            other = Mixture(mixture.means, found * factor)
            assert other.log_likelihood(y) < mixture.log_likelihood(y)
        coverage = intervals(model, x, key=2, noise=found, kind="numbers", samples=64).coverage(y)
        assert coverage == pytest.approx(0.9, abs=0.02)


def test_each_output_has_its_own_noise():
    model = network(2)
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2000, 5)).astype(np.float32)
    y = model(x) + rng.normal(size=(2000, 2)) * [3.0, 20.0]
    found = noise_level(model, x, y, key=1, samples=20, kind="numbers")
    np.testing.assert_allclose(found, [3, 20], rtol=0.1)
    covered = intervals(model, x, key=1, samples=20, kind="numbers", noise=found)
    inside = ((covered.lower <= y) & (y <= covered.upper)).mean(axis=0)
    np.testing.assert_allclose(inside, 0.9, atol=0.03)


def test_the_precision_of_the_paper():
    tau = model_precision(rate=0.05, length_scale=0.01, data_points=277, weight_decay=1e-6)
    assert tau == pytest.approx(0.95 * 1e-4 / (2 * 277 * 1e-6))
    assert tau == model_precision(keep=0.95, length_scale=0.01, data_points=277, weight_decay=1e-6)


MEANS = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m: intervals(m, X, key=0, kind="numbers"), TypeError, "noise is missing"),
        (lambda m: predictive(m, X, key=0, kind="gaussian", noise=1.0), ValueError, "predicts its"),
        (lambda m: intervals(m, X, key=0, kind="classes", noise=1.0), ValueError, "probabilities"),
        (lambda m: intervals(m, X, key=0, kind="numbers", noise=0.0), ValueError, "must be pos"),
        (lambda m: intervals(m, X, key=0, kind="numbers", noise="a"), TypeError, "std must be a"),
        (lambda m: intervals(m, X, key=0, kind="numbers", noise=[1.0, 2, 3]), ValueError,
         r"shape \(3,\) does not broadcast"),
        (lambda m: intervals(m, X, key=0, kind="numbers", noise=1.0, level=1.0), ValueError,
         "level must be"),
        (lambda m: intervals(m, X, key=0, noise=1.0), ValueError, "remembers no loss"),
        (lambda m: noise_level(m, X, X[:, :2], key=0, kind="gaussian"), ValueError, "predicts its"),
        (lambda m: noise_level(m, X, X[:, 0], key=0, kind="numbers"), ValueError,
         r"noise_level: y must hold a target .* \(40, 2\), got \(40,\)"),
        (lambda m: noise_level(m, X, np.full((40, 2), np.nan), key=0, kind="numbers"), ValueError,
         "y must be finite, got nan"),
        (lambda m: noise_level(linear(m), X, linear(m)(X), key=0, kind="numbers"), ValueError,
         "predictions equal the targets"),
        (lambda m: Mixture(MEANS[0], 1.0), ValueError, r"\(samples, rows, ...\), got \(4,\)"),
        (lambda m: Mixture(MEANS + np.inf, 1.0), ValueError, "means must be finite"),
        (lambda m: Mixture(MEANS, 1.0).quantile(0.0), ValueError, "probability must be"),
        (lambda m: Mixture(MEANS, 1.0).interval("a"), TypeError, "level must be a number"),
        (lambda m: Mixture(MEANS, 1.0).interval(0.5).coverage([1.0]), ValueError, "coverage: y"),
        (lambda m: model_precision(length_scale=1.0, data_points=9, weight_decay=1.0), TypeError,
         "rate or keep"),
        (lambda m: model_precision(keep=0.0, length_scale=1.0, data_points=9, weight_decay=1.0),
         ValueError, "keep must be"),
        (lambda m: model_precision(keep=1.0, length_scale=0.0, data_points=9, weight_decay=1.0),
         ValueError, "length_scale must be positive"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_intervals(call, error, text):
    with pytest.raises(error, match=text):
        call(network(2))


def linear(model):
    return Sequential([model[0], model[2]])


def test_results_do_not_depend_on_the_device_of_the_outputs():
    """Whatever `predict` would return, results are arrays of NumPy."""
    found = sample(network(3), X, key=0, samples=2, kind="classes")
    fields = SimpleNamespace(**vars(found))
    assert type(fields.mean) is type(fields.entropy) is np.ndarray
    assert fields.mean.dtype == fields.entropy.dtype == np.float64

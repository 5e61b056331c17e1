"""Networks with dropout inside scikit-learn."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
from unittest import SkipTest

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("sklearn")

import joblib
import sklearn
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from dropcore import Key, Mask, losses, masked_matmul, nn, training
from dropcore.sklearn import DropoutAutoencoder, DropoutClassifier, DropoutRegressor
from dropcore.sklearn._sparse import over_rows

# Few epochs are enough here; tests of the warning expect it.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Of a child process, which has the same path of modules.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

ESTIMATORS = [DropoutClassifier, DropoutRegressor, DropoutAutoencoder]

ONE_BATCH = "the masks of dropout and the batches depend on which rows there are"
EXPECTED = {
    # A sample that is repeated gets other masks in each of its rows, and a sample of weight 0 still
    # has a row. test_weights_of_samples compares both without dropout.
    "check_sample_weight_equivalence_on_dense_data": ONE_BATCH,
    "check_sample_weight_equivalence_on_sparse_data": ONE_BATCH,
}


# Checks of what the estimators do not have: arrays of other libraries, a decision_function.
NOT_FOR_US = {
    "check_array_api_input",
    "check_classifiers_multilabel_output_format_decision_function",
}


@parametrize_with_checks(
    [
        DropoutClassifier((50,), 0.2, max_iter=40, learning_rate_init=0.02),
        DropoutRegressor((50,), 0.2, max_iter=40, learning_rate_init=0.02, batch_size=20),
        DropoutAutoencoder((20,), max_iter=10),
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
)
def test_the_checks_of_scikit_learn(estimator, check):
    name = getattr(check, "func", check).__name__
    with contextlib.suppress(SkipTest) if name in NOT_FOR_US else contextlib.nullcontext():
        check(estimator)


# --- data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32)[::3], y[::3]


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x), y


def numbers(n=120, outputs=1):
    """Data of a smooth function with little noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5))
    y = np.stack([np.sin(x[:, k]) + x[:, k + 1] for k in range(outputs)], axis=1)
    return x, y[:, 0] if outputs == 1 else y


def quick(kind=DropoutClassifier, **options):
    """An estimator that makes a few epochs, all of them."""
    defaults = {"hidden_layer_sizes": (20,), "max_iter": 3, "random_state": 7, "tol": 0.0}
    return kind(**(defaults | {"n_iter_no_change": 1000} | options))


def trained(kind, *data, **options):
    return quick(kind, **options).fit(*data)


def same_weights(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True)
    )


# --- keys ----------------------------------------------------------------------------------------


def test_random_state_is_the_key_of_a_fit(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y, rate=0.3, input_rate=0.1, alpha=0.0, max_norm=2.0)
    model = nn.mlp(20, 10, rate=0.3, input_rate=0.1, max_norm=2.0)
    for layer in model.layers[1::2]:
        layer.initializer = "glorot_uniform"
    training.fit(
        model, x, y, epochs=3, batch_size=200, key=Key(7), loss="softmax_cross_entropy",
        progress=False,
    )  # fmt: skip
    assert found.coefs_[0].shape == (64, 20)
    for name, array in model.params.items():
        assert np.array_equal(found.model_.params[name], array), name


def test_without_shuffle_rows_keep_their_order(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y, shuffle=False, batch_size=50, max_iter=1)
    in_order = trained(DropoutClassifier, x, y, batch_size=50, max_iter=1)
    assert not same_weights(found, in_order)
    parts = quick(shuffle=False, batch_size=50)
    for start in range(0, len(x), 50):
        parts.partial_fit(x[start : start + 50], y[start : start + 50], range(10))
    # The last batch is smaller, and so its penalty counts more there.
    for a, b in zip(found.coefs_, parts.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_masks_are_those_of_the_contract():
    x = np.ones((4, 6))
    found = trained(
        DropoutRegressor, x, np.ones(4), hidden_layer_sizes=(), input_rate=0.5, max_iter=1,
    )  # fmt: skip
    found.coefs_[0][...] = np.eye(6, 1)  # the prediction is the first feature
    found.intercepts_[0][...] = 0
    kept = [Mask((4, 6), 0.5, key=Key(7, step=t, domain=2)).to_bool()[:, 0] for t in range(5)]
    assert np.array_equal(found.sample_y(x, 5), 2.0 * np.stack(kept, axis=1))
    assert np.array_equal(found.sample_y(scipy.sparse.csr_array(x), 5), found.sample_y(x, 5))


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_same_random_state_repeats_every_bit(kind, digits):
    x, y = digits
    first = trained(kind, x, y, random_state=3)
    assert same_weights(first, trained(kind, x, y, random_state=3))
    assert not same_weights(first, trained(kind, x, y, random_state=4))


def test_other_random_states_draw_an_integer(digits):
    x, y = digits
    drawn = trained(DropoutClassifier, x, y, random_state=np.random.RandomState(5))
    seed = int(np.random.RandomState(5).randint(1 << 31))
    assert same_weights(drawn, trained(DropoutClassifier, x, y, random_state=seed))
    one, other = (trained(DropoutClassifier, x, y, random_state=None) for _ in range(2))
    assert not same_weights(one, other)


# --- sparse X ------------------------------------------------------------------------------------


@pytest.mark.parametrize("input_rate", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_a_sparse_x_trains_the_same_network(digits, input_rate, activation):
    x, y = digits
    options = {"input_rate": input_rate, "activation": activation, "max_norm": 0.5}
    dense = trained(DropoutClassifier, x, y, **options)
    sparse = trained(DropoutClassifier, scipy.sparse.csc_array(x), y, **options)
    for a, b in zip(dense.coefs_, sparse.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert np.linalg.norm(sparse.coefs_[0], axis=0).max() == pytest.approx(0.5)
    np.testing.assert_allclose(dense.loss_curve_, sparse.loss_curve_, rtol=1e-6)
    # Numbers of rows are integers: as float32 they would be wrong beyond 2**24.
    assert over_rows(sparse.model_, scipy.sparse.csr_array(x)).integer_input
    found = sparse.predict_proba(scipy.sparse.csr_matrix(x))
    np.testing.assert_allclose(found, dense.predict_proba(x), atol=1e-6)


def test_one_fit_goes_on_with_the_other_kind_of_x(digits):
    x, y = digits
    options = {"solver": "sgd", "early_stopping": True, "warm_start": True}
    dense = trained(DropoutClassifier, x, y, **options)
    mixed = trained(DropoutClassifier, scipy.sparse.csr_array(x), y, **options)
    mixed.fit(x, y)
    dense.fit(x, y)
    for a, b in zip(dense.coefs_, mixed.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert type(mixed.model_.layers[0]) is nn.Dense


def test_a_sparse_x_is_never_made_dense(digits, monkeypatch):
    x, y = digits
    x = scipy.sparse.csr_array(x)
    found = trained(DropoutRegressor, x, y, rate=0.2)

    def toarray(self, *args, **kwargs):
        raise AssertionError("an array became dense")

    for container in (scipy.sparse.csr_array, scipy.sparse.csc_array):
        monkeypatch.setattr(container, "toarray", toarray)
    trained(DropoutRegressor, x, y, rate=0.2, input_rate=0.2, early_stopping=True)
    trained(DropoutClassifier, x, y, rate=0.2, input_rate=0.2).predict(x)
    y, std = found.predict(x, return_std=True)  # no noise before the first product
    assert std.min() > 0


def test_a_wide_x_fits_where_dense_rows_would_not():
    rows, features = 3000, 400_000  # 4.8 GB as a float32 array, and 80 MB the two weights
    rng = np.random.default_rng(0)
    columns = rng.integers(0, features, (rows, 10))
    columns[:, 0] = y = rng.integers(0, 2, rows)
    x = scipy.sparse.csr_array(
        (np.ones(rows * 10), columns.ravel(), np.arange(0, rows * 10 + 1, 10)), (rows, features)
    )
    found = quick(hidden_layer_sizes=(4,), rate=0.2, alpha=0.0, batch_size=500, max_iter=4)
    found.set_params(learning_rate_init=0.05, input_rate=0.1)
    tracemalloc.start()
    found.fit(x, y)
    score = found.score(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score > 0.95
    assert peak < 20 * found.coefs_[0].nbytes


def test_sparse_samples_are_those_of_dense_rows_whatever_the_batch(digits, monkeypatch):
    x, y = digits
    found = trained(DropoutRegressor, x, y, input_rate=0.2)
    dense = found.sample_y(x, 6)
    assert dense.shape == (len(x), 6)
    monkeypatch.setattr("dropcore.sklearn._network.ELEMENTS", 64 * 100)
    made, toarray = [], scipy.sparse.csr_array.toarray
    monkeypatch.setattr(
        scipy.sparse.csr_array, "toarray", lambda x: made.append(x.shape) or toarray(x)
    )
    np.testing.assert_allclose(found.sample_y(scipy.sparse.csr_array(x), 6), dense, rtol=1e-5)
    assert made == [(100, 64)] * 5 + [(99, 64)]
    products, product = [], masked_matmul
    monkeypatch.setattr(
        "dropcore.sklearn._sparse.masked_matmul",
        lambda x, *args, **kwargs: products.append(x.shape) or product(x, *args, **kwargs),
    )
    found.predict(scipy.sparse.csr_array(x))
    assert products == [(len(x), 64)]  # nothing becomes dense, and large batches are faster


def test_a_part_of_a_sparse_batch_has_the_masks_of_the_whole(digits):
    x, y = scipy.sparse.csr_array(digits[0]), digits[1]
    found = trained(DropoutRegressor, x, y, input_rate=0.3)
    network, rows = over_rows(found.model_, x), np.arange(40)[:, None]
    whole = network.forward(rows, key=Key(3))[0]
    part = network.forward(rows[16:], key=Key(3), row_offset=16)[0]
    np.testing.assert_allclose(part, whole[16:], rtol=1e-6)


def test_a_sparse_fit_that_diverges_names_the_layer(digits):
    x, y = digits
    options = {"solver": "sgd", "learning_rate_init": 1e30, "max_iter": 20, "input_rate": 0.1}
    with pytest.raises(FloatingPointError, match=r"not finite|is (nan|inf)"):
        trained(DropoutRegressor, scipy.sparse.csr_array(x), y, **options)


# --- what data may be ----------------------------------------------------------------------------


def frame(x, **columns):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(x, columns=list("abcd")).assign(**columns)


def memory_map(x, folder):
    joblib.dump(x, folder / "x")
    found = joblib.load(folder / "x", mmap_mode="r")
    assert isinstance(found, np.memmap)
    return found


@pytest.mark.parametrize(
    "given",
    [
        lambda x, folder: x.astype(np.int8),
        lambda x, folder: x.astype(np.float16),
        lambda x, folder: x.astype(object),
        lambda x, folder: x.tolist(),
        lambda x, folder: np.asfortranarray(x),
        lambda x, folder: memory_map(x, folder),
        lambda x, folder: frame(x),
        lambda x, folder: frame(x).convert_dtypes(),
        lambda x, folder: scipy.sparse.csr_array(x).tocoo(),
    ],
    ids=["int8", "float16", "object", "list", "fortran", "memmap", "frame", "nullable", "coo"],
)
def test_the_same_numbers_in_another_form(iris, given, tmp_path):
    x, y = iris
    x = np.round(4 * x)
    expected = trained(DropoutClassifier, x, y)
    x = given(x, tmp_path)
    found = trained(DropoutClassifier, x, y.tolist())
    for a, b in zip(expected.coefs_, found.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert np.array_equal(found.predict(x), expected.predict(np.round(4 * iris[0])))


def spoiled(x, value):
    x = x.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    "call",
    [
        lambda k, x, y: k.fit(frame(x, e="text"), y),
        lambda k, x, y: k.fit(spoiled(x, np.nan), y),
        lambda k, x, y: k.fit(frame(x).mask(frame(x) > 2).convert_dtypes(), y),
        lambda k, x, y: k.fit(x[:, 0], y),
        lambda k, x, y: k.fit(x[None], y),
        lambda k, x, y: k.fit(x[:, :0], y),
        lambda k, x, y: k.fit(x[:0], y[:0]),
        lambda k, x, y: k.fit(x + 0j, y),
        lambda k, x, y: k.fit(frame(x).rename(columns={"a": 1}), y),
        lambda k, x, y: k.fit(x, y[:-1]),
        lambda k, x, y: k.fit(x, None),
        lambda k, x, y: k.fit(x, spoiled(np.c_[y, y], np.nan)[:, 1]),
        lambda k, x, y: k.fit(x, np.ones((150, 2, 2))),
        lambda k, x, y: k.fit(x, y, np.ones(3)),
        lambda k, x, y: k.fit(x, y, np.ones((150, 1))),
        lambda k, x, y: k.fit(x, y, np.full(150, np.nan)),
        lambda k, x, y: k.fit(x, y).predict(x[:, :3]),
        lambda k, x, y: k.fit(x, y).predict(x[0]),
        lambda k, x, y: k.fit(x, y).predict(x[:0]),
        lambda k, x, y: k.fit(x, y).predict(spoiled(x, np.nan)),
        lambda k, x, y: k.fit(frame(x), y).predict(frame(x)[["b", "a", "c", "d"]]),
        lambda k, x, y: k.fit(frame(x), y).predict(frame(x).rename(columns={"a": "z"})),
        lambda k, x, y: k.predict(x),
        lambda k, x, y: k.set_params(dropout=0.5),
    ],
)
@pytest.mark.parametrize(
    ("kind", "peer"), [(DropoutClassifier, MLPClassifier), (DropoutRegressor, MLPRegressor)]
)
def test_errors_are_those_of_scikit_learn(iris, kind, peer, call):
    x, y = iris
    y = y.astype(float)
    with pytest.raises((TypeError, ValueError, NotFittedError)) as theirs:
        call(peer(max_iter=1), x, y)
    with pytest.raises(type(theirs.value)) as ours:
        call(kind(max_iter=1), x, y)
    expected = str(theirs.value).replace(peer.__name__, kind.__name__)
    # The rest of a message shows the parameters that there are, or the numbers of an array.
    expected, found = (re.split("Valid p|\narray=", m)[0] for m in (expected, str(ours.value)))
    assert found == expected.replace("float64", "float32")


@pytest.mark.parametrize("kind", [DropoutClassifier, DropoutRegressor])
def test_warnings_are_those_of_scikit_learn(iris, kind):
    x, y = iris
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        column = trained(kind, x, y[:, None])
    assert same_weights(column, trained(kind, x, y))
    named = trained(kind, frame(x), y)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but Dropout"):
        named.predict(x)


def test_numbers_beyond_float32(iris):
    x, y = iris
    message = r"contains infinity or a value too large for dtype\('float32'\)"
    with pytest.raises(ValueError, match=f"Input X {message}"):
        quick().fit(x * 1e60, y)
    with pytest.raises(ValueError, match=f"Input y {message}"):
        quick(DropoutRegressor).fit(x, y * 1e60)


def test_widths_and_rates_as_arrays(iris):
    for sizes, rate in ((7, 0.25), (np.int64(7), np.float32(0.25)), (np.array(7), np.array(0.25)),
                        (np.array([7]), np.array([0.25])), ([7], [0.25])):  # fmt: skip
        found = trained(DropoutClassifier, *iris, hidden_layer_sizes=sizes, rate=rate)
        assert found.coefs_[0].shape == (4, 7)
        assert found.model_.layers[1].rate == 0.25


def test_wrong_weights_of_samples(iris):
    x, y = iris
    for kind in (DropoutClassifier, DropoutRegressor):
        with pytest.raises(ValueError, match=r"sample_weight must not be negative, got -1\.5"):
            quick(kind).fit(x, y, np.r_[np.ones(149), -1.5])
    with pytest.raises(ValueError, match="could not convert string to float"):
        quick().fit(x, y, ["much"] * 150)


def test_sets_that_are_too_small_to_hold_anything_out(iris):
    x, y = iris
    rows = np.r_[0:2, 60:62]
    with pytest.raises(ValueError, match=r"least 1 of the 4 samples.* validation_fraction=0.1 giv"):
        quick(early_stopping=True).fit(x[rows], y[rows])
    with pytest.raises(ValueError, match=r"least 2 of the 10 samples.* gives it 1: change that"):
        quick(DropoutRegressor, early_stopping=True).fit(x[:10], y[:10])
    with pytest.raises(ValueError, match=r"and not all of them.* gives it 4"):
        quick(early_stopping=True, validation_fraction=0.9).fit(x[rows], y[rows])
    found = trained(DropoutClassifier, x[rows], y[rows], early_stopping=True,
                    validation_fraction=0.3)  # fmt: skip
    assert len(found.validation_scores_) == 3


def test_targets_of_a_regressor_may_be_sparse():
    x, y = numbers(outputs=2)
    found = trained(DropoutRegressor, x, scipy.sparse.csr_array(y))
    assert same_weights(found, trained(DropoutRegressor, x, y))


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_warm_start_goes_on_with_every_bit(digits, solver):
    x, y = digits
    whole = trained(DropoutClassifier, x, y, max_iter=6, solver=solver)
    parts = quick(warm_start=True, solver=solver)
    parts.fit(x, y).fit(x, y)
    assert same_weights(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_
    assert (parts.n_iter_, parts.t_) == (6, 6 * len(x)) == (whole.n_iter_, whole.t_)


def test_partial_fit_is_an_epoch(digits):
    x, y = digits
    whole = trained(DropoutClassifier, x, y)
    parts = quick()
    for classes in (range(10), None, range(10)):
        parts.partial_fit(x, y, classes)
    assert same_weights(whole, parts)
    assert parts.loss_curve_ == whole.loss_curve_
    for kind in (DropoutRegressor, DropoutAutoencoder):
        parts = quick(kind)
        for _ in range(3):
            parts.partial_fit(x, y)
        assert same_weights(trained(kind, x, y), parts)


def test_a_part_may_lack_classes(iris):
    x, y = iris
    found = quick(learning_rate_init=0.02)
    for _ in range(60):
        found.partial_fit(x[y > 0], y[y > 0], [0, 1, 2])
    assert found.predict_proba(x).shape == (150, 3)
    assert found.score(x[y > 0], y[y > 0]) > 0.9


def test_without_warm_start_a_fit_begins_anew(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y)
    again = clone(found).fit(x[:, :30], y % 3).fit(x, y)
    assert same_weights(found, again)


def test_what_changed_between_fits_takes_effect(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y, warm_start=True)
    before = [a.copy() for a in found.coefs_]
    slots = found.model_.training_state.slots
    found.set_params(rate=0.1, learning_rate_init=1e-12).partial_fit(x, y)
    for a, b in zip(found.coefs_, before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    found.set_params(learning_rate_init=1e-3, rate=0.0, activation="tanh", max_norm=0.5, alpha=0.1)
    found.partial_fit(x, y)
    assert found.model_.training_state.slots is slots
    first, dropout, _ = found.model_.layers
    assert (first.activation, dropout.rate) == ("tanh", 0.0)
    assert first.regularizer.strength == 0.1 / 400
    assert np.linalg.norm(found.coefs_[0], axis=0).max() <= 0.5
    assert not np.array_equal(found.coefs_[1], before[1])
    found.set_params(hidden_layer_sizes=(8,))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(8,\) or input_rate=0.0 needs"):
        found.fit(x, y)


def test_training_ends_when_the_loss_stops_improving(iris):
    options = {"max_iter": 300, "rate": 0.1, "learning_rate_init": 0.005}
    curve = trained(DropoutClassifier, *iris, **options).loss_curve_
    assert len(curve) == 300
    best, waited, expected = np.inf, 0, 0
    while waited < 5:
        if curve[expected] < best - 0.01:
            best, waited = curve[expected], 0
        else:
            waited += 1
        expected += 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = quick(tol=0.01, n_iter_no_change=5, **options).fit(*iris)
    assert found.loss_curve_ == curve[:expected]
    assert found.n_iter_ == expected < 300
    assert found.best_loss_ == min(curve[:expected])
    assert found.loss_ == curve[expected - 1]
    assert found.validation_scores_ is None


def test_early_stopping_keeps_the_best_weights(digits):
    x, y = digits
    options = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 3}
    found = trained(DropoutClassifier, x, y, max_iter=60, learning_rate_init=0.02, **options)
    scores = found.validation_scores_
    assert found.best_validation_score_ == max(scores) > 0.8
    assert len(scores) == found.n_iter_ < 60
    assert found.best_loss_ is None
    best = training.evaluate(found.model_, x, y)["accuracy"]
    assert found.score(x, y) == pytest.approx(best)
    # As many epochs as the best needed, on the same part of the data, give the same weights.
    options["max_iter"] = 1 + int(np.argmax(scores))
    again = trained(DropoutClassifier, x, y, learning_rate_init=0.02, **options)
    assert same_weights(found, again)


def test_early_stopping_of_a_regressor_watches_r2():
    x, y = numbers(outputs=2)
    found = trained(DropoutRegressor, x, y, early_stopping=True, rate=0.0, max_iter=30)
    assert len(found.validation_scores_) == 30
    assert found.best_validation_score_ == max(found.validation_scores_) <= 1
    assert found.loss_curve_[-1] < found.loss_curve_[0]


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
def test_learning_rates_are_those_of_mlp_classifier(iris, learning_rate):
    """Full batches without dropout, from the same weights, with a loss that never improves."""
    x, y = iris
    options = {
        "hidden_layer_sizes": (6,), "solver": "sgd", "learning_rate": learning_rate,
        "learning_rate_init": 0.5, "power_t": 0.3, "tol": 1e9, "random_state": 0,
    }  # fmt: skip
    found = DropoutClassifier(rate=0.0, n_iter_no_change=4, **options)
    peer = MLPClassifier(n_iter_no_change=3, **options)  # which waits an epoch longer
    for each in (found, peer):
        each.partial_fit(x, y, classes=[0, 1, 2])
    arrays = found.coefs_ + found.intercepts_, peer.coefs_ + peer.intercepts_
    for a, b in zip(*arrays, strict=True):
        b[...] = a
    for array in found.model_.training_state.slots["velocity"].values():
        array[...] = 0
    for velocity in peer._optimizer.velocities:
        velocity[...] = 0
    for _ in range(16):
        found.partial_fit(x, y)
        peer.partial_fit(x, y)
        rate = 0.5 * found.model_.training_state.learning_rate_factor
        assert rate == pytest.approx(peer._optimizer.learning_rate)
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert (rate < 0.5) == (learning_rate != "constant")


def test_an_adaptive_rate_ends_training_when_it_is_small(iris):
    options = {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 1e-4}
    options |= {"tol": 1e9, "n_iter_no_change": 3, "max_iter": 100, "warm_start": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = quick(**options).fit(*iris)
    # Of 1 + 3 epochs the last three bring no improvement; 1e-4 / 5^3 is the first below 1e-6.
    assert found.n_iter_ == 1 + 3 * 4
    factor = found.model_.training_state.learning_rate_factor
    assert factor == pytest.approx(5**-3)
    found.set_params(max_iter=2).fit(*iris)  # goes on with the rate, and waits anew
    assert (found.n_iter_, found.model_.training_state.learning_rate_factor) == (15, factor)
    found.set_params(learning_rate="constant").fit(*iris)
    assert found.model_.training_state.learning_rate_factor == 1


def test_an_adaptive_rate_keeps_the_best_weights_of_early_stopping(digits):
    x, y = digits
    options = {"solver": "sgd", "learning_rate": "adaptive", "early_stopping": True}
    found = trained(DropoutClassifier, x, y, max_iter=25, n_iter_no_change=2, tol=1e-3,
                    learning_rate_init=0.5, validation_fraction=0.2, **options)  # fmt: skip
    scores = found.validation_scores_
    assert found.model_.training_state.learning_rate_factor < 1
    assert len(scores) == 25  # a lower rate instead of the end
    again = trained(DropoutClassifier, x, y, max_iter=1 + int(np.argmax(scores)), tol=1e-3,
                    n_iter_no_change=2, learning_rate_init=0.5, validation_fraction=0.2,
                    **options)  # fmt: skip
    assert same_weights(found, again)


@pytest.mark.parametrize("learning_rate", ["invscaling", "adaptive"])
def test_a_learning_rate_goes_on(digits, learning_rate):
    x, y = digits
    options = {"solver": "sgd", "learning_rate": learning_rate, "learning_rate_init": 0.05}
    if learning_rate == "adaptive":
        options |= {"tol": 1e9, "n_iter_no_change": 2}  # lowered after the epochs 3 and 5
    whole = trained(DropoutClassifier, x, y, max_iter=6, **options)
    parts = quick(**options)
    for _ in range(6):
        parts.partial_fit(x, y, range(10))
    assert same_weights(whole, parts)
    factor = parts.model_.training_state.learning_rate_factor
    wanted = 0.2**2 if learning_rate == "adaptive" else (6 * len(x) + 1) ** -0.5
    assert factor == pytest.approx(wanted)


def test_an_adaptive_rate_compares_losses_with_losses_only(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y, solver="sgd", learning_rate="adaptive",
                    early_stopping=True)  # fmt: skip
    found.set_params(early_stopping=False).partial_fit(x, y)
    kept = found.model_.training_state.callbacks["Adaptive"]
    assert (kept["monitor"], kept["best"], kept["waited"]) == ("loss", found.loss_, 0)


def test_patience_may_have_no_end(iris):
    found = quick(n_iter_no_change=np.inf, tol=1e9, max_iter=12).fit(*iris)
    assert found.n_iter_ == 12


def test_samples_that_are_held_out_are_not_seen(digits):
    x, y = digits
    found = trained(DropoutClassifier, x, y, early_stopping=True, validation_fraction=0.25)
    assert found.t_ == 3 * (len(x) - round(0.25 * len(x)))


def test_max_iter_that_is_too_small_is_said(iris):
    with pytest.warns(ConvergenceWarning, match="max_iter=3 epochs are done and the loss still"):
        quick().fit(*iris)
    with pytest.warns(ConvergenceWarning, match="the validation score still improves"):
        quick(early_stopping=True).fit(*iris)


def test_verbose_prints_a_line_an_epoch(iris, capsys):
    found = trained(DropoutClassifier, *iris, verbose=True, warm_start=True)
    found.set_params(early_stopping=True, max_iter=1).fit(*iris)
    lines = capsys.readouterr().out.splitlines()
    losses = [f"Iteration {i}, loss = {loss:.8f}" for i, loss in enumerate(found.loss_curve_, 1)]
    assert lines == [*losses, f"Validation score: {found.validation_scores_[0]:.6f}"]
    trained(DropoutClassifier, *iris)
    assert capsys.readouterr().out == ""


def test_the_penalty_of_alpha_is_that_of_mlp_classifier(iris):
    """Full batches without dropout are the same as in scikit-learn, but for float32."""
    x, y = iris
    y = y % 2
    options = {"hidden_layer_sizes": (6,), "alpha": 2.0, "solver": "sgd", "max_iter": 30,
               "learning_rate_init": 0.1, "shuffle": False, "tol": 0.0, "n_iter_no_change": 99,
               "random_state": 0, "activation": "tanh"}  # fmt: skip
    for ours, theirs in ((DropoutClassifier, MLPClassifier), (DropoutRegressor, MLPRegressor)):
        found = ours(rate=0.0, warm_start=True, **options)
        peer = theirs(warm_start=True, **options)
        found.set_params(max_iter=1).fit(x, y)
        peer.set_params(max_iter=1).fit(x, y)
        arrays = found.coefs_ + found.intercepts_, peer.coefs_ + peer.intercepts_
        for a, b in zip(*arrays, strict=True):
            b[...] = a
        for slot in found.model_.training_state.slots.values():
            for array in slot.values():
                array[...] = 0
        peer._optimizer.velocities = [np.zeros_like(v) for v in peer._optimizer.velocities]
        found.set_params(max_iter=30).fit(x, y)
        peer.set_params(max_iter=30).fit(x, y)
        for a, b in zip(*arrays, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_loss_of_a_regressor_is_half_the_squared_error():
    x, y = numbers()
    found = trained(DropoutRegressor, x, y, rate=0.0, max_iter=1, shuffle=False)
    model = nn.mlp(20, 1, rate=0.0)
    for layer in model.layers[::2]:
        layer.initializer = "glorot_uniform"
    model.build((5,), key=7)
    error = model(x.astype("f"))[:, 0] - y
    assert found.loss_ == pytest.approx((error**2).mean() / 2, rel=1e-5)


@pytest.mark.parametrize("kind", [DropoutClassifier, DropoutRegressor])
def test_weights_of_samples(iris, kind):
    """Without dropout and in one batch a weight is the same as repeating the sample."""
    x, y = iris
    y = y % 2
    weights = np.random.default_rng(0).integers(0, 4, len(x))
    options = {"rate": 0.0, "alpha": 0.0, "batch_size": 1000, "max_iter": 20}
    weighted = trained(kind, x, y, weights, **options)
    repeated = trained(kind, x.repeat(weights, 0), y.repeat(weights), **options)
    for a, b in zip(weighted.coefs_, repeated.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert not same_weights(weighted, trained(kind, x, y, **options))


def test_weights_of_classes(iris):
    x, y = iris
    names = np.array(["a", "b", "c"])[y]
    of_samples = trained(DropoutClassifier, x, names, np.where(y == 1, 5.0, 1.0))
    of_classes = trained(DropoutClassifier, x, names, class_weight={"b": 5})
    for a, b in zip(of_classes.coefs_, of_samples.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    few = np.r_[0:50, 50:60, 100:110]
    balanced = trained(DropoutClassifier, x[few], names[few], class_weight="balanced")
    by_hand = trained(DropoutClassifier, x[few], names[few],
                      class_weight={"a": 70 / 150, "b": 70 / 30, "c": 70 / 30})  # fmt: skip
    for a, b in zip(balanced.coefs_, by_hand.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# --- what is predicted ---------------------------------------------------------------------------


def test_a_classifier_of_names(iris):
    x, y = iris
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    found = quick(max_iter=60, learning_rate_init=0.02).fit(x, names)
    assert found.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    p = found.predict_proba(x)
    assert p.shape == (150, 3)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-15)
    assert np.array_equal(found.predict(x), found.classes_[p.argmax(axis=1)])
    np.testing.assert_allclose(found.predict_log_proba(x), np.log(p), atol=1e-15)
    assert found.score(x, names) > 0.9
    assert (found.n_outputs_, found.n_layers_, found.out_activation_) == (3, 3, "softmax")
    assert found.loss_curve_[-1] < found.loss_curve_[0]


def test_two_classes_have_one_output(iris):
    x, y = iris
    found = quick(max_iter=60, learning_rate_init=0.02).fit(x[:100], np.array([7, -2])[y[:100]])
    assert found.classes_.tolist() == [-2, 7]
    assert (found.coefs_[-1].shape, found.out_activation_) == ((20, 1), "logistic")
    p = found.predict_proba(x[:100])
    assert np.array_equal(found.predict(x[:100]), np.where(p[:, 1] > 0.5, 7, -2))
    np.testing.assert_allclose(found.predict_log_proba(x[:100]), np.log(p), atol=1e-15)
    assert found.score(x[:100], np.array([7, -2])[y[:100]]) == 1
    far = found.predict_log_proba(1e6 * x[:1])
    assert np.isfinite(far).all()


def test_several_labels_a_sample(iris):
    x, y = iris
    labels = np.stack([y == 0, y > 0, x[:, 0] > 0], axis=1).astype(int)
    found = quick(max_iter=80, learning_rate_init=0.02, rate=0.2).fit(x, labels)
    assert found.classes_.tolist() == [0, 1, 2]
    p = found.predict_proba(x)
    assert p.shape == (150, 3)
    assert np.array_equal(found.predict(x), p > 0.5)
    np.testing.assert_allclose(found.predict_log_proba(x), np.log(p), atol=1e-15)
    assert found.score(x, labels) > 0.8
    sparse = quick(max_iter=80, learning_rate_init=0.02, rate=0.2)
    assert same_weights(found, sparse.fit(x, scipy.sparse.csr_array(labels)))
    with pytest.raises(ValueError, match="class_weight is for one label a sample"):
        quick(class_weight="balanced").fit(x, labels)
    with pytest.raises(ValueError, match=r"y must have the shape of the last fit, \(samples, lab"):
        found.partial_fit(x, y)


def test_several_numbers_a_sample():
    x, y = numbers(outputs=3)
    found = trained(DropoutRegressor, x, y, rate=0.1, max_iter=300, learning_rate_init=0.02)
    assert found.score(x, y) > 0.8
    mean, std = found.predict(x, return_std=True)
    assert mean.shape == std.shape == y.shape
    assert found.sample_y(x, 4).shape == (*y.shape, 4)
    one = trained(DropoutRegressor, x, y[:, 0])
    assert one.predict(x).shape == (120,)
    assert one.sample_y(x, 4).shape == (120, 4)


def test_the_spread_is_that_of_monte_carlo_samples():
    x, y = numbers()
    found = trained(DropoutRegressor, x, y)
    mean, std = found.predict(x, return_std=True, n_samples=30)
    assert np.array_equal(mean, found.predict(x))
    samples = training.predict(found.model_, x, key=7, samples=30)[..., 0]
    assert np.array_equal(found.sample_y(x, 30), samples.T.astype(np.float64))
    np.testing.assert_allclose(std, samples.astype(np.float64).std(axis=0))
    other = training.predict(found.model_, x, key=8, samples=30)[..., 0]
    assert np.array_equal(found.sample_y(x, 30, random_state=8), other.T.astype(np.float64))
    none = trained(DropoutRegressor, x, y, rate=0.0).predict(x, return_std=True)[1]
    assert not none.any()
    drawn = trained(DropoutRegressor, x, y, random_state=None)
    assert np.array_equal(drawn.sample_y(x, 3), drawn.sample_y(x, 3))


def test_coefs_are_the_arrays_of_the_network(iris):
    x, y = iris
    found = trained(DropoutClassifier, x, y, hidden_layer_sizes=(6, 4), rate=(0.5, 0.1))
    assert [w.shape for w in found.coefs_] == [(4, 6), (6, 4), (4, 3)]
    assert [b.shape for b in found.intercepts_] == [(6,), (4,), (3,)]
    assert [d.rate for d in found.model_.layers[1::2]] == [0.5, 0.1]
    for array in found.coefs_ + found.intercepts_:
        array[...] = 0
    assert (found.predict_proba(x) == 1 / 3).all()
    assert not hasattr(DropoutClassifier(), "coefs_")


def test_names_of_activations_are_those_of_scikit_learn(iris):
    for name, ours in (("identity", None), ("logistic", "sigmoid"), ("tanh", "tanh"),
                       ("relu", "relu"), ("gelu", "gelu")):  # fmt: skip
        found = trained(DropoutClassifier, *iris, activation=name)
        assert [layer.activation for layer in found.model_.layers[::2]] == [ours, None]


def test_names_and_defaults_are_those_of_mlp_classifier():
    own = {"rate", "input_rate", "max_norm", "class_weight"}
    missing = {"max_fun"}  # of "lbfgs"
    for kind, peer in ((DropoutClassifier, MLPClassifier), (DropoutRegressor, MLPRegressor)):
        ours, theirs = kind().get_params(), peer().get_params()
        theirs.pop("loss", None)
        assert ours.keys() - theirs.keys() <= own
        assert theirs.keys() - ours.keys() == missing
        shared = ours.keys() & theirs.keys()
        assert {n: ours[n] for n in shared} == {n: theirs[n] for n in shared}


def test_tags_say_what_the_estimators_take():
    classifier, regressor, transformer = (get_tags(kind()) for kind in ESTIMATORS)
    assert classifier.classifier_tags.multi_label
    assert regressor.target_tags.multi_output
    assert [t.input_tags.sparse for t in (classifier, regressor, transformer)] == [True] * 2 + [
        False
    ]
    assert transformer.transformer_tags.preserves_dtype == ["float64", "float32"]


# --- the autoencoder -----------------------------------------------------------------------------


def test_the_code_and_back(digits):
    x, _ = digits
    found = trained(
        DropoutAutoencoder, x, hidden_layer_sizes=(40, 16), max_iter=150, learning_rate_init=0.005
    )
    assert [w.shape for w in found.coefs_] == [(64, 40), (40, 16), (16, 40), (40, 64)]
    code = found.transform(x)
    assert (code.shape, code.dtype) == ((len(x), 16), np.float32)
    assert found.transform(x.astype(np.float64)).dtype == np.float64
    encoder = nn.Sequential(found.model_.layers[:4])
    assert np.array_equal(code, encoder(x))
    assert (code >= 0).all()
    back = found.inverse_transform(code)
    np.testing.assert_allclose(back, training.predict(found.model_, x), atol=1e-6)
    ratio = ((back - x) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert found.score(x) == pytest.approx(1 - ratio, abs=1e-4)
    assert found.score(x) > 0.5
    names = found.get_feature_names_out()
    assert names.tolist() == [f"dropoutautoencoder{i}" for i in range(16)]
    assert found.model_.layers[0].rate == 0.25


def test_the_score_of_a_constant_is_that_of_scikit_learn():
    x = np.zeros((6, 4), np.float32)
    found = trained(DropoutAutoencoder, x, hidden_layer_sizes=(2,))
    assert found.score(x) == r2_score(x, x) == 1
    assert found.score(x + 1) == r2_score(x + 1, x) == 0


def test_the_autoencoder_takes_no_sparse_x(digits):
    with pytest.raises(TypeError, match="dense data is required"):
        quick(DropoutAutoencoder).fit(scipy.sparse.csr_array(digits[0]))


# --- inside of scikit-learn ----------------------------------------------------------------------


def test_a_column_transformer_in_front():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"size": rng.normal(size=80), "kind": rng.choice(["a", "b"], 80)})
    y = np.where(table["kind"] == "a", "yes", "no")
    front = make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["kind"]))
    found = make_pipeline(front, quick(max_iter=40, learning_rate_init=0.05)).fit(table, y)
    assert found.score(table, y) == 1
    scaled = StandardScaler().set_output(transform="pandas").fit_transform(table[["size"]])
    alone = trained(DropoutClassifier, scaled, y)
    assert alone.feature_names_in_.tolist() == ["size"]
    assert alone.n_features_in_ == 1
    with pytest.raises(ValueError, match="feature names should match"):
        alone.predict(scaled.rename(columns={"size": "length"}))


def test_codes_as_a_data_frame(digits):
    pandas = pytest.importorskip("pandas")
    found = quick(DropoutAutoencoder, hidden_layer_sizes=(4,)).set_output(transform="pandas")
    codes = found.fit_transform(digits[0])
    assert isinstance(codes, pandas.DataFrame)
    assert codes.columns.tolist() == [f"dropoutautoencoder{i}" for i in range(4)]


def test_a_search_on_two_processes(iris):
    x, y = iris
    steps = make_pipeline(StandardScaler(), quick(max_iter=30, learning_rate_init=0.05))
    grid = {"dropoutclassifier__rate": [0.0, 0.2, (0.99,)]}
    search = GridSearchCV(steps, grid, n_jobs=2, cv=3, error_score="raise")
    scores = search.fit(x, y).cv_results_["mean_test_score"]
    assert scores[:2].min() > 0.9 > scores[2]
    here = GridSearchCV(steps, grid, cv=3).fit(x, y)
    assert np.array_equal(here.cv_results_["mean_test_score"], scores)
    assert search.best_estimator_.score(x, y) > 0.9


def test_a_search_on_a_dask_cluster(iris):
    distributed = pytest.importorskip("distributed")
    from dask.base import tokenize

    x, y = iris
    grid = {"rate": [0.0, 0.5], "max_norm": [None, 1.0]}
    estimator = quick(max_iter=20, learning_rate_init=0.05)

    def process(estimator, x, y):
        return os.getpid()

    scoring = {"accuracy": "accuracy", "process": process}
    search = GridSearchCV(estimator, grid, cv=3, scoring=scoring, refit="accuracy")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, distributed.Client(cluster) as client:
        workers = set(client.run(os.getpid).values())
        with joblib.parallel_config(backend="dask"):
            search.fit(x, y)
        fitted = client.submit(clone(estimator).fit, x, y).result()
    found = search.cv_results_
    used = {found[f"split{k}_test_process"][i] for k in range(3) for i in range(4)}
    assert used == workers
    assert os.getpid() not in used
    here = GridSearchCV(estimator, grid, cv=3).fit(x, y)
    assert np.array_equal(here.cv_results_["mean_test_score"], found["mean_test_accuracy"])
    assert same_weights(search.best_estimator_, here.best_estimator_)
    assert same_weights(fitted, estimator.fit(x, y))
    # Tasks of Dask that look the same are done once.
    assert tokenize(fitted) != tokenize(clone(estimator).fit(x, y % 2))


def test_arrays_of_dask(iris):
    arrays = pytest.importorskip("dask.array")
    x, y = iris
    parts = arrays.from_array(x, chunks=40)
    found = trained(DropoutClassifier, parts, arrays.from_array(y, chunks=40))
    assert same_weights(found, trained(DropoutClassifier, x, y))
    assert np.array_equal(found.predict(parts), found.predict(x))


def test_a_pickle_is_read_by_another_process(digits, tmp_path):
    x, y = scipy.sparse.csr_array(digits[0]), digits[1]
    found = trained(DropoutRegressor, x, y, warm_start=True, solver="sgd")
    path = tmp_path / "estimator"
    path.write_bytes(pickle.dumps((found, x, y)))
    code = (
        "import pickle, sys, pathlib, warnings; warnings.simplefilter('ignore')\n"
        "path = pathlib.Path(sys.argv[1]); found, x, y = pickle.loads(path.read_bytes())\n"
        "path.write_bytes(pickle.dumps((found.predict(x, return_std=True), found.fit(x, y))))"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=ENVIRONMENT)
    (y_there, std_there), again = pickle.loads(path.read_bytes())
    mean, std = found.predict(x, return_std=True)
    assert np.array_equal(mean, y_there)
    assert np.array_equal(std, std_there)
    assert same_weights(again, found.fit(x, y))


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_copies(kind, digits, tmp_path):
    x, y = digits
    found = trained(kind, x, y, warm_start=True)
    joblib.dump(found, tmp_path / "estimator")
    copies = [pickle.loads(pickle.dumps(found)), joblib.load(tmp_path / "estimator")]
    copies.append(copy.deepcopy(found))
    found.fit(x, y)
    for twin in copies:
        assert same_weights(twin.fit(x, y), found)
    again = clone(found)
    assert again.get_params() == found.get_params()
    with pytest.raises(NotFittedError):
        (again.transform if kind is DropoutAutoencoder else again.predict)(x)


def test_weights_of_samples_are_routed(iris):
    x, y = iris
    weights = np.where(y == 0, 0.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        found = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        steps = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), found)
        result = cross_validate(
            steps, x, y, params={"sample_weight": weights}, cv=3, return_estimator=True,
            return_indices=True,
        )  # fmt: skip
    rows = result["indices"]["train"][0]
    direct = trained(
        DropoutClassifier, StandardScaler().fit_transform(x[rows]), y[rows], weights[rows]
    )
    assert same_weights(result["estimator"][0][-1], direct)
    names = inspect.signature(DropoutRegressor().set_partial_fit_request).parameters
    assert set(names) - {"self"} == {"sample_weight"}


def test_the_network_is_one_of_dropcore(iris, tmp_path):
    import dropcore

    x, y = iris
    found = trained(DropoutClassifier, x, y)
    assert isinstance(found.model_.training_state.loss, losses.SoftmaxCrossEntropy)
    pytest.importorskip("safetensors")
    found.model_.save(tmp_path / "network")
    loaded = dropcore.load(tmp_path / "network")
    assert np.array_equal(loaded.predict_labels(x), found.predict(x))


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_layer_sizes": None}, TypeError, "each of hidden_layer_sizes must be .*got None"),
        ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes must be .*got 0"),
        ({"hidden_layer_sizes": "ab"}, TypeError, "hidden_layer_sizes must be .*got 'ab'"),
        ({"rate": 1.5}, ValueError, "rate must be in .*got 1.5"),
        ({"rate": "half"}, TypeError, "rate must be a number, or one for each hidden layer, got"),
        ({"rate": np.array([0.5, 0.5])}, ValueError, "each of the 1 hidden layers, got 2"),
        ({"rate": (0.5, 0.5)}, ValueError, "each of the 1 hidden layers, got 2"),
        ({"input_rate": -0.1}, ValueError, "input_rate must be in .*got -0.1"),
        ({"max_norm": 0}, ValueError, "max_norm must be positive"),
        ({"activation": "cube"}, ValueError, "activation must be 'identity', .*got 'cube'"),
        ({"activation": None}, ValueError, "activation must be 'identity', .*got None"),
        ({"solver": "rprop"}, ValueError, "solver must be 'adam' or 'sgd', got 'rprop'$"),
        ({"solver": "lbfgs"}, ValueError, "got 'lbfgs', which .* is drawn anew: use 'adam', or"),
        ({"learning_rate": 0.1}, ValueError, "got 0.1; the number is learning_rate_init"),
        ({"learning_rate": "adaptive"}, ValueError, "'adaptive' is for solver='sgd', got 'adam'"),
        ({"power_t": -1}, ValueError, "power_t must be .*not negative, got -1"),
        ({"alpha": -1}, ValueError, "alpha must be .*not negative, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be .*got 0"),
        ({"learning_rate_init": 0.0}, ValueError, "learning_rate_init must be positive"),
        ({"momentum": 1.0}, ValueError, "momentum must be in .*got 1.0"),
        ({"tol": -1e-3}, ValueError, "tol must be .*not negative"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must be in .*got 1.0"),
        ({"beta_2": 1.0}, ValueError, "beta_2 must be in .*got 1.0"),
        ({"epsilon": 0}, ValueError, "epsilon must be positive"),
        ({"max_iter": 0}, ValueError, "max_iter must be .*got 0"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change must be .*got 0"),
        ({"n_iter_no_change": 2.5}, TypeError, "n_iter_no_change must be .*got 2.5"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping must be True or False"),
        ({"random_state": "seed"}, ValueError, "cannot be used to seed"),
    ],
)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_invalid_parameters_are_named(kind, options, error, message):
    x, y = numbers(40)
    with pytest.raises(error, match=message):
        kind(**options).fit(x, y > 0)


def test_wrong_use_of_classes(iris):
    x, y = iris
    with pytest.raises(ValueError, match=r"at least two classes, and y has one class only, \[1\]"):
        quick().fit(x, y * 0 + 1)
    with pytest.raises(ValueError, match="all samples of positive weight are of one class"):
        quick().fit(x, y, (y == 2).astype(float))
    with pytest.raises(ValueError, match=r"weights? must .*zero"):
        quick(DropoutRegressor).fit(x, y, np.zeros(150))
    with pytest.raises(ValueError, match="classes must be given in the first call"):
        quick().partial_fit(x, y)
    found = quick().partial_fit(x, y, [0, 1, 2])
    with pytest.raises(ValueError, match=r"partial_fit goes on .*, 2\], and there are \[0, 1\]"):
        found.partial_fit(x, y, [0, 1])
    with pytest.raises(ValueError, match=r"labels that are not in classes, \[3\]"):
        found.partial_fit(x, y + 1)
    found.set_params(warm_start=True)
    with pytest.raises(ValueError, match=r"warm_start=True .* 2\], and there are \[0, 1\]"):
        found.fit(x, y % 2)
    with pytest.raises(ValueError, match=r"class_weight has labels that are not .*: \[5\]"):
        quick(class_weight={5: 1.0}).fit(x, y)
    with pytest.raises(TypeError, match="class_weight must be a dict by label, 'balanced'"):
        quick(class_weight="even").fit(x, y)


def test_wrong_use_of_shapes(iris):
    x, y = iris
    with pytest.raises(ValueError, match="max_norm bounds the weights of hidden layers"):
        quick(hidden_layer_sizes=(), max_norm=1.0).fit(x, y)
    with pytest.raises(ValueError, match="at least one width, that of the code"):
        quick(DropoutAutoencoder, hidden_layer_sizes=()).fit(x)
    found = quick(DropoutRegressor).partial_fit(x, y)
    with pytest.raises(ValueError, match="a network of 1 outputs, and y has 2"):
        found.partial_fit(x, x[:, :2])
    with pytest.raises(ValueError, match=r"n_samples must be .*got 0"):
        found.predict(x, return_std=True, n_samples=0)
    with pytest.raises(TypeError, match="return_std must be True or False, got 'yes'"):
        found.predict(x, return_std="yes")
    coder = trained(DropoutAutoencoder, x, hidden_layer_sizes=(2,))
    with pytest.raises(ValueError, match=r"inverse_transform: X must hold codes of 2 .* got 4"):
        coder.inverse_transform(x)
    for kind in ESTIMATORS:
        again = trained(kind, x, y, warm_start=True)
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 4"):
            again.fit(x[:, :3], y)
        with pytest.raises(ValueError, match="does not support early_stopping=True"):
            quick(kind, early_stopping=True).partial_fit(x, y)


def test_several_classes_a_sample_are_refused(iris):
    x, y = iris
    with pytest.raises(ValueError, match=r"0 and 1 for each of several labels, got shape \(150, 2"):
        quick().fit(x, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="Unknown label type"):
        quick().fit(x, x[:, 0])


@pytest.mark.parametrize("container", [np.asarray, scipy.sparse.csr_array])
def test_an_interrupted_fit_can_be_used(digits, monkeypatch, container):
    x, y = digits
    lines = []

    def stop(line):
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", stop)
    found = quick(max_iter=10, verbose=True, warm_start=True)
    with pytest.raises(KeyboardInterrupt):
        found.fit(container(x), y)
    assert found.n_iter_ == len(found.loss_curve_) == 3
    assert same_weights(found, trained(DropoutClassifier, container(x), y, max_iter=3))
    found.set_params(max_iter=7).fit(container(x), y)
    assert same_weights(found, trained(DropoutClassifier, container(x), y, max_iter=10))


def test_the_bench_script_runs(monkeypatch, capsys):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setenv("DROPCORE_BENCH_TINY", "1")
    importlib.import_module("sklearn_mlp").main(["--sets", "iris", "diabetes", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:]] == ["iris"] * 3 + ["diabetes"] * 3


def test_a_fit_that_fails_leaves_the_estimator_as_it_was(iris):
    x, y = iris
    found = trained(DropoutClassifier, x, y)
    before = found.predict_proba(x)
    with pytest.raises(ValueError, match="solver must be"):
        found.set_params(solver="newton").fit(x, y)
    assert np.array_equal(found.predict_proba(x), before)


def test_without_hidden_layers_the_model_is_linear(iris):
    found = quick(hidden_layer_sizes=(), max_iter=100, learning_rate_init=0.05).fit(*iris)
    assert [w.shape for w in found.coefs_] == [(4, 3)]
    assert found.score(*iris) > 0.9

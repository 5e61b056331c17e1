"""Losses: formulas, finite differences, PyTorch's numbers, and training with each of them."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from scipy.special import log_softmax

from dropcore.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CheckedLoss,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    accuracy,
    softmax_cross_entropy,
)
from dropcore.nn import Dense, Sequential
from dropcore.optim import SGD, Adam
from support.arrays import normal
from support.differences import differences
from support.layers import KEY, built, small_network
from support.training import CLASS_WEIGHTS, LOSS_CASES, labels, some_ignored

DTYPES = [np.float32, np.float64]
every_case = pytest.mark.parametrize(("loss", "outputs", "targets"), LOSS_CASES)


@every_case
def test_gradient_equals_finite_differences(loss, outputs, targets):
    outputs = outputs.copy()
    value, gradient = loss(outputs, targets)
    assert type(value) is float
    assert gradient.shape == outputs.shape
    wanted = differences(lambda: loss(outputs, targets)[0], outputs)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-9)
    assert np.abs(gradient).max() > 1e-3


@every_case
def test_float32_is_near_and_nothing_is_changed(loss, outputs, targets):
    wanted, gradient = loss(outputs, targets)
    narrow, before = outputs.astype(np.float32), targets.copy()
    narrow.flags.writeable = False
    for given in (narrow, np.repeat(narrow, 2, axis=0)[::2], np.asfortranarray(narrow)):
        value, found = loss(given, targets)
        assert value == pytest.approx(wanted, rel=1e-5)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(targets, before)


# --- by hand and by PyTorch ----------------------------------------------------------------------


def test_by_hand():
    z = np.log([[1.0, 3.0], [1.0, 1.0]])
    value, gradient = SoftmaxCrossEntropy()(z, [0, 1])
    assert value == pytest.approx((math.log(4) + math.log(2)) / 2)
    np.testing.assert_allclose(gradient, np.array([[-0.75, 0.75], [0.5, -0.5]]) / 2)
    value, gradient = SoftmaxCrossEntropy(class_weights=(3.0, 1.0))(z, [0, 1])
    assert value == pytest.approx((3 * math.log(4) + math.log(2)) / 4)
    np.testing.assert_allclose(gradient, np.array([[-2.25, 2.25], [0.5, -0.5]]) / 4)
    value, _ = SoftmaxCrossEntropy(label_smoothing=0.5)(z, [0, 1])
    smooth = 0.75 * math.log(4) + 0.25 * math.log(4 / 3)
    assert value == pytest.approx((smooth + math.log(2)) / 2)
    value, gradient = SoftmaxCrossEntropy(ignore_label=7)(z, [7, 1])
    assert value == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient, [[0, 0], [0.5, -0.5]], atol=1e-15)
    value, gradient = BinaryCrossEntropy()(np.array([math.log(3.0)]), [1.0])
    assert value == pytest.approx(math.log(4 / 3))
    np.testing.assert_allclose(gradient, [-0.25])
    y, t = np.array([[1.0, 5.0]]), [[2.0, 2.0]]
    for loss, wanted, slope in [
        (MeanSquaredError(), 5, [-1, 3]), (MeanAbsoluteError(), 2, [-0.5, 0.5]),
        (Huber(2.0), (0.5 + 4) / 2, [-0.5, 1]), (Huber(), (0.5 + 2.5) / 2, [-0.5, 0.5]),
    ]:  # fmt: skip
        assert loss(y, t)[0] == wanted
        np.testing.assert_array_equal(loss(y, t)[1], [slope])
    value, _ = GaussianNLL()(np.array([[1.0, math.log(4.0)]]), [4.0])
    density = math.exp(-9 / 8) / math.sqrt(2 * math.pi * 4)
    assert value == pytest.approx(-math.log(density))


# --- targets in several forms --------------------------------------------------------------------


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(),
                                  SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS),
                                  SoftmaxCrossEntropy(label_smoothing=0.1)])  # fmt: skip
def test_labels_are_one_hot_rows(loss):
    z, y = normal(9, 4), labels(9)
    value, gradient = loss(z, y)
    for rows in (np.eye(4)[y], np.eye(4, dtype=int)[y], np.eye(4, dtype=bool)[y]):
        other, found = loss(z, rows)
        assert other == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(found, gradient, rtol=1e-12, atol=1e-15)
        checked = loss.check(rows, z.shape)
        assert loss.weight(checked) == pytest.approx(loss.weight(y))
        assert loss.n_correct(z, checked) == loss.n_correct(z, y)
    assert loss(z, y[:, None])[0] == value
    assert loss(z, y.astype(np.uint8))[0] == value
    right, count = loss.n_correct(z, y)
    assert accuracy(z, y) == right / count
    assert count == 9


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "uint64"])
def test_labels_of_any_integer_dtype(kind):
    outputs, numbers = normal(300, 7, dtype=np.float32), labels(300, classes=7)
    wanted, expected = softmax_cross_entropy(outputs, np.eye(7, dtype=np.float32)[numbers])
    value, found = softmax_cross_entropy(outputs, numbers.astype(kind))
    assert value == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_a_batch_of_nothing_but_padding():
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    y = np.full(3, -1)
    value, gradient = loss(normal(3, 4), y)
    assert value == 0
    assert (gradient == 0).all()
    assert loss.weight(y) == 0
    assert loss.n_correct(normal(3, 4), y) == (0, 0)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (3, 2)])
def test_huber_far_from_the_target(shape):
    """For one number as for many: a line of slope delta beyond delta."""
    for delta, distance in ((0.5, 2.0), (1.0, -3.0), (2.0, 5.0)):
        target = np.ones(shape)
        value, gradient = Huber(delta)(target + distance, target)
        assert value == pytest.approx(delta * (abs(distance) - delta / 2))
        wanted = math.copysign(delta, distance) / target.size
        np.testing.assert_allclose(gradient, np.full(shape, wanted), rtol=1e-15)


def test_extreme_logits():
    z = np.array([[1000.0, 0, -1000], [-np.inf, 0, 0]])
    for options in ({}, {"class_weights": (1, 1, 1)}):
        value, gradient = SoftmaxCrossEntropy(**options)(z, [0, 1])
        assert value == pytest.approx(math.log(2) / 2)
        assert np.isfinite(gradient).all()
    for dtype in DTYPES:
        z = np.array([1e4, -1e4, 1e4, -1e4], dtype)
        value, gradient = BinaryCrossEntropy()(z, [1, 0, 0, 1])
        assert value == 5000
        np.testing.assert_allclose(gradient, [0, 0, 0.25, -0.25], atol=1e-30)


def test_hits():
    z, t = np.array([1.0, -1, 1, -1, 2]), np.array([1, 0, 0, 1, 1])
    assert BinaryCrossEntropy().n_correct(z, t) == (3, 5)
    assert BinaryCrossEntropy().n_correct(np.zeros(3), np.array([0, 1, 0])) == (2, 3)  # a no
    assert SoftmaxCrossEntropy().n_correct(np.eye(3), np.array([0, 1, 1])) == (2, 3)
    assert SoftmaxCrossEntropy(ignore_label=0).n_correct(np.eye(3), np.array([0, 1, 1])) == (1, 2)


# --- training ------------------------------------------------------------------------------------


def test_gradients_of_a_network_with_its_loss():
    model, x, labels = built(small_network(), 7), normal(6, 7), np.array([0, 3, 1, 1, 2, 0])
    out, backward = model.forward(x, key=KEY)
    dx, grads = backward(softmax_cross_entropy(out, labels)[1])

    def f():
        return softmax_cross_entropy(model.forward(x, key=KEY)[0], labels)[0]

    np.testing.assert_allclose(dx, differences(f, x), rtol=1e-6, atol=1e-8)
    for name, weight in model.params.items():
        np.testing.assert_allclose(grads[name], differences(f, weight), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("size", [1, 1e4])
def test_softmax_cross_entropy_is_its_formula(shape, size):
    logits = size * normal(*shape)
    labels = np.arange(6).reshape(shape[:-1]) % 5
    loss, dlogits = softmax_cross_entropy(logits, labels)
    picked = np.take_along_axis(log_softmax(logits, axis=-1), labels[..., None], -1)
    assert loss == pytest.approx(-picked.mean(), rel=1e-12)
    assert dlogits.shape == shape
    np.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-15)
    if size == 1:
        numeric = differences(lambda: softmax_cross_entropy(logits, labels)[0], logits)
        np.testing.assert_allclose(dlogits, numeric, rtol=1e-6, atol=1e-9)


def test_accuracy():
    logits = np.array([[1, 2, 0], [3, 2, 0], [0, 0, 1], [5, 1, 1]])
    assert accuracy(logits, np.array([1, 0, 2, 2])) == 0.75


@pytest.mark.parametrize("name", LOSSES)
def test_training_by_name(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    line = x @ rng.normal(size=5)
    targets = {"softmax_cross_entropy": (line > 0).astype(int), "binary_cross_entropy": line > 0}
    y = targets.get(name, line)
    units = {"softmax_cross_entropy": 2, "gaussian_nll": 2}.get(name, 1)
    model = Sequential([Dense(16, activation="relu"), Dense(units)])
    optimizer = Adam(0.01)
    history = model.fit(x, y, epochs=30, optimizer=optimizer, loss=name, key=1,
                        validation_data=(x, y))  # fmt: skip
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    found = model.evaluate(x, y, loss=name)
    assert found == model.evaluate(x, y, loss=LOSSES[name])
    assert found["loss"] == history["val_loss"][-1]
    assert ("accuracy" in found) == name.endswith("cross_entropy")
    assert ("accuracy" in history.metrics) == name.endswith("cross_entropy")
    if "accuracy" in found:
        assert found["accuracy"] > 0.93


@pytest.mark.parametrize("loss", [
    SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS, ignore_label=-1), SoftmaxCrossEntropy(),
    "softmax_cross_entropy", MeanSquaredError(), GaussianNLL(),
])  # fmt: skip
def test_means_over_batches_are_means_over_all(loss):
    x = normal(50, 6)
    kind = LOSSES.get(loss, loss) if isinstance(loss, str) else loss
    y, units = normal(50), {GaussianNLL(): 2, MeanSquaredError(): 1}.get(kind, 4)
    if isinstance(kind, SoftmaxCrossEntropy):
        y = some_ignored(50) if kind.ignore_label else labels(50)
    model = Sequential([Dense(units)])
    model.build((6,), key=0, dtype=np.float64)
    whole = model.evaluate(x, y, loss=loss)
    assert whole["loss"] == pytest.approx(kind(model(x), y)[0])
    for size in (1, 7, 49):
        found = model.evaluate(x, y, loss=loss, batch_size=size)
        assert found == pytest.approx(whole, rel=1e-12)
    history = model.fit(x, y, epochs=1, optimizer=SGD(1e-30), loss=loss, batch_size=7)
    assert {name: history[name][0] for name in whole} == pytest.approx(whole, rel=1e-12)
    if "accuracy" in whole:
        counted = y != getattr(kind, "ignore_label", None)
        assert whole["accuracy"] == accuracy(model(x)[counted], y[counted])


def test_gaussian_nll_finds_the_noise():
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(4000, 1))
    y = 3 * x[:, 0] + np.where(x[:, 0] > 0, 2.0, 0.5) * rng.normal(size=4000)
    model = Sequential([Dense(2)])
    model.build((1,), key=0, dtype=np.float64)
    model.fit(x, y, epochs=60, optimizer=Adam(0.05), loss="gaussian_nll", batch_size=400)
    for at, std in ((1.0, 2.0), (-1.0, 0.5)):
        mean, log_variance = model(np.array([[at]]))[0]
        assert mean == pytest.approx(3 * at, abs=0.15)
        assert math.exp(log_variance / 2) == pytest.approx(std, rel=0.1)


# --- what they are -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", {case[0] for case in LOSS_CASES}, ids=repr)
def test_repr_rebuilds(loss):
    for made in (eval(repr(loss)), pickle.loads(pickle.dumps(loss))):
        assert made == loss
        assert hash(made) == hash(loss)
    assert isinstance(loss, CheckedLoss)


def test_the_names():
    assert LOSSES["softmax_cross_entropy"] is softmax_cross_entropy
    assert softmax_cross_entropy == SoftmaxCrossEntropy()
    assert SoftmaxCrossEntropy(class_weights=[1, 2]).class_weights == (1, 2)


Z = np.zeros((2, 3))
WRONG = [
    (lambda: SoftmaxCrossEntropy(class_weights=(1, -1)), ValueError, "a class weight .* got -1"),
    (lambda: SoftmaxCrossEntropy(label_smoothing=1.5), ValueError, r"in \[0, 1\], got 1.5"),
    (lambda: SoftmaxCrossEntropy(class_weights=(1, 2))(Z, [0, 1]), ValueError,
     "one number for each of the 3 outputs, got 2"),
    (lambda: SoftmaxCrossEntropy()(Z, [0.0, 1.0]), TypeError, "integers .* got dtype float64"),
    (lambda: SoftmaxCrossEntropy()(Z, [0, 3]), ValueError, r"\[0, 3\), .* got 3"),
    (lambda: SoftmaxCrossEntropy()(Z, [-1, 0]), ValueError, "got -1"),
    (lambda: SoftmaxCrossEntropy()(Z[:0], np.zeros(0, int)), ValueError, "must not be empty"),
    (lambda: SoftmaxCrossEntropy(ignore_label=-1)(Z, [-2, 0]), ValueError,
     "outputs or -1, which is ignored, got -2"),
    (lambda: SoftmaxCrossEntropy()(Z, [0, 1, 2]), ValueError, r"shape \(2,\), .* got \(3,\)"),
    (lambda: SoftmaxCrossEntropy()(Z, Z[:, :2]), ValueError, r"shape \(2, 3\), .* got \(2, 2\)"),
    (lambda: SoftmaxCrossEntropy()(Z, Z), ValueError, "those of a row sum to 1, .* a sum of 0"),
    (lambda: SoftmaxCrossEntropy()(Z, np.tile([2.0, -1, 0], (2, 1))), ValueError,
     "got -1 at the least"),
    (lambda: SoftmaxCrossEntropy()(Z, Z + np.nan), ValueError, r"finite, got nan at \(0, 0\)"),
    (lambda: BinaryCrossEntropy()(Z, Z + 1.5), ValueError, r"in \[0, 1\], got 1.5"),
    (lambda: BinaryCrossEntropy()(Z, Z - 1), ValueError, r"in \[0, 1\], got -1.0"),
    (lambda: BinaryCrossEntropy()(Z, [0, 1]), ValueError, r"shape \(2, 3\), .* got \(2,\)"),
    (lambda: MeanSquaredError()(Z, Z[:, 0]), ValueError, r"shape \(2, 3\), as .* got \(2,\)"),
    (lambda: MeanSquaredError()(Z, Z + 1j), TypeError, "real numbers, got dtype complex128"),
    (lambda: MeanSquaredError()(Z, Z + np.inf), ValueError, r"finite, got inf at \(0, 0\)"),
    (lambda: MeanSquaredError()(Z[:0], Z[:0]), ValueError, "must not be empty"),
    (lambda: Huber(0), ValueError, "delta must be positive and finite, got 0"),
    (lambda: GaussianNLL()(Z, [0, 1]), ValueError, r"outputs of shape \(..., 2\), .* got \(2, 3\)"),
    (lambda: GaussianNLL()(Z[:, :2], Z), ValueError, r"shape \(2,\), as .* got \(2, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_training_refuses_targets_before_anything_changes():
    for loss, y, text in [
        ("mse", normal(9, 2), r"shape \(9, 3\), .* got \(9, 2\)"),
        ("binary_cross_entropy", np.full((9, 3), 2), r"\[0, 1\], got 2"),
        ("gaussian_nll", normal(9), r"of shape \(..., 2\), .* got \(9, 3\)"),
        (
            SoftmaxCrossEntropy(class_weights=(1, 2)),
            labels(9, classes=3),
            "each of the 3 outputs, got 2",
        ),
    ]:
        model = Sequential([Dense(3)])
        with pytest.raises(ValueError, match=text):
            model.fit(normal(9, 4), y, epochs=1, optimizer=SGD(0.1), loss=loss)
        assert not model.built


def test_a_delta_that_is_a_number_of_numpy_leaves_the_dtype():
    y = np.array([0.0, 5.0], np.float32)
    assert Huber(np.float64(0.3))(y, np.zeros(2))[1].dtype == np.float32

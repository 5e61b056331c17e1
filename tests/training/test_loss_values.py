"""Losses where numbers are extreme, weighted, or no arrays at all."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore.losses import (
    LOSSES,
    BinaryCrossEntropy,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    accuracy,
    softmax_cross_entropy,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def labels(*shape, classes=4):
    return np.random.default_rng(1).integers(0, classes, shape)


# A loss, outputs and targets, the first axis of 6 rows.
CASES = [
    (SoftmaxCrossEntropy(), normal(6, 4), labels(6)),
    (SoftmaxCrossEntropy(), normal(6, 3, 4), labels(6, 3)),
    (SoftmaxCrossEntropy(), normal(6, 4), np.eye(4)[labels(6)]),
    (SoftmaxCrossEntropy(class_weights=(0.5, 2, 1, 3)), normal(6, 4), labels(6)),
    (SoftmaxCrossEntropy(label_smoothing=0.2, ignore_label=2), normal(6, 3, 4), labels(6, 3)),
    (BinaryCrossEntropy(), normal(6, 3), labels(6, 3, classes=2)),
    (MeanSquaredError(), normal(6, 3), normal(6, 3, seed=1)),
    (MeanAbsoluteError(), normal(6), normal(6, seed=1)),
    (Huber(0.5), normal(6, 2, 3), normal(6, 2, 3, seed=1)),
    (GaussianNLL(), normal(6, 3, 2), normal(6, 3, seed=1)),
]  # fmt: skip
every_case = pytest.mark.parametrize(("loss", "outputs", "targets"), CASES)


@every_case
def test_a_sample_of_weight_n_counts_as_n_samples(loss, outputs, targets):
    counts = np.array([1, 0, 2, 3, 1, 1])
    repeated = np.repeat(np.arange(6), counts)
    value, gradient = loss(outputs, targets, counts)
    wanted, slopes = loss(outputs[repeated], targets[repeated])
    assert value == pytest.approx(wanted, rel=1e-12)
    summed = np.zeros_like(outputs)
    np.add.at(summed, repeated, slopes)
    np.testing.assert_allclose(gradient, summed, rtol=1e-12, atol=1e-15)
    checked = loss.check(targets, outputs.shape)
    weights = counts.astype(float)
    assert loss.weight(checked, weights) == pytest.approx(loss.weight(checked[repeated]))
    if loss.classifies:
        found = loss.n_correct(outputs, checked, weights)
        assert found == pytest.approx(loss.n_correct(outputs[repeated], checked[repeated]))


@every_case
def test_equal_weights_change_nothing(loss, outputs, targets):
    value, gradient = loss(outputs, targets)
    weighted, slopes = loss(outputs, targets, np.full(6, 0.3))
    assert weighted == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropy()])
def test_what_has_no_weight_may_be_infinite(loss):
    outputs = np.array([[1.0], [np.inf]])
    value, _ = loss(outputs, np.array([[0.0], [0.0]]), [1, 0])
    assert value == loss(outputs[:1], np.array([[0.0]]))[0]


@every_case
@pytest.mark.parametrize("scale", [1e-30, 1e4])
def test_harmless_underflow_never_raises(loss, outputs, targets, scale):
    outputs = (outputs * scale).astype(np.float32)
    if isinstance(loss, GaussianNLL):
        outputs[..., 1] = np.clip(outputs[..., 1], -50, 200)
    with np.errstate(all="raise"):
        value, gradient = loss(outputs, targets)
        loss(outputs, targets, np.arange(6))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_logarithm_of_a_sure_class_is_zero():
    with np.errstate(all="raise"):
        assert softmax_cross_entropy(np.array([[1000.0, 0.0]]), [0])[0] == 0.0


@pytest.mark.parametrize("options", [{}, {"class_weights": (1, 1)}, {"ignore_label": -1}])
def test_a_difference_of_logits_beyond_float32(options):
    logits = np.array([[2e38, -2e38]], np.float32)
    value, gradient = SoftmaxCrossEntropy(**options)(logits, [1])
    assert value == pytest.approx(4e38, rel=1e-6)
    np.testing.assert_array_equal(gradient, [[1, -1]])


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "wanted"),
    [
        (MeanSquaredError(), [[1e20]], [[0.0]], 1e40),
        (MeanAbsoluteError(), [[3e38], [3e38]], [[0.0], [0.0]], 3e38),
        (Huber(1e20), [[3e38]], [[0.0]], 1e20 * (3e38 - 0.5e20)),
        (BinaryCrossEntropy(), [[2e38], [-2e38]], [[0.0], [1.0]], 2e38),
        (GaussianNLL(), [[1e20, 0.0]], [0.0], 0.5e40),
    ],
)
def test_values_are_computed_in_float64(loss, outputs, targets, wanted):
    value, _ = loss(np.array(outputs, np.float32), np.array(targets))
    assert value == pytest.approx(wanted, rel=1e-6)


def test_accuracy_does_not_broadcast():
    logits = np.eye(3)[[0, 2, 1, 1]] * 5
    right = np.array([0, 2, 1, 1])
    assert accuracy(logits, right) == 1.0
    assert accuracy(logits, right[:, None]) == 1.0
    assert accuracy(logits, np.eye(3)[right]) == 1.0
    assert accuracy(logits, np.eye(3, dtype=int)[right]) == 1.0
    assert accuracy(logits, [0, 2, 1, 0]) == 0.75
    assert accuracy(logits, [0, 2, 1, 0], [1, 1, 1, 5]) == 3 / 8
    assert accuracy(logits.reshape(2, 2, 3), right.reshape(2, 2)) == 1.0
    with pytest.raises(ValueError, match=r"shape \(4,\), .* got \(3,\)"):
        accuracy(logits, right[:3])


Z = np.zeros((2, 3))
WRONG = [
    (lambda: softmax_cross_entropy(Z.tolist(), [0, 1]), TypeError, "outputs must be .*list"),
    (lambda: MeanSquaredError()(Z.astype(int), Z), TypeError, "floating-point .* got dtype int64"),
    (lambda: accuracy([[0.0, 1.0]], [1]), TypeError, "outputs must be a NumPy .*list"),
    (lambda: accuracy(np.float64(1), [1]), TypeError, "outputs must be a NumPy"),
    (lambda: MeanSquaredError()(np.ma.masked_array(Z), Z), TypeError, "outputs .* masked array"),
    (lambda: MeanSquaredError()(Z, np.ma.masked_array(Z)), TypeError, "targets .* masked array"),
    (lambda: SoftmaxCrossEntropy(ignore_label="a"), TypeError, "ignore_label .* got 'a'"),
    (lambda: SoftmaxCrossEntropy(ignore_label=1.0), TypeError, "ignore_label .* got 1.0"),
    (lambda: SoftmaxCrossEntropy(ignore_label=True), TypeError, "ignore_label .* got True"),
    (lambda: SoftmaxCrossEntropy(class_weights="balanced"), TypeError, "'balanced'; fit takes"),
    (lambda: softmax_cross_entropy(Z, ["a", "b"]), TypeError, r"<U1.*np\.unique\(y, return_inv"),
    (lambda: softmax_cross_entropy(Z, [0.0, 1.0]), TypeError, r"float64: use \.astype.*'mse'"),
    (lambda: softmax_cross_entropy(Z, [True, False]), TypeError, "bool: use .*binary_cross"),
    (lambda: softmax_cross_entropy(Z[:, :1], [0, 0]), ValueError, "at least 2 classes.*always 1"),
    (lambda: softmax_cross_entropy(Z, [0, 1], [1, 1, 1]), ValueError, "each of the 2 samples"),
    (lambda: MeanSquaredError()(Z, Z, [1, -1]), ValueError, r"not negative, got -1\.0"),
    (lambda: MeanSquaredError()(Z, Z, [1, np.nan]), ValueError, "not negative, got nan"),
    (lambda: MeanSquaredError()(Z, Z, [0, 0]), ValueError, "must not be all zero"),
    (lambda: MeanSquaredError()(Z, Z, ["a", "b"]), TypeError, "array of numbers, got dtype <U1"),
    (lambda: MeanSquaredError()(Z, Z, np.ma.masked_array([1, 1])), TypeError, "masked array"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("name", LOSSES)
def test_lists_are_no_outputs(name):
    with pytest.raises(TypeError, match="outputs must be a NumPy or CuPy array, got list"):
        LOSSES[name]([[0.0, 1.0]], [1])


@every_case
def test_compute_is_a_call_without_checks(loss, outputs, targets):
    value, gradient = loss(outputs, targets)
    found, slopes = loss.compute(outputs, loss.check(targets, outputs.shape))
    assert found == value
    np.testing.assert_array_equal(slopes, gradient)

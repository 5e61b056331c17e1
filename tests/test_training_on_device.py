"""Losses and the training loop on CuPy arrays: see host_cupy.py."""

from __future__ import annotations

import copy

import host_cupy
import numpy as np
import pytest

from dropcore.constraints import MaxNorm
from dropcore.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.schedules import Cosine


def labels(n, classes=4):
    return np.random.default_rng(1).integers(0, classes, n)


def numbers(*shape):
    return np.random.default_rng(2).normal(size=shape)


LOSSES = [
    (SoftmaxCrossEntropy(), numbers(9, 4), labels(9)),
    (SoftmaxCrossEntropy(), numbers(5, 3, 4), labels(15).reshape(5, 3)),
    (SoftmaxCrossEntropy(), numbers(9, 4), np.eye(4)[labels(9)]),
    (SoftmaxCrossEntropy(label_smoothing=0.1), numbers(9, 4), labels(9)),
    (SoftmaxCrossEntropy(class_weights=(1, 0, 2, 0.5)), numbers(9, 4), labels(9)),
    (SoftmaxCrossEntropy(ignore_label=1), numbers(9, 4), labels(9)),
    (SoftmaxCrossEntropy(ignore_label=1, class_weights=(1, 3, 2, 0.5)), numbers(9, 4), labels(9)),
    (SoftmaxCrossEntropy(ignore_label=-1), numbers(3, 4), np.full(3, -1)),
    (BinaryCrossEntropy(), numbers(9, 4), labels(36, 2).reshape(9, 4)),
    (BinaryCrossEntropy(), numbers(9, 1), labels(9, 2)),
    (MeanSquaredError(), numbers(9, 4), numbers(9, 4)[::-1].copy()),
    (MeanAbsoluteError(), numbers(9, 1), labels(9)),
    (Huber(0.3), numbers(9, 4), numbers(9, 4)[::-1].copy()),
    (GaussianNLL(), numbers(9, 2), numbers(9)),
]


@pytest.mark.parametrize(("loss", "outputs", "targets"), LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses(gpu, loss, outputs, targets, dtype):
    outputs = outputs.astype(dtype)
    if targets.dtype.kind == "f":
        targets = targets.astype(dtype)
    wanted, slope = loss(outputs, targets)
    before = host_cupy.waits
    value, gradient = loss(gpu.asarray(outputs), gpu.asarray(targets))
    count = loss.weight(gpu.asarray(loss.check(targets, outputs.shape)))
    assert host_cupy.waits == before
    close = 1e-6 if dtype == np.float32 else 1e-12
    assert float(value) == pytest.approx(wanted, rel=close, abs=1e-12)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gpu.asnumpy(gradient), slope, rtol=5 * close, atol=1e-3 * close)
    assert float(count) == loss.weight(loss.check(targets, outputs.shape))
    if loss.classifies:
        before = host_cupy.waits
        on = loss.fitted(gpu.asarray(targets), outputs.shape)
        hits = loss.hits(gpu.asarray(outputs), on)
        assert host_cupy.waits == before
        assert tuple(map(float, hits)) == loss.hits(outputs, loss.check(targets, outputs.shape))


def classifier():
    return Sequential(
        [Dropout(0.2), Dense(24, activation="relu", constraint=MaxNorm(1.0)), Dropout(0.5),
         Dense(16, activation="tanh", ), Dropout(0.5, shared_axes=0),
         Dense(4)]
    )  # fmt: skip


def data(samples=50):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 12)).astype(np.float32)
    return x, (x @ rng.normal(size=(12, 4))).argmax(axis=1)


OPTIONS = {
    "epochs": 2, "batch_size": 16, "key": 5, "progress": False,
}  # fmt: skip


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_fit_is_that_of_the_cpu(gpu, where):
    """Data is on the device, or copied there batch by batch."""
    x, y = data()
    held = data(20)
    optimizer = SGD(Cosine(0.1, 8), momentum=0.9)
    put = gpu.asarray if where == "cuda" else lambda a: a
    model, other = classifier(), classifier().to("cuda")
    wanted = model.fit(x, y, optimizer=optimizer, validation_data=held, **OPTIONS)
    found = other.fit(
        put(x), put(y), optimizer=optimizer, validation_data=tuple(map(put, held)), **OPTIONS
    )
    for metric in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(found[metric], wanted[metric], rtol=1e-4)
    for name, weight in model.params.items():
        np.testing.assert_allclose(
            gpu.asnumpy(other.params[name]), weight, rtol=1e-3, atol=1e-5, err_msg=name
        )
    out = other.predict(put(x), batch_size=7)
    assert isinstance(out, gpu.ndarray if where == "cuda" else np.ndarray)
    out = gpu.asnumpy(out) if where == "cuda" else out
    np.testing.assert_allclose(out, model.predict(x), rtol=1e-3, atol=1e-4)
    scores = other.evaluate(put(x), put(y))
    assert scores == pytest.approx(model.evaluate(x, y), rel=1e-3)
    # Training goes on on the other device, with the same state.
    other.to("cpu")
    model.fit(x, y, optimizer=optimizer, **OPTIONS)
    other.fit(x, y, optimizer=optimizer, **OPTIONS)
    assert other.training_state.step == model.training_state.step == 16
    for name, weight in model.params.items():
        np.testing.assert_allclose(other.params[name], weight, rtol=2e-3, atol=2e-5)


def test_a_step_waits_for_nothing(host):
    x, y = data(64)
    model = classifier().to("cuda")
    model.fit(host.asarray(x), host.asarray(y), optimizer=SGD(0.1), **OPTIONS)  # compiles
    each = []
    for samples in (32, 64):
        before = host_cupy.waits
        some = host.asarray(x[:samples]), host.asarray(y[:samples])
        model.fit(*some, optimizer=SGD(0.1), **OPTIONS)
        each.append(host_cupy.waits - before)
    assert each[0] == each[1] > 0  # however many steps an epoch has


def test_what_is_not_finite_is_found_at_the_end_of_the_epoch(gpu):
    x, y = data()
    model = classifier().to("cuda")
    model.build((12,), key=3)
    before = {name: gpu.asnumpy(weight) for name, weight in model.params.items()}
    with pytest.raises(FloatingPointError, match=r"in epoch 1: .*not finite.*back to the start"):
        model.fit(gpu.asarray(x), gpu.asarray(y), optimizer=SGD(1e30), **OPTIONS)
    for name, weight in model.params.items():
        np.testing.assert_array_equal(gpu.asnumpy(weight), before[name])


def test_places_that_do_not_fit(gpu):
    x, y = data()
    model = classifier()
    with pytest.raises(
        TypeError, match=r"x is on a GPU and the model is not: use model.to\('cuda'"
    ):
        model.fit(gpu.asarray(x), y, optimizer=SGD(0.1), **OPTIONS)
    model.build((12,), key=3)
    with pytest.raises(TypeError, match=r"^Dense.*: the weights are not on a GPU and x is"):
        model.layers[1](gpu.asarray(numbers(3, 12).astype(np.float32)))
    model.to("cuda")
    with pytest.raises(
        TypeError, match=r"^layer 1, Dense.*: the weights are on a GPU and x is not"
    ):
        model(x)
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda'"):
        model.to("gpu")
    twin = copy.deepcopy(model)
    assert twin.device == "cuda"
    assert all(isinstance(w, gpu.ndarray) for w in twin.params.values())


def test_weights_are_those_of_the_cpu_before_and_after(gpu):
    early, late = classifier().to("cuda"), classifier()
    early.build((12,), key=3)
    late.build((12,), key=3)
    late.to("cuda")
    for name, weight in early.params.items():
        assert isinstance(weight, gpu.ndarray)
        np.testing.assert_array_equal(gpu.asnumpy(weight), gpu.asnumpy(late.params[name]))

"""Losses with outputs and targets, schedules, and gradients in every form."""

from __future__ import annotations

import numpy as np

from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from dropcore.schedules import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Piecewise,
    WarmUp,
)
from support.arrays import normal

CLASS_WEIGHTS = (0.5, 2.0, 1.0, 0.0)


def labels(*shape, classes=4, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape)


def shares(*shape, seed=2):
    p = np.random.default_rng(seed).uniform(0.1, 1, shape)
    return p / p.sum(axis=-1, keepdims=True)


def some_ignored(*shape):
    found = labels(*shape)
    found.ravel()[::3] = -1
    return found


# A loss, outputs and targets.
LOSS_CASES = [
    (SoftmaxCrossEntropy(), normal(6, 4), labels(6)),
    (SoftmaxCrossEntropy(), normal(3, 5, 4), labels(3, 5)),
    (SoftmaxCrossEntropy(), normal(6, 4), shares(6, 4)),
    (SoftmaxCrossEntropy(label_smoothing=0.2), normal(6, 4), labels(6)),
    (SoftmaxCrossEntropy(label_smoothing=1.0), normal(6, 4), shares(6, 4)),
    (SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS), normal(6, 4), labels(6)),
    (SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS), normal(6, 4), shares(6, 4)),
    (SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS, label_smoothing=0.3, ignore_label=-1),
     normal(3, 5, 4), some_ignored(3, 5)),
    (SoftmaxCrossEntropy(ignore_label=2), normal(9, 4), labels(9)),
    (BinaryCrossEntropy(), 3 * normal(6, 2), np.random.default_rng(3).random((6, 2))),
    (BinaryCrossEntropy(), normal(6, 1), labels(6, classes=2)),
    (BinaryCrossEntropy(class_weights=(0.5, 3.0)), normal(6, 1), labels(6, classes=2)),
    (BinaryCrossEntropy(class_weights=(2.0, 0.0)), normal(6, 2),
     np.random.default_rng(3).random((6, 2))),
    (MeanSquaredError(), normal(6, 2), normal(6, 2, seed=1)),
    (MeanSquaredError(), normal(4, 3, 1), normal(4, 3, seed=1)),
    (MeanAbsoluteError(), normal(6, 2), normal(6, 2, seed=1)),
    (Huber(0.7), normal(6, 2), normal(6, 2, seed=1)),
    (Huber(100), normal(6), normal(6, 1, seed=1)),
    (GaussianNLL(), normal(6, 2), normal(6, seed=1)),
    (GaussianNLL(), normal(6, 3, 2), normal(6, 3, seed=1)),
]  # fmt: skip


SCHEDULES = [
    Constant(0.1),
    Piecewise(boundaries=[10, 20], values=[0.1, 0.01, 0.001]),
    Exponential(0.1, 0.5, 10),
    Exponential(0.1, 0.5, 10, staircase=True),
    Linear(0.9, 0.1, 40),
    Cosine(0.1, 30),
    Cosine(0.1, 10, 0.01, restarts=2, cycle_factor=3),
    WarmUp(Cosine(0.1, 30), 5),
    WarmUp(0.1, 5, start=0.01),
]


def gradients(dtype=np.float64):
    values = normal(3, 4, dtype=dtype, seed=1)
    block = BlockGradient(values, np.array([0, 2, 7]), np.array([1, 2, 3, 5]), (9, 6))
    product = ProductGradient(normal(8, 5, dtype=dtype, seed=2), normal(8, 6, dtype=dtype, seed=3))
    return {"a": normal(4, 6, dtype=dtype), "b": block, "c": product,
            "d": np.asfortranarray(normal(7, 3, dtype=dtype, seed=4))}  # fmt: skip


def as_one(grads):
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in grads.values()])

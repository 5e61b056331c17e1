"""Keras' optimisers, schedules, losses, constraints, regularisers, initialisers, whole networks."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import constraints, losses, optim, regularizers, schedules
from dropcore.nn import (
    ActivityRegularization,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    MaxPool2D,
    Sequential,
    SpatialDropout2D,
    UnitDropout,
)
from dropcore.nn.initializers import INITIALIZERS, Orthogonal
from support.arrays import close, normal
from support.layers import build
from support.peers import (
    KEY,
    RATE,
    by_keras,
    each_keras_dtype,
    peer,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


OPTIMISERS = {
    "sgd": (optim.SGD(RATE), lambda k: k.SGD(RATE)),
    "momentum": (optim.SGD(RATE, momentum=0.9), lambda k: k.SGD(RATE, momentum=0.9)),
    "nesterov": (optim.SGD(RATE, momentum=0.8, nesterov=True),
                 lambda k: k.SGD(RATE, momentum=0.8, nesterov=True)),
    "momentum, schedule": (
        optim.SGD(schedules.Exponential(RATE, 0.5, 4, staircase=True), momentum=0.9),
        lambda k: k.SGD(k.schedules.ExponentialDecay(RATE, 4, 0.5, staircase=True), momentum=0.9)),
    "adam": (optim.Adam(RATE, epsilon=1e-14), lambda k: k.Adam(RATE, epsilon=1e-14)),
    "adam, betas": (optim.Adam(RATE, beta_1=0.7, beta_2=0.8, epsilon=1e-14),
                    lambda k: k.Adam(RATE, 0.7, 0.8, epsilon=1e-14)),
    "adam, schedule": (
        optim.Adam(schedules.Exponential(RATE, 0.5, 4, staircase=True), epsilon=1e-14),
        lambda k: k.Adam(k.schedules.ExponentialDecay(RATE, 4, 0.5, staircase=True),
                         epsilon=1e-14)),
    "adamw": (optim.AdamW(RATE, weight_decay=0.25, epsilon=1e-14),
              lambda k: k.AdamW(RATE, weight_decay=0.25, epsilon=1e-14)),
    "rmsprop": (optim.RMSprop(RATE, rho=0.9, epsilon=1e-14),
                lambda k: k.RMSprop(RATE, 0.9, epsilon=1e-14)),
    "rmsprop, momentum": (optim.RMSprop(RATE, rho=0.9, momentum=0.7, epsilon=1e-14),
                          lambda k: k.RMSprop(RATE, 0.9, 0.7, epsilon=1e-14)),
    "rmsprop, centered": (
        optim.RMSprop(RATE, rho=0.9, centered=True, momentum=0.7, epsilon=1e-14),
        lambda k: k.RMSprop(RATE, 0.9, 0.7, epsilon=1e-14, centered=True)),
    "adagrad": (optim.Adagrad(RATE, initial_accumulator=0.1, epsilon=1e-14),
                lambda k: k.Adagrad(RATE, epsilon=1e-14)),
    "adadelta": (optim.Adadelta(0.5, epsilon=1e-3),
                 lambda k: k.Adadelta(0.5, epsilon=1e-3)),
    "clip norm": (optim.Clip(optim.SGD(RATE, momentum=0.9), norm=3.0),
                  lambda k: k.SGD(RATE, momentum=0.9, global_clipnorm=3.0)),
    "clip value": (optim.Clip(optim.Adam(RATE, epsilon=1e-14), value=0.5),
                   lambda k: k.Adam(RATE, epsilon=1e-14, clipvalue=0.5)),
}  # fmt: skip


@each_keras_dtype
@pytest.mark.parametrize("case", OPTIMISERS)
def test_optimisers_are_those_of_keras(keras, case, dtype):
    """Twenty steps of two weights. Where Keras puts epsilon elsewhere, it is next to nothing."""
    ours, make = OPTIMISERS[case]
    theirs = make(keras.optimizers)
    params = {"a": normal(6, 5, dtype=dtype), "b": normal(5, dtype=dtype, seed=1)}
    start = params["a"].copy()
    variables = [keras.Variable(w, dtype=np.dtype(dtype).name) for w in params.values()]
    state = ours.init(params)
    for step in range(20):
        grads = {name: normal(*w.shape, dtype=dtype, seed=40 + 2 * step + len(w.shape))
                 * dtype(1 + step % 7) for name, w in params.items()}  # fmt: skip
        ours.apply(params, grads, state, step)
        theirs.apply([keras.ops.convert_to_tensor(g) for g in grads.values()], variables)
    assert np.abs(params["a"] - start).max() > 0.1
    for w, variable in zip(params.values(), variables, strict=True):
        close(w, keras.ops.convert_to_numpy(variable), tolerance=1e-5)


SCHEDULES = {
    "exponential": (schedules.Exponential(0.5, 0.8, 5), lambda k: k.ExponentialDecay(0.5, 5, 0.8)),
    "staircase": (schedules.Exponential(0.5, 0.8, 5, staircase=True),
                  lambda k: k.ExponentialDecay(0.5, 5, 0.8, staircase=True)),
    "linear": (schedules.Linear(0.5, 0.1, 13), lambda k: k.PolynomialDecay(0.5, 13, 0.1)),
    "cosine": (schedules.Cosine(0.5, 13, 0.1), lambda k: k.CosineDecay(0.5, 13, alpha=0.2)),
    "restarts": (schedules.Cosine(0.5, 4, 0.1, restarts=20), lambda k: k.CosineDecayRestarts(
        0.5, 4, t_mul=1.0, m_mul=1.0, alpha=0.2)),
    "longer restarts": (schedules.Cosine(0.5, 3, 0.0, restarts=9, cycle_factor=2),
                        lambda k: k.CosineDecayRestarts(0.5, 3, t_mul=2.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules_are_those_of_keras(keras, case):
    """In float32 there."""
    ours, make = SCHEDULES[case]
    theirs = make(keras.optimizers.schedules)
    for step in range(20):
        wanted = float(keras.ops.convert_to_numpy(theirs(step)))
        assert ours(step) == pytest.approx(wanted, abs=2e-6), step


LABELS = np.random.default_rng(1).integers(0, 4, 9)


SHARES = np.random.default_rng(2).dirichlet(np.ones(4), 9)


YES = np.random.default_rng(3).uniform(size=(9, 4))


CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)


LOGITS = {"from_logits": True}


LOSSES = {
    "labels": (losses.SoftmaxCrossEntropy(), LABELS, "SparseCategoricalCrossentropy", LOGITS),
    "ignored": (losses.SoftmaxCrossEntropy(ignore_label=2), LABELS,
                "SparseCategoricalCrossentropy", {"ignore_class": 2, **LOGITS}),
    "shares": (losses.SoftmaxCrossEntropy(), SHARES, "CategoricalCrossentropy", LOGITS),
    "smooth": (losses.SoftmaxCrossEntropy(label_smoothing=0.2), np.eye(4)[LABELS],
               "CategoricalCrossentropy", {"label_smoothing": 0.2, **LOGITS}),
    "class weights": (losses.SoftmaxCrossEntropy(class_weights=CLASS_WEIGHTS), LABELS,
                      "SparseCategoricalCrossentropy",
                      {"reduction": "mean_with_sample_weight", **LOGITS}),
    "binary": (losses.BinaryCrossEntropy(), YES, "BinaryCrossentropy", LOGITS),
    "squares": (losses.MeanSquaredError(), YES, "MeanSquaredError", {}),
    "distances": (losses.MeanAbsoluteError(), YES, "MeanAbsoluteError", {}),
    "huber": (losses.Huber(), YES, "Huber", {}),
    "huber, delta": (losses.Huber(0.25), YES, "Huber", {"delta": 0.25}),
}  # fmt: skip


@each_keras_dtype
@pytest.mark.parametrize("case", LOSSES)
def test_losses_are_those_of_keras(keras, case, dtype):
    ours, targets, name, options = LOSSES[case]
    theirs = getattr(keras.losses, name)(dtype=np.dtype(dtype).name, **options)
    outputs = 3 * normal(9, 4, dtype=dtype)
    there = targets if targets.dtype.kind == "i" else targets.astype(dtype)
    weights = np.array(CLASS_WEIGHTS)[LABELS].astype(dtype) if case == "class weights" else None
    value, gradient = ours(outputs, targets)
    wanted, gradients = by_keras(
        keras, lambda z: theirs(there, z, sample_weight=weights), [outputs], [], dtype(1.0)
    )
    assert value == pytest.approx(float(wanted), rel=1e-5 if dtype is np.float32 else 1e-11)
    close(gradient, gradients[0])


@pytest.mark.parametrize("shape", [(7, 5), (3, 2, 4, 6)])
def test_constraints_are_those_of_keras(keras, shape):
    """Keras adds 1e-7 to a norm, and norms of kernels run over the axes that it is told."""
    axis = list(range(len(shape) - 1))
    k = keras.constraints
    for ours, theirs in (
        (constraints.MaxNorm(1.5), k.MaxNorm(1.5, axis=axis)),
        (constraints.UnitNorm(), k.UnitNorm(axis=axis)),
        (constraints.MinMaxNorm(1.0, 2.0), k.MinMaxNorm(1.0, 2.0, axis=axis)),
        (constraints.MinMaxNorm(1.0, 2.0, rate=0.4), k.MinMaxNorm(1.0, 2.0, rate=0.4, axis=axis)),
        (constraints.MaxNorm(1.5, axis=-1), k.MaxNorm(1.5, axis=-1)),
        (constraints.NonNeg(), k.NonNeg()),
    ):
        w = normal(*shape, dtype=np.float32) * np.linspace(0.1, 3, shape[-1], dtype=np.float32)
        before = w.copy()
        ours(w)
        assert (w != before).any()
        wanted = keras.ops.convert_to_numpy(theirs(keras.ops.convert_to_tensor(before)))
        close(w, wanted, repr(ours), tolerance=2e-6)


@each_keras_dtype
def test_regularisers_are_those_of_keras(keras, dtype):
    w, k = normal(7, 5, dtype=dtype), keras.regularizers
    w[0, 0] = 0
    for ours, theirs in (
        (regularizers.L1(0.25), k.L1(0.25)),
        (regularizers.L2(0.25), k.L2(0.25)),
        (regularizers.L1L2(0.25, 0.125), k.L1L2(0.25, 0.125)),
    ):
        wanted, gradients = by_keras(keras, theirs, [w], [], dtype(1.0))
        assert ours.penalty(w) == pytest.approx(float(wanted), rel=1e-6)
        close(ours.gradient(w), gradients[0])
    # Of activities Keras takes the mean over the batch, too.
    theirs = keras.layers.ActivityRegularization(l1=0.25, l2=0.125, dtype=np.dtype(dtype).name)
    ours = ActivityRegularization(regularizers.L1L2(0.25, 0.125))

    def penalty(x):
        theirs(x)
        return theirs.losses[0]

    wanted, gradients = by_keras(keras, penalty, [w], [], dtype(1.0))
    assert ours.penalty(w) == pytest.approx(float(wanted), rel=1e-6)
    close(ours.forward(w)[1](np.zeros_like(w))[0], gradients[0])


@each_keras_dtype
def test_sparsity_is_keras_divergence_of_means(keras, dtype):
    """Keras has the divergence as a loss: here it is between two coins for each unit."""
    y = np.random.default_rng(0).uniform(0.02, 0.98, (9, 5)).astype(dtype)
    ours = regularizers.KLSparsity(0.3, target=0.1)
    target = np.broadcast_to(np.array([0.1, 0.9], dtype), (5, 2))

    def penalty(y):
        m = keras.ops.mean(y, 0)
        return 0.3 * keras.ops.sum(
            keras.losses.kl_divergence(target, keras.ops.stack([m, 1 - m], -1))
        )

    wanted, gradients = by_keras(keras, penalty, [y], [], dtype(1.0))
    assert ours.activity_penalty(y) == pytest.approx(float(wanted), rel=1e-5)
    close(ours.activity_gradient(y), gradients[0])


KERAS_INITIALIZERS = {
    "he_uniform": "HeUniform", "he_normal": "HeNormal", "glorot_uniform": "GlorotUniform",
    "glorot_normal": "GlorotNormal", "lecun_uniform": "LecunUniform",
    "lecun_normal": "LecunNormal",
}  # fmt: skip


@pytest.mark.parametrize("name", KERAS_INITIALIZERS)
@pytest.mark.parametrize("shape", [(300, 200), (3, 4, 50, 100)])
def test_initialisers_have_the_variance_of_keras(keras, name, shape):
    """Of 60000 numbers: the standard deviation within 2 %, the bounds of uniform ones within 0.1.

    Keras' normal numbers are cut at two standard deviations, and widened to have the variance.
    """
    ours = INITIALIZERS[name](np.random.default_rng(0), shape)
    make = getattr(keras.initializers, KERAS_INITIALIZERS[name])
    theirs = keras.ops.convert_to_numpy(make(seed=0)(shape))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    if name.endswith("uniform"):
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (3, 2, 4, 6)])
def test_orthogonal_matrices_are_seen_as_in_keras(keras, shape):
    def products(w):
        flat = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
        return flat.T @ flat if flat.shape[0] >= flat.shape[1] else flat @ flat.T

    ours = Orthogonal(1.5)(np.random.default_rng(0), shape)
    theirs = keras.ops.convert_to_numpy(keras.initializers.Orthogonal(1.5, seed=0)(shape))
    close(products(ours), products(theirs), tolerance=1e-5)


def test_a_network_fits_as_in_keras(keras):
    """Full batches, so that no shuffle matters; with penalties and a bound of weights."""
    x, labels = normal(16, 8, 7, 2, dtype=np.float32), np.arange(16) % 3
    ours = Sequential([
        Conv2D(4, 3, padding="same", activation="relu", regularizer=regularizers.L2(0.01)),
        BatchNorm(epsilon=1e-3, momentum=0.5), MaxPool2D(2, padding="same"), Flatten(),
        Dense(12, activation="gelu", constraint=constraints.MaxNorm(0.9)), LayerNorm(),
        Dense(3, regularizer=regularizers.L1(0.005)),
    ])  # fmt: skip
    k, layers = keras, keras.layers
    theirs = keras.Sequential([
        layers.Conv2D(4, 3, padding="same", activation="relu",
                      kernel_regularizer=k.regularizers.L2(0.01)),
        layers.BatchNormalization(epsilon=1e-3, momentum=0.5),
        layers.MaxPooling2D(2, padding="same"), layers.Flatten(),
        layers.Dense(12, activation="gelu", kernel_constraint=k.constraints.MaxNorm(0.9)),
        layers.LayerNormalization(epsilon=1e-5),
        layers.Dense(3, kernel_regularizer=k.regularizers.L1(0.005)),
    ])  # fmt: skip
    build(ours, *x.shape[1:], dtype=np.float32)
    theirs.build(x.shape)
    for variable, weight in zip(theirs.trainable_variables, ours.params.values(), strict=True):
        variable.assign(weight)
    start = {name: w.copy() for name, w in ours.params.items()}
    theirs.compile(k.optimizers.SGD(0.0625, momentum=0.9, nesterov=True),
                   k.losses.SparseCategoricalCrossentropy(from_logits=True),
                   run_eagerly=True)  # fmt: skip
    theirs.fit(x, labels, batch_size=16, epochs=6, verbose=0)
    ours.fit(x, labels, batch_size=16, epochs=6, key=3,
             optimizer=optim.SGD(0.0625, momentum=0.9, nesterov=True))  # fmt: skip
    for name, variable in zip(ours.params, theirs.trainable_variables, strict=True):
        assert np.abs(ours.params[name] - start[name]).max() > 1e-3, name
        close(ours.params[name], keras.ops.convert_to_numpy(variable), name, tolerance=1e-4)


def test_a_network_trains_under_the_same_masks_as_in_keras(keras):
    """Masks inside of products, of whole maps, and of units that the products leave out."""
    x, labels = normal(16, 8, 7, 2, dtype=np.float32), np.arange(16) % 3
    ours = build(Sequential([
        Dropout(0.2), Conv2D(6, 3, activation="relu"), SpatialDropout2D(0.3), MaxPool2D(2),
        Flatten(), Dense(18, activation="relu"), UnitDropout(0.5), Dense(14, activation="relu"),
        UnitDropout(0.3), Dense(10, activation="tanh"), Dropout(0.4), Dense(3),
    ]), *x.shape[1:], dtype=np.float32)  # fmt: skip
    theirs = {
        "1": peer(keras, "Conv2D", np.float32, filters=6, kernel_size=3, activation="relu"),
        "3": peer(keras, "MaxPooling2D", np.float32),
        "4": peer(keras, "Flatten", np.float32),
        "5": peer(keras, "Dense", np.float32, units=18, activation="relu"),
        "7": peer(keras, "Dense", np.float32, units=14, activation="relu"),
        "9": peer(keras, "Dense", np.float32, units=10, activation="tanh"),
        "11": peer(keras, "Dense", np.float32, units=3),
    }

    def run(t, key):
        for name, layer, own in ours.children_with_keys(key):
            if own is None:
                t = theirs[name](t)
            else:
                mask = layer.mask(tuple(t.shape), own)
                t = t * keras.ops.convert_to_tensor(
                    (mask.to_bool() * mask.scale).astype(np.float32)
                )
        return loss(labels, t)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    run(keras.ops.convert_to_tensor(x), KEY)
    variables = [v for layer in theirs.values() for v in layer.trainable_variables]
    for variable, weight in zip(variables, ours.params.values(), strict=True):
        variable.assign(weight)
    start = {name: w.copy() for name, w in ours.params.items()}
    optimiser = optim.SGD(0.0625, momentum=0.9)
    state = optimiser.init(ours.params)
    other = keras.optimizers.SGD(0.0625, momentum=0.9)
    for step in range(5):
        key = KEY.at(step=step)
        y, backward = ours.forward(x, key=key)
        value, dy = losses.softmax_cross_entropy(y, labels)
        grads = backward(dy, input_gradient=False, for_update=True)[1]
        optimiser.apply(ours.params, grads, state, step)
        wanted, found = by_keras(
            keras, lambda t, key=key: run(t, key), [x], variables, np.float32(1)
        )
        other.apply([keras.ops.convert_to_tensor(g) for g in found[1:]], variables)
        assert value == pytest.approx(float(wanted), rel=1e-4)
    for (name, w), variable in zip(ours.params.items(), variables, strict=True):
        assert np.abs(w - start[name]).max() > 1e-3, name
        close(w, keras.ops.convert_to_numpy(variable), name)

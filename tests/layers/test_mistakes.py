"""What people get wrong: mistakes are refused, with the layer, what it expects and what it got."""

import numpy as np
import pytest

from dropcore import Key
from dropcore.constraints import MaxNorm
from dropcore.losses import MeanSquaredError, SoftmaxCrossEntropy
from dropcore.nn import (
    LSTM,
    ActivityRegularization,
    AlphaDropout,
    BatchNorm,
    Bidirectional,
    BlockDropout,
    ConcreteDropout,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    EmbeddingDropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    GlobalMaxPool1D,
    LayerNorm,
    LeakyReLU,
    Maxout,
    MaxPool2D,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    VariationalDropout,
    set_scaling_,
)
from dropcore.optim import SGD, Adam
from dropcore.regularizers import L1, L2
from support.layers import small_network

X = np.random.default_rng(1).standard_normal((6, 8), dtype=np.float32)
IMAGES = np.random.default_rng(2).standard_normal((6, 5, 5, 2), dtype=np.float32)
WORDS = np.random.default_rng(3).integers(0, 9, (6, 8))
LABELS = np.arange(6) % 3


def fit(layers, x=X, y=LABELS, **options):
    return Sequential(layers).fit(
        x, y, **({"epochs": 1, "optimizer": SGD(0.1), "key": 1, "progress": False} | options)
    )


def in_model(layer, *shape):
    model = Sequential([layer])
    model.build(shape, key=1)
    return model


SHARED, DROPPED = Dense(8), Dropout(0.5)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fit([Dense(4), Embedding(9, 2)]), ValueError,
         r"layer 1, Embedding\(9, 2\) takes indices, .* put it first"),
        (lambda: fit([Dropout(0.5), Embedding(9, 2)], WORDS), ValueError, "put it first"),
        (lambda: fit([Dense(3)], IMAGES), ValueError, r"shape \(6, 5, 5\).* Flatten .* missing\?"),
        (lambda: fit([Dense(8), Dropout(mask=np.arange(7) > 1), Dense(3)]), ValueError,
         r"layer 1, Dropout: mask= of shape \(7,\) .* input of shape \(6, 8\)"),
        (lambda: fit([Dropout(mask=np.arange(5) > 1), Dense(3)]), ValueError, r"mask= of shape"),
        (lambda: fit([Dense(3)], [[1.0], [1.0, 2.0]]), ValueError, "samples of one shape; pad"),
        (lambda: fit([Dense(3)], loss=MeanSquaredError), TypeError, "'mse'.* or a callable, got"),
        (lambda: fit([Dense(3)], loss=["mse"]), TypeError, r"or a callable, got \['mse'\]"),
        (lambda: SoftmaxCrossEntropy(class_weights={0: 2.0, 1: 1.0}), TypeError, "in order, got"),
        (lambda: SoftmaxCrossEntropy(class_weights=3), TypeError, "must be a sequence.* got 3"),
        (lambda: SGD("0.1"), TypeError, "SGD: learning_rate must be a positive number"),
        (lambda: Adam(None), TypeError, "Adam: learning_rate must be a positive number"),
        (lambda: Dense(3, constraint=2.0), TypeError, r"Dense: a constraint .* got 2\.0"),
        (lambda: LSTM(3, recurrent_constraint=MaxNorm), TypeError, "LSTM: a constraint must be an"),
        (lambda: Conv1D(3, 2, regularizer=1e-4), TypeError, r"Conv1D: a regularizer .* got 0\.00"),
        (lambda: Maxout(3, regularizer=L2), TypeError, "a regularizer must be one of weights"),
        (lambda: LSTM(3, dropout=None), TypeError, "LSTM: dropout must be a number.* got None"),
        (lambda: LSTM(3, dropout=2), ValueError, r"LSTM: dropout: rate .* in \[0, 1\], got 2$"),
        (lambda: Dense(0), ValueError, "positive integer, got 0"),
        (lambda: Dense(2.5), TypeError, "positive integer, got 2.5"),
        (lambda: Dense(2, activation="tan"), ValueError, "None, 'relu', .*'softmax', got 'tan'"),
        (lambda: Dense(2, initializer="he"), ValueError, "'he_uniform', .* callable, got 'he'"),
        (lambda: Dense(2)(X), ValueError, r"Dense\(2\) has no weights yet: call build"),
        (lambda: Dense(2).build((), key=0), ValueError, r"\(..., in_features\), got \(\)"),
        (lambda: Dense(2).build((7,), key=0, dtype=np.float16), ValueError, "float64, got float16"),
        (lambda: in_model(Dense(2), 7)(X), ValueError, r"7\), got \(6, 8\)"),
        (lambda: in_model(Dense(2), 8)(X[0]), ValueError, r"got \(8,\)"),
        (lambda: in_model(Dense(2), 8)(X.astype(float)), TypeError, "float32 weights .* float64"),
        (lambda: in_model(small_network(), 7)(X), ValueError, r"layer 0\.1, Dense\(9.*8\)"),
        (lambda: small_network()(X), ValueError, r"layer 1, Dense\(9, .* has no weights"),
        (lambda: Sequential([ReLU(), Sequential([Dense(2)])])(X), ValueError,
         r"^layer 1\.0, Dense\(2\) has"),
        (lambda: Sequential(Dense(2)), TypeError, r"list of layers.* got Dense\(2\)"),
        (lambda: Sequential([Dense(2), 3]), TypeError, "got 3 at position 1"),
        (lambda: Dense(3).build((8.0,), key=1), TypeError, r"build: .* got \(8\.0,\)"),
        (lambda: Dense(3).build("8", key=1), TypeError, "build: .* got '8'"),
        (lambda: Dense(3).build(8, key=1), TypeError, r"such as \(8,\), got 8"),
        (lambda: ReLU().build((-8,), key=1), ValueError, r"no negative lengths, got \(-8,\)"),
        (lambda: fit([Dense(3)], optimizer=SGD(lambda step: None)), TypeError,
         "must return a number, got None at step 0"),
        (lambda: fit([Dense(3)], loss=lambda out, y: 1.0), TypeError, r"\(value, doutputs\)"),
        (lambda: fit([Dense(3)], loss=lambda out, y: (1.0, np.ones(3))), ValueError,
         r"in their shape, \(6, 3\), got \(3,\)"),
        (lambda: fit([Dense(3)], loss=lambda out, y: (out, out)), TypeError, "a number and"),
        (lambda: set_scaling_(Sequential([Dropout(0.5), Dense(3)]), "test"), ValueError,
         "set_scaling_: the model has no weights yet"),
        (lambda: set_scaling_([Dense(3)], "test"), TypeError, "must be a layer, got list"),
        (lambda: BatchNorm(momentum="0.9"), TypeError, "BatchNorm: momentum must be a number"),
        (lambda: LayerNorm(epsilon=None), TypeError, "LayerNorm: epsilon must be a number"),
        (lambda: LeakyReLU("0.1"), TypeError, "LeakyReLU: slope must be a number, got '0.1'"),
        (lambda: MaxNorm("3"), TypeError, "MaxNorm: max_norm must be a number, got '3'"),
        (lambda: Dropout(0.5, shared_axes=0.5), TypeError, "shared_axes must be an integer or"),
        (lambda: Reshape((3.5,)), TypeError, r"Reshape: target_shape .* got \(3\.5,\)"),
        (lambda: Sequential([Dense(3)]).summary(8), TypeError, r"summary: .* such as \(8,\)"),
    ],
)  # fmt: skip
def test_mistakes(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "layers",
    [
        [SHARED, ReLU(), SHARED],
        [Parallel([SHARED, Sequential([SHARED])])],
        [Residual(SHARED, SHARED)],
    ],
)
def test_an_object_with_weights_is_in_a_model_once(layers):
    model = Sequential([*layers, Dense(3)])
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"layers \S+ and \S+, Dense\(8\), are the same object"
        ):
            model.fit(X, LABELS, epochs=1, optimizer=SGD(0.1), progress=False)
        SHARED.build((8,), key=1)  # with weights it is no other
    assert not model[-1].built


def test_an_object_without_weights_may_be_in_a_model_twice():
    model = Sequential([Dense(8), DROPPED, Dense(8), DROPPED, Dense(3)])
    model.fit(X, LABELS, epochs=1, optimizer=SGD(0.1), key=1, progress=False)
    twin = Sequential([Dense(8), Dropout(0.5), Dense(8), Dropout(0.5), Dense(3)])
    twin.fit(X, LABELS, epochs=1, optimizer=SGD(0.1), key=1, progress=False)
    assert all(np.array_equal(w, twin.params[path]) for path, w in model.params.items())


ANY = [
    Dropout(0.5), BlockDropout(0.5), GaussianDropout(0.5), GaussianNoise(0.1), AlphaDropout(0.5),
    Flatten(),
    Reshape((8,)), MaxPool2D(), GlobalMaxPool1D(), Embedding(9, 2), LayerNorm(),
    EmbeddingDropout(Embedding(9, 2), 0.5), VariationalDropout(data_points=9), Dense(3),
    Conv2D(2, 3), ActivityRegularization(L1(1.0)), Parallel([Dense(2)]), LSTM(2),
]  # fmt: skip


@pytest.mark.parametrize("layer", ANY, ids=repr)
@pytest.mark.parametrize("key", [None, Key(1)])
def test_a_list_is_no_array(layer, key):
    for shape in ((8,), (8, 8), (8, 8, 1)):
        try:
            layer.build(shape, key=1)
        except ValueError:
            continue
        break
    given = np.ones((2, *shape)).tolist()
    for take in (layer, layer.forward, Sequential([layer]), Sequential([layer]).forward):
        with pytest.raises(TypeError, match="expects an array, got list"):
            take(given, key=key)
        with pytest.raises((TypeError, ValueError), match=r"expects|takes|must"):
            take(np.float32(3), key=key)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (in_model(Parallel([Dense(2), Dense(3)]), 8), X),
        (in_model(Embedding(9, 2), 8), WORDS),
        (in_model(Flatten(), 5, 5, 2), IMAGES),
        (in_model(Maxout(3), 8), X),
        (in_model(Sequential([Dense(3), Dropout(0.5)]), 8), X),
        (in_model(MaxPool2D(2), 5, 5, 2), IMAGES),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_gradient_of_another_shape_is_refused(model, x):
    y, backward = model.forward(x, key=1)
    for wrong in (y[..., :-1], y[:-1], np.concatenate([y, y], axis=-1)):
        with pytest.raises(ValueError, match=r"layer 0[., ].*dy must have the shape of"):
            backward(wrong)


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        (Maxout(3), "0.linear"),
        (ConcreteDropout(Dense(3), data_points=9), "0.layer"),
        (Sequential([ConcreteDropout(Dense(3), data_points=9)]), "0.0.layer"),
        (Bidirectional(LSTM(3)), "0.forward"),
        (EmbeddingDropout(Embedding(3, 2), 0.5), "0.embedding"),
    ],
    ids=repr,
)
def test_a_layer_inside_another_is_named_by_its_path(layer, path):
    model = Sequential([layer])
    model.build((4, 4), key=1)
    wrong = np.full((2, 4, 5), 3, np.int64 if model.integer_input else np.float32)
    for take in (model, model.forward):
        with pytest.raises(ValueError, match=f"^layer {path}, .* (expects x of|takes indices)"):
            take(wrong)

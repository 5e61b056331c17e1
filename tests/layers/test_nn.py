"""Layers: formulas, gradients, streams, shapes. Losses, optimisers, constraints."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from scipy.special import log_softmax

import dropcore
from dropcore import Key
from dropcore.constraints import MaxNorm
from dropcore.losses import accuracy, softmax_cross_entropy
from dropcore.nn import Dense, Dropout, ReLU, Sequential
from dropcore.optim import SGD
from support.arrays import normal
from support.differences import differences

KEY = Key(11, stream=5, step=3)


def double(model, *sample, seed=1):
    """The model with float64 weights and biases that are not zero."""
    model.build(sample, key=seed, dtype=np.float64)
    for name, array in model.params.items():
        if name.endswith("bias"):
            array[:] = normal(*array.shape, seed=seed)
    return model


def network():
    return Sequential(
        [
            Dropout(keep=0.8),
            Dense(9, activation="relu"),
            Dropout(0.5),
            Sequential([Dense(8), ReLU(), Dropout(0.3)]),
            Dense(4),
        ]
    )


# --- gradients -----------------------------------------------------------------------------------


LAYERS = [
    (Dense(5), (6, 7)),
    (Dense(5, activation="relu"), (6, 7)),
    (Dense(5, use_bias=False, initializer="glorot_uniform"), (6, 7)),
    (Dense(5, activation="relu"), (3, 4, 7)),
    (ReLU(), (6, 7)),
    (Dropout(0.4), (6, 7)),
    (Dropout(0.4, shared_axes=1), (5, 6, 7)),
    (Dropout(0.4, shared_axes=(0,)), (6, 7)),
    (network(), (6, 7)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: repr(v)[:60])
def test_gradients_equal_finite_differences(layer, shape):
    layer = double(copy.deepcopy(layer), *shape[1:])
    x = normal(*shape, seed=2)
    y, backward = layer.forward(x, key=KEY)
    assert y.dtype == np.float64
    weights = normal(*y.shape, seed=3)
    dx, grads = backward(weights)

    def f():
        return float((layer.forward(x, key=KEY)[0] * weights).sum())

    assert np.abs(dx).max() > 0.01
    np.testing.assert_allclose(dx, differences(f, x), rtol=1e-6, atol=1e-7)
    assert grads.keys() == layer.params.keys()
    for name, weight in layer.params.items():
        assert grads[name].shape == weight.shape
        assert np.abs(grads[name]).max() > 0.01
        np.testing.assert_allclose(grads[name], differences(f, weight), rtol=1e-6, atol=1e-7)


def test_gradients_of_a_network_with_its_loss():
    model, x, labels = double(network(), 7), normal(6, 7), np.array([0, 3, 1, 1, 2, 0])
    out, backward = model.forward(x, key=KEY)
    dx, grads = backward(softmax_cross_entropy(out, labels)[1])

    def f():
        return softmax_cross_entropy(model.forward(x, key=KEY)[0], labels)[0]

    np.testing.assert_allclose(dx, differences(f, x), rtol=1e-6, atol=1e-8)
    for name, weight in model.params.items():
        np.testing.assert_allclose(grads[name], differences(f, weight), rtol=1e-6, atol=1e-8)


# --- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 7)])
def test_dense_is_its_formula(dtype, shape):
    layer = Dense(5, activation="relu")
    layer.build(shape[1:], key=1, dtype=dtype)
    layer.params["bias"][:] = [0.5, -0.5, 0, 1, 2]
    x = normal(*shape, dtype=dtype)
    y = layer(x)
    z = x.astype(np.float64) @ layer.params["weight"] + layer.params["bias"]
    assert (z < 0).any()
    assert y.dtype == dtype
    np.testing.assert_allclose(y, np.maximum(z, 0), rtol=1e-5, atol=1e-6)


def test_relu_is_its_formula():
    x = np.array([[-1.5, -0.0, 0.0, 2.5]], np.float32)
    np.testing.assert_array_equal(ReLU()(x), [[0, 0, 0, 2.5]])


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (Dropout(), {"rate": 0.5}),
        (Dropout(0.2), {"rate": 0.2}),
        (Dropout(keep=0.3), {"keep": 0.3}),
        (Dropout(0.4, shared_axes=1), {"rate": 0.4, "shared_axes": (1,)}),
        (Dropout(0.4, shared_axes=(-1, 0)), {"rate": 0.4, "shared_axes": (0, 2)}),
        (Dropout(0), {"rate": 0.0}),
        (Dropout(1.0), {"rate": 1.0}),
    ],
    ids=repr,
)
def test_dropout_layer_is_the_function(layer, options):
    x, dy = normal(40, 5, 6, dtype=np.float32), normal(40, 5, 6, dtype=np.float32, seed=1)
    y, backward = layer.forward(x, key=KEY)
    np.testing.assert_array_equal(y, dropcore.dropout(x, key=KEY, **options))
    np.testing.assert_array_equal(layer(x, KEY), y)
    dx, grads = backward(dy)
    np.testing.assert_array_equal(dx, dropcore.dropout_backward(dy, key=KEY, **options))
    np.testing.assert_array_equal(dx == 0, y == 0)
    assert grads == {}


def test_inference_has_no_noise():
    x = normal(8, 7)
    assert Dropout(0.5)(x) is x
    y, backward = Dropout(0.5).forward(x)
    assert y is x
    assert backward(x)[0] is x
    model = double(network(), 7)
    clean = Sequential([layer for _, layer in model.leaves() if not layer.n_streams])
    np.testing.assert_array_equal(model(x), clean(x))
    assert not np.array_equal(model(x, 3), clean(x))


# --- addresses of masks --------------------------------------------------------------------------


def test_every_site_has_its_own_stream_numbered_depth_first():
    sizes = 64, 32
    inner = Sequential([ReLU(), Dropout(0.5), Dropout(0.5)])
    model = Sequential([Dropout(0.5), ReLU(), inner, Dropout(0.5)])
    assert model.n_streams == 4
    keys = []
    for _, layer, key in model.children_with_keys(KEY):
        keys += [k for _, _, k in layer.children_with_keys(key)] if layer is inner else [key]
    assert [key and key.stream for key in keys] == [5, None, None, 6, 7, 8]
    x = np.ones(sizes, np.float32)
    expected = x
    for site in range(4):
        expected = dropcore.dropout(expected, 0.5, key=KEY.at(stream=KEY.stream + site))
    np.testing.assert_array_equal(model(x, KEY), expected)
    np.testing.assert_array_equal(model.forward(x, key=KEY)[0], expected)
    # Four independent masks of one half leave a sixteenth; a shared stream would leave a half.
    assert 0.03 < np.count_nonzero(expected) / x.size < 0.1


def test_last_stream_can_be_used():
    last = Key(1, stream=2**28 - 1)
    x = np.ones((4, 4), np.float32)
    model = Sequential([Dropout(0.5), ReLU()])
    np.testing.assert_array_equal(model(x, last), dropcore.dropout(x, 0.5, key=last))


@pytest.mark.parametrize("shared_axes", [(), (1,), (0,), (2,)])
def test_pieces_of_a_batch_draw_the_masks_of_the_whole(shared_axes):
    model = Sequential([Dropout(0.3, shared_axes=shared_axes), Dropout(0.6)])
    x, dy = normal(37, 5, 3), normal(37, 5, 3, seed=1)
    whole, backward = model.forward(x, key=KEY, row_offset=100)
    dx = backward(dy)[0]
    for first, last in [(0, 10), (10, 11), (11, 37)]:
        piece, back = model.forward(x[first:last], key=KEY, row_offset=100 + first)
        np.testing.assert_array_equal(piece, whole[first:last])
        np.testing.assert_array_equal(back(dy[first:last])[0], dx[first:last])
        np.testing.assert_array_equal(model(x[first:last], KEY, row_offset=100 + first), piece)
    if shared_axes != (0,):
        assert not np.array_equal(model(x, KEY) == 0, whole == 0)


@pytest.mark.parametrize("other", [KEY.at(step=4), KEY.at(stream=6), Key(12, 5, 3)])
def test_another_key_is_another_mask(other):
    x = np.ones((64, 64), np.float32)
    both = (Dropout(0.5)(x, KEY) > 0) == (Dropout(0.5)(x, other) > 0)
    assert 0.45 < both.mean() < 0.55


# --- weights -------------------------------------------------------------------------------------


def test_initial_weights_hang_on_the_seed():
    def weights(seed):
        model = network()
        model.build((7,), key=seed)
        return np.concatenate([w.ravel() for w in model.params.values()])

    np.testing.assert_array_equal(weights(3), weights(Key(3, stream=1, step=9)))
    seeds = [0, 1, 2**63, 2**63 + 1, 2**64 - 1]
    assert len({weights(seed).tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize(("name", "bound"), [("he_uniform", 6 / 300), ("glorot_uniform", 6 / 500)])
def test_initial_weights_have_the_variance_of_the_paper(name, bound):
    layer = Dense(200, initializer=name)
    layer.build((300,), key=0)
    weight = layer.params["weight"]
    assert weight.shape == (300, 200)
    assert weight.dtype == np.float32
    assert np.abs(weight).max() <= math.sqrt(bound)
    assert weight.var() == pytest.approx(bound / 3, rel=0.02)
    assert not layer.params["bias"].any()


def test_initializer_may_be_a_function():
    layer = Dense(2, initializer=lambda rng, shape: np.full(shape, 0.25))
    layer.build((3,), key=0)
    np.testing.assert_array_equal(layer.params["weight"], np.full((3, 2), 0.25, np.float32))


def test_build_keeps_the_weights_that_are_there():
    first = double(Dense(6), 7)
    before = first.params["weight"].copy()
    model = Sequential([first, Dense(3)])
    assert not model.built
    model.build((7,), key=9)
    assert model.built
    np.testing.assert_array_equal(model.params["0.weight"], before)
    assert model.params["1.weight"].dtype == np.float64
    with pytest.raises(ValueError, match="must be float64, as there are weights, got float32"):
        model.build((7,), key=0, dtype=np.float32)
    with pytest.raises(ValueError, match=r"layer 0, Dense\(6\) expects .* 7\), got \(8,\)"):
        model.build((8,), key=0)


def test_paths_of_parameters():
    names = ["1.weight", "1.bias", "3.0.weight", "3.0.bias", "4.weight", "4.bias"]
    model = double(network(), 7)
    assert list(model.params) == names
    assert model.params["3.0.weight"] is model[3][0].params["weight"]
    assert [path for path, _ in model.leaves()] == ["0", "1", "2", "3.0", "3.1", "3.2", "4"]


@pytest.mark.parametrize(
    "layer",
    [
        Dense(3),
        Dense(3, activation="relu", use_bias=False, constraint=MaxNorm(2.0, axis=1)),
        Dropout(),
        Dropout(0.1),
        Dropout(keep=0.9, shared_axes=(1, 2)),
        ReLU(),
        network(),
        Sequential([]),
    ],
    ids=repr,
)
def test_repr_rebuilds(layer):
    again = eval(repr(layer))
    assert repr(again) == repr(layer)
    assert type(again) is type(layer)
    if isinstance(layer, Dropout):
        assert again.keep == layer.keep
        assert again.shared_axes == layer.shared_axes


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent_and_equal(copied):
    model, x = double(network(), 7), normal(5, 7)
    other = copied(model)
    expected = model(x, KEY)
    np.testing.assert_array_equal(other(x, KEY), expected)
    other.params["1.weight"][:] = 0
    np.testing.assert_array_equal(model(x, KEY), expected)


# --- bad input -----------------------------------------------------------------------------------


def call(layer, x, build=(7,)):
    layer.build(build, key=0)
    return layer(x)


ZEROS = np.zeros((2, 7), np.float32)
WRONG = [
    (lambda: Dropout(256), ValueError, r"\[0, 1\], got 256; did you mean Dense\(256\)"),
    (lambda: Dropout(1.5), ValueError, "1.5"),
    (lambda: Dropout(math.inf), ValueError, "inf"),
    (lambda: Dropout(0.5, shared_axes=0.5), TypeError, "float"),
    (lambda: Dropout(-0.1), ValueError, "-0.1"),
    (lambda: Dropout(math.nan), ValueError, "nan"),
    (lambda: Dropout(keep=1.01), ValueError, "1.01"),
    (lambda: Dropout(0.5, keep=0.5), ValueError, "keep"),
    (lambda: Dropout(0.5, shared_axes=3)(ZEROS, 0), ValueError, "axis 3.* 2 axes"),
    (lambda: Dropout(0.5)(ZEROS, -1), ValueError, "-1"),
    (lambda: Dropout(0.5)(ZEROS, 0.5), TypeError, "0.5"),
    (lambda: Dropout(0.5)(ZEROS, 0, row_offset=-1), ValueError, "offset|row"),
    (lambda: Dense(0), ValueError, "positive integer, got 0"),
    (lambda: Dense(2.5), TypeError, "positive integer, got 2.5"),
    (lambda: Dense(2, activation="tan"), ValueError, "None, 'relu', .*'softmax', got 'tan'"),
    (lambda: Dense(2, initializer="he"), ValueError, "'he_uniform', .* or a callable, got 'he'"),
    (lambda: Dense(2)(ZEROS), ValueError, r"Dense\(2\) has no weights yet: call build"),
    (lambda: Dense(2).build((), key=0), ValueError, r"\(..., in_features\), got \(\)"),
    (lambda: Dense(2).build(7, key=0), TypeError, r"such as \(7,\), got 7"),
    (lambda: Dense(2).build((7,), key=0, dtype=np.float16), ValueError, "float64, got float16"),
    (lambda: call(Dense(2), np.zeros((2, 8), np.float32)), ValueError, r"7\), got \(2, 8\)"),
    (lambda: call(Dense(2), np.zeros(7, np.float32)), ValueError, r"got \(7,\)"),
    (lambda: call(Dense(2), np.zeros((2, 7))), TypeError, "float32 weights .* got float64"),
    (lambda: call(Dense(2), [[0.0] * 7]), TypeError, "an array, got list"),
    (lambda: call(network(), np.zeros((2, 8), np.float32)), ValueError, r"layer 1, Dense\(9.*8\)"),
    (lambda: network()(ZEROS), ValueError, r"layer 1, Dense\(9, .* has no weights"),
    (
        lambda: Sequential([ReLU(), Sequential([Dense(2)])])(ZEROS),
        ValueError,
        r"^layer 1\.0, Dense\(2\) has",
    ),
    (lambda: Sequential(Dense(2)), TypeError, r"list of layers.* got Dense\(2\)"),
    (lambda: Sequential([Dense(2), 3]), TypeError, "got 3 at position 1"),
    (lambda: SGD(0.0), ValueError, "positive number .* got 0.0"),
    (lambda: SGD(math.nan), ValueError, "got nan"),
    (lambda: SGD(0.1, momentum=1.0), ValueError, r"\[0, 1\), got 1.0"),
    (lambda: SGD(0.1, nesterov=True), ValueError, "needs a momentum"),
    (lambda: MaxNorm(0), ValueError, "positive, got 0"),
    (lambda: MaxNorm(math.nan), ValueError, "positive, got nan"),
    (lambda: MaxNorm.paper(3), ValueError, "got neither"),
    (lambda: MaxNorm.paper(3, rate=0.5, keep=0.5), ValueError, "keep"),
    (lambda: softmax_cross_entropy(ZEROS, [0.0, 1.0]), TypeError, "integers .* got dtype float64"),
    (lambda: softmax_cross_entropy(ZEROS, [0, 7]), ValueError, r"\[0, 7\), .* got 7"),
    (lambda: softmax_cross_entropy(ZEROS, [-1, 0]), ValueError, "got -1"),
    (lambda: softmax_cross_entropy(ZEROS, [0]), ValueError, r"shape \(2,\).* got \(1,\)"),
    (lambda: softmax_cross_entropy(ZEROS[:0], np.zeros(0, int)), ValueError, "not be empty"),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_bad_input_says_what_is_allowed_and_what_was_found(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- losses, optimisers, constraints -------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("size", [1, 1e4])
def test_cross_entropy(shape, size):
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


def test_cross_entropy_keeps_dtype_and_input():
    logits = normal(4, 3, dtype=np.float32)
    before = logits.copy()
    _, dlogits = softmax_cross_entropy(logits, np.array([0, 1, 2, 0], np.uint8))
    assert dlogits.dtype == np.float32
    np.testing.assert_array_equal(logits, before)


def test_accuracy():
    logits = np.array([[1, 2, 0], [3, 2, 0], [0, 0, 1], [5, 1, 1]])
    assert accuracy(logits, np.array([1, 0, 2, 2])) == 0.75


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(0.5), [0.0, -1.5]),
        (SGD(0.5, momentum=0.5), [0.0, -2.0]),
        (SGD(0.5, momentum=0.5, nesterov=True), [-0.5, -3.0]),
        (SGD(lambda step: [0.5, 1.0][step], momentum=0.5), [0.0, -3.5]),
        (SGD(np.float64(0.5), momentum=np.float64(0.5)), [0.0, -2.0]),
    ],
)
def test_sgd_by_hand(optimizer, expected):
    """w = 1, g = 2 and then 3: each number follows from the docstring's two lines."""
    weight = np.ones((2, 2), np.float32)
    params = {"w": weight}
    state = optimizer.init(params)
    for step, gradient in enumerate((2, 3)):
        grads = {"w": np.full((2, 2), gradient, np.float32)}
        optimizer.apply(params, grads, state, step)
        np.testing.assert_array_equal(weight, np.full((2, 2), expected[step], np.float32))
        np.testing.assert_array_equal(grads["w"], np.full((2, 2), gradient, np.float32))
    assert params["w"] is weight


def test_sgd_computes_in_the_dtype_of_the_weights():
    found = []
    for kind in (float, np.float64):
        weight, optimizer = normal(50, dtype=np.float32), SGD(kind(0.1), momentum=kind(0.9))
        state = optimizer.init({"w": weight})
        for step in range(3):
            grads = {"w": normal(50, dtype=np.float32, seed=step)}
            optimizer.apply({"w": weight}, grads, state, step)
        found.append(weight)
    np.testing.assert_array_equal(*found)


def test_max_norm_bounds_the_incoming_weights_of_a_unit():
    weight = normal(30, 20, dtype=np.float32)
    weight[:, 0] *= 0.01
    before = weight.copy()
    bound = 3.0
    MaxNorm(bound)(weight)
    norms = np.linalg.norm(weight.astype(np.float64), axis=0)
    assert (norms <= bound).all()
    assert (norms[1:] > 0.999 * bound).all()
    np.testing.assert_array_equal(weight[:, 0], before[:, 0])
    kernel = normal(3, 3, 4, 8, dtype=np.float32)
    MaxNorm(1.0)(kernel)
    norms = np.linalg.norm(kernel.reshape(36, 8).astype(np.float64), axis=0)
    assert (norms <= 1).all()
    assert (norms > 0.999).all()
    rows = normal(30, 20, dtype=np.float32)
    MaxNorm(1.0, axis=1)(rows)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_max_norm_of_the_paper():
    assert MaxNorm.paper(3, keep=0.5) == MaxNorm(1.5)
    assert MaxNorm.paper(2, rate=0.25, axis=1) == MaxNorm(1.5, axis=1)

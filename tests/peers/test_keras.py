"""Keras, layer by layer: the same weights, the same mask, forward and backward.

Keras runs on PyTorch unless
KERAS_BACKEND=tensorflow is set. The last section holds what differs on purpose.
"""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest

from dropcore import Mask, constraints, losses, optim, regularizers, schedules
from dropcore.nn import (
    ELU,
    GELU,
    GRU,
    LSTM,
    SELU,
    ActivityRegularization,
    AlphaDropout,
    AveragePool1D,
    AveragePool2D,
    BatchNorm,
    Bidirectional,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    LayerNorm,
    LeakyReLU,
    MaxPool1D,
    MaxPool2D,
    Parallel,
    ReLU,
    Reshape,
    Sequential,
    Sigmoid,
    SiLU,
    SimpleRNN,
    Softmax,
    Softplus,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Tanh,
    UnitDropout,
)
from dropcore.nn.activations import ACTIVATIONS
from dropcore.nn.initializers import INITIALIZERS, Orthogonal
from dropcore.noise import normal as noise
from support.arrays import close, normal
from support.layers import build
from support.peers import (
    KEY,
    ON_TENSORFLOW,
    by_keras,
    each_keras_dtype,
    fed,
    rounded,
    with_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages

# --- gradients by the peers ----------------------------------------------------------------------


def same_as_keras(keras, ours, theirs, x, **options):
    """Forward, input gradient, and gradients of the weights, which come in the same order."""
    build(ours, *x.shape[1:], dtype=x.dtype if x.dtype.kind == "f" else np.float32)
    with_weights(ours, theirs, x)
    lengths, tolerance = options.pop("lengths", None), options.pop("tolerance", None)
    y, backward = ours.forward(x, **ours.extras(lengths))
    dy = normal(*y.shape, dtype=y.dtype, seed=3)
    dx, grads = backward(dy)
    if lengths is not None:
        options["mask"] = mask_of(keras, lengths, x.shape[1])
    wanted, gradients = by_keras(
        keras, lambda t: theirs(t, **options), [x], theirs.trainable_variables, dy
    )
    close(y, wanted, "y", tolerance)
    names = [name for name in ours.params if name in grads]
    found = ([dx] if x.dtype.kind == "f" else []) + [grads[name] for name in names]
    for a, b, name in zip(found, gradients, ["dx", *names][-len(found) :], strict=True):
        close(a, b, name, tolerance)


# --- dense, convolution, pooling, normalisation, shape -------------------------------------------


def peer(keras, name, dtype, **options):
    return getattr(keras.layers, name)(dtype=np.dtype(dtype).name, **options)


def keras_activation(keras, name):
    if name == "leaky_relu":  # whose slope is 0.2 there
        return lambda x: keras.activations.leaky_relu(x, negative_slope=0.01)
    return name


@each_keras_dtype
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("shape", [(9, 13), (3, 4, 13)])
def test_dense_is_that_of_keras(keras, activation, shape, dtype):
    theirs = peer(keras, "Dense", dtype, units=17, activation=keras_activation(keras, activation))
    x = 2 * normal(*shape, dtype=dtype)
    ours = Dense(17, activation=activation)
    same_as_keras(keras, ours, theirs, x, tolerance=rounded(dtype))


CONVOLUTIONS = [
    (1, {}), (1, {"stride": 2}), (1, {"dilation": 3}), (1, {"groups": 3}),
    (1, {"stride": 3, "groups": 3}), (1, {"use_bias": False}),
    (2, {}), (2, {"stride": (2, 1)}), (2, {"dilation": (1, 2)}), (2, {"groups": 3}),
    (2, {"stride": 3}), (2, {"activation": "relu"}), (2, {"activation": "softmax"}),
    (2, {"activation": "gelu", "use_bias": False}),
]  # fmt: skip
KERAS_NAMES = {"stride": "strides", "dilation": "dilation_rate"}


@each_keras_dtype
@pytest.mark.parametrize(
    ("axes", "options", "padding"),
    [(*case, p) for case in CONVOLUTIONS for p in ("valid", "same", "causal")[: 4 - case[0]]],
    ids=repr,
)
def test_convolutions_are_those_of_keras(keras, axes, options, padding, dtype):
    if "groups" in options and ON_TENSORFLOW:
        pytest.skip("TensorFlow has no gradient of grouped convolutions on CPUs")
    kernel = 4 if axes == 1 else (4, 3)
    x = normal(2, *((11,) if axes == 1 else (9, 10)), 6, dtype=dtype)
    past = (kernel - 1) * options.get("dilation", 1) if padding == "causal" else 0
    ours = (Conv1D if axes == 1 else Conv2D)(
        9, kernel, padding=(past, 0) if padding == "causal" else padding, **options
    )
    theirs = peer(
        keras, f"Conv{axes}D", dtype, filters=9, kernel_size=kernel, padding=padding,
        **{KERAS_NAMES.get(name, name): value for name, value in options.items()},
    )  # fmt: skip
    constants = rounded(dtype) if "activation" in options else None
    same_as_keras(keras, ours, theirs, x, tolerance=constants)


WINDOWS = {
    "max 1": (MaxPool1D, "MaxPooling1D", 3, 2, (10, 5)),
    "max 1, overlapping": (MaxPool1D, "MaxPooling1D", 4, 1, (9, 3)),
    "max 2": (MaxPool2D, "MaxPooling2D", 2, None, (7, 8, 3)),
    "max 2, overlapping": (MaxPool2D, "MaxPooling2D", (3, 2), (2, 1), (8, 7, 3)),
    "average 1": (AveragePool1D, "AveragePooling1D", 3, 2, (10, 5)),
    "average 1, even": (AveragePool1D, "AveragePooling1D", 4, 3, (11, 5)),
    "average 2": (AveragePool2D, "AveragePooling2D", (3, 2), 2, (7, 8, 3)),
}


@each_keras_dtype
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("case", WINDOWS)
def test_pooling_is_that_of_keras(keras, case, padding, dtype):
    if case == "average 1" and padding == "same" and not ON_TENSORFLOW:
        pytest.skip("on PyTorch Keras repeats the last step where the padding is not symmetric")
    ours, name, size, stride, shape = WINDOWS[case]
    theirs = peer(keras, name, dtype, pool_size=size, strides=stride, padding=padding)
    x = normal(3, *shape, dtype=dtype)
    same_as_keras(keras, ours(size, stride=stride, padding=padding), theirs, x)


LAYERS = {
    "global max 1": (GlobalMaxPool1D(), "GlobalMaxPooling1D", {}, (7, 5)),
    "global max 2": (GlobalMaxPool2D(), "GlobalMaxPooling2D", {}, (6, 7, 5)),
    "global mean 1": (GlobalAveragePool1D(), "GlobalAveragePooling1D", {}, (7, 5)),
    "global mean 2": (GlobalAveragePool2D(), "GlobalAveragePooling2D", {}, (6, 7, 5)),
    "layer norm": (LayerNorm(epsilon=0.01), "LayerNormalization", {"epsilon": 0.01}, (7, 13)),
    "layer norm, no scale": (LayerNorm(scale=False), "LayerNormalization",
                             {"epsilon": 1e-5, "scale": False}, (13,)),
    "flatten": (Flatten(), "Flatten", {}, (4, 5, 2)),
    "reshape": (Reshape((5, 8)), "Reshape", {"target_shape": (5, 8)}, (4, 10)),
    "relu": (ReLU(), "ReLU", {}, (7, 5)),
    "leaky": (LeakyReLU(0.3), "LeakyReLU", {"negative_slope": 0.3}, (7, 5)),
    "elu": (ELU(0.7), "ELU", {"alpha": 0.7}, (7, 5)),
    "selu": (SELU(), "Activation", {"activation": "selu"}, (7, 5)),
    "gelu": (GELU(), "Activation", {"activation": "gelu"}, (7, 5)),
    "silu": (SiLU(), "Activation", {"activation": "silu"}, (7, 5)),
    "tanh": (Tanh(), "Activation", {"activation": "tanh"}, (7, 5)),
    "sigmoid": (Sigmoid(), "Activation", {"activation": "sigmoid"}, (7, 5)),
    "softplus": (Softplus(), "Activation", {"activation": "softplus"}, (7, 5)),
    "softmax": (Softmax(), "Softmax", {}, (7, 5)),
}  # fmt: skip


@each_keras_dtype
@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_those_of_keras(keras, case, dtype):
    ours, name, options, shape = LAYERS[case]
    x = 3 * normal(4, *shape, dtype=dtype)
    if not case.startswith("global max"):  # without ties, each of which Keras gives its part
        x.reshape(-1)[:8] = 0.0, -0.0, 1e-4, -1e-4, 12, -12, 40, -40
    if case == "selu" and ON_TENSORFLOW:  # which takes the slope on the right of 0
        x[x == 0] = 1
    theirs = peer(keras, name, dtype, **options)
    same_as_keras(keras, copy.deepcopy(ours), theirs, x, tolerance=rounded(dtype))


@each_keras_dtype
def test_gelu_by_tanh_is_that_of_keras(keras, dtype):
    theirs = peer(
        keras, "Activation", dtype, activation=lambda x: keras.activations.gelu(x, approximate=True)
    )
    x = 3 * normal(9, 7, dtype=dtype)
    same_as_keras(keras, GELU("tanh"), theirs, x, tolerance=rounded(dtype))


@each_keras_dtype
@pytest.mark.parametrize(
    ("merge", "name"), [("concat", "Concatenate"), ("sum", "Add"), ("mean", "Average")]
)
def test_merging_is_that_of_keras(keras, merge, name, dtype):
    x = normal(5, 6, dtype=dtype)
    ours = build(
        Parallel([Dense(4), Dense(4, activation="tanh")], merge=merge), *x.shape[1:], dtype=dtype
    )
    y, backward = ours.forward(x)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    dx, grads = backward(dy)
    branches = [peer(keras, "Dense", dtype, units=4, activation=a) for a in (None, "tanh")]
    for child, branch in zip(ours.children.values(), branches, strict=True):
        with_weights(child, branch, x)
    merged = peer(keras, name, dtype)
    wanted, gradients = by_keras(
        keras, lambda t: merged([branch(t) for branch in branches]), [x],
        [v for branch in branches for v in branch.trainable_variables], dy,
    )  # fmt: skip
    close(y, wanted)
    for a, b in zip([dx, *(grads[name] for name in ours.params)], gradients, strict=True):
        close(a, b)


def test_embedding_is_that_of_keras(keras):
    x = np.random.default_rng(0).integers(0, 12, (6, 9))
    same_as_keras(keras, Embedding(14, 5), keras.layers.Embedding(14, 5), x)


@each_keras_dtype
@pytest.mark.parametrize("shape", [(16, 7), (4, 5, 6, 3)])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=repr)
def test_batch_norm_is_that_of_keras_over_several_steps(keras, shape, options, dtype):
    """Keras' running variance is that of the batch, ours its unbiased estimate."""
    name = np.dtype(dtype).name
    x = normal(*shape, dtype=dtype)
    ours = build(BatchNorm(momentum=0.8, epsilon=1e-3, **options), *x.shape[1:], dtype=dtype)
    ours.buffers["mean"][:] = normal(shape[-1], seed=5)
    ours.buffers["variance"][:] = 0.5 + normal(shape[-1], seed=6) ** 2
    theirs = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-3, dtype=name, **options)
    with_weights(ours, theirs, x)
    rows = x.size // shape[-1]
    start = ours.buffers["variance"].copy()
    for step in range(6):
        x = (1 + 2 * normal(*shape, seed=10 + step)).astype(dtype)
        dy = normal(*shape, dtype=dtype, seed=20 + step)
        y, backward = ours.forward(x)
        dx, grads = backward(dy, for_update=True)
        wanted, gradients = by_keras(
            keras, lambda t: theirs(t, training=True), [x], theirs.trainable_variables, dy
        )
        close(y, wanted, "y")
        for a, b in zip([dx, *(grads[n] for n in ours.params)], gradients, strict=True):
            close(a, b)
    as_numpy = keras.ops.convert_to_numpy
    close(ours.buffers["mean"], as_numpy(theirs.moving_mean), tolerance=1e-6)
    kept = 0.8**6 * start
    moved = (ours.buffers["variance"] - kept) * (rows - 1) / rows + kept
    close(moved, as_numpy(theirs.moving_variance), tolerance=2e-6)
    theirs.moving_variance.assign(ours.buffers["variance"])
    close(ours(x), as_numpy(theirs(x, training=False)), "inference")


# --- recurrent -----------------------------------------------------------------------------------

CELLS = ["tanh", "relu", "gru", "lstm"]
each_cell = pytest.mark.parametrize("cell", CELLS)


def cells(keras, cell, units, dtype, *, reverse=False, **options):
    """Our layer, and Keras' with the same arguments."""
    name = np.dtype(dtype).name
    there = {"dtype": name, "go_backwards": reverse, **options}
    here = {"reverse": reverse, **options}
    if cell in ("tanh", "relu"):
        return (SimpleRNN(units, activation=cell, **here),
                keras.layers.SimpleRNN(units, activation=cell, **there))  # fmt: skip
    return {"gru": (GRU, keras.layers.GRU), "lstm": (LSTM, keras.layers.LSTM)}[cell][0](
        units, **here
    ), getattr(keras.layers, cell.upper())(units, **there)


def mask_of(keras, lengths, steps=5):
    if lengths is None:
        return None
    return keras.ops.convert_to_tensor(np.arange(steps) < lengths[:, None])


def states(layer, batch, dtype):
    parts = 2 if isinstance(layer, LSTM) else 1
    return [0.5 * normal(batch, layer.units, dtype=dtype, seed=30 + i) for i in range(parts)]


LENGTHS = np.array([5, 1, 3, 5, 2, 4])


@each_keras_dtype
@each_cell
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"use_bias": False}], ids=repr)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
def test_cells_are_those_of_keras(keras, cell, sequences, options, lengths, dtype):
    """From a state and to the last one; Keras' backward outputs stand in the order of its run."""
    ours, theirs = cells(keras, cell, 7, dtype, return_sequences=sequences, **options)
    theirs.return_state, theirs.zero_output_for_mask = True, sequences
    x = normal(6, 5, 4, dtype=dtype)
    with_weights(build(ours, *x.shape[1:], dtype=dtype), theirs, x)
    first = states(ours, 6, dtype)
    several = len(first) > 1
    y, last, backward = ours.forward_from(x, tuple(first) if several else first[0], lengths=lengths)
    dy = [normal(*a.shape, dtype=dtype, seed=3) for a in (y, *(last if several else (last,)))]
    dx, grads, dfirst = backward(dy[0], tuple(dy[1:]) if several else dy[1])
    mask = mask_of(keras, lengths)

    def run(x, *state):
        y, *last = theirs(x, initial_state=list(state), mask=mask)
        return [keras.ops.flip(y, 1) if sequences and ours.reverse else y, *last]

    wanted, gradients = by_keras(keras, run, [x, *first], theirs.trainable_variables, dy)
    found = [y, *(last if several else (last,)), dx, *(dfirst if several else (dfirst,)),
             *(grads[name] for name in ours.params)]  # fmt: skip
    for a, b in zip(found, [*wanted, *gradients], strict=True):
        close(a, b)


@each_keras_dtype
@each_cell
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
@pytest.mark.parametrize("merge", ["concat", "sum", "mean"])
def test_both_directions_are_those_of_keras(keras, cell, sequences, merge, dtype):
    ours, theirs = cells(keras, cell, 5, dtype, return_sequences=sequences)
    theirs = keras.layers.Bidirectional(
        theirs, merge_mode={"mean": "ave"}.get(merge, merge), dtype=np.dtype(dtype).name
    )
    lengths = LENGTHS if merge == "concat" else None
    x = normal(6, 5, 4, dtype=dtype)
    same_as_keras(keras, Bidirectional(ours, merge), theirs, x, lengths=lengths)


@each_keras_dtype
@each_cell
@pytest.mark.parametrize("kind", ["dropout", "recurrent_dropout", "both"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "ragged"])
def test_cells_with_dropout_are_those_of_keras(keras, monkeypatch, cell, kind, lengths, dtype):
    """One mask of the input and one of h for each sequence, the same for all gates.

    Where h is dropped, Keras draws masks for each gate of GRU and LSTM; it is fed the same for all.
    """
    rates = {"dropout": 0.3, "recurrent_dropout": 0.4}
    rates = rates if kind == "both" else {kind: rates[kind]}
    ours, theirs = cells(keras, cell, 7, dtype, return_sequences=True, **rates)
    x = normal(6, 5, 4, dtype=dtype)
    with_weights(build(ours, *x.shape[1:], dtype=dtype), theirs, x)
    theirs.zero_output_for_mask, mask = True, mask_of(keras, lengths)
    shapes = {"dropout": (6, 4), "recurrent_dropout": (6, 7)}
    for site, name in enumerate(shapes):
        if name not in rates:
            continue
        drawn = Mask(shapes[name], rates[name], key=KEY.at(stream=KEY.stream + site))
        fed = keras.ops.convert_to_tensor((drawn.to_bool() * drawn.scale).astype(dtype))
        count = getattr(theirs.cell, "dropout_mask_count", None)
        fed = fed if count is None else [fed] * count
        get = "get_" + name.replace("dropout", "dropout_mask")
        monkeypatch.setattr(theirs.cell, get, lambda _, fed=fed: fed)
    y, backward = ours.forward(x, key=KEY, lengths=lengths)
    assert not np.allclose(y, ours(x, lengths=lengths), atol=1e-3)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    dx, grads = backward(dy)
    wanted, gradients = by_keras(
        keras, lambda t: theirs(t, training=True, mask=mask), [x], theirs.trainable_variables, dy
    )
    close(y, wanted)
    for a, b in zip([dx, *(grads[name] for name in ours.params)], gradients, strict=True):
        close(a, b)


@each_keras_dtype
def test_means_of_padded_sequences_are_those_of_keras(keras, dtype):
    x = normal(6, 5, 3, dtype=dtype)
    theirs = keras.layers.GlobalAveragePooling1D(dtype=np.dtype(dtype).name)
    same_as_keras(keras, GlobalAveragePool1D(), theirs, x, lengths=LENGTHS)


def test_a_stack_of_padded_sequences_is_that_of_keras(keras):
    """Embedding(mask_zero=True) hands its mask on; here lengths say the same."""
    words = np.random.default_rng(0).integers(1, 12, (6, 5))
    words[np.arange(5) >= LENGTHS[:, None]] = 0
    ours = Sequential([Embedding(12, 4), LSTM(6, return_sequences=True), GRU(3), Dense(2)])
    layers = keras.layers
    theirs = keras.Sequential([layers.Embedding(12, 4, mask_zero=True),
                               layers.LSTM(6, return_sequences=True), layers.GRU(3),
                               layers.Dense(2)])  # fmt: skip
    build(ours, *words.shape[1:], dtype=np.float32)
    with_weights(ours, theirs, words)
    y, backward = ours.forward(words, lengths=LENGTHS)
    dy = normal(*y.shape, dtype=np.float32, seed=3)
    wanted, gradients = by_keras(keras, theirs, [words], theirs.trainable_variables, dy)
    close(y, wanted)
    grads = backward(dy)[1]
    for name, gradient in zip(ours.params, gradients, strict=True):
        close(grads[name], gradient, name)


# --- dropout and noise ---------------------------------------------------------------------------

DROPS = {
    "Dropout": (Dropout(0.3), "Dropout", {}, (9, 20)),
    "time": (Dropout(0.4, shared_axes=1), "Dropout", {"noise_shape": (None, 1, None)}, (9, 5, 20)),
    "batch": (Dropout(0.4, shared_axes=0), "Dropout", {"noise_shape": (1, None, None)}, (9, 5, 20)),
    "samples": (Dropout(0.4, shared_axes=(1, -1)), "Dropout", {"noise_shape": (None, 1, 1)},
                (40, 5, 2)),
    "maps 1": (SpatialDropout1D(0.5), "SpatialDropout1D", {}, (9, 4, 8)),
    "maps 2": (SpatialDropout2D(0.2), "SpatialDropout2D", {}, (9, 4, 3, 8)),
    "maps 3": (SpatialDropout3D(0.2), "SpatialDropout3D", {}, (9, 4, 3, 2, 8)),
    "alpha": (AlphaDropout(0.3), "AlphaDropout", {}, (9, 20)),
    "alpha, time": (AlphaDropout(0.3, shared_axes=1), "AlphaDropout",
                    {"noise_shape": (None, 1, None)}, (9, 5, 20)),
}  # fmt: skip


@each_keras_dtype
@pytest.mark.parametrize("case", DROPS)
def test_dropout_is_that_of_keras(keras, monkeypatch, case, dtype):
    ours, name, options, shape = DROPS[case]
    ours = copy.deepcopy(ours)
    theirs = peer(keras, name, dtype, rate=ours.rate, seed=1, **options)
    x, dy = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=3)
    wanted, gradients = by_keras(keras, lambda t: theirs(t, training=True), [x], [], dy)
    fed(monkeypatch, ours, wanted)
    y, backward = ours.forward(x, key=KEY)
    close(y, wanted)
    close(backward(dy)[0], gradients[0])
    close(ours(x), keras.ops.convert_to_numpy(theirs(x, training=False)), "inference")


@each_keras_dtype
@pytest.mark.parametrize("number", [0.1, 0.6])
def test_noise_is_that_of_keras(keras, monkeypatch, number, dtype):
    """Keras' formula of our standard normals."""
    name = np.dtype(dtype).name
    x, dy = normal(9, 20, dtype=dtype), normal(9, 20, dtype=dtype, seed=3)
    z = noise(x.shape, key=KEY, dtype=dtype)

    def draw(shape, mean, stddev, **_):
        assert tuple(shape) == x.shape
        return mean + stddev * keras.ops.convert_to_tensor(z)

    random = importlib.import_module("keras.src.backend").random
    monkeypatch.setattr(random, "normal", draw)
    for ours, theirs in (
        (GaussianNoise(number), keras.layers.GaussianNoise(number, dtype=name)),
        (GaussianDropout(number), keras.layers.GaussianDropout(number, dtype=name)),
    ):
        y, backward = ours.forward(x, key=KEY)
        wanted, gradients = by_keras(
            keras, lambda t, theirs=theirs: theirs(t, training=True), [x], [], dy
        )
        close(y, wanted)
        close(backward(dy)[0], gradients[0])
        assert np.array_equal(ours(x), keras.ops.convert_to_numpy(theirs(x, training=False)))


# --- optimisers and schedules --------------------------------------------------------------------

RATE = 0.0625  # Keras keeps it in float32

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
    "rmsprop": (optim.RMSprop(RATE, beta=0.9, epsilon=1e-14),
                lambda k: k.RMSprop(RATE, 0.9, epsilon=1e-14)),
    "rmsprop, momentum": (optim.RMSprop(RATE, beta=0.9, momentum=0.7, epsilon=1e-14),
                          lambda k: k.RMSprop(RATE, 0.9, 0.7, epsilon=1e-14)),
    "rmsprop, centered": (
        optim.RMSprop(RATE, beta=0.9, centered=True, momentum=0.7, epsilon=1e-14),
        lambda k: k.RMSprop(RATE, 0.9, 0.7, epsilon=1e-14, centered=True)),
    "adagrad": (optim.Adagrad(RATE, initial=0.1, epsilon=1e-14),
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
    "longer restarts": (schedules.Cosine(0.5, 3, 0.0, restarts=9, longer=2),
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


# --- losses, constraints, regularisers, initialisers ---------------------------------------------

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


# --- whole networks ------------------------------------------------------------------------------


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


# --- what differs on purpose ---------------------------------------------------------------------


def test_epsilon_of_adam_is_that_of_the_algorithm(keras):
    """Keras has the paper's epsilon hat, beside the root of v that is not corrected yet."""
    params, g = {"w": normal(6, 5)}, normal(6, 5, seed=1)
    variable = keras.Variable(params["w"], dtype="float64")
    ours = optim.Adam(RATE, epsilon=0.1)
    ours.apply(params, {"w": g}, ours.init(params), 0)
    theirs = keras.optimizers.Adam(RATE, epsilon=0.1 * np.sqrt(1 - 0.999))
    theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    close(params["w"], keras.ops.convert_to_numpy(variable), tolerance=1e-6)


@pytest.mark.parametrize("kind", ["rmsprop", "adagrad"])
def test_epsilon_stands_outside_of_the_root(keras, kind):
    """As in PyTorch; Keras has it inside."""
    g = np.full(3, 2.0)
    params, variable = {"w": np.zeros(3)}, keras.Variable(np.zeros(3), dtype="float64")
    k = keras.optimizers
    ours, theirs, square = {
        "rmsprop": (optim.RMSprop(RATE, beta=0.75, epsilon=0.5),
                    k.RMSprop(RATE, 0.75, epsilon=0.5), 1.0),
        "adagrad": (optim.Adagrad(RATE, epsilon=0.5),
                    k.Adagrad(RATE, initial_accumulator_value=0.0, epsilon=0.5), 4.0),
    }[kind]  # fmt: skip
    ours.apply(params, {"w": g}, ours.init(params), 0)
    theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    close(params["w"], -RATE * g / (np.sqrt(square) + 0.5))
    wanted = -RATE * g / np.sqrt(square + 0.5)
    close(keras.ops.convert_to_numpy(variable), wanted, tolerance=1e-9)


def test_weight_decay_of_sgd_passes_through_the_velocity(keras):
    """As in PyTorch; Keras multiplies the weight and leaves the velocity alone."""
    w, g = normal(6, 5), normal(6, 5, seed=1)
    params, variable = {"w": w.copy()}, keras.Variable(w, dtype="float64")
    ours = optim.SGD(RATE, momentum=0.5, weight_decay=0.25)
    state = ours.init(params)
    theirs = keras.optimizers.SGD(RATE, momentum=0.5, weight_decay=0.25)
    for step in range(2):
        ours.apply(params, {"w": g}, state, step)
        theirs.apply([keras.ops.convert_to_tensor(g)], [variable])
    first = w - RATE * (g + 0.25 * w)
    close(params["w"], first + 0.5 * (first - w) - RATE * (g + 0.25 * first))
    first = (1 - 0.25 * RATE) * w - RATE * g
    second = (1 - 0.25 * RATE) * first - RATE * 1.5 * g
    close(keras.ops.convert_to_numpy(variable), second, tolerance=1e-9)


def test_a_boundary_is_the_first_step_of_the_next_value(keras):
    """As in PyTorch's MultiStepLR; in Keras it is the last of the value before."""
    ours = schedules.Piecewise([1.0, 0.5, 0.25], [3, 5])
    theirs = keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.25])
    assert [ours(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert [ours(s) for s in range(8)] == [float(theirs(s)) for s in range(8)]


def test_a_warm_up_does_not_waste_its_first_step(keras):
    """Keras' begins at the rate 0; ours is one step ahead and takes one step more to rise."""
    ours = schedules.WarmUp(schedules.Cosine(0.5, 10), 4)
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.5, warmup_steps=5)
    for step in range(15):
        assert ours(step) == pytest.approx(float(theirs(step + 1)), abs=1e-6)
    assert float(theirs(0)) == 0


def test_fans_of_groups_and_of_embeddings(keras):
    """An input of a grouped convolution feeds its own group; Keras and PyTorch count all filters.

    One word comes at a time: fan in is 1. Keras takes the number of words for it.
    """
    conv = Conv1D(240, 2, groups=4, initializer="glorot_uniform")
    conv.build((9, 80), key=1)
    theirs = keras.layers.Conv1D(240, 2, groups=4)
    theirs.build((None, 9, 80))
    assert np.abs(conv.params["weight"]).max() == pytest.approx(
        np.sqrt(6 / (2 * 20 + 2 * 60)), rel=1e-3
    )
    bound = float(np.abs(keras.ops.convert_to_numpy(theirs.kernel)).max())
    assert bound == pytest.approx(np.sqrt(6 / (2 * 20 + 2 * 240)), rel=1e-3)
    words = Embedding(300, 100, initializer="glorot_uniform")
    words.build((9,), key=1)
    theirs = keras.layers.Embedding(300, 100, "glorot_uniform")
    theirs.build((None, 9))
    assert np.abs(words.params["weight"]).max() == pytest.approx(np.sqrt(6 / 101), rel=1e-3)
    bound = float(np.abs(keras.ops.convert_to_numpy(theirs.embeddings)).max())
    assert bound == pytest.approx(np.sqrt(6 / 400), rel=1e-3)


def test_gates_are_drawn_on_their_own(keras):
    """Each gate's kernel is Glorot's for its own units, and each recurrent one is orthogonal.

    Keras draws (in, gates * units) as one matrix: its kernels are smaller, and its recurrent gates
    are orthogonal only together.
    """
    ours = LSTM(60)
    ours.build((None, 40), key=1)
    theirs = keras.layers.LSTM(60)
    theirs.build((None, 5, 40))
    there = [keras.ops.convert_to_numpy(w) for w in theirs.get_weights()]
    assert np.abs(ours.params["kernel"]).max() == pytest.approx(np.sqrt(6 / 100), rel=1e-2)
    assert np.abs(there[0]).max() == pytest.approx(np.sqrt(6 / 280), rel=1e-2)
    for gate in np.split(ours.params["recurrent_kernel"], 4, axis=1):
        close(gate @ gate.T, np.eye(60), tolerance=1e-5)
    close(there[1] @ there[1].T, np.eye(60), tolerance=1e-5)
    np.testing.assert_array_equal(ours.params["bias"], there[2])


def test_the_mean_of_no_steps_is_zero(keras):
    """Not 0 / 0, as in Keras: an empty sequence is no reason for a NaN in the weights."""
    x = normal(2, 3, 4, dtype=np.float32)
    lengths = np.array([0, 2])
    y = GlobalAveragePool1D()(x, lengths=lengths)
    layer = keras.layers.GlobalAveragePooling1D()
    theirs = keras.ops.convert_to_numpy(layer(x, mask=mask_of(keras, lengths, 3)))
    assert np.isnan(theirs[0]).all()
    assert (y[0] == 0).all()
    close(y[1], theirs[1])


def test_outputs_behind_the_end_are_zero(keras):
    """Keras repeats the last one there, unless zero_output_for_mask is set."""
    ours, theirs = cells(keras, "gru", 4, np.float32, return_sequences=True)
    x = normal(6, 5, 3, dtype=np.float32)
    with_weights(build(ours, *x.shape[1:], dtype=np.float32), theirs, x)
    valid = np.arange(5) < LENGTHS[:, None]
    y = ours(x, lengths=LENGTHS)
    repeated = keras.ops.convert_to_numpy(theirs(x, mask=mask_of(keras, LENGTHS)))
    close(y[valid], repeated[valid])
    assert (y[~valid] == 0).all()
    assert (repeated[~valid] != 0).any()
    close(repeated[:, -1], ours.forward_from(x, lengths=LENGTHS)[1])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_sequence_of_no_steps_ends_where_it_began(keras, cell):
    """Its output is the state that it was given; Keras' is zero, and its state is ours."""
    ours, theirs = cells(keras, cell, 4, np.float32)
    theirs.return_state = True
    x = normal(2, 5, 3, dtype=np.float32)
    with_weights(build(ours, *x.shape[1:], dtype=np.float32), theirs, x)
    first = states(ours, 2, np.float32)
    lengths = np.array([0, 3])
    y, last, _ = ours.forward_from(x, tuple(first) if cell == "lstm" else first[0], lengths=lengths)
    there, *wanted = map(
        keras.ops.convert_to_numpy,
        theirs(x, initial_state=first, mask=mask_of(keras, lengths)),
    )
    for part, other in zip(last if cell == "lstm" else [last], wanted, strict=True):
        close(part, other)
    np.testing.assert_array_equal(y[0], first[0][0])
    assert (there[0] == 0).all()
    close(y[1], there[1])


def test_the_first_of_equal_maxima_gets_the_gradient(keras):
    """In whole maps too, as in windows everywhere; Keras divides it there."""
    x = np.array([[[1.0], [3.0], [3.0]]], np.float32)
    dy = np.full((1, 1), 2, np.float32)
    np.testing.assert_array_equal(GlobalMaxPool1D().forward(x)[1](dy)[0].ravel(), [0, 2, 0])
    theirs = by_keras(keras, keras.layers.GlobalMaxPooling1D(), [x], [], dy)[1][0]
    np.testing.assert_array_equal(theirs.ravel(), [0, 1, 1])

"""Keras, layer by layer: the same weights, the same mask, forward and backward.

Keras runs on PyTorch unless KERAS_BACKEND=tensorflow is set.
"""

from __future__ import annotations

import copy
import importlib

import numpy as np
import pytest

from dropcore import Mask
from dropcore.nn import (
    ELU,
    GELU,
    GRU,
    LSTM,
    SELU,
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
    Softmax,
    Softplus,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Tanh,
)
from dropcore.nn.activations import ACTIVATIONS
from dropcore.noise import normal as noise
from support.arrays import close, normal
from support.layers import build
from support.peers import (
    KEY,
    LENGTHS,
    ON_TENSORFLOW,
    by_keras,
    cells,
    each_keras_dtype,
    fed,
    keras_activation,
    mask_of,
    peer,
    rounded,
    same_as_keras,
    states,
    with_weights,
)
from support.recurrent import CELLS

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


# --- dense, convolution, pooling, normalisation, shape -------------------------------------------


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
@pytest.mark.parametrize(
    ("case", "padding"),
    [
        (case, padding)
        for case in WINDOWS
        for padding in ("valid", "same")
        # On PyTorch Keras repeats the last step where the padding is not symmetric.
        if ON_TENSORFLOW or (case, padding) != ("average 1", "same")
    ],
)
def test_pooling_is_that_of_keras(keras, case, padding, dtype):
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

each_cell = pytest.mark.parametrize("cell", CELLS)


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
    for number, name in enumerate(shapes):
        if name not in rates:
            continue
        drawn = Mask(shapes[name], rates[name], key=KEY.at(stream=KEY.stream + number))
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
def test_dropout_is_that_of_keras(keras, case, dtype):
    ours, name, options, shape = DROPS[case]
    ours = copy.deepcopy(ours)
    theirs = peer(keras, name, dtype, rate=ours.rate, seed=1, **options)
    x, dy = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=3)
    wanted, gradients = by_keras(keras, lambda t: theirs(t, training=True), [x], [], dy)
    fed(ours, wanted)
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

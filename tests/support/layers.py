"""Every layer there is, with the shape of a sample, and how to build and feed it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from dropcore import Key
from dropcore.constraints import MaxNorm
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
    BlockDropout,
    ConcreteDropout,
    Conv1D,
    Conv2D,
    Dense,
    DropConnect,
    Dropout,
    DropPath,
    Embedding,
    EmbeddingDropout,
    FeatureAlphaDropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    LayerNorm,
    LeakyReLU,
    LearnedPositions,
    Maxout,
    MaxPool1D,
    MaxPool2D,
    MultiHeadAttention,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    SimpleRNN,
    SinusoidalPositions,
    Softmax,
    Softplus,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Tanh,
    UnitDropout,
    VariationalDropout,
)
from dropcore.regularizers import L1

KEY = Key(2**40 + 3, stream=2, step=9)

# A layer and the shape of a sample.
EXAMPLES = [
    # Too weak to show beside its output: test_regularizers is about the gradient of a penalty.
    (ActivityRegularization(L1(1e-12)), (3, 7)),
    (AlphaDropout(0.3), (7,)),
    (AlphaDropout(keep=0.6, shared_axes=1), (3, 7)),
    (BlockDropout(0.3, block_size=3), (8, 5)),
    (BlockDropout(keep=0.8, block_size=2), (6, 5, 3)),
    (ConcreteDropout(Dense(3), 0.3, data_points=math.inf), (7,)),
    (ConcreteDropout(Dense(3, activation="tanh"), data_points=math.inf, temperature=0.5,
                     shared_axes=1), (2, 7)),
    (ConcreteDropout(Dense(3), 0.4, data_points=math.inf, shared_axes=0), (7,)),
    (DropConnect(5, 0.4), (7,)),
    (DropConnect(5, keep=0.7, activation="relu", mode="batch", constraint=MaxNorm(1.0)), (3, 7)),
    (DropConnect(5, 0.3, activation="tanh", inference="gaussian", use_bias=False), (2, 7)),
    (DropPath(0.4), (2, 7)),
    (DropPath(0.4, mode="batch"), (7,)),
    (Residual([Dense(7, activation="relu"), DropPath(0.5, scaling="test")]), (7,)),
    (EmbeddingDropout(Embedding(11, 4), 0.4), (3,)),
    (EmbeddingDropout(Embedding(11, 4), keep=0.5, mode="batch"), (3,)),
    (FeatureAlphaDropout(0.4), (3, 4, 5)),
    (GaussianDropout(0.4), (7,)),
    (GaussianDropout(keep=[0.5, 0.9]), (3, 2)),
    (GaussianNoise(0.3), (7,)),
    (SpatialDropout1D(0.4), (3, 7)),
    (SpatialDropout2D(0.4, scaling="test"), (3, 2, 7)),
    (SpatialDropout3D(keep=0.5), (3, 2, 2, 5)),
    (SpatialDropout2D(0.4, data_format="channels_first"), (7, 3, 2)),
    (UnitDropout(0.4), (7,)),
    (UnitDropout(0.4, group=4), (3, 7)),
    (Sequential([UnitDropout(0.2), Dense(9, activation="relu"), UnitDropout(0.5, group=5),
                 Dense(6), UnitDropout(keep=0.6), Dense(2)]), (7,)),
    (VariationalDropout(0.3, data_points=math.inf), (7,)),
    (VariationalDropout(keep=0.8, data_points=math.inf, per_unit=True), (3, 7)),
    (Dropout(0.4, scaling="test"), (7,)),
    (Dropout([0.2, 1 / 3, 0.9]), (2, 3)),
    (Dropout(mask=np.arange(1500) % 3 > 0), (1500,)),
    (Dropout(mask=[[True, False, True]], keep=0.5), (3,)),
    (AveragePool1D(3, stride=2, padding=1), (8, 3)),
    (AveragePool2D((2, 3), padding="same", count_include_pad=True), (5, 4, 3)),
    (Conv1D(4, 3), (7, 2)),
    (Conv1D(4, 3, padding=(2, 0), dilation=2, stride=2, activation="relu"), (9, 3)),
    (Conv2D(6, (2, 3), stride=(1, 2), padding="same", groups=2, constraint=MaxNorm(1.0)),
     (4, 5, 4)),
    (Conv2D(3, 3, padding=((1, 0), (2, 1)), use_bias=False), (4, 3, 2)),
    (Dense(5), (7,)),
    (Dense(5, activation="relu", constraint=MaxNorm(1.0)), (3, 7)),
    (Dense(5, activation="gelu"), (7,)),
    (Dropout(0.4), (7,)),
    (Dropout(keep=0.7, shared_axes=1), (3, 7)),
    (Embedding(11, 4), (3,)),
    (Embedding(11, 4, padding_index=2, constraint=MaxNorm(0.1)), (3,)),
    (Flatten(), (3, 4)),
    (BatchNorm(), (7,)),
    (BatchNorm(momentum=0.5, epsilon=0.1, scale=False, center=False), (2, 7)),
    (LayerNorm(), (7,)),
    (LayerNorm(epsilon=0.1, center=False), (2, 7)),
    (GlobalAveragePool1D(), (4, 3)),
    (GlobalAveragePool2D(), (3, 4, 2)),
    (GlobalMaxPool1D(), (4, 3)),
    (GlobalMaxPool2D(), (3, 4, 2)),
    (MaxPool1D(2), (7, 3)),
    (MaxPool2D(3, stride=2, padding=1), (5, 6, 3)),
    (Maxout(4, pieces=3), (7,)),
    (Maxout(4, use_bias=False), (2, 7)),
    (ReLU(), (7,)),
    (LeakyReLU(0.2), (7,)),
    (ELU(1.3), (7,)),
    (SELU(), (7,)),
    (GELU("tanh"), (3, 7)),
    (GELU(), (7,)),
    (SiLU(), (7,)),
    (Tanh(), (7,)),
    (Sigmoid(), (7,)),
    (Softplus(), (7,)),
    (Softmax(), (3, 7)),
    (Reshape((2, -1)), (3, 4)),
    (Parallel([Dense(3), Sequential([Dropout(0.5), Dense(2)]), Dropout(0.3)]), (7,)),
    (Parallel([Dense(3), Dense(3)], merge="mean"), (7,)),
    (Residual([Dropout(0.2), Dense(9, activation="relu"), Dropout(0.5), Dense(7)]), (7,)),
    (Residual(Dense(3), Dense(3, use_bias=False)), (7,)),
    (Sequential([Dropout(0.2), Dense(9, activation="relu"), Dropout(0.5), Dense(2)]), (7,)),
    (Sequential([]), (7,)),
    (LSTM(4, return_sequences=True, dropout=0.3, recurrent_dropout=0.4, zoneout=0.2), (5, 3)),
    (LSTM(4, reverse=True, weight_dropout=0.3, zoneout_cell=0.3), (5, 3)),
    (GRU(4, dropout=0.3, recurrent_dropout=0.4, recurrent_constraint=MaxNorm(1.0)), (5, 3)),
    (SimpleRNN(4, recurrent_dropout=0.4, return_sequences=True), (5, 3)),
    (Bidirectional(GRU(4, return_sequences=True, weight_dropout=0.3), merge="mean"), (5, 3)),
    (MultiHeadAttention(2), (5, 6)),
    (MultiHeadAttention(4, 0.3, causal=True, key_heads=2, head_size=3, constraint=MaxNorm(1.0)),
     (5, 7)),
    (MultiHeadAttention(2, keep=0.6, key_heads=1, use_bias=False), (4, 4)),
    (LearnedPositions(5), (5, 3)),
    (LearnedPositions(9, constraint=MaxNorm(0.1)), (5, 4)),
    (SinusoidalPositions(), (5, 4)),
    (SinusoidalPositions(30.0), (4, 5)),
    (Sequential([Embedding(11, 4), LearnedPositions(6),
                 Residual([LayerNorm(), MultiHeadAttention(2, 0.4), Dropout(0.3)]),
                 Residual([LayerNorm(), Dense(9, activation="gelu"), Dense(4), Dropout(0.3),
                           DropPath(0.2)]), GlobalAveragePool1D(), Dense(2)]), (5,)),
    (Sequential([Embedding(11, 4), LSTM(3, return_sequences=True), Dropout(0.5), LSTM(2)]), (5,)),
    (Sequential([Conv2D(4, 3, activation="relu"), Dropout(0.4), MaxPool2D(), Conv2D(3, 1),
                 Dropout(0.3), Flatten(), Dense(2)]), (6, 6, 2)),
    (Sequential([Dropout(0.5, shared_axes=0), Dense(6), Dropout(0.5, shared_axes=0), Dense(2)]),
     (7,)),
]  # fmt: skip


# A container that carries a state between calls, and the shape of a sample.
CARRYING = [
    (Sequential([Embedding(11, 4), Dropout(0.3), LSTM(3, return_sequences=True, dropout=0.3),
                 Dense(4), Dropout(0.5), LSTM(2, zoneout=0.2)]), (5,)),
    (Sequential([Sequential([GRU(4, return_sequences=True, recurrent_dropout=0.4)]), Dropout(0.5),
                 GlobalAveragePool1D()]), (5, 3)),
    (Parallel([LSTM(3, zoneout_cell=0.3), Sequential([Dropout(0.4), GlobalMaxPool1D()]),
               GRU(2, dropout=0.3)]), (5, 3)),
    (Residual([Dropout(0.4), SimpleRNN(3, return_sequences=True, recurrent_dropout=0.3)]), (5, 3)),
    (Bidirectional(LSTM(3, return_sequences=True, dropout=0.3, recurrent_dropout=0.4)), (5, 4)),
    (ConcreteDropout(LSTM(3, zoneout=0.3), 0.3, data_points=math.inf), (5, 4)),
    (Sequential([ConcreteDropout(Bidirectional(GRU(3, return_sequences=True, dropout=0.4)),
                                 data_points=math.inf, temperature=0.7), GlobalMaxPool1D()]),
     (5, 4)),
]  # fmt: skip


ACTIVATION_LAYERS = [
    ReLU(), LeakyReLU(), LeakyReLU(0.3), ELU(), ELU(1.7), SELU(), GELU(), GELU("tanh"), SiLU(),
    Tanh(), Sigmoid(), Softplus(), Softmax(),
]  # fmt: skip


def small_network():
    """Two dropouts between dense layers, and a third inside a network inside."""
    return Sequential(
        [
            Dropout(keep=0.8),
            Dense(9, activation="relu"),
            Dropout(0.5),
            Sequential([Dense(8), ReLU(), Dropout(0.3)]),
            Dense(4),
        ]
    )


def batches(layer, sample, rows=6, dtype=np.float64):
    """Input for a layer, not near the corners of a ReLU by accident."""
    rng = np.random.default_rng(8)
    if layer.integer_input:
        return rng.integers(0, 11, (rows, *sample))
    return rng.normal(size=(rows, *sample)).astype(dtype)


def built(layer, *sample, dtype=np.float64, seed=1):
    """A copy with weights: see `build`."""
    return build(copy.deepcopy(layer), *sample, dtype=dtype, seed=seed)


def build(layer, *sample, dtype=np.float64, seed=1):
    """The layer, with biases, scales and running moments that are not what they start with."""
    layer.build(sample, key=seed, dtype=dtype)
    rng = np.random.default_rng(seed + 3)
    for name, array in layer.params.items():
        if name.endswith(("bias", "beta")):
            array[...] = 0.3 * rng.normal(size=array.shape)
        elif name.endswith("gamma"):
            array[...] = rng.uniform(0.5, 2, array.shape)
    for array in layer.buffers.values():
        array[...] = rng.uniform(0.5, 2, array.shape)
    return layer


def names(value):
    return repr(value).replace("\n", " ")[:70]


every_layer = pytest.mark.parametrize(("layer", "sample"), EXAMPLES, ids=names)
with_weights = pytest.mark.parametrize(
    ("layer", "sample"),
    [(layer, sample) for layer, sample in EXAMPLES if built(layer, *sample).params],
    ids=names,
)
carrying = pytest.mark.parametrize(("layer", "sample"), CARRYING, ids=names)


# --- states --------------------------------------------------------------------------------------


def leaves(state):
    """The arrays of a state, in the order of the layers."""
    if state is None or isinstance(state, np.ndarray):
        return [] if state is None else [state]
    parts = [state[name] for name in sorted(state)] if isinstance(state, dict) else state
    return [array for part in parts for array in leaves(part)]


def mapped(state, change):
    """A state of the same form with other arrays."""
    if isinstance(state, dict):
        return {name: mapped(part, change) for name, part in state.items()}
    if isinstance(state, tuple):
        return tuple(mapped(part, change) for part in state)
    return None if state is None else change(state)

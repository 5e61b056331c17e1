"""Layers: thin, one file per family, each with its formula in the docstring.

===================  ===============================================================
`layer`              what every layer is: weights, forward, the backward it returns
`expectations`       what layers expect of their arguments, in words
`dense`              Dense
`maxout`             Maxout
`embedding`          Embedding
`dropout`            Dropout, SpatialDropout1D/2D/3D, UnitDropout, DropPath
`block_dropout`      BlockDropout
`noise`              GaussianNoise, GaussianDropout, AlphaDropout, FeatureAlphaDropout
`learned_dropout`    ConcreteDropout, VariationalDropout
`embedding_dropout`  EmbeddingDropout
`dropconnect`        DropConnect
`activations`        ReLU, LeakyReLU, ELU, SELU, GELU, SiLU, Tanh, Sigmoid, Softplus, Softmax
`activity`           ActivityRegularization
`reshape`            Flatten, Reshape
`normalization`      BatchNorm, LayerNorm
`convolution`        Conv1D, Conv2D
`pooling`            MaxPool1D, AveragePool1D, GlobalMaxPool1D, GlobalAveragePool1D, and 2D
`recurrent`          SimpleRNN, GRU, LSTM, Bidirectional
`sequential`         Sequential
`branches`           Parallel, Residual
`initializers`       initial weights
`scaling`            from training unscaled to a finished network, and back
`ridge`              dropout on linear regression, in closed form
`config`             layers as plain data
`summary`            the table of a model
===================  ===============================================================
"""

from dropcore.nn.activations import (
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from dropcore.nn.activity import ActivityRegularization
from dropcore.nn.block_dropout import BlockDropout
from dropcore.nn.branches import Parallel, Residual
from dropcore.nn.convolution import Conv1D, Conv2D
from dropcore.nn.dense import Dense
from dropcore.nn.dropconnect import DropConnect
from dropcore.nn.dropout import (
    Dropout,
    DropPath,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    UnitDropout,
)
from dropcore.nn.embedding import Embedding
from dropcore.nn.embedding_dropout import EmbeddingDropout, word_mask
from dropcore.nn.layer import Layer
from dropcore.nn.learned_dropout import ConcreteDropout, VariationalDropout
from dropcore.nn.maxout import Maxout
from dropcore.nn.noise import AlphaDropout, FeatureAlphaDropout, GaussianDropout, GaussianNoise
from dropcore.nn.normalization import BatchNorm, LayerNorm
from dropcore.nn.pooling import (
    AveragePool1D,
    AveragePool2D,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    MaxPool1D,
    MaxPool2D,
)
from dropcore.nn.rates import rates_over_depth, width_for
from dropcore.nn.recurrent import GRU, LSTM, Bidirectional, SimpleRNN
from dropcore.nn.reshape import Flatten, Reshape
from dropcore.nn.ridge import linear_dropout_ridge
from dropcore.nn.scaling import set_scaling_
from dropcore.nn.sequential import Sequential

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "SELU",
    "ActivityRegularization",
    "AlphaDropout",
    "AveragePool1D",
    "AveragePool2D",
    "BatchNorm",
    "Bidirectional",
    "BlockDropout",
    "ConcreteDropout",
    "Conv1D",
    "Conv2D",
    "Dense",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Embedding",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePool1D",
    "GlobalAveragePool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool1D",
    "MaxPool2D",
    "Maxout",
    "Parallel",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SimpleRNN",
    "Softmax",
    "Softplus",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "Tanh",
    "UnitDropout",
    "VariationalDropout",
    "linear_dropout_ridge",
    "rates_over_depth",
    "set_scaling_",
    "width_for",
    "word_mask",
]

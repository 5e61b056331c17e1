"""Layers and models, one module per family. Each class has its formula in the docstring.

===================  ===============================================================
`layer`              Layer: parameters, forward pass, backward pass
`model`              Model: a layer with fit, predict, evaluate and summary
`sequential`         Sequential
`branches`           Parallel, Residual
`bidirectional`      Bidirectional
`weighted`           the base class of layers with a weight
`dense`              Dense
`maxout`             Maxout
`dropconnect`        DropConnect
`convolution`        Conv1D, Conv2D
`recurrent`          SimpleRNN, GRU, LSTM
`embedding`          Embedding
`embedding_dropout`  EmbeddingDropout
`dropout`            Dropout, SpatialDropout1D/2D/3D, UnitDropout, DropPath
`block_dropout`      BlockDropout
`noise`              GaussianNoise, GaussianDropout, AlphaDropout, FeatureAlphaDropout
`learned_dropout`    ConcreteDropout, VariationalDropout
`rates`              rates of dropout; rates by depth, and the width that a rate needs
`normalization`      BatchNorm, LayerNorm
`pooling`            MaxPool1D, AveragePool1D, GlobalMaxPool1D, GlobalAveragePool1D, and 2D
`activations`        ReLU, LeakyReLU, ELU, SELU, GELU, SiLU, Tanh, Sigmoid, Softplus, Softmax
`activity`           ActivityRegularization
`reshape`            Flatten, Reshape
`initializers`       initial weights
`scaling`            conversion between the two scalings of dropout
`_state_dict`        to_state_dict, load_state_dict: weights of PyTorch
`_keras_weights`     to_keras_weights, load_keras_weights: weights of Keras
`ridge`              linear regression with dropout, in closed form
`architectures`      mlp, cnn, lstm, autoencoder: usual networks from widths and rates
===================  ===============================================================
"""

from dropcore.nn import initializers
from dropcore.nn._config import KNOWN as _KNOWN
from dropcore.nn._keras_weights import load_keras_weights, to_keras_weights
from dropcore.nn._state_dict import load_state_dict, to_state_dict
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
from dropcore.nn.architectures import autoencoder, cnn, lstm, mlp
from dropcore.nn.bidirectional import Bidirectional
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
from dropcore.nn.model import Model
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
from dropcore.nn.recurrent import GRU, LSTM, SimpleRNN
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
    "Model",
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
    "autoencoder",
    "cnn",
    "initializers",
    "linear_dropout_ridge",
    "load_keras_weights",
    "load_state_dict",
    "lstm",
    "mlp",
    "rates_over_depth",
    "set_scaling_",
    "to_keras_weights",
    "to_state_dict",
    "width_for",
    "word_mask",
]

_KNOWN.update((name, found) for name in __all__ if isinstance(found := globals()[name], type))

"""Layers and models.

A layer is called with an array, and returns an array: ``layer(x)`` is inference, ``layer(x, key)``
draws the masks and the noise of that key. ``layer.forward(x, key=key)`` returns the backward pass,
too. Weights are drawn by ``build``, from the shape of the input, or when ``fit`` begins.

Layouts are Keras': weights of dense layers are (in, units), images (batch, height, width,
channels), sequences (batch, time, features). `Sequential` and the other models are layers as well,
with methods such as ``fit``, ``predict``, ``evaluate``, ``save`` and ``summary``.
"""

import dropcore.training  # noqa: F401
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
from dropcore.nn.architectures import autoencoder, cnn, lstm, mlp, transformer
from dropcore.nn.attention import CrossAttention, MultiHeadAttention
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
from dropcore.nn.positions import LearnedPositions, SinusoidalPositions
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
    "CrossAttention",
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
    "LearnedPositions",
    "MaxPool1D",
    "MaxPool2D",
    "Maxout",
    "Model",
    "MultiHeadAttention",
    "Parallel",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SimpleRNN",
    "SinusoidalPositions",
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
    "transformer",
    "width_for",
    "word_mask",
]

_KNOWN.update((name, found) for name in __all__ if isinstance(found := globals()[name], type))

"""Layers: thin, one file per family, each with its formula in the docstring.

===============  ===============================================================
`layer`          what every layer is: weights, forward, the backward it returns
`dense`          Dense
`maxout`         Maxout
`embedding`      Embedding
`dropout`        Dropout
`activations`    ReLU, LeakyReLU, ELU, SELU, GELU, SiLU, Tanh, Sigmoid, Softplus, Softmax
`activity`       ActivityRegularization
`reshape`        Flatten, Reshape
`normalization`  BatchNorm, LayerNorm
`sequential`     Sequential
`branches`       Parallel, Residual
`initializers`   initial weights
`scaling`        from training unscaled to a finished network, and back
`config`         layers as plain data
`summary`        the table of a model
===============  ===============================================================
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
from dropcore.nn.branches import Parallel, Residual
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout
from dropcore.nn.embedding import Embedding
from dropcore.nn.layer import Layer
from dropcore.nn.maxout import Maxout
from dropcore.nn.normalization import BatchNorm, LayerNorm
from dropcore.nn.reshape import Flatten, Reshape
from dropcore.nn.scaling import set_scaling_
from dropcore.nn.sequential import Sequential

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "ActivityRegularization",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Maxout",
    "Parallel",
    "ReLU",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "set_scaling_",
]

"""Layers: thin, one file per family, each with its formula in the docstring.

===============  ===============================================================
`layer`          what every layer is: weights, forward, the backward it returns
`dense`          Dense
`dropout`        Dropout
`activations`    ReLU
`sequential`     Sequential
`initializers`   He and Glorot
===============  ===============================================================
"""

from dropcore.nn.activations import ReLU
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout
from dropcore.nn.layer import Layer
from dropcore.nn.sequential import Sequential

__all__ = ["Dense", "Dropout", "Layer", "ReLU", "Sequential"]

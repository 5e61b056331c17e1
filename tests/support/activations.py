"""The formulas of the activations in float64, each in a form that does not cancel."""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def logistic(x):
    return special.expit(x)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def selu(x):
    alpha, scale = 1.6732632423543772848, 1.0507009873554804934
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


GELU_RATE = 2 * math.sqrt(2 / math.pi)


def gelu_tanh(x):
    return x * logistic(GELU_RATE * (x + 0.044715 * x**3))


def gelu_tanh_slope(x):
    s = logistic(GELU_RATE * (x + 0.044715 * x**3))
    return s + x * s * (1 - s) * GELU_RATE * (1 + 3 * 0.044715 * x**2)


def elu(x, alpha):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


# name: (parameter, f, f', largest error in units in the last place of f)
FORMULAS = {
    "relu": (0.0, lambda x: np.maximum(x, 0), lambda x: np.where(x > 0, 1.0, 0.0), 0.0),
    "leaky_relu": (0.25, lambda x: np.where(x > 0, x, 0.25 * x),
                   lambda x: np.where(x > 0, 1.0, 0.25), 0.5),
    "elu": (1.5, lambda x: elu(x, 1.5),
            lambda x: np.where(x > 0, 1.0, 1.5 * np.exp(np.minimum(x, 0))), 3.0),
    "selu": (0.0, selu, lambda x: np.where(x > 0, 1.0507009873554804934,
                                           1.758099340847376624 * np.exp(np.minimum(x, 0))), 3.0),
    "gelu": (0.0, lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * density(x), 7.0),
    "gelu_tanh": (0.0, gelu_tanh, gelu_tanh_slope, 4.0),
    "silu": (0.0, lambda x: x * logistic(x),
             lambda x: logistic(x) * (1 + x * logistic(-x)), 3.0),
    "tanh": (0.0, np.tanh, lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2, 2.6),
    "sigmoid": (0.0, logistic, lambda x: logistic(x) * logistic(-x), 2.5),
    "softplus": (0.0, softplus, logistic, 2.7),
}  # fmt: skip

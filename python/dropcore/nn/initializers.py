"""Initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["INITIALIZERS", "Initializer", "glorot_uniform", "he_uniform"]

Initializer = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
"""Takes a generator and a shape whose last axis is the units; returns float64 of that shape."""


def he_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Keeps the variance of the activations from layer to layer under ReLU.

    U(-a, a) with a = sqrt(6 / fan_in), so the variance is 2 / fan_in.

    He et al. 2015, "Delving deep into rectifiers".
    """
    return _uniform(rng, shape, math.sqrt(6 / _fans(shape)[0]))


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Balances the variance of activations and gradients in layers without ReLU.

    U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".
    """
    return _uniform(rng, shape, math.sqrt(6 / sum(_fans(shape))))


INITIALIZERS: Final[dict[str, Initializer]] = {
    "glorot_uniform": glorot_uniform,
    "he_uniform": he_uniform,
}


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs of one unit and outputs of one input: a kernel counts each of its positions."""
    *kernel, features, units = shape
    return max(math.prod(kernel) * features, 1), max(math.prod(kernel) * units, 1)


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> NDArray[np.float64]:
    return rng.uniform(-bound, bound, shape)

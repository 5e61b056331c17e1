"""The base class of layers that multiply their input by a weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._base.checks import check_bool
from dropcore.constraints import Constraint
from dropcore.nn.activations import activation_of
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Layer
from dropcore.regularizers import Regularizer

__all__ = ["Weighted"]


class Weighted(Layer):
    """A layer with the parameters `weight` and, unless use_bias is False, `bias`.

    Parameters
    ----------
    activation : str or None
    use_bias : bool
    initializer : str or callable
    constraint : callable or None
    regularizer : Regularizer or None
    """

    input_weights = ("weight",)
    _fixed = frozenset({"use_bias", "initializer"})

    def __init__(
        self,
        activation: str | None,
        use_bias: bool,
        initializer: str | Initializer,
        constraint: Constraint | None,
        regularizer: Regularizer | None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        found = activation_of(name, activation)
        # The product applies "relu" itself.
        self._function = found.function if found and activation != "relu" else None
        initializer_of(f"{name}: initializer", initializer)
        self.activation = activation
        self.use_bias = check_bool(f"{name}: use_bias", use_bias)
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        self._register("weight", constraint, regularizer)

    @property
    def built(self) -> bool:
        return bool(self._params)

    def _draw(
        self,
        shape: tuple[int, ...],
        rng: np.random.Generator,
        dtype: np.dtype[Any],
        fans: tuple[int, int] | None = None,
    ) -> None:
        """Draw a weight of that shape, whose last axis is the units, and a bias of zeros."""
        self._params["weight"] = drawn(self.initializer, rng, shape, dtype, fans=fans)
        if self.use_bias:
            self._params["bias"] = np.zeros(shape[-1], dtype)

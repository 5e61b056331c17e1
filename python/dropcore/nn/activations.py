"""Activations: elementwise functions without weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore.gradients import Gradient
from dropcore.key import Key
from dropcore.nn.layer import Array, Backward, Layer, Shape

__all__ = ["ReLU"]


class ReLU(Layer):
    """Rectified linear unit: y = max(x, 0), dx = dy * (y > 0).

    After a Dense layer, ``Dense(units, activation="relu")`` is the same and saves a pass.
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(
        self, x: Array, *, key: Key | int | None = None, row: int = 0
    ) -> tuple[Array, Backward]:
        y = np.maximum(x, 0)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            return dy * (y > 0), {}

        return y, backward

"""Activations of arrays and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of

__all__ = ["Activation"]

Array = npt.NDArray[Any]

HOLD_INPUT: Final = frozenset({"gelu", "gelu_tanh", "silu"})
"""Those whose derivative is a function of x; that of the others is one of y."""


@dataclass(frozen=True)
class Activation:
    """y = f(x), and the way back dx = dy f'(x), or dx = dy @ (dy/dx) of the softmax.

    Attributes
    ----------
    name : str
        "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid",
        "softplus", or "softmax" along the last axis: the formulas are those of `dropcore.nn`.
    parameter : float, default 0.0
        The slope of "leaky_relu", the alpha of "elu".
    """

    name: str
    parameter: float = 0.0

    @property
    def elementwise(self) -> bool:
        return self.name != "softmax"

    @property
    def saves_input(self) -> bool:
        """Whether the backward pass needs x; that of the others needs y."""
        return self.name in HOLD_INPUT

    def forward(self, x: Array, *, may_overwrite: bool = False) -> tuple[Array, Array]:
        """y, and the array that `backward` needs: y itself, or x.

        Parameters
        ----------
        x : ndarray of float32 or float64
        spare : bool, default False
            Whether nobody else needs x, which then may become y.

        Raises
        ------
        TypeError
            For another dtype.
        ValueError
            If the softmax has no axis to run along.
        """
        found = getattr(x, "dtype", type(x).__name__)
        if found not in (np.float32, np.float64):
            raise TypeError(f"{self.name}: x must be an array of float32 or float64, got {found}")
        backend = backend_of("x", x)
        given, x = x, backend.contiguous(x)
        writeable = getattr(x.flags, "writeable", True)  # which all of CuPy's arrays are
        in_place = self.name not in HOLD_INPUT and writeable and (may_overwrite or x is not given)
        y = x if in_place else backend.empty(x.shape, x.dtype)
        self._run(x, y)
        return y, x if self.name in HOLD_INPUT else y

    def backward(self, dy: Array, saved: Array) -> Array:
        """dx, from the gradient of the output and what `forward` gave.

        Raises
        ------
        ValueError
            If dy has not the shape and dtype of the output.
        """
        if dy.shape != saved.shape or dy.dtype != saved.dtype:
            raise ValueError(
                f"{self.name}: dy must have the shape of the output, {saved.shape} of "
                f"{saved.dtype}, got {dy.shape} of {dy.dtype}"
            )
        backend = backend_of("dy", dy)
        dx = backend.empty(saved.shape, saved.dtype)
        self._run(saved, dx, backend.contiguous(dy))
        return dx

    def _run(self, x: Array, out: Array, dy: Array | None = None) -> None:
        if self.elementwise:
            backend_of("x", x).activate(self.name, self.parameter, x, out, dy)
        elif x.ndim == 0:
            raise ValueError("softmax: x must have an axis to run along, got a scalar")
        else:
            backend_of("x", x).softmax(x, out, dy)

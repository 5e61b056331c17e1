"""Activations of arrays and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._base.checks import check_gradient, check_number

__all__ = ["Activation"]

Array = npt.NDArray[Any]

SAVE_INPUT: Final = frozenset({"gelu", "gelu_tanh", "silu"})
"""Activations whose derivative is computed from x; that of the others from y."""

NAMES: Final = frozenset(
    {"relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softplus", "softmax"} | SAVE_INPUT
)


@dataclass(frozen=True)
class Activation:
    """y = f(x), and its backward pass dx = dy f'(x), or dx = dy @ (dy/dx) of the softmax.

    Attributes
    ----------
    name : str
        "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid",
        "softplus", or "softmax" along the last axis: the formulas are those of `dropcore.nn`.
    parameter : float, default 0.0
        The slope of "leaky_relu", the alpha of "elu".

    Raises
    ------
    ValueError
        For another name.
    """

    name: str
    parameter: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            choices = ", ".join(map(repr, sorted(NAMES)))
            raise ValueError(f"Activation: name must be one of {choices}, got {self.name!r}")
        check_number("Activation: parameter", self.parameter)

    @property
    def elementwise(self) -> bool:
        return self.name != "softmax"

    @property
    def saves_input(self) -> bool:
        """Whether the backward pass needs x; that of the others needs y."""
        return self.name in SAVE_INPUT

    def forward(self, x: Array, *, may_overwrite: bool = False) -> tuple[Array, Array]:
        """y, and the array that `backward` needs: y itself, or x.

        Parameters
        ----------
        x : ndarray of float32 or float64
        may_overwrite : bool, default False
            Whether x is not needed any more, so that y may be written over it.

        Raises
        ------
        TypeError
            For another dtype.
        ValueError
            If x has no axis for the softmax.
        """
        found = getattr(x, "dtype", type(x).__name__)
        if found not in (np.float32, np.float64):
            raise TypeError(
                f"{self.name}: x must be an array of float32 or float64, got {found}; use "
                ".astype(np.float32)"
            )
        backend = backend_of("x", x)
        given, x = x, backend.contiguous(x)
        writeable = getattr(x.flags, "writeable", True)  # CuPy's arrays always are
        in_place = self.name not in SAVE_INPUT and writeable and (may_overwrite or x is not given)
        y = x if in_place else backend.empty(x.shape, x.dtype)
        self._run(x, y)
        return y, x if self.name in SAVE_INPUT else y

    def backward(self, dy: Array, saved: Array) -> Array:
        """dx, from the gradient of the output and the array that `forward` returned for it.

        Raises
        ------
        ValueError
            If dy does not have the shape and dtype of the output.
        """
        check_gradient(dy, saved.shape, saved.dtype, f"{self.name}: ")
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

"""Activations: functions without weights, elementwise or along the last axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_number
from dropcore._ops.activation import Activation
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.layer import Array, Backward, Layer, Shape, read_only

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "SELU",
    "ActivationLayer",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "activation_of",
]


class ActivationLayer(Layer):
    """A layer that is one `dropcore._ops.activation.Activation` of its input, of any shape.

    The backward pass needs no other array than y, or x where the derivative is not a function of
    y.

    Parameters
    ----------
    function : Activation
    """

    def __init__(self, function: Activation) -> None:
        super().__init__()
        self._function = function

    @property
    def function(self) -> Activation:
        """The operation, as products apply it."""
        return self._function

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        y, saved = self._function.forward(x)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.shape, y.dtype)
            return self._function.backward(dy, saved) if input_gradient else None, {}

        return read_only(y) if saved is y else y, backward


class ReLU(ActivationLayer):
    """Rectified linear unit: y = max(x, 0), dx = dy where y > 0, else 0.

    After a Dense layer, ``Dense(units, activation="relu")`` is the same and saves a pass.
    Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".
    """

    homogeneous = True

    def __init__(self) -> None:
        super().__init__(Activation("relu"))


class LeakyReLU(ActivationLayer):
    """y = x where x > 0, else slope * x.

    Maas, Hannun and Ng 2013, "Rectifier nonlinearities improve neural network acoustic models".

    Parameters
    ----------
    slope : float, default 0.01
        At least 0.

    Raises
    ------
    ValueError
        If it is negative or not finite.
    """

    homogeneous = True

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = check_number("LeakyReLU: slope", slope, "[0, inf)")
        super().__init__(Activation("leaky_relu", self.slope))


class ELU(ActivationLayer):
    """Exponential linear unit: y = x where x > 0, else alpha * (e^x - 1).

    Clevert, Unterthiner and Hochreiter 2016, "Fast and accurate deep network learning by
    exponential linear units (ELUs)".

    Parameters
    ----------
    alpha : float, default 1.0
        At least 0.

    Raises
    ------
    ValueError
        If it is negative or not finite.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = check_number("ELU: alpha", alpha, "[0, inf)")
        super().__init__(Activation("elu", self.alpha))


class SELU(ActivationLayer):
    """y = scale * ELU(x) with alpha = 1.6732632423543773, scale = 1.0507009873554805.

    With these two, units of mean 0 and variance 1 give units of mean 0 and variance 1 if the
    weights are drawn with variance 1 / inputs; drop them by AlphaDropout, which keeps both.
    Klambauer et al. 2017, "Self-normalizing neural networks".
    """

    def __init__(self) -> None:
        super().__init__(Activation("selu"))


class GELU(ActivationLayer):
    """Gaussian error linear unit: y = x Phi(x), Phi the standard normal distribution function.

    The gradient is dx = dy (Phi(x) + x phi(x)), phi the density. With ``approximate="tanh"``::

        y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))

    Hendrycks and Gimpel 2016, "Gaussian error linear units (GELUs)".

    Parameters
    ----------
    approximate : None or "tanh", default None
        The approximation is for networks that were trained with it.

    Raises
    ------
    ValueError
        If `approximate` is anything else.
    """

    def __init__(self, approximate: str | None = None) -> None:
        if approximate not in (None, "tanh"):
            raise ValueError(f"GELU: approximate must be None or 'tanh', got {approximate!r}")
        super().__init__(Activation("gelu" if approximate is None else "gelu_tanh"))
        self.approximate = approximate


class SiLU(ActivationLayer):
    """Sigmoid linear unit, or swish: y = x s, dx = dy (s + x s (1 - s)), s = 1 / (1 + e^-x).

    Elfwing, Uchibe and Doya 2018, "Sigmoid-weighted linear units for neural network function
    approximation in reinforcement learning".
    """

    def __init__(self) -> None:
        super().__init__(Activation("silu"))


class Tanh(ActivationLayer):
    """Hyperbolic tangent: y = tanh(x), dx = dy (1 - y^2)."""

    def __init__(self) -> None:
        super().__init__(Activation("tanh"))


class Sigmoid(ActivationLayer):
    """Logistic function: y = 1 / (1 + e^-x), dx = dy y (1 - y)."""

    def __init__(self) -> None:
        super().__init__(Activation("sigmoid"))


class Softplus(ActivationLayer):
    """Smooth rectifier: y = log(1 + e^x), dx = dy (1 - e^-y).

    Dugas et al. 2001, "Incorporating second-order functional knowledge for better option pricing".
    """

    def __init__(self) -> None:
        super().__init__(Activation("softplus"))


class Softmax(ActivationLayer):
    """Along the last axis: y_i = e^x_i / sum of e^x_j, dx_i = y_i (dy_i - sum of y_j dy_j).

    The largest x of a row is taken off before, so that nothing overflows. Before the loss
    "softmax_cross_entropy", which takes logits, it does not belong.
    """

    def __init__(self) -> None:
        super().__init__(Activation("softmax"))

    def output_shape(self, input_shape: Shape) -> Shape:
        if not input_shape:
            raise ValueError("Softmax() expects samples of shape (..., features), got ()")
        return input_shape


ACTIVATIONS: Final[dict[str, Callable[[], ActivationLayer]]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "selu": SELU,
    "gelu": GELU,
    "silu": SiLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "softplus": Softplus,
    "softmax": Softmax,
}
"""By the names that layers take as `activation=`."""


def activation_of(what: str, name: str | None) -> ActivationLayer | None:
    """The layer of that name with its usual parameters; None for None.

    Parameters
    ----------
    what : str
        Who asks, for the message.
    name : str or None

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in ACTIVATIONS:
        choices = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{what}: activation must be None, {choices}, got {name!r}")
    return ACTIVATIONS[name]()

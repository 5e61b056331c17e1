"""Fully connected layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._ops.dense import CompactActivation, DenseOp
from dropcore.constraints import Constraint
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn._expectations import check_array, check_built
from dropcore.nn.activations import activation_of
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.regularizers import Regularizer

__all__ = ["Dense"]


class Dense(Layer):
    """Fully connected layer: y = activation(x @ weight + bias).

    The gradients, with dz that of the activation's input (dz = dy * (y > 0) under ReLU)::

        dx = dz @ weight.T        dweight = x.T @ dz        dbias = sum of dz over the rows

    Parameters
    ----------
    units : int
        Outputs. `weight` is (in, units), `bias` is (units,) and starts at zero.
    activation : str, optional
        A name of `dropcore.nn.activations.ACTIVATIONS`. "relu" is applied inside the product, which
        saves a pass over the output.
    use_bias : bool, default True
    initializer : str or callable, default "he_uniform"
        A name from `dropcore.nn.initializers`, one made there, or ``initializer(rng, shape)``.
    constraint : callable, optional
        What must hold for `weight` after every update, such as ``MaxNorm(2.0)``. It is called with
        the array and changes it in place.
    regularizer : Regularizer, optional
        What is added to the loss for `weight`, such as ``L2(1e-4)``.

    Raises
    ------
    TypeError
        If `units` is not an integer.
    ValueError
        If `units` is not positive, or for an unknown activation or initializer.
    """

    input_weights = ("weight",)

    def __init__(
        self,
        units: int,
        *,
        activation: str | None = None,
        use_bias: bool = True,
        initializer: str | Initializer = "he_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.units = check_integer("Dense: units", units, 1)
        behind = activation_of("Dense", activation)
        initializer_of("Dense: initializer", initializer)
        self.activation = activation
        self._function = behind.function if behind and activation != "relu" else None
        self.use_bias = use_bias
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        self._register("weight", constraint, regularizer)

    @property
    def built(self) -> bool:
        return bool(self._params)

    def output_shape(self, input_shape: Shape) -> Shape:
        features = self._params["weight"].shape[0] if self.built else None
        found = input_shape[-1] if input_shape else None
        if found is None or found < 1 or features not in (None, found):
            expected = "in_features" if features is None else features
            raise ValueError(
                f"{self!r} expects samples of shape (..., {expected}), got {input_shape}"
            )
        return (*input_shape[:-1], self.units)

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        features = input_shape[-1]
        assert features is not None  # output_shape has seen to it
        self._params["weight"] = drawn(self.initializer, rng, (features, self.units), dtype)
        if self.use_bias:
            self._params["bias"] = np.zeros(self.units, dtype)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        self.check(x)
        return self.forward_masked(x)

    def forward_masked(
        self, x: Array | CompactActivation, mask: Mask | None = None, *, live: bool = False
    ) -> tuple[Any, Backward]:
        """`forward` and the dropout behind it in one: what Sequential calls for the two.

        Parameters
        ----------
        x : ndarray or CompactActivation
            That `check` has seen.
        mask : Mask, optional
            Of the output.
        live : bool, default False
            Whether the output may come as CompactActivation, and its gradient likewise.
        """
        step = DenseOp(
            x, self._params["weight"], self._params.get("bias"),
            relu=self.activation == "relu", activation=self._function, mask=mask, live=live,
        )  # fmt: skip

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dx, dweight, dbias = step.backward(
                dy, input_gradient=input_gradient, for_update=for_update
            )
            return dx, {"weight": dweight} | ({} if dbias is None else {"bias": dbias})

        return step.y, backward

    def check(self, x: Array | CompactActivation) -> None:
        """TypeError or ValueError for what the layer cannot take."""
        check_built(self)
        weight = self._params["weight"]
        check_array(self, x)
        if x.ndim < 2 or x.shape[-1] != weight.shape[0]:
            raise ValueError(
                f"{self!r} expects x of shape (batch, ..., {weight.shape[0]}), got {x.shape}"
            )
        if x.dtype != weight.dtype:
            raise TypeError(
                f"{self!r} has {weight.dtype} weights and expects x of that dtype, got {x.dtype}"
            )

"""Fully connected layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._ops.dense import DenseOp
from dropcore._ops.epilogue import CompactActivation
from dropcore.constraints import Constraint
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_built, check_dtype
from dropcore.nn.initializers import Initializer
from dropcore.nn.layer import Array, Backward, Shape, read_only
from dropcore.nn.weighted import Weighted
from dropcore.regularizers import Regularizer

__all__ = ["Dense"]


class Dense(Weighted):
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
        A name from `dropcore.nn.initializers`, an object of its classes, or
        ``initializer(rng, shape)``.
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

    _fixed = Weighted._fixed | {"units"}

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
        super().__init__(activation, use_bias, initializer, constraint, regularizer)
        self.units = check_integer(f"{type(self).__name__}: units", units, 1)

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
        assert features is not None  # checked by output_shape
        self._draw((features, self.units), rng, dtype)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        bias: dict[str, Shape] = {"bias": (self.units,)} if self.use_bias else {}
        return {"weight": (None, self.units)} | bias, {}

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        self.check(x)
        return self.forward_masked(x)

    def forward_masked(
        self, x: Array | CompactActivation, mask: Mask | None = None, *, compact: bool = False
    ) -> tuple[Any, Backward]:
        """`forward` and the dropout after it in one product, as Sequential calls them.

        Parameters
        ----------
        x : ndarray or CompactActivation
            Accepted by `check`.
        mask : Mask, optional
            Of the output.
        compact : bool, default False
            Whether the output and its gradient may be a CompactActivation.

        Returns
        -------
        y : ndarray or CompactActivation
            The masked output.
        backward : callable
            As of `forward`.
        """
        op = DenseOp(
            x, self._params["weight"], self._params.get("bias"),
            relu=self.activation == "relu", activation=self._function, mask=mask, compact=compact,
        )  # fmt: skip

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dx, dweight, dbias = op.backward(
                dy, input_gradient=input_gradient, for_update=for_update
            )
            grads: dict[str, Gradient] = {"weight": dweight}
            if dbias is not None:
                grads["bias"] = dbias
            return dx, grads

        return read_only(op.y) if op.saved is op.y else op.y, backward

    def check(self, x: Array | CompactActivation) -> tuple[int, ...]:
        """The shape of the output; TypeError or ValueError for an x that the layer cannot take.

        Parameters
        ----------
        x : ndarray, shape (batch, ..., in)
            A batch.

        Returns
        -------
        tuple of int
            With the batch axis.
        """
        check_array(self, x)
        check_built(self)
        features = self._params["weight"].shape[0]
        if x.ndim < 2 or x.shape[-1] != features:
            raise ValueError(f"{self!r} expects x of shape (batch, ..., {features}), got {x.shape}")
        check_dtype(self, x, self._params["weight"].dtype)
        return (*x.shape[:-1], self.units)

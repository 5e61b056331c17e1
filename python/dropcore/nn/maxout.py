"""Maxout units."""

from __future__ import annotations

from typing import Any

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._base.device import array_namespace
from dropcore.constraints import Constraint
from dropcore.key import Key
from dropcore.nn._checks import check_gradient
from dropcore.nn.dense import Dense
from dropcore.nn.initializers import Initializer
from dropcore.nn.layer import Array, Backward, Layer, Shape, error_context, prefixed
from dropcore.regularizers import Regularizer

__all__ = ["Maxout"]


class Maxout(Layer):
    """The largest of several linear functions for each unit: y_j = max over p of (x @ w_pj + b_pj).

    The gradient goes to the piece that was largest, and to the first of equal ones. Dropout in
    front of maxout averages models well, because the function is locally linear.

    Parameters
    ----------
    units : int
        Outputs.
    pieces : int, default 2
        Linear functions of a unit. ``linear.weight`` is (in, pieces * units), the first pieces of
        all units first, ``linear.bias`` (pieces * units,).
    use_bias, initializer, constraint, regularizer
        Of the linear functions, as in `Dense`; a norm is that of one piece.

    Raises
    ------
    TypeError, ValueError
        If `units` or `pieces` is not a positive integer, and as `Dense`.

    References
    ----------
    Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013, "Maxout networks".
    """

    input_weights = ("linear.weight",)
    _fixed = frozenset({"units", "pieces", "use_bias", "initializer"})
    _lasting = Layer._lasting | {"_linear"}

    def __init__(
        self,
        units: int,
        *,
        pieces: int = 2,
        use_bias: bool = True,
        initializer: str | Initializer = "glorot_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.units = check_integer("Maxout: units", units, 1)
        self.pieces = check_integer("Maxout: pieces", pieces, 1)
        self.use_bias = use_bias
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        self._linear = self._add_child(
            "linear",
            Dense(
                self.units * self.pieces,
                use_bias=use_bias,
                initializer=initializer,
                constraint=constraint,
                regularizer=regularizer,
            ),
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        with error_context("linear"):
            return (*self._linear.output_shape(input_shape)[:-1], self.units)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        with error_context("linear"):
            z, inner = self._linear.forward(x)
        z = z.reshape(*z.shape[:-1], self.pieces, self.units)
        xp = array_namespace(z)
        largest = z.argmax(axis=-2)[..., None, :]

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, (*z.shape[:-2], self.units), z.dtype)
            chosen = xp.arange(self.pieces)[:, None] == largest
            dz = xp.where(chosen, dy[..., None, :], z.dtype.type(0))
            dz = dz.reshape(*dy.shape[:-1], self.pieces * self.units)
            dx, grads = inner(dz, input_gradient=input_gradient, for_update=for_update)
            return dx, prefixed("linear", grads)

        return xp.take_along_axis(z, largest, axis=-2)[..., 0, :], backward

"""Vectors of words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, dense, to_device
from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._base.device import on_device
from dropcore.constraints import Constraint, with_default_axis
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_built, check_gradient
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.regularizers import Regularizer

__all__ = ["Embedding"]


class Embedding(Layer):
    """A vector for each index: y[..., :] = weight[x[...]].

    The gradient of `weight` is the sum of dy over the positions of each index, and zero for indices
    that are not in the batch. An optimiser gets the rows that are, as a
    `dropcore._backends.gradients.BlockGradient`. Indices have no gradient: dx is None.

    On a GPU the indices may be NumPy or CuPy arrays. CuPy's are not checked, because that would
    wait for the device: for an index out of range y is NaN, and no gradient is added.

    Parameters
    ----------
    input_dim : int
        Number of indices: x holds 0 ... input_dim - 1.
    output_dim : int
        Length of a vector. `weight` is (input_dim, output_dim).
    initializer : str or callable, default "zaremba_uniform"
        Of `weight`, by default U(-0.05, 0.05).
    padding_index : int, optional
        An index whose vector is zero, whatever `weight` holds there.
    constraint : callable, optional
        What must hold for `weight` after every update. The vectors are its rows: norms run over
        the last axis unless the constraint names another.
    regularizer : Regularizer, optional
        What is added to the loss for `weight`.

    Raises
    ------
    TypeError, ValueError
        For dimensions that are not positive integers, or a `padding_index` out of range.
    """

    integer_input = True
    _fixed = frozenset({"input_dim", "output_dim", "initializer", "padding_index"})

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        initializer: str | Initializer = "zaremba_uniform",
        padding_index: int | None = None,
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        self.input_dim = check_integer("Embedding: input_dim", input_dim, 1)
        self.output_dim = check_integer("Embedding: output_dim", output_dim, 1)
        self.padding_index = (
            None
            if padding_index is None
            else check_integer("Embedding: padding_index", padding_index, 0, self.input_dim - 1)
        )
        initializer_of("Embedding: initializer", initializer)
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        own = None if constraint is None else with_default_axis(constraint, -1)
        self._register("weight", own, regularizer)

    @property
    def built(self) -> bool:
        return bool(self._params)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        shape, fans = (self.input_dim, self.output_dim), (1, self.output_dim)
        weight = self._params["weight"] = drawn(self.initializer, rng, shape, dtype, fans=fans)
        if self.padding_index is not None:
            weight[self.padding_index] = 0

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        return {"weight": (self.input_dim, self.output_dim)}, {}

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_built(self)
        weight = self._params["weight"]
        backend, indices = backend_of("weight", weight), self.check(x)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, (*indices.shape, self.output_dim), weight.dtype)
            rows = dy.reshape(indices.size, self.output_dim)
            gradient = backend.add_rows(rows, indices, self.padding_index, weight.shape)
            return None, {"weight": gradient if for_update else dense(gradient)}

        return backend.take_rows(weight, indices, self.padding_index), backward

    def check(self, x: Array) -> npt.NDArray[np.integer]:
        """`x` on the device of `weight`, if its indices are in range.

        Parameters
        ----------
        x : ndarray of int
            Indices of words, of any shape with a batch axis.

        Returns
        -------
        ndarray of int
            The indices.
        """
        check_array(self, x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"{self!r} takes integers, got {x.dtype}; use .astype(np.int64)")
        if on_device(x):  # checking them would wait for the device
            return x
        if x.size and not 0 <= x.min() <= x.max() < self.input_dim:
            bad = x.min() if x.min() < 0 else x.max()
            raise ValueError(f"{self!r} takes indices in [0, {self.input_dim}), got {bad}")
        return to_device(x, "cuda" if on_device(self._params["weight"]) else "cpu")

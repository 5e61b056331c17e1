"""Networks over the rows of a sparse array, which is never made dense for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.nn.layer import Array, Backward, Layer, Shape
from dropcore.products import masked_matmul, masked_matmul_backward

__all__ = ["over_rows"]


def over_rows(model: Sequential, x: Any) -> Sequential:
    """The same network with the numbers of rows of `x` as its input.

    `fit` and `predict` take such a network with ``np.arange(len(rows))[:, None]``: shuffles,
    splits and masks are then those of the network on the rows themselves. The first product is one
    of a sparse array; the weights, their names and the training state are those of `model`.

    Parameters
    ----------
    model : Sequential
        A built network whose first layer is a `Dense`, or a `Dropout` and then a `Dense`.
    x : scipy.sparse.csr_array, shape (rows, features)
        Of the dtype of the weights.
    """
    first, *rest = model.layers
    layers: list[Layer]
    if isinstance(first, Dropout):
        layers = [_RowDropout(first, x), _SparseDense(cast(Dense, rest[0])), *rest[1:]]
    else:
        layers = [_SparseDense(cast(Dense, first), x), *rest]
    found = Sequential(layers)
    found.training_state = model.training_state
    return found


@dataclass(frozen=True, eq=False)
class _MaskedRows:
    """Rows of a CSR array, and the mask that their product applies."""

    rows: Any
    mask: Mask | None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """One batch, for the search of the first layer whose output is not finite."""
        return np.asarray(self.rows.toarray(), dtype)


class _RowDropout(Layer):
    """A dropout of rows of a CSR array, whose numbers (batch, 1) are the input."""

    own_streams = 1

    def __init__(self, dropout: Dropout, x: Any) -> None:
        super().__init__()
        self._dropout, self._x = dropout, x

    def __repr__(self) -> str:
        return repr(self._dropout)

    @property
    def integer_input(self) -> bool:
        return True

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self._x.shape[1],)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Any, Backward]:
        rows = self._x[x[:, 0]]
        mask = None if key is None else self._dropout.mask(rows.shape, key, row_offset)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            return None, {}

        return _MaskedRows(rows, mask), backward

    def sampler(
        self, x: Array, *, row_offset: int = 0, lengths: Array | None = None
    ) -> Callable[[Sequence[Key]], Array]:
        """Dense, as the samples of a batch are computed by one product."""
        return self._dropout.sampler(self._x[x[:, 0]].toarray(), row_offset=row_offset)


class _SparseDense(Dense):
    """A `Dense` layer, with its arrays, for rows of a CSR array.

    Parameters
    ----------
    dense : Dense
        With its weights, which are shared.
    x : scipy.sparse.csr_array, optional
        If given, the input is numbers of its rows, (batch, 1). Otherwise it is what `_RowDropout`
        gives: rows with their mask, or a dense array of samples.
    """

    def __init__(self, dense: Dense, x: Any = None) -> None:
        super().__init__(
            dense.units,
            activation=dense.activation,
            use_bias=dense.use_bias,
            initializer=dense.initializer,
            constraint=dense.constraint,
            regularizer=dense.regularizer,
        )
        self._params.update(dense.params)
        self._dense, self._x = dense, x

    def __repr__(self) -> str:
        return repr(self._dense)

    @property
    def integer_input(self) -> bool:
        return self._x is not None

    def output_shape(self, input_shape: Shape) -> Shape:
        return (self.units,)

    def forward(
        self, x: Any, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        if self._x is not None:
            x = _MaskedRows(self._x[x[:, 0]], None)
        elif isinstance(x, np.ndarray):
            return super().forward(x)
        rows, mask, function = x.rows, x.mask, self._function
        weight, relu = self._params["weight"], "relu" if self.activation == "relu" else None
        z = masked_matmul(rows, weight, self._params["bias"], x_mask=mask, activation=relu)
        y, saved = (z, z) if function is None else function.forward(z, may_overwrite=True)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dz = dy if function is None else function.backward(dy, saved)
            _, dweight, dbias = masked_matmul_backward(
                dz, rows, weight, y, x_mask=mask, activation=relu, input_gradient=False
            )
            return None, {"weight": dweight, "bias": dbias}

        return y, backward

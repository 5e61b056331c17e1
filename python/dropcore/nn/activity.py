"""Regularizers of the output of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.sharing import current_share
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.layer import Array, Backward, Layer, Shape, read_only
from dropcore.regularizers import ActivityRegularizer

__all__ = ["ActivityRegularization"]


class ActivityRegularization(Layer):
    """Add a penalty for the outputs of the previous layer to the loss of a training step.

    y = x, and with the penalty P(x) of the batch ``dx = dy + dP / dx``. Inference ignores it, and
    the reported loss is that of the data alone; `penalty` returns P.

    Parameters
    ----------
    regularizer : ActivityRegularizer
        L1, L2 or L1L2, whose P is the mean over the samples of the batch, or KLSparsity.

    Raises
    ------
    TypeError
        If it is not one.

    Examples
    --------
    >>> from dropcore.regularizers import L1
    >>> ActivityRegularization(L1(1e-4))
    ActivityRegularization(L1(strength=0.0001))
    """

    def __init__(self, regularizer: ActivityRegularizer) -> None:
        super().__init__()
        if isinstance(regularizer, type) or not hasattr(regularizer, "activity_gradient"):
            raise TypeError(
                "ActivityRegularization: regularizer must be one of outputs, such as L1(1e-4) or "
                f"KLSparsity(0.1), got {regularizer!r}"
            )
        self.regularizer = regularizer

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def penalty(self, y: Array) -> float:
        """P of a batch (batch, ...) of outputs.

        Parameters
        ----------
        y : ndarray, shape (batch, ...)
            Outputs of the layer.

        Returns
        -------
        float
            What is added to the loss of the batch.
        """
        return self.regularizer.activity_penalty(y)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        y = read_only(x.view()) if type(x) is np.ndarray else x

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, x.shape, x.dtype)
            if not input_gradient:
                return None, {}
            dx = self.regularizer.activity_gradient(x)
            share = current_share()
            if share is not None:  # P is a mean over the samples of the whole batch
                dx *= dx.dtype.type(len(x) / max(share.rows, 1))
            dx += dy
            return dx, {}

        return y, backward

    def __call__(self, x: Array, key: Key | int | None = None, *, row_offset: int = 0) -> Array:
        check_array(self, x)
        return x

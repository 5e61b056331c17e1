"""Dropout of weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends import backend_of
from dropcore._backends.gradients import Gradient
from dropcore._base.device import array_namespace, special_of
from dropcore.constraints import Constraint
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_gradient
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import RatedLayer, check_row_offset, first_element, mode_of
from dropcore.nn.initializers import Initializer
from dropcore.nn.layer import Array, Backward, Shape, read_only
from dropcore.nn.noise import noise_like
from dropcore.nn.rates import Rate, Schedule
from dropcore.products import masked_matmul, masked_matmul_backward
from dropcore.regularizers import Regularizer

__all__ = ["DropConnect"]


class DropConnect(RatedLayer, Dense):
    """A Dense layer that drops weights instead of units.

    With m = 1 where a weight is kept, which has probability keep = 1 - rate::

        y = activation(x @ (weight * m / keep) + bias)

    The bias is never dropped. At inference, without a key, m / keep is replaced by its mean, 1.
    With ``inference="gaussian"`` the sum over dropped weights is approximated by a Gaussian of the
    same mean and variance, as in the paper::

        mean = x @ weight + bias        variance = rate / keep * x**2 @ weight**2
        y = the mean of activation(mean + sqrt(variance) * z), z standard normal

    in closed form without an activation and for ReLU; other activations get the mean. Called with a
    key it gives a sample, activation(mean + sqrt(variance) * z) with the z of that key, and under
    ``inference="mean"`` the output under the mask of that key. A training step, `forward`, draws
    masks whatever `inference` is.

    Parameters
    ----------
    units : int
        Outputs. `weight` is (in, units), `bias` is (units,).
    rate : float or callable
        Fraction of the weights dropped, in [0, 1]. Give `rate` or `keep`. A function of the step is
        a schedule.
    keep : float or callable
        Fraction kept.
    mode : "row" or "batch", default "row"
        Whether each sample has a mask of its own, (batch, in, units), which is never stored, or the
        batch shares one mask (in, units), which is much faster.
    inference : "mean" or "gaussian", default "mean"
    activation, use_bias, initializer, constraint, regularizer
        As for `Dense`.

    Raises
    ------
    TypeError, ValueError
        As for `Dense` and `Dropout`; for "gaussian" with a schedule or with keep = 0.

    References
    ----------
    Wan, Zeiler, Zhang, LeCun and Fergus 2013, "Regularization of neural networks using
    DropConnect".
    """

    own_streams = 1

    def __init__(
        self,
        units: int,
        rate: float | Schedule | None = None,
        *,
        keep: float | Schedule | None = None,
        mode: str = "row",
        inference: str = "mean",
        activation: str | None = None,
        use_bias: bool = True,
        initializer: str | Initializer = "he_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(
            units,
            activation=activation,
            use_bias=use_bias,
            initializer=initializer,
            constraint=constraint,
            regularizer=regularizer,
        )
        self._rate = Rate("DropConnect", rate, keep, arrays=False)
        self.mode = mode_of("DropConnect", mode)
        if inference not in ("mean", "gaussian"):
            raise ValueError(
                f"DropConnect: inference must be 'mean' or 'gaussian', got {inference!r}"
            )
        if inference == "gaussian" and (self._rate.is_schedule or self.keep == 0.0):
            raise ValueError(
                "DropConnect: inference='gaussian' needs one rate, below 1: its variance is "
                f"rate / keep; got {self._rate!r}"
            )
        self.inference = inference

    def __call__(self, x: Array, key: Key | int | None = None, *, row_offset: int = 0) -> Array:
        if self.inference == "mean":
            return super().__call__(x, key, row_offset=row_offset)
        self.check(x)
        weight = self._params["weight"]
        mean = masked_matmul(x, weight, self._params.get("bias"))
        variance = masked_matmul(x * x, weight * weight)
        variance *= weight.dtype.type((1.0 - self.keep) / self.keep)
        deviation = array_namespace(x).sqrt(variance, out=variance)
        if key is not None:
            deviation *= noise_like(mean, key, row_offset)
            mean += deviation
        elif self.activation == "relu":
            return _rectified_mean(mean, deviation)
        return self._activated(mean)[0]

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        self.check(x)
        weight, bias = self._params["weight"], self._params.get("bias")
        mask = None if key is None else self.mask(x.shape, key, row_offset)
        relu = "relu" if self.activation == "relu" else None
        product = masked_matmul(
            x, weight, bias, w_mask=mask, activation=relu,
            out=backend_of("x", x).empty((*x.shape[:-1], self.units), x.dtype),
        )  # fmt: skip
        y, saved = self._activated(product)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.shape, y.dtype)
            if self._function is not None:
                dy = self._function.backward(dy, saved)
            dx, dweight, dbias = masked_matmul_backward(
                dy, x, weight, y, w_mask=mask, activation=relu
            )
            grads: dict[str, Gradient] = {"weight": dweight}
            return dx, grads if bias is None else grads | {"bias": dbias}

        return read_only(y) if relu or self._function else y, backward

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"{self.rate_note()} of the weights"]

    def mask(self, shape: tuple[int, ...], key: Key | int, row_offset: int = 0) -> Mask:
        """The weight mask of an input of `shape` whose first row is row `row_offset`.

        Parameters
        ----------
        shape : tuple of int
            Of the input, (batch, ..., in).
        key : Key or int
            With the stream of the layer.
        row_offset : int, default 0
            Index of the first row in the global batch.

        Returns
        -------
        Mask
            Of shape (in, units), or (batch, in, units) for a mask per sample.
        """
        address = as_key(key)
        row_offset = check_row_offset((shape[0], shape[-1], self.units), row_offset)
        own = (shape[0], shape[-1], self.units)
        if self.mode == "batch":
            return Mask(own[1:], keep=self._rate(address.step), key=address)
        offset = first_element(own, row_offset)
        return Mask(own, keep=self._rate(address.step), key=address, offset=offset)

    def _activated(self, values: Array) -> tuple[Array, Array]:
        """The activation of values, which may be overwritten, and what its gradient needs."""
        if self.activation == "relu":  # it changes nothing where the product has applied it
            return array_namespace(values).maximum(values, 0, out=values), values
        if self._function is None:
            return values, values
        return self._function.forward(values, may_overwrite=True)


def _rectified_mean(mean: Array, deviation: Array) -> Array:
    """The mean of max(v, 0) for normal v: mean * Phi(t) + deviation * phi(t), t their ratio."""
    xp, real = array_namespace(mean), mean.dtype.type
    some = deviation > 0
    t = xp.where(some, mean, real(0)) / xp.where(some, deviation, real(1))
    density = xp.exp(-0.5 * t * t) * real((2.0 * np.pi) ** -0.5)
    smooth = mean * special_of(mean).ndtr(t) + deviation * density
    return xp.where(some, smooth, xp.maximum(mean, 0))

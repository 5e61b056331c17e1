"""Normalisation: over the batch, or over the features of each sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_bool, check_number
from dropcore._base.device import array_namespace
from dropcore._base.sharing import current_share
from dropcore._ops.normalization import (
    Moments,
    batch_moments,
    batch_normalize,
    batch_normalize_backward,
    layer_normalize,
    layer_normalize_backward,
)
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_built
from dropcore.nn.layer import Array, Backward, Layer, Shape

__all__ = ["BatchNorm", "LayerNorm"]


class _Normalization(Layer):
    """The base of both: y = h gamma + beta, with the features on the last axis."""

    _fixed = frozenset({"scale", "center"})
    _lasting = Layer._lasting | {"_features"}

    def __init__(self, epsilon: float, scale: bool, center: bool) -> None:
        super().__init__()
        name = type(self).__name__
        self.epsilon = check_number(f"{name}: epsilon", epsilon, "(0, inf)")
        self.scale = check_bool(f"{name}: scale", scale)
        self.center = check_bool(f"{name}: center", center)
        self._features: int | None = None

    @property
    def built(self) -> bool:
        return self._features is not None

    def output_shape(self, input_shape: Shape) -> Shape:
        found = input_shape[-1] if input_shape else None
        if found is None or found < 1 or self._features not in (None, found):
            expected = "features" if self._features is None else self._features
            raise ValueError(
                f"{self!r} expects samples of shape (..., {expected}), got {input_shape}"
            )
        return input_shape

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self._features is not None:
            return
        self._features = input_shape[-1]
        assert self._features is not None  # checked by output_shape
        if self.scale:
            self._params["gamma"] = np.ones(self._features, dtype)
        if self.center:
            self._params["beta"] = np.zeros(self._features, dtype)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        named = {"gamma": self.scale, "beta": self.center}
        return {name: (None,) for name, there in named.items() if there}, {}

    def _take_arrays(self, params: dict[str, Array], buffers: dict[str, Array]) -> None:
        super()._take_arrays(params, buffers)
        for array in (*params.values(), *buffers.values()):
            self._features = len(array)

    def _check(self, x: Array) -> tuple[Array, Array]:
        """gamma and beta for x, if the layer can take it."""
        check_built(self)
        assert self._features is not None
        check_array(self, x)
        if x.ndim < 2 or x.shape[-1] != self._features:
            raise ValueError(
                f"{self!r} expects x of shape (batch, ..., {self._features}), got {x.shape}"
            )
        kinds = {weight.dtype for weight in self._params.values()} or {
            np.dtype(np.float32),
            np.dtype(np.float64),
        }
        if x.dtype not in kinds:
            allowed = " or ".join(sorted(map(str, kinds)))
            raise TypeError(
                f"{self!r} expects x of {allowed}, as its weights, got {x.dtype}; use "
                f"x.astype(np.{min(map(str, kinds))}), or model.predict(x), which converts"
            )
        gamma, beta = self._params.get("gamma"), self._params.get("beta")
        xp = array_namespace(x)
        return (
            xp.ones(self._features, x.dtype) if gamma is None else gamma,
            xp.zeros(self._features, x.dtype) if beta is None else beta,
        )

    def _gradients(self, dgamma: Array, dbeta: Array) -> dict[str, Gradient]:
        return {
            name: gradient
            for name, gradient in (("gamma", dgamma), ("beta", dbeta))
            if name in self._params
        }


class BatchNorm(_Normalization):
    """Batch normalisation: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    Mean and variance are those of each feature over all other axes. In a training step (`forward`,
    with a key or without) they are those of the batch, the variance divided by the number of rows;
    the gradient goes through them. In a call, which is inference even where a key brings noise,
    they are running means over the training steps, in `buffers`, which change in
    ``backward(dy, for_update=True)``, unless `trainable` is False::

        mean     <- momentum mean     + (1 - momentum) batch mean
        variance <- momentum variance + (1 - momentum) batch variance * rows / (rows - 1)

    So the running variance estimates that of the data, as in the paper and in PyTorch (Keras
    leaves out the factor). A batch of one row has no variance and does not move it. Rows are
    positions too: batch times height times width for images. Where `fit` cuts a batch into blocks,
    the moments are those of the whole batch.

    Ioffe and Szegedy 2015, "Batch normalization: accelerating deep network training by reducing
    internal covariate shift". Dropout before it shifts the variance between training and
    inference (Li et al. 2019); put dropout after the last one.

    Parameters
    ----------
    momentum : float, default 0.9
        In [0, 1): how much of the running means stays in each step.
    epsilon : float, default 1e-5
    scale : bool, default True
        Whether there is a gamma, (features,), which starts at 1.
    center : bool, default True
        Whether there is a beta, (features,), which starts at 0.

    Raises
    ------
    ValueError
        If momentum or epsilon is out of range.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        scale: bool = True,
        center: bool = True,
    ) -> None:
        super().__init__(epsilon, scale, center)
        self.momentum = check_number("BatchNorm: momentum", momentum, "[0, 1)")

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        super()._build(input_shape, rng, dtype)
        if not self._buffers:
            self._buffers["mean"] = np.zeros(self._features or 0)
            self._buffers["variance"] = np.ones(self._features or 0)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        return super()._array_shapes()[0], {"mean": (None,), "variance": (None,)}

    def __call__(self, x: Array, key: Key | int | None = None, *, row_offset: int = 0) -> Array:
        gamma, beta = self._check(x)
        mean, variance = self._buffers["mean"], self._buffers["variance"]
        return batch_normalize(x, mean, variance, gamma, beta, epsilon=self.epsilon)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        gamma, beta = self._check(x)
        share = current_share()
        moments = batch_moments(x, share)
        if not moments.rows:
            moments = Moments(self._buffers["mean"], self._buffers["variance"], 0)
        mean, variance = moments.mean, moments.variance
        y = batch_normalize(x, mean, variance, gamma, beta, epsilon=self.epsilon)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dx, dgamma, dbeta = batch_normalize_backward(
                dy,
                x,
                moments,
                gamma,
                epsilon=self.epsilon,
                input_gradient=input_gradient,
                share=share,
            )
            moves = share is None or share.moves_buffers
            if for_update and moves and moments.rows and self._trainable:
                self._move(moments)
            return dx, self._gradients(dgamma, dbeta)

        return y, backward

    def _move(self, moments: Moments) -> None:
        rest, rows = 1 - self.momentum, moments.rows
        self._buffers["mean"] += rest * (moments.mean - self._buffers["mean"])
        if rows > 1:
            unbiased = moments.variance * (rows / (rows - 1))
            self._buffers["variance"] += rest * (unbiased - self._buffers["variance"])


class LayerNorm(_Normalization):
    """Layer normalisation: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    Mean and variance (divided by the number of features) are those of each sample, over the last
    axis: nothing depends on the rest of the batch, and inference is no different.

    Ba, Kiros and Hinton 2016, "Layer normalization".

    Parameters
    ----------
    epsilon : float, default 1e-5
    scale : bool, default True
        Whether there is a gamma, (features,), which starts at 1.
    center : bool, default True
        Whether there is a beta, (features,), which starts at 0.

    Raises
    ------
    ValueError
        If epsilon is not finite and positive.
    """

    def __init__(self, *, epsilon: float = 1e-5, scale: bool = True, center: bool = True) -> None:
        super().__init__(epsilon, scale, center)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        gamma, beta = self._check(x)
        y, mean, scale = layer_normalize(x, gamma, beta, epsilon=self.epsilon)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dx, dgamma, dbeta = layer_normalize_backward(dy, x, mean, scale, gamma)
            return dx, self._gradients(dgamma, dbeta)

        return y, backward

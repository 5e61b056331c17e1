"""Dropout whose rate is learned with the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from dropcore._backends import backend_of, dense, to_device
from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_bool, check_number
from dropcore._base.device import array_namespace, special_of
from dropcore._base.sharing import penalties_added
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_built, check_gradient
from dropcore.nn.dropout import (
    RatedLayer,
    check_row_offset,
    first_element,
    shared_axes_of,
    tuple_of_axes,
)
from dropcore.nn.layer import (
    Array,
    Backward,
    BackwardFrom,
    Layer,
    Shape,
    Stateful,
    error_context,
    prefixed,
)
from dropcore.nn.noise import noise_like
from dropcore.nn.rates import Rate
from dropcore.noise import decision_uniform

__all__ = ["ConcreteDropout", "VariationalDropout"]


class ConcreteDropout(RatedLayer, Stateful):
    """Dropout on the input of a layer, at a rate that is learned.

    The decision for each element is relaxed to a number between 0 and 1, which has a gradient. With
    p = sigmoid(logit) the fraction dropped, u uniform, W the weights and K the inputs of `layer`::

        s = sigmoid((logit(p) + log(u) - log(1 - u)) / temperature)
        y = layer(x * (1 - s) / (1 - p))
        penalty = (length_scale**2 / 2 * sum(W**2) / (1 - p) - K * H(p)) / data_points
        H(p) = -p log(p) - (1 - p) log(1 - p)

    `backward` adds the gradient of the penalty to those of ``logit`` and of W: the loss must be a
    mean negative log likelihood. Without a key there is no noise. At a low temperature an element
    is kept where `Dropout` at the same key and rate keeps it.

    Parameters
    ----------
    layer : Layer
        A layer with weights for its input, such as Dense or a convolution.
    rate, keep : float, optional
        Of the fraction dropped, or kept, where learning starts: rate 0.1 by default.
    data_points : float
        Samples in the training set. ``math.inf`` for no penalty.
    temperature : float, default 0.1
    length_scale : float, default 1e-4
        That of the prior of the weights.
    shared_axes : int or iterable of int, default ()
        Axes that share a decision, as for `Dropout`.

    Raises
    ------
    TypeError
        If `layer` is not a layer with weights for its input.
    ValueError
        If a number is out of range; `rate` must be between 0 and 1, and neither of them.

    References
    ----------
    Gal, Hron and Kendall 2017, "Concrete dropout".
    """

    own_streams = 1
    _fixed = frozenset({"rate", "keep"})

    def __init__(
        self,
        layer: Layer,
        rate: float | None = None,
        *,
        keep: float | None = None,
        data_points: float,
        temperature: float = 0.1,
        length_scale: float = 1e-4,
        shared_axes: int | Iterable[int] = (),
    ) -> None:
        super().__init__()
        if not isinstance(layer, Layer) or not layer.input_weights or layer.integer_input:
            raise TypeError(
                "ConcreteDropout: layer must have weights for its input, as Dense(10) has, "
                f"got {layer!r}"
            )
        self.layer = self._add_child("layer", layer)
        self._rate = _starting_rate("ConcreteDropout", rate, keep, 0.1, 1.0)
        self.data_points = _data_points("ConcreteDropout", data_points)
        self.temperature = check_number("ConcreteDropout: temperature", temperature, "(0, inf)")
        self.length_scale = check_number("ConcreteDropout: length_scale", length_scale, "[0, inf)")
        self.shared_axes = tuple_of_axes(shared_axes)

    @property
    def input_weights(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"layer.{name}" for name in self.layer.input_weights)

    @property
    def learned_rate(self) -> float:
        """The current fraction dropped."""
        return float(expit(self._logit_on_cpu())) if self._params else float(self.rate)

    def _logit_on_cpu(self) -> np.float64:
        """The logit as a number; this waits for its device."""
        return np.float64(to_device(self._params["logit"], "cpu")[0])

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"rate {self.learned_rate:.4g}, learned"]

    @property
    def built(self) -> bool:
        return bool(self._params) and super().built

    def output_shape(self, input_shape: Shape) -> Shape:
        shared_axes_of(self, self.shared_axes, 1 + len(input_shape))
        with error_context("layer"):
            return self.layer.output_shape(input_shape)

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        super()._build(input_shape, rng, dtype)
        if not self._params:
            self._params["logit"] = np.full(1, logit(self.rate), dtype)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        return {"logit": (1,)}, {}

    def forward_from(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, dict[str, Any], BackwardFrom]:
        """As for any layer; the state is a dict with that of `layer`.

        Parameters
        ----------
        x
            As for `forward`.
        state : dict, optional
            What the call for the previous piece returned.
        key, row_offset, lengths
            As for `forward`.

        Returns
        -------
        y : ndarray
            The output.
        state : dict
            For the next piece.
        backward : callable
            As of `Layer.forward_from`.
        """
        check_built(self)
        check_array(self, x)
        ((name, layer, own_key),) = self.children_with_keys(key)
        factor = slope = None
        inside = x
        if key is not None:
            factor, slope = self._relaxed(x, key, row_offset)
            inside = x * factor
        valid = self.checked_lengths(x, lengths)
        first = self.states_by_name("state", state).get(name)
        with error_context(name):
            y, last, inner = layer.forward_from(
                inside, first, key=own_key, row_offset=row_offset, lengths=valid
            )

        def backward(
            dy: Array,
            dstate: Mapping[str, Any] | None = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], dict[str, Any]]:
            check_gradient(self, dy, y.shape, y.dtype)
            wanted = input_gradient or factor is not None
            dlast = self.states_by_name("dstate", dstate).get(name)
            dx, grads, dfirst = inner(dy, dlast, input_gradient=wanted, for_update=for_update)
            xp = array_namespace(dy)
            dlogit = xp.zeros_like(self._params["logit"])
            if factor is not None:
                dlogit[...] = xp.sum(dx * x * slope, dtype=np.float64)
                dx = dx * factor if input_gradient else None
            found = prefixed("layer", grads) | {"logit": dlogit}
            if penalties_added():
                self._add_penalty(found)
            return dx, found, {} if dfirst is None else {name: dfirst}

        return y, {} if last is None else {name: last}, backward

    def _relaxed(self, x: Array, key: Key | int, row_offset: int) -> tuple[Array, Array]:
        """(1 - s) / (1 - p) for each element, and its derivative by the logit."""
        shared = shared_axes_of(self, self.shared_axes, x.ndim)
        row_offset = check_row_offset(x.shape, row_offset)
        own = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
        u = decision_uniform(own, key, 0 if 0 in shared else first_element(own, row_offset), like=x)
        special, at = special_of(x), self._params["logit"].astype(np.float64)
        p, keep = special.expit(at), special.expit(-at)
        kept = special.expit(-(at + special.logit(u)) / self.temperature)
        factor = kept / keep
        slope = (p - (1.0 - kept) / self.temperature) * factor
        return factor.astype(x.dtype), slope.astype(x.dtype)

    def penalty(self) -> float:
        """The part of the loss for the rate and the weights.

        Returns
        -------
        float
            What training adds to the loss.
        """
        at = self._logit_on_cpu()
        p, keep = expit(at), expit(-at)
        entropy = p * np.log1p(np.exp(-at)) + keep * np.log1p(np.exp(at)) if p * keep else 0.0
        squares, inputs = self._squares()
        return float(
            (self.length_scale**2 / 2 * float(squares) / keep - inputs * entropy) / self.data_points
        )

    def _squares(self) -> tuple[Any, int]:
        """Sum of the squares of the weights, on their device, and the number of their inputs."""
        weights = [self.layer.params[name] for name in self.layer.input_weights]
        return sum(backend_of("weight", w).square_sum(w) for w in weights), weights[0].shape[-2]

    def _add_penalty(self, grads: dict[str, Gradient]) -> None:
        if math.isinf(self.data_points):
            return
        special, at = special_of(self._params["logit"]), self._params["logit"].astype(np.float64)
        p, keep = special.expit(at), special.expit(-at)
        squares, inputs = self._squares()
        decay = self.length_scale**2 / keep / self.data_points
        dlogit = grads["logit"]
        of_penalty = decay * squares / 2 * p + inputs * at * p * keep / self.data_points
        dlogit += of_penalty.astype(dlogit.dtype)
        for name in self.layer.input_weights:
            weight = self.layer.params[name]
            of_data = dense(grads[f"layer.{name}"])
            grads[f"layer.{name}"] = of_data + decay.astype(weight.dtype) * weight


class VariationalDropout(RatedLayer):
    """Gaussian dropout whose variance is learned, for the layer or for each unit.

    With z standard normal and alpha = exp(log_alpha), at most 1::

        y = x * (1 + sqrt(alpha) * z)
        penalty = -sum over units of p(alpha) / data_points
        p(alpha) = log(alpha) / 2 + c1 alpha + c2 alpha**2 + c3 alpha**3

    which is the divergence from the log-uniform prior up to a constant, with c1 = 1.16145124,
    c2 = -1.50204118 and c3 = 0.58629921. `backward` adds its gradient: the loss must be a mean
    negative log likelihood. Without a key y = x.

    Parameters
    ----------
    rate, keep : float, optional
        Where learning starts: alpha = rate / keep, as in `GaussianDropout`. 0.5 by default, which
        is also the largest rate.
    data_points : float
        Samples in the training set. ``math.inf`` for no penalty.
    per_unit : bool, default False
        One alpha for each unit of the last axis, or one for all.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; `rate` must be above 0 and at most 0.5.

    References
    ----------
    Kingma, Salimans and Welling 2015, "Variational dropout and the local reparameterization trick".
    """

    own_streams = 1
    _fixed = frozenset({"rate", "keep", "per_unit"})
    _lasting = RatedLayer._lasting | {"_units"}
    coefficients = (1.16145124, -1.50204118, 0.58629921)

    def __init__(
        self,
        rate: float | None = None,
        *,
        keep: float | None = None,
        data_points: float,
        per_unit: bool = False,
    ) -> None:
        super().__init__()
        self._rate = _starting_rate("VariationalDropout", rate, keep, 0.5, 0.5)
        self.data_points = _data_points("VariationalDropout", data_points)
        self.per_unit = check_bool("VariationalDropout: per_unit", per_unit)
        self._constraints["log_alpha"] = AtMost(0.0)
        self._units = 0

    @property
    def learned_rate(self) -> float:
        """The current rate of a dropout of the same variance; the mean over units."""
        if not self.built:
            return float(self.rate)
        return float(np.mean(expit(self._log_alpha_on_cpu())))

    def _log_alpha_on_cpu(self) -> Array:
        """log_alpha as a NumPy array of float64; this waits for its device."""
        return to_device(self._params["log_alpha"], "cpu").astype(np.float64)

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"rate {self.learned_rate:.4g}, learned"]

    @property
    def built(self) -> bool:
        return bool(self._params)

    def output_shape(self, input_shape: Shape) -> Shape:
        found = input_shape[-1] if input_shape else None
        if found is None or self._units not in (0, found):
            expected = self._units or "units"
            raise ValueError(
                f"{self!r} expects samples of shape (..., {expected}), got {input_shape}"
            )
        return input_shape

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if not self._units:
            assert input_shape[-1] is not None  # output_shape has seen to it
            self._units = input_shape[-1]
        if not self.built:
            shape = self._units if self.per_unit else 1
            self._params["log_alpha"] = np.full(shape, logit(self.rate), dtype)

    def _array_shapes(self) -> tuple[dict[str, Shape], dict[str, Shape]]:
        return {"log_alpha": (None if self.per_unit else 1,)}, {}

    def _take_arrays(self, params: dict[str, Array], buffers: dict[str, Array]) -> None:
        super()._take_arrays(params, buffers)
        if params and self.per_unit:
            self._units = len(params["log_alpha"])

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_built(self)
        check_array(self, x)
        self.output_shape(x.shape[1:])
        noise = factor = None
        if key is not None:
            noise = noise_like(x, key, row_offset)
            noise *= array_namespace(x).exp(self._params["log_alpha"] / 2)
            factor = noise + 1

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, x.shape, x.dtype)
            log_alpha = self._params["log_alpha"]
            gradient = self._penalty_gradient()
            if not penalties_added():
                gradient[...] = 0
            if noise is not None:
                products = (dy * x * noise).reshape(-1, self._units)
                each = products.sum(axis=0, dtype=np.float64) / 2
                gradient += each if self.per_unit else each.sum()
            dx = None if not input_gradient else dy if factor is None else dy * factor
            return dx, {"log_alpha": gradient.astype(log_alpha.dtype)}

        return x if factor is None else x * factor, backward

    def penalty(self) -> float:
        """The part of the loss for the noise, up to a constant.

        Returns
        -------
        float
            What training adds to the loss.
        """
        log_alpha = self._log_alpha_on_cpu()
        alpha, (c1, c2, c3) = np.exp(log_alpha), self.coefficients
        each = log_alpha / 2 + alpha * (c1 + alpha * (c2 + alpha * c3))
        return float(-each.mean() * self._units / self.data_points)

    def _penalty_gradient(self) -> Array:
        log_alpha = self._params["log_alpha"].astype(np.float64)
        alpha, (c1, c2, c3) = array_namespace(log_alpha).exp(log_alpha), self.coefficients
        each = 0.5 + alpha * (c1 + alpha * (2 * c2 + alpha * 3 * c3))
        return -each * (self._units / log_alpha.size / self.data_points)


@dataclass(frozen=True)
class AtMost:
    """The constraint that no element exceeds a bound."""

    bound: float

    def __call__(self, weight: Array) -> None:
        """Clip the weight, in place."""
        array_namespace(weight).minimum(weight, weight.dtype.type(self.bound), out=weight)


def _starting_rate(
    what: str, rate: float | None, keep: float | None, default: float, most: float
) -> Rate:
    start = Rate(what, rate, keep, default=default, arrays=False, schedules=False)
    if not 0.0 < start.rate <= most or start.rate == 1.0:
        end = "1, and neither of them" if most == 1.0 else f"{most}, and not 0"
        raise ValueError(
            f"{what}: learning must start at a rate between 0 and {end}, got {start!r}"
        )
    return start


def _data_points(what: str, value: float) -> float:
    if value == math.inf:
        return math.inf
    return check_number(f"{what}: data_points", value, "(0, inf)")

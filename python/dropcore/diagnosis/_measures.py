"""Measurements of weights and activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import to_device
from dropcore.diagnosis._layers import in_order, outputs
from dropcore.nn.layer import Layer, Shape

__all__ = [
    "Activations",
    "Features",
    "WeightNorms",
    "first_layer_features",
    "measured_activations",
    "weight_norms",
]

AT_BOUND = 1e-5
"""How close to a bound, relative to it, a norm is when the bound holds it: float32 rounds."""

Block = tuple[Any, Any]
"""Some samples, in the dtype and on the device of the model, and their lengths or None."""


@dataclass(frozen=True, eq=False)
class WeightNorms:
    """Norms of the incoming weights of each unit of a layer.

    Attributes
    ----------
    name : str
        Of the parameter, such as "0.weight".
    norms : float64 ndarray (units,)
        L2 norms. In an embedding those of the vectors of words.
    bound : float or None
        The bound of a max-norm constraint.
    clipped : float or None
        The fraction of the norms at the bound; None without one.
    """

    name: str
    norms: NDArray[np.float64]
    bound: float | None
    clipped: float | None

    @property
    def mean(self) -> float:
        """The mean norm."""
        return float(self.norms.mean())

    @property
    def largest(self) -> float:
        """The largest norm."""
        return float(self.norms.max())


def weight_norms(model: Layer) -> list[WeightNorms]:
    """Norms of the incoming weights of all layers that multiply their input, in order.

    The norm runs over the axes of the parameter's max-norm constraint, else over all but the last;
    in an embedding, over the last.

    Parameters
    ----------
    model : Layer
        With weights.
    """
    found = []
    for path, layer in model.tree():
        names = [name for name in layer.input_weights if "." not in name]
        own = ("recurrent_weight", "context_weight", "output_weight")
        names += [name for name in own if name in layer.params]
        if layer.integer_input and not layer.children and "weight" in layer.params:
            names = ["weight"]
        for name in names:
            weight = to_device(layer.params[name], "cpu").astype(np.float64)
            constraint: Any = layer.constraints.get(name)
            bound = getattr(constraint, "max_norm", None)
            axes = tuple(range(weight.ndim - 1))
            if hasattr(constraint, "axes"):
                axes = constraint.axes(weight.ndim)
            elif layer.integer_input:
                axes = (weight.ndim - 1,)
            norms = np.sqrt(np.square(weight).sum(axis=axes)).ravel()
            clipped = None
            if bound is not None:
                clipped = float(np.mean(norms >= bound * (1 - AT_BOUND)))
            found.append(WeightNorms(f"{path}.{name}".lstrip("."), norms, bound, clipped))
    return found


@dataclass(frozen=True, eq=False)
class Activations:
    """Outputs of a hidden layer at inference, over all samples and positions.

    Attributes
    ----------
    path : str
        Of the layer, such as "0".
    layer : str
        The name of its class, and its activation.
    units : int
        Length of the last axis.
    sparsity : float
        Fraction of exact zeros.
    mean, std : float
    dead : int64 ndarray
        Units that are zero for every sample.
    counts : int64 ndarray (bins,)
        The histogram.
    edges : float64 ndarray (bins + 1,)
        Of its bins.
    """

    path: str
    layer: str
    units: int
    sparsity: float
    mean: float
    std: float
    dead: NDArray[np.int64]
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


class _Sums:
    """Sums over the outputs of one layer, block by block."""

    def __init__(self, path: str, layer: Layer) -> None:
        activation = getattr(layer, "activation", None)
        self.path = path
        self.layer = type(layer).__name__ + (f", {activation}" if activation else "")
        self.size = self.zeros = 0
        self.total = self.squares = 0.0
        self.low, self.high = math.inf, -math.inf
        self.alive: NDArray[np.bool_] | None = None
        self.counts: NDArray[np.int64] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Sums and extremes of values (rows, units)."""
        if not values.size:
            return
        wide = values.astype(np.float64)
        alive = (wide != 0).any(axis=0)
        self.alive = alive if self.alive is None else self.alive | alive
        self.size += wide.size
        self.zeros += wide.size - int(np.count_nonzero(wide))
        self.total += float(wide.sum())
        self.squares += float(np.square(wide).sum())
        self.low, self.high = min(self.low, float(wide.min())), max(self.high, float(wide.max()))

    def edges(self, bins: int) -> NDArray[np.float64]:
        """Edges of bins of one width between the extremes."""
        low, high = (0.0, 1.0) if self.low > self.high else (self.low, self.high)
        return np.linspace(low, high if high > low else low + 1.0, bins + 1)

    def count(self, values: NDArray[Any], bins: int) -> None:
        """Add values to the histogram; the extremes must be known."""
        found = np.histogram(values.astype(np.float64), self.edges(bins))[0]
        self.counts = found if self.counts is None else self.counts + found

    def result(self, bins: int) -> Activations:
        assert self.alive is not None  # `add` and `count` were called
        assert self.counts is not None
        mean = self.total / self.size
        return Activations(
            self.path, self.layer, len(self.alive), self.zeros / self.size, mean,
            math.sqrt(max(self.squares / self.size - mean**2, 0.0)),
            np.flatnonzero(~self.alive), self.counts, self.edges(bins),
        )  # fmt: skip


def measured_activations(
    model: Layer, blocks: Callable[[], Iterable[Block]], bins: int
) -> list[Activations]:
    """Activations of the hidden layers.

    Hidden are the layers with weights and the activations, but for indices that are looked up, up
    to the last layer with weights. The blocks are read twice: for the extremes, and for the
    histograms.

    Parameters
    ----------
    model : Layer
        With weights.
    blocks : callable
        Returns an iterable of blocks, whose batches have the dtype and device of the model.
    bins : int
        Of the histograms.
    """
    sums: dict[str, _Sums] = {}
    for place, layer, values in _hidden_values(model, blocks()):
        sums.setdefault(place, _Sums(place, layer)).add(values)
    for place, _, values in _hidden_values(model, blocks()):
        sums[place].count(values, bins)
    return [found.result(bins) for found in sums.values() if found.size]


def _hidden_values(
    model: Layer, blocks: Iterable[Block]
) -> Iterator[tuple[str, Layer, NDArray[Any]]]:
    """Path, layer and outputs (rows, units) of hidden layers, without padded steps."""
    with_weights = [path for path, layer in in_order(model) if layer.params]
    last = with_weights[-1] if with_weights else ""
    for x, lengths in blocks:
        valid = lengths
        for path, layer, y in outputs(model, x, lengths=lengths):
            if path == last:
                break
            valid = None if valid is None else layer.output_lengths(valid)
            is_activation = type(layer).__module__ == "dropcore.nn.activations"
            if layer.integer_input or not (layer.params or is_activation):
                continue
            values = to_device(y, "cpu")
            if valid is not None and values.ndim > 2:
                values = values[np.arange(values.shape[1]) < valid[:, None]]
            yield path, layer, values.reshape(-1, values.shape[-1])


@dataclass(frozen=True, eq=False)
class Features:
    """The incoming weights of the units of the first layer with weights.

    Attributes
    ----------
    name : str
        Of the parameter, such as "0.weight".
    weights : ndarray (units, ...)
        Incoming weights of each unit: (units, inputs), of a convolution (units, height, width,
        channels).
    names : list of str
        Of the inputs; empty for a convolution.
    images : ndarray (units, height, width) or (units, height, width, 3), or None
        The weights as images, where the input is an image.
    """

    name: str
    weights: NDArray[Any]
    names: list[str]
    images: NDArray[Any] | None

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """Inputs with the largest weights: name, and L2 norm of its weights to all units.

        The norms are comparable only if the inputs have one scale, as standardised ones have.

        Parameters
        ----------
        count : int, default 10
            How many inputs.

        Returns
        -------
        list of (str, float)
            The largest norm first.
        """
        if not self.names:
            return []
        norms = np.sqrt(np.square(self.weights, dtype=np.float64).sum(axis=0))
        largest = np.argsort(-norms, kind="stable")[:count]
        return [(self.names[index], float(norms[index])) for index in largest]


def first_layer_features(
    model: Layer, names: Sequence[str] | None, image_shape: Shape | None
) -> Features | None:
    """The weights of the first layer that multiplies its input; None without one.

    Parameters
    ----------
    model : Layer
        With weights.
    names : sequence of str, optional
        Of the inputs. By default they are numbered.
    image_shape : tuple, optional
        (height, width) or (height, width, channels) of one sample; by default that of the model's
        input, if it is an image.
    """
    for path, layer in in_order(model):
        if layer.integer_input:
            return None
        if not layer.input_weights:
            if layer.params and not _keeps_features(layer):
                return None
            continue
        own = layer.input_weights[0]
        weight = np.moveaxis(to_device(layer.params[own], "cpu"), -1, 0)
        name = f"{path}.{own}".lstrip(".")
        if weight.ndim != 2:
            shown = weight if weight.ndim == 4 else None
            return Features(name, weight, [], _images(shown, None))
        inputs = weight.shape[1]
        shape = image_shape
        if shape is None and len(model.input_shape or ()) in (2, 3):
            shape = model.input_shape
        if names is None or len(names) != inputs:
            names = [f"input {index}" for index in range(inputs)]
        return Features(name, weight, list(names), _images(weight, shape))
    return None


def _keeps_features(layer: Layer) -> bool:
    """Whether each feature of the output is that of the input, transformed."""
    return type(layer).__module__ == "dropcore.nn.normalization"


def _images(weights: NDArray[Any] | None, shape: Shape | None) -> NDArray[Any] | None:
    """Weights (units, ...) as grey or RGB images, None where they are none."""
    if weights is None:
        return None
    if weights.ndim == 2:
        lengths = [n or 0 for n in shape or ()]
        if math.prod(lengths) != weights.shape[1] or min(lengths[:2], default=0) < 2:
            return None
        weights = weights.reshape(len(weights), *lengths)
    if weights.ndim == 4 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    return weights if weights.ndim == 3 or weights.shape[-1] == 3 else None

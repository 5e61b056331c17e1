"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from dropcore.gradients import Gradient
from dropcore.key import Key, as_key
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout
from dropcore.nn.layer import Array, Backward, Layer, Shape, named, prefixed
from dropcore.steps import drops_units

__all__ = ["Sequential"]


class Sequential(Layer):
    """Layers one after the other: y = layer_n(... layer_1(layer_0(x))).

    Every dropout site inside has a stream of its own: sites are numbered depth-first and added to
    ``key.stream``.

    Parameters
    ----------
    layers : iterable of Layer

    Raises
    ------
    TypeError
        If `layers` is anything else.

    Examples
    --------
    >>> Sequential([Dense(256, activation="relu"), Dropout(0.5), Dense(10)])
    Sequential([Dense(256, activation='relu'), Dropout(0.5), Dense(10)])
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise TypeError(
                f"Sequential takes a list of layers, as in Sequential([Dense(10)]), got {layers!r}"
            )
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential takes layers, got {layer!r} at position {index}")
            self.children[str(index)] = layer

    @property
    def layers(self) -> list[Layer]:
        return list(self.children.values())

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.children)

    def output_shape(self, input_shape: Shape) -> Shape:
        for name, layer in self.children.items():
            with named(name):
                input_shape = layer.output_shape(input_shape)
        return input_shape

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        for layer in self.layers:
            layer._build(input_shape, rng, dtype)
            input_shape = layer.output_shape(input_shape)

    def keyed(self, key: Key | int | None) -> Iterator[tuple[str, Layer, Key | None]]:
        """Name, layer and key of each child; a child that draws nothing gets none."""
        key, site = None if key is None else as_key(key), 0
        for name, layer in self.children.items():
            yield name, layer, key.at(stream=key.stream + site) if key and layer.sites else None
            site += layer.sites

    def __call__(self, x: Array, key: Key | int | None = None, *, row: int = 0) -> Array:
        for name, layer, own in self.keyed(key):
            with named(name):
                x = layer(x, own, row=row)
        return x

    def forward(
        self, x: Array, *, key: Key | int | None = None, row: int = 0
    ) -> tuple[Array, Backward]:
        steps: list[tuple[str, Backward]] = []
        y: Any = x  # an array, or LiveUnits between two layers that know them
        children = list(self.keyed(key))
        while children:
            (name, layer, own), *children = children
            following = children[0] if children else None
            with named(name):
                if type(layer) is Dense:
                    layer.check(y)
                elif (
                    type(layer) is Dropout
                    and own is not None
                    and following is not None
                    and type(following[1]) is Dense
                    and drops_units(mask := layer.mask(y.shape, own, row))
                ):
                    y, step = layer.forward_live(y, mask)
                else:
                    y, step = layer.forward(y, key=own, row=row)
            if type(layer) is Dense:
                y, step = self._dense(layer, y, children, row)
            steps.append((name, step))
        first = next((i for i, (name, _) in enumerate(steps) if self.children[name].params), 0)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            grads: dict[str, Gradient] = {}
            for i, (name, step) in reversed(list(enumerate(steps))):
                wanted = input_gradient or i > first
                dy, inner = step(dy, input_gradient=wanted, for_update=for_update)
                grads |= prefixed(name, inner)
                if i == first and not input_gradient:
                    return None, grads  # nothing before this has weights
            return dy, grads

        return y, backward

    def _dense(
        self, layer: Dense, x: Any, behind: list[tuple[str, Layer, Key | None]], row: int
    ) -> tuple[Any, Backward]:
        """`layer` with the dropout behind it, if there is one, which is taken from the list.

        The dropout is applied where the product ends.
        """
        if not behind or type(behind[0][1]) is not Dropout or behind[0][2] is None:
            return layer.forward_masked(x)
        name, dropout, key = behind.pop(0)
        assert isinstance(dropout, Dropout)
        assert key is not None
        with named(name):
            mask = dropout.mask((*x.shape[:-1], layer.units), key, row)
        live = any(type(next_layer) is Dense for _, next_layer, _ in behind[:1])
        return layer.forward_masked(x, mask, live=live)

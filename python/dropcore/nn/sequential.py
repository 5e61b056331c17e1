"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.gradients import Gradient
from dropcore._ops.dense import CompactActivation, is_unit_mask
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn._expectations import check_array
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout
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
from dropcore.nn.reshape import Reshape

__all__ = ["Sequential"]


class Sequential(Stateful):
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
        behind = self._behind_reshapes()[1:]
        for name, layer in self.children.items():
            with error_context(name):
                if layer.integer_input and any(layer is other for other in behind):
                    raise ValueError(
                        f"{layer!r} takes indices, and the layer before it gives none: put it first"
                    )
                input_shape = layer.output_shape(input_shape)
        return input_shape

    def child_shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        for name, layer in self.children.items():
            yield name, layer, input_shape
            input_shape = layer.output_shape(input_shape)

    @property
    def integer_input(self) -> bool:
        return any(layer.integer_input for layer in self._behind_reshapes()[:1])

    def _behind_reshapes(self) -> list[Layer]:
        """The layers from the first one that does more than to reshape its input."""
        return list(dropwhile(lambda layer: isinstance(layer, Reshape), self.layers))

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        check_array(self, x)
        valid = self.checked_lengths(x, lengths)
        for name, layer, own in self.children_with_keys(key):
            with error_context(name):
                x = layer(x, own, row_offset=row_offset, **layer.lengths_kwargs(valid))
            valid = None if valid is None else layer.output_lengths(valid)
        return x

    def output_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        for layer in self.layers:
            lengths = layer.output_lengths(lengths)
        return lengths

    def trace(
        self, x: Array, key: Key | None = None, *, lengths: Array | None = None, path: str = ""
    ) -> Iterator[tuple[str, Layer, Array]]:
        for name, child, own in self.children_with_keys(key):
            place = f"{path}.{name}" if path else name
            for step in child.trace(x, own, lengths=lengths, path=place):
                yield step
                x = step[2]
            lengths = None if lengths is None else child.output_lengths(lengths)

    def forward_from(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, dict[str, Any], BackwardFrom]:
        """As of any layer; the state is those of the layers that carry one, by name."""
        check_array(self, x)
        states = self.states_by_name("state", state)
        valid = self.checked_lengths(x, lengths)
        steps: list[tuple[str, Any]] = []
        left: dict[str, Any] = {}
        y: Any = x  # an array, or CompactActivation between two layers that know them
        children = list(self.children_with_keys(key))
        while children:
            (name, layer, own), *children = children
            following = children[0] if children else None
            step: Any
            with error_context(name):
                maskable = masks_output(layer)
                if maskable is not None:
                    maskable.check(y)
                elif layer.carries_state:
                    y, left[name], step = layer.forward_from(
                        y, states.get(name), key=own, row_offset=row_offset, lengths=valid
                    )
                elif (
                    _joins(layer)
                    and own is not None
                    and following is not None
                    and type(following[1]) is Dense
                    and is_unit_mask(mask := layer.mask(y.shape, own, row_offset))
                ):
                    y, step = layer.forward_live(y, mask)
                else:
                    y, step = layer.forward(
                        y, key=own, row_offset=row_offset, **layer.lengths_kwargs(valid)
                    )
            if maskable is not None:
                y, step = self._masked(maskable, y, children, row_offset)
            valid = None if valid is None else layer.output_lengths(valid)
            steps.append((name, step))
        first = next((i for i, (name, _) in enumerate(steps) if _learns(self.children[name])), 0)

        def backward(
            dy: Any,
            dstate: Mapping[str, Any] | None = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], dict[str, Any]]:
            dstates = self.states_by_name("dstate", dstate)
            grads: dict[str, Gradient] = {}
            came: dict[str, Any] = {}
            for i, (name, step) in reversed(list(enumerate(steps))):
                wanted = {"input_gradient": input_gradient or i > first, "for_update": for_update}
                with error_context(name):
                    if name in left:
                        dy, inner, came[name] = step(dy, dstates.get(name), **wanted)
                    else:
                        dy, inner = step(dy, **wanted)
                grads |= prefixed(name, inner)
                if i == first and not input_gradient:
                    return None, grads, came  # nothing before this learns
            return dy, grads, came

        return y, left, backward

    def _masked(
        self,
        layer: MasksOutput,
        x: Any,
        behind: list[tuple[str, Layer, Key | None]],
        row_offset: int,
    ) -> tuple[Any, Backward]:
        """`layer` with the dropout behind it, if there is one, which is taken from the list.

        The dropout is applied where the product ends.
        """
        if not behind or not _joins(behind[0][1]) or behind[0][2] is None:
            return layer.forward_masked(x)
        name, dropout, key = behind.pop(0)
        assert isinstance(dropout, Dropout)
        assert key is not None
        with error_context(name):
            shape = (x.shape[0], *layer.output_shape(x.shape[1:]))
            mask = dropout.mask(
                shape, key, row_offset, x.values if isinstance(x, CompactActivation) else x
            )
        live = any(type(next_layer) is Dense for _, next_layer, _ in behind[:1])
        return layer.forward_masked(x, mask, live=live)


class MasksOutput(Protocol):
    """A layer that applies a mask of its output as it makes it: see Dense."""

    def check(self, x: Any) -> None:
        """TypeError or ValueError for what the layer cannot take."""

    def output_shape(self, input_shape: Shape) -> Any:
        """As of any layer."""

    def forward_masked(
        self, x: Any, mask: Mask | None = None, *, live: bool = False
    ) -> tuple[Any, Backward]:
        """`forward` of x, which `check` has seen, under the mask."""


def masks_output(layer: Layer) -> MasksOutput | None:
    """The layer, if it offers `forward_masked`, for the same function as its `forward`.

    A class made from one that does, with a `forward` of its own, is another function.
    """
    for kind in type(layer).__mro__:
        if "forward_masked" in vars(kind):
            return cast(MasksOutput, layer)
        if "forward" in vars(kind):
            return None
    return None


def _learns(layer: Layer) -> bool:
    """Whether a step for an update changes anything in the layer."""
    return bool(layer.params or layer.buffers)


def _joins(layer: Layer) -> TypeGuard[Dropout]:
    """Whether a product may apply the layer's mask: not if a subclass does more than that."""
    return isinstance(layer, Dropout) and type(layer).forward is Dropout.forward

"""Layers one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, ClassVar, Protocol, cast, overload

import numpy as np
from numpy.typing import NDArray

from dropcore._backends.gradients import Gradient
from dropcore._ops.epilogue import CompactActivation, is_unit_mask
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn._views import ReadOnlyList
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout
from dropcore.nn.layer import (
    Array,
    Backward,
    BackwardFrom,
    Layer,
    Shape,
    Stateful,
    add_context,
    calls_are_of,
    child_key,
    child_keys,
    error_context,
    prefixed,
)
from dropcore.nn.model import Model
from dropcore.nn.reshape import Reshape

__all__ = ["Sequential"]


class Sequential(Stateful, Model):
    """Layers one after the other: y = layer_n(... layer_1(layer_0(x))).

    Every layer that draws noise has streams of its own: they are numbered depth-first, from
    ``key.stream`` on.

    Parameters
    ----------
    layers : iterable of Layer

    Raises
    ------
    TypeError
        If `layers` is anything else.

    Examples
    --------
    >>> model = Sequential([Dense(256, activation="relu"), Dropout(0.5), Dense(10)])
    >>> model
    Sequential([Dense(256, activation='relu'), Dropout(0.5), Dense(10)])
    >>> model[0]
    Dense(256, activation='relu')
    >>> model[:2]  # of the same layers
    Sequential([Dense(256, activation='relu'), Dropout(0.5)])
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
            self._add_child(str(index), layer)

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers, read-only."""
        return ReadOnlyList(
            list(self._children.values()),
            "the layers of a Sequential",
            "create another one, as in Sequential([*model.layers, Dense(10)])",
        )

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Layer:
        """A layer, or for a slice a Sequential of the same layers."""
        layers = list(self._children.values())
        return Sequential(layers[index]) if isinstance(index, slice) else layers[index]

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Layer]:
        return iter(list(self._children.values()))

    def output_shape(self, input_shape: Shape) -> Shape:
        seen = False  # a layer that does more than reshape its input
        for name, layer in self._children.items():
            with error_context(name):
                if seen and layer.integer_input:
                    raise ValueError(
                        f"{layer!r} takes indices, and the layer before it gives none: put it first"
                    )
                seen = seen or not isinstance(layer, Reshape)
                input_shape = layer.output_shape(input_shape)
        return input_shape

    def child_shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        for name, layer in self._children.items():
            yield name, layer, input_shape
            input_shape = layer.output_shape(input_shape)

    @property
    def integer_input(self) -> bool:
        others = dropwhile(lambda layer: isinstance(layer, Reshape), self._children.values())
        first = next(others, None)
        return first is not None and first.integer_input

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        check_array(self, x)
        address = None if key is None else as_key(key)
        valid = self.checked_lengths(x, lengths)
        for name, layer, stream in self.child_streams():
            own = child_key(address, stream)
            try:
                x = layer(x, own, row_offset=row_offset, **layer.lengths_kwargs(valid))
            except (TypeError, ValueError) as error:
                add_context(error, name)
                raise
            if valid is not None:
                valid = layer.output_lengths(valid)
        return x

    def sampler(
        self, x: Array, *, row_offset: int = 0, lengths: Array | None = None
    ) -> Callable[[Sequence[Key]], Array]:
        if not self.noisy or not calls_are_of(self, Sequential):
            return super().sampler(x, row_offset=row_offset, lengths=lengths)
        check_array(self, x)
        valid = self.checked_lengths(x, lengths)
        children = deque(self.child_streams())
        while not children[0][1].noisy:
            name, layer, _ = children.popleft()
            with error_context(name):
                x = layer(x, **layer.lengths_kwargs(valid))
            valid = None if valid is None else layer.output_lengths(valid)
        name, layer, stream = children.popleft()
        with error_context(name):
            draw = layer.sampler(x, row_offset=row_offset, **layer.lengths_kwargs(valid))
        valid = None if valid is None else layer.output_lengths(valid)

        def draw_all(keys: Sequence[Key]) -> Array:
            y = draw(child_keys(keys, stream))
            return _through(children, y, keys, row_offset, valid)

        return draw_all

    def on_samples(
        self,
        x: Array,
        keys: Sequence[Key],
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        if not calls_are_of(self, Sequential):
            return super().on_samples(x, keys, row_offset=row_offset, lengths=lengths)
        valid = self.checked_lengths(x[0], lengths)
        return _through(self.child_streams(), x, keys, row_offset, valid)

    def output_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        for layer in self._children.values():
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
        """As for any layer; the state is a dict of those of the layers that carry one.

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
        if type(x) is not np.ndarray or not self._children:  # else the first layer checks it
            check_array(self, x)
        states = self.states_by_name("state", state)
        address = None if key is None else as_key(key)
        valid = self.checked_lengths(x, lengths)
        last: dict[str, Any] = {}
        backwards: list[tuple[_Stage, Any]] = []
        y: Any = x  # between two layers that know it, a CompactActivation
        for stage in self._stages():
            y, own_state, inner = stage.forward(
                y, address, row_offset, valid, states.get(stage.name)
            )
            if stage.carries_state:
                last[stage.name] = own_state
            if valid is not None:
                valid = stage.layer.output_lengths(valid)
            backwards.append((stage, inner))

        return y, last, _BackwardPass(self, backwards, y)

    def _stages(self) -> list[_Stage]:
        """The steps of a forward pass, planned once: a layer, or two in one product."""
        plan: list[_Stage] | None = self._cache.get("stages")
        if plan is None:
            plan = self._cache["stages"] = list(_planned(self.child_streams()))
        return plan


def _through(
    children: Iterable[tuple[str, Layer, int | None]],
    x: Array,
    keys: Sequence[Key],
    row_offset: int,
    lengths: NDArray[np.int64] | None,
) -> Array:
    """`Layer.on_samples` of layers one after the other."""
    for name, layer, stream in children:
        own = layer.lengths_kwargs(lengths) | {"row_offset": row_offset}
        with error_context(name):
            x = layer.on_samples(x, child_keys(keys, stream), **own)
        lengths = None if lengths is None else layer.output_lengths(lengths)
    return x


class _BackwardPass:
    """The backward pass of a Sequential, as a whole or stage by stage.

    Parameters
    ----------
    model : Sequential
    passes : list of (_Stage, callable)
        The stages in their order, with their own backward passes.
    y : ndarray
        The output.
    """

    def __init__(self, model: Sequential, passes: list[tuple[_Stage, Any]], y: Any) -> None:
        self._model, self._passes, self._y = model, passes, y

    def __call__(
        self,
        dy: Any,
        dstate: Mapping[str, Any] | None = None,
        *,
        input_gradient: bool = True,
        for_update: bool = False,
    ) -> tuple[Any, dict[str, Gradient], dict[str, Any]]:
        """As `BackwardFrom`."""
        if not self._passes:
            check_gradient(self._model, dy, self._y.shape, self._y.dtype)
        grads: dict[str, Gradient] = {}
        first_dstate: dict[str, Any] = {}
        for dx, found, own_dstate in self._run(dy, dstate, input_gradient, for_update):
            dy = dx
            grads |= found
            first_dstate |= own_dstate
        return dy if input_gradient else None, grads, first_dstate

    def by_stage(self, dy: Any) -> Iterator[dict[str, Gradient]]:
        """As `StagedBackward`."""
        for _, found, _ in self._run(dy, None, False, True):
            yield found

    def _run(
        self, dy: Any, dstate: Mapping[str, Any] | None, input_gradient: bool, for_update: bool
    ) -> Iterator[tuple[Any, dict[str, Gradient], dict[str, Any]]]:
        """Gradients of the input, the parameters and the state of each stage, the last first."""
        passes = self._passes
        dstates = self._model.states_by_name("dstate", dstate)
        first = 0  # the first stage with anything to learn: nothing before it has to be done
        if not input_gradient:
            learning = (i for i, (stage, _) in enumerate(passes) if stage.layer.learns)
            first = next(learning, 0)
        for i in range(len(passes) - 1, first - 1, -1):
            stage, inner = passes[i]
            how = {"input_gradient": input_gradient or i > first, "for_update": for_update}
            own_dstate: dict[str, Any] = {}
            try:
                if stage.carries_state:
                    dy, found, own = inner(dy, dstates.get(stage.name), **how)
                    own_dstate[stage.name] = own
                else:
                    dy, found = inner(dy, **how)
            except (TypeError, ValueError) as error:
                add_context(error, stage.name)
                raise
            yield dy, prefixed(stage.name, found), own_dstate


@dataclass(eq=False)
class _Stage:
    """One layer of a Sequential.

    Attributes
    ----------
    name : str
    layer : Layer
    stream : int or None
        Offset of the layer's streams; None if it has none.
    """

    name: str
    layer: Layer
    stream: int | None
    carries_state: ClassVar[bool] = False

    def forward(
        self, x: Any, key: Key | None, row_offset: int, lengths: Any, state: Any
    ) -> tuple[Any, Any, Any]:
        """Output, state and backward pass; `key` is that of the whole network."""
        try:
            return self._forward(x, child_key(key, self.stream), row_offset, lengths, state)
        except (TypeError, ValueError) as error:
            add_context(error, self.name)
            raise

    def _forward(
        self, x: Any, key: Key | None, row_offset: int, lengths: Any, state: Any
    ) -> tuple[Any, Any, Any]:
        options = {} if lengths is None else self.layer.lengths_kwargs(lengths)
        y, backward = self.layer.forward(x, key=key, row_offset=row_offset, **options)
        return y, None, backward


class _StatefulStage(_Stage):
    """A layer that carries a state."""

    carries_state = True

    def _forward(
        self, x: Any, key: Key | None, row_offset: int, lengths: Any, state: Any
    ) -> tuple[Any, Any, Any]:
        options = {} if lengths is None else self.layer.lengths_kwargs(lengths)
        return self.layer.forward_from(x, state, key=key, row_offset=row_offset, **options)


class _DropoutStage(_Stage):
    """A dropout in front of a Dense, which computes with the kept units only if it drops units."""

    def _forward(
        self, x: Any, key: Key | None, row_offset: int, lengths: Any, state: Any
    ) -> tuple[Any, Any, Any]:
        layer = cast(Dropout, self.layer)
        if key is None:
            y, backward = layer.forward(x, row_offset=row_offset)
            return y, None, backward
        check_array(layer, x)
        mask = layer.mask(x.shape, key, row_offset, x)
        if is_unit_mask(mask):
            compact, backward = layer.forward_compact(x, mask)
            return compact, None, backward
        y, backward = layer.forward_under(x, mask)
        return y, None, backward


@dataclass(eq=False)
class _ProductStage(_Stage):
    """A layer that ends in a product, which also applies the mask of the dropout after it.

    Attributes
    ----------
    dropout : tuple of name, layer, offset of its streams, or None
    compact : bool
        Whether the layer after them takes a CompactActivation.
    """

    dropout: tuple[str, Dropout, int] | None
    compact: bool

    def forward(
        self, x: Any, key: Key | None, row_offset: int, lengths: Any, state: Any
    ) -> tuple[Any, Any, Any]:
        layer, name, mask = cast(MasksOutput, self.layer), self.name, None
        try:
            shape = layer.check(x)
            if key is not None and self.dropout is not None:
                name, dropout, stream = self.dropout
                like = x.values if isinstance(x, CompactActivation) else x
                own = key.at(stream=key.stream + stream) if stream else key
                mask = dropout.mask(shape, own, row_offset, like)
                name = self.name
            y, backward = layer.forward_masked(x, mask, compact=self.compact)
        except (TypeError, ValueError) as error:
            add_context(error, name)
            raise
        if key is None and self.dropout is not None and self.dropout[1].scaling == "test":
            y, backward = _chained(y, backward, self.dropout[1], row_offset)
        return y, None, backward


class MasksOutput(Protocol):
    """A layer that can apply a mask to its output as it computes it, such as Dense."""

    def check(self, x: Any) -> tuple[int, ...]:
        """The shape of the output; TypeError or ValueError for an x that the layer cannot take."""

    def forward_masked(
        self, x: Any, mask: Mask | None = None, *, compact: bool = False
    ) -> tuple[Any, Backward]:
        """`forward` of an x that `check` accepts, with the mask applied to the output."""


def _chained(
    y: Array, backward: Backward, dropout: Dropout, row_offset: int
) -> tuple[Array, Backward]:
    """A layer's output and backward pass, and a dropout without a key after them."""
    y, of_dropout = dropout.forward(y, row_offset=row_offset)

    def both(
        dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Any, dict[str, Gradient]]:
        dy, _ = of_dropout(dy)
        return backward(dy, input_gradient=input_gradient, for_update=for_update)

    return y, both


def _planned(children: list[tuple[str, Layer, int | None]]) -> Iterator[_Stage]:
    """The stages of some layers: a dropout joins the product before it."""
    rest = deque(children)
    while rest:
        name, layer, stream = rest.popleft()
        if masks_output(layer):
            dropout = None
            if rest and _joins(rest[0][1]):
                dropout = cast(tuple[str, Dropout, int], rest.popleft())
            compact = dropout is not None and bool(rest) and type(rest[0][1]) is Dense
            yield _ProductStage(name, layer, stream, dropout, compact)
        elif layer.carries_state:
            yield _StatefulStage(name, layer, stream)
        elif _joins(layer) and rest and type(rest[0][1]) is Dense:
            yield _DropoutStage(name, layer, stream)
        else:
            yield _Stage(name, layer, stream)


def masks_output(layer: Layer) -> bool:
    """Whether the layer is a `MasksOutput` whose `forward` computes the same function.

    A subclass with a `forward` of its own computes another one.
    """
    for kind in type(layer).__mro__:
        if "forward_masked" in vars(kind):
            return True
        if "forward" in vars(kind):
            return False
    return False


def _joins(layer: Layer) -> bool:
    """Whether a product may apply the layer's mask: not if a subclass does more than that."""
    return isinstance(layer, Dropout) and type(layer).forward is Dropout.forward

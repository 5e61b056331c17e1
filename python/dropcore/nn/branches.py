"""Layers side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from dropcore._backends import backend_of
from dropcore._backends.gradients import Gradient
from dropcore._base.device import array_namespace
from dropcore.key import Key
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn._views import ReadOnlyList
from dropcore.nn.layer import (
    Array,
    BackwardFrom,
    Layer,
    Shape,
    Stateful,
    calls_are_of,
    child_keys,
    error_context,
    prefixed,
)
from dropcore.nn.model import Model
from dropcore.nn.sequential import Sequential

__all__ = ["Parallel", "Residual"]

_MERGES: Final = ("concat", "sum", "mean")


class Parallel(Stateful, Model):
    """Layers that all get the same input: y = merge(branch_0(x), branch_1(x), ...).

    Streams of noise are numbered through the branches in order.

    Parameters
    ----------
    branches : iterable of Layer
    merge : "concat", "sum" or "mean", default "concat"
        Along the last axis; or elementwise, of outputs of one shape.

    Raises
    ------
    TypeError
        If a branch is not a layer.
    ValueError
        If there are no branches, or for another `merge`.

    Examples
    --------
    >>> from dropcore.nn import Dense
    >>> Parallel([Dense(3), Dense(5)]).output_shape((10,))
    (8,)
    """

    def __init__(self, branches: Iterable[Layer], *, merge: str = "concat") -> None:
        super().__init__()
        if isinstance(branches, Layer) or not isinstance(branches, Iterable):
            raise TypeError(
                f"{type(self).__name__} takes a list of layers, as in Parallel([Dense(10), "
                f"Dense(20)]), got {branches!r}"
            )
        if merge not in _MERGES:
            choices = ", ".join(map(repr, _MERGES))
            raise ValueError(f"{type(self).__name__}: merge must be {choices}, got {merge!r}")
        self.merge = merge
        for index, branch in enumerate(branches):
            if not isinstance(branch, Layer):
                raise TypeError(
                    f"{type(self).__name__} takes layers, got {branch!r} at position {index}"
                )
            self._add_child(self._name_of(index), branch)
        if not self._children:
            raise ValueError(f"{type(self).__name__} needs at least one layer, got none")

    def _name_of(self, index: int) -> str:
        """The name of a branch in paths."""
        return str(index)

    @property
    def branches(self) -> Sequence[Layer]:
        """The layers, read-only."""
        return ReadOnlyList(
            list(self._children.values()), "the branches", "create another Parallel from them"
        )

    @property
    def integer_input(self) -> bool:
        return any(branch.integer_input for branch in self._children.values())

    def output_shape(self, input_shape: Shape) -> Shape:
        shapes = []
        for name, branch in self._children.items():
            with error_context(name):
                shapes.append(branch.output_shape(input_shape))
        apart = len({shape[:-1] if self.merge == "concat" else shape for shape in shapes}) > 1
        if apart or (self.merge == "concat" and () in shapes):
            what = "differ in the last axis only" if self.merge == "concat" else "be equal"
            raise ValueError(
                f"{type(self).__name__}, merge={self.merge!r}: the branches' outputs must {what}, "
                f"got {', '.join(map(str, shapes))} from an input {input_shape}"
            )
        if self.merge != "concat":
            return shapes[0]
        last = [shape[-1] for shape in shapes]
        width = None if None in last else sum(n for n in last if n is not None)
        return (*shapes[0][:-1], width)

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        outputs = []
        check_array(self, x)
        valid = self.checked_lengths(x, lengths)
        for name, branch, own in self.children_with_keys(key):
            with error_context(name):
                y = branch(x, own, row_offset=row_offset, **branch.lengths_kwargs(valid))
            outputs.append(y)
        return self._merged(outputs)

    def sampler(
        self, x: Array, *, row_offset: int = 0, lengths: Array | None = None
    ) -> Callable[[Sequence[Key]], Array]:
        if not self.noisy or not calls_are_of(self, Parallel):
            return super().sampler(x, row_offset=row_offset, lengths=lengths)
        check_array(self, x)
        valid = self.checked_lengths(x, lengths)
        draws = []
        for name, branch, stream in self.child_streams():
            with error_context(name):
                own = branch.lengths_kwargs(valid)
                draws.append((branch.sampler(x, row_offset=row_offset, **own), stream))
        return lambda keys: self._merged_samples(
            [draw(child_keys(keys, stream)) for draw, stream in draws]
        )

    def on_samples(
        self,
        x: Array,
        keys: Sequence[Key],
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        if not calls_are_of(self, Parallel):
            return super().on_samples(x, keys, row_offset=row_offset, lengths=lengths)
        valid = self.checked_lengths(x[0], lengths)
        outputs = []
        for name, branch, stream in self.child_streams():
            with error_context(name):
                own = branch.lengths_kwargs(valid) | {"row_offset": row_offset}
                outputs.append(branch.on_samples(x, child_keys(keys, stream), **own))
        return self._merged_samples(outputs)

    def forward_from(
        self,
        x: Array,
        state: Mapping[str, Any] | None = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, dict[str, Any], BackwardFrom]:
        """As for any layer; the state is a dict of those of the branches that carry one.

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
        check_array(self, x)
        states = self.states_by_name("state", state)
        valid = self.checked_lengths(x, lengths)
        outputs: list[Array] = []
        steps: list[tuple[str, Any]] = []
        last: dict[str, Any] = {}
        for name, branch, own in self.children_with_keys(key):
            step: Any
            with error_context(name):
                if branch.carries_state:
                    part, last[name], step = branch.forward_from(
                        x, states.get(name), key=own, row_offset=row_offset,
                        **branch.lengths_kwargs(valid),
                    )  # fmt: skip
                else:
                    part, step = branch.forward(
                        x, key=own, row_offset=row_offset, **branch.lengths_kwargs(valid)
                    )
            outputs.append(part)
            steps.append((name, step))
        widths = [part.shape[-1] for part in outputs]
        y = self._merged(outputs)
        shape, dtype = y.shape, y.dtype

        def backward(
            dy: Any,
            dstate: Mapping[str, Any] | None = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], dict[str, Any]]:
            how = {"input_gradient": input_gradient, "for_update": for_update}
            dx: Any = None
            check_gradient(self, dy, shape, dtype)
            dstates = self.states_by_name("dstate", dstate)
            grads: dict[str, Gradient] = {}
            first_dstate: dict[str, Any] = {}
            for (name, step), part in zip(steps, self._parts(dy, widths)):
                with error_context(name):
                    if name in last:
                        own, inner, first_dstate[name] = step(part, dstates.get(name), **how)
                    else:
                        own, inner = step(part, **how)
                grads |= prefixed(name, inner)
                if input_gradient and own is not None:
                    dx = own if dx is None else _sum(dx, own)
            return dx, grads, first_dstate

        return y, last, backward

    def _merged(self, outputs: list[Array]) -> Array:
        if self.merge == "concat":
            return array_namespace(outputs[0]).concatenate(outputs, axis=-1)
        total = outputs[0]
        for y in outputs[1:]:
            if y.shape != total.shape:
                raise ValueError(
                    f"{type(self).__name__}, merge={self.merge!r}: the branches' outputs must be "
                    f"equal in shape, got {total.shape} and {y.shape}"
                )
            total = _sum(total, y)
        return total * total.dtype.type(1 / len(outputs)) if self.merge == "mean" else total

    def _merged_samples(self, outputs: list[Array]) -> Array:
        """The branches' samples, merged; a branch without noise has one for all."""
        xp, count = array_namespace(outputs[0]), max(map(len, outputs))
        return self._merged([xp.broadcast_to(y, (count, *y.shape[1:])) for y in outputs])

    def _parts(self, dy: Array, widths: list[int]) -> Iterator[Array]:
        """The gradient of each branch's output."""
        if self.merge == "concat":
            start = 0
            for width in widths:
                yield dy[..., start : start + width]
                start += width
        else:
            part = dy * dy.dtype.type(1 / len(widths)) if self.merge == "mean" else dy
            yield from [part] * len(widths)


def _sum(a: Array, b: Array) -> Array:
    """a + b in memory that earlier arrays have given back."""
    out = backend_of("y", a).empty(a.shape, np.result_type(a, b))
    total: Array = array_namespace(a).add(a, b, out=out)
    return total


class Residual(Parallel):
    """A layer with a shortcut around it: y = layer(x) + shortcut(x).

    Parameters
    ----------
    layer : Layer or list of Layer
        The residual; a list becomes a Sequential. With `DropPath` at its end it is dropped for some
        samples (stochastic depth).
    shortcut : Layer, optional
        By default the identity. Needed where the layer changes the shape.

    Raises
    ------
    TypeError
        If one of them is not a layer.

    References
    ----------
    He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition".

    Examples
    --------
    >>> from dropcore.nn import Dense
    >>> Residual([Dense(32, activation="relu"), Dense(8)]).output_shape((8,))
    (8,)
    """

    def __init__(self, layer: Layer | Iterable[Layer], shortcut: Layer | None = None) -> None:
        around = Sequential([]) if shortcut is None else shortcut
        inside = layer if isinstance(layer, Layer) else Sequential(layer)
        super().__init__([inside, around], merge="sum")
        self.layer = inside
        self.shortcut = shortcut

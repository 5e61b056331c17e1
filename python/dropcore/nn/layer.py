"""What every layer is: named weights, a forward pass, and the backward pass that it returns."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dropcore._backends import checked_device, to_device
from dropcore._backends.gradients import Gradient
from dropcore._base.device import on_device
from dropcore._base.generators import WEIGHTS, generator
from dropcore.key import Key, as_key
from dropcore.nn._expectations import checked_shape, short
from dropcore.training import TrainingState, evaluate, fit, predict

if TYPE_CHECKING:
    from dropcore.constraints import Constraint
    from dropcore.nn._summary import Summary
    from dropcore.regularizers import Regularizer

__all__ = [
    "Array",
    "Backward",
    "BackwardFrom",
    "Layer",
    "Shape",
    "Stateful",
    "error_context",
    "prefixed",
]

Array = NDArray[Any]
"""float32 or float64; every array of one network has the same dtype."""

Shape = tuple[int | None, ...]
"""The shape of one sample, without the batch axis. None is an axis of any length."""


class Backward(Protocol):
    """dy -> (dx, grads): grads has the names and the shapes of the layer's `params`.

    With ``input_gradient=False`` dx is not needed and may be None. With ``for_update=True`` the
    gradients go to an optimiser only: they may be a `BlockGradient` or a `ProductGradient`, which
    an optimiser applies faster than arrays. Such a gradient may refer to dy and to the layer's
    input, which must not change before the update.
    """

    def __call__(
        self, dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Any, dict[str, Gradient]]: ...


class BackwardFrom(Protocol):
    """(dy, dstate) -> (dx, grads, dstate of the state that came in), as `Backward` otherwise."""

    def __call__(
        self,
        dy: Array,
        dstate: Any = None,
        *,
        input_gradient: bool = True,
        for_update: bool = False,
    ) -> tuple[Any, dict[str, Gradient], Any]: ...


class Layer:
    """A function of an array, the weights it needs, and its gradient.

    There is no switch between training and inference. What is asked for is in the call::

        y = layer(x)                                # inference
        y = layer(x, key)                           # inference under the noise that key addresses
        y, backward = layer.forward(x, key=key)     # a training step ...
        dx, grads = backward(dy)                    # ... and its gradients, by parameter name

    Nothing is stored on the layer by any of them, so that several threads may use one model.

    A subclass writes `output_shape` and `forward`, and `_build` where it has weights. A container
    fills `children`, and names of parameters become paths such as ``"0.weight"``.

    Attributes
    ----------
    params : dict of str to ndarray
        The weights, by name or path. An optimiser changes these arrays in place.
    constraints : dict of str to Constraint
        What must hold after every update, under the name of the parameter.
    regularizers : dict of str to Regularizer
        What is added to the loss for a parameter, under its name.
    buffers : dict of str to ndarray
        Numbers that belong to the model and are not trained, such as running means. They move
        only inside ``backward(dy, for_update=True)``.
    n_streams : int
        How many streams of masks the layer draws from.
    takes_lengths : bool
        Whether `forward` and a call take ``lengths=``, the valid steps of each padded sequence.
        What comes out of a layer has `output_lengths` of them.
    carries_state : bool
        Whether `forward_from` goes on from a state.
    integer_input : bool
        Whether the input is indices, which are not converted to the dtype of the weights.
    input_shape : tuple or None
        What `build` was given.
    homogeneous : bool
        Whether f(a x) = a f(x) for every a > 0.
    input_weights : tuple of str
        Names of the parameters (..., in, out) that multiply the input.
    built : bool
        Whether the weights are there.
    device : str
        Where the weights are or will be, "cpu" or "cuda".
    training_state : TrainingState or None
        Where `fit` stopped, so that the next call of `fit` goes on.
    """

    own_streams: int = 0
    homogeneous: bool = False
    input_weights: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._params: dict[str, Array] = {}
        self._constraints: dict[str, Constraint] = {}
        self._regularizers: dict[str, Regularizer] = {}
        self._buffers: dict[str, Array] = {}
        self.input_shape: Shape | None = None
        self.children: dict[str, Layer] = {}
        self.training_state: TrainingState | None = None
        self.device = "cpu"

    # --- what a layer is ------------------------------------------------------------------------

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one sample's output; ValueError if the layer cannot take `input_shape`."""
        raise NotImplementedError

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        """Output of a training step, and the function that takes its gradient back.

        Parameters
        ----------
        x : ndarray, shape (batch, ...)
        key : Key or int, optional
            Address of the noise: the layer's streams are numbered from ``key.stream``.
            Without it there is none.
        row_offset : int, default 0
            Position of the first row of `x` in the global batch. A batch that is cut into pieces
            draws the masks of the whole.

        Returns
        -------
        y : ndarray
        backward : callable
            ``dx, grads = backward(dy)``, with `grads` named like `params`. Valid until the weights
            change.
        """
        raise NotImplementedError

    def __call__(self, x: Array, key: Key | int | None = None, *, row_offset: int = 0) -> Array:
        """Inference, with noise if a key is given; parameters as in `forward`."""
        return self.forward(x, key=key, row_offset=row_offset)[0]

    def forward_from(
        self,
        x: Array,
        state: Any = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, Any, BackwardFrom]:
        """`forward` of a piece of a sequence, from the state that the piece before it left.

        Parameters
        ----------
        x, key, row_offset, lengths
            As in `forward`.
        state : optional
            What the call for the piece before returned; None is where sequences begin.

        Returns
        -------
        y : ndarray
        state
            For the piece that follows; None of layers that carry none.
        backward : callable
            ``dx, grads, dstate = backward(dy, dstate)``, with the gradient of the state that was
            returned (None: zero) and of the state that was given.

        Raises
        ------
        ValueError
            If there is a state and the layer carries none.
        """
        if state is not None:
            raise ValueError(f"{self!r} carries no state, got one")
        y, inner = self.forward(x, key=key, row_offset=row_offset, **self.lengths_kwargs(lengths))

        def backward(
            dy: Array,
            dstate: Any = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], Any]:
            return *inner(dy, input_gradient=input_gradient, for_update=for_update), None

        return y, None, backward

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Draw the weights that are missing."""
        for _, child, own in self.child_shapes(input_shape):
            child._build(own, rng, dtype)

    def _register(
        self, name: str, constraint: Constraint | None, regularizer: Regularizer | None
    ) -> None:
        """Note what a constructor was given for a parameter; TypeError if it is something else."""
        if constraint is not None and (isinstance(constraint, type) or not callable(constraint)):
            raise TypeError(
                f"{type(self).__name__}: a constraint must be an object such as MaxNorm(2.0), or a "
                f"function of the weights, got {constraint!r}"
            )
        if regularizer is not None and (
            isinstance(regularizer, type) or not hasattr(regularizer, "add_gradient")
        ):
            raise TypeError(
                f"{type(self).__name__}: a regularizer must be one of weights, such as L2(1e-4), "
                f"got {regularizer!r}"
            )
        if constraint is not None:
            self._constraints[name] = constraint
        if regularizer is not None:
            self._regularizers[name] = regularizer

    # --- what follows from it, for layers and containers -----------------------------------------

    def build(self, input_shape: Shape, *, key: Key | int, dtype: DTypeLike | None = None) -> None:
        """Draw initial weights. Layers that have weights keep them. `fit` calls this.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample, without the batch axis.
        key : Key or int
            Its seed decides the weights.
        dtype : float32 or float64, optional
            That of the weights that are there already, else float32.

        Raises
        ------
        TypeError
            If `input_shape` is not a tuple of integers.
        ValueError
            If a layer cannot take what the one before gives, an object with weights is in the model
            twice, or `dtype` is none of the above.
        """
        input_shape = checked_shape("build", input_shape)
        self._check_distinct()
        self.output_shape(input_shape)
        here = next(iter(self.params.values()), None)
        kind = np.dtype(dtype if dtype is not None else np.float32 if here is None else here.dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"build: dtype must be float32 or float64, got {kind}")
        if here is not None and kind != here.dtype:
            raise ValueError(f"build: dtype must be {here.dtype}, as there are weights, got {kind}")
        if self.device == "cpu":
            self._build(input_shape, generator(key, WEIGHTS), kind)
        else:  # the same weights as on the CPU, where they are drawn
            device = self.device
            self.to("cpu")
            self._build(input_shape, generator(key, WEIGHTS), kind)
            self.to(device)
        self.input_shape = input_shape

    def to(self, device: str) -> Self:
        """Move the weights, and all else that training goes on from, to another device.

        The layer then takes arrays of that device, draws the same masks there and gives arrays of
        that device. Weights that are not drawn yet will be there.

        Parameters
        ----------
        device : "cpu" or "cuda"
            NumPy's memory, or that of CuPy's current device.

        Returns
        -------
        Layer
            Itself.

        Raises
        ------
        ValueError
            For another device.
        ImportError, RuntimeError
            If there is no CuPy, or no device; they say what to install.
        """
        place = checked_device("to", device)
        for _, layer in self.tree():
            layer.device = place
            for arrays in (layer._params, layer._buffers):
                for name, array in arrays.items():
                    arrays[name] = to_device(array, place)
            if layer.training_state is not None:
                for slot in layer.training_state.slots.values():
                    for path, array in slot.items():
                        slot[path] = to_device(array, place)
        return self

    def _check_distinct(self) -> None:
        """ValueError if a layer with weights is in the model twice."""
        paths: dict[int, str] = {}
        for path, layer in self.leaves():
            first = paths.setdefault(id(layer), path)
            if first != path and (not layer.built or layer._params or layer._buffers):
                raise ValueError(
                    f"layer {path}, {layer!r}, is the very object that is layer {first}, and "
                    "weights cannot be shared: make another one"
                )

    @property
    def params(self) -> dict[str, Array]:
        return self._gathered("_params")

    @property
    def constraints(self) -> dict[str, Constraint]:
        return self._gathered("_constraints")

    @property
    def regularizers(self) -> dict[str, Regularizer]:
        return self._gathered("_regularizers")

    @property
    def buffers(self) -> dict[str, Array]:
        return self._gathered("_buffers")

    def _gathered(self, attribute: str) -> dict[str, Any]:
        """What this layer and its children hold under that attribute, by path."""
        found = dict(getattr(self, attribute))
        for name, child in self.children.items():
            found |= prefixed(name, child._gathered(attribute))
        return found

    @property
    def n_streams(self) -> int:
        return self.own_streams + sum(child.n_streams for child in self.children.values())

    @property
    def built(self) -> bool:
        return all(child.built for child in self.children.values())

    @property
    def takes_lengths(self) -> bool:
        return any(child.takes_lengths for child in self.children.values())

    @property
    def carries_state(self) -> bool:
        return any(child.carries_state for child in self.children.values())

    @property
    def integer_input(self) -> bool:
        return False

    def lengths_kwargs(self, lengths: Array | None) -> dict[str, Any]:
        """The keyword `lengths` for a call of this layer, if there are any and it takes them."""
        return {"lengths": lengths} if lengths is not None and self.takes_lengths else {}

    def checked_lengths(self, x: Array, lengths: ArrayLike | None) -> NDArray[np.int64] | None:
        """`lengths` of the sequences x (batch, time, ...), if they can be."""
        if lengths is None:
            return None
        what = short(self)
        if not self.takes_lengths:
            raise ValueError(f"{what} takes no lengths of sequences: leave them out")
        if on_device(lengths):
            raise TypeError(
                f"{what} expects lengths on the host, where they are checked: cupy.asnumpy(lengths)"
            )
        found = np.asarray(lengths)
        if found.dtype.kind not in "iu":
            raise TypeError(f"{what} expects lengths of integers, got {found.dtype}")
        if found.shape != x.shape[:1]:
            raise ValueError(
                f"{what} expects lengths of shape {x.shape[:1]}, one for each sequence, got "
                f"{found.shape}"
            )
        steps = x.shape[1] if x.ndim > 1 else 0
        if found.size and not 0 <= found.min() <= found.max() <= steps:
            raise ValueError(
                f"{what} expects lengths in [0, {steps}], got {found.min()} ... {found.max()}"
            )
        return np.ascontiguousarray(found, np.int64)

    def output_lengths(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The valid steps of what comes out of sequences with `lengths` valid steps."""
        for child in self.children.values():
            return child.output_lengths(lengths)  # those beside it give sequences as long
        return lengths

    def states_by_name(self, what: str, state: Any) -> Mapping[str, Any]:
        """`state` as the states of the children that carry one; ValueError if it cannot be."""
        names = [name for name, child in self.children.items() if child.carries_state]
        if state is None:
            return {}
        if not isinstance(state, Mapping) or not set(state) <= set(names):
            found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(
                f"{self!r} expects {what} to be a dict of what its layers named "
                f"{', '.join(map(repr, names)) or 'nothing'} carry, got {found}"
            )
        return state

    def children_with_keys(self, key: Key | int | None) -> Iterator[tuple[str, Layer, Key | None]]:
        """The children with their names and the keys of their own streams, depth-first."""
        key = None if key is None else as_key(key)
        site = self.own_streams
        for name, child in self.children.items():
            yield name, child, key.at(stream=key.stream + site) if key and child.n_streams else None
            site += child.n_streams

    @property
    def draws(self) -> bool:
        """Whether the layer itself draws noise where there is a key."""
        return self.own_streams > 0

    def tree(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """The layer and all that it holds, depth-first, with their paths."""
        yield path, self
        for name, child in self.children.items():
            yield from child.tree(f"{path}.{name}" if path else name)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """The layers that hold no others, depth-first, with their paths."""
        return ((place, layer) for place, layer in self.tree(path) if not layer.children)

    def trace(
        self, x: Array, key: Key | None = None, *, lengths: Array | None = None, path: str = ""
    ) -> Iterator[tuple[str, Layer, Array]]:
        """Yield path, layer and output of each layer in the order of the network.

        Parameters
        ----------
        x, key, lengths
            As in `forward`.
        path : str, default ""
            Of this layer.
        """
        yield path, self, self.forward(x, key=key, **self.lengths_kwargs(lengths))[0]

    def child_shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        """The children with their names and the shapes of the samples that reach them.

        Unless a container says otherwise, all get what it gets.
        """
        for name, child in self.children.items():
            yield name, child, input_shape

    def noise_notes(self) -> list[str]:
        """Words about the layer's noise for a summary, beyond what `keep` says."""
        return []

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that differ from their defaults, by name."""
        parameters = inspect.signature(type(self)).parameters.values()
        values = {p.name: (getattr(self, p.name), p.default) for p in parameters}
        return {name: value for name, (value, usual) in values.items() if value != usual}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        arguments = [
            _source(value)
            if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            else f"{name}={_source(value)}"
            for name, value in self.config().items()
        ]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def to_config(self) -> dict[str, Any]:
        """What the layer is made of, without its weights, as numbers, strings, lists and dicts.

        `json.dumps` takes it; `from_config` builds the layer again.

        Raises
        ------
        TypeError
            For an argument that cannot be written down, such as a function of your own.
        """
        from dropcore.nn._config import encode

        return encode(self)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, custom: Mapping[str, type] | None = None
    ) -> Self:
        """The layer that `to_config` described, without weights.

        Parameters
        ----------
        config : dict
        custom : dict of str to type, optional
            Classes of your own, by their names.

        Raises
        ------
        ValueError
            If a class is not known, or does not take what the config holds.
        TypeError
            If the config is of something else than this class.
        """
        from dropcore.nn._config import decode

        layer = decode(config, custom or {})
        if not isinstance(layer, cls):
            raise TypeError(f"{cls.__name__}.from_config: this is the config of {layer!r}")
        return layer

    def summary(self, input_shape: Shape | None = None) -> Summary:
        """A table of the layers: shapes, parameters, dropout, constraints.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Of one sample, without the batch axis. By default what the model was built for.

        Raises
        ------
        ValueError
            If the model has not been built and no shape is given.
        """
        from dropcore.nn._summary import summarize

        return summarize(self, input_shape)

    # --- training --------------------------------------------------------------------------------

    fit = fit
    predict = predict
    evaluate = evaluate


class Stateful(Layer):
    """A layer whose `forward_from` does the work: `forward` and calls start where sequences do."""

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        return self.forward_from(x, key=key, row_offset=row_offset, lengths=lengths)[0]

    def forward(
        self,
        x: Array,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, Backward]:
        y, _, inner = self.forward_from(x, key=key, row_offset=row_offset, lengths=lengths)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            return inner(dy, input_gradient=input_gradient, for_update=for_update)[:2]

        return y, backward


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"weight": w}`` of child ``"0"`` is ``{"0.weight": w}`` of its container."""
    return {f"{name}.{inner}": value for inner, value in values.items()}


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Put the place in the network before the message of an error that a layer raises."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        inner = message.removeprefix("layer ")
        error.args = (f"layer {name}.{inner}" if inner != message else f"layer {name}, {message}",)
        raise


def _source(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, np.ndarray):  # all of it, in digits that tell it from its neighbours
        with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
            return repr(value)
    return value.__name__ if inspect.isfunction(value) else repr(value)

"""The base class of layers: named parameters, a forward pass and its backward pass."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dropcore._backends import backend_of, checked_device, to_device
from dropcore._backends.gradients import Gradient
from dropcore._base import checks
from dropcore._base.checks import shown
from dropcore._base.device import on_device
from dropcore._base.generators import WEIGHTS, generator
from dropcore.key import Key, as_key
from dropcore.nn._checks import checked_shape, short
from dropcore.nn._config import decode, encode
from dropcore.nn._views import ReadOnlyDict

if TYPE_CHECKING:
    from dropcore.constraints import Constraint
    from dropcore.regularizers import Regularizer
    from dropcore.training import TrainingState

__all__ = [
    "Array",
    "ArrayShape",
    "Backward",
    "BackwardFrom",
    "Layer",
    "Shape",
    "StagedBackward",
    "Stateful",
    "add_context",
    "calls_are_of",
    "child_key",
    "child_keys",
    "error_context",
    "prefixed",
    "read_only",
    "restore_arrays",
    "writeable",
]

Array = NDArray[Any]
"""float32 or float64; every array of one network has the same dtype."""

Shape = tuple[int | None, ...]
"""The shape of one sample, without the batch axis. None is an axis of any length."""

ArrayShape = tuple[int | Fraction | None, ...]
"""The shape of a parameter or buffer before the input is known: see `Layer._array_shapes`."""


_INSTEAD = {
    "params": "write into an array, params[name][...] = w, or call load_params(mapping)",
    "buffers": "write into an array, buffers[name][...] = values",
    "constraints": "assign layer.constraint",
    "regularizers": "assign layer.regularizer",
}
"""What to do instead of changing the dicts of a layer."""


_OF_MODELS = frozenset(
    {"fit", "predict", "predict_proba", "predict_labels", "evaluate", "summary", "save",
     "save_weights", "load_weights"}
)  # fmt: skip
"""Methods of models, which other layers are asked for by mistake."""


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


class StagedBackward(Protocol):
    """A backward pass that can also be made stage by stage, as that of a Sequential."""

    def by_stage(self, dy: Array) -> Iterator[dict[str, Gradient]]:
        """The gradients for an update, of one stage after the other, the last stage first.

        Parameters
        ----------
        dy : ndarray
            Gradient of the output.

        Yields
        ------
        dict
            Gradients by path; each parameter is in one of the dicts.
        """


class LayerType(type):
    """The type of layer classes: checks a constructor's arguments, and notes when it is done."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        if "__signature__" not in vars(cls):
            parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
            cls.__signature__ = inspect.Signature(parameters)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            layer = super().__call__(*args, **kwargs)
        except TypeError:
            signature = inspect.signature(cls)
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                message = f"{cls.__name__}: {error}; it is called as {cls.__name__}{signature}"
                raise TypeError(_without_annotations(message, cls)) from None
            raise
        vars(layer)["_constructed"] = True
        return layer


class Layer(metaclass=LayerType):
    """A function of an array, with its parameters and its gradient.

    There is no switch between training and inference; each call says what is wanted::

        y = layer(x)                                # inference
        y = layer(x, key)                           # inference with the noise addressed by key
        y, backward = layer.forward(x, key=key)     # a training step ...
        dx, grads = backward(dy)                    # ... and its gradients, by parameter name

    None of them stores anything on the layer, so several threads may use one model.

    A subclass implements `output_shape` and `forward`, and `_build` if it has parameters. A
    container adds its children with `_add_child` in its constructor; parameters of children are
    named by paths such as ``"0.weight"``.

    An argument of the constructor may be assigned later. The constructor then runs again, with its
    checks, and the new value takes effect at once. Arguments that decide the shapes or the initial
    values of parameters cannot be assigned once the layer is built. Other attributes are refused.

    Attributes
    ----------
    params : dict of str to ndarray
        The parameters, by name or path. Optimisers change these arrays in place. The dict is
        read-only: write into an array, or call `load_params`.
    constraints : dict of str to Constraint
        What must hold after every update, by parameter. Read-only.
    regularizers : dict of str to Regularizer
        What is added to the loss for a parameter. Read-only.
    buffers : dict of str to ndarray
        Arrays that belong to the model and are not trained, such as running means. They change
        only inside ``backward(dy, for_update=True)``. Read-only, as `params`.
    children : dict of str to Layer
        The layers inside this one, by name. Read-only.
    trainable : bool
        Whether `fit` updates the parameters. Assigning it to a container sets all layers inside.
    n_streams : int
        Number of mask streams that the layer draws from.
    takes_lengths : bool
        Whether `forward` and a call take ``lengths=``, the number of valid steps of each padded
        sequence. `output_lengths` gives the lengths of the output.
    carries_state : bool
        Whether `forward_from` continues from a state.
    integer_input : bool
        Whether the input is indices, which are not converted to the dtype of the parameters.
    input_shape : tuple or None
        The shape passed to `build`.
    homogeneous : bool
        Whether f(a x) = a f(x) for every a > 0.
    input_weights : tuple of str
        Names of the parameters (..., in, out) that multiply the input.
    built : bool
        Whether the parameters exist.
    device : str
        Where the parameters are, or will be: "cpu" or "cuda".
    training_state : TrainingState or None
        Where `fit` stopped. The next call of `fit` continues from it.
    """

    own_streams: int = 0
    homogeneous: bool = False
    input_weights: tuple[str, ...] = ()

    _fixed: frozenset[str] = frozenset()  # arguments that cannot change once the layer is built
    _lasting: frozenset[str] = frozenset(
        {"_params", "_buffers", "_input_shape", "_children", "_device", "_trainable",
         "_constructed", "_cache", "training_state"}
    )  # what an assignment of an argument keeps  # fmt: skip

    def __init__(self) -> None:
        self._params: dict[str, Array] = {}
        self._constraints: dict[str, Constraint] = {}
        self._regularizers: dict[str, Regularizer] = {}
        self._buffers: dict[str, Array] = {}
        self._input_shape: Shape | None = None
        self._children: dict[str, Layer] = {}
        self._device = "cpu"
        self._trainable = True
        self._cache: dict[str, Any] = {}  # derived from the children, which never change
        self.training_state: TrainingState | None = None

    # --- what a subclass implements ---------------------------------------------------------------

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one sample's output; ValueError if the layer cannot take `input_shape`.

        Parameters
        ----------
        input_shape : tuple of int or None
            Of one sample; None is an axis of any length.

        Returns
        -------
        tuple of int or None
            Without the batch axis.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define output_shape")

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        """Output of a training step, and the function that computes its gradients.

        The backward pass reads `x` and `y`, which are saved and not copied: do not change them
        before it has run. Where it needs `y`, a NumPy array `y` is read-only; change a copy of it.

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
            ``dx, grads = backward(dy)``, with `grads` named like `params`. Valid until the
            parameters change.

        Raises
        ------
        TypeError, ValueError
            For an input that the layer cannot take. `backward` raises them for a `dy` of another
            type, shape or dtype than `y`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, x: Array, key: Key | int | None = None, *, row_offset: int = 0) -> Array:
        """Inference, with noise if a key is given; parameters as in `forward`."""
        return writeable(self.forward(x, key=key, row_offset=row_offset)[0], x)

    def forward_from(
        self,
        x: Array,
        state: Any = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> tuple[Array, Any, BackwardFrom]:
        """`forward` of a piece of a sequence, from the state after the previous piece.

        Parameters
        ----------
        x
            As in `forward`.
        state : optional
            What the call for the previous piece returned; None at the start of sequences.
        key, row_offset, lengths
            As in `forward`.

        Returns
        -------
        y : ndarray
        state
            For the next piece; None for layers that carry no state.
        backward : callable
            ``dx, grads, dstate = backward(dy, dstate)``: takes the gradient of the returned state
            (None: zero) and gives that of the given state.

        Raises
        ------
        ValueError
            If a state is given and the layer carries none.
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

    def sampler(
        self, x: Array, *, row_offset: int = 0, lengths: Array | None = None
    ) -> Callable[[Sequence[Key]], Array]:
        """A function from keys to the outputs of the layer under each of them.

        What comes before the first noise is computed here, once for all keys.

        Parameters
        ----------
        x, row_offset, lengths
            As in a call.

        Returns
        -------
        callable
            ``draw(keys)`` has the shape (len(keys), rows, ...), with ``layer(x, key)`` for each
            key; or (1, rows, ...) if the layer has no noise, so that all samples are equal.
        """
        if self.noisy:
            return lambda keys: self.on_samples(
                x[None], keys, row_offset=row_offset, lengths=lengths
            )
        y = self(x, **self.lengths_kwargs(lengths))[None]
        return lambda keys: y

    def on_samples(
        self,
        x: Array,
        keys: Sequence[Key],
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        """Outputs for several samples of a batch, each under its key.

        A layer without noise is called once, with the rows of all samples below each other: as
        everywhere in the library, the output of a row must not depend on other rows. A layer that
        draws noise is called once for each sample.

        Parameters
        ----------
        x : ndarray, shape (len(keys), rows, ...) or (1, rows, ...)
            A batch for each key, or one that all samples share.
        keys : sequence of Key
        row_offset, lengths
            As in a call; all samples have the same.

        Returns
        -------
        ndarray, shape (len(keys), rows, ...) or (1, rows, ...)
            The latter if all samples are equal.
        """
        count, rows = x.shape[:2]
        if not self.noisy:
            flat = x.reshape(count * rows, *x.shape[2:])
            repeated = None if lengths is None else np.tile(lengths, count)
            y = self(flat, **self.lengths_kwargs(repeated))
            return y.reshape(count, rows, *y.shape[1:])
        place = self.lengths_kwargs(lengths) | {"row_offset": row_offset}
        if len(keys) == 1:
            return self(x[0], keys[0], **place)[None]
        outputs: Any = None
        for t, key in enumerate(keys):  # one at a time: the memory of the last one is used again
            y = self(x[t if count > 1 else 0], key, **place)
            if outputs is None:
                outputs = backend_of("y", y).empty((len(keys), *y.shape), y.dtype)
            outputs[t] = y
        found: Array = outputs
        return found

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Draw the parameters that do not exist yet."""
        for _, child, own in self.child_shapes(input_shape):
            child._build(own, rng, dtype)

    def _array_shapes(self) -> tuple[Mapping[str, ArrayShape], Mapping[str, ArrayShape]]:
        """Shapes of the parameters and buffers that `_build` makes, but for those of children.

        None is an axis whose length the input decides, and a Fraction of it an axis with that part
        or multiple of its length. The arrays of a file are checked against them before anything is
        allocated. If a class defines `_build` and not this method, its
        arrays are compared with those that `_build` draws.
        """
        return {}, {}

    def _take_arrays(self, params: dict[str, Array], buffers: dict[str, Array]) -> None:
        """Use these arrays as the layer's own, before `_build` sees them."""
        self._params.update(params)
        self._buffers.update(buffers)

    def _add_child(self, name: str, layer: Layer) -> Layer:
        """Add a layer inside this one, in the constructor, and return it."""
        if "_constructed" in vars(self):
            raise TypeError(f"{short(self)}: layers can be added in the constructor only")
        self._children[name] = layer
        return layer

    def _register(
        self, name: str, constraint: Constraint | None, regularizer: Regularizer | None
    ) -> None:
        """Register a parameter's constraint and regularizer; TypeError for other objects."""
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

    # --- attributes -------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # type checkers know the attributes

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_") or "_constructed" not in vars(self):
                object.__setattr__(self, name, value)
                return
            kind = type(self)
            if getattr(getattr(kind, name, None), "fset", None) is not None:
                object.__setattr__(self, name, value)
            elif name in inspect.signature(kind).parameters:
                self._assign(name, value)
            elif name in vars(self) and not any(
                name in inspect.signature(base).parameters
                for base in kind.__mro__
                if isinstance(base, LayerType)
            ):
                object.__setattr__(self, name, value)
            elif hasattr(self, name):
                advice = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
                raise AttributeError(f"{short(self)}: {name} cannot be assigned{advice}")
            else:
                arguments = ", ".join([*inspect.signature(kind).parameters, "trainable"])
                raise AttributeError(
                    f"{short(self)} has no attribute {name!r}; it takes {arguments}. A subclass "
                    "defines its own attributes in its constructor"
                )

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{short(self)}: {name} cannot be deleted")

        def __getattr__(self, name: str) -> Any:
            if name in _OF_MODELS:
                raise AttributeError(
                    f"{type(self).__name__} has no {name}, which models have: put the layer into a "
                    f"Sequential, as in Sequential([{type(self).__name__}(...)]).{name}(...)"
                )
            known = name in vars(self).get("_params", {})
            advice = f"; its parameter is params[{name!r}]" if known else ""
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}{advice}"
            )

    def _assign(self, name: str, value: Any) -> None:
        """Give a constructor's argument another value, by constructing the layer again."""
        arguments = self._arguments(name)
        given = arguments.get(name)
        if any(isinstance(item, Layer) for item in _items(given) + _items(value)):
            raise AttributeError(
                f"{short(self)}: {name} cannot be assigned: create another {type(self).__name__}"
            )
        if name in self._fixed and self.built:
            raise AttributeError(
                f"{short(self)}: {name} cannot be assigned once the layer is built: create another "
                f"{type(self).__name__}"
            )
        self._adopt(type(self)(**arguments | {name: value}))

    def _arguments(self, changed: str = "") -> dict[str, Any]:
        """The constructor's arguments, before `changed` gets another value."""
        return {name: self._argument(name) for name in inspect.signature(type(self)).parameters}

    def _argument(self, name: str) -> Any:
        """The value of a constructor's argument."""
        return getattr(self, name)

    def _adopt(self, other: Layer) -> None:
        """Take over the settings of a layer of the same class, but not its parameters."""
        vars(self).update(
            (name, value) for name, value in vars(other).items() if name not in self._lasting
        )
        for name, child in self._children.items():
            if other._children[name] is not child:
                child._adopt(other._children[name])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_cache": {}}

    @property
    def input_shape(self) -> Shape | None:
        return self._input_shape

    @property
    def device(self) -> str:
        return self._device

    @property
    def children(self) -> Mapping[str, Layer]:
        return ReadOnlyDict(
            self._children, "the layers of a model", "create another model from them"
        )

    @property
    def trainable(self) -> bool:
        return all(layer._trainable for _, layer in self.tree())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{short(self)}: trainable must be True or False, got {value!r}")
        for _, layer in self.tree():
            layer._trainable = bool(value)

    def frozen(self) -> set[str]:
        """Paths of the parameters that training must not change: see `trainable`.

        Returns
        -------
        set of str
            Names as in `params`.
        """
        return {
            f"{path}.{name}" if path else name
            for path, layer in self.tree()
            if not layer._trainable
            for name in layer._params
        }

    # --- parameters -------------------------------------------------------------------------------

    def build(self, input_shape: Shape, *, key: Key | int, dtype: DTypeLike | None = None) -> None:
        """Draw initial parameters. Layers that have parameters keep them. `fit` calls this.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample, without the batch axis.
        key : Key or int
            Its seed decides the weights.
        dtype : float32 or float64, optional
            By default that of the existing parameters, else float32.

        Raises
        ------
        TypeError
            If `input_shape` is not a tuple of integers.
        ValueError
            If a layer cannot take the output of the one before, a layer with parameters is in the
            model twice, or `dtype` is neither of these.
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
        if self._device == "cpu":
            self._build(input_shape, generator(key, WEIGHTS), kind)
        else:  # drawn on the CPU, so that they are the same everywhere
            device = self._device
            self.to("cpu")
            self._build(input_shape, generator(key, WEIGHTS), kind)
            self.to(device)
        self._input_shape = input_shape

    def load_params(self, params: Mapping[str, ArrayLike]) -> None:
        """Replace the values of all parameters.

        Nothing is changed unless everything fits. The values are written into the existing arrays,
        so that an optimiser can continue.

        Parameters
        ----------
        params : mapping of str to array_like
            An array for each name in `params`, of its shape and dtype. The values are copied.

        Raises
        ------
        TypeError
            If `params` is not a mapping, or an array has another dtype.
        ValueError
            If the layer has no parameters yet, a name is missing or unknown, or a shape differs.

        Examples
        --------
        >>> from dropcore.nn import Dense
        >>> layer, other = Dense(3), Dense(3)
        >>> layer.build((2,), key=0)
        >>> other.build((2,), key=1)
        >>> other.load_params(layer.params)
        """
        if not isinstance(params, Mapping):
            raise TypeError(
                "load_params: params must be a mapping of names to arrays, such as model.params, "
                f"got {type(params).__name__}"
            )
        if not self.built:
            raise ValueError("load_params: call build(input_shape, key=...) first")
        own = self.params
        for what, names in (("lacks", own.keys() - params.keys()),
                            ("has unknown names:", params.keys() - own.keys())):  # fmt: skip
            if names:
                raise ValueError(
                    f"load_params: params {what} {', '.join(map(repr, sorted(names, key=str)))}; "
                    f"the names are {', '.join(map(repr, own))}"
                )
        values = {}
        for name, array in own.items():
            given: Any = params[name]
            value: Any = given if on_device(given) else np.asarray(given)
            if value.shape != array.shape:
                raise ValueError(
                    f"load_params: {name} must have shape {array.shape}, got {value.shape}"
                )
            if value.dtype != array.dtype:
                raise TypeError(
                    f"load_params: {name} must be {array.dtype}, got {value.dtype}; use "
                    f".astype({array.dtype.name!r})"
                )
            values[name] = to_device(value, self._device).copy()
        for name, array in own.items():
            array[...] = values[name]

    def to(self, device: str) -> Self:
        """Move the parameters, buffers and training state to another device.

        The layer then takes and returns arrays of that device, and draws the same masks there.
        Parameters that do not exist yet will be created there.

        Parameters
        ----------
        device : "cpu" or "cuda"
            NumPy's memory, or that of CuPy's current device.

        Returns
        -------
        Layer
            The layer itself.

        Raises
        ------
        ValueError
            For another device.
        ImportError, RuntimeError
            If CuPy or a device is missing; the message says what to install.
        """
        place = checked_device("to", device)
        for _, layer in self.tree():
            layer._device = place
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
                    f"layers {first} and {path}, {layer!r}, are the same object; weights cannot be "
                    "shared: create a second layer"
                )

    @property
    def params(self) -> Mapping[str, Array]:
        return self._gathered("_params")

    @property
    def constraints(self) -> Mapping[str, Constraint]:
        return self._gathered("_constraints")

    @property
    def regularizers(self) -> Mapping[str, Regularizer]:
        return self._gathered("_regularizers")

    @property
    def buffers(self) -> Mapping[str, Array]:
        return self._gathered("_buffers")

    def _gathered(self, attribute: str) -> ReadOnlyDict:
        """That attribute of this layer and of all layers inside, by path."""
        found = {
            f"{path}.{name}" if path else name: value
            for path, layer in self.tree()
            for name, value in vars(layer)[attribute].items()
        }
        name = attribute[1:]
        return ReadOnlyDict(found, f"the dict of {name}", _INSTEAD[name])

    @property
    def learns(self) -> bool:
        """Whether an update changes anything in the layer."""
        return any(layer._params or layer._buffers for _, layer in self.tree())

    # --- what follows from the children -----------------------------------------------------------

    @property
    def n_streams(self) -> int:
        found = self._cache.get("n_streams")
        if found is None:
            inside = sum(child.n_streams for child in self._children.values())
            found = self._cache["n_streams"] = self.own_streams + inside
        return int(found)

    @property
    def built(self) -> bool:
        return all(child.built for child in self._children.values())

    @property
    def takes_lengths(self) -> bool:
        return any(child.takes_lengths for child in self._children.values())

    @property
    def carries_state(self) -> bool:
        return any(child.carries_state for child in self._children.values())

    @property
    def integer_input(self) -> bool:
        return False

    def lengths_kwargs(self, lengths: Array | None) -> dict[str, Any]:
        """The keyword `lengths` for a call of this layer, if it takes lengths.

        Parameters
        ----------
        lengths : ndarray or None
            Of the sequences of a batch.

        Returns
        -------
        dict
            ``{"lengths": lengths}``, or empty.
        """
        return {"lengths": lengths} if lengths is not None and self.takes_lengths else {}

    def checked_lengths(self, x: Array, lengths: ArrayLike | None) -> NDArray[np.int64] | None:
        """`lengths` as int64, checked against the sequences x (batch, time, ...).

        Parameters
        ----------
        x : ndarray, shape (batch, time, ...)
            The sequences.
        lengths : array_like of int, shape (batch,), or None
            Their numbers of valid steps.

        Returns
        -------
        int64 ndarray, shape (batch,), or None
            None where none were given.

        Raises
        ------
        TypeError
            If they are not integers, or on a GPU.
        ValueError
            If the layer takes no lengths, or they do not fit x.
        """
        if lengths is None:
            return None
        what = short(self)
        if not self.takes_lengths:
            raise ValueError(f"{what} takes no lengths of sequences: leave them out")
        if on_device(lengths):
            raise TypeError(
                f"{what} expects lengths on the host, where they are checked: cupy.asnumpy(lengths)"
            )
        checks.expect_unmasked(f"{what}: lengths", lengths)
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
        """The number of valid steps of each output, from that of each input.

        Parameters
        ----------
        lengths : int64 ndarray, shape (batch,)
            Of the inputs.

        Returns
        -------
        int64 ndarray, shape (batch,)
            Of the outputs.
        """
        first = next(iter(self._children.values()), None)  # all children give the same lengths
        return lengths if first is None else first.output_lengths(lengths)

    def states_by_name(self, what: str, state: Any) -> Mapping[str, Any]:
        """`state` as a mapping from children's names to their states; ValueError for others.

        Parameters
        ----------
        what : str
            What the state is, for the message.
        state : dict or None
            Of some of the children.

        Returns
        -------
        dict
            Empty for None.
        """
        if state is None:
            return {}
        names = [name for name, child in self._children.items() if child.carries_state]
        if not isinstance(state, Mapping) or not set(state) <= set(names):
            found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(
                f"{self!r} expects {what} to be a dict with the states of the layers "
                f"{', '.join(map(repr, names)) or '(none)'}, got {found}"
            )
        return state

    def children_with_keys(self, key: Key | int | None) -> Iterator[tuple[str, Layer, Key | None]]:
        """The children, with their names and the keys that begin at their first streams.

        Parameters
        ----------
        key : Key, int or None
            That of this layer.

        Yields
        ------
        (str, Layer, Key or None)
            Name, child, and its key.
        """
        address = None if key is None else as_key(key)
        for name, child, stream in self.child_streams():
            yield name, child, child_key(address, stream)

    def child_streams(self) -> list[tuple[str, Layer, int | None]]:
        """The children, with their names and the offsets of their streams, None without any.

        Returns
        -------
        list of (str, Layer, int or None)
            In the order of the streams.
        """
        found: list[tuple[str, Layer, int | None]] | None = self._cache.get("child_streams")
        if found is None:
            found, stream = [], self.own_streams
            for name, child in self._children.items():
                found.append((name, child, stream if child.n_streams else None))
                stream += child.n_streams
            self._cache["child_streams"] = found
        return found

    @property
    def draws(self) -> bool:
        """Whether the layer itself draws noise if it gets a key."""
        return self.own_streams > 0

    @property
    def noisy(self) -> bool:
        """Whether the layer or a layer inside draws noise if it gets a key."""
        return any(layer.draws for _, layer in self.tree())

    def tree(self, path: str = "") -> Iterable[tuple[str, Layer]]:
        """The layer and all layers inside it, depth-first, with their paths.

        Parameters
        ----------
        path : str, default ""
            Of this layer.

        Returns
        -------
        iterable of (str, Layer)
            Path and layer.
        """
        found: list[tuple[str, Layer]] | None = self._cache.get("tree")
        if found is None:
            found = [("", self)]
            for name, child in self._children.items():
                found += child.tree(name)
            self._cache["tree"] = found
        if not path:
            return found
        return [(f"{path}.{inner}" if inner else path, layer) for inner, layer in found]

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """The layers without layers inside, depth-first, with their paths.

        Parameters
        ----------
        path : str, default ""
            Of this layer.

        Returns
        -------
        iterator of (str, Layer)
            Path and layer.
        """
        return ((place, layer) for place, layer in self.tree(path) if not layer._children)

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

        Yields
        ------
        (str, Layer, ndarray)
            Path, layer and output.
        """
        yield path, self, self.forward(x, key=key, **self.lengths_kwargs(lengths))[0]

    def child_shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        """The children, with their names and the shapes of the samples that reach them.

        By default every child gets the input of the container.

        Parameters
        ----------
        input_shape : tuple of int or None
            Of one sample of this layer's input.

        Yields
        ------
        (str, Layer, tuple)
            Name, child, and the shape of one sample of its input.
        """
        for name, child in self._children.items():
            yield name, child, input_shape

    def noise_notes(self, shape: Shape) -> list[str]:
        """Notes about the layer's noise for a summary.

        Parameters
        ----------
        shape : tuple of int or None
            Of one sample of the output.

        Returns
        -------
        list of str
            Empty for a layer without noise.
        """
        return []

    def notes(self, shape: Shape) -> list[str]:
        """Notes for a summary: noise, constraints, regularizers, and whether it is frozen.

        Parameters
        ----------
        shape : tuple of int or None
            Of one sample of the output.

        Returns
        -------
        list of str
            In this order.
        """
        notes = self.noise_notes(shape)
        for own in (self._constraints, self._regularizers):
            notes += [f"{name}: {value!r}" for name, value in own.items()]
        return notes if self._trainable or not self._params else [*notes, "frozen"]

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that differ from their defaults, by name.

        Returns
        -------
        dict
            By names of arguments.
        """
        found = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = self._argument(name)
            if isinstance(value, np.ndarray) or value != parameter.default:
                found[name] = value
        return found

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
        """The layer without its parameters, as numbers, strings, lists and dicts.

        `json.dumps` takes it, also with ``allow_nan=False``; `from_config` builds the layer again.
        Layers that are frozen are listed by their paths, as "frozen".

        Returns
        -------
        dict
            With "class", and the arguments that differ from their defaults.

        Raises
        ------
        TypeError
            For an argument that cannot be written, such as a function of your own.
        ValueError
            If layers are nested more than 100 levels deep.
        """
        config: dict[str, Any] = encode(self)
        frozen = [path for path, layer in self.tree() if not layer._trainable]
        return config | {"frozen": frozen} if frozen else config

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, custom: Mapping[str, type] | None = None
    ) -> Self:
        """The layer that `to_config` described, without parameters.

        Parameters
        ----------
        config : dict
        custom : dict of str to type, optional
            Classes of your own, by their names.

        Returns
        -------
        Layer
            Of the class that the config names.

        Raises
        ------
        ValueError
            If a class is unknown or does not take the arguments of the config, or the config is
            not one that `to_config` returns.
        TypeError
            If the config describes another class than this one.
        """
        if not isinstance(config, Mapping):
            raise TypeError(
                f"{cls.__name__}.from_config: config must be a dict that to_config returned, got "
                f"{shown(config)}"
            )
        frozen = config.get("frozen", ())
        layer = decode({k: v for k, v in config.items() if k != "frozen"}, custom or {})
        if not isinstance(layer, cls):
            raise TypeError(
                f"{cls.__name__}.from_config: this is the config of {layer!r}; "
                "Layer.from_config takes that of any layer"
            )
        inside = dict(layer.tree())
        if not isinstance(frozen, list | tuple) or not all(
            isinstance(path, str) and path in inside for path in frozen
        ):
            raise ValueError(
                "from_config: frozen must be a list of paths of layers, such as "
                f"{list(inside)[:3]}, got {shown(frozen)}"
            )
        for path in frozen:
            inside[path]._trainable = False
        return layer


class Stateful(Layer):
    """A layer that implements `forward_from`; `forward` and calls start without a state."""

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        row_offset: int = 0,
        lengths: Array | None = None,
    ) -> Array:
        y = self.forward_from(x, key=key, row_offset=row_offset, lengths=lengths)[0]
        return writeable(y, x)

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


def restore_arrays(
    model: Layer,
    input_shape: Shape | None,
    params: Mapping[str, Array],
    buffers: Mapping[str, Array],
) -> None:
    """Build a layer that has no parameters yet from arrays, and draw none.

    Parameters
    ----------
    model : Layer
    input_shape : tuple or None
        That of the model that the arrays are from. None if it was not built; some of its layers
        may have parameters nevertheless.
    params, buffers : mapping of str to ndarray
        By path. They become those of the model and are not copied.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or a shape or a dtype does not fit the layers.
    """
    inside = dict(model.tree())
    own: dict[str, tuple[dict[str, Array], dict[str, Array]]] = {p: ({}, {}) for p in inside}
    for which, arrays in enumerate((params, buffers)):
        for full, array in arrays.items():
            path, _, name = full.rpartition(".")
            while path not in inside:  # a name with a dot
                path, _, last = path.rpartition(".")
                name = f"{last}.{name}"
            own[path][which][name] = array
    dtypes = {array.dtype for array in params.values()}
    if len(dtypes) > 1 or not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)}:
        found = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"parameters must all be float32 or all float64, got {found}")
    for path, layer in inside.items():
        with error_context(path) if path else nullcontext():
            _check_arrays(layer, *own[path], built=input_shape is not None)
        layer._take_arrays(*own[path])
    if input_shape is not None:
        model.output_shape(input_shape)
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        model._build(input_shape, generator(0, WEIGHTS), dtype)
        model._input_shape = input_shape
    for kind, given, now in (
        ("parameters", params, model.params), ("buffers", buffers, model.buffers)
    ):  # fmt: skip
        if given.keys() != now.keys():
            raise ValueError(f"{kind} must be {sorted(now)}, got {sorted(given)}")
        for name, array in given.items():
            if now[name] is not array:  # of a class whose _build draws in any case
                if now[name].shape != array.shape or now[name].dtype != array.dtype:
                    raise ValueError(
                        f"{name} must be {now[name].dtype} of shape {now[name].shape}, got "
                        f"{array.dtype} of shape {array.shape}"
                    )
                now[name][...] = array


def _check_arrays(
    layer: Layer, params: dict[str, Array], buffers: dict[str, Array], *, built: bool
) -> None:
    """ValueError unless these can be all arrays of a layer itself, or none if it is not built."""
    classes = type(layer).__mro__
    shapes_from, build_from = (
        next(place for place, kind in enumerate(classes) if name in vars(kind))
        for name in ("_array_shapes", "_build")
    )
    if shapes_from > build_from or not (built or params or buffers):
        return
    lengths: list[Fraction] = []  # that of the input, once for each axis that follows from it
    for kind, given, drawn, there in zip(
        ("parameters", "buffers"), (params, buffers), layer._array_shapes(),
        (layer._params, layer._buffers), strict=True,
    ):  # fmt: skip
        wanted: dict[str, ArrayShape] = {name: array.shape for name, array in there.items()}
        wanted |= drawn
        if given.keys() != wanted.keys():
            raise ValueError(
                f"{short(layer)}: {kind} must be {sorted(wanted)}, got {sorted(given)}"
            )
        for name, shape in wanted.items():
            found = given[name].shape
            if len(found) != len(shape) or any(
                (isinstance(n, int) and n != m) or m < 1 for n, m in zip(shape, found, strict=True)
            ):
                expected = f"({', '.join(map(_length, shape))}{',' * (len(shape) == 1)})"
                raise ValueError(f"{short(layer)}: {name} must have shape {expected}, got {found}")
            lengths += [
                m / Fraction(1 if n is None else n)
                for n, m in zip(shape, found, strict=True)
                if not isinstance(n, int)
            ]
            if kind == "buffers" and name in drawn and given[name].dtype != np.float64:
                raise ValueError(f"{short(layer)}: {name} must be float64, got {given[name].dtype}")
    if len(set(lengths)) > 1:
        each = ", ".join(map(str, lengths))
        raise ValueError(f"{short(layer)}: its arrays must have one length, got [{each}]")


def _length(n: int | Fraction | None) -> str:
    """An axis of an `ArrayShape`, for a message."""
    return "in" if n is None else f"{n} in" if isinstance(n, Fraction) else str(n)


def read_only(y: Array) -> Array:
    """y, read-only because the backward pass needs it. CuPy arrays have no such flag."""
    if type(y) is np.ndarray:
        y.flags.writeable = False
    return y


def writeable(y: Array, x: Any) -> Array:
    """y, writeable because no backward pass needs it, unless it shares memory with x."""
    if type(y) is np.ndarray and not y.flags.writeable and not np.may_share_memory(x, y):
        y.flags.writeable = True
    return y


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"weight": w}`` of child ``"0"`` is ``{"0.weight": w}`` of its container."""
    return {f"{name}.{inner}": value for inner, value in values.items()}


def child_key(key: Key | None, stream: int | None) -> Key | None:
    """The key of a child whose streams begin at `stream`; None if it has none."""
    if key is None or stream is None:
        return None
    return key.at(stream=key.stream + stream) if stream else key


def child_keys(keys: Sequence[Key], stream: int | None) -> Sequence[Key]:
    """`child_key` for several keys; a child without streams ignores them."""
    return keys if not stream else [key.at(stream=key.stream + stream) for key in keys]


def calls_are_of(layer: Layer, container: type[Layer]) -> bool:
    """Whether a call of the layer computes what one of its base class does.

    A subclass with a `__call__`, `forward` or `forward_from` of its own computes something else.
    """
    names = ("__call__", "forward", "forward_from")
    return all(getattr(type(layer), name) is getattr(container, name) for name in names)


@contextmanager
def error_context(name: str) -> Iterator[None]:
    """Put the name of a layer before the message of an error that it raises."""
    try:
        yield
    except (TypeError, ValueError) as error:
        add_context(error, name)
        raise


def add_context(error: Exception, name: str) -> None:
    """Put the name of a layer before the message of an error that it raised."""
    message = str(error)
    inner = message.removeprefix("layer ")
    error.args = (f"layer {name}.{inner}" if inner != message else f"layer {name}, {message}",)


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _without_annotations(message: str, cls: type) -> str:
    """The message with the parameters of a class as they are called, without their types."""
    signature = inspect.signature(cls)
    bare = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=signature.empty,
    )
    return message.replace(str(signature), str(bare))


def _source(value: Any) -> str:
    """`value` as an expression, for a repr; of a function its name."""
    if isinstance(value, np.generic) and value.dtype.kind in "fiub":
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, np.ndarray):
        usual = value.dtype in (np.float64, np.bool_)
        return f"np.array({value.tolist()!r}{'' if usual else f', dtype=np.{value.dtype}'})"
    return value.__name__ if inspect.isfunction(value) else repr(value)

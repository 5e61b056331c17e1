"""What every layer is: named weights, a forward pass, and the backward pass that it returns."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from dropcore.generators import WEIGHTS, generator
from dropcore.gradients import Gradient
from dropcore.key import Key

if TYPE_CHECKING:
    from dropcore.constraints import Constraint
    from dropcore.losses import Loss
    from dropcore.optim import Optimizer
    from dropcore.training.history import History
    from dropcore.training.state import TrainingState

__all__ = ["Array", "Backward", "Layer", "Shape", "named"]

Array = NDArray[Any]
"""float32 or float64; every array of one network has the same dtype."""

Shape = tuple[int | None, ...]
"""The shape of one sample, without the batch axis. None is an axis of any length."""


class Backward(Protocol):
    """dy -> (dx, grads): grads has the names and the shapes of the layer's `params`.

    With ``input_gradient=False`` nobody wants dx: it may be None. With ``for_update=True`` the
    gradients go to an optimiser and nowhere else: they may come in the forms of
    `dropcore.gradients`, which it takes faster than arrays. Such a gradient may refer to dy and to
    the layer's input: leave both alone until the update is made.
    """

    def __call__(
        self, dy: Array, *, input_gradient: bool = True, for_update: bool = False
    ) -> tuple[Any, dict[str, Gradient]]: ...


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
    sites : int
        How many streams of masks the layer draws from.
    built : bool
        Whether the weights are there.
    training_state : TrainingState or None
        Where `fit` stopped, so that the next call of `fit` goes on.
    """

    own_sites: int = 0

    def __init__(self) -> None:
        self._params: dict[str, Array] = {}
        self._constraints: dict[str, Constraint] = {}
        self.children: dict[str, Layer] = {}
        self.training_state: TrainingState | None = None

    # --- what a layer is ------------------------------------------------------------------------

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one sample's output; ValueError if the layer cannot take `input_shape`."""
        raise NotImplementedError

    def forward(
        self, x: Array, *, key: Key | int | None = None, row: int = 0
    ) -> tuple[Array, Backward]:
        """Output of a training step, and the function that takes its gradient back.

        Parameters
        ----------
        x : ndarray, shape (batch, ...)
        key : Key or int, optional
            Address of the noise: the layer's sites draw from ``key.stream`` onwards.
            Without it there is none.
        row : int, default 0
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

    def __call__(self, x: Array, key: Key | int | None = None, *, row: int = 0) -> Array:
        """Inference, with noise if a key is given; parameters as in `forward`."""
        return self.forward(x, key=key, row=row)[0]

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Draw the weights that are missing."""

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
            If `input_shape` is not a tuple.
        ValueError
            If a layer cannot take what the one before gives, or `dtype` is none of the above.
        """
        if isinstance(input_shape, int):
            raise TypeError(
                "build: input_shape must be a tuple, the shape of one sample without the batch "
                f"axis, such as ({input_shape},), got {input_shape}"
            )
        self.output_shape(input_shape)
        here = next(iter(self.params.values()), None)
        kind = np.dtype(dtype if dtype is not None else np.float32 if here is None else here.dtype)
        if kind not in (np.float32, np.float64):
            raise ValueError(f"build: dtype must be float32 or float64, got {kind}")
        if here is not None and kind != here.dtype:
            raise ValueError(f"build: dtype must be {here.dtype}, as there are weights, got {kind}")
        self._build(input_shape, generator(key, WEIGHTS), kind)

    @property
    def params(self) -> dict[str, Array]:
        found = dict(self._params)
        for name, child in self.children.items():
            found |= prefixed(name, child.params)
        return found

    @property
    def constraints(self) -> dict[str, Constraint]:
        found = dict(self._constraints)
        for name, child in self.children.items():
            found |= prefixed(name, child.constraints)
        return found

    @property
    def sites(self) -> int:
        return self.own_sites + sum(child.sites for child in self.children.values())

    @property
    def built(self) -> bool:
        return all(child.built for child in self.children.values())

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """The layers that hold no others, depth-first, with their paths."""
        if not self.children:
            yield path, self
        for name, child in self.children.items():
            yield from child.leaves(f"{path}.{name}" if path else name)

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

    # --- training: see dropcore.training, which builds on layers and not the other way round -----

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int,
        optimizer: Optimizer,
        batch_size: int = 32,
        loss: str | Loss = "softmax_cross_entropy",
        key: Key | int | None = None,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        progress: bool | None = None,
    ) -> History:
        """Train on arrays: :func:`dropcore.training.fit` with this layer as the model."""
        from dropcore.training import fit

        return fit(
            self,
            x,
            y,
            epochs=epochs,
            optimizer=optimizer,
            batch_size=batch_size,
            loss=loss,
            key=key,
            validation_data=validation_data,
            progress=progress,
        )

    def predict(self, x: ArrayLike, *, batch_size: int = 1024) -> Array:
        """Outputs without noise: :func:`dropcore.training.predict`."""
        from dropcore.training import predict

        return predict(self, x, batch_size=batch_size)

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: str | Loss = "softmax_cross_entropy",
        batch_size: int = 1024,
    ) -> dict[str, float]:
        """Loss and accuracy without noise: :func:`dropcore.training.evaluate`."""
        from dropcore.training import evaluate

        return evaluate(self, x, y, loss=loss, batch_size=batch_size)


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"weight": w}`` of child ``"0"`` is ``{"0.weight": w}`` of its container."""
    return {f"{name}.{inner}": value for inner, value in values.items()}


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the place in the network before the message of an error that a layer raises."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = str(error)
        inner = message.removeprefix("layer ")
        error.args = (f"layer {name}.{inner}" if inner != message else f"layer {name}, {message}",)
        raise


def _source(value: Any) -> str:
    return value.__name__ if inspect.isfunction(value) else repr(value)

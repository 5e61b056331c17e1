"""Optimisers and losses by name, and the loss that `fit` chooses if none is named."""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, Final

from dropcore._base.blocks import holds_for_all
from dropcore._base.checks import shown
from dropcore.key import Key, as_key
from dropcore.losses import LOSSES, Array, Loss, Shape
from dropcore.optim import SGD, Adam, Optimizer

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = [
    "OPTIMIZERS",
    "address_of",
    "announce_loss",
    "check_address",
    "check_model",
    "checked_count",
    "chosen_loss",
    "named_loss",
    "optimizer_of",
]

OPTIMIZERS: Final[dict[str, Optimizer]] = {"adam": Adam(1e-3), "sgd": SGD(0.01, momentum=0.9)}
"""Settings that work on standardised data."""


def check_model(model: Any) -> None:
    """TypeError if it is not a layer, or is a class and not an object."""
    if isinstance(model, type) or not hasattr(model, "forward_from"):
        raise TypeError(
            f"model must be a layer, such as Sequential([Dense(10)]), got {shown(model)}"
        )


def optimizer_of(optimizer: str | Optimizer) -> Optimizer:
    """The optimiser, or the one of that name."""
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            names = " or ".join(map(repr, OPTIMIZERS))
            raise ValueError(
                f"optimizer must be {names}, or an object such as SGD(0.1), got {shown(optimizer)}"
            )
        return OPTIMIZERS[optimizer]
    if isinstance(optimizer, type) or not all(hasattr(optimizer, m) for m in ("init", "apply")):
        raise TypeError(
            "optimizer must be a name such as 'adam', or have the methods init and apply, as "
            f"SGD(0.1) has, got {shown(optimizer)}"
        )
    return optimizer


def named_loss(loss: str | Loss | None, model: Layer) -> Loss | None:
    """The loss that was named, else that of the last training, else None."""
    if loss is None:
        return None if model.training_state is None else model.training_state.loss
    if callable(loss) and not isinstance(loss, type):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        choices = ", ".join(map(repr, LOSSES))
        error = ValueError if isinstance(loss, str) else TypeError
        raise error(
            f"loss must be {choices}, an object such as Huber(1.0) or a callable, got {shown(loss)}"
        )
    return LOSSES[loss]


def chosen_loss(values: Array, ndim: int, outputs: Shape) -> Loss:
    """The loss for targets where none is named: see `fit` for the rule.

    Parameters
    ----------
    values : ndarray
        The targets that count.
    ndim : int
        Number of axes of all targets, samples included.
    outputs : tuple
        Shape of one sample's output.

    Raises
    ------
    ValueError
        If the targets allow for more than one loss.
    """
    several = bool(outputs) and outputs[-1] != 1
    numeric = values.dtype.kind in "fiub"
    text = values.dtype.kind in "US"
    zeros_and_ones = (
        numeric and values.size > 0 and holds_for_all(values, lambda v: (v == 0) | (v == 1))
    )
    if not several:
        return LOSSES["binary_cross_entropy" if zeros_and_ones or text else "mse"]
    single = ndim <= len(outputs) or values.shape[-1] == 1
    # Labels that are whole numbers as floats are named by the check of the loss.
    if (
        single
        and values.dtype.kind == "f"
        and not holds_for_all(values, lambda v: ~(abs(v - v.round()) > 0))
    ):
        raise ValueError(
            f"there is one number, such as {float(values.reshape(-1)[0]):.4g}, for each row of "
            f"{outputs[-1]} outputs: to predict a number the last layer must have one unit, as "
            "Dense(1) has, or two for loss='gaussian_nll'"
        )
    if ndim <= len(outputs) or not numeric or values.shape[-1] != outputs[-1]:
        return LOSSES["softmax_cross_entropy"]  # whose check names what is wrong
    shares = holds_for_all(values, lambda v: (v >= 0).all(-1) & (abs(v.sum(-1) - 1) < 1e-3))
    if zeros_and_ones or shares:
        raise ValueError(
            f"there is a number in [0, 1] for each of the {outputs[-1]} outputs, so the loss must "
            "be named: loss='softmax_cross_entropy' if they are probabilities of classes, of which "
            "one is right, 'binary_cross_entropy' if each output is a yes or no of its own, 'mse' "
            "if they are numbers to predict"
        )
    return LOSSES["mse"]


def announce_loss(loss: Loss, outputs: Shape, *, encoded: bool) -> None:
    """Print which loss was chosen, to stderr; `encoded` is whether y held labels of any kind."""
    name = next(name for name, known in LOSSES.items() if known is loss)
    units = outputs[-1] if outputs else 1
    reason = {
        "softmax_cross_entropy": f"y holds labels of {units} classes"
        if encoded
        else f"y holds integers, taken as labels of {units} classes",
        "binary_cross_entropy": "y holds labels of 2 classes, and there is one output"
        if encoded
        else "y holds 0 and 1 only, and there is one output",
        "mse": "y holds numbers to predict",
    }[name]
    print(f"dropcore: no loss was named; using loss={name!r}: {reason}", file=sys.stderr)


def address_of(model: Layer, key: Key | int | None) -> Key:
    """The key of the run, else that of the last; ValueError if masks are drawn without any."""
    if key is not None:
        return as_key(key)
    if model.training_state is not None and model.training_state.key is not None:
        return model.training_state.key
    stochastic = [
        f"layer {path}, {layer!r}" if path else repr(layer)
        for path, layer in model.tree()
        if layer.draws
    ]
    if stochastic:
        raise ValueError(
            f"the model draws masks ({'; '.join(stochastic)}) and there is no key to draw them "
            "from: give one, such as key=0 or any other seed"
        )
    return Key(0)


def check_address(model: Layer, address: Key, first_step: int, steps: int) -> None:
    """ValueError if the streams or the steps of a run go beyond those of the mask contract."""
    if address.stream + model.n_streams > 1 << 28:
        raise ValueError(
            f"key: the model draws from {model.n_streams} streams, so key.stream must be at most "
            f"{(1 << 28) - model.n_streams}, got {address.stream}"
        )
    if address.step + first_step + steps > 1 << 32:
        raise ValueError(
            f"key: {steps} steps from step {address.step + first_step} on go beyond 2**32: use a "
            "smaller key.step"
        )


def checked_count(name: str, value: Any, least: int) -> int:
    """`value` as an int of at least `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count

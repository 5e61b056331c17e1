"""What the outputs of a model mean: probabilities, or numbers in the user's units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.checks import check_number, expect_unmasked, shown
from dropcore.losses import BinaryCrossEntropy, GaussianNLL, SoftmaxCrossEntropy
from dropcore.training._labels import encoded, plain

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["KINDS", "Floats", "as_floats", "fitted_labels", "fitted_numbers", "in_units", "kind_of",
           "predictions", "probabilities"]  # fmt: skip

Floats = NDArray[np.float64]

KINDS: Final = {
    "classes": "logits of classes, one of which is right (softmax)",
    "binary": "a logit for each yes or no (sigmoid)",
    "numbers": "numbers, as they are",
    "gaussian": "a mean and the logarithm of a variance on the last axis",
}
"""What outputs may be."""


def kind_of(what: str, model: Layer, kind: str | None) -> str:
    """The kind that is named, else that of the loss that the model was fitted with.

    Raises
    ------
    TypeError, ValueError
        If it is not one of `KINDS`, or none is named and the model remembers no loss.
    """
    if kind is not None:
        if not isinstance(kind, str) or kind not in KINDS:
            error = ValueError if isinstance(kind, str) else TypeError
            choices = "; ".join(f"{name!r}: {meaning}" for name, meaning in KINDS.items())
            raise error(f"{what}: kind must say what the outputs are: {choices}; got {shown(kind)}")
        return kind
    state = model.training_state
    loss = None if state is None else state.loss
    if loss is None:
        raise ValueError(
            f"{what}: the model remembers no loss of a fit that says what its outputs are: give "
            f"kind={', '.join(map(repr, KINDS))}"
        )
    by_loss = {
        SoftmaxCrossEntropy: "classes",
        BinaryCrossEntropy: "binary",
        GaussianNLL: "gaussian",
    }
    return next((name for cls, name in by_loss.items() if isinstance(loss, cls)), "numbers")


def probabilities(logits: ArrayLike, *, kind: str = "classes", temperature: float = 1.0) -> Floats:
    """Probabilities from logits z: softmax(z / temperature), or the sigmoid of z / temperature.

    Parameters
    ----------
    logits : array_like, shape (rows, ..., classes), or (rows, ...) for yes or no
        What `predict` returns for a classifier.
    kind : "classes" or "binary", default "classes"
    temperature : float, default 1.0
        Above 1 it makes predictions less confident, without changing their order; see
        `fit_temperature`.

    Returns
    -------
    float64 ndarray, of the shape of the logits

    Raises
    ------
    TypeError, ValueError
        For another kind, a temperature that is not positive, or logits that are not numbers.
    """
    z = as_floats("probabilities: logits", logits)
    if kind not in ("classes", "binary"):
        raise ValueError(f"probabilities: kind must be 'classes' or 'binary', got {shown(kind)}")
    z = z / check_number("probabilities: temperature", temperature, "(0, inf)")
    if kind == "binary":
        found: Floats = scipy.special.expit(z)
        return found
    if z.ndim < 2 or z.shape[-1] < 2:
        raise ValueError(
            "probabilities: logits must be of shape (rows, classes) with at least 2 classes, got "
            f"{z.shape}; for yes or no use kind='binary'"
        )
    p: Floats = scipy.special.softmax(z, axis=-1)
    return p


def predictions(model: Layer, outputs: Any, kind: str, temperature: float = 1.0) -> Floats:
    """Predictions from outputs of the model: probabilities, or numbers in the user's units.

    For "gaussian" these are the means.
    """
    z = to_device(outputs, "cpu").astype(np.float64)
    if kind in ("classes", "binary"):
        return probabilities(z, kind=kind, temperature=temperature)
    return in_units(model, z if kind == "numbers" else z[..., 0])[0]


def in_units(model: Layer, mean: Floats, variance: Floats | None = None) -> tuple[Floats, Any]:
    """Numbers and their variance in the units of the targets that the model was fitted to."""
    state = model.training_state
    scaling = None if state is None else state.target_scaling
    if scaling is None:
        return mean, variance
    scale = np.asarray(scaling.scale, np.float64)
    found = scaling.inverse(mean).astype(np.float64, copy=False)
    return found, None if variance is None else variance * scale**2


def as_floats(name: str, values: ArrayLike) -> Floats:
    """`values` as a float64 array of at least one axis; TypeError or ValueError if it is none."""
    expect_unmasked(name, values)
    found = np.asarray(to_device(values, "cpu"))
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {found.dtype}")
    if found.ndim == 0 or found.size == 0:
        raise ValueError(f"{name} must be of shape (rows, ...) and not empty, got {found.shape}")
    return found.astype(np.float64, copy=False)


def fitted_numbers(name: str, y: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Targets in the shape of predictions: a last axis of length 1 may be left out or added."""
    found: Floats = _in_shape(name, as_floats(name, y), "a target", shape)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got {found[~np.isfinite(found)][0]}")
    return found


def fitted_labels(
    name: str, y: ArrayLike, shape: tuple[int, ...], kind: str, classes: Any = None
) -> NDArray[np.int64]:
    """Labels of probabilities of that shape, as numbers of the outputs.

    Parameters
    ----------
    name : str
    y : array_like
        One for each row, (rows, ...); for "binary" 0 or 1 for each output.
    shape : tuple of int
        Of the probabilities.
    kind : "classes" or "binary"
    classes : ndarray, optional
        The user's labels, sorted.

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    expect_unmasked(name, y)
    found = np.asarray(to_device(y, "cpu"))
    if classes is not None:
        found = encoded(name, plain(name, found), None, classes)
    wanted, most = (shape[:-1], shape[-1]) if kind == "classes" else (shape, 2)
    found = _in_shape(name, found, "a label", wanted)
    whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and bool((found % 1 == 0).all()))
    if not whole:
        raise TypeError(f"{name} must be integer labels, got dtype {found.dtype}")
    if found.size and not 0 <= found.min() <= found.max() < most:
        bad = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"{name} must be labels in [0, {most}), got {bad}")
    return found.astype(np.int64)


def _in_shape(name: str, found: NDArray[Any], what: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """`found` in the shape of predictions; a last axis of length 1 may be left out or added."""
    if found.shape not in (shape, (*shape, 1)) and (*found.shape, 1) != shape:
        raise ValueError(
            f"{name} must hold {what} for each prediction, of shape {shape}, got {found.shape}"
        )
    return found.reshape(shape)

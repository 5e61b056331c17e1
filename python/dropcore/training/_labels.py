"""The user's labels, and their encoding as indices of outputs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import to_device
from dropcore._base.blocks import row_blocks
from dropcore._base.checks import listed
from dropcore._base.device import on_device
from dropcore.losses import (
    Array,
    BinaryCrossEntropy,
    Loss,
    Shape,
    SoftmaxCrossEntropy,
)

__all__ = ["announce_classes", "classes_of", "encoded", "in_words", "plain", "takes_labels"]

_SHOWN = 8


def plain(name: str, targets: Array) -> Array:
    """Targets of objects as text, booleans or numbers; others as they are.

    Raises
    ------
    TypeError
        If there are objects of several kinds.
    ValueError
        If one is missing.
    """
    if on_device(targets) or targets.dtype.kind not in "OT" or not targets.size:
        return targets
    if targets.dtype.kind == "T":  # NumPy's StringDType
        targets = targets.astype(object)
    flat = targets.ravel()
    missing = np.array([_is_missing(value) for value in flat], bool)
    if missing.any():
        at = tuple(map(int, np.argwhere(missing.reshape(targets.shape))[0]))
        raise ValueError(
            f"{name} must have a target for each sample, got {targets[at]} at "
            f"{at[0] if len(at) == 1 else at}: leave out samples without one"
        )
    kinds = {type(value) for value in flat}
    if all(issubclass(kind, str) for kind in kinds):
        return targets.astype(str)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return targets.astype(bool)
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        try:
            return targets.astype(np.int64)
        except OverflowError:
            raise ValueError(
                f"{name} must be integers in [-2**63, 2**63): use text for longer labels"
            ) from None
    if all(issubclass(kind, int | float | np.number) and kind is not bool for kind in kinds):
        return targets.astype(np.float64)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(
        f"{name} must be numbers, or labels of one kind, such as all text, got objects of type "
        f"{found}"
    )


def classes_of(
    name: str, labels: Array, valid: Array, loss: Loss | None, outputs: Shape
) -> NDArray[Any] | None:
    """The sorted classes, if labels must be encoded; None if they are indices of outputs.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    labels : ndarray
        All targets.
    valid : ndarray
        Those that count.
    loss : Loss
    outputs : tuple
        Shape of one sample's output.

    Raises
    ------
    ValueError
        If there are more or fewer classes than outputs.
    """
    count = _count(loss, outputs)
    if count is None or not _are_labels(labels, loss, outputs) or not valid.size:
        return None
    kind = valid.dtype.kind
    if kind == "b":
        found: NDArray[Any] = np.array([False, True])
    elif kind in "iu":
        if isinstance(loss, SoftmaxCrossEntropy) and loss.ignore_label is not None:
            return None
        if 0 <= valid.min() <= valid.max() < count:
            return None
        found = _unique(valid)
    else:
        found = _unique(valid)
    if len(found) != count:
        classes = "1 class" if len(found) == 1 else f"{len(found)} classes"
        units = "1 output" if outputs[-1:] in ((), (1,)) else f"{outputs[-1]} outputs"
        if len(found) == 1:
            advice = "with one class there is nothing to learn"
        elif count == 2 and units == "1 output":
            advice = (
                f"the last layer must have {len(found)} units, and the loss 'softmax_cross_entropy'"
            )
        else:
            advice = f"the last layer must have {len(found)} units"
        if kind in "iu":
            advice += f", or labels must be in [0, {count}), the numbers of the outputs"
        names = ", ".join(map(repr, found[:_SHOWN].tolist())) + " ..." * (len(found) > _SHOWN)
        raise ValueError(f"{name} has {classes}, {names}, and the model {units}: {advice}")
    return found


def encoded(name: str, labels: Array, valid: Array | None, classes: NDArray[Any]) -> Array:
    """Labels as positions in `classes`.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    labels : ndarray
    valid : bool ndarray or None
        Which count; the others may be anything, and become any class.
    classes : ndarray
        Sorted.

    Raises
    ------
    ValueError
        If a label is not one of the classes. The message names it.
    """
    if on_device(labels):
        return to_device(encoded(name, to_device(labels, "cpu"), valid, classes), "cuda")
    comparable = _kind(labels) == _kind(classes)
    positions = np.zeros(labels.shape, np.min_scalar_type(len(classes) - 1))
    for rows in row_blocks(labels):
        known = np.zeros(labels[rows].shape, bool)
        if comparable:
            found = np.searchsorted(classes, labels[rows]).clip(max=len(classes) - 1)
            known = classes[found] == labels[rows]
            positions[rows] = found
        unknown = ~known if valid is None else ~known & valid[rows]
        if unknown.any():
            first, *rest = map(int, np.argwhere(unknown)[0])
            at = (rows.start + first, *rest)
            raise ValueError(
                f"{name} has the label {_shown(labels[at])} at {at if rest else at[0]}, which is "
                "none of the classes that the model was fitted to, "
                f"{listed(classes.tolist(), _SHOWN)}"
            )
    return positions


def in_words(positions: Array, classes: NDArray[Any] | None) -> Array:
    """Indices of outputs as the user's labels."""
    return positions if classes is None else classes[to_device(positions, "cpu")]


def takes_labels(loss: Loss | None, labels: Array, outputs: Shape) -> bool:
    """Whether targets of this shape and dtype are labels for the loss."""
    return _count(loss, outputs) is not None and _are_labels(labels, loss, outputs)


def announce_classes(classes: NDArray[Any]) -> None:
    """Print which output stands for which label, to stderr."""
    pairs = [f"{_shown(label)} as {number}" for number, label in enumerate(classes[:_SHOWN])]
    more = f", ... ({len(classes)} classes)" if len(classes) > _SHOWN else ""
    print(
        f"dropcore: the labels in y are encoded: {', '.join(pairs)}{more}; predict_labels returns "
        "them as they were",
        file=sys.stderr,
    )


def _count(loss: Loss | None, outputs: Shape) -> int | None:
    """Number of classes that labels stand for; None if the loss takes no labels."""
    if isinstance(loss, SoftmaxCrossEntropy):
        return outputs[-1] if outputs and outputs[-1] != 1 else None  # which the loss refuses
    if isinstance(loss, BinaryCrossEntropy) and (not outputs or outputs[-1] == 1):
        return 2
    return None


def _are_labels(targets: Array, loss: Loss | None, outputs: Shape) -> bool:
    """Whether there is a label for each row of outputs, and not a number for each output."""
    if targets.dtype.kind not in "iubUS":
        return False
    if isinstance(loss, BinaryCrossEntropy):
        return True
    return targets.ndim <= len(outputs) or targets.shape[-1] == 1


def _unique(labels: Array) -> NDArray[Any]:
    """The sorted labels, each once."""
    found = labels[:0].ravel()
    for rows in row_blocks(labels):
        found = np.unique(np.concatenate([found, np.unique(labels[rows])]))
    return found


def _is_missing(value: Any) -> bool:
    """Whether an object is None, NaN or one of pandas' words for it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _kind(labels: Array) -> str:
    """Labels can be compared with those of the same kind."""
    return "number" if labels.dtype.kind in "biuf" else labels.dtype.kind


def _shown(label: Any) -> str:
    return repr(label.item() if isinstance(label, np.generic) else label)

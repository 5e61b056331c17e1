"""Checks of data, and batches of it in the dtype of the model.

Data stays where it is: it is checked block by block and converted batch by batch, so that it may be
read-only, of another dtype or a memory map. For a model on a GPU batches are copied there, unless
the data is there already.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.blocks import holds_for_all, row_blocks
from dropcore._base.checks import listed, users_level
from dropcore._base.device import array_namespace, on_device
from dropcore.distributed._group import ALONE, Alone
from dropcore.losses import (
    Array,
    CheckedLoss,
    GaussianNLL,
    Loss,
    Shape,
    check_not_masked,
    checked_sample_weight,
)
from dropcore.training._choices import chosen_loss
from dropcore.training._labels import classes_of, encoded, plain, takes_labels

if TYPE_CHECKING:
    from dropcore.data import Preprocessing, TargetScaling
    from dropcore.nn.layer import Layer

__all__ = [
    "Batch",
    "Data",
    "Known",
    "Learning",
    "check_feature_names",
    "check_not_ignored",
    "checked_data",
    "feature_names",
    "known_of",
    "model_dtype",
]

Rows = slice | NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, on the device of the model.

    Attributes
    ----------
    x, y, lengths, sample_weight
        As in `Data`.
    valid : int64 array or None
        Positions of the valid steps among all steps of the outputs, (samples * steps,).
    """

    x: Array
    y: Any = None
    lengths: NDArray[np.int64] | None = None
    sample_weight: Array | None = None
    valid: Array | None = None

    @property
    def lengths_kwargs(self) -> dict[str, Any]:
        """The keyword `lengths` for a call of the model, if there are any."""
        return {} if self.lengths is None else {"lengths": self.lengths}


@dataclass(frozen=True, eq=False)
class Known:
    """What a model knows of its data.

    Attributes
    ----------
    preprocessing : Preprocessing or None
    classes : ndarray or None
    scaling : TargetScaling or None
        All as in `TrainingState`.
    """

    preprocessing: Preprocessing | None = None
    classes: NDArray[Any] | None = None
    scaling: TargetScaling | None = None


@dataclass(frozen=True, eq=False)
class Learning:
    """What is learned from data, where the model does not know it yet; classes are in any case.

    Attributes
    ----------
    preprocessing : Preprocessing or None
        A copy of which is fitted.
    scale_targets : bool
    rows : int array or None
        The training set, from which is learned; None for all rows.
    """

    preprocessing: Preprocessing | None = None
    scale_targets: bool = False
    rows: NDArray[np.intp] | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """Checked samples, which stay where they are until a batch of them is taken.

    Attributes
    ----------
    x : ndarray (samples, ...)
    y : ndarray (samples, ...) or None
    dtype : dtype
        That batches of x are converted to.
    device : str
        Where batches are put.
    outputs : tuple
        Shape of one sample's output.
    loss : Loss or None
        That the targets were checked for.
    lengths : ndarray (samples,) or None
        Valid steps of each padded sequence.
    sample_weight : float64 array (samples,) or None
    valid : bool array (samples, steps) or None
        Whether a step of the outputs is valid, where `lengths` are given and outputs have steps.
    known : Known
        What x and y went through.
    rows : int array or None
        Those of x, y and the others that belong to this set; None for all.
    names : list of str or None
        Names of the columns of x.
    """

    x: NDArray[Any]
    y: Any
    dtype: np.dtype[Any]
    device: str
    outputs: Shape
    loss: Loss | None = None
    lengths: NDArray[np.int64] | None = None
    sample_weight: NDArray[np.float64] | None = None
    valid: NDArray[np.bool_] | None = None
    known: Known = field(default_factory=Known)
    rows: NDArray[np.intp] | None = None
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def take(self, rows: Rows) -> Batch:
        """A batch of these rows of the set."""
        if self.rows is not None:
            rows = self.rows[rows]
        valid = None if self.valid is None else np.flatnonzero(self.valid[rows])
        return Batch(
            to_device(_converted(self.x, rows, self.dtype), self.device),
            None if self.y is None else to_device(_taken(self.y, rows), self.device),
            None if self.lengths is None else self.lengths[rows],
            None
            if self.sample_weight is None
            else to_device(self.sample_weight[rows], self.device),
            None if valid is None else to_device(valid, self.device),
        )


def checked_data(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    loss: Loss | None = None,
    name: str = "",
    like: Data | None = None,
    targets: bool = True,
    learn: Learning | None = None,
    group: Alone = ALONE,
) -> Data:
    """Check what a user gave against the model.

    Parameters
    ----------
    model : Layer
    x, y, lengths, sample_weight
        As in `fit`.
    loss : Loss, optional
        Which checks the targets. By default it is chosen by `chosen_loss`.
    name : str, default ""
        Put before the names of the arguments in messages, such as "validation ".
    like : Data, optional
        Samples that the model will be built for.
    targets : bool, default True
        Whether there are targets; without them `y` and `loss` are ignored.
    learn : Learning, optional
        What is learned from these samples. Otherwise they go through what is known of `like`, or
        to the model.
    group : Alone or Group
        The processes that share the values of x out, each of which is read by one of them.

    Raises
    ------
    TypeError, ValueError
        If the model cannot take it.
    """
    known = known_of(model) if like is None else like.known
    if learn is not None:
        known = _with_preprocessing(known, learn, x)
    if known.preprocessing is not None:
        x = _preprocessed(f"{name}x", known.preprocessing, x)
    dtype = np.dtype(np.int64) if model.integer_input else model_dtype(model)
    inputs = _checked_inputs(f"{name}x", x, dtype, group)
    given = plain(f"{name}y", _as_data(f"{name}y", y)) if targets else None
    outputs = _output_shape(model, f"{name}x", inputs, given, like)
    steps = valid = None
    if lengths is not None:
        if not model.takes_lengths:
            raise ValueError(f"{name}lengths: no layer of the model takes lengths of sequences")
        steps = _checked_lengths(f"{name}lengths", lengths, inputs)
        valid = _valid_steps(model, inputs.shape[1:], outputs, steps)
        if targets and valid is not None and not valid.any():
            raise ValueError(
                f"{name}lengths leave no step of the outputs: none would count in the loss"
            )
    weight = None
    if sample_weight is not None:
        if loss is not None and not isinstance(loss, CheckedLoss):
            raise TypeError(
                f"{name}sample_weight needs a loss of dropcore.losses, which takes weights, got "
                f"the function {loss!r}"
            )
        weight = checked_sample_weight(f"{name}sample_weight", sample_weight, len(inputs))
    if targets:
        given, loss, known = _checked_targets(
            f"{name}y", given, len(inputs), outputs, loss, valid, known, learn
        )
    for what, array in (("x", inputs), ("y", given)):
        if on_device(array) and model.device == "cpu":
            raise TypeError(
                f"{name}{what} is on a GPU and the model is not: use model.to('cuda'), or "
                f"cupy.asnumpy({what})"
            )
    return Data(inputs, given, dtype, model.device, outputs, loss, steps, weight, valid, known)


def known_of(model: Layer) -> Known:
    """What the model knows of its data."""
    state = model.training_state
    if state is None:
        return Known()
    return Known(state.preprocessing, state.classes, state.target_scaling)


def model_dtype(model: Layer) -> np.dtype[Any]:
    """The dtype of the weights, float32 where there are none yet."""
    first = next(iter(model.params.values()), None)
    return np.dtype(np.float32) if first is None else first.dtype


# --- data frames ---------------------------------------------------------------------------------


def feature_names(x: Any) -> list[str] | None:
    """The columns of a data frame, if they are all strings."""
    columns = getattr(x, "columns", None)
    if columns is None or isinstance(x, np.ndarray):
        return None
    names = list(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


def check_feature_names(name: str, x: Any, known: list[str] | None) -> None:
    """Compare the columns of `x` with those that the model was fitted to.

    Raises
    ------
    ValueError
        If names or order differ.

    Warns
    -----
    UserWarning
        If `x` has no names and the model was fitted to a data frame.
    """
    if known is None:
        return
    names = feature_names(x)
    if names is None:
        warnings.warn(
            f"{name} has no column names, and the model was fitted to a data frame with the "
            f"columns {listed(known)}: the order cannot be checked",
            UserWarning,
            stacklevel=users_level(),
        )
    elif names != known:
        if sorted(names) == sorted(known):
            found = "the same in another order"
        else:
            missing = [column for column in known if column not in names]
            new = [column for column in names if column not in known]
            found = "; ".join(
                f"{what} {listed(columns)}"
                for what, columns in (("missing", missing), ("unknown", new))
                if columns
            )
        raise ValueError(
            f"{name} must have the columns that the model was fitted to, in their order, "
            f"{listed(known)}: {found}"
        )


# --- inputs --------------------------------------------------------------------------------------


def _checked_inputs(name: str, x: ArrayLike, dtype: np.dtype[Any], group: Alone) -> NDArray[Any]:
    """Return `x` as an array of its own dtype whose values are finite in `dtype`.

    Of several processes each looks at some blocks of rows.

    Raises
    ------
    TypeError
        If it is not an array of real numbers.
    ValueError
        If it is empty or holds a value that is not finite in `dtype`.
    """
    data = _as_data(name, x)
    if dtype.kind == "i":
        if data.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be integers, the indices that the first layer looks up, got dtype "
                f"{data.dtype}; use .astype(np.int64)"
            )
    elif data.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be an array of real numbers, got dtype {data.dtype}{_hint(x, data)}"
        )
    if data.ndim == 0 or data.size == 0:
        raise ValueError(f"{name} must be of shape (samples, ...) and not empty, got {data.shape}")
    if data.dtype.kind == "f":
        xp = array_namespace(data)
        for rows in islice(row_blocks(data), group.rank, None, group.size):
            finite = xp.isfinite(_converted(data, rows, dtype))
            if not finite.all():
                first, *rest = map(int, xp.argwhere(~finite)[0])
                at = (rows.start + first, *rest)
                raise ValueError(f"{name} must be finite in {dtype}, got {data[at]} at {at}")
    return data


def _output_shape(
    model: Layer, name: str, x: NDArray[Any], y: NDArray[Any] | None, like: Data | None
) -> Shape:
    """Shape of one sample's output; ValueError if the model cannot take `x`."""
    sample = x.shape[1:]
    try:
        if like is not None and sample != like.x.shape[1:]:
            _check_like(model, name, sample, like.x.shape[1:])
        return model.output_shape(sample)
    except ValueError as error:
        if x.ndim > 1 or model.integer_input:
            if like is not None and not str(error).startswith(name):
                error.args = (f"{name}: {error}",)
            raise
        swapped = "; are x and y swapped?" if y is not None and y.ndim > 1 else ""
        raise ValueError(
            f"{name} must be of shape (samples, features), got {x.shape}: {name}[:, None] is one "
            f"feature, {name}[None] one sample{swapped} ({error})"
        ) from None


def _check_like(model: Layer, name: str, sample: Shape, wanted: Shape) -> None:
    """ValueError unless a model for samples of shape `wanted` takes those of shape `sample`."""
    fits = len(sample) == len(wanted)
    if fits:
        # Where the lengths differ, the model has to take any length.
        free = tuple(a if a == b else None for a, b in zip(sample, wanted, strict=True))
        try:
            model.output_shape(free)
        except ValueError:
            fits = False
    if not fits:
        raise ValueError(
            f"{name} must have samples of shape {wanted}, as x has, got {sample}: only lengths "
            "that the model takes as they come may differ, such as the steps of sequences"
        )


def _checked_lengths(name: str, lengths: ArrayLike, x: NDArray[Any]) -> NDArray[np.int64]:
    """Return `lengths` of x (samples, time, ...) as int64 (samples,), each in [0, time].

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    found = to_device(_as_data(name, lengths), "cpu")
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {found.dtype}")
    if x.ndim < 2 or found.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must hold one number for each sequence of data of shape (samples, time, ...), "
            f"got shape {found.shape} for data of shape {x.shape}"
        )
    if found.size and not 0 <= found.min() <= found.max() <= x.shape[1]:
        bad = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"{name} must be in [0, {x.shape[1]}], the steps of the data, got {bad}")
    return found.astype(np.int64)


def _valid_steps(
    model: Layer, sample: Shape, outputs: Shape, lengths: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Whether each step of the outputs is valid (samples, steps); None if they have no steps."""
    try:
        has_steps = model.output_shape((None, *sample[1:]))[:1] == (None,)
    except ValueError:  # a layer needs to know all lengths
        whole = model.output_lengths(np.array([sample[0]], np.int64))
        has_steps = len(outputs) > 1 and int(whole[0]) == outputs[0]
    if not has_steps:
        return None
    steps = outputs[0]
    assert steps is not None  # the shape of the data is known
    valid: NDArray[np.bool_] = np.arange(steps) < model.output_lengths(lengths)[:, None]
    return valid


def _with_preprocessing(known: Known, learn: Learning, x: Any) -> Known:
    """What is known, with a preprocessing fitted to the rows of training."""
    if known.preprocessing is not None or learn.preprocessing is None:
        return known
    part = x
    if learn.rows is not None:
        part = x.iloc[learn.rows] if hasattr(x, "iloc") else np.asarray(x)[learn.rows]
    return replace(known, preprocessing=copy.deepcopy(learn.preprocessing).fit(part))


def _preprocessed(name: str, preprocessing: Preprocessing, x: Any) -> NDArray[np.float32]:
    """A table as numbers. Errors begin with the name of the argument."""
    try:
        return preprocessing.transform(x)
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("Preprocessing.transform: ")
        own = message.startswith("x ")
        error.args = (f"{name}{message[1:]}" if own else f"{name}: {message}",)
        raise


# --- targets -------------------------------------------------------------------------------------


def _checked_targets(
    name: str,
    targets: Any,
    samples: int,
    outputs: Shape,
    loss: Loss | None,
    valid: NDArray[np.bool_] | None,
    known: Known,
    learn: Learning | None,
) -> tuple[Any, Loss, Known]:
    """Targets of outputs (samples, *outputs) as an array, their loss, and what they went through.

    Raises
    ------
    TypeError, ValueError
        If there is not one for each sample, or as the loss says.
    """
    if targets.ndim == 0 or len(targets) != samples:
        found = f"shape {targets.shape}" if targets.ndim == 0 else f"{len(targets)}"
        raise ValueError(
            f"{name} must hold one target for each of the {samples} samples, got {found}"
        )

    def valid_of(values: Any) -> Any:
        if valid is None or values.shape[:2] != valid.shape:
            return values
        return values[to_device(valid, "cuda") if on_device(values) else valid]

    if loss is None:
        with _named(name):
            loss = chosen_loss(valid_of(targets), targets.ndim, outputs)
    if learn is not None:
        known = _with_targets(name, targets, valid_of, known, learn, loss, outputs)
    if known.scaling is not None and not _classifies(loss):
        targets = known.scaling.transform(targets)
    if known.classes is not None and takes_labels(loss, targets, outputs):
        fits = valid is not None and targets.shape[:2] == valid.shape
        counts = _over(valid, targets) if fits else None
        targets = encoded(name, targets, counts, known.classes)
    if isinstance(loss, CheckedLoss):
        with _named(name):
            targets = loss.fitted(targets, (samples, *outputs))
            counting = valid_of(targets)
            for rows in row_blocks(counting):
                loss.check_values(counting[rows], (samples, *outputs))
    if valid is not None and targets.shape[:2] != valid.shape:
        raise ValueError(
            f"{name} must be of shape {valid.shape} or {(*valid.shape, '...')}, a target for each "
            f"step of the outputs, whose padded steps do not count, got {targets.shape}"
        )
    check_not_ignored(name, targets, valid, loss)
    return targets, loss, known


def check_not_ignored(
    name: str, targets: Any, valid: NDArray[np.bool_] | None, loss: Loss | None
) -> None:
    """ValueError if all labels that are valid are the `ignore_label` of the loss."""
    ignored = getattr(loss, "ignore_label", None)
    # A device is not waited for.
    if ignored is None or on_device(targets) or targets.dtype.kind not in "iu":
        return
    labels = targets if valid is None else targets[valid]
    if holds_for_all(labels, lambda block: block == ignored):
        raise ValueError(
            f"{name}: all labels are {ignored}, the ignore_label of the loss: none would count"
        )


def _with_targets(
    name: str,
    targets: Any,
    valid_of: Callable[[Any], Any],
    known: Known,
    learn: Learning,
    loss: Loss,
    outputs: Shape,
) -> Known:
    """What is known, with classes and scaling learned from targets."""
    if learn.scale_targets and known.scaling is None:
        if _classifies(loss):
            raise ValueError(
                f"scale_targets is for numbers to predict, and the loss {loss!r} is one of "
                "classes; for numbers name the loss, such as loss='mse'"
            )
        from dropcore.data import TargetScaling

        scaling = TargetScaling.fit(_of_each_output(targets, valid_of, learn.rows, loss, outputs))
        return replace(known, scaling=scaling)
    if known.classes is None and not on_device(targets):
        return replace(known, classes=classes_of(name, targets, valid_of(targets), loss, outputs))
    return known


def _of_each_output(
    targets: Any,
    valid_of: Callable[[Any], Any],
    rows: NDArray[np.intp] | None,
    loss: Loss,
    outputs: Shape,
) -> Any:
    """Targets of the training set that count: (values, outputs), or (values,) for one output."""
    counts = np.zeros(len(targets), bool)
    counts[slice(None) if rows is None else rows] = True
    if targets.ndim > 1:
        counts = np.broadcast_to(counts[:, None], targets.shape[:2])
    found = valid_of(targets)
    if found is targets or found.ndim == targets.ndim:
        found = targets[slice(None) if rows is None else rows]
    else:
        found = found[valid_of(counts)]
    units = 1 if isinstance(loss, GaussianNLL) or not outputs else outputs[-1]
    each = units != 1 and found.ndim > 1 and found.shape[-1] == units
    return found.reshape(-1, units) if each else found.reshape(-1)


def _classifies(loss: Loss) -> bool:
    return isinstance(loss, CheckedLoss) and loss.classifies


def _over(valid: Any, targets: Array) -> Array:
    """Whether each step is valid (samples, steps), as an array that broadcasts to targets."""
    found: Array = valid.reshape(*valid.shape, *[1] * (targets.ndim - 2))
    return found


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of the argument before the message of an error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.args = (f"{name}: {error}",)
        raise


# --- arrays --------------------------------------------------------------------------------------


def _as_data(name: str, x: Any) -> NDArray[Any]:
    """`x` as an array, where it is; TypeError or ValueError if it is none."""
    if on_device(x):
        found: NDArray[Any] = x
        return found
    check_not_masked(name, x)
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} must be a dense array, got {type(x).__name__}; use .toarray()")
    is_array = hasattr(x, "__array__") or hasattr(x, "__array_interface__")
    if x is None or isinstance(x, Mapping | set | frozenset | str | bytes):
        raise TypeError(f"{name} must be an array, got {'None' if x is None else type(x).__name__}")
    if not is_array and hasattr(x, "__iter__") and not hasattr(x, "__getitem__"):
        raise TypeError(
            f"{name} must be an array with all samples, got {type(x).__name__}: concatenate what "
            "it yields, or, for x in fit and evaluate, if it yields batches (x, y), leave y out"
        )
    try:
        return np.asarray(x)
    except ValueError:
        raise ValueError(
            f"{name} must be an array of samples of one shape; pad sequences and give lengths="
        ) from None


def _hint(x: Any, data: NDArray[Any]) -> str:
    """What to do about data that are not numbers."""
    dtypes = getattr(x, "dtypes", None)
    if dtypes is not None and hasattr(x, "columns"):
        bad = [
            f"{column!r} ({dtype})"
            for column, dtype in zip(x.columns, dtypes, strict=True)
            if getattr(dtype, "kind", "O") not in "fiub" or not isinstance(dtype, np.dtype)
        ]
        return (
            f": the columns {', '.join(bad[:6])} are not NumPy numbers: "
            "fit(preprocessing=dropcore.data.Preprocessing()) encodes text, and fills what is "
            "missing"
        )
    if data.dtype.kind in "UST":
        return ": encode text as numbers"
    if data.dtype.kind == "O" and data.size:
        kinds = {type(value).__name__ for value in data.ravel()[:1000]}
        if "str" in kinds:
            return f" that holds {', '.join(sorted(kinds))}: encode text as numbers"
        return (
            f" that holds {', '.join(sorted(kinds))}: use .astype(float), and fill what is missing"
        )
    if data.dtype.kind in "mM":
        return ": convert times to numbers"
    return ""


def _taken(x: Array, rows: Rows) -> Array:
    """Some rows, where x is."""
    if on_device(x) and not isinstance(rows, slice):
        rows = to_device(rows, "cuda")
    return x[rows]


def _converted(x: NDArray[Any], rows: Rows, dtype: np.dtype[Any]) -> Array:
    """Some rows, contiguous and in `dtype`, where x is."""
    with np.errstate(all="ignore"):
        found: Array = array_namespace(x).ascontiguousarray(_taken(x, rows), dtype=dtype)
        return found

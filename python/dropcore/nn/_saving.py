"""Models as files: `save` and `load`."""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from os import PathLike
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from dropcore import losses, optim
from dropcore._backends import to_device
from dropcore._base.checks import check_bool, check_number, shown, users_level
from dropcore._base.device import on_device
from dropcore._base.files import checked_path
from dropcore._version import __version__
from dropcore.key import Key
from dropcore.losses import CheckedLoss, Loss
from dropcore.nn._config import decode, encode
from dropcore.nn._file import DTYPES, Arrays, read_file, write_file
from dropcore.nn.layer import Layer, Shape, restore_arrays
from dropcore.training.history import History
from dropcore.training.state import TrainingState, UnfinishedEpoch

if TYPE_CHECKING:
    from dropcore.nn.model import Model

__all__ = ["FIELDS", "FORMAT", "VERSION", "load", "save"]

FORMAT: Final = "dropcore"

VERSION: Final = 1
"""Of the file format. A file of a later version is refused."""

_ENTRIES: Final = frozenset(
    {"format", "version", "library", "config", "input_shape", "params", "buffers", "training"}
)
"""Of the document."""

_LOSSES: Final = {
    name: found
    for name in losses.__all__
    if isinstance(found := getattr(losses, name), type) and issubclass(found, CheckedLoss)
}


def save(model: Layer, path: str | PathLike[str], *, optimizer: bool = True) -> None:
    """What ``model.save`` does: see `Model.save`."""
    target = checked_path("save", path)
    check_bool("save: optimizer", optimizer)
    sink = _Sink()
    try:
        config = model.to_config()
    except (TypeError, ValueError) as error:
        raise type(error)(f"save: the model cannot be written to a file: {error}") from None
    params, buffers = (
        sink.put_all(kind, arrays)
        for kind, arrays in (("params", model.params), ("buffers", model.buffers))
    )
    state = model.training_state
    if state is not None and not optimizer:
        state = dataclasses.replace(state, optimizer="", slots={}, begun=state.step)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "library": __version__,
        "config": config,
        "input_shape": None if model.input_shape is None else list(model.input_shape),
        "params": params,
        "buffers": buffers,
        "training": None if state is None else {
            name: field.write(getattr(state, name), sink) for name, field in FIELDS.items()
        },
    }  # fmt: skip
    write_file("save", target, document, sink.arrays)


def load(path: str | PathLike[str], *, custom: Mapping[str, type] | None = None) -> Model:
    """Load a model that `save` wrote, on the CPU.

    Loading runs no code from the file: layers, constraints, losses and so on are found by their
    names among the classes of dropcore and in `custom`. The file is checked before anything is
    built, and loading takes no more memory than its arrays.

    Parameters
    ----------
    path : str or path
    custom : dict of str to type, optional
        Classes of your own that the model uses, by their names.

    Returns
    -------
    Model
        Ready for `predict`, `evaluate` and a further `fit`.

    Raises
    ------
    ValueError
        If the file is not that of a model, is damaged or inconsistent, was written by a later
        version, or uses a class that is not in `custom`. The message says what is wrong.
    FileNotFoundError, OSError
        If it cannot be read.
    MemoryError
        If its arrays do not fit into memory.

    Examples
    --------
    >>> model = dropcore.load("digits.dropcore")  # doctest: +SKIP
    """
    source = checked_path("load", path)
    if custom is not None and not (
        isinstance(custom, Mapping)
        and all(isinstance(k, str) and isinstance(v, type) for k, v in custom.items())
    ):
        raise TypeError(
            f"load: custom must be a dict of names to classes, such as {{'Mine': Mine}}, got "
            f"{shown(custom)}"
        )
    if source.exists() and not (source.is_file() or source.is_dir()):  # a pipe would be waited for
        raise ValueError(f"load: {source}: it is not a regular file")
    with open(source, "rb") as file:
        try:
            return _loaded(*read_file(file), custom or {})
        except MemoryError:
            raise MemoryError(f"load: {source}: its arrays do not fit into memory") from None
        # What is in a file decides what constructors get, so that any error may come from them.
        except Exception as error:
            if isinstance(error, OSError | ImportError):
                raise
            message = str(error) or type(error).__name__
            raise ValueError(f"load: {source}: {message:.1000}") from error


def _loaded(document: dict[str, Any], arrays: Arrays, custom: Mapping[str, type]) -> Model:
    """The model of a file; any error if it is inconsistent."""
    if document.get("format") != FORMAT:
        raise ValueError(f"its format must be {FORMAT!r}, got {shown(document.get('format'))}")
    version, library = document.get("version"), document.get("library")
    if type(version) is not int or version < 1:
        raise ValueError(f"its version must be a positive integer, got {shown(version)}")
    if version > VERSION:
        raise ValueError(
            f"it was written by dropcore {library!s:.40} in version {version} of the format, and "
            f"dropcore {__version__} reads versions up to {VERSION}: pip install --upgrade dropcore"
        )
    _expect(document, _ENTRIES, "its description")
    config, training = document["config"], document["training"]
    model = cast("Model", Layer.from_config(_dict(config, "its config"), custom=custom))
    if not hasattr(model, "fit"):
        raise ValueError(f"it holds {model!r}, which is no model")
    params, buffers = (arrays.take_all(kind, document[kind]) for kind in ("params", "buffers"))
    restore_arrays(model, _input_shape(document["input_shape"]), params, buffers)
    if training is not None:
        _expect(_dict(training, "its training state"), FIELDS.keys(), "its training state")
        source = _Source(arrays, custom)
        model.training_state = state = TrainingState(
            **{name: field.read(training[name], source) for name, field in FIELDS.items()}
        )
        _check_state(state, model)
    arrays.expect_no_more()
    return model


def _input_shape(found: Any) -> Shape | None:
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > 32 or not all(
        n is None or (type(n) is int and 0 <= n < 1 << 63) for n in found
    ):  # fmt: skip
        raise ValueError(f"its input_shape must be a list of lengths, got {shown(found)}")
    return tuple(found)


def _check_state(state: TrainingState, model: Layer) -> None:
    """ValueError if the state of the optimiser does not belong to the parameters."""
    if state.begun > state.step:
        raise ValueError(f"begun must be at most step, {state.step}, got {state.begun}")
    if state.optimizer not in optim.__all__:  # one's own keeps what it wants
        return
    params = model.params
    for kind, slot in state.slots.items():
        for path, array in slot.items():
            wanted = params.get(path) if path in params else None
            if wanted is None or (array.shape, array.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(
                    f"the state {kind!r} of {state.optimizer} for {path!r} must be like the "
                    f"parameter, got {array.dtype} of shape {array.shape}"
                )


# --- values of the training state ----------------------------------------------------------------


class _Sink:
    """Collects arrays while a document is made."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}

    def put(self, name: str, array: Any) -> str:
        """Add an array, and return its name."""
        found = np.asarray(to_device(array, "cpu"))
        if found.dtype.name not in DTYPES.values():
            raise TypeError(
                f"save: {name} has dtype {found.dtype}, which cannot be written; allowed are "
                f"{', '.join(DTYPES.values())}"
            )
        if name in self.arrays:
            raise ValueError(f"save: there are two arrays called {name}: rename one")
        self.arrays[name] = found
        return name

    def put_all(self, kind: str, arrays: Mapping[str, Any]) -> list[str]:
        """Add arrays under the name of their kind, and return their names in order."""
        for name, array in arrays.items():
            self.put(f"{kind}/{name}", array)
        return list(arrays)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the values of a document are read from."""

    arrays: Arrays
    custom: Mapping[str, type]


@dataclasses.dataclass(frozen=True)
class _Field:
    """How a field of the training state is written, and read again."""

    write: Callable[[Any, _Sink], Any]
    read: Callable[[Any, _Source], Any]


def pack(value: Any, place: str, sink: _Sink) -> Any:
    """A number, str, bool, None, array, or a list or dict of such values, for strict JSON."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else {"float": repr(number)}
    if isinstance(value, list | tuple):
        return [pack(item, f"{place}/{n}", sink) for n, item in enumerate(value)]
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"save: the names in {place} must be str, got {shown(list(value))}")
        return {"dict": {name: pack(item, f"{place}/{name}", sink) for name, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUT":
        words = value.tolist()
        if value.ndim == 1 and all(isinstance(word, str) for word in words):
            return {"strings": words, "object": value.dtype.kind == "O"}
    elif isinstance(value, np.ndarray) and value.dtype.kind == "S" and value.ndim == 1:
        return {"bytes": [word.decode("latin-1") for word in value.tolist()]}
    elif isinstance(value, np.ndarray) or on_device(value):
        return {"array": sink.put(f"{place}.{len(sink.arrays)}", value)}
    raise TypeError(
        f"save: {place} holds {shown(value)}, which cannot be written; allowed are numbers, str, "
        "None, arrays, and lists and dicts of them"
    )


def unpack(value: Any, source: _Source) -> Any:
    """The value that `pack` was given. Tuples come back as lists."""
    if isinstance(value, list):
        return [unpack(item, source) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan"):
        return float(value["float"])
    if value.keys() == {"dict"}:
        inner = _dict(value["dict"], "a dict of its training state")
        return {name: unpack(item, source) for name, item in inner.items()}
    if value.keys() == {"array"}:
        return source.arrays.take(value["array"])
    if value.keys() == {"strings", "object"}:
        words = _strings(value["strings"], "strings")
        return np.array(words, object if value["object"] is True else str)
    if value.keys() == {"bytes"}:
        return np.array([word.encode("latin-1") for word in _strings(value["bytes"], "bytes")], "S")
    raise ValueError(f"its training state holds {shown(value)}, which save does not write")


def _packed(place: str) -> Callable[[Any, _Sink], Any]:
    """Write a field of numbers, str, None, arrays, and lists and dicts of them."""
    return lambda value, sink: pack(value, place, sink)


def _write_slots(slots: Mapping[str, Mapping[str, Any]], sink: _Sink) -> dict[str, list[str]]:
    return {kind: sink.put_all(f"slots/{kind}", slot) for kind, slot in slots.items()}


def _read_slots(found: Any, source: _Source) -> dict[str, dict[str, Any]]:
    return {
        kind: source.arrays.take_all(f"slots/{kind}", paths)
        for kind, paths in _dict(found, "its slots").items()
    }


def _write_loss(loss: Loss | None, sink: _Sink) -> Any:
    if isinstance(loss, CheckedLoss) and not isinstance(loss, type):
        try:
            encoded = encode(loss)
        except TypeError as error:
            reason = str(error)
        else:
            if _LOSSES.get(encoded["class"], type(loss)) is type(loss):
                return encoded
            reason = "dropcore has another class of that name"
    elif loss is None:
        return None
    else:
        reason = "it is a function of your own"
    name = getattr(loss, "__name__", type(loss).__name__)
    warnings.warn(
        f"save: the loss {name} is not saved ({reason}): give loss={name} to the first fit or "
        "evaluate of the loaded model",
        UserWarning,
        stacklevel=users_level(),
    )
    return None


def _read_loss(found: Any, source: _Source) -> Loss | None:
    loss = decode(found, _LOSSES | dict(source.custom))
    if loss is not None and not isinstance(loss, CheckedLoss):
        raise ValueError(f"its loss must be one, got {shown(loss)}")
    return loss


def _write_history(history: History, sink: _Sink) -> dict[str, Any]:
    sink.put("epochs", np.array(history.epochs, np.int64))
    metrics = {name: np.array(values, np.float64) for name, values in history.metrics.items()}
    return {"metrics": sink.put_all("metrics", metrics), "best_epoch": history.best_epoch}


def _read_history(found: Any, source: _Source) -> History:
    found = _dict(found, "its history")
    _expect(found, {"metrics", "best_epoch"}, "its history")
    best = found["best_epoch"]
    if best is not None:
        _read_count(best, source)
    epochs = source.arrays.take("epochs")
    metrics = source.arrays.take_all("metrics", found["metrics"])
    if epochs.dtype != np.int64 or any(values.dtype != np.float64 for values in metrics.values()):
        raise ValueError("its history must be of int64 epochs and float64 metrics")
    if epochs.ndim != 1 or any(values.shape != epochs.shape for values in metrics.values()):
        raise ValueError("its history must have a number of each metric for each epoch")
    values = {name: array.tolist() for name, array in metrics.items()}
    return History(epochs.tolist(), values, best)


def _read_count(found: Any, source: _Source) -> int:
    if type(found) is not int or not 0 <= found < 1 << 63:
        raise ValueError(f"counts of its training state must not be negative, got {shown(found)}")
    return found


def _read_str(found: Any, source: _Source) -> str:
    return _strings([found], "optimizer")[0]


def _read_names(found: Any, source: _Source) -> list[str] | None:
    return None if found is None else _strings(found, "its feature_names")


def _read_bool(found: Any, source: _Source) -> bool:
    return check_bool("its flags", found)


def _read_factor(found: Any, source: _Source) -> float:
    return check_number("its learning_rate_factor", found, "(0, inf)")


def _read_call(found: Any, source: _Source) -> dict[str, str]:
    _strings(list(_dict(found, "its call of fit").values()), "its call of fit")
    return cast(dict[str, str], found)


def _write_key(key: Key | None, sink: _Sink) -> dict[str, int] | None:
    return None if key is None else dataclasses.asdict(key)


def _read_key(found: Any, source: _Source) -> Key | None:
    if found is None:
        return None
    _expect(_dict(found, "its key"), {field.name for field in dataclasses.fields(Key)}, "its key")
    return Key(**found)


def _read_classes(found: Any, source: _Source) -> NDArray[Any] | None:
    classes = unpack(found, source)
    if classes is not None and not (isinstance(classes, np.ndarray) and classes.ndim == 1):
        raise ValueError(f"its classes must be an array with one axis, got {shown(classes)}")
    return classes


def _configured(name: str) -> _Field:
    """A field of an object of `dropcore.data` with `to_config` and `from_config`."""

    def write(value: Any, sink: _Sink) -> Any:
        if value is None:
            return None
        if type(value) is not _class_of_data(name):
            raise TypeError(f"save: {shown(value)} cannot be written; it must be {name}")
        return value.to_config()

    def read(found: Any, source: _Source) -> Any:
        if found is None:
            return None
        return _class_of_data(name).from_config(_dict(found, name))

    return _Field(write, read)


def _class_of_data(name: str) -> Any:
    from dropcore import data  # which most models do without

    return getattr(data, name)


def _read_notes(found: Any, source: _Source) -> dict[str, Any]:
    return _dict(unpack(found, source), "its notes")


def _read_callbacks(found: Any, source: _Source) -> dict[str, dict[str, Any]]:
    states = _dict(unpack(found, source), "its callbacks")
    return {name: _dict(state, "the state of a callback") for name, state in states.items()}


def _write_unfinished(epoch: UnfinishedEpoch | None, sink: _Sink) -> dict[str, Any] | None:
    if epoch is None:
        return None
    found = {field.name: getattr(epoch, field.name) for field in dataclasses.fields(epoch)}
    # Sums on a GPU are arrays without axes.
    sums = {name: [float(total), float(n)] for name, (total, n) in epoch.sums.items()}
    packed = pack(found | {"sums": sums, "scored": _joined(epoch.scored)}, "unfinished", sink)
    return cast(dict[str, Any], packed)


def _joined(scored: list[tuple[Any, Any, Any]]) -> list[tuple[Any, Any, Any]]:
    """What was scored of all batches, as if it were one: an epoch may have a million of them."""
    if len({tuple(_kind(array) for array in batch) for batch in scored}) != 1:
        return scored
    outputs, targets, weights = (
        None if part[0] is None else np.concatenate([to_device(array, "cpu") for array in part])
        for part in zip(*scored, strict=True)
    )
    return [(outputs, targets, weights)]


def _kind(array: Any) -> Any:
    """What arrays share that can be joined."""
    return None if array is None else (array.dtype, array.shape[1:])


def _read_unfinished(found: Any, source: _Source) -> UnfinishedEpoch | None:
    if found is None:
        return None
    values = _dict(unpack(found, source), "its unfinished epoch")
    _expect(values, {f.name for f in dataclasses.fields(UnfinishedEpoch)}, "its unfinished epoch")
    epoch = UnfinishedEpoch(**values)
    _read_count(epoch.batches, source)
    sums = _dict(epoch.sums, "the sums of its unfinished epoch")
    if not all(
        isinstance(pair, list) and [type(number) for number in pair] == [float, float]
        for pair in sums.values()
    ):
        raise ValueError(f"the sums of its unfinished epoch must be pairs, got {shown(sums)}")
    if not isinstance(epoch.scored, list) or not all(
        isinstance(scored, list) and len(scored) == 3 for scored in epoch.scored
    ):
        raise ValueError("what its unfinished epoch scored must be a list of threes")
    epoch.scored = [tuple(scored) for scored in epoch.scored]
    return epoch


def _as_it_is(value: Any, sink: _Sink) -> Any:
    return value


_COUNT: Final = _Field(lambda value, sink: int(value), _read_count)

FIELDS: Final[dict[str, _Field]] = {
    "step": _COUNT,
    "epoch": _COUNT,
    "optimizer": _Field(_as_it_is, _read_str),
    "begun": _COUNT,
    "slots": _Field(_write_slots, _read_slots),
    "loss": _Field(_write_loss, _read_loss),
    "feature_names": _Field(_as_it_is, _read_names),
    "history": _Field(_write_history, _read_history),
    "call": _Field(_as_it_is, _read_call),
    "key": _Field(_write_key, _read_key),
    "classes": _Field(_packed("classes"), _read_classes),
    "preprocessing": _configured("Preprocessing"),
    "target_scaling": _configured("TargetScaling"),
    "callbacks": _Field(_packed("callbacks"), _read_callbacks),
    "learning_rate_factor": _Field(_packed("learning_rate_factor"), _read_factor),
    "stopped": _Field(_as_it_is, _read_bool),
    "unfinished": _Field(_write_unfinished, _read_unfinished),
    "notes": _Field(_packed("notes"), _read_notes),
}
"""The fields of `TrainingState`. A test fails if one is missing here."""


def _dict(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be a dict, got {shown(found)}")
    return found


def _strings(found: Any, what: str) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise ValueError(f"{what} must be str, got {shown(found)}")
    return found


def _expect(found: dict[str, Any], names: AbstractSet[str], what: str) -> None:
    """ValueError unless a dict has these names."""
    missing, unknown = sorted(names - found.keys()), sorted(found.keys() - names)
    parts = [f"lacks {', '.join(missing[:5])}"] * bool(missing)
    parts += [f"has the unknown entries {shown(unknown[:5])}"] * bool(unknown)
    if parts:
        raise ValueError(
            f"{what} {' and '.join(parts)}: the file was written by another version of dropcore, "
            "or changed"
        )

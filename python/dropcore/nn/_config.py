"""Layers as plain data: `Layer.to_config` and `Layer.from_config`."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dropcore import constraints, regularizers, schedules
from dropcore.nn import initializers

__all__ = ["KNOWN", "decode", "encode"]

KNOWN: Final[dict[str, type]] = {}
"""Classes by name. `dropcore.nn` adds its layers."""

MAX_DEPTH: Final = 100
"""Levels of dicts in a config."""

_DTYPES: Final = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Of arrays in a config."""

for _module in (initializers, constraints, regularizers, schedules):
    KNOWN.update(
        (name, found)
        for name in _module.__all__
        if isinstance(found := getattr(_module, name), type)
    )


def encode(value: Any, depth: int = 0) -> Any:
    """A layer, or an argument of one, as numbers, strings, lists and dicts.

    An object becomes ``{"class": its name}`` with the arguments that build it. Arrays become lists
    with their dtype. Numbers that are not finite, which strict JSON lacks, become
    ``{"float": "inf"}``.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        If it is nested so deep that `decode` would refuse it.
    """
    if depth > 2 * MAX_DEPTH:
        raise ValueError(
            f"to_config: the layer is nested more than {MAX_DEPTH} levels deep, which from_config "
            "would refuse"
        )
    if value is None or isinstance(value, bool | str):
        return value
    if hasattr(value, "config") and not isinstance(value, type):
        arguments = value.config()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.init)
        arguments = {field.name: getattr(value, field.name) for field in fields}
    elif isinstance(value, numbers.Integral):
        return int(value)
    elif isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else {"float": repr(number)}
    elif isinstance(value, np.ndarray):
        return {"array": encode(value.tolist(), depth + 1), "dtype": value.dtype.name}
    elif isinstance(value, list | tuple):
        return [encode(item, depth + 1) for item in value]
    else:
        raise TypeError(
            f"to_config: {value!r} cannot be written; use a number, a name, an array, or an "
            "object of dropcore or a dataclass of your own"
        )
    written = {}
    for name, argument in arguments.items():
        try:
            written[name] = encode(argument, depth + 1)
        except TypeError as error:
            place = f"{type(value).__name__}.{name}"
            raise TypeError(str(error).replace("to_config:", f"to_config: {place}:", 1)) from None
    name = type(value).__name__
    if KNOWN.get(name, type(value)) is not type(value):
        raise TypeError(
            f"to_config: {value!r} is of a class of your own, and dropcore has another {name}, "
            "which from_config would take: rename yours"
        )
    return {"class": name} | written


def decode(config: Any, custom: Mapping[str, type], depth: int = 0) -> Any:
    """The value that `encode` was given. Lists come back as tuples.

    Raises
    ------
    ValueError
        For a class that is neither dropcore's nor in `custom`, arguments that it does not take, or
        anything that `encode` does not return.
    """
    if depth > 2 * MAX_DEPTH:
        raise ValueError(
            f"from_config: the config is nested more than {MAX_DEPTH} levels deep, or holds itself"
        )
    if isinstance(config, list | tuple):
        return tuple([decode(item, custom, depth + 1) for item in config])
    if not isinstance(config, Mapping):
        return config
    if "array" in config:
        return _array(config, depth)
    if "float" in config:
        return _float(config)
    name = config.get("class")
    if not isinstance(name, str):
        raise ValueError(
            "from_config: expected a dict with a class, as to_config returns, got the keys "
            f"{sorted(config, key=str)!s:.300}"
        )
    kind = custom.get(name) or KNOWN.get(name)
    if kind is None:
        raise ValueError(
            f"from_config: there is no {name} in dropcore; give a class of your own as "
            f"custom={{{name!r}: {name}}}"
        )
    arguments = {}
    for key, item in config.items():
        if key != "class":
            arguments[key] = decode(item, custom, depth + 1)
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"from_config: {name}: {error}") from None
    return kind(**arguments)


def _array(config: Mapping[str, Any], depth: int) -> npt.NDArray[Any]:
    try:
        if config["dtype"] not in _DTYPES:
            raise ValueError(f"the dtype is {config['dtype']!r:.80}")
        return np.array(decode(config["array"], {}, depth + 1), config["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"from_config: an array must have numbers and a dtype: {found}") from None


def _float(config: Mapping[str, Any]) -> float:
    if config["float"] not in ("inf", "-inf", "nan"):
        raise ValueError(
            f"from_config: float must be 'inf', '-inf' or 'nan', got {config['float']!r}"
        )
    return float(config["float"])

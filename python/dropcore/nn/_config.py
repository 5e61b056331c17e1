"""Layers as plain data and back: what `Layer.to_config` and `Layer.from_config` do."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import numbers
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dropcore.nn.layer import Layer

__all__ = ["decode", "encode"]

_MODULES: Final = (
    "dropcore.nn",
    "dropcore.nn.initializers",
    "dropcore.constraints",
    "dropcore.regularizers",
    "dropcore.schedules",
)


def encode(value: Any) -> Any:
    """A layer, or an argument of one, as numbers, strings, lists and dicts.

    An object becomes ``{"class": its name}`` with the arguments that build it. Arrays become lists
    with their dtype.

    Raises
    ------
    TypeError
        For what cannot be written down.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Layer):
        arguments = value.config()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field for field in dataclasses.fields(value) if field.init)
        arguments = {field.name: getattr(value, field.name) for field in fields}
    elif isinstance(value, numbers.Integral):
        return int(value)
    elif isinstance(value, numbers.Real):
        return float(value)
    elif isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": value.dtype.name}
    elif isinstance(value, list | tuple):
        return [encode(item) for item in value]
    else:
        raise TypeError(
            f"to_config: {value!r} cannot be written down; use a number, a name, an array, or an "
            "object of dropcore or a dataclass of your own"
        )
    written = {}
    for name, argument in arguments.items():
        try:
            written[name] = encode(argument)
        except TypeError as error:
            place = f"{type(value).__name__}.{name}"
            raise TypeError(str(error).replace("to_config:", f"to_config: {place}:", 1)) from None
    return {"class": type(value).__name__} | written


def decode(config: Any, custom: Mapping[str, type]) -> Any:
    """What `encode` was given. Lists come back as tuples.

    Raises
    ------
    ValueError
        For a class that is neither dropcore's nor in `custom`, or arguments that it does not take.
    """
    if isinstance(config, list | tuple):
        return tuple(decode(item, custom) for item in config)
    if not isinstance(config, Mapping):
        return config
    if "array" in config:
        return np.array(config["array"], dtype=config["dtype"])
    if "class" not in config:
        raise ValueError(f"from_config: expected a dict with a class, got {dict(config)!r}")
    name = config["class"]
    kind = custom.get(name) or _find(name)
    arguments = {key: decode(item, custom) for key, item in config.items() if key != "class"}
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"from_config: {name}: {error}") from None
    return kind(**arguments)


def _find(name: str) -> type:
    for module_name in _MODULES:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:
            continue
        found = getattr(module, name, None)
        if isinstance(found, type) and name in module.__all__:
            return found
    raise ValueError(
        f"from_config: there is no {name} in dropcore; give a class of your own as "
        f"custom={{{name!r}: {name}}}"
    )

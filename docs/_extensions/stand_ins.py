"""Stand-ins for the libraries of the adapters, which need not be installed to build the site.

An adapter is imported beside modules in which every name exists. A decorator from there returns
what it is given, and a class that derives from there has no other methods than its own.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PEERS = ("jax", "keras", "llvmlite", "numba", "onnx", "thinc", "torch")

# Where more is needed than a name that exists.
MADE: dict[str, Callable[..., Any]] = {
    "keras.backend.backend": lambda: "jax",
    "numba.extending.overload": lambda function, **options: lambda replacement: replacement,
    "torch.library.custom_op": lambda name, **options: lambda function: StandIn(name),
    "torch.nn.GRU.forward": lambda: None,
    "torch.nn.MultiheadAttention.forward": lambda: None,
    "torch.nn.RNN.forward": lambda: None,
    "torch.nn.functional.multi_head_attention_forward": lambda: None,
}


def stand_in(name: str) -> Any:
    """What has this dotted name. Names between underscores are not made."""
    if name.rpartition(".")[2].startswith("__"):
        raise AttributeError(name)
    return MADE.get(name) or StandIn(name)


class StandIn:
    """An object of a library that is not installed. Whatever is done with it gives another."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return stand_in(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        decorates = len(args) == 1 and (inspect.isfunction(args[0]) or inspect.isclass(args[0]))
        return args[0] if decorates else StandIn(f"{self._name}()")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (StandInBase,)

    def __getitem__(self, index: Any) -> StandIn:
        return StandIn(f"{self._name}[]")

    def __setitem__(self, index: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class StandInType(type):
    """The type of classes whose bases are not installed: methods of the class exist."""

    def __getattr__(cls, name: str) -> Any:
        return stand_in(f"{cls.__module__}.{cls.__qualname__}.{name}")


class StandInBase(metaclass=StandInType):
    """The base of classes whose own is not installed."""


class StandInModule(ModuleType):
    """A module in which every name exists."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        return stand_in(f"{self.__name__}.{name}")


class Finder:
    """Finds the modules of `PEERS`, and makes stand-ins of them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in PEERS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def import_adapters(names: Sequence[str]) -> None:
    """Import modules beside the stand-ins, and remove these again.

    What runs in the same process afterwards, such as the gallery, finds the libraries that are
    installed, or none.
    """
    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in PEERS]:
            del sys.modules[name]

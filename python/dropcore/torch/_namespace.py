"""PyTorch's own code with dropcore's functions in it."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

__all__ = ["in_namespace"]


def in_namespace(function: Callable[..., Any], **names: Any) -> FunctionType:
    """A function of PyTorch in whose namespace some names are dropcore's.

    For functions that have no argument for the dropout inside of them. A compiler would look up
    the names of a namespace that has a name in the module of that name.
    """
    own = cast(FunctionType, function)
    namespace = {name: value for name, value in own.__globals__.items() if name != "__name__"}
    namespace |= names
    twin = FunctionType(own.__code__, namespace, own.__name__, own.__defaults__, own.__closure__)
    twin.__kwdefaults__ = own.__kwdefaults__
    twin.__module__, twin.__doc__ = __name__, own.__doc__
    if own.__name__ in namespace:  # it hands itself over to modes, as under torch.export
        namespace[own.__name__] = twin
    return twin

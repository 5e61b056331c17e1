"""Dicts and lists that layers return and that cannot be changed."""

from __future__ import annotations

import itertools
from typing import Any, NoReturn

__all__ = ["ReadOnlyDict", "ReadOnlyList"]


class ReadOnlyDict(dict[str, Any]):
    """A dict that refuses every change. A copy of it is an ordinary dict.

    Parameters
    ----------
    items : dict
    what : str
        What the dict holds, for the message.
    advice : str
        What to do instead.
    """

    __slots__ = ("advice", "what")

    def __init__(self, items: dict[str, Any], what: str, advice: str) -> None:
        super().__init__(items)
        self.what, self.advice = what, advice

    def __missing__(self, name: object) -> NoReturn:
        known = ", ".join(map(repr, itertools.islice(self, 10)))
        more = f" ... ({len(self)} in all)" if len(self) > 10 else ""
        raise KeyError(f"{self.what} has no {name!r}; the names are {known}{more}")

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class ReadOnlyList(list[Any]):
    """A list that refuses every change. A copy of it is an ordinary list.

    Parameters
    ----------
    items : list
    what : str
        What the list holds, for the message.
    advice : str
        What to do instead.
    """

    __slots__ = ("advice", "what")

    def __init__(self, items: list[Any], what: str, advice: str) -> None:
        super().__init__(items)
        self.what, self.advice = what, advice

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _refuse(self: ReadOnlyDict | ReadOnlyList, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError(f"{self.what} cannot be changed here: {self.advice}")


for _name in ("__delitem__", "__setitem__", "clear", "pop"):
    setattr(ReadOnlyDict, _name, _refuse)
    setattr(ReadOnlyList, _name, _refuse)
for _name in ("__ior__", "popitem", "setdefault", "update"):
    setattr(ReadOnlyDict, _name, _refuse)
for _name in ("__iadd__", "__imul__", "append", "extend", "insert", "remove", "reverse", "sort"):
    setattr(ReadOnlyList, _name, _refuse)

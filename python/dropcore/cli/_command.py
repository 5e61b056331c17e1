"""What a command is made of: its options, its examples and the function that runs it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Command", "Option", "Result"]


@dataclass(frozen=True)
class Option:
    """An argument of a command, for `argparse` and for the file of defaults.

    Attributes
    ----------
    name : str
        "--epochs", or "data" for a positional argument.
    help : str
        The default is appended, if there is one.
    short : str, optional
        "-o".
    kind : callable, optional
        From the text to the value; raises `argparse.ArgumentTypeError`.
    default, choices, metavar, required
        As in `argparse`.
    flag : bool
        Whether it takes no value.
    group : str, optional
        The heading under which ``--help`` lists it.
    exclusive : str, optional
        Only one of the options with the same `exclusive` may be given.
    """

    name: str
    help: str
    short: str | None = None
    kind: Callable[[str], Any] = str
    default: Any = None
    choices: Sequence[str] | None = None
    metavar: str | None = None
    required: bool = False
    flag: bool = False
    group: str | None = None
    exclusive: str | None = None

    @property
    def positional(self) -> bool:
        """Whether it is given without its name."""
        return not self.name.startswith("-")

    def add_to(self, container: Any) -> None:
        """Add it to a parser, or to a group of one."""
        help_ = self.help
        if self.default is not None and not self.flag:
            help_ += f" (default: {self.default})"
        settings: dict[str, Any] = {"help": help_.replace("%", "%%")}
        if self.flag:
            settings["action"] = "store_true"
        else:
            settings |= {"type": self.kind, "default": self.default, "choices": self.choices}
            if not self.positional:
                settings["action"] = _Once
            if self.choices is None:
                settings["metavar"] = self.metavar or self.name.lstrip("-").upper()
        if self.required and not self.positional:
            settings["required"] = True
        container.add_argument(*filter(None, (self.short, self.name)), **settings)


class _Once(argparse.Action):
    """Stores a value, and refuses a second one, which would replace the first without a word."""

    _given: Any = None

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if self._given is namespace:
            raise argparse.ArgumentError(self, "is given twice: give it once")
        self._given = namespace
        setattr(namespace, self.dest, values)


@dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes
    ----------
    text : str
        For stdout; nothing is printed if it is empty.
    data : dict
        The same for ``--json``: numbers, strings, lists and dicts; arrays are converted.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command of ``dropcore``.

    Attributes
    ----------
    name, help : str
        The word on the command line, and a one-line description.
    description : str
        The text of ``--help`` above the options; it is wrapped.
    examples : tuple of str
        Complete command lines; the tests parse them.
    options : tuple of Option
    run : callable
        Gets the parsed options.
    """

    name: str
    help: str
    description: str
    examples: tuple[str, ...]
    options: tuple[Option, ...]
    run: Callable[[argparse.Namespace], Result]

    def add_to(self, commands: Any) -> None:
        """Add its parser to those of the other commands."""
        examples = "\n".join(f"  {example}" for example in self.examples)
        required = [
            option.metavar
            if option.positional
            else f"{option.short or option.name} {option.metavar}"
            for option in self.options
            if option.positional or option.required
        ]
        parser = commands.add_parser(
            self.name,
            usage=" ".join(["dropcore", self.name, *map(str, required), "[options]"]),
            help=self.help,
            description=textwrap.fill(" ".join(self.description.split()), 80),
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        containers: dict[str | None, Any] = {None: parser}
        exclusive: dict[str, Any] = {}
        for option in self.options:
            if option.group not in containers:
                containers[option.group] = parser.add_argument_group(option.group)
            container = containers[option.group]
            if option.exclusive is not None:
                if option.exclusive not in exclusive:
                    exclusive[option.exclusive] = container.add_mutually_exclusive_group()
                container = exclusive[option.exclusive]
            option.add_to(container)
        parser.set_defaults(run=self.run)

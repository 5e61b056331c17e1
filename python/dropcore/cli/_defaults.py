"""Defaults of options from a TOML file."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dropcore.cli._command import Command, Option

__all__ = ["with_defaults"]


def with_defaults(words: Sequence[str], commands: Mapping[str, Command]) -> list[str]:
    """The words of a command line, with those that ``--config`` adds before the options.

    Values at the top of the file belong to every command that has such an option, values in a
    table such as ``[train]`` to that command. What is typed takes their place.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, is not TOML, or has a key or a value that no option takes.
    """
    if not words or words[0] not in commands:
        return list(words)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    try:
        path = finder.parse_known_args(words[1:])[0].config
    except argparse.ArgumentError:  # which the parser of the command reports
        path = None
    if path is None:
        return list(words)
    settings = _read(path)
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    shared = {name: value for name, value in settings.items() if name not in tables}
    for name, table in tables.items():
        if name not in commands:
            raise ValueError(
                f"{path}: there is no command {name!r} for the table [{name}]"
                f"{_nearest(name, commands)}"
            )
        for key in table:
            _option(path, f"[{name}] {key}", key, [commands[name]])
    for key in shared:
        _option(path, key, key, commands.values())

    command = commands[words[0]]
    chosen = {key: value for key, value in shared.items() if _find(key, command) is not None}
    added: list[str] = []
    for key, value in (chosen | tables.get(command.name, {})).items():
        option = _find(key, command)
        assert option is not None
        rivals = [
            other
            for other in command.options
            if other.exclusive is not None and other.exclusive == option.exclusive
        ]
        if not any(_is_typed(other, words[1:]) for other in (option, *rivals)):
            added += _words(path, key, option, value)
    return [words[0], *added, *words[1:]]


def _is_typed(option: Option, words: Sequence[str]) -> bool:
    """Whether an option is among the words: ``--name value``, ``--name=value`` or ``-nvalue``."""
    return any(
        word.partition("=")[0] == option.name
        or (option.short is not None and word.startswith(option.short))
        for word in words
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"--config: there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


def _find(key: str, command: Command) -> Option | None:
    name = f"--{key.replace('_', '-')}"
    for option in command.options:
        if option.name == name and name != "--config":
            return option
    return None


def _option(path: Path, shown: str, key: str, commands: Iterable[Command]) -> None:
    """ValueError if none of the commands has such an option."""
    if any(_find(key, command) for command in commands):
        return
    names = {
        option.name[2:]
        for command in commands
        for option in command.options
        if not option.positional and option.name != "--config"
    }
    raise ValueError(
        f"{path}: {shown} is no option{_nearest(key, names)}; a key is the name of an option "
        "without its dashes, such as batch-size"
    )


def _words(path: Path, key: str, option: Option, value: Any) -> list[str]:
    """The option as it would be typed."""
    if option.flag:
        if not isinstance(value, bool):
            raise ValueError(f"{path}: {key} must be true or false, got {value!r}")
        return [option.name] if value else []
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        raise ValueError(f"{path}: {key} must be a number or a string, got {value!r}")
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        option.kind(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{path}: {key}: {error}") from None
    if option.choices is not None and text not in option.choices:
        choices = ", ".join(map(repr, option.choices))
        raise ValueError(f"{path}: {key} must be one of {choices}, got {text!r}")
    return [f"{option.name}={text}"]


def _nearest(name: str, choices: Iterable[str]) -> str:
    near = get_close_matches(name.replace("_", "-"), list(choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""

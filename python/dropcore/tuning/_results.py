"""Finished results in a file, so that stopped work can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dropcore._base.files import checked_path, replacing

__all__ = ["Results"]

_FORMAT: Final = "dropcore results"
_VERSION: Final = 1


@dataclass
class Results:
    """Results by name, in memory and, with a path, in a JSON file.

    The file is replaced as a whole after each result: it is never half written.

    Parameters
    ----------
    what : str
        The caller, for messages.
    path : str or path or None
    experiment : dict of str to str
        What the results belong to. A file of another experiment is refused.

    Raises
    ------
    ValueError
        If the file holds something else, or results of another experiment.
    OSError
        If it cannot be read.
    """

    what: str
    path: Any
    experiment: Mapping[str, str]
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        self._file: Path = checked_path(f"{self.what}: resume", self.path)
        if self._file.exists():
            self.found = self._read()
        else:
            self._write()  # an error about the path comes before the work

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result."""
        self.found[name] = result
        if self.path is not None:
            self._write()

    def _write(self) -> None:
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "experiment": dict(self.experiment),
            "results": self.found,
        }
        with replacing(self.what, self._file) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        where = f"{self.what}: resume={str(self.path)!r}"
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(
                f"{where} holds no results of {self.what}: name a new file, or one that "
                f"{self.what} has written"
            )
        if content.get("version") != _VERSION:
            raise ValueError(
                f"{where} has version {content.get('version')!r} of its format, and this version "
                f"of dropcore reads {_VERSION}"
            )
        experiment, results = content.get("experiment"), content.get("results")
        if (
            not isinstance(experiment, dict)
            or not isinstance(results, dict)
            or not all(map(_is_result, results.values()))
        ):
            raise ValueError(f"{where} is damaged: delete it, or name another file")
        differ = [name for name, value in self.experiment.items() if experiment.get(name) != value]
        differ += [name for name in experiment if name not in self.experiment]
        if differ:
            raise ValueError(
                f"{where} holds results of another experiment, which differs in "
                f"{', '.join(differ)}: name another file, or delete it"
            )
        return results


def _is_result(result: Any) -> bool:
    """Whether it has both scores, which are None of a model that diverged."""
    return isinstance(result, dict) and all(
        name in result and _is_score(result[name]) for name in ("score", "train_score")
    )


def _is_score(score: Any) -> bool:
    whole = type(score) is int and abs(score) < 1 << 53
    return score is None or type(score) is float or whole

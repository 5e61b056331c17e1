"""Progress of a search: a bar on a terminal and in a notebook, lines in a log file."""

from __future__ import annotations

import sys
from typing import Any

from dropcore._base.checks import check_bool
from dropcore.training._progress import shown_as, tqdm_class

__all__ = ["Bar"]


class Bar:
    """How many of the models are finished.

    Parameters
    ----------
    what : str
        The work, such as "search".
    total : int
        Number of models.
    show : bool or None
        As `fit` takes it.
    """

    def __init__(self, what: str, total: int, show: bool | None) -> None:
        how = shown_as(None if show is None else check_bool(f"{what}: progress", show))
        self._what, self._total, self._done = what, total, 0
        self._lines = how == "lines"
        self._bar: Any = None
        if how == "bar":
            self._bar = tqdm_class()(desc=what, total=total, unit="model", dynamic_ncols=True)

    def update(self, note: str = "") -> None:
        """Count a model, and show a note."""
        self._done += 1
        if self._lines:
            after = f", {note}" if note else ""
            print(f"{self._what}: {self._done}/{self._total} models{after}", file=sys.stderr)
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

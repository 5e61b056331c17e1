"""Progress of a search: a bar on a terminal and in a notebook, lines in a log file."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from dropcore._base.checks import check_bool
from dropcore.training._progress import is_seen, tqdm_class

__all__ = ["Bar"]


class Bar:
    """How many of the models are finished.

    Parameters
    ----------
    what : str
        What is going on.
    total : int
        Number of models.
    show : bool or None
        As `fit` takes it: None shows a bar on a terminal and in a notebook, and nothing elsewhere;
        true shows lines elsewhere.
    """

    def __init__(self, what: str, total: int, show: bool | None) -> None:
        seen = is_seen()
        show = seen if show is None else check_bool(f"{what}: progress", show)
        self._what, self._total, self._done = what, total, 0
        self._lines = show and not seen and sys.stderr is not None
        self._bar: Any = None
        if show and seen:
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

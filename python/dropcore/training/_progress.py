"""The progress of `fit`: a bar on a terminal and in a notebook, lines in a log file."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["Progress", "in_notebook", "in_short", "progress_of", "shown_as", "tqdm_class"]

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
_UNKNOWN_TOTAL = "{desc} {n_fmt} updates, {elapsed}{postfix}"


class Progress:
    """Shows nothing; the base class of what shows something. A context manager."""

    def begin_epoch(self, epoch: int) -> None:
        """Say that an epoch begins."""

    def update(self, loss: Any = None) -> None:
        """Count an update; `loss` is that of its batch, shown where it is a float."""

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of an epoch."""

    def close(self) -> None:
        """Leave what was shown last."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Lines(Progress):
    """A line for each epoch, for files and pipes."""

    def __init__(self, last: int) -> None:
        self._last = last

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        shown = ", ".join(
            f"{name} {value:.4g}" for name, value in metrics.items() if name != "seconds"
        )
        seconds = f" ({metrics['seconds']:.1f} s)" if "seconds" in metrics else ""
        print(f"epoch {epoch}/{self._last}: {shown}{seconds}", file=sys.stderr, flush=True)


class _Bar(Progress):
    """One bar over all updates.

    The loss is the mean since the epoch began; the other metrics are those of the last epoch.
    """

    def __init__(self, done: int, epochs: int, updates: int | None) -> None:
        self._last = done + epochs
        self._metrics: dict[str, float] = {}
        self._sum, self._count = 0.0, 0
        total = None if updates is None else epochs * updates
        self._bar = tqdm_class()(
            desc=self._place(done + 1),
            total=total,
            dynamic_ncols=True,
            bar_format=_FORMAT if total else _UNKNOWN_TOTAL,
        )

    def begin_epoch(self, epoch: int) -> None:
        self._sum, self._count = 0.0, 0
        self._bar.set_description_str(self._place(epoch), refresh=False)

    def update(self, loss: Any = None) -> None:
        if isinstance(loss, float):  # reading an array of a device would wait for it
            self._sum += loss
            self._count += 1
        if self._bar.update() and self._count:
            self._metrics = self._metrics | {"loss": self._sum / self._count}
            self._bar.set_postfix_str(in_short(self._metrics), refresh=False)

    def end_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._metrics = {name: value for name, value in metrics.items() if name != "seconds"}
        self._bar.set_postfix_str(in_short(self._metrics), refresh=False)  # epochs may be short

    def close(self) -> None:
        self._bar.close()

    def _place(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._last}"


def progress_of(done: int, epochs: int, updates: int | None, show: bool | None) -> Progress:
    """What shows the progress of a call of `fit`.

    Parameters
    ----------
    done : int
        Epochs that were trained before.
    epochs : int
        Epochs to train.
    updates : int or None
        Of an epoch; None if it is not known.
    show : bool or None
        As `shown_as` takes it; a line is that of an epoch.
    """
    how = shown_as(show)
    if how == "bar":
        return _Bar(done, epochs, updates)
    return _Lines(done + epochs) if how == "lines" else Progress()


def tqdm_class() -> Any:
    """The class of bars for a terminal, or for a notebook."""
    # Importing it takes long, and only training needs it. In a notebook without ipywidgets
    # tqdm.auto would warn, and show a bar of text that takes itself to be in a log file.
    if in_notebook() and importlib.util.find_spec("ipywidgets") is None:
        from tqdm.std import tqdm
    else:
        from tqdm.auto import tqdm
    return tqdm


def shown_as(show: bool | None) -> Literal["bar", "lines"] | None:
    """How progress is shown, if it is.

    None shows a bar on a terminal and in a notebook, and nothing elsewhere; true shows lines
    elsewhere; false shows nothing.
    """
    if in_notebook() or (sys.stderr is not None and sys.stderr.isatty()):
        return "bar" if show is None or show else None
    return "lines" if show and sys.stderr is not None else None


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter notebook, whose stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def in_short(metrics: Mapping[str, float]) -> str:
    """Metrics in one line, each next to that of the validation data.

    Examples
    --------
    >>> in_short({"loss": 0.51234, "accuracy": 0.75, "val_loss": 0.5, "val_accuracy": 0.8})
    'loss 0.512 val 0.5, accuracy 0.75 val 0.8'
    """
    parts = []
    for name, value in metrics.items():
        if name.startswith("val_") and name[4:] in metrics:
            continue
        held_out = metrics.get(f"val_{name}", math.nan)
        shown = f" val {held_out:.3g}" if f"val_{name}" in metrics else ""
        parts.append(f"{name} {value:.3g}{shown}")
    return ", ".join(parts)

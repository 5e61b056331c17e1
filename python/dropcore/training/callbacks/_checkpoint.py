"""Saves the model during training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dropcore._base.checks import check_bool, check_integer, shown
from dropcore._base.extras import require
from dropcore._base.files import check_replaceable, checked_path
from dropcore.training.callbacks._base import Callback, Run
from dropcore.training.callbacks._monitor import Monitor

__all__ = ["Checkpoint"]


class Checkpoint(Callback):
    """Saves the model and its training state by ``model.save(path)``.

    It is called after all other callbacks, so that the file contains their decisions. The file is
    replaced atomically: a process that is killed leaves the last complete one, and
    ``dropcore.load(path).fit(..., resume=True)`` continues from it to the same bits as a run that
    was never interrupted.

    At the end of training, and after Ctrl-C, the model is saved once more, unless
    ``best_only=True``. With `EarlyStopping` the file then has the weights of the best epoch.

    Parameters
    ----------
    path : str or path
        Usually ``"name.dropcore"``. ``{epoch}`` and ``{step}`` stand for the number of the epoch
        and of the update, as in ``"digits-{epoch:03}.dropcore"``, which keeps all files.
    every_epochs : int, optional
        Save every so many epochs. By default after each epoch, unless `every_updates` is given.
    every_updates : int, optional
        Save every so many updates, also within epochs.
    best_only : bool, default False
        Whether to save only after an epoch with the best value so far.
    monitor : str, default "val_loss"
        The metric that decides what is best, for ``best_only=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid or has no effect. From `fit`, before training: if the metric is
        not measured, or the model has arguments that cannot be written.
    ImportError
        If safetensors is not installed.
    OSError
        From `fit`, before training: if the folder does not exist or is read-only, or the path is
        that of a folder. Later: if the disk is full.
    """

    last: ClassVar[bool] = True
    writes_files: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_epochs: int | None = None,
        every_updates: int | None = None,
        best_only: bool = False,
        monitor: str | None = None,
    ) -> None:
        require("safetensors", "save", "Checkpoint")
        self._path = checked_path("Checkpoint", path)
        self._folder = Path.cwd()  # whose braces stand for themselves
        self._file(1, 1)
        self._best_only = check_bool("Checkpoint: best_only", best_only)
        if every_epochs is not None and every_updates is not None:
            raise ValueError("Checkpoint: give every_epochs or every_updates, not both")
        self._epochs = self._updates = None
        if every_updates is not None:
            self._updates = check_integer("Checkpoint: every_updates", every_updates, 1)
            if self._best_only:
                raise ValueError(
                    "Checkpoint: best_only compares epochs, so every_updates has no effect: use "
                    "every_epochs"
                )
        else:
            every = 1 if every_epochs is None else every_epochs
            self._epochs = check_integer("Checkpoint: every_epochs", every, 1)
        if monitor is not None and not self._best_only:
            raise ValueError("Checkpoint: monitor has no effect without best_only=True")
        self._monitor = Monitor("Checkpoint", "val_loss" if monitor is None else monitor)
        self._best: float | None = None

    def check(self, metrics: Mapping[str, bool]) -> None:
        if self._best_only:
            self._monitor.check(metrics)
        check_replaceable("Checkpoint", self._file(1, 1))

    def writes(self) -> Path:
        return self._file(1, 1)

    def check_state(self, state: Mapping[str, Any]) -> None:
        if self._best_only:
            self._monitor.check_same(state["monitor"])

    def on_fit_begin(self, run: Run) -> None:
        if not hasattr(run.model, "save"):
            raise TypeError(
                "Checkpoint: a single layer cannot be saved, train it inside a Sequential, got "
                f"{shown(run.model)}"
            )
        try:
            run.model.to_config()
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"Checkpoint: the model cannot be written to a file: {error}"
            ) from None
        self._best = None

    def on_update_end(self, run: Run) -> None:
        if self._updates is not None and run.state.step % self._updates == 0:
            self._save(run)

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        if self._epochs is None or epoch % self._epochs:
            return
        if self._best_only:
            value = metrics[self._monitor.metric]
            if not self._monitor.better(value, self._best):
                return
            self._best = value
        self._save(run)

    def on_fit_end(self, run: Run) -> None:
        if not self._best_only:
            self._save(run)

    def state(self) -> dict[str, Any]:
        if not self._best_only:
            return {}
        return {"monitor": self._monitor.metric, "best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        self._best = state["best"]

    def _save(self, run: Run) -> None:
        run.keep_callbacks()
        model: Any = run.model
        model.save(self._file(run.state.epoch, run.state.step))

    def _file(self, epoch: int, step: int) -> Path:
        try:
            return self._folder / os.fspath(self._path).format(epoch=epoch, step=step)
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                "Checkpoint: in path, {epoch} and {step} stand for numbers, and other braces are "
                f"doubled, as in '{{{{a}}}}', got {os.fspath(self._path)!r}"
            ) from None

"""Writes the metrics of each epoch for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from dropcore._base.extras import require
from dropcore._base.files import checked_path
from dropcore.training.callbacks._base import Callback, Run

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Writes the metrics of each epoch to a folder, which ``tensorboard --logdir`` shows.

    Each metric is a chart with a curve for the training data and one for the validation data, such
    as "loss/training" and "loss/validation". "seconds" is the time of an epoch, and
    "learning_rate_factor" is the factor that callbacks have set. A thread writes them to the disk
    within about a second. Needs tensorboardX (the extra `tensorboard`).

    Parameters
    ----------
    folder : str or path
        Created where it is missing. Points after the epoch at which training begins, which a run
        that was killed left there, are hidden.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    TypeError, ValueError
        If `folder` is not a path.
    OSError
        From `fit`, before training: if the folder cannot be created or written to.
    """

    writes_files: ClassVar[bool] = True

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = checked_path("TensorBoard", folder).absolute()
        self._make = require("tensorboardX", "tensorboard", "TensorBoard").SummaryWriter
        self._writer: Any = None

    def check(self, metrics: Mapping[str, bool]) -> None:
        place = self._folder
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(f"TensorBoard: {place} is a file: name a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(
                f"TensorBoard: nothing can be created in {place}: give write permission, or name "
                "another folder"
            )

    def on_fit_begin(self, run: Run) -> None:
        if self._writer is not None:  # of a run that an error ended
            self._writer.close()
        # A name of its own for runs that begin in the same second.
        self._writer = self._make(
            os.fspath(self._folder),
            purge_step=run.state.epoch + 1,
            flush_secs=1,
            filename_suffix=f".{run.state.step:010}",
        )

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            own = name.removeprefix("val_")
            tag = f"{own}/{'training' if own == name else 'validation'}"
            self._writer.add_scalar(name if name == "seconds" else tag, value, epoch)
        self._writer.add_scalar("learning_rate_factor", run.learning_rate_factor, epoch)

    def on_fit_end(self, run: Run) -> None:
        self._writer.close()
        self._writer = None

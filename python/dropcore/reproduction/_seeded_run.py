"""A run: one row of an experiment with one seed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

import dropcore
from dropcore._base.checks import check_integer
from dropcore._base.files import locked_folder
from dropcore.nn import Model
from dropcore.training import Checkpoint, TrainingState

__all__ = ["SeededRun"]

CHECKPOINTS: Final = 40
HELD_OUT_SHARE: Final = 1 / 6
"""10,000 of the 60,000 digits of MNIST, as in the paper."""


class SeededRun:
    """One row of an experiment with one seed, as `Experiment.train` gets it.

    Parameters
    ----------
    row : str
    seed : int
    settings : dict
    folder : path
        Where a run that is stopped keeps what it needs to continue, in a folder of its own.
    held_out : bool
        Whether to train without a part of the training data, and to measure on that part.
    progress : bool or None
        As in `dropcore.training.fit`.

    Attributes
    ----------
    row : str
    seed : int
        The key of everything random.
    settings : SimpleNamespace
        ``run.settings.units`` is the setting "units".
    held_out : bool
    progress : bool or None
    curves : dict of str to pair of lists
        Recorded with the run, see `add_curve`.
    updates : int
    seconds, cpu_seconds : float
        Of training: the time that passed, and that of all threads. They include those of a run that
        was stopped. `fit` adds to all three; a custom training loop must update them itself.
    """

    def __init__(
        self,
        row: str,
        seed: int,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        held_out: bool = False,
        progress: bool | None = None,
    ) -> None:
        self.row, self.seed, self.held_out, self.progress = row, seed, held_out, progress
        self._fitted: set[str] = set()
        self.settings = SimpleNamespace(**settings)
        self.curves: dict[str, tuple[list[float], list[float]]] = {}
        self.updates, self.seconds, self.cpu_seconds = 0, 0.0, 0.0
        digest = hashlib.sha256(json.dumps([row, settings, held_out], sort_keys=True).encode())
        name = re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")
        self._folder = Path(folder) / f"{name}-{seed}-{digest.hexdigest()[:8]}"

    def file(self, name: str) -> Path:
        """A file of this run, for what it needs to continue; deleted once the run is finished.

        Other settings, seeds and rows have other files.

        Parameters
        ----------
        name : str
            With its suffix, such as "model.dropcore".

        Returns
        -------
        pathlib.Path
            In a folder that exists.
        """
        return self._made_folder() / name

    def has_files(self) -> bool:
        """Whether a run that was stopped has left files.

        Returns
        -------
        bool
        """
        return self._folder.is_dir() and any(self._folder.iterdir())

    def fold(self, count: int) -> int:
        """The seed, as the number of a fold or of a split.

        Parameters
        ----------
        count : int
            Of the folds.

        Returns
        -------
        int
            In [0, count).

        Raises
        ------
        ValueError
            If the seed is not less than `count`.
        """
        if self.seed >= count:
            raise ValueError(
                f"seeds are the numbers of {count} folds, 0 to {count - 1}, got {self.seed}"
            )
        return self.seed

    def _made_folder(self) -> Path:
        shared = self._folder.parent
        shared.parent.mkdir(parents=True, exist_ok=True)
        while not self._folder.is_dir():
            shared.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another run has deleted `shared`, see `finish`
                self._folder.mkdir(exist_ok=True)
        return self._folder

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Keep other processes from training the same run within a ``with`` block.

        Yields
        ------
        bool
            False if another process trains the run now, or has finished it at this moment. Always
            True where files cannot be locked, as on Windows.
        """
        with locked_folder(self._made_folder()) as own:
            try:
                yield own
            finally:
                if own:
                    self._remove_empty_folders()

    def finish(self) -> None:
        """Delete the files of the run, and the folder of all runs if this was the last one."""
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
        self._remove_empty_folders()

    def _remove_empty_folders(self) -> None:
        for folder in (self._folder, self._folder.parent):
            with suppress(OSError):  # gone, or with a checkpoint of this run or another one
                folder.rmdir()

    def fit(
        self,
        model: Model,
        x: ArrayLike | Iterable[Any],
        y: ArrayLike | None = None,
        *,
        epochs: int,
        name: str = "model",
        callbacks: Sequence[Any] = (),
        custom: Mapping[str, type] | None = None,
        **arguments: Any,
    ) -> Model:
        """Train a model as `dropcore.training.fit` does, from the last checkpoint if there is one.

        The key is the seed of the run.

        Parameters
        ----------
        model : Model
            Not yet trained.
        x, y, epochs
            As of `dropcore.training.fit`.
        name : str, default "model"
            Different for each model that the run trains.
        callbacks : sequence of Callback or callable, default ()
            Called before the run records its time and saves the model.
        custom : dict of str to type, optional
            Classes of your own that the model uses, as `dropcore.load` takes them.
        **arguments
            As of `dropcore.training.fit`.

        Returns
        -------
        Model
            The trained model: `model` itself, or what was loaded from the checkpoint.

        Raises
        ------
        ValueError
            If the run has trained a model with that name, or the checkpoint has another network.
        """
        if name in self._fitted:
            raise ValueError(
                f"this run has trained a model called {name!r}: give each its own name"
            )
        self._fitted.add(name)
        path = self.file(f"{name}.dropcore")
        if path.exists():
            wanted, model = model, dropcore.load(path, custom=custom)
            if model.to_config() != wanted.to_config():
                raise ValueError(
                    f"{path} is the checkpoint of another network: delete its folder to train from "
                    "the start, or take back the change of the network"
                )
        saved = Checkpoint(path, every_epochs=max(1, epochs // CHECKPOINTS))
        started = process_time()

        def add_time(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal started
            notes = _state(model).notes
            now = process_time()
            notes["cpu_seconds"] = notes.get("cpu_seconds", 0.0) + now - started
            started = now

        given: dict[str, Any] = {"key": self.seed, "progress": self.progress, **arguments}
        history = model.fit(
            x, y, epochs=epochs, callbacks=[*callbacks, add_time, saved], resume=True, **given
        )
        self.seconds += float(np.sum(history.get("seconds", ())))
        self.cpu_seconds += _state(model).notes.get("cpu_seconds", 0.0)
        self.updates += _state(model).step
        return model

    def add_curve(self, name: str, x: ArrayLike, y: ArrayLike) -> None:
        """Record a curve, rounded to 6 significant digits.

        Parameters
        ----------
        name : str
        x, y : array_like, shape (points,)
            Finite numbers.
        """
        across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if across.ndim != 1 or across.shape != up.shape:
            raise ValueError(
                f"curve {name!r}: x and y must be vectors of one length, got shapes "
                f"{across.shape} and {up.shape}"
            )
        if not np.isfinite([across, up]).all():
            raise ValueError(f"curve {name!r}: x and y must be finite numbers, got NaN or infinity")
        self.curves[name] = (
            [float(f"{value:.6g}") for value in across],
            [float(f"{value:.6g}") for value in up],
        )

    def add_errors(self, model: Model, name: str = "test error") -> None:
        """Record the curve of the error in %, on ``validation_data``, against the updates.

        Parameters
        ----------
        model : Model
            A classifier that `fit` has returned.
        name : str, default "test error"

        Raises
        ------
        ValueError
            If it has not been trained with ``validation_data``.
        """
        state = model.training_state
        if state is None or "val_accuracy" not in state.history:
            raise ValueError(
                "add_errors: the model must have been trained with validation_data, and its "
                "history must have the accuracy"
            )
        errors = 100 * (1 - np.array(state.history["val_accuracy"]))
        each = state.step / len(errors)
        self.add_curve(name, np.round(each * np.arange(1, len(errors) + 1)), errors)

    def split(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        x_test: NDArray[Any],
        y_test: NDArray[Any],
        *,
        samples: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """What to train on, and what to measure on: the test data, or training data held out.

        Parameters
        ----------
        x, y, x_test, y_test : ndarray, shape (samples, ...)
            The training data in a random order.
        samples : int, optional
            Use only this many of the first samples, of which there must be as many. By default all.

        Returns
        -------
        x, y : ndarray
            To train on.
        x_test, y_test : ndarray
            To measure on: with `held_out` the last sixth of the training data.

        Raises
        ------
        ValueError
            If lengths differ, or there are fewer samples than wanted.
        """
        for one, other in ((x, y), (x_test, y_test)):
            if len(one) != len(other):
                raise ValueError(
                    f"split: x and y must have one length, got {len(one)} and {len(other)}"
                )
        if self.held_out:
            rest = len(x) - max(1, round(HELD_OUT_SHARE * len(x)))
            x, y, x_test, y_test = x[:rest], y[:rest], x[rest:], y[rest:]
        if samples is not None:
            check_integer("split: samples", samples, 1, len(x))
        return x[:samples], y[:samples], x_test, y_test


def _state(model: Model) -> TrainingState:
    state = model.training_state
    assert state is not None  # the model has been trained
    return state

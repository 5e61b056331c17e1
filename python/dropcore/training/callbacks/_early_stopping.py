"""Ends training when a metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dropcore._backends import to_device
from dropcore._base.checks import check_bool, check_integer
from dropcore.training.callbacks._base import Callback, Run
from dropcore.training.callbacks._monitor import Monitor

__all__ = ["EarlyStopping"]

Arrays = Mapping[str, Any]


class EarlyStopping(Callback):
    """Ends training when a metric no longer improves, with the weights of the best epoch.

    At the end of training, whether this callback, the number of epochs, another callback or Ctrl-C
    ended it, the model gets the weights and the running moments that it had after its best epoch.
    ``history.best_epoch`` is its number. The weights of the last update are kept as well:
    ``fit(resume=True)`` continues from them, as if training had not ended.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A metric of the history. Whether higher or lower is better follows from its name.
    patience : int, default 10
        Number of epochs in a row without an improvement after which training ends; at least 1.
    min_delta : float, default 0.0
        Smaller improvements do not renew the patience. Not negative.
    restore_best : bool, default True
        Whether the model gets the weights of the best epoch. Then the training state, and a file
        that the model is saved to, also hold the best and the last weights.

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int or None
        Its epoch; the first one if there are several.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. From `fit`, before training: if the metric is not measured.

    References
    ----------
    Prechelt 1998, "Early stopping - but when?".
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        self._monitor = Monitor("EarlyStopping", monitor, min_delta)
        self._patience = check_integer("EarlyStopping: patience", patience, 1)
        self._restores = check_bool("EarlyStopping: restore_best", restore_best)
        self._begin(None)

    def _begin(self, run: Run | None) -> None:
        self._run = run
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._reference: float | None = None
        self._waited = 0
        self._best_arrays: Arrays | None = None
        self._last_arrays: Arrays | None = None

    def check(self, metrics: Mapping[str, bool]) -> None:
        self._monitor.check(metrics)

    def check_state(self, state: Mapping[str, Any]) -> None:
        self._monitor.check_same(state["monitor"])
        if self._restores != state["restore_best"]:
            raise ValueError(
                "EarlyStopping: resume=True continues with the weights that were kept under "
                f"restore_best={state['restore_best']}, got {self._restores}: give the same as "
                "before, or begin another run with resume=False"
            )

    def on_fit_begin(self, run: Run) -> None:
        self._begin(run)

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> bool:
        value, monitor = metrics[self._monitor.metric], self._monitor
        if monitor.better(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self._restores:
                self._best_arrays = _copies(run)
        if monitor.better(value, self._reference, monitor.min_delta):
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        return self._waited >= self._patience

    def on_fit_end(self, run: Run) -> None:
        if self._best_arrays is not None:
            self._last_arrays = _copies(run)
            _assign(run, self._best_arrays)
            run.history.best_epoch = self.best_epoch
            run.keep_callbacks()
        self._run = None

    def state(self) -> dict[str, Any]:
        return {
            "monitor": self._monitor.metric,
            "restore_best": self._restores,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "reference": self._reference,
            "waited": self._waited,
            "best_arrays": self._best_arrays,
            "last_arrays": self._last_arrays,
        }

    def restore(self, state: dict[str, Any]) -> None:
        run = self._run
        assert run is not None
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._reference, self._waited = state["reference"], state["waited"]
        self._best_arrays = state["best_arrays"]
        if state["last_arrays"] is not None:
            _assign(run, state["last_arrays"])
            run.history.best_epoch = None


def _copies(run: Run) -> Arrays:
    """Weights and running moments, in new arrays."""
    arrays = {f"params/{name}": array for name, array in run.model.params.items()}
    arrays |= {f"buffers/{name}": array for name, array in run.model.buffers.items()}
    return {name: array.copy() for name, array in arrays.items()}


def _assign(run: Run, arrays: Arrays) -> None:
    model = run.model
    for kind, own in (("params", model.params), ("buffers", model.buffers)):
        for name, array in own.items():
            array[...] = to_device(arrays[f"{kind}/{name}"], model.device)

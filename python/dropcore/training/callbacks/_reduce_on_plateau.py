"""Lowers the learning rate when a metric no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dropcore._base.checks import check_integer, check_number
from dropcore.optim import scaled
from dropcore.training.callbacks._base import Callback, Run
from dropcore.training.callbacks._monitor import Monitor

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau(Callback):
    """Multiplies the learning rate by a factor when a metric no longer improves.

    It changes ``run.learning_rate_factor``, which multiplies the learning rate of the optimiser,
    also that of a schedule.

    Parameters
    ----------
    monitor : str, default "val_loss"
        A metric of the history. Whether higher or lower is better follows from its name.
    factor : float, default 0.5
        In (0, 1).
    patience : int, default 5
        Number of epochs in a row without an improvement after which the learning rate is lowered;
        at least 1.
    min_delta : float, default 0.0
        Smaller improvements do not count. Not negative.
    cooldown : int, default 0
        Number of epochs after a reduction that do not count towards the patience.
    min_factor : float, default 1e-4
        The learning rate stays at or above this fraction of that of the optimiser; in (0, 1).

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid. From `fit`, before training: if the metric is not measured, or
        the optimiser has no learning rate that can be multiplied.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.5,
        patience: int = 5,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_factor: float = 1e-4,
    ) -> None:
        self._monitor = Monitor("ReduceOnPlateau", monitor, min_delta)
        self._factor = check_number("ReduceOnPlateau: factor", factor, "(0, 1)")
        self._patience = check_integer("ReduceOnPlateau: patience", patience, 1)
        self._cooldown = check_integer("ReduceOnPlateau: cooldown", cooldown, 0)
        self._least = check_number("ReduceOnPlateau: min_factor", min_factor, "(0, 1)")
        self._best: float | None = None
        self._waited = self._cooling = 0

    def check(self, metrics: Mapping[str, bool]) -> None:
        self._monitor.check(metrics)

    def check_state(self, state: Mapping[str, Any]) -> None:
        self._monitor.check_same(state["monitor"])

    def on_fit_begin(self, run: Run) -> None:
        scaled(run.optimizer, self._factor)  # an optimiser that cannot be scaled fails now
        self._best, self._waited, self._cooling = None, 0, 0

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        value, monitor = metrics[self._monitor.metric], self._monitor
        if monitor.better(value, self._best, monitor.min_delta):
            self._best, self._waited = value, 0
        elif self._cooling == 0:
            self._waited += 1
        self._cooling = max(0, self._cooling - 1)
        if self._waited >= self._patience:
            lowered = max(run.learning_rate_factor * self._factor, self._least)
            run.learning_rate_factor = min(run.learning_rate_factor, lowered)
            self._waited, self._cooling = 0, self._cooldown

    def state(self) -> dict[str, Any]:
        return {
            "monitor": self._monitor.metric,
            "best": self._best,
            "waited": self._waited,
            "cooling": self._cooling,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._best = state["best"]
        self._waited, self._cooling = state["waited"], state["cooling"]

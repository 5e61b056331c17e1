"""Learning rates that change during training, by the rules of scikit-learn's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dropcore.training.callbacks import Callback, ReduceOnPlateau, Run

__all__ = ["Adaptive", "InverseScaling"]

LEAST = 1e-300
"""The smallest factor of a learning rate: 0 would be refused."""


class InverseScaling(Callback):
    """The learning rate is divided by (t + 1)^power, anew after each epoch.

    Parameters
    ----------
    power : float
    seen : int
        t: samples that updates have seen.
    """

    def __init__(self, power: float, seen: int) -> None:
        self._power, self._seen = power, seen

    def on_fit_begin(self, run: Run) -> None:
        self._lower(run)

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        self._seen += int(run.state.call["samples"])
        self._lower(run)

    def _lower(self, run: Run) -> None:
        run.learning_rate_factor = max((self._seen + 1.0) ** -self._power, LEAST)


class Adaptive(Callback):
    """The learning rate is divided by 5 when a metric no longer improves.

    Training ends when that happens at a learning rate of 1e-6 or less.

    Parameters
    ----------
    monitor, patience, min_delta
        As of `ReduceOnPlateau`.
    learning_rate : float
        That of the optimiser.
    factor : float
        Of it, to begin with.
    kept : dict, optional
        What `state` returned, to go on with.
    """

    def __init__(
        self,
        monitor: str,
        patience: int,
        min_delta: float,
        learning_rate: float,
        factor: float,
        kept: Mapping[str, Any] | None,
    ) -> None:
        self._plateau = ReduceOnPlateau(monitor, 0.2, patience, min_delta, min_factor=LEAST)
        self._rate, self._factor, self._kept = learning_rate, factor, kept

    def check(self, metrics: Mapping[str, bool]) -> None:
        self._plateau.check(metrics)

    def on_fit_begin(self, run: Run) -> None:
        self._plateau.on_fit_begin(run)
        run.learning_rate_factor = self._factor
        if self._kept is not None and self._kept["monitor"] == self.state()["monitor"]:
            self._plateau.restore(dict(self._kept))

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> bool:
        before = run.learning_rate_factor
        self._plateau.on_epoch_end(run, epoch, metrics)
        ends = run.learning_rate_factor < before and before * self._rate <= 1e-6
        if ends:
            run.learning_rate_factor = before
        return ends

    def state(self) -> dict[str, Any]:
        return self._plateau.state()

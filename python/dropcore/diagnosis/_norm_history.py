"""The norms of weights, epoch by epoch."""

from __future__ import annotations

from typing import Any

from dropcore.diagnosis._measures import weight_norms
from dropcore.training.callbacks import Callback, Run

__all__ = ["NormHistory"]

_RECORDED = ("epochs", "mean", "largest", "clipped")


class NormHistory(Callback):
    """Records the norms of incoming weights after each epoch: ``fit(callbacks=[NormHistory()])``.

    Norms that keep growing while the validation loss rises are a sign of overfitting.

    Attributes
    ----------
    epochs : list of int
    mean, largest : dict of str to list of float
        Over the units, for each parameter and epoch.
    clipped : dict of str to list of float
        The fraction of the units at the bound of their max-norm; parameters without one are left
        out.
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.mean: dict[str, list[float]] = {}
        self.largest: dict[str, list[float]] = {}
        self.clipped: dict[str, list[float]] = {}

    def on_fit_begin(self, run: Run) -> None:
        """Forget what an earlier call of `fit` recorded.

        Parameters
        ----------
        run : Run
            The call of `fit`.
        """
        self.epochs, self.mean, self.largest, self.clipped = [], {}, {}, {}

    def state(self) -> dict[str, Any]:
        """The recorded norms.

        Returns
        -------
        dict
            Lists of numbers, by name.
        """
        return {name: getattr(self, name) for name in _RECORDED}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned.

        Parameters
        ----------
        state : dict
            As it was returned.
        """
        self.epochs = [int(epoch) for epoch in state["epochs"]]
        for name in _RECORDED[1:]:
            setattr(self, name, {key: list(values) for key, values in state[name].items()})

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> None:
        """Record an epoch.

        Parameters
        ----------
        run : Run
            The call of `fit`.
        epoch : int
            Its number.
        metrics : dict
            Not used.
        """
        self.epochs.append(epoch)
        for found in weight_norms(run.model):
            self.mean.setdefault(found.name, []).append(found.mean)
            self.largest.setdefault(found.name, []).append(found.largest)
            if found.clipped is not None:
                self.clipped.setdefault(found.name, []).append(found.clipped)

    def growing(self, factor: float = 1.2) -> list[tuple[str, float, float]]:
        """Parameters whose mean norm grew by `factor` and was still growing at the end.

        Parameters
        ----------
        factor : float, default 1.2
            The last mean norm divided by the first.

        Returns
        -------
        list of (name, first mean norm, last mean norm)
            The fastest first; empty for fewer than two epochs.
        """
        found = [
            (name, values[0], values[-1])
            for name, values in self.mean.items()
            if len(values) > 1 and values[-1] > factor * values[0] and values[-1] > values[-2]
        ]
        return sorted(found, key=lambda entry: -entry[2] / max(entry[1], 1e-30))

    def most_clipped(self) -> dict[str, float]:
        """The largest clipped fraction of any epoch, by parameter.

        Returns
        -------
        dict of str to float
            In [0, 1]; only parameters with a max-norm constraint.
        """
        return {name: max(values) for name, values in self.clipped.items()}

"""The metrics of each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["History"]


@dataclass(repr=False, eq=False)
class History(Mapping[str, list[float]]):
    """Metrics by name, a number for each epoch: ``history["val_accuracy"][-1]``.

    It is a mapping: ``"loss" in history``, ``list(history)`` and ``dict(history)`` work as for a
    dict.

    Attributes
    ----------
    epochs : list of int
        Numbered from 1; a second call of `fit` continues the numbers.
    metrics : dict of str to list of float
        "loss" and "accuracy", measured while training, under noise; "val_loss" and "val_accuracy",
        measured without noise, if there is validation data; "seconds". Losses that are not
        classification have no accuracies.
    best_epoch : int or None
        The epoch whose weights the model has, if `EarlyStopping` has put them back.

    Examples
    --------
    >>> history = History()
    >>> history.append(1, {"loss": 0.5})
    >>> dict(history)
    {'loss': [0.5]}
    """

    epochs: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None

    def append(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add an epoch. Where it or earlier ones lack a metric, that is NaN.

        Parameters
        ----------
        epoch : int
            Its number.
        metrics : dict of str to float
            By name.
        """
        before = len(self.epochs)
        self.epochs.append(epoch)
        for name in metrics:
            if name not in self.metrics:
                self.metrics[name] = [math.nan] * before
        for name, values in self.metrics.items():
            values.append(metrics.get(name, math.nan))

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self.metrics[name]
        except KeyError:
            choices = ", ".join(map(repr, self.metrics)) or "nothing yet"
            raise KeyError(f"the history has {choices}, not {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        last = "".join(f", {name}={values[-1]:.4g}" for name, values in self.metrics.items())
        epochs = "1 epoch" if len(self.epochs) == 1 else f"{len(self.epochs)} epochs"
        return f"<History of {epochs}{last and '; the last:' + last[1:]}>"

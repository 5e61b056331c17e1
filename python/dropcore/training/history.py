"""What happened in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["History"]


@dataclass(repr=False)
class History:
    """Numbers by epoch: ``history["val_accuracy"][-1]``.

    Attributes
    ----------
    epochs : list of int
        Numbered from 1; a second call of `fit` counts on.
    metrics : dict of str to list of float
        "loss" and "accuracy", measured while training, with the noise; "val_loss" and
        "val_accuracy", measured without it, if there is validation data; "seconds". Losses that
        are not classification have no accuracies.
    """

    epochs: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def append(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add an epoch."""
        self.epochs.append(epoch)
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[float]:
        try:
            return self.metrics[name]
        except KeyError:
            choices = ", ".join(map(repr, self.metrics)) or "nothing yet"
            raise KeyError(f"the history has {choices}, not {name!r}") from None

    def __repr__(self) -> str:
        last = "".join(f", {name}={values[-1]:.4g}" for name, values in self.metrics.items())
        return f"<History of {len(self.epochs)} epochs{last and '; the last:' + last[1:]}>"

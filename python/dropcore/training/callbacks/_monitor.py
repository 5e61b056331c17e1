"""Whether a metric improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dropcore._base.checks import check_number, shown

__all__ = ["Monitor"]


class Monitor:
    """Compares the values of a metric from epoch to epoch.

    NaN is no improvement.

    Parameters
    ----------
    what : str
        The callback, for messages.
    metric : str
        A name in the history.
    min_delta : float
        Smaller improvements do not count.
    """

    def __init__(self, what: str, metric: Any, min_delta: float = 0.0) -> None:
        if not isinstance(metric, str):
            raise TypeError(
                f"{what}: monitor must be the name of a metric, such as 'val_loss', got "
                f"{shown(metric)}"
            )
        self._what, self.metric = what, metric
        self.min_delta = check_number(f"{what}: min_delta", min_delta, "[0, inf)")
        self._higher = False

    def check(self, metrics: Mapping[str, bool]) -> None:
        """Take the direction of the metric; ValueError if it is not measured."""
        if self.metric not in metrics:
            measured = ", ".join(map(repr, metrics))
            name = self.metric.removeprefix("val_")
            if name != self.metric and name in metrics:
                problem = "needs validation data: give fit validation_data or validation_split"
            elif self.metric == name and f"val_{name}" in metrics:
                problem = f"is measured on the validation data only, as 'val_{name}'"
            else:
                problem = "is not measured: add it to metrics, or choose another"
            raise ValueError(
                f"{self._what}: monitor={self.metric!r} {problem}; measured are {measured}"
            )
        self._higher = metrics[self.metric]

    def check_same(self, before: str) -> None:
        """ValueError unless the run that is resumed followed the same metric."""
        if self.metric != before:
            raise ValueError(
                f"{self._what}: resume=True continues with the best value of {before!r}, got "
                f"monitor={self.metric!r}: give the same monitor as before, or begin another run "
                "with resume=False"
            )

    def better(self, value: float, best: float | None, by: float = 0.0) -> bool:
        """Whether `value` is better than `best`, by more than `by`."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best + by if self._higher else value < best - by

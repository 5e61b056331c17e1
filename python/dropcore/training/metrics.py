"""Metrics by name, and of one's own, for ``fit(metrics=...)`` and ``evaluate(metrics=...)``.

=================  =========================================================  ==================
name               definition                                                 for
=================  =========================================================  ==================
"accuracy"         fraction of correct predictions; always measured           classes
"top_2", "top_5"   fraction of the labels among the k largest outputs         several classes
"log_loss"         mean of -log(probability of the label)                     classes
"f1"               2 / (1 / precision + 1 / recall)                           classes
"precision"        fraction of the predicted positive that is positive        classes
"recall"           fraction of the positive that is predicted positive        classes
"roc_auc"          area under the ROC curve                                   classes
"mse", "rmse"      mean squared error, and its square root                    numbers
"mae"              mean absolute error                                        numbers
"r2"               1 - (squared error) / (squared deviation from the mean)    numbers
=================  =========================================================  ==================

Metrics of classes need a cross-entropy as loss, those of numbers any other loss. F1, precision,
recall, ROC AUC and R2 are those of scikit-learn (the extra `metrics`).

- Two classes, as one output or as two: F1, precision and recall are those of class 1, and AUC is
  that of its probability. More classes, or several yes-or-no outputs: the mean over the classes
  (``average="macro"``, and ``multi_class="ovr"`` for the AUC). With several numbers for each sample
  R2 is the mean over the outputs, and the others are means over all numbers.
- All are computed over the whole epoch or data set, not averaged over batches. F1, precision and
  recall keep the predicted labels of the epoch in memory. AUC, R2 and functions of one's own keep
  all its outputs: (samples, outputs) numbers. The others need no memory.
- All use weights of samples, and leave padded steps and ignored labels out. Weights of classes and
  label smoothing change the loss only.
- With standardised targets they are in the units of y.
- A metric that the data does not define, such as the AUC of a single class, is NaN, with one
  warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Final

from dropcore._base.checks import check_bool, shown

__all__ = ["METRICS", "Metric"]

METRICS: Final[Mapping[str, bool]] = {
    "accuracy": True,
    "log_loss": False,
    "f1": True,
    "precision": True,
    "recall": True,
    "roc_auc": True,
    "mse": False,
    "rmse": False,
    "mae": False,
    "r2": True,
}
"""The names of the metrics without "top_2", "top_3" and so on, and whether higher is better."""

_OWN = ("loss", "accuracy", "seconds")
"""Names that the history uses itself."""


@dataclass(frozen=True)
class Metric:
    """A metric of one's own.

    Parameters
    ----------
    name : str
        Its name in the history; ``val_`` is put before it for validation data.
    function : callable
        ``function(outputs, targets) -> float``, for all samples at once, as NumPy arrays:

        - cross-entropies: outputs are float64 probabilities (rows, classes), and targets integer
          labels (rows,), numbered in the order of the outputs, or shares (rows, classes);
        - yes or no: both are (rows,) for one output, (rows, outputs) for several;
        - other losses of `dropcore.losses`: both are float64 numbers in the units of y, (rows,) for
          one output, (rows, outputs) for several; of "gaussian_nll" the means;
        - a function as loss: the arguments of the loss.

        Steps of sequences are rows, without those that are padded.
    higher_is_better : bool, default True
        Whether a higher value is an improvement, as for `EarlyStopping`.
    weighted : bool, default False
        Whether `function` takes ``sample_weight=``, an array (rows,), as functions of scikit-learn
        do. Needed if weights of samples are given.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or the name is taken.

    Examples
    --------
    >>> import numpy as np
    >>> worst = Metric("worst", lambda outputs, targets: abs(outputs - targets).max(), False)
    >>> worst.function(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    np.float64(0.5)
    """

    name: str
    function: Callable[..., float]
    higher_is_better: bool = True
    _: KW_ONLY
    weighted: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Metric: name must be a string, got {shown(self.name)}")
        if not self.name or self.name in _OWN or self.name.startswith("val_"):
            raise ValueError(
                "Metric: name must be one of your own: it names a column of the history, which has "
                f"{', '.join(map(repr, _OWN))} itself, and puts 'val_' before the names of "
                f"validation metrics; got {self.name!r}"
            )
        if self.name in METRICS or top_of(self.name) is not None:
            raise ValueError(
                f"Metric: {self.name!r} is a metric of dropcore, use the string or another name"
            )
        if not callable(self.function):
            raise TypeError(
                "Metric: function must be a function of (outputs, targets), got "
                f"{shown(self.function)}"
            )
        check_bool("Metric: higher_is_better", self.higher_is_better)
        check_bool("Metric: weighted", self.weighted)


def top_of(name: str) -> int | None:
    """The k of a name such as "top_5"; None for other names."""
    found = re.fullmatch("top_([0-9]+)", name)
    return None if found is None else int(found[1])

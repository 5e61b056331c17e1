"""Monte Carlo averaging compared with weight scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._base.checks import check_integer
from dropcore.key import Key
from dropcore.training._data import known_of
from dropcore.training._inference import outputs_of
from dropcore.uncertainty._outputs import (
    Floats,
    fitted_labels,
    fitted_numbers,
    kind_of,
    predictions,
)
from dropcore.uncertainty._sampling import drawn

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["AveragingCurve", "averaging_curve"]


@dataclass(frozen=True, eq=False)
class AveragingCurve:
    """Errors of averages of k samples, and of weight scaling.

    Attributes
    ----------
    metric : str
        "error rate", the fraction of wrong labels, or "RMSE" in the units of the targets.
    samples : int ndarray, shape (numbers,)
        The numbers k.
    error : float64 ndarray, shape (numbers,)
        Mean over the repetitions.
    standard_error : float64 ndarray, shape (numbers,)
        Of that mean: the standard deviation over the repetitions, divided by the square root of
        their number. It measures the choice of masks only, since all repetitions use the same rows.
    weight_scaling : float
        The error of the network without noise.
    errors : float64 ndarray, shape (repeats, numbers)
    """

    metric: str
    samples: NDArray[np.int64]
    error: Floats
    standard_error: Floats
    weight_scaling: float
    errors: Floats

    @property
    def enough(self) -> int | None:
        """The smallest k whose mean error is within a standard error of weight scaling, or below.

        None if no k is.
        """
        reached = self.error - self.standard_error <= self.weight_scaling
        return int(self.samples[reached.argmax()]) if reached.any() else None


def averaging_curve(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: Key | int,
    samples: Sequence[int] = (1, 2, 5, 10, 20, 50, 100),
    repeats: int = 10,
    kind: str | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> AveragingCurve:
    """Compare averages of k predictions under noise with the prediction without noise.

    An average over all thinned networks is what dropout trains; weight scaling, the network without
    noise, approximates it in one pass. Each repetition draws its own samples and averages the first
    k of them, so that ``repeats * max(samples)`` predictions are made. Probabilities are averaged,
    not logits.

    Parameters
    ----------
    model : Layer
    x, y : array_like, shape (rows, ...)
        Held-out data, with labels as given to `fit`.
    key : Key or int
        Repetition r uses the samples from step ``key.step + r * max(samples)`` on.
    samples : sequence of int
        The numbers k.
    repeats : int, default 10
        At least 2.
    kind, batch_size, lengths
        As in `sample`.

    Returns
    -------
    AveragingCurve

    Raises
    ------
    TypeError, ValueError
        As `sample`, and if targets do not fit the predictions.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 7.5 and figure 11.
    """
    what = "averaging_curve"
    kind = kind_of(what, model, kind)
    numbers = _numbers(samples)
    repeats = check_integer(f"{what}: repeats", repeats, 2)
    most = int(numbers[-1])
    data, parts = drawn(
        what, model, x, key=key, samples=most * repeats, batch_size=batch_size, lengths=lengths
    )
    without = predictions(model, outputs_of(model, data, batch_size), kind)
    wrong = _Wrong(model, y, without.shape, kind)
    sums = np.zeros((repeats, len(numbers)))
    running: Any = 0.0
    for rows, which, outputs in parts:
        values = predictions(model, outputs, kind)
        for t, value in enumerate(values, which.start):
            group, place = divmod(t, most)
            running = value if place == 0 else running + value
            for at in np.flatnonzero(numbers == place + 1):
                sums[group, at] += wrong.total(running / (place + 1), rows)
    errors = wrong.error(sums)
    return AveragingCurve(
        "RMSE" if wrong.numeric else "error rate",
        numbers,
        errors.mean(axis=0),
        errors.std(axis=0, ddof=1) / np.sqrt(repeats),
        float(wrong.error(np.array(wrong.total(without, slice(0, len(data)))))),
        errors,
    )


class _Wrong:
    """Errors of predictions: wrong labels, or squared differences."""

    def __init__(self, model: Layer, y: ArrayLike, shape: tuple[int, ...], kind: str) -> None:
        self.numeric = kind in ("numbers", "gaussian")
        self._kind = kind
        self._targets: NDArray[Any]
        if self.numeric:
            self._targets = fitted_numbers("averaging_curve: y", y, shape)
        else:
            known = known_of(model).classes
            self._targets = fitted_labels("averaging_curve: y", y, shape, kind, known)

    def total(self, values: Floats, rows: slice) -> float:
        """The sum over these rows."""
        targets = self._targets[rows]
        if self.numeric:
            return float(np.square(values - targets).sum())
        found = values.argmax(-1) if self._kind == "classes" else values > 0.5
        return float((found != targets).sum())

    def error(self, sums: Floats) -> Floats:
        """The error over all rows, from sums over them."""
        means = sums / self._targets.size
        return np.sqrt(means) if self.numeric else means


def _numbers(samples: Sequence[int]) -> NDArray[np.int64]:
    """The numbers of samples, sorted, each once."""
    if isinstance(samples, str) or not hasattr(samples, "__len__") or not len(samples):
        raise TypeError(
            "averaging_curve: samples must be the numbers of samples to average, such as "
            f"(1, 10, 100), got {samples!r}"
        )
    found = [check_integer("averaging_curve: each of samples", n, 1) for n in samples]
    return np.unique(np.array(found, np.int64))

"""Monte Carlo prediction, summarised while it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from dropcore._backends import to_device
from dropcore._base.checks import check_bool, check_integer, check_number
from dropcore.key import Key, as_key
from dropcore.training._choices import check_model
from dropcore.training._data import Data, known_of
from dropcore.training._inference import inputs_of
from dropcore.training._labels import in_words
from dropcore.training._monte_carlo import check_sampling, sampled
from dropcore.uncertainty._outputs import Floats, in_units, kind_of, predictions

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["MonteCarlo", "drawn", "entropy_of", "sample"]


@dataclass(frozen=True, eq=False)
class MonteCarlo:
    """Summary of Monte Carlo samples of a prediction.

    Attributes
    ----------
    kind : str
        The predictions y_t, t = 1 ... T, are probabilities for "classes" and "binary", and numbers
        in the units of the targets for "numbers" and "gaussian".
    n_samples : int
        The number T of samples.
    mean : float64 ndarray, shape (rows, ...)
        Mean of y_t: the prediction. For "classes" the last axis is that of the classes, for
        "binary" it is the probability of yes for each output.
    std : float64 ndarray, shape (rows, ...)
        Standard deviation of y_t, sqrt(mean of (y_t - mean)^2): how much the samples differ.
    entropy : float64 ndarray or None
        Of probabilities, H(mean) in nats, for each row (and output, if "binary"), where H(p) is
        the sum of -p log p over the classes: the uncertainty of the prediction as a whole.
    expected_entropy : float64 ndarray or None
        Of probabilities, the mean of H(y_t): the uncertainty that would remain if the weights were
        known.
    mutual_information : float64 ndarray or None
        Of probabilities, entropy - expected_entropy, not negative: the information that a label
        would give about the weights (BALD). It is 0 where all samples are equal, however uncertain.
    noise_std : float64 ndarray or None
        For "gaussian", the square root of the mean of the variances that the model predicts.
    samples : ndarray, shape (T, rows, ...), or None
        y_t, if they were kept.
    classes : ndarray or None
        The user's labels, if they are not 0 ... classes - 1.

    References
    ----------
    Houlsby, Huszar, Ghahramani and Lengyel 2011, "Bayesian active learning for classification and
    preference learning". Gal and Ghahramani 2016, "Dropout as a Bayesian approximation:
    representing model uncertainty in deep learning".
    """

    kind: str
    n_samples: int
    mean: Floats
    std: Floats
    entropy: Floats | None = None
    expected_entropy: Floats | None = None
    mutual_information: Floats | None = None
    noise_std: Floats | None = None
    samples: NDArray[Any] | None = None
    classes: NDArray[Any] | None = None

    @property
    def labels(self) -> NDArray[Any]:
        """The most probable label of each row, one of the user's labels as in `predict_labels`.

        Raises
        ------
        ValueError
            If the predictions are not probabilities.
        """
        if self.kind not in ("classes", "binary"):
            raise ValueError(f"labels: these are predictions of kind {self.kind!r}; use mean")
        if self.kind == "classes":
            return in_words(self.mean.argmax(axis=-1), self.classes)
        yes = (self.mean > 0.5).astype(np.int64)
        return in_words(yes[..., 0], self.classes) if yes.shape[-1] == 1 else yes

    @property
    def predictive_std(self) -> Floats:
        """For numbers: standard deviation including the noise, sqrt(std^2 + noise_std^2)."""
        return self.std if self.noise_std is None else np.hypot(self.std, self.noise_std)


def sample(
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int,
    samples: int = 100,
    kind: str | None = None,
    temperature: float = 1.0,
    keep_samples: bool = False,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> MonteCarlo:
    """Sample predictions under noise (Monte Carlo dropout): their mean and their uncertainty.

    The samples are those of ``predict(x, key=key, samples=samples)``. They are summarised while
    they are drawn, so that memory does not grow with their number. On a model without noise all
    samples are equal: `std` and `mutual_information` are then exactly 0.

    Parameters
    ----------
    model : Layer
    x : array_like, shape (rows, ...)
        As in `predict`.
    key : Key or int
        Address of the noise. Sample t draws in the domain of Monte Carlo prediction, at step
        ``key.step + t``.
    samples : int, default 100
    kind : "classes", "binary", "numbers" or "gaussian", optional
        Meaning of the outputs: logits of classes; a logit for each yes or no; numbers; a mean and
        the logarithm of a variance. By default the loss of the last `fit` decides.
    temperature : float, default 1.0
        Divisor of the logits: see `fit_temperature`.
    keep_samples : bool, default False
        Whether to keep the predictions of all samples, in the dtype of the model.
    batch_size : int, default 1024
        Number of rows that are computed at once.
    lengths : array_like of int, optional
        As in `predict`.

    Returns
    -------
    MonteCarlo

    Raises
    ------
    TypeError, ValueError
        As `predict`; if `kind` is needed or unknown; if `temperature` is given for numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from dropcore.nn import Dense, Dropout, Sequential
    >>> model = Sequential([Dense(50, activation="relu"), Dropout(0.5), Dense(3)])
    >>> model.build((4,), key=0)
    >>> found = sample(model, np.ones((2, 4)), key=0, samples=20, kind="classes")
    >>> found.mean.shape, found.entropy.shape
    ((2, 3), (2,))
    """
    kind = kind_of("sample", model, kind)
    temperature = check_number("sample: temperature", temperature, "(0, inf)")
    if temperature != 1.0 and kind not in ("classes", "binary"):
        raise ValueError(f"sample: temperature is for logits, and the outputs are {kind!r}")
    keep_samples = check_bool("sample: keep_samples", keep_samples)
    data, parts = drawn(
        "sample", model, x, key=key, samples=samples, batch_size=batch_size, lengths=lengths
    )
    summaries: dict[str, list[Floats]] = {}
    running: dict[str, _Moments] = {}
    kept: NDArray[Any] | None = None
    for rows, which, outputs in parts:
        if which.start == 0:
            running = {}
        values = predictions(model, outputs, kind, temperature)
        for name, each in _parts(model, outputs, values, kind).items():
            running.setdefault(name, _Moments()).add(each)
        if keep_samples:
            if kept is None:
                shape = (samples, len(data), *values.shape[2:])
                kept = np.empty(shape, np.dtype(outputs.dtype.name))
            kept[which, rows] = values
        if which.stop == samples:
            for name, moments in running.items():
                summaries.setdefault(name, []).append(moments.mean)
            summaries.setdefault("std", []).append(running["mean"].std)
    found = {name: np.concatenate(blocks) for name, blocks in summaries.items()}
    if "expected_entropy" in found:
        found["entropy"] = entropy_of(found["mean"], kind)
        # Rounding may leave a difference of equal numbers below 0.
        information = np.maximum(found["entropy"] - found["expected_entropy"], 0.0)
        found["mutual_information"] = information
    if "variance" in found:
        found["noise_std"] = np.sqrt(found.pop("variance"))
    classes = known_of(model).classes if kind in ("classes", "binary") else None
    return MonteCarlo(kind, samples, samples=kept, classes=classes, **found)


def drawn(
    what: str,
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int,
    samples: int,
    batch_size: int,
    lengths: ArrayLike | None = None,
) -> tuple[Data, Iterator[tuple[slice, slice, Any]]]:
    """The data as the model takes it, and its outputs as `sampled` yields them.

    Everything is checked before the first part is computed.
    """
    check_model(model)
    samples = check_integer(f"{what}: samples", samples, 1)
    batch_size = check_integer(f"{what}: batch_size", batch_size, 1)
    address = as_key(key)
    check_sampling(model, address, samples)
    data = inputs_of(model, x, lengths)
    return data, sampled(model, data, address, samples, batch_size)


def entropy_of(p: Floats, kind: str) -> Floats:
    """H in nats: of each row of probabilities of classes, or of each probability of yes.

    0 log 0 counts as 0.
    """
    each: Floats = scipy.special.entr(p)
    if kind == "binary":
        return each + scipy.special.entr(1.0 - p)
    total: Floats = each.sum(axis=-1)
    return total


def _parts(model: Layer, outputs: Any, values: Floats, kind: str) -> dict[str, Floats]:
    """What is averaged over the samples: (samples, rows, ...)."""
    if kind in ("classes", "binary"):
        return {"mean": values, "expected_entropy": entropy_of(values, kind)}
    if kind == "gaussian":
        log_variance = to_device(outputs, "cpu")[..., 1].astype(np.float64)
        return {"mean": values, "variance": in_units(model, values, np.exp(log_variance))[1]}
    return {"mean": values}


class _Moments:
    """Mean and variance of samples that arrive in parts, as differences from the first one.

    The differences are exactly 0 where all samples are equal, and otherwise of the size of the
    deviation, so that no digits are lost to a large mean.
    """

    def __init__(self) -> None:
        self._n = 0
        self._first: Any = None
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, values: Floats) -> None:
        """Add (samples, rows, ...)."""
        if self._first is None:
            self._first = values[0].copy()
        difference = values - self._first
        self._n += len(values)
        self._sum = self._sum + difference.sum(axis=0)
        self._squares = self._squares + (difference * difference).sum(axis=0)

    @property
    def mean(self) -> Floats:
        found: Floats = self._first + self._sum / self._n
        return found

    @property
    def std(self) -> Floats:
        shift = self._sum / self._n
        found: Floats = np.sqrt(np.maximum(self._squares / self._n - shift * shift, 0.0))
        return found

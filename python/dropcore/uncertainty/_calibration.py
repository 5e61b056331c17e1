"""Calibration of predicted probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike, NDArray

from dropcore._base.checks import check_integer
from dropcore.uncertainty._outputs import Floats, as_floats, fitted_labels

__all__ = ["Reliability", "brier_score", "fit_temperature", "log_likelihood", "reliability"]

_TOLERANCE = 1e-3  # of the sum of the probabilities of a row


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: how often predictions of each confidence are right.

    Attributes
    ----------
    edges : float64 ndarray, shape (bins + 1,)
        Bin i holds the confidences in (edges[i], edges[i + 1]]; the first also holds 0.
    confidence : float64 ndarray, shape (bins,)
        Mean confidence in each bin; NaN in empty bins.
    accuracy : float64 ndarray, shape (bins,)
        Fraction of correct predictions in each bin; NaN in empty bins. In a calibrated model it
        equals the confidence.
    count : int64 ndarray, shape (bins,)
        Number of predictions in each bin.
    ece : float
        Expected calibration error: the mean of abs(accuracy - confidence) over the bins, each
        weighted by its count.
    mce : float
        Maximum calibration error: the largest of these differences.
    """

    edges: Floats
    confidence: Floats
    accuracy: Floats
    count: NDArray[np.int64]
    ece: float
    mce: float


def reliability(probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 10) -> Reliability:
    """Compare the confidence of predictions, in bins, with how often they are correct.

    With an axis of classes, the confidence is the largest probability of a row, and the prediction
    is correct if the label is that class. With one probability of yes for each row, the confidence
    is that probability, and the prediction counts as correct if the label is 1.

    Parameters
    ----------
    probabilities : array_like, shape (rows, classes) or (rows,) or (rows, 1)
        Such as `MonteCarlo.mean`, or `probabilities` of logits.
    labels : array_like of int, shape (rows,)
    bins : int, default 10
        Number of bins of equal width. The error depends on it: compare models with the same number.

    Returns
    -------
    Reliability

    Raises
    ------
    TypeError, ValueError
        If they are not probabilities and labels.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks". Naeini,
    Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning".
    """
    p, found = _checked("reliability", probabilities, labels)
    bins = check_integer("reliability: bins", bins, 1)
    if p.ndim == 1:
        confidence, right = p, found == 1
    else:
        confidence, right = p.max(axis=-1), p.argmax(axis=-1) == found
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, confidence, bins) / count
        fractions = np.bincount(place, right, bins) / count
    gap = np.abs(fractions - means)[count > 0]
    ece = float((gap * count[count > 0]).sum() / count.sum())
    return Reliability(edges, means, fractions, count, ece, float(gap.max()))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared error of probabilities.

    With an axis of classes, the mean over the rows of sum_k (p_k - [k is the label])^2, in
    [0, 2]. With one probability of yes for each row, the mean of (p - label)^2, in [0, 1].

    Parameters
    ----------
    probabilities, labels
        As in `reliability`.

    Returns
    -------
    float
        0 is best.

    References
    ----------
    Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    p, found = _checked("brier_score", probabilities, labels)
    if p.ndim == 1:
        return float(np.mean((p - found) ** 2))
    right = p[np.arange(len(p)), found]
    return float(np.mean((p * p).sum(axis=-1) - 2.0 * right + 1.0))


def log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean log probability of the labels, in nats.

    It is -inf if a label has probability 0. For a regression see `Mixture.log_likelihood`.

    Parameters
    ----------
    probabilities, labels
        As in `reliability`.

    Returns
    -------
    float
        At most 0.
    """
    p, found = _checked("log_likelihood", probabilities, labels)
    happened = np.where(found == 1, p, 1.0 - p) if p.ndim == 1 else p[np.arange(len(p)), found]
    with np.errstate(divide="ignore"):
        return float(np.log(happened).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Fit a temperature to held-out labels by maximum likelihood.

    It minimises the mean cross-entropy of ``softmax(logits / temperature)``, or of the sigmoid for
    one logit a row, which is convex in 1 / temperature. The predicted labels do not change, only
    their probabilities. Pass the result to `probabilities`, or to `sample`.

    Parameters
    ----------
    logits : array_like, shape (rows, classes) or (rows,) or (rows, 1)
        Of data that the model was not fitted to.
    labels : array_like of int, shape (rows,)

    Returns
    -------
    float
        Above 1 if the model is overconfident. It is limited to [0.001, 1000], since there may be no
        minimum, for instance if all labels are predicted correctly.

    Raises
    ------
    TypeError, ValueError
        If they are not logits and labels.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", section 4.2.
    """
    z = _column_dropped(as_floats("fit_temperature: logits", logits))
    if z.ndim > 2 or not np.isfinite(z).all():
        raise ValueError(
            "fit_temperature: logits must be finite, of shape (rows, classes) or (rows,), got "
            f"{'infinite ones' if z.ndim <= 2 else f'shape {z.shape}'}"
        )
    kind = "binary" if z.ndim == 1 else "classes"
    found = fitted_labels("fit_temperature: labels", labels, z.shape, kind)
    if kind == "binary":
        z = np.stack([np.zeros_like(z), z], axis=-1)  # the softmax of these is the sigmoid
    z = z - z[np.arange(len(z)), found][:, None]  # the label's becomes 0

    def loss(log_temperature: float) -> float:
        return float(scipy.special.logsumexp(z * np.exp(-log_temperature), axis=-1).mean())

    most = np.log(1000.0)
    best: Any = scipy.optimize.minimize_scalar(
        loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-10}
    )
    return float(np.exp(best.x))


def _checked(what: str, probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Any]:
    """Probabilities (rows, classes) or (rows,), and their labels."""
    p = _column_dropped(as_floats(f"{what}: probabilities", probabilities))
    if p.ndim > 2:
        raise ValueError(
            f"{what}: probabilities must be of shape (rows, classes) or (rows,), got {p.shape}; "
            "reshape steps or outputs to rows"
        )
    kind = "binary" if p.ndim == 1 else "classes"
    found = fitted_labels(f"{what}: labels", labels, p.shape, kind)
    if not (p.min() >= 0.0 and p.max() <= 1.0 + _TOLERANCE):
        raise ValueError(
            f"{what}: probabilities must be in [0, 1], got numbers from {p.min():.4g} to "
            f"{p.max():.4g}; of logits take dropcore.uncertainty.probabilities(logits)"
        )
    if p.ndim == 2 and not np.allclose(p.sum(axis=-1), 1.0, rtol=0.0, atol=_TOLERANCE):
        sums = p.sum(axis=-1)
        worst = sums[np.abs(sums - 1.0).argmax()]
        raise ValueError(f"{what}: the probabilities of a row must sum to 1, got {worst:.4g}")
    return p, found


def _column_dropped(values: Floats) -> Floats:
    """(rows, 1) as (rows,)."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values

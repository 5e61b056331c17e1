"""Prediction intervals of a regression: Monte Carlo samples with Gaussian noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike

from dropcore._backends import to_device
from dropcore._base.checks import check_number, shown
from dropcore.key import Key
from dropcore.uncertainty._outputs import Floats, as_floats, fitted_numbers, in_units, kind_of
from dropcore.uncertainty._sampling import drawn

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["Intervals", "Mixture", "intervals", "model_precision", "noise_level", "predictive"]

_BLOCK = 1 << 20  # components that are computed at once
_STEPS = 100  # at most; bisection alone would need 60
_TOLERANCE = 1e-14  # of a quantile, relative to it or to the deviation


@dataclass(frozen=True, eq=False)
class Intervals:
    """Prediction intervals of a regression.

    Attributes
    ----------
    lower, upper : float64 ndarray, shape (rows, ...)
        Quantiles (1 - level) / 2 and (1 + level) / 2 of the predictive distribution, in the units
        of the targets.
    mean : float64 ndarray, shape (rows, ...)
    std : float64 ndarray, shape (rows, ...)
        Of the predictive distribution, noise included.
    level : float
        The probability that a target lies inside.
    """

    lower: Floats
    upper: Floats
    mean: Floats
    std: Floats
    level: float

    def coverage(self, y: ArrayLike) -> float:
        """The fraction of targets inside, bounds included; about `level` for good intervals.

        Parameters
        ----------
        y : array_like, shape (rows, ...)

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        TypeError, ValueError
            If there is not a finite target for each interval.
        """
        targets = fitted_numbers("coverage: y", y, self.mean.shape)
        return float(((self.lower <= targets) & (targets <= self.upper)).mean())

    @property
    def width(self) -> float:
        """Mean width. At the right coverage, smaller is better."""
        return float((self.upper - self.lower).mean())


class Mixture:
    """A mixture of Gaussians of equal weight: p(y) = mean over t of N(y; mean_t, std_t^2).

    Parameters
    ----------
    means : array_like, shape (samples, rows, ...)
        A mean for each sample of a model.
    std : float or array_like
        Standard deviation of the Gaussians, positive; broadcasts to `means`. A number for each
        output has the shape (outputs,).

    Raises
    ------
    TypeError, ValueError
        If they are not finite numbers of such shapes.
    """

    def __init__(self, means: ArrayLike, std: ArrayLike) -> None:
        self.means = as_floats("Mixture: means", means)
        if self.means.ndim < 2:
            raise ValueError(
                f"Mixture: means must be of shape (samples, rows, ...), got {self.means.shape}"
            )
        spread = np.asarray(std)
        if spread.dtype.kind not in "fiu" or spread.dtype.kind == "b":
            raise TypeError(f"Mixture: std must be a number or an array of them, got {shown(std)}")
        if not (np.isfinite(spread).all() and (spread > 0).all()):
            raise ValueError(f"Mixture: std must be positive and finite, got {shown(std)}")
        if not np.isfinite(self.means).all():
            raise ValueError("Mixture: means must be finite")
        try:
            self.stds = np.broadcast_to(spread.astype(np.float64), self.means.shape)
        except ValueError:
            raise ValueError(
                f"Mixture: std of shape {spread.shape} does not broadcast to means of shape "
                f"{self.means.shape}"
            ) from None

    @property
    def mean(self) -> Floats:
        """Mean of the mixture, (rows, ...)."""
        found: Floats = self.means.mean(axis=0)
        return found

    @property
    def std(self) -> Floats:
        """sqrt(variance of the means + mean of the variances), (rows, ...)."""
        found: Floats = np.sqrt(self.means.var(axis=0) + np.square(self.stds).mean(axis=0))
        return found

    def cdf(self, y: ArrayLike) -> Floats:
        """Probability of a target of at most y, (rows, ...).

        Parameters
        ----------
        y : array_like, shape (rows, ...)
            Targets.

        Returns
        -------
        float64 ndarray, shape (rows, ...)
            In [0, 1].
        """
        targets = fitted_numbers("Mixture.cdf: y", y, self.means.shape[1:])
        return self._by_blocks(_cdf, targets)

    def log_density(self, y: ArrayLike) -> Floats:
        """Log density of each target, (rows, ...).

        With sums over the T components::

            log p(y) = log(sum of exp(-(y - mean_t)^2 / (2 std_t^2)) / std_t) - log(T sqrt(2 pi))

        Parameters
        ----------
        y : array_like, shape (rows, ...)
            Targets.

        Returns
        -------
        float64 ndarray, shape (rows, ...)
            In nats.
        """
        targets = fitted_numbers("Mixture.log_density: y", y, self.means.shape[1:])
        return self._by_blocks(_log_density, targets)

    def log_likelihood(self, y: ArrayLike) -> float:
        """Mean of `log_density` over the targets: the test log likelihood, in nats.

        Parameters
        ----------
        y : array_like, shape (rows, ...)
            Targets.

        Returns
        -------
        float
            In nats.

        References
        ----------
        Gal and Ghahramani 2016, "Dropout as a Bayesian approximation: appendix", section 4.
        """
        return float(self.log_density(y).mean())

    def quantile(self, probability: float) -> Floats:
        """The y with ``cdf(y) == probability``, (rows, ...).

        Parameters
        ----------
        probability : float
            In (0, 1).

        Returns
        -------
        float64 ndarray, shape (rows, ...)
            In the units of the targets.
        """
        probability = check_number("Mixture.quantile: probability", probability, "(0, 1)")
        z = scipy.special.ndtri(probability)
        ends = self.means + z * self.stds  # the quantiles of the components bracket that of all
        low, high = ends.min(axis=0), ends.max(axis=0)
        return self._by_blocks(_quantile, low, high, probability)

    def interval(self, level: float = 0.9) -> Intervals:
        """The interval between the quantiles (1 - level) / 2 and (1 + level) / 2.

        Parameters
        ----------
        level : float, default 0.9
            In (0, 1).

        Returns
        -------
        Intervals
            With bounds, mean and standard deviation.
        """
        level = check_number("interval: level", level, "(0, 1)")
        lower, upper = (self.quantile(0.5 + side * level / 2) for side in (-1, 1))
        return Intervals(lower, upper, self.mean, self.std, level)

    def _by_blocks(self, function: Any, *arguments: Any) -> Floats:
        """function(means, stds, *arguments) over blocks of predictions, of bounded memory."""
        shape = self.means.shape[1:]
        means, stds = (a.reshape(len(self.means), -1) for a in (self.means, self.stds))
        flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
        found = np.empty(means.shape[1])
        step = max(1, _BLOCK // len(means))
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            own = [a[part] if isinstance(a, np.ndarray) else a for a in flat]
            found[part] = function(means[:, part], stds[:, part], *own)
        return found.reshape(shape)


def predictive(
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int,
    noise: ArrayLike | None = None,
    samples: int = 100,
    kind: str | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> Mixture:
    """The predictive distribution of a regression: a Gaussian around each sample of the model.

    With the prediction f_t of sample t, and T samples::

        p(y) = mean over t = 1 ... T of N(y; f_t, noise^2)

    The spread of f_t is the uncertainty of the model (epistemic); `noise` is that of the targets
    themselves (aleatoric).

    Parameters
    ----------
    model : Layer
    x : array_like, shape (rows, ...)
        As in `predict`.
    key : Key or int
        As in `sample`.
    noise : float or array_like
        Standard deviation of the noise in the units of the targets: see `noise_level`. An array
        has a number for each output. Leave it out for a model that was fitted with the loss
        "gaussian_nll", which predicts it.
    samples : int, default 100
    kind, batch_size, lengths
        As in `sample`.

    Returns
    -------
    Mixture

    Raises
    ------
    TypeError, ValueError
        As `sample`; if the model predicts probabilities; if `noise` is missing, or
        given for a model that predicts it.
    """
    return _predictive("predictive", model, x, noise, key, samples, kind, batch_size, lengths)


def intervals(
    model: Layer,
    x: ArrayLike,
    *,
    key: Key | int,
    noise: ArrayLike | None = None,
    level: float = 0.9,
    samples: int = 100,
    kind: str | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> Intervals:
    """Intervals that contain a new target with probability `level`.

    They are quantiles of the mixture that `predictive` returns, which need not be symmetric.

    Parameters
    ----------
    model, x, key, noise
        As in `predictive`.
    level : float, default 0.9
        In (0, 1).
    samples, kind, batch_size, lengths
        As in `predictive`.

    Returns
    -------
    Intervals

    Raises
    ------
    TypeError, ValueError
        As `predictive`.
    """
    level = check_number("intervals: level", level, "(0, 1)")
    found = _predictive("intervals", model, x, noise, key, samples, kind, batch_size, lengths)
    return found.interval(level)


def noise_level(
    model: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: Key | int,
    samples: int = 100,
    kind: str | None = None,
    batch_size: int = 1024,
    lengths: ArrayLike | None = None,
) -> Any:
    """Estimate the noise on held-out targets, by maximum likelihood under `predictive`.

    Parameters
    ----------
    model : Layer
    x, y : array_like, shape (rows, ...)
        Held-out data: on the training data the residuals are too small.
    key, samples, kind, batch_size, lengths
        As in `predictive`.

    Returns
    -------
    float, or float64 ndarray of shape (outputs,)
        Standard deviation in the units of the targets; one for each output if there are several.
        The precision tau of Gal and Ghahramani is 1 / noise^2.

    Raises
    ------
    TypeError, ValueError
        As `predictive`; if the model predicts its noise; if targets do not fit the predictions, or
        equal them.
    """
    what = "noise_level"
    means, variances = _components(what, model, x, key, samples, kind, batch_size, lengths)
    if variances is not None:
        raise ValueError(f"{what}: the model predicts its noise, so there is none to estimate")
    targets = fitted_numbers(f"{what}: y", y, means.shape[1:])
    if means.ndim < 3 or means.shape[-1] == 1:
        return _best_noise(means.reshape(len(means), -1), targets.reshape(-1))
    outputs = range(means.shape[-1])
    flat, aims = means.reshape(len(means), -1, len(outputs)), targets.reshape(-1, len(outputs))
    return np.array([_best_noise(flat[..., k], aims[:, k]) for k in outputs])


def model_precision(
    *,
    length_scale: float,
    data_points: int,
    weight_decay: float,
    rate: Any = None,
    keep: Any = None,
) -> float:
    """The precision tau of the noise that weight decay implies: keep * l^2 / (2 * N * lambda).

    The standard deviation of the noise is ``tau ** -0.5``, in the units in which the model was
    trained: multiply it by `TargetScaling.scale` if targets were scaled.

    Parameters
    ----------
    length_scale : float
        l, the prior length scale of functions: the weights' prior is N(0, l^-2).
    data_points : int
        N, the number of training samples.
    weight_decay : float
        lambda, where the loss is the mean of (y - f)^2 / 2 plus lambda times the sum of the squares
        of the weights.
    rate, keep : float
        Of the dropout in front of the weights. Give one of them.

    Returns
    -------
    float
        The inverse of a variance.

    Raises
    ------
    TypeError, ValueError
        If a number is missing or not positive.

    References
    ----------
    Gal and Ghahramani 2016, "Dropout as a Bayesian approximation: representing model uncertainty in
    deep learning", equation 7.
    """
    what = "model_precision"
    if (rate is None) == (keep is None):
        raise TypeError(f"{what}: give rate or keep, one of them")
    if keep is None:
        kept = 1.0 - check_number(f"{what}: rate", rate, "[0, 1)")
    else:
        kept = check_number(f"{what}: keep", keep, "(0, 1]")
    scale = check_number(f"{what}: length_scale", length_scale, "(0, inf)")
    rows = check_number(f"{what}: data_points", data_points, "(0, inf)")
    decay = check_number(f"{what}: weight_decay", weight_decay, "(0, inf)")
    return kept * scale**2 / (2.0 * rows * decay)


def _predictive(
    what: str,
    model: Layer,
    x: ArrayLike,
    noise: ArrayLike | None,
    key: Key | int,
    samples: int,
    kind: str | None,
    batch_size: int,
    lengths: ArrayLike | None,
) -> Mixture:
    kind = kind_of(what, model, kind)
    if kind == "gaussian" and noise is not None:
        raise ValueError(f"{what}: the model predicts its noise: leave noise out")
    if kind == "numbers" and noise is None:
        raise TypeError(
            f"{what}: noise is missing, the standard deviation of the targets around what the "
            "model predicts: noise_level(model, x, y, key=...) estimates it on held-out data"
        )
    means, variances = _components(what, model, x, key, samples, kind, batch_size, lengths)
    return Mixture(means, np.sqrt(variances) if noise is None else noise)


def _components(
    what: str,
    model: Layer,
    x: ArrayLike,
    key: Key | int,
    samples: int,
    kind: str | None,
    batch_size: int,
    lengths: ArrayLike | None,
) -> tuple[Floats, Any]:
    """Means (samples, rows, ...) and variances, or None, in the units of the targets."""
    kind = kind_of(what, model, kind)
    if kind not in ("numbers", "gaussian"):
        raise ValueError(
            f"{what}: the model predicts probabilities, kind {kind!r}, which have no intervals: "
            "see sample, whose entropy and mutual information say how sure it is"
        )
    data, parts = drawn(
        what, model, x, key=key, samples=samples, batch_size=batch_size, lengths=lengths
    )
    outputs: Any = None
    for rows, which, found in parts:
        if outputs is None:
            outputs = np.empty((samples, len(data), *found.shape[2:]))
        outputs[which, rows] = to_device(found, "cpu")
    if kind == "numbers":
        return in_units(model, outputs)
    return in_units(model, outputs[..., 0], np.exp(outputs[..., 1]))


def _best_noise(means: Floats, targets: Floats) -> float:
    """The deviation at which targets (rows,) are most probable, given means (samples, rows)."""
    typical = float(np.sqrt(np.square(targets - means).mean()))
    nearest = float(np.sqrt(np.square(targets - means).min(axis=0).mean()))
    if nearest <= 1e-9 * max(float(np.abs(targets).max()), typical):
        raise ValueError(
            "noise_level: predictions equal the targets, so that there is no noise to estimate: "
            "give data that the model was not fitted to"
        )

    def loss(log_std: float) -> float:
        return -float(_log_density(means, np.exp(log_std), targets).mean())

    # The likelihood falls off on both sides of these, but may have several maxima between.
    low, high = math.log(nearest) - 2.0, math.log(typical) + 1.0
    grid = np.linspace(low, high, 24)
    at = int(np.argmin([loss(g) for g in grid]))
    bounds = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    best: Any = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(best.x))


def _cdf(means: Floats, stds: Floats, y: Floats) -> Floats:
    found: Floats = scipy.special.ndtr((y - means) / stds).mean(axis=0)
    return found


def _log_density(means: Floats, stds: Any, y: Floats) -> Floats:
    exponents = -0.5 * np.square((y - means) / stds) - np.log(stds)
    constant = math.log(len(means)) + 0.5 * math.log(2.0 * math.pi)
    found: Floats = scipy.special.logsumexp(exponents, axis=0) - constant
    return found


def _quantile(means: Floats, stds: Floats, low: Floats, high: Floats, probability: float) -> Floats:
    """Newton's method, with a bisection wherever a step would leave the bracket."""
    y, done = 0.5 * (low + high), np.zeros(low.shape, bool)
    for _ in range(_STEPS):
        z = (y - means) / stds
        excess = scipy.special.ndtr(z).mean(axis=0) - probability
        low, high = np.where(excess < 0, y, low), np.where(excess < 0, high, y)
        density = (np.exp(-0.5 * z * z) / stds).mean(axis=0) / math.sqrt(2.0 * math.pi)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            best = y - excess / density  # not a number where both are 0
        best = np.where((low < best) & (best < high), best, 0.5 * (low + high))
        near = np.abs(best - y) <= _TOLERANCE * np.maximum(np.abs(y), stds.min(axis=0))
        y = np.where(done, y, best)  # each by itself: the others of a block change nothing
        done |= near
        if done.all():
            break
    return y

"""Initial weights.

An initialiser is called with a random generator and a shape and gives float64 numbers. Layers take
one, or the name of one:

==================  ============================================  ================================
name                is                                            by
==================  ============================================  ================================
"he_uniform"        ``VarianceScaling(2.0, "in", "uniform")``     He et al. 2015, for ReLU
"he_normal"         ``VarianceScaling(2.0, "in", "normal")``      the same
"glorot_uniform"    ``VarianceScaling(1.0, "mean", "uniform")``   Glorot and Bengio 2010
"glorot_normal"     ``VarianceScaling(1.0, "mean", "normal")``    the same
"lecun_uniform"     ``VarianceScaling(1.0, "in", "uniform")``     LeCun et al. 1998
"lecun_normal"      ``VarianceScaling(1.0, "in", "normal")``      the same; what SELU needs
"orthogonal"        ``Orthogonal(1.0)``                           Saxe et al. 2014
"hinton_normal"     ``Normal(0.01)``                              Hinton et al. 2012, dropout
"zaremba_uniform"   ``Uniform(0.05)``                             Zaremba et al. 2014, medium LSTM
"zeros", "ones"     ``Fill(0.0)``, ``Fill(1.0)``
==================  ============================================  ================================

Normal distributions are not truncated, as in the papers and in PyTorch. Keras truncates them at two
standard deviations and widens them to compensate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import check_number

__all__ = [
    "INITIALIZERS",
    "Fill",
    "Initializer",
    "Normal",
    "Orthogonal",
    "Uniform",
    "VarianceScaling",
    "drawn",
    "initializer_of",
]

Initializer = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
"""Takes a generator and a shape whose last axis is the units; returns float64 of that shape."""


@dataclass(frozen=True)
class VarianceScaling:
    """Keep the variance of the signal through a layer: var(w) = scale / fan.

    A unit sums fan_in inputs, and an input feeds fan_out units. Of a kernel (..., in, out) both
    count each position of the kernel: fan_in = positions * in, fan_out = positions * out::

        uniform   w ~ U(-a, a), a = sqrt(3 scale / fan)
        normal    w ~ N(0, scale / fan)

    Parameters
    ----------
    scale : float
        2 compensates for ReLU, which halves the variance.
    fan : {"in", "out", "mean"}, default "in"
        Which of the two is used, or their mean.
    distribution : {"uniform", "normal"}, default "uniform"

    Raises
    ------
    ValueError
        If `scale` is not positive and finite, or for another choice.

    References
    ----------
    LeCun, Bottou, Orr and Müller 1998, "Efficient backprop"; Glorot and Bengio 2010,
    "Understanding the difficulty of training deep feedforward networks"; He, Zhang, Ren and Sun
    2015, "Delving deep into rectifiers".
    """

    scale: float
    fan: str = "in"
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        check_number("VarianceScaling: scale", self.scale, "(0, inf)")
        allowed = {"fan": ("in", "out", "mean"), "distribution": ("uniform", "normal")}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise ValueError(f"VarianceScaling: {name} must be one of {choices}, got {found!r}")

    def __call__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        fans: tuple[int, int] | None = None,
    ) -> NDArray[np.float64]:
        """Draw `shape`; `fans` = (fan_in, fan_out) if they do not follow from the shape."""
        fan_in, fan_out = fans or _fans(shape)
        fan = {"in": fan_in, "out": fan_out, "mean": (fan_in + fan_out) / 2}[self.fan]
        if self.distribution == "normal":
            return rng.normal(0.0, math.sqrt(self.scale / fan), shape)
        bound = math.sqrt(3 * self.scale / fan)
        return rng.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class Orthogonal:
    """A random matrix with orthonormal columns, or rows where they are fewer, times `gain`.

    It preserves lengths, so that a signal survives many layers or time steps. A kernel
    (..., in, out) is treated as a matrix (... * in, out).

    Parameters
    ----------
    gain : float, default 1.0

    Raises
    ------
    ValueError
        If `gain` is not finite.

    References
    ----------
    Saxe, McClelland and Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks".
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        check_number("Orthogonal: gain", self.gain)

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: weights must have at least two axes, got shape {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        gaussian = rng.normal(size=(max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(gaussian)
        # The signs of the factorisation are fixed; otherwise q would not be uniform.
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)


@dataclass(frozen=True)
class Uniform:
    """w ~ U(-bound, bound).

    Zaremba et al. 2014, "Recurrent neural network regularization", take bounds of 0.1, 0.05 and
    0.04 for LSTMs of 200, 650 and 1500 units.

    Parameters
    ----------
    bound : float
        Positive.

    Raises
    ------
    ValueError
        If it is not positive and finite.
    """

    bound: float

    def __post_init__(self) -> None:
        check_number("Uniform: bound", self.bound, "(0, inf)")

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return rng.uniform(-self.bound, self.bound, shape)


@dataclass(frozen=True)
class Normal:
    """w ~ N(0, stddev^2).

    Hinton et al. 2012, "Improving neural networks by preventing co-adaptation of feature
    detectors", take 0.01.

    Parameters
    ----------
    stddev : float
        Positive.

    Raises
    ------
    ValueError
        If it is not positive and finite.
    """

    stddev: float

    def __post_init__(self) -> None:
        check_number("Normal: stddev", self.stddev, "(0, inf)")

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return rng.normal(0.0, self.stddev, shape)


@dataclass(frozen=True)
class Fill:
    """The same number everywhere.

    Parameters
    ----------
    value : float

    Raises
    ------
    ValueError
        If it is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        check_number("Fill: value", self.value)

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
        return np.full(shape, self.value, np.float64)


INITIALIZERS: Final[dict[str, Initializer]] = {
    "he_uniform": VarianceScaling(2.0, "in", "uniform"),
    "he_normal": VarianceScaling(2.0, "in", "normal"),
    "glorot_uniform": VarianceScaling(1.0, "mean", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "mean", "normal"),
    "lecun_uniform": VarianceScaling(1.0, "in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "in", "normal"),
    "orthogonal": Orthogonal(),
    "hinton_normal": Normal(0.01),
    "zaremba_uniform": Uniform(0.05),
    "zeros": Fill(0.0),
    "ones": Fill(1.0),
}
"""The initialisers by the names that ``Dense(initializer=...)`` takes."""


def initializer_of(what: str, value: str | Initializer) -> Initializer:
    """The initialiser for a name, or the callable itself.

    Parameters
    ----------
    what : str
        Who asks, for the message.
    value : str or callable

    Returns
    -------
    callable
        ``f(rng, shape)``.

    Raises
    ------
    ValueError
        If it is neither a name in `INITIALIZERS` nor a callable.
    """
    if callable(value) and not isinstance(value, type):
        return value
    if isinstance(value, str) and value in INITIALIZERS:
        return INITIALIZERS[value]
    choices = ", ".join(map(repr, INITIALIZERS))
    raise ValueError(f"{what} must be {choices} or a callable, got {value!r}")


def drawn(
    initializer: str | Initializer,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    fans: tuple[int, int] | None = None,
    gates: int = 1,
) -> NDArray[Any]:
    """Initial weights, contiguous and in `dtype`.

    Parameters
    ----------
    initializer : str or callable
    rng : numpy.random.Generator
    shape : tuple of int
        Its last axis is the units.
    dtype : numpy.dtype
    fans : (int, int), optional
        Inputs that a unit sums and units that an input feeds, if they do not follow from the shape:
        an embedding (words, features) has (1, features), as its input is one word.
    gates : int, default 1
        A recurrent weight (in, gates * units) is drawn gate by gate, each of shape (in, units).

    Returns
    -------
    ndarray
        Of shape `shape` and dtype `dtype`.

    Raises
    ------
    ValueError
        If the initialiser returns another shape.
    """
    draw = initializer_of("initializer", initializer)
    own = (*shape[:-1], shape[-1] // gates)
    if fans is not None and isinstance(draw, VarianceScaling):
        parts = [draw(rng, own, fans) for _ in range(gates)]
    else:
        parts = [np.asarray(draw(rng, own)) for _ in range(gates)]
    for part in parts:
        if part.shape != own:
            raise ValueError(f"initializer must return an array of shape {own}, got {part.shape}")
    return np.array(parts[0] if gates == 1 else np.concatenate(parts, axis=-1), dtype, order="C")


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs of one unit and outputs of one input: a kernel counts each of its positions."""
    *kernel, features, units = shape if len(shape) > 1 else (1, *(shape or (1,)))
    return max(math.prod(kernel) * features, 1), max(math.prod(kernel) * units, 1)

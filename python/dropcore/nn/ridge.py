"""Linear regression with dropout, in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._base.checks import expect_unmasked
from dropcore.mask import resolve_keep

__all__ = ["linear_dropout_ridge"]


def linear_dropout_ridge(
    x: ArrayLike, y: ArrayLike, rate: float | None = None, *, keep: float | None = None
) -> NDArray[Any]:
    """The weights that linear regression with dropout on its inputs converges to.

    Averaged over the masks, the squared error under dropout is that of a ridge regression, with a
    penalty for each weight that grows with the scale of its input. It has a closed form::

        w = argmin ||y - x w||^2 + (1 - keep) / keep * ||g w||^2,     g = diag(x.T x)^(1/2)

    These weights multiply new inputs, as those of ``Dense(units, use_bias=False)`` after
    ``Dropout(rate)`` do; the paper calls them w~. Trained without inverted scaling they would be
    w / keep. If columns of x do not determine w, it is the shortest solution.

    Parameters
    ----------
    x : array_like, shape (samples, features)
    y : array_like, shape (samples,) or (samples, outputs)
    rate, keep : float
        Give one of them. keep = 0 gives zeros, rate = 0 the least-squares solution.

    Returns
    -------
    ndarray of float64, shape (features,) or (features, outputs)

    Raises
    ------
    TypeError
        If x or y is not of real numbers.
    ValueError
        If the shapes do not fit, a number is not finite, or neither or both of rate and keep are
        given.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", section 9.1.

    Examples
    --------
    >>> linear_dropout_ridge([[1.0, 0.0], [0.0, 2.0]], [1.0, 2.0], 0.5)
    array([0.5, 0.5])
    """
    if rate is None and keep is None:
        raise ValueError("linear_dropout_ridge: give rate or keep, got neither")
    kept = resolve_keep(rate, keep, what="linear_dropout_ridge")
    inputs, targets = _numbers("x", x), _numbers("y", y)
    if inputs.ndim != 2 or targets.ndim not in (1, 2) or len(targets) != len(inputs):
        raise ValueError(
            "linear_dropout_ridge: x must be (samples, features) and y (samples,) or "
            f"(samples, outputs), got {inputs.shape} and {targets.shape}"
        )
    features = inputs.shape[1]
    if kept == 0:
        return np.zeros((features, *targets.shape[1:]))
    # Rows sqrt((1 - keep) / keep) g below x make it a problem of least squares.
    spread = np.sqrt((1 - kept) / kept * np.square(inputs).sum(axis=0))
    zeros = np.zeros((features, *targets.shape[1:]))
    rows = np.concatenate([inputs, np.diag(spread)])
    return np.linalg.lstsq(rows, np.concatenate([targets, zeros]), rcond=None)[0]


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    expect_unmasked(f"linear_dropout_ridge: {name}", values)
    found = np.asarray(values)
    if found.dtype.kind not in "fiub":
        raise TypeError(f"linear_dropout_ridge: {name} must be real numbers, got {found.dtype}")
    if not np.isfinite(found).all():
        raise ValueError(f"linear_dropout_ridge: {name} must be finite")
    return found.astype(np.float64)

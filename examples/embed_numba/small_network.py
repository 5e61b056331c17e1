"""A network with dropout and max-norm whose training Numba compiles as one function.

``pip install 'dropcore[numba]'``, then ``python small_network.py``.

Compiled code has no `Key`: (seed, stream, step) takes its place. The backward pass gives the same
three numbers and draws the same mask again, so that no mask is kept.
"""

import numpy as np
from numba import njit, prange

from dropcore.numba import dropout, dropout_, max_norm_

STREAM = 1  # of the only dropout here


@njit(nogil=True, cache=True)
def update_(w, v, x, y, rate, bound, learning_rate, seed, step):
    """One update of w (inputs, units) and v (units,) for squared errors; the mean error."""
    key = (seed, STREAM, step)
    hidden = np.maximum(x @ w, 0)
    kept = dropout(hidden, rate, key)
    error = kept @ v - y
    gradient = dropout(np.outer(error, v), rate, key)  # of the hidden units: the same mask
    gradient *= hidden > 0
    scale = 2 * learning_rate / len(y)
    v -= scale * (error @ kept)
    w -= scale * (x.T @ gradient)
    max_norm_(w, bound, 0)  # the incoming weights of each unit
    return (error**2).mean()


@njit(nogil=True, cache=True)
def train_(w, v, x, y, rate=0.2, bound=2.0, learning_rate=0.05, seed=7, steps=300):
    errors = np.empty(steps)
    for step in range(steps):
        errors[step] = update_(w, v, x, y, rate, bound, learning_rate, seed, step)
    return errors


@njit(nogil=True, parallel=True)
def dropout_in_threads_(x, rate, seed, step):
    """Dropout of x (rows, columns) in place, by all threads of Numba: each takes whole rows."""
    for row in prange(x.shape[0]):
        dropout_(x[row], rate, (seed, STREAM, step), row * x.shape[1])


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 10))
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] / 2
    w, v = rng.normal(size=(10, 64)) * 0.3, rng.normal(size=64) * 0.1
    errors = train_(w, v, x, y)
    print(f"mean squared error with dropout: {errors[0]:.3f} before, {errors[-1]:.3f} after")
    print(f"without: {np.mean((np.maximum(x @ w, 0) @ v - y) ** 2):.3f}")

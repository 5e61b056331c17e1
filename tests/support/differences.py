"""Gradients by finite differences: what every layer is checked against."""

from __future__ import annotations

import numpy as np


def differences(f, array, eps=1e-6):
    """Central differences of a scalar f() with respect to every element of `array`."""
    found = np.empty_like(array)
    for i in np.ndindex(array.shape):
        before = array[i]
        array[i] = before + eps
        up = f()
        array[i] = before - eps
        down = f()
        array[i] = before
        found[i] = (up - down) / (2 * eps)
    return found


def check_gradients(layer, x, key=None, *, rtol=1e-6, atol=1e-7, **extras):
    """The gradients of a float64 layer, its masks held by `key`, against finite differences.

    A fixed random direction makes a scalar of the output. Integer input has no gradient.
    """
    y, backward = layer.forward(x, key=key, **extras)
    direction = np.random.default_rng(5).normal(size=y.shape)

    def scalar():
        return float((layer.forward(x, key=key, **extras)[0] * direction).sum())

    dx, grads = backward(direction.copy())
    assert set(grads) == set(layer.params)
    for name, weight in layer.params.items():
        assert np.shape(grads[name]) == weight.shape, name
        wanted = differences(scalar, weight)
        np.testing.assert_allclose(np.asarray(grads[name]), wanted, rtol, atol, err_msg=name)
    if x.dtype.kind == "f":
        assert dx.shape == x.shape
        np.testing.assert_allclose(dx, differences(scalar, x), rtol, atol, err_msg="dx")
    # In the forms for an optimiser they are the same numbers.
    _, backward = layer.forward(x, key=key, **extras)
    _, again = backward(direction.copy(), input_gradient=False, for_update=True)
    for name, gradient in grads.items():
        np.testing.assert_allclose(np.asarray(again[name]), np.asarray(gradient), 1e-12, 1e-12)

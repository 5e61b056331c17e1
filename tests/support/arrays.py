"""Arrays to test with, and what it means for two of them to be equal."""

from __future__ import annotations

import functools
import sys

import ml_dtypes
import numpy as np

FLOATS = tuple(map(np.dtype, (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)))


# Of a device, whose sums are in another order.
CLOSE = {np.float32: {"rtol": 2e-5, "atol": 2e-5}, np.float64: {"rtol": 1e-10, "atol": 1e-11}}


@functools.lru_cache(maxsize=64)  # tests ask for the same numbers over and over
def _normal(shape, dtype, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def normal(*shape, dtype=np.float64, seed=0):
    return _normal(shape, dtype, seed).copy()


def normal32(*shape, seed=0):
    return normal(*shape, dtype=np.float32, seed=seed)


def odd_numbers(shape, dtype=np.float32, seed=0):
    """Normal ones of many sizes, with what is special at the front."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=shape) * 2.0 ** rng.integers(-20, 8, size=shape)).astype(dtype)
    special = [0.0, -0.0, np.inf, -np.inf, 6e4, -7e-8, 1e-40, 65519.0, 65520.0, 1.0]
    with np.errstate(over="ignore"):
        x.reshape(-1)[: len(special)] = np.array(special[: x.size]).astype(dtype)
    return x


# --- layouts -------------------------------------------------------------------------------------


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array.copy()


def backwards(array):
    return array[..., ::-1].copy()[..., ::-1] if array.ndim else array.copy()


def unaligned(array):
    at = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    at[...] = array
    return at


LAYOUTS = {
    "C": np.copy,
    "F": np.asfortranarray,
    "strided": strided,
    "backwards": backwards,
    "unaligned": unaligned,
}


# --- comparisons ---------------------------------------------------------------------------------


def on_host(x):
    """As a NumPy array; what is no array of a device is returned as it is."""
    return x if isinstance(x, np.ndarray | float) else sys.modules["cupy"].asnumpy(x)


def bits_of(x):
    return x.view(f"u{x.dtype.itemsize}")


def assert_same_bits(found, wanted, *, any_nan=False):
    """Equal in dtype, shape and every bit; with any_nan, a NaN equals every other NaN."""
    found, wanted = on_host(found), on_host(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    a, b = (bits_of(np.ascontiguousarray(array)) for array in (found, wanted))
    differ = a != b
    if any_nan and differ.any():
        differ &= ~(np.isnan(found) & np.isnan(wanted)).reshape(differ.shape)
    assert not differ.any(), f"{np.count_nonzero(differ)} of {found.size} numbers differ"


def close(found, wanted, what="", tolerance=None):
    """Within 1e-5 in float32 and 1e-12 in float64, of the largest finite number or of 1."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape, what
    tolerance = tolerance or (1e-5 if found.dtype == np.float32 else 1e-12)
    size = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * size, err_msg=what)


def ulps(found, exact):
    """Errors of float32 numbers in units in the last place of the exact ones."""
    with np.errstate(over="ignore"):
        near = np.abs(exact.astype(np.float32))
    fits = np.isfinite(near)
    assert np.array_equal(np.isfinite(found), fits)
    place = np.ldexp(1.0, np.maximum(np.frexp(near[fits].astype(np.float64))[1], -125) - 24)
    return np.abs(found[fits].astype(np.float64) - exact[fits]) / place


def norms(w, axis, *, keepdims=False):
    """In float64, whatever the dtype of w."""
    return np.sqrt(np.square(w.astype(np.float64)).sum(axis=axis, keepdims=keepdims))

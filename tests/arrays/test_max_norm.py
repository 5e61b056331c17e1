"""The projection: inside untouched, outside on the ball, twice is once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dropcore
from dropcore import max_norm_, reference
from support.arrays import norms, strided

RNG = np.random.default_rng(0)


SHAPES = [
    ((30, 20), 0), ((30, 20), 1), ((30, 20), (0, 1)), ((1, 7), 0), ((7, 1), 0), ((7, 1), 1),
    ((300, 517), 0), ((517, 300), 1), ((3, 3, 8, 16), (0, 1, 2)), ((3, 3, 8, 16), 3),
    ((3, 3, 8, 16), (0, 2)), ((4, 5, 6), 1), ((4, 5, 6), -1), ((4, 5, 6), (1, 2)), ((9,), 0),
    ((64, 1000), 0), ((5000,), 0),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_projection(isa, shape, axis, dtype, layout):
    w = RNG.normal(size=shape).astype(dtype)
    if layout == "F":
        w = np.asfortranarray(w)
    elif layout == "strided":
        w = np.repeat(w, 2, axis=-1)[..., ::2]
    # Off every norm: on the boundary itself two orders of summation may disagree.
    typical = float(np.median(norms(w, axis))) * (1 + 1e-6)
    for bound in (typical, typical * 0.1, typical * 100):
        v = w.copy(order="K") if layout != "strided" else np.repeat(w, 2, axis=-1)[..., ::2]
        before = norms(v, axis)
        assert max_norm_(v, bound, axis=axis) is v
        after = norms(v, axis)
        assert (after <= bound).all()
        np.testing.assert_allclose(v, reference.max_norm(w, bound, axis), rtol=1e-6)
        np.testing.assert_allclose(after, np.minimum(before, bound), rtol=1e-6)
        inside = np.expand_dims(before <= bound, axis if isinstance(axis, tuple) else (axis,))
        assert (v == w)[np.broadcast_to(inside, v.shape)].all()
        once = v.tobytes()
        max_norm_(v, bound, axis=axis)
        assert v.tobytes() == once


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_inside_is_not_written(isa, axis, dtype):
    w = RNG.normal(size=(40, 50)).astype(dtype)
    w[0] = -0.0
    before = w.tobytes()
    max_norm_(w, float(norms(w, axis).max()) * (1 + 1e-9), axis=axis)
    assert w.tobytes() == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_on_the_ball_is_not_written(isa, dtype):
    w = np.array([[3, 4, 0], [0, 0, 5], [-4, 0, 3]], dtype)
    for array, axis in ((w, 1), (np.ascontiguousarray(w.T), 0)):
        found = array.copy()
        max_norm_(found, 5.0, axis=axis)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-150, 1e150, 1e200, 1.5e308])
def test_no_overflow_or_underflow_in_float64(isa, axis, size):
    w = np.full((6, 6), size)
    w[2, 2] = -size
    max_norm_(w, 1.0, axis=axis)
    if size > 1:
        near = np.full((6, 6), size)  # a bound of the size of the norm, which is 2.4 sizes
        max_norm_(near, size, axis=axis)
        np.testing.assert_allclose(near, size / np.sqrt(6), rtol=1e-12)
        np.testing.assert_allclose(np.abs(w), 1 / np.sqrt(6), rtol=1e-12)
        assert (norms(w, axis) <= 1).all()
        assert w[2, 2] < 0
    else:
        assert (np.abs(w) == size).all()
        max_norm_(w, size / 2, axis=axis)
        assert (np.abs(w) < size).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("exponent", [-400, -466, -500, -520, -535])
def test_squares_below_the_normal_numbers_lose_nothing(isa, axis, exponent):
    """A power of 2 more or less changes no digit, though the squares of these are denormal or 0."""
    w = RNG.uniform(0.5, 1, (40, 40))
    small = w * 2.0**exponent
    bound = 0.7 * float(np.median(norms(w, axis)))
    max_norm_(w, bound, axis=axis)
    max_norm_(small, bound * 2.0**exponent, axis=axis)
    np.testing.assert_allclose(small * 2.0**-exponent, w, rtol=1e-14)


def test_extreme_float32(isa):
    for size in (np.finfo(np.float32).max, np.float32(1e-44)):
        w = np.full((5, 300), size, np.float32)
        bound = float(size) / 4
        max_norm_(w, bound, axis=0)
        assert (norms(w, 0) <= bound).all()
        max_norm_(w, bound, axis=1)
        assert (norms(w, 1) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
@pytest.mark.parametrize(("shape", "axis"), [
    ((60, 50), 0), ((60, 50), 1), ((4, 5, 60), (0, 1)), ((5, 60, 4), (0, 2)), ((900,), 0),
    ((0, 4), 0),
])  # fmt: skip
def test_low_precision(isa, shape, axis, layout, dtype):
    """Rounded once, to nearest where that stays inside and towards zero elsewhere."""
    w = (RNG.normal(size=shape) * RNG.uniform(0.1, 2, shape[-1:])).astype(dtype)
    lay = {"C": np.copy, "F": np.asfortranarray, "strided": strided}[layout]
    wide = w.astype(np.float32)
    bound = 0.9 * float(np.median(norms(wide, axis))) if w.size else 1.0
    found = lay(w)
    assert max_norm_(found, bound, axis=axis) is found
    assert found.dtype == dtype
    max_norm_(wide, bound, axis=axis)
    nearest, eps = wide.astype(dtype), float(ml_dtypes.finfo(dtype).eps)
    assert (norms(found.astype(float), axis) <= bound).all()
    np.testing.assert_allclose(found.astype(float), wide, rtol=eps, atol=1e-7)
    inside = norms(nearest.astype(float), axis) <= bound
    assert ((found == nearest).all(axis=axis) == inside).all()
    once = found.copy()
    max_norm_(found, bound, axis=axis)
    assert found.tobytes() == once.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_low_precision_that_is_not_finite_is_left_alone(dtype):
    w = np.full((4, 4), 5.0, dtype)
    w[1, 2], w[2, 1] = np.nan, -np.inf
    before = w.copy()
    with np.errstate(all="raise"):
        max_norm_(w, 1.0, axis=0)
    assert w[:, 1:3].tobytes() == before[:, 1:3].tobytes()
    assert (w[:, [0, 3]] == 0.5).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_vectors_that_are_not_finite_are_left_alone(isa, bad, axis):
    w = np.full((4, 4), 5.0, np.float32)
    w[1, 2] = bad
    before = w.copy()
    max_norm_(w, 1.0, axis=axis)
    touched = np.ones((4, 4), bool)
    touched[(slice(None), 2) if axis == 0 else 1] = False
    assert (np.abs(w[touched]) < 1).all()
    assert np.array_equal(w[~touched], before[~touched], equal_nan=True)


def test_same_bits_for_any_number_of_threads(isa, threads, assert_team):
    w = np.random.default_rng(1).normal(size=(900, 2100)).astype(np.float32)
    for axis in (0, 1):
        bound = float(np.median(norms(w, axis)))
        many = max_norm_(w.copy(), bound, axis=axis)
        assert_team()
        dropcore.set_num_threads(1)
        assert (max_norm_(w.copy(), bound, axis=axis) == many).all()
        dropcore.set_num_threads(threads)


def test_empty():
    for shape, axis in [((0, 3), 0), ((3, 0), 0), ((0,), 0)]:
        assert max_norm_(np.zeros(shape, np.float32), 1.0, axis=axis).shape == shape


BAD = {
    "list": (TypeError, "numpy", lambda w: max_norm_([1.0], 1, axis=0)),
    "int": (TypeError, "float32", lambda w: max_norm_(w.astype(int), 1, axis=0)),
    "swapped": (
        TypeError,
        "float16 or bfloat16, got [<>]f4",
        lambda w: max_norm_(w.astype(w.dtype.newbyteorder()), 1, axis=0),
    ),
    "masked": (
        TypeError,
        "w is a numpy.ma.MaskedArray",
        lambda w: max_norm_(np.ma.array(w), 1, axis=0),
    ),
    "True": (TypeError, "number", lambda w: max_norm_(w, True, axis=0)),
    "number as text": (
        TypeError,
        "max_norm must be a number, got '1.5'",
        lambda w: max_norm_(w, "1.5", axis=0),
    ),
    "axis as text": (
        TypeError,
        "axis must be an integer or several, got '0'",
        lambda w: max_norm_(w, 1, axis="0"),
    ),
    "zero": (ValueError, "max_norm must be positive, got 0", lambda w: max_norm_(w, 0, axis=0)),
    "negative": (ValueError, "positive, got -1", lambda w: max_norm_(w, -1, axis=0)),
    "NaN": (ValueError, "positive, got nan", lambda w: max_norm_(w, np.nan, axis=0)),
    "text": (TypeError, "number", lambda w: max_norm_(w, "c", axis=0)),
    "axis": (ValueError, "axes", lambda w: max_norm_(w, 1, axis=2)),
    "no axes": (ValueError, "axis", lambda w: max_norm_(w, 1, axis=())),
    "axis twice": (ValueError, "twice", lambda w: max_norm_(w, 1, axis=(0, -2))),
    "axis missing": (TypeError, "axis", lambda w: max_norm_(w, 1)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_allowed(name):
    error, text, call = BAD[name]
    w = np.full((3, 4), 9.0, np.float32)
    with pytest.raises(error, match=text):
        call(w)
    assert (w == 9).all()


def test_read_only():
    w = np.ones((3, 4), np.float32)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        max_norm_(w, 1, axis=0)

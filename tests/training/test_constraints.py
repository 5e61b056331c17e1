"""Constraints: Keras' formulas, the axes of each kind of layer, and what stays as it is."""

from __future__ import annotations

import copy
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from dropcore.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm, with_default_axis
from dropcore.nn import Dense, Sequential
from dropcore.optim import SGD

DTYPES = [np.float32, np.float64]
EACH = [MaxNorm(1.5), UnitNorm(), MinMaxNorm(0.5, 2.0), MinMaxNorm(0.5, 2.0, rate=0.25), NonNeg()]
OF_VECTORS = EACH[:-1]
KEPT = [pytest.param(c, id=repr(c)) for c in EACH]


def weights(*shape, dtype=np.float64, seed=0):
    """Vectors over axis 0 of lengths from nearly nothing to several."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.geomspace(0.01, 2, shape[-1])).astype(dtype)


def keras(constraint, w, axes):
    """The formulas that Keras 3 documents, without the epsilon that it adds to a norm."""
    w = w.astype(np.float64)
    norms = np.sqrt(np.sum(w * w, axis=axes, keepdims=True))
    if isinstance(constraint, MaxNorm):
        return w * np.clip(norms, 0, constraint.max_norm) / norms
    if isinstance(constraint, UnitNorm):
        return w / norms
    if isinstance(constraint, NonNeg):
        return w * (w >= 0)
    bounded = np.clip(norms, constraint.min_norm, constraint.max_norm)
    desired = constraint.rate * bounded + (1 - constraint.rate) * norms
    return w * desired / norms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 30), (3, 3, 4, 10)])
@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_the_formulas_of_keras(constraint, shape, dtype):
    w = weights(*shape, dtype=dtype)
    expected = keras(constraint, w, tuple(range(len(shape) - 1)))
    assert np.abs(expected - w).max() > 0.01
    assert constraint(w) is w
    assert w.dtype == dtype
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(w, expected, rtol=tolerance, atol=0)


def test_by_hand():
    w = np.array([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])
    UnitNorm()(w)
    np.testing.assert_allclose(w, [[0.6, 0.6, 0], [0.8, 0.8, 0]], rtol=1e-15)
    w = np.array([[3.0, 0.3, 0.0, 0.6], [4.0, 0.4, 0.0, 0.8]])
    MinMaxNorm(0.75, 2.0)(w)
    np.testing.assert_allclose(w, [[1.2, 0.45, 0, 0.6], [1.6, 0.6, 0, 0.8]], rtol=1e-15)
    w = np.array([[3.0, 0.3], [4.0, 0.4]])
    MinMaxNorm(1.0, 2.0, rate=0.5)(w)  # half of the way: 5 to 3.5, 0.5 to 0.75
    np.testing.assert_allclose(w, [[2.1, 0.45], [2.8, 0.6]], rtol=1e-15)
    w = np.array([[1.0, -2.0, 0.0]])
    NonNeg()(w)
    np.testing.assert_array_equal(w, [[1, 0, 0]])


def test_max_norm_of_the_paper():
    assert MaxNorm.paper(3, keep=0.5) == MaxNorm(1.5)
    assert MaxNorm.paper(2, rate=0.25, axis=1) == MaxNorm(1.5, axis=1)


@pytest.mark.parametrize("constraint", OF_VECTORS, ids=repr)
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 1), (1, 2)])
def test_axis_is_what_the_norm_runs_over(constraint, axis):
    axes = axis if isinstance(axis, tuple) else (axis,)
    w = weights(6, 5, 4)
    expected = keras(constraint, w, axes)
    given = with_default_axis(constraint, axis)
    assert given.axis == axis
    assert with_default_axis(given, 7) is given  # the user's word counts
    given(w)
    np.testing.assert_allclose(w, expected, rtol=1e-14)


def test_with_default_axis_applies_to_vector_constraints():
    assert with_default_axis(MaxNorm(1.0), -1) == MaxNorm(1.0, axis=-1)
    given = MinMaxNorm(0, 1.0, rate=0.5)
    assert with_default_axis(given, -1) == MinMaxNorm(0, 1.0, rate=0.5, axis=-1)
    for other in (NonNeg(), np.copyto, lambda w: None):
        assert with_default_axis(other, -1) is other

    class Own(MaxNorm):
        pass

    assert type(with_default_axis(Own(1.0), -1)) is Own
    table = weights(30, 8, seed=1)
    with_default_axis(UnitNorm(), -1)(table)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-15)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_vectors_of_zeros_stay(constraint):
    w = weights(5, 4)
    w[:, 2] = 0
    constraint(w)
    assert (w[:, 2] == 0).all()
    assert np.isfinite(w).all()
    empty = np.zeros((0, 4))
    assert constraint(empty) is empty
    constraint(np.zeros((4, 0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("constraint", OF_VECTORS, ids=repr)
def test_vectors_that_are_not_finite_stay(constraint, bad):
    w = weights(5, 4)
    w[1, 2] = bad
    before = w[:, 2].copy()
    constraint(w)
    np.testing.assert_array_equal(w[:, 2], before)
    assert np.isfinite(np.delete(w, 2, axis=1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_inside_is_not_touched_and_no_square_overflows(dtype):
    w = weights(5, 40, dtype=dtype)
    before = w.copy()
    MinMaxNorm(0.0, 1e6)(w)
    np.testing.assert_array_equal(w, before)
    MinMaxNorm(0.25, 1.0)(w)
    norms = np.linalg.norm(before, axis=0)
    inside = (norms > 0.25) & (norms < 1)
    assert 3 < inside.sum() < 37
    np.testing.assert_array_equal(w[:, inside], before[:, inside])
    for size in (1e300, 1e-300):
        huge = np.full((9, 1), size)
        UnitNorm()(huge)
        np.testing.assert_allclose(huge, 1 / 3, rtol=1e-15)


SIZES = {
    "float64": (5e-324, 1e-310, 1e-300, 1e-8, 1.0, 1e12, 1e16, 1e200, 1.7e308),
    "float32": (1e-45, 1e-40, 1e-30, 1.0, 1e12, 1e16, 3e38),
    "float16": (6e-8, 1e-5, 1.0, 1e3, 6e4),
    "bfloat16": (1e-40, 1e-30, 1.0, 1e16, 3e38),
}


@pytest.mark.parametrize("rate", [1.0, 0.25])
@pytest.mark.parametrize("dtype", SIZES)
def test_bounds_hold_for_every_size_of_weights(dtype, rate):
    """Norms are computed here in extended precision, as the squares may leave float64's range."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    eps = float(ml_dtypes.finfo(kind).eps)
    smallest = float(ml_dtypes.finfo(kind).smallest_subnormal)
    rng = np.random.default_rng(0)
    for size in SIZES[dtype]:
        for low, high in ((0.0, 0.7), (0.0, 1.0), (0.0, 3.0), (1.0, 1.0), (0.3, 0.7)):
            with np.errstate(all="raise", under="ignore"):
                w = (size * rng.uniform(0.5, 1, (4, 50))).astype(kind)
            w[0] = w[:, 0] = kind.type(size)
            before = w.astype(np.longdouble)
            MinMaxNorm(low, high, rate=rate)(w)
            norm_before = np.sqrt((before**2).sum(axis=0))
            norm = np.sqrt((w.astype(np.longdouble) ** 2).sum(axis=0))
            wanted = rate * np.clip(norm_before, low, high) + (1 - rate) * norm_before
            np.testing.assert_allclose(norm, wanted, rtol=16 * eps, atol=4 * smallest)
            # An ulp of float64 is what two orders of summation can differ by.
            assert (norm[wanted <= high] <= np.nextafter(high, 9)).all()
            once = w.copy()
            MinMaxNorm(low, high)(once)
            if rate == 1 and low < high and kind != np.float64:
                np.testing.assert_array_equal(once[:, norm >= low], w[:, norm >= low])
            if rate == 1:
                unit, bounded = before.astype(kind), before.astype(kind)
                UnitNorm()(unit)
                MaxNorm(high)(bounded)
                norm = np.sqrt((unit.astype(np.longdouble) ** 2).sum(axis=0))
                np.testing.assert_allclose(norm, 1, rtol=16 * eps)
                norm = np.sqrt((bounded.astype(np.longdouble) ** 2).sum(axis=0))
                assert (norm <= np.nextafter(high, 9)).all()
                wanted = np.minimum(norm_before, high)
                np.testing.assert_allclose(norm, wanted, rtol=16 * eps, atol=4 * smallest)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_low_precision_is_rounded_once(constraint, dtype):
    w = weights(9, 400, dtype=dtype)
    wide = w.astype(np.float32)
    constraint(w)
    constraint(wide)
    nearest = wide.astype(dtype)
    assert w.dtype == np.dtype(dtype)
    same = (w == nearest).all(axis=0)
    assert same.mean() > 0.5
    if isinstance(constraint, UnitNorm | NonNeg) or getattr(constraint, "rate", 1) < 1:
        assert same.all()
    # A vector that rounding would make too long is rounded towards zero.
    assert (abs(w[:, ~same].astype(float)) <= abs(nearest[:, ~same].astype(float))).all()
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(w.astype(float), wide, rtol=eps, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_underflow_does_not_raise(constraint, dtype):
    w = weights(5, 8, dtype=dtype)
    w[:, 3] *= np.finfo(dtype).tiny
    w[1, 4] = np.finfo(dtype).smallest_subnormal
    w[:, 6] = 0
    with np.errstate(all="raise"):
        constraint(w)
    assert np.isfinite(w).all()


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_any_layout(constraint):
    contiguous = weights(6, 5)
    for other in (np.asfortranarray(contiguous), np.repeat(contiguous, 2, axis=1)[:, ::2]):
        w = contiguous.copy()
        constraint(w)
        constraint(other)
        np.testing.assert_allclose(other, w, rtol=1e-15)


@pytest.mark.parametrize("constraint", KEPT)
def test_repr_rebuilds(constraint):
    for made in (eval(repr(constraint)), pickle.loads(pickle.dumps(constraint))):
        assert made == constraint
        assert copy.deepcopy(made) == constraint
        assert hash(made) == hash(constraint)


def test_repr():
    assert repr(MaxNorm(2.0)) == "MaxNorm(2.0)"
    assert repr(MaxNorm(2.0, axis=0)) == "MaxNorm(2.0, axis=0)"
    assert repr(UnitNorm(axis=(0, 1))) == "UnitNorm(axis=(0, 1))"
    found = repr(MinMaxNorm(0.5, 2.0, rate=0.25, axis=1))
    assert sorted(found[len("MinMaxNorm(0.5, 2.0, ") : -1].split(", ")) == ["axis=1", "rate=0.25"]
    assert eval(found) == MinMaxNorm(0.5, 2.0, rate=0.25, axis=1)


@pytest.mark.parametrize("constraint", EACH, ids=repr)
def test_it_holds_after_training(constraint):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.integers(0, 5, 40)
    model = Sequential([Dense(5, constraint=constraint)])
    assert eval(repr(model))[0].constraint == constraint
    model.fit(x, y, epochs=3, optimizer=SGD(2.0, momentum=0.9))
    w = model.params["0.weight"]
    norms = np.linalg.norm(w, axis=0)
    if isinstance(constraint, NonNeg):
        assert w.min() >= 0
        assert w.max() > 0
    elif isinstance(constraint, UnitNorm):
        np.testing.assert_allclose(norms, 1, rtol=1e-6)
    elif isinstance(constraint, MaxNorm) or constraint.rate == 1:
        assert norms.max() <= 2.0 + 1e-6
        assert norms.min() >= (0.5 - 1e-6 if isinstance(constraint, MinMaxNorm) else 0)


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: MaxNorm(0), ValueError, "positive, got 0"),
    (lambda: MaxNorm(math.nan), ValueError, "positive, got nan"),
    (lambda: MaxNorm.paper(3, rate=0.5, keep=0.5), ValueError, "keep"),
    (lambda: MinMaxNorm(-1, 2), ValueError, "min_norm must be finite and not negative, got -1"),
    (lambda: MinMaxNorm(0, 0), ValueError, "max_norm must be positive and finite, got 0"),
    (lambda: MinMaxNorm(2, 1), ValueError, "min_norm must be at most max_norm, got 2 and 1"),
    (lambda: MinMaxNorm(0, math.nan), ValueError, "max_norm must be positive and finite, got nan"),
    (lambda: MinMaxNorm("0", 1), TypeError, "min_norm must be a number, got '0'"),
    (lambda: MinMaxNorm(0, 1, rate=0), ValueError, r"rate must be in \(0, 1\], got 0"),
    (lambda: MinMaxNorm(0, 1, rate=1.5), ValueError, r"rate must be in \(0, 1\], got 1.5"),
    (lambda: UnitNorm(axis=2)(weights(3, 4)), ValueError, "UnitNorm: axis: .* none numbered 2"),
    (lambda: UnitNorm(axis=(0, 0))(weights(3, 4)), ValueError, "twice"),
    (lambda: UnitNorm()(weights(3)), ValueError, r"UnitNorm: axis must name the axes .* got \(\)"),
    (lambda: UnitNorm(axis=0)([[1.0]]), TypeError, "weight is changed in place .* got list"),
    (lambda: UnitNorm()([[1.0]]), TypeError, "UnitNorm: weight is changed .* got list"),
    (lambda: MaxNorm(1.0)([[3.0, 4.0]]), TypeError, "MaxNorm: weight is changed .* got list"),
    (lambda: MinMaxNorm(0, 1)([[1.0]]), TypeError, "MinMaxNorm: weight is changed .* got list"),
    (lambda: NonNeg()([[1.0]]), TypeError, "NonNeg: weight is changed in place .* got list"),
    (lambda: UnitNorm()(np.ma.ones((2, 2))), TypeError, "UnitNorm: weight is a numpy.ma"),
    (lambda: MaxNorm(True), TypeError, "MaxNorm: max_norm must be a number, got True"),
    (lambda: MaxNorm("1.5"), TypeError, "MaxNorm: max_norm must be a number, got '1.5'"),
    (lambda: MaxNorm(1.0, axis=0.5), TypeError, "MaxNorm: axis must be an integer .* got 0.5"),
    (lambda: MaxNorm(1.0)(weights(3)), ValueError, r"MaxNorm: axis must name the axes .* got \(\)"),
    (lambda: MaxNorm.paper(3), TypeError, r"MaxNorm.paper: give rate .* or keep"),
    (lambda: MaxNorm.paper(3, rate=0.5, keep=0.5), ValueError, "give rate or keep, not both"),
    (lambda: MaxNorm.paper("3", rate=0.5), TypeError, "MaxNorm.paper: c must be a number"),
    (lambda: NonNeg()(np.ones((2, 2), int)), TypeError, "float16 or bfloat16, got int64"),
    (lambda: NonNeg()(np.broadcast_to(np.float32(1), (2, 2))), ValueError, "read-only"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()

"""Optimiser steps: the reference's bits, with and without the projection, dense and in blocks."""

from __future__ import annotations

import itertools
import math
import platform

import numpy as np
import pytest

import dropcore
from dropcore import _core, max_norm_, reference
from dropcore._backends import cpu
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.constraints import MaxNorm
from dropcore.optim import SGD, Adam
from dropcore.updates import adadelta_, adagrad_, adam_, rmsprop_, sgd_
from support.arrays import LAYOUTS, assert_same_bits, normal, normal32, norms, strided

DTYPES = [np.float32, np.float64]
SHAPES = [
    (), (0,), (5, 0), (1,), (255,), (256,), (257,), (1, 1), (1000, 37), (33, 513), (5, 6, 7),
]  # fmt: skip
RATE = 0.1
SGD_FORMS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "plain decay": {"weight_decay": 0.3},
    "momentum decay": {"momentum": 0.9, "weight_decay": 0.3},
}
# Function, reference, numbers, and the states with whether they are never negative.
ADAPTIVE = {
    "adam": (adam_, reference.adam, {}, {"mean": False, "square": True}),
    "adamw": (adam_, reference.adam, {"weight_decay": 0.3}, {"mean": False, "square": True}),
    "rmsprop": (rmsprop_, reference.rmsprop, {"rho": 0.9}, {"square": True}),
    "rmsprop centered": (
        rmsprop_, reference.rmsprop, {"rho": 0.9}, {"square": True, "mean": False},
    ),
    "rmsprop momentum": (
        rmsprop_, reference.rmsprop, {"momentum": 0.8}, {"square": True, "velocity": False},
    ),
    "rmsprop all": (
        rmsprop_, reference.rmsprop, {"momentum": 0.8, "epsilon": 0.1},
        {"square": True, "mean": False, "velocity": False},
    ),
    "adagrad": (adagrad_, reference.adagrad, {"epsilon": 1e-3}, {"square": True}),
    "adadelta": (adadelta_, reference.adadelta, {"rho": 0.8}, {"square": True, "change": True}),
}  # fmt: skip
FORMS = [*SGD_FORMS, *ADAPTIVE]


def equal_numbers(a, b):
    """A zero of either sign, as where a block's gradient of zero is not computed with."""
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


class Step:
    """Weights with the state of one form of update, and the way to make it."""

    def __init__(self, form, shape, dtype=np.float32, seed=0, lay=np.copy):
        self.form = form
        self.w = lay(normal(*shape, dtype=dtype, seed=seed))
        self.states = {}
        kinds = {"velocity": False} if "momentum" in SGD_FORMS.get(form, ()) else {}
        for kind, positive in (ADAPTIVE[form][3] if form in ADAPTIVE else kinds).items():
            seed += 1
            start = normal(*shape, dtype=dtype, seed=seed)
            self.states[kind] = lay(np.abs(start) if positive else start)

    def copy(self):
        other = Step.__new__(Step)
        other.form, other.w = self.form, self.w.copy(order="K")
        other.states = {name: array.copy(order="K") for name, array in self.states.items()}
        return other

    def make(self, g, step=3, **options):
        if self.form in ADAPTIVE:
            return ADAPTIVE[self.form][0](self.w, g, **self.states, **self.numbers(step), **options)
        options |= SGD_FORMS[self.form]
        return sgd_(self.w, g, **self.states, learning_rate=RATE, **options)

    def expect(self, g, step=3):
        """The same by the reference, into new arrays."""
        if self.form in ADAPTIVE:
            found = ADAPTIVE[self.form][1](self.w, g, **self.states, **self.numbers(step))
        else:
            options = {"learning_rate": RATE} | SGD_FORMS[self.form]
            found = reference.sgd(self.w, g, self.states.get("velocity"), **options)
        given = [state for state in found[1:] if state is not None]
        self.w, self.states = found[0], dict(zip(self.states, given, strict=True))

    def numbers(self, step):
        found = {"learning_rate": RATE} | ADAPTIVE[self.form][2]
        return found | ({"step": step} if self.form.startswith("adam") else {})

    def arrays(self):
        return [self.w, *self.states.values()]


# --- the reference's bits ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_steps_are_the_references(isa, form, dtype):
    for shape in SHAPES:
        own, other = Step(form, shape, dtype), Step(form, shape, dtype)
        for step in (1, 2, 1000):
            g = normal(*shape, dtype=dtype, seed=10 + step)
            before = g.tobytes()
            assert own.make(g, step) is own.w
            assert g.tobytes() == before
            other.expect(g, step)
            for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
                assert_same_bits(found, np.asarray(wanted))


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("of", ["w", "states", "g", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout, of, axis):
    lay = LAYOUTS[layout]
    for form in FORMS:
        contiguous, other = Step(form, (20, 30)), Step(form, (20, 30))
        g = normal32(20, 30, seed=9)
        if of in ("w", "all"):
            other.w = lay(other.w)
        if of in ("states", "all"):
            other.states = {name: lay(array) for name, array in other.states.items()}
        options = {} if axis is None else {"max_norm": 5.0, "axis": axis}
        contiguous.make(g, **options)
        assert other.make(lay(g) if of in ("g", "all") else g, **options) is other.w
        for found, wanted in zip(other.arrays(), contiguous.arrays(), strict=True):
            assert_same_bits(found, wanted)


def test_gradient_may_be_one_number_everywhere_and_read_only():
    for form in FORMS:
        own, other = Step(form, (20, 30)), Step(form, (20, 30))
        own.make(np.broadcast_to(np.float32(0.25), (20, 30)))
        other.make(np.full((20, 30), 0.25, np.float32))
        for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
            assert_same_bits(found, wanted)


# --- the projection in the same pass -------------------------------------------------------------

PROJECTIONS = [
    ((1000, 37), 0), ((1000, 37), 1), ((1000, 37), (0, 1)), ((33, 513), 0), ((33, 513), 1),
    ((5, 6, 7), 0), ((5, 6, 7), 1), ((5, 6, 7), 2), ((5, 6, 7), (0, 1)), ((5, 6, 7), (-1, 1)),
    ((5, 6, 7), (0, 2)), ((5, 6, 7), (0, 1, 2)), ((300,), 0), ((9, 1), 0), ((9, 1), 1), ((1, 9), 0),
    ((1, 9), 1), ((2, 2100), 0), ((0, 4), 0), ((4, 0), 1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_projection_is_that_of_max_norm(isa, form, dtype):
    for shape, axis in PROJECTIONS:
        own, other = Step(form, shape, dtype), Step(form, shape, dtype)
        g = normal(*shape, dtype=dtype, seed=9)
        other.make(g)
        before = norms(other.w, axis, keepdims=True)
        bound = float(np.median(before)) * (1 - 1e-6) if own.w.size else 1.0
        if own.w.size and before.size > 2:
            assert (before > bound).any()
            assert (before < bound).any()
        max_norm_(other.w, bound, axis=axis)
        own.make(g, max_norm=bound, axis=axis)
        for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
            assert_same_bits(found, wanted)
        assert (norms(own.w, axis, keepdims=True) <= bound).all()
        assert_same_bits(max_norm_(own.w.copy(), bound, axis=axis), own.w)


@pytest.mark.parametrize("form", FORMS)
def test_an_infinite_bound_is_none(form):
    for axis in (0, 1):
        own, other = Step(form, (40, 30)), Step(form, (40, 30))
        own.make(normal32(40, 30, seed=9), max_norm=math.inf, axis=axis)
        other.make(normal32(40, 30, seed=9))
        assert_same_bits(own.w, other.w)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_vectors_that_are_not_finite_are_not_projected(isa, form, axis, bad):
    own, other = Step(form, (40, 30)), Step(form, (40, 30))
    own.w[7, 8] = other.w[7, 8] = bad
    g = normal32(40, 30, seed=9)
    own.make(g, max_norm=0.5, axis=axis)
    other.make(g)
    vector = (slice(None), 8) if axis == 0 else 7
    np.testing.assert_array_equal(own.w[vector], other.w[vector])  # NaN where NaN is
    assert not np.isfinite(own.w[7, 8])
    rest = np.delete(norms(own.w, axis, keepdims=True).ravel(), 8 if axis == 0 else 7)
    assert (rest <= 0.5).all()
    assert (rest > 0.499).all()


# --- gradients that are a block ------------------------------------------------------------------


def numbers(*values):
    return np.array(values, np.int64)


def some(n, seed):
    return np.flatnonzero(np.random.default_rng(seed).random(n) < 0.5)


BLOCKS = {
    "half of both": ((40, 33), some(40, 1), some(33, 2)),
    "rows": ((40, 33), some(40, 1), np.arange(33)),
    "columns": ((40, 33), np.arange(40), some(33, 2)),
    "all": ((40, 33), np.arange(40), np.arange(33)),
    "corners": ((40, 33), numbers(0, 39), numbers(0, 32)),
    "one": ((40, 33), numbers(17), numbers(20)),
    "no rows": ((40, 33), numbers(), some(33, 2)),
    "no columns": ((40, 33), some(40, 1), numbers()),
    "nothing": ((40, 33), numbers(), numbers()),
    "wide": ((37, 2100), some(37, 1), some(2100, 2)),
    "one unit": ((40, 1), some(40, 1), numbers(0)),
    "one input": ((1, 33), numbers(0), some(33, 2)),
    "one by one": ((1, 1), numbers(0), numbers(0)),
    "bias": ((33,), numbers(0), some(33, 2)),
    "bias of one": ((1,), numbers(0), numbers(0)),
}


def block(name, dtype=np.float32, seed=5):
    shape, rows, columns = BLOCKS[name]
    return BlockGradient(
        normal(len(rows), len(columns), dtype=dtype, seed=seed), rows, columns, shape
    )


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_an_array_with_zeros_around(name):
    g = block(name)
    whole = np.asarray(g)
    expected = np.zeros(g.shape, np.float32)
    for (i, j), value in np.ndenumerate(g.values):
        expected.reshape(-1, g.shape[-1])[g.rows[i], g.columns[j]] = value
    assert_same_bits(whole, expected)
    assert_same_bits(np.asarray(g, np.float64), expected.astype(np.float64))
    assert_same_bits(np.array(g, copy=True), expected)
    with pytest.raises(ValueError, match="one has to be computed"):
        g.__array__(copy=False)


def axes_of(shape):
    return [None, 0] if len(shape) == 1 else [None, 0, 1, (0, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_the_whole_gradient(isa, name, dtype):
    g = block(name, dtype)
    for form in FORMS:
        for axis in axes_of(g.shape):
            own, other = Step(form, g.shape, dtype), Step(form, g.shape, dtype)
            bound = float(np.median(norms(own.w, 0 if axis is None else axis, keepdims=True)))
            options = {} if axis is None else {"max_norm": bound, "axis": axis}
            for step in (1, 2):
                own.make(g, step, **options)
                other.make(np.asarray(g), step, **options)
            for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
                equal_numbers(found, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_on_any_layout(layout):
    lay, g = LAYOUTS[layout], block("half of both")
    values = BlockGradient(lay(g.values), g.rows, g.columns, g.shape)
    for form in FORMS:
        for axis in axes_of(g.shape):
            own, other = Step(form, g.shape, lay=lay), Step(form, g.shape)
            options = {} if axis is None else {"max_norm": 5.0, "axis": axis}
            own.make(values, **options)
            other.make(g, **options)
            for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
                equal_numbers(found, wanted)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_lazy_leaves_what_is_outside_alone(isa, name, dtype, layout):
    g, lay = block(name, dtype), LAYOUTS[layout]
    inside = np.asarray(BlockGradient(np.ones(g.values.shape, bool), g.rows, g.columns, g.shape))
    for form in SGD_FORMS:
        own, dense = Step(form, g.shape, dtype, lay=lay), Step(form, g.shape, dtype)
        before = own.copy()
        own.make(g, lazy=True)
        dense.make(np.asarray(g))
        for found, moved, still in zip(own.arrays(), dense.arrays(), before.arrays(), strict=True):
            assert_same_bits(found[inside], moved[inside])
            assert_same_bits(found[~inside], still[~inside])
        for axis in axes_of(g.shape)[1:]:
            bound = float(np.median(norms(own.w, axis, keepdims=True)))
            fused, after = before.copy(), own.copy()
            fused.make(g, lazy=True, max_norm=bound, axis=axis)
            max_norm_(after.w, bound, axis=axis)
            for found, wanted in zip(fused.arrays(), after.arrays(), strict=True):
                assert_same_bits(found, wanted)


def test_lazy_is_about_blocks_only():
    g = normal32(40, 33, seed=5)
    g[::2] = 0
    for form in SGD_FORMS:
        own, other = Step(form, (40, 33)), Step(form, (40, 33))
        own.make(g, lazy=True)
        other.make(g)
        for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
            assert_same_bits(found, wanted)


# --- gradients that are a product not yet computed ------------------------------------------------

FACTORS = [
    (1, 1, 1), (37, 20, 33), (5, 193, 65), (5, 400, 7), (256, 30, 64), (257, 30, 64),
    (600, 21, 130), (3, 0, 5), (3, 5, 0), (64, 385, 300),
]  # fmt: skip


def product(rows, n_in, n_out, dtype=np.float32, seed=5):
    return ProductGradient(
        normal(rows, n_in, dtype=dtype, seed=seed), normal(rows, n_out, dtype=dtype, seed=seed + 1)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_as_an_array(isa, dtype):
    for factors in FACTORS:
        g = product(*factors, dtype)
        assert g.shape == factors[1:]
        assert g.dtype == dtype
        array = np.asarray(g)
        assert array.dtype == dtype
        wanted = g.x.astype(np.float64).T @ g.dz
        tolerance = 1e-4 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(array, wanted, rtol=0, atol=tolerance)
        assert_same_bits(np.asarray(g, np.float64), array.astype(np.float64))
        with pytest.raises(ValueError, match="one has to be computed"):
            g.__array__(copy=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_a_product_is_the_whole_gradient(isa, form, dtype):
    for factors in FACTORS:
        g, shape = product(*factors, dtype), factors[1:]
        for axis in (None, 0, 1, (0, 1)):
            own, other = Step(form, shape, dtype), Step(form, shape, dtype)
            other.make(np.asarray(g))
            bound = 1.0
            if axis is not None and own.w.size:
                bound = float(np.median(norms(other.w, axis, keepdims=True))) * (1 - 1e-6)
            options = {} if axis is None else {"max_norm": bound, "axis": axis}
            own.make(g, **options)
            if axis is not None:
                max_norm_(other.w, bound, axis=axis)
                assert (norms(own.w, axis, keepdims=True) <= bound).all()
                assert_same_bits(max_norm_(own.w.copy(), bound, axis=axis), own.w)
            if axis == 0:  # the squares of a column are summed in another order
                rounding = 50 * np.finfo(dtype).eps
                np.testing.assert_allclose(own.w, other.w, rtol=rounding, atol=0)
                clipped = (own.w != other.w).any(axis=0) | (
                    norms(own.w, 0, keepdims=True) > 0.999 * bound
                )[0]
                assert_same_bits(own.w[:, ~clipped], other.w[:, ~clipped])
            else:
                assert_same_bits(own.w, other.w)
            for found, wanted in zip(own.arrays()[1:], other.arrays()[1:], strict=True):
                assert_same_bits(found, wanted)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_product_of_no_rows_is_zero(isa, axis):
    for form in FORMS:
        own, other = Step(form, (385, 300)), Step(form, (385, 300))
        options = {} if axis is None else {"max_norm": 100.0, "axis": axis}
        own.make(product(0, 385, 300), **options)
        other.make(np.zeros((385, 300), np.float32), **options)
        for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
            equal_numbers(found, wanted)


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_product_of_any_layout(layout, limit, monkeypatch):
    if limit:  # more than that is not packed at once
        monkeypatch.setattr(cpu, "PACKED_AT_MOST", limit)
    lay, g = LAYOUTS[layout], product(37, 20, 33)
    for form in FORMS:
        for factors, arrays in [(lay, np.copy), (np.copy, lay), (lay, lay)]:
            own, other = Step(form, (20, 33), lay=arrays), Step(form, (20, 33))
            own.make(ProductGradient(factors(g.x), factors(g.dz)))
            other.make(np.asarray(g))
            for found, wanted in zip(own.arrays(), other.arrays(), strict=True):
                assert_same_bits(found, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_columns_that_are_not_finite_are_not_projected_behind_a_product(isa, bad):
    g = product(37, 20, 33)
    g.dz[3, 8] = bad
    with np.errstate(invalid="ignore"):
        own, other = Step("momentum", (20, 33)), Step("momentum", (20, 33))
        own.make(g, max_norm=0.5, axis=0)
        other.make(np.asarray(g))
    assert not np.isfinite(own.w[:, 8]).any()
    np.testing.assert_array_equal(own.w[:, 8], other.w[:, 8])
    rest = np.delete(norms(own.w, 0, keepdims=True), 8)
    assert ((rest <= 0.5) & (rest > 0.499)).all()


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("form", ["momentum", "adam", "rmsprop all"])
def test_same_bits_for_any_number_of_threads(isa, threads, assert_team, form, axis):
    shape = (700, 470)
    live = BlockGradient(normal32(350, 235), np.arange(0, 700, 2), np.arange(1, 470, 2), shape)
    cases = [(normal32(*shape, seed=9), {}), (live, {}), (product(300, *shape), {})]
    cases += [(live, {"lazy": True})] if form in SGD_FORMS else []
    for g, extra in cases:
        many, one, free = Step(form, shape), Step(form, shape), Step(form, shape)
        free.make(g, **extra)
        bound = float(np.median(norms(free.w, 0 if axis is None else axis, keepdims=True)))
        options = extra if axis is None else extra | {"max_norm": bound, "axis": axis}
        many.make(g, **options)
        assert_team()
        dropcore.set_num_threads(1)
        one.make(g, **options)
        dropcore.set_num_threads(threads)
        for found, wanted in zip(many.arrays(), one.arrays(), strict=True):
            assert_same_bits(found, wanted)
        if axis is not None:
            assert 0.4 < (one.w != free.w).any(axis).mean() < 0.6  # vectors that were clipped


# --- denormal numbers ----------------------------------------------------------------------------

FLUSHES = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
TINY = np.finfo(np.float32).tiny


def flat(shape):
    return np.zeros(shape, np.float32)


@pytest.mark.skipif(not FLUSHES, reason="denormals are not flushed on this processor")
@pytest.mark.parametrize("kind", ["dense", "block", "axis 0", "axis 1", "strided"])
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_what_decays_below_the_normal_numbers_is_zero(isa, threads, kind):
    shape = (400, 300)
    g = (
        BlockGradient(flat((1, 1)), numbers(3), numbers(4), shape)
        if kind == "block"
        else flat(shape)
    )
    options = {"max_norm": 1.0, "axis": int(kind[-1])} if kind.startswith("axis") else {}
    lay = strided if kind == "strided" else np.copy
    velocity = lay(np.where(np.arange(300) % 2, 1.5, -1.5).astype(np.float32) + flat(shape))
    velocity *= TINY
    w = lay(flat(shape))
    sgd_(w, g, velocity, learning_rate=0.1, momentum=0.5, **options)
    assert (velocity == 0).all()  # 0.75 of the smallest normal number
    assert (w == 0).all()
    mean, square = lay(TINY + flat(shape)), lay(TINY + flat(shape))
    adam_(w, g, mean, square, step=10**6, beta_1=0.5, beta_2=0.5, **options)
    assert (mean == 0).all()
    assert (square == 0).all()
    # Nobody else sees it: not NumPy on this thread, nor a later call on those of the team.
    tiny = TINY + flat((1000, 1000))
    assert (tiny * np.float32(0.5) > 0).all()
    kept = dropcore.dropout(tiny * np.float32(0.25), 0.5, key=1)
    assert (np.unique(kept) == [0, TINY / 2]).all()


# --- errors --------------------------------------------------------------------------------------


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


F4, SHAPE = np.float32, (3, 4)
BAD = {
    "w list": (TypeError, "w is changed in place and must be a numpy.ndarray, got list",
               {"w": [[1.0]]}),
    "w int": (TypeError, "w must be float32 or float64, got int64", {"w": np.ones(SHAPE, int)}),
    "w half": (TypeError, "w must be float32 or float64, got float16", {"w": np.ones(SHAPE, "f2")}),
    "w swapped": (TypeError, "w must be float32 or float64, got [<>]f4",
                  {"w": np.ones(SHAPE, np.dtype(F4).newbyteorder())}),
    "w read-only": (ValueError, "w is read-only", {"w": read_only(np.ones(SHAPE, F4))}),
    "g list": (TypeError, "g must be an array, got list", {"g": [[1.0]]}),
    "g dtype": (TypeError, "g must be float32, as w is, got float64", {"g": np.ones(SHAPE)}),
    "g shape": (ValueError, r"g must have the shape of w, \(3, 4\), got \(4, 3\)",
                {"g": np.ones((4, 3), F4)}),
    "g block shape": (ValueError, r"g must have the shape of w, \(3, 4\), got \(3, 5\)",
                      {"g": BlockGradient(np.ones((1, 1), F4), numbers(0), numbers(0), (3, 5))}),
    "g block dtype": (TypeError, "g must be float32, as w is, got float64",
                      {"g": BlockGradient(np.ones((1, 1)), numbers(0), numbers(0), SHAPE)}),
    "g block row": (IndexError, "3",
                    {"g": BlockGradient(np.ones((1, 1), F4), numbers(3), numbers(0), SHAPE)}),
    "g block column": (IndexError, r"index 4 is outside \[0, 4\)",
                       {"g": BlockGradient(np.ones((1, 1), F4), numbers(0), numbers(4), SHAPE)}),
    "g block values": (IndexError, "row 1 is outside the block",
                       {"g": BlockGradient(np.ones((1, 1), F4), numbers(0, 1), numbers(0), SHAPE)}),
    "g product": (ValueError, r"g must have the shape of w, .* got \(3, 5\)",
                  {"g": product(7, 3, 5)}),
    "g product dtype": (TypeError, "g must be float32, as w is, got float64",
                        {"g": product(7, 3, 4, np.float64)}),
    "bound 0": (ValueError, "max_norm must be positive, got 0", {"max_norm": 0, "axis": 0}),
    "bound -1": (ValueError, "max_norm must be positive, got -1", {"max_norm": -1, "axis": 0}),
    "bound NaN": (ValueError, "max_norm must be positive, got nan",
                  {"max_norm": np.nan, "axis": 0}),
    "bound text": (TypeError, "max_norm must be a number, got 'c'",
                   {"max_norm": "c", "axis": 0}),
    "no axis": (ValueError, "max_norm needs axis", {"max_norm": 1.0}),
    "axis out of range": (ValueError, "2 axes has none numbered 2", {"max_norm": 1.0, "axis": 2}),
    "axis twice": (ValueError, "twice", {"max_norm": 1.0, "axis": (0, -2)}),
    "axis ()": (ValueError, "axis must name the axes", {"max_norm": 1.0, "axis": ()}),
    "axis alone": (ValueError, "axis is about max_norm: give both or neither, got 0", {"axis": 0}),
    "rate NaN": (ValueError, "learning_rate must be finite and not negative, got nan",
                 {"learning_rate": np.nan}),
    "rate -1": (ValueError, "learning_rate must be finite .* got -1", {"learning_rate": -1}),
    "rate inf": (ValueError, "learning_rate must be finite .* got inf", {"learning_rate": np.inf}),
    "rate text": (TypeError, "learning_rate must be a number, got '0.1'", {"learning_rate": "0.1"}),
    "rate True": (TypeError, "learning_rate must be a number, got True", {"learning_rate": True}),
    "bound True": (TypeError, "max_norm must be a number, got True",
                   {"max_norm": True, "axis": 0}),
    "w masked": (TypeError, "w is a numpy.ma.MaskedArray", {"w": np.ma.ones(SHAPE, F4)}),
    "g masked": (TypeError, "g is a numpy.ma.MaskedArray", {"g": np.ma.ones(SHAPE, F4)}),
    "g None": (TypeError, "g must be an array, got NoneType", {"g": None}),
    "w None": (TypeError, "w is changed in place .* got NoneType", {"w": None}),
}  # fmt: skip
BAD_SGD = BAD | {
    "velocity list": (TypeError, "velocity must be an array, got list", {"velocity": [1.0]}),
    "velocity block": (TypeError, "velocity .* must be a numpy.ndarray, got BlockGradient",
                       {"velocity": BlockGradient(np.ones((1, 1), F4), numbers(0), numbers(0),
                                                  SHAPE)}),
    "velocity dtype": (TypeError, "velocity must be float32, as w is, got float64",
                       {"velocity": np.ones(SHAPE)}),
    "velocity shape": (ValueError, r"velocity must have the shape of w, .* got \(3,\)",
                       {"velocity": np.ones(3, F4)}),
    "velocity read-only": (ValueError, "velocity is read-only",
                           {"velocity": read_only(np.ones(SHAPE, F4))}),
    "momentum NaN": (ValueError, r"momentum must be in \[0, 1\), got nan", {"momentum": np.nan}),
    "momentum 1": (ValueError, r"momentum must be in \[0, 1\), got 1", {"momentum": 1}),
    "nesterov NaN": (TypeError, "nesterov must be True or False, got nan", {"nesterov": np.nan}),
    "lazy 0": (TypeError, "lazy must be True or False, got 0", {"lazy": 0}),
    "decay NaN": (ValueError, "weight_decay must be finite .* got nan", {"weight_decay": np.nan}),
    "decay text": (TypeError, "weight_decay must be a number, got 'c'", {"weight_decay": "c"}),
    "momentum alone": (ValueError, "momentum needs velocity", {"velocity": None}),
    "nesterov alone": (ValueError, "momentum needs velocity",
                       {"velocity": None, "momentum": 0.0, "nesterov": True}),
}  # fmt: skip
BAD_ADAM = BAD | {
    "step -1": (ValueError, r"step must be an integer in \[0, \d+\], got -1", {"step": -1}),
    "step 0.5": (TypeError, "step must be an integer in .* got 0.5", {"step": 0.5}),
    "step True": (TypeError, "step must be an integer in .* got True", {"step": True}),
    "mean dtype": (TypeError, "mean must be float32, as w is, got float64",
                   {"mean": np.ones(SHAPE)}),
    "mean shape": (ValueError, r"mean must have the shape of w, .* got \(4,\)",
                   {"mean": np.ones(4, F4)}),
    "mean read-only": (ValueError, "mean is read-only", {"mean": read_only(np.ones(SHAPE, F4))}),
    "beta_1 1": (ValueError, r"beta_1 must be in \[0, 1\), got 1", {"beta_1": 1}),
    "beta_2 -1": (ValueError, r"beta_2 must be in \[0, 1\), got -1", {"beta_2": -1}),
    "epsilon -1": (ValueError, "epsilon must be positive and finite, got -1", {"epsilon": -1}),
    "decay -1": (ValueError, "weight_decay must be .* not negative, got -1", {"weight_decay": -1}),
    "mean None": (TypeError, "mean must be an array, got NoneType", {"mean": None}),
    "square None": (TypeError, "square must be an array, got NoneType", {"square": None}),
    "square list": (TypeError, "square must be an array, got list", {"square": [1.0]}),
    "square read-only": (ValueError, "square is read-only",
                         {"square": read_only(np.ones(SHAPE, F4))}),
}  # fmt: skip
BAD_SQUARE = BAD | {name: case for name, case in BAD_ADAM.items() if name.startswith("square")}
BAD_RMSPROP = BAD_SQUARE | {
    "rho 1": (ValueError, r"rho must be in \[0, 1\), got 1", {"rho": 1}),
    "momentum NaN": BAD_SGD["momentum NaN"],
    "epsilon 0": (ValueError, "epsilon must be positive and finite, got 0", {"epsilon": 0}),
    "mean shape": BAD_ADAM["mean shape"],
    "velocity read-only": BAD_SGD["velocity read-only"],
    "momentum alone": (ValueError, "momentum needs velocity", {"momentum": 0.5}),
}
BAD_ADADELTA = BAD_SQUARE | {
    "rho NaN": (ValueError, r"rho must be in \[0, 1\), got nan", {"rho": np.nan}),
    "change None": (TypeError, "change must be an array, got NoneType", {"change": None}),
    "change read-only": (ValueError, "change is read-only",
                         {"change": read_only(np.ones(SHAPE, F4))}),
    "change dtype": (TypeError, "change must be float32", {"change": np.ones(SHAPE)}),
}  # fmt: skip
BAD_BY_CALL = {sgd_: BAD_SGD, adam_: BAD_ADAM, rmsprop_: BAD_RMSPROP, adagrad_: BAD_SQUARE,
               adadelta_: BAD_ADADELTA}  # fmt: skip


@pytest.mark.parametrize(
    ("call", "case"),
    [(call, case) for call, cases in BAD_BY_CALL.items() for case in cases.items()],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.__name__,
)
def test_bad_input_says_what_is_allowed_and_changes_nothing(call, case):
    error, text, given = case[1]
    arguments = {"w": np.full(SHAPE, 9, F4), "g": np.full(SHAPE, 2, F4)}
    if call is sgd_:
        arguments |= {"velocity": np.full(SHAPE, 1, F4), "learning_rate": 0.1, "momentum": 0.9}
    else:
        states = {adam_: ("mean", "square"), adadelta_: ("square", "change")}.get(call, ("square",))
        arguments |= {state: np.full(SHAPE, 1, F4) for state in states}
        arguments |= {"step": 1} if call is adam_ else {"learning_rate": 0.1}
    arguments |= given
    before = {name: np.array(a) for name, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error, match=text if error is IndexError else f"{call.__name__}: .*{text}"):
        call(**arguments)
    for name, array in before.items():
        assert_same_bits(arguments[name], array)


STATES = {sgd_: ("velocity",), adam_: ("mean", "square"),
          rmsprop_: ("square", "mean", "velocity"), adagrad_: ("square",),
          adadelta_: ("square", "change")}  # fmt: skip
PAIRS = [(call, pair) for call, states in STATES.items()
         for pair in itertools.combinations(("w", "g", *states), 2)]  # fmt: skip


@pytest.mark.parametrize(("call", "pair"), PAIRS,
                         ids=[f"{call.__name__} {a} {b}" for call, (a, b) in PAIRS])  # fmt: skip
@pytest.mark.parametrize("form", ["same", "part", "product", "block"])
def test_no_two_arrays_may_share_memory(call, pair, form):
    one, other = pair
    memory = np.full((5, 4), 0.5, F4)
    arrays = {name: np.full((4, 4), 0.5, F4) for name in ("w", "g", *STATES[call])}
    arrays |= {one: memory[:4], other: memory[:4] if form == "same" else memory[1:]}
    if "g" in pair and form == "product":
        arrays["g"] = ProductGradient(np.ones((4, 4), F4), arrays["g"])
    elif "g" in pair and form == "block":
        arrays["g"] = BlockGradient(arrays["g"], numbers(0, 1, 2, 3), numbers(0, 1, 2, 3), (4, 4))
    options = {"step": 0} if call is adam_ else {"learning_rate": 0.1}
    options |= {"momentum": 0.9} if "velocity" in STATES[call] else {}
    with pytest.raises(ValueError, match=f"{call.__name__}: {other} shares memory with {one}"):
        call(**arrays, **options)
    assert (memory == 0.5).all()


W, V = np.zeros(SHAPE, F4), (1, 3, 4)
OUTSIDE = {
    "dtype of w": (TypeError, "float32 or float64", lambda: core_sgd(W.astype("f2"), W)),
    "w strided": (ValueError, "w must be contiguous", lambda: core_sgd(strided(W), W)),
    "vectors": (ValueError, "is not a view of 12 weights", lambda: core_sgd(W, W, (1, 3, 5))),
    "g short": (ValueError, "g must have the shape", lambda: core_sgd(W, W[1:])),
    "g strided": (ValueError, "g must be contiguous", lambda: core_sgd(W, strided(W))),
    "g wide": (TypeError, "g must be an array of float32, got float64",
               lambda: core_sgd(W, W.astype(float))),
    "velocity": (ValueError, "velocity must have the shape", lambda: core_sgd(W, W, V, W[1:])),
    "mean": (ValueError, "mean must have the shape",
             lambda: _core.adam(W, W, W[1:], W, 1, 1, 0, 0, 1, V, 0)),
    "square": (ValueError, "square must have the shape",
               lambda: _core.adam(W, W, W, W[1:], 1, 1, 0, 0, 1, V, 0)),
    "rmsprop mean": (ValueError, "mean must have the shape",
                     lambda: _core.rmsprop(W, W, W, W[1:], None, 1, 0, 0, 1, V, 0)),
    "rmsprop velocity": (ValueError, "velocity must have the shape",
                         lambda: _core.rmsprop(W, W, W, None, W[1:], 1, 0, 0, 1, V, 0)),
    "adagrad square": (ValueError, "square must have the shape",
                       lambda: _core.adagrad(W, W, W[1:], 1, 1, V, 0)),
    "adadelta change": (ValueError, "change must have the shape",
                        lambda: _core.adadelta(W, W, W, W[1:], 1, 1, 1, V, 0)),
    "sum strided": (ValueError, "array must be contiguous", lambda: _core.sum_squares(strided(W))),
    "sum dtype": (TypeError, "array must be an array of float32 or float64, got float16",
                  lambda: _core.sum_squares(W.astype("f2"))),
    "live rows": (ValueError, "kept_rows must have at least 3 elements, got 1",
                  lambda: core_sgd(W, W, V, None, numbers(0), numbers(0))),
    "live columns": (IndexError, "-1",
                     lambda: core_sgd(W, W, V, None, numbers(0, 1, 2), numbers(-1))),
    "product": (ValueError, r"do not give \(3, 4\)", lambda: core_sgd(W, (W, W))),
    "product rows": (ValueError, "do not give", lambda: core_sgd(W, (W[:, :3], W[1:]))),
    "product dtype": (TypeError, "dtype of w", lambda: core_sgd(W, (W.astype(float), W))),
}  # fmt: skip


def core_sgd(w, g, vectors=V, velocity=None, *live):
    return _core.sgd(w, g, velocity, 0.1, 0.9, False, vectors, 0.0, *live)


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_core_itself_keeps_to_its_arrays(name):
    error, text, call = OUTSIDE[name]
    with pytest.raises(error, match=text):
        call()


# --- optimisers ----------------------------------------------------------------------------------


def parameters(dtype=np.float32):
    return {
        "0.weight": normal(40, 33, dtype=dtype, seed=1),
        "0.bias": normal(33, dtype=dtype, seed=2),
        "1.weight": normal(33, 1, dtype=dtype, seed=3),
    }


def gradients(step, dtype=np.float32):
    """Blocks in odd steps, so that there is a velocity outside of them."""
    if step % 2 == 0:
        return {path: w / (1 + step) for path, w in parameters(dtype).items()}
    return {
        "0.weight": block("half of both", dtype, step),
        "0.bias": block("bias", dtype, step),
        "1.weight": BlockGradient(
            normal(len(some(33, 2)), 1, dtype=dtype, seed=step), some(33, 2), numbers(0), (33, 1)
        ),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", [
    SGD(0.1), SGD(lambda step: 0.1 / (1 + step), momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True), SGD(0.1, momentum=0.9, lazy=True), Adam(),
    Adam(lambda step: 0.1 / (1 + step), beta_1=0.8, beta_2=0.99, epsilon=1e-4),
], ids=["SGD", "schedule", "nesterov", "lazy", "Adam", "Adam schedule"])  # fmt: skip
def test_an_optimiser_is_its_steps(optimizer, dtype):
    params, expected = parameters(dtype), parameters(dtype)
    state = optimizer.init(params)
    for kind in state.values():
        assert kind.keys() == params.keys()
        assert all((a == 0).all() and a.dtype == dtype for a in kind.values())
    kinds = {path: [kind[path].copy() for kind in state.values()] for path in params}
    constraints = {"0.weight": MaxNorm(3.0), "1.weight": MaxNorm(2.0)}
    for step in range(4):
        grads = gradients(step, dtype)
        optimizer.apply(params, grads, state, step, constraints)
        rate = optimizer.learning_rate
        rate = rate(step) if callable(rate) else rate
        for path, w in expected.items():
            options = {"learning_rate": rate}
            if isinstance(optimizer, Adam):
                options |= {name: getattr(optimizer, name) for name in ("beta_1", "beta_2")}
                adam_(w, grads[path], *kinds[path], step=step, epsilon=optimizer.epsilon,
                      **options)  # fmt: skip
            else:
                names = ("momentum", "nesterov", "lazy")
                options |= {name: getattr(optimizer, name) for name in names}
                sgd_(w, grads[path], *kinds[path], **options)
            if path in constraints:
                max_norm_(w, constraints[path].max_norm, axis=0)
        for path, w in params.items():
            assert_same_bits(w, expected[path])
            for kind, wanted in zip(state.values(), kinds[path], strict=True):
                assert_same_bits(kind[path], wanted)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.1)], ids=["SGD", "Adam"])
def test_constraints_hold_for_each_parameter_when_its_update_is_done(optimizer):
    params = {"a": normal32(20, 30), "b": normal32(20, 30, seed=1), "c": normal32(20, 30, seed=2)}
    before, called = params["c"].copy(), []

    def clip(weight):
        called.append(weight)
        np.clip(weight, -0.5, 0.5, out=weight)

    class Interrupted(dict):
        def __getitem__(self, path):
            if path == "c":
                raise KeyboardInterrupt
            return super().__getitem__(path)

    grads = Interrupted({path: normal32(20, 30, seed=5) for path in params})
    constraints = {"a": MaxNorm(1.0, axis=1), "b": clip, "c": MaxNorm(1.0)}
    with pytest.raises(KeyboardInterrupt):
        optimizer.apply(params, grads, optimizer.init(params), 0, constraints)
    assert (norms(params["a"], 1, keepdims=True) <= 1).all()
    assert (norms(params["a"], 1, keepdims=True) > 0.999).all()
    assert np.abs(params["b"]).max() == 0.5
    assert len(called) == 1
    assert called[0] is params["b"]
    assert_same_bits(params["c"], before)


def test_a_constraint_made_from_max_norm_is_called():
    class WithoutNegatives(MaxNorm):
        def __call__(self, weight):
            super().__call__(weight)
            np.maximum(weight, 0, out=weight)

    for optimizer in (SGD(0.1), Adam()):
        params = {"w": normal32(20, 30)}
        state = optimizer.init(params)
        optimizer.apply(params, {"w": normal32(20, 30)}, state, 0, {"w": WithoutNegatives(1.0)})
        assert (params["w"] >= 0).all()
        assert (norms(params["w"], 0, keepdims=True) <= 1).all()


def test_adam_checks_its_numbers():
    for options, text in [
        ({"learning_rate": 0.0}, "positive number"), ({"learning_rate": math.nan}, "got nan"),
        ({"beta_1": 1.0}, r"beta_1 must be in \[0, 1\), got 1.0"),
        ({"beta_2": -0.1}, r"beta_2 must be in \[0, 1\), got -0.1"),
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"Adam: .*{text}"):
            Adam(**options)

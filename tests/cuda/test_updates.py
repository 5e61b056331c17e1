"""Max-norm and the steps of optimisers on CuPy arrays: the numbers of the reference."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import max_norm_ as project_
from dropcore import reference
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from dropcore.updates import adadelta_, adagrad_, adam_, dense, global_norm, rmsprop_, sgd_
from support.arrays import assert_same_bits, norms, odd_numbers, on_host

REAL = [np.float32, np.float64]
LAYOUTS = [
    ((37, 50), 0), ((37, 50), 1), ((3000, 5), 0), ((5, 3000), 1), ((1, 1), 0), ((300,), 0),
    ((3, 3, 8, 16), (0, 1, 2)), ((3, 3, 8, 16), (0, 3)), ((4, 70, 33), 1), ((6, 1, 7), (0, 2)),
    ((0, 4), 0), ((4, 0), 0), ((70, 33), (0, 1)), ((200, 1), 1), ((200, 1), 0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_max_norm(xp, dtype, shape, axis):
    w = np.random.default_rng(1).normal(size=shape).astype(dtype)
    bound = float(np.median(norms(w, axis))) if w.size else 1.0
    own = xp.asarray(w.copy())
    assert project_(own, bound, axis=axis) is own
    found, want = on_host(own), reference.max_norm(w, bound, axis)
    assert (norms(found, axis) <= bound).all()
    np.testing.assert_allclose(found, want, rtol=1e-6 if dtype == np.float32 else 1e-13)
    inside = np.broadcast_to(norms(w, axis).reshape(np.sum(w, axis=axis, keepdims=True).shape)
                             <= bound * (1 - 1e-12), shape)  # fmt: skip
    assert_same_bits(found[inside], w[inside])
    again = xp.asarray(found.copy())
    project_(again, bound, axis=axis)
    assert_same_bits(again, found)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", REAL)
def test_max_norm_of_odd_numbers(xp, dtype, axis):
    w = np.random.default_rng(2).normal(size=(8, 8)).astype(dtype)
    lines = w.T if axis == 0 else w
    lines[0, 3], lines[1, 2], lines[2] = np.nan, -np.inf, 0
    lines[3], lines[4] = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    if dtype == np.float64:
        lines[5], lines[6] = 1e200, 1e-200
    else:
        lines[5] = 1e-41
    for bound in (1e-3, 1e-30, 1e-44 if dtype == np.float32 else 1e-210):
        own = xp.asarray(w.copy())
        project_(own, bound, axis=axis)
        found = on_host(own).T if axis == 0 else on_host(own)
        assert_same_bits(found[:3], np.ascontiguousarray(lines[:3]))
        for line, before in zip(found[3:].astype(np.float64), lines[3:], strict=True):
            unit = np.abs(line).max()
            with np.errstate(over="ignore"):
                assert unit == 0 or np.sqrt(np.sum((line / unit) ** 2)) <= bound / unit
                if np.abs(before.astype(np.float64)).max() < bound / np.sqrt(8):
                    assert_same_bits(line.astype(dtype), before)


@pytest.mark.parametrize("axis", [0, 1])
def test_max_norm_of_float16(xp, axis):
    w = np.random.default_rng(3).normal(size=(60, 50)).astype(np.float16)
    w[3, 4] = np.nan
    bound = 0.9 * float(np.median(norms(np.nan_to_num(w), axis)))
    own, host = xp.asarray(w.copy()), w.copy()
    assert project_(own, bound, axis=axis) is own
    project_(host, bound, axis=axis)
    found, short = on_host(own), norms(on_host(own), axis)
    assert (short[np.isfinite(short)] <= bound).all()
    np.testing.assert_allclose(found.astype(float), host.astype(float), rtol=1e-3)
    assert (found != host).mean() < 0.05


@pytest.mark.parametrize("dtype", [np.float16, *REAL])
@pytest.mark.parametrize("constraint", [
    MaxNorm(2.0), UnitNorm(), MinMaxNorm(0.5, 2.0), MinMaxNorm(0.5, 2.0, rate=0.25), NonNeg(),
], ids=repr)  # fmt: skip
def test_constraints(xp, constraint, dtype):
    w = (np.random.default_rng(4).normal(size=(9, 40)) * np.geomspace(0.01, 5, 40)).astype(dtype)
    w[:, 3] = 0
    own, host = xp.asarray(w.copy()), w.copy()
    constraint(own)
    constraint(host)
    tolerance = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(on_host(own).astype(float), host, rtol=tolerance)
    if isinstance(constraint, MaxNorm) or getattr(constraint, "rate", 0) == 1:
        assert (norms(on_host(own), 0) <= 2).all()


def test_max_norm_of_views(xp):
    w = np.random.default_rng(3).normal(size=(30, 40)).astype(np.float32)
    for view in (lambda a: a.T, lambda a: a[::2, 1::3], lambda a: a[3:, :7]):
        own = xp.asarray(w.copy())
        project_(view(own), 1.5, axis=0)
        want = w.copy()
        view(want)[...] = reference.max_norm(np.ascontiguousarray(view(w)), 1.5, 0)
        np.testing.assert_allclose(on_host(own), want, rtol=1e-6)


FORMS = {
    "plain": (sgd_, reference.sgd, {}, {}),
    "decay": (sgd_, reference.sgd, {"weight_decay": 0.3}, {}),
    "momentum": (sgd_, reference.sgd, {"momentum": 0.9}, {"velocity": False}),
    "nesterov": (
        sgd_, reference.sgd, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
        {"velocity": False},
    ),
    "adamw": (
        adam_, reference.adam, {"step": 3, "weight_decay": 0.3}, {"mean": False, "square": True},
    ),
    "rmsprop": (rmsprop_, reference.rmsprop, {"rho": 0.9}, {"square": True}),
    "rmsprop all": (
        rmsprop_, reference.rmsprop, {"momentum": 0.8, "epsilon": 0.1},
        {"square": True, "mean": False, "velocity": False},
    ),
    "adagrad": (adagrad_, reference.adagrad, {"epsilon": 1e-3}, {"square": True}),
    "adadelta": (adadelta_, reference.adadelta, {"rho": 0.8}, {"square": True, "change": True}),
}  # fmt: skip


PROJECTIONS = [((37, 50), None), ((37, 50), 0), ((37, 50), 1), ((3, 3, 8, 6), (0, 1, 2)),
               ((3, 3, 8, 6), (1, 3)), ((5, 700), 1), ((0, 3), None), ((), None)]  # fmt: skip


def weights(shape, dtype, states, seed=0):
    rng = np.random.default_rng(seed)
    w, g = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    w, g = np.asarray(w), np.asarray(g)
    made = {}
    for name, positive in states.items():
        state = np.asarray(rng.normal(size=shape)).astype(dtype)
        made[name] = abs(state) if positive else state
    return w, g, made


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "axis"), PROJECTIONS)
def test_updates(xp, dtype, form, shape, axis):
    step, slow, options, states = FORMS[form]
    w, g, made = weights(shape, dtype, states)
    want, *changed = slow(w, g, **made, learning_rate=0.1, **options)
    own, own_states = xp.asarray(w.copy()), {n: xp.asarray(s.copy()) for n, s in made.items()}
    bound = {} if axis is None else {"max_norm": 2.0, "axis": axis}
    assert step(own, xp.asarray(g), **own_states, learning_rate=0.1, **options, **bound) is own
    for (name, state), wanted in zip(own_states.items(), [c for c in changed if c is not None]):
        assert name in made
        assert_same_bits(state, np.asarray(wanted))
    if axis is None:
        assert_same_bits(own, np.asarray(want))
    else:
        inside = reference.max_norm(np.asarray(want), 2.0, axis)
        assert (norms(on_host(own), axis) <= 2.0).all()
        np.testing.assert_allclose(
            on_host(own), inside, rtol=1e-6 if dtype == np.float32 else 1e-13
        )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("live", [(5, 7), (0, 7), (30, 20), (1, 1)])
def test_updates_of_live_blocks(xp, lazy, axis, live):
    rng = np.random.default_rng(4)
    w, _, made = weights((30, 20), np.float32, {"velocity": False})
    rows, columns = (np.sort(rng.permutation(n)[:k]) for n, k in zip((30, 20), live))
    values = rng.normal(size=live).astype(np.float32)
    options = {"learning_rate": 0.1, "momentum": 0.9, "lazy": lazy}
    bound = {} if axis is None else {"max_norm": 2.0, "axis": axis}
    want, velocity = w.copy(), made["velocity"].copy()
    sgd_(want, BlockGradient(values, rows, columns, (30, 20)), velocity, **options, **bound)
    own, own_velocity = xp.asarray(w), xp.asarray(made["velocity"])
    block = BlockGradient(xp.asarray(values), xp.asarray(rows), xp.asarray(columns), (30, 20))
    sgd_(own, block, own_velocity, **options, **bound)
    assert_same_bits(own_velocity, velocity)
    np.testing.assert_allclose(on_host(own), want, rtol=0 if axis is None else 1e-6)
    assert_same_bits(dense(block), np.asarray(BlockGradient(values, rows, columns, (30, 20))))


def test_updates_of_products_and_views(xp):
    x, dz, w = (odd_numbers(shape, np.float64, seed=s)[5:] for s, shape in
                enumerate([(25, 30), (25, 40), (35, 40)]))  # fmt: skip
    x[~np.isfinite(x)], dz[~np.isfinite(dz)], w[~np.isfinite(w)] = 0, 0, 0
    own = xp.asarray(w.copy())
    sgd_(own, ProductGradient(xp.asarray(x), xp.asarray(dz)), learning_rate=0.1)
    np.testing.assert_allclose(on_host(own), w - 0.1 * (x.T @ dz), rtol=1e-9, atol=1e-6)
    own = xp.asarray(w.copy())
    sgd_(own.T, xp.asarray(w.T.copy()), learning_rate=0.1, max_norm=1e9, axis=1)
    np.testing.assert_allclose(on_host(own), w - 0.1 * w, rtol=1e-12)


def test_global_norm(xp):
    a, b = np.random.default_rng(5).normal(size=(300, 400)), np.arange(7.0)
    want = np.sqrt((a**2).sum() + (b**2).sum())
    assert global_norm([xp.asarray(a), xp.asarray(b)]) == pytest.approx(want, rel=1e-14)
    assert global_norm([xp.asarray(a * 1e200)]) == pytest.approx(
        1e200 * np.sqrt((a**2).sum()), rel=1e-14
    )
    assert global_norm([xp.zeros((0, 3))]) == 0

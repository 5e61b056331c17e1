"""Optimisers: PyTorch's numbers, schedules, decay, clipping, and training with each of them."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import dropcore
from dropcore import _core
from dropcore._backends.gradients import BlockGradient
from dropcore.constraints import MaxNorm
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Clip, RMSprop
from dropcore.schedules import Constant, Cosine, Linear
from dropcore.updates import adagrad_, clipping_factor, global_norm, rmsprop_, sgd_
from support.arrays import normal
from support.training import as_one, gradients

DTYPES = [np.float32, np.float64]
EACH = [
    SGD(0.05),
    SGD(Cosine(0.1, 30), momentum=Linear(0.5, 0.9, 20), nesterov=True, weight_decay=0.01),
    Adam(0.01),
    AdamW(0.01, weight_decay=0.1),
    RMSprop(0.01),
    RMSprop(0.01, rho=0.9, momentum=0.8, centered=True, epsilon=1e-4),
    RMSprop(0.01, momentum=Constant(0.5)),
    Adagrad(0.1),
    Adagrad(0.1, initial_accumulator=0.5),
    Adadelta(),
    Clip(SGD(0.05, momentum=0.9), norm=0.3),
    Clip(Adam(0.01), norm=0.3, value=0.1),
]


# --- PyTorch's numbers ---------------------------------------------------------------------------


# --- by hand -------------------------------------------------------------------------------------


def one_step(optimizer, w, g, step=0):
    params = {"w": np.array([w])}
    optimizer.apply(params, {"w": np.array([g])}, optimizer.init(params), step)
    return params["w"][0]


def test_by_hand():
    assert one_step(SGD(0.5, weight_decay=0.25), 4.0, 3.0) == 4 - 0.5 * (3 + 1)
    assert one_step(AdamW(0.5, weight_decay=0.25, epsilon=1e-300), 4.0, 3.0) == pytest.approx(
        4 * (1 - 0.125) - 0.5
    )
    assert one_step(RMSprop(0.5, rho=0.75, epsilon=1.0), 4.0, 2.0) == 4 - 0.5 * 2 / (1 + 1)
    adagrad = Adagrad(0.5, initial_accumulator=7.0, epsilon=1.0)
    assert one_step(adagrad, 4.0, 3.0) == 4 - 0.5 * 3 / (4 + 1)
    wanted = 4 - 0.5 * 2 * math.sqrt(3.0) / math.sqrt(1 + 3)
    assert one_step(Adadelta(0.5, rho=0.75, epsilon=3.0), 4.0, 2.0) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(0.5), [0.0, -1.5]),
        (SGD(0.5, momentum=0.5), [0.0, -2.0]),
        (SGD(0.5, momentum=0.5, nesterov=True), [-0.5, -3.0]),
        (SGD(lambda step: [0.5, 1.0][step], momentum=0.5), [0.0, -3.5]),
        (SGD(np.float64(0.5), momentum=np.float64(0.5)), [0.0, -2.0]),
    ],
)
def test_sgd_by_hand(optimizer, expected):
    """w = 1, g = 2 and then 3: each number follows from the docstring's two lines."""
    weight = np.ones((2, 2), np.float32)
    params = {"w": weight}
    state = optimizer.init(params)
    for step, gradient in enumerate((2, 3)):
        grads = {"w": np.full((2, 2), gradient, np.float32)}
        optimizer.apply(params, grads, state, step)
        np.testing.assert_array_equal(weight, np.full((2, 2), expected[step], np.float32))
        np.testing.assert_array_equal(grads["w"], np.full((2, 2), gradient, np.float32))
    assert params["w"] is weight


def test_sgd_computes_in_the_dtype_of_the_weights():
    found = []
    for kind in (float, np.float64):
        weight, optimizer = normal(50, dtype=np.float32), SGD(kind(0.1), momentum=kind(0.9))
        state = optimizer.init({"w": weight})
        for step in range(3):
            grads = {"w": normal(50, dtype=np.float32, seed=step)}
            optimizer.apply({"w": weight}, grads, state, step)
        found.append(weight)
    np.testing.assert_array_equal(*found)


def test_a_centered_square_is_never_negative():
    # A gradient that does not change: what is left of its variance is rounding, of either sign.
    w, square, mean = (np.zeros(1000, np.float32) for _ in range(3))
    g = np.linspace(0.1, 3, 1000, dtype=np.float32)
    for _ in range(400):
        rmsprop_(w, g, square, mean, learning_rate=1e-3, rho=0.9)
    assert (square < mean * mean).any()
    assert np.isfinite(w).all()


def test_schedules_are_asked_for_each_step():
    seen = []

    def rate(step):
        seen.append(step)
        return 0.1 / (1 + step)

    model = Sequential([Dense(3)])
    model.fit(normal(50, 4), np.arange(50) % 3, epochs=2, batch_size=20, optimizer=SGD(rate))
    assert seen == list(range(6))


def test_momentum_may_be_a_schedule():
    ours = SGD(0.1, momentum=Linear(0.5, 0.9, 4))
    params, w, v = {"w": normal(5, 4)}, normal(5, 4), np.zeros((5, 4))
    state = ours.init(params)
    assert state.keys() == {"velocity"}
    for step, momentum in enumerate([0.5, 0.6, 0.7, 0.8, 0.9, 0.9]):
        g = normal(5, 4, seed=step)
        ours.apply(params, {"w": g}, state, step)
        v = v * momentum - 0.1 * g
        w = w + v
    np.testing.assert_allclose(params["w"], w, rtol=1e-12)


@pytest.mark.parametrize("optimizer", [SGD(lambda step: math.nan), Adam(lambda step: -1.0),
                                       Clip(RMSprop(lambda step: math.inf), norm=1.0)])  # fmt: skip
def test_a_schedule_out_of_range_is_refused_before_anything_changes(optimizer):
    params = {"a": normal(3, 3), "b": normal(3)}
    before = {path: w.copy() for path, w in params.items()}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=r"learning_rate at step 7 must be finite"):
        optimizer.apply(params, before, state, 7)
    for path, w in params.items():
        np.testing.assert_array_equal(w, before[path])
    with pytest.raises(ValueError, match=r"momentum at step 2 must be in \[0, 1\), got 1.0"):
        SGD(0.1, momentum=lambda step: step / 2).apply(params, before, {"velocity": params}, 2)


def test_a_learning_rate_may_end_at_zero():
    params = {"w": normal(3, 3)}
    SGD(Cosine(0.1, 5)).apply(params, {"w": normal(3, 3, seed=1)}, {}, 99)
    np.testing.assert_array_equal(params["w"], normal(3, 3))


# --- clipping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_global_norm(dtype):
    grads = gradients(dtype)
    norm = global_norm(grads.values())
    assert norm == pytest.approx(np.linalg.norm(as_one(grads)), rel=1e-12)
    assert global_norm([]) == 0
    assert global_norm([np.zeros((0, 3)), np.zeros(4)]) == 0
    assert global_norm([normal(20, 4)[::2], normal(3)[::-1]]) == pytest.approx(
        math.hypot(*normal(20, 4)[::2].ravel(), *normal(3)), rel=1e-12
    )
    assert math.isnan(global_norm([np.array([1.0, np.inf]), np.array([np.nan])]))
    assert global_norm([np.array([1.0, -np.inf])]) == math.inf
    for size in (1e200, 1e-200, 1e-310):
        assert global_norm([np.full(9, size), np.full(7, size)]) == pytest.approx(4 * size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_squares_is_the_same_for_any_number_of_threads(isa, threads, assert_team, dtype):
    a = normal(1300, 700, dtype=dtype)
    found = _core.sum_squares(a)
    assert_team()
    assert found == pytest.approx(float(np.square(a, dtype=np.float64).sum()), rel=1e-12)
    dropcore.set_num_threads(1)
    assert found == _core.sum_squares(a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_by_norm(dtype):
    grads = gradients(dtype)
    whole = as_one(grads)
    for bound in (0.5, 1e6):
        clipped = Clip(SGD(0.1), norm=bound).clipped(grads)
        wanted = whole * min(1, bound / np.linalg.norm(whole))
        np.testing.assert_allclose(as_one(clipped), wanted, rtol=1e-5 if dtype is np.float32
                                   else 1e-12)  # fmt: skip
        assert all(np.asarray(g).dtype == dtype for g in clipped.values())
        assert isinstance(clipped["b"], BlockGradient)
    np.testing.assert_array_equal(as_one(grads), whole)


def test_clip_by_value_and_by_both():
    grads = gradients()
    whole = as_one(grads)
    limited = np.clip(whole, -0.3, 0.3)
    found = Clip(SGD(0.1), value=0.3).clipped(grads)
    np.testing.assert_array_equal(as_one(found), limited)
    assert isinstance(found["b"], BlockGradient)
    both = as_one(Clip(SGD(0.1), value=0.3, norm=0.5).clipped(grads))
    np.testing.assert_allclose(both, limited * 0.5 / np.linalg.norm(limited), rtol=1e-12)
    np.testing.assert_array_equal(as_one(grads), whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_by_norm_hides_nothing(bad):
    params = {"w": normal(3, 3), "v": normal(2)}
    grads = {"w": normal(3, 3, seed=1), "v": np.array([1.0, bad])}
    Clip(SGD(0.1), norm=0.1).apply(params, grads, {}, 0)
    assert not np.isfinite(params["v"][1])
    np.testing.assert_array_equal(params["w"], normal(3, 3) - 0.1 * grads["w"])

    def loss(out, y):
        return 0.0, np.full_like(out, bad)

    model = Sequential([Dense(2)])
    with pytest.raises(FloatingPointError, match="the weights are not finite"):
        model.fit(normal(9, 3), np.zeros(9, int), epochs=1, loss=loss,
                  optimizer=Clip(SGD(0.1), norm=1.0))  # fmt: skip


def test_a_clipped_optimiser_is_the_optimiser_inside():
    model = Sequential([Dense(3, constraint=MaxNorm(1.0))])
    data = normal(40, 6), np.arange(40) % 3
    inside = SGD(0.5, momentum=0.9)
    model.fit(*data, epochs=2, optimizer=inside)
    velocity = model.training_state.slots["velocity"]["0.weight"]
    model.fit(*data, epochs=2, optimizer=Clip(inside, norm=0.1))
    assert model.training_state.slots["velocity"]["0.weight"] is velocity
    assert (np.linalg.norm(model.params["0.weight"], axis=0) <= 1).all()
    model.fit(*data, epochs=1, optimizer=Clip(Adam(), norm=0.1))
    assert model.training_state.slots.keys() == {"mean", "square"}
    # Out of reach, a bound changes no bit.
    models = [Sequential([Dense(3)]), Sequential([Dense(3)])]
    for one, optimizer in zip(models, (inside, Clip(inside, norm=1e9, value=1e9))):
        one.fit(*data, epochs=3, optimizer=optimizer, key=1)
    np.testing.assert_allclose(
        models[0].params["0.weight"], models[1].params["0.weight"], rtol=1e-5
    )


def test_lazy_stays_lazy_behind_a_clip():
    grads, params = {"b": gradients()["b"]}, {"b": normal(9, 6)}
    lazy = SGD(0.1, momentum=0.9, lazy=True, weight_decay=0.5)
    state = {"velocity": {"b": np.ones((9, 6))}}
    Clip(lazy, norm=0.1).apply(params, grads, state, 0)
    outside = np.asarray(grads["b"]) == 0
    assert outside.sum() == 54 - 12
    np.testing.assert_array_equal(params["b"][outside], normal(9, 6)[outside])
    assert (params["b"][~outside] != normal(9, 6)[~outside]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_does_not_raise_for_underflow(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    grads = {"w": np.array([1.0, tiny, 7 * tiny, np.finfo(dtype).tiny], dtype)}
    with np.errstate(all="raise"):
        found = Clip(SGD(0.1), norm=0.25, value=0.75).clipped(grads)["w"]
        np.testing.assert_array_equal(found[:1], dtype(0.25))
        size = global_norm([grads["w"][1:3]])
        assert Clip(SGD(0.1), norm=float(tiny)).clipped(grads)["w"][0] == tiny
    assert size == pytest.approx(7 * float(tiny), abs=float(tiny))


@pytest.mark.parametrize(("dtype", "size", "bound"), [
    (np.float64, 1e300, 1e-30), (np.float32, 1e20, 1e-30), (np.float32, 3e38, 1e-38),
    (np.float64, 1e-300, 1e-310), (np.float64, 1e150, 1e-150),
])  # fmt: skip
def test_clipping_by_a_tiny_part_of_the_norm(dtype, size, bound):
    grads = {"a": np.full(2, size, dtype), "b": np.array([size, -size, 0], dtype)}
    found = Clip(SGD(0.1), norm=bound).clipped(grads)
    for path, g in found.items():
        wanted = np.sign(grads[path]) * (bound / 2)
        tiny = float(np.finfo(dtype).smallest_subnormal)
        np.testing.assert_allclose(g, wanted, rtol=1e-6, atol=tiny)
        assert g.dtype == dtype


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
def test_parameters_without_a_gradient_are_frozen(optimizer):
    params = {"a": normal(4, 5), "b": normal(4, 5, seed=1)}
    frozen, moved = params["b"].copy(), params["a"].copy()
    state = optimizer.init(params)
    before = {kind: arrays["b"].copy() for kind, arrays in state.items()}
    called = []
    constraints = {"b": called.append}
    for step in range(3):
        optimizer.apply(params, {"a": normal(4, 5, seed=step)}, state, step, constraints)
    np.testing.assert_array_equal(params["b"], frozen)
    for kind, array in before.items():
        np.testing.assert_array_equal(state[kind]["b"], array)
    assert (params["a"] != moved).all()
    assert not called


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
def test_each_of_them_learns(optimizer):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    x = normal(3, 8, seed=99)[y] + 0.3 * rng.normal(size=(200, 8))
    model = Sequential([Dense(32, activation="relu", constraint=MaxNorm(3.0)), Dropout(0.2),
                        Dense(3)])  # fmt: skip
    history = model.fit(x, y, epochs=40, optimizer=optimizer, key=1)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert (np.linalg.norm(model.params["0.weight"], axis=0) <= 3).all()
    first = model.training_state.slots
    model.fit(x, y, epochs=1, optimizer=optimizer, key=1)
    assert model.training_state.slots is first
    kinds = set(first)
    assert kinds == set(optimizer.init(model.params))


@pytest.mark.parametrize("optimizer", EACH, ids=repr)
def test_repr_rebuilds(optimizer):
    for made in (eval(repr(optimizer)), pickle.loads(pickle.dumps(optimizer))):
        assert made == optimizer
        assert hash(made) == hash(optimizer)


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: SGD(0.0), ValueError, "SGD: learning_rate must be a positive number or a function"),
    (lambda: SGD(0.1, momentum=1.0), ValueError, r"SGD: momentum must be in \[0, 1\), got 1.0"),
    (lambda: SGD(0.1, nesterov=True), ValueError, "needs a momentum"),
    (lambda: SGD(0.1, weight_decay=-1), ValueError, "weight_decay must be .* not negative, got -1"),
    (lambda: AdamW(weight_decay=math.nan), ValueError, "AdamW: weight_decay must be .* got nan"),
    (lambda: AdamW(beta_1=1), ValueError, r"AdamW: beta_1 must be in \[0, 1\), got 1"),
    (lambda: RMSprop(rho=1.0), ValueError, r"RMSprop: rho must be in \[0, 1\), got 1.0"),
    (lambda: RMSprop(momentum=-0.1), ValueError, "RMSprop: momentum must be in"),
    (lambda: RMSprop(math.nan), ValueError, "RMSprop: learning_rate must be a positive number"),
    (lambda: RMSprop(epsilon=0), ValueError, "RMSprop: epsilon must be positive"),
    (lambda: Adagrad(initial_accumulator=-1), ValueError,
     "Adagrad: initial_accumulator must be .* not negative, got -1"),
    (lambda: SGD(True), TypeError, "SGD: learning_rate must be a positive number .* got True"),
    (lambda: SGD("0.1"), TypeError, "SGD: learning_rate must be a positive number .* got '0.1'"),
    (lambda: SGD(float), TypeError, "SGD: learning_rate must be a positive number .* got <class"),
    (lambda: SGD(0.1, momentum=0.9, nesterov="no"), TypeError,
     "SGD: nesterov must be True or False, got 'no'"),
    (lambda: SGD(0.1, lazy=math.nan), TypeError, "SGD: lazy must be True or False, got nan"),
    (lambda: RMSprop(centered=1), TypeError, "RMSprop: centered must be True or False, got 1"),
    (lambda: SGD(0.1, momentum=True), TypeError, "SGD: momentum must be a number, got True"),
    (lambda: SGD(0.1, momentum=math.nan), ValueError, "SGD: momentum must be in .* got nan"),
    (lambda: Adam(epsilon=-1), ValueError, "Adam: epsilon must be positive and finite, got -1"),
    (lambda: Adam(beta_2=lambda step: 0.5), TypeError, "Adam: beta_2 must be a number, got <func"),
    (lambda: SGD(lambda step: "0.1").apply({}, {}, {}, 3), TypeError, "got '0.1' at step 3"),
    (lambda: SGD(0.1).init({"w": np.ones(3, int)}), TypeError,
     "SGD: parameter 'w' must be float32 or float64, got int64"),
    (lambda: SGD(0.1).init({"w": [1.0]}), TypeError, "SGD: parameter 'w' is changed in place"),
    (lambda: SGD(0.1).apply({"w": np.ones(2)}, {"w": np.ones(3)}, {}, 0), ValueError,
     r"the gradient of parameter 'w' must have its shape, \(2,\), got \(3,\)"),
    (lambda: SGD(0.1).apply({"w": np.ones(2)}, {"w": np.ones(2, "f4")}, {}, 0), TypeError,
     "the gradient of parameter 'w' must be float64, as it is, got float32"),
    (lambda: SGD(0.1).apply({"w": np.ones(2)}, {"v": np.ones(2)}, {}, 0), ValueError,
     r"SGD: got gradients for \['v'\], which are not among the parameters, \['w'\]"),
    (lambda: Clip(SGD(0.1), norm=1).apply({}, {"v": np.ones(2)}, {}, 0), ValueError,
     r"Clip: got gradients for \['v'\]"),
    (lambda: global_norm([np.ones(3, np.complex64)]), TypeError, "float64, got complex64"),
    (lambda: SGD(0.1).init([np.ones(3)]), TypeError,
     "SGD: params must be a mapping of names to arrays, such as model.params, got list"),
    (lambda: global_norm({"w": np.ones(3)}), TypeError, r"got dict; use \.values\(\)"),
    (lambda: global_norm(1.0), TypeError, "an iterable of arrays, got float$"),
    (lambda: global_norm([np.ones(3, int)]), TypeError, "float32 or float64, got int64"),
    (lambda: global_norm([np.ma.ones(3)]), TypeError, "numpy.ma.MaskedArray"),
    (lambda: clipping_factor([np.ones(3)], -1), ValueError, "bound must be positive and finite"),
    (lambda: Clip(SGD(0.1), norm=1).clipped({"a": np.ones(3, int)}), TypeError, "got int64"),
    (lambda: Clip(SGD(0.1), norm=True), TypeError, "Clip: norm must be a number, got True"),
    (lambda: Adagrad(epsilon=0), ValueError, "Adagrad: epsilon must be positive"),
    (lambda: Adadelta(rho=1.5), ValueError, r"Adadelta: rho must be in \[0, 1\), got 1.5"),
    (lambda: Adadelta(rho="a"), TypeError, "Adadelta: rho must be a number, got 'a'"),
    (lambda: Clip(SGD(0.1)), ValueError, "Clip: give norm, value or both, got neither"),
    (lambda: Clip(SGD(0.1), norm=0), ValueError, "Clip: norm must be positive and finite, got 0"),
    (lambda: Clip(SGD(0.1), value=-1), ValueError, "Clip: value must be positive and finite"),
    (lambda: Clip(SGD, norm=1), TypeError, "must be an optimiser, such as .*, got <class"),
    (lambda: Clip(0.1, norm=1), TypeError, "must be an optimiser, such as .*, got 0.1"),
    (lambda: adagrad_(np.ones(2), np.ones(2), np.ones(2), learning_rate=0.1, axis=0), ValueError,
     "adagrad_: axis is about max_norm"),
    (lambda: sgd_(np.ones(2), np.ones(2), learning_rate=-0.1), ValueError, "not negative"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_gradient_that_is_refused_changes_nothing():
    params = {"a": np.ones((2, 3)), "b": np.ones(4)}
    optimizer = Adam(0.1)
    state = optimizer.init(params)
    for wrong in (np.ones(5), np.ones(4, np.float32), [1.0] * 4):
        with pytest.raises((TypeError, ValueError), match="gradient of parameter 'b' must"):
            optimizer.apply(params, {"a": np.ones((2, 3)), "b": wrong}, state, 0)
        assert all((w == 1).all() for w in params.values())
        assert not any(s.any() for slot in state.values() for s in slot.values())


def test_bounds_that_are_numbers_of_numpy_leave_the_dtype():
    grads = {"a": np.full(3, 2, np.float32)}
    for clip in (Clip(SGD(0.1), value=np.float64(0.5)), Clip(SGD(0.1), norm=np.float64(0.5))):
        assert clip.clipped(grads)["a"].dtype == np.float32


class LooseMaxNorm(MaxNorm):
    """Does something else than `MaxNorm`, which a step could apply itself."""

    def __call__(self, weight):
        weight[...] = 3
        return weight


def test_a_subclass_of_max_norm_is_called():
    params, grads = {"a": np.ones((2, 2))}, {"a": np.zeros((2, 2))}
    optimizer = SGD(0.1)
    optimizer.apply(params, grads, optimizer.init(params), 0, {"a": LooseMaxNorm(0.5)})
    assert np.array_equal(params["a"], np.full((2, 2), 3.0))

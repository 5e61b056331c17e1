"""Activations: how accurate, the same bits everywhere, gradients, shapes, and Dense with each."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from scipy import special

import dropcore
from dropcore import Key, Mask
from dropcore._ops.activation import Activation
from dropcore._ops.dense import DenseOp
from dropcore._ops.epilogue import CompactActivation
from dropcore.nn import (
    ELU,
    GELU,
    Dense,
    Dropout,
    Layer,
    LeakyReLU,
    Sequential,
    Softmax,
)
from dropcore.nn.activations import ACTIVATIONS, activation_of
from support.activations import FORMULAS
from support.arrays import assert_same_bits, on_host, ulps
from support.differences import differences
from support.layers import ACTIVATION_LAYERS

KEY = Key(3, stream=2, step=5)


NAMES = list(FORMULAS)


def sweep():
    """float32 of every exponent and sign, denormals among them, and what lies densely around 0."""
    rng = np.random.default_rng(5)
    exponents = np.repeat(np.arange(255, dtype=np.uint32), 400)
    bits = exponents << 23 | rng.integers(0, 1 << 23, exponents.size, dtype=np.uint32)
    edges = exponents << 23 | rng.choice([0, 1, (1 << 23) - 1], exponents.size).astype(np.uint32)
    wide = np.concatenate([bits, edges]).view(np.float32)
    dense = [np.linspace(-width, width, 200_001) for width in (0.5, 6, 20, 110)]
    return np.concatenate([wide, -wide, *dense, [0.0, -0.0]]).astype(np.float32)


X = sweep()
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38], np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_in_float32(name):
    parameter, f, _, limit = FORMULAS[name]
    y, _ = Activation(name, parameter).forward(X)
    with np.errstate(all="ignore"):
        exact = f(X.astype(np.float64))
    if name == "gelu_tanh":  # e^u makes a rounding of u as much larger as u is
        assert np.abs(y - exact)[np.abs(X) < 20].max() < 2e-6
        y, exact = y[np.abs(X) < 0.5], exact[np.abs(X) < 0.5]
    elif name in ("gelu", "silu"):  # x times a factor, which is denormal before they are
        tiny = (X < -1) & (np.abs(exact) < 1e-35)
        assert np.abs(y - exact)[tiny].max() < 1e-41
        y, exact = y[~tiny], exact[~tiny]
    assert ulps(y, exact).max() <= limit


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_of_slopes_in_float32(name):
    parameter, _, slope, _ = FORMULAS[name]
    function = Activation(name, parameter)
    x = X[np.abs(X) < 30]
    _, held = function.forward(x)
    found = function.backward(np.ones_like(x), held)
    exact = slope(x.astype(np.float64))
    assert np.abs(found - exact).max() < (3e-6 if name == "gelu_tanh" else 1e-6)
    assert np.array_equal(function.backward(np.full_like(x, -2), held), -2 * found)


@pytest.mark.parametrize("name", NAMES)
def test_float64(name):
    parameter, f, slope, _ = FORMULAS[name]
    function = Activation(name, parameter)
    x = np.concatenate([np.linspace(-30, 30, 4001), np.linspace(-1e-3, 1e-3, 101)])
    y, held = function.forward(x)
    np.testing.assert_allclose(y, f(x), rtol=1e-12, atol=1e-290)
    np.testing.assert_allclose(
        function.backward(np.ones_like(x), held), slope(x), rtol=1e-12, atol=1e-15
    )


def test_the_ends():
    with np.errstate(all="ignore"):
        for name, (parameter, *_) in FORMULAS.items():
            for dtype in (np.float32, np.float64):
                y, held = Activation(name, parameter).forward(SPECIAL.astype(dtype))
                assert np.isnan(y[0]), name
                assert not np.isnan(y[1]), name
                assert not np.isnan(y[3:]).any(), name
                slope = Activation(name, parameter).backward(np.ones_like(y), held)
                assert np.isnan(slope[0]) == (name not in ("relu", "leaky_relu")), name
                assert slope[1] == pytest.approx(
                    {"tanh": 0, "sigmoid": 0, "selu": 1.0507009873554804934}.get(name, 1)
                )
                assert not np.isnan(slope[2:]).any(), name
        f = {name: Activation(name).forward(SPECIAL)[0] for name in NAMES}
    assert f["tanh"][1:3].tolist() == [1, -1]
    assert np.signbit(f["tanh"][3:5]).tolist() == [False, True]
    assert f["sigmoid"][1:5].tolist() == [1, 0, 0.5, 0.5]
    assert f["softplus"][1:3].tolist() == [np.inf, 0]
    assert f["gelu"][1] == f["silu"][1] == np.inf
    assert Activation("sigmoid").forward(np.float32([-100]))[0][0] == np.float32(3.78e-44)


# --- bits ----------------------------------------------------------------------------------------


def results(name, parameter, x, dy):
    y, held = Activation(name, parameter).forward(x)
    return y, Activation(name, parameter).backward(dy, held)


@pytest.fixture(scope="module")
def frozen():
    """What one thread of the scalar kernels gives."""
    from dropcore import _core

    before, threads = dropcore.build_info()["isa"], dropcore.get_num_threads()
    _core.set_isa("scalar")
    dropcore.set_num_threads(1)
    try:
        return {
            (name, dtype): results(name, FORMULAS[name][0], *inputs(dtype))
            for name in NAMES
            for dtype in (np.float32, np.float64)
        } | {("softmax", dtype): results("softmax", 0, *rows(dtype)) for dtype in DTYPES}
    finally:
        _core.set_isa(before)
        dropcore.set_num_threads(threads)


DTYPES = (np.float32, np.float64)


def inputs(dtype):
    x = np.concatenate([X[:: 3 if dtype == np.float32 else 17], SPECIAL]).astype(dtype)
    return x, np.random.default_rng(1).normal(size=x.size).astype(dtype)


def rows(dtype):
    rng = np.random.default_rng(2)
    return (5 * rng.normal(size=(800, 119))).astype(dtype), rng.normal(size=(800, 119)).astype(
        dtype
    )


def test_the_same_bits_from_every_instruction_set(isa, frozen):
    for (name, dtype), expected in frozen.items():
        given = rows(dtype) if name == "softmax" else inputs(dtype)
        parameter = 0 if name == "softmax" else FORMULAS[name][0]
        for ours, theirs in zip(results(name, parameter, *given), expected, strict=True):
            assert_same_bits(ours, theirs, any_nan=True)


def test_the_same_bits_for_every_team(frozen, assert_team):
    for (name, dtype), expected in frozen.items():
        given = rows(dtype) if name == "softmax" else inputs(dtype)
        parameter = 0 if name == "softmax" else FORMULAS[name][0]
        for ours, theirs in zip(results(name, parameter, *given), expected, strict=True):
            assert_same_bits(ours, theirs, any_nan=True)
        if name in ("gelu", "softmax"):
            assert_team()


@pytest.mark.parametrize("name", [*NAMES, "softmax"])
@pytest.mark.parametrize("n", [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 129])
def test_sizes_and_overwriting(name, n):
    """Every length gives what a longer array gives for the same numbers, also in place."""
    x, dy = rows(np.float32)
    function = Activation(name, 0.5)
    if name == "softmax":
        x, dy = x[:3, :n].copy(), dy[:3, :n].copy()
        expected = special.softmax(x.astype(np.float64), axis=1) if n else x
    else:
        expected = function.forward(x.reshape(-1).copy())[0][:n]
        x, dy = x.reshape(-1)[:n].copy(), dy.reshape(-1)[:n].copy()
    y, held = function.forward(x)
    np.testing.assert_allclose(y, expected, rtol=4e-6 if name == "softmax" else 0, atol=0)
    assert not np.shares_memory(x, y)
    before = x.copy()
    again, held_again = function.forward(before, may_overwrite=True)
    assert_same_bits(again, y, any_nan=True)
    assert_same_bits(function.backward(dy, held_again), function.backward(dy, held), any_nan=True)


def test_a_spare_input_is_overwritten_unless_it_is_needed():
    for name in [*NAMES, "softmax"]:
        x = rows(np.float32)[0].copy()
        y, held = Activation(name).forward(x, may_overwrite=True)
        assert np.shares_memory(x, y) == (name not in ("gelu", "gelu_tanh", "silu"))
        assert held is (x if name in ("gelu", "gelu_tanh", "silu") else y)


@pytest.mark.parametrize("name", [*NAMES, "softmax"])
def test_any_layout(name):
    x, dy = rows(np.float32)
    function = Activation(name, 0.5)
    for view in (
        lambda a: a[::2, ::3],
        lambda a: a[::-1, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a.reshape(8, 100, 119)[:, 3:50],
    ):
        given, back = view(x), view(dy)
        plain = given.copy()
        plain.flags.writeable = False
        y, held = function.forward(given)
        expected, held_plain = function.forward(plain, may_overwrite=True)
        assert_same_bits(y, expected, any_nan=True)
        assert y.shape == given.shape
        dx = function.backward(back, held)
        assert_same_bits(dx, function.backward(back.copy(), held_plain), any_nan=True)


def test_arguments():
    function = Activation("tanh")
    with pytest.raises(TypeError, match=r"tanh: x must be an array of .*float64, got int64"):
        function.forward(np.zeros(3, np.int64))
    with pytest.raises(TypeError, match=r"of float32 or float64, got list"):
        function.forward([1.0, 2.0])
    with pytest.raises(ValueError, match=r"must have the shape of the output, \(3,\) of f"):
        function.backward(np.zeros(4, np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="dy must have the shape"):
        function.backward(np.zeros(3), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="softmax: x must have an axis"):
        Activation("softmax").forward(np.zeros((), np.float32))
    assert function.forward(np.zeros((), np.float32))[0].shape == ()


# --- softmax -------------------------------------------------------------------------------------

ROWS = [(5, 10), (1, 1), (3, 1), (7, 16), (2, 3, 1000), (0, 4), (4, 0), (257, 31), (33, 33),
        (9, 1024), (3, 1025), (1, 3001)]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS)
def test_softmax(xp, shape, dtype):
    rng = np.random.default_rng(4)
    x, dy = (20 * rng.normal(size=shape)).astype(dtype), rng.normal(size=shape).astype(dtype)
    y, held = Activation("softmax").forward(xp.asarray(x))
    y = on_host(y)
    exact = special.softmax(x.astype(np.float64), axis=-1) if x.size else x
    eps = np.finfo(dtype).eps
    # x - max(x) is rounded, and up to 80 here.
    np.testing.assert_allclose(y, exact, rtol=50 * eps, atol=np.finfo(dtype).tiny)
    slope = exact * (dy - (exact * dy).sum(-1, keepdims=True))
    dx = Activation("softmax").backward(xp.asarray(dy), held)
    np.testing.assert_allclose(on_host(dx), slope, rtol=0, atol=20 * eps)


def test_softmax_of_large_and_infinite_numbers(xp):
    def softmax(rows):
        return on_host(Activation("softmax").forward(xp.asarray(np.float32(rows)))[0])

    assert softmax([[3e38, -3e38, 3e38], [-np.inf, 0, 0]]).tolist() == [
        [0.5, 0, 0.5],
        [0, 0.5, 0.5],
    ]
    y = softmax([[np.nan, 0, 1], [1, 2, np.nan], [0, 0, 0]])
    assert np.isnan(y[:2]).all()
    assert np.isfinite(y[2]).all()


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ACTIVATION_LAYERS, ids=repr)
@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 5)])
def test_layers_equal_finite_differences(layer, shape):
    rng = np.random.default_rng(7)
    x, weights = 2 * rng.normal(size=shape), rng.normal(size=shape)
    y, backward = layer.forward(x)
    assert layer.output_shape(shape[1:]) == shape[1:]
    assert y.shape == shape
    assert np.array_equal(y, layer(x))
    dx, grads = backward(weights)
    expected = differences(lambda: float((layer(x) * weights).sum()), x)
    np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-8)
    assert grads == {}
    assert backward(weights, input_gradient=False) == (None, {})


@pytest.mark.parametrize("layer", ACTIVATION_LAYERS, ids=repr)
def test_layers_are_rebuilt(layer):
    namespace = {type(each).__name__: type(each) for each in ACTIVATION_LAYERS}
    x = np.random.default_rng(1).normal(size=(5, 4))
    for other in (
        eval(repr(layer), namespace),
        Layer.from_config(layer.to_config()),
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
    ):
        assert repr(other) == repr(layer)
        assert np.array_equal(other(x), layer(x))
    assert repr(LeakyReLU(0.3)) == "LeakyReLU(0.3)"
    assert repr(GELU("tanh")) == "GELU('tanh')"


def test_activation_of():
    assert list(ACTIVATIONS) == [
        "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus",
        "softmax",
    ]  # fmt: skip
    assert activation_of("Dense", None) is None
    for name, kind in ACTIVATIONS.items():
        assert type(activation_of("Dense", name)) is kind
    with pytest.raises(ValueError, match=r"LSTM: activation must be None, 'relu', .*got 'swish'"):
        activation_of("LSTM", "swish")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakyReLU(-0.1), "LeakyReLU: slope must be finite and not negative, got -0.1"),
        (lambda: ELU(math.inf), "ELU: alpha must be finite and not negative, got inf"),
        (lambda: ELU(math.nan), "alpha must be"),
        (lambda: GELU("sigmoid"), "GELU: approximate must be None or 'tanh', got 'sigmoid'"),
        (lambda: Softmax().output_shape(()), r"samples of shape \(..., features\), got \(\)"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- Dense with each -----------------------------------------------------------------------------


def dense_and_behind(name, *, dtype=np.float64, dropouts=()):
    """A Dense with the activation inside, and the same with it as a layer of its own."""
    inside = Sequential([Dense(9, activation=name), *dropouts, Dense(4)])
    apart = Sequential([Dense(9), ACTIVATIONS[name](), *dropouts, Dense(4)])
    inside.build((6,), key=1, dtype=dtype)
    apart.build((6,), key=1, dtype=dtype)
    inside.params["0.bias"][:] = np.linspace(-1, 1, 9)
    for ours, theirs in zip(apart.params.values(), inside.params.values(), strict=True):
        ours[:] = theirs
    return inside, apart


DROPOUTS = {
    "none": (),
    "element": (Dropout(0.4),),
    "unit": (Dropout(0.4, shared_axes=0),),
    "row": (Dropout(0.4, shared_axes=1),),
    "two": (Dropout(0.3), Dropout(0.2)),
}


@pytest.mark.parametrize("dropouts", DROPOUTS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_with_each_activation(name, dropouts):
    inside, apart = dense_and_behind(name, dropouts=DROPOUTS[dropouts])
    x, dy = (np.random.default_rng(seed).normal(size=(7, n)) for seed, n in ((1, 6), (2, 4)))
    y, backward = inside.forward(x, key=KEY)
    expected, backward_apart = apart.forward(x, key=KEY)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    if dropouts != "none":
        assert not np.allclose(y, inside.forward(x)[0])
    for update in (False, True):
        dx, grads = backward(dy, for_update=update)
        dx_apart, grads_apart = backward_apart(dy, for_update=update)
        np.testing.assert_allclose(dx, dx_apart, rtol=1e-12, atol=1e-14)
        for ours, theirs in zip(grads.values(), grads_apart.values(), strict=True):
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(inside(x), apart(x), rtol=1e-12)
    np.testing.assert_allclose(
        dx, differences(lambda: float((inside.forward(x, key=KEY)[0] * dy).sum()), x),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_applies_the_activation_before_the_mask(name):
    layer = Dense(8, activation=name)
    layer.build((5,), key=2)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    kept = np.random.default_rng(1).random((6, 8)) < 0.5
    y, _ = layer.forward_masked(x, Mask.given(kept, keep=0.5))
    np.testing.assert_allclose(y, np.where(kept, layer(x) * 2, 0), rtol=1e-6)


def test_softmax_needs_every_unit_of_a_row():
    mask = Mask.given([[True, False, True]], keep=0.5)
    step = DenseOp(
        np.ones((2, 3)), np.eye(3), None, activation=Activation("softmax"), mask=mask, compact=True
    )
    assert not isinstance(step.y, CompactActivation)
    np.testing.assert_allclose(step.y, [[2 / 3, 0, 2 / 3]] * 2, rtol=1e-14)


@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_dense_step_with_live_units(name):
    rng = np.random.default_rng(3)
    x, w, dy = rng.normal(size=(5, 6)), rng.normal(size=(6, 9)), rng.normal(size=(5, 9))
    kept = np.array([True, False] * 4 + [True])
    mask = Mask.given(kept[None], keep=0.5)
    step = DenseOp(x, w, None, activation=Activation(name), mask=mask, compact=True)
    full = DenseOp(x, w, None, activation=Activation(name), mask=mask)
    assert isinstance(step.y, CompactActivation)
    np.testing.assert_allclose(step.y.values, full.y[:, kept], rtol=1e-13)
    ours, theirs = step.backward(dy[:, kept]), full.backward(dy)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.asarray(ours[1]), theirs[1], rtol=1e-12, atol=1e-14)


def test_dense_of_no_rows():
    for name in ACTIVATIONS:
        inside, _ = dense_and_behind(name, dtype=np.float32, dropouts=(Dropout(0.5),))
        y, backward = inside.forward(np.zeros((0, 6), np.float32), key=KEY)
        dx, grads = backward(np.zeros((0, 4), np.float32))
        assert y.shape == (0, 4)
        assert dx.shape == (0, 6)
        assert not grads["0.weight"].any()

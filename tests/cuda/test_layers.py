"""Every layer on CuPy arrays gives what it gives on NumPy arrays: see support/host_cupy.py."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from dropcore import Mask
from dropcore.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from dropcore.nn import (
    ActivityRegularization,
    BatchNorm,
    ConcreteDropout,
    CrossAttention,
    Dense,
    DropConnect,
    Dropout,
    EmbeddingDropout,
    LayerNorm,
    LearnedPositions,
    Maxout,
    MultiHeadAttention,
    Sequential,
    UnitDropout,
    VariationalDropout,
    set_scaling_,
)
from dropcore.nn.activations import ActivationLayer
from dropcore.nn.dropout import RatedLayer
from dropcore.nn.noise import GaussianNoise
from dropcore.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Clip, RMSprop
from dropcore.regularizers import L1, L1L2, L2, KLSparsity
from dropcore.updates import dense
from support import host_cupy
from support.arrays import CLOSE, on_host
from support.layers import CARRYING, EXAMPLES, KEY, batches, built, names


def stepped(layer, x, dy, key, put, **options):
    """Output, input gradient and parameter gradients of a step, and the output without noise."""
    y, backward = layer.forward(put(x), key=key, row_offset=3)
    dx, grads = backward(put(dy[: len(x)]), **options)
    return [y, dx, layer(put(x)), *(dense(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("layer", "sample"), EXAMPLES, ids=names)
def test_steps(gpu, layer, sample, dtype):
    layer = built(layer, *sample, dtype=dtype)
    x = batches(layer, sample, 6, dtype)
    other = copy.deepcopy(layer).to("cuda")
    assert all(
        isinstance(w, gpu.ndarray) for w in (*other.params.values(), *other.buffers.values())
    )
    rng = np.random.default_rng(3)
    dy = rng.normal(size=(len(x), *layer.output_shape(sample))).astype(dtype)
    for options in ({}, {"for_update": True}):
        wanted = stepped(layer, x, dy, KEY, lambda a: a, **options)
        found = stepped(other, x, dy, KEY, gpu.asarray, **options)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert isinstance(a, gpu.ndarray)
                assert a.dtype == b.dtype
                np.testing.assert_allclose(on_host(a), b, **CLOSE[dtype])
    for name, buffer in layer.buffers.items():
        np.testing.assert_allclose(on_host(other.buffers[name]), buffer, **CLOSE[dtype])
    home = other.to("cpu")
    for name, weight in layer.params.items():
        np.testing.assert_array_equal(home.params[name], weight)


def in_two_pieces(layer, x, lengths, dy, put, key):
    """Two pieces of sequences one after the other, the gradient of the state brought back."""
    cut, found, state, ways = x.shape[1] // 2, [], None, []
    for piece, own in ((x[:, :cut], np.minimum(lengths, cut)), (x[:, cut:], lengths - cut)):
        y, state, backward = layer.forward_from(
            put(piece), state, key=key, row_offset=2, lengths=np.maximum(own, 0)
        )
        found += [y, *leaves_of(state)]
        ways.append(backward)
    dstate = None
    for backward, of_y in reversed(list(zip(ways, (found[0], y), strict=True))):
        dx, grads, dstate = backward(put(dy[: of_y.size].reshape(of_y.shape)), dstate)
        found += [dx, *leaves_of(dstate), *(dense(grads[name]) for name in sorted(grads))]
    return found


def leaves_of(state):
    """The arrays of a state, of any kind."""
    if isinstance(state, dict | tuple):
        parts = [state[name] for name in sorted(state)] if isinstance(state, dict) else state
        return [array for part in parts for array in leaves_of(part)]
    return [] if state is None else [state]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("layer", "sample"), CARRYING, ids=names)
def test_pieces_of_sequences(gpu, layer, sample, dtype):
    layer, x = built(layer, *sample, dtype=dtype), batches(layer, sample, 7, dtype)
    other = copy.deepcopy(layer).to("cuda")
    lengths = np.array([5, 0, 3, 1, 5, 2, 4])
    dy = np.random.default_rng(5).normal(size=7 * 5 * 40).astype(dtype)
    for key in (KEY, None):
        wanted = in_two_pieces(layer, x, lengths, dy, np.asarray, key)
        found = in_two_pieces(other, x, lengths, dy, gpu.asarray, key)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                assert isinstance(a, gpu.ndarray)
                assert a.dtype == b.dtype
                np.testing.assert_allclose(on_host(a), b, **CLOSE[dtype])


def attended(layer, x, put, lengths):
    """Two pieces of a causal sequence, the gradient of the state brought back."""
    found, state, ways = [], None, []
    for piece, own in ((x[:, :2], np.minimum(lengths, 2)), (x[:, 2:], np.maximum(lengths - 2, 0))):
        y, state, backward = layer.forward_from(put(piece), state, key=KEY, lengths=own)
        found += [y, *state[:2]]
        ways.append((backward, y))
    dstate = None
    for backward, y in reversed(ways):
        dx, grads, dstate = backward(y, dstate)
        found += [dx, *(dstate or ()), *(dense(grads[name]) for name in sorted(grads))]
    return found


def crossed(layer, x, put, lengths):
    """A step of attention to a context."""
    context = put(x[:, 1:] + 1)
    y, backward = layer.forward(
        put(x), context=context, key=KEY, row_offset=3, lengths=lengths,
        context_lengths=np.minimum(lengths, 4),
    )  # fmt: skip
    (dx, dcontext), grads = backward(y)
    return [y, dx, dcontext, *(dense(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (MultiHeadAttention(4, 0.4, causal=True, key_heads=2), attended),
        (CrossAttention(4, 0.4, key_heads=2), crossed),
    ],
    ids=names,
)
def test_attention_of_padded_sequences(gpu, layer, call, dtype):
    layer = built(layer, 5, 8, dtype=dtype)
    other = copy.deepcopy(layer).to("cuda")
    x, lengths = batches(layer, (5, 8), 4, dtype), np.array([5, 2, 0, 3])
    wanted, found = call(layer, x, np.asarray, lengths), call(other, x, gpu.asarray, lengths)
    assert len(found) == len(wanted)
    close = CLOSE[dtype] | {"atol": 5 * CLOSE[dtype]["atol"]}  # sums that are zero but for rounding
    for a, b in zip(found, wanted, strict=True):
        assert isinstance(a, gpu.ndarray)
        np.testing.assert_allclose(on_host(a), b, **close)


def test_a_state_on_another_device_is_refused(host):
    layer = built(MultiHeadAttention(2, causal=True), 5, 4).to("cuda")
    _, (k, v, _), _ = layer.forward_from(host.asarray(np.zeros((2, 3, 4))))
    with pytest.raises(ValueError, match="expects the state that forward_from returned"):
        layer.forward_from(host.asarray(np.zeros((2, 1, 4))), (on_host(k), on_host(v), None))


SHORT = (ActivationLayer, ActivityRegularization, BatchNorm, Dense, GaussianNoise, LayerNorm,
         LearnedPositions, MultiHeadAttention, RatedLayer)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "sample"),
    [
        (layer, sample)
        for layer, sample in EXAMPLES
        if isinstance(layer, SHORT) and not isinstance(layer, EmbeddingDropout | Maxout)
    ],
    ids=names,
)
def test_a_step_waits_for_nothing_and_sends_nothing(host, layer, sample):
    """What a graph of a step could not do; but for what the first step leaves on the device."""
    layer = built(layer, *sample, dtype=np.float32).to("cuda")
    x = host.asarray(batches(layer, sample, 6, np.float32))
    counts = []
    for step in range(2):
        before = host_cupy.waits, host_cupy.sent
        y, backward = layer.forward(x, key=KEY.at(step=step), row_offset=3)
        backward(y, for_update=True)
        layer(x)
        counts.append((host_cupy.waits - before[0], host_cupy.sent - before[1]))
    assert counts[1] == (0, 0)
    assert counts[0][0] == 0


# ---- updates ----


def network(constraint=None, regularizer=None, activity=None, units=None):
    inside = [Dense(7, activation="relu", constraint=constraint, regularizer=regularizer)]
    if units is not None:
        inside = [UnitDropout(units), *inside, UnitDropout(units)]
    else:
        inside = [BatchNorm(), Dropout(0.2), *inside, VariationalDropout(0.3, data_points=50.0)]
    if activity is not None:
        inside += [Dense(7, activation="sigmoid"), ActivityRegularization(activity)]
    return Sequential(
        [
            *inside,
            ConcreteDropout(
                Dense(5, constraint=constraint, use_bias=False), 0.4, data_points=50.0,
                length_scale=2.0, temperature=0.5,
            ),
            LayerNorm(),
            DropConnect(3, 0.3, regularizer=regularizer, constraint=constraint),
        ]
    )  # fmt: skip


def trained(model, optimizer, batches_of, steps=3):
    """Weights, states and buffers after some updates."""
    params, state = model.params, optimizer.init(model.params)
    for step in range(steps):
        x, target = batches_of(step)
        y, backward = model.forward(x, key=KEY.at(step=step))
        _, grads = backward((y - target) * y.dtype.type(1 / len(x)), for_update=True)
        for path, regularizer in model.regularizers.items():
            grads[path] = regularizer.add_gradient(params[path], grads[path])
        optimizer.apply(params, grads, state, step, model.constraints)
    return [
        *params.values(),
        *(array for kind in state.values() for array in kind.values()),
        *model.buffers.values(),
    ]


def compared(gpu, model, optimizer, dtype):
    model.build((6,), key=3, dtype=dtype)
    other = copy.deepcopy(model).to("cuda")
    rng = np.random.default_rng(5)
    data = [(rng.normal(size=(9, 6)), rng.normal(size=(9, 3))) for _ in range(3)]
    data = [tuple(array.astype(dtype) for array in pair) for pair in data]
    wanted = trained(model, optimizer, lambda step: data[step])
    there = [tuple(gpu.asarray(array) for array in pair) for pair in data]
    found = trained(other, optimizer, lambda step: there[step])
    assert len(found) == len(wanted)
    tolerance = {"rtol": 1e-9, "atol": 1e-11}
    if dtype == np.float32:
        tolerance = {"rtol": 2e-3, "atol": 2e-4}
    for a, b in zip(found, wanted, strict=True):
        assert isinstance(a, gpu.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(on_host(a), b, **tolerance)


OPTIMIZERS = [
    SGD(0.1), SGD(0.1, momentum=0.9, weight_decay=0.1), SGD(0.1, momentum=0.9, nesterov=True),
    Adam(0.01), AdamW(0.01, weight_decay=0.3), RMSprop(0.01),
    RMSprop(0.01, momentum=0.5, centered=True, epsilon=1e-2),
    Adagrad(0.05, initial_accumulator=0.2),
    Adadelta(), Clip(SGD(0.1), norm=0.3), Clip(SGD(0.1), norm=1e3),
    Clip(Adam(0.01), norm=0.2, value=0.05),
]  # fmt: skip


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=names)
def test_updates(gpu, optimizer, dtype):
    compared(gpu, network(constraint=MaxNorm(1.0)), optimizer, dtype)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_updates_of_live_units(gpu, lazy, clip):
    optimizer = SGD(0.1, momentum=0.9, lazy=lazy)
    if clip:
        optimizer = Clip(optimizer, norm=0.3, value=0.1)
    compared(gpu, network(constraint=MaxNorm(1.0), units=0.4), optimizer, np.float64)


CONSTRAINTS = [MaxNorm(0.5, axis=-1), UnitNorm(), UnitNorm(axis=1), MinMaxNorm(0.5, 0.8),
               MinMaxNorm(0.9, 1.1, rate=0.4, axis=1), NonNeg()]  # fmt: skip


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=names)
def test_constraints(gpu, constraint):
    compared(gpu, network(constraint=constraint), SGD(0.1), np.float64)


@pytest.mark.parametrize("constraint", [UnitNorm(), MinMaxNorm(0.5, 0.8)], ids=names)
def test_constraints_leave_vectors_without_direction_alone(gpu, constraint):
    w = np.random.default_rng(6).normal(size=(5, 4)).astype(np.float32)
    w[:, 0], w[2, 1], w[3, 2] = 0, np.nan, np.inf
    own, want = gpu.asarray(w), w.copy()
    constraint(own)
    constraint(want)
    np.testing.assert_array_equal(on_host(own)[:, :3], w[:, :3])
    np.testing.assert_allclose(on_host(own), want, rtol=1e-6)


REGULARIZERS = [L1(0.01), L2(0.02), L1L2(0.01, 0.02)]


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=names)
def test_regularizers(gpu, regularizer):
    compared(gpu, network(regularizer=regularizer), SGD(0.1, momentum=0.5), np.float64)
    compared(gpu, network(regularizer=regularizer, units=0.4), SGD(0.1), np.float64)
    w = np.random.default_rng(7).normal(size=(50, 3)).astype(np.float32)
    assert regularizer.penalty(gpu.asarray(w)) == pytest.approx(regularizer.penalty(w), rel=1e-6)


@pytest.mark.parametrize("activity", [*REGULARIZERS, KLSparsity(0.1, target=0.2)], ids=names)
def test_penalties_of_outputs(gpu, activity):
    compared(gpu, network(activity=activity), SGD(0.1), np.float64)
    y = np.random.default_rng(8).uniform(0.1, 0.9, (30, 4))
    assert activity.activity_penalty(gpu.asarray(y)) == pytest.approx(activity.activity_penalty(y))
    for shape in ((0, 4), (3, 0)):
        found = activity.activity_gradient(gpu.zeros(shape))
        assert found.shape == shape


def test_a_mean_outside_of_its_range_is_nan(gpu):
    y = np.random.default_rng(8).uniform(0.1, 0.9, (30, 4))
    y[:, 2] += 1
    gradient = on_host(KLSparsity(0.1).activity_gradient(gpu.asarray(y)))
    assert np.isnan(gradient[:, 2]).all()
    assert np.isfinite(gradient[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("dtype", CLOSE)
def test_clipping_never_waits(host, dtype):
    rng = np.random.default_rng(9)
    grads = {"a": rng.normal(size=(30, 4)).astype(dtype), "b": rng.normal(size=7).astype(dtype),
             "c": np.zeros((0, 3), dtype)}  # fmt: skip
    cases = [(1.0, None), (1e-30, None), (1e30, None), (0.0, None), (1.0, np.nan), (1.0, np.inf)]
    if dtype == np.float64:
        cases += [(1e200, None), (1e-200, None)]
    for size, odd in cases:
        given = {path: g * dtype(size) for path, g in grads.items()}
        if odd is not None:
            given["b"][3] = odd
        for bound in (0.5, 1e-25, 1e40):
            clip = Clip(SGD(1.0), norm=bound)
            wanted = clip.clipped(given)
            on = {path: host.asarray(g) for path, g in given.items()}
            before = host_cupy.waits
            found = clip.clipped(on)
            assert host_cupy.waits == before
            for path, want in wanted.items():
                np.testing.assert_allclose(
                    on_host(found[path]), want, rtol=1e-6 if dtype == np.float32 else 1e-13
                )


# ---- what is asked of a model on a device ----


def test_learned_rates_and_penalties_are_told(gpu):
    for layer in (
        ConcreteDropout(Dense(3), 0.3, data_points=20.0, length_scale=0.5),
        VariationalDropout(0.3, data_points=20.0, per_unit=True),
    ):
        layer.build((7,), key=1)
        other = copy.deepcopy(layer).to("cuda")
        assert other.learned_rate == pytest.approx(layer.learned_rate, rel=1e-6)
        assert other.penalty() == pytest.approx(layer.penalty(), rel=1e-6)
        tables = [Sequential([one]).summary((7,)) for one in (other, layer)]
        assert repr(tables[0]) == repr(tables[1])


@pytest.mark.parametrize("inference", ["mean", "gaussian"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_inference_of_dropconnect(gpu, inference, activation):
    layer = DropConnect(5, 0.3, inference=inference, activation=activation)
    layer.build((7,), key=1)
    layer.params["weight"][:, 2] = 0  # no variance at all
    x = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    other = copy.deepcopy(layer).to("cuda")
    for key in (None, KEY):
        found = other(gpu.asarray(x), key, row_offset=2)
        np.testing.assert_allclose(
            on_host(found), layer(x, key, row_offset=2), rtol=2e-5, atol=2e-5
        )


RATES = [0.4, [0.2, 0.7, 0.0, 1.0], np.linspace(0, 1, 20)[:, None]]


@pytest.mark.parametrize("rate", RATES, ids=["one", "units", "rows"])
@pytest.mark.parametrize(
    ("kind", "scaling"),
    [*itertools.product(["elements", "groups"], ["inverted", "test"]),
     ("alpha", "inverted"), ("gaussian", "inverted")],
)  # fmt: skip
def test_rates(gpu, kind, rate, scaling):
    from dropcore.nn import AlphaDropout, GaussianDropout

    if kind in ("alpha", "gaussian"):
        layer = AlphaDropout(rate) if kind == "alpha" else GaussianDropout(np.minimum(rate, 0.9))
    else:
        layer = (
            Dropout(rate, scaling=scaling)
            if kind == "elements"
            else UnitDropout(rate if np.ndim(rate) < 2 else 0.3, group=3, scaling=scaling)
        )
    x = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    for key, row in ((KEY, 5), (None, 5), (KEY, 0)):
        wanted, backward = layer.forward(x, key=key, row_offset=row)
        found, other = layer.forward(gpu.asarray(x), key=key, row_offset=row)
        np.testing.assert_allclose(on_host(found), wanted, rtol=1e-6)
        dx, _ = other(gpu.asarray(x))
        np.testing.assert_allclose(on_host(dx), backward(x)[0], rtol=1e-6)


@pytest.mark.parametrize("as_mask", [False, True])
def test_given_masks(gpu, as_mask):
    kept = np.random.default_rng(2).uniform(size=(12, 4)) < 0.5
    layer = Dropout(mask=Mask.given(kept, keep=0.5)) if as_mask else Dropout(mask=kept, keep=0.5)
    x = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    for rows in (x, np.concatenate((x, x[:5]))):
        row = 12 - len(rows)
        found = layer(gpu.asarray(rows), KEY, row_offset=row)
        np.testing.assert_array_equal(on_host(found), layer(rows, KEY, row_offset=row))


def test_set_scaling(gpu):
    model = Sequential([Dropout([0.2, 0.3, 0.4], scaling="test"), Dense(4)])
    model.build((3,), key=1)
    other = copy.deepcopy(model).to("cuda")
    for scaling in ("inverted", "test"):
        set_scaling_(model, scaling)
        set_scaling_(other, scaling)
        weight = on_host(other.params["1.weight"])
        np.testing.assert_allclose(weight, model.params["1.weight"], rtol=1e-6)

"""Recurrent layers: a slow reference with every mask, PyTorch, gradients, threads, pieces."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core
from dropcore.constraints import MaxNorm
from dropcore.nn import GRU, LSTM, Bidirectional, Dense, Sequential, SimpleRNN
from dropcore.optim import SGD
from dropcore.regularizers import L2
from dropcore.schedules import Linear
from support.arrays import normal
from support.differences import differences
from support.layers import built, leaves
from support.recurrent import CELLS, layer_of, some_state

KEY = Key(11, stream=5, step=3)
# --- a slow reference ----------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def masks_of(layer, shape, key, row_offset=0):
    """What multiplies x, h and the recurrent kernel, and where h and c take the new value."""
    batch, steps, features = shape
    units = layer.units
    streams = ["dropout", "recurrent_dropout", "weight_dropout", "zoneout", "zoneout_cell"]
    shapes = [(batch, 1, features), (batch, units), (units, layer.gates * units),
              (batch, steps, units), (batch, steps, units)]  # fmt: skip
    found = []
    for number, (name, own) in enumerate(zip(streams, shapes, strict=True)):
        rate = getattr(layer, name, 0.0)
        rate = rate(key.step if key else 2**32 - 1) if callable(rate) else rate
        zoned = name.startswith("zoneout")
        if key is None:
            found.append(1 - rate if zoned else 1.0)
            continue
        offset = 0 if name == "weight_dropout" else row_offset * int(np.prod(own[1:]))
        here = key.at(stream=key.stream + number)
        mask = Mask(own, rate, key=here, offset=offset)
        found.append(mask.to_bool() * (1.0 if zoned else mask.scale))
    return found


def reference(layer, x, state=None, key=None, row_offset=0, lengths=None):
    """Outputs of all steps and the last state, a sequence and a step at a time."""
    p = layer.params
    kernel, recurrent = p["weight"], p["recurrent_weight"]
    batch, steps, _ = x.shape
    units, gates = layer.units, layer.gates
    of_x, of_h, of_w, zone_h, zone_c = masks_of(layer, x.shape, key, row_offset)
    of_h = np.broadcast_to(of_h, (batch, units))
    zone_h, zone_c = (np.broadcast_to(zone, (batch, steps, units)) for zone in (zone_h, zone_c))
    bias = p.get("bias", np.zeros((2, gates * units) if layer.cell == "gru" else gates * units))
    h, c = np.zeros((batch, units)), np.zeros((batch, units))
    if state is not None:
        given = leaves(state)
        h, c = given[0].copy(), given[-1].copy()
    y = np.zeros((batch, steps, units))
    x, recurrent = x * of_x, recurrent * of_w
    lengths = [steps] * batch if lengths is None else lengths
    for b in range(batch):
        valid = range(lengths[b])
        for t in reversed(valid) if layer.reverse else valid:
            a, q = x[b, t] @ kernel, (h[b] * of_h[b]) @ recurrent
            if layer.cell == "lstm":
                i, f, g, o = np.split(a + q + bias, 4)
                c_new = sigmoid(f) * c[b] + sigmoid(i) * np.tanh(g)
                h_new = sigmoid(o) * np.tanh(c_new)
                c[b] = zone_c[b, t] * c_new + (1 - zone_c[b, t]) * c[b]
            elif layer.cell == "gru":
                (az, ar, an), (qz, qr, qn) = np.split(a + bias[0], 3), np.split(q + bias[1], 3)
                z, r = sigmoid(az + qz), sigmoid(ar + qr)
                h_new = (1 - z) * np.tanh(an + r * qn) + z * h[b]
            else:
                a = a + q + bias
                h_new = np.tanh(a) if layer.cell == "tanh" else np.maximum(a, 0)
            h[b] = zone_h[b, t] * h_new + (1 - zone_h[b, t]) * h[b]
            y[b, t] = h[b]
    return (y if layer.return_sequences else h), ([h, c] if layer.cell == "lstm" else [h])


OPTIONS = {
    "plain": {},
    "no bias": {"use_bias": False},
    "reverse": {"reverse": True},
    "dropout": {"dropout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "weight_dropout": {"weight_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "zoneout_cell": {"zoneout_cell": 0.3},
    "all": {
        "dropout": 0.2,
        "recurrent_dropout": 0.3,
        "weight_dropout": 0.4,
        "zoneout": 0.3,
        "zoneout_cell": 0.2,
        "reverse": True,
    },
    "all dropped": {"recurrent_dropout": 1.0, "weight_dropout": 1.0, "zoneout": 0.0},
    "frozen": {"zoneout": 1.0},
}

CASES = [
    (cell, name) for cell in CELLS for name in OPTIONS if cell == "lstm" or name != "zoneout_cell"
]


def options_of(cell, name):
    return {k: v for k, v in OPTIONS[name].items() if k != "zoneout_cell" or cell == "lstm"}


@pytest.mark.parametrize(("cell", "name"), CASES)
@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "key"])
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_forward_is_the_reference(cell, name, key, ragged):
    layer = built(layer_of(cell, 37, return_sequences=True, **options_of(cell, name)), None, 5)
    x, state = normal(9, 6, 5, seed=2), some_state(layer, 9)
    lengths = np.array([6, 0, 3, 1, 6, 2, 5, 4, 1]) if ragged else None
    y, last, _ = layer.forward_from(x, state, key=key, row_offset=2, lengths=lengths)
    want, want_last = reference(layer, x, state, key, 2, lengths)
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-13)
    assert len(leaves(last)) == len(want_last)
    for part, want_part in zip(leaves(last), want_last, strict=True):
        np.testing.assert_allclose(part, want_part, rtol=1e-12, atol=1e-13)
    layer.return_sequences = False
    final = layer.forward_from(x, state, key=key, row_offset=2, lengths=lengths)[0]
    assert np.array_equal(final, leaves(last)[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("batch", "steps", "features", "units"),
    [(1, 1, 1, 1), (64, 3, 20, 33), (7, 5, 3, 16), (13, 2, 40, 70), (5, 3, 9, 130), (3, 2, 4, 300)],
)
def test_sizes_on_every_instruction_set(isa, cell, dtype, batch, steps, features, units):
    layer = layer_of(cell, units, return_sequences=True, dropout=0.1, recurrent_dropout=0.3,
                     weight_dropout=0.2, zoneout=0.1)  # fmt: skip
    layer = built(layer, None, features, dtype=dtype)
    x = normal(batch, steps, features, dtype=dtype, seed=2)
    y, backward = layer.forward(x, key=KEY)
    assert y.dtype == dtype
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    double = copy.deepcopy(layer)
    for name, array in double.params.items():
        double._params[name] = array.astype(np.float64)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, reference(layer, wide, key=KEY)[0], atol=tolerance)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    found = backward(dy)
    want = double.forward(wide, key=KEY)[1](dy.astype(np.float64))
    np.testing.assert_allclose(found[0], want[0], atol=10 * tolerance)
    for name, gradient in want[1].items():
        size = max(1.0, np.abs(gradient).max())
        np.testing.assert_allclose(found[1][name], gradient, atol=10 * tolerance * size)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("units", [16, 37])
def test_cells_have_the_same_bits_on_every_instruction_set(cell, units):
    layer = layer_of(cell, units, return_sequences=True, zoneout=0.3)
    width = layer.gates * units
    layer = built(layer, None, width, dtype=np.float32)
    layer.params["weight"][...] = np.eye(width)  # products that round nothing
    layer.params["recurrent_weight"][...] = 0
    x = 3 * normal(5, 4, width, dtype=np.float32, seed=2)
    found, before = [], dropcore.build_info()["isa"]
    try:
        for name in dropcore.build_info()["isas"]:
            _core.set_isa(name)
            y, backward = layer.forward(x, key=KEY)
            found.append((y, backward(np.ones_like(y))[0]))
    finally:
        _core.set_isa(before)
    assert len(found) > 1
    for y, dx in found[1:]:
        assert np.array_equal(y, found[0][0])
        assert np.array_equal(dx, found[0][1])


# --- gradients -----------------------------------------------------------------------------------


def check_gradients(layer, x, state, key, lengths=None):
    """Of outputs and last state, with respect to x, the first state and every parameter."""
    y, last, backward = layer.forward_from(x, state, key=key, lengths=lengths)
    of_y = normal(*y.shape, seed=3)
    of_last = [normal(*part.shape, seed=4) for part in leaves(last)]
    shaped = iter(of_last)
    dlast = same_form(last, shaped)

    def f():
        y, last, _ = layer.forward_from(x, state, key=key, lengths=lengths)
        terms = zip(leaves(last), of_last, strict=True)
        return float((y * of_y).sum() + sum((a * b).sum() for a, b in terms))

    dx, grads, dfirst = backward(of_y, dlast)
    np.testing.assert_allclose(dx, differences(f, x), rtol=1e-6, atol=2e-8)
    for part, array in zip(leaves(dfirst), leaves(state), strict=True):
        np.testing.assert_allclose(part, differences(f, array), rtol=1e-6, atol=2e-8)
    assert grads.keys() == layer.params.keys()
    for name, weight in layer.params.items():
        assert np.asarray(grads[name]).shape == weight.shape
        np.testing.assert_allclose(grads[name], differences(f, weight), rtol=1e-6, atol=2e-8)
    return dx, grads, dfirst


def same_form(state, parts):
    if isinstance(state, np.ndarray):
        return next(parts)
    if isinstance(state, dict):
        return {name: same_form(part, parts) for name, part in state.items()}
    return tuple(same_form(part, parts) for part in state)


@pytest.mark.parametrize(("cell", "name"), CASES)
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
def test_gradients_equal_finite_differences(cell, name, sequences):
    options = options_of(cell, name)
    layer = built(layer_of(cell, 5, return_sequences=sequences, **options), None, 4)
    x, state = normal(4, 3, 4, seed=2), some_state(layer, 4)
    dx, grads, dfirst = check_gradients(layer, x, state, KEY)
    if name not in ("frozen", "all dropped"):
        assert all(np.abs(array).max() > 1e-3 for array in [dx, *grads.values(), *leaves(dfirst)])
    if name == "all dropped":
        assert not np.asarray(grads["recurrent_weight"]).any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["plain", "all"])
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
def test_gradients_of_ragged_batches(cell, name, sequences):
    layer = built(layer_of(cell, 5, return_sequences=sequences, **options_of(cell, name)), None, 3)
    x, state = normal(5, 4, 3, seed=2), some_state(layer, 5)
    lengths = np.array([4, 0, 1, 3, 2])
    dx, _, dfirst = check_gradients(layer, x, state, KEY, lengths)
    for b, length in enumerate(lengths):
        assert not dx[b, length:].any()
        assert length == 0 or dx[b, :length].any()
    assert leaves(dfirst)[0][1].any()  # no valid step: the gradient of the state goes through


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_without_key_are_those_of_the_expectation(cell):
    layer = built(layer_of(cell, 4, zoneout=0.3, dropout=0.5, return_sequences=True), None, 3)
    check_gradients(layer, normal(3, 4, 3, seed=2), some_state(layer, 3), None)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
def test_gradients_of_both_directions(merge, cell, sequences):
    inner = layer_of(cell, 3, return_sequences=sequences, recurrent_dropout=0.3, zoneout=0.2)
    layer = built(Bidirectional(inner, merge), None, 4)
    state = {"forward": some_state(inner, 3), "backward": some_state(inner, 3, seed=17)}
    check_gradients(layer, normal(3, 4, 4, seed=2), state, KEY, np.array([4, 2, 3]))


def test_both_directions_are_two_layers():
    layer = built(Bidirectional(LSTM(3, return_sequences=True)), None, 4)
    x = normal(2, 5, 4, seed=2)
    forward, backward = layer.branches
    assert (forward.reverse, backward.reverse) == (False, True)
    y = layer(x)
    assert np.array_equal(y[..., :3], forward(x))
    # The other one as a layer that reads forward what is turned round.
    other = LSTM(3, return_sequences=True)
    other.build((None, 4), key=1, dtype=x.dtype)
    for name, array in other.params.items():
        array[...] = backward.params[name]
    np.testing.assert_allclose(y[..., 3:], other(x[:, ::-1])[:, ::-1], rtol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_nan_stays_from_its_step_on(cell):
    layer = built(layer_of(cell, 3, return_sequences=True), None, 4)
    x = normal(2, 5, 4, seed=2)
    x[0, 2] = np.nan
    y = layer(x)
    assert np.isnan(y[0, 2:]).all()
    assert np.isfinite(y[0, :2]).all()
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_the_padding_may_hold_anything(cell):
    layer = built(layer_of(cell, 3), None, 4)
    x, lengths = normal(2, 5, 4, seed=2), np.array([3, 5])
    x[0, 3:] = np.nan
    y, backward = layer.forward(x, lengths=lengths)
    dx, grads = backward(np.ones_like(y))
    assert all(np.isfinite(array).all() for array in (y, dx, *grads.values()))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_for_an_update_are_the_same(cell):
    layer = built(layer_of(cell, 9, recurrent_dropout=0.3, weight_dropout=0.3), None, 4)
    x = normal(6, 5, 4, seed=2)
    y, backward = layer.forward(x, key=KEY)
    dy = normal(*y.shape, seed=3)
    dx, grads = backward(dy)
    none, other = backward(dy, input_gradient=False, for_update=True)
    assert dx is not None
    assert none is None
    for name, gradient in grads.items():
        assert isinstance(gradient, np.ndarray)
        assert np.array_equal(np.asarray(other[name]), gradient)


# --- the same numbers however it is run ----------------------------------------------------------


ALL = {"dropout": 0.2, "recurrent_dropout": 0.3, "weight_dropout": 0.2, "zoneout": 0.2}


def run(layer, x, row_offset=0, lengths=None):
    y, last, backward = layer.forward_from(x, key=KEY, row_offset=row_offset, lengths=lengths)
    dy = normal(row_offset + len(x), *y.shape[1:], dtype=x.dtype, seed=3)[row_offset:]
    dx, grads, dfirst = backward(dy)
    return [y, *leaves(last), dx, *leaves(dfirst)], [grads[name] for name in sorted(grads)]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_do_not_change_a_bit(threads, assert_team, cell, dtype):
    layer = built(layer_of(cell, 70, return_sequences=True, **ALL), None, 30, dtype=dtype)
    x = normal(150, 9, 30, dtype=dtype, seed=2)
    lengths = np.random.default_rng(5).integers(0, 10, 150)
    found = run(layer, x, lengths=lengths)
    layer.forward(x)
    assert_team()
    dropcore.set_num_threads(1)
    want = run(layer, x, lengths=lengths)
    dropcore.set_num_threads(threads)
    for i in range(2):
        assert all(np.array_equal(*pair) for pair in zip(found[i], want[i], strict=True))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("cut", [1, 4, 6, 19])
def test_a_cut_batch_is_the_whole(cell, cut):
    layer = built(layer_of(cell, 33, return_sequences=True, **ALL), None, 7, dtype=np.float32)
    x, lengths = normal(20, 5, 7, dtype=np.float32, seed=2), np.arange(20) % 6
    arrays, grads = run(layer, x, lengths=lengths)
    first, first_grads = run(layer, x[:cut], lengths=lengths[:cut])
    second, second_grads = run(layer, x[cut:], row_offset=cut, lengths=lengths[cut:])
    for whole, a, b in zip(arrays, first, second, strict=True):
        assert np.array_equal(whole, np.concatenate((a, b)))
    for whole, a, b in zip(grads, first_grads, second_grads, strict=True):
        np.testing.assert_allclose(whole, a + b, rtol=1e-4, atol=1e-4)


def test_a_batch_larger_than_a_thread_takes_at_once():
    layer = built(GRU(5, return_sequences=True, **ALL), None, 3)
    x, threads = normal(700, 2, 3, seed=2), dropcore.get_num_threads()
    dropcore.set_num_threads(1)
    try:
        arrays, _ = run(layer, x)
        pieces = [run(layer, x[row : row + 50], row_offset=row)[0] for row in range(0, 700, 50)]
    finally:
        dropcore.set_num_threads(threads)
    for i, whole in enumerate(arrays):
        assert np.array_equal(whole, np.concatenate([piece[i] for piece in pieces]))


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_carried_over_two_halves_is_one_run(cell):
    layer = built(
        layer_of(cell, 9, return_sequences=True, dropout=0.3, recurrent_dropout=0.4), None, 5
    )
    x, state = normal(4, 8, 5, seed=2), some_state(layer, 4)
    y, last, backward = layer.forward_from(x, state, key=KEY)
    y0, between, back0 = layer.forward_from(x[:, :3], state, key=KEY)
    y1, last1, back1 = layer.forward_from(x[:, 3:], between, key=KEY)
    assert np.array_equal(y, np.concatenate((y0, y1), 1))
    assert all(np.array_equal(*pair) for pair in zip(leaves(last), leaves(last1), strict=True))
    dy = normal(*y.shape, seed=3)
    dx, grads, dfirst = backward(dy)
    dx1, grads1, dbetween = back1(dy[:, 3:])
    dx0, grads0, dfirst0 = back0(dy[:, :3], dbetween)
    np.testing.assert_allclose(np.concatenate((dx0, dx1), 1), dx, rtol=1e-12)
    for ours, theirs in zip(leaves(dfirst), leaves(dfirst0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, grads0[name] + grads1[name], rtol=1e-10, atol=1e-13)


def test_a_call_changes_nothing_it_was_given():
    layer = built(LSTM(6, return_sequences=True, recurrent_dropout=0.5), None, 4)
    x, state = normal(3, 5, 4, seed=2), some_state(layer, 3)
    held = [x, *state, *layer.params.values()]
    before = [array.copy() for array in held]
    for array in held:
        array.flags.writeable = False
    y, _, backward = layer.forward_from(x, state, key=KEY)
    first = backward(y)
    again = backward(y)
    assert np.array_equal(first[0], again[0])
    assert all(np.array_equal(*pair) for pair in zip(held, before, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_any_strides(cell):
    layer = built(layer_of(cell, 6, return_sequences=True), None, 4)
    x = normal(5, 3, 4, seed=2)
    odd = np.ones((3, 5, 8))[..., ::2].transpose(1, 0, 2)
    odd[...] = x
    y, backward = layer.forward(odd)
    want, want_backward = layer.forward(x)
    assert np.array_equal(y, want)
    dy = normal(*y.shape[::-1], seed=3).T
    assert np.array_equal(backward(dy)[0], want_backward(np.ascontiguousarray(dy))[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("batch", "steps"), [(0, 4), (3, 0), (0, 0)])
@pytest.mark.parametrize("sequences", [False, True], ids=["last", "sequences"])
def test_nothing_to_do(cell, batch, steps, sequences):
    layer = built(layer_of(cell, 5, return_sequences=sequences, **ALL), None, 4)
    x, state = normal(batch, steps, 4), some_state(layer, batch)
    y, last, backward = layer.forward_from(x, state, key=KEY, lengths=np.zeros(batch, np.int64))
    assert y.shape == ((batch, steps, 5) if sequences else (batch, 5))
    assert all(np.array_equal(*pair) for pair in zip(leaves(last), leaves(state), strict=True))
    dy = normal(*y.shape, seed=3)
    for for_update in (False, True):
        dx, grads, dfirst = backward(dy, for_update=for_update)
        assert dx.shape == x.shape
        assert not any(np.asarray(gradient).any() for gradient in grads.values())
        if not sequences:
            assert np.array_equal(leaves(dfirst)[0], dy)


# --- what the options mean -----------------------------------------------------------------------


def test_rates_may_follow_the_step():
    layer = built(
        LSTM(8, recurrent_dropout=lambda step: min(0.1 * step, 1.0), zoneout=lambda _: 0.2), None, 4
    )
    fixed = built(LSTM(8, recurrent_dropout=0.1 * 3, zoneout=0.2), None, 4)
    x = normal(5, 6, 4, seed=2)
    assert np.array_equal(layer(x, KEY), fixed(x, KEY))
    assert np.array_equal(layer(x), fixed(x))
    bad = built(GRU(8, dropout=lambda step: step / 2), None, 4)
    assert bad(x, Key(1, step=1)).shape == bad(x).shape == (5, 8)
    with pytest.raises(
        ValueError,
        match=r"GRU: dropout, step 3: rate is the fraction dropped, in \[0, 1\], got 1.5",
    ):
        bad(x, KEY)


def test_each_kind_of_noise_has_its_own_site():
    model = Sequential([LSTM(6, return_sequences=True, dropout=0.3), GRU(5, zoneout=0.3), Dense(2)])
    model = built(model, None, 4)
    assert [layer.n_streams for layer in model.layers] == [5, 4, 0]
    x = normal(3, 4, 4, seed=2)
    inner = model[0](x, KEY)
    want = model[2](model[1](inner, KEY.at(stream=KEY.stream + 5)))
    assert np.array_equal(model(x, KEY), want)
    both = Bidirectional(LSTM(6, dropout=0.3))
    assert both.n_streams == 10


def test_the_gates_of_zoneout_take_the_new_c_that_was_not_kept():
    layer = built(LSTM(4, zoneout_cell=1.0, return_sequences=True), None, 3)
    x, state = normal(2, 5, 3, seed=2), some_state(layer, 2)
    y, (_, c), _ = layer.forward_from(x, state, key=KEY)
    assert np.array_equal(c, state[1])
    assert np.abs(y - leaves(state)[0][:, None]).max() > 0.1


def test_bias_and_initial_weights():
    layer = LSTM(8)
    layer.build((None, 3), key=1)
    bias = layer.params["bias"]
    assert bias.dtype == np.float32
    assert np.array_equal(bias, np.repeat([0, 1, 0, 0], 8))
    for gate in np.split(layer.params["recurrent_weight"], 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(8), atol=1e-6)
    plain = LSTM(8, unit_forget_bias=False)
    plain.build((None, 3), key=1)
    assert not plain.params["bias"].any()
    gru = GRU(8)
    gru.build((None, 3), key=1)
    assert gru.params["bias"].shape == (2, 24)
    assert LSTM(8, use_bias=False).params.keys() == set()


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(3),
        LSTM(3, zoneout_cell=0.2, unit_forget_bias=False, return_sequences=True, dropout=0.5),
        GRU(3, recurrent_dropout=0.25, reverse=True, recurrent_initializer="glorot_uniform"),
        SimpleRNN(3, activation="relu", zoneout=0.1, use_bias=False),
        LSTM(3, constraint=MaxNorm(2.0), recurrent_constraint=MaxNorm(1.0)),
        LSTM(3, recurrent_dropout=Linear(0.5, 0.0, 10), recurrent_regularizer=L2(0.1)),
        Bidirectional(GRU(3, weight_dropout=0.5), "sum"),
    ],
    ids=repr,
)
def test_layers_are_written_down_and_rebuilt(layer):
    again = eval(repr(layer), {**vars(dropcore.nn), "MaxNorm": MaxNorm, "Linear": Linear, "L2": L2})
    assert repr(again) == repr(layer)
    assert repr(type(layer).from_config(layer.to_config())) == repr(layer)
    x = normal(2, 3, 4, seed=2)
    layer = built(layer, None, 4)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(other(x, KEY), layer(x, KEY))
    assert layer.output_shape((3, 4)) == layer(x).shape[1:]
    assert all(name in layer.params for name in (*layer.constraints, *layer.regularizers))


def test_the_summary_names_the_noise():
    model = Sequential([LSTM(3, recurrent_dropout=0.25, return_sequences=True), GRU(2)])
    assert "recurrent_dropout 0.25" in str(model.summary((7, 4)))


def test_training_a_stack_lowers_the_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 7, 3)).astype(np.float32)
    labels = (x[:, :, 0].sum(1) > 0).astype(np.int64)
    model = Sequential(
        [
            Bidirectional(LSTM(12, return_sequences=True, recurrent_dropout=0.1)),
            GRU(12, weight_dropout=0.1, zoneout=0.05, recurrent_constraint=MaxNorm(3.0)),
            Dense(2),
        ]
    )
    lengths = rng.integers(5, 8, 96)
    history = model.fit(
        x, labels, epochs=12, batch_size=32, optimizer=SGD(0.3, momentum=0.9), key=3,
        progress=False, lengths=lengths,
    )  # fmt: skip
    assert history["loss"][-1] < 0.6 * history["loss"][0]


WRONG = [
    (lambda: LSTM(0), ValueError, "LSTM: units must be a positive integer, got 0"),
    (lambda: GRU(2.5), TypeError, "GRU: units must be a positive integer, got 2.5"),
    (lambda: GRU(2, zoneout_cell=0.1), TypeError, "zoneout_cell"),
    (
        lambda: LSTM(2, dropout=1.5),
        ValueError,
        r"LSTM: dropout: rate is the fraction dropped, .* got 1.5",
    ),
    (lambda: LSTM(2, zoneout_cell=-1), ValueError, "LSTM: zoneout_cell: rate is the fraction"),
    (lambda: LSTM(2, zoneout=float("nan")), ValueError, "LSTM: zoneout: rate is the fraction"),
    (
        lambda: LSTM(2, recurrent_dropout="x"),
        TypeError,
        "recurrent_dropout: rate must be a number in",
    ),
    (lambda: SimpleRNN(2, activation="gelu"), ValueError, "'tanh' or 'relu', got 'gelu'"),
    (lambda: GRU(2, initializer="no"), ValueError, "GRU: initializer must be .*, got 'no'"),
    (lambda: GRU(2)(normal(2, 3, 4)), ValueError, "no weights yet: call build"),
    (lambda: GRU(2).build((3,), key=0), ValueError, r"samples of shape \(time, in_features\), got"),
    (
        lambda: built(GRU(2), None, 4)(normal(2, 3, 5)),
        ValueError,
        r"\(batch, time, 4\), got \(2, 3, 5\)",
    ),
    (lambda: built(GRU(2), None, 4)(normal(2, 4)), ValueError, r"\(batch, time, 4\), got \(2, 4\)"),
    (lambda: built(GRU(2), None, 4)([[1.0]]), TypeError, "expects an array, got list"),
    (
        lambda: built(GRU(2), None, 4)(normal(2, 3, 4, dtype=np.float32)),
        TypeError,
        "float64 weights and expects x of that dtype, got float32",
    ),
    (
        lambda: built(GRU(2), None, 4)(normal(2, 3, 4), lengths=[1, 2, 3]),
        ValueError,
        r"lengths of shape \(2,\), one for each sequence, got \(3,\)",
    ),
    (
        lambda: built(GRU(2), None, 4)(normal(2, 3, 4), lengths=[1, 4]),
        ValueError,
        r"lengths in \[0, 3\], got 1 ... 4",
    ),
    (
        lambda: built(GRU(2), None, 4)(normal(2, 3, 4), lengths=[1.0, 2.0]),
        TypeError,
        "lengths of integers, got float64",
    ),
    (
        lambda: built(LSTM(2), None, 4).forward_from(normal(2, 3, 4), np.zeros((2, 2))),
        ValueError,
        r"a state h and c of shape \(2, 2\) and float64, got",
    ),
    (
        lambda: built(GRU(2), None, 4).forward_from(normal(2, 3, 4), np.zeros((3, 2))),
        ValueError,
        r"a state h of shape \(2, 2\) and float64, got \(3, 2\) of float64",
    ),
    (
        lambda: built(GRU(2), None, 4).forward(normal(2, 3, 4))[1](np.zeros((2, 3))),
        ValueError,
        r"dy must have the shape of the output, \(2, 2\) of float64, got \(2, 3\)",
    ),
    (
        lambda: built(Bidirectional(GRU(2)), None, 4).forward_from(
            normal(2, 3, 4), np.zeros((2, 2))
        ),
        ValueError,
        r"expects state to be a dict with the states of the layers 'forward', 'backward', got",
    ),
    (lambda: Bidirectional(Dense(2)), TypeError, "takes a recurrent layer, got Dense"),
    (lambda: Bidirectional(GRU(2), "max"), ValueError, "'sum', 'mean', got 'max'"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()

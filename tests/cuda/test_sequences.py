"""Recurrent layers, embeddings and maxout on CuPy arrays: the numbers of the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from dropcore import Mask
from dropcore._backends.cuda.products import positions
from dropcore._backends.gradients import BlockGradient
from dropcore._ops.recurrent import GATES, RecurrentOp
from dropcore.nn import GRU, LSTM, Bidirectional, Embedding, EmbeddingDropout, Maxout, Sequential
from dropcore.nn.embedding_dropout import word_mask
from dropcore.optim import Adam
from dropcore.updates import adam_, dense, global_norm, sgd_
from support import host_cupy
from support.arrays import CLOSE, on_host
from support.layers import KEY, batches, built, leaves, mapped

DTYPES = [np.float32, np.float64]


def close_on(gpu, found, wanted, dtype):
    assert isinstance(found, gpu.ndarray)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(on_host(found), wanted, **CLOSE[dtype])


# ---- the recurrence ----


def masks(cell, batch, steps, features, units):
    """All kinds of noise at once."""
    found = {
        "x_mask": Mask((batch, 1, features), 0.3, key=KEY),
        "state_mask": Mask((batch, units), 0.4, key=KEY.at(stream=4), offset=7),
        "weight_mask": Mask((units, GATES[cell] * units), 0.2, key=KEY.at(stream=5)),
        "zoneout": Mask((batch, steps, units), 0.3, key=KEY.at(stream=6), offset=5),
    }
    if cell == "lstm":
        found["zoneout_cell"] = Mask((batch, steps, units), 0.2, key=KEY.at(stream=7))
    return found


def expectations(cell, *_):
    return {"zoneout": 0.7} | ({"zoneout_cell": 0.6} if cell == "lstm" else {})


def alone(name):
    return lambda cell, *shape: {k: v for k, v in masks(cell, *shape).items() if k == name}


NOISES = {
    "none": lambda *_: {}, "all": masks, "expectations": expectations,
    "state_mask": alone("state_mask"), "zoneout": alone("zoneout"),
    "zoneout_cell": alone("zoneout_cell"),
}  # fmt: skip


def recurrent_step(put, cell, arrays, noise, sequences, **how):
    """y, the last state, and all gradients of a step."""
    x, kernel, recurrent, bias, state, dy, dstate = arrays
    state, dstate = (tuple(map(put, parts)) for parts in (state, dstate))
    step = RecurrentOp(
        cell, put(x), put(kernel), put(recurrent), None if bias is None else put(bias), state,
        sequences=sequences, **noise, **how,
    )  # fmt: skip
    dx, (dkernel, drecurrent, dbias), dfirst = step.backward(
        put(dy if sequences else dy[:, 0].copy()), dstate
    )
    last = [part.copy() for part in step.state]
    grads = [dkernel, drecurrent, *([] if dbias is None else [dbias])]
    return [step.y, *last, dx, *grads, *dfirst]


def recurrent_arrays(cell, batch, steps, features, units, dtype, seed=2):
    rng, width = np.random.default_rng(seed), GATES[cell] * units
    bias = (2, width) if cell == "gru" else (width,)
    shapes = [(batch, steps, features), (features, width), (units, width), bias]
    x, kernel, recurrent, bias = ((0.5 * rng.normal(size=s)).astype(dtype) for s in shapes)
    recurrent /= dtype(units**0.5)  # what feeds itself must not grow
    parts = 2 if cell == "lstm" else 1
    state, dstate = (
        tuple(rng.normal(size=(batch, units)).astype(dtype) for _ in range(parts)) for _ in range(2)
    )
    dy = rng.normal(size=(batch, steps, units)).astype(dtype)
    return x, kernel, recurrent, bias, state, dy, dstate


def same_step(gpu, cell, batch, steps, units, dtype, noise, sequences=True, bias=True, **how):
    arrays = recurrent_arrays(cell, batch, steps, 3, units, dtype)
    if not bias:
        arrays = (*arrays[:3], None, *arrays[4:])
    own = NOISES[noise](cell, batch, steps, 3, units)
    wanted = recurrent_step(np.copy, cell, arrays, own, sequences, **how)
    found = recurrent_step(gpu.asarray, cell, arrays, own, sequences, **how)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        close_on(gpu, a, b, dtype)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 31, 33, 64])
def test_cells_of_odd_sizes(gpu, cell, dtype, units):
    for noise in ("none", "all"):
        same_step(
            gpu, cell, 9, 4, units, dtype, noise, lengths=np.array([4, 0, 1, 3, 4, 2, 0, 4, 1])
        )


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_cells(gpu, cell, noise):
    for reverse in (False, True):
        for lengths in (None, np.array([3, 5, 0, 1]), np.zeros(4, np.int64)):
            how = {"reverse": reverse, "lengths": lengths}
            same_step(gpu, cell, 4, 5, 7, np.float64, noise, **how)
            same_step(gpu, cell, 4, 5, 7, np.float64, noise, False, bias=False, **how)


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("batch", "steps"), [(0, 3), (1, 3), (257, 1), (3, 0)])
def test_batches_of_odd_sizes(gpu, cell, batch, steps):
    for sequences in (False, True) if steps else (True,):
        same_step(gpu, cell, batch, steps, 5, np.float32, "all", sequences)


@pytest.mark.parametrize("cell", GATES)
def test_a_cell_takes_one_kernel_a_step_and_waits_for_nothing(host, cell):
    arrays = recurrent_arrays(cell, 4, 6, 3, 5, np.float32)
    own = masks(cell, 4, 6, 3, 5)
    lengths = np.array([6, 2, 0, 5])
    waits, before = host_cupy.waits, len(host_cupy.launches)
    recurrent_step(host.asarray, cell, arrays, own, True, lengths=lengths)
    assert host_cupy.waits == waits
    launched = host_cupy.launches[before:]
    assert launched.count("step_forward") == launched.count("step_backward") == 6
    assert launched.count("finish_backward") == 1


def test_what_is_behind_the_end_may_be_anything(gpu):
    x, *arrays = recurrent_arrays("lstm", 3, 4, 3, 5, np.float64)
    lengths = np.array([2, 4, 0])
    x[0, 2:] = np.nan
    x[2] = np.inf
    wanted = recurrent_step(np.copy, "lstm", (x, *arrays), {}, True, lengths=lengths)
    found = recurrent_step(gpu.asarray, "lstm", (x, *arrays), {}, True, lengths=lengths)
    for a, b in zip(found, wanted, strict=True):
        assert np.isfinite(b).all()
        close_on(gpu, a, b, np.float64)


# ---- layers that carry a state ----


def test_a_state_is_where_the_weights_are(gpu):
    layer, x = built(LSTM(4), 5, 3), batches(LSTM(4), (5, 3))
    _, state, _ = layer.forward_from(x)
    other = copy.deepcopy(layer).to("cuda")
    with pytest.raises(ValueError, match=r"h and c of shape \(6, 4\) and float64 on the GPU, got"):
        other.forward_from(gpu.asarray(x), state)
    with pytest.raises(ValueError, match=r"float64, got \(6, 4\) of float64 on the GPU"):
        layer.forward_from(x, mapped(state, gpu.asarray))
    assert len(leaves(state)) == 2


def test_lengths_stay_on_the_host(gpu):
    layer, x = built(GRU(4), 5, 3).to("cuda"), batches(GRU(4), (5, 3))
    with pytest.raises(TypeError, match=r"lengths on the host.*cupy\.asnumpy\(lengths\)"):
        layer(gpu.asarray(x), lengths=gpu.asarray(np.full(6, 2)))
    with pytest.raises(ValueError, match=r"lengths in \[0, 5\], got 2 \.\.\. 6"):
        layer(gpu.asarray(x), lengths=[2, 3, 6, 2, 2, 2])


def test_a_network_of_sequences_waits_for_nothing(host):
    model = Sequential(
        [EmbeddingDropout(Embedding(11, 4), 0.3), Bidirectional(LSTM(3, dropout=0.2)), Maxout(2)]
    )
    model = built(model, 5, dtype=np.float32).to("cuda")
    words = batches(model, (5,))
    for x in (words, host.asarray(words)):
        waits = host_cupy.waits
        y, backward = model.forward(x, key=KEY, lengths=np.array([5, 1, 0, 2, 5, 3]))
        backward(y, for_update=True)
        backward(y)
        assert host_cupy.waits == waits


@pytest.mark.usefixtures("products_in_graphs")
def test_sequences_in_a_graph(gpu):
    rng = np.random.default_rng(2)
    words, classes = rng.integers(0, 11, (70, 5)), rng.integers(0, 4, 70)
    model = Sequential(
        [
            EmbeddingDropout(Embedding(11, 4, padding_index=0), 0.3),
            LSTM(5, return_sequences=True, dropout=0.2, zoneout=0.1),
            GRU(6, recurrent_dropout=0.3, weight_dropout=0.2),
            Maxout(4),
        ]
    )
    plain = built(model, 5, dtype=np.float32).to("cuda")
    replayed = copy.deepcopy(plain)
    how = {"epochs": 2, "batch_size": 16, "key": 3, "optimizer": Adam(1e-2), "progress": False}
    x, y = gpu.asarray(words), gpu.asarray(classes)
    wanted = plain.fit(x, y, **how)
    found = replayed.fit(x, y, cuda_graph=True, **how)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4)
    for name, weight in plain.params.items():
        np.testing.assert_allclose(on_host(replayed.params[name]), on_host(weight), 1e-3, 1e-5)


# ---- embeddings ----


def runs(kind, n):
    """Indices below 13 in runs of many lengths."""
    rng = np.random.default_rng(n)
    if kind == "one":
        return np.full(n, 7)
    if kind == "rare":
        return np.where(rng.uniform(size=n) < 0.9, 3, rng.integers(0, 13, n))
    return rng.integers(0, 13, n)


@pytest.mark.parametrize("kind", ["one", "rare", "any"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 128, 129, 255, 256, 257, 700])
def test_gradients_of_embeddings(gpu, kind, dtype, n):
    words = runs(kind, n)
    for width, padding in ((1, None), (5, 3), (33, 7)):
        layer = built(Embedding(13, width, padding_index=padding), dtype=dtype)
        other = copy.deepcopy(layer).to("cuda")
        dy = np.random.default_rng(1).normal(size=(n, width)).astype(dtype)
        y, backward = layer.forward(words)
        there, way_back = other.forward(gpu.asarray(words))
        close_on(gpu, there, y, dtype)
        wanted = backward(dy)[1]["weight"]
        for options in ({}, {"for_update": True}):
            dx, grads = way_back(gpu.asarray(dy), **options)
            assert dx is None
            close_on(gpu, dense(grads["weight"]), wanted, dtype)
        block = grads["weight"]
        assert isinstance(block, BlockGradient)
        assert global_norm([block]) == pytest.approx(global_norm([wanted]), rel=1e-6)


def test_updates_move_the_rows_that_are_there(gpu):
    words = np.array([[3, 3, 9], [0, 3, 12]])
    layer = built(Embedding(13, 5, padding_index=9), 3)
    dy = np.random.default_rng(1).normal(size=(2, 3, 5))

    def updated(layer, put):
        gradient = layer.forward(put(words))[1](put(dy), for_update=True)[1]["weight"]
        weight = layer.params["weight"]
        velocity, mean, square = (put(np.full(weight.shape, 0.1)) for _ in range(3))
        sgd_(weight, gradient, velocity, learning_rate=0.1, momentum=0.9, lazy=True)
        adam_(weight, gradient, mean, square, step=0, learning_rate=0.1)
        return weight, velocity, mean, square

    other = copy.deepcopy(layer).to("cuda")
    before = layer.params["weight"].copy()
    wanted = updated(layer, np.copy)
    for a, b in zip(updated(other, gpu.asarray), wanted, strict=True):
        close_on(gpu, a, b, np.float64)
    assert (wanted[1] == 0.1).all(axis=1).sum() == 10  # lazy: nothing moved but three rows
    assert not np.array_equal(before, wanted[0])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_indices_of_any_integers_from_host_and_device(gpu, kind):
    layer = built(EmbeddingDropout(Embedding(11, 4), 0.4), 3, dtype=np.float32)
    words = batches(layer, (3,)).astype(kind)
    other = copy.deepcopy(layer).to("cuda")
    wanted, backward = layer.forward(words, key=KEY, row_offset=2)
    gradient = dense(backward(wanted)[1]["embedding.weight"])
    strided = np.repeat(words, 2, axis=1)[:, ::2]
    for x in (words, gpu.asarray(words), gpu.asarray(np.repeat(words, 2, axis=1))[:, ::2], strided):
        y, way_back = other.forward(x, key=KEY, row_offset=2)
        close_on(gpu, y, wanted, np.float32)
        close_on(gpu, way_back(y)[1]["embedding.weight"], gradient, np.float32)


def test_an_index_that_is_not_there(gpu):
    layer = built(Embedding(11, 4, padding_index=2), dtype=np.float32)
    other = copy.deepcopy(layer).to("cuda")
    words = np.array([3, -1, 11, 2, 1 << 40, 3])
    with pytest.raises(ValueError, match=r"indices in \[0, 11\), got -1"):
        other(words)  # those of the host are looked at
    with pytest.raises(TypeError, match="takes integers, got float32"):
        other(gpu.asarray(words.astype(np.float32)))
    y, backward = other.forward(gpu.asarray(words))
    found = on_host(y)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True, False, True, False]
    np.testing.assert_array_equal(found[[0, 3]], [layer.params["weight"][3], np.zeros(4)])
    dy = gpu.asarray(np.ones((6, 4), np.float32))
    block = backward(dy, for_update=True)[1]["weight"]
    gradient = on_host(dense(block))
    wanted = np.zeros((11, 4), np.float32)
    wanted[3] = 2
    np.testing.assert_array_equal(gradient, wanted)
    assert global_norm([block]) == 4.0


def test_places_of_units(gpu):
    for size in (0, 1, 5, 257):
        for units in ([], [0], [0, 0, 3, 4, 4, 4, 256], list(range(0, 300, 3))):
            found = on_host(positions(np.array(units, np.int64), size))
            assert found.tolist() == [units.index(u) if u in units else -1 for u in range(size)]


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257])
def test_masks_of_words(gpu, mode, n):
    words = np.random.default_rng(3).integers(0, 5000, (n, 3))
    for keep in (0.0, 0.3, 1.0):
        how = {"keep": keep, "key": KEY, "row_offset": 1 << 30, "mode": mode}
        wanted = word_mask(words, 5000, **how)
        found = word_mask(gpu.asarray(words), 5000, **how)
        assert found.scale == wanted.scale
        kept = found.to_bool()
        assert isinstance(kept, gpu.ndarray)
        np.testing.assert_array_equal(on_host(kept), wanted.to_bool())


# ---- maxout ----


def test_the_first_of_equal_pieces_takes_the_gradient(gpu):
    layer = built(Maxout(3, pieces=4), 2, dtype=np.float32)
    for weight in layer.params.values():
        weight[...] = 1
    other = copy.deepcopy(layer).to("cuda")
    x = np.array([[1, 2], [np.nan, 1]], np.float32)
    y, backward = layer.forward(x)
    there, way_back = other.forward(gpu.asarray(x))
    np.testing.assert_array_equal(on_host(there), y)
    dy = np.ones((2, 3), np.float32)
    wanted, found = backward(dy), way_back(gpu.asarray(dy))
    assert wanted[1]["linear.bias"].tolist() == [2] * 3 + [0] * 9
    for name, gradient in wanted[1].items():
        np.testing.assert_array_equal(on_host(found[1][name]), gradient)

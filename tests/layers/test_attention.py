"""Attention layers and positions: formulas, masks, padded sequences, states."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.constraints import MaxNorm
from dropcore.nn import (
    CrossAttention,
    Dense,
    Dropout,
    DropPath,
    Embedding,
    GlobalAveragePool1D,
    Layer,
    LayerNorm,
    LearnedPositions,
    MultiHeadAttention,
    Residual,
    Sequential,
    SinusoidalPositions,
    load_state_dict,
    to_state_dict,
)
from dropcore.nn.initializers import Normal
from dropcore.optim import SGD
from dropcore.regularizers import L2
from support.arrays import normal
from support.differences import check_gradients, differences
from support.layers import built

KEY = Key(99, stream=4, step=6)
LENGTHS = np.array([6, 2, 0, 5])


def composed(layer, x, context=None, *, lengths=None, context_lengths=None, kept=None):
    """The formula of a layer, sample by sample and head by head."""
    weights = {name: array.astype(np.float64) for name, array in layer.params.items()}
    shared = layer.heads if layer.key_heads is None else layer.key_heads
    size = len(weights["output_weight"]) // layer.heads
    y = np.zeros(x.shape)
    for b, rows in enumerate(x):
        if context is None:
            valid = None if lengths is None else lengths[b]
            projected = rows @ weights["weight"] + weights.get("bias", 0)
            q, kv = np.split(projected, [layer.heads * size], axis=1)
        else:
            valid = None if context_lengths is None else context_lengths[b]
            q = rows @ weights["weight"] + weights.get("bias", 0)
            kv = context[b] @ weights["context_weight"] + weights.get("context_bias", 0)
        found = []
        for h in range(layer.heads):
            g = h // (layer.heads // shared)
            k = kv[:, g * size : (g + 1) * size]
            v = kv[:, (shared + g) * size : (shared + g + 1) * size]
            scores = q[:, h * size : (h + 1) * size] @ k.T / np.sqrt(size)
            seen = np.ones(scores.shape, bool)
            if context is None and layer.causal:
                seen = np.tri(*scores.shape, dtype=bool)
            if valid is not None:
                seen[:, valid:] = False
            top = np.exp(scores - scores.max(initial=0)) * seen
            total = top.sum(axis=1, keepdims=True)
            p = np.divide(top, total, out=np.zeros_like(top), where=total > 0)
            if kept is not None:
                p = p * kept[b, h] / layer.keep
            found.append(p @ v)
        y[b] = np.concatenate(found, axis=1) @ weights["output_weight"]
        y[b] += weights.get("output_bias", 0)
        if lengths is not None:
            y[b, lengths[b] :] = 0
    return y


# --- the formula ---------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"causal": True},
    {"key_heads": 2, "head_size": 5},
    {"key_heads": 1, "causal": True, "use_bias": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_layer_is_its_formula(options, lengths, dtype):
    layer = built(MultiHeadAttention(4, 0.4, **options), 6, 8, dtype=dtype)
    x = normal(4, 6, 8, seed=1).astype(dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    plain = layer(x, lengths=lengths)
    assert plain.dtype == dtype
    np.testing.assert_allclose(plain, composed(layer, x, lengths=lengths), **close)
    kept = Mask((4, 4, 6, 6), 0.4, key=KEY).to_bool()
    found = layer(x, KEY, lengths=lengths)
    np.testing.assert_allclose(found, composed(layer, x, lengths=lengths, kept=kept), **close)
    np.testing.assert_array_equal(layer.forward(x, key=KEY, lengths=lengths)[0], found)
    assert not np.array_equal(found, plain)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("key", [None, KEY])
def test_gradients_of_padded_sequences_equal_finite_differences(options, key):
    layer = built(MultiHeadAttention(4, 0.4, **options), 6, 8)
    check_gradients(layer, normal(4, 6, 8, seed=1), key, lengths=LENGTHS)


def test_a_step_gives_an_optimiser_products_that_are_not_computed_yet():
    layer = built(MultiHeadAttention(2, 0.1), 5, 6)
    y, backward = layer.forward(normal(3, 5, 6, seed=1), key=KEY)
    dx, grads = backward(y, input_gradient=False, for_update=True)
    assert dx is None
    assert {name: type(grad) for name, grad in grads.items()} == {
        "weight": ProductGradient, "output_weight": ProductGradient, "bias": np.ndarray,
        "output_bias": np.ndarray,
    }  # fmt: skip


def test_each_projection_is_drawn_for_its_own_shape():
    layer = MultiHeadAttention(8, key_heads=2, head_size=16)
    layer.build((10, 64), key=3)
    weight = layer.params["weight"]
    for part, heads in ((weight[:, :128], 8), (weight[:, 128:160], 2), (weight[:, 160:], 2)):
        bound = np.sqrt(6 / (64 + heads * 16))
        assert 0.97 * bound < abs(part).max() <= bound
    assert layer.params["output_weight"].shape == (128, 64)
    assert not layer.params["bias"].any()


# --- dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_shards_of_a_batch_draw_the_mask_of_the_whole(lengths):
    layer = built(MultiHeadAttention(2, 0.5, causal=True), 6, 4)
    x = normal(4, 6, 4, seed=2)
    whole = layer(x, KEY, lengths=lengths)
    for rows in (slice(0, 1), slice(1, 4)):
        own = None if lengths is None else lengths[rows]
        part = layer(x[rows], KEY, row_offset=rows.start, lengths=own)
        np.testing.assert_allclose(part, whole[rows], 1e-12, 1e-13)


def test_a_network_gives_each_attention_a_stream_of_its_own():
    first, second = MultiHeadAttention(2, 0.5), MultiHeadAttention(2, keep=0.25)
    model = Sequential([Dropout(0.0), first, Residual([second])])
    model.build((5, 4), key=1, dtype=np.float64)
    x = normal(3, 5, 4, seed=3)
    inside = first(x, KEY.at(stream=KEY.stream + 1))
    wanted = inside + second(inside, KEY.at(stream=KEY.stream + 2))
    np.testing.assert_array_equal(model(x, KEY), wanted)
    assert model.n_streams == 3


def test_rates_follow_a_schedule_and_change():
    layer = built(MultiHeadAttention(2, lambda step: 0.1 * step), 5, 4)
    same = built(MultiHeadAttention(2, 0.3), 5, 4)
    x = normal(3, 5, 4, seed=3)
    np.testing.assert_array_equal(layer(x, Key(7, step=3)), same(x, Key(7, step=3)))
    np.testing.assert_array_equal(layer(x, Key(7, step=0)), layer(x))
    same.keep = 0.8
    assert repr(same) == "MultiHeadAttention(2, keep=0.8)"
    assert same.rate == pytest.approx(0.2)


def test_without_a_rate_nothing_is_drawn():
    layer = built(MultiHeadAttention(2), 5, 4)
    assert (layer.rate, layer.keep, layer.noisy, layer.n_streams) == (0.0, 1.0, False, 1)
    x = normal(3, 5, 4, seed=3)
    np.testing.assert_array_equal(layer(x, KEY), layer(x))
    assert layer.mask((3, 5, 5), KEY) is None
    assert layer.notes((5, 4)) == []
    assert MultiHeadAttention(2, 0.1).notes((5, 4)) == ["keep 0.9 of the attention weights"]


def test_dropping_everything_leaves_the_bias():
    layer = built(MultiHeadAttention(2, 1.0), 5, 4)
    y, backward = layer.forward(normal(3, 5, 4, seed=3), key=KEY)
    np.testing.assert_array_equal(y, np.broadcast_to(layer.params["output_bias"], y.shape))
    dx, _ = backward(np.ones_like(y))
    assert not dx.any()


def test_monte_carlo_predictions_draw_masks_of_their_own():
    model = built(Sequential([MultiHeadAttention(2, 0.5), GlobalAveragePool1D()]), 5, 4)
    x = normal(7, 5, 4, seed=3)
    found = model.predict(x, key=7, samples=3)
    assert len(np.unique(found.reshape(3, -1), axis=0)) == 3
    np.testing.assert_array_equal(model.predict(x, key=7, samples=3, batch_size=2), found)
    assert not np.allclose(found[0], model(x, Key(7)))  # that of training


# --- what is seen --------------------------------------------------------------------------------


def test_a_later_step_changes_nothing_before_it():
    layer = built(MultiHeadAttention(2, 0.3, causal=True), 9, 6)
    x = normal(3, 9, 6, seed=4)
    other = x.copy()
    other[:, 5:] += 3
    for key in (None, KEY):
        before, after = layer(x, key), layer(other, key)
        np.testing.assert_array_equal(after[:, :5], before[:, :5])
        assert (after[:, 5:] != before[:, 5:]).any(axis=-1).all()
    y, backward = layer.forward(x, key=KEY)
    dy = np.zeros_like(y)
    dy[:, 4] = 1
    dx, _ = backward(dy)
    assert not dx[:, 5:].any()
    assert dx[:, :5].any(axis=-1).all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_padded_sequence_gives_what_it_gives_alone(causal):
    layer = built(MultiHeadAttention(2, causal=causal), 6, 4)
    x = normal(4, 6, 4, seed=5)
    y, backward = layer.forward(x, lengths=LENGTHS)
    dx, grads = backward(np.ones_like(y))
    sums = {name: np.zeros_like(array) for name, array in layer.params.items()}
    for b, length in enumerate(LENGTHS):
        assert not y[b, length:].any()
        assert not dx[b, length:].any()
        if length:
            alone, back = layer.forward(x[b : b + 1, :length])
            np.testing.assert_allclose(y[b, :length], alone[0], 1e-12, 1e-13)
            d_alone, parts = back(np.ones_like(alone))
            np.testing.assert_allclose(dx[b, :length], d_alone[0], 1e-11, 1e-13)
            sums = {name: total + parts[name] for name, total in sums.items()}
    for name, total in sums.items():
        np.testing.assert_allclose(grads[name], total, 1e-10, 1e-12)


def test_nothing_behind_a_sequence_is_looked_at():
    layer = built(MultiHeadAttention(2, 0.4), 6, 4)
    x, dy = normal(4, 6, 4, seed=5), normal(4, 6, 4, seed=6)
    outcomes = []
    for behind in (0.0, 10.0):
        for b, length in enumerate(LENGTHS):
            x[b, length:] = dy[b, length:] = behind
        before = dy.copy()
        y, backward = layer.forward(x, key=KEY, lengths=LENGTHS)
        dx, grads = backward(dy)
        np.testing.assert_array_equal(dy, before)
        outcomes.append([y, dx, *(grads[name] for name in sorted(grads))])
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_encoder_of_text_learns_from_padded_sentences():
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 10, 120)
    words = rng.integers(2, 20, (120, 9))
    labels = np.arange(120) % 2
    for sentence, length, label in zip(words, lengths, labels, strict=True):
        sentence[rng.integers(length)] = label  # word 0 or word 1
        sentence[length:] = 1 - label  # a lie
    model = Sequential(
        [
            Embedding(20, 16, initializer=Normal(1.0)),
            SinusoidalPositions(),
            Residual([LayerNorm(), MultiHeadAttention(2, 0.1), Dropout(0.1), DropPath(0.1)]),
            Residual([LayerNorm(), Dense(32, activation="gelu"), Dense(16), Dropout(0.1)]),
            LayerNorm(),
            GlobalAveragePool1D(),
            Dense(2),
        ]
    )
    model.fit(words, labels, lengths=lengths, epochs=25, key=3, batch_size=20, progress=False,
              optimizer="adam", loss="softmax_cross_entropy")  # fmt: skip
    found = model.predict(words, lengths=lengths).argmax(axis=1)
    assert (found == labels).mean() > 0.95


# --- states --------------------------------------------------------------------------------------


def gpt(rate=0.0):
    """A small language model."""
    return built(
        Sequential(
            [
                Embedding(11, 8),
                LearnedPositions(12),
                Residual(
                    [LayerNorm(), MultiHeadAttention(4, rate, causal=True, key_heads=2)]
                ),
                SinusoidalPositions(),
                Residual([LayerNorm(), MultiHeadAttention(2, rate, causal=True, head_size=3)]),
                Dense(11),
            ]
        ),
        12,
    )  # fmt: skip


@pytest.mark.parametrize("cuts", [range(13), (0, 5, 6, 12), (0, 12, 12)])
def test_step_by_step_gives_what_the_whole_gives(cuts):
    model = gpt()
    words = np.random.default_rng(1).integers(0, 11, (3, 12))
    wanted, state, parts = model(words), None, []
    for start, end in pairwise(cuts):
        y, state, _ = model.forward_from(words[:, start:end], state)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), wanted, 1e-11, 1e-12)
    assert state["1"] == state["3"] == 12
    with pytest.raises(ValueError, match=r"layer 1, .*12 positions, got a sequence of 13 steps"):
        model.forward_from(words[:, :1], state)


def test_padded_pieces_give_what_the_sequences_give():
    layer = built(MultiHeadAttention(2, causal=True), 9, 4)
    x, own = normal(3, 9, 4, seed=1), np.array([[4, 3], [2, 5], [0, 1]])
    state, parts = None, []
    for piece, lengths in zip((x[:, :4], x[:, 4:]), own.T, strict=True):
        y, state, _ = layer.forward_from(piece, state, lengths=lengths)
        parts.append(y)
    for b, (first, second) in enumerate(own):
        valid = np.concatenate([x[b, :first], x[b, 4 : 4 + second]])
        wanted = layer(valid[None])[0]
        np.testing.assert_allclose(parts[0][b, :first], wanted[:first], 1e-11, 1e-12)
        np.testing.assert_allclose(parts[1][b, :second], wanted[first:], 1e-11, 1e-12)
        assert not parts[1][b, second:].any()


@pytest.mark.parametrize("lengths", [None, np.array([3, 0, 1])])
def test_gradients_through_a_state_equal_finite_differences(lengths):
    layer = built(MultiHeadAttention(4, 0.4, causal=True, key_heads=2), 5, 8)
    x, before = normal(3, 3, 8, seed=1), normal(3, 2, 8, seed=2)
    _, (k, v, _), _ = layer.forward_from(before)
    k, v = k.copy(), v.copy()
    dy, dk, dv = normal(*x.shape, seed=3), normal(3, 5, 2, 2, seed=4), normal(3, 5, 2, 2, seed=5)

    def scalar():
        y, (keys, values, _), _ = layer.forward_from(x, (k, v, None), key=KEY, lengths=lengths)
        return float((y * dy).sum() + (keys * dk).sum() + (values * dv).sum())

    _, _, backward = layer.forward_from(x, (k, v, None), key=KEY, lengths=lengths)
    dx, grads, dfirst = backward(dy, (dk, dv))
    for array, gradient in ((k, dfirst[0]), (v, dfirst[1]), (x, dx),
                            *((w, grads[name]) for name, w in layer.params.items())):  # fmt: skip
        np.testing.assert_allclose(gradient, differences(scalar, array), 1e-6, 1e-7)


def test_the_gradient_of_the_first_state_reaches_the_weights():
    layer = built(MultiHeadAttention(2, causal=True), 5, 4)
    x = normal(2, 3, 4, seed=1)
    dk, dv = normal(2, 3, 2, 2, seed=4), normal(2, 3, 2, 2, seed=5)

    def scalar():
        _, (keys, values, _), _ = layer.forward_from(x)
        return float((keys * dk).sum() + (values * dv).sum())

    y, _, backward = layer.forward_from(x)
    dx, grads, dfirst = backward(np.zeros_like(y), (dk, dv))
    assert dfirst is None
    np.testing.assert_allclose(dx, differences(scalar, x), 1e-6, 1e-8)
    weight = layer.params["weight"]
    np.testing.assert_allclose(grads["weight"], differences(scalar, weight), 1e-6, 1e-8)


# --- cross attention -----------------------------------------------------------------------------

CROSSED = [
    {},
    {"context_features": 5, "key_heads": 2, "head_size": 3},
    {"use_bias": False, "key_heads": 1},
]
CONTEXT_LENGTHS = np.array([3, 1, 3, 0])


def crossed(options, dtype=np.float64):
    """A layer, and x and context for it."""
    layer = built(CrossAttention(4, 0.4, **options), 6, 8, dtype=dtype)
    features = options.get("context_features", 8)
    return (
        layer,
        normal(4, 6, 8, seed=1).astype(dtype),
        normal(4, 3, features, seed=2).astype(dtype),
    )


@pytest.mark.parametrize("options", CROSSED)
@pytest.mark.parametrize(
    "lengths", [{}, {"lengths": LENGTHS, "context_lengths": CONTEXT_LENGTHS}]
)  # fmt: skip
def test_cross_attention_is_its_formula(options, lengths):
    layer, x, context = crossed(options)
    kept = Mask((4, 4, 6, 3), 0.4, key=KEY).to_bool()
    for key, mask in ((None, None), (KEY, kept)):
        y = layer(x, key, context=context, **lengths)
        wanted = composed(layer, x, context, kept=mask, **lengths)
        np.testing.assert_allclose(y, wanted, 1e-11, 1e-12)
        assert y.flags.writeable
    parts = [
        layer(x[rows], KEY, context=context[rows], row_offset=rows.start,
              **{name: given[rows] for name, given in lengths.items()})
        for rows in (slice(0, 3), slice(3, 4))
    ]  # fmt: skip
    np.testing.assert_allclose(np.concatenate(parts), y, 1e-12, 1e-13)


@pytest.mark.parametrize("options", CROSSED)
@pytest.mark.parametrize(
    "lengths", [{}, {"lengths": LENGTHS, "context_lengths": CONTEXT_LENGTHS}]
)  # fmt: skip
def test_cross_attention_has_the_gradients_of_both_inputs(options, lengths):
    layer, x, context = crossed(options)
    y, backward = layer.forward(x, context=context, key=KEY, **lengths)
    dy = normal(*y.shape, seed=3)

    def scalar():
        y, _ = layer.forward(x, context=context, key=KEY, **lengths)
        return float((y * dy).sum())

    (dx, dcontext), grads = backward(dy)
    assert grads.keys() == layer.params.keys()
    for array, gradient in ((x, dx), (context, dcontext),
                            *((w, grads[name]) for name, w in layer.params.items())):  # fmt: skip
        np.testing.assert_allclose(gradient, differences(scalar, array), 1e-6, 1e-7)
    nothing, again = backward(dy, input_gradient=False, for_update=True)
    assert nothing is None
    for name, gradient in grads.items():
        np.testing.assert_allclose(np.asarray(again[name]), gradient, 1e-12, 1e-12)


def test_cross_attention_is_the_same_for_any_number_of_threads_and_any_layout():
    layer, x, context = crossed({"context_features": 5, "key_heads": 2, "head_size": 3})
    steps = []
    before = dropcore.get_num_threads()
    try:
        for threads in (1, 2, 7):
            dropcore.set_num_threads(threads)
            for order in (np.ascontiguousarray, np.asfortranarray):
                y, backward = layer.forward(order(x), context=order(context), key=KEY)
                (dx, dcontext), grads = backward(y)
                steps.append([y, dx, dcontext, *(grads[name] for name in sorted(grads))])
    finally:
        dropcore.set_num_threads(before)
    for step in steps[1:]:
        for found, wanted in zip(step, steps[0], strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_cross_attention_of_nothing():
    layer, x, context = crossed({})
    y, backward = layer.forward(x[:0], context=context[:0], key=KEY)
    (dx, dcontext), _ = backward(y.copy())
    assert (y.shape, dx.shape, dcontext.shape) == ((0, 6, 8), (0, 6, 8), (0, 3, 8))
    y, backward = layer.forward(x, context=context[:, :0], key=KEY)
    np.testing.assert_array_equal(y, np.broadcast_to(layer.params["output_bias"], y.shape))
    (dx, dcontext), _ = backward(np.ones_like(y))
    assert not dx.any()
    assert dcontext.shape == (4, 0, 8)


class Decoder(Layer):
    """A layer of one's own around a CrossAttention."""

    takes_lengths = False

    def __init__(self, attention):
        super().__init__()
        self.attention = self._add_child("attention", attention)

    def output_shape(self, input_shape):
        return self.attention.output_shape(input_shape)

    def forward(self, x, *, key=None, row_offset=0):
        ((_, attention, own),) = self.children_with_keys(key)
        y, inner = attention.forward(x, context=x[:, :2], key=own, row_offset=row_offset)

        def backward(dy, *, input_gradient=True, for_update=False):
            (dx, dcontext), grads = inner(dy, for_update=for_update)
            dx[:, :2] += dcontext
            return dx, {f"attention.{name}": grad for name, grad in grads.items()}

        return y, backward


def test_cross_attention_in_a_layer_of_ones_own_trains_and_comes_back(tmp_path):
    decoder = Decoder(CrossAttention(2, 0.3, constraint=MaxNorm(0.5), regularizer=L2(0.1)))
    model = Sequential([decoder, GlobalAveragePool1D(), Dense(1)])
    x = normal(20, 5, 4, seed=1)
    check_gradients(built(model, 5, 4), x[:3], KEY)
    model.fit(x, x[:, 0, :1], epochs=2, key=3, loss="mse", optimizer=SGD(0.5), progress=False)
    for name in ("weight", "context_weight", "output_weight"):
        array = model.params[f"0.attention.{name}"]
        assert np.linalg.norm(array, axis=0).max() <= 0.5 * (1 + 1e-6)
    path = tmp_path / "model"
    model.save(path)
    again = dropcore.load(path, custom={"Decoder": Decoder})
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    layer = model[0].attention
    assert repr(Layer.from_config(json.loads(json.dumps(layer.to_config())))) == repr(layer)


# --- weights of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [MultiHeadAttention(2), CrossAttention(2), LearnedPositions(5)])
def test_weights_in_the_names_of_pytorch_come_back_by_path(layer):
    model = Sequential([Residual([LayerNorm(), layer])])
    model.build((5, 6), key=1)
    given = {name: array + 1 for name, array in to_state_dict(model).items()}
    if not isinstance(layer, LearnedPositions):
        assert {name.partition("0.0.1.")[2] for name in given} >= {
            "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias",
        }  # fmt: skip
    before = {name: array.copy() for name, array in model.params.items()}
    load_state_dict(model, given)
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, before[name] + 1)


def test_other_layers_may_have_the_name_of_a_projection():
    model = Sequential([Dense(3)])
    model.build((4,), key=1)
    weight, bias = normal(3, 4), normal(3)
    load_state_dict(model, {"head.out_proj.weight": weight, "head.out_proj.bias": bias})
    np.testing.assert_allclose(model.params["0.weight"], weight.T, 1e-6)


@pytest.mark.parametrize(
    "layer", [MultiHeadAttention(4, key_heads=2), MultiHeadAttention(2, head_size=4)]
)
def test_attention_that_pytorch_does_not_have(layer):
    model = Sequential([layer])
    model.build((5, 4), key=1)
    with pytest.raises(ValueError, match=r"layer 0, MultiHead.* has no counterpart in PyTorch"):
        to_state_dict(model)


def test_projections_are_views_of_the_weights():
    layer = built(MultiHeadAttention(4, key_heads=2, use_bias=False), 5, 8)
    found = layer.projections()
    assert list(found) == ["query", "key", "value", "output"]
    assert [weight.shape for weight, _ in found.values()] == [
        (8, 4, 2), (8, 2, 2), (8, 2, 2), (4, 2, 8),
    ]  # fmt: skip
    assert all(bias is None for _, bias in found.values())
    found["value"][0][...] = 0
    x = normal(2, 5, 8)
    assert not layer(x).any()
    other = built(MultiHeadAttention(4), 5, 8)
    other.projections()["value"][0][...] = 0
    other.projections()["value"][1][...] = 0
    other.projections()["output"][1][...] = 7
    assert (other(x) == 7).all()


# --- positions -----------------------------------------------------------------------------------


def test_learned_positions_add_a_row_for_each_step():
    layer = built(LearnedPositions(7), 5, 3)
    weight, x = layer.params["weight"], normal(4, 5, 3, seed=1)
    assert weight.shape == (7, 3)
    assert 0.03 < abs(weight).max() <= 0.05
    np.testing.assert_array_equal(layer(x), x + weight[:5])
    y, last, backward = layer.forward_from(x[:, :2], 5)
    np.testing.assert_array_equal(y, x[:, :2] + weight[5:])
    assert last == 7
    dx, grads, nothing = backward(y, for_update=True)
    assert nothing is None
    assert isinstance(grads["weight"], BlockGradient)
    assert grads["weight"].values.shape == (2, 3)
    np.testing.assert_allclose(np.asarray(grads["weight"])[5:], y.sum(axis=0))
    assert not np.asarray(grads["weight"])[:5].any()
    assert dx is y
    _, whole, _ = backward(y)
    np.testing.assert_array_equal(whole["weight"], np.asarray(grads["weight"]))


def test_the_vectors_of_positions_are_rows():
    layer = LearnedPositions(50, initializer="glorot_uniform", constraint=MaxNorm(0.5))
    layer.build((50, 8), key=1)
    weight = layer.params["weight"]
    bound = np.sqrt(6 / (1 + 8))  # a step has one position
    assert 0.97 * bound < abs(weight).max() <= bound
    layer.constraints["weight"](weight)
    np.testing.assert_allclose(np.linalg.norm(weight, axis=1).max(), 0.5, 1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", SGD(0.1, momentum=0.9, lazy=True)])
def test_learned_positions_train_beyond_those_that_are_seen_or_not(optimizer):
    model = Sequential([LearnedPositions(6), GlobalAveragePool1D()])
    x = np.zeros((8, 4, 3), np.float32)
    model.build((4, 3), key=0)
    before = model.params["0.weight"].copy()
    model.fit(x, np.ones((8, 3), np.float32), loss="mse", epochs=50, optimizer=optimizer,
              progress=False)  # fmt: skip
    after = model.params["0.weight"]
    assert (abs(after[:4] - before[:4]) > 0.01).all()
    np.testing.assert_array_equal(after[4:], before[4:])


@pytest.mark.parametrize("features", [1, 4, 7])
def test_sinusoids_are_those_of_the_paper(features):
    layer = SinusoidalPositions()
    layer(np.zeros((1, 1, features)))
    found = layer(np.zeros((1, 100, features)))[0]
    for t in (0, 1, 63, 64, 99):
        for i in range(features):
            angle = t / 10000 ** ((i - i % 2) / features)
            assert found[t, i] == pytest.approx(np.cos(angle) if i % 2 else np.sin(angle), abs=1e-9)
    np.testing.assert_array_equal(layer(np.zeros((1, 3, features))), found[None, :3])
    x = normal(1, 100, features, dtype=np.float32)
    np.testing.assert_array_equal(layer(x), x + found.astype(np.float32))
    y, last, _ = layer.forward_from(np.zeros((1, 20, features)), 80)
    np.testing.assert_array_equal(y[0], found[80:])
    assert last == 100
    layer.max_wavelength = 7.0
    other = layer(np.zeros((1, 100, features)))[0]
    assert np.allclose(other, found) == (features == 1)  # the first wave has the length 2 pi


def test_the_table_of_sinusoids_is_not_saved():
    layer = SinusoidalPositions()
    size = len(pickle.dumps(layer))
    y = layer(np.zeros((1, 5000, 8)))
    assert len(pickle.dumps(layer)) == size
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(layer))(np.zeros((1, 5000, 8))), y)


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MultiHeadAttention(0), ValueError, "MultiHeadAttention: heads must be .*got 0"),
        (lambda: MultiHeadAttention(2.5), TypeError, "heads must be a positive integer, got 2.5"),
        (lambda: MultiHeadAttention(8, 8), ValueError, "rate is the fraction dropped.*got 8"),
        (lambda: MultiHeadAttention(8, 1.5), ValueError, r"rate.*\[0, 1\], got 1.5"),
        (lambda: MultiHeadAttention(8, 0.1, keep=0.9), ValueError, "rate or keep, not both"),
        (lambda: MultiHeadAttention(2, [0.1, 0.2]), TypeError, "must be numbers here, not arrays"),
        (lambda: MultiHeadAttention(8, key_heads=3), ValueError, "must divide the 8 heads, got 3"),
        (lambda: MultiHeadAttention(8, key_heads=0), ValueError, "key_heads must be"),
        (lambda: MultiHeadAttention(8, head_size=0), ValueError, "head_size must be"),
        (lambda: MultiHeadAttention(8, causal=1), TypeError, "causal must be True or False, got 1"),
        (lambda: MultiHeadAttention(8, use_bias=None), TypeError, "use_bias must be"),
        (lambda: MultiHeadAttention(8, initializer="x"), ValueError, "initializer"),
        (lambda: MultiHeadAttention(8, constraint=MaxNorm), TypeError, "a constraint must be"),
        (lambda: MultiHeadAttention(8, regularizer=0.1), TypeError, "a regularizer must be"),
        (lambda: MultiHeadAttention(8, dropout=0.1), TypeError, "'dropout'"),
        (lambda: CrossAttention(8, context_features=0), ValueError, "context_features must be"),
        (lambda: LearnedPositions(0), ValueError, "LearnedPositions: max_length must be"),
        (lambda: LearnedPositions(5, initializer="x"), ValueError, "initializer"),
        (lambda: SinusoidalPositions(0.0), ValueError, "max_wavelength must be .*got 0.0"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("layer", "sample", "words"),
    [
        (MultiHeadAttention(2), (8,), r"expects samples of shape \(time, features\), got \(8,\)"),
        (MultiHeadAttention(3), (5, 8), r"divide into 3 heads, or head_size=, got .*\(5, 8\)"),
        (CrossAttention(2), (5, None), r"expects samples of shape \(time, features\)"),
        (LearnedPositions(4), (5, 8), "has vectors for 4 positions, got a sequence of 5 steps"),
        (LearnedPositions(4), (8,), r"expects samples of shape \(time, features\), got \(8,\)"),
        (SinusoidalPositions(), (8,), r"expects samples of shape \(time, features\), got \(8,\)"),
    ],
)
def test_wrong_samples(layer, sample, words):
    with pytest.raises(ValueError, match=words):
        layer.build(sample, key=1)


@pytest.mark.parametrize(
    ("layer", "x", "error", "words"),
    [
        (MultiHeadAttention(2), np.zeros((2, 4)), ValueError, r"\(batch, time, 4\), got \(2, 4\)"),
        (MultiHeadAttention(2), np.zeros((2, 5, 3)), ValueError, r"time, 4\), got \(2, 5, 3\)"),
        (MultiHeadAttention(2), np.zeros((2, 5, 4), "f"), TypeError, "float64 weights.*float32"),
        (LearnedPositions(5), np.zeros((2, 6, 4)), ValueError, "5 positions, got .* 6 steps"),
        (LearnedPositions(5), np.zeros((2, 5, 3)), ValueError, r"time, 4\), got \(2, 5, 3\)"),
        (LearnedPositions(5), np.zeros((2, 4)), ValueError, r"features\), got \(2, 4\)"),
        (SinusoidalPositions(), np.zeros((2, 4)), ValueError, r"features\), got \(2, 4\)"),
        (SinusoidalPositions(), np.zeros((2, 5, 4), int), TypeError, "float64, got int64"),
    ],
)
def test_wrong_inputs(layer, x, error, words):
    layer = built(layer, 5, 4)
    with pytest.raises(error, match=words):
        layer(x)
    with pytest.raises(error, match=words):
        layer.forward(x)


def test_weights_that_do_not_exist_yet():
    for layer in (MultiHeadAttention(2), LearnedPositions(5), CrossAttention(2)):
        with pytest.raises(ValueError, match="has no weights yet: call build"):
            layer(np.zeros((2, 5, 4)))


def test_wrong_gradients():
    layer, x, context = crossed({})
    for backward in (
        layer.forward(x, context=context)[1],
        built(MultiHeadAttention(2), 6, 8).forward(x, lengths=LENGTHS)[1],
        built(LearnedPositions(6), 6, 8).forward(x)[1],
        SinusoidalPositions().forward(x)[1],
    ):
        with pytest.raises(ValueError, match=r"\(4, 6, 8\).*got .*\(4, 6, 7\)"):
            backward(np.zeros((4, 6, 7)))


def test_wrong_contexts():
    layer, x, context = crossed({"context_features": 5})
    for error, words, options in (
        (TypeError, r"needs context=, the sequences \(batch, time, 5\)", {}),
        (ValueError, r"context of shape \(batch, time, 5\), got \(4, 6, 8\)", {"context": x}),
        (ValueError, "a context for each sequence, got 3 for 4", {"context": context[:3]}),
        (TypeError, "float32", {"context": context.astype("f")}),
        (ValueError, r"lengths in \[0, 3\], got 4 ... 4",
         {"context": context, "context_lengths": [4] * 4}),
        (ValueError, r"lengths in \[0, 6\], got 7 ... 7", {"context": context, "lengths": [7] * 4}),
    ):  # fmt: skip
        for call in (layer, layer.forward):
            with pytest.raises(error, match=words):
                call(x, **options)


def test_wrong_states():
    layer, x = built(MultiHeadAttention(2, causal=True), 6, 8), np.zeros((3, 2, 8))
    plain = built(MultiHeadAttention(2), 6, 8)
    _, state, backward = layer.forward_from(x)
    k, v, valid = state
    assert valid is None
    with pytest.raises(ValueError, match="carries no state without causal=True, got one"):
        plain.forward_from(x, state)
    assert plain.forward_from(x)[1] is None
    seen = np.ones((3, 2), bool)
    for wrong in (k, (k, v), (k, v[:, :1], None), (k[:2], v[:2], None), (k, v.astype("f"), None),
                  (k, v, seen[:, :1]), (k, v, seen.astype(int)), (k, 3, None)):  # fmt: skip
        with pytest.raises(ValueError, match="expects the state that forward_from returned, keys"):
            layer.forward_from(x, wrong)
    dy = np.zeros((3, 2, 8))
    for wrong in (k, (k,), (k, v[:, :1]), (k, v.astype("f")), (k, None)):
        with pytest.raises(ValueError, match="expects dstate to be two arrays of shape"):
            backward(dy, wrong)
    for layer in (built(LearnedPositions(6), 6, 8), SinusoidalPositions()):
        for wrong, error in ((-1, ValueError), (1.5, TypeError), ("a", TypeError)):
            with pytest.raises(error, match="state must be an integer"):
                layer.forward_from(x, wrong)


def test_positions_take_no_lengths_and_other_layers_get_them():
    both = [LearnedPositions(6), MultiHeadAttention(2)]
    x = normal(4, 6, 8)
    for model in (Sequential(both), Residual(both), Residual(LearnedPositions(6), both[1])):
        model.build((6, 8), key=1, dtype=np.float64)
        assert model.takes_lengths
        found = model.forward_from(x, lengths=LENGTHS)[0]
        np.testing.assert_array_equal(model(x, lengths=LENGTHS), found)
        assert not np.allclose(found, model(x))
    with pytest.raises(ValueError, match="takes no lengths of sequences"):
        built(LearnedPositions(6), 6, 8).forward_from(np.zeros((1, 6, 8)), lengths=[3])


def test_arguments_that_decide_shapes_stay():
    layer = built(CrossAttention(2, context_features=5), 6, 8)
    for name in ("heads", "key_heads", "head_size", "context_features", "use_bias"):
        with pytest.raises(AttributeError, match=f"{name} cannot be assigned once"):
            setattr(layer, name, 1)


@pytest.mark.parametrize("steps", [0, 1])
def test_short_sequences(steps):
    x = normal(3, steps, 4)
    for layer in (
        MultiHeadAttention(2, 0.3),
        MultiHeadAttention(2, 0.3, causal=True),
        LearnedPositions(5),
        SinusoidalPositions(),
    ):
        layer = built(layer, 5, 4)
        y, backward = layer.forward(x, key=KEY)
        dx, grads = backward(np.ones_like(y))
        assert y.shape == dx.shape == x.shape
        assert all(np.shape(grads[name]) == w.shape for name, w in layer.params.items())
        if isinstance(layer, MultiHeadAttention):
            valid = np.full(3, steps)
            np.testing.assert_array_equal(layer(x, KEY, lengths=valid), y)

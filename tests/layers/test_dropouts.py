"""Every kind of dropout: formulas, statistics, rates. What holds for all layers is elsewhere."""

from __future__ import annotations

import copy
import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, ndtr

import dropcore
from dropcore import Key, Mask
from dropcore._backends.gradients import BlockGradient
from dropcore.nn import (
    AlphaDropout,
    BlockDropout,
    ConcreteDropout,
    Dense,
    DropConnect,
    Dropout,
    DropPath,
    Embedding,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GaussianDropout,
    GaussianNoise,
    ReLU,
    Residual,
    Sequential,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    UnitDropout,
    VariationalDropout,
    word_mask,
)
from dropcore.noise import decision_uniform
from dropcore.noise import normal as noise
from dropcore.optim import SGD
from support.arrays import normal
from support.differences import differences
from support.layers import built, small_network

KEY = Key(99, stream=4, step=6)
INF = math.inf


def step(layer, x, dy, key=KEY, row_offset=0):
    y, backward = layer.forward(x, key=key, row_offset=row_offset)
    return (y, *backward(dy))


# --- whose decision it is ------------------------------------------------------------------------

# A layer, the shape of a batch, and the axes along which its decisions are shared.
SHARED = [
    (Dropout(0.4), (50, 40), ()),
    (Dropout(0.4, shared_axes=(1, -2)), (30, 4, 5, 20), (1, 2)),
    (SpatialDropout1D(0.4), (50, 6, 40), (1,)),
    (SpatialDropout2D(0.4), (50, 3, 4, 40), (1, 2)),
    (SpatialDropout3D(0.4), (50, 3, 2, 2, 40), (1, 2, 3)),
    (SpatialDropout1D(0.4, data_format="channels_first"), (50, 40, 6), (2,)),
    (SpatialDropout2D(0.4, data_format="channels_first"), (50, 40, 3, 4), (2, 3)),
    (SpatialDropout3D(0.4, data_format="channels_first"), (50, 40, 3, 2, 2), (2, 3, 4)),
    (SpatialDropout1D(0.4, data_format="channels_first"), (50, 40, 6), (2,)),
    (SpatialDropout2D(0.4, data_format="channels_first"), (50, 40, 3, 4), (2, 3)),
    (SpatialDropout3D(0.4, data_format="channels_first"), (50, 40, 3, 2, 2), (2, 3, 4)),
    (UnitDropout(0.4), (5, 2000), (0,)),
    (UnitDropout(0.4), (5, 3, 2000), (0, 1)),
    (DropPath(0.4), (2000, 3, 4), (1, 2)),
    (FeatureAlphaDropout(0.4), (50, 3, 4, 40), (1, 2)),
    (AlphaDropout(0.4, shared_axes=1), (50, 6, 40), (1,)),
]


# The axes of an input before the channels.
SHARED_MAPS = {SpatialDropout1D: 2, SpatialDropout2D: 3, SpatialDropout3D: 4}


@pytest.mark.parametrize(("layer", "shape", "shared"), SHARED, ids=repr)
def test_decisions_are_shared_along_the_axes_and_number_keep(layer, shape, shared):
    mask = layer.mask(shape, KEY)
    own = tuple(1 if axis in shared else n for axis, n in enumerate(shape))
    np.testing.assert_array_equal(mask.to_bool(), Mask(own, 0.4, key=KEY).to_bool())
    y, dx, _ = step(layer, np.ones(shape), np.ones(shape))
    np.testing.assert_array_equal(dx == 0, np.broadcast_to(~mask.to_bool(), shape))
    dropped = np.mean(~mask.to_bool())
    assert abs(dropped - 0.4) < 5 * math.sqrt(0.4 * 0.6 / mask.size)
    if isinstance(layer, Dropout):
        np.testing.assert_array_equal(y, np.where(mask.to_bool(), 1 / 0.6, 0) * np.ones(shape))
        np.testing.assert_array_equal(dx, y)


@pytest.mark.parametrize("layer", [SpatialDropout1D, SpatialDropout2D, SpatialDropout3D])
def test_maps_have_the_same_decisions_wherever_the_channels_are(layer):
    x = normal(*(6, 3, 2, 2, 9)[: SHARED_MAPS[layer]], 9)
    last, first = layer(0.4), layer(0.4, data_format="channels_first")
    y = last(x, KEY)
    np.testing.assert_array_equal(first(np.moveaxis(x, -1, 1), KEY), np.moveaxis(y, -1, 1))
    assert "data_format" not in repr(last)
    assert "data_format='channels_first'" in repr(first)


def test_drop_path_by_batch_drops_all_or_nothing():
    layer = DropPath(0.4, mode="batch")
    lives = [bool(layer(np.ones((3, 4)), Key(1, step=step)).all()) for step in range(1000)]
    assert abs(np.mean(lives) - 0.6) < 5 * math.sqrt(0.24 / 1000)
    y = [layer(np.ones((3, 4)), Key(1, step=step)) for step in range(20)]
    assert {len(np.unique(one)) for one in y} == {1}


def test_drop_path_takes_samples_around_the_residual():
    block = built(Residual([Dense(7), DropPath(0.5)]), 7)
    x = normal(64, 7)
    branch = block.layer[0](x)
    y = block(x, KEY)
    around = (y == x).all(axis=1)
    assert 10 < around.sum() < 54
    np.testing.assert_allclose(y[~around], (x + 2 * branch)[~around], 1e-12)


def test_units_in_groups_of_rows():
    layer, shape = UnitDropout(0.5, group=4), (10, 300)
    kept = layer.mask(shape, KEY).to_bool()
    groups = Mask((3, 300), 0.5, key=KEY).to_bool()
    np.testing.assert_array_equal(kept, np.repeat(groups, 4, axis=0)[:10])
    for row, end in ((0, 3), (3, 10), (4, 8), (9, 10), (7, 7)):
        part = layer.mask((end - row, 300), KEY, row).to_bool()
        np.testing.assert_array_equal(part, kept[row:end])
    one = UnitDropout(keep=[[0.0], [1.0], [1.0]], group=4)(np.ones(shape), KEY)
    np.testing.assert_array_equal(one.all(axis=1), [False] * 4 + [True] * 6)
    np.testing.assert_array_equal(one.any(axis=1), [False] * 4 + [True] * 6)


def test_unit_dropout_takes_the_product_of_what_lives():
    units = Sequential([UnitDropout(0.3), Dense(60, activation="relu"), UnitDropout(0.5), Dense(5)])
    plain = Sequential(
        [Dropout(0.3, shared_axes=0), Dense(60, activation="relu"), Dropout(0.5, shared_axes=0),
         Dense(5)]
    )  # fmt: skip
    units, plain = built(units, 40, dtype=np.float32), built(plain, 40, dtype=np.float32)
    x, dy = normal(9, 40, dtype=np.float32), normal(9, 5, dtype=np.float32)
    for a, b in zip(step(units, x, dy)[:2], step(plain, x, dy)[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    _, backward = units.forward(x, key=KEY)
    grads = backward(dy, for_update=True)[1]
    assert isinstance(grads["1.weight"], BlockGradient)
    live = [Mask((1, n), 0.3 if n == 40 else 0.5, key=KEY.at(stream=s)).indices()
            for n, s in ((40, 4), (60, 5))]  # fmt: skip
    np.testing.assert_array_equal(grads["1.weight"].rows, live[0])
    np.testing.assert_array_equal(grads["1.weight"].columns, live[1])


def test_gradients_of_units_that_live_are_scaled():
    model = built(Sequential([UnitDropout(0.3), Dense(5)]), 40, dtype=np.float32)
    x, dy = normal(9, 40, dtype=np.float32), normal(9, 5, dtype=np.float32)
    y, dx, grads = step(model, x, dy)
    mask = Mask((1, 40), 0.3, key=KEY)
    weight, bias = model.params["1.weight"], model.params["1.bias"]
    live = dropcore.dropout(x, mask=mask)
    np.testing.assert_allclose(y, live @ weight + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads["1.weight"], live.T @ dy, rtol=1e-4, atol=1e-5)
    wanted = dropcore.dropout_backward(dy @ weight.T, mask=mask)
    np.testing.assert_allclose(dx, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (Dropout(0.5), {"rate": 0.5}),
        (Dropout(0.2), {"rate": 0.2}),
        (Dropout(keep=0.3), {"keep": 0.3}),
        (Dropout(0.4, shared_axes=1), {"rate": 0.4, "shared_axes": (1,)}),
        (Dropout(0.4, shared_axes=(-1, 0)), {"rate": 0.4, "shared_axes": (0, 2)}),
        (Dropout(0), {"rate": 0.0}),
        (Dropout(1.0), {"rate": 1.0}),
    ],
    ids=repr,
)
def test_dropout_layer_is_the_function(layer, options):
    x, dy = normal(40, 5, 6, dtype=np.float32), normal(40, 5, 6, dtype=np.float32, seed=1)
    y, backward = layer.forward(x, key=KEY)
    np.testing.assert_array_equal(y, dropcore.dropout(x, key=KEY, **options))
    np.testing.assert_array_equal(layer(x, KEY), y)
    dx, grads = backward(dy)
    np.testing.assert_array_equal(dx, dropcore.dropout_backward(dy, key=KEY, **options))
    np.testing.assert_array_equal(dx == 0, y == 0)
    assert grads == {}


def test_inference_has_no_noise():
    x = normal(8, 7)
    assert Dropout(0.5)(x) is x
    y, backward = Dropout(0.5).forward(x)
    assert y is x
    assert backward(x)[0] is x
    model = built(small_network(), 7)
    clean = Sequential([layer for _, layer in model.leaves() if not layer.n_streams])
    np.testing.assert_array_equal(model(x), clean(x))
    assert not np.array_equal(model(x, 3), clean(x))


def test_last_stream_can_be_used():
    last = Key(1, stream=2**28 - 1)
    x = np.ones((4, 4), np.float32)
    model = Sequential([Dropout(0.5), ReLU()])
    np.testing.assert_array_equal(model(x, last), dropcore.dropout(x, 0.5, key=last))


# --- inference, scaling --------------------------------------------------------------------------

MASKED = [layer for layer, _, _ in SHARED] + [
    BlockDropout(0.4),
    GaussianDropout(0.4),
    GaussianNoise(0.4),
    DropPath(0.4, mode="batch"),
]


@pytest.mark.parametrize("layer", MASKED, ids=repr)
def test_inference_is_the_identity(layer):
    x = normal(3, 2, 4, 5)
    if isinstance(layer, SpatialDropout1D | SpatialDropout3D):
        x = normal(3, 4, 5) if isinstance(layer, SpatialDropout1D) else normal(3, 2, 2, 4, 5)
    np.testing.assert_array_equal(layer(x), x)
    y, backward = layer.forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(backward(2 * x)[0], 2 * x)


@pytest.mark.parametrize(
    "layer", [Dropout(0.4), SpatialDropout1D(0.4), UnitDropout(0.4), DropPath(0.4),
              UnitDropout(0.4, group=3), Dropout([0.1, 0.4, 0.9, 0.5, 0.0])], ids=repr
)  # fmt: skip
def test_the_scaling_of_the_papers_is_the_other_one_times_keep(layer):
    paper = copy.deepcopy(layer)
    paper.scaling = "test"
    x, dy = normal(8, 4, 5), normal(8, 4, 5, seed=1)
    for inverted, unscaled in zip(step(layer, x, dy)[:2], step(paper, x, dy)[:2], strict=True):
        np.testing.assert_allclose(unscaled, inverted * layer.keep, 1e-14)
        assert (unscaled == 0).any()
    np.testing.assert_array_equal(paper(x), x * layer.keep)
    np.testing.assert_array_equal(paper.forward(x)[1](dy)[0], dy * layer.keep)


def test_a_network_scaled_for_training_in_the_way_of_the_papers():
    model = built(Sequential([Dropout(0.2, scaling="test"), Dense(30, activation="relu"),
                              UnitDropout(0.5, scaling="test"), Dense(3)]), 20)  # fmt: skip
    x = normal(6, 20)
    first, second = model[1].params, model[3].params
    hidden = np.maximum(0.8 * x @ first["weight"] + first["bias"], 0)
    np.testing.assert_allclose(model(x), 0.5 * hidden @ second["weight"] + second["bias"], 1e-12)
    kept = Mask((6, 20), 0.2, key=KEY).to_bool()
    units = Mask((1, 30), 0.5, key=KEY.at(stream=5)).to_bool()
    hidden = np.maximum((x * kept) @ first["weight"] + first["bias"], 0) * units
    np.testing.assert_allclose(
        model.forward(x, key=KEY)[0], hidden @ second["weight"] + second["bias"], 1e-12
    )


# --- rows, shards --------------------------------------------------------------------------------

ROWS = [
    *MASKED[:-4],
    BlockDropout(0.4, block_size=2),
    GaussianDropout(0.4),
    GaussianNoise(0.4),
    UnitDropout(0.4, group=3),
    Dropout(keep=np.linspace(0, 1, 12).reshape(12, 1, 1)),
    Dropout(mask=np.arange(60).reshape(12, 1, 5) % 3 > 0),
    Dropout(mask=Mask((12, 4, 5), 0.5, key=1)),
    GaussianDropout(np.linspace(0, 0.9, 12).reshape(12, 1, 1)),
    AlphaDropout(np.linspace(0, 0.9, 12).reshape(12, 1, 1)),
    BlockDropout(np.linspace(0, 0.9, 12).reshape(12, 1, 1), block_size=2),
    EmbeddingDropout(Embedding(30, 4), 0.5),
    EmbeddingDropout(Embedding(30, 4), 0.5, mode="batch"),
    ConcreteDropout(Dense(5), 0.3, data_points=INF),
    VariationalDropout(0.3, data_points=INF),
    DropConnect(6, 0.5),
    DropConnect(6, 0.5, inference="gaussian"),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", ROWS, ids=lambda layer: repr(layer)[:60])
def test_rows_of_the_whole_are_what_a_part_computes(layer, dtype):
    x = normal(12, 4, 5, dtype=dtype)
    if isinstance(layer, SpatialDropout2D | SpatialDropout3D):
        x = x.reshape((12, 2, 2, 5) if isinstance(layer, SpatialDropout2D) else (12, 2, 2, 1, 5))
    if isinstance(layer, Dropout) and layer.shared_axes and layer.shared_axes[-1] == -2:
        x = x.reshape(12, 2, 2, 5)
    if layer.integer_input:
        x = np.random.default_rng(0).integers(0, 30, (12, 4))
    layer = built(layer, *x.shape[1:], dtype=dtype)
    whole = layer(x, KEY)
    forward = layer.forward(x, key=KEY)[0]
    for start, end in ((0, 5), (5, 12), (7, 8), (1, 11), (3, 3)):
        np.testing.assert_array_equal(layer(x[start:end], KEY, row_offset=start), whole[start:end])
        part = layer.forward(x[start:end], key=KEY, row_offset=start)[0]
        np.testing.assert_array_equal(part, forward[start:end])


def test_rows_keep_their_own_rates_where_the_scale_is_not_drawn():
    rates = np.linspace(0.1, 0.9, 12)[:, np.newaxis]
    unscaled = Dropout(rates, scaling="test")
    own = Dropout(rates, mask=np.random.default_rng(1).random((12, 5)) < 0.5)
    held = Dropout(mask=Mask((12, 5), keep=1 - rates, key=KEY))
    x = normal(12, 5)
    np.testing.assert_allclose(unscaled(x), x * (1 - rates), 1e-14)
    one = Dropout(rates[:5].T)
    for layer, key in ((unscaled, None), (own, KEY), (held, KEY), (one, KEY)):
        whole, backward = layer.forward(x, key=key)
        dx = backward(x)[0]
        for start, end in ((0, 5), (5, 12), (11, 12)):
            part, back = layer.forward(x[start:end], key=key, row_offset=start)
            np.testing.assert_array_equal(part, whole[start:end])
            np.testing.assert_array_equal(back(x[start:end])[0], dx[start:end])


def test_rows_that_have_no_rate_or_mask_are_refused():
    x = np.ones((4, 3))
    for layer in (Dropout(np.full((6, 1), 0.5)), Dropout(mask=np.ones((6, 3), bool))):
        assert layer(x, KEY, row_offset=2).shape == (4, 3)
        with pytest.raises(ValueError, match=r"6 rows, and the batch has the rows 3 \.\.\. 6"):
            layer(x, KEY, row_offset=3)


# --- rates ---------------------------------------------------------------------------------------


def test_rates_of_units_and_of_samples():
    rates = np.linspace(0, 1, 11)
    y = Dropout(rates)(np.ones((4000, 11)), KEY)
    np.testing.assert_array_equal(y[:, 0], 1)
    np.testing.assert_array_equal(y[:, -1], 0)
    spread = 5 * np.sqrt(rates * (1 - rates) / 4000)
    assert (np.abs((y == 0).mean(axis=0) - rates) <= spread).all()
    np.testing.assert_allclose(y.max(axis=0)[:-1], 1 / (1 - rates[:-1]), 1e-15)
    y = Dropout(keep=rates[:, None])(np.ones((11, 4000)), KEY)
    assert (np.abs((y == 0).mean(axis=1) - rates[::-1]) <= spread).all()


def falling(step):
    return 0.9 / (1 + step)


@pytest.mark.parametrize("named", ["rate", "keep"])
@pytest.mark.parametrize(
    "layer",
    [Dropout, SpatialDropout1D, UnitDropout, DropPath, AlphaDropout, FeatureAlphaDropout,
     GaussianDropout, BlockDropout],
)  # fmt: skip
def test_a_schedule_is_asked_for_the_rate_of_the_step(layer, named):
    scheduled, x = layer(**{named: falling}), normal(6, 9, 8)
    for at in (0, 1, 8):
        fixed = layer(**{named: falling(at)})
        np.testing.assert_array_equal(scheduled(x, KEY.at(step=at)), fixed(x, KEY.at(step=at)))
    np.testing.assert_array_equal(scheduled(x), x)
    assert scheduled.rate(1) == pytest.approx(0.45 if named == "rate" else 0.55)
    assert scheduled.keep(1) == pytest.approx(0.55 if named == "rate" else 0.45)


def test_schedules_of_other_layers():
    x, words = normal(6, 9), np.arange(54).reshape(6, 9) % 20
    at = KEY.at(step=2)
    np.testing.assert_array_equal(GaussianNoise(falling)(x, at), GaussianNoise(falling(2))(x, at))
    for make, given, sample in (
        (lambda rate: DropConnect(4, rate), x, 9),
        (lambda rate: EmbeddingDropout(Embedding(20, 3), rate), words, 9),
    ):
        first, second = built(make(falling), sample), built(make(falling(2)), sample)
        np.testing.assert_array_equal(first(given, at), second(given, at))


def test_a_schedule_of_dropcore_builds_again_from_its_repr():
    from dropcore import nn, schedules

    layer = Dropout(schedules.Linear(0.1, 0.5, 100))
    names = vars(nn) | vars(schedules)
    twin, third = eval(repr(layer), names), nn.Layer.from_config(layer.to_config())
    for other in (twin, third):
        assert repr(other) == repr(layer)
        for at in (0, 50, 1000):
            key = KEY.at(step=at)
            np.testing.assert_array_equal(other(normal(9, 9), key), layer(normal(9, 9), key))


EXTREMES = [
    Dropout, SpatialDropout1D, UnitDropout, DropPath, AlphaDropout, FeatureAlphaDropout,
    partial(BlockDropout, block_size=1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", EXTREMES)
def test_the_ends_of_the_range(layer, dtype):
    x = normal(6, 9, 8, dtype=dtype)
    dy = normal(6, 9, 8, dtype=dtype, seed=1)
    y, dx, _ = step(layer(0.0), x, dy)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dx, dy)
    x[0, 0, 0], x[1, 1, 1] = np.nan, np.inf
    for keep in (0.0, 2.0**-34):
        y, dx, _ = step(layer(keep=keep), x, dy)
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_array_equal(dx, 0)
    y, dx, _ = step(layer(keep=1e-6), normal(6, 9, 8, dtype=dtype), dy)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_the_range_for_other_layers(dtype):
    x, dy = normal(6, 9, dtype=dtype), normal(6, 9, dtype=dtype, seed=1)
    for layer in (GaussianDropout(0.0), GaussianNoise(0.0)):
        y, dx, _ = step(layer, x, dy)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(dx, dy)
    for mode in ("row", "batch"):
        nothing = built(DropConnect(9, 1.0, mode=mode), 9, dtype=dtype)
        y, dx, grads = step(nothing, x, dy)
        np.testing.assert_array_equal(y, np.broadcast_to(nothing.params["bias"], y.shape))
        np.testing.assert_array_equal(dx, 0)
        np.testing.assert_array_equal(grads["weight"], 0)
        everything = built(DropConnect(9, 0.0, mode=mode), 9, dtype=dtype)
        np.testing.assert_allclose(step(everything, x, dy)[0], everything(x), 1e-5)
        everything = built(DropConnect(9, 0.0, mode=mode, inference="gaussian"), 9, dtype=dtype)
        np.testing.assert_array_equal(everything(x, KEY), everything(x))
    words = np.arange(6).reshape(2, 3)
    for rate, all_zero in ((0.0, False), (1.0, True)):
        layer = built(EmbeddingDropout(Embedding(6, 4), rate), 3, dtype=dtype)
        assert (layer(words, KEY) == (0 if all_zero else layer(words))).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dropout(256), ValueError, r"in \[0, 1\], got 256; did you mean Dense\(256\)\?"),
        (lambda: UnitDropout(64), ValueError, r"UnitDropout: .* did you mean Dense\(64\)\?"),
        (lambda: Dropout(math.nan), ValueError, r"dropped, in \[0, 1\], got nan"),
        (lambda: Dropout(keep=-0.1), ValueError, r"kept, in \[0, 1\], got -0.1"),
        (lambda: Dropout([0.5, 1.5]), ValueError, r"in \[0, 1\], got 1.5"),
        (lambda: Dropout("half"), TypeError, "rate must be a number"),
        (lambda: Dropout(1.5), ValueError, "1.5"),
        (lambda: Dropout(INF), ValueError, "inf"),
        (lambda: Dropout(-0.1), ValueError, "-0.1"),
        (lambda: Dropout(keep=1.01), ValueError, "1.01"),
        (lambda: Dropout(0.5, shared_axes=3)(np.ones((2, 7)), 0), ValueError, "axis 3.* 2 axes"),
        (lambda: Dropout(0.5)(np.ones((2, 7)), -1), ValueError, "-1"),
        (lambda: Dropout(0.5)(np.ones((2, 7)), 0.5), TypeError, "0.5"),
        (lambda: Dropout(0.5)(np.ones((2, 7)), 0, row_offset=-1), ValueError, "offset|row"),
        (lambda: Dropout(0.5, keep=0.5), ValueError, "rate or keep, not both"),
        (lambda: Dropout(falling, keep=falling), ValueError, "rate or keep, not both"),
        (lambda: Dropout(0.5, scaling="none"), ValueError, "'inverted' or 'test', got 'none'"),
        (lambda: Dropout(falling, scaling="test"), ValueError, "there is no step"),
        (lambda: Dropout(lambda step: 2.0)(np.ones((2, 2)), KEY), ValueError, "step 6: rate"),
        (lambda: Dropout(0.5, shared_axes=2)(np.ones((2, 2)), KEY), ValueError, "shares axis 2"),
        (lambda: Dropout(mask=[0, 1]), TypeError, "must be a boolean array"),
        (lambda: Dropout(0.5, mask=Mask((2,), 0.5, key=1)), ValueError, "a rate only with an"),
        (lambda: Dropout(shared_axes=0, mask=[True]), ValueError, "give no shared axes"),
        (lambda: SpatialDropout2D(0.5)(np.ones((2, 3, 4)), KEY), ValueError,
         r"expects an input \(batch, height, width, channels\), got one with 3 axes"),
        (lambda: SpatialDropout2D(0.5, data_format="channels_first")(np.ones((2, 3, 4)), KEY),
         ValueError, r"expects an input \(batch, channels, height, width\), got one with 3 axes"),
        (lambda: SpatialDropout1D(0.5, data_format="NCW"), ValueError,
         "SpatialDropout1D: data_format must be 'channels_last' or 'channels_first', got 'NCW'"),
        (lambda: UnitDropout(0.5, group=0), ValueError, "group must be an integer in .*, got 0"),
        (lambda: UnitDropout(0.5)(np.ones(3), KEY), ValueError, "got 1 axes"),
        (lambda: DropPath(0.5, mode="all"), ValueError, "'row' or 'batch', got 'all'"),
        (lambda: BlockDropout(0.5, block_size=1.5), TypeError, "block_size must be a positive"),
        (lambda: BlockDropout(0.5)(np.ones((2, 3)), KEY), ValueError, "got one with 2 axes"),
        (lambda: FeatureAlphaDropout(0.5)(np.ones((2, 3)), KEY), ValueError, "got 2 axes"),
        (lambda: GaussianDropout(1.0), ValueError, "rate must be below 1"),
        (lambda: GaussianDropout(lambda step: 1.0)(np.ones((2, 2)), KEY), ValueError, "below 1"),
        (lambda: GaussianNoise(-1.0), ValueError, "finite and not negative, got -1.0"),
        (lambda: GaussianNoise("1"), TypeError, "stddev must be a number"),
        (lambda: EmbeddingDropout(Dense(3)), TypeError, "a layer that takes indices"),
        (lambda: EmbeddingDropout(Embedding(3, 4), [0.5] * 3), TypeError, "numbers here"),
        (lambda: word_mask(np.array([[7]]), 7, 0.5, key=1), ValueError, r"in \[0, 7\), got 7"),
        (lambda: ConcreteDropout(Dropout(0.5), data_points=9), TypeError, "weights for its input"),
        (lambda: ConcreteDropout(Dense(3), 1.0, data_points=9), ValueError, "between 0 and 1, and"),
        (lambda: ConcreteDropout(Dense(3), data_points=0), ValueError, "positive and finite"),
        (lambda: ConcreteDropout(Dense(3), falling, data_points=1), TypeError, "not change with"),
        (lambda: VariationalDropout(0.6, data_points=9), ValueError, "0 and 0.5, and not 0"),
        (lambda: DropConnect(3, 0.5, inference="max"), ValueError, "'gaussian', got 'max'"),
        (lambda: DropConnect(3, falling, inference="gaussian"), ValueError, "needs one rate"),
        (lambda: DropConnect(3, 1.0, inference="gaussian"), ValueError, "needs one rate"),
        (lambda: DropConnect(3, 0.5, mode="sample"), ValueError, "'row' or 'batch'"),
    ],
)  # fmt: skip
def test_errors_say_what_is_allowed(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- masks of your own ---------------------------------------------------------------------------


def test_a_mask_of_your_own():
    kept = np.array([True, False, True, True])
    x = normal(3, 4)
    for layer, scale in ((Dropout(mask=kept), 1.0), (Dropout(0.2, mask=kept), 1 / 0.8)):
        for key in (KEY, Key(5)):
            np.testing.assert_array_equal(layer(x, key), np.where(kept, x * scale, 0))
        np.testing.assert_array_equal(
            layer.forward(x, key=1)[1](x)[0], np.where(kept, x * scale, 0)
        )
        np.testing.assert_array_equal(layer(x), x)
    drawn = Mask((3, 4), 0.3, key=8)
    for held in (drawn, Mask.given(drawn.to_bool(), keep=0.7)):
        layer = Dropout(mask=held)
        assert layer.keep == pytest.approx(0.7)
        np.testing.assert_array_equal(layer(x, KEY), dropcore.dropout(x, mask=drawn))
        twin = eval(repr(layer), {"Dropout": Dropout, "np": np})
        np.testing.assert_allclose(twin(x, KEY), layer(x, KEY), 1e-15)


def test_a_mask_of_your_own_in_a_network_takes_the_product_of_what_lives():
    kept = np.arange(30) % 3 > 0
    model = built(Sequential([Dense(30, activation="relu"), Dropout(mask=kept), Dense(2)]), 5)
    x, dy = normal(8, 5), normal(8, 2)
    y, _, grads = step(model, x, dy)
    first, second = model[0].params, model[2].params
    hidden = np.maximum(x @ first["weight"] + first["bias"], 0) * kept
    np.testing.assert_allclose(y, hidden @ second["weight"] + second["bias"], 1e-12)
    assert not np.asarray(grads["0.weight"])[:, ~kept].any()
    assert not np.asarray(grads["2.weight"])[~kept].any()


# --- blocks --------------------------------------------------------------------------------------


def blocks_by_hand(shape, rate, block, key):
    """DropBlock, place by place."""
    space = shape[1:-1]
    edges = [min(block, n) for n in space]
    gamma = rate
    for n, edge in zip(space, edges, strict=True):
        gamma *= n / (edge * (n - edge + 1))
    fits = [n - edge + 1 for n, edge in zip(space, edges, strict=True)]
    begins = decision_uniform((shape[0], *fits, shape[-1]), key) >= 1 - gamma
    lives = np.ones(shape, bool)
    for where in zip(*np.nonzero(begins), strict=True):
        around = [slice(at, at + edge) for at, edge in zip(where[1:-1], edges, strict=True)]
        lives[(where[0], *around, where[-1])] = False
    count = lives.reshape(shape[0], -1).sum(axis=1)
    factor = np.divide(math.prod(shape[1:]), count, out=np.zeros(len(count)), where=count > 0)
    return lives * factor.reshape(-1, *(1,) * (len(shape) - 1))


@pytest.mark.parametrize("shape", [(4, 20, 3), (4, 9, 13, 3), (3, 5, 20, 2)])
@pytest.mark.parametrize("block", [1, 3, 7])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_blocks_are_dropped_place_by_place(shape, block, rate):
    x = normal(*shape)
    expected = blocks_by_hand(shape, rate, block, KEY)
    y, dx, _ = step(BlockDropout(rate, block_size=block), x, x)
    np.testing.assert_allclose(y, x * expected, 1e-15)
    np.testing.assert_array_equal(dx, y)
    for sample, factor in zip(y, expected, strict=True):  # each sample keeps its size
        assert abs(factor.mean() - (1 if sample.any() else 0)) < 1e-12


def test_a_small_rate_drops_about_that_many_places():
    shape, rate, block = (400, 16, 16, 4), 0.05, 3
    lives = BlockDropout(rate, block_size=block).mask(shape, KEY).to_bool()
    places = 400 * 4 * 14 * 14
    gamma = rate * (16 / (3 * 14)) ** 2
    expected = gamma * 9 * 14 * 14 / 256  # without overlaps, which take some off
    deviation = 9 * math.sqrt(places * gamma) / (400 * 4 * 256)
    dropped = 1 - lives.mean()
    assert expected * (1 - 9 * gamma) - 5 * deviation < dropped < expected + 5 * deviation


# --- Gaussians -----------------------------------------------------------------------------------


def test_gaussian_dropout_and_noise_are_their_formulas():
    x, dy = normal(40, 50), normal(40, 50, seed=1)
    z = noise(x.shape, key=KEY, dtype=np.float64)
    y, dx, _ = step(GaussianDropout(0.2), x, dy)
    np.testing.assert_allclose(y, x * (1 + 0.5 * z), 1e-14, 1e-14)
    np.testing.assert_allclose(dx, dy * (1 + 0.5 * z), 1e-14, 1e-14)
    y, dx, _ = step(GaussianNoise(0.3), x, dy)
    np.testing.assert_allclose(y, x + 0.3 * z, 1e-14)
    np.testing.assert_array_equal(dx, dy)


def test_gaussian_dropout_has_the_moments_of_dropout():
    n = 2**18
    y = GaussianDropout(0.3)(np.ones((n, 1)), KEY)
    variance = 0.3 / 0.7
    assert abs(y.mean() - 1) < 5 * math.sqrt(variance / n)
    assert abs(y.var() - variance) < 5 * variance * math.sqrt(2 / n)
    noisy = GaussianNoise(2.0)(np.zeros((n, 1)), KEY)
    assert abs(noisy.var() - 4) < 5 * 4 * math.sqrt(2 / n)


# --- alpha ---------------------------------------------------------------------------------------

ALPHA = 1.7580993408473766  # in torch's source, whose formula this is: -scale * alpha of SELU


def alpha_by_hand(x, kept, p):
    a = 1.0 / math.sqrt((ALPHA * ALPHA * p + 1) * (1 - p))
    b = ~kept * (ALPHA * a) * -1 + ALPHA * a * p
    return x * (kept * a) + b


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_alpha_dropout_is_the_formula_of_torch(p):
    x, dy = normal(30, 40), normal(30, 40, seed=1)
    kept = Mask((30, 40), p, key=KEY).to_bool()
    y, dx, _ = step(AlphaDropout(p), x, dy)
    np.testing.assert_allclose(y, alpha_by_hand(x, kept, p), 1e-12, 1e-12)
    a = 1.0 / math.sqrt((ALPHA * ALPHA * p + 1) * (1 - p))
    np.testing.assert_allclose(dx, dy * kept * a, 1e-12)


def test_alpha_dropout_keeps_mean_and_variance():
    n = 2**19
    for rate in (0.1, 0.5):
        y = AlphaDropout(rate)(normal(n, 1), KEY)
        assert abs(y.mean()) < 5 / math.sqrt(n)
        fourth = ((y - y.mean()) ** 4).mean()
        assert abs(y.var() - 1) < 5 * math.sqrt((fourth - 1) / n)


# --- words ---------------------------------------------------------------------------------------


def test_words_are_dropped_wherever_they_stand():
    words = np.random.default_rng(0).integers(0, 50, (20, 30))
    layer = built(EmbeddingDropout(Embedding(50, 8), 0.4, mode="batch"), 30)
    kept = Mask((50, 1), 0.4, key=KEY).to_bool()  # decision i is that of word i
    plain = layer.embedding(words)
    np.testing.assert_allclose(layer(words, KEY), plain * kept[words] / 0.6, 1e-14)
    layer = built(EmbeddingDropout(Embedding(50, 8), 0.4), 30)
    kept = Mask((20, 50), 0.4, key=KEY).to_bool()
    chosen = np.take_along_axis(kept, words, axis=1)
    np.testing.assert_allclose(layer(words, KEY), plain * chosen[..., None] / 0.6, 1e-14)
    dy = normal(20, 30, 8)
    gradient = np.zeros((50, 8))
    np.add.at(gradient, words, dy * chosen[..., None] / 0.6)
    for for_update in (False, True):
        grads = layer.forward(words, key=KEY)[1](dy, for_update=for_update)[1]
        np.testing.assert_allclose(np.asarray(grads["embedding.weight"]), gradient, 1e-12, 1e-12)
    np.testing.assert_array_equal(layer(words), plain)


def test_the_mask_of_words_takes_any_integers_and_shapes():
    for dtype in (np.int8, np.uint16, np.int64):
        words = np.arange(24).reshape(2, 3, 4).astype(dtype)
        mask = word_mask(words[:, ::2], 30, keep=0.5, key=KEY, mode="batch")
        assert mask.shape == (2, 2, 4, 1)
        np.testing.assert_array_equal(
            mask.to_bool()[..., 0], Mask((30,), 0.5, key=KEY).to_bool()[words[:, ::2]]
        )


# --- learned rates -------------------------------------------------------------------------------


def concrete_by_hand(layer, x, key):
    """The formula of the paper's appendix, with eps for u."""
    p = float(expit(layer.params["logit"][0]))
    eps = decision_uniform(x.shape, key)
    z = expit((np.log(p) - np.log(1 - p) + np.log(eps) - np.log(1 - eps)) / layer.temperature)
    return layer.layer(x * (1 - z) / (1 - p))


def test_concrete_dropout_is_the_formula_of_the_paper():
    layer = built(ConcreteDropout(Dense(4, activation="relu"), 0.3, data_points=100), 7)
    x = normal(5, 7)
    np.testing.assert_allclose(layer(x, KEY), concrete_by_hand(layer, x, KEY), 1e-10)
    np.testing.assert_array_equal(layer(x), layer.layer(x))
    assert layer.learned_rate == pytest.approx(0.3)


def test_cold_concrete_dropout_is_dropout():
    cold = built(ConcreteDropout(Dense(4), 0.3, data_points=INF, temperature=1e-7), 7)
    x = normal(500, 7)
    np.testing.assert_allclose(cold(x, KEY), cold.layer(Dropout(0.3)(x, KEY)), 1e-6, 1e-9)


PENALISED = [
    (ConcreteDropout(Dense(4, activation="tanh"), 0.2, data_points=3, length_scale=0.7), 7),
    (ConcreteDropout(Dense(4), 0.6, data_points=0.5, length_scale=0.0, temperature=0.4), 7),
    (VariationalDropout(0.2, data_points=3), 7),
    (VariationalDropout(0.4, data_points=0.5, per_unit=True), 7),
]


@pytest.mark.parametrize(("layer", "features"), PENALISED, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("key", [KEY, None])
def test_the_gradients_hold_that_of_the_penalty(layer, features, key):
    layer = built(layer, features)
    x, direction = normal(6, features), normal(*layer(normal(6, features)).shape, seed=1)

    def loss():
        return float((layer.forward(x, key=key)[0] * direction).sum()) + layer.penalty()

    for for_update in (False, True):
        _, grads = layer.forward(x, key=key)[1](direction, for_update=for_update)
        assert grads.keys() == layer.params.keys()
        for name, weight in layer.params.items():
            expected = differences(loss, weight)
            np.testing.assert_allclose(np.asarray(grads[name]), expected, 1e-6, 1e-7, err_msg=name)


def test_the_penalty_of_concrete_dropout_is_that_of_the_paper():
    layer = built(ConcreteDropout(Dense(4), 0.3, data_points=50, length_scale=0.1), 7)
    squares = np.sum(layer.layer.params["weight"] ** 2)
    entropy = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert layer.penalty() == pytest.approx((0.01 / 2 * squares / 0.7 - 7 * entropy) / 50)


def test_the_penalty_of_variational_dropout_is_the_divergence_up_to_a_constant():
    def divergence(alpha):
        """-(log(alpha) / 2 - E log |1 + sqrt(alpha) z|)."""

        def integrand(z):
            return math.log(abs(1 + math.sqrt(alpha) * z)) * math.exp(-0.5 * z * z)

        singular = -1 / math.sqrt(alpha)
        ends = (-12, singular, 12) if singular > -12 else (-12, 12)
        parts = [quad(integrand, *pair, limit=500)[0] for pair in pairwise(ends)]
        return -(0.5 * math.log(alpha) - sum(parts) / math.sqrt(2 * math.pi))

    layer = built(VariationalDropout(0.5, data_points=1), 1)
    found, exact = [], []
    for alpha in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
        layer.params["log_alpha"][:] = math.log(alpha)
        found.append(layer.penalty())
        exact.append(divergence(alpha))
    difference = np.subtract(found, exact)
    assert np.ptp(difference) < 0.01 * np.ptp(exact)


def test_variational_dropout_is_its_formula():
    for per_unit in (False, True):
        layer = built(VariationalDropout(0.2, data_points=INF, per_unit=per_unit), 7)
        assert layer.params["log_alpha"].shape == ((7,) if per_unit else (1,))
        layer.params["log_alpha"][:] = np.log(np.linspace(0.1, 0.9, 7) if per_unit else 0.25)
        x = normal(5, 7)
        z = noise(x.shape, key=KEY, dtype=np.float64)
        expected = x * (1 + np.exp(layer.params["log_alpha"] / 2) * z)
        np.testing.assert_allclose(layer(x, KEY), expected, 1e-13)
    start = built(VariationalDropout(0.2, data_points=INF), 7)
    np.testing.assert_allclose(start(x, KEY), GaussianDropout(0.2)(x, KEY), 1e-13)
    assert start.learned_rate == pytest.approx(0.2)


def squared(out, target):
    difference = out - target
    return float(np.mean(difference**2)) / 2, difference / out.dtype.type(out.size)


def test_learned_rates_fall_where_noise_hurts_and_rise_where_it_is_free():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = x @ rng.normal(size=(8, 1)).astype(np.float32)
    for target, points, falls in ((y, 256, True), (np.zeros_like(y), 4, False)):
        for layers in (
            [ConcreteDropout(Dense(1), 0.3, data_points=points)],
            [VariationalDropout(0.3, data_points=points), Dense(1)],
        ):
            model = Sequential(layers)
            model.fit(
                x, target, epochs=30, optimizer=SGD(0.05), loss=squared, key=1, progress=False
            )
            rate = model[0].learned_rate
            assert rate < 0.25 if falls else rate > 0.35, (layers, target.std(), rate)
            assert rate <= 0.5 + 1e-6 or isinstance(model[0], ConcreteDropout)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_drop_connect_is_its_formula(mode, activation):
    layer = built(DropConnect(6, 0.3, mode=mode, activation=activation), 9)
    layer.params["bias"][:] = normal(6)
    x = normal(4, 9)
    weight = layer.params["weight"]
    own = (4, 9, 6) if mode == "row" else (9, 6)
    thinned = weight * Mask(own, 0.3, key=KEY).to_bool() / 0.7
    expected = np.einsum("bk,...kn->bn" if mode == "batch" else "bk,bkn->bn", x, thinned)
    function = {None: lambda v: v, "relu": lambda v: np.maximum(v, 0), "tanh": np.tanh}[activation]
    np.testing.assert_allclose(
        layer(x, KEY), function(expected + layer.params["bias"]), 1e-9, 1e-12
    )
    np.testing.assert_allclose(layer(x), function(x @ weight + layer.params["bias"]), 1e-9, 1e-12)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_moment_matching_is_the_mean_over_masks(activation):
    layer = built(DropConnect(3, 0.5, activation=activation, inference="gaussian"), 400)
    x = normal(4, 400) / 10
    samples = np.stack([layer(x, KEY.at(step=s)) for s in range(4000)])
    masks = np.stack([layer.forward(x, key=KEY.at(step=s))[0] for s in range(4000)])
    for drawn in (samples, masks):  # 400 weights make a Gaussian of almost the same mean
        spread = drawn.std(axis=0) / math.sqrt(4000)
        assert (np.abs(drawn.mean(axis=0) - layer(x)) < 5 * spread).all()
        assert spread.min() > 0
    ratio = samples.var(axis=0) / masks.var(axis=0)
    # Of an output that is seldom active, the variance itself is not known to a quarter.
    error = np.hypot(variance_error(samples), variance_error(masks))
    assert (np.abs(ratio - 1) < np.maximum(0.25, 5 * error)).all()
    assert (error < 0.05).sum() >= 6


def variance_error(drawn):
    """The relative standard error of each column's variance, from its fourth moment."""
    square = (drawn - drawn.mean(axis=0)) ** 2
    return square.std(axis=0) / square.mean(axis=0) / math.sqrt(len(drawn))


def test_moment_matching_is_its_formula():
    layer = built(
        DropConnect(6, keep=0.8, activation="relu", inference="gaussian", use_bias=False), 9
    )
    x, weight = normal(4, 9), layer.params["weight"]
    x[0] = 0  # no variance
    mean, deviation = x @ weight, np.sqrt(0.2 / 0.8 * (x**2 @ weight**2))
    z = noise(mean.shape, key=KEY, dtype=np.float64)
    np.testing.assert_allclose(layer(x, KEY), np.maximum(mean + deviation * z, 0), 1e-10, 1e-12)
    t = np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
    density = np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(layer(x), mean * ndtr(t) + deviation * density, 1e-10, 1e-12)
    assert not layer(x)[0].any()
    tanh = built(
        DropConnect(6, keep=0.8, activation="tanh", inference="gaussian", use_bias=False), 9
    )
    np.testing.assert_allclose(tanh(x), np.tanh(mean), 1e-10, 1e-12)
    np.testing.assert_allclose(tanh(x, KEY), np.tanh(mean + deviation * z), 1e-10, 1e-12)

"""Containers, and Reshape, Embedding and Maxout; configs and summaries."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dropcore
from dropcore import Key
from dropcore.constraints import MaxNorm
from dropcore.nn import (
    AlphaDropout,
    ConcreteDropout,
    Dense,
    DropConnect,
    Dropout,
    Embedding,
    EmbeddingDropout,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    Layer,
    LayerNorm,
    Maxout,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    UnitDropout,
    VariationalDropout,
)
from dropcore.optim import SGD
from dropcore.schedules import Linear
from support.arrays import normal
from support.layers import built, small_network

KEY = Key(5, stream=1, step=2)


# --- side by side --------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["concat", "sum", "mean"])
def test_parallel_is_its_formula(merge):
    layer = built(Parallel([Dense(3), Dense(3, activation="relu")], merge=merge), 4)
    x = normal(5, 4)
    first, second = (branch(x) for branch in layer.branches)
    wanted = {"concat": np.concatenate([first, second], -1), "sum": first + second,
              "mean": (first + second) / 2}[merge]  # fmt: skip
    np.testing.assert_allclose(layer(x), wanted, 1e-14)
    assert set(layer.params) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_every_branch_draws_masks_of_its_own():
    x = np.ones((4, 200))
    whole = Parallel([Dropout(0.5), Dropout(0.5)])
    first, second = np.split(whole(x, KEY), 2, axis=1)
    np.testing.assert_array_equal(first, Dropout(0.5)(x, KEY))
    np.testing.assert_array_equal(second, Dropout(0.5)(x, KEY.at(stream=KEY.stream + 1)))
    assert (first != second).any()
    behind = Sequential([whole, Dropout(0.5)])
    assert behind.n_streams == 3
    wanted = Dropout(0.5)(whole(x, KEY), KEY.at(stream=KEY.stream + 2))
    np.testing.assert_array_equal(behind(x, KEY), wanted)


def test_residual_adds_its_input_or_what_the_shortcut_makes_of_it():
    x = normal(5, 4)
    layer = built(Residual([Dense(6, activation="relu"), Dense(4)]), 4)
    np.testing.assert_allclose(layer(x), x + layer.layer(x), 1e-14)
    layer = built(Residual(Dense(3), Dense(3)), 4)
    np.testing.assert_allclose(layer(x), layer.shortcut(x) + layer.layer(x), 1e-14)


def test_a_network_of_branches_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    model = Sequential(
        [
            Parallel([Dense(24, activation="relu"), Maxout(8, pieces=3)]),
            Residual([Dropout(0.1), Dense(32, activation="relu")]),
            Dense(2),
        ]
    )
    model.fit(x, labels, epochs=30, optimizer=SGD(0.1, momentum=0.9), key=1, progress=False)
    assert model.evaluate(x, labels)["accuracy"] > 0.93


def test_every_site_has_its_own_stream_numbered_depth_first():
    sizes = 64, 32
    inner = Sequential([ReLU(), Dropout(0.5), Dropout(0.5)])
    model = Sequential([Dropout(0.5), ReLU(), inner, Dropout(0.5)])
    assert model.n_streams == 4
    keys = []
    for _, layer, key in model.children_with_keys(KEY):
        keys += [k for _, _, k in layer.children_with_keys(key)] if layer is inner else [key]
    assert [key and key.stream for key in keys] == [1, None, None, 2, 3, 4]
    x = np.ones(sizes, np.float32)
    expected = x
    for stream in range(4):
        expected = dropcore.dropout(expected, 0.5, key=KEY.at(stream=KEY.stream + stream))
    np.testing.assert_array_equal(model(x, KEY), expected)
    np.testing.assert_array_equal(model.forward(x, key=KEY)[0], expected)
    # Four independent masks of one half leave a sixteenth; a shared stream would leave a half.
    assert 0.03 < np.count_nonzero(expected) / x.size < 0.1


def test_paths_of_parameters():
    names = ["1.weight", "1.bias", "3.0.weight", "3.0.bias", "4.weight", "4.bias"]
    model = built(small_network(), 7)
    assert list(model.params) == names
    assert model.params["3.0.weight"] is model[3][0].params["weight"]
    assert [path for path, _ in model.leaves()] == ["0", "1", "2", "3.0", "3.1", "3.2", "4"]


def test_build_keeps_the_weights_that_are_there():
    first = built(Dense(6), 7)
    before = first.params["weight"].copy()
    model = Sequential([first, Dense(3)])
    assert not model.built
    model.build((7,), key=9)
    assert model.built
    np.testing.assert_array_equal(model.params["0.weight"], before)
    assert model.params["1.weight"].dtype == np.float64
    with pytest.raises(ValueError, match="must be float64, as there are weights, got float32"):
        model.build((7,), key=0, dtype=np.float32)
    with pytest.raises(ValueError, match=r"layer 0, Dense\(6\) expects .* 7\), got \(8,\)"):
        model.build((8,), key=0)


# --- other shapes --------------------------------------------------------------------------------


def test_reshape_keeps_the_order_of_the_elements():
    x = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(Reshape((4, -1))(x), x.reshape(2, 4, 3))
    np.testing.assert_array_equal(Flatten()(x), x.reshape(2, 12))
    assert Flatten().output_shape(()) == (1,)
    assert Reshape((0, 2)).output_shape((2, 0)) == (0, 2)


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), SGD(0.1)])
def test_the_update_of_an_embedding_is_that_of_the_whole_gradient(optimizer):
    layer = built(Embedding(20, 6, constraint=MaxNorm(0.2)), 7)
    ids = np.array([[3, 3, 19], [0, 3, 7]])
    dy = normal(2, 3, 6)
    results = []
    for for_update in (False, True):
        params = {"weight": layer.params["weight"].copy()}
        state = optimizer.init(params)
        for step in range(3):
            _, grads = layer.forward(ids)[1](dy, for_update=for_update)
            optimizer.apply(params, grads, state, step, layer.constraints)
        results.append(params["weight"])
    np.testing.assert_allclose(results[1], results[0], 1e-12)
    assert np.linalg.norm(results[0], axis=1).max() <= 0.2
    assert not np.allclose(results[0][3], layer.params["weight"][3])


def test_the_weights_of_padding_are_zero():
    layer = built(Embedding(6, 4, padding_index=2), 7)
    weight = layer.params["weight"]
    assert not weight[2].any()
    assert weight[[0, 1, 3, 4, 5]].all()


def test_fit_hands_indices_on_as_they_are():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 50, (300, 8))
    labels = (words < 10).any(axis=1).astype(np.int64)
    model = Sequential([Embedding(50, 12), Flatten(), Dense(16, activation="relu"), Dense(2)])
    assert model.integer_input
    model.fit(words, labels, epochs=40, optimizer=SGD(0.1, momentum=0.9), progress=False)
    assert model.evaluate(words, labels)["accuracy"] > 0.95
    with pytest.raises(TypeError, match=r"x must be integers.*float64.*astype"):
        model.predict(words.astype(float))


# --- maxout --------------------------------------------------------------------------------------


def test_maxout_is_the_largest_of_its_pieces():
    layer = built(Maxout(4, pieces=3), 6)
    layer.params["linear.bias"][:] = normal(12)
    x = normal(5, 6)
    z = (x @ layer.params["linear.weight"] + layer.params["linear.bias"]).reshape(5, 3, 4)
    np.testing.assert_allclose(layer(x), z.max(axis=1), 1e-12)
    one = built(Maxout(4, pieces=1), 6)
    np.testing.assert_array_equal(one(x), one.children["linear"](x))


# --- plain data ----------------------------------------------------------------------------------


def test_a_config_says_what_it_cannot_write_down():
    model = Sequential([Dense(3), Dense(4, initializer=lambda rng, shape: np.zeros(shape))])
    with pytest.raises(TypeError, match=r"Dense\.initializer: <function .* cannot be written"):
        model.to_config()


def test_a_config_of_a_class_of_your_own():
    class Twice(Layer):
        def __init__(self, factor=2.0):
            super().__init__()
            self.factor = factor

    config = json.loads(json.dumps(Sequential([Twice(3.0)]).to_config()))
    assert config == {"class": "Sequential", "layers": [{"class": "Twice", "factor": 3.0}]}
    with pytest.raises(ValueError, match=r"there is no Twice in dropcore.*custom="):
        Sequential.from_config(config)
    (layer,) = Sequential.from_config(config, custom={"Twice": Twice}).layers
    assert layer.factor == 3.0


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"class": "Dense"}, ValueError, "Dense: missing a required argument: 'units'"),
        ({"class": "Dense", "units": 3, "unit": 4}, ValueError, "unexpected keyword argument"),
        ({"units": 3}, ValueError, r"expected a dict with a class, .* got the keys \['units'\]"),
        (3, TypeError, "config must be a dict that to_config returned, got 3"),
        (None, TypeError, "config must be a dict that to_config returned, got None"),
        ({"class": "MaxNorm", "max_norm": 3.0}, TypeError, r"config of MaxNorm\(3.0\)"),
        ({"class": "Dense", "units": 0}, ValueError, "positive integer, got 0"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config, error, message):
    with pytest.raises(error, match=message):
        Layer.from_config(config)


def test_the_summary_is_a_table():
    model = Sequential(
        [
            Dropout(keep=0.8),
            Dense(32, activation="relu", constraint=MaxNorm(2.0)),
            Dropout(0.5),
            Residual([Dense(8), Dense(32)]),
            Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="has not been built"):
        model.summary()
    table = model.summary((10,))
    assert [row.path for row in table.rows] == [
        "0",
        "1",
        "2",
        "3",
        "3.0",
        "3.0.0",
        "3.0.1",
        "3.1",
        "4",
    ]
    assert [row.parameters for row in table.rows] == [0, 352, 0, 552, 552, 264, 288, 0, 99]
    assert table.parameters == 352 + 552 + 99
    text = str(table)
    assert "keep 0.8: 8 of 10 kept" in text
    assert "keep 0.5: 16 of 32 kept" in text
    assert "weight: MaxNorm(2.0)" in text
    assert "1,003 parameters, 2 streams of noise" in text
    assert not model.built
    model.build((10,), key=0)
    assert str(model.summary()) == text


# --- what is refused -----------------------------------------------------------------------------

WRONG = [
    (lambda: Parallel([]), ValueError, "needs at least one layer"),
    (lambda: Parallel(Dense(3)), TypeError, r"takes a list of layers.* got Dense\(3\)"),
    (lambda: Parallel([Dense(3), 4]), TypeError, "got 4 at position 1"),
    (lambda: Parallel([Dense(3)], merge="max"), ValueError, "must be 'concat', 'sum', 'mean'"),
    (lambda: Parallel([Dense(3), Dense(4)], merge="sum").output_shape((5,)), ValueError,
     r"must be equal, got \(3,\), \(4,\)"),
    (lambda: Parallel([Flatten(), Dense(4)]).output_shape((2, 5)), ValueError,
     r"differ in the last axis only, got \(10,\), \(2, 4\)"),
    (lambda: Residual(Dense(4)).output_shape((5,)), ValueError, r"got \(4,\), \(5,\)"),
    (lambda: Reshape(4), TypeError, r"did you mean \(4,\)"),
    (lambda: Reshape((-1, -1)), ValueError, "at most one -1"),
    (lambda: Reshape((2, 3)).output_shape((7,)), ValueError, "which hold 7 numbers"),
    (lambda: Reshape((2, -1)).output_shape((7,)), ValueError, "which hold 7 numbers"),
    (lambda: Flatten().output_shape((None, 3)), ValueError, "known shape"),
    (lambda: Embedding(0, 3), ValueError, "input_dim must be a positive integer, got 0"),
    (lambda: Embedding(4, 3, padding_index=4), ValueError, r"padding_index .* \[0, 3\], got 4"),
    (lambda: Embedding(4, 3)(np.zeros((2, 2), np.int64)), ValueError, "has no weights yet"),
    (lambda: built(Embedding(4, 3), 2)(np.array([[0, 4]])), ValueError, r"\[0, 4\), got 4"),
    (lambda: built(Embedding(4, 3), 2)(np.array([[0, -1]])), ValueError, "got -1"),
    (lambda: built(Embedding(4, 3), 2)(np.zeros((1, 2))), TypeError, "takes integers, got float"),
    (lambda: Maxout(3, pieces=0), ValueError, "pieces must be a positive integer, got 0"),
    (lambda: ReLU().forward_from(np.zeros((1, 1)), 3), ValueError, "carries no state"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_wrong_arguments_say_what_is_allowed(make, error, message):
    with pytest.raises(error, match=message):
        make()


NOTES = [
    (Dropout(np.linspace(0, 1, 8)), "keep 0.5: 4 of 8 kept"),
    (Dropout(mask=[True, False, True, True, False, True, True, True]), "keep 0.75: 6 of 8 kept"),
    (Dropout(Linear(0.0, 0.5, 10)), "rate Linear(start=0.0, end=0.5, steps=10)"),
    (UnitDropout(keep=0.25), "keep 0.25: 2 of 8 kept"),
    (AlphaDropout(0.5), "keep 0.5: 4 of 8 kept"),
    (DropConnect(4, 0.25), "keep 0.75 of the weights"),
    (GaussianDropout(0.2), "keep 0.8"),
    (GaussianNoise(0.3), "stddev 0.3"),
    (ConcreteDropout(Dense(2), 0.2, data_points=9), "rate 0.2, learned"),
    (VariationalDropout(0.2, data_points=9), "rate 0.2, learned"),
    (EmbeddingDropout(Embedding(9, 2), 0.2), "keep 0.8 of the words"),
    (LayerNorm(), ""),
]


@pytest.mark.parametrize(("layer", "note"), NOTES, ids=lambda value: repr(value)[:30])
def test_the_summary_says_live_where_elements_are_dropped(layer, note):
    row = Sequential([layer]).summary((8,)).rows[0]
    assert "; ".join(n for n in row.notes if not n.startswith("log_alpha")) == note


def test_an_infinite_argument_has_a_repr_that_rebuilds():
    layer = ConcreteDropout(Dense(2), data_points=float("inf"))
    assert repr(layer) == "ConcreteDropout(Dense(2), data_points=float('inf'))"
    assert eval(repr(layer)).data_points == float("inf")

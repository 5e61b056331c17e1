"""Attributes of layers: those that hold at once, those that are refused, and read-only views."""

from __future__ import annotations

import copy
import inspect
import json
import math
import operator
import pickle
import re

import numpy as np
import pytest

from dropcore import Mask
from dropcore.constraints import MaxNorm
from dropcore.nn import (
    GRU,
    LSTM,
    BatchNorm,
    Bidirectional,
    ConcreteDropout,
    Dense,
    Dropout,
    Embedding,
    EmbeddingDropout,
    Maxout,
    Model,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    VariationalDropout,
)
from dropcore.optim import SGD
from dropcore.regularizers import L2
from support.layers import EXAMPLES, KEY, batches, built, every_layer

# Another value of each argument of a constructor: the first that the constructor takes.
OTHERS = {
    "activation": ["tanh", "relu"],
    "alpha": [0.25],
    "approximate": ["tanh", None],
    "block_size": [2, 1],
    "causal": [True, False],
    "center": [True, False],
    "constraint": [MaxNorm(0.125)],
    "count_include_pad": [True, False],
    "data_format": ["channels_first", "channels_last"],
    "data_points": [77.0],
    "dilation": [2, 1],
    "dropout": [0.625],
    "epsilon": [0.25],
    "filters": [12],
    "group": [2, 3],
    "groups": [1, 2],
    "head_size": [5],
    "heads": [1, 2],
    "inference": ["gaussian", "mean"],
    "initializer": ["ones", "glorot_normal"],
    "input_dim": [12],
    "keep": [0.375, 0.625],
    "key_heads": [1, 2],
    "kernel_size": [1, 2],
    "length_scale": [0.5],
    "mask": [np.ones(1, bool)],
    "max_length": [12],
    "max_wavelength": [50.0],
    "merge": ["mean", "sum"],
    "mode": ["batch", "row"],
    "momentum": [0.25],
    "output_dim": [6],
    "padding": ["same", 0],
    "padding_index": [1, 3],
    "per_unit": [True, False],
    "pieces": [2, 4],
    "pool_size": [2, 1],
    "rate": [0.375],
    "recurrent_constraint": [MaxNorm(0.125)],
    "recurrent_dropout": [0.625],
    "recurrent_initializer": ["zeros"],
    "recurrent_regularizer": [L2(0.5)],
    "regularizer": [L2(0.5)],
    "return_sequences": [True, False],
    "reverse": [True, False],
    "scale": [True, False],
    "scaling": ["test", "inverted"],
    "shared_axes": [(-1,), ()],
    "slope": [0.25],
    "stddev": [0.625],
    "stride": [2, 1],
    "target_shape": [(-1,), (1, -1)],
    "temperature": [0.75],
    "unit_forget_bias": [False, True],
    "units": [6],
    "use_bias": [True, False],
    "weight_dropout": [0.625],
    "zoneout": [0.625],
    "zoneout_cell": [0.625],
}  # fmt: skip
FIXED = {
    "center", "filters", "groups", "head_size", "heads", "initializer", "input_dim", "key_heads",
    "kernel_size", "max_length", "output_dim", "padding_index", "per_unit", "pieces",
    "recurrent_initializer", "scale", "unit_forget_bias", "units", "use_bias",
}  # fmt: skip
OF_LAYERS = {"layers", "branches", "layer", "shortcut", "embedding"}
LEARNED = ConcreteDropout, VariationalDropout


def outcome(layer, x):
    """What a layer computes and what training is told, as comparable values."""
    try:
        y, backward = layer.forward(x, key=KEY)
        dx, grads = backward(np.ones_like(y))
    except ValueError as error:
        return str(error)
    arrays = [layer(x), layer(x, KEY), y, *([] if dx is None else [dx])]
    arrays += [np.asarray(grads[name]) for name in sorted(grads)]
    parts = [(a.shape, a.tobytes()) for a in arrays]
    return parts, repr(layer.constraints), repr(layer.regularizers), repr(layer)


def other_layer(layer, name):
    """The layer with another value of an argument, and the value."""
    arguments = dict(copy.deepcopy(layer).config())
    for value in OTHERS[name]:
        changed = arguments | {name: value}
        if name in ("rate", "keep"):
            changed = {k: v for k, v in changed.items() if k not in {"rate", "keep"} - {name}}
        try:
            other = type(layer)(**changed)
        except (TypeError, ValueError):
            continue
        if repr(other) != repr(layer):
            return other, value
    return None, None


@every_layer
def test_an_argument_assigned_to_a_built_layer_is_in_force_or_refused(layer, sample):
    names = inspect.signature(type(layer)).parameters
    assert set(names) <= OTHERS.keys() | OF_LAYERS
    for name in names:
        own = built(layer, *sample)
        x = batches(own, sample)
        before = outcome(own, x)
        if name in OF_LAYERS:
            with pytest.raises(AttributeError, match=f"{name} cannot be assigned: create another"):
                setattr(own, name, Dense(3))
            assert outcome(own, x) == before
            continue
        other, value = other_layer(layer, name)
        if other is None:
            continue
        if name in FIXED or (name in ("rate", "keep") and isinstance(layer, LEARNED)):
            with pytest.raises(AttributeError, match=f"{name} cannot be assigned once .* is built"):
                setattr(own, name, value)
            assert outcome(own, x) == before
            continue
        setattr(own, name, value)
        if name == "merge" and isinstance(outcome(own, x), str):
            assert "the branches' outputs must be equal in shape" in outcome(own, x)
            continue
        other.build(sample, key=1, dtype=np.float64)
        other.load_params(own.params)
        for path, array in own.buffers.items():
            other.buffers[path][...] = array
        assert outcome(own, x) == outcome(other, x) != before


@every_layer
def test_an_argument_assigned_before_building_is_in_force(layer, sample):
    for name in inspect.signature(type(layer)).parameters:
        if name in OF_LAYERS:
            continue
        other, value = other_layer(layer, name)
        if other is None:
            continue
        own = copy.deepcopy(layer)
        setattr(own, name, value)
        assert repr(own) == repr(other) != repr(layer)
        try:
            other.build(sample, key=1)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                own.build(sample, key=1)
            continue
        own.build(sample, key=1)
        for path, array in other.params.items():
            np.testing.assert_array_equal(own.params[path], array)
        x = batches(own, sample, dtype=np.float32)
        assert outcome(own, x) == outcome(other, x)


def test_every_argument_of_the_examples_was_given_another_value():
    given = {
        (type(layer), name)
        for layer, _ in EXAMPLES
        for name in inspect.signature(type(layer)).parameters
        if name not in OF_LAYERS and other_layer(layer, name)[0] is not None
    }
    wanted = {
        (type(layer), name)
        for layer, _ in EXAMPLES
        for name in inspect.signature(type(layer)).parameters
        if name not in OF_LAYERS
    }
    assert {(kind.__name__, name) for kind, name in wanted - given} == set()


def test_an_assignment_is_checked_as_the_constructor_checks():
    layer = built(Dense(3, activation="relu"), 4)
    for name, value, error in (
        ("activation", "rleu", ValueError),
        ("constraint", MaxNorm, TypeError),
        ("regularizer", 0.1, TypeError),
    ):
        with pytest.raises(error):
            setattr(layer, name, value)
    assert repr(layer) == "Dense(3, activation='relu')"
    dropout = Dropout(0.5)
    for wrong, error in ((1.5, ValueError), (1, ValueError), ("a", TypeError), (None, TypeError)):
        with pytest.raises(error):
            dropout.rate = wrong
    dropout.keep = 0.75
    assert (dropout.rate, repr(dropout)) == (0.25, "Dropout(keep=0.75)")
    mask = Mask((4,), keep=0.3, key=1)
    held = Dropout(mask=mask)
    held.scaling = "test"
    held.scaling = "inverted"
    assert held.mask((2, 4), 1) is mask
    both = built(Bidirectional(LSTM(3)), 5, 2)
    both.children["backward"].zoneout = 0.25
    both.merge = "sum"
    assert both.children["backward"].zoneout == 0.25
    assert both(np.ones((2, 5, 2))).shape == (2, 3)


def test_a_constraint_assigned_to_a_layer_holds_in_training():
    model = Sequential([Dense(8), Dense(3)])
    model[0].constraint = MaxNorm(0.1)
    model[1].regularizer = L2(0.5)
    assert set(model.constraints) == {"0.weight"}
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    model.fit(x, y, epochs=2, optimizer=SGD(0.5), progress=False)
    assert np.linalg.norm(model.params["0.weight"], axis=0).max() <= 0.1 * (1 + 1e-6)
    model[0].constraint = None
    assert not model.constraints


@every_layer
def test_an_unknown_attribute_is_refused(layer, sample):
    layer = built(layer, *sample)
    with pytest.raises(AttributeError, match=r"has no attribute 'rat'; it takes .*trainable"):
        layer.rat = 0.5
    for name in ("input_shape", "device", "children", "params", "n_streams", "homogeneous"):
        with pytest.raises(AttributeError, match=f"{name} cannot be assigned"):
            setattr(layer, name, 1)
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del layer.training_state
    assert not hasattr(layer, "rat")


def test_messages_say_what_to_use_instead():
    model = Sequential([Dense(3), BatchNorm()])
    model.build((4,), key=1)
    for name, advice in (
        ("params", r"write into an array, params\[name\]\[...\] = w, or call load_params"),
        ("buffers", "write into an array, buffers"),
        ("constraints", "assign layer.constraint"),
        ("regularizers", "assign layer.regularizer"),
    ):
        with pytest.raises(AttributeError, match=f"{name} cannot be assigned: {advice}"):
            setattr(model, name, {})
    with pytest.raises(AttributeError, match=r"'weight'; its parameter is params\['weight'\]"):
        _ = model[0].weight
    with pytest.raises(AttributeError, match=r"no attribute 'wieght'$"):
        _ = model[0].wieght
    with pytest.raises(KeyError, match=r"params has no '0\.wieght'; the names are '0\.weight'"):
        _ = model.params["0.wieght"]
    assert model.params.get("0.wieght") is None
    assert "0.wieght" not in model.params


class Counting(Dense):
    """A layer with an attribute of its own."""

    def __init__(self, units, factor=2.0):
        super().__init__(units)
        self.factor = factor
        self.calls = 0

    def forward(self, x, *, key=None, row_offset=0):
        self.calls += 1
        return super().forward(x * self.factor, key=key, row_offset=row_offset)


def test_a_subclass_has_the_attributes_of_its_constructor():
    layer = built(Counting(3), 4)
    x = np.ones((2, 4))
    first = layer(x)
    layer.factor = 4.0
    bias = layer.params["bias"]
    np.testing.assert_allclose(layer(x) - bias, 2 * (first - bias))
    assert repr(layer) == "Counting(3, 4.0)"
    with pytest.raises(AttributeError, match="no attribute 'factr'"):
        layer.factr = 1.0
    with pytest.raises(TypeError, match="layers can be added in the constructor only"):
        layer._add_child("more", Dense(1))


# --- read-only views -----------------------------------------------------------------------------


def model_of_all():
    first = Dense(4, constraint=MaxNorm(1.0), regularizer=L2(0.1))
    model = Sequential([first, BatchNorm(), Dropout(0.5), Dense(3)])
    model.build((5,), key=1)
    return model


DICT_CHANGES = [
    lambda view, name: operator.setitem(view, name, np.zeros(3)),
    lambda view, name: operator.setitem(view, "new", np.zeros(3)),
    lambda view, name: operator.delitem(view, name),
    lambda view, name: operator.ior(view, {"new": 1}),
    lambda view, name: view.pop(name),
    lambda view, name: view.popitem(),
    lambda view, name: view.clear(),
    lambda view, name: view.setdefault("new", 1),
    lambda view, name: view.update(new=1),
]
LIST_CHANGES = [
    lambda view: operator.setitem(view, 0, Dense(3)),
    lambda view: operator.delitem(view, 0),
    lambda view: operator.iadd(view, [Dense(3)]),
    lambda view: operator.imul(view, 2),
    lambda view: view.append(Dense(3)),
    lambda view: view.extend([Dense(3)]),
    lambda view: view.insert(0, Dense(3)),
    lambda view: view.remove(view[0]),
    lambda view: view.pop(),
    lambda view: view.clear(),
    lambda view: view.reverse(),
    lambda view: view.sort(key=repr),
]


@pytest.mark.parametrize(
    ("what", "advice"),
    [
        ("params", r"params\[name\]\[\.\.\.\] = w, or call load_params"),
        ("buffers", r"buffers\[name\]\[\.\.\.\] = values"),
        ("constraints", "assign layer.constraint"),
        ("regularizers", "assign layer.regularizer"),
        ("children", "create another model"),
    ],
)
def test_dicts_refuse_changes_and_say_what_to_do(what, advice):
    model = model_of_all()
    view = getattr(model, what)
    before = dict(view)
    for change in DICT_CHANGES:
        with pytest.raises(TypeError, match=advice):
            change(view, next(iter(view)))
    assert view == before
    assert getattr(model, what).keys() == before.keys()
    copies = copy.deepcopy(view), pickle.loads(pickle.dumps(view)), view | {}
    assert [type(one) for one in copies] == [dict] * 3


@pytest.mark.parametrize("change", LIST_CHANGES)
def test_lists_of_layers_refuse_changes(change):
    for view in (model_of_all().layers, Parallel([Dense(3), ReLU()]).branches):
        before = list(view)
        with pytest.raises(TypeError, match="create another"):
            change(view)
        assert view == before


def test_parameters_change_where_they_are():
    model = model_of_all()
    weight = model.params["0.weight"]
    model.params["0.weight"][...] = 2.0
    assert (weight == 2.0).all()


def test_load_params_changes_all_or_nothing():
    model = model_of_all()
    values = {name: array + 1 for name, array in model.params.items()}
    before = {name: array.copy() for name, array in model.params.items()}
    wrong = {
        "lacks '3.bias'": {name: a for name, a in values.items() if name != "3.bias"},
        "unknown names: '9.weight'": values | {"9.weight": np.zeros(3)},
        r"3.bias must have shape \(3,\), got \(4,\)": values | {"3.bias": np.zeros(4, np.float32)},
        "3.bias must be float32, got float64": values | {"3.bias": np.zeros(3)},
        "must be a mapping of names to arrays": list(values.values()),
    }
    for message, mapping in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            model.load_params(mapping)
        for name, array in model.params.items():
            np.testing.assert_array_equal(array, before[name])
    arrays = list(model.params.values())
    model.load_params(values)
    for (name, array), old in zip(model.params.items(), arrays):
        assert array is old
        np.testing.assert_array_equal(array, values[name])
    with pytest.raises(ValueError, match=r"load_params: call build\("):
        Dense(3).load_params({})
    # Values that are the parameters themselves, in another order.
    square = Sequential([Dense(4, use_bias=False), Dense(4, use_bias=False)])
    square.build((4,), key=1)
    first, second = (array.copy() for array in square.params.values())
    square.load_params(dict(zip(square.params, reversed(square.params.values()))))
    np.testing.assert_array_equal(square.params["0.weight"], second)
    np.testing.assert_array_equal(square.params["1.weight"], first)


# --- models and layers ---------------------------------------------------------------------------


def test_containers_are_models_and_layers_are_not():
    for model in (Sequential([]), Parallel([ReLU()]), Residual(ReLU()), Bidirectional(GRU(2))):
        assert isinstance(model, Model)
    for layer, _ in EXAMPLES:
        for name in ("fit", "predict", "evaluate", "summary"):
            assert hasattr(layer, name) == isinstance(layer, Model)
    with pytest.raises(AttributeError, match=r"Dense has no fit, .* Sequential\(\[Dense"):
        Dense(3).fit  # noqa: B018


def test_a_slice_of_a_sequential_is_a_sequential_of_the_same_layers():
    model = model_of_all()
    x = np.ones((3, 5), np.float32)
    head = model[:2]
    assert type(head) is Sequential
    assert head.layers == model.layers[:2] == list(model)[:2]
    np.testing.assert_array_equal(head(x), model[1](model[0](x)))
    assert model[-1] is model.layers[3]


def test_a_star_import_gives_what_the_documents_name():
    found = {}
    exec("from dropcore.nn import *", found)
    assert found["initializers"].VarianceScaling(2.0).scale == 2.0
    assert found["Model"] is Model


# --- freezing ------------------------------------------------------------------------------------


def test_trainable_names_the_frozen_parameters():
    model = Sequential(
        [Dense(4), Residual(Dense(4)), EmbeddingDropout(Embedding(3, 2), 0.5), LSTM(2), Maxout(2)]
    )
    for layer, shape in zip(model, ((4,), (4,), (3,), (3, 2), (2,))):
        layer.build(shape, key=1)
    assert model.trainable
    assert model.frozen() == set()
    model[1].trainable = False
    assert model.frozen() == {"1.0.weight", "1.0.bias"}
    assert not model.trainable
    assert not model[1].children["0"].trainable
    model.trainable = False
    assert model.frozen() == set(model.params)
    model[3].trainable = True
    assert set(model.params) - model.frozen() == {"3.weight", "3.recurrent_weight", "3.bias"}
    twin = pickle.loads(pickle.dumps(model))
    assert twin.frozen() == copy.deepcopy(model).frozen() == model.frozen()
    with pytest.raises(TypeError, match="trainable must be True or False, got 1"):
        model.trainable = 1


def test_a_frozen_batch_norm_keeps_its_moments_and_the_summary_says_so():
    model = model_of_all()
    model[1].trainable = False
    before = {name: array.copy() for name, array in model.buffers.items()}
    y, backward = model.forward(np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32))
    backward(y, for_update=True)
    for name, array in model.buffers.items():
        np.testing.assert_array_equal(array, before[name])
    assert [row.notes for row in model.summary().rows][1] == ("frozen",)


# --- names and configs ---------------------------------------------------------------------------


def test_parameters_have_one_set_of_names():
    paths = [path for layer, sample in EXAMPLES for path in built(layer, *sample).params]
    names = {path.rpartition(".")[2] for path in paths}
    assert names == {
        "weight", "recurrent_weight", "output_weight", "bias", "output_bias", "gamma", "beta",
        "logit", "log_alpha",
    }  # fmt: skip


def test_a_config_is_strict_json():
    layer = ConcreteDropout(Dense(3), data_points=math.inf)
    text = json.dumps(layer.to_config(), allow_nan=False)
    assert ConcreteDropout.from_config(json.loads(text)).data_points == math.inf


def test_a_config_that_is_none_is_refused():
    deep = {"class": "Dense", "units": 3}
    for _ in range(5000):
        deep = {"class": "Sequential", "layers": [deep]}
    cycle = {"class": "Sequential"}
    cycle["layers"] = [cycle]
    for config, message in (
        (deep, "nested more than"),
        (cycle, "holds itself"),
        ({"class": "Dropout", "rate": {"array": [0.5]}}, "dtype"),
        ({"class": "Dropout", "rate": {"array": [0.5], "dtype": "int7"}}, "dtype"),
        ({"class": "Dropout", "rate": {"array": "x", "dtype": "float64"}}, "array"),
        ({"class": "Dropout", "rate": {"float": "one"}}, "'inf', '-inf' or 'nan'"),
        ({"class": ["Dropout"]}, "expected a dict with a class"),
    ):
        with pytest.raises(ValueError, match=message):
            Sequential.from_config(config)


RATES = [np.float32(0.25), np.array([0.25, 0.5], np.float32), np.float64(0.1)]


@pytest.mark.parametrize("rate", RATES)
def test_a_repr_with_numpy_values_evaluates(rate):
    layer = Dropout(rate)
    twin = eval(repr(layer), {"np": np, "Dropout": Dropout})
    assert repr(twin) == repr(layer)
    np.testing.assert_array_equal(twin.rate, layer.rate)

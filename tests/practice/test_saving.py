"""Models as files: what comes back, and what is said where it cannot."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

import dropcore
from dropcore import Key
from dropcore.constraints import MaxNorm
from dropcore.data import Preprocessing, TargetScaling
from dropcore.losses import Huber, MeanSquaredError, SoftmaxCrossEntropy
from dropcore.nn import BatchNorm, Dense, Dropout, LayerNorm, Parallel, Sequential
from dropcore.nn._saving import FIELDS
from dropcore.optim import SGD, Adam, Clip
from dropcore.training import TrainingState
from dropcore.training.state import UnfinishedEpoch
from support.layers import CARRYING, EXAMPLES, build, names

RNG = np.random.default_rng(3)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)
QUIET = {"loss": "softmax_cross_entropy", "progress": False}


def network():
    return Sequential(
        [Dense(8, activation="relu", constraint=MaxNorm(2.0)), BatchNorm(), Dropout(0.5),
         LayerNorm(scale=False, center=False), Dense(3)]
    )  # fmt: skip


def trained(**options):
    model = network()
    model.fit(X, Y, epochs=2, key=Key(7, step=3), **QUIET | options)
    return model


def arrays_of(model):
    """Every array of a model, by where it is."""
    state = model.training_state
    return (
        {f"params {k}": v for k, v in model.params.items()}
        | {f"buffers {k}": v for k, v in model.buffers.items()}
        | ({f"{kind} {k}": v for kind, slot in state.slots.items() for k, v in slot.items()}
           if state else {})
    )  # fmt: skip


def assert_same(one, two):
    """Bit for bit, with dtypes."""
    ours, theirs = arrays_of(one), arrays_of(two)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert array.tobytes() == theirs[name].tobytes(), name
    assert repr(one) == repr(two)
    assert one.input_shape == two.input_shape
    assert [layer.trainable for _, layer in one.tree()] == [
        layer.trainable for _, layer in two.tree()
    ]


def round_trip(model, tmp_path, **custom):
    model.save(tmp_path / "model.dropcore")
    return dropcore.load(tmp_path / "model.dropcore", custom=custom or None)


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "sample"), EXAMPLES + CARRYING, ids=names)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layer_comes_back(tmp_path, layer, sample, dtype):
    model = build(Sequential([copy.deepcopy(layer)]), *sample, dtype=dtype)
    found = round_trip(model, tmp_path)
    assert_same(model, found)
    assert found.built
    assert found.training_state is None
    for _, inner in found.tree():
        assert inner.built
    assert all(a.flags.writeable and a.flags.owndata for a in arrays_of(found).values())


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path):
    model = trained()
    found = round_trip(model, tmp_path)
    assert_same(model, found)
    for one in (model, found):
        one.fit(X, Y, epochs=2, key=Key(7, step=3), **QUIET)
    assert_same(model, found)
    del model.training_state.history.metrics["seconds"]
    del found.training_state.history.metrics["seconds"]
    assert found.training_state.history.metrics == model.training_state.history.metrics
    np.testing.assert_array_equal(model.predict(X), found.predict(X))


def everything():
    """A training state without a field that has its default."""
    model = trained()
    state = model.training_state
    values = np.array([3.0, np.nan, -np.inf])
    state.feature_names = ["a", "b\n", "\ud800", "é"]
    state.classes = np.array(["no", "yes", "ünknown"])
    state.preprocessing = Preprocessing().fit(X)
    state.target_scaling = TargetScaling([1.0, 2.0], [0.5, 1 / 3])
    state.callbacks = {
        "EarlyStopping": {"best": np.float64(0.1), "epoch": 2, "weights": {"0.weight": values}},
        "Own": {
            "list": [1, 2.5, None, True, "x", [float("inf")]],
            "float": {"dict": {}},
            "n": 2**70,
        },
    }
    state.learning_rate_factor = 1 / 3
    state.stopped = True
    state.unfinished = UnfinishedEpoch(
        40, 7, True, 2, ["f1"], {"loss": [0.1 + 0.2, 14.0]}, [(X, Y, None), (X[:3], Y[:3], values)]
    )
    state.notes = {"target": "price", "number": 1}
    return model


def same(one, two):
    """Whether two values are equal, with their types and the bits of arrays."""
    if not isinstance(one, type(two)):
        return False
    if isinstance(one, UnfinishedEpoch):
        one, two = vars(one), vars(two)
    elif hasattr(one, "to_config"):
        one, two = one.to_config(), two.to_config()
    if isinstance(one, np.ndarray):
        bits = one.dtype.kind != "U" and one.tobytes() == two.tobytes()
        return one.dtype == two.dtype and (bits or one.tolist() == two.tolist())
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def test_every_field_of_the_training_state_is_written_and_read(tmp_path):
    fields = {field.name for field in dataclasses.fields(TrainingState)}
    assert set(FIELDS) == fields, "say in FIELDS of nn/_saving.py how it is saved"
    model = everything()
    state, found = model.training_state, round_trip(model, tmp_path).training_state
    for name in fields:
        assert not same(getattr(state, name), getattr(TrainingState(), name)) or name == "begun"
        assert same(getattr(state, name), getattr(found, name)), name
    assert list(found.history.metrics) == ["loss", "accuracy", "seconds"]


@pytest.mark.parametrize(
    "classes", [np.array(["b", "a"], object), np.array([-3, 7]), np.array([0.5, 1.5]), None]
)
def test_classes_come_back_in_their_dtype(tmp_path, classes):
    model = trained()
    model.training_state.classes = classes
    found = round_trip(model, tmp_path).training_state.classes
    assert found is None if classes is None else same(found, classes)


def test_a_history_may_hold_numbers_that_are_not_finite(tmp_path):
    model = trained()
    model.training_state.history.append(3, {"loss": float("nan"), "new": float("-inf")})
    metrics = round_trip(model, tmp_path).training_state.history.metrics
    assert np.isnan(metrics["loss"][2])
    assert metrics["new"][2] == float("-inf")


def test_the_same_state_gives_the_same_bytes(tmp_path):
    model = trained()
    texts = set()
    for name in "abc":
        model.save(tmp_path / name)
        texts.add((tmp_path / name).read_bytes())
        model = dropcore.load(tmp_path / name)
    assert len(texts) == 1


def test_other_programs_read_the_arrays(tmp_path):
    from safetensors.numpy import load_file

    model = trained()
    model.save(tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    for name, array in model.params.items():
        np.testing.assert_array_equal(found[f"params/{name}"], array)
    np.testing.assert_array_equal(found["buffers/1.mean"], model.buffers["1.mean"])
    np.testing.assert_array_equal(
        found["slots/square/0.weight"], model.training_state.slots["square"]["0.weight"]
    )


def test_frozen_layers_stay_frozen(tmp_path):
    model = Sequential([Dense(4), Parallel([Dense(3), Dense(2)]), Dense(2)])
    model.build((5,), key=1)
    model[1].branches[0].trainable = False
    model[2].trainable = False
    found = round_trip(model, tmp_path)
    assert_same(model, found)
    assert found.frozen() == {"1.0.weight", "1.0.bias", "2.weight", "2.bias"}


def test_a_model_that_was_not_built_comes_back(tmp_path):
    found = round_trip(network(), tmp_path)
    assert_same(network(), found)
    assert not found.built
    assert (
        found.fit(X, Y, epochs=1, key=1, **QUIET)["loss"]
        == (network().fit(X, Y, epochs=1, key=1, **QUIET)["loss"])
    )


def test_layers_that_have_weights_keep_them_in_a_model_that_has_not(tmp_path):
    model = Sequential([*trained().layers[:2], Dense(5)])
    found = round_trip(model, tmp_path)
    assert_same(model, found)
    assert [layer.built for layer in found] == [True, True, False]
    for one in (model, found):
        one.build((6,), key=2)
    assert_same(model, found)


@pytest.mark.parametrize(
    "loss", [Huber(0.5), MeanSquaredError(), SoftmaxCrossEntropy(class_weights=[1.0, 2.0, 0.5])]
)
def test_losses_come_back(tmp_path, loss):
    model = Sequential([Dense(3)])
    y = Y if loss.classifies else X[:, :3]
    model.fit(X, y, epochs=1, loss=loss, progress=False)
    found = round_trip(model, tmp_path).training_state.loss
    assert found == loss
    assert type(found) is type(loss)


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), Clip(Adam(), norm=1.0)])
def test_the_state_of_optimizers_comes_back(tmp_path, optimizer):
    model = trained(optimizer=optimizer)
    found = round_trip(model, tmp_path)
    for one in (model, found):
        one.fit(X, Y, epochs=1, key=1, optimizer=optimizer, **QUIET)
    assert_same(model, found)
    assert found.training_state.begun == 0


def test_without_the_optimizer_the_file_is_smaller_and_the_rest_is_the_same(tmp_path):
    model = trained()
    model.save(tmp_path / "all")
    model.save(tmp_path / "less", optimizer=False)
    found = dropcore.load(tmp_path / "less")
    state = found.training_state
    assert (state.step, state.epoch, state.begun, state.slots) == (4, 2, 4, {})
    assert model.training_state.slots  # unchanged
    np.testing.assert_array_equal(found.predict(X), model.predict(X))
    size = (tmp_path / "all").stat().st_size - (tmp_path / "less").stat().st_size
    assert size > 2 * sum(a.nbytes for a in model.params.values())


def test_a_model_on_a_gpu_comes_back_on_the_cpu(tmp_path, gpu):
    model = trained()
    model.to("cuda")
    found = round_trip(model, tmp_path)
    assert found.device == "cpu"
    assert model.device == "cuda"
    model.to("cpu")
    assert_same(model, found)


def test_pickles_and_copies_still_work(tmp_path):
    import pickle

    model = trained()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(model, twin)
        twin.save(tmp_path / "twin")
        assert_same(model, dropcore.load(tmp_path / "twin"))

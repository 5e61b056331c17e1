"""Models as files: what comes back, and what is said where it cannot."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import sys
import warnings

import numpy as np
import pytest

import dropcore
from dropcore import Key
from dropcore.constraints import MaxNorm
from dropcore.data import Preprocessing, TargetScaling
from dropcore.losses import Huber, MeanSquaredError, SoftmaxCrossEntropy
from dropcore.nn import (
    GRU,
    BatchNorm,
    Bidirectional,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Maxout,
    Parallel,
    Residual,
    Sequential,
    VariationalDropout,
)
from dropcore.nn._config import KNOWN
from dropcore.nn._saving import FIELDS
from dropcore.optim import SGD, Adam, Clip
from dropcore.training import Callback, Checkpoint, TrainingState
from dropcore.training.state import UnfinishedEpoch
from support.layers import CARRYING, EXAMPLES, build, names

pytest.importorskip(
    "safetensors", reason="models are saved by safetensors, which has no free-threaded wheels"
)

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


@pytest.mark.parametrize(
    "kind", [kind for kind in KNOWN.values() if issubclass(kind, Layer)], ids=lambda k: k.__name__
)
def test_every_class_says_which_arrays_it_builds(kind):
    """Otherwise a file could make it allocate what the file does not hold."""
    builds, says = (
        next(place for place, base in enumerate(kind.__mro__) if name in vars(base))
        for name in ("_build", "_array_shapes")
    )
    assert says <= builds


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
        2, {"loss": [0.1 + 0.2, 14.0]}, [(X, Y, None), (X[:3], Y[:3], values)]
    )
    state.call = {"samples": "40", "optimizer": "Mine"}
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
    "classes",
    [
        np.array(["b", "a"], object),
        np.array([-3, 7]),
        np.array([0.5, 1.5]),
        None,
        np.array([b"no", b"y\xe9s"]),
    ],
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


def test_a_config_keeps_which_layers_are_frozen():
    model = Sequential([Maxout(3), Bidirectional(GRU(2)), Dense(2)])
    assert "frozen" not in model.to_config()
    model[0].children["linear"].trainable = False
    model[1].children["backward"].trainable = False
    config = json.loads(json.dumps(model.to_config()))
    assert config["frozen"] == ["0.linear", "1.backward"]
    found = Layer.from_config(config)
    assert [layer.trainable for _, layer in found.tree()] == [
        layer.trainable for _, layer in model.tree()
    ]
    model.trainable = False
    assert not Sequential.from_config(model.to_config()).trainable
    for wrong in (["9"], "0", [3], [["0"]], 7):
        with pytest.raises(ValueError, match="from_config: frozen must be a list of paths of lay"):
            Layer.from_config(config | {"frozen": wrong})


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


def test_sequences_of_any_length_and_models_without_weights_come_back(tmp_path):
    model = Sequential([GRU(3), Dense(2)])
    model.build((None, 4), key=1)
    found = round_trip(model, tmp_path)
    assert_same(model, found)
    assert found.input_shape == (None, 4)
    model = Sequential([Dropout(0.5)])
    model.build((4,), key=1)
    assert_same(model, round_trip(model, tmp_path))


def test_a_learned_rate_for_each_unit_knows_its_units_before_the_model_is_built(tmp_path):
    layer = VariationalDropout(0.3, data_points=9, per_unit=True)
    Sequential([layer]).build((6,), key=1)
    found = round_trip(Sequential([layer, Dense(2)]), tmp_path)
    with pytest.raises(ValueError, match=r"expects samples of shape \(..., 6\), got \(5,\)"):
        found.build((5,), key=1)
    found.build((6,), key=1)


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


# --- classes of one's own ------------------------------------------------------------------------


class Times(Layer):
    """y = a x, with a parameter and a buffer that `_build` makes, whether they are there or not."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def _build(self, input_shape, rng, dtype):
        self._params["a"] = rng.normal(size=input_shape).astype(dtype)
        self._buffers["calls"] = np.zeros(1, np.int64)

    def output_shape(self, input_shape):
        return input_shape


class Wide(Dense):
    """A Dense with one parameter more, whose shapes Dense does not know."""

    def _build(self, input_shape, rng, dtype):
        super()._build(input_shape, rng, dtype)
        self._params.setdefault("more", rng.normal(size=3).astype(dtype))


class Fixed(Layer):
    """A layer whose parameter the constructor makes."""

    def __init__(self):
        super().__init__()
        self._params["dotted.name"] = np.ones(2, np.float32)

    def output_shape(self, input_shape):
        return input_shape


@dataclasses.dataclass(frozen=True)
class Positive:
    least: float = 0.0

    def __call__(self, w):
        np.maximum(w, self.least, out=w)


@pytest.mark.parametrize(
    ("layer", "custom"),
    [(Times(3.0), [Times]), (Wide(3), [Wide]), (Fixed(), [Fixed]),
     (Dense(3, constraint=Positive(0.1)), [Positive])],
    ids=names,
)  # fmt: skip
def test_classes_of_ones_own_are_given_by_name(tmp_path, layer, custom):
    model = Sequential([copy.deepcopy(layer)])
    model.build((4,), key=1)
    for array in (*model.params.values(), *model.buffers.values()):
        array[...] = np.arange(array.size).reshape(array.shape)
    given = {kind.__name__: kind for kind in custom}
    found = round_trip(model, tmp_path, **given)
    assert_same(model, found)
    assert found.built
    (name,) = given
    message = (
        rf"load: .*no {name} in dropcore; give a class of your own as custom={{'{name}': {name}}}"
    )
    with pytest.raises(ValueError, match=message):
        dropcore.load(tmp_path / "model.dropcore")


def test_arrays_of_ones_own_classes_are_compared_with_those_they_build(tmp_path):
    model = Sequential([Times(3.0)])
    model.build((4,), key=1)
    model.save(tmp_path / "m")

    class Other(Times):
        def _build(self, input_shape, rng, dtype):
            self._params["a"] = np.ones(7, dtype)
            self._buffers["calls"] = np.zeros(1, np.int64)

    message = r"0.a must be float32 of shape \(7,\), got float32 of shape \(4,\)"
    with pytest.raises(ValueError, match=message):
        dropcore.load(tmp_path / "m", custom={"Times": Other})

    class Without(Times):
        def _build(self, input_shape, rng, dtype):
            self._buffers["more"] = np.zeros(1)

    with pytest.raises(ValueError, match=r"buffers must be \['0.calls', '0.more'\], got \['0.cal"):
        dropcore.load(tmp_path / "m", custom={"Times": Without})


def test_a_class_called_like_one_of_dropcore_is_refused(tmp_path):
    other = type("Dense", (Dense,), {})
    with pytest.raises(TypeError, match=r"dropcore has another Dense.*: rename yours"):
        Sequential([other(3)]).save(tmp_path / "m")


def test_functions_of_ones_own_are_named(tmp_path):
    def my_rate(step):
        return 0.5

    def my_constraint(w):
        w[...] = 1

    for layer, place in (
        (Dropout(my_rate), r"Dropout\.rate: <function .*my_rate"),
        (Dense(3, constraint=my_constraint), r"Dense\.constraint: <function .*my_constraint"),
        (Dense(3, initializer=np.random.default_rng), r"Dense\.initializer"),
    ):
        with pytest.raises(TypeError, match=f"save: the model cannot be written .*: {place}"):
            Sequential([layer]).save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


def squares(outputs, targets):
    return float(((outputs - targets) ** 2).mean()), 2 * (outputs - targets) / outputs.size


@dataclasses.dataclass(frozen=True)
class OwnLoss(MeanSquaredError):
    factor: float = 1.0


def test_the_warning_of_a_loss_that_is_not_saved_is_at_the_line_of_the_user(tmp_path):
    model = Sequential([Dense(3)])
    options = {"epochs": 1, "loss": squares, "progress": False}
    with pytest.warns(UserWarning, match="the loss squares is not saved") as caught:
        model.fit(X, X[:, :3], callbacks=[Checkpoint(tmp_path / "m")], **options)
    assert {warning.filename for warning in caught} == {__file__}
    with pytest.warns(UserWarning, match="the loss squares is not saved") as caught:
        model.save(tmp_path / "m")
    assert {warning.filename for warning in caught} == {__file__}


def test_what_was_scored_of_an_epoch_is_saved_as_few_arrays(tmp_path):
    model = Sequential([Dense(3)])
    files = []
    load_file = pytest.importorskip("safetensors.numpy").load_file

    class Save(Callback):
        def on_update_end(self, run):
            run.model.save(tmp_path / "m")
            files.append(len(load_file(tmp_path / "m")))

    y = np.arange(len(X)) % 3
    options = {"loss": "softmax_cross_entropy", "metrics": ["roc_auc"], "progress": False}
    model.fit(X, y, batch_size=1, epochs=1, callbacks=[Save()], **options)
    assert len(files) == len(X) > 5
    assert len(set(files)) == 1
    found = dropcore.load(tmp_path / "m")
    (scored,) = found.training_state.unfinished.scored
    assert [array.shape[0] for array in scored[:2]] == [len(X)] * 2
    assert (
        found.fit(X, y, batch_size=1, epochs=1, resume=True, **options)["roc_auc"]
        == (model.training_state.history["roc_auc"])
    )


def test_a_loss_of_ones_own_is_saved_or_the_user_told(tmp_path):
    model = Sequential([Dense(3)])
    model.fit(X, X[:, :3], epochs=1, loss=squares, progress=False)
    with pytest.warns(UserWarning, match="save: the loss squares is not saved .*give loss=squares"):
        model.save(tmp_path / "m")
    found = dropcore.load(tmp_path / "m")
    assert found.training_state.loss is None
    assert found.evaluate(X, X[:, :3], loss=squares) == model.evaluate(X, X[:, :3])
    model.fit(X, X[:, :3], epochs=1, loss=OwnLoss(3.0), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = round_trip(model, tmp_path, OwnLoss=OwnLoss)
    assert found.training_state.loss == OwnLoss(3.0)
    with pytest.raises(ValueError, match="no OwnLoss in dropcore; give a class of your own"):
        dropcore.load(tmp_path / "model.dropcore")
    model.training_state.loss = type("Huber", (OwnLoss,), {})(2.0)
    with pytest.warns(UserWarning, match="dropcore has another class of that name"):
        model.save(tmp_path / "m")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("callbacks", {"Own": {"f": squares}}, r"callbacks/Own/f holds <function squares"),
        ("callbacks", {"Own": {3: 4}}, r"the names in callbacks/Own must be str, got \[3\]"),
        ("callbacks", {"Own": {"d": np.array(["2020"], "M8[D]")}}, ".* has dtype datetime64"),
        ("callbacks", {"Own": {"z": 1j}}, "callbacks/Own/z holds 1j, which cannot be written"),
        ("classes", np.array([None, "a"], object), "classes holds .* which cannot be written"),
        ("preprocessing", Dense(3), r"Dense\(3\) cannot be written; it must be Preprocessing"),
        ("notes", {"x": {1, 2}}, r"notes/x holds \{1, 2\}, which cannot be written"),
    ],
)
def test_values_that_cannot_be_written_are_named(tmp_path, field, value, message):
    model = trained()
    setattr(model.training_state, field, value)
    with pytest.raises(TypeError, match=f"save: {message}"):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_a_description_that_load_would_refuse_is_not_written(tmp_path):
    model = trained()
    model.training_state.notes = {"text": "x" * (1 << 24)}
    with pytest.raises(ValueError, match=r"description would take .* bytes, and may take 16777216"):
        model.save(tmp_path / "m")
    notes = []
    for _ in range(300):
        notes = [notes]
    model.training_state.notes = {"notes": notes}
    with pytest.raises(ValueError, match=r"save: .* its JSON is nested more than 256 levels deep"):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("container", [Residual, Parallel, Sequential])
def test_whatever_is_written_can_be_loaded_however_deep_it_is(tmp_path, container):
    def of(depth):
        model = Sequential([Dense(3)])
        for _ in range(depth):
            model = Sequential([container([model])])
        return model

    loads = 0
    for depth in range(25, 110, 3):
        try:
            of(depth).save(tmp_path / "m")
        except ValueError as error:
            assert re.search("^save: .* nested more than 100 levels deep, which", str(error))  # noqa: PT017
            break
        assert repr(dropcore.load(tmp_path / "m")) == repr(of(depth))
        loads += 1
    assert 1 < loads < 28


def test_saving_without_safetensors_names_the_extra(tmp_path, monkeypatch):
    model = trained()
    model.save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"saving a model needs safetensors.*dropcore\[save\]"):
        model.save(tmp_path / "n")
    assert_same(dropcore.load(tmp_path / "m"), model)  # which needs nothing
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["save", "save_weights"])
def test_a_layer_that_is_no_model_says_what_to_do(tmp_path, name):
    with pytest.raises(AttributeError, match=f"Dense has no {name}, which models have: put the"):
        getattr(Dense(3), name)(tmp_path / "m")


def test_pickles_and_copies_still_work(tmp_path):
    import pickle

    model = trained()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(model, twin)
        twin.save(tmp_path / "twin")
        assert_same(model, dropcore.load(tmp_path / "twin"))


def test_a_model_of_a_table_predicts_from_the_raw_table_after_loading(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"size": X[:, 0], "place": np.array(["a", "b", None])[Y]})
    labels = np.array(["low", "mid", "high"])[Y]
    model = Sequential([Dense(8, activation="relu"), Dropout(0.2), Dense(3)])
    options = {"preprocessing": Preprocessing(), "key": 1, "validation_split": 0.25}
    model.fit(table, labels, epochs=2, **QUIET | options)
    found = round_trip(model, tmp_path)
    np.testing.assert_array_equal(found.predict(table), model.predict(table))
    assert set(found.predict_labels(table)) <= {"low", "mid", "high"}
    assert found.evaluate(table, labels) == model.evaluate(table, labels)
    with pytest.raises(ValueError, match="place"):
        found.predict(table.drop(columns="place"))

    regression = Sequential([Dense(1)])
    regression.fit(table, 1000 + 5 * X[:, 1], epochs=1, loss="mse", scale_targets=True,
                   preprocessing=Preprocessing(), progress=False)  # fmt: skip
    again = round_trip(regression, tmp_path).predict(table)
    np.testing.assert_array_equal(again, regression.predict(table))
    assert again.mean() > 900

"""EarlyStopping, ReduceOnPlateau, Checkpoint, CSVLog and TensorBoard, also in resumed runs."""

from __future__ import annotations

import copy
import csv
import importlib.util
import math
import os
import signal
import struct
import sys

import numpy as np
import pytest

import dropcore
from dropcore.nn import BatchNorm, Dense, Dropout, Sequential
from dropcore.optim import SGD, Adam
from dropcore.schedules import Linear
from dropcore.training import (
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    Metric,
    ReduceOnPlateau,
    TensorBoard,
    callbacks,
    fit,
)

needs_safetensors = pytest.mark.skipif(
    importlib.util.find_spec("safetensors") is None,
    reason="models are saved by safetensors, which has no free-threaded wheels",
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
NAN = math.nan
OPTIONS = {"loss": "softmax_cross_entropy", "progress": False, "key": 1, "batch_size": 20}
UPDATES = 3
"""In an epoch."""


def network():
    return Sequential([Dense(8, activation="relu"), BatchNorm(), Dropout(0.5), Dense(3)])


def trained(epochs, *hooks, model=None, **options):
    model = model or network()
    options = OPTIONS | {"validation_data": (X[:30], Y[:30])} | options
    model.fit(X, Y, epochs=epochs, callbacks=list(hooks), **options)
    return model


def numbers(model):
    """All bits of weights and moments."""
    arrays = [*model.params.values(), *model.buffers.values()]
    return b"".join(array.tobytes() for array in arrays)


def everything(model):
    """All that training has left, but for the time that it took."""
    state = model.training_state
    slots = [array.tobytes() for slot in state.slots.values() for array in slot.values()]
    history = {name: values for name, values in state.history.items() if name != "seconds"}
    return (
        numbers(model), slots, state.step, state.epoch, state.stopped, state.learning_rate_factor,
        state.history.epochs, state.history.best_epoch, history,
    )  # fmt: skip


def scripted(values, higher_is_better=True):
    """A metric that has these values, epoch after epoch, as it gets the number of the epoch."""
    epochs = iter(values)
    return Metric("score", lambda outputs, targets: next(epochs), higher_is_better)


def run_script(values, *hooks, higher_is_better=True, model=None, epochs=None, **options):
    return trained(
        epochs or len(values), *hooks, metrics=[scripted(values, higher_is_better)],
        validation_data=None, model=model, **options,
    )  # fmt: skip


class Presses(Callback):
    """Ctrl-C after an update."""

    def __init__(self, step):
        self.step = step

    def on_update_end(self, run):
        if run.state.step == self.step:
            raise KeyboardInterrupt


# --- early stopping ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "higher", "last", "best"),
    [
        ([1, 2, 3, 2, 2, 9], {"patience": 2}, True, 5, 3),
        ([3, 2, 1, 2, 2, 0], {"patience": 2}, False, 5, 3),
        ([1, 2, 3, 2, 4, 3, 3, 9], {"patience": 2}, True, 7, 5),
        ([1, 1, 1, 9], {"patience": 2}, True, 3, 1),
        ([1, 0, 9], {"patience": 1}, True, 2, 1),
        ([1, 2, 3, 4], {"patience": 2}, True, 4, 4),
        # Small steps are better, but do not renew the patience.
        ([1, 1.1, 1.2, 9], {"patience": 2, "min_delta": 0.5}, True, 3, 3),
        ([1, 1.3, 1.6, 1.7, 1.8, 9], {"patience": 2, "min_delta": 0.5}, True, 5, 5),
        ([1, 0.9, 0.8, 0], {"patience": 2, "min_delta": 0.5}, False, 3, 3),
        ([NAN, NAN, NAN], {"patience": 3}, True, 3, None),
        ([NAN, 1, NAN, 2, NAN, NAN], {"patience": 2}, False, 4, 2),
        ([math.inf, 5, 6, 7], {"patience": 2}, False, 4, 2),
    ],
)
def test_early_stopping(values, options, higher, last, best):
    stopping = EarlyStopping("score", **options)
    model = run_script(values, stopping, higher_is_better=higher)
    state = model.training_state
    assert state.history.epochs == list(range(1, last + 1))
    assert (state.epoch, state.step) == (last, UPDATES * last)
    assert stopping.best_epoch == best
    assert state.history.best_epoch == best
    assert stopping.best == (None if best is None else values[best - 1])
    wanted = run_script(values[: best or last], higher_is_better=higher)
    assert numbers(model) == numbers(wanted)


def test_moments_belong_to_the_best_weights():
    values = [3, 2, 1]
    model, first = (run_script(values[:n], EarlyStopping("score")) for n in (3, 1))
    last = run_script(values)
    for name, moment in model.buffers.items():
        np.testing.assert_array_equal(moment, first.buffers[name])
        assert not np.array_equal(moment, last.buffers[name])


def test_the_last_weights_may_stay():
    values = [3, 2, 1]
    model = run_script(values, EarlyStopping("score", patience=2, restore_best=False))
    assert model.training_state.epoch == 3
    assert model.training_state.history.best_epoch is None
    assert numbers(model) == numbers(run_script(values))


@pytest.mark.parametrize(
    ("name", "loss", "metrics", "higher"),
    [
        ("loss", "softmax_cross_entropy", [], False),
        ("val_loss", "softmax_cross_entropy", [], False),
        ("val_accuracy", "softmax_cross_entropy", [], True),
        ("val_f1", "softmax_cross_entropy", ["f1"], True),
        ("val_log_loss", "softmax_cross_entropy", ["log_loss"], False),
        ("val_top_2", "softmax_cross_entropy", ["top_2"], True),
    ],
)
def test_the_direction_follows_from_the_name(name, loss, metrics, higher):
    stopping = EarlyStopping(name, patience=99)
    history = trained(8, stopping, metrics=metrics, loss=loss).training_state.history
    values = history[name]
    assert len(set(values)) > 1
    assert stopping.best == (max if higher else min)(values)
    assert history.best_epoch == 1 + values.index(stopping.best)


def test_another_run_begins_anew():
    stopping = EarlyStopping("score", patience=2)
    model = run_script([9, 8, 7], stopping)
    run_script([1, 2, 3], stopping, model=model)
    assert model.training_state.history.epochs == [4, 5, 6]
    assert stopping.best_epoch == 6


def test_ctrl_c_leaves_the_best_weights():
    values = [1, 2, 1, 1, 1]
    model = network()
    with pytest.raises(KeyboardInterrupt):
        run_script(values, EarlyStopping("score"), Presses(3 * UPDATES + 1), model=model)
    assert model.training_state.history.best_epoch == 2
    assert model.training_state.step == 3 * UPDATES + 1
    assert numbers(model) == numbers(run_script(values[:2]))
    # With no whole epoch there is no best one.
    model = network()
    with pytest.raises(KeyboardInterrupt):
        run_script(values, EarlyStopping("score"), Presses(2), model=model)
    assert model.training_state.history.best_epoch is None
    assert model.training_state.step == 2


@needs_safetensors
@pytest.mark.parametrize("moment", ["on_epoch_end", "on_fit_end"])
def test_ctrl_c_waits_until_all_callbacks_were_called(moment, tmp_path):
    class Interrupts(Callback):
        def on_epoch_end(self, run, epoch, metrics):
            if moment == "on_epoch_end" and epoch == 2:
                signal.raise_signal(signal.SIGINT)

        def on_fit_end(self, run):
            if moment == "on_fit_end":
                signal.raise_signal(signal.SIGINT)

    hooks = [Interrupts(), ReduceOnPlateau(), CSVLog(tmp_path / "log.csv"),
             Checkpoint(tmp_path / "model.dropcore"), EarlyStopping()]  # fmt: skip
    model = network()
    with pytest.raises(KeyboardInterrupt):
        trained(3, *hooks, model=model)
    epochs = 2 if moment == "on_epoch_end" else 3
    assert model.training_state.epoch == epochs
    assert len(without_seconds(tmp_path / "log.csv")) == epochs
    assert everything(dropcore.load(tmp_path / "model.dropcore")) == everything(model)
    if epochs == 2:
        trained(3, *hooks, model=model, resume=True)
    assert everything(model) == everything(trained(3, ReduceOnPlateau(), EarlyStopping()))


@needs_safetensors
@pytest.mark.parametrize("step", [1, UPDATES, 2 * UPDATES + 1, 4 * UPDATES])
@pytest.mark.parametrize("through_file", [False, True])
def test_a_resumed_run_goes_on_from_the_last_weights(step, through_file, tmp_path):
    hooks = [EarlyStopping("val_loss", patience=4), ReduceOnPlateau("val_loss", patience=1)]
    optimizer = SGD(0.3, momentum=0.9)
    wanted = trained(8, *hooks, optimizer=optimizer)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        trained(8, *hooks, Presses(step), model=model, optimizer=optimizer)
    if through_file:
        model.save(tmp_path / "model.dropcore")
        model = dropcore.load(tmp_path / "model.dropcore")
    else:
        model = copy.deepcopy(model)
    hooks = [EarlyStopping("val_loss", patience=4), ReduceOnPlateau("val_loss", patience=1)]
    trained(8, *hooks, model=model, optimizer=optimizer, resume=True)
    assert everything(model) == everything(wanted)
    assert hooks[0].best_epoch == wanted.training_state.history.best_epoch


def test_more_epochs_go_on_from_the_last_weights():
    """As if training had not ended meanwhile, with the best weights in the model."""
    stopping = EarlyStopping(patience=50)
    wanted = trained(9, stopping, optimizer=SGD(0.5))
    model = trained(4, EarlyStopping(patience=50), optimizer=SGD(0.5))
    assert model.training_state.history.best_epoch is not None
    trained(9, EarlyStopping(patience=50), model=model, optimizer=SGD(0.5), resume=True)
    assert everything(model) == everything(wanted)


def test_while_training_goes_on_the_weights_are_those_of_no_best_epoch():
    model = run_script([2, 1], EarlyStopping("score"))
    assert model.training_state.history.best_epoch == 1
    seen = []

    class Sees(Callback):
        def on_epoch_end(self, run, epoch, metrics):
            seen.append(run.history.best_epoch)

    run_script([3], EarlyStopping("score"), Sees(), model=model, epochs=3, resume=True)
    assert seen == [None]
    assert model.training_state.history.best_epoch == 3


def test_a_run_that_was_ended_stays_so():
    model = run_script([3, 2, 1, 0], EarlyStopping("score", patience=2))
    before = everything(model)
    run_script([9], EarlyStopping("score", patience=2), model=model, epochs=20, resume=True)
    assert everything(model) == before
    assert model.training_state.epoch == 3


def test_a_resumed_run_needs_its_callbacks():
    model = trained(2, EarlyStopping(), ReduceOnPlateau())
    before = everything(model)
    with pytest.raises(ValueError, match=r"there is no EarlyStopping: give the same callbacks as"):
        trained(3, ReduceOnPlateau(), model=model, resume=True)
    with pytest.raises(ValueError, match="no EarlyStopping and no ReduceOnPlateau"):
        trained(3, model=model, resume=True)
    assert everything(model) == before
    trained(3, model=model)  # another run


@needs_safetensors
@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (lambda path: EarlyStopping("loss"), lambda path: EarlyStopping(),
         "EarlyStopping: .* continues with the best value of 'loss', got monitor='val_loss'"),
        (lambda path: ReduceOnPlateau(), lambda path: ReduceOnPlateau("accuracy"),
         "ReduceOnPlateau: .* of 'val_loss', got monitor='accuracy': give the same monitor"),
        (lambda path: Checkpoint(path, best_only=True, monitor="loss"),
         lambda path: Checkpoint(path, best_only=True), "Checkpoint: .* best value of 'loss'"),
        (lambda path: EarlyStopping(), lambda path: EarlyStopping(restore_best=False),
         "weights that were kept under restore_best=True, got False: give the same as before"),
        (lambda path: EarlyStopping(restore_best=False), lambda path: EarlyStopping(),
         "weights that were kept under restore_best=False, got True"),
    ],
)  # fmt: skip
def test_a_resumed_run_goes_on_with_the_same_comparisons(tmp_path, before, now, text):
    path = tmp_path / "m"
    model = trained(2, before(path))
    wanted = everything(model)
    with pytest.raises(ValueError, match=text):
        trained(3, now(path), model=model, resume=True)
    assert everything(model) == wanted
    trained(3, before(path), model=model, resume=True)
    trained(1, now(path), model=model)  # another run


def test_a_callback_that_is_given_twice_is_refused():
    model, stop = network(), EarlyStopping()
    with pytest.raises(ValueError, match=r"hold each object once, got .*EarlyStopping.* twice"):
        trained(1, stop, ReduceOnPlateau(), stop, model=model)
    assert not model.built
    trained(1, EarlyStopping(), EarlyStopping("loss"), model=model)


# --- the learning rate ---------------------------------------------------------------------------


class Factors(Callback):
    """The factor after each epoch."""

    def __init__(self):
        self.found = []

    last = True

    def on_epoch_end(self, run, epoch, metrics):
        self.found.append(run.learning_rate_factor)


@pytest.mark.parametrize(
    ("values", "options", "higher", "wanted"),
    [
        ([1, 2, 3, 3, 3, 3], {"patience": 2}, True, [1, 1, 1, 1, 0.5, 0.5]),
        ([1, 1, 1, 1, 1], {"patience": 2}, False, [1, 1, 0.5, 0.5, 0.25]),
        ([3, 2, 1, 1, 0], {"patience": 1, "factor": 0.1}, False, [1, 1, 1, 0.1, 0.1]),
        ([1, 1, 1, 1, 1, 1], {"patience": 1, "cooldown": 2}, True, [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ([1, 1, 1, 1], {"patience": 1, "min_factor": 0.3}, True, [1, 0.5, 0.3, 0.3]),
        ([1, 1.1, 1.2, 1.8], {"patience": 1, "min_delta": 0.5}, True, [1, 0.5, 0.25, 0.25]),
        ([1, NAN, NAN, 2], {"patience": 2}, True, [1, 1, 0.5, 0.5]),
        # An improvement while it cools counts.
        ([1, 1, 2, 1, 1, 1], {"patience": 2, "cooldown": 1}, True, [1, 1, 1, 1, 0.5, 0.5]),
    ],
)
def test_the_learning_rate_is_lowered(values, options, higher, wanted):
    factors = Factors()
    run_script(values, ReduceOnPlateau("score", **options), factors, higher_is_better=higher)
    assert factors.found == pytest.approx(wanted)


@pytest.mark.parametrize("rate", [0.1, Linear(0.1, 0.0, 50)])
def test_the_lowered_learning_rate_is_used(rate):
    """Two epochs at the rate, then one at half of it."""
    model = run_script([1, 1, 1], ReduceOnPlateau("score", patience=1), optimizer=SGD(rate))
    twin = run_script([1, 1], optimizer=SGD(rate))
    half = Linear(0.05, 0.0, 50) if callable(rate) else 0.05
    run_script([1], model=twin, optimizer=SGD(half))
    assert numbers(model) == numbers(twin)


def test_an_optimizer_without_a_scale_is_refused_before_an_update():
    class Own:
        kind = "Own"

        def init(self, params):
            return {}

        def apply(self, params, grads, state, step, constraints):
            raise AssertionError

    model = network()
    with pytest.raises(TypeError, match=r"can be changed between updates for an optimiser of"):
        trained(1, ReduceOnPlateau(), model=model, optimizer=Own())
    assert model.training_state is None
    trained(2, model=model)
    before = everything(model)
    with pytest.raises(TypeError, match=r"can be changed between updates for an optimiser of"):
        trained(1, ReduceOnPlateau(), model=model, optimizer=Own())
    assert everything(model) == before
    assert before[1]


# --- checkpoints ---------------------------------------------------------------------------------


def names(folder):
    return sorted(os.listdir(folder))


@needs_safetensors
def test_a_checkpoint_after_each_epoch(tmp_path):
    model = trained(3, Checkpoint(tmp_path / "{epoch}.dropcore"))
    assert names(tmp_path) == ["1.dropcore", "2.dropcore", "3.dropcore"]
    for epoch in (1, 2, 3):
        found = dropcore.load(tmp_path / f"{epoch}.dropcore")
        assert found.training_state.epoch == epoch
        assert numbers(found) == numbers(trained(epoch))
    assert everything(found) == everything(model)


@needs_safetensors
def test_one_file_is_replaced(tmp_path):
    trained(3, Checkpoint(tmp_path / "model.dropcore"))
    assert names(tmp_path) == ["model.dropcore"]
    assert dropcore.load(tmp_path / "model.dropcore").training_state.epoch == 3


@needs_safetensors
def test_a_checkpoint_after_some_epochs_and_at_the_end(tmp_path):
    path = tmp_path / "{epoch:02}-{step}.dropcore"
    model = trained(2, Checkpoint(path, every_epochs=3))
    trained(5, Checkpoint(path, every_epochs=3), model=model)  # epochs 3 to 7
    assert names(tmp_path) == ["02-6.dropcore", "03-9.dropcore", "06-18.dropcore", "07-21.dropcore"]


@needs_safetensors
def test_a_checkpoint_within_epochs(tmp_path):
    trained(2, Checkpoint(tmp_path / "{epoch}-{step}.dropcore", every_updates=2))
    wanted = ["0-2.dropcore", "1-4.dropcore", "1-6.dropcore", "2-6.dropcore"]
    assert names(tmp_path) == wanted
    batches = [
        begun and begun.batches
        for begun in (dropcore.load(tmp_path / n).training_state.unfinished for n in wanted)
    ]
    assert batches == [2, 1, 3, None]


@needs_safetensors
def test_the_best_alone(tmp_path):
    path = tmp_path / "{epoch}.dropcore"
    values = [2, 1, NAN, 3, 3, 2]
    run_script(values, Checkpoint(path, best_only=True, monitor="score"))
    assert names(tmp_path) == ["1.dropcore", "4.dropcore"]
    # A resumed run knows the best value.
    model = dropcore.load(tmp_path / "4.dropcore")
    run_script(
        [2.5, 4], Checkpoint(path, best_only=True, monitor="score"), model=model, epochs=6,
        resume=True,
    )  # fmt: skip
    assert names(tmp_path) == ["1.dropcore", "4.dropcore", "6.dropcore"]
    stopping = Checkpoint(tmp_path / "own.dropcore", best_only=True)
    history = trained(6, stopping).training_state.history
    best = 1 + int(np.argmin(history["val_loss"]))
    assert dropcore.load(tmp_path / "own.dropcore").training_state.epoch == best


@needs_safetensors
def test_a_checkpoint_knows_what_callbacks_after_it_decided(tmp_path):
    path = tmp_path / "{epoch}.dropcore"
    values = [2, 1, 1, 1]
    run_script(values, Checkpoint(path), EarlyStopping("score", patience=2))
    found = dropcore.load(tmp_path / "3.dropcore").training_state
    assert found.stopped
    assert found.callbacks["EarlyStopping"]["waited"] == 2
    # The last file has the best weights, as the model.
    assert found.history.best_epoch == 1
    assert numbers(dropcore.load(tmp_path / "3.dropcore")) == numbers(run_script([2]))


@needs_safetensors
def test_ctrl_c_leaves_a_checkpoint(tmp_path):
    path = tmp_path / "model.dropcore"
    model = network()
    with pytest.raises(KeyboardInterrupt):
        trained(9, Checkpoint(path, every_epochs=5), Presses(4), model=model)
    found = dropcore.load(path)
    assert found.training_state.step == 4
    assert everything(found) == everything(model)


@needs_safetensors
@pytest.mark.parametrize(
    ("every", "optimizer"),
    [({"every_epochs": 1}, SGD(0.3, momentum=0.9)), ({"every_updates": 2}, Adam(0.05))],
)
def test_a_run_goes_on_from_every_checkpoint_to_the_same_bits(tmp_path, every, optimizer):
    """Also one that a callback ended; the file is what a killed process leaves."""

    def hooks(path):
        return [
            Checkpoint(path, **every),
            EarlyStopping(patience=3),
            ReduceOnPlateau(patience=1, cooldown=1),
            CSVLog(tmp_path / "log.csv"),
        ]

    options = {"optimizer": optimizer, "metrics": ["f1", "log_loss"]}
    wanted = trained(8, *hooks(tmp_path / "{epoch}-{step}.dropcore"), **options)
    log = (tmp_path / "log.csv").read_text()
    files = [name for name in names(tmp_path) if name.endswith(".dropcore")]
    assert len(files) >= 5
    for name in files:
        model = dropcore.load(tmp_path / name)
        trained(8, *hooks(tmp_path / "other.dropcore"), model=model, resume=True, **options)
        assert everything(model) == everything(wanted), name
        assert without_seconds(tmp_path / "log.csv") == without_seconds(log)


@needs_safetensors
@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((3,), {}, TypeError, "path must be a str or a pathlib.Path, got int"),
        (("",), {}, ValueError, "path must name a file"),
        (("a{",), {}, ValueError, r"other braces are doubled, as in '\{\{a\}\}', got 'a\{'"),
        (("a{b}",), {}, ValueError, r"\{epoch\} and \{step\} stand for numbers"),
        (("a{}",), {}, ValueError, "stand for numbers"),
        (("a",), {"every_epochs": 0}, ValueError, "every_epochs must be .* at least 1|positive"),
        (("a",), {"every_updates": 1.5}, TypeError, "every_updates must be"),
        (("a",), {"every_updates": 2, "every_epochs": 2}, ValueError, "not both"),
        (("a",), {"every_updates": 2, "best_only": True}, ValueError, "has no effect"),
        (("a",), {"best_only": "yes"}, TypeError, "best_only must be True or False"),
        (("a",), {"monitor": "loss"}, ValueError, "monitor has no effect without best_only=True"),
        (("a",), {"best_only": True, "monitor": 3}, TypeError, "monitor must be the name of"),
    ],
)
def test_wrong_checkpoints(arguments, options, error, text):
    with pytest.raises(error, match=f"^Checkpoint.*({text})"):
        Checkpoint(*arguments, **options)


@needs_safetensors
def test_a_single_layer_has_no_checkpoint(tmp_path):
    with pytest.raises(TypeError, match=r"^Checkpoint: a single layer cannot be saved, train it"):
        fit(Dense(3), X, Y, epochs=1, callbacks=[Checkpoint(tmp_path / "a")], **OPTIONS)


@needs_safetensors
def test_a_model_that_cannot_be_saved_is_noticed_before_an_update(tmp_path, monkeypatch):
    model = network()
    trained(1, model=model)
    model.layers[2].rate = lambda step: 0.5
    before = everything(model)
    with pytest.raises(TypeError, match=r"^Checkpoint: the model cannot be written .*Dropout.rate"):
        trained(1, Checkpoint(tmp_path / "a"), model=model)
    assert everything(model) == before
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"Checkpoint needs safetensors.*\[save\]"):
        Checkpoint(tmp_path / "a")


def test_a_state_that_is_no_dict_is_refused_before_an_update():
    class Counts(Callback):
        def state(self):
            return [1]

    model = trained(1)
    before = everything(model)
    with pytest.raises(TypeError, match=r"^Counts: state\(\) must return a dict, got \[1\]"):
        trained(1, Counts(), model=model)
    assert everything(model) == before


@needs_safetensors
@pytest.mark.parametrize("kind", [Checkpoint, CSVLog])
def test_a_missing_folder_is_noticed_before_training(tmp_path, kind):
    model = network()
    with pytest.raises(FileNotFoundError, match=rf"{kind.__name__}: there is no folder .*missing"):
        trained(1, kind(tmp_path / "missing" / "file"), model=model)
    assert not model.built


@needs_safetensors
@pytest.mark.parametrize("kind", [Checkpoint, CSVLog])
def test_a_path_that_cannot_be_written_is_noticed_before_training(tmp_path, kind):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    model, name = network(), kind.__name__
    for path, error, text in (
        (tmp_path, IsADirectoryError, "is a folder: name a file in it"),
        (tmp_path / "file" / "x", FileNotFoundError, "there is no folder"),
        (tmp_path / "pipe", OSError, "is not a regular file"),
    ):
        with pytest.raises(error, match=f"{name}: .*{text}"):
            trained(1, kind(path), model=model)
    assert not model.built


@needs_safetensors
@pytest.mark.parametrize("kind", [Checkpoint, CSVLog, TensorBoard])
def test_a_folder_without_permission_is_noticed_before_training(tmp_path, monkeypatch, kind):
    if kind is TensorBoard:
        pytest.importorskip("tensorboardX")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    model = network()
    with pytest.raises(PermissionError, match=rf"{kind.__name__}: nothing can be created in .*"):
        trained(1, kind(tmp_path / "x"), model=model)
    assert not model.built


# --- logs ----------------------------------------------------------------------------------------


def without_seconds(text):
    text = text if isinstance(text, str) else text.read_text()
    lines = [*csv.DictReader(text.splitlines())]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_csv_log_has_the_history(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("an old file\n")
    history = trained(3, CSVLog(path)).training_state.history
    with open(path, encoding="utf-8", newline="") as file:
        lines = [*csv.DictReader(file)]
    assert list(lines[0]) == ["epoch", *history]
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3]
    for name, values in history.items():
        assert [float(line[name]) for line in lines] == values


def test_a_line_is_there_when_its_epoch_ends(tmp_path):
    path, seen = tmp_path / "log.csv", []
    trained(3, CSVLog(path), lambda epoch, metrics: seen.append(path.read_text()))
    assert [text.count("\n") for text in seen] == [2, 3, 4]
    assert all(text.endswith("\n") for text in seen)


@needs_safetensors
def test_paths_are_those_where_the_callback_was_made(tmp_path, monkeypatch):
    tmp_path /= "{braces}"
    (tmp_path / "elsewhere").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hooks = CSVLog("log.csv"), Checkpoint("{epoch}.dropcore")
    trained(2, *hooks, lambda epoch, metrics: monkeypatch.chdir(tmp_path / "elsewhere"))
    assert names(tmp_path) == ["1.dropcore", "2.dropcore", "elsewhere", "log.csv"]
    assert names(tmp_path / "elsewhere") == []
    assert [line["epoch"] for line in without_seconds(tmp_path / "log.csv")] == ["1", "2"]


def test_a_csv_log_is_appended_to(tmp_path):
    path = tmp_path / "log.csv"
    model = trained(2, CSVLog(path, append=True))
    trained(2, CSVLog(path, append=True), model=model)
    assert [line["epoch"] for line in without_seconds(path)] == ["1", "2", "3", "4"]
    trained(1, CSVLog(path, append=True))
    assert [line["epoch"] for line in without_seconds(path)] == ["1", "2", "3", "4", "1"]
    path.write_text(path.read_text()[:-20])  # the system crashed
    trained(1, CSVLog(path, append=True), model=model)
    assert [line["epoch"] for line in without_seconds(path)] == ["1", "2", "3", "4", "5"]
    trained(1, CSVLog(path))
    assert [line["epoch"] for line in without_seconds(path)] == ["1"]


def test_other_columns_are_refused_before_training(tmp_path):
    path = tmp_path / "log.csv"
    trained(1, CSVLog(path))
    before, model = path.read_bytes(), network()
    with pytest.raises(ValueError, match=r"columns epoch, loss, .* this run epoch, loss, accuracy, "
                       r"f1, .*: use another file"):  # fmt: skip
        trained(1, CSVLog(path, append=True), metrics=["f1"], model=model)
    assert not model.built
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"\x93NUMPY\xff\n", b"epoch,loss,accuracy,val_loss,val_accuracy,seconds\nten,1\n\n"]
)
def test_a_file_of_something_else_is_not_appended_to(tmp_path, content):
    path, model = tmp_path / "log.csv", network()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.csv was not written by CSVLog: use another file"):
        trained(1, CSVLog(path, append=True), model=model)
    assert not model.built
    assert path.read_bytes() == content


@pytest.mark.parametrize("append", [False, True])
def test_a_log_that_is_deleted_meanwhile_is_begun_anew(tmp_path, append):
    path = tmp_path / "log.csv"

    def delete(epoch, metrics):
        if epoch == 2:
            path.unlink()

    trained(4, CSVLog(path, append), delete)
    first, *lines = path.read_text("utf-8").splitlines()
    assert first.startswith("epoch,loss,")
    assert [line[:2] for line in lines] == ["3,", "4,"]


@needs_safetensors
def test_a_file_of_two_callbacks_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for one, two, text in (
        (CSVLog("a"), CSVLog(tmp_path / "a"), "CSVLog and CSVLog 2 would overwrite each other's"),
        (CSVLog("a"), CSVLog("link/a", append=True), "CSVLog and CSVLog 2 would overwrite"),
        (Checkpoint("a"), CSVLog("a"), "CSVLog and Checkpoint would overwrite .* file .*a: give"),
        (Checkpoint("m-{epoch}"), Checkpoint("m-{step}", every_updates=2), "Checkpoint 2 would ov"),
    ):
        model = network()
        with pytest.raises(ValueError, match=text):
            trained(1, one, two, model=model)
        assert not model.built
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    trained(1, Checkpoint("a"), Checkpoint("b", best_only=True), CSVLog("c"), CSVLog("d"))


@needs_safetensors
def test_epochs_that_are_trained_again_are_logged_once(tmp_path):
    path = tmp_path / "log.csv"
    saved = trained(2, CSVLog(path), Checkpoint(tmp_path / "model.dropcore"))
    wanted = trained(5, CSVLog(path), model=copy.deepcopy(saved), resume=True)
    log = without_seconds(path)
    assert [line["epoch"] for line in log] == ["1", "2", "3", "4", "5"]
    # As after a kill in epoch 6: the file is ahead of the checkpoint.
    trained(5, CSVLog(path), model=dropcore.load(tmp_path / "model.dropcore"), resume=True)
    assert without_seconds(path) == log
    history = wanted.training_state.history
    assert [float(line["loss"]) for line in log] == history["loss"]
    os.remove(path)
    trained(5, CSVLog(path), model=dropcore.load(tmp_path / "model.dropcore"), resume=True)
    assert without_seconds(path) == log[2:]


def events(folder):
    """Steps and values by tag, and where points are hidden, from the files of a folder."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found, starts = {}, []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                starts.append(event.step)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found, starts


def test_tensorboard_gets_the_history(tmp_path):
    pytest.importorskip("tensorboardX")
    board = TensorBoard(tmp_path / "run")
    model = trained(2, board)
    trained(1, TensorBoard(tmp_path / "run"), model=model)
    found, starts = events(tmp_path / "run")
    assert starts == [1, 3]
    assert set(found) == {
        "loss/training", "loss/validation", "accuracy/training", "accuracy/validation", "seconds",
        "learning_rate_factor",
    }  # fmt: skip
    history = trained(3).training_state.history
    steps, losses = zip(*found["loss/validation"], strict=True)
    assert steps == (1, 2, 3)
    np.testing.assert_allclose(losses, history["val_loss"], rtol=1e-6)
    assert found["learning_rate_factor"] == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_a_file_where_tensorboard_needs_a_folder_is_noticed_before_training(tmp_path):
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").touch()
    model = network()
    for path in (tmp_path / "file", tmp_path / "file" / "runs" / "1"):
        with pytest.raises(NotADirectoryError, match=r"TensorBoard: .*file is a file: name a fold"):
            trained(1, TensorBoard(path), model=model)
    assert not model.built


def test_tensorboard_after_a_run_that_failed(tmp_path):
    pytest.importorskip("tensorboardX")
    board, model = TensorBoard(tmp_path / "run"), network()
    with pytest.raises(ZeroDivisionError):
        trained(2, board, lambda epoch, metrics: 1 / 0, model=model)
    trained(1, board, model=model)
    assert [step for step, _ in events(tmp_path / "run")[0]["loss/training"]] == [1, 2]


def test_a_missing_tensorboardx_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"TensorBoard needs tensorboardX.*\[tensorboard\]"):
        TensorBoard(tmp_path)


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EarlyStopping, ReduceOnPlateau])
@pytest.mark.parametrize(
    ("monitor", "options", "text"),
    [
        ("val_loss", {"validation_data": None},
         "needs validation data: give fit validation_data or validation_split; measured are "
         "'loss', 'accuracy', 'seconds'"),
        ("val_f1", {}, "is not measured: add it to metrics, or choose another; measured are 'loss',"
         " 'accuracy', 'val_loss', 'val_accuracy', 'seconds'"),
        ("acc", {}, "is not measured"),
    ],
)  # fmt: skip
def test_what_is_not_measured_is_noticed_before_training(kind, monitor, options, text):
    model = network()
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: monitor='{monitor}' {text}"):
        trained(1, kind(monitor), model=model, **options)
    assert not model.built


@needs_safetensors
def test_the_best_checkpoint_needs_its_metric(tmp_path):
    with pytest.raises(ValueError, match=r"^Checkpoint: monitor='val_loss' needs validation data"):
        trained(1, Checkpoint(tmp_path / "a", best_only=True), validation_data=None)
    trained(1, Checkpoint(tmp_path / "a"), validation_data=None)  # which it does not need here


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: EarlyStopping(3), TypeError, "EarlyStopping: monitor must be the name of a metri"),
        (lambda: EarlyStopping(patience=0), ValueError, "EarlyStopping: patience must be"),
        (lambda: EarlyStopping(patience=1.5), TypeError, "EarlyStopping: patience must be"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "EarlyStopping: min_delta must be"),
        (lambda: EarlyStopping(min_delta=NAN), ValueError, "EarlyStopping: min_delta must be"),
        (lambda: EarlyStopping(restore_best=1), TypeError, "restore_best must be True or False"),
        (lambda: ReduceOnPlateau(None), TypeError, "ReduceOnPlateau: monitor must be the name of"),
        (lambda: ReduceOnPlateau(factor=1.0), ValueError, "ReduceOnPlateau: factor must be"),
        (lambda: ReduceOnPlateau(factor=0.0), ValueError, "ReduceOnPlateau: factor must be"),
        (lambda: ReduceOnPlateau(patience=0), ValueError, "ReduceOnPlateau: patience must be"),
        (lambda: ReduceOnPlateau(cooldown=-1), ValueError, "ReduceOnPlateau: cooldown must be"),
        (lambda: ReduceOnPlateau(min_factor=1), ValueError, "ReduceOnPlateau: min_factor must be"),
        (lambda: ReduceOnPlateau(min_delta="a"), TypeError, "min_delta must be a number"),
        (lambda: CSVLog(3), TypeError, "CSVLog: path must be a str or a pathlib.Path"),
        (lambda: CSVLog("a", append=1), TypeError, "CSVLog: append must be True or False"),
        (lambda: TensorBoard(3), TypeError, "TensorBoard: path must be a str or a pathlib.Path"),
    ],
)
def test_wrong_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_every_callback_is_documented():
    for name in callbacks.__all__:
        if name not in ("Run", "EpochEnd"):
            assert f"`{name}`" in callbacks.__doc__

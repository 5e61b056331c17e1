"""Callbacks of `fit`, the learning rate that they set, and runs that are resumed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dropcore
from dropcore import training
from dropcore.constraints import MaxNorm
from dropcore.losses import SoftmaxCrossEntropy
from dropcore.nn import LSTM, BatchNorm, Dense, Dropout, Sequential
from dropcore.optim import SGD, Adam, Clip
from dropcore.schedules import Linear
from dropcore.training import Callback, History

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 8)).astype(np.float32)
Y = RNG.integers(0, 3, 70)
OPTIONS = {"loss": "softmax_cross_entropy", "progress": False, "batch_size": 16, "key": 1}
UPDATES = 5
"""In an epoch."""


def network():
    return Sequential(
        [
            Dense(12, activation="relu", constraint=MaxNorm(1.0)),
            BatchNorm(),
            Dropout(0.5),
            Dense(3),
        ]
    )


def fingerprint(model):
    """Everything that training leaves, but for the seconds."""
    state = model.training_state
    arrays = [*model.params.values(), *model.buffers.values()]
    arrays += [array for slot in state.slots.values() for array in slot.values()]
    history = {name: numbers for name, numbers in state.history.items() if name != "seconds"}
    return (
        [array.tobytes() for array in arrays],
        (state.step, state.epoch, state.begun, state.history.epochs, history),
        (state.callbacks, state.learning_rate_factor, state.stopped, state.unfinished),
    )


class Halving(Callback):
    """Halves the learning rate in every second epoch."""

    def on_fit_begin(self, run):
        self.waited = 0

    def on_epoch_end(self, run, epoch, metrics):
        self.waited += 1
        if self.waited == 2:
            run.learning_rate_factor /= 2
            self.waited = 0

    def state(self):
        return {"waited": self.waited}

    def restore(self, state):
        self.waited = state["waited"]


class Copies(Callback):
    """Keeps a copy of the model after each update and each epoch, as a checkpoint does."""

    last = True

    def on_fit_begin(self, run):
        self.copies = []

    def on_update_end(self, run):
        run.keep_callbacks()
        self.copies.append(pickle.dumps(run.model))

    def on_epoch_end(self, run, epoch, metrics):
        self.copies.append(pickle.dumps(run.model))


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("optimizer", ["adam", SGD(Linear(0.3, 0.1, 9), momentum=0.9)])
def test_a_run_resumed_after_any_update_ends_with_the_same_bits(optimizer, shuffle):
    def train(model, *more):
        model.fit(X, Y, epochs=4, optimizer=optimizer, shuffle=shuffle, resume=True,
                  validation_data=(X[:20], Y[:20]), callbacks=[Halving(), *more],
                  **OPTIONS)  # fmt: skip
        return model

    copies = Copies()
    whole = train(network(), copies)
    assert whole.training_state.learning_rate_factor == 0.25
    assert len(copies.copies) == 4 * (UPDATES + 1)
    wanted = fingerprint(whole)
    for saved in copies.copies:
        assert fingerprint(train(pickle.loads(saved))) == wanted


def test_resume_counts_all_epochs_and_continues_the_history():
    once = network()
    once.fit(X, Y, epochs=5, resume=True, **OPTIONS)
    twice = network()
    twice.fit(X, Y, epochs=2, **OPTIONS)
    history = twice.fit(X, Y, epochs=5, resume=True, **OPTIONS)
    assert history.epochs == [1, 2, 3, 4, 5]
    assert fingerprint(once) == fingerprint(twice)
    before = fingerprint(twice)
    assert twice.fit(X, Y, epochs=3, resume=True, **OPTIONS) is history
    assert fingerprint(twice) == before


class Interrupts(Callback):
    """Ctrl-C after a number of updates."""

    def __init__(self, updates):
        self.updates = updates

    def on_update_end(self, run):
        if run.state.step == self.updates:
            raise KeyboardInterrupt


def interrupted(updates, y=Y, **options):
    model = network()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, epochs=9, callbacks=[Interrupts(updates)], **OPTIONS | options)
    return model


def test_after_ctrl_c_no_sample_is_left_out_unless_the_epoch_is_finished():
    rows = []

    def loss(out, y):
        rows.extend(y)
        return 0.0, np.zeros_like(out)

    def seen(model, **options):
        rows.clear()
        model.fit(X, np.arange(70), epochs=2, **OPTIONS | options | {"loss": loss})
        return list(rows)

    model = interrupted(UPDATES + 2, np.arange(70), loss=loss)
    assert model.training_state.epoch == 1
    assert model.training_state.unfinished.batches == 2
    resumed = seen(copy.deepcopy(model), resume=True)
    assert len(resumed) == 70 - 32
    again = seen(copy.deepcopy(model))
    assert len(again) == 140
    assert sorted(again[:70]) == list(range(70))
    assert again[32:70] == resumed


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"key": 2},
            r"continues with the masks, .* key=Key\(seed=1, .*, got Key\(seed=2",
        ),
        ({"batch_size": 8}, "the same batch_size as before, 16, got 8; resume=False begins"),
        (
            {"optimizer": "sgd"},
            r"the same optimizer as before, Adam\(.*, got SGD\(learning_rate=0.01",
        ),
        ({"shuffle": False}, "the same shuffle as before, True, got False"),
        ({"rows": 60}, "the same samples as before, 70, got 60"),
    ],
)
def test_an_epoch_is_finished_with_the_same_batches_only(options, text):
    model = interrupted(UPDATES + 3)
    before = fingerprint(model)
    rows = options.pop("rows", 70)
    with pytest.raises(ValueError, match=text):
        model.fit(X[:rows], Y[:rows], epochs=9, resume=True, **OPTIONS | options)
    assert fingerprint(model) == before
    model.fit(X[:rows], Y[:rows], epochs=1, **OPTIONS | options)
    assert model.training_state.unfinished is None


CALL = {
    "optimizer": SGD(Linear(0.3, 0.1, 9), momentum=0.9),
    "validation_split": 0.2,
    "class_weight": {0: 1.0, 1: 2.0, 2: 3.0},
    "sample_weight": np.ones(70),
    "metrics": ["f1"],
}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"optimizer": SGD(Linear(0.3, 0.2, 9), momentum=0.9)},
            r"same optimizer as before, SGD\(learning_rate=Linear\(start=0.3, end=0.1, .*, got SGD",
        ),
        ({"optimizer": "adam"}, r"the same optimizer as before, SGD\(.*, got Adam\("),
        ({"loss": SoftmaxCrossEntropy(label_smoothing=0.1)}, "the same loss as before, Softmax"),
        ({"batch_size": None}, "the same batch_size as before, 16, got 32"),
        ({"validation_split": 0.3}, "the same validation_split as before, 0.2, got 0.3"),
        ({"class_weight": None}, r"same class_weight as before, \[1.0, 2.0, 3.0\], got None"),
        ({"class_weight": "balanced"}, r"same class_weight as before, \[1.0, 2.0, 3.0\], got \["),
        ({"sample_weight": None}, "the same sample_weight as before, 'given', got None"),
        ({"shuffle": False}, "the same shuffle as before, True, got False"),
        ({"samples": 60}, "the same samples as before, 56, got 48; resume=False begins another"),
    ],
)
def test_a_run_is_resumed_by_the_same_call_only(options, text):
    model = network()
    model.fit(X, Y, epochs=1, **OPTIONS | CALL)
    model = pickle.loads(pickle.dumps(model))
    before = fingerprint(model)
    now = OPTIONS | CALL | options
    rows = now.pop("samples", 70)
    if now["sample_weight"] is not None:
        now["sample_weight"] = now["sample_weight"][:rows]
    with pytest.raises(ValueError, match=text):
        model.fit(X[:rows], Y[:rows], epochs=2, resume=True, **now)
    assert fingerprint(model) == before
    model.fit(X[:rows], Y[:rows], epochs=1, **now)  # another run
    model.fit(X[:rows], Y[:rows], epochs=3, resume=True, **now)


def test_a_run_with_lengths_is_resumed_with_them():
    model, options = Sequential([LSTM(3), Dense(3)]), OPTIONS | {"loss": None}
    model.fit(X[:, :, None], Y, epochs=1, lengths=np.full(70, 8), **options)
    with pytest.raises(ValueError, match="the same lengths as before, 'given', got None"):
        model.fit(X[:, :, None], Y, epochs=2, resume=True, **options)


def test_equal_objects_are_the_same_call():
    """Whatever their addresses, and whether numbers are NumPy's."""
    model, twin = network(), network()

    def optimizer():
        return Clip(SGD(lambda step: 0.1, momentum=0.9), norm=np.float64(1.0))

    model.fit(X, Y, epochs=1, optimizer=optimizer(), **OPTIONS)
    model.fit(X, Y, epochs=2, resume=True, optimizer=Clip(SGD(lambda step: 0.1, momentum=0.9),
              norm=1.0), **OPTIONS)  # fmt: skip
    twin.fit(X, Y, epochs=2, optimizer=optimizer(), **OPTIONS)
    assert fingerprint(model) == fingerprint(twin)


def test_a_run_is_not_resumed_without_the_state_of_its_optimizer(tmp_path):
    pytest.importorskip(
        "safetensors", reason="models are saved by safetensors, which has no free-threaded wheels"
    )
    model = network()
    model.fit(X, Y, epochs=1, **OPTIONS)
    model.save(tmp_path / "model.dropcore", optimizer=False)
    found = dropcore.load(tmp_path / "model.dropcore")
    before = fingerprint(found)
    with pytest.raises(ValueError, match=r"saved without it, by save\(optimizer=False"):
        found.fit(X, Y, epochs=2, resume=True, **OPTIONS)
    assert fingerprint(found) == before
    found.fit(X, Y, epochs=1, **OPTIONS)
    training.step(model, "sgd", None, X, Y)
    with pytest.raises(
        ValueError, match=r"of the optimiser SGD, which made the last .*, got Adam;"
    ):
        model.fit(X, Y, epochs=2, resume=True, **OPTIONS)


class Explodes(Callback):
    def on_update_end(self, run):
        run.learning_rate_factor = 1e38


def test_a_resumed_epoch_that_diverges_goes_back_to_where_it_was_resumed():
    model = interrupted(UPDATES + 1)
    before = fingerprint(model)
    state = copy.deepcopy(model.training_state.unfinished)
    with pytest.raises(FloatingPointError, match="are back to where training was resumed"):
        model.fit(X, Y, epochs=9, resume=True, callbacks=[Explodes()], **OPTIONS)
    assert fingerprint(model)[0] == before[0]
    assert vars(model.training_state.unfinished) == vars(state)


def test_a_run_that_a_callback_stopped_has_nothing_left():
    model = network()
    stop = [lambda epoch, metrics: epoch == 2]
    model.fit(X, Y, epochs=9, callbacks=stop, resume=True, **OPTIONS)
    assert model.training_state.stopped
    before = fingerprint(model)
    model.fit(X, Y, epochs=9, callbacks=stop, resume=True, **OPTIONS)
    assert fingerprint(model) == before
    assert model.fit(X, Y, epochs=1, **OPTIONS).epochs == [3]
    assert not model.training_state.stopped


# --- callbacks -----------------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self, calls, last=False):
        self.calls, self.last = calls, last

    def on_fit_begin(self, run):
        self.calls.append(("begin", self.last, run.state.step, run.model.built))

    def on_update_end(self, run):
        self.calls.append(("update", self.last, run.state.step))

    def on_epoch_end(self, run, epoch, metrics):
        self.calls.append(("epoch", self.last, epoch, run.history["loss"][-1] == metrics["loss"]))
        metrics.clear()
        return not self.last

    def on_fit_end(self, run):
        self.calls.append(("end", self.last, run.history.epochs))


def test_callbacks_are_called_in_order_and_those_that_save_last():
    calls = []
    network().fit(X, Y, epochs=3, callbacks=[Recorder(calls, last=True), Recorder(calls)],
                  **OPTIONS)  # fmt: skip
    assert calls == [
        ("begin", False, 0, True),
        ("begin", True, 0, True),
        *[("update", last, step + 1) for step in range(UPDATES) for last in (False, True)],
        ("epoch", False, 1, True),
        ("epoch", True, 1, True),
        ("end", False, [1]),
        ("end", True, [1]),
    ]


def test_what_callbacks_know_is_kept_before_the_model_is_saved():
    kept = []

    class Saves(Callback):
        last = True

        def on_epoch_end(self, run, epoch, metrics):
            kept.append((dict(run.state.callbacks), run.state.stopped))

    model = network()
    stop = [lambda epoch, metrics: epoch == 3]
    model.fit(X, Y, epochs=9, callbacks=[Saves(), Halving(), Halving(), *stop], **OPTIONS)
    assert kept == [
        ({"Halving": {"waited": n % 2}, "Halving 2": {"waited": n % 2}}, n == 3) for n in (1, 2, 3)
    ]


def test_callbacks_begin_anew_in_another_call():
    model = network()
    model.fit(X, Y, epochs=3, callbacks=[Halving()], **OPTIONS)
    assert model.training_state.learning_rate_factor == 0.5
    assert model.training_state.callbacks == {"Halving": {"waited": 1}}
    model.fit(X, Y, epochs=1, callbacks=[Halving()], **OPTIONS)
    assert model.training_state.learning_rate_factor == 1.0
    assert model.training_state.callbacks == {"Halving": {"waited": 1}}


# --- the learning rate ---------------------------------------------------------------------------


class Sets(Callback):
    def __init__(self, factor, step=0):
        self.factor, self.step = factor, step

    def on_fit_begin(self, run):
        if self.step == 0:
            run.learning_rate_factor = self.factor

    def on_update_end(self, run):
        if run.state.step == self.step:
            run.learning_rate_factor = self.factor


@pytest.mark.parametrize(
    ("optimizer", "same"),
    [
        (SGD(0.4, momentum=0.9), SGD(0.1, momentum=0.9)),
        (SGD(Linear(0.4, 0.2, 7)), SGD(Linear(0.1, 0.05, 7))),
        (Clip(Adam(0.04), norm=0.1), Clip(Adam(0.01), norm=0.1)),
        (Clip(Clip(Adam(Linear(0.4, 0.2, 8)), norm=0.1), value=0.1),
         Clip(Clip(Adam(Linear(0.1, 0.05, 8)), norm=0.1), value=0.1)),
    ],
)  # fmt: skip
def test_the_factor_multiplies_the_learning_rate(optimizer, same):
    scaled, plain = network(), network()
    scaled.fit(X, Y, epochs=2, optimizer=optimizer, callbacks=[Sets(0.25)], **OPTIONS)
    plain.fit(X, Y, epochs=2, optimizer=same, **OPTIONS)
    for name, weight in plain.params.items():
        np.testing.assert_allclose(scaled.params[name], weight, rtol=1e-6, atol=1e-7)


def test_the_factor_holds_from_the_next_update_on():
    changed, plain = network(), network()
    changed.fit(X, Y, epochs=1, optimizer=SGD(0.4), callbacks=[Sets(1e-9, step=2)], **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        plain.fit(X, Y, epochs=1, optimizer=SGD(0.4), callbacks=[Interrupts(2)], **OPTIONS)
    np.testing.assert_allclose(changed.params["0.weight"], plain.params["0.weight"], atol=1e-7)


class Own:
    """An optimiser of one's own."""

    def init(self, params):
        return {}

    def apply(self, params, grads, state, step, constraints):
        pass


@pytest.mark.parametrize(
    ("factor", "optimizer", "error", "text"),
    [
        (0, "adam", ValueError, "learning_rate_factor must be positive and finite, got 0"),
        ("0.1", "adam", TypeError, "learning_rate_factor must be a number, got '0.1'"),
        (0.5, Own(), TypeError, r"an optimiser of dropcore\.optim, or one that has scaled\(factor"),
    ],
)
def test_factors_that_are_refused(factor, optimizer, error, text):
    model = network()
    with pytest.raises(error, match=text):
        model.fit(X, Y, epochs=1, optimizer=optimizer, callbacks=[Sets(factor)], **OPTIONS)
    assert model.training_state is None


def test_an_epoch_without_some_metric_has_nan_there():
    history = History()
    history.append(1, {"loss": 1.0})
    history.append(2, {"loss": 2.0, "val_loss": 3.0})
    history.append(3, {"val_loss": 4.0})
    np.testing.assert_equal(
        dict(history), {"loss": [1.0, 2.0, np.nan], "val_loss": [np.nan, 3.0, 4.0]}
    )


def squares(outputs, targets):
    return float((outputs**2).mean()), 2 * outputs / outputs.size


def test_a_loss_that_a_copy_does_not_hold_is_asked_for():
    model = network()
    model.fit(X, Y, epochs=1, **OPTIONS | {"loss": squares})
    options = OPTIONS | {"loss": None, "epochs": 2, "resume": True}
    found = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match=r"continues with the loss .* give it as loss="):
        found.fit(X, Y, **options)
    found.fit(X, Y, **options | {"loss": squares})
    model.fit(X, Y, **options)
    assert fingerprint(found) == fingerprint(model)


def test_a_run_goes_on_with_its_key_only():
    """Another key would hold out other rows: those that were trained on."""
    model = network()
    model.fit(X, Y, epochs=1, validation_split=0.2, **OPTIONS)
    before = fingerprint(model)
    options = OPTIONS | {"epochs": 2, "validation_split": 0.2, "resume": True}
    with pytest.raises(ValueError, match=r"validation_split of key=.*seed=1.*: leave key out"):
        model.fit(X, Y, **options | {"key": 2})
    assert fingerprint(model) == before
    model.fit(X, Y, **options | {"key": None})
    model.fit(X, Y, epochs=1, validation_split=0.2, **OPTIONS | {"key": 2})

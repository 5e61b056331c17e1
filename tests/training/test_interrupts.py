"""Ctrl-C leaves the model as the last complete update left it."""

from __future__ import annotations

import _thread
import copy
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import training
from dropcore.constraints import MaxNorm
from dropcore.nn import BatchNorm, Dense, Dropout, Sequential
from dropcore.optim import SGD, Adam
from dropcore.training import History
from dropcore.training._interrupts import Interrupts
from dropcore.training._progress import progress_of
from dropcore.training.state import Snapshot

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 30)).astype(np.float32)
Y = RNG.integers(0, 3, 64)
OPTIONS = {"loss": "softmax_cross_entropy", "progress": False, "batch_size": 16, "key": 1}


def network():
    return Sequential(
        [
            Dense(40, activation="relu", constraint=MaxNorm(1.0)),
            BatchNorm(),
            Dropout(0.5),
            Dense(40, activation="relu"),
            Dense(3),
        ]
    )


def numbers(model):
    state = model.training_state
    arrays = [*model.params.values(), *model.buffers.values()]
    arrays += [array for slot in state.slots.values() for array in slot.values()]
    return b"".join(array.tobytes() for array in arrays)


def after(steps, optimizer):
    """What so many complete updates of `fit` give."""
    model = network()
    for step in range(steps):
        rows = slice(step % 4 * 16, step % 4 * 16 + 16)
        training.step(model, optimizer, "softmax_cross_entropy", X[rows], Y[rows], 1)
    return numbers(model)


def test_an_import_within_fit_is_not_cut_short(monkeypatch):
    """Else Python keeps some of its modules, and the next import fails."""
    ended = []

    def importing(*args):
        signal.raise_signal(signal.SIGINT)
        ended.append(args)
        return progress_of(*args)

    monkeypatch.setattr("dropcore.training._fit.progress_of", importing)
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, Y, epochs=1, **OPTIONS)
    assert ended == [(0, 1, 4, False)]


class PressesInUpdate(SGD):
    """Gets SIGINT when half of the parameters are updated."""

    def apply(self, params, grads, state, step, constraints):
        names = list(params)
        half = len(names) // 2
        for number, some in enumerate((names[:half], names[half:])):
            slots = {kind: {name: a[name] for name in some} for kind, a in state.items()}
            own = [{name: arrays[name] for name in some} for arrays in (params, grads)]
            super().apply(*own, slots, step, constraints)
            if step == 5 and number == 0:
                signal.raise_signal(signal.SIGINT)


def test_an_update_is_completed_first():
    model = network()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=9, optimizer=PressesInUpdate(0.1, momentum=0.9), shuffle=False,
                  **OPTIONS)  # fmt: skip
    assert model.training_state.step == 6
    assert numbers(model) == after(6, SGD(0.1, momentum=0.9))
    assert model.training_state.history.epochs == [1]
    assert len(model.training_state.history["loss"]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class PressesInBackward(BatchNorm):
    """Gets SIGINT as its moments have moved."""

    def __init__(self):
        super().__init__()
        self.presses = 7

    def forward(self, x, *, key=None, row_offset=0):
        y, inner = super().forward(x, key=key, row_offset=row_offset)

        def backward(dy, **options):
            found = inner(dy, **options)
            self.presses -= 1
            if self.presses == 0:
                signal.raise_signal(signal.SIGINT)
            return found

        return y, backward


def test_moments_move_with_the_weights():
    layers = network().layers
    model = Sequential([layers[0], PressesInBackward(), *layers[2:]])
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=9, optimizer=Adam(), shuffle=False, **OPTIONS)
    assert model.training_state.step == 7
    assert numbers(model) == after(7, Adam())


class PressesInBuild(Dense):
    """Gets SIGINT as its weights are drawn."""

    def _build(self, input_shape, rng, dtype):
        signal.raise_signal(signal.SIGINT)
        super()._build(input_shape, rng, dtype)


@pytest.mark.parametrize(
    "begin",
    [
        lambda model: model.fit(X, Y, epochs=1, **OPTIONS),
        lambda model: training.step(model, "adam", "softmax_cross_entropy", X, Y, 1),
    ],
)
def test_all_weights_are_drawn_or_none(begin):
    model, twin = (Sequential([kind(8), Dense(3)]) for kind in (PressesInBuild, Dense))
    with pytest.raises(KeyboardInterrupt):
        begin(model)
    twin.build((30,), key=1)
    assert model.built
    for name, weight in twin.params.items():
        np.testing.assert_array_equal(model.params[name], weight)
    assert model.training_state.step == 0


def test_a_failed_epoch_is_undone_first(monkeypatch):
    restore, calls = Snapshot.restore, []

    def pressed(snapshot):
        signal.raise_signal(signal.SIGINT)
        restore(snapshot)
        calls.append(snapshot)

    monkeypatch.setattr(Snapshot, "restore", pressed)
    model = network()
    model.build((30,), key=1)
    before = {name: array.copy() for name, array in model.params.items()}
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=3, optimizer=SGD(1e30), **OPTIONS)
    assert len(calls) == 1
    for name, array in before.items():
        np.testing.assert_array_equal(model.params[name], array)


def test_an_epoch_counts_where_its_metrics_are_kept(monkeypatch):
    append = History.append

    def pressed(history, epoch, metrics):
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)
        append(history, epoch, metrics)

    monkeypatch.setattr(History, "append", pressed)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=3, **OPTIONS)
    assert model.training_state.epoch == 2
    assert model.training_state.history.epochs == [1, 2]


def test_interrupts_at_any_time():
    """At random times; what is left is always what some number of complete updates gives."""
    wanted = {}
    after(4, "adam")  # imports and first calls take longer
    started = time.perf_counter()
    after(16, "adam")
    longest = max(0.01, time.perf_counter() - started)  # whatever the speed of the processor
    for delay in np.random.default_rng(4).uniform(0, longest, 60):
        model, begun = network(), threading.Event()

        def interrupt(begun=begun, delay=delay):
            begun.wait()
            time.sleep(delay)
            _thread.interrupt_main()

        def on_epoch_end(epoch, metrics, begun=begun):
            begun.set()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y, epochs=10**6, optimizer="adam", shuffle=False,
                      callbacks=[on_epoch_end], **OPTIONS)  # fmt: skip
        thread.join()
        state = model.training_state
        if state.step not in wanted:
            wanted[state.step] = after(state.step, "adam")
        assert numbers(model) == wanted[state.step], state.step
        assert state.history.epochs == list(range(1, state.epoch + 1))
        assert all(len(values) == state.epoch for values in state.history.values())
        assert 0 <= state.step - 4 * state.epoch <= 4
    assert len(wanted) > 3


class Recorder(training.Callback):
    """Notes what each update leaves."""

    def __init__(self):
        self.found = {}

    def on_update_end(self, run):
        self.found[run.state.step] = numbers(run.model)


def fit_with_signals(n):
    """Fits in this process, of which SIGINT from another one ends each at a random moment.

    Prints the updates that were made before, when all was as it should be.
    """
    fit = {"epochs": 4, "optimizer": "adam", "resume": True, **OPTIONS}
    recorder, model = Recorder(), network()
    model.build(X.shape[1:], key=1)
    allowed = {0: b"".join(a.tobytes() for a in (*model.params.values(), *model.buffers.values()))}
    model.fit(X, Y, callbacks=[recorder], **fit)
    allowed |= recorder.found
    started = time.perf_counter()
    network().fit(X, Y, **fit)
    longest = time.perf_counter() - started
    parent, steps = os.getppid(), []
    delays = np.random.default_rng(7)
    while len(steps) < n:
        model = network()
        model.build(X.shape[1:], key=1)
        try:
            print(delays.uniform(0, longest), flush=True)  # the parent sends SIGINT so much later
            model.fit(X, Y, **fit)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
        assert os.getppid() == parent
        state = model.training_state
        step = 0 if state is None else state.step
        if step == 16:  # it was late
            continue
        found = allowed[0] if state is None else numbers(model)
        if step:
            assert found == allowed[step], f"{step} updates do not leave this"
        model.fit(X, Y, **fit)
        assert numbers(model) == allowed[16], f"resumed after {step} updates"
        steps.append(step)
    print("done", *steps, flush=True)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("n", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_signals_at_random_moments_of_a_fit(n):
    code = f"import runpy; runpy.run_path({__file__!r})['fit_with_signals']({n})"
    folders = [str(Path(dropcore.__file__).parents[1]), str(Path(__file__).parents[1])]
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )  # fmt: skip
    guard = threading.Timer(600, child.kill)
    guard.start()
    try:
        for line in child.stdout:
            if line.startswith("done"):
                break
            time.sleep(float(line))
            child.send_signal(signal.SIGINT)
        errors = child.communicate()[1]
    finally:
        guard.cancel()
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    steps = list(map(int, line.split()[1:]))
    assert len(steps) == n
    assert len(set(steps)) > 5, steps


def test_training_goes_on_after_an_interrupt():
    model = network()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=9, optimizer=PressesInUpdate(0.1, momentum=0.9), **OPTIONS)
    twin = copy.deepcopy(model)
    history = model.fit(X, Y, epochs=2, optimizer=SGD(0.1, momentum=0.9), **OPTIONS)
    assert history.epochs == [2, 3]
    assert model.training_state.step == 14
    assert twin.training_state.step == 6
    assert twin.training_state.history.epochs == [1]


def test_an_interrupt_of_a_step():
    model = network()
    optimizer = PressesInUpdate(0.1, momentum=0.9)
    for step in range(5):
        training.step(model, optimizer, "softmax_cross_entropy", X[:16], Y[:16], 1)
        assert model.training_state.step == step + 1
    with pytest.raises(KeyboardInterrupt):
        training.step(model, optimizer, "softmax_cross_entropy", X[:16], Y[:16], 1)
    assert model.training_state.step == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_and_other_handlers_are_left_alone():
    found = []

    def train():
        network().fit(X, Y, epochs=1, **OPTIONS)
        found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        network().fit(X, Y, epochs=1, **OPTIONS)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        caught = []
        signal.signal(signal.SIGINT, lambda *_: caught.append(time.perf_counter()))
        with Interrupts() as interrupts:
            with interrupts.deferred:
                with interrupts.deferred:
                    signal.raise_signal(signal.SIGINT)
                assert not caught
            assert len(caught) == 1
            signal.raise_signal(signal.SIGINT)
            assert len(caught) == 2
    finally:
        signal.signal(signal.SIGINT, before)

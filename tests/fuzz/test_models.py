"""Random sequences of training, saving, loading, predicting and mistakes corrupt no model.

A model goes through files, pickles and copies, and is called in wrong ways between; another one is
trained in the same way and nothing else. After every step they are the same, bit for bit.
"""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dropcore
from dropcore import nn
from dropcore.constraints import MaxNorm
from dropcore.optim import SGD, Adam
from dropcore.training import Callback
from support import fuzz

pytest.importorskip("safetensors", reason="models are saved by safetensors")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)

NETWORKS = (
    lambda: nn.mlp((6,), 2, rate=0.5, max_norm=1.0),
    lambda: nn.Sequential([nn.Dense(4, constraint=MaxNorm(1.0)), nn.BatchNorm(), nn.Tanh(),
                           nn.Dropout(0.3), nn.Dense(2)]),
    lambda: nn.Sequential([nn.UnitDropout(0.2), nn.Residual([nn.Dense(5), nn.AlphaDropout(0.2)]),
                           nn.DropConnect(3, 0.4), nn.Dense(2)]),
    lambda: nn.Sequential([nn.Reshape((5, 1)), nn.LSTM(3, dropout=0.2), nn.Dense(2)]),
)  # fmt: skip
OPTIMIZERS = (SGD(0.1, momentum=0.9), Adam(0.01), "adam", SGD(0.05))


class Stop(Exception):
    """What a callback of the user raises."""


class Fails(Callback):
    """Raises after some epochs."""

    def on_epoch_end(self, run, epoch, metrics):
        raise Stop


def bytes_of(model):
    """Everything that a model holds, as far as later calls depend on it."""
    state = model.training_state
    training = None
    if state is not None:
        slots = {kind: {k: a.tobytes() for k, a in s.items()} for kind, s in state.slots.items()}
        metrics = {k: v for k, v in state.history.metrics.items() if k != "seconds"}
        training = (state.step, state.epoch, state.optimizer, slots, metrics)
    arrays = dict(model.params) | dict(model.buffers)
    return {name: array.tobytes() for name, array in arrays.items()}, training


class Models(RuleBasedStateMachine):
    """A model that is handed around, and its twin that is not."""

    @initialize(network=st.sampled_from(NETWORKS), optimizer=st.sampled_from(OPTIMIZERS))
    def begin(self, network, optimizer):
        self.folder = Path(tempfile.mkdtemp(prefix="dropcore-fuzz-"))
        self.model, self.twin = network(), network()
        self.optimizer, self.fitted, self.saved = optimizer, False, None

    def fit(self, model, **options):
        model.fit(
            X, Y, loss="softmax_cross_entropy", optimizer=self.optimizer, progress=False, **options
        )

    @rule(
        epochs=st.integers(1, 2),
        batch_size=st.sampled_from((5, 8, 24, 100)),
        key=st.integers(0, 2**64 - 1),
    )
    def train(self, epochs, batch_size, key):
        for model in (self.model, self.twin):
            self.fit(model, epochs=epochs, batch_size=batch_size, key=key)
        self.fitted = True

    @rule(key=st.integers(0, 9))
    def train_until_a_callback_fails(self, key):
        for model in (self.model, self.twin):
            with pytest.raises(Stop):
                self.fit(model, epochs=3, batch_size=8, key=key, callbacks=[Fails()])
        self.fitted = True

    @precondition(lambda self: self.fitted)
    @rule(name=st.sampled_from(("a.dropcore", "b.dropcore")))
    def save(self, name):
        self.model.save(self.folder / name)
        self.saved = (self.folder / name, copy.deepcopy(self.twin))

    @precondition(lambda self: self.fitted)
    @rule()
    def save_and_load(self):
        self.model.save(self.folder / "c.dropcore")
        self.model = dropcore.load(self.folder / "c.dropcore")

    @precondition(lambda self: self.saved is not None)
    @rule()
    def go_back_to_what_was_saved(self):
        path, twin = self.saved
        self.model, self.twin = dropcore.load(path), copy.deepcopy(twin)

    @rule(how=st.sampled_from((copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)))))
    def copy_it(self, how):
        old, self.model = self.model, how(self.model)
        for array in (*old.params.values(), *old.buffers.values()):
            array[...] = np.nan  # nothing is shared

    @precondition(lambda self: self.fitted)
    @rule()
    def weights_through_a_file(self):
        self.model.save_weights(self.folder / "w.npz")
        for array in self.model.params.values():
            array[...] = 7
        self.model.load_weights(self.folder / "w.npz")

    @precondition(lambda self: self.fitted)
    @rule(
        wrong=st.sampled_from(
            (
                lambda m: m.fit(X, Y[:5], epochs=1, key=1, progress=False),
                lambda m: m.fit(X[:, :3], Y, epochs=1, key=1, progress=False),
                lambda m: m.fit(X, Y, epochs=-1, key=1, progress=False),
                lambda m: m.fit(X, Y, epochs=1, key=-1, progress=False),
                lambda m: m.fit(X, Y.astype(str), epochs=1, key=1, batch_size=0, progress=False),
                lambda m: m.fit(X, np.arange(24) % 3, epochs=1, key=1, progress=False),
                lambda m: m.predict(X[:, :2]),
                lambda m: m.predict(None),
                lambda m: m.evaluate(X, Y[:3]),
                lambda m: m.load_params({}),
                lambda m: m.save(3),
            )
        )
    )
    def refuse(self, wrong):
        with pytest.raises((TypeError, ValueError)):
            wrong(self.model)

    @precondition(lambda self: self.fitted)
    @rule(cut=st.integers(0, 400), name=st.sampled_from(("a.dropcore", "c.dropcore")))
    def load_a_file_that_was_cut_off(self, cut, name):
        path = self.folder / name
        if not path.exists():
            return
        short = self.folder / "short.dropcore"
        short.write_bytes(path.read_bytes()[: -1 - cut])
        with pytest.raises(ValueError, match=r"short\.dropcore"):
            dropcore.load(short)

    @precondition(lambda self: self.fitted)
    @rule(samples=st.sampled_from((None, 1, 3)), key=st.integers(0, 99))
    def predict(self, samples, key):
        how = {} if samples is None else {"samples": samples, "key": key}
        x = X.copy()
        found = self.model.predict(x, **how)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(self.twin.predict(x, **how)))
        assert x.tobytes() == X.tobytes()

    @invariant()
    def the_same_bits(self):
        assert bytes_of(self.model) == bytes_of(self.twin)

    @invariant()
    def no_file_is_left_behind(self):
        left = {
            name for name in os.listdir(self.folder) if not name.endswith((".dropcore", ".npz"))
        }
        assert not left

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


class TestModels(Models.TestCase):
    settings = settings(fuzz.SETTINGS, max_examples=40 * fuzz.TIMES, stateful_step_count=12)

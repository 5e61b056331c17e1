"""Memory that runs out anywhere: MemoryError, and a model as some whole update has left it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import training
from dropcore.nn import BatchNorm, Dense, Sequential
from dropcore.optim import SGD
from dropcore.training._means import Means
from support.limits import NEEDS_LIMITS

SUPPORT = Path(__file__).parents[1] / "support"
FILES = {
    "save",
    "save weights",
    "load",
    "load weights",
}  # which ask for arrays in one place at most


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """What makes requests for memory fail, where there is a compiler for it."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("memory is made to run out where a C compiler and Linux are")
    library = tmp_path_factory.mktemp("preload") / "failing_allocations.so"
    source = SUPPORT / "failing_allocations.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", source, "-o", library],
        check=True,
    )
    return str(library)


def run(*arguments, **variables):
    folders = os.pathsep.join([str(Path(dropcore.__file__).parents[1]), str(SUPPORT.parent)])
    return subprocess.run(
        [sys.executable, SUPPORT / "exhaustion.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": folders} | variables,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def exhausted(*arguments, **variables):
    """For each case the numbers of calls and of MemoryErrors."""
    done = run(*arguments, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@NEEDS_LIMITS
def test_any_request_for_memory_may_fail(preload):
    found = exhausted("on", 1024, LD_PRELOAD=preload)
    assert all(errors == calls - 1 for calls, errors in found.values()), found
    assert all(errors > 0 for name, (_, errors) in found.items() if name not in FILES), found
    assert found["fit"][1] > 50
    assert len(found) > 15


@NEEDS_LIMITS
@pytest.mark.slow
@pytest.mark.parametrize("how", ["once", "on"])
def test_any_request_for_however_little_memory_may_fail(preload, how):
    found = exhausted(how, 16, LD_PRELOAD=preload)
    assert found["fit"][1] > 300
    assert len(found) > 15


@NEEDS_LIMITS
@pytest.mark.slow
def test_the_address_space_may_end_anywhere():
    limits = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    found = exhausted("space", 1 << 17, **limits)
    assert all(errors > 0 for errors in (found[name][1] for name in ("fit", "load", "save"))), found
    assert sum(errors for _, errors in found.values()) > 100


@NEEDS_LIMITS
def test_half_a_change_is_found(preload):
    done = run("on", 1024, "planted", LD_PRELOAD=preload)
    assert done.returncode == 1
    assert "assert subject.tobytes() in self.allowed" in done.stderr


# --- an update that fails half-way ----------------------------------------------------------------


class FailsBetween(SGD):
    """Updates the first half of the parameters, and has no memory for the others."""

    fails_at = 5

    def apply(self, params, grads, state, step, constraints):
        if step != type(self).fails_at:
            return super().apply(params, grads, state, step, constraints)
        names = list(params)[: len(params) // 2]
        slots = {kind: {name: a[name] for name in names} for kind, a in state.items()}
        first = [{name: arrays[name] for name in names} for arrays in (params, grads)]
        super().apply(*first, slots, step, constraints)
        raise MemoryError


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 7)).astype(np.float32), RNG.integers(0, 3, 64)
OPTIONS = {"loss": "softmax_cross_entropy", "batch_size": 16, "key": 1, "progress": False}


def network():
    return Sequential([Dense(8, activation="relu"), BatchNorm(), Dense(3)])


def arrays(model):
    return [a.tobytes() for a in (*model.params.values(), *model.buffers.values())]


def test_half_an_update_is_taken_back_to_the_start_of_the_epoch(monkeypatch):
    whole, model = network(), network()
    whole.fit(X, Y, epochs=1, optimizer=FailsBetween(0.1, momentum=0.9), **OPTIONS)
    with pytest.raises(MemoryError):
        model.fit(X, Y, epochs=3, optimizer=FailsBetween(0.1, momentum=0.9), **OPTIONS)
    assert (model.training_state.step, model.training_state.epoch) == (4, 1)
    assert arrays(model) == arrays(whole)
    monkeypatch.setattr(FailsBetween, "fails_at", None)
    model.fit(X, Y, epochs=3, optimizer=FailsBetween(0.1, momentum=0.9), resume=True, **OPTIONS)
    whole.fit(X, Y, epochs=2, optimizer=FailsBetween(0.1, momentum=0.9), **OPTIONS)
    assert arrays(model) == arrays(whole)


def test_half_an_update_of_a_first_epoch_leaves_a_model_without_training(monkeypatch):
    monkeypatch.setattr(FailsBetween, "fails_at", 2)
    model, twin = network(), network()
    twin.build((7,), key=1)
    with pytest.raises(MemoryError):
        model.fit(X, Y, epochs=1, optimizer=FailsBetween(0.1), **OPTIONS)
    assert model.training_state is None
    assert arrays(model) == arrays(twin)


def test_an_update_whose_metrics_fail_is_taken_back(monkeypatch):
    model, twin, done = network(), network(), []
    twin.build((7,), key=1)
    add = Means.add

    def fails(means, found):
        add(means, found)
        done.append(found)
        if len(done) == 3:
            raise MemoryError

    monkeypatch.setattr(Means, "add", fails)
    with pytest.raises(MemoryError):
        model.fit(X, Y, epochs=1, optimizer="sgd", **OPTIONS)
    assert arrays(model) == arrays(twin)
    assert model.training_state is None


def test_a_step_says_that_a_part_was_made(monkeypatch):
    monkeypatch.setattr(FailsBetween, "fails_at", 0)
    model = network()
    with pytest.raises(MemoryError) as caught:
        training.step(model, FailsBetween(0.1), "softmax_cross_entropy", X, Y, 1)
    assert caught.value.__notes__ == [
        "Part of update 0 was made: go on from a model that was saved or copied before, or use "
        "fit, which goes back to the start of the epoch."
    ]


def test_a_step_that_fails_before_it_changes_anything_says_nothing():
    model = Sequential([Dense(3)])

    def loss(outputs, targets):
        raise MemoryError

    with pytest.raises(MemoryError) as caught:
        training.step(model, "sgd", loss, X, Y, 1)
    assert not hasattr(caught.value, "__notes__")
    assert model.training_state is None

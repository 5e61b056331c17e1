"""Every public function with random arguments: the right result, or TypeError or ValueError.

`DROPCORE_FUZZ=100` makes a hundred times as many calls, which differ from run to run. A failure
prints the seed that repeats it.
"""

from __future__ import annotations

import importlib
import inspect

import pytest

import dropcore
from support import fuzz, fuzz_arrays, fuzz_training

MODULES = ("dropcore", *(f"dropcore.{name}" for name in dropcore._MODULES))

ELSEWHERE = {
    "dropcore.nn": "test_layers",
    "dropcore.data": "test_files",
    "dropcore.distributed": "several processes: tests/distributed",
    "dropcore.reference": "the oracle itself: tests/contract and tests/arrays",
    "dropcore.jax": "tests/adapters", "dropcore.keras": "tests/adapters",
    "dropcore.numba": "tests/adapters", "dropcore.onnx": "tests/adapters",
    "dropcore.sklearn": "tests/adapters, which runs scikit-learn's own checks of estimators",
    "dropcore.thinc": "tests/adapters", "dropcore.torch": "tests/adapters",
    "dropcore.training": "test_models",
    "dropcore.tuning": "searches take minutes: tests/practice",
    "dropcore.uncertainty": "tests/practice",
    "dropcore.datasets": "files from the network: tests/practice",
    "dropcore.diagnosis": "tests/practice", "dropcore.plotting": "pictures: tests/practice",
    "dropcore.report": "pages: tests/practice",
    "dropcore.reproduction": "runs of experiments: tests/practice",
}  # fmt: skip
"""The modules whose names have no case here, and where they are tested."""

NO_CALLS = {
    "dropcore.load": "test_files",
    "dropcore.constraints.Constraint": "a type",
    "dropcore.losses.Loss": "a type",
    "dropcore.losses.Number": "a type",
    "dropcore.losses.CheckedLoss": "a base class without a formula",
    "dropcore.losses.LOSSES": "a dict",
    "dropcore.optim.Arrays": "a type",
    "dropcore.optim.Gradients": "a type",
    "dropcore.optim.Optimizer": "a protocol",
    "dropcore.optim.State": "a type",
    "dropcore.regularizers.Regularizer": "a protocol",
    "dropcore.regularizers.ActivityRegularizer": "a protocol",
    "dropcore.schedules.Schedule": "a type",
}
"""The names that cannot be called, or are elsewhere."""


def names():
    for module in MODULES:
        if module not in ELSEWHERE:
            for name in importlib.import_module(module).__all__:
                if not name.startswith("__"):
                    yield f"{module}.{name}"


NAMES = [name for name in names() if name not in NO_CALLS]


def test_every_public_name_has_a_case_and_every_case_a_name():
    assert set(NAMES) == set(fuzz.CASES)
    assert set(NO_CALLS) <= set(names())
    assert set(ELSEWHERE) <= set(MODULES)
    assert {fuzz_arrays.__name__, fuzz_training.__name__} == {
        inspect.getmodule(function).__name__ for function, _ in fuzz.CASES.values()
    }


def test_there_are_a_thousand_calls():
    assert sum(share for _, share in fuzz.CASES.values()) >= 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_right_or_refused(name):
    function, share = fuzz.CASES[name]
    target = fuzz.public(name)
    fuzz.repeat(lambda draw: function(draw, target), share)

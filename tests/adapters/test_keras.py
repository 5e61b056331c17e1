"""The adapter for Keras, in a process for each backend."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.swapped import own_tests

ROOT = Path(__file__).parents[2]

# Tests skipped by each: some are of TensorFlow or PyTorch alone, one takes a minute on PyTorch, and
# NumPy trains nothing.
SKIPPED = {"jax": 6, "torch": 6, "tensorflow": 1, "numpy": 23}


@pytest.fixture(params=SKIPPED)
def backend(request):
    if find_spec(request.param) is None:
        pytest.skip(f"there is no {request.param} here")
    return request.param


@pytest.fixture(scope="module")
def folder():
    """Where Keras is, without importing it here, where it would choose its backend."""
    spec = find_spec("keras")
    if spec is None:
        pytest.skip("Keras is not installed")
    return Path(spec.origin).parent


def environment(backend):
    return {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu",
            "KERAS_TORCH_DEVICE": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "DROPCORE_NO_SKIPS": "0",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}  # fmt: skip


def test_layers_and_constraints(folder, backend):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider",
         "tests/adapters/keras_layers.py"],
        capture_output=True, text=True, cwd=ROOT, env=environment(backend),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = {name: int(n) for n, name in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    assert found["passed"] > 40
    assert found.get("skipped", 0) == SKIPPED[backend], done.stdout


def test_keras_own_tests_of_the_layers(folder, backend, tmp_path):
    swap = (
        "from keras.src import constraints, layers\n"
        "import dropcore.keras as own\n"
        "for name in own.__all__:\n"
        "    where = layers if hasattr(layers, name) else constraints\n"
        "    setattr(where, name, getattr(own, name))\n"
    )
    tests = folder / "src/layers/regularization"
    files = [tests / f"{name}_test.py" for name in ("dropout", "spatial_dropout", "alpha_dropout")]
    files.append(folder / "src/constraints/constraints_test.py")
    assert own_tests(tmp_path, swap, files, **environment(backend)) >= 40


def test_other_backends_are_refused(folder):
    code = (
        "import keras; keras.backend.backend = lambda: 'openvino'\n"
        "try: import dropcore.keras\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment("numpy"))  # fmt: skip
    assert "jax, torch, tensorflow, numpy, and Keras is on openvino: set the" in done.stdout


def test_keras_is_missing_in_words():
    code = (
        "import sys, dropcore, dropcore.nn; assert 'keras' not in sys.modules\n"
        "sys.modules['keras'] = None\n"
        "try: import dropcore.keras\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == (
        "dropcore.keras needs Keras, which is not installed: pip install 'dropcore[keras]'\n"
    )

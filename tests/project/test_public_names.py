"""What `import dropcore` shows."""

import importlib.util
import inspect
import pkgutil
import subprocess
import sys

import pytest

import dropcore

NOUNS = [
    "Key", "Mask", "Permutation", "alpha_dropout", "alpha_dropout_backward", "attention",
    "attention_backward", "build_info", "dropout", "dropout_backward", "get_include",
    "get_num_threads", "load", "masked_matmul", "masked_matmul_backward", "max_norm_",
    "release_memory", "set_num_threads",
]  # fmt: skip

MODULES = [
    "constraints", "data", "datasets", "diagnosis", "distributed", "jax", "keras", "losses", "nn",
    "noise", "numba", "onnx", "optim", "plotting", "reference", "regularizers", "report",
    "reproduction", "schedules", "sklearn", "thinc", "torch", "training", "tuning", "uncertainty",
    "updates",
]  # fmt: skip

# Adapters, and the module of the library that each of them needs.
ADAPTERS = {
    "jax": "jax", "keras": "keras", "numba": "numba", "onnx": "onnx", "sklearn": "sklearn",
    "thinc": "thinc", "torch": "torch",
}  # fmt: skip


def public_modules():
    return [m.name for m in pkgutil.iter_modules(dropcore.__path__) if not m.name.startswith("_")]


def test_dir_shows_the_public_names():
    assert dir(dropcore) == sorted([*NOUNS, *MODULES, "__version__"])


@pytest.mark.parametrize("name", public_modules())
def test_public_modules_are_reachable_and_documented(name):
    code = f"import dropcore; print(dropcore.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if name in ADAPTERS and importlib.util.find_spec(ADAPTERS[name]) is None:
        assert f"which is not installed: pip install 'dropcore[{name}]'" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"dropcore.{name}\n"
    module = importlib.import_module(f"dropcore.{name}")
    assert module.__doc__
    for exported in module.__all__:
        value = getattr(module, exported)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, exported


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dropcore.nothing  # noqa: B018

"""The Python blocks of docs/gpu.md run as written, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dropcore

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)


def run(number, namespace):
    code = compile(blocks()[number], f"{DOCUMENT.name}, Python block {number}", "exec")
    exec(code, namespace)
    return namespace


def test_models_and_arrays(gpu):
    assert len(blocks()) == 3
    found = run(0, {})
    assert found["scores"]["accuracy"] > 0.5  # of ten classes
    assert found["model"].device == "cpu"
    before = found["x"]
    assert isinstance(before, np.ndarray)
    found = run(1, found)
    x = dropcore.noise.normal((1000, 256), key=7)
    want = dropcore.dropout(x, 0.5, key=7)
    for name in ("x", "y"):
        assert isinstance(found[name], gpu.ndarray)
        np.testing.assert_array_equal(gpu.asnumpy(found[name]), want)
    packed = dropcore.Mask((1000, 256), 0.5, key=7).packed()
    np.testing.assert_array_equal(gpu.asnumpy(found["bits"]), packed)


def test_arrays_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no device")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    found = run(2, {"dropcore": dropcore, "cupy": cupy, "key": dropcore.Key(7)})
    want = dropcore.dropout(np.ones((1000, 256), np.float32), 0.5, key=7)
    np.testing.assert_array_equal(found["y"].cpu().numpy(), want)

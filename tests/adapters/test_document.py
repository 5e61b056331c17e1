"""The Python blocks of docs/adapters.md run as written, section by section."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dropcore import Mask

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"

SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", DOCUMENT.read_text("utf-8"), re.M))


def run(section):
    """The names that are there when all blocks of a section have run."""
    namespace = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", SECTIONS[section], re.M | re.S)
    assert blocks
    for number, text in enumerate(blocks):
        exec(compile(text, f"{DOCUMENT.name}, {section}, block {number}", "exec"), namespace)
    return namespace


def test_jax():
    pytest.importorskip("jax")
    found = run("JAX")
    assert found["gradient"].shape == (100,)
    y = np.asarray(found["y"])
    assert set(np.unique(y)) == {0.0, 2.0}
    assert (y[0] != y[1]).any()


def test_pytorch():
    torch = pytest.importorskip("torch")
    found = run("PyTorch")
    assert type(found["model"][2]).__module__ == "dropcore.torch._modules"
    mask = Mask((32, 1024), 0.5, key=7).to_bool()
    assert torch.equal(found["y"] != 0, torch.from_numpy(mask))
    assert found["outputs"].shape == (10, 8, 64)
    found["model"](torch.ones(8, 784)).sum().backward()
    found["optimizer"].param_groups[0]["lr"] = 9.0
    found["optimizer"].step()
    assert torch.linalg.vector_norm(found["model"][0].weight.double(), dim=1).max() <= 3


def test_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    found = run("Keras")
    losses = found["history"].history["loss"]
    assert losses[-1] < losses[0]
    assert type(found["model"].layers[1]) is found["Dropout"]


def test_onnx(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    found = run("ONNX")
    np.testing.assert_allclose(found["y"], found["model"](found["x"]), rtol=1e-5, atol=1e-5)
    assert (found["dropped"][1] == Mask((4, 6), 0.5, key=7).to_bool()).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikitlearn():
    pytest.importorskip("sklearn")
    found = run("scikit-learn")
    assert found["search"].score(found["x_test"], found["y_test"]) > 0.93
    assert found["mean"].shape == found["std"].shape == found["y_test"].shape
    assert found["std"].min() > 0


def test_thinc():
    pytest.importorskip("thinc")
    found = run("thinc")
    found["model"].initialize(np.ones((4, 8), "f"), np.ones((4, 3), "f"))
    assert found["model"].ops.name == "dropcore"
    y = found["model"].layers[0](np.ones((4, 8), "f"), is_train=True)[0]
    assert (y == 0).any()


def test_every_section_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {re.sub(r"\W", "", name).lower() for name in SECTIONS} <= tested

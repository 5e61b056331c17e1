"""What the documents show is what happens: their Python blocks run, one after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def run_blocks(path, count):
    """The names that are there when all Python blocks of a document have run."""
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == count
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{path.name}, Python block {number}", "exec"), namespace)
    return namespace


def test_python_blocks_of_the_readme_run():
    found = run_blocks(README, 2)
    assert 0.5 < found["model"].evaluate(found["x"], found["labels"])["accuracy"] <= 1


def test_python_blocks_about_networks_run():
    found = run_blocks(README.parent / "docs" / "networks.md", 5)
    assert found["dx"].shape == found["x"].shape
    assert found["samples"].shape == (10, 32, 10)
    assert found["model"].training_state.step == 12
    assert found["language_model"].training_state.step == 3


def test_the_builder_in_the_document_about_performance_runs(monkeypatch):
    monkeypatch.syspath_prepend(README.with_name("bench"))
    found = run_blocks(README.parent / "docs" / "performance.md", 1)
    assert found["forward_mine"](8, 0.5, "float64")().shape == (8,)


@pytest.mark.parametrize("target", ["demo", "test", "peers", "kernels", "check", "lint", "bench"])
def test_make_has_the_targets_that_are_named(target):
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.M)

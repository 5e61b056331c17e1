"""What the README shows is what happens: its Python blocks run, one after the other."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


def test_python_blocks_run():
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    assert len(blocks) == 3
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)
    assert 0.5 < namespace["model"].evaluate(namespace["x"], namespace["labels"])["accuracy"] <= 1


@pytest.mark.parametrize("target", ["demo", "test", "check", "lint", "bench"])
def test_make_has_the_targets_that_are_named(target):
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.M)

"""What training imports."""

from __future__ import annotations

import subprocess
import sys


def imported(module):
    """What Python has imported after a module."""
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_training_needs_no_layers():
    names = imported("dropcore.training")
    assert "dropcore.training._fit" in names
    assert [name for name in names if name.startswith("dropcore.nn") or name == "tqdm"] == []


def test_layers_need_nothing_that_is_for_tables_files_and_bars():
    names = imported("dropcore.nn")
    assert "dropcore.nn.sequential" in names
    late = ("dropcore.data", "dropcore.nn._saving", "tqdm", "safetensors", "sklearn", "pandas",
            "tensorboardX")  # fmt: skip
    assert [name for name in names if name.startswith(late)] == []

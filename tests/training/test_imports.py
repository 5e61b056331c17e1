"""What training imports."""

from __future__ import annotations

import subprocess
import sys


def test_training_needs_no_layers():
    program = """
import sys
import dropcore.training
print(*[name for name in sys.modules if name.startswith("dropcore.nn") or name == "tqdm"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []

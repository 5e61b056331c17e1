"""The tests of another library, run with our kernels in the place of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dropcore


def own_tests(tmp_path, swap, files, *options, **variables):
    """How many tests of these files passed, in a process that first ran the code of `swap`."""
    (tmp_path / "swap.py").write_text(swap, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(Path(dropcore.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "swap", "-p", "no:cacheprovider",
         "-W", "ignore", "--rootdir", str(tmp_path), *options, *map(str, files)],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found, done.stdout
    assert "skipped" not in done.stdout
    return int(found[1])

"""A disk that is full or read-only: the old file is whole, and nothing else stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dropcore

pytest.importorskip("safetensors", reason="models are saved by safetensors")
pytest.importorskip("matplotlib", reason="a report has pictures")

SUPPORT = Path(__file__).parents[1] / "support"
WRITERS = {"save", "save weights", "checkpoint", "results", "report", "log"}


def errors_of(folder, how, *prefix):
    """For each writer the number of errors until there is room enough."""
    roots = os.pathsep.join([str(Path(dropcore.__file__).parents[1]), str(SUPPORT.parent)])
    done = subprocess.run(
        [*prefix, sys.executable, SUPPORT / "full_disk.py", how, folder],
        env=os.environ | {"PYTHONPATH": roots, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == WRITERS
    return found


@pytest.fixture
def mounted(tmp_path):
    """A command that gives what follows a small file system at the folder."""
    if shutil.which("unshare") is None:
        pytest.skip("a file system of its own is made by unshare")
    mount = f"mount -t tmpfs -o size=2m none '{tmp_path}'"
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*own, mount], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    return [*own, f'{mount} && exec "$@"', "sh"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of files is that of Linux")
def test_a_file_may_not_become_longer(tmp_path):
    assert min(errors_of(tmp_path, "limit").values()) > 1


def test_the_disk_is_full(tmp_path, mounted):
    assert min(errors_of(tmp_path, "disk", *mounted).values()) > 1


def test_the_folder_is_read_only(tmp_path, mounted):
    assert set(errors_of(tmp_path, "read-only", *mounted).values()) == {1}

"""Mixed calls, again and again: no more memory, and the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dropcore
from support.limits import NEEDS_LIMITS

TESTS = Path(__file__).parents[1]
pytestmark = [NEEDS_LIMITS, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


def soak(seconds, *options):
    folders = os.pathsep.join([str(Path(dropcore.__file__).parents[1]), str(TESTS)])
    return subprocess.run(
        [sys.executable, TESTS / "support" / "soak.py", str(seconds), *options],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_mixed_calls_take_no_more_memory_and_give_the_same():
    done = soak(4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("by the line\n")


@pytest.mark.parametrize(
    ("fault", "message"), [("leak", "the memory grows: "), ("drift", "another result: drift in ")]
)
def test_a_planted_fault_is_found(fault, message):
    done = soak(0, "--plant", fault)
    assert done.returncode == 1, done.stderr
    assert message in done.stdout

"""The faults that `.ci/mutants.py` plants fit the tree, and the script tells them apart."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "mutants.py"

spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
mutants = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = mutants  # where dataclasses look for it
spec.loader.exec_module(mutants)

FAULTS = mutants.read_list(mutants.LIST)


def test_every_fault_fits_the_tree():
    assert [f"{fault.file}: {why}" for fault in FAULTS if (why := mutants.stale(fault))] == []


def test_the_list_is_long_and_has_no_fault_twice():
    assert len(FAULTS) >= 240
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.file, fault.what) for fault in FAULTS}) == len(FAULTS)


def test_every_fault_names_tests_that_are_there():
    named = {
        word
        for fault in FAULTS
        for word in fault.tests.split()
        if word.startswith("tests/") and not (ROOT / word.partition("::")[0]).is_file()
    }
    assert named == set()
    assert [fault.what for fault in FAULTS if not fault.tests.startswith("tests/")] == []


def test_faults_lie_in_every_part():
    files = {fault.file for fault in FAULTS}
    for part in (
        *("src/cdrop/generic/", "src/cdrop/isa/avx2.c", "src/cdrop/isa/avx512.c"),
        *("src/cdrop/isa/scalar.c", "src/cdrop/serial.c", "src/cdrop/buffers.pxi"),
        *(f"python/dropcore/{name}/" for name in ("nn", "training", "data", "uncertainty")),
        *("python/dropcore/tuning/", "python/dropcore/diagnosis/", "python/dropcore/_ops/"),
        *("python/dropcore/optim.py", "python/dropcore/constraints.py", "python/dropcore/mask.py"),
    ):
        assert any(file.startswith(part) for file in files), part


def entry(old, new, tests="tests/one.py"):
    return mutants.Fault("python/dropcore/key.py", "", old, new, tests)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (entry("MONTE_CARLO: Final = 2", "MONTE_CARLO: Final = 3"), None),
        (entry("no such text", ""), "its text occurs 0 times: 'no such text'"),
        (entry("class Key:", "class Key:"), "old and new are the same"),
        (mutants.Fault("python/none.py", "", "a", "b", ""), "there is no such file"),
    ],
)
def test_a_stale_entry_is_found(fault, why):
    assert mutants.stale(fault) == why


def test_a_text_that_occurs_twice_is_stale():
    assert mutants.stale(entry("self.seed", "self.sea")).startswith("its text occurs ")


LISTED = """
[[fault]]
file = 'python/dropcore/schedules.py'
what = '{what}'
old = '{old}'
new = '{new}'
tests = '{tests}'
"""
LINEAR = "tests/training/test_schedules.py"
SEEN = {
    "what": "a line goes on",
    "old": "min(_checked(self, step) / self.steps, 1.0)",
    "new": "_checked(self, step) / self.steps",
    "tests": LINEAR,
}
SURVIVES = {
    "what": "a line ends once more",
    "old": SEEN["old"],
    "new": "min(_checked(self, step) / self.steps, 1.0, 1.0)",
    "tests": LINEAR,
}
STALE = {"what": "stale", "old": "what is not there", "new": "", "tests": LINEAR}
NO_TEST = SEEN | {"what": "nothing is tested", "tests": f"{LINEAR} -k nothing_of_this_name"}
SYNTAX = SEEN | {"what": "no Python", "new": "min("}


def run(path, *entries):
    path.write_text("".join(LISTED.format(**each) for each in entries), "utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--list", str(path), "--workers", "1"],
        capture_output=True,
        text=True,
        cwd=path.parent,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_script_says_which_test_finds_a_fault_and_what_survives(tmp_path):
    code, text = run(tmp_path / "list.toml", SEEN, SURVIVES, NO_TEST, SYNTAX)
    assert "caught   python/dropcore/schedules.py: a line goes on\n         tests/training/" in text
    assert "SURVIVED python/dropcore/schedules.py: a line ends once more" in text
    assert "broken   python/dropcore/schedules.py: nothing is tested" in text
    assert "broken   python/dropcore/schedules.py: no Python" in text
    assert "1 faults caught, 0 skipped, 3 not caught" in text
    assert code == 1


def test_the_script_succeeds_where_all_are_found(tmp_path):
    assert run(tmp_path / "list.toml", SEEN)[0] == 0


def test_a_stale_list_ends_the_script(tmp_path):
    code, text = run(tmp_path / "list.toml", STALE)
    assert code == 1
    assert "python/dropcore/schedules.py: stale: its text occurs 0 times" in text

"""The locks in requirements/ are those of pyproject.toml, and pin every file by its hash."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("packaging")

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]

MARKERS = {
    "python_version": "3.11",
    "python_full_version": "3.11.7",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


locks = load_script("locks")
PROJECT = locks.read_project()
TEXTS = {name: (locks.LOCKS / f"{name}.txt").read_text("utf-8") for name in locks.LOCKED}


def faults_of(text, wanted):
    """What is wrong with a lock of these requirements, in words."""
    lines = text.splitlines()
    made_from = [line.removeprefix(locks.RULE) for line in lines if line.startswith(locks.RULE)]
    faults = [f"{line} is new: run `make locks`" for line in wanted if line not in made_from]
    faults += [f"{line} is gone: run `make locks`" for line in made_from if line not in wanted]
    for option in ("--require-hashes", "--only-binary :all:"):
        if option not in lines:
            faults.append(f"no line {option}")

    pins = {}
    body = "\n".join(line for line in lines if not re.match(r"\s*#|--|$", line))
    for entry in re.split(r"\n(?=\S)", body.replace("\\\n", " ")):
        first, *hashes = entry.split()
        name, equal, version = first.partition("==")
        if not equal or not hashes:
            faults.append(f"{first} has no version or no hash")
        elif bad := [h for h in hashes if not re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h)]:
            faults.append(f"{name} has {bad[0]}")
        else:
            pins[canonicalize_name(name)] = Version(version)
    for line in wanted:
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate(MARKERS):
            pinned = pins.get(canonicalize_name(asked.name))
            if pinned is None or not asked.specifier.contains(pinned):
                faults.append(f"{line} is asked for, and {pinned} pinned")
    if "://" in text:
        faults.append("an address: files come from where pip looks for them")
    return faults


@pytest.mark.parametrize("name", locks.LOCKED)
def test_locks_are_those_of_pyproject(name):
    assert faults_of(TEXTS[name], locks.union(PROJECT, locks.LOCKED[name])) == []


def test_every_lock_has_its_sets():
    assert {path.stem for path in locks.LOCKS.iterdir()} == set(locks.LOCKED)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("numpy >= 1.25", "numpy >= 1.26", "numpy >= 1.25 is new: run `make locks`"),
        ("#   tqdm >= 4.60\n", "", "tqdm >= 4.60 is new: run `make locks`"),
        ("#   tqdm", "#   wheel\n#   tqdm", "wheel is gone: run `make locks`"),
        ("--require-hashes\n", "", "no line --require-hashes"),
        ("numpy==", "numpy==0.", "numpy >= 1.25 is asked for, and 0."),
        ("numpy==", "numpy>=", "has no version or no hash"),
        ("sha256:", "md5:", "numpy has --hash=md5:"),
        ("numpy==", "--index-url http://127.0.0.1\nnumpy==", "an address"),
    ],
)
def test_a_lock_that_is_wrong_is_found(old, new, fault):
    assert old in TEXTS["run"]
    text = TEXTS["run"].replace(old, new)
    assert any(fault in found for found in faults_of(text, locks.union(PROJECT, ("run",))))


def test_a_package_has_one_version_in_locks_that_are_installed_together():
    versions = {}
    for name in {*locks.TOGETHER, "editable"}:
        for package, version in re.findall(r"^([\w.-]+)==(\S+)", TEXTS[name], re.MULTILINE):
            versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}
    assert len(versions) > 50


def test_the_lock_of_the_peers_has_pytorch_for_the_cpu():
    assert re.search(r"^torch==2\.13\.0\+cpu ", TEXTS["peers"], re.MULTILINE)
    assert not re.search(r"^(triton|nvidia-cublas|nvidia-nccl)", TEXTS["peers"], re.MULTILINE)


def printed(locked, *names):
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "locks.py"), "print", *names],
        env=os.environ | {"DROPCORE_LOCKED": locked},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_without_the_variable_pip_chooses():
    expected = "setuptools >= 77\ncython >= 3.1\nextension-helpers >= 1.2\n"
    assert printed("0", "build") == (0, expected, "")
    assert printed("0", "run", "build") == (
        0,
        "numpy >= 1.25\nscipy >= 1.10\ntqdm >= 4.60\n" + expected,
        "",
    )


def test_with_the_variable_the_lock_is_printed_where_it_fits(monkeypatch, capsys):
    monkeypatch.setenv("DROPCORE_LOCKED", "1")
    implementation, version, system, machine = locks.PYTHON
    monkeypatch.setattr(locks.platform, "python_implementation", lambda: implementation)
    monkeypatch.setattr(locks.platform, "python_version", lambda: f"{version}.7")
    monkeypatch.setattr(locks.platform, "system", lambda: system)
    monkeypatch.setattr(locks.platform, "machine", lambda: machine)
    locks.print_sets(["run"])
    assert capsys.readouterr().out == TEXTS["run"]
    with pytest.raises(SystemExit, match=r"a lock is one of run, .*, got run build"):
        locks.print_sets(["run", "build"])

    monkeypatch.setattr(locks.platform, "python_version", lambda: "3.13.1")
    locks.print_sets(["run"])
    captured = capsys.readouterr()
    assert captured.out == "numpy >= 1.25\nscipy >= 1.10\ntqdm >= 4.60\n"
    assert "no lock: requirements/ is for CPython 3.11 Linux x86_64" in captured.err
    assert f"and this is {implementation} 3.13 {system} {machine}" in captured.err


def test_unknown_sets_are_refused():
    code, _, message = printed("0", "tests")
    assert code == 1
    assert message.startswith("pyproject.toml has no set of requirements 'tests', but run, build")

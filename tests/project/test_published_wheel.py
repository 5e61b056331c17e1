"""Wheels with libraries of others say so, with their licences: .ci/published_wheel.py."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INFO = "dropcore-1.0.dist-info/"
LIBRARY = "dropcore.libs/libgomp-f9a9ad78.so.1.0.0"
BOTH = "BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1"

spec = importlib.util.spec_from_file_location("published_wheel", ROOT / ".ci/published_wheel.py")
published_wheel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(published_wheel)


def repaired(path, **others):
    """A wheel as auditwheel leaves it, in small."""
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.4",
        "metadata": {"component": {"type": "library", "name": "dropcore"}},
        "components": [
            {"type": "library", "name": "dropcore"},
            {"type": "library", "name": "libgomp1", "version": "12.2.0"},
        ],
    }
    files = {
        "dropcore/__init__.py": b"",
        LIBRARY: b"\x7fELF of another project",
        INFO + "METADATA": b"Metadata-Version: 2.4\nLicense-Expression: BSD-3-Clause\n"
        b"License-File: LICENSE\nRequires-Dist: numpy\n",
        INFO + "licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
        INFO + "sboms/auditwheel.cdx.json": json.dumps(bill).encode(),
        INFO + "RECORD": b"",
        **others,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), data)
    return path


@pytest.fixture
def wheel(tmp_path):
    path = repaired(tmp_path / "dropcore-1.0-cp311-abi3-linux_x86_64.whl")
    published_wheel.main("complete", path)
    return path


def test_a_completed_wheel_accounts_for_what_it_contains(wheel, capsys):
    published_wheel.main("check", wheel)
    assert capsys.readouterr().out == f"{wheel.name}: {BOTH}; {LIBRARY}\n"
    files = published_wheel.read(wheel)
    metadata = files[INFO + "METADATA"].decode()
    assert f"\nLicense-Expression: {BOTH}\n" in metadata
    for name in ("GPL-3.0-or-later.txt", "GCC-exception-3.1.txt"):
        assert files[f"{INFO}licenses/LICENSES/{name}"] == (ROOT / "LICENSES" / name).read_bytes()
        assert f"\nLicense-File: LICENSES/{name}\n" in metadata
    assert b"GNU GENERAL PUBLIC LICENSE" in files[INFO + "licenses/LICENSES/GPL-3.0-or-later.txt"]
    _, bill = published_wheel.bill(files)
    (entry,) = (c for c in bill["components"] if c["name"] == "libgomp1")
    assert entry["licenses"] == [{"expression": "GPL-3.0-or-later WITH GCC-exception-3.1"}]
    assert entry["components"][0]["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(files[LIBRARY]).hexdigest()}
    ]


def test_a_completed_wheel_is_still_a_wheel(wheel):
    files = published_wheel.read(wheel)
    recorded = {}
    for line in files[INFO + "RECORD"].decode().splitlines():
        name, digest, size = line.rsplit(",", 2)
        recorded[name] = digest, size
    assert recorded.pop(INFO + "RECORD") == ("", "")
    for name, data in files.items():
        if name != INFO + "RECORD":
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert recorded.pop(name) == (f"sha256={digest}", str(len(data)))
    assert recorded == {}
    with zipfile.ZipFile(wheel) as archive:
        assert {place.date_time for place in archive.infolist()} == {(2020, 1, 2, 3, 4, 6)}


def test_the_same_wheel_is_completed_to_the_same_bytes(wheel, tmp_path):
    (tmp_path / "other").mkdir()
    again = repaired(tmp_path / "other" / wheel.name)
    published_wheel.main("complete", again)
    assert again.read_bytes() == wheel.read_bytes()


def test_a_wheel_that_was_not_completed_is_refused(tmp_path):
    with pytest.raises(SystemExit) as error:
        published_wheel.main("check", repaired(tmp_path / "w.whl"))
    text = str(error.value)
    assert "libgomp1 has no licence in the bill of materials" in text
    assert f"{LIBRARY} is passed on without GPL-3.0-or-later.txt" in text
    assert f"METADATA must state the licence {BOTH}" in text


def dropped(files, name):
    del files[name]


def without_name(files):
    path, content = published_wheel.bill(files)
    content["components"] = content["components"][:1]
    files[path] = json.dumps(content).encode()


def other_format(files):
    path, content = published_wheel.bill(files)
    content["bomFormat"] = "SPDX"
    files[path] = json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda f: f.update({LIBRARY: b"changed"}),
            "is not in the bill of materials with",
        ),
        (lambda f: dropped(f, LIBRARY), "is in the bill of materials and not in the wheel"),
        (lambda f: dropped(f, INFO + "licenses/LICENSE"), "is passed on without LICENSE"),
        (
            lambda f: dropped(f, INFO + "licenses/LICENSES/GCC-exception-3.1.txt"),
            "is passed on without GCC-exception-3.1.txt",
        ),
        (without_name, f"{LIBRARY} is not in the bill of materials"),
        (other_format, "the bill of materials is not CycloneDX's"),
    ],
)
def test_what_is_not_accounted_for_is_found(wheel, change, fault):
    files = published_wheel.read(wheel)
    change(files)
    assert [found for found in published_wheel.check(files) if fault in found] != []


@pytest.mark.parametrize("task", ["complete", "check"])
def test_an_unknown_library_ends_the_build(tmp_path, task):
    path = repaired(tmp_path / "w.whl", **{"dropcore.libs/libother-01234567.so.2": b""})
    with pytest.raises(SystemExit, match=r"libother-01234567\.so\.2 came into the wheel.*libother"):
        published_wheel.main(task, path)


def test_a_wheel_without_a_bill_is_refused(wheel):
    files = published_wheel.read(wheel)
    dropped(files, INFO + "sboms/auditwheel.cdx.json")
    with pytest.raises(SystemExit, match=re.escape("must have one bill of materials, found []")):
        published_wheel.check(files)

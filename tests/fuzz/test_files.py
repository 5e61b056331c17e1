"""Damaged files: every reader accepts or refuses them as documented, in little memory and time."""

from __future__ import annotations

import pytest

from support import fuzz, fuzz_files

SHARE = 40


@pytest.fixture(params=fuzz_files.FORMATS)
def format(request):
    needed = {"model": "safetensors", "weights": None, "csv": "pandas", "packed csv": "pandas",
              "parquet": "pyarrow"}.get(request.param)  # fmt: skip
    if needed:
        pytest.importorskip(needed)
    return fuzz_files.FORMATS[request.param]


def test_whole_files_are_accepted(format, tmp_path):
    for data in format.files(tmp_path):
        assert fuzz_files.read_or_refuse(format, tmp_path / "a-file", data)


def test_a_damaged_file_is_read_or_refused(format, tmp_path):
    whole, path, found = format.files(tmp_path), tmp_path / "a-file", set()

    def check(draw):
        data = fuzz_files.damaged(draw, whole)
        found.add(fuzz_files.read_or_refuse(format, path, data))

    fuzz.repeat(check, SHARE)
    assert False in found


@pytest.mark.parametrize("name", fuzz_files.INSIDE)
def test_damage_behind_a_checksum_is_read_or_refused(name, tmp_path):
    format, path, found = fuzz_files.FORMATS[name], tmp_path / "a-file", set()
    format.files(tmp_path)

    def check(draw):
        data = fuzz_files.damaged_inside(draw, name, tmp_path)
        found.add(fuzz_files.read_or_refuse(format, path, data))

    fuzz.repeat(check, SHARE)
    assert False in found

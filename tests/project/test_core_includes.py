"""The included files of the core depend one way: a name is defined before the file that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "cdrop"

DEFINITIONS = (
    r"^(?:cdef|cpdef|def)\s[^=\n]*?\b(\w+)\(",  # functions, also those that return pointers
    r"^(?:cdef\s+class|ctypedef\s+(?:struct|fused))\s+(\w+)",
    r"^cdef\s[\w \[\]*]*?\b(\w+)\s*=",  # the first name of a declaration
    r"^cdef\s+(?:double|int|size_t)\s[^\n]*?,\s*(\w+)\s*=",  # and those behind a comma
    r"^([A-Za-z_]\w*)\s*=",
)


def code_of(text: str) -> str:
    """The text without comments, docstrings and strings."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", text)
    return re.sub(r'"(?:\\.|[^"\\\n])*"|#[^\n]*', "", text)


def defined(code: str) -> set[str]:
    names = {name for pattern in DEFINITIONS for name in re.findall(pattern, code, re.MULTILINE)}
    for members in re.findall(r"^cdef enum:\n((?:    [^\n]*\n|\n)+)", code, re.MULTILINE):
        names |= set(re.findall(r"^\s+(\w+)", members, re.MULTILINE))
    return names


def used(code: str) -> set[str]:
    """What is called, declared as a type, subscripted as a fused function, or in capitals."""
    found = set(re.findall(r"(?<![.\w])(\w+)\s*[(\[]", code))
    found |= set(re.findall(r"(?<![.\w])([A-Z]\w+)\b", code))
    return found | set(re.findall(r"(?<![.\w])(\w+)\s+\*?\w", code))


def backward_arrows(files: dict[str, str]) -> list[str]:
    """ "file uses name of later file", for files in the order of their inclusion."""
    codes = {name: code_of(text) for name, text in files.items()}
    found = []
    for index, (name, code) in enumerate(codes.items()):
        known = {n for other in [*codes][: index + 1] for n in defined(codes[other])}
        for later in [*codes][index + 1 :]:
            wrong = (defined(codes[later]) & used(code)) - known
            found += [f"{name} uses {n} of {later}" for n in sorted(wrong)]
    return found


def included() -> dict[str, str]:
    names = re.findall(r'^include "(.*)"', (SOURCES / "_core.pyx").read_text(), re.MULTILINE)
    return {name: (SOURCES / name).read_text() for name in names}


def test_every_file_is_included_once():
    names = re.findall(r'^include "(.*)"', (SOURCES / "_core.pyx").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(path.name for path in SOURCES.glob("*.pxi"))


def test_every_name_is_defined_before_the_file_that_uses_it():
    files = included()
    assert all(defined(code_of(text)) for text in files.values())
    assert backward_arrows(files) == []


@pytest.mark.parametrize(
    ("early", "late", "name"),
    [
        ("common", "update", "real"),
        ("buffers", "factors", "Buffer"),
        ("factors", "matmul", "DEPTH_BLOCK"),
        ("matmul", "update_product", "part_columns"),
        ("update_product", "optimizers", "update_product"),
    ],
)
def test_a_file_that_comes_too_late_is_found(early, late, name):
    files = included()
    order = [n for n in files if n != f"{early}.pxi"]
    order.insert(order.index(f"{late}.pxi") + 1, f"{early}.pxi")
    moved = {n: files[n] for n in order}
    assert f"{late}.pxi uses {name} of {early}.pxi" in backward_arrows(moved)

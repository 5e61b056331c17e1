"""Other libraries can call the kernels: the two examples compile and give the same numbers."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask

EXAMPLES = Path(__file__).parents[2] / "examples"
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
BAD_KEEP, BAD_KEY, BAD_INDEX = -1, -2, -3

SEED, STREAM, STEP = 0x0123456789ABCDEF, 0xABCDEF1, 0xFFFFFFFE
ADDRESS = (SEED, STREAM, STEP)
KEEPS = [0.0, 1e-4, 1 / 3, 0.5, 0.9, 1.0]
OFFSETS = [0, 1, 255, 4099, (1 << 36) + 77, (1 << 63) - 5000]
SIZES = [0, 1, 7, 8, 257, 5000]


def compiled(folder: str, name: str, tmp_path_factory):
    """The example's module, built in a copy of its folder as its user would."""
    built = tmp_path_factory.mktemp(name) / folder
    shutil.copytree(EXAMPLES / folder, built)
    environment = dict(os.environ)
    if os.name == "posix" and folder == "embed_c":
        environment["CFLAGS"] = " ".join([environment.get("CFLAGS", ""), *WARNINGS])
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=built,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = [p for p in built.glob(f"{name}.*") if p.suffix in (".so", ".pyd")]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cython_module(tmp_path_factory):
    pytest.importorskip("Cython")
    return compiled("embed_cython", "row_dropout", tmp_path_factory)


@pytest.fixture(scope="module")
def c_module(tmp_path_factory):
    return compiled("embed_c", "c_dropout", tmp_path_factory)


def address(stream=STREAM, step=STEP):
    return Key(SEED, stream=stream, step=step)


def drawn(n, keep, offset):
    return Mask((n,), keep=keep, key=address(), offset=offset).packed()


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_packed_masks_are_the_same(cython_module, c_module, keep, offset):
    for n in SIZES:
        expected = drawn(n, keep, offset)
        assert cython_module.packed_mask(n, keep, *ADDRESS, offset) == expected.tobytes()
        bits = np.full(len(expected) + 1, 0xA5, np.uint8)
        assert c_module.packed_mask(bits, n, keep, *ADDRESS, offset) == 0
        np.testing.assert_array_equal(bits[:-1], expected)
        assert bits[-1] == 0xA5  # nothing behind the mask was written


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_dropout_is_the_same(c_module, keep, offset):
    for n in SIZES:
        x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
        expected = dropcore.dropout(x, keep=keep, key=address(), offset=offset)
        assert c_module.dropout_(x, keep, *ADDRESS, offset) == 0
        np.testing.assert_array_equal(x.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (33, 129), (7, 1024)])
@pytest.mark.parametrize("first_row", [0, 1000])
def test_rows_are_parts_of_the_batch(cython_module, keep, shape, first_row):
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    expected = dropcore.dropout(x, keep=keep, key=address(), offset=first_row * shape[1])
    cython_module.dropout_rows_(x, keep, *ADDRESS, first_row)
    np.testing.assert_array_equal(x.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("keep", KEEPS)
def test_one_element_at_a_time(cython_module, keep):
    expected = int(Mask((3000,), keep=keep, key=address()).to_bool().sum())
    assert cython_module.count_kept(3000, keep, *ADDRESS) == expected


BAD = [
    (BAD_KEEP, "keep", {"keep": -0.1}),
    (BAD_KEEP, "keep", {"keep": 1.0000001}),
    (BAD_KEEP, "keep", {"keep": float("nan")}),
    (BAD_KEY, "stream", {"stream": 1 << 28}),
    (BAD_INDEX, "offset", {"offset": (1 << 63) - 7}),
    (BAD_INDEX, "offset", {"offset": (1 << 64) - 1}),
]


@pytest.mark.parametrize(("code", "named", "given"), BAD)
def test_bad_arguments_give_a_code_and_touch_nothing(cython_module, c_module, code, named, given):
    keep, stream, offset = (
        given.get(name, good) for name, good in [("keep", 0.5), ("stream", 3), ("offset", 0)]
    )
    x = np.arange(8, dtype=np.float32)
    assert c_module.dropout_(x, keep, SEED, stream, 0, offset) == code
    np.testing.assert_array_equal(x, np.arange(8))
    bits = np.full(1, 0xA5, np.uint8)
    assert c_module.packed_mask(bits, 8, keep, SEED, stream, 0, offset) == code
    assert bits[0] == 0xA5
    with pytest.raises(ValueError, match=named):
        cython_module.packed_mask(8, keep, SEED, stream, 0, offset)


def test_the_last_index_is_allowed(c_module):
    bits = np.zeros(1, np.uint8)
    assert c_module.packed_mask(bits, 8, 0.5, *ADDRESS, (1 << 63) - 8) == 0
    np.testing.assert_array_equal(bits, drawn(8, 0.5, (1 << 63) - 8))


def test_headers_are_where_get_include_says():
    folder = Path(dropcore.get_include())
    assert sorted(p.name for p in (folder / "dropcore").iterdir()) == ["dropcore.h", "philox.h"]
    assert (Path(dropcore.__file__).parent / "__init__.pxd").is_file()


@pytest.mark.skipif(os.name != "posix", reason="asks a compiler in GNU's words")
@pytest.mark.parametrize(
    ("variable", "flags"),
    [
        ("CC", ["-std=c99"]),
        ("CC", ["-std=c99", "-DPy_LIMITED_API=0x030B0000"]),
        ("CXX", ["-x", "c++", "-std=c++17"]),
    ],
    ids=["c99", "limited-api", "c++17"],
)
def test_the_header_compiles_without_a_warning(tmp_path, variable, flags):
    named = os.environ.get(variable) or sysconfig.get_config_var(variable) or "cc"
    compiler = shlex.split(named)[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    source = tmp_path / "uses_header.c"
    source.write_text(
        "#include <Python.h>\n#include <dropcore/dropcore.h>\n"
        "const dropcore_api *table(void);\n"
        "const dropcore_api *table(void) { return dropcore_import(); }\n"
        "int kept(dropcore_u64 i);\n"
        "int kept(dropcore_u64 i) {\n"
        "    const dropcore_address a = dropcore_address_of(1, 2, 3, 0);\n"
        "    return dropcore_is_kept(&a, dropcore_threshold(0.5), i);\n}\n"
    )
    done = subprocess.run(
        [compiler, *flags, *WARNINGS, "-fsyntax-only", f"-I{dropcore.get_include()}",
         "-isystem", sysconfig.get_path("include"), source],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

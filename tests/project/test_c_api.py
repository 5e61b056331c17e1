"""Other libraries can call the kernels: the two examples compile and give the same numbers."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, reference
from dropcore._backends.c_api import C_FUNCTIONS, c_addresses
from dropcore.noise import normal
from support.arrays import assert_same_bits, odd_numbers

EXAMPLES = Path(__file__).parents[2] / "examples"
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
BAD_KEEP, BAD_KEY, BAD_INDEX, BAD_NORM, BAD_SHAPE = -1, -2, -3, -4, -5

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


def test_columns_bounded_from_cython(cython_module):
    w = np.random.default_rng(2).normal(size=(300, 40)).astype(np.float32)
    w[:, ::3] *= 0.01
    before = w.copy()
    expected = dropcore.max_norm_(w.copy(), 3.0, axis=0)
    assert cython_module.bound_columns_(w, 3.0) == (w != before).any(axis=0).sum() == 26
    assert_same_bits(w, expected)
    assert cython_module.bound_columns_(np.empty((0, 3), np.float32), 3.0) == 0
    with pytest.raises(ValueError, match="max_norm must be positive"):
        cython_module.bound_columns_(w, 0.0)


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


# --- every function of the table, called by its address ------------------------------------------

U32, U64, SIZE, F64, AT = (
    *(ctypes.c_uint32, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_double, ctypes.c_void_p),
)
PLACE = [U64, U32, U32, U32]
SIZE_OF_TABLE = 8 + len(C_FUNCTIONS) * ctypes.sizeof(AT)
ARGUMENTS = {
    "packed_mask": [*PLACE, F64, U64, SIZE, AT],
    "dropout": [*PLACE, F64, U64, SIZE, AT, AT],
    "apply": [F64, AT, U64, SIZE, AT, AT],
    "mask": [*PLACE, F64, U64, SIZE, AT],
    "threshold": [F64, AT],
    "uniforms": [*PLACE, U64, SIZE, AT],
    "normal": [*PLACE[:3], U64, SIZE, AT],
    "max_norm_rows": [F64, SIZE, SIZE, SIZE, AT, AT],
    "max_norm_columns": [F64, SIZE, SIZE, SIZE, AT, AT],
}
SUFFIX = {np.float32: "f32", np.float64: "f64", np.float16: "f16", ml_dtypes.bfloat16: "bf16"}


def c(name, dtype=None):
    """A function of the table, which takes arrays where C takes pointers."""
    address = c_addresses()[name if dtype is None else f"{name}_{SUFFIX[dtype]}"]
    function = ctypes.CFUNCTYPE(ctypes.c_int, *ARGUMENTS[name])(address)

    def call(*arguments):
        return function(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments))

    return call


def header():
    """The declarations of the functions in the header: (name, arguments)."""
    text = Path(dropcore.get_include(), "dropcore", "dropcore.h").read_text("ascii")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    table = text[text.index("typedef struct {") : text.index("} dropcore_api;")]
    return [
        (name, re.sub(r"\s+", " ", arguments))
        for name, arguments in re.findall(r"int \(\*(\w+)\)\(([^;]*)\);", table)
    ]


def test_every_language_has_the_table_of_the_header():
    declared = header()
    assert [name for name, _ in declared] == list(C_FUNCTIONS)
    pxd = (Path(dropcore.__file__).parent / "__init__.pxd").read_text("ascii")
    entries = re.findall(r"int \(\*(\w+)\)\(([^:]*?)\) noexcept nogil", pxd)
    assert [(name, re.sub(r"\s+", " ", arguments)) for name, arguments in entries] == declared
    philox = Path(dropcore.get_include(), "dropcore", "philox.h").read_text("ascii")
    functions = set(re.findall(r"^DROPCORE_FN \w+ (\w+)\(", philox, re.M))
    assert functions == set(re.findall(r"^    \w+ (dropcore_\w+)\(", pxd, re.M))


CAPSULE = b"dropcore._core._C_API"


def table_of(capsule):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = AT, [ctypes.py_object, ctypes.c_char_p]
    return get(capsule, CAPSULE)


def capsule_of(table):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [AT, ctypes.c_char_p, AT]
    return new(ctypes.addressof(table), CAPSULE, None)


def imported_again(module, folder):
    """The example's module from a copy of its file: Python initialises a module once a file."""
    again = shutil.copy(module.__file__, folder)
    spec = importlib.util.spec_from_file_location(module.__name__, again)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_holds_its_version_and_its_size():
    version, size = (U32 * 2).from_address(table_of(_core._C_API))
    assert (version, size) == (1, SIZE_OF_TABLE)
    assert all(c_addresses().values())


@pytest.mark.parametrize("dtype", SUFFIX, ids=SUFFIX.values())
@pytest.mark.parametrize("keep", KEEPS)
def test_dropout_of_every_dtype(isa, dtype, keep):
    for n, offset in [(0, 0), (1, 127), (5000, 0), (1029, 1000), (3000, (1 << 63) - 3000)]:
        place = (SEED, STREAM, STEP, 0, keep, offset, n)
        x = odd_numbers(n, dtype)
        expected = dropcore.dropout(x, keep=keep, key=address(), offset=offset)
        out = np.empty(n, dtype)
        assert c("dropout", dtype)(*place, x, out) == 0
        assert_same_bits(out, expected)
        for first in (0, 3):
            bits = np.packbits(
                np.r_[
                    np.ones(first, bool), Mask(n, keep=keep, key=address(), offset=offset).to_bool()
                ],
                bitorder="little",
            )
            assert c("apply", dtype)(keep, bits, first, n, x, out) == 0
            assert_same_bits(out, expected)
        assert c("mask", dtype)(*place, out) == 0
        mask = Mask(n, keep=keep, key=address(), offset=offset)
        assert_same_bits(out, mask.to_array(dtype))
        assert c("dropout", dtype)(*place, x, x) == 0  # in place
        assert_same_bits(x, expected)


@pytest.mark.parametrize("keep", [0.0, 2.0**-34, 0.25])
def test_given_bits_are_scaled_as_a_mask_that_is_given(keep):
    x, bits = odd_numbers(100)[30:], np.full(9, 0xFF, np.uint8)
    out = np.empty_like(x)
    assert c("apply", np.float32)(keep, bits, 0, x.size, x, out) == 0
    assert_same_bits(out, dropcore.dropout(x, mask=Mask.given(np.ones(70, bool), keep=keep)))
    assert (out == (4 * x if keep == 0.25 else 0)).all()


def test_domains_of_monte_carlo_are_drawn():
    bits = np.empty(1000, np.uint8)
    assert c("packed_mask")(7, 1, 2, 2, 0.5, 3, 8000, bits) == 0
    assert_same_bits(bits, Mask(8000, 0.5, key=Key(7, 1, 2, domain=2), offset=3).packed())


def test_uniforms_and_thresholds():
    u, t = np.empty(5000, np.uint32), np.empty(1, np.uint64)
    assert c("uniforms")(*ADDRESS, 0, 77, 5000, u) == 0
    assert_same_bits(u, reference.uniforms(*ADDRESS, 77, 5000).astype(np.uint32))
    for keep in KEEPS:
        assert c("threshold")(keep, t) == 0
        assert t[0] == reference.threshold(keep)
        kept = Mask(5000, keep=keep, key=address(), offset=77).to_bool()
        np.testing.assert_array_equal(u < t[0], kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normals(dtype):
    for n, offset in [(0, 0), (5000, 0), (4099, 2**62 + 3)]:
        out = np.empty(n, dtype)
        assert c("normal", dtype)(*ADDRESS, offset, n, out) == 0
        assert_same_bits(out, normal((n,), key=address(), offset=offset, dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_max_norm(dtype, axis):
    shorten = c("max_norm_columns" if axis == 0 else "max_norm_rows", dtype)
    count = np.empty(1, np.uintp)
    for rows, columns, stride in [(40, 30, 30), (3000, 600, 600), (33, 7, 9), (0, 5, 5), (5, 0, 2)]:
        whole = np.random.default_rng(rows).normal(size=(rows, stride)).astype(dtype)
        whole[:, columns:] = np.nan  # between the rows: neither read nor written
        w = whole[:, :columns]
        if columns > 4:
            w[:, 1] *= 0.01
            w[:1, 2], w[:1, 3], w[:1, 4] = np.nan, np.inf, 1e30
        before = w.copy()
        bound = 0.9 * np.sqrt(rows if axis == 0 else columns) or 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            expected = dropcore.max_norm_(before.copy(), bound, axis=axis)
        assert shorten(bound, rows, columns, stride, whole, count) == 0
        assert_same_bits(w.copy(), expected)
        changed = (w != before) & ~np.isnan(before)
        assert count[0] == changed.any(axis=axis).sum()
        assert shorten(bound, rows, columns, stride, whole, None) == 0
        assert_same_bits(w.copy(), expected)
        assert shorten(float("inf"), rows, columns, stride, whole, count) == 0
        assert count[0] == 0


def test_what_is_not_allowed_is_told_by_a_code_and_writes_nothing():
    far, nan = (1 << 63) - 7, float("nan")
    out, bits = np.full(8, 7.0), np.full(8, 7, np.uint8)
    u32, u64 = np.full(8, 7, np.uint32), np.full(8, 7, np.uint64)
    stream, domain = 1 << 28, 16
    cases = [
        (BAD_KEEP, c("dropout", np.float64), (1, 0, 0, 0, 1.5, 0, 8, out, out)),
        (BAD_KEEP, c("apply", np.float64), (nan, bits, 0, 8, out, out)),
        (BAD_KEEP, c("mask", np.float64), (1, 0, 0, 0, -0.1, 0, 8, out)),
        (BAD_KEEP, c("threshold"), (1.1, u64)),
        (BAD_KEY, c("dropout", np.float64), (1, 0, 0, domain, 0.5, 0, 8, out, out)),
        (BAD_KEY, c("mask", np.float64), (1, stream, 0, 0, 0.5, 0, 8, out)),
        (BAD_KEY, c("uniforms"), (1, stream, 0, 0, 0, 8, u32)),
        (BAD_KEY, c("normal", np.float64), (1, stream, 0, 0, 8, out)),
        (BAD_INDEX, c("apply", np.float64), (0.5, bits, far, 8, out, out)),
        (BAD_INDEX, c("mask", np.float64), (1, 0, 0, 0, 0.5, far, 8, out)),
        (BAD_INDEX, c("uniforms"), (1, 0, 0, 0, far, 8, u32)),
        (BAD_INDEX, c("normal", np.float64), (1, 0, 0, far, 8, out)),
    ]
    for name in ("max_norm_rows", "max_norm_columns"):
        shorten = c(name, np.float64)
        cases += [
            *((BAD_NORM, shorten, (bad, 2, 4, 4, out, None)) for bad in (0.0, -1.0, nan)),
            (BAD_SHAPE, shorten, (1.0, 2, 4, 3, out, None)),
            (BAD_SHAPE, shorten, (1.0, 1 << 62, 4, 4, out, None)),
        ]
    for code, function, arguments in cases:
        assert function(*arguments) == code, arguments
        assert all((array == 7).all() for array in (out, bits, u32, u64))


def test_any_number_of_threads_may_call_at_once():
    def draw(step):
        out = np.empty(100_000, np.float32)
        assert c("mask", np.float32)(7, 0, step, 0, 0.9, 0, out.size, out) == 0
        return out

    alone = [draw(step) for step in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(draw, range(8)), strict=True):
            np.testing.assert_array_equal(one, other)


# --- the header ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "functions", "message"),
    [
        (2, 30, r"1\.%d of dropcore's C API, .* has version 2\.30: compile the module again"),
        (1, 3, r"1\.%d of dropcore's C API, .* has version 1\.3: update dropcore"),
        (0, 50, r"1\.%d of dropcore's C API, .* has version 0\.50: update dropcore"),
    ],
)
@pytest.mark.parametrize("language", ["c", "cython"])
def test_another_version_is_an_import_error(
    request, tmp_path, monkeypatch, language, version, functions, message
):
    module = request.getfixturevalue(f"{language}_module")
    table = (U32 * 2)(version, 8 + functions * ctypes.sizeof(AT))
    monkeypatch.setattr(_core, "_C_API", capsule_of(table))
    with pytest.raises(ImportError, match=message % len(C_FUNCTIONS)):
        imported_again(module, tmp_path)


def test_a_later_library_of_the_same_version_is_taken(c_module, tmp_path, monkeypatch):
    later = (ctypes.c_uint8 * (SIZE_OF_TABLE + 80))()
    ctypes.memmove(later, table_of(_core._C_API), SIZE_OF_TABLE)
    U32.from_buffer(later, 4).value += 80
    monkeypatch.setattr(_core, "_C_API", capsule_of(later))
    module = imported_again(c_module, tmp_path)
    x = np.ones(100, np.float32)
    assert module.dropout_(x, 0.5, *ADDRESS, 0) == 0
    np.testing.assert_array_equal(x, Mask(100, keep=0.5, key=address()).to_array())


def test_headers_are_where_get_include_says():
    folder = Path(dropcore.get_include())
    assert sorted(p.name for p in (folder / "dropcore").iterdir()) == ["dropcore.h", "philox.h"]
    assert (Path(dropcore.__file__).parent / "__init__.pxd").is_file()


USES_HEADER = """
#include <Python.h>
#include <dropcore/dropcore.h>
const dropcore_api *table(void);
const dropcore_api *table(void) { return dropcore_import(); }
int kept(dropcore_u64 i);
int kept(dropcore_u64 i) {
    const dropcore_address a = dropcore_address_of(1, 2, 3, DROPCORE_DOMAIN_TRAINING);
    const dropcore_block group = dropcore_decide(&a, dropcore_threshold(0.5), i / DROPCORE_GROUP);
    const dropcore_u32 word = dropcore_noise_word(&a, i) ^ dropcore_uniform(&a, i);
    return dropcore_is_kept(&a, dropcore_threshold(0.5), i) && dropcore_bit_of(&group, word % 128);
}
"""
STRICT = [*WARNINGS[:2], "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Werror"]


@pytest.mark.skipif(os.name != "posix", reason="asks a compiler in GNU's words")
@pytest.mark.parametrize(
    ("compilers", "flags"),
    [
        (("gcc", "clang"), ["-std=c99"]),
        (("gcc", "clang"), ["-std=c99", "-DPy_LIMITED_API=0x030B0000"]),
        (("g++", "clang++"), ["-x", "c++", "-std=c++11"]),
        (("g++", "clang++"), ["-x", "c++", "-std=c++20"]),
    ],
    ids=["c99", "limited-api", "c++11", "c++20"],
)
def test_the_header_compiles_without_a_warning(tmp_path, compilers, flags):
    if sysconfig.get_config_var("Py_GIL_DISABLED") and "-DPy_LIMITED_API=0x030B0000" in flags:
        pytest.skip("free-threaded Python has no limited API")
    source = tmp_path / "uses_header.c"
    source.write_text(USES_HEADER)
    found = [path for path in map(shutil.which, compilers) if path]
    if not found:
        pytest.skip(f"there is no {' and no '.join(compilers)} here")
    for compiler in found:
        done = subprocess.run(
            [compiler, *flags, *STRICT, "-fsyntax-only", f"-I{dropcore.get_include()}",
             "-isystem", sysconfig.get_path("include"), source],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

"""A copy of philox.h in a program without dropcore draws the masks of the contract."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask
from support.arrays import assert_same_bits, odd_numbers

ROOT = Path(__file__).resolve().parents[2]
HEADER = Path(dropcore.get_include(), "dropcore", "philox.h")
STRICT = [
    *("-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    "-Werror",
]
KNOWN = ("7", "3", "1", "0.75", "124", "8")  # af: the example of docs/mask-contract.md
PLACES = [
    (7, 3, 1, 0.75, 124, 8),
    (2**64 - 1, 2**28 - 1, 2**32 - 1, 0.9, 2**36 - 5, 3000),
    (0x0123456789ABCDEF, 5, 1000, 0.0, 0, 1000),
    (0x0123456789ABCDEF, 5, 1000, 1.0, 1, 1001),
    (1, 0, 0, 1 / 3, 2**63 - 200, 200),
    (1, 0, 0, 0.85, 1, 200),  # whose scale is not that of a division in float
    (1, 0, 0, 0.5, 0, 0),
]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="asks a compiler in GNU's words")


def expect_compiler(name):
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here")


def run(*words, cwd):
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """The example and a copy of the header, and nothing else."""
    shutil.copytree(ROOT / "examples" / "vendor_philox", tmp_path / "mine")
    shutil.copy(HEADER, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", ["-std=c99"]),
        ("clang", ["-std=c99"]),
        ("g++", ["-x", "c++", "-std=c++11"]),
        ("clang++", ["-x", "c++", "-std=c++11"]),
    ],
)
def test_a_program_with_a_copy_of_the_header(folder, compiler, flags):
    expect_compiler(compiler)
    run(compiler, *flags, *STRICT, "draw.c", "-o", "draw", cwd=folder)
    for seed, stream, step, keep, offset, n in PLACES:
        mask = Mask(n, keep=keep, key=Key(seed, stream, step), offset=offset)
        printed = run("./draw", *map(str, (seed, stream, step, keep.hex(), offset, n)), cwd=folder)
        assert printed == mask.packed().tobytes().hex() + "\n"
    assert run("./draw", *KNOWN, cwd=folder) == "af\n"


def test_the_program_notices_a_header_that_was_changed(folder):
    expect_compiler("cc")
    text = HEADER.read_text("ascii")
    for before, after in [
        ("DROPCORE_PHILOX_ROUNDS 7", "DROPCORE_PHILOX_ROUNDS 10"),
        ("if (bit != rest >> 31) return bit == 0;", "if (bit != rest >> 31) return bit != 0;"),
        ("kept.word[q] |= tied.word[q] & ~plane.word[q];", "kept.word[q] |= tied.word[q];"),
        ("u = u << 1 |", "u = u >> 1 |"),
    ]:
        assert before in text
        (folder / "philox.h").write_text(text.replace(before, after))
        run("cc", "-std=c99", "draw.c", "-o", "draw", cwd=folder)
        done = subprocess.run(
            ["./draw", *KNOWN],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (1, ""), after
        assert "known answers" in done.stderr
    (folder / "philox.h").write_text(
        text.replace("DROPCORE_CONTRACT_VERSION 2", "DROPCORE_CONTRACT_VERSION 3")
    )
    done = subprocess.run(["cc", "draw.c"], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    assert "version 2 of the mask contract" in done.stderr


def test_cmake_builds_it(folder, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake here")
    (folder / "philox.h").unlink()
    run("cmake", "-B", "build", f"-DPHILOX={HEADER.parent}", cwd=folder)
    run("cmake", "--build", "build", cwd=folder)
    assert "100% tests passed" in run("ctest", "--test-dir", "build", cwd=folder)


ON_HOST = """
#define __global__
struct place { unsigned x; };
static place gridDim, blockDim, blockIdx, threadIdx;
#include "dropout.cuh"
extern "C" void launch(unsigned grid, unsigned block, const float *x, float *out, dropcore_u64 n,
                       dropcore_u64 seed, dropcore_u32 stream, dropcore_u32 step, double keep,
                       dropcore_u64 offset) {
    gridDim.x = grid, blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x)
            dropout(x, out, n, seed, stream, step, keep, offset);
}
"""


def test_the_kernel_run_on_the_host(folder):
    """Thread after thread; that it compiles for a GPU is a test of make kernels."""
    expect_compiler("g++")
    (folder / "on_host.cpp").write_text(ON_HOST)
    run("g++", "-std=c++11", "-shared", "-fPIC", *STRICT, "on_host.cpp", "-o", "it.so", cwd=folder)
    launch = ctypes.CDLL(str(folder / "it.so")).launch
    launch.restype = None
    launch.argtypes = [
        *(ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64),
        *(ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_double, ctypes.c_uint64),
    ]
    for seed, stream, step, keep, offset, n in PLACES:
        x = odd_numbers(n)
        key = Key(seed, stream, step)
        expected = dropcore.dropout(x, keep=keep, key=key, offset=offset)
        for grid, block in [(1, 1), (3, 32), (64, 128)]:
            out = np.full(n + 1, 7, np.float32)
            launch(grid, block, x.ctypes.data, out.ctypes.data, n, seed, stream, step, keep, offset)
            assert_same_bits(out[:-1], expected)
            assert out[-1] == 7

"""Masks in functions that Numba compiles: the bits of the array functions."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask
from dropcore.noise import normal as noise
from support.arrays import assert_same_bits, normal

numba = pytest.importorskip("numba")

from dropcore.numba import dropout, dropout_, max_norm_, normal_, packed_mask  # noqa: E402

SEED = 2**64 - 5
REAL = [np.float32, np.float64]


@numba.njit(nogil=True)
def drop(x, rate, key, offset):
    return dropout(x, rate, key, offset)


@numba.njit(nogil=True)
def drop_rows_(x, rate, key, offset):
    seed, stream, step = key
    for row in range(x.shape[0]):
        dropout_(x[row], rate, (seed, stream, step), offset + row * x.shape[1])
    return x


@numba.njit(nogil=True)
def step_of_a_layer(x, w, dz, key):
    """A dense layer with dropout and its gradients, by a key alone."""
    y = dropout(x @ w, 0.3, key)
    dy = dropout(dz, rate=0.3, key=key)
    return y, x.T @ dy


@numba.njit(nogil=True)
def bits_of(n, rate, key, offset):
    return packed_mask(n, rate, key, offset)


@numba.njit(nogil=True)
def filled(out, key, offset):
    return normal_(out, key, offset)


@numba.njit(nogil=True)
def bounded_(w, bound, axis):
    return max_norm_(w, bound, axis)


KEYS = [
    (7, Key(7)),
    ((SEED,), Key(SEED)),
    ((SEED, 2**28 - 1), Key(SEED, 2**28 - 1)),
    ((5, 6, 2**32 - 1), Key(5, 6, 2**32 - 1)),
    ((np.uint64(5), np.int32(6), 7, 2), Key(5, 6, 7, domain=2)),
]


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_the_bits_of_the_array_function(rate):
    for shape, offset in [((5, 70), 2**40 + 3), ((300, 1), 0), ((0, 4), 1)]:
        for fields, key in KEYS:
            x = normal(*shape)
            before = x.copy()
            mask = Mask(shape, rate, key=key, offset=offset)
            assert_same_bits(drop(x, rate, fields, offset), dropcore.dropout(x, mask=mask))
            assert_same_bits(x, before)
            assert_same_bits(bits_of(x.size, rate, fields, offset), mask.packed())


def test_arrays_of_any_number_of_axes():
    for shape in [(), (7,), (2, 3, 4)]:
        x = np.asarray(normal(*shape), np.float32)
        assert_same_bits(drop(x, 0.5, 7, 3), np.asarray(dropcore.dropout(x, 0.5, key=7, offset=3)))


def test_a_read_only_x_is_read():
    x = normal(50)
    x.flags.writeable = False
    assert_same_bits(drop(x, 0.5, 7, 0), dropcore.dropout(x, 0.5, key=7))


@pytest.mark.parametrize("dtype", REAL)
def test_rows_are_parts_of_the_whole(dtype):
    x = normal(40, 129, dtype=dtype)
    y = x.copy()
    assert drop_rows_(y, 0.4, (SEED, 1, 2), 77) is y
    assert_same_bits(y, dropcore.dropout(x, 0.4, key=Key(SEED, 1, 2), offset=77))


def test_backward_draws_the_mask_of_forward():
    x, w, dz = normal(30, 20), normal(20, 50, seed=1), normal(30, 50, seed=2)
    y, dw = step_of_a_layer(x, w, dz, (3, 4, 5))
    kept = Mask((30, 50), 0.3, key=Key(3, 4, 5)).to_bool()
    np.testing.assert_array_equal(y != 0, kept)
    np.testing.assert_allclose(dw, x.T @ np.where(kept, dz / 0.7, 0), 1e-12)


@pytest.mark.parametrize("dtype", REAL)
def test_normals(dtype):
    for shape, offset in [((1000,), 0), ((7, 9), 2**50 + 1), ((0,), 0)]:
        out = np.empty(shape, dtype)
        assert filled(out, (SEED, 3, 4), offset) is out
        assert_same_bits(out, noise(shape, key=Key(SEED, 3, 4), offset=offset, dtype=dtype))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_max_norm(dtype, axis):
    for shape in [(40, 30), (3000, 7), (1, 300), (0, 3)]:
        w = normal(*shape, dtype=dtype)
        expected = dropcore.max_norm_(w.copy(), 1.5, axis=axis)
        assert bounded_(w, 1.5, axis) is w
        assert_same_bits(w, expected)


def test_python_may_call_the_same_functions():
    x = normal(6, 7)
    for fields, key in KEYS[:-1]:
        assert_same_bits(dropout(x, 0.3, fields, 5), dropcore.dropout(x, 0.3, key=key, offset=5))
    y = x.copy()
    assert dropout_(y, 0.3, 7) is y
    assert_same_bits(y, drop(x, 0.3, 7, 0))
    assert_same_bits(packed_mask(99, 0.3, (7, 1, 2, 2)), bits_of(99, 0.3, (7, 1, 2, 2), 0))
    assert_same_bits(normal_(np.empty(9), (7, 1)), filled(np.empty(9), (7, 1), 0))
    assert_same_bits(max_norm_(x.copy(), 1.0, 0), bounded_(x, 1.0, 0))


X = np.ones((3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drop(X, 1.5, 7, 0), r"rate must be in \[0, 1\]"),
        (lambda: drop(X, np.nan, 7, 0), r"rate must be in \[0, 1\]"),
        (lambda: drop(X, 0.5, -1, 0), r"seed must be in \[0, 2\*\*64\)"),
        (lambda: drop(X, 0.5, (7, 1 << 28), 0), r"stream must be in \[0, 2\*\*28\)"),
        (lambda: drop(X, 0.5, (7, 0, 1 << 32), 0), r"step must be in \[0, 2\*\*32\)"),
        (lambda: drop(X, 0.5, (7, 0, 0, 1), 0), r"domain must be 0 \(training\) or 2"),
        (lambda: drop(X, 0.5, 7, -1), "offset must not be negative"),
        (lambda: drop(X, 0.5, 7, 2**63 - 3), r"offset \+ size must be <= 2\*\*63"),
        (lambda: bits_of(-1, 0.5, 7, 0), "n must not be negative"),
        (lambda: bits_of(9, -0.5, 7, 0), r"rate must be in \[0, 1\]"),
        (lambda: filled(X.copy(), (7, 1 << 28), 0), r"stream must be in"),
        (lambda: filled(X.copy(), 7, 2**63 - 3), r"offset \+ size must be"),
        (lambda: bounded_(X.copy(), 0.0, 0), "max_norm must be positive"),
        (lambda: bounded_(X.copy(), 1.0, 2), "axis must be 0 .* or 1"),
    ],
)
def test_numbers_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    np.testing.assert_array_equal(X, 1)


READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drop(X.T, 0.5, 7, 0), "x must be an array of float32 or float64 in C order, got"),
        (lambda: drop(X.astype(int), 0.5, 7, 0), r"use x.astype\(np.float32\)"),
        (lambda: drop(X.astype(np.float16), 0.5, 7, 0), "x must be an array of float32 or float64"),
        (lambda: drop(3.0, 0.5, 7, 0), "x must be an array of float32 or float64"),
        (lambda: drop(X, "half", 7, 0), "rate must be a number, got unicode_type"),
        (lambda: drop(X, 0.5, 7.5, 0), "key, and each field of it, must be an integer, got float"),
        (lambda: drop(X, 0.5, (7, 1, 2, 0, 0), 0), "key must have 1 to 4 fields, got 5"),
        (lambda: drop(X, 0.5, 7, 0.5), "offset must be an integer, got float64"),
        (lambda: bits_of(9.0, 0.5, 7, 0), "n must be an integer, got float64"),
        (lambda: drop_rows_(READ_ONLY, 0.5, (7, 0, 0), 0), "changed in place and is read-only"),
        (lambda: filled(READ_ONLY, 7, 0), "changed in place and is read-only"),
        (lambda: bounded_(READ_ONLY, 1.0, 0), "changed in place and is read-only"),
        (lambda: bounded_(np.ones(3), 1.0, 0), "w must have 2 axes, got 1"),
        (lambda: bounded_(X.copy(), 1.0, 0.5), "axis must be an integer, got float64"),
    ],
)
def test_types_are_checked_while_numba_compiles(call, message):
    with pytest.raises(numba.TypingError, match=message):
        call()


# --- what the documentation shows ---

ROOT = Path(__file__).resolve().parents[2]


def test_the_document_shows_what_happens():
    text = (ROOT / "docs" / "embedding.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    found = {}
    exec(compile(block, "embedding.md", "exec"), found)
    x, w = found["x"], found["w"]
    kept = Mask((100, 50), 0.5, key=Key(7, 1, 3)).to_bool()
    np.testing.assert_allclose(found["y"], np.where(kept, 2 * np.maximum(x @ w, 0), 0), 1e-12)
    assert_same_bits(found["rows"], dropcore.dropout(np.ones((100, 50)), 0.5, key=7))


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example, from a copy of its folder as its user would have it."""
    folder = tmp_path_factory.mktemp("numba") / "embed_numba"
    shutil.copytree(ROOT / "examples" / "embed_numba", folder)
    spec = importlib.util.spec_from_file_location("small_network", folder / "small_network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_trains_with_the_masks_of_the_contract(example):
    x, y = normal(60, 5), normal(60, seed=1)
    w, v = normal(5, 20, seed=2), normal(20, seed=3)
    own_w, own_v = w.copy(), v.copy()
    errors = example.train_(own_w, own_v, x, y, rate=0.3, bound=1.0, seed=SEED, steps=3)
    for step in range(3):
        factor = Mask((60, 20), 0.3, key=Key(SEED, 1, step)).to_array(np.float64)
        hidden = np.maximum(x @ w, 0)
        error = (hidden * factor) @ v - y
        dw = x.T @ (np.outer(error, v) * factor * (hidden > 0))
        v, w = v - error @ (hidden * factor) / 600, w - dw / 600
        dropcore.max_norm_(w, 1.0, axis=0)
        assert errors[step] == pytest.approx((error**2).mean(), rel=1e-12)
    np.testing.assert_allclose(own_w, w, 1e-11)
    np.testing.assert_allclose(own_v, v, 1e-11)
    rows = normal(30, 70)
    expected = dropcore.dropout(rows, 0.4, key=Key(5, 1, 9))
    example.dropout_in_threads_(rows, 0.4, 5, 9)
    assert_same_bits(rows, expected)


CACHED = """
    import sys
    import numba, numpy as np
    import dropcore
    from dropcore.numba import dropout

    @numba.njit(cache=True)
    def drop(x, step):
        return dropout(x, 0.5, (7, 0, step))

    x = np.ones(1000)
    assert (drop(x, 3) == dropcore.dropout(x, 0.5, key=dropcore.Key(7, step=3))).all()
    print(sum(drop.stats.cache_hits.values()))
"""


def test_compiled_code_is_kept_in_a_file(tmp_path):
    """Addresses differ from process to process; the second one compiles nothing."""
    script = tmp_path / "cached.py"
    script.write_text(textwrap.dedent(CACHED))
    hits = [
        subprocess.run(
            [sys.executable, "-W", "error", script], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]

"""The compiled core against the reference, bit for bit.

A. Every instruction set, on every number of threads, draws what the slow reference draws: words,
   uniforms, decisions, packed bits, and the four dtypes of dropout. Sizes above the serial
   threshold assert the team and the instruction set, for a test that silently ran serial or scalar
   would prove nothing.
B. What follows from the contract: shards, supersets, arrays of keep, runs, shared axes.
"""

from __future__ import annotations

import math
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, reference
from support.arrays import FLOATS, assert_same_bits, bits_of
from support.masks import KEEPS

DATA = Path(__file__).parents[1] / "data"

# The low word of a group's blocks begins again at every multiple of 2**34.
OFFSETS = (
    *(0, 1, 7, 100, 127, 128, 129, 4099, 2**32 - 77, 2**34 - 1000, 2**34 + 128),
    *(2**36 - 100, 2**36, 2**36 + 1234567, 2**40 + 13, 2**62 + 5, 2**63 - 5001),
)
SHAPES = (
    *((), (0,), (1,), (7,), (63,), (64,), (65,), (127,), (128,), (129,), (1000,), (4096,)),
    *((3, 5, 7), (2, 0, 4), (33, 129), (1, 513), (2, 1, 3, 1)),
)
LONGEST = max(math.prod(shape) for shape in SHAPES)
KEY = Key(0x0123456789ABCDEF, stream=5, step=1000)

# Far above the work that is worth a thread for seven of them, and not a multiple of anything.
LARGE = 3 * 2**20 + 77
LARGE_OFFSETS = (12345, 2**36 - 1000003)  # the second one crosses a multiple of 2**34


def address(key):
    return {"seed": key.seed, "stream": key.stream, "step": key.step}


@cache
def values(dtype, size):
    """Numbers of every magnitude, with zeros, subnormals, infinities and NaNs among them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=size)
    x *= np.exp2(rng.integers(-12, 13, size=size))
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0, 3.0]
    x[5::17] = np.resize(special, x[5::17].shape)
    x = x.astype(dtype)
    if size:
        # The subnormals of the dtype, and its largest values.
        bits_of(x)[11::23] = np.arange(x[11::23].size) % 251
        top = int(bits_of(np.array([np.inf], dtype=dtype))[0])
        bits_of(x)[13::29] = top - 1 - np.arange(x[13::29].size) % 7
    x.flags.writeable = False
    return x


@cache
def uniforms(offset, size):
    """The reference's ``u32`` of the common key."""
    u = reference.uniforms(KEY.seed, KEY.stream, KEY.step, offset, size)
    u.flags.writeable = False
    return u


def expected_kept(offset, shape, keep):
    size = math.prod(shape)
    u = uniforms(offset, max(size, LONGEST))[:size].reshape(shape)
    return u < reference.threshold(keep)


# A. The core is the reference ---------------------------------------------------------------------


def test_isas_are_those_of_the_processor():
    """The tests of an instruction set are skipped only where the processor really lacks it."""
    info = dropcore.build_info()
    assert info["isa"] in info["isas"]
    assert "scalar" in info["isas"]
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        assert set(info["isas"]) == {"scalar", "neon"}
        return
    assert "neon" not in info["isas"]
    cpuinfo = Path("/proc/cpuinfo")
    if machine not in ("x86_64", "amd64") or not cpuinfo.exists():
        pytest.skip("the processor's features are read from /proc/cpuinfo, on x86-64 only")
    flags = set(
        next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split()
    )
    assert ("avx2" in info["isas"]) == ({"avx2", "fma", "f16c"} <= flags)
    if "avx512" in info["isas"]:
        assert {"avx512f", "avx512bw"} <= flags
    elif {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= flags:
        pytest.fail("the processor has AVX-512 and the core does not use it")


def test_unknown_isa_is_an_error_that_lists_the_choices():
    runnable = dropcore.build_info()["isas"]
    before = dropcore.build_info()["isa"]
    for name in {"", "sse9", "avx2 ", "avx2", "avx512", "neon"} - set(runnable):
        with pytest.raises(ValueError, match="scalar") as error:
            _core.set_isa(name)
        assert all(choice in str(error.value) for choice in runnable)
        assert dropcore.build_info()["isa"] == before


def test_words_and_uniforms(isa):
    rng = np.random.default_rng(5)
    for domain in (0, 1, 2, 15):
        for _ in range(20):
            seed = int(rng.integers(0, 2**64, dtype=np.uint64))
            stream, step = int(rng.integers(2**28)), int(rng.integers(2**32))
            start = int(rng.integers(2 ** int(rng.integers(1, 59))))
            count = int(rng.integers(1, 200))
            got = _core.words(seed, stream, step, domain, start, count)
            expected = reference.words(seed, stream, step, start, count, domain=domain)
            assert got.dtype == np.uint32
            np.testing.assert_array_equal(got.reshape(-1, 4), expected)
            start = int(rng.integers(2 ** int(rng.integers(1, 63))))
            count = int(rng.integers(1, 1000))
            got = _core.uniform(seed, stream, step, domain, start, count)
            expected = reference.uniforms(seed, stream, step, start, count, domain=domain)
            assert got.dtype == np.uint32
            np.testing.assert_array_equal(got, expected)


def test_frozen_words(isa):
    for line in (DATA / "frozen_words.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        kind, seed, stream, step, domain, number, *expected = line.split()
        place = int(seed, 16), int(stream), int(step), int(domain)
        expected = [int(word, 16) for word in expected]
        if kind == "block":
            got = _core.words(*place, int(number), 1).ravel()
        elif kind == "uniform":
            got = _core.uniform(*place, int(number), 1)
        else:
            got = _core.words(*place, int(number) // 4, 1).ravel()[[int(number) % 4]]
        np.testing.assert_array_equal(got, expected, err_msg=line)


def test_frozen_masks(isa):
    checked = 0
    for line in (DATA / "frozen_masks.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, domain, offset, size, t, keep, bits = line.split()
        seed, stream, step, domain = int(seed, 16), int(stream), int(step), int(domain)
        size, offset, keep = int(size), int(offset), float.fromhex(keep)
        expected = np.frombuffer(bytes.fromhex(bits), dtype=np.uint8)
        if domain == 0:
            mask = Mask((size,), keep=keep, key=Key(seed, stream, step), offset=offset)
            np.testing.assert_array_equal(mask.packed(), expected, err_msg=line[:120])
        u = _core.uniform(seed, stream, step, domain, offset, size)
        kept = u < np.uint64(int(t, 16))
        np.testing.assert_array_equal(reference.pack(kept), expected, err_msg=line[:120])
        checked += 1
    assert checked == 735


def test_small_masks(isa, threads):
    for offset in OFFSETS:
        for shape in SHAPES:
            for keep in KEEPS:
                kept = expected_kept(offset, shape, keep)
                mask = Mask(shape, keep=keep, key=KEY, offset=offset)
                got = mask.to_bool()
                what = f"offset {offset}, shape {shape}, keep {keep}"
                assert got.dtype == np.bool_
                assert got.shape == mask.shape == shape
                assert np.array_equal(got, kept), what
                packed = mask.packed()
                assert packed.dtype == np.uint8
                assert np.array_equal(packed, reference.pack(kept)), what
                assert mask.scale == reference.scale(keep), what


def test_small_dropout(isa, threads):
    """Into the middle of a larger buffer, from every alignment, and nothing beside it written."""
    case = 0
    for dtype in FLOATS:
        for offset in OFFSETS:
            for shape in SHAPES:
                case += 1
                keep = KEEPS[case * 3 % len(KEEPS)]
                size = math.prod(shape)
                start, room = case % 19, size + 40
                x = values(dtype, LONGEST + 20)[start : start + size].reshape(shape)
                kept = expected_kept(offset, shape, keep)
                expected = reference.dropout(x, kept, reference.scale(keep))
                what = f"{dtype}, offset {offset}, shape {shape}, keep {keep}"

                y = dropcore.dropout(x, keep=keep, key=KEY, offset=offset)
                assert y.dtype == dtype, what
                assert y.shape == shape, what
                assert not np.shares_memory(x, y)
                assert_same_bits(np.asarray(y), expected, any_nan=True)

                buffer = np.full(room, 7, dtype=dtype)
                first = 1 + case % 17
                out = buffer[first : first + size].reshape(shape)
                assert dropcore.dropout(x, keep=keep, key=KEY, offset=offset, out=out) is out
                assert_same_bits(out, expected, any_nan=True)
                assert (buffer[:first] == 7).all(), what
                assert (buffer[first + size :] == 7).all(), what

                # The same buffer in and out.
                buffer[first : first + size] = x.ravel()
                dropcore.dropout(out, keep=keep, key=KEY, offset=offset, out=out)
                assert_same_bits(out, expected, any_nan=True)


@cache
def large_kept(offset, keep):
    kept = reference.pack(uniforms(offset, LARGE) < reference.threshold(keep))
    kept.flags.writeable = False
    return kept


@cache
def large_expected(dtype, offset, keep):
    kept = np.unpackbits(large_kept(offset, keep), count=LARGE, bitorder="little").view(bool)
    return reference.dropout(values(dtype, LARGE), kept, reference.scale(keep))


def test_large_masks(isa, threads, assert_team):
    for offset in LARGE_OFFSETS:
        for keep in KEEPS:
            mask = Mask((LARGE,), keep=keep, key=KEY, offset=offset)
            got = mask.packed()
            if keep not in (0.0, 0.5, 0.75, 1.0):  # so cheap that this many are no work for seven
                assert_team()
            assert np.array_equal(got, large_kept(offset, keep)), f"{offset} {keep}"
    kept = np.unpackbits(large_kept(offset, 0.8), count=LARGE, bitorder="little").view(bool)
    mask = Mask((LARGE,), keep=0.8, key=KEY, offset=offset)
    got = mask.to_bool()
    assert_team()
    assert np.array_equal(got, kept)
    np.testing.assert_array_equal(mask.indices(), np.flatnonzero(kept))


def test_large_masks_of_few_planes(isa, threads, assert_team):
    size, offset = 3 * LARGE, LARGE_OFFSETS[1]
    for keep in (0.5, 0.75):
        got = Mask((size,), keep=keep, key=KEY, offset=offset).packed()
        assert_team()
        kept = uniforms(offset, size) < np.uint64(keep * 2**32)
        assert np.array_equal(got, reference.pack(kept))


def test_large_dropout(isa, threads, assert_team):
    float32, *others = FLOATS
    cases = [(float32, LARGE_OFFSETS[0], keep) for keep in KEEPS]
    cases += [(float32, LARGE_OFFSETS[1], keep) for keep in (1 / 3, 0.9)]
    cases += [(dtype, LARGE_OFFSETS[1], 1 / 3) for dtype in others]
    y = {dtype: np.empty(LARGE, dtype=dtype) for dtype in FLOATS}
    for dtype, offset, keep in cases:
        dropcore.dropout(values(dtype, LARGE), keep=keep, key=KEY, offset=offset, out=y[dtype])
        assert_team()
        expected = large_expected(dtype, offset, keep)
        if not np.array_equal(bits_of(y[dtype]), bits_of(expected)):
            assert_same_bits(y[dtype], expected, any_nan=True)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_dropout_of_every_16_bit_number(isa, name):
    """Widened to float32, multiplied there, rounded to 16 bits: all 65536 of them."""
    dtype = next((dtype for dtype in FLOATS if dtype.name == name), None)
    if dtype is None:
        pytest.skip("ml_dtypes is not installed")
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    for keep in (0.1, 1 / 3, 0.5, 0.7, 0.8, 0.9, 0.95, 1 - 2.0**-32, 1.0, 1e-4):
        kept = np.ones(x.shape, dtype=bool)
        mask = Mask.given(kept, keep=keep)
        assert_same_bits(
            dropcore.dropout(x, mask=mask),
            reference.dropout(x, kept, reference.scale(keep)),
            any_nan=True,
        )
        kept = expected_kept(3, x.shape, keep)
        assert_same_bits(
            dropcore.dropout(x, keep=keep, key=KEY, offset=3),
            reference.dropout(x, kept, reference.scale(keep)),
            any_nan=True,
        )


def test_random_keys(isa):
    rng = np.random.default_rng(17)
    for _ in range(300):
        key = Key(
            int(rng.integers(0, 2**64, dtype=np.uint64)),
            int(rng.integers(2**28)),
            int(rng.integers(2**32)),
        )
        offset = int(rng.integers(2 ** int(rng.integers(1, 63))))
        shape = tuple(int(n) for n in rng.integers(1, 30, size=rng.integers(0, 4)))
        keep = float(rng.choice([rng.random(), 2.0 ** -rng.uniform(0, 34), 1 - rng.random() / 1e6]))
        kept = reference.decisions(shape, keep, **address(key), offset=offset)
        mask = Mask(shape, keep=keep, key=key, offset=offset)
        np.testing.assert_array_equal(mask.to_bool(), kept)
        np.testing.assert_array_equal(mask.packed(), reference.pack(kept))
        np.testing.assert_array_equal(mask.indices(), np.flatnonzero(kept))


@pytest.mark.parametrize("plane", [0, 1, 6, 7, 8, 9, 10, 11, 15, 17, 23, 30, 31])
def test_ties_are_settled_by_the_right_plane(isa, plane):
    """T that agrees with the uniform of an element down to a plane, and not there."""
    bit = 1 << 31 - plane
    for i, u in enumerate(uniforms(0, 8192)[:500].tolist()):
        first = i // 128 * 128
        for t in {u ^ bit, (u ^ bit) & -bit, u & -bit, (u & -bit) + bit, u, u + 1}:
            got = Mask((300,), keep=t / 2**32, key=KEY, offset=first).to_bool()
            np.testing.assert_array_equal(got, uniforms(0, 8192)[first : first + 300] < t)


def test_the_low_word_of_the_counter_begins_again(isa, threads):
    """Chunks on either side of a multiple of 2**34 have other constants of the first rounds."""
    for edge in (2**34, 3 * 2**34, 2**40, 2**62):
        for before in (1, 128, 129, 4096, 100000):
            for keep in (0.5, 0.9):
                offset, size = edge - before, before + 70000
                u = reference.uniforms(KEY.seed, KEY.stream, KEY.step, offset, size)
                got = Mask((size,), keep=keep, key=KEY, offset=offset).packed()
                kept = u < reference.threshold(keep)
                np.testing.assert_array_equal(got, reference.pack(kept))


def test_thresholds_of_elements_meet_ties(isa):
    """Rates that are the elements' own uniforms, and their neighbours."""
    n = 2000
    u = uniforms(0, 8192)[100 : 100 + n].astype(np.uint64)
    for step in (-1, 0, 1):
        t = np.clip(u.astype(np.int64) + step, 0, 2**32)
        got = Mask((n,), keep=t / 2**32, key=KEY, offset=100).to_bool()
        np.testing.assert_array_equal(got, u < t.astype(np.uint64))


# B. What follows from the contract ----------------------------------------------------------------


def test_rate_is_one_minus_keep(isa):
    for rate in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1 / 3, 2.0**-33, 1e-4):
        kept = reference.decisions((1000,), 1.0 - rate, **address(KEY))
        mask = Mask((1000,), rate, key=KEY)
        np.testing.assert_array_equal(mask.to_bool(), kept)
        assert mask.scale == reference.scale(1.0 - rate)
        x = values(np.dtype(np.float64), 1000)
        expected = reference.dropout(x, kept, reference.scale(1.0 - rate))
        assert_same_bits(dropcore.dropout(x, rate, key=KEY), expected, any_nan=True)
        assert_same_bits(dropcore.dropout(x, key=KEY, rate=rate), expected, any_nan=True)


def keep_arrays(shape):
    """Arrays of keep that broadcast to a two-dimensional mask."""
    rng = np.random.default_rng(8)
    rows, columns = shape
    for keep_shape in [(columns,), (1, columns), (rows, 1), shape, (), (1,), (1, 1)]:
        keep = rng.random(keep_shape)
        yield keep
        yield np.asarray(keep, dtype=np.float32)
        corners = rng.choice(KEEPS, size=keep_shape)
        yield corners
    yield rng.random((columns, rows)).T
    yield rng.random((rows, 3 * columns))[:, ::3]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 256), (37, 300)])
def test_keep_by_unit_sample_and_element(isa, threads, shape):
    for keep in keep_arrays(shape):
        for offset in (0, 13, 2**36 - 50):
            kept = reference.decisions(shape, keep, **address(KEY), offset=offset)
            mask = Mask(shape, keep=keep, key=KEY, offset=offset)
            np.testing.assert_array_equal(mask.to_bool(), kept)
            np.testing.assert_array_equal(mask.packed(), reference.pack(kept))
            scale = reference.scale(keep)
            np.testing.assert_array_equal(
                np.broadcast_to(mask.scale, shape), scale + np.zeros(shape)
            )
            for dtype in FLOATS:
                x = values(dtype, math.prod(shape)).reshape(shape)
                expected = reference.dropout(x, kept, scale)
                got = dropcore.dropout(x, keep=keep, key=KEY, offset=offset)
                assert_same_bits(got, expected, any_nan=True)
                assert_same_bits(dropcore.dropout(x, mask=mask), expected, any_nan=True)
                assert_same_bits(dropcore.dropout_backward(x, mask=mask), expected, any_nan=True)


def test_keep_by_unit_and_sample_large(isa, threads):
    shape = (1531, 2049)
    rng = np.random.default_rng(4)
    x = values(np.dtype(np.float32), math.prod(shape)).reshape(shape)
    u = uniforms(LARGE_OFFSETS[0], LARGE)[: x.size].reshape(shape)
    for keep in (rng.random((1, shape[1])), rng.random((shape[0], 1))):
        kept = u < reference.threshold(keep)
        expected = reference.dropout(x, kept, reference.scale(keep))
        got = dropcore.dropout(x, keep=keep, key=KEY, offset=LARGE_OFFSETS[0])
        assert_same_bits(got, expected, any_nan=True)
        mask = Mask(shape, keep=keep, key=KEY, offset=LARGE_OFFSETS[0])
        np.testing.assert_array_equal(mask.packed(), reference.pack(kept))


def test_keep_never_enlarges(isa):
    for keep_shape in [(1, 1, 3), (5,), (4, 3), (0,)]:
        with pytest.raises(ValueError):
            Mask((1, 3), keep=np.full(keep_shape, 0.5), key=KEY)


@pytest.mark.parametrize("bad", [math.nan, -1e-300, 1 + 2.0**-52, 2, -1, math.inf])
def test_keep_outside(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Mask((3,), keep=bad, key=KEY)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Mask((3,), bad, key=KEY)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Mask((3,), keep=np.array([0.5, bad, 0.5]), key=KEY)


@pytest.mark.parametrize("shape", [(1,), (10,), (128,), (3, 10), (2, 3, 257), (5, 1000), (4, 0)])
def test_runs(isa, threads, shape):
    x = values(np.dtype(np.float32), math.prod(shape)).reshape(shape)
    for run in (1, 2, 3, 7, 8, 10, 64, 127, 128, 300, 2000):
        drawn = (*shape[:-1], -(-shape[-1] // run))
        by_run = np.linspace(0, 1, drawn[-1])
        for offset in (0, 77, 2**36 - 3):
            for keep in (0.5, 1 / 3, by_run):
                kept = reference.decisions(shape, keep, **address(KEY), offset=offset, run=run)
                mask = Mask(shape, keep=keep, key=KEY, offset=offset, run=run)
                assert mask.shape == shape
                np.testing.assert_array_equal(mask.to_bool(), kept)
                np.testing.assert_array_equal(mask.indices(), np.flatnonzero(kept))
                scale = reference.scale(keep)
                if scale.ndim:
                    scale = np.repeat(scale, run)[: shape[-1]]
                assert_same_bits(
                    dropcore.dropout(x, mask=mask), reference.dropout(x, kept, scale), any_nan=True
                )


def test_shared_axes_are_axes_of_length_one(isa, threads):
    x = values(np.dtype(np.float32), 6 * 5 * 300).reshape(6, 5, 300)
    for axes, shape in [
        ((), (6, 5, 300)),
        ((0,), (1, 5, 300)),
        ((1,), (6, 1, 300)),
        ((0, 1), (1, 1, 300)),
        ((2,), (6, 5, 1)),
        ((-1, 1), (6, 1, 1)),
        ((0, 1, 2), (1, 1, 1)),
    ]:
        for offset in (0, 130, 2**36 - 20):
            kept = reference.decisions(shape, 0.8, **address(KEY), offset=offset)
            expected = reference.dropout(x, kept, 1 / 0.8)
            got = dropcore.dropout(x, keep=0.8, key=KEY, shared_axes=axes, offset=offset)
            assert_same_bits(got, expected, any_nan=True)
            mask = Mask(shape, keep=0.8, key=KEY, offset=offset)
            assert_same_bits(dropcore.dropout(x, mask=mask), expected, any_nan=True)
            back = dropcore.dropout_backward(x, keep=0.8, key=KEY, shared_axes=axes, offset=offset)
            assert_same_bits(back, expected, any_nan=True)


def test_memory_layout_does_not_matter(isa, threads):
    views = [
        lambda x: x[::2],
        lambda x: x[:, ::-1],
        lambda x: x[..., ::3],
        lambda x: x[:, 1:-1, 3:-4],
        lambda x: x.transpose(2, 0, 1),
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: x[::-1, ::-2, ::-1].swapaxes(0, 2),
    ]
    for view in views:
        for dtype in FLOATS:
            x = view(values(dtype, 4 * 60 * 50).reshape(4, 60, 50))
            kept = expected_kept(7, x.shape, 0.9)
            expected = reference.dropout(x, kept, 1 / 0.9)
            assert_same_bits(
                dropcore.dropout(x, keep=0.9, key=KEY, offset=7), expected, any_nan=True
            )
            out = np.full((*x.shape, 2), 7, dtype=dtype)[..., 0]
            dropcore.dropout(x, keep=0.9, key=KEY, offset=7, out=out)
            assert_same_bits(out, expected, any_nan=True)
            assert (out.base[..., 1] == 7).all()


def test_given_masks(isa, threads):
    rng = np.random.default_rng(1)
    for shape in [(), (1,), (257,), (5, 300), (1, 300), (5, 1)]:
        kept = rng.random(shape) < 0.6
        mask = Mask.given(kept, keep=0.6)
        assert mask.shape == shape
        np.testing.assert_array_equal(mask.to_bool(), kept)
        np.testing.assert_array_equal(mask.packed(), reference.pack(kept))
        np.testing.assert_array_equal(mask.indices(), np.flatnonzero(kept))
        for dtype in FLOATS:
            x = values(dtype, 1500).reshape(5, 300)
            if shape == (257,):
                x = x[:, :257]
            assert_same_bits(
                dropcore.dropout(x, mask=mask), reference.dropout(x, kept, 1 / 0.6), any_nan=True
            )
            assert_same_bits(
                dropcore.dropout(x, mask=Mask.given(kept)), reference.dropout(x, kept, 1.0)
            )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_masks_as_numbers(isa, dtype):
    """Of drawn and given masks, scales and runs: what ones become."""
    for shape in [(), (0, 3), (1,), (4099,), (5, 300), (2, 1, 3)]:
        kept = expected_kept(7, shape, 0.9)
        mask = Mask(shape, keep=0.9, key=KEY, offset=7)
        got = mask.to_array(dtype)
        assert got.shape == shape
        assert_same_bits(got, np.asarray(reference.dropout(np.ones(shape, dtype), kept, 1 / 0.9)))
        assert_same_bits(Mask.given(kept, keep=0.9).to_array(dtype), got)
        assert_same_bits(mask.rescaled(1.0).to_array(dtype), np.asarray(kept, dtype))
    keeps = np.array([0.0, 1 / 3, 0.5, 1.0])
    each = Mask((200, 4), keep=keeps, key=KEY)
    scale = np.array([0, 3, 2, 1]).astype(dtype)
    np.testing.assert_array_equal(each.to_array(dtype), each.to_bool() * scale)
    assert (each.to_array(dtype)[:, 1] == 3).any()
    runs = Mask((3, 10), 0.5, key=KEY, run=4)
    np.testing.assert_array_equal(runs.to_array(dtype), runs.to_bool() * np.array(2, dtype))


def test_masks_as_numbers_are_float32_by_default_and_of_no_other_dtypes():
    mask = Mask(3, 0.5, key=7)
    assert mask.to_array().dtype == np.float32
    assert mask.to_array("float16").dtype == np.float16
    for other in (int, bool, complex, np.longdouble, ">f4"):
        with pytest.raises(TypeError, match="float32, float64, float16 or bfloat16, got "):
            mask.to_array(other)


def test_a_key_at_another_place_keeps_the_rest():
    key = Key(7, 1, 2, domain=2)
    assert key.at() == key
    assert key.at(stream=3) == Key(7, 3, 2, domain=2)
    assert key.at(step=4) == Key(7, 1, 4, domain=2)


def test_a_key_from_two_words():
    assert Key.from_words(0x89ABCDEF, 0x01234567, 5, 1000) == KEY
    words = np.array([2**32 - 1, 2**31], np.uint32)
    assert Key.from_words(*words, domain=2) == Key(2**63 + 2**32 - 1, domain=2)
    assert type(Key.from_words(*words).seed) is int
    for low, high, error, message in [
        (2**32, 0, ValueError, r"low must be in \[0, 2\*\*32\), got 4294967296"),
        (0, -1, ValueError, r"high must be in \[0, 2\*\*32\), got -1"),
        (0, 1.0, TypeError, "high must be an integer .*, got 1.0 of type float"),
        (True, 0, TypeError, "low must be an integer .*, got True"),
    ]:
        with pytest.raises(error, match=message):
            Key.from_words(low, high)


def test_shards_are_the_whole(isa, threads):
    for shape in [(100, 37), (64, 256), (30, 3, 5)]:
        per_row = math.prod(shape[1:])
        for origin in (0, 2**36 - 1000):
            whole = Mask(shape, keep=1 / 3, key=KEY, offset=origin).to_bool()
            x = values(np.dtype(np.float32), math.prod(shape)).reshape(shape)
            y = dropcore.dropout(x, keep=1 / 3, key=KEY, offset=origin)
            for cuts in [(0, 1, shape[0]), (0, 13, 14, 29, shape[0]), range(shape[0] + 1)]:
                masks, parts = [], []
                for first, last in pairwise(cuts):
                    offset = origin + first * per_row
                    masks.append(
                        Mask((last - first, *shape[1:]), keep=1 / 3, key=KEY, offset=offset)
                    )
                    parts.append(
                        dropcore.dropout(x[first:last], keep=1 / 3, key=KEY, offset=offset)
                    )
                np.testing.assert_array_equal(np.concatenate([m.to_bool() for m in masks]), whole)
                assert_same_bits(np.concatenate(parts), y, any_nan=True)


def test_nothing_is_consumed():
    first = Mask((1000,), keep=0.5, key=3).packed()
    Mask((12345,), keep=0.1, key=4).packed()
    np.testing.assert_array_equal(Mask((1000,), keep=0.5, key=Key(3)).packed(), first)
    mask = Mask((1000,), keep=0.5, key=3)
    np.testing.assert_array_equal(mask.to_bool(), mask.to_bool())
    np.testing.assert_array_equal(mask.packed(), first)


def test_many_python_threads_at_once():
    def draw(step):
        return Mask((LARGE // 4,), keep=0.5, key=Key(1, step=step)).packed()

    alone = [draw(step) for step in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(8)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_larger_keep_keeps_a_superset(isa):
    rng = np.random.default_rng(2)
    keeps = np.sort(np.concatenate([KEEPS, rng.random(40), 0.5 + np.arange(-9, 10) * 2.0**-32]))
    for offset in (0, 2**36 - 99):
        packed = [Mask((20000,), keep=float(k), key=KEY, offset=offset).packed() for k in keeps]
        for smaller, larger in pairwise(packed):
            assert not (smaller & ~larger).any()


# C. Chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [2**40, 10**30])
def test_a_run_that_is_longer_than_the_axis_takes_no_memory(run):
    mask = Mask((2, 5), [[0.0], [1.0]], key=KEY, run=run)
    assert mask.to_bool().tolist() == [[True] * 5, [False] * 5]
    assert mask.element_scale().shape == (2, 5)
    assert not reference.decisions((2, 5), 0.0, seed=1, run=run).any()

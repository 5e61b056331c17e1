"""Statistics of the drawn masks: what they count against chance.

Seeds are fixed, so these are as repeatable as the rest; bounds are 4 sigma where one number is
looked at, and 6 sigma for the largest of many thousands.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from dropcore import Key, Mask, _core
from support.masks import KEEPS


def kept_bits(size, keep, key, offset=0):
    packed = Mask((size,), keep=keep, key=key, offset=offset).packed()
    return np.unpackbits(packed, count=size, bitorder="little")


BITS_OF_A_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(axis=1)


def standard(size, keep, key, offset=0):
    """The mask as numbers of mean 0 and variance 1."""
    x = kept_bits(size, keep, key, offset).astype(np.float32)
    x -= np.float32(keep)
    x *= np.float32(1 / math.sqrt(keep * (1 - keep)))
    return x


def assert_rate(count, draws, keep):
    sigma = math.sqrt(draws * keep * (1 - keep))
    assert abs(count - draws * keep) <= 4 * sigma, f"keep {keep}: {count} of {draws}"


@pytest.mark.parametrize("keep", KEEPS)
def test_rate_on_a_hundred_million_draws(keep):
    for seed in (0, 1, 2**64 - 1):
        packed = Mask((10**8,), keep=keep, key=Key(seed, 3, 7), offset=12345).packed()
        ones = np.bincount(packed, minlength=256) @ BITS_OF_A_BYTE
        assert_rate(int(ones), 10**8, keep)


@pytest.mark.parametrize("planes", [1, 2, 4, 8, 10])
def test_rate_where_the_first_planes_are_tied(planes):
    """Of the elements that agree with T in its first planes, the rest of T keeps its part."""
    n = 10**7
    u = _core.uniform(9, 0, 0, 0, 0, n)
    below = 32 - planes
    for front in (0, 2**planes // 3, 2**planes - 1):
        for rest in (0.5, 0.25, 0.9):
            t = front << below | round(rest * 2**below)
            tied = u >> np.uint32(below) == front
            kept = kept_bits(n, t / 2**32, Key(9))[tied]
            assert kept.size > 9000
            assert_rate(int(kept.sum()), kept.size, rest)


def test_uniforms_are_uniform():
    """Each byte of u32, by chi-square, and the byte against the low bits."""
    n = 2**22
    u = _core.uniform(10, 0, 0, 0, 0, n)
    for shift in (24, 16, 8, 0):
        counts = np.bincount(u >> np.uint32(shift) & np.uint32(255), minlength=256)
        chi2 = ((counts - n / 256) ** 2 / (n / 256)).sum()
        assert abs(chi2 - 255) < 4 * math.sqrt(2 * 255), shift
    pairs = np.bincount((u >> np.uint32(28)) * 16 + (u >> np.uint32(20) & np.uint32(15)))
    chi2 = ((pairs - n / 256) ** 2 / (n / 256)).sum()
    assert abs(chi2 - 255) < 4 * math.sqrt(2 * 255)


def planes_of(u):
    """The bits of uniforms as numbers of mean 0 and variance 1, a column for each plane."""
    return 2 * (u[:, np.newaxis] >> np.arange(32, dtype=np.uint32)[::-1] & 1).astype(np.float32) - 1


def test_planes_are_uncorrelated():
    """Of one element, of its neighbour, and of the same place in the next group."""
    n = 2**17
    planes = planes_of(_core.uniform(21, 0, 0, 0, 0, n))
    assert_uncorrelated_columns(planes)
    for far in (1, 31, 32, 64, 128, 256):
        assert_uncorrelated_columns(np.hstack([planes[:-far], planes[far:]]))


def test_the_high_byte_tells_nothing_of_the_low_bits():
    """By chi-square over 256 x 256 pairs of bytes, and over the lowest 8 bits of neighbours."""
    n = 2**23
    u = _core.uniform(22, 1, 2, 0, 0, n)
    high, low = u >> np.uint32(24), u & np.uint32(255)
    pairs = [(high, u >> np.uint32(shift) & np.uint32(255)) for shift in (16, 8, 0)]
    pairs += [(high[:-far], low[far:]) for far in (1, 32, 128)]
    for a, b in pairs:
        counts = np.bincount(a * np.uint32(256) + b, minlength=65536)
        chi2 = ((counts - a.size / 65536) ** 2 / (a.size / 65536)).sum()
        assert abs(chi2 - 65535) < 4 * math.sqrt(2 * 65535)


def test_every_place_of_a_group_has_the_same_rate():
    groups = 80000
    for keep in (0.5, 0.75, 1 / 3, 0.9):
        z = standard(groups * 128, keep, Key(2)).reshape(groups, 128).sum(axis=0, dtype=np.float64)
        z /= math.sqrt(groups)
        assert np.abs(z).max() < 6
        assert abs((z**2).sum() - 128) < 4 * math.sqrt(2 * 128)


def assert_uncorrelated_columns(x):
    """No two columns are correlated: neither the worst pair nor all pairs together."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    z = (x.T @ x) / math.sqrt(len(x))
    z = z[np.triu_indices(len(z), 1)].astype(np.float64)
    assert np.abs(z).max() < 6
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / z.size)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_places_of_neighbouring_groups_are_uncorrelated(groups):
    for keep in (0.5, 0.75, 0.9):
        x = standard(80000 * 128, keep, Key(3)).reshape(-1, groups * 128)
        assert_uncorrelated_columns(x)


@pytest.mark.parametrize("columns", [32, 100, 256, 1000, 1024])
def test_rows_and_columns_are_uncorrelated(columns):
    x = standard(4096 * columns, 0.5, Key(4, stream=columns)).reshape(4096, columns)
    assert_uncorrelated_columns(x)
    assert_uncorrelated_columns(x[:1000].T)
    # Sums of rows and of columns have the variance of independent draws.
    for axis, other in ((0, 4096), (1, columns)):
        sums = x.sum(axis=axis, dtype=np.float64) / math.sqrt(other)
        assert abs((sums**2).mean() - 1) < 4 * math.sqrt(2 / sums.size)


def test_lags():
    n = 2**22
    lags = (*range(1, 65), 128, 256, 512, 1024, 4096)
    u = _core.uniform(5, 1, 0, 0, 0, n).astype(np.float32)
    uniform = (u / np.float32(2**32) - np.float32(0.5)) * np.float32(math.sqrt(12))
    for x in (standard(n, 0.5, Key(5)), standard(n, 0.9, Key(5)), uniform):
        for lag in lags:
            z = float(np.dot(x[:-lag], x[lag:])) / math.sqrt(n - lag)
            assert abs(z) < 4, lag


def test_no_lag_up_to_a_million():
    """All periods at once: the autocorrelation at every lag up to 2**20, by FFT."""
    n = 2**21
    x = standard(n, 0.5, Key(6)).astype(np.float64)
    spectrum = np.fft.rfft(x, 2 * n)
    z = np.fft.irfft(spectrum * spectrum.conj())[1 : n // 2]
    z /= np.sqrt(n - np.arange(1, n // 2))
    assert np.abs(z).max() < 6
    assert abs((z**2).mean() - 1) < 0.02


@pytest.mark.parametrize("columns", [64, 96, 128, 256, 1000, 1024, 4096])
def test_rows_do_not_repeat(columns):
    rows = 2**22 // columns
    kept = kept_bits(rows * columns, 0.5, Key(7)).reshape(rows, columns)
    # At 64 columns the chance that any two of 65536 rows agree is 1e-10.
    assert len(np.unique(np.packbits(kept, axis=1), axis=0)) == rows
    for period in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        same = kept[:-period] == kept[period:]
        assert_rate(int(same.sum()), same.size, 0.5)
        # Of a single row with the one a period later, too.
        by_row = np.abs(same.sum(axis=1) - columns / 2) / math.sqrt(columns / 4)
        assert by_row.max() < 6.5


def test_no_window_repeats():
    """No 64 consecutive elements occur twice among the first 8 Mi, at any multiple of 8."""
    packed = Mask((2**23,), keep=0.5, key=Key(8)).packed()
    windows = np.stack([packed[k : packed.size - 7 + k] for k in range(8)], axis=1)
    assert len(np.unique(windows.view(np.uint64))) == len(windows)


def test_keys_that_differ_in_one_bit_are_independent():
    """Every bit of seed, stream and step, from each of two keys; with each other too."""
    n = 2**17
    for base in (Key(0), Key(0x0123456789ABCDEF, 0x5A5A5A5, 0xC3C3C3C3)):
        keys = [base]
        keys += [Key(base.seed ^ 1 << bit, base.stream, base.step) for bit in range(64)]
        keys += [Key(base.seed, base.stream ^ 1 << bit, base.step) for bit in range(28)]
        keys += [Key(base.seed, base.stream, base.step ^ 1 << bit) for bit in range(32)]
        for keep in (0.5, 0.9):
            for offset in (0, 2**36):  # there the block's high word is not zero
                x = np.stack([standard(n, keep, key, offset) for key in keys])
                assert_uncorrelated_columns(x.T)


def test_neighbouring_masks_are_independent():
    """The same element under 4096 consecutive steps, streams and seeds."""
    n = 4096
    for keys in (
        [Key(3, step=i) for i in range(n)],
        [Key(3, stream=i) for i in range(n)],
        [Key(i) for i in range(n)],
    ):
        kept = np.stack([Mask((256,), keep=0.5, key=key).to_bool() for key in keys])
        x = 2 * kept.astype(np.float32) - 1
        assert_uncorrelated_columns(x)
        for lag in (1, 2, 4, 32, 256, 1024):
            z = float((x[:-lag] * x[lag:]).sum()) / math.sqrt((n - lag) * 256)
            assert abs(z) < 4


def test_domains_are_independent():
    n = 2**18
    x = [_core.uniform(1, 2, 3, domain, 0, n).astype(np.float64) / 2**32 for domain in (0, 1, 2)]
    x = [(u - 0.5) * math.sqrt(12) for u in x]
    for a, b in combinations(x, 2):
        assert abs(float(np.dot(a, b))) / math.sqrt(n) < 4

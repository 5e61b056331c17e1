"""Permutations: the core against the reference and the text, bijectivity, and statistics.

Seeds are fixed, so the statistics are as repeatable as the rest. A p-value of 10^-4 is the bound.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, spearmanr

import dropcore
from dropcore import Key, Permutation, _core, reference

DATA = Path(__file__).parents[1] / "data"
LEAST = 1e-4

SIZES = (1, 2, 3, 10, 127, 128, 129, 2**16 - 1, 2**16, 2**16 + 1)
HUGE = (2**32 - 1, 2**32 + 1, 10**10, 2**48, 2**62 + 3, 2**63 - 1)


def some(n, count=50):
    """Indices below n: the ends, and others anywhere."""
    found = np.random.default_rng(n % 2**32).integers(0, n, count)
    return np.concatenate([[0, n - 1, n // 2], found])


# --- the text ------------------------------------------------------------------------------------


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b % 2**32, a >> 32 ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def row(n, place, seed, stream, step):
    """The section of docs/mask-contract.md, in Python's integers."""
    x = place
    for r in range(32 + math.ceil(math.log2(n)) if n < 2**50 else 32 + (n - 1).bit_length()):
        last = 3 << 28 | 128 * stream + r
        key = (seed % 2**32, seed >> 32)
        words = philox((2**63 % 2**32, 2**63 >> 32, step, last), key)
        total = sum(word << 32 * q for q, word in enumerate(words)) * n // 2**128
        y = (total - x) % n
        number = max(x, y)
        if philox((number % 2**32, number >> 32, step, last), key)[0] % 2 == 1:
            x = y
    return x


@pytest.mark.parametrize("n", [*SIZES, *HUGE])
def test_the_reference_is_the_text(n):
    for seed, stream, step in ((0, 0, 0), (2**64 - 1, 2**21 - 1, 2**32 - 1)):
        places = some(n, 5)
        found = reference.permutation(n, places, seed=seed, stream=stream, step=step)
        assert found.tolist() == [row(n, int(place), seed, stream, step) for place in places]


@pytest.mark.parametrize("n", [*SIZES, *HUGE])
def test_the_core_is_the_reference(isa, n):
    for key in (Key(0), Key(2**64 - 5, stream=2**21 - 1, step=2**32 - 1), Key(7, 3, 1)):
        order = Permutation(n, key)
        first = min(n - 1, 12345)
        for start, count in ((0, min(n, 37)), (first, min(16, n - first)), (n, 0)):
            wanted = reference.permutation(
                n,
                start + np.arange(count, dtype=np.int64),
                seed=key.seed,
                stream=key.stream,
                step=key.step,
            )
            found = order.rows(start, count)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, wanted)
            np.testing.assert_array_equal(order.places(wanted), start + np.arange(count))
        numbers = some(n, 31)
        places = order.places(numbers)
        assert [order.rows(int(place), 1)[0] for place in places] == numbers.tolist()


def test_frozen_permutations(isa):
    checked = 0
    for line in (DATA / "frozen_permutations.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, n, place, *rows = line.split()
        order = Permutation(int(n), Key(int(seed, 16), int(stream), int(step)))
        assert order.rows(int(place), len(rows)).tolist() == list(map(int, rows)), line
        checked += 1
    assert checked == 4 * 53


def test_teams_and_slices_make_the_same_order(assert_team):
    n = 300_007
    order = Permutation(n, 5)
    whole = order.rows()
    assert_team()
    parts = [order.rows(start, min(4099, n - start)) for start in range(0, n, 4099)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.sort(whole), np.arange(n))
    np.testing.assert_array_equal(order.places(whole.reshape(-1, 1))[:, 0], np.arange(n))


# --- bijectivity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_every_row_comes_once(isa, n):
    for key in (0, 1, Key(2**64 - 1, 5, 2**32 - 1)):
        rows = Permutation(n, key).rows()
        np.testing.assert_array_equal(np.sort(rows), np.arange(n))
        np.testing.assert_array_equal(Permutation(n, key).places(rows), np.arange(n))


@pytest.mark.parametrize("n", HUGE)
def test_places_are_the_inverse_of_rows(isa, n):
    order = Permutation(n, Key(3, step=9))
    for start in (0, n // 3, n - 1000):
        rows = order.rows(start, 1000)
        assert 0 <= rows.min() <= rows.max() < n
        assert len(np.unique(rows)) == 1000
        np.testing.assert_array_equal(order.places(rows), start + np.arange(1000))


def test_ten_billion_rows_need_no_memory():
    n = 10**10
    order = Permutation(n, 1)
    order.rows(0, 8)
    tracemalloc.start()
    try:
        found = [order.rows(start, 128) for start in range(0, n, n // 200)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20  # of which the results are 200 KB
    rows = np.concatenate(found)
    assert len(np.unique(rows)) == len(rows) == 200 * 128
    # The slices are spread over everything, in each part alike.
    counts = np.bincount(rows // (n // 100), minlength=100)
    assert chisquare(counts).pvalue > LEAST


# --- statistics ----------------------------------------------------------------------------------


def orders(n, keys):
    return np.array([Permutation(n, key).rows() for key in keys])


def seeds(count):
    return [Key(seed) for seed in range(count)]


def epochs(count):
    return [Key(11, step=epoch) for epoch in range(count)]


def streams(count):
    return [Key(11, stream=stream) for stream in range(count)]


KEYS = pytest.mark.parametrize("keys", [seeds, epochs, streams])


@KEYS
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_few_rows_are_as_frequent(n, keys):
    found = orders(n, keys(12_000))
    number = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    counts = np.bincount([number[tuple(order)] for order in found.tolist()], minlength=len(number))
    assert chisquare(counts).pvalue > LEAST


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_orders_of_few_rows_are_uniform_within_what_the_contract_says(n):
    """Exactly: the distribution after the rounds, if their numbers and bits are random."""
    every = list(itertools.permutations(range(n)))
    number = {order: i for i, order in enumerate(every)}
    step = np.zeros((len(every), len(every)))
    for total in range(n):
        pairs = [(x, (total - x) % n) for x in range(n) if x < (total - x) % n]
        for bits in itertools.product((False, True), repeat=len(pairs)):
            swap = list(range(n))
            for a, b in itertools.compress(pairs, bits):
                swap[a], swap[b] = b, a
            for i, order in enumerate(every):
                step[i, number[tuple(swap[x] for x in order)]] += 0.5 ** len(pairs) / n
    rounds = 32 + (n - 1).bit_length()
    chances = np.linalg.matrix_power(step, rounds)[0]
    assert abs(chances - 1 / len(every)).sum() / 2 < 1e-7
    assert abs(np.linalg.matrix_power(step, rounds // 3)[0] - 1 / len(every)).sum() / 2 > 1e-5


@KEYS
@pytest.mark.parametrize(("n", "count"), [(7, 8000), (10, 8000), (100, 6000)])
def test_every_row_is_as_often_at_every_place(n, count, keys):
    found = orders(n, keys(count))
    counts = np.stack([np.bincount(rows, minlength=n) for rows in found.T])
    # Rows and columns of the table have fixed sums: (n - 1)^2 degrees of freedom.
    statistic = ((counts - count / n) ** 2 / (count / n)).sum() * (n - 1) / n
    freedom = (n - 1) ** 2
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@KEYS
def test_neighbours_are_not_related(keys):
    n = 101
    found = orders(n, keys(2000))
    for lag in (1, 2, 50):
        gaps = (found[:, lag:] - found[:, :-lag]) % n
        assert gaps.min() > 0
        assert chisquare(np.bincount(gaps.ravel(), minlength=n)[1:]).pvalue > LEAST
        r = spearmanr(found[:, lag:].ravel(), found[:, :-lag].ravel()).statistic
        # Of one order it is -1 / (n - 1) on average.
        assert abs(r + 1 / (n - 1)) < 4 / math.sqrt(gaps.size)
    # The lengths of cycles, and with them the signs: log n cycles on average, and half are even.
    cycles = np.array([cycles_of(order) for order in found.tolist()])
    harmonic = sum(1 / k for k in range(1, n + 1))
    assert abs(cycles.mean() - harmonic) < 4 * math.sqrt(harmonic / len(cycles))
    assert abs((cycles % 2).mean() - 0.5) < 2 / math.sqrt(len(cycles))


def cycles_of(order):
    seen, count = set(), 0
    for start in range(len(order)):
        count += start not in seen
        while start not in seen:
            seen.add(start)
            start = order[start]
    return count


@KEYS
@pytest.mark.parametrize("n", [64, 1000])
def test_adjacent_keys_give_unrelated_orders(n, keys):
    found = orders(n, keys(600))
    # Rows that stay where they were before: one on average, as between any two orders.
    for distance in (1, 2, 256):
        same = (found[distance:] == found[:-distance]).sum(axis=1)
        assert abs(same.mean() - 1) < 4 / math.sqrt(len(same))
    before, after = (found[:-1] - (n - 1) / 2).ravel(), (found[1:] - (n - 1) / 2).ravel()
    r = before @ after / (before @ before)
    assert abs(r) < 4 / math.sqrt(before.size)
    fixed = (found == np.arange(n)).sum(axis=1)
    assert abs(fixed.mean() - 1) < 4 / math.sqrt(len(fixed))


def test_one_row_more_is_another_order():
    found = np.array(
        [Permutation(1000, seed).rows() - Permutation(1001, seed).rows(0, 1000)
         for seed in range(300)]
    )  # fmt: skip
    close = (abs(found) <= 1).mean()
    assert abs(close - 3 / 1000) < 4 * math.sqrt(3 / 1000 / found.size) + 3e-6


def test_large_orders_are_spread_evenly():
    for n in (10**6, 10**10, 2**62 + 1):
        rows = Permutation(n, Key(5, step=2)).rows(17, 200_000)
        parts = (rows / n * 500).astype(np.int64)
        assert chisquare(np.bincount(parts, minlength=500)).pvalue > LEAST
        pairs = parts[1:] // 25 * 20 + parts[:-1] // 25
        assert chisquare(np.bincount(pairs, minlength=400)).pvalue > LEAST
        for bit in range(8):
            assert abs((rows >> bit & 1).mean() - 0.5) < 2 / math.sqrt(len(rows))


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1), ValueError, r"Permutation: n must be an integer in \[1, .*\], got 0"),
        ((2**63, 1), ValueError, "Permutation: n must be"),
        ((2.0, 1), TypeError, "Permutation: n must be"),
        ((5, -1), ValueError, r"key must be in \[0, 2\*\*64\)"),
        ((5, Key(1, stream=2**21)), ValueError, "a stream below 2.*21 and the domain 0, got Key"),
        ((5, Key(1, domain=2)), ValueError, "the domain 0, got Key.*domain=2"),
    ],
)
def test_arguments_of_a_permutation(arguments, error, message):
    with pytest.raises(error, match=message):
        Permutation(*arguments)


def test_arguments_of_its_methods():
    order = Permutation(10, 3)
    with pytest.raises(ValueError, match=r"Permutation.rows: start must .*\[0, 10\], got 11"):
        order.rows(11)
    with pytest.raises(ValueError, match=r"Permutation.rows: count must .*\[0, 3\], got 4"):
        order.rows(7, 4)
    with pytest.raises(ValueError, match=r"Permutation.rows: start must"):
        order.rows(-1)
    for bad in (-1, 10, 2**64 - 1):
        with pytest.raises(ValueError, match=rf"places: rows must be in \[0, 10\), got {bad}"):
            order.places(np.array([0, bad], np.int64 if bad < 100 else np.uint64))
    with pytest.raises(TypeError, match=r"places: rows must be integers, got .* of dtype float64"):
        order.places([0.5])
    assert order.places([]).tolist() == []
    assert order.places(np.int8(4)).shape == ()
    assert len(order) == 10
    assert repr(order) == "Permutation(10, Key(seed=3, stream=0, step=0))"


def test_the_core_refuses_what_it_would_read_wrongly():
    numbers = np.arange(10)
    for n in (0, 2**63):
        with pytest.raises(ValueError, match="n must be in"):
            _core.permute(numbers, n, 0, 0, 0, False)
    with pytest.raises(ValueError, match="stream must be below 2097152"):
        _core.permute(numbers, 10, 0, 2**21, 0, False)
    for bad in (-1, 10):
        with pytest.raises(IndexError, match=r"numbers must be in \[0, 10\)"):
            _core.permute(np.array([0, bad, 1]), 10, 0, 0, 0, False)
    with pytest.raises(TypeError, match="numbers must be an array of int64"):
        _core.permute(np.arange(10.0), 10, 0, 0, 0, False)
    np.testing.assert_array_equal(numbers, np.arange(10))
    assert dropcore.Permutation is Permutation

"""Attention against the reference in float64, and what must not change a bit of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, attention, attention_backward, masked_matmul, reference
from support.arrays import LAYOUTS, assert_same_bits, close
from support.attention import arrays, both, same
from support.differences import differences

KEY = Key(5, stream=2, step=3)
DTYPES = (np.float32, np.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["single", "double"])

# Of the largest number of a result, or of 1: gradients that cancel keep the rounding of their
# terms.
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 2e-13}


@pytest.fixture
def restored():
    """The number of threads is what it was, afterwards."""
    before = dropcore.get_num_threads()
    yield
    dropcore.set_num_threads(before)


def hidden(allowed):
    """What is added to scores so that only what is allowed is seen."""
    return np.where(allowed, 0.0, -np.inf)


def check(
    q, k, v, dout, what="", *, kept=None, given=None, allowed=None, bias=None, tolerance=None,
    **options,
):  # fmt: skip
    """Both passes against the reference.

    `options` go to both sides. `given` is what attention is told of its mask, and `kept` the same
    as a pair of arrays.
    """
    told = {**options, "allowed": allowed, "bias": bias, **(given or {})}
    found = both(q, k, v, dout, **told)
    options["mask"] = kept
    options["bias"] = 0.0 if bias is None else bias.astype(np.float64)
    if allowed is not None:
        options["bias"] = options["bias"] + hidden(allowed)
    wanted = (
        *reference.attention(q, k, v, **options),
        *reference.attention_backward(dout, q, k, v, **options),
    )
    for name, a, b in zip(("out", "logsumexp", "dq", "dk", "dv"), found, wanted, strict=True):
        assert a.dtype == q.dtype
        close(a, b, f"{name} {what}", tolerance or TOLERANCE[q.dtype])
    return found


def dropped(shape, keep, **options):
    """The arguments of `check` for a mask that is drawn."""
    mask = Mask(shape, keep=keep, key=KEY, **options)
    return {
        "given": {"keep": keep, "key": KEY, **options},
        "kept": (mask.to_bool(), mask.scale),
    }


# ---- sizes ---------------------------------------------------------------------------------------

# Tiles have 48 queries and 384 keys, in steps of 32; parts of the backward pass 768 keys.
QUERIES = (0, 1, 47, 48, 49, 95, 97, 193)
KEYS = (0, 1, 31, 32, 33, 127, 128, 129, 383, 384, 385, 768, 769, 1537)
SIZES = [*itertools.product(QUERIES, (33, 385)), *itertools.product((1, 97), KEYS), (193, 769)]


@each_dtype
def test_sizes_at_and_off_the_tiles(isa, dtype):
    keeps = itertools.cycle((None, 0.5, 0.9))
    for queries, keys in SIZES:
        keep = next(keeps)
        mask = {} if keep is None else dropped((1, 1, queries, keys), keep)
        check(*arrays(1, 1, queries, keys, 8, dtype=dtype), (queries, keys, keep), **mask)


@each_dtype
def test_causal_sizes(isa, dtype):
    for n in (0, 1, 2, 31, 33, 47, 49, 96, 97, 193, 384, 385, 769):
        mask = dropped((1, 1, n, n), 0.8)
        check(*arrays(1, 1, n, n, 5, dtype=dtype), n, causal=True, **mask)


@each_dtype
@pytest.mark.parametrize("size", [0, 1, 3, 16, 31, 32, 33, 64, 65, 80, 128])
def test_sizes_of_heads(isa, dtype, size):
    for value_size in {size, 0, 1, 33, 129 - size}:
        mask = dropped((1, 2, 13, 70), 0.75)
        check(*arrays(1, 2, 13, 70, size, value_size, dtype=dtype), value_size, **mask)


@each_dtype
@pytest.mark.parametrize("keys", [6144, 6145])
def test_the_largest_number_of_parts(isa, dtype, keys):
    """Backwards, at most eight: beyond 6144 keys they are longer."""
    check(*arrays(1, 1, 3, keys, 4, dtype=dtype), **dropped((1, 1, 3, keys), 0.6))


@each_dtype
@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (4, 2), (4, 1), (6, 3), (5, 5)])
@pytest.mark.parametrize("keys", [40, 900])
def test_grouped_heads(isa, dtype, heads, key_heads, keys):
    values = arrays(2, heads, 21, keys, 6, 9, key_heads=key_heads, dtype=dtype)
    check(*values, **dropped((2, heads, 21, keys), 0.7))


def test_no_heads_and_no_samples():
    for batch, heads, key_heads in [(0, 2, 1), (3, 0, 0), (3, 0, 2)]:
        values = arrays(batch, heads, 4, 5, 6, 7, key_heads=key_heads)
        out, sums, dq, dk, dv = both(*values, 0.5, key=1)
        assert out.shape == (batch, heads, 4, 7)
        assert sums.shape == (batch, heads, 4)
        assert dq.shape == values[0].shape
        for found, array in ((dk, values[1]), (dv, values[2])):
            assert_same_bits(found, np.zeros_like(array))


# ---- what a query sees ---------------------------------------------------------------------------

# (batch, heads, queries, keys), each shared or not, with and without leading axes.
SHARED = [
    *itertools.product((1, 3), (1, 4), (1, 100), (1, 40)),
    (), (40,), (1,), (100, 1), (100, 40), (4, 1, 40),
]  # fmt: skip


@each_dtype
def test_bias_of_every_shape(isa, dtype):
    rng = np.random.default_rng(1)
    values = arrays(3, 4, 100, 40, 7, key_heads=2, dtype=dtype)
    for shape in SHARED:
        bias = 3 * rng.normal(size=shape).astype(dtype)
        check(*values, shape, bias=bias)
        bias = np.where(rng.random(shape) < 0.3, dtype(-np.inf), bias)
        check(*values, shape, bias=bias, **dropped((3, 4, 100, 40), 0.7))


def test_allowed_of_every_shape(isa):
    rng = np.random.default_rng(1)
    values = arrays(3, 4, 100, 40, 7)
    bias = rng.normal(size=(4, 1, 40)).astype(np.float32)
    for shape in SHARED:
        allowed = rng.random(shape) < 0.6
        check(*values, shape, allowed=allowed, **dropped((3, 4, 100, 40), 0.7))
        found = check(*values, shape, allowed=allowed, bias=bias)
        whole = bias + hidden(allowed).astype(np.float32)
        same(found, both(*values, bias=whole))
        same(found, both(*values, bias=bias, allowed=allowed.tolist()))


@each_dtype
def test_lengths(isa, dtype):
    lengths = [0, 1, 31, 32, 100, 384, 385, 400]
    values = arrays(8, 2, 100, 400, 6, key_heads=1, dtype=dtype)
    mask = dropped((8, 2, 100, 400), 0.8)
    found = check(*values, lengths=np.array(lengths), **mask)
    for kind in (np.uint8, np.int32, np.uint64):
        fits = np.array(lengths) // 2
        same(both(*values, lengths=fits.astype(kind)), both(*values, lengths=fits))
    same(found, both(*values, lengths=lengths, **mask["given"]))
    # A query of a sample without keys sees nothing.
    assert not found[0][0].any()
    assert (found[1][0] == -np.inf).all()
    _, _, dq, dk, dv = found
    assert not dq[0].any()
    # What lies behind the length is not read, and has no gradient.
    q, k, v, dout = values
    for b, n in enumerate(lengths):
        assert not dk[b, :, n:].any()
        assert not dv[b, :, n:].any()
        k[b, :, n:] = v[b, :, n:] = np.nan
    same(both(q, k, v, dout, lengths=lengths, **mask["given"]), found)


def test_lengths_beyond_the_first_part(isa):
    """Backwards, the keys are processed in parts of 768, some of which a sample does not have."""
    values = arrays(4, 2, 30, 1600, 5)
    check(*values, lengths=[1600, 768, 769, 10], **dropped((4, 2, 30, 1600), 0.5))
    values = arrays(2, 1, 900, 900, 5)
    check(*values, lengths=[800, 900], causal=True, **dropped((2, 1, 900, 900), 0.5))


def test_no_lengths_that_no_sample_needs():
    values = arrays(0, 2, 4, 5, 6)
    same(both(*values, lengths=[]), both(*values))


@each_dtype
def test_queries_that_see_no_key(isa, dtype):
    """In the first tile of keys, in all of them, and with a mask."""
    q, k, v, dout = arrays(1, 2, 100, 800, 6, dtype=dtype)
    bias = np.zeros((2, 100, 800), dtype)
    bias[0, 3] = bias[1, :, 30:] = bias[1, ::2] = bias[0, 50:, :700] = -np.inf
    found = check(q, k, v, dout, bias=bias, **dropped((1, 2, 100, 800), 0.7))
    out, sums, dq, _, _ = found
    for gone in (out, dq):
        assert not gone[0, 0, 3].any()
        assert not gone[0, 1, ::2].any()
        assert gone[0, 1, 1::2].all()
    assert (sums[0, 0, 3], sums[0, 1, 0]) == (-np.inf, -np.inf)


@each_dtype
def test_the_lowest_number_hides_a_key_too(isa, dtype):
    """Libraries add it in place of -inf; what it is added to makes no difference."""
    values = arrays(1, 2, 50, 70, 6, dtype=dtype)
    allowed = np.random.default_rng(6).random((50, 70)) < 0.5
    bias = np.where(allowed, 0, np.finfo(dtype).min).astype(dtype)
    same(both(*values, 0.2, key=1, bias=bias), both(*values, 0.2, key=1, allowed=allowed))


def test_scale(isa):
    values = arrays(1, 2, 20, 30, 16)
    same(both(*values), both(*values, scale=0.25))
    for scale in (0.0, -1.5, 2, np.float32(0.5)):
        check(*values, scale, scale=scale)
    # Of equal weights the sum is the mean.
    out = attention(*values[:3], scale=0)
    close(out, np.broadcast_to(values[2].mean(2, keepdims=True), out.shape))


@pytest.mark.parametrize("seed", range(12))
def test_everything_together(isa, seed):
    rng = np.random.default_rng(seed)
    for _ in range(4):
        dtype = rng.choice(DTYPES)
        batch, key_heads, group = rng.integers(1, 3, 3)
        queries, keys = rng.integers(1, 300, 2)
        size, value_size = rng.integers(1, 50, 2)
        causal = bool(rng.integers(2))
        keys = queries if causal else keys
        shape = (batch, key_heads * group, queries, keys)
        keep = float(rng.choice([0.5, 0.9, 1 / 3, 1.0]))
        offset = int(rng.integers(2**62))
        own = tuple(int(n) if rng.random() < 0.5 else 1 for n in shape)
        options = dropped(tuple(map(int, shape)), keep, offset=offset)
        options["bias"] = rng.normal(size=own).astype(dtype)
        options["allowed"] = rng.random(own) < 0.9
        options["lengths"] = rng.integers(0, keys + 1, batch)
        values = arrays(*shape, size, value_size, key_heads=key_heads, dtype=dtype, seed=seed)
        check(*values, (shape, size, value_size), causal=causal, scale=0.3, **options)


# ---- the mask ------------------------------------------------------------------------------------

SHAPE = (2, 3, 97, 150)
OFFSETS = (0, 1, 127, 128, 1000, 2**36 + 5, 2**62 + 77, 2**63 - int(np.prod(SHAPE)))


def weights(keys=150, dtype=np.float32, **options):
    """The weights after dropout: v is the identity. None of them is 0 before."""
    q, k, _, _ = arrays(*SHAPE[:3], keys, 4, dtype=dtype)
    v = np.broadcast_to(np.eye(keys, dtype=dtype), (*SHAPE[:2], keys, keys))
    return attention(q, k, v, **options)


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_mask_is_that_of_its_shape(isa, offset):
    plain = weights()
    assert plain.all()
    for keep in (0.5, 0.9):
        mask = Mask(SHAPE, keep=keep, key=KEY, offset=offset)
        found = weights(keep=keep, key=KEY, offset=offset)
        np.testing.assert_array_equal(found != 0, mask.to_bool())
        close(found, np.where(mask.to_bool(), plain / np.float32(keep), 0), tolerance=1e-6)
        same([found], [weights(rate=1 - keep, key=KEY, offset=offset)])


@pytest.mark.parametrize("keys", [1, 2, 31, 127, 128, 129, 256, 385])
def test_the_mask_of_every_row_begins_where_it_should(isa, keys):
    mask = Mask((*SHAPE[:3], keys), keep=0.5, key=KEY, offset=33)
    found = weights(keys, keep=0.5, key=KEY, offset=33)
    np.testing.assert_array_equal(found != 0, mask.to_bool())


@each_dtype
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_mask_that_is_given_is_the_one_that_is_drawn(isa, dtype, offset):
    values = arrays(*SHAPE, 20, key_heads=1, dtype=dtype)
    wanted = both(*values, keep=0.7, key=KEY, offset=offset)
    mask = Mask(SHAPE, keep=0.7, key=KEY, offset=offset)
    for given in (
        mask,
        Mask.given(mask.to_bool(), keep=0.7),
        Mask.from_packed(mask.packed(), SHAPE, keep=0.7),
    ):
        same(both(*values, mask=given), wanted)


@pytest.mark.parametrize("causal", [False, True])
def test_the_low_word_of_the_counter_begins_again_within_a_mask(isa, causal):
    shape = (1, 2, 97, 97)
    values = arrays(*shape, 20)
    for before in (130, 3000, 97 * 97 + 4000):
        offset = 2**34 - before
        drawn = both(*values, keep=0.7, key=KEY, offset=offset, causal=causal)
        mask = Mask(shape, keep=0.7, key=KEY, offset=offset)
        given = Mask.given(mask.to_bool(), keep=0.7)
        same(both(*values, mask=given, causal=causal), drawn)


@pytest.mark.parametrize("domain", [0, 2])
def test_every_part_of_the_key_counts(isa, domain):
    values = arrays(*SHAPE, 4)
    found = set()
    for key in (Key(7), Key(8), Key(7 + 2**32), Key(7, stream=1), Key(7, step=1)):
        key = Key(key.seed, key.stream, key.step, domain=domain)
        drawn = both(*values, 0.5, key=key)
        kept = Mask(SHAPE, 0.5, key=key).to_bool()
        same(drawn, both(*values, mask=Mask.given(kept, keep=0.5)))
        found.add(drawn[0].tobytes())
    assert len(found) == 5
    same(both(*values, 0.5, key=7), both(*values, 0.5, key=Key(7)))


def test_masks_of_every_shape(isa):
    """Shared along axes, with fewer axes, and of runs: as the whole array of booleans."""
    values = arrays(3, 4, 100, 40, 7, key_heads=2)
    whole = (3, 4, 100, 40)
    for shape in SHARED:
        for run in (1, 3, 64) if shape else (1,):
            mask = Mask(shape, keep=0.6, key=KEY, offset=5, run=run)
            found = both(*values, mask=mask)
            same(found, both(*values, mask=Mask.given(mask.to_bool(), keep=0.6)))
            kept = np.broadcast_to(mask.to_bool(), whole)
            same(found, both(*values, mask=Mask.given(kept, keep=0.6)))
            check(*values, (shape, run), given={"mask": mask}, kept=(kept, mask.scale))


def test_masks_with_lengths_and_parts(isa):
    """Bits that are given are read from where a part or a length ends."""
    values = arrays(2, 2, 100, 1700, 4)
    for shape in [(2, 2, 100, 1700), (1, 1, 1, 1700), (2, 1, 100, 1), (1, 2, 1, 1700)]:
        mask = Mask.given(np.random.default_rng(2).random(shape) < 0.5, keep=0.5)
        kept = (mask.to_bool(), 2.0)
        check(*values, shape, given={"mask": mask}, kept=kept, lengths=[1700, 801])


@each_dtype
def test_rates_at_the_ends(isa, dtype):
    values = arrays(*SHAPE, 20, dtype=dtype)
    plain = both(*values)
    same(both(*values, 0.0, key=1), plain)
    same(both(*values, keep=1, key=1), plain)
    same(both(*values, mask=Mask((), keep=1, key=1)), plain)
    for keep in (0.0, 2.0**-33):
        out, sums, *gradients = both(*values, keep=keep, key=1)
        same([out, sums], [np.zeros_like(out), plain[1]])
        same(gradients, [np.zeros_like(array) for array in values[:3]])
    for keep in (2.0**-32, 1e-3, 1 - 2.0**-32):
        options = dropped(SHAPE, keep)
        # Sums of numbers as large as 1 / keep, of which few are kept.
        out, sums, *_ = both(*values, **options["given"])
        wanted, _ = reference.attention(*values[:3], mask=options["kept"])
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=TOLERANCE[out.dtype])
        same([sums], [plain[1]])


def test_the_smallest_rate_that_keeps():
    """One key of 2^32 is kept, with the scale 2^32."""
    mask = Mask.given(np.arange(150) == 9, keep=2.0**-32)
    values = arrays(*SHAPE, 8, dtype=np.float64)
    found = both(*values, mask=mask)
    wanted, _ = reference.attention(*values[:3], mask=(np.arange(150) == 9, 2.0**32))
    np.testing.assert_allclose(found[0], wanted, rtol=1e-13)
    gradients = reference.attention_backward(
        values[3], *values[:3], mask=(np.arange(150) == 9, 2.0**32)
    )
    for a, b in zip(found[2:], gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * np.abs(b).max())


# ---- the same bits ------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("key_heads", [6, 2])
def test_shards_of_the_batch(isa, dtype, key_heads):
    _, heads, queries, keys = shape = (5, 6, 33, 70)
    lengths = [70, 3, 0, 69, 30]
    values = arrays(*shape, 16, key_heads=key_heads, dtype=dtype)
    wanted = both(*values, 0.3, key=KEY, offset=11, lengths=lengths)
    for first, last in [(0, 2), (2, 5), (4, 5), (3, 3)]:
        rows = slice(first, last)
        offset = 11 + first * heads * queries * keys
        found = both(*(a[rows] for a in values), 0.3, key=KEY, offset=offset, lengths=lengths[rows])
        same(found, [a[rows] for a in wanted])


@each_dtype
def test_shards_of_the_heads(isa, dtype):
    _, heads, queries, keys = shape = (4, 6, 33, 70)
    values = arrays(*shape, 16, key_heads=3, dtype=dtype)
    wanted = both(*values, 0.3, key=KEY, offset=11)
    for rows, first, last in [(slice(0, 4), 2, 4), (slice(1, 3), 0, 2), (slice(2, 3), 4, 6)]:
        mine, shared = slice(first, last), slice(first // 2, last // 2)
        parts = [a[rows, mine if a.shape[1] == heads else shared] for a in values]
        found = both(
            *parts, 0.3, key=KEY, mask_heads=heads,
            offset=11 + (rows.start * heads + first) * queries * keys,
        )  # fmt: skip
        cuts = (mine, mine, mine, shared, shared)
        same(found, [a[rows, cut] for a, cut in zip(wanted, cuts, strict=True)])


def test_the_mask_of_some_heads_ends_with_the_last_of_them():
    """There are indices up to 2^63: heads that are elsewhere need none here."""
    values = arrays(2, 4, 5, 5, 3)
    both(*values, 0.5, key=1, mask_heads=8, offset=2**63 - (8 + 4) * 25)
    whole = arrays(2, 8, 5, 5, 3)
    wanted = attention(*whole[:3], 0.5, key=1, offset=2**63 - 16 * 25)
    found = attention(
        *(a[:, 4:] for a in whole[:3]), 0.5, key=1, mask_heads=8, offset=2**63 - 12 * 25
    )
    same([found], [np.ascontiguousarray(wanted[:, 4:])])


def test_all_heads_are_the_default():
    values = arrays(2, 3, 5, 7, 4)
    same(both(*values, 0.5, key=1), both(*values, 0.5, key=1, mask_heads=3))


# Heads: many, few, and one with several parts of keys; the latter also shared by a group.
TEAMS = {
    "heads": (arrays, (3, 8, 130, 260, 24), {"key_heads": 4}),
    "queries": (arrays, (1, 1, 1300, 500, 16), {}),
    "parts": (arrays, (1, 1, 200, 3000, 16), {}),
    "group": (arrays, (1, 4, 90, 1700, 16), {"key_heads": 1}),
    "more heads than threads": (arrays, (1, 7, 100, 1600, 16), {}),
}


@each_dtype
@pytest.mark.parametrize("case", TEAMS)
def test_same_bits_for_any_number_of_threads(isa, restored, case, dtype):
    make, shape, options = TEAMS[case]
    values = make(*shape, dtype=dtype, **options)
    lengths = np.full(shape[0], shape[3] - 17)
    results = []
    for n in (1, 2, 3, 5):
        dropcore.set_num_threads(n)
        out, sums = attention(*values[:3], 0.2, key=KEY, lengths=lengths, return_logsumexp=True)
        teams = [_core.last_team_size()]
        gradients = attention_backward(
            values[3], *values[:3], out, sums, 0.2, key=KEY, lengths=lengths
        )
        teams.append(_core.last_team_size())
        for team in teams:
            assert team == (n if dropcore.build_info()["openmp"] else 1)
        results.append([out, sums, *gradients])
    for found in results[1:]:
        same(found, results[0])


def test_a_number_does_not_depend_on_the_other_samples(isa, restored):
    """Nor on the heads beside it, as long as the mask is the same."""
    values = arrays(6, 4, 100, 900, 16)
    wanted = both(*values)
    alone = [array[2:3, 1:2] for array in values]
    for n in (1, 3):
        dropcore.set_num_threads(n)
        same(both(*alone), [array[2:3, 1:2] for array in wanted])
        repeated = [np.repeat(array, 9, 0) for array in alone]
        for found in zip(*both(*repeated), strict=True):
            same(found, [array[2, 1:2] for array in wanted])


def test_causal_numbers_do_not_depend_on_what_comes_later(isa):
    q, k, v, _ = arrays(2, 2, 500, 500, 8)
    whole = attention(q, k, v, causal=True)
    for n in (1, 95, 97, 400):
        part = attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], causal=True)
        same([part], [np.ascontiguousarray(whole[:, :, :n])])


def test_the_sums_change_nothing(isa):
    q, k, v, _ = arrays(*SHAPE, 20)
    out, _ = attention(q, k, v, 0.1, key=1, return_logsumexp=True)
    same([attention(q, k, v, 0.1, key=1)], [out])


def test_many_callers_at_once(restored):
    dropcore.set_num_threads(2)
    values = arrays(2, 4, 200, 900, 16)
    alone = [both(*values, 0.3, key=seed) for seed in range(4)]
    start = threading.Barrier(4)

    def work(seed):
        start.wait(timeout=60)
        return [both(*values, 0.3, key=seed) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for seed, results in enumerate(pool.map(work, range(4), timeout=120)):
            for found in results:
                same(found, alone[seed])


# ---- layouts -------------------------------------------------------------------------------------


def read_only(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def in_records(array):
    """A field of packed records, which is aligned nowhere."""
    records = np.zeros(array.shape, [("a", "u1"), ("x", array.dtype)])
    records["x"] = array
    return records["x"]


# Arrays (batch, heads, rows, numbers) in memory in another order.
ORDERS = LAYOUTS | {
    "time first": lambda a: a.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3),
    "batch last": lambda a: a.transpose(1, 2, 0, 3).copy().transpose(2, 0, 1, 3),
    "rows backwards": lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
    "all backwards": lambda a: a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "every third row": lambda a: np.repeat(a, 3, 2)[:, :, ::3],
    "wide rows": lambda a: np.concatenate([a, a], 3)[..., : a.shape[3]],
    "q, k and v in one": lambda a: np.stack([a, a, a], 3)[:, :, :, 1],
    "read-only": read_only,
    "records": in_records,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@each_dtype
@pytest.mark.parametrize("order", ORDERS)
def test_layouts_do_not_change_bits(isa, dtype, order):
    relaid = ORDERS[order]
    values = arrays(2, 3, 40, 50, 8, dtype=dtype)
    bias = np.random.default_rng(3).normal(size=(*SHAPE[:2], 40, 50)).astype(dtype)
    options = {"rate": 0.4, "key": 1, "lengths": [50, 20]}
    wanted = both(*values, bias=bias, **options)
    before = [array.tobytes() for array in values]
    same(both(*map(relaid, values), bias=relaid(bias), **options), wanted)
    for which in range(4):
        mixed = [relaid(a) if i == which else a for i, a in enumerate(values)]
        same(both(*mixed, bias=bias, **options), wanted)
    q, k, v, dout = values
    out, sums = wanted[:2]
    found = attention_backward(
        dout, q, k, v, relaid(out), np.asfortranarray(sums), bias=bias, **options
    )
    same(found, wanted[2:])
    assert [array.tobytes() for array in values] == before


def test_arrays_whose_elements_share_memory(isa):
    q, k, v, dout = arrays(2, 3, 40, 50, 8)
    shared = [
        np.broadcast_to(q[:1], q.shape), np.broadcast_to(k[:, :1], k.shape),
        np.broadcast_to(v[:, :, :1], v.shape), np.broadcast_to(dout[..., :1], dout.shape),
    ]  # fmt: skip
    found = both(*shared, 0.5, key=1)
    same(found, both(*map(np.copy, shared), 0.5, key=1))
    for array in found:
        array[...] = 0  # each element has a place of its own
    # Self-attention of one array.
    same(both(q, q, q, q, 0.5, key=1), both(q, q.copy(), q.copy(), q.copy(), 0.5, key=1))


@pytest.mark.parametrize("heads", [1, 3])
def test_results_have_the_order_of_the_arguments(heads):
    values = arrays(2, heads, 6, 7, 4, 5)
    plain = both(*values)
    assert all(array.flags.c_contiguous for array in plain)
    found = both(*map(ORDERS["time first"], values))
    same(found, plain)
    for i, array in enumerate(found):
        assert (array.transpose(0, 2, 1, 3) if i != 1 else array).flags.c_contiguous
        assert array.flags.writeable


def test_lists_are_taken_as_float64():
    values = arrays(1, 1, 3, 4, 2, dtype=np.float64)
    same(both(*(array.tolist() for array in values), 0.5, key=1), both(*values, 0.5, key=1))


@each_dtype
def test_out(isa, dtype):
    q, k, v, _ = arrays(2, 3, 100, 50, 8, 5, dtype=dtype)
    wanted = attention(q, k, v, 0.4, key=1)
    whole = np.full((2, 100, 3, 7), np.nan, dtype)
    for out in (
        np.full(wanted.shape, np.nan, dtype),
        np.full((2, 100, 3, 5), np.nan, dtype).transpose(0, 2, 1, 3),
        whole[..., 1:6].transpose(0, 2, 1, 3),
        np.full((2, 3, 200, 5), np.nan, dtype)[:, :, ::-2],
    ):
        assert attention(q, k, v, 0.4, key=1, out=out) is out
        same([out.copy()], [wanted])
    assert np.isnan(whole[..., [0, 6]]).all()  # what is beside it is left alone
    out = np.full_like(wanted, np.nan)
    found = attention(q, k, v, 0.4, key=1, out=out, return_logsumexp=True)
    assert found[0] is out
    # The memory beside q is not q.
    pair = np.stack([q, q], 0)
    same([attention(pair[0], k, q[:, :, :50], out=pair[1])], [attention(q, k, q[:, :, :50])])


# ---- numbers that are large, or none -------------------------------------------------------------


@each_dtype
def test_large_scores(isa, dtype):
    """Nothing overflows; scores have an error of their last digits, and so have weights."""
    q, k, v, dout = arrays(1, 2, 100, 450, 8, dtype=dtype)
    eps = np.finfo(dtype).eps
    for size in (1e2, 1e4, 1e6):
        large = (q * dtype(size)).astype(dtype)
        error = 4 * size * eps
        out, sums, dq, dk, dv = both(large, k, v, dout, 0.3, key=KEY)
        kept = Mask((1, 2, 100, 450), 0.3, key=KEY)
        options = {"mask": (kept.to_bool(), kept.scale)}
        wanted, logsumexp = reference.attention(large, k, v, **options)
        gradients = reference.attention_backward(dout, large, k, v, **options)
        np.testing.assert_allclose(sums, logsumexp, rtol=8 * eps)
        close(out, wanted, size, error)
        for found, exact in zip((dq, dk / size, dv), gradients, strict=True):
            exact = exact / size if exact is gradients[1] else exact
            close(found, exact, size, 4 * error)


@each_dtype
def test_weights_of_enormous_scores_are_at_most_one(isa, dtype):
    """Where the digits of scores end above 1, backwards too."""
    q, k, v, dout = arrays(1, 1, 100, 40, 8, dtype=dtype)
    for size in (1e8, 1e15, 1e30) if dtype is np.float32 else (1e17, 1e30, 1e300):
        out, sums, dq, _, dv = both((q * dtype(size)).astype(dtype), k, v, dout)
        assert np.abs(out).max() <= np.abs(v).max()
        assert np.isfinite(sums).all()
        assert (np.abs(dv) <= 1.001 * np.abs(dout).sum(2, keepdims=True)).all()
        assert np.isfinite(dq).all()


@each_dtype
def test_scores_that_differ_widely(isa, dtype):
    """Each tile of keys has another maximum: growing, falling, and anywhere."""
    q, k, v, dout = arrays(1, 1, 100, 1200, 4, dtype=dtype)
    steps = np.linspace(-1200, 1200, 1200, dtype=dtype)
    tolerance = 2400 * np.finfo(dtype).eps
    for bias in (steps, -steps, steps[np.random.default_rng(4).permutation(1200)]):
        mask = dropped((1, 1, 100, 1200), 0.5)
        check(q, k, v, dout, bias=bias, tolerance=tolerance, **mask)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_rows(isa, bad):
    values = arrays(2, 2, 100, 50, 8)
    clean = both(*values)
    q, k, v, dout = (array.copy() for array in values)
    q[0, 1, 7, 3] = bad
    out, sums, dq, dk, dv = both(q, k, v, dout)
    others = np.arange(100) != 7
    assert np.isnan(out[0, 1, 7]).all()
    assert np.isnan(sums[0, 1, 7])
    assert np.isnan(dq[0, 1, 7]).all()
    assert np.isnan(dk[0, 1]).any()
    assert np.isnan(dv[0, 1]).all()
    for found, wanted in ((out, clean[0]), (sums, clean[1]), (dq, clean[2])):
        same([found[0, 1][others]], [wanted[0, 1][others]])
    for found, wanted in zip((out, sums, dq, dk, dv), clean, strict=True):
        same([found[0, 0], found[1]], [wanted[0, 0], wanted[1]])


def test_nan_of_a_gradient_stays_in_its_row(isa):
    q, k, v, dout = arrays(1, 2, 100, 50, 8)
    _, _, clean, _, other = both(q, k, v, dout)
    dout[0, 1, 7, 3] = np.nan
    _, _, dq, dk, dv = both(q, k, v, dout)
    others = np.arange(100) != 7
    assert np.isnan(dq[0, 1, 7]).all()
    assert np.isnan(dk[0, 1]).all()
    assert np.isnan(dv[0, 1, :, 3]).all()
    same([dq[0, 1][others], dq[0, 0], dv[0, 0]], [clean[0, 1][others], clean[0, 0], other[0, 0]])
    same([np.delete(dv, 3, 3)], [np.delete(other, 3, 3)])


def test_nan_of_a_key_reaches_every_query_that_sees_it(isa):
    q, k, v, _ = arrays(1, 1, 200, 200, 8)
    k[0, 0, 150, 2] = np.nan
    assert np.isnan(attention(q, k, v)).all()
    # Whether it is seen is a matter of its place.
    clean = k.copy()
    clean[0, 0, 150] = 0
    found, wanted = (attention(q, keys, v, causal=True) for keys in (k, clean))
    same([found[:, :, :150]], [wanted[:, :, :150]])
    assert np.isnan(found[:, :, 150:]).all()


def test_nan_of_a_value_has_no_weight_that_removes_it(isa):
    """0 * NaN is NaN, as in a product of matrices: also for weights that are dropped."""
    q, k, v, _ = arrays(1, 1, 100, 50, 8)
    v[0, 0, 20, 3] = np.nan
    mask = Mask.given(np.arange(50) != 20, keep=0.5)
    for options in ({}, {"mask": mask}, {"allowed": np.arange(50) != 20}):
        out = attention(q, k, v, **options)
        assert np.isnan(out[..., 3]).all()
        assert np.isfinite(np.delete(out, 3, -1)).all()
    assert np.isfinite(attention(q, k, v, lengths=[20])).all()


@each_dtype
def test_denormal_numbers(isa, dtype):
    """They count as in other products, and NumPy computes with them afterwards as before."""
    tiny = np.full((1, 1, 50, 8), np.finfo(dtype).smallest_normal / 4, dtype)
    q, k, _, dout = arrays(1, 1, 100, 50, 8, dtype=dtype)
    vanish = not masked_matmul(np.ones((1, 50), dtype), tiny[0, 0]).any()
    out, _, _, _, dv = both(q, k, tiny, dout * tiny[0, 0, 0])
    assert (not out.any()) == (not dv.any()) == vanish
    assert (tiny * dtype(0.5)).all()


def test_infinite_scores(isa):
    """-inf hides a key; +inf has no softmax."""
    q, k, v, _ = arrays(1, 1, 10, 50, 8)
    bias = np.zeros((10, 50), np.float32)
    bias[3, 4] = np.inf
    bias[5, 4] = np.nan
    out, sums = attention(q, k, v, bias=bias, return_logsumexp=True)
    assert np.isnan(out[0, 0, [3, 5]]).all()
    assert np.isnan(sums[0, 0, [3, 5]]).all()
    same([np.delete(out, [3, 5], 2)], [np.delete(attention(q, k, v), [3, 5], 2)])


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [1, 4])
def test_gradients_are_those_of_the_function(isa, causal, key_heads):
    """Central differences in float64, the mask held."""
    q, k, v, dout = arrays(2, 4, 6, 6, 3, 2, key_heads=key_heads, dtype=np.float64)
    bias = np.random.default_rng(5).normal(size=(4, 6, 6))
    bias[1, 2] = bias[2, :, 1] = -np.inf
    options = {"rate": 0.3, "key": KEY, "causal": causal, "bias": bias, "lengths": [6, 3]}
    _, _, *gradients = both(q, k, v, dout, **options)
    for array, gradient in zip((q, k, v), gradients, strict=True):
        wanted = differences(lambda: float((attention(q, k, v, **options) * dout).sum()), array)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-7, atol=1e-8)


# ---- memory --------------------------------------------------------------------------------------


def scratch(length, *, dtype=np.float32, backward=True, **options):
    """Bytes of the core's scratch memory that a call needs."""
    values = arrays(1, 1, length, length, 16, dtype=dtype)
    _core.release_scratch()
    out, sums = attention(*values[:3], return_logsumexp=True, **options)
    forward = _core.release_scratch()
    if not backward:
        return forward
    attention_backward(values[3], *values[:3], out, sums, **options)
    return _core.release_scratch()


@pytest.mark.parametrize("backward", [False, True])
def test_scratch_grows_with_the_length_and_not_with_its_square(restored, backward):
    for n in (1, 2):
        dropcore.set_num_threads(n)
        options = {"rate": 0.1, "key": 1, "backward": backward}
        short, long = scratch(1024, **options), scratch(4096, **options)
        assert 0 < short < long < 5 * short
        assert long < 4096 * 4096 * 4 / 8


PEAK = """
    import json, resource
    import numpy as np
    from dropcore import attention, attention_backward

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    q, k, v, dout = np.random.default_rng(0).normal(size=(4, 1, 1, 8192, 8)).astype(np.float32)
    small = [a[:, :, :64] for a in (q, k, v)]
    attention(*small, 0.1, key=1)
    before = peak()
    out, sums = attention(q, k, v, 0.1, key=1, return_logsumexp=True)
    attention_backward(dout, q, k, v, out, sums, 0.1, key=1)
    print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts kilobytes on Linux")
def test_memory_of_a_long_sequence():
    """Scores of 8192 x 8192 would take 256 MB."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 24 << 20

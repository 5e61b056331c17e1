"""The slow reference against known answers, hand-computed cases and the text of the contract.

The compiled core is compared with the reference, so the reference is compared with things that
share no code with it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dropcore import reference
from support import freeze_masks
from support.arrays import FLOATS, bits_of, norms

DATA = Path(__file__).parents[1] / "data"

MASK32 = 0xFFFFFFFF


def records(name):
    """The fields of each record of a text file of tests/data."""
    lines = (DATA / name).read_text(encoding="ascii").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


# The text of the contract once more, on plain Python integers and one element at a time.


def scalar_philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(7):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & MASK32, a >> 32 ^ c[3] ^ k[1], a & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c


def scalar_u32(seed, stream, step, domain, i):
    group, e = divmod(i, 128)
    u = 0
    for j in range(32):
        block = 32 * group + j
        counter = [block & MASK32, block >> 32, step, domain << 28 | stream]
        words = scalar_philox(counter, [seed & MASK32, seed >> 32])
        u += (words[e // 32] >> e % 32 & 1) << 31 - j
    return u


# Words and uniforms -------------------------------------------------------------------------------


def test_philox_known_answers():
    answers = records("philox_known_answers.txt")
    assert len(answers) == 3
    for fields in answers:
        numbers = [int(field, 16) for field in fields]
        np.testing.assert_array_equal(reference.philox(numbers[:4], numbers[4:6]), numbers[6:])
        assert scalar_philox(numbers[:4], numbers[4:6]) == numbers[6:]


def test_philox_is_elementwise():
    rng = np.random.default_rng(1)
    counters = rng.integers(0, 2**32, size=(3, 5, 4), dtype=np.uint32)
    key = rng.integers(0, 2**32, size=2, dtype=np.uint32)
    out = reference.philox(counters, key)
    assert out.dtype == np.uint32
    for place in np.ndindex(3, 5):
        one = scalar_philox([int(c) for c in counters[place]], [int(k) for k in key])
        np.testing.assert_array_equal(out[place], one)


def test_words_put_the_address_where_the_contract_says():
    seed, stream, step, domain, block = 0xA4093822_299F31D0, 0x5050505, 0x1234567, 2, 2**33 + 9
    expected = scalar_philox([9, 2, step, 0x25050505], [0x299F31D0, 0xA4093822])
    got = reference.words(seed, stream, step, block, 1, domain=domain)
    np.testing.assert_array_equal(got, [expected])
    # The known answers, as blocks of an address.
    for seed, stream, step, domain, block, answer in [
        (0, 0, 0, 0, 0, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        (
            *(2**64 - 1, 2**28 - 1, 2**32 - 1, 15, 2**64 - 1),
            (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662),
        ),
        (
            *(0x299F31D0_A4093822, 0x3707344, 0x13198A2E, 0, 0x85A308D3_243F6A88),
            (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
        ),
    ]:
        got = reference.words(seed, stream, step, block, 1, domain=domain)
        np.testing.assert_array_equal(got, [answer])


def test_uniform_is_the_text_of_the_contract():
    addresses = [(0, 0, 0, 0), (2**64 - 1, 2**28 - 1, 2**32 - 1, 2), (0x0123456789ABCDEF, 5, 9, 0)]
    starts = (0, 2**34 - 130, 2**40 + 13, 2**63 - 300)
    for seed, stream, step, domain in addresses:
        for start in starts:
            index = np.uint64(start) + np.arange(300, dtype=np.uint64)
            got = reference.uniform(seed, stream, step, index, domain=domain)
            expected = [
                scalar_u32(seed, stream, step, domain, int(i)) for i in range(start, start + 300)
            ]
            assert got.dtype == np.uint32
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(
                reference.uniforms(seed, stream, step, start, 300, domain=domain), expected
            )


def test_uniforms_are_the_uniform_of_each():
    # Twice across a limit of what is drawn at once.
    offset, count = 2**34 - 2**19 - 77, 2**20 + 200
    u = reference.uniforms(3, 1, 4, offset, count, domain=2)
    assert u.shape == (count,)
    at = np.random.default_rng(0).integers(0, count, 300)
    limit = 128 * reference.GROUPS_AT_ONCE
    for here in (0, limit, 2 * limit, count):
        at = np.append(at, [i for i in range(here - 150, here + 150, 7) if 0 <= i < count])
    at = np.append(at, count - 1)
    np.testing.assert_array_equal(u[at], reference.uniform(3, 1, 4, offset + at, domain=2))


def test_uniform_by_hand():
    # Random123's first known answer is block 0 of seed 0: plane 0 of group 0, the top bits of
    # elements 0 ... 127. The lowest bits of its four words, 9 = 0b1001, 4 = 0b0100, 1 = 0b0001 and
    # 8 = 0b1000, belong to the elements from 0, 32, 64 and 96 on, the highest, 5 = 0b0101, 0, 4 and
    # 4 = 0b0100, to those up to 31, 63, 95 and 127.
    first = reference.uniforms(0, 0, 0, 0, 128)
    top = (first >> np.uint32(31)).tolist()
    for e, bits in [
        (0, [1, 0, 0, 1]),
        (32, [0, 0, 1, 0]),
        (64, [1, 0, 0, 0]),
        (96, [0, 0, 0, 1]),
        (28, [1, 0, 1, 0]),
        (60, [0, 0, 0, 0]),
        (92, [0, 0, 1, 0]),
        (124, [0, 0, 1, 0]),
    ]:
        assert top[e : e + 4] == bits
    # Half is kept where the top bit is 0: ~5f6fb709 = a09048f6, ~0d893f64 = f276c09b,
    # ~4f121f81 = b0ede07e and ~4f730a48 = b08cf5b7, the lowest byte of each first.
    packed = reference.pack(reference.decisions(128, 0.5, seed=0))
    assert packed.tobytes().hex(" ", 4) == "f64890a0 9bc076f2 7ee0edb0 b7f58cb0"


def test_uniform_has_a_bit_of_each_block_of_its_group():
    # One element at a time of two groups of seed 0: bit 2 of word 1, bit 31 of word 3, bit 0 of
    # word 0. Block 0 is the highest bit and block 31 the lowest.
    blocks = [scalar_philox([block, 0, 0, 0], [0, 0]) for block in range(64)]
    for element, first_block, word, bit in [(34, 0, 1, 2), (127, 0, 3, 31), (128, 32, 0, 0)]:
        digits = [blocks[first_block + j][word] >> bit & 1 for j in range(32)]
        u = int(reference.uniform(0, 0, 0, element))
        assert u == int("".join(map(str, digits)), 2)
        assert u >> 31 == digits[0]
        assert u & 1 == digits[31]
    # Groups from 2^27 on have a high word: element 2^34 begins block 2^32, and the element before
    # is the last of a group whose last block is 2^32 - 1.
    u = reference.uniforms(0, 0, 0, 2**34 - 1, 33)
    assert u[0] & 1 == scalar_philox([MASK32, 0, 0, 0], [0, 0])[3] >> 31
    top = sum(int(x) >> 31 << e for e, x in enumerate(u[1:]))
    assert top == scalar_philox([0, 1, 0, 0], [0, 0])[0]


def test_noise_by_hand():
    key = [0x299F31D0, 0xA4093822]
    index = np.array([[0, 1, 2], [3, 4, 2**34 + 6]], dtype=np.uint64)
    blocks = [(0, 0), (1, 0), (1, 1)]
    by_block = [scalar_philox([low, high, 8, 1 << 28 | 3], key) for low, high in blocks]
    expected = [by_block[0][:3], [by_block[0][3], by_block[1][0], by_block[2][2]]]
    words = reference.noise_words(0xA4093822_299F31D0, 3, 8, index)
    np.testing.assert_array_equal(words, expected)
    u = reference.noise_uniform(0xA4093822_299F31D0, 3, 8, index)
    assert u.dtype == np.float64
    for place in np.ndindex(index.shape):
        # Exact: 33 bits fit in a float64.
        assert Fraction(float(u[place])) == (int(words[place]) + Fraction(1, 2)) / 2**32
    assert 0 < u.min() <= u.max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2**64, 0, 0, 0, 1), "seed"),
        ((2**64, 0, 0, 0, 0), "seed"),
        ((-1, 0, 0, 0, 1), "seed"),
        ((0, 2**28, 0, 0, 1), "stream"),
        ((0, 0, 2**32, 0, 1), "step"),
        ((0, 0, 0, -1, 1), "offset"),
        ((0, 0, 0, 2**63, 1), "offset"),
        ((0, 0, 0, 2**63 - 5, 6), "offset \\+ count"),
    ],
)
def test_addresses_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=f"^{message} must be in"):
        reference.uniforms(*arguments)


def test_indices_outside_their_range():
    with pytest.raises(ValueError, match="index"):
        reference.uniform(0, 0, 0, np.array([0, 2**63], dtype=np.uint64))
    with pytest.raises(ValueError, match="index"):
        reference.uniform(0, 0, 0, [-1])
    with pytest.raises(ValueError, match="domain"):
        reference.uniform(0, 0, 0, [0], domain=16)


def test_example_of_the_document():
    document = (Path(__file__).parents[2] / "docs" / "mask-contract.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", document, re.M | re.S)
    found = {}
    exec(compile(example, "mask-contract.md", "exec"), found)
    u = reference.uniforms(7, 3, 1, 124, 8)
    assert found["u"] == u.tolist()
    kept = reference.decisions(8, 0.75, seed=7, stream=3, step=1, offset=124)
    assert found["kept"] == kept.tolist()
    assert [found["packed"]] == reference.pack(kept).tolist()
    for digits in [*(f"{x:08x}" for x in found["u"]), f"byte {found['packed']:02x}"]:
        assert digits in document


# Thresholds ---------------------------------------------------------------------------------------

ULP_OF_ONE = 2.0**-53


@pytest.mark.parametrize(
    ("keep", "t"),
    [
        (0.0, 0),
        (-0.0, 0),
        (5e-324, 0),
        (2.0**-34, 0),
        (2.0**-33, 0),  # half: to even
        (math.nextafter(2.0**-33, 1), 1),
        (2.0**-32, 1),
        (1.5 * 2.0**-32, 2),  # half: to even
        (2.5 * 2.0**-32, 2),
        (math.nextafter(2.5 * 2.0**-32, 1), 3),
        (0.25, 2**30),
        (0.5, 2**31),
        (1 / 3, 0x55555555),
        (0.1, 0x1999999A),
        (np.float32(0.1), 429496736),  # 0.1 in float32 is 13421773 / 2**27: times 32 in all
        (np.float16(0.1), 0x19980000),
        (0.9, 0xE6666666),
        (1 - 2.0**-32, 2**32 - 1),
        (1 - 1.5 * 2.0**-32, 2**32 - 2),  # half: to even
        (math.nextafter(1 - 2.0**-33, 0), 2**32 - 1),
        (1 - 2.0**-33, 2**32),  # half: to even
        (1 - ULP_OF_ONE, 2**32),
        (1.0, 2**32),
        (1, 2**32),
        (True, 2**32),
    ],
)
def test_threshold(keep, t):
    assert reference.threshold(keep) == t
    assert isinstance(reference.threshold(keep), int)
    # round() of a Fraction is half to even on exact numbers.
    assert round(Fraction(float(keep)) * 2**32) == t


def test_threshold_of_many_is_exact():
    rng = np.random.default_rng(3)
    keep = np.concatenate(
        [
            rng.random(500),
            2.0 ** -rng.uniform(1, 40, 500),
            (rng.integers(0, 2**33, 500) / 2.0**33),  # halves and integers alone
        ]
    )
    expected = [round(Fraction(k) * 2**32) for k in keep.tolist()]
    got = reference.threshold(keep.reshape(3, 500))
    assert got.dtype == np.uint64
    np.testing.assert_array_equal(got.ravel(), np.array(expected, dtype=np.uint64))


@pytest.mark.parametrize("keep", [math.nan, math.inf, -math.inf, -1e-300, 1 + 2.0**-52, 2, -1])
def test_threshold_outside(keep):
    with pytest.raises(ValueError, match=re.escape("keep must be in [0, 1]")):
        reference.threshold(keep)
    with pytest.raises(ValueError, match=re.escape("keep must be in [0, 1]")):
        reference.decisions(3, [0.5, keep, 0.5], seed=0)


def test_scale():
    keep = np.array([0.0, 5e-324, 2.0**-33, 2.0**-32, 0.1, 0.3, 1 - 2.0**-53, 1.0])
    with np.errstate(all="raise"):
        got = reference.scale(keep)
    assert got.dtype == np.float64
    expected = [0, 0, 0, 2.0**32, 1 / 0.1, 1 / 0.3, 1 / (1 - 2.0**-53), 1]
    np.testing.assert_array_equal(got, expected)


# Decisions ----------------------------------------------------------------------------------------


def test_decisions_compare_each_index_with_its_threshold():
    keep = np.array([[0.0, 1.0, 0.5, 1 / 3, 0.9]])
    kept = reference.decisions((40, 5), keep, seed=11, stream=2, step=3, domain=2, offset=77)
    for r, c in np.ndindex(40, 5):
        u = scalar_u32(11, 2, 3, 2, 77 + 5 * r + c)
        assert kept[r, c] == (u < round(Fraction(float(keep[0, c])) * 2**32))
    assert not kept[:, 0].any()
    assert kept[:, 1].all()


def test_decisions_at_a_threshold_that_is_hit_exactly():
    # T = u keeps what is below u and not u itself; T = u + 1 keeps it.
    for i in range(64):
        u = scalar_u32(5, 0, 0, 0, i)
        assert not reference.decisions((), u / 2**32, seed=5, offset=i)
        assert reference.decisions((), (u + 1) / 2**32, seed=5, offset=i)


def test_decisions_of_every_rank():
    flat = reference.decisions(24, 0.5, seed=9, offset=3)
    np.testing.assert_array_equal(
        reference.decisions((2, 3, 4), 0.5, seed=9, offset=3), flat.reshape(2, 3, 4)
    )
    assert reference.decisions((), 0.5, seed=9, offset=3) == flat[0]
    assert reference.decisions((), 0.5, seed=9).shape == ()
    for shape in [(0,), (3, 0), (0, 3)]:
        assert reference.decisions(shape, 0.5, seed=9).shape == shape
    assert reference.decisions(0, 0.5, seed=9, offset=2**63 - 1).shape == (0,)
    assert reference.decisions(5, 0.5, seed=9, offset=2**63 - 5).shape == (5,)
    with pytest.raises(ValueError, match=r"offset \+ count"):
        reference.decisions(6, 0.5, seed=9, offset=2**63 - 5)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 12, 13])
def test_runs_share_a_decision_and_the_last_may_be_short(last):
    n = -(-last // 4)
    drawn = reference.decisions((3, n), 0.5, seed=4, offset=10)
    kept = reference.decisions((3, last), 0.5, seed=4, offset=10, run=4)
    assert kept.shape == (3, last)
    for r, c in np.ndindex(3, last):
        assert kept[r, c] == drawn[r, c // 4]


def test_keep_of_runs_has_the_shape_that_is_drawn():
    keep = np.array([0.0, 1.0, 0.0])
    kept = reference.decisions((2, 8), keep, seed=4, run=3)
    np.testing.assert_array_equal(kept, [[0, 0, 0, 1, 1, 1, 0, 0]] * 2)
    with pytest.raises(ValueError, match="broadcast"):
        reference.decisions((2, 8), np.ones(8), seed=4, run=3)
    with pytest.raises(ValueError, match="run"):
        reference.decisions((), 0.5, seed=4, run=2)
    with pytest.raises(ValueError, match="run"):
        reference.decisions(3, 0.5, seed=4, run=0)


def test_keep_never_enlarges_the_mask():
    for keep_shape in [(1, 1, 3), (5,), (4, 3)]:
        with pytest.raises(ValueError):
            reference.decisions((1, 3), np.full(keep_shape, 0.5), seed=0)


def test_pack():
    kept = np.zeros((3, 3), dtype=bool)
    kept[0, 0] = kept[0, 2] = kept[2, 1] = kept[2, 2] = True
    np.testing.assert_array_equal(reference.pack(kept), [0b10000101, 0b00000001])
    assert reference.pack(kept).dtype == np.uint8
    np.testing.assert_array_equal(reference.pack(kept.T), [0b01100001, 0b00000001])
    assert reference.pack(np.zeros((0, 3), dtype=bool)).shape == (0,)
    np.testing.assert_array_equal(reference.pack(True), [1])


# Frozen files -------------------------------------------------------------------------------------


def test_frozen_files_are_what_the_reference_writes():
    frozen = freeze_masks.frozen()
    assert sorted(frozen) == ["frozen_masks.txt", "frozen_normals.txt", "frozen_words.txt"]
    for name, text in frozen.items():
        assert (DATA / name).read_bytes() == text.encode("ascii"), name
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 300_000


def test_frozen_masks_read_from_their_header_alone():
    """A reader that knows the file's header and the text of the contract, and no reference."""
    lines = records("frozen_masks.txt")
    assert max(map(len, (DATA / "frozen_masks.txt").read_text().splitlines())) < 4400
    checked = ties = 0
    for number, (seed, stream, step, domain, offset, size, t, keep, bits) in enumerate(lines):
        t, size, offset = int(t, 16), int(size), int(offset)
        assert t == round(Fraction(float.fromhex(keep)) * 2**32)
        packed = bytes.fromhex(bits)
        assert len(packed) == (size + 7) // 8 <= 2048
        assert size % 8 == 0 or packed[-1] >> size % 8 == 0
        address = int(seed, 16), int(stream), int(step), int(domain)
        # All of the short masks, and one element in 37 of the others, from another start each time.
        for i in range(size) if size < 8 else range(number % 37, size, 37):
            u = scalar_u32(*address, offset + i)
            assert packed[i // 8] >> i % 8 & 1 == (u < t)
            checked += 1
            ties += u >> 24 == t >> 24
    assert len(lines) == 735
    assert checked > 5000
    assert ties >= 20


def drawn_and_kept(fields):
    """The uniforms, the threshold and the decisions of a record of the frozen masks."""
    seed, stream, step, domain, offset, size, t, _, bits = fields
    u = reference.uniforms(
        int(seed, 16), int(stream), int(step), int(offset), int(size), domain=int(domain)
    )
    packed = np.frombuffer(bytes.fromhex(bits), np.uint8)
    kept = np.unpackbits(packed, count=int(size), bitorder="little").view(bool)
    return u, int(t, 16), kept


def test_frozen_masks_meet_ties():
    """In each long mask enough elements agree with T in eight planes to need those below."""
    long = [fields for fields in records("frozen_masks.txt") if int(fields[5]) > 10000]
    assert len(long) == 6
    for fields in long:
        u, t, kept = drawn_and_kept(fields)
        tied = u >> np.uint32(24) == t >> 24
        assert 30 < tied.sum() < 110
        np.testing.assert_array_equal(kept[tied], u[tied] < np.uint64(t))


def test_frozen_masks_meet_the_last_plane():
    """For each address an element is dropped because its uniform is T, and kept with T + 1."""
    found = {False: set(), True: set()}
    for fields in records("frozen_masks.txt"):
        if int(fields[5]) == 200:
            u, t, kept = drawn_and_kept(fields)
            exact, below = u == t, u == t - 1
            assert exact[100] or below[100]
            assert not kept[exact].any()
            assert kept[below].all()
            found[bool(kept[100])].add(tuple(fields[:4]))
    assert len(found[False]) == len(found[True]) == 7


def test_frozen_words_read_from_their_header_alone():
    kinds = {"block": 0, "uniform": 0, "noise": 0}
    for kind, seed, stream, step, domain, number, *values in records("frozen_words.txt"):
        seed, stream, step, domain = int(seed, 16), int(stream), int(step), int(domain)
        number, values = int(number), [int(value, 16) for value in values]
        key = [seed & MASK32, seed >> 32]
        last = domain << 28 | stream
        if kind == "block":
            assert values == scalar_philox([number & MASK32, number >> 32, step, last], key)
        elif kind == "uniform":
            assert values == [scalar_u32(seed, stream, step, domain, number)]
        else:
            block = number // 4
            w = scalar_philox([block & MASK32, block >> 32, step, last], key)
            assert domain == 1
            assert values == [w[number % 4]]
        kinds[kind] += 1
    assert min(kinds.values()) >= 40


# Dropout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dropout_selects(dtype):
    x = np.array([1, -1, -0.0, np.nan, np.inf, -np.inf, np.nan, np.inf, -2], dtype=dtype)
    kept = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
    y = reference.dropout(x, kept, 2.0)
    assert y.dtype == dtype
    expected = np.array([2, -2, -0.0, 0, 0, 0, np.nan, np.inf, 0], dtype=dtype)
    assert np.isnan(y[6])
    # How a NaN's payload travels is no promise.
    numbers = np.arange(9) != 6
    np.testing.assert_array_equal(bits_of(y)[numbers], bits_of(expected)[numbers])


def test_dropout_rounds_the_scale_once_to_float32():
    # 1 / 0.3 is nearest to 13981013 / 2**22 in float32. Five times that, 69905065 / 2**22, needs
    # 27 bits and is nearest to a multiple of 2**-19.
    s = 1 / 0.3
    y = reference.dropout(np.array([1, 5], dtype=np.float32), True, s)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [13981013 / 2**22, round(69905065 / 8) / 2**19])
    y = reference.dropout(np.array([1.0, 5.0]), True, s)
    np.testing.assert_array_equal(y, [s, 5 * s])


def test_dropout_of_float32_rounds_to_nearest_even():
    # 1 + 2**-23 times 1.5 is 1.5 + 1.5 * 2**-23: a tie between mantissas ...0001 and ...0010.
    one_up = np.nextafter(np.float32(1), np.float32(2))
    assert reference.dropout(one_up, True, 1.5) == np.float32(1.5 + 2.0**-22)
    # And subnormals are not flushed.
    tiny = np.array([1, 3], dtype=np.uint32).view(np.float32)
    np.testing.assert_array_equal(reference.dropout(tiny, True, 1.5).view(np.uint32), [2, 4])


def test_dropout_of_16_bits_multiplies_in_float32():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    s = 1 / 0.9
    with np.errstate(all="ignore"):
        product = x.astype(np.float64) * float(np.float32(s))  # 11 + 24 bits: exact
        expected = product.astype(np.float32).astype(np.float16)
    y = reference.dropout(x, True, s)
    finite = ~np.isnan(x)
    np.testing.assert_array_equal(bits_of(y)[finite], bits_of(expected)[finite])
    assert np.isnan(y[~finite]).all()


def test_dropout_broadcasts_mask_and_scale_but_never_x():
    x = np.arange(1, 7, dtype=np.float64).reshape(2, 3)
    y = reference.dropout(x, np.array([[True], [False]]), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(y, [[1, 4, 12], [0, 0, 0]])
    with pytest.raises(ValueError, match="broadcast"):
        reference.dropout(x[:1], np.ones((2, 3), dtype=bool), 1.0)
    assert reference.dropout(np.float32(3), True, 2.0).shape == ()
    assert reference.dropout(np.zeros((0, 3)), True, 2.0).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64, object])
def test_dropout_takes_floats_only(dtype):
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
        reference.dropout(np.zeros(3, dtype=dtype), True, 1.0)


# The masked product -------------------------------------------------------------------------------


def test_masked_matmul_by_hand():
    x = np.array([[1.0, 2.0], [3.0, np.nan]])
    w = np.array([[1.0, -1.0, np.inf], [10.0, 0.0, 1.0]])
    bias = [0.5, 0.0, -100.0]
    x_mask = ([[True, True], [True, False]], 2.0)
    w_mask = ([[True, True, False], [True, True, True]], 4.0)
    y_mask = ([[True, True, True], [False, True, True]], 3.0)
    # X = [[2, 4], [6, 0]], W = [[4, -4, 0], [40, 0, 4]]: X @ W = [[168, -8, 16], [24, -24, 0]].
    y = reference.masked_matmul(x, w, bias, x_mask=x_mask, w_mask=w_mask, y_mask=y_mask)
    np.testing.assert_array_equal(y, [[505.5, -24, -252], [0, -72, -300]])
    y = reference.masked_matmul(
        x, w, bias, x_mask=x_mask, w_mask=w_mask, y_mask=y_mask, activation="relu"
    )
    np.testing.assert_array_equal(y, [[505.5, 0, 0], [0, 0, 0]])


def test_masked_matmul_with_a_mask_of_the_weights_for_each_sample():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    kept = rng.random((3, 4, 5)) < 0.5
    y = reference.masked_matmul(x, w, w_mask=(kept, 2.0))
    for b in range(3):
        np.testing.assert_allclose(y[b], x[b] @ np.where(kept[b], 2 * w, 0), rtol=1e-13)
    with pytest.raises(ValueError, match="3 masks of the weights for 2 samples"):
        reference.masked_matmul(x[:2], w, w_mask=(kept, 2.0))


@pytest.mark.parametrize("function", [reference.masked_matmul, reference.masked_matmul_backward])
def test_masked_matmul_activation(function):
    x, w = np.ones((2, 3)), np.ones((3, 4))
    arguments = (x, w) if function is reference.masked_matmul else (np.ones((2, 4)), x, w, x @ w)
    with pytest.raises(ValueError, match="activation must be None or 'relu', got 'gelu'"):
        function(*arguments, activation="gelu")


CASES = {
    "plain": ((6, 4), None, None, None),
    "element": ((6, 4), (6, 4), None, (6, 5)),
    "unit": ((6, 4), (1, 4), None, (1, 5)),
    "groups": ((2, 3, 4), (2, 1, 4), None, (2, 1, 5)),
    "weight": ((6, 4), None, (4, 5), None),
    "weight row": ((6, 4), None, (4, 1), (6, 1)),
    "weight per sample": ((6, 4), (6, 4), (6, 4, 5), (6, 5)),
    "weight per group": ((2, 3, 4), None, (2, 4, 5), (1, 5)),
    "three axes": ((2, 3, 4), (2, 3, 4), (4, 5), (2, 3, 5)),
    "vector": ((4,), (4,), (4, 5), (5,)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_masked_matmul_backward_is_the_derivative(case, activation):
    x_shape, *mask_shapes = CASES[case]
    rng = np.random.default_rng(7)
    masks = dict.fromkeys(("x_mask", "w_mask", "y_mask"))
    for name, shape in zip(masks, mask_shapes, strict=True):
        if shape is not None:
            # A scale of its own for each unit of the last axis, as arrays of keep give.
            masks[name] = (rng.random(shape) < 0.6, rng.uniform(1, 3, size=shape[-1:]))
    x, w, bias = rng.normal(size=x_shape), rng.normal(size=(4, 5)), rng.normal(size=5)

    def loss(x, w, bias):
        return float(np.sum(dy * reference.masked_matmul(x, w, bias, **masks, **act)))

    act = {"activation": activation}
    y = reference.masked_matmul(x, w, bias, **masks, **act)
    dy = rng.normal(size=y.shape)
    gradients = reference.masked_matmul_backward(dy, x, w, y, **masks, **act)
    for which, (value, gradient) in enumerate(zip((x, w, bias), gradients, strict=True)):
        assert gradient.shape == value.shape
        numeric = np.empty_like(value)
        for place in np.ndindex(value.shape):
            shifted = [[x, w, bias], [x, w, bias]]
            for side, h in zip(shifted, (1e-6, -1e-6), strict=True):
                side[which] = value.copy()
                side[which][place] += h
            numeric[place] = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-6
        np.testing.assert_allclose(gradient, numeric, rtol=2e-7, atol=2e-7)


def test_masked_matmul_backward_by_selection():
    """A NaN or an infinity in what was dropped reaches no gradient."""
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    w = np.array([[1.0, np.inf], [2.0, 4.0]])
    dy = np.array([[1.0, np.nan], [1.0, 1.0]])
    masks = {
        "x_mask": ([[True, False], [True, True]], 2.0),
        "w_mask": ([[True, False], [True, True]], 2.0),
        "y_mask": ([[True, False], [True, True]], 2.0),
    }
    y = reference.masked_matmul(x, w, **masks)
    dx, dw, dbias = reference.masked_matmul_backward(dy, x, w, y, **masks)
    # dz = [[2, 0], [2, 2]], X = [[2, 0], [4, 6]], W = [[2, 0], [4, 8]].
    np.testing.assert_array_equal(dx, [[8, 0], [8, 48]])
    np.testing.assert_array_equal(dw, [[24, 0], [24, 24]])
    np.testing.assert_array_equal(dbias, [4, 2])


# Max-norm -----------------------------------------------------------------------------------------


def test_max_norm_by_hand():
    w = np.array([[3.0, 0.0, 0.6], [4.0, 0.0, 0.8]], dtype=np.float32)
    got = reference.max_norm(w, 2.5, axis=0)
    np.testing.assert_allclose(got[:, 0], [1.5, 2.0], rtol=1e-7)
    np.testing.assert_array_equal(got[:, 1:], w[:, 1:])
    np.testing.assert_array_equal(w[:, 0], [3, 4])  # a copy
    assert got.dtype == np.float32


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 1), (2, 0), (0, 1, 2)])
def test_max_norm_holds_and_is_idempotent(dtype, axis):
    rng = np.random.default_rng(2)
    w = (rng.normal(size=(7, 5, 6)) * rng.uniform(0, 1, (7, 1, 1))).astype(dtype)
    # Some vectors are inside, unless there is only one.
    bound = 0.9 * float(np.median(norms(w, axis, keepdims=True)))
    got = reference.max_norm(w, bound, axis)
    assert got.dtype == dtype
    assert got.shape == w.shape
    assert (norms(got, axis, keepdims=True) <= bound * (1 + 1e-15)).all()
    inside = np.broadcast_to(norms(w, axis, keepdims=True) <= bound, w.shape)
    assert not inside.all()
    np.testing.assert_array_equal(bits_of(got)[inside], bits_of(w)[inside])
    # What was outside comes to rest next to the bound, in its own direction.
    eps = 2.0 ** {"bfloat16": -7, "float16": -10, "float32": -23, "float64": -52}[dtype.name]
    wide = w.astype(np.float64)
    nearest = wide * np.minimum(1, bound / norms(w, axis, keepdims=True))
    np.testing.assert_allclose(got.astype(np.float64), nearest, rtol=4 * eps, atol=1e-6)
    again = reference.max_norm(got, bound, axis)
    np.testing.assert_array_equal(bits_of(again), bits_of(got))


def test_max_norm_does_not_overflow_or_vanish():
    for dtype, big in [(np.float16, 60000), (np.float32, 3e38), (np.float64, 1.7e308)]:
        w = np.full((4, 2), big, dtype=dtype)
        got = reference.max_norm(w, 1.0, axis=0)
        np.testing.assert_allclose(got.astype(np.float64), 0.5, rtol=1e-3)
    tiny = np.full((4, 1), 5e-324)
    np.testing.assert_array_equal(reference.max_norm(tiny, 3.0, axis=0), tiny)
    np.testing.assert_array_equal(reference.max_norm(tiny, 0.0, axis=0), np.zeros((4, 1)))


def test_max_norm_leaves_what_is_not_finite():
    w = np.array([[np.nan, np.inf, 30.0], [30.0, 30.0, 40.0]])
    got = reference.max_norm(w, 5.0, axis=0)
    np.testing.assert_array_equal(got[:, :2], w[:, :2])
    np.testing.assert_allclose(got[:, 2], [3, 4])


def test_max_norm_of_the_corners():
    assert reference.max_norm(np.zeros((0, 3)), 1.0, axis=0).shape == (0, 3)
    np.testing.assert_array_equal(reference.max_norm(np.zeros((2, 2)), 0.0, axis=1), 0)
    w = np.full((2, 2), 1e300)
    np.testing.assert_array_equal(reference.max_norm(w, math.inf, axis=1), w)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be at least 0"):
            reference.max_norm(w, bad, axis=1)

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
    assert sorted(frozen) == [
        f"frozen_{what}.txt" for what in ("masks", "normals", "permutations", "words")
    ]
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


# The masked product -------------------------------------------------------------------------------


# Max-norm -----------------------------------------------------------------------------------------

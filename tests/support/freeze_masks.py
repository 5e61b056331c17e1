"""Write the frozen masks, words, normals and permutations under tests/data from the slow reference.

The files are the mask contract in numbers: any implementation, in any language, reproduces them.
They were written once and are checked in; running this again gives the same bytes, which a test
asserts. A difference means that the contract was broken, not that the files are old.

    python tests/support/freeze_masks.py            write the files
    python tests/support/freeze_masks.py --check    exit 1 if the files differ from it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

import numpy as np

from dropcore import reference

DATA = Path(__file__).parents[1] / "data"

# (seed, stream, step, domain). Their number shares no factor with the numbers of offsets, sizes
# and keeps below, so that each of those meets every address.
ADDRESSES = (
    (0, 0, 0, 0),
    (1, 0, 0, 0),
    (7, 3, 1, 0),
    (0x0123456789ABCDEF, 5, 1000, 0),
    (2**64 - 1, 2**28 - 1, 2**32 - 1, 0),
    (0, 0, 0, 2),
    (0xFEDCBA9876543210, 1, 70000, 2),
)
KEEPS = (
    *(0.0, 2.0**-32, 1e-4, 0.1, 1 / 3, 0.8, 0.9, 1 - 2.0**-32, 1.0),
    *(0.5, 0.75, 0.875, 230 / 256),  # decided by one, two, three and seven planes
)
# A group is 128 elements and 32 blocks. At elements 2^34 and 2^36 the low word of the block number
# wraps: it is 0 there, and 2^32 - 1 just before.
OFFSETS = (0, 1, 7, 127, 128, 129, 2**34 - 100, 2**36, 2**40 + 13, 2**62 + 5, 2**63 - 1000)
SIZES = (1, 127, 128, 129, 1000)

# One element in 256 has the top eight bits of T in its top eight planes, and only there the planes
# below decide. These masks are long enough to meet some 64 of those elements, with the other 24
# bits of T mixed (1 / 3), in one plane that is the ninth or the last, in all planes, and behind top
# planes that are all 0 or all 1. They go across the element where the low word of the block wraps.
TIES = (
    1 / 3,
    0x80800000 / 2**32,
    0x80000001 / 2**32,
    0x80FFFFFF / 2**32,
    0x00800000 / 2**32,
    0xFF800000 / 2**32,
)
TIES_SIZE = 16384
TIES_OFFSET = 2**34 - 5000

# Random thresholds hardly ever depend on the lowest planes. Here T is the uniform of the element in
# the middle of the mask, which drops that element, and one more, which keeps it.
EXACT_SIZE = 200
EXACT_OFFSET = 2**34 - 77

# Rows of permutations: few, powers of two and their neighbours, and numbers of 32 bits and more.
ROWS = (
    *(1, 2, 3, 4, 5, 10, 127, 128, 129, 1000, 60000, 2**16 - 1, 2**16 + 1),
    *(2**32 - 1, 2**32, 2**32 + 1, 10**10, 2**40 + 15, 2**62, 2**63 - 1),
)

MASKS_HEADER = """\
# Frozen masks of the dropcore mask contract, version 2.
#
# One record a line, nine fields separated by single spaces. Lines that start with # are comments.
# The longest line has fewer than 4400 characters and the largest mask 16384 elements.
#
#   seed    64 bits, hexadecimal with 0x
#   stream  28 bits, decimal
#   step    32 bits, decimal
#   domain  0: decisions while training, 2: decisions of Monte Carlo prediction
#   offset  decimal, below 2^63: the index of the first element
#   size    decimal: how many elements, at indices offset, offset + 1, ...
#   T       hexadecimal with 0x: round(keep * 2^32), half to even, 33 bits
#   keep    the fraction kept, as a C99 hexadecimal floating-point number (strtod reads it)
#   bits    the packed mask, ceil(size / 8) bytes of two hexadecimal digits each, first byte first;
#           bit k of byte b (bit 0 is the least significant) is element 8 b + k, 1 is kept, and the
#           padding bits of the last byte are 0
#
"""

WORDS_HEADER = """\
# Frozen words of the dropcore mask contract, version 2.
#
# One record a line, fields separated by single spaces. Lines that start with # are comments. The
# first field says what the record is; the next four are its address.
#
#   block    seed stream step domain number w0 w1 w2 w3   the four words of block `number`
#   uniform  seed stream step domain index u32            the uniform that a decision at `index`
#                                                         compares with T
#   noise    seed stream step domain index word           the word that a noise element reads
#
#   seed 64 bits, hexadecimal with 0x; stream 28 bits, step 32 bits and domain 4 bits, decimal;
#   number and index decimal, below 2^63; words hexadecimal, eight digits without 0x
#
"""


NORMALS_HEADER = """\
# Frozen normals of the dropcore mask contract, version 2.
#
# One record a line, fields separated by single spaces. Lines that start with # are comments.
#
#   seed stream step   the key: hexadecimal with 0x, decimal, decimal
#   index              of the noise element, decimal, below 2^63
#   word               that it reads in domain 1, hexadecimal, eight digits without 0x
#   normal             the inverse normal CDF of (word + 0.5) / 2^32, rounded to float32, as a C99
#                      hexadecimal floating-point number; an implementation has the word exactly and
#                      the normal within 4 units in the last place of a float32
#
"""


PERMUTATIONS_HEADER = """\
# Frozen permutations of the dropcore mask contract, version 2.
#
# One record a line, fields separated by single spaces. Lines that start with # are comments.
#
#   seed    64 bits, hexadecimal with 0x
#   stream  21 bits, decimal
#   step    32 bits, decimal: the epoch
#   n       decimal, below 2^63: how many rows the permutation has
#   place   decimal, below n: the place of the first row
#   rows    decimal: the rows at this place and those that follow it, at most eight
#
"""


def masks() -> Iterator[str]:
    """The records of ``frozen_masks.txt``."""
    address = cycle(ADDRESSES)
    for keep, offset, size in product(KEEPS, OFFSETS, SIZES):
        yield mask(next(address), offset, size, keep)
    for keep in TIES:
        yield mask(next(address), TIES_OFFSET, TIES_SIZE, keep)
    for seed, stream, step, domain in ADDRESSES:
        middle = EXACT_OFFSET + EXACT_SIZE // 2
        u32 = int(reference.uniform(seed, stream, step, middle, domain=domain))
        for t in (u32, u32 + 1):
            yield mask((seed, stream, step, domain), EXACT_OFFSET, EXACT_SIZE, t / 2**32)


def mask(address: tuple[int, int, int, int], offset: int, size: int, keep: float) -> str:
    """One record: an address, where the mask starts, how long it is, and its packed bits."""
    seed, stream, step, domain = address
    kept = reference.decisions(
        size, keep, seed=seed, stream=stream, step=step, domain=domain, offset=offset
    )
    bits = reference.pack(kept).tobytes().hex()
    t = reference.threshold(keep)
    return f"{seed:#018x} {stream} {step} {domain} {offset} {size} {t:#011x} {keep.hex()} {bits}\n"


def words() -> Iterator[str]:
    """The records of ``frozen_words.txt``."""
    for (seed, stream, step, domain), block in product(
        (*ADDRESSES, (7, 3, 1, 1)), (0, 1, 31, 32, 2**32 - 1, 2**32, 2**61 - 1)
    ):
        four = reference.words(seed, stream, step, block, 1, domain=domain)[0]
        digits = " ".join(f"{int(word):08x}" for word in four)
        yield f"block {seed:#018x} {stream} {step} {domain} {block} {digits}\n"

    # All 128 elements of one group, and the same few elements of every address.
    for address, index in (
        *product(ADDRESSES[3:4], range(128)),
        *product(ADDRESSES, (0, 1, 31, 32, 63, 64, 96, 127, *OFFSETS[4:], 2**63 - 1)),
    ):
        seed, stream, step, domain = address
        u32 = int(reference.uniform(seed, stream, step, index, domain=domain))
        yield f"uniform {seed:#018x} {stream} {step} {domain} {index} {u32:08x}\n"

    for address, index in product(ADDRESSES[:5], (0, 1, 2, 3, 4, 1000, 2**34, 2**63 - 1)):
        seed, stream, step, _ = address
        word = int(reference.noise_words(seed, stream, step, index))
        yield f"noise {seed:#018x} {stream} {step} 1 {index} {word:08x}\n"


def normals() -> Iterator[str]:
    """The records of ``frozen_normals.txt``."""
    for (seed, stream, step, _), first in product(ADDRESSES[:5], (0, 63, 2**34 - 2, 2**62 + 5)):
        for index in range(first, first + 4):
            word = int(reference.noise_words(seed, stream, step, index))
            value = float(np.float32(reference.normal(seed, stream, step, index)))
            yield f"{seed:#018x} {stream} {step} {index} {word:08x} {value.hex()}\n"


def permutations() -> Iterator[str]:
    """The records of ``frozen_permutations.txt``."""
    keys = ((0, 0, 0), (1, 0, 0), (0, 0, 1), (0xFEDCBA9876543210, 2**21 - 1, 2**32 - 1))
    for (seed, stream, step), n in product(keys, ROWS):
        for place in sorted({0, n // 3, max(0, n - 8)}):
            index = np.arange(place, min(place + 8, n), dtype=np.int64)
            found = reference.permutation(n, index, seed=seed, stream=stream, step=step)
            rows = " ".join(map(str, found.tolist()))
            yield f"{seed:#018x} {stream} {step} {n} {place} {rows}\n"


def frozen() -> dict[str, str]:
    """What each file of tests/data holds, by name."""
    return {
        "frozen_masks.txt": MASKS_HEADER + "".join(masks()),
        "frozen_words.txt": WORDS_HEADER + "".join(words()),
        "frozen_normals.txt": NORMALS_HEADER + "".join(normals()),
        "frozen_permutations.txt": PERMUTATIONS_HEADER + "".join(permutations()),
    }


def main() -> int:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    check = parser.parse_args().check
    differ = []
    for name, text in frozen().items():
        path = DATA / name
        if not check:
            path.write_text(text, encoding="ascii", newline="\n")
        elif path.read_bytes() != text.encode("ascii"):
            differ.append(name)
    if differ:
        print("differ from the reference:", ", ".join(differ))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())

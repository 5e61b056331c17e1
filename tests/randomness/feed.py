"""Stream random bytes from the compiled core to standard output until the reader has enough.

    python tests/randomness/feed.py words | dieharder -a -g 200
    python tests/randomness/feed.py masks | dieharder -a -g 200
    python tests/randomness/feed.py masks --keep 0.9 | debias | dieharder -a -g 200

``words`` are the Philox words in block order. ``masks`` are packed masks, which is what a user of
the library gets. At a keep other than 0.5 their bits are biased, and `debias.c` makes fair ones of
them. `run_dieharder.sh` puts the pipes together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import count

from dropcore import Key, Mask, _core

CHUNK = 2**24  # bytes at a time


def words(key: Key) -> Iterator[bytes]:
    """The words of blocks 0, 1, 2, ... as little-endian bytes."""
    blocks = CHUNK // 16
    for chunk in count():
        drawn = _core.words(key.seed, key.stream, key.step, 0, chunk * blocks, blocks)
        yield drawn.astype("<u4", copy=False).tobytes()


def masks(key: Key, keep: float) -> Iterator[bytes]:
    """The packed decisions at indices 0, 1, 2, ..."""
    size = CHUNK * 8
    for chunk in count():
        yield Mask((size,), keep=keep, key=key, offset=chunk * size).packed().tobytes()


def main() -> int:
    """Write chunks until the pipe closes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stream", choices=["words", "masks"])
    parser.add_argument("--seed", type=int, default=1, help="of the key (1)")
    parser.add_argument("--keep", type=float, default=0.5, help="of the masks (0.5)")
    arguments = parser.parse_args()
    key = Key(arguments.seed)
    source = words(key) if arguments.stream == "words" else masks(key, arguments.keep)
    try:
        for chunk in source:
            sys.stdout.buffer.write(chunk)
    except BrokenPipeError:
        # The reader is done. Python would complain once more while it closes standard output.
        sys.stdout = None
    return 0


if __name__ == "__main__":
    sys.exit(main())

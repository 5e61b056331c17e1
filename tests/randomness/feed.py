"""Stream random bytes from the compiled core to standard output until the reader has enough.

    python tests/randomness/feed.py words | dieharder -a -g 200
    python tests/randomness/feed.py masks | dieharder -a -g 200

``words`` are the Philox words in block order, ``masks`` packed masks at keep = 0.5: what a user of
the library gets, byte per byte of the uniforms compared with a threshold.
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


def masks(key: Key) -> Iterator[bytes]:
    """The packed decisions at indices 0, 1, 2, ... at keep = 0.5."""
    size = CHUNK * 8
    for chunk in count():
        yield Mask((size,), keep=0.5, key=key, offset=chunk * size).packed().tobytes()


def main() -> int:
    """Write chunks until the pipe closes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stream", choices=["words", "masks"])
    parser.add_argument("--seed", type=int, default=1, help="of the key (1)")
    arguments = parser.parse_args()
    source = {"words": words, "masks": masks}[arguments.stream]
    try:
        for chunk in source(Key(arguments.seed)):
            sys.stdout.buffer.write(chunk)
    except BrokenPipeError:
        # The reader is done. Python would complain once more while it closes standard output.
        sys.stdout = None
    return 0


if __name__ == "__main__":
    sys.exit(main())

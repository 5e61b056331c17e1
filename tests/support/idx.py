"""Files in the idx format of MNIST, written by NumPy."""

from __future__ import annotations

import gzip
import struct

import numpy as np

BYTES = 0x08


def idx(array, code=BYTES):
    """The idx file of an array, whose dtype has this code."""
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + lengths + array.tobytes()


def write_mnist(folder, rng, *, train, test):
    """So many digits that are a bright row each, under the names of MNIST's files."""
    folder.mkdir()
    for part, n in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        images[np.arange(n), 2 * labels] = 255
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(array), compresslevel=1)
            (folder / f"{part}-{what}-ubyte.gz").write_bytes(content)

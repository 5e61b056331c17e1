"""Arrays from .npy, .npz and idx files, memory-mapped where possible."""

from __future__ import annotations

import gzip
import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dropcore.data._files import existing_file

__all__ = ["read_arrays", "read_idx"]

_NPY: Final = b"\x93NUMPY"
_ZIP: Final = (b"PK\3\4", b"PK\5\6")
_GZIP: Final = b"\x1f\x8b"
_GZIP_RATIO: Final = 1032
"""A byte of gzip holds at most so many bytes."""

_DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # encrypted, or compressed by a method that zipfile does not know
    OSError,  # an address outside the file
    UnicodeDecodeError,
)
"""What zipfile raises."""

_IDX_DTYPES: Final = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_LOCAL_HEADER: Final = 30
_HEADER_LIMIT: Final = 1 << 16


def read_arrays(path: str | os.PathLike[str]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Read arrays from a file, memory-mapped where possible.

    Parameters
    ----------
    path : path
        A file of NumPy (.npy, .npz), or of the idx format of MNIST, which may be compressed by
        gzip. The content decides, not the name.

    Returns
    -------
    ndarray, or dict of str to ndarray
        The array of a .npy or idx file; the arrays of a .npz file by their names. They are
        read-only memory maps, from which `fit` takes one batch after the other, except that arrays
        of a compressed file are loaded.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If it is of another format, is damaged, or holds Python objects, whose loading could run
        code. The size of the file is compared with its header before memory is allocated.

    Examples
    --------
    >>> x = read_arrays("x.npy")  # doctest: +SKIP
    >>> arrays = read_arrays("data.npz")  # doctest: +SKIP
    >>> model.fit(arrays["x"], arrays["y"], epochs=10)  # doctest: +SKIP
    """
    file = existing_file("read_arrays", path)
    with file.open("rb") as stream:
        magic = stream.read(6)
    if magic == _NPY:
        return _read_npy(file)
    if magic.startswith(_ZIP):
        return _read_npz(file)
    if magic.startswith(_GZIP) or _is_idx(magic):
        return read_idx(file)
    if not magic:
        raise ValueError(f"read_arrays: {file} is empty")
    raise ValueError(
        f"read_arrays: {file} must be a .npy, .npz or idx file, and begins with {magic!r}; use "
        "dropcore.data.read_table for CSV and Parquet"
    )


# --- NumPy's formats -----------------------------------------------------------------------------


def _read_npy(file: Path) -> NDArray[Any]:
    what = f"read_arrays: {file}"
    with file.open("rb") as stream:
        shape, fortran, dtype = _header(what, stream)
        start = stream.tell()
    return _mapped(what, file, start, file.stat().st_size - start, shape, fortran, dtype)


def _read_npz(file: Path) -> dict[str, NDArray[Any]]:
    found = {}
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    raise ValueError(
                        f"read_arrays: {file} must hold .npy files, as numpy.savez writes, got "
                        f"{info.filename!r}"
                    )
                name = info.filename.removesuffix(".npy")
                found[name] = _read_member(file, archive, info, raw)
    except _DAMAGED as error:
        raise ValueError(f"read_arrays: {file} is damaged: {error}") from None
    if not found:
        raise ValueError(f"read_arrays: {file} holds no arrays")
    return found


def _read_member(
    file: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, raw: IO[bytes]
) -> NDArray[Any]:
    what = f"read_arrays: {info.filename} in {file}"
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(what, stream)
        start = stream.tell()
        if info.compress_type != zipfile.ZIP_STORED:
            count = _expect_size(what, info.file_size - start, shape, dtype)
            # Blocks, so that a size that is not true takes no memory.
            data = bytearray()
            while len(data) < count and (block := stream.read(min(1 << 20, count - len(data)))):
                data += block
            if len(data) < count:
                raise ValueError(f"{what} is damaged: its size differs from its header")
            flat = np.frombuffer(data, dtype) if count else np.empty(math.prod(shape), dtype)
            return _shaped(flat, shape, fortran)
    raw.seek(info.header_offset)
    local = raw.read(_LOCAL_HEADER)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    begin = info.header_offset + _LOCAL_HEADER + names + start
    return _mapped(what, file, begin, info.file_size - start, shape, fortran, dtype)


def _header(what: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of a .npy file."""
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
        shape, fortran, dtype = read(stream, max_header_size=_HEADER_LIMIT)
    except Exception as error:  # NumPy parses the header as Python's literals
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"{what} is damaged: {reason or type(error).__name__}") from None
    if dtype.hasobject:
        raise ValueError(
            f"{what} holds Python objects, which are not loaded, because that can run code: save "
            "numbers, or text as numpy.array(values, dtype='U')"
        )
    if any(length < 0 for length in shape):
        raise ValueError(f"{what} is damaged: its shape is {shape}")
    return shape, fortran, dtype


def _expect_size(what: str, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    count = math.prod(shape) * dtype.itemsize
    if size != count:
        raise ValueError(
            f"{what} is damaged: {dtype} of shape {shape} takes {count} bytes, and it holds {size}"
        )
    # NumPy has no such array, even if another axis has the length 0.
    if math.prod(max(n, 1) for n in shape) * max(dtype.itemsize, 1) >= 1 << 63:
        raise ValueError(f"{what} is damaged: an array of shape {shape} is too large")
    return count


def _mapped(
    what: str,
    file: Path,
    start: int,
    size: int,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """A read-only memory map of `size` bytes from `start`."""
    count = _expect_size(what, size, shape, dtype)
    if start + count > file.stat().st_size:
        raise ValueError(f"{what} is damaged: the file ends before the array does")
    if not count:
        found = np.empty(shape, dtype)
        found.flags.writeable = False
        return found
    flat = np.memmap(file, dtype, mode="r", offset=start, shape=(math.prod(shape),))
    return _shaped(flat, shape, fortran)


def _shaped(flat: NDArray[Any], shape: tuple[int, ...], fortran: bool) -> NDArray[Any]:
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


# --- idx -----------------------------------------------------------------------------------------


def _is_idx(magic: bytes) -> bool:
    return len(magic) > 3 and magic[:2] == b"\0\0" and magic[2] in _IDX_DTYPES


def read_idx(file: Path) -> NDArray[Any]:
    """The array of an idx file: a memory map, or loaded if the file is compressed by gzip.

    The format is: two zero bytes, a byte for the dtype, one for the number of axes, the lengths of
    the axes as 32-bit integers, and the elements in C order, all with the high byte first.

    Raises
    ------
    ValueError
        If it is none, or its size is not what its header says.
    """
    what = f"read_arrays: {file}"
    with file.open("rb") as raw:
        compressed = raw.read(2) == _GZIP
    if not compressed:
        with file.open("rb") as stream:
            shape, dtype = _idx_header(what, stream)
            start = stream.tell()
        return _mapped(what, file, start, file.stat().st_size - start, shape, False, dtype)
    try:
        with gzip.open(file, "rb") as packed:
            shape, dtype = _idx_header(what, packed)
            count = math.prod(shape) * dtype.itemsize
            if count > _GZIP_RATIO * file.stat().st_size:
                raise ValueError(
                    f"{what} is damaged: {dtype} of shape {shape} takes {count} bytes, more than "
                    f"{file.stat().st_size} bytes of gzip can hold"
                )
            data = packed.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{what} is damaged: {error}") from None
    _expect_size(what, len(data), shape, dtype)
    # In the byte order of the machine, as it is loaded anyway.
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_header(
    what: str, stream: IO[bytes] | gzip.GzipFile
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = stream.read(4)
    if not _is_idx(magic):
        raise ValueError(
            f"{what} must be an idx file, which begins with two zero bytes and one of "
            f"{', '.join(map(str, _IDX_DTYPES))} for its dtype, and begins with {magic!r}"
        )
    lengths = stream.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise ValueError(f"{what} is damaged: it ends within its header")
    if not 1 <= magic[3] <= 32:
        raise ValueError(f"{what} must have 1 to 32 axes, got {magic[3]}")
    return tuple(np.frombuffer(lengths, ">u4").tolist()), np.dtype(_IDX_DTYPES[magic[2]])

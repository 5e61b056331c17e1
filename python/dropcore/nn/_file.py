"""The file of a model: arrays and a document in the layout of safetensors.

The document is JSON, the only entry of the file's metadata, so that equal content gives equal
bytes. It is written by the package safetensors. It is read here, from one open file that a
writer may replace in the meantime: every length is checked against the size of the file before
memory is allocated, and arrays are read into place.

`docs/file-format.md` describes the layout and lists what is checked.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import shown
from dropcore._base.extras import require
from dropcore._base.files import replacing

__all__ = ["DTYPES", "Arrays", "parsed", "read_file", "write_file"]

DTYPES: Final = {
    "BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip
"""Of arrays, by their names in the file."""

ENTRY: Final = "dropcore"
"""The name of the document in the metadata."""

MAX_HEADER: Final = 1 << 24
"""Bytes of the header, which holds the document and the places of the arrays. Python needs up to 25
times as much to read it."""

MAX_DEPTH: Final = 256
"""Brackets that may be open in JSON, far from where reading it fails."""

_BUFFER: Final = 1 << 21
"""Bytes: safetensors takes half of it to write a file."""

_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[][{}]', re.DOTALL)

_SIGNATURES: Final = {
    b"PK": "a zip archive, such as .npz or the files of PyTorch and Keras",
    b"\x80": "a pickle, which could run code",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a .npy file",
    b"\x1f\x8b": "compressed by gzip",
    b"{": "JSON without arrays",
}


def write_file(
    what: str, path: Path, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Replace a file by one with this content.

    Parameters
    ----------
    what : str
        The caller, for messages.
    path : Path
    document : mapping
        Numbers, strings, lists and dicts for strict JSON.
    arrays : mapping of str to ndarray
        NumPy arrays of the dtypes in `DTYPES`.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If the document is larger or nested deeper than `read_file` takes.
    """
    numpy_io = require("safetensors.numpy", "save", "saving a model")
    safetensors = require("safetensors", "save", "saving a model")
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    try:
        _check_depth(text)
    except ValueError as error:
        raise ValueError(f"{what}: the model cannot be written to a file: {error}") from None
    # Of C-contiguous arrays: safetensors writes memory as it is. Others are copied.
    flat = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(what, path) as temporary:
        _check_memory(what, path)
        try:
            numpy_io.save_file(flat, os.fspath(temporary), metadata={ENTRY: text})
        except safetensors.SafetensorError as error:
            raise OSError(
                f"{what}: {path} was not written, and what was there is unchanged: {error}"
            ) from None
        with open(temporary, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(
                f"{what}: the model's description would take {length} bytes, and may take "
                f"{MAX_HEADER}: has it an array of rates, or very many names of features, classes "
                "or categories?"
            )


def _check_memory(what: str, path: Path) -> None:
    """MemoryError where safetensors has no memory for its buffer, which would end the process."""
    try:
        bytearray(_BUFFER)  # pages that are not written, and given back at once
    except MemoryError:
        raise MemoryError(
            f"{what}: {path} was not written, and what was there is unchanged: there is no memory "
            f"for a buffer of {_BUFFER} bytes"
        ) from None


class Arrays:
    """The arrays of a file. Each is read once.

    Parameters
    ----------
    file : binary file
    start : int
        Where the arrays begin.
    entries : dict
        By name: dtype, shape and first byte, already checked.
    """

    def __init__(
        self, file: BufferedReader, start: int, entries: dict[str, tuple[str, tuple[int, ...], int]]
    ) -> None:
        self._file, self._start, self._entries = file, start, entries

    def take(self, name: Any) -> NDArray[Any]:
        """Read an array, which is writeable and owns its memory; ValueError if it is not there."""
        entry = self._entries.pop(name, None) if isinstance(name, str) else None
        if entry is None:
            raise ValueError(f"the array {shown(name)} is missing, or used twice")
        dtype, shape, begin = entry
        array = np.empty(shape, dtype)
        self._file.seek(self._start + begin)
        if array.nbytes and self._file.readinto(array.reshape(-1).view(np.uint8).data) != (
            array.nbytes
        ):
            raise ValueError(f"the array {name!r} ends early: the file shrank while it was read")
        if array.dtype == bool and array.size and array.view(np.uint8).max() > 1:
            raise ValueError(f"the array {name!r} holds bytes that are no booleans")
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def take_all(self, kind: str, names: Any) -> dict[str, NDArray[Any]]:
        """Read the arrays of a kind, by their names in order."""
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the names of its {kind} must be a list of str, got {shown(names)}")
        return {name: self.take(f"{kind}/{name}") for name in names}

    def expect_no_more(self) -> None:
        """ValueError if there are arrays that were not read."""
        if self._entries:
            unused = ", ".join(sorted(self._entries)[:5])
            raise ValueError(f"it has arrays that belong to nothing: {unused:.200}")


def read_file(file: BufferedReader) -> tuple[dict[str, Any], Arrays]:
    """The document of an open file, and its arrays, which are read on request.

    Raises
    ------
    ValueError
        If it is not such a file. The message does not name it.
    """
    size, head = os.fstat(file.fileno()).st_size, file.read(9)
    if not size:
        raise ValueError("it is empty: the disk may have been full when it was written")
    length = int.from_bytes(head[:8], "little")
    if head[8:] != b"{":
        of = next((f": it is {name}" for start, name in _SIGNATURES.items()
                   if head.startswith(start)), "")  # fmt: skip
        raise ValueError(f"it is not a file of a dropcore model{of}")
    if length > MAX_HEADER:
        raise ValueError(
            f"its header would take {length} bytes, and may take {MAX_HEADER}: it is damaged, or "
            "not a file of a dropcore model"
        )
    if 8 + length > size:
        raise ValueError(f"it ends in its header, which takes {length} bytes: it was cut off")
    try:
        header = parsed((b"{" + file.read(length - 1)).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"its header is no text: {error}: it is damaged") from None
    if not isinstance(header, dict):
        raise ValueError(f"its header must be a dict, got {shown(header)}: it is damaged")
    metadata = header.pop("__metadata__", None)
    text = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError(
            "it has no description of a dropcore model, as files of other programs: "
            "safetensors.numpy.load_file reads its arrays, and nn.load_state_dict or "
            "model.load_params takes them"
        )
    entries = _checked_entries(header, size - 8 - length)
    document = parsed(text)
    if not isinstance(document, dict):
        raise ValueError(f"its description must be a dict, got {shown(document)}")
    return document, Arrays(file, 8 + length, entries)


def _checked_entries(
    header: dict[str, Any], available: int
) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """dtype, shape and first byte of each array; together they cover all bytes, each once."""
    entries = {}
    places = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its entry {name!r:.80} must have a dtype, a shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ValueError(
                f"the dtype of its array {name!r:.80} must be one of {', '.join(DTYPES)}, got "
                f"{shown(dtype)}"
            )
        for what, numbers in (("shape", shape), ("data_offsets", offsets)):
            if not isinstance(numbers, list) or not all(
                type(n) is int and 0 <= n < 1 << 63 for n in numbers
            ):
                raise ValueError(
                    f"{what} of its array {name!r:.80} must be a list of integers in [0, 2**63), "
                    f"got {shown(numbers)}"
                )
        if len(shape) > 32 or len(offsets) != 2:
            raise ValueError(
                f"its array {name!r:.80} must have at most 32 axes and two offsets, got "
                f"{len(shape)} and {len(offsets)}"
            )
        kind = np.dtype(DTYPES[dtype]).newbyteorder("<")
        # NumPy multiplies the other lengths of an array without elements, too.
        spread = math.prod(n for n in shape if n)
        if spread * kind.itemsize >= 1 << 62:
            raise ValueError(f"its array {name!r:.80} of shape {shape} is too large")
        begin, end = offsets
        if end - begin != math.prod(shape) * kind.itemsize:
            raise ValueError(
                f"its array {name!r:.80} of shape {shape} and dtype {dtype} has {end - begin} bytes"
            )
        entries[name] = kind.str, tuple(shape), begin
        places.append((begin, end))
    covered = 0
    for begin, end in sorted(places):
        if begin != covered:
            raise ValueError("its arrays overlap or leave gaps: it is damaged")
        covered = end
    if covered != available:
        raise ValueError(
            f"its arrays take {covered} bytes and there are {available}: it was cut off, or "
            "something was appended"
        )
    return entries


def parsed(text: str) -> Any:
    """The value of strict JSON of limited depth, without repeated names and non-finite numbers."""
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its JSON is damaged: {error}") from None


def _check_depth(text: str) -> None:
    """ValueError for JSON that is nested too deep."""
    depth = 0
    for token in _TOKENS.finditer(text):
        bracket = token[0]
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"its JSON is nested more than {MAX_DEPTH} levels deep")
        elif bracket in "]}":
            depth -= 1


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"its JSON has the name {twice!r:.80} twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"its JSON holds {name}, which is no number of strict JSON")

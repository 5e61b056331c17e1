"""Files of every format that is read, damaged in many ways, and what a reader may do with them.

A reader returns something, or raises one of the errors that it documents, whose message names the
file. It takes little memory for a small file, and little time. `FORMATS` has the files and the
reader of each format.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import signal
import struct
import tracemalloc
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache

import numpy as np

import dropcore
from dropcore import nn
from dropcore.cli._defaults import with_defaults
from dropcore.cli._main import COMMANDS
from dropcore.constraints import MaxNorm
from dropcore.data import read_arrays, read_table
from dropcore.nn.layer import Layer
from dropcore.training.state import UnfinishedEpoch
from dropcore.tuning._results import Results

SECONDS = 20
"""A reader that takes longer hangs."""

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 2


@dataclass(frozen=True)
class Format:
    """Whole files of a format, their reader, and how much memory a byte of a file may take."""

    name: str
    files: object
    read: object
    bytes_a_byte: int = 40
    bytes_at_most: int = 4 << 20


# --- models --------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        [nn.Dense(4, constraint=MaxNorm(2.0)), nn.BatchNorm(), nn.Dropout([0.5] * 4), nn.Dense(2)]
    )


@cache
def models(folder):
    model = network()
    path = folder / "whole.dropcore"
    model.build((3,), key=1)
    model.save(path)
    fresh = path.read_bytes()
    model.fit(X, Y, epochs=2, key=1, loss="softmax_cross_entropy", optimizer="adam", progress=False)
    state = model.training_state
    state.feature_names = ["a", "b", "c"]
    state.classes = np.array([3, 7])
    state.callbacks = {"Own": {"best": float("inf"), "weights": [X[0], "word", None]}}
    state.unfinished = UnfinishedEpoch(1, {"loss": [0.5, 4.0]}, [(X, Y, None)])
    state.notes = {"target": "price"}
    model.save(path)
    return fresh, path.read_bytes()


def read_model(path):
    model = dropcore.load(path)
    # What is accepted is a model: it can be written and read again.
    again = path.with_name("again.dropcore")
    model.save(again)
    assert repr(dropcore.load(again)) == repr(model)


def taken_apart(data):
    """The header of a model file, its document, and the bytes of the arrays."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header.pop("__metadata__")["dropcore"])
    return header, document, data[8 + length :]


def put_together(header, document, arrays):
    text = json.dumps(header | {"__metadata__": {"dropcore": json.dumps(document)}}).encode()
    return struct.pack("<Q", len(text)) + text + arrays


# --- arrays --------------------------------------------------------------------------------------


def npy(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **how)
    return file.getvalue()


ARRAYS = (
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    np.array(["ab", "c"]),
    np.zeros((0, 3)),
    np.array(2.5),
)


def zipped(entries, compression):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy_files(folder):
    return [npy(array) for array in ARRAYS]


def npz_files(folder):
    entries = {f"{place}.npy": npy(array) for place, array in enumerate(ARRAYS)}
    return [zipped(entries, kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def idx(array):
    kinds = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    kind = kinds[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def idx_files(folder):
    return [idx(np.arange(24, dtype=kind).reshape(2, 3, 4)) for kind in ("u1", "i2", "f8")]


def packed_idx_files(folder):
    return [gzip.compress(data) for data in idx_files(folder)]


def weights_files(folder):
    model = network()
    model.build((3,), key=1)
    model.save_weights(folder / "whole.npz")
    arrays = dict(model.params) | dict(model.buffers)
    np.savez_compressed(folder / "packed.npz", **arrays)
    return [(folder / name).read_bytes() for name in ("whole.npz", "packed.npz")]


def read_weights(path):
    model = network()
    model.build((3,), key=1)
    before = {name: array.copy() for name, array in model.params.items()}
    try:
        model.load_weights(path)
    except (ValueError, OSError):
        for name, array in model.params.items():
            np.testing.assert_array_equal(array, before[name])
        raise


# --- tables --------------------------------------------------------------------------------------

TABLES = (
    b"a,b,c\n1,2.5,x\n3,,y\n-4,1e3,z\n",
    b'name;size\n"Smith; J";1,5\n"O""Neil";2,25\n',
    "größe\tfarbe\n1\trot\n2\tgrün\n".encode(),
    "a|b\r\n1|true\r\n0|false\r\n".encode("utf-16"),
    b"\xef\xbb\xbfa,b\n1,2\n",
)


def csv_files(folder):
    return list(TABLES)


def packed_csv_files(folder):
    text = TABLES[0] * 3
    return [gzip.compress(text), bz2.compress(text), lzma.compress(text),
            zipped({"a.csv": text}, zipfile.ZIP_DEFLATED)]  # fmt: skip


def parquet_files(folder):
    import pandas as pd

    table = pd.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"], "c": [0.5, 1.5, float("nan")]})
    file = io.BytesIO()
    table.to_parquet(file, engine="pyarrow")
    return [file.getvalue()]


# --- settings and configs ------------------------------------------------------------------------

SETTINGS = (
    b'epochs = 3\nbatch-size = 32\n[train]\ntarget = "price"\nrate = 0.5\nunits = [32, 16]\n',
    b"[predict]\nsamples = 10\n[train]\n",
)


def toml_files(folder):
    return list(SETTINGS)


def read_settings(path):
    with_defaults(["train", "--config", str(path), "data.csv"], COMMANDS)


def configs(folder):
    layers = [
        network(), nn.LSTM(3, dropout=0.2), nn.Conv2D(2, 3, padding=((1, 0), (2, 1))),
        nn.Residual([nn.Dense(4), nn.Dropout(0.3)]), nn.MultiHeadAttention(2, 0.1),
        nn.EmbeddingDropout(nn.Embedding(11, 4), 0.4), nn.GaussianDropout(keep=[0.5, 0.9]),
    ]  # fmt: skip
    return [json.dumps(layer.to_config()).encode() for layer in layers]


def read_config(path):
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON") from error
    try:
        made = Layer.from_config(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    repr(made)


EXPERIMENT = {"metric": "accuracy", "x": "12ab"}


def results_files(folder):
    path = folder / "whole.json"
    path.unlink(missing_ok=True)
    results = Results("sensitivity", path, EXPERIMENT)
    results.add("keep 0.5", {"score": 0.5, "train_score": 1, "diverged": "", "seconds": 0.1})
    results.add("keep 1.0", {"score": None, "train_score": None, "diverged": "NaN", "seconds": 2})
    return [path.read_bytes()]


def read_results(path):
    for result in Results("sensitivity", path, EXPERIMENT).found.values():
        np.array([np.nan if one is None else one for one in (result["score"],)], float)


FORMATS = {
    format.name: format
    for format in (
        Format("model", models, read_model, bytes_at_most=6 << 20),
        Format("weights", weights_files, read_weights),
        Format("npy", npy_files, read_arrays),
        Format("npz", npz_files, read_arrays, bytes_a_byte=1100),
        Format("idx", idx_files, read_arrays),
        Format("idx.gz", packed_idx_files, read_arrays, bytes_a_byte=1100),
        Format("csv", csv_files, read_table),
        Format(
            "packed csv", packed_csv_files, read_table, bytes_a_byte=20_000, bytes_at_most=24 << 20
        ),
        Format("parquet", parquet_files, read_table),
        Format("toml", toml_files, read_settings),
        Format("config", configs, read_config),
        Format("results", results_files, read_results),
    )
}

# --- damage --------------------------------------------------------------------------------------

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x30, 0x5B, 0x7B)
LENGTHS = (0, 1, 0xFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1,
           (1 << 64) - 1)  # fmt: skip
VALUES = (None, True, -1, 0, 1, 10**30, 0.5, -0.0, 1e308, "", "a", "Dense", "0.weight", [], {}, [0],
          {"class": "Dense", "units": 10**12}, {"float": "nan"}, {"array": [1]}, [[]], 2**63, 2**31,
          {"array": "0", "dtype": "O"}, {"dict": {}}, "x" * 300)  # fmt: skip


def damaged(draw, whole):
    """A file with one to four changes."""
    data = bytearray(draw.choose(whole))
    for _ in range(draw.integer(1, 4)):
        kind = draw.choose(("flip", "set", "cut", "drop", "double", "length", "splice", "insert"))
        at = draw.integer(0, max(len(data) - 1, 0))
        size = draw.choose((1, 2, 4, 8, 33))
        if kind == "flip" and data:
            data[at] ^= 1 << draw.integer(0, 7)
        elif kind == "set" and data:
            data[at] = draw.choose(INTERESTING)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size] * draw.choose((1, 2, 100))
        elif kind == "length":
            order, width = draw.choose(("little", "big")), draw.choose((2, 4, 8))
            number = draw.choose(LENGTHS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, order)
        elif kind == "splice":
            other = draw.choose(whole)
            start = draw.integer(0, len(other))
            data[at : at + size] = other[start : start + size]
        elif kind == "insert":
            data[at:at] = bytes([draw.choose(INTERESTING)]) * size
    return bytes(data)


def damaged_json(draw, document):
    """A document of JSON with another value, name or place somewhere."""
    places = []

    def walk(node):
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            for key in keys:
                places.append((node, key))
                walk(node[key])

    walk(document)
    for _ in range(draw.integer(1, 2)):
        node, key = draw.choose(places)
        kind = draw.choose(("value", "value", "drop", "rename", "move"))
        with contextlib.suppress(KeyError, IndexError):  # of what the change before has removed
            if kind == "value":
                node[key] = draw.choose(VALUES)
            elif kind == "drop":
                del node[key]
            elif kind == "rename" and isinstance(node, dict):
                node[draw.choose(("a", "class", "0", "layers", "units"))] = node.pop(key)
            else:
                other, there = draw.choose(places)
                node[key] = other[there]
    return document


def damaged_inside(draw, name, folder):
    """Damage behind what a checksum or a length protects: the document, or what was packed."""
    whole = FORMATS[name].files(folder)
    if name == "model":
        header, document, arrays = taken_apart(draw.choose(whole))
        if draw.flag():
            header = damaged_json(draw, header)
        else:
            document = damaged_json(draw, document)
        return as_file(lambda: put_together(header, document, arrays))
    if name in ("config", "results"):
        return as_file(
            lambda: json.dumps(damaged_json(draw, json.loads(draw.choose(whole)))).encode()
        )
    if name == "idx.gz":
        return gzip.compress(damaged(draw, idx_files(folder)))
    if name == "packed csv":
        text = damaged(draw, TABLES)
        pack = draw.choose((gzip.compress, bz2.compress, lzma.compress))
        return pack(text)
    kind = draw.choose((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if name == "npz":
        return zipped({"a.npy": damaged(draw, npy_files(folder)), "b.npy": npy(ARRAYS[0])}, kind)
    with zipfile.ZipFile(io.BytesIO(whole[0])) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    entry = draw.choose(sorted(entries))
    entries[entry] = damaged(draw, [entries[entry]])
    return zipped(entries, kind)


def as_file(make):
    """The bytes, or b"" for a document that refers to itself."""
    try:
        return make()
    except (ValueError, RecursionError):
        return b""


INSIDE = ("model", "config", "results", "idx.gz", "packed csv", "npz", "weights")
"""Formats in which bytes alone rarely get behind a checksum."""


# --- reading -------------------------------------------------------------------------------------


class Hangs(BaseException):
    """A reader took too long."""


def _hangs(number, frame):
    raise Hangs


def read_or_refuse(format, path, data):
    """Whether a file that may be damaged is accepted. If it is not, that is as documented."""
    path.write_bytes(data)
    before = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        return accepts(format, path, len(data))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        assert path.read_bytes() == data


def accepts(format, path, size):
    """Whether a file of that many bytes is read; all but the errors for damaged files is raised."""
    refusal = None
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", UserWarning)  # of rows that are left out
            format.read(path)
    except (ValueError, TypeError, OSError) as error:
        refusal = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    allowed = format.bytes_at_most + format.bytes_a_byte * size
    assert peak < allowed, f"{peak} bytes of memory for a file of {size}"
    if refusal is not None:
        assert path.name in refusal, f"the message names no file: {refusal}"
        assert len(refusal) < 3000
    return refusal is None

"""Files that are damaged, foreign or hostile are refused; the old file survives every failure."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

import dropcore
from dropcore.constraints import MaxNorm
from dropcore.nn import BatchNorm, Dense, Dropout, Parallel, Sequential
from dropcore.nn._file import MAX_DEPTH, MAX_HEADER
from dropcore.training.state import UnfinishedEpoch
from support.limits import NEEDS_LIMITS

pytest.importorskip(
    "safetensors", reason="models are saved by safetensors, which has no free-threaded wheels"
)

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = np.arange(12) % 2


def network():
    return Sequential([Dense(4, constraint=MaxNorm(2.0)), BatchNorm(), Dropout(0.5), Dense(2)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a file, with something in every part of it."""
    model = network()
    model.fit(X, Y, epochs=2, key=1, loss="softmax_cross_entropy", progress=False)
    state = model.training_state
    state.feature_names = ["a", "b", "c"]
    state.classes = np.array([3, 7])
    state.callbacks = {"Own": {"best": float("inf"), "weights": [X[0], "word", None]}}
    state.unfinished = UnfinishedEpoch(1, {"loss": [0.5, 4.0]}, [(X, Y, None)])
    state.notes = {"target": "price"}
    path = tmp_path_factory.mktemp("saved") / "model.dropcore"
    model.save(path)
    return path.read_bytes()


def taken_apart(data):
    """The header, the document and the arrays' bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header["__metadata__"]["dropcore"])
    return header, document, data[8 + length :]


def put_together(header, document, arrays):
    if not isinstance(document, str):
        document = json.dumps(document)
    if isinstance(header, dict):
        header = json.dumps(header | {"__metadata__": {"dropcore": document}})
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + arrays


@pytest.fixture
def refused(tmp_path):
    """Assert that a file is refused with a message, in next to no memory, and left as it is."""

    def check(data, message, **options):
        path = tmp_path / "hostile.dropcore"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message) as caught:
                dropcore.load(path, **options)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1200
        assert peak < 2e6 + 30 * len(data)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path) == [path.name]

    return check


@pytest.fixture
def changed(saved, refused):
    """Assert that a file whose document or header was changed is refused."""

    def check(message, *, document=None, header=None, arrays=None, **options):
        parts = list(taken_apart(saved))
        for place, change in ((1, document), (0, header)):
            if change is not None:
                change(parts[place])
        if arrays is not None:
            parts[2] = arrays(parts[2])
        refused(put_together(*parts), message, **options)

    return check


# --- not a whole file ----------------------------------------------------------------------------


def test_a_file_that_was_cut_off_is_refused_wherever_it_ends(saved, tmp_path):
    path = tmp_path / "short.dropcore"
    length = int.from_bytes(saved[:8], "little")
    ends = {*range(12), 8 + length - 1, 8 + length, 8 + length + 1, len(saved) - 1}
    ends |= set(range(12, len(saved), 97))
    for end in sorted(ends):
        path.write_bytes(saved[:end])
        with pytest.raises(ValueError, match=r"short.dropcore: it"):
            dropcore.load(path)


def test_an_empty_file_is_refused(refused):
    refused(b"", "it is empty: the disk may have been full")


def test_what_was_cut_off_says_so(saved, refused):
    refused(saved[:100], "it ends in its header, which takes .* bytes: it was cut off")
    refused(saved[:-1], "it was cut off, or something was appended")
    refused(saved + b"\0", "it was cut off, or something was appended")


def npz():
    import io

    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello, this is text\n" * 9, "not a file of a dropcore model"),
        (npz(), "a zip archive"),
        (pickle.dumps({"a": 1}), "a pickle, which could run code"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
        (b"\x1f\x8b" + bytes(40), "compressed by gzip"),
        (b'{"class": "Sequential", "layers": []}', "JSON without arrays"),
        (bytes(50), "not a file of a dropcore model"),
        (b"\xff" * 50, "not a file of a dropcore model"),
    ],
)
def test_files_of_other_kinds_are_named(refused, data, kind):
    refused(data, kind)


def test_arrays_of_other_programs_are_refused_with_advice(refused):
    from safetensors.numpy import save

    advice = "no description of a dropcore model.*load_file reads its arrays"
    refused(save({"weight": np.ones(3)}), advice)
    refused(save({"weight": np.ones(3)}, metadata={"format": "pt"}), advice)


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.dropcore"):
        dropcore.load(tmp_path / "nothing.dropcore")
    with pytest.raises(IsADirectoryError):
        dropcore.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="it is not a regular file"):
        dropcore.load(tmp_path / "pipe")
    for path in (3, b"bytes", None):
        with pytest.raises(TypeError, match=r"load: path must be a str or a pathlib.Path"):
            dropcore.load(path)
    with pytest.raises(ValueError, match="load: path must name a file"):
        dropcore.load("")
    with pytest.raises(TypeError, match="load: custom must be a dict of names to classes"):
        dropcore.load(tmp_path / "x", custom=[Dense])


# --- the header ----------------------------------------------------------------------------------

WEIGHT = "params/0.weight"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [2**40, 4]}, "of shape .* has 48 bytes"),
        ({"shape": [2**62, 4, 4, 4]}, "is too large"),
        ({"shape": [0, 2**62]}, "is too large"),
        ({"shape": [-3, -4]}, "must be a list of integers"),
        ({"shape": [3.0, 4]}, "must be a list of integers"),
        ({"shape": [True, 12]}, "must be a list of integers"),
        ({"shape": ["3", "4"]}, "must be a list of integers"),
        ({"shape": 12}, "must be a list of integers"),
        ({"shape": [10**30]}, "must be a list of integers"),
        ({"shape": [1] * 33}, "at most 32 axes"),
        ({"shape": [4, 3]}, "weight must have shape"),
        ({"shape": [12]}, "weight must have shape"),
        ({"dtype": "I32"}, "parameters must all be float32 or all float64, got float32, int32"),
        ({"dtype": "BF16"}, "dtype of its array .* must be one of"),
        ({"dtype": "F64"}, "has 48 bytes"),
        ({"dtype": "object"}, "dtype of its array .* must be one of"),
        ({"dtype": None}, "dtype of its array .* must be one of"),
        ({"dtype": [1]}, "dtype of its array .* must be one of"),
        ({"data_offsets": [0, 48]}, "overlap or leave gaps"),
        ({"data_offsets": [48, 0]}, "has -48 bytes"),
        ({"data_offsets": [0]}, "two offsets"),
        ({"data_offsets": [2**60, 2**60 + 48]}, "overlap or leave gaps"),
        ({"more": 1}, "must have a dtype, a shape and data_offsets"),
    ],
    ids=repr,
)
def test_entries_of_arrays_are_checked(changed, entry, message):
    changed(message, header=lambda header: header[WEIGHT].update(entry))


def test_names_of_arrays_are_checked(changed):
    def renamed(name):
        def change(header):
            header[name] = header.pop(WEIGHT)

        return change

    for name in ("params/9.weight", "../../etc/passwd", "", "params/../0.weight", "x" * 5000):
        changed("'params/0.weight' is missing", header=renamed(name))

    def added(header):
        header["slots/mean/evil"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}

    changed("arrays that belong to nothing: slots/mean/evil", header=added)

    def entry(header):
        header[WEIGHT] = [1, 2]

    changed("must have a dtype, a shape and data_offsets", header=entry)


def raw(text, arrays=b""):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data + arrays


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack("<Q", 2**63) + b"{}", f"may take {MAX_HEADER}"),
        (struct.pack("<Q", MAX_HEADER + 1) + b"{" * 99, f"may take {MAX_HEADER}"),
        (struct.pack("<Q", 1000) + b"{}", "it ends in its header"),
        (raw('{"a":' + "[" * 100_000), f"more than {MAX_DEPTH} levels deep"),
        (raw('{"a":' * 100_000), f"more than {MAX_DEPTH} levels deep"),
        (raw('{"a":1,"a":2}'), "has the name 'a' twice"),
        (raw('{"__metadata__":{"dropcore":"{}","dropcore":"[]"}}'), "the name 'dropcore' twice"),
        (raw('{"__metadata__":{"dropcore":3}}'), "no description of a dropcore model"),
        (raw('{"__metadata__":[]}'), "no description of a dropcore model"),
        (raw('{"a":NaN}'), "holds NaN, which is no number"),
        (raw('{"a":1'), "its JSON is damaged"),
        (raw("{'a':1}"), "its JSON is damaged"),
        (raw('{"a":' + "9" * 5000 + "}"), "limit"),
        (raw(b'{"\xff":1}'), "its header is no text"),
        (raw('{"__metadata__":{"dropcore":"[]"}}'), "its description must be a dict"),
        (raw('{"__metadata__":{"dropcore":"{\\"a\\":1,\\"a\\":2}"}}'), "the name 'a' twice"),
    ],
    ids=range(16),
)
def test_headers_are_checked(refused, data, message):
    refused(data, message)


# --- the document --------------------------------------------------------------------------------


def setting(*path):
    """A change that sets an entry: the last of `path` is its value."""
    *names, last, value = path

    def change(document):
        for name in names:
            document = document[name]
        document[last] = value

    return change


NESTED = {"class": "Sequential", "layers": []}
for _ in range(101):
    NESTED = {"class": "Sequential", "layers": [NESTED]}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("format", "other"), "its format must be 'dropcore', got 'other'"),
        (("version", 2), r"written by dropcore .* in version 2 .*reads versions up to 1: pip inst"),
        (("version", 0), "its version must be a positive integer, got 0"),
        (("version", True), "its version must be a positive integer, got True"),
        (("version", "1"), "its version must be a positive integer, got '1'"),
        (("unknown", 1), r"has the unknown entries \['unknown'\]"),
        (("config", []), "its config must be a dict"),
        (("config", {"class": "os.system"}), "there is no os.system in dropcore; give a class"),
        (("config", {"class": "Dense", "units": 3}), "holds Dense.* which is no model"),
        (("config", {"class": "MaxNorm", "max_norm": 3.0}), "this is the config of MaxNorm"),
        (("config", {"class": "Layer"}), "which is no model"),
        (("config", {"class": "Constraint"}), "there is no Constraint in dropcore"),
        (("config", {"class": "Sequential", "layers": 3}), "Sequential takes a list of layers"),
        (("config", {"class": "Sequential", "layers": [], "x": 3}), "unexpected keyword"),
        (("config", NESTED), "nested more than"),
        (("config", "frozen", ["0", "17"]), "frozen must be a list of paths"),
        (("config", "frozen", "0"), "frozen must be a list of paths"),
        (("config", "layers", 0, "units", 2**40), r"weight must have shape \(in, 1099511627776\)"),
        (("config", "layers", 0, "units", 2**80), "weight must have shape"),
        (("config", "layers", 0, "units", -1), "units must be a positive integer, got -1"),
        (("config", "layers", 0, "units", 4.5), "units must be a positive integer, got 4.5"),
        (("config", "layers", 0, "use_bias", False), r"parameters must be \['weight'\]"),
        (("config", "layers", 2, "rate", {"array": [0.5] * 4, "dtype": "S999999999"}), "the dtype"),
        (("config", "layers", 2, "rate", {"array": [0.5], "dtype": "O"}), "the dtype"),
        (("config", "layers", 2, "rate", {"array": [1, [2]], "dtype": "float32"}), "an array must"),
        (("config", "layers", 2, "rate", {"float": "9"}), "float must be"),
        (("input_shape", [4]), r"expects samples of shape \(..., 3\)"),
        (("input_shape", [2**62]), r"expects samples of shape \(..., 3\)"),
        (("input_shape", [-3]), "input_shape must be a list of lengths"),
        (("input_shape", [3.0]), "input_shape must be a list of lengths"),
        (("input_shape", "3"), "input_shape must be a list of lengths"),
        (("input_shape", [3] * 40), "input_shape must be a list of lengths"),
        (("params", ["0.weight"]), r"parameters must be \['bias', 'weight'\], got \['weight'\]"),
        (("params", "0.weight"), "names of its params must be a list of str"),
        (("params", [["0.weight"]]), "names of its params must be a list of str"),
        (("buffers", []), r"buffers must be \['mean', 'variance'\], got \[\]"),
        (("training", []), "its training state must be a dict"),
        (("training", {}), "its training state lacks"),
        (("training", "step", -1), "must not be negative, got -1"),
        (("training", "step", 1.5), "must not be negative, got 1.5"),
        (("training", "step", True), "must not be negative, got True"),
        (("training", "begun", 9), "begun must be at most step, 2, got 9"),
        (("training", "optimizer", 3), "optimizer must be str"),
        (("training", "slots", "mean", []), "belong to nothing"),
        (("training", "slots", []), "its slots must be a dict"),
        (("training", "slots", "mean", ["../x"]), "is missing, or used twice"),
        (("training", "slots", "mean", ["0.weight"] * 2), "is missing, or used twice"),
        (("training", "loss", {"class": "Dense", "units": 3}), "its loss must be one"),
        (("training", "loss", {"class": "eval"}), "there is no eval in dropcore"),
        (("training", "loss", 3), "its loss must be one"),
        (("training", "feature_names", [1]), "its feature_names must be str"),
        (("training", "history", "metrics", ["loss", "loss"]), "is missing, or used twice"),
        (("training", "history", "metrics", {}), "names of its metrics must be a list"),
        (("training", "history", "best_epoch", -1), "must not be negative"),
        (("training", "history", {}), "its history lacks"),
        (("training", "key", {"seed": 1}), "its key lacks"),
        (("training", "key", "seed", -1), "seed must be in"),
        (("training", "key", "domain", 9), "domain must be 0"),
        (("training", "key", "seed", "x"), "seed must be an integer"),
        (("training", "classes", [1, 2]), "classes must be an array"),
        (("training", "classes", {"array": "params/0.weight"}), "is missing, or used twice"),
        (("training", "classes", {"array": {}}), "is missing, or used twice"),
        (("training", "preprocessing", {"evil": 1}), "Preprocessing.from_config"),
        (("training", "preprocessing", 3), "Preprocessing must be a dict"),
        (("training", "target_scaling", {"mean": 0.0, "scale": 0.0}), "TargetScaling.from_config"),
        (("training", "callbacks", {"dict": {"Own": 3}}), "the state of a callback must be a dict"),
        (("training", "callbacks", {"evil": 3}), "which save does not write"),
        (("training", "learning_rate_factor", 0), "learning_rate_factor must be positive"),
        (("training", "learning_rate_factor", "1"), "learning_rate_factor must be a number"),
        (("training", "stopped", 1), "its flags must be True or False"),
        (("training", "unfinished", {"dict": {}}), "its unfinished epoch lacks"),
        (("training", "unfinished", "dict", "batches", -1), "must not be negative"),
        (("training", "call", ["samples"]), "its call of fit must be a dict"),
        (("training", "call", {"samples": 12}), "its call of fit must be str"),
        (("training", "unfinished", "dict", "sums", {"dict": {"loss": [1]}}), "must be pairs"),
        (("training", "unfinished", "dict", "scored", [1]), "belong to nothing|list of threes"),
        (("training", "notes", [1]), "its notes must be a dict"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:60],
)
def test_documents_are_checked(changed, path, message):
    changed(message, document=setting(*path))


def test_a_document_that_is_nested_deeply_is_refused(saved, refused):
    header, _, arrays = taken_apart(saved)
    for text in ("[" * 100_000, '{"config":' * 50_000, '{"a":"[[[["' + "]" * 9):
        refused(put_together(header, text, arrays), "levels deep|JSON is damaged")


def test_a_weight_of_another_dtype_is_refused(changed):
    def doubled(header):
        for name, entry in header.items():
            if name.startswith("slots/mean/"):
                entry["dtype"] = "I32"

    changed("the state 'mean' of Adam for '0.weight' must be like the parameter", header=doubled)

    def integers(header):
        header["buffers/1.mean"]["dtype"] = "I64"

    changed("mean must be float64, got int64", header=integers)


def test_arrays_of_a_layer_must_agree(changed):
    def shorter(header):
        header["buffers/1.mean"].update(shape=[3], data_offsets=[0, 24])
        begin = 24
        for name in sorted(header, key=lambda n: header[n].get("data_offsets", [0])[0]):
            if name not in ("buffers/1.mean", "__metadata__"):
                start, end = header[name]["data_offsets"]
                header[name]["data_offsets"] = [begin, begin + end - start]
                begin += end - start

    message = r"layer 1, BatchNorm\(\): its arrays must have one length, got \[4, 4, 3, 4\]"
    changed(message, header=shorter, arrays=lambda data: data[:-8])


def of_model(model, tmp_path):
    """The parts of the file of a model, which is removed."""
    model.save(tmp_path / "m")
    parts = taken_apart((tmp_path / "m").read_bytes())
    (tmp_path / "m").unlink()
    return parts


def test_a_length_of_zero_is_refused(tmp_path, refused):
    model = Sequential([Dense(2, use_bias=False)])
    model.build((3,), key=1)
    header, document, _ = of_model(model, tmp_path)
    header[WEIGHT].update(shape=[0, 2], data_offsets=[0, 0])
    document["input_shape"] = None
    refused(put_together(header, document, b""), r"weight must have shape \(in, 2\), got \(0, 2\)")


def test_branches_are_checked_against_the_input(tmp_path, refused):
    model = Parallel([Dense(2), Dense(3)])
    model.build((3,), key=1)
    header, document, arrays = of_model(model, tmp_path)
    document["input_shape"] = [5]
    refused(put_together(header, document, arrays), r"expects samples of shape \(..., 3\)")


def test_booleans_of_other_bytes_are_refused(tmp_path, refused):
    model = network()
    model.build((3,), key=1)
    from dropcore.training import TrainingState

    model.training_state = TrainingState(notes={"flags": np.array([True, False])})
    model.save(tmp_path / "m")
    header, document, arrays = taken_apart((tmp_path / "m").read_bytes())
    (tmp_path / "m").unlink()
    (name,) = [name for name in header if name.startswith("notes")]
    begin = header[name]["data_offsets"][0]
    refused(
        put_together(header, document, arrays[:begin] + b"\x02" + arrays[begin + 1 :]),
        "holds bytes that are no booleans",
    )


# --- at random -----------------------------------------------------------------------------------


def loads_or_refuses(path, data):
    """Whether a file loads; any other error than a ValueError is passed on."""
    path.write_bytes(data)
    try:
        model = dropcore.load(path)
    except ValueError as error:
        if not str(error).startswith(f"load: {path}: "):
            raise
        return False
    assert sum(array.nbytes for array in model.params.values()) < len(data)
    assert repr(model)
    return True


def test_random_changes_of_bytes_are_refused_or_load(saved, tmp_path):
    rng = random.Random(1)
    length = 8 + int.from_bytes(saved[:8], "little")
    loaded = 0
    for _ in range(2000):
        data = bytearray(saved)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            place = rng.randrange(min(length, len(data)) if rng.random() < 0.9 else len(data))
            what = rng.randrange(5)
            if what == 0:
                data[place] ^= 1 << rng.randrange(8)
            elif what == 1:
                data[place] = rng.choice(b'0123456789[]{}",:-.eE\\ntfu')
            elif what == 2:
                del data[place : place + rng.choice((1, 2, 30))]
            elif what == 3:
                data[place:place] = data[place : place + rng.choice((1, 9, 60))]
            else:
                del data[rng.randrange(len(data)) :]
            if not data:
                break
        if len(data) > 8 and rng.random() < 0.5:  # so that the header is read to its end
            end = data.find(b"}}", 8) + 2 if rng.random() < 0.1 else length + len(data) - len(saved)
            data[:8] = struct.pack("<Q", max(end - 8, 0))
        loaded += loads_or_refuses(tmp_path / "m", bytes(data))
    assert 0 < loaded < 1500


NASTY = (
    None, True, -1, 0, 1, 2**31, 2**40, 2**63, 2**200, 1e308, -0.0, "", "0", "nan", "\ud800", [],
    {}, [[]], [None] * 9, {"class": "Dense"}, {"class": "Sequential", "layers": []},
    {"float": "nan"}, {"array": [1, 2], "dtype": "float64"}, {"array": "epochs"}, {"dict": {}},
)  # fmt: skip


def places(value):
    """Each container of a document, with a name or position in it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in list(items):
            yield value, name
            yield from places(inner)


def test_random_changes_of_the_document_are_refused_or_load(saved, tmp_path):
    rng = random.Random(2)
    header, _, arrays = taken_apart(saved)
    text = taken_apart(saved)[0]["__metadata__"]["dropcore"]
    del header["__metadata__"]
    loaded = 0
    for _ in range(2000):
        document, entries = json.loads(text), json.loads(json.dumps(header))
        chosen = entries if rng.random() < 0.25 else document
        for _ in range(rng.choice((1, 1, 2))):
            container, name = rng.choice(list(places(chosen)))
            what = rng.randrange(4)
            if what == 0 and isinstance(container, dict):
                container[rng.choice([*container, "new"])] = container.pop(name)
            elif what == 1:
                del container[name]
            elif what == 2:
                other, its = rng.choice(list(places(chosen)))
                container[name] = json.loads(json.dumps(other[its]))
            else:
                container[name] = rng.choice(NASTY)
        loaded += loads_or_refuses(tmp_path / "m", put_together(entries, document, arrays))
    assert 0 < loaded < 1000


@NEEDS_LIMITS
def test_memory_is_that_of_the_arrays(tmp_path):
    """Under a limit of memory that holds the model once, and not one and a half times."""
    code = f"""
import os, resource, sys
import numpy as np, dropcore
import safetensors.numpy
from dropcore.nn import Dense, Sequential

def limit(extra):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + extra, -1))

path = {str(tmp_path / "large")!r}
small = Sequential([Dense(3)])
small.build((3,), key=1)
small.save(path)
dropcore.load(path)
model = Sequential([Dense(4096, initializer="zeros")])
model.build((4096,), key=1)
size = model.params["0.weight"].nbytes
limit(size // 4)
model.save(path)
del model
limit(size * 5 // 4)
model = dropcore.load(path)
del model
limit(size // 4)
try:
    dropcore.load(path)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"load: {tmp_path / 'large'}: its arrays do not fit into memory\n"


def test_a_zip_archive_of_a_model_is_refused(saved, tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("model.dropcore", saved)
    data = (tmp_path / "z").read_bytes()
    (tmp_path / "z").unlink()
    refused(data, "a zip archive")

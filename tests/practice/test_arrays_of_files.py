"""Arrays of .npy, .npz and idx files."""

import gzip
import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dropcore.data import read_arrays
from support.idx import idx

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(5, dtype=">i4"),
    np.array(["ab", "c"]),
    np.array(7.5),
    np.empty((0, 3), np.float32),
]


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


# --- NumPy's formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_npy_is_mapped(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = read_arrays(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.f_contiguous == array.flags.f_contiguous
    assert is_mapped(found) == (array.size > 0)
    with pytest.raises(ValueError, match="read-only"):
        found[...] = array


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_arrays_by_name(tmp_path, save):
    wanted = {f"array {i}": array for i, array in enumerate(ARRAYS)}
    save(tmp_path / "x.npz", **wanted)
    found = read_arrays(tmp_path / "x.npz")
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert is_mapped(found[name]) == (save is np.savez and array.size > 0)


def test_objects_are_not_loaded(tmp_path):
    evil = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "x.npy", evil)
    np.savez(tmp_path / "x.npz", evil=evil)
    for name, what in (("x.npy", r".*x\.npy"), ("x.npz", r"evil\.npy in .*x\.npz")):
        with pytest.raises(ValueError, match=f"{what} holds Python objects, which are not loaded"):
            read_arrays(tmp_path / name)


def header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": dtype}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((3,)) + bytes(8), r"float32 of shape \(3,\) takes 12 bytes, and it holds 8"),
        (header((3,)) + bytes(16), r"takes 12 bytes, and it holds 16"),
        (header((1 << 60, 1 << 60)), "and it holds 0"),
        (header((-3,)) + bytes(12), r"damaged"),
        (header((3,))[:20], "damaged"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "version 9.0 of the format is not known"),
        (b"\x93NUMPY\x01\x00\x10\x00{'__import__'():1", "damaged"),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "damaged"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(80), "damaged"),
    ],
)
def test_damaged_npy_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "stored.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with zipfile.ZipFile(tmp_path / "packed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    for name in ("x.npy", "stored.npz", "packed.npz"):
        with pytest.raises(ValueError, match=message) as caught:
            read_arrays(tmp_path / name)
        assert str(caught.value).startswith("read_arrays: ")


def test_damaged_npz_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random(1000))
    raw = path.read_bytes()
    for content in (raw[: len(raw) // 2], raw[:40], raw[:300] + bytes(50) + raw[350:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz is damaged"):
            read_arrays(path)
    # A size in the directory that the member does not have.
    size = struct.pack("<I", 8000 + 128)
    path.write_bytes(raw.replace(size, struct.pack("<I", 8000 + 64)))
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "")
    with pytest.raises(ValueError, match=r"must hold \.npy files, .* got 'note\.txt'"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(ValueError, match="holds no arrays"):
        read_arrays(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_change_of_a_byte_raises_anything_else(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, x=np.arange(3.0))
    raw = path.read_bytes()
    refused = []
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            read_arrays(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(raw) / 4
    assert all(message.startswith("read_arrays: ") for message in refused)


def test_an_array_beyond_the_end_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    begin = header((1000,))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", begin + bytes(12))
    size, claimed = len(begin) + 12, len(begin) + 4000
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", claimed)))
    # Some versions of Python find it themselves, as an entry that reaches over the next one.
    with pytest.raises(ValueError, match=r"the file ends before the array does|Overlapped entries"):
        read_arrays(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_arrays(path)
    path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"must be a \.npy, \.npz or idx file, .*read_table"):
        read_arrays(path)
    with pytest.raises(FileNotFoundError, match=r"no file .*y\.npy; the folder has 'x\.npy'"):
        read_arrays(tmp_path / "y.npy")


# --- idx -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")],
)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 3, 2), (0, 3)])
def test_idx(tmp_path, code, dtype, shape):
    array = (np.arange(np.prod(shape)) - 2).astype(dtype).reshape(shape)
    (tmp_path / "x-idx").write_bytes(idx(array, code))
    (tmp_path / "x-idx.gz").write_bytes(gzip.compress(idx(array, code)))
    plain, packed = read_arrays(tmp_path / "x-idx"), read_arrays(tmp_path / "x-idx.gz")
    np.testing.assert_array_equal(plain, array)
    np.testing.assert_array_equal(packed, array)
    assert is_mapped(plain) == (array.size > 0)
    assert packed.dtype == np.dtype(dtype).newbyteorder("=")
    assert packed.dtype.isnative


GOOD = idx(np.arange(6, dtype="u1").reshape(2, 3), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-1], r"uint8 of shape \(2, 3\) takes 6 bytes, and it holds 5"),
        (GOOD + b"x", r"takes 6 bytes, and it holds 7"),
        (GOOD[:9], "ends within its header"),
        (b"\0\0\x08\0x", "must have 1 to 32 axes, got 0"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "must have 1 to 32 axes, got 255"),
        (b"\0\0\x08\x02" + b"\xff" * 8, r"of shape \(4294967295, 4294967295\) takes"),
        (b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, r"of shape \(0, .* is too large"),
        (b"\0\1\x08\x01", "idx file, .* begins with"),
        (b"\0\0\x07\x01" + bytes(8), "idx file, .* begins with"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    for name, raw in (("x-idx", content), ("x-idx.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=message):
            read_arrays(tmp_path / name)


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "x-idx.gz"
    raw = gzip.compress(GOOD * 1)
    for content in (raw[:-4], raw[:15], raw[:-8] + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x-idx\.gz is damaged"):
            read_arrays(path)


# --- training from a map -------------------------------------------------------------------------


def test_a_model_trains_alike_from_maps_and_from_arrays(tmp_path):
    from dropcore import nn

    random = np.random.default_rng(0)
    x = random.normal(size=(60, 5)).astype(np.float32)
    y = random.integers(0, 3, 60)
    # The name shifts the arrays of an archive to an odd address.
    for odd in ("x", "xy", "xyz", "xyza"):
        np.savez(tmp_path / "data.npz", **{odd: x, f"{odd}_labels": y})
        arrays = read_arrays(tmp_path / "data.npz")
        losses = []
        for inputs, labels in ((x, y), (arrays[odd], arrays[f"{odd}_labels"])):
            for shuffle in (True, False):
                model = nn.Sequential(
                    [nn.Dense(8, activation="relu"), nn.Dropout(0.5), nn.Dense(3)]
                )
                history = model.fit(
                    inputs, labels, epochs=2, key=3, batch_size=16, shuffle=shuffle, progress=False
                )
                losses.append((history["loss"], model.predict(inputs).tobytes()))
        assert losses[:2] == losses[2:]


SCRIPT = """
import re, sys, threading, time
import numpy as np
from dropcore import nn
from dropcore.data import read_arrays

def anonymous():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]) * 1024

x = read_arrays(sys.argv[1])
y = np.arange(len(x)) % 2
model = nn.Sequential([nn.Dropout(0.2), nn.Dense(4, activation="relu"), nn.Dense(2)])
model.fit(x[:64], y[:64], epochs=1, key=0, progress=False)
before = peak = anonymous()
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
model.fit(x, y, epochs=1, batch_size=256, progress=False)
predicted = model.predict(x, batch_size=256)
done.set()
watcher.join()
assert len(predicted) == len(x) and np.isfinite(predicted).all()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
@pytest.mark.parametrize(
    "size", [512 << 20, pytest.param(8 << 30, marks=pytest.mark.slow)], ids=["512MiB", "8GiB"]
)
def test_data_larger_than_memory_trains_from_a_map(tmp_path, size):
    """Peak memory stays under a tenth of the file, of which most is a hole on the disk."""
    features = 1024
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.float32, (size // (4 * features), features))
    x[::1000] = 1
    del x
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 1 << 18 < int(done.stdout) < size / 10


LIMITED = """
import re, resource, sys, warnings
import numpy as np
from dropcore import nn
from dropcore.data import read_arrays

x, y = (read_arrays(path) for path in sys.argv[1:3])
options = {"labels": {}, "numbers": {"loss": "mse", "scale_targets": True}}[sys.argv[3]]
units = 3 if sys.argv[3] == "labels" else 1
warnings.simplefilter("ignore")
nn.Sequential([nn.Dense(units)]).fit(x[:64], y[:64], epochs=1, key=0, progress=False, **options)
with open("/proc/self/status") as status:
    used = int(re.search(r"VmData:\\s+(\\d+) kB", status.read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[4]), resource.RLIM_INFINITY))
model = nn.Sequential([nn.Dropout(0.2), nn.Dense(units)])
history = model.fit(x, y, epochs=1, batch_size=1 << 13, key=0, progress=False, **options)
print(history["loss"][0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts memory maps on Linux")
@pytest.mark.parametrize("what", ["labels", "numbers"])
def test_fit_needs_little_memory_for_each_sample(tmp_path, what):
    """A map of 128 MiB, whose every row has a target, with 24 MiB."""
    rows = 1 << 21
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (rows, 16))
    x[::1000, 3] = 1
    rng = np.random.default_rng(0)
    numbers = rng.integers(1, 4, rows).astype(np.uint8)  # labels that are no indices of outputs
    np.save(tmp_path / "y.npy", numbers if what == "labels" else numbers.astype(np.float32))
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *files, what, str(24 << 20)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) < 2

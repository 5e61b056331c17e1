"""Rows of Parquet files, from which a model is trained."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dropcore import Key
from dropcore.data import ParquetRows
from dropcore.data._parquet import RowBatches
from dropcore.distributed._blocks import Blocks
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.training._sources import Rows

arrow = pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")
parquet = pytest.importorskip("pyarrow.parquet")

SIZES = (7, 1, 40, 13, 0, 29, 64, 3, 20)  # of row groups
N = sum(SIZES)


def table(first=0, rows=N, **columns):
    """Rows whose feature `row` is their number."""
    number = np.arange(first, first + rows)
    given = {
        "row": number.astype(np.float64),
        "half": (number / 2).astype(np.float32),
        "even": number % 2 == 0,
        "label": (number % 3).astype(np.int16),
    }
    return arrow.table(given | columns)


def write(path, content, sizes):
    with parquet.ParquetWriter(path, content.schema) as writer:
        start = 0
        for size in sizes:
            writer.write_table(content.slice(start, size), row_group_size=max(size, 1))
            start += size
    return path


@pytest.fixture
def folder(tmp_path):
    """Three files of row groups of very different sizes."""
    for number, (a, b) in enumerate([(0, 3), (3, 6), (6, 9)]):
        first, rows = sum(SIZES[:a]), sum(SIZES[a:b])
        write(tmp_path / f"part{number}.parquet", table(first, rows), SIZES[a:b])
    return tmp_path


def numbers(rows, size, key, blocks=None):
    """The rows of each batch of an epoch, as one process or several together read them."""
    batches = rows.batches(size, key=key)
    found = []
    for batch in range(len(batches)):
        n = min(size, len(rows) - batch * size)
        parts = [range(n)] if blocks is None else blocks.rows(n)
        xs = [batches.take(batch, p.start, p.stop)[0][:, 0] for p in parts if p]
        found.append(np.concatenate(xs) if xs else np.empty(0))
    return found


# --- what is read --------------------------------------------------------------------------------


def test_rows_in_the_order_of_the_files(folder):
    rows = ParquetRows(folder, "label")
    assert len(rows) == N
    assert rows.groups == 8
    assert rows.columns == ["row", "half", "even"]
    assert rows.target == ["label"]
    for start, stop in ((0, N), (6, 9), (50, 150), (N, N), (3, 4)):
        x, y = rows.read(start, stop)
        number = np.arange(start, stop)
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(x, np.stack([number, number / 2, number % 2 == 0], 1))
        np.testing.assert_array_equal(y, number % 3)
    files = [folder / f"part{number}.parquet" for number in range(3)]
    np.testing.assert_array_equal(ParquetRows(files, "label").read(0, N)[0][:, 0], np.arange(N))
    text = repr(rows)
    assert text == (
        f"<ParquetRows: {N} rows in 8 row groups of 3 files, 3 features, target 'label'>"
    )


def test_columns_targets_and_dtypes(folder):
    x, y = ParquetRows(folder, ["half", "even"], columns=["label"], dtype="int64").read(3, 5)
    np.testing.assert_array_equal(x, [[0], [1]])
    assert x.dtype == np.int64
    np.testing.assert_array_equal(y, [[1.5, 0], [2.0, 1]])
    x, y = ParquetRows(folder, "even", drop=["half"], dtype=np.float64).read(3, 5)
    np.testing.assert_array_equal(x, [[3, 0], [4, 1]])
    assert y.tolist() == [False, True]
    assert ParquetRows(folder, "half").read(1, 2)[1].dtype == np.float64


# --- the order of an epoch -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 16, 64, N, 1000])
@pytest.mark.parametrize(("streams", "window"), [(1, 1), (1, 100), (3, 2), (8, 2), (16, 1)])
def test_every_row_comes_once_in_an_order_of_its_own(folder, size, streams, window):
    rows = ParquetRows(folder, "label", streams=streams, window=window)
    orders = []
    for key in (Key(1), Key(1, step=1), Key(2)):
        batches = numbers(rows, size, key)
        assert [len(b) for b in batches] == [
            len(b) for b in np.split(np.arange(N), range(size, N, size))
        ]
        orders.append(np.concatenate(batches))
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(N))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(orders[a], orders[b])
    np.testing.assert_array_equal(np.concatenate(numbers(rows, size, None)), np.arange(N))
    again = ParquetRows(folder, "label", streams=streams, window=window)
    np.testing.assert_array_equal(np.concatenate(numbers(again, size, Key(2))), orders[2])


@pytest.mark.parametrize("size", [3, 16, 33])
@pytest.mark.parametrize(("streams", "count"), [(4, 4), (8, 2), (2, 8), (3, 4)])
def test_the_order_is_the_same_for_any_number_of_processes(folder, size, streams, count):
    rows = ParquetRows(folder, "label", streams=streams)
    whole = numbers(rows, size, Key(5))
    for ranks in (1, 2, count):
        each = count // ranks
        parts = [
            numbers(rows, size, Key(5), Blocks(count, rank * each, (rank + 1) * each))
            for rank in range(ranks)
        ]
        for batch, wanted in enumerate(whole):
            np.testing.assert_array_equal(np.concatenate([p[batch] for p in parts]), wanted)


def test_a_process_reads_its_own_row_groups(tmp_path, monkeypatch):
    """Of 4 processes with 8 streams: each row group is read by one of them, by two at the cuts."""
    path = write(tmp_path / "x.parquet", table(rows=640), [10] * 64)
    rows = ParquetRows(path, "label", streams=8)
    read = []
    original = ParquetRows._table
    monkeypatch.setattr(
        ParquetRows, "_table", lambda self, number: read.append(number) or original(self, number)
    )
    seen = []
    for rank in range(4):
        read.clear()
        numbers(rows, 32, Key(3), Blocks(4, rank, rank + 1))
        assert len(read) <= 64 / 4 + 4
        seen += set(read)
    assert set(seen) == set(range(64))
    read.clear()
    numbers(rows, 32, Key(3))
    assert len(read) <= 64 + 8


def test_rows_are_mixed(tmp_path):
    """A batch has rows of many row groups, and neighbours in the file part."""
    path = write(tmp_path / "x.parquet", table(rows=6400), [100] * 64)
    batches = numbers(ParquetRows(path, "label", streams=8, window=2), 64, Key(3))
    groups = [len(np.unique(batch // 100)) for batch in batches]
    assert np.mean(groups) > 13  # of 16 that are open
    order = np.concatenate(batches)
    assert np.mean(abs(np.diff(order)) == 1) < 0.02
    place = np.argsort(order) - np.arange(6400)
    assert abs(place).mean() > 1500  # of 2133 for independent places
    first = [ParquetRows(path, "label").batches(64, key=seed).take(0, 0, 1)[0][0, 0]
             for seed in range(200)]  # fmt: skip
    assert len(np.unique(np.array(first) // 100)) > 50


def test_each_window_has_an_order_of_its_own(tmp_path):
    path = write(tmp_path / "x.parquet", table(rows=640), [10] * 64)
    for streams in (1, 4):
        rows = ParquetRows(path, "label", streams=streams, window=1)
        order = np.concatenate(numbers(rows, streams, Key(0)))
        within = [tuple(order[order // 10 == group] % 10) for group in range(64)]
        assert len(set(within)) > 60


def test_many_rows_in_few_groups_are_mixed_in_place(tmp_path):
    path = write(tmp_path / "x.parquet", table(rows=1000), [1000])
    order = np.concatenate(numbers(ParquetRows(path, "label", streams=1), 100, Key(0)))
    assert abs(order - np.arange(1000)).mean() > 250


# --- training ------------------------------------------------------------------------------------


def model():
    return Sequential([Dropout(0.2), Dense(6, activation="relu"), Dense(3)])


def scaled(folder):
    """Files whose numbers suit a network."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 2))
    content = arrow.table({"a": x[:, 0], "b": x[:, 1], "y": (x[:, 0] > 0) + (x[:, 1] > 0) * 1})
    return write(folder / "scaled.parquet", content, SIZES)


OPTIONS = {"epochs": 3, "batch_size": 32, "key": 4, "optimizer": SGD(0.2), "progress": False}


def test_fit_is_that_of_the_batches(folder):
    rows = ParquetRows(scaled(folder), "y", streams=4)
    trained = model()
    history = trained.fit(rows, loss="softmax_cross_entropy", **OPTIONS)
    by_hand = model()
    for epoch in range(3):
        batches = list(rows.batches(32, key=Key(4, step=epoch)))
        by_hand.fit(
            batches, loss="softmax_cross_entropy", epochs=1, key=4, optimizer=SGD(0.2),
            progress=False,
        )  # fmt: skip
    for path, array in trained.params.items():
        np.testing.assert_array_equal(by_hand.params[path], array)
    assert trained.training_state.feature_names == ["a", "b"]
    assert history["loss"][-1] < history["loss"][0]
    x, y = rows.read(0, N)
    wanted = trained.evaluate(pandas.DataFrame(x, columns=["a", "b"]), y)
    assert trained.evaluate(rows, batch_size=50) == pytest.approx(wanted)


def test_without_shuffle_the_files_are_arrays(folder):
    rows = ParquetRows(scaled(folder), "y")
    x, y = rows.read(0, N)
    from_file, from_arrays = model(), model()
    from_file.fit(
        rows, shuffle=False, validation_data=rows, loss="softmax_cross_entropy", **OPTIONS
    )
    from_arrays.fit(
        x, y, shuffle=False, validation_data=(x, y), loss="softmax_cross_entropy", **OPTIONS
    )
    for path, array in from_arrays.params.items():
        np.testing.assert_array_equal(from_file.params[path], array)
    a, b = (m.training_state.history["val_loss"] for m in (from_file, from_arrays))
    assert a == pytest.approx(b)


@pytest.mark.parametrize("blocks", [2, 4])
def test_blocks_learn_the_same(folder, blocks):
    pytest.importorskip("greenlet")
    rows = ParquetRows(scaled(folder), "y", streams=4)
    whole, parts = model(), model()
    whole.fit(rows, loss="softmax_cross_entropy", **OPTIONS)
    parts.fit(rows, loss="softmax_cross_entropy", blocks=blocks, **OPTIONS)
    for path, array in whole.params.items():
        np.testing.assert_allclose(parts.params[path], array, 1e-4, 1e-6)


def test_an_interrupted_epoch_goes_on_with_the_same_bits(folder, monkeypatch):
    rows = ParquetRows(scaled(folder), "y", streams=4)
    wanted, found = model(), model()
    wanted.fit(rows, loss="softmax_cross_entropy", **OPTIONS)
    take, calls = RowBatches.take, iter(range(99))

    def interrupted(*args):
        if next(calls) == 8:  # in the second epoch
            raise KeyboardInterrupt
        return take(*args)

    with monkeypatch.context() as patch:
        patch.setattr(RowBatches, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found.fit(rows, loss="softmax_cross_entropy", **OPTIONS)
    assert found.training_state.unfinished.batches == 2
    with pytest.raises(ValueError, match="the same window as before, 2, got 3"):
        found.fit(ParquetRows(scaled(folder), "y", streams=4, window=3), resume=True, **OPTIONS)
    found.fit(rows, resume=True, **OPTIONS)
    for path, array in wanted.params.items():
        np.testing.assert_array_equal(found.params[path], array)


def test_blocks_without_rows_are_empty(folder):
    rows = ParquetRows(scaled(folder), "y")
    source = Rows(model(), "x", rows, 3, None, key=Key(1))
    pieces = list(source.pieces(Blocks(8, 0, 8)))
    assert [len(p.batch.x) for p in pieces[0]] == [0, 0, 1, 0, 0, 1, 0, 1]
    assert sum(len(p.batch.x) for each in pieces for p in each) == N


LIMITED = """
import re, resource, sys
import pyarrow
from dropcore import nn
from dropcore.data import ParquetRows

pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # which reserves nothing
rows = ParquetRows(sys.argv[1], "y", streams=4, window=int(sys.argv[2]))
nn.Sequential([nn.Dense(2)]).fit(rows.read(0, 64)[0], rows.read(0, 64)[1], epochs=1, key=0)
rows.batches(512, key=1).take(0, 0, 512)
with open("/proc/self/status") as status:
    used = int(re.search(r"VmData:\\s+(\\d+) kB", status.read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (8 << 20), resource.RLIM_INFINITY))
model = nn.Sequential([nn.Dense(2)])
print(model.fit(rows, epochs=1, batch_size=512, key=0, progress=False)["loss"][0])
"""


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "labl"}, ValueError, "no column 'labl' in .*did you mean 'label'"),
        ({"target": []}, ValueError, "target must name a column, got none"),
        ({"target": 3}, TypeError, "target must be a column's name or several, got 3"),
        ({"columns": ["rw"]}, ValueError, "no column 'rw' .*did you mean 'row'"),
        ({"columns": ["row", "row"]}, ValueError, "columns names a column twice"),
        ({"drop": ["x"]}, ValueError, "no column 'x'"),
        ({"drop": ["row"], "columns": ["half"]}, ValueError, "columns or drop, not both"),
        ({"drop": ["label"]}, ValueError, "'label' cannot be both in target and in drop"),
        ({"columns": ["label"]}, ValueError, "'label' cannot be both in target and in columns"),
        ({"drop": ["row", "half", "even"]}, ValueError, "no columns besides target and drop"),
        ({"dtype": "float16"}, TypeError, "dtype must be float32, float64 or int64, got float16"),
        ({"dtype": "int64"}, TypeError, "int64 is for columns of integers, and 'row' is double"),
        ({"streams": 0}, ValueError, "streams must be a positive integer, got 0"),
        ({"window": 1.5}, TypeError, "window must be"),
    ],
)
def test_arguments(folder, options, error, message):
    with pytest.raises(error, match=message):
        ParquetRows(folder, **{"target": "label"} | options)


def test_files(tmp_path):
    def refused(error, message, path=tmp_path):
        with pytest.raises(error, match=message):
            ParquetRows(path, "label")

    refused(FileNotFoundError, r"the folder .* has no files that end with \.parquet")
    refused(FileNotFoundError, "there is no file", tmp_path / "a.parquet")
    refused(TypeError, "path must be the path of a file, got 3", 3)
    refused(ValueError, "path must name a file, got none", [])
    text = tmp_path / "a.parquet"
    text.write_text("row,label\n1,2\n")
    refused(ValueError, "not a Parquet file, or is damaged: .*read_table")
    write(text, table(rows=0), [0])
    refused(ValueError, "a.parquet' has no rows")
    whole = write(text, table(), SIZES).read_bytes()
    text.write_bytes(whole[:100] + whole[-200:])
    refused(ValueError, "not a Parquet file, or is damaged")
    write(text, table(label=np.repeat(["a"], N)), SIZES)
    refused(TypeError, "column 'label' of .* must hold numbers or booleans, got string: leave it")
    write(text, table(label=np.arange(N, dtype=np.uint64)), SIZES)
    refused(TypeError, "column 'label' becomes int64 and is uint64: write it as int64")
    write(text, table(half=np.repeat(np.datetime64("2020-01-01", "s"), N)), SIZES)
    refused(TypeError, "column 'half' .*got timestamp")
    missing = np.where(np.arange(N) == 200 - 40, None, 1.0)
    write(text, table(half=arrow.array(missing.tolist(), arrow.float32())), SIZES)
    refused(ValueError, r"column 'half' of .* has 1 missing values in row group \d: fill them")
    write(text, table(), SIZES)
    write(tmp_path / "b.parquet", table().drop_columns(["half"]), SIZES)
    refused(ValueError, "b.parquet lacks the columns 'half' of the first file")
    write(tmp_path / "b.parquet", table(half=np.arange(N)), SIZES)
    refused(ValueError, "'half' of .*b.parquet is int64, and in the first file float")
    twice = arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], names=["label", "label"])
    write(tmp_path / "b.parquet", twice, [1])
    refused(ValueError, "two columns of the name 'label'", tmp_path / "b.parquet")


def test_missing_values_without_statistics_are_found_when_they_are_read(tmp_path):
    content = table(half=arrow.array([1.0] * 99 + [None] * (N - 99), arrow.float32()))
    path = tmp_path / "x.parquet"
    parquet.write_table(content, path, row_group_size=50, write_statistics=False)
    rows = ParquetRows(path, "label")
    rows.read(0, 50)
    with pytest.raises(ValueError, match=r"'half' of .* has 1 missing values in row group 1"):
        rows.read(0, 51)


def test_files_that_change(folder):
    rows = ParquetRows(folder, "label")
    write(folder / "part0.parquet", table(rows=30), [30])
    with pytest.raises(ValueError, match=r"part0\.parquet was changed: create the object again"):
        rows.read(0, 5)
    (folder / "part0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part0\.parquet is damaged, or was changed"):
        rows.read(0, 5)
    (folder / "part0.parquet").unlink()
    with pytest.raises(ValueError, match=r"part0\.parquet is damaged, or was changed"):
        rows.read(0, 5)


def test_what_a_model_refuses(folder):
    rows = ParquetRows(scaled(folder), "y")
    for name, value, message in (
        ("validation_split", 0.2, "x without y is rows of files: hold some batches or rows out"),
        ("class_weight", "balanced", "rows of files: give a dict"),
        ("scale_targets", True, "rows of files: standardise the targets"),
        ("lengths", [1], "rows of files: batches may be dicts"),
        ("sample_weight", [1], "rows of files"),
    ):
        with pytest.raises(ValueError, match=message):
            model().fit(rows, **OPTIONS | {name: value})
    trained = model()
    trained.fit(rows, loss="softmax_cross_entropy", **OPTIONS)
    with pytest.raises(ValueError, match="x must have the columns that the model was fitted to"):
        trained.fit(ParquetRows(scaled(folder), "y", columns=["b", "a"]), **OPTIONS)
    with pytest.raises(ValueError, match="validation_data must have the columns"):
        model().fit(rows, validation_data=ParquetRows(folder / "part0.parquet", "label"), **OPTIONS)
    content = arrow.table({"a": [0.0, np.nan], "b": [0.0, 1.0], "y": [0, 1]})
    bad = write(folder / "bad.parquet", content, [1, 1])
    with pytest.raises(ValueError, match=r"x: x must be finite in float32, got nan at \(1, 0\)"):
        model().fit(ParquetRows(bad, "y"), **OPTIONS)
    with pytest.raises(ValueError, match=r"rows of files: batches may be dicts"):
        trained.evaluate(rows, sample_weight=[1.0])


def test_numbers_of_batches(folder):
    rows = ParquetRows(folder, "label")
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        rows.batches(0)
    with pytest.raises(ValueError, match=rf"read: stop must be .* got {N + 1}"):
        rows.read(0, N + 1)
    with pytest.raises(ValueError, match="read: stop must be"):
        rows.read(5, 4)
    assert len(rows.batches(50)) == 4
    assert [len(y) for _, y in rows.batches(50)] == [50, 50, 50, 27]


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts memory on Linux")
def test_an_epoch_holds_few_row_groups(tmp_path):
    """A file of 24 MiB with 8 MiB, of which the eight row groups of 384 KiB are 3 MiB."""
    n, features = 1 << 17, 48
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.standard_normal(n, np.float32) for i in range(features)}
    columns["y"] = (columns["x0"] > 0).astype(np.int64)
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet", row_group_size=2048)
    done = {
        window: subprocess.run(
            [sys.executable, "-c", LIMITED, str(tmp_path / "x.parquet"), window],
            capture_output=True, text=True, check=False,
        )
        for window in ("2", "16")
    }  # fmt: skip
    assert done["2"].returncode == 0, done["2"].stderr
    assert 0.1 < float(done["2"].stdout) < 0.7
    assert done["16"].returncode == 1
    assert "MemoryError" in done["16"].stderr

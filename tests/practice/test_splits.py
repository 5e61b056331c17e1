"""Parts for training, validation and testing."""

import re

import numpy as np
import pytest

import dropcore
from dropcore.data import split, split_rows

LABELS = np.repeat(["a", "b", "c"], [60, 30, 10])


def assert_partition(parts, samples, sizes):
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))
    for part in parts:
        assert (np.diff(part) > 0).all()
        assert part.dtype == np.int64


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [80, 20]),
        ({"validation": 0.25, "test": 0.1}, [65, 25, 10]),
        ({"validation": 7, "test": 3}, [90, 7, 3]),
        ({"validation": 0, "test": 0.3}, [70, 30]),
        ({"validation": 0.0001}, [99, 1]),
        ({"validation": np.int64(5)}, [95, 5]),
        ({"validation": np.float32(0.5)}, [50, 50]),
    ],
)
@pytest.mark.parametrize("stratify", [None, LABELS])
def test_each_sample_is_in_one_part(options, sizes, stratify):
    if stratify is not None:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
        if min(sizes) < 5:
            options, sizes = {"validation": 20, "test": 10}, [70, 20, 10]
    assert_partition(split_rows(100, stratify=stratify, **options), 100, sizes)


@pytest.mark.parametrize("stratify", [None, LABELS])
def test_a_split_depends_on_the_seed_only(stratify):
    def rows(key):
        return [part.tolist() for part in split_rows(100, test=0.1, stratify=stratify, key=key)]

    assert rows(7) == rows(dropcore.Key(7, stream=3, step=2))
    assert rows(7) != rows(8)
    assert rows(7) == rows(7)
    assert rows(2**64 - 1) != rows(2**64 - 2)


def test_known_rows():
    """A split is the same on every machine."""
    assert split_rows(8, validation=3, key=1)[1].tolist() == [0, 3, 6]


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(object), (LABELS == "a"), list(LABELS)])
def test_stratified_parts_have_the_same_proportions(labels):
    parts = split_rows(100, validation=20, test=10, stratify=labels, key=3)
    wanted = [[42, 21, 7], [12, 6, 2], [6, 3, 1]]
    found = [[(LABELS[part] == name).sum() for name in "abc"] for part in parts]
    if len(set(labels)) == 3:
        assert found == wanted
    assert [counts[0] for counts in found] == [42, 12, 6]
    assert_partition(parts, 100, [70, 20, 10])


def test_data_of_every_kind_is_split_alike():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    x = np.arange(40).reshape(20, 2)
    frame = pd.DataFrame(x, columns=["u", "v"], index=[f"row {i}" for i in range(20)])
    labels = [f"label {i}" for i in range(20)]
    rows = split_rows(20, validation=0.25, test=2, key=5)
    parts = split(
        x, frame, frame["u"], labels, tuple(labels), sparse.csr_array(x),
        validation=0.25, test=2, key=5,
    )  # fmt: skip
    assert len(parts) == 3
    for wanted, (array, table, column, words, more, matrix) in zip(rows, parts, strict=True):
        np.testing.assert_array_equal(array, x[wanted])
        assert table.index.tolist() == [f"row {i}" for i in wanted]
        assert column.tolist() == x[wanted, 0].tolist()
        assert words == more == [labels[i] for i in wanted]
        np.testing.assert_array_equal(matrix.toarray(), x[wanted])
    train, validation, test = split(x, validation=0.25, test=2, key=5)
    assert [len(train), len(validation), len(test)] == [13, 5, 2]
    np.testing.assert_array_equal(train, x[rows[0]])


def test_arrays_on_a_gpu_stay_there(gpu):
    x = gpu.asarray(np.arange(10))
    train, held = split(x, validation=3)
    assert type(train) is type(x)
    assert sorted(gpu.asnumpy(train).tolist() + gpu.asnumpy(held).tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, TypeError, "give the data to split"),
        ([range(3)], {}, TypeError, "argument 0 must be a data frame, an array or a list"),
        ([[1], "a"], {}, TypeError, "argument 1 must be a data frame"),
        ([np.zeros(())], {}, TypeError, "argument 0 must be a data frame"),
        ([np.zeros(3), [1, 2]], {}, ValueError, "of the same length, got [3, 2]"),
        ([[]], {}, ValueError, "the number of samples must be a positive integer, got 0"),
        ([[1, 2]], {"validation": 0}, ValueError, "nothing to split"),
        ([[1, 2]], {"validation": 2}, ValueError, "2 samples leave none for training after 2 for"),
        ([[1, 2]], {"validation": 1, "test": 0.5}, ValueError, "1 for validation and 1 for test"),
        ([[1]], {"validation": 0.1}, ValueError, "1 samples leave none"),
        ([[1, 2]], {"validation": 1.0}, ValueError, "validation must be in [0, 1), got 1.0"),
        ([[1, 2]], {"test": -0.5}, ValueError, "test must be in [0, 1), got -0.5"),
        ([[1, 2]], {"validation": -1}, ValueError, "validation must be an integer >= 0, got -1"),
        ([[1, 2]], {"validation": True}, TypeError, "validation must be a number, got True"),
        ([[1, 2]], {"validation": "a"}, TypeError, "validation must be a number, got 'a'"),
        ([[1, 2]], {"key": 1.5}, TypeError, "key must be an integer"),
        ([[1, 2]], {"stratify": True}, TypeError, "stratify must be an array of labels, such as y"),
        ([[1, 2]], {"stratify": "y"}, TypeError, "stratify must be an array of labels, such as y"),
        ([[1, 2]], {"stratify": [1]}, ValueError, "one label for each of the 2 samples, got"),
        ([[1, 2]], {"stratify": [[1], [2]]}, ValueError, "got shape (2, 1)"),
        ([[1, 2]], {"stratify": [1, None]}, ValueError, "has no label for sample 1"),
        ([[1, 2]], {"stratify": [np.nan, 1]}, ValueError, "has no label for sample 0"),
        ([[1] * 5], {"stratify": [0, 0, 0, 0, 1]}, ValueError, "a class of 1 sample, too few"),
        (
            [[1] * 10],
            {"stratify": [0] * 8 + [1] * 2, "test": 0.2},
            ValueError,
            "a class of 2 samples, too few to be in 3 parts",
        ),
        (
            [[1] * 20],
            {"stratify": list(range(4)) * 5, "validation": 2},
            ValueError,
            "2 of 20 samples for validation cannot hold each of the 4 classes",
        ),
        (
            [[1] * 12],
            {"stratify": [0] * 9 + [1] * 3, "validation": 8, "test": 2},
            ValueError,
            "a class of 1 sample left, too few to be in 2 parts",
        ),
    ],
)
def test_wrong_splits_are_refused(data, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        split(*data, **options)


def test_shares_are_rounded_to_the_nearest_number():
    assert [len(rows) for rows in split_rows(7, validation=0.25)] == [5, 2]
    assert [len(rows) for rows in split_rows(100, validation=0.29)] == [71, 29]
    assert [len(rows) for rows in split_rows(9, validation=0.25)] == [7, 2]

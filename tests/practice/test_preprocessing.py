"""Mixed tables as arrays of numbers, and targets in units of their deviation."""

import copy
import datetime
import decimal
import json
import pickle
import warnings

import numpy as np
import pytest

from dropcore.data import Preprocessing, TargetScaling

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def mixed(rows=60, seed=3):
    """Numbers with and without holes, text with holes, truth values, categories."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "age": random.normal(40, 10, rows),
            "visits": random.integers(0, 9, rows),
            "city": random.choice(["Bern", "Oslo", "Rom"], rows),
            "member": random.random(rows) < 0.5,
            "size": pd.Categorical(random.choice(["L", "S"], rows), categories=["S", "L"]),
        }
    )
    table.loc[[3, 9], "age"] = np.nan
    table.loc[[5, 6], "city"] = None
    return table


@pytest.fixture(scope="module")
def table():
    return mixed()


@pytest.fixture(scope="module")
def fitted(table):
    return Preprocessing().fit(table)


# --- what it computes ----------------------------------------------------------------------------


def test_it_is_the_pipeline_of_scikit_learn(table, fitted):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    plain = table.astype({"member": str, "city": object, "size": object})
    numbers = make_union(
        make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), MissingIndicator()
    )
    texts = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(sparse_output=False)
    )
    wanted = ColumnTransformer(
        [("n", numbers, ["age", "visits"]), ("t", texts, ["city", "member", "size"])]
    ).fit_transform(plain)
    found = fitted.transform(table)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_names_of_the_result(table, fitted):
    assert fitted.columns == ("age", "visits", "city", "member", "size")
    assert fitted.feature_names_out == (
        "age", "visits", "age is missing", "city=Bern", "city=Oslo", "city=Rom", "city=missing",
        "member=False", "member=True", "size=L", "size=S",
    )  # fmt: skip
    found = fitted.transform(table)
    np.testing.assert_array_equal(found[:, 3], table["city"] == "Bern")
    np.testing.assert_array_equal(found[:, 6], table["city"].isna())
    np.testing.assert_array_equal(found[:, 2] > 0, table["age"].isna())
    median = np.nanmedian(table["age"])
    filled = table["age"].fillna(median)
    np.testing.assert_allclose(
        found[:, 0], (filled - filled.mean()) / filled.std(ddof=0), rtol=1e-6, atol=1e-6
    )


def test_what_was_learned_is_plain_json_and_gives_the_same_bits(table, fitted):
    text = json.dumps(fitted.to_config(), allow_nan=False)
    back = Preprocessing.from_config(json.loads(text))
    assert back == fitted
    assert back.feature_names_out == fitted.feature_names_out
    new = mixed(seed=8)
    np.testing.assert_array_equal(
        back.transform(new).view(np.uint32), fitted.transform(new).view(np.uint32)
    )
    assert json.dumps(back.to_config()) == text


def test_copies_and_pickles_transform_alike(table, fitted):
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(other.transform(table), fitted.transform(table))
    fresh = pickle.loads(pickle.dumps(Preprocessing(min_frequency=7)))
    assert not fresh.fitted
    assert fresh.min_frequency == 7


def test_blocks_of_rows_do_not_change_the_bits(table, fitted, monkeypatch):
    wanted = fitted.transform(table)
    monkeypatch.setattr("dropcore.data._preprocessing._BLOCK", 7 * 5)
    np.testing.assert_array_equal(fitted.transform(table), wanted)
    bad = table.astype({"visits": object})
    bad.loc[41, "visits"] = "many"
    with pytest.raises(ValueError, match=r"column 'visits' must hold numbers, .*'many' in row 41"):
        fitted.transform(bad)


def test_a_second_fit_replaces_the_first(table):
    found = Preprocessing().fit(table)
    found.fit(table[["age", "city"]])
    assert found.columns == ("age", "city")
    with pytest.raises(ValueError, match="not empty"):
        found.fit(np.empty((0, 3)))
    assert found.columns == ("age", "city")


def test_scikit_learns_global_output_setting_does_not_matter(table, fitted):
    import sklearn

    with sklearn.config_context(transform_output="pandas"):
        found = Preprocessing().fit(table)
        np.testing.assert_array_equal(found.transform(table), fitted.transform(table))


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
def test_arrays_of_numbers_are_standardised(dtype):
    x = np.random.default_rng(0).integers(0, 2, (30, 3)).astype(dtype)
    found = Preprocessing().fit(x)
    assert found.feature_names_out == ("x0", "x1", "x2")
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(0)) / wide.std(0)
    np.testing.assert_allclose(found.transform(x), wanted, rtol=1e-6)
    np.testing.assert_array_equal(found.transform(x.tolist()), found.transform(x))


def test_arrays_of_objects_hold_mixed_columns():
    x = np.array([[1, "a"], [2.5, "b"], [None, "a"], [4, "b"]], dtype=object)
    found = Preprocessing().fit(x)
    assert found.feature_names_out == ("x0", "x0 is missing", "x1=a", "x1=b")
    np.testing.assert_array_equal(found.transform(x)[:, 2], [1, 0, 1, 0])
    with pytest.raises(ValueError, match=r"x must have 2 columns, 'x0', 'x1', got 3"):
        found.transform(np.zeros((2, 3)))


def test_an_array_is_taken_in_order_where_training_data_had_names():
    frame = pd.DataFrame({"a": [1.0, 2, 4], "b": [3.0, 1, 0]})
    found = Preprocessing().fit(frame)
    with pytest.warns(UserWarning, match="x has no column names, and the training data had col"):
        np.testing.assert_array_equal(found.transform(frame.to_numpy()), found.transform(frame))
    unnamed = Preprocessing().fit(frame.to_numpy())
    with pytest.warns(UserWarning, match="x has column names, and the training data had no column"):
        np.testing.assert_array_equal(unnamed.transform(frame), found.transform(frame))


# --- dtypes of pandas ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        pd.array([1, 2, None, 4], dtype="Int64"),
        pd.array([1, 2, None, 4], dtype="Float32"),
        pd.array([1, 2, None, 4], dtype="float64[pyarrow]"),
        np.array([1, 2.0, None, decimal.Decimal(4)], dtype=object),
        pd.arrays.SparseArray([1.0, 2, np.nan, 4]),
    ],
    ids=["Int64", "Float32", "arrow", "objects", "sparse"],
)
def test_numbers_of_every_dtype(values):
    found = Preprocessing().fit(pd.DataFrame({"a": [1.0, 2, np.nan, 4]}))
    wanted = found.transform(pd.DataFrame({"a": [1.0, 2, np.nan, 4]}))
    frame = pd.DataFrame({"a": values})
    assert Preprocessing().fit(frame) == found
    np.testing.assert_array_equal(found.transform(frame), wanted)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["u", "v", None, "v", "u"]).array,  # str from pandas 3 on
        pd.array(["u", "v", None, "v", "u"], dtype="string"),
        pd.array(["u", "v", None, "v", "u"], dtype="string[pyarrow]"),
        pd.Categorical(["u", "v", None, "v", "u"]),
        np.array(["u", "v", None, "v", "u"], dtype=object),
        np.array(["u", "v", np.nan, "v", "u"], dtype=object),
    ],
    ids=["str", "string", "arrow", "categorical", "objects", "nan"],
)
def test_text_of_every_dtype(values):
    found = Preprocessing(min_frequency=1).fit(pd.DataFrame({"a": values}))
    assert found.feature_names_out == ("a=missing", "a=u", "a=v")
    np.testing.assert_array_equal(
        found.transform(pd.DataFrame({"a": values})),
        [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]],
    )


def test_truth_values_with_holes():
    values = pd.array([True, None, False, True, False, None], dtype="boolean")
    found = Preprocessing().fit(pd.DataFrame({"a": values}))
    assert found.feature_names_out == ("a=False", "a=True", "a=missing")
    plain = np.array([True, None, False], dtype=object)
    np.testing.assert_array_equal(found.transform(pd.DataFrame({"a": plain})), np.eye(3)[[1, 2, 0]])


def test_a_category_is_the_same_as_number_and_as_text():
    codes = pd.DataFrame({"code": pd.Categorical([1, 2, 1, 2])})
    found = Preprocessing().fit(codes)
    assert found.feature_names_out == ("code=1", "code=2")
    wanted = [[0, 1], [1, 0]]
    for values in (["2", "1"], [2, 1], [2.0, 1.0]):
        np.testing.assert_array_equal(found.transform(pd.DataFrame({"code": values})), wanted)
    np.testing.assert_array_equal(
        Preprocessing().fit(codes).transform(pd.DataFrame({"code": [2.0, 1.0]})), wanted
    )


def test_integers_beyond_float64_are_scaled():
    x = pd.DataFrame({"a": [2**63, 2**64 - 1, 2**62], "b": [10**30, 0, 5 * 10**29]}, dtype=object)
    found = Preprocessing().fit(x).transform(x)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)


def test_column_names_may_be_numbers():
    found = Preprocessing().fit(pd.DataFrame({0: [1.0, 2], 1: [2.0, 1]}))
    assert found.columns == ("0", "1")


# --- columns without information -----------------------------------------------------------------


def test_columns_without_information_are_named_and_left_out():
    rows = 30
    x = pd.DataFrame(
        {
            "a": np.arange(rows) % 7,
            "one": 0.1,
            "word": "yes",
            "none": np.nan,
            "id": [f"customer {i}" for i in range(rows)],
        }
    )
    with pytest.warns(UserWarning, match="left out") as caught:
        found = Preprocessing().fit(x)
    texts = [str(warning.message) for warning in caught]
    assert [w.filename for w in caught] == [__file__] * 3
    assert "columns 'one', 'word' are left out, which have the same value in all rows" in texts[0]
    assert "column 'none' is left out, which has no values" in texts[1]
    assert "column 'id' is left out, which has a different text in almost every row" in texts[2]
    assert found.dropped == {
        "one": "constant", "word": "constant", "none": "empty", "id": "identifier"
    }  # fmt: skip
    assert found.feature_names_out == ("a",)
    # They may change, or be absent, in new data.
    wanted = found.transform(x)
    np.testing.assert_array_equal(found.transform(x[["a"]]), wanted)
    np.testing.assert_array_equal(found.transform(x.assign(one="text")), wanted)


def test_free_text_and_dates_are_named_and_left_out():
    rows = 200
    text = [f"sentence {i // 2 if i < 10 else i}" for i in range(rows)]  # five of them twice
    day = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(rows)]
    x = pd.DataFrame({"a": np.arange(rows) % 7, "text": text, "day": day})
    with pytest.warns(UserWarning, match="columns 'text', 'day' are left out.* in almost every"):
        found = Preprocessing().fit(x)
    assert found.dropped == {"text": "identifier", "day": "identifier"}
    with pytest.warns(UserWarning, match="'text' is left out, .* count the words of texts"):
        found = Preprocessing().fit(x[["a", "text"]])
    assert found.feature_names_out == ("a",)
    # Where it is often missing, that tells something; few rows in one category do, too.
    x["comment"] = [None if i % 4 else t for i, t in enumerate(text)]
    x["kind"] = [t if i % 8 else "usual" for i, t in enumerate(text)]
    found = Preprocessing().fit(x[["comment", "kind"]])
    assert {"comment=missing", "comment=(other)", "kind=usual"} <= set(found.feature_names_out)


def test_a_constant_with_holes_tells_where_they_are():
    x = pd.DataFrame({"a": [5.0, np.nan, 5, 5]})
    with pytest.warns(UserWarning, match="column 'a' has the same value in all rows that have one"):
        found = Preprocessing().fit(x)
    np.testing.assert_array_equal(found.transform(x)[:, 0], np.zeros(4))
    assert np.isfinite(found.transform(x)).all()


def test_numbers_that_are_constant_up_to_rounding_are_left_out():
    x = pd.DataFrame({"a": [1e9, 1e9 + 1e-7, 1e9], "b": [5e-324, 0.0, 0.0], "c": [1.0, 2, 3]})
    with pytest.warns(UserWarning, match="columns 'a', 'b' are left out, which have the same"):
        found = Preprocessing().fit(x)
    np.testing.assert_allclose(found.transform(x), [[-(1.5**0.5)], [0], [1.5**0.5]], rtol=1e-6)
    # A standard deviation of exactly 1 is kept.
    assert not Preprocessing().fit(np.array([[1.0], [-1.0]])).dropped


def test_row_numbers_are_pointed_out():
    x = pd.DataFrame({"row": np.arange(5, 35), "a": np.arange(30) % 4})
    with pytest.warns(UserWarning, match=r"column 'row' counts the rows \(5, 6, \.\.\.\)"):
        found = Preprocessing().fit(x)
    assert found.feature_names_out == ("row", "a")


def test_marks_for_missing_values_are_pointed_out():
    x = pd.DataFrame({"a": ["1.5", "2", "?", "4", "1.5", "2"] * 3})
    with pytest.warns(
        UserWarning, match=r"'a' holds 15 numbers and text such as '\?', .*=\['\?'\]"
    ):
        Preprocessing().fit(x)
    with pytest.warns(UserWarning, match="'a' holds numbers written as text"):
        Preprocessing().fit(pd.DataFrame({"a": ["1,5", "2,5", "3,5"] * 2}))
    mixed_objects = pd.DataFrame({"a": np.array([1, 2, 3, 1, 2, 3, "many", "many"], object)})
    with pytest.warns(UserWarning, match="'a' holds 6 numbers and text such as 'many'"):
        found = Preprocessing().fit(mixed_objects)
    assert found.feature_names_out == ("a=1", "a=2", "a=3", "a=many")


def test_too_many_categories_share_an_output():
    names = [f"n{i:02}" for i in range(50)] * 2 + ["n00"] + ["once"]
    x = pd.DataFrame({"a": names, "b": np.arange(102) % 5})
    with pytest.warns(UserWarning, match="'a' of text with many categories for 102 rows"):
        found = Preprocessing().fit(x)
    assert found.feature_names_out[-1] == "a=(other)"
    assert len(found.feature_names_out) == 1 + 50 + 1
    few = Preprocessing(max_categories=3).fit(x)
    assert few.feature_names_out[1] == "a=n00"
    assert few.feature_names_out[3] == "a=(other)"
    result = few.transform(x)
    np.testing.assert_array_equal(result[:, 1:].sum(1), np.ones(102))
    # A category that training did not have is one of the others.
    new = pd.DataFrame({"a": ["new", "n00"], "b": [0, 1]})
    np.testing.assert_array_equal(few.transform(new)[:, 1:], [[0, 0, 1], [1, 0, 0]])
    again = Preprocessing.from_config(few.to_config())
    np.testing.assert_array_equal(again.transform(x), result)


def test_a_category_may_be_called_other():
    x = pd.DataFrame({"a": ["other", "other", "u", "u", "once", "other_", "other_"]})
    found = Preprocessing().fit(x)
    assert found.feature_names_out == ("a=other", "a=other_", "a=u", "a=(other)")
    np.testing.assert_array_equal(found.transform(x), np.eye(4)[[0, 0, 2, 2, 3, 1, 1]])


def test_nothing_left_is_an_error():
    with (
        pytest.raises(ValueError, match="no column of x holds information: 'a' is constant"),
        pytest.warns(UserWarning, match="the same value"),
    ):
        Preprocessing().fit(pd.DataFrame({"a": [1.0, 1.0]}))


# --- new data ------------------------------------------------------------------------------------


def test_columns_are_found_by_name(table, fitted):
    shuffled = table[["size", "age", "member", "visits", "city"]]
    np.testing.assert_array_equal(fitted.transform(shuffled), fitted.transform(table))


def test_missing_and_unknown_columns_are_named(table, fitted):
    renamed = table.rename(columns={"visits": "Visits", "city": "town"})
    message = (
        r"x must have the columns of training, 'age', .*: missing 'visits', 'city'; unknown "
        r"'Visits', 'town' \('Visits' may be 'visits'\)"
    )
    with pytest.raises(ValueError, match=message):
        fitted.transform(renamed)
    with pytest.raises(ValueError, match="unknown 'target'"):
        fitted.transform(table.assign(target=1))


def test_text_in_a_column_of_numbers_is_named(table, fitted):
    bad = table.astype({"age": object})
    bad.loc[2, "age"] = "forty"
    message = (
        r"column 'age' must hold numbers, as it did in training, got 'forty' in row 2 \(1 such"
    )
    with pytest.raises(ValueError, match=message):
        fitted.transform(bad)
    text = table.astype({"visits": str})
    np.testing.assert_array_equal(fitted.transform(text), fitted.transform(table))


def test_an_unknown_category_is_named(table, fitted):
    new = table.head(3).assign(city=["Bern", "Lima", "Quito"])
    with pytest.warns(UserWarning, match="'city' has categories .* data, 'Lima', 'Quito':") as got:
        found = fitted.transform(new)
    assert got[0].filename == __file__
    np.testing.assert_array_equal(found[:, 3:7], [[1, 0, 0, 0], [0] * 4, [0] * 4])


def test_a_new_hole_is_filled_and_named(table, fitted):
    new = table.copy()
    new["visits"] = new["visits"].astype("Int64")
    new.loc[[1, 2], "visits"] = pd.NA
    with pytest.warns(UserWarning, match="'visits' has 2 missing values and had none in training"):
        found = fitted.transform(new)
    filled = table.copy()
    filled.loc[[1, 2], "visits"] = int(np.median(table["visits"]))
    np.testing.assert_array_equal(found, fitted.transform(filled))


def test_infinite_and_huge_numbers_are_refused(table, fitted):
    with pytest.raises(
        ValueError, match=r"column 'age' must be finite or missing, got inf in row 7"
    ):
        Preprocessing().fit(table.assign(age=table["age"].where(table.index != 7, np.inf)))
    huge = table.assign(age=1e300)
    with pytest.raises(ValueError, match="'age' does not fit into float32 after scaling"):
        fitted.transform(huge)
    with pytest.raises(ValueError, match="column 'a' holds numbers too large for float64"):
        Preprocessing().fit(pd.DataFrame({"a": [1e160, -1e160, 0]}))


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.date_range("2020", periods=3), r"'a' must hold numbers, .*x\['a'\]\.dt\.year"),
        (pd.to_timedelta([1, 2, 3], unit="s"), r"x\['a'\]\.dt\.total_seconds\(\)"),
        ([datetime.date(2020, 1, 1)] * 3, "turn dates into numbers"),
        ([1j, 2j, 3j], "the real and the imaginary part"),
        ([b"a", b"b", b"c"], "decode the bytes"),
        ([[1], [2], [3]], "one number, text or boolean for each row"),
        (pd.period_range("2020", periods=3), "turn dates into numbers"),
    ],
    ids=["dates", "durations", "objects", "complex", "bytes", "lists", "periods"],
)
def test_columns_of_other_things_are_refused(values, message):
    with pytest.raises(TypeError, match=message):
        Preprocessing().fit(pd.DataFrame({"a": values}))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, TypeError, "got None"),
        ({"a": [1]}, TypeError, r"got dict; use pandas\.DataFrame\(x\)"),
        (pd.Series([1.0, 2]), TypeError, r"\.to_frame\(\)"),
        (np.ma.zeros((2, 2)), TypeError, "MaskedArray"),
        (np.zeros(3), ValueError, r"got shape \(3,\); x\[:, None\] is one column"),
        (np.zeros((2, 2, 2)), ValueError, r"got shape \(2, 2, 2\)"),
        (np.zeros((0, 2)), ValueError, "not empty"),
        ([[1], [1, 2]], ValueError, "rows of the same length"),
        (pd.DataFrame(), ValueError, "must have rows and columns"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, "different names, got 'a' twice"),
        (pd.DataFrame({("a", 1): [1]}), ValueError, "2 levels of names"),
        (np.zeros(2, dtype="V4"), ValueError, r"shape \(2,\)"),
        (np.zeros((2, 2), dtype="V4"), TypeError, "must hold numbers or text"),
    ],
)
def test_what_is_no_table_is_refused(x, error, message):
    with pytest.raises(error, match=message):
        Preprocessing().fit(x)


def test_other_libraries_are_converted_by_the_user():
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"dense array, got csr_array; use \.toarray\(\)"):
        Preprocessing().fit(scipy.csr_array(np.eye(2)))

    class Frame:
        def to_pandas(self):
            raise AssertionError("never called")

    with pytest.raises(TypeError, match=r"got Frame: use \.to_pandas\(\)"):
        Preprocessing().fit(Frame())


def test_it_must_be_fitted_first():
    for use in (lambda p: p.transform([[1]]), lambda p: p.columns, lambda p: p.feature_names_out):
        with pytest.raises(RuntimeError, match=r"call fit\(x\) with the training data first"):
            use(Preprocessing())
    assert repr(Preprocessing()) == "Preprocessing(min_frequency=2, max_categories=100)"


def test_arguments_are_checked(fitted):
    with pytest.raises(ValueError, match="min_frequency must be a positive integer"):
        Preprocessing(min_frequency=0)
    with pytest.raises(TypeError, match="max_categories must be an integer"):
        Preprocessing(max_categories=2.5)
    assert repr(fitted) == "<Preprocessing of 5 columns to 11 features>"


NUMBER = {"name": "a", "kind": "number", "fill": 0.0, "mean": 0.0, "scale": 1.0, "indicator": False}
TEXT = {"name": "b", "kind": "category", "categories": ["u", "v"], "rare": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format must be 1, got 2: a newer dropcore"),
        ({"min_frequency": "2"}, "min_frequency must be a positive integer"),
        ({"max_categories": 10**9}, r"max_categories must be an integer in \[2, 10000\]"),
        ({"named": 1}, "named must be true or false"),
        ({"columns": {}}, "columns must be a list"),
        ({"columns": []}, "columns must be a list"),
        ({"columns": [7]}, "column 0 must be a number, a category or dropped, got 7"),
        ({"columns": [NUMBER, NUMBER]}, "two columns have the same name"),
        ({"columns": [NUMBER | {"name": 3}]}, "column 0: name must be a string"),
        ({"columns": [NUMBER | {"mean": float("nan")}]}, "mean must be finite, got nan"),
        ({"columns": [NUMBER | {"mean": 10**400}]}, "mean must be finite"),
        ({"columns": [NUMBER | {"fill": "0"}]}, "fill must be a number"),
        ({"columns": [NUMBER | {"scale": 0.0}]}, "scale must be positive and finite"),
        ({"columns": [NUMBER | {"indicator": None}]}, "indicator must be true or false, got None"),
        ({"columns": [NUMBER | {"indicator": 1}]}, "indicator must be true or false, got 1"),
        ({"columns": [NUMBER | {"more": 1}]}, "column 0 must have the keys name, kind"),
        ({"columns": [NUMBER, TEXT | {"categories": "uv"}]}, "column 1: categories must be 1 to"),
        ({"columns": [TEXT | {"categories": []}]}, "categories must be 1 to"),
        ({"columns": [TEXT | {"categories": ["u", 1]}]}, "categories must be 1 to"),
        ({"columns": [TEXT | {"categories": ["u", "u"]}]}, "strings in order"),
        ({"columns": [TEXT | {"categories": ["v", "u"]}]}, "strings in order"),
        ({"columns": [TEXT | {"rare": None}]}, "rare must be true or false"),
        ({"columns": [{"name": "a", "kind": "dropped", "reason": "x"}]}, "reason must be one of"),
        ({"columns": [{"name": "a", "kind": "dropped", "reason": []}]}, "reason must be one of"),
        ({"columns": [{"name": "a", "kind": "dropped", "reason": "empty"}]}, "all columns are"),
        ({"more": 1}, "the config must have the keys format"),
    ],
)
def test_other_configs_are_refused(changes, message):
    config = {
        "format": 1, "min_frequency": 2, "max_categories": 100, "named": True,
        "columns": [NUMBER, TEXT],
    }  # fmt: skip
    found = Preprocessing.from_config(config)
    assert found.feature_names_out == ("a", "b=u", "b=v")
    with pytest.raises(ValueError, match=r"^Preprocessing\.from_config: ") as caught:
        Preprocessing.from_config(config | changes)
    assert caught.match(message)


def test_a_config_cannot_take_much_memory():
    wide = [NUMBER | {"name": str(i)} for i in range(2000)]
    names = sorted(f"{i:05}" for i in range(10_000))
    config = Preprocessing().to_config() | {
        "columns": [*wide, TEXT | {"categories": names}]
    }  # fmt: skip
    with pytest.raises(ValueError, match="2001 columns with up to 10000 categories are too many"):
        Preprocessing.from_config(config)
    for wrong in (None, [], "text"):
        with pytest.raises(ValueError, match="the config must be a dict"):
            Preprocessing.from_config(wrong)


# --- targets -------------------------------------------------------------------------------------


def test_targets_are_standardised_and_come_back():
    y = np.random.default_rng(1).normal(300, 20, 50)
    found = TargetScaling.fit(y)
    assert (found.mean, found.scale) == (y.mean(), y.std())
    scaled = found.transform(y)
    assert scaled.dtype == np.float64
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(found.inverse(scaled), y, rtol=1e-15)
    predictions = scaled.astype(np.float32)[:, None]
    assert found.inverse(predictions).dtype == np.float32
    assert found.inverse(predictions).shape == (50, 1)
    np.testing.assert_allclose(found.inverse(predictions)[:, 0], y, rtol=1e-6)
    # Computed in float64 and rounded once.
    wanted = predictions.astype(np.float64) * found.scale + found.mean
    np.testing.assert_array_equal(found.inverse(predictions), wanted.astype(np.float32))


@pytest.mark.parametrize("shape", [(40, 3), (10, 4, 3)])
def test_each_output_has_its_own_scale(shape):
    y = np.random.default_rng(1).normal([1, 20, 300], [1, 2, 30], shape)
    found = TargetScaling.fit(y)
    flat = y.reshape(-1, 3)
    np.testing.assert_allclose(found.mean, flat.mean(0))
    np.testing.assert_allclose(found.scale, flat.std(0))
    np.testing.assert_allclose(found.inverse(found.transform(y)), y)
    assert TargetScaling.from_config(json.loads(json.dumps(found.to_config()))) == found
    with pytest.raises(ValueError, match=r"must have 3 outputs on its last axis, got shape \(4,\)"):
        found.inverse(np.zeros(4))


def test_target_scaling_is_plain_data():
    found = TargetScaling.fit(pd.Series([1, 2, 4], dtype="Int64"))
    assert found.to_config() == {"mean": found.mean, "scale": found.scale}
    assert TargetScaling.from_config(json.loads(json.dumps(found.to_config()))) == found
    assert TargetScaling() == TargetScaling(0, 1)
    assert TargetScaling(np.array([1.0]), np.array([2.0])) == TargetScaling([1], (2.0,))


def test_constant_targets_are_pointed_out():
    with pytest.warns(UserWarning, match=r"all targets are 3\.0: there is nothing to learn"):
        found = TargetScaling.fit([3.0, 3.0])
    assert found.scale == 1
    with pytest.warns(UserWarning, match=r"all targets of output 1 are 0\.1"):
        found = TargetScaling.fit([[1, 0.1], [2, 0.1], [3, 0.1]])
    np.testing.assert_allclose(found.transform([[2, 0.1]]), [[0, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (["a", "b"], TypeError, "must be numbers, got dtype <U1: only targets of a regression"),
        ([True, False], TypeError, "must be numbers, got dtype bool"),
        (np.ma.zeros(3), TypeError, "MaskedArray"),
        ([], ValueError, "must not be empty"),
        ([1, np.nan], ValueError, "must be finite, got nan: leave out rows"),
        ([1, None], ValueError, "must be finite, got nan"),
        ([1e308, -1e308], ValueError, "too large for float64"),
    ],
)
def test_other_targets_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        TargetScaling.fit(y)


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (0.0, 0.0, "scale must be positive and finite"),
        (np.nan, 1.0, "mean must be finite"),
        ([0.0], 1.0, "as many of each"),
        ([0.0, 1.0], [1.0], "as many of each"),
        ([], [], "a number for each output"),
        ("0", 1.0, "mean must be a number"),
        (True, 1.0, "mean must be a number"),
        ([[0.0]], [[1.0]], "mean must be a number"),
    ],
)
def test_other_scalings_are_refused(mean, scale, message):
    with pytest.raises((TypeError, ValueError), match=f"TargetScaling: {message}|{message}"):
        TargetScaling(mean, scale)
    with pytest.raises(ValueError, match=r"^TargetScaling\.from_config: ") as caught:
        TargetScaling.from_config({"mean": mean, "scale": scale})
    assert caught.match(message)


def test_other_configs_of_scaling_are_refused():
    for config in (None, [], {"mean": 0}, {"mean": 0, "scale": 1, "x": 2}):
        with pytest.raises(ValueError, match="expected a dict of mean and scale"):
            TargetScaling.from_config(config)


def test_fitting_is_silent_where_nothing_is_wrong(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Preprocessing().fit(table).transform(table)
        TargetScaling.fit([1, 2])

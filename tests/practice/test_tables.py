"""Tables of CSV and Parquet files."""

import bz2
import gzip
import lzma
import re
import zipfile

import numpy as np
import pytest

from dropcore.data import read_table, split_target

pd = pytest.importorskip("pandas", reason="pandas is not installed")

PLAIN = "age,city,y\n40.5,Bern,1\n,Oslo,0\n38,,1\n"


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and returns its path."""

    def written(content, name="table.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return written


def expected():
    return pd.DataFrame({"age": [40.5, np.nan, 38], "city": ["Bern", "Oslo", None], "y": [1, 0, 1]})


def assert_equal(found, wanted=None):
    pd.testing.assert_frame_equal(found, expected() if wanted is None else wanted)


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_are_found(write, sep, end):
    assert_equal(read_table(write(PLAIN.replace(",", sep).replace("\n", end))))


def test_separators_within_quotes_do_not_count(write):
    text = 'name;note\n"Smith, J.";"a;b, c, d"\n"Doe, R.";"x, y\nz"\n'
    found = read_table(write(text))
    assert list(found.columns) == ["name", "note"]
    assert found["note"].tolist() == ["a;b, c, d", "x, y\nz"]


def test_the_separator_with_which_lines_agree_is_taken(write):
    found = read_table(write("a, b, c;city\n1;Bern\n2;Oslo, N\n3;Rom\n"))
    assert list(found.columns) == ["a, b, c", "city"]
    assert found["city"].tolist() == ["Bern", "Oslo, N", "Rom"]


def test_a_separator_can_be_given(write):
    assert_equal(read_table(write(PLAIN.replace(",", ":")), sep=":"))
    assert_equal(read_table(write(PLAIN.replace(",", " , "))).assign(city=expected()["city"]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_unicode_are_found(write, encoding):
    found = read_table(write("größe,ort\n1,Zürich\n2,Genève\n", encoding=encoding))
    assert list(found.columns) == ["größe", "ort"]
    assert found["ort"].tolist() == ["Zürich", "Genève"]


def test_another_encoding_must_be_given(write):
    path = write("a,ort\n1,Bern\n1,Zürich\n", encoding="cp1252")
    message = r"table\.csv is not utf-8: byte 0xfc in line 3; give its encoding: encoding='cp1252'"
    with pytest.raises(ValueError, match=message):
        read_table(path)
    for encoding in ("cp1252", "latin-1"):
        assert read_table(path, encoding=encoding)["ort"].tolist() == ["Bern", "Zürich"]
    with pytest.raises(ValueError, match="is not ascii: byte 0xfc in line 3; give another encod"):
        read_table(path, encoding="ascii")


def test_bad_bytes_far_down_are_found(write):
    path = write(b"a,b\n" + b"1,x\n" * 600_000 + b"2,\xe9\n")
    with pytest.raises(ValueError, match="byte 0xe9 in line 600002"):
        read_table(path)


def test_decimal_commas_are_found(write):
    found = read_table(write("a;b\n1,5;x\n-2,25;y\n"))
    assert_equal(found, pd.DataFrame({"a": [1.5, -2.25], "b": ["x", "y"]}))
    both = read_table(write("a;b\n1,5;1.5\n-2,25;3.5\n"))
    assert both["a"].tolist() == ["1,5", "-2,25"]
    assert both["b"].tolist() == [1.5, 3.5]
    assert read_table(write("a;b\n1,5;1.5\n2,5;3.5\n"), decimal=",")["a"].tolist() == [1.5, 2.5]
    quoted = write('a,b\n"1,5",2\n"2,5",3\n')
    assert read_table(quoted, decimal=",")["a"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_compressed_text(tmp_path, kind):
    path = tmp_path / f"table.csv.{kind}"
    raw = PLAIN.encode()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside.csv", raw)
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(raw))
    assert_equal(read_table(path))
    damaged = path.read_bytes()
    path.write_bytes(damaged[: len(damaged) * 2 // 3])
    with pytest.raises(ValueError, match="is damaged and cannot be decompressed"):
        read_table(path)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_no_change_of_a_byte_raises_anything_else(tmp_path, kind):
    path = tmp_path / "table.csv"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside.csv", PLAIN)
    else:
        path.write_bytes(gzip.compress(PLAIN.encode()))
    raw = path.read_bytes()
    refused = []
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            read_table(path)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(raw) / 4
    assert all(message.startswith("read_table: ") for message in refused)


def test_archives_of_several_files(tmp_path):
    path = tmp_path / "tables.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.csv", PLAIN)
    with pytest.raises(ValueError, match=r"must hold one file, got 'a\.csv', 'b\.csv': extract"):
        read_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    with pytest.raises(ValueError, match="is a spreadsheet: save the sheet as CSV"):
        read_table(path)


def test_missing_values(write):
    path = write("a,b\n1,?\nNA,x\nn/a,-\n")
    assert read_table(path)["a"].isna().tolist() == [False, True, True]
    found = read_table(path, missing_values=["?", "-"])
    assert found["b"].isna().tolist() == [True, False, True]


def test_names_for_a_file_without_them(write):
    path = write("40.5,1\n38,0\n")
    message = r"first line of .*table\.csv holds numbers, '40\.5', '1', .*or give names=\[\.\.\.\]"
    with pytest.raises(ValueError, match=message):
        read_table(path)
    found = read_table(path, names=["age", "y"])
    assert_equal(found, pd.DataFrame({"age": [40.5, 38], "y": [1, 0]}))
    with pytest.raises(ValueError, match="has 2 columns, got 3 names: 'a', 'b', 'c'"):
        read_table(path, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="names a column twice"):
        read_table(path, names=["a", "a"])


def test_the_index_of_pandas_is_left_out(write, tmp_path):
    path = tmp_path / "written.csv"
    expected().to_csv(path)
    with pytest.warns(UserWarning, match="first column of .* has no name, as the index") as caught:
        found = read_table(path)
    assert caught[0].filename == __file__
    assert_equal(found)
    # A separator at the end of every line adds nothing.
    assert_equal(read_table(write(PLAIN.replace("\n", ",\n"))))
    with pytest.raises(ValueError, match=r"column 2 of .* has no name: name it in the first line"):
        read_table(write("a,,b\n1,2,3\n"))


def test_blank_lines_and_spaces(write):
    found = read_table(write("\n\nage, city, y\n\n40.5, Bern, 1\n, Oslo, 0\n\n38,,1\n\n"))
    assert_equal(found)


def test_columns_are_dropped(write):
    assert list(read_table(write(PLAIN), drop=["age"]).columns) == ["city", "y"]
    assert list(read_table(write(PLAIN), drop="age", target="y").columns) == ["city", "y"]
    with pytest.raises(ValueError, match=r"no column 'Age' in .*; did you mean 'age'\?"):
        read_table(write(PLAIN), drop=["Age"])
    with pytest.raises(ValueError, match="'y' cannot be both in target and in drop"):
        read_table(write(PLAIN), drop=["y"], target="y")


# --- Parquet -------------------------------------------------------------------------------------


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "table.parquet"
    expected().to_parquet(path)
    assert_equal(read_table(path))
    assert_equal(read_table(path, target="y", drop=["age"]), expected().drop(columns="age"))
    other = tmp_path / "table.dat"
    expected().set_index("age").to_parquet(other)
    assert_equal(read_table(other))
    for option in ({"sep": ";"}, {"encoding": "utf-8"}, {"missing_values": ["?"]}):
        (name,) = option
        with pytest.raises(ValueError, match=f"{name} is for text, and .* is a Parquet file"):
            read_table(path, **option)


def test_parquet_with_two_columns_of_a_name(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    column = arrow.array([1, 2])
    table = arrow.Table.from_arrays([column, column, column], names=["a", "b", "a"])
    parquet.write_table(table, tmp_path / "table.parquet")
    with pytest.raises(ValueError, match="two columns of the name 'a': rename one"):
        read_table(tmp_path / "table.parquet")


def test_damaged_parquet(tmp_path, write):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / "table.parquet"
    expected().to_parquet(path)
    raw = path.read_bytes()
    for content in (raw[: len(raw) // 2], raw[:4], b"PAR1" + bytes(50), PLAIN.encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a Parquet file, or is damaged"):
            read_table(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_table(path)


# --- targets -------------------------------------------------------------------------------------


def test_rows_without_a_target_are_left_out(write):
    path = write("a,y,z\n1,0,1\n2,,1\n3,1,\n4,1,1\n")
    with pytest.warns(UserWarning, match="1 of 4 rows of .* have no target 'y' and are") as caught:
        found = read_table(path, target="y")
    assert caught[0].filename == __file__
    assert found["a"].tolist() == [1, 3, 4]
    assert found.index.tolist() == [0, 1, 2]
    with pytest.warns(UserWarning, match="2 of 4 rows of .* have no target 'y', 'z'"):
        assert read_table(path, target=["y", "z"])["a"].tolist() == [1, 4]
    with pytest.raises(ValueError, match=r"all 2 rows of .* have no target 'y'"):
        read_table(write("a,y\n1,\n2,\n"), target="y")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Y", r"no column 'Y' in .*, which has 'age', 'city', 'y'; did you mean 'y'\?"),
        ("citty", r"did you mean 'city'\?"),
        ("price", r"which has 'age', 'city', 'y'$"),
    ],
)
def test_a_wrong_target_is_answered_by_the_nearest(write, target, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(PLAIN), target=target)


def test_a_table_is_split_into_inputs_and_target(write):
    table = read_table(write(PLAIN))
    x, y = split_target(table, "y")
    assert list(x.columns) == ["age", "city"]
    assert y.dtype == np.int64
    assert y.tolist() == [1, 0, 1]
    x, y = split_target(table, ["y"])
    assert y.shape == (3, 1)
    texts = split_target(table.fillna({"city": "Rom"}), "city")[1]
    assert texts.dtype == object
    assert texts.tolist() == ["Bern", "Oslo", "Rom"]
    assert split_target(table.assign(y=table["y"] == 1), "y")[1].dtype == bool
    assert split_target(table.assign(y=table["y"].astype("Int64")), "y")[1].dtype == np.int64
    assert split_target(table.assign(y=table["y"] / 2), "y")[1].dtype == np.float64
    with pytest.raises(ValueError, match=r"1 rows have no target, the first of which is row 2"):
        split_target(table, "city")
    with pytest.raises(ValueError, match=r"no column 'z' in the table, which has"):
        split_target(table, "z")
    with pytest.raises(ValueError, match="target must name a column, got none"):
        split_target(table, [])
    with pytest.raises(ValueError, match="no columns besides the target"):
        split_target(table[["y"]], "y")
    with pytest.raises(TypeError, match="the target 'y' holds dates"):
        split_target(table.assign(y=pd.date_range("2020", periods=3)), "y")


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a,b\n", "has names of columns and no rows below them"),
        ("a,b,a\n1,2,3\n", "two columns of the name 'a': rename one"),
        ("a,b\n1,2\n1,2,3\n4,5\n", "Expected 2 fields in line 3, saw 3; correct the file, or give"),
        ("a,b\n1,2,3\n1,2,3\n", "more values than there are names of columns"),
        ('a,b\n"1,2\n3,4\n', "EOF inside string"),
        (b"a,b\n\0\0\1\2", "is not text but a binary file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not text but a binary file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(write, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(content))
    assert caught.match(r"^read_table: .*table\.csv")


def test_other_formats_are_named(write):
    for suffix, advice in (("xlsx", "save the sheet as CSV"), ("pkl", "a pickle runs code")):
        with pytest.raises(ValueError, match=f"neither CSV nor Parquet: .*{advice}"):
            read_table(write(b"abc", f"table.{suffix}"))
    with pytest.raises(ValueError, match=r"use dropcore\.data\.read_arrays"):
        read_table(write(b"abc", "table.npz"))


def test_files_that_are_not_there(write, tmp_path):
    write(PLAIN, "iris.csv")
    with pytest.raises(FileNotFoundError, match=r"no file .*irs\.csv; the folder has 'iris\.csv'"):
        read_table(tmp_path / "irs.csv")
    with pytest.raises(FileNotFoundError, match=r"no file .*, nor the folder "):
        read_table(tmp_path / "none" / "iris.csv")
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file in it"):
        read_table(tmp_path)
    with pytest.raises(FileNotFoundError, match="is an address; download the file first"):
        read_table("https://example.org/iris.csv")
    with pytest.raises(TypeError, match="path must be the path of a file, got None"):
        read_table(None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sep": ""}, ValueError, "sep must be one character"),
        ({"sep": ", "}, ValueError, "sep must be one character"),
        ({"encoding": "utf-9"}, ValueError, "encoding must be one that Python knows"),
        ({"encoding": 8}, ValueError, "encoding must be one that Python knows"),
        ({"decimal": ";"}, ValueError, "decimal must be '.' or ','"),
        ({"missing_values": "?"}, TypeError, "missing_values must be a list of strings"),
        ({"missing_values": [1]}, TypeError, "missing_values must be a list of strings"),
        ({"target": 3}, TypeError, "target must be a column's name or several, got 3"),
        ({"names": "abc"}, TypeError, "names must be a list of strings, got 'abc'"),
        ({"target": ["y", "y"]}, ValueError, "target names a column twice"),
    ],
)
def test_options_are_checked(write, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_table(write(PLAIN), **options)


def test_one_column_only(write):
    assert read_table(write("a\n1\n2\n"))["a"].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"no columns besides 'a'; is sep=\.\.\. another one\?"):
        read_table(write("a\n1\n2\n"), target="a")

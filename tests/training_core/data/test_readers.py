import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from training_core.data.readers import (
    array_names,
    as_numbers,
    as_text,
    as_times,
    column_names,
    is_absent,
    read_array,
    read_table,
)
from training_core.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path: Path, column: str) -> list[str | None]:
    return as_text(read_table(path, [column])[column]).tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
def test_delimited_text_is_read_with_any_line_end_and_byte_order_mark(tmp_path, end, mark, name, separator):
    lines = [["id", "größe"], ["007", "x"], ["8", ""]]
    path = written(tmp_path, name, mark + end.join(separator.join(line) for line in lines) + end)
    assert column_names(path) == ["id", "größe"]
    assert cells(path, "id") == ["007", "8"]
    assert cells(path, "größe") == ["x", None]


def test_only_empty_and_nan_cells_are_absent_from_text(tmp_path):
    path = written(tmp_path, "a.csv", 'label,n\nNone,1\nNA,2\n,3\n"",4\nnan,5\n"  ",6\nnull,7\n')
    assert cells(path, "label") == ["None", "NA", None, None, None, None, "null"]


def test_quotes_hold_separators_line_breaks_and_quotes(tmp_path):
    path = written(tmp_path, "a.csv", 'text,n\n"one, ""two""\nthree",1\n"🙂",2\n')
    assert cells(path, "text") == ['one, "two"\nthree', "🙂"]


def test_a_very_long_cell_is_read(tmp_path):
    path = written(tmp_path, "a.csv", f'text,n\n"{"long text " * 300_000}",1\nshort,2\n')
    assert [len(cell or "") for cell in cells(path, "text")] == [3_000_000, 5]


def test_an_empty_line_in_a_file_of_one_column_is_an_absent_cell(tmp_path):
    assert cells(written(tmp_path, "a.csv", "label\nx\n\ny\n"), "label") == ["x", None, "y"]


def test_a_parquet_file_keeps_what_its_columns_are(tmp_path):
    frame = pd.DataFrame({"id": [7, 8], "f": [1.0, 2.5], "b": [True, None], "t": ["x", None], "unread": [0, 0]})
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", ["id", "f", "b", "t"])
    assert as_text(table["id"]).tolist() == ["7", "8"]
    assert as_text(table["f"]).tolist() == ["1", "2.5"]
    assert as_text(table["t"]).tolist() == ["x", None]
    numbers = as_numbers(table["b"], "b")
    assert numbers[0] == 1.0
    assert is_absent(numbers).tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1\n2,3\n", r"cannot be read as delimited text"),
        ("a.csv", "a,b\n1,2,3\n", r"cannot be read as delimited text"),
        ("a.csv", 'a,b\n1,"never closed\n2,3\n', r"quotes of the last cell are never closed"),
        ("a.csv", 'a,b\n1,"torn he', r"quotes of the last cell are never closed"),
        ("a.csv", b"a,b\nK\xf6ln,2\n", r"UTF-?8"),
        ("a.csv", b"K\xf6ln,b\n1,2\n", r"not UTF-8"),
        ("a.csv", "", r"is empty"),
        ("a.csv", "\n\n", r"is empty; expected a first line of column names"),
        ("a.csv", "a,b\n", r"0 rows"),
        ("a.csv", "a,a\n1,2\n", r"two columns called a"),
        ("a.csv", "b,c\n1,2\n", r"no column 'a'; it has b, c"),
        ("a.csv", "a;b\n1;2\n", r"no column 'a'; it has a;b"),
        ("a.parquet", "PAR1 not at all PAR1", r"cannot be read as a parquet file"),
        ("a.parquet", b"", r"is empty"),
    ],
)
def test_a_broken_table_is_one_line_naming_the_file(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, ["a"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.npy", "a.npz"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    read = read_array if name.startswith("a.n") else column_names
    with pytest.raises(DataError, match=rf"{name} is not there"):
        read(tmp_path / name)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.05])
def test_a_torn_parquet_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": np.arange(5000.0)}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        read_table(path, ["a"])


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "compressed.npz"])
def test_a_torn_array_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    values = np.random.default_rng(0).normal(size=(500, 10))
    (np.savez_compressed if name.startswith("c") else np.savez if name == "a.npz" else np.save)(path, values)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"cannot be read as an \.np|is not an \.np"):
        read_array(path)


def test_a_damaged_member_of_an_npz_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(500, 10)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        read_array(path)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_never_loaded(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (np.savez if name == "a.npz" else np.save)(tmp_path / name, np.asarray([Bomb()], object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
        read_array(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_an_array_is_found_by_its_key(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones(3), y=np.zeros((2, 2)))
    assert array_names(path) == ["x", "y"]
    assert read_array(path, "y").shape == (2, 2)
    with pytest.raises(DataError, match=r"no array 'z'; it has x, y"):
        read_array(path, "z")
    with pytest.raises(DataError, match=r"holds 2 arrays \(x, y\); say which one with `key`"):
        read_array(path)


@pytest.mark.parametrize("values", [np.asarray(["a"]), np.asarray([1j]), np.asarray(["2026"], "datetime64[Y]")])
def test_an_array_of_anything_but_numbers_is_refused(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(DataError, match="expected an array of numbers"):
        read_array(tmp_path / "a.npy")


def test_text_is_read_as_numbers_where_numbers_are_wanted():
    column = pd.Series(["1", " 2.5 ", "1e3", "-4", None, "NA", "n/a", "NaN", "null"])
    assert as_numbers(column, "age")[:4].tolist() == [1, 2.5, 1000, -4]
    assert is_absent(as_numbers(column, "age"))[4:].all()
    assert as_numbers(pd.Series(["True", "false", "1"]), "wet").tolist() == [1, 0, 1]
    assert as_numbers(pd.Series([Decimal("1.5"), None, True], dtype=object), "age")[[0, 2]].tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "abc"], r"age, row 1: 'abc' is not a number; list the column under `categorical`"),
        (["1", "x" * 100], r"row 1: 'x+…' is not a number"),
        (["1", "inf"], r"age is infinite in 1 row\(s\), first row 1"),
        ([1.0, -np.inf], r"age is infinite in 1 row\(s\), first row 1"),
        ([datetime.datetime(2026, 1, 1)], r"age holds dates, expected numbers"),
    ],
)
def test_what_is_not_a_number_is_refused_naming_the_row(values, message):
    with pytest.raises(DataError, match=message):
        as_numbers(pd.Series(values), "age")


def test_times_are_numbers_or_dates_in_one_time_zone():
    assert as_times(pd.Series(["3", "1.5"]), "ts").tolist() == [3, 1.5]
    assert as_times(pd.Series([3, 1]), "ts").dtype == np.float64
    dates = as_times(pd.Series(["2026-01-31", "2026-01-31T12:00:00+02:00", None]), "ts")
    assert (dates[:2] == np.asarray(["2026-01-31T00:00", "2026-01-31T10:00"], "datetime64[s]")).all()
    assert is_absent(dates).tolist() == [False, False, True]
    aware = pd.Series(pd.to_datetime(["2026-01-31T12:00:00+02:00"]))
    assert (as_times(aware, "ts") == np.datetime64("2026-01-31T10:00")).all()
    with pytest.raises(DataError, match=r"ts, row 1: 'yesterday' is neither a number nor a date"):
        as_times(pd.Series(["2026-01-31", "yesterday"]), "ts")

import datetime
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_formats import TABLES, read_in_small_pieces, stage_everything, write_parquet

from training_core.data.cells import as_text, as_times, is_absent, numeric_type, typed_numbers
from training_core.data.sources import TableSource, open_table
from training_core.data.sources.memory import MemoryTable
from training_core.errors import DataError

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=True, allow_infinity=False)
# no NUL, which makes a csv file binary, and no half surrogates, which are no characters
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
TIMES = st.datetimes(
    datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1), timezones=st.sampled_from([datetime.UTC])
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    num_rows = draw(st.integers(0, 7))

    def column(cells: st.SearchStrategy[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(st.none() | cells, min_size=num_rows, max_size=num_rows)), kind)

    return pa.table(
        {
            "whole": column(INT64, pa.int64()),
            "real": column(FLOATS, pa.float64()),
            "wet": column(st.booleans(), pa.bool_()),
            'text, "or" so': column(TEXT, pa.string()),
            "when": column(TIMES, pa.timestamp("us", "UTC")),
        }
    )


def assert_equal(source: TableSource, table: pa.Table, tells_empty_from_absent: bool) -> None:
    assert source.num_rows == table.num_rows
    read = source.take(table.column_names, slice(None))
    whole = read.column("whole")
    if whole.null_count < len(whole):
        assert numeric_type(whole) == pa.int64()
    assert typed_numbers(whole, pa.int64(), "whole").to_pylist() == table.column("whole").to_pylist()
    real = typed_numbers(read.column("real"), pa.float64(), "real").to_pylist()
    wanted = [None if x is None or math.isnan(x) else x for x in table.column("real").to_pylist()]
    assert real == wanted
    assert typed_numbers(read.column("wet"), pa.bool_(), "wet").to_pylist() == table.column("wet").to_pylist()
    name = table.column_names[3]
    cells, given_cells = read.column(name).to_pylist(), table.column(name).to_pylist()
    if not tells_empty_from_absent:
        given_cells = [None if cell in {"", "nan", "NaN"} else cell for cell in given_cells]
    assert cells == given_cells
    times = as_times(read.column("when"), "when")
    if times.dtype.kind == "M":
        expected = [None if t is None else np.datetime64(t.replace(tzinfo=None)) for t in table["when"].to_pylist()]
        assert [None if gone else t for t, gone in zip(times, is_absent(times), strict=True)] == expected


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(table=tables())
def test_a_table_comes_back_as_it_was_written(name: str, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        TABLES[name](table, path)
        if name == "t.jsonl" and not path.stat().st_size:
            return  # a file without lines has no columns either
        columns = table.column_names if table.num_rows else None
        if name == "t.jsonl":
            keys = {key for row in table.to_pylist() for key, cell in row.items() if cell is not None}
            if keys != set(table.column_names):
                return  # a column without any cell is not in the file
        assert_equal(open_table(path, Path(folder), columns), table, name not in {"t.csv", "t.tsv"})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(table=tables())
def test_a_table_in_memory_comes_back_as_it_is(table: pa.Table) -> None:
    assert_equal(MemoryTable(table), table, True)
    # pandas keeps no whole numbers beside absent cells, and takes NaN for absent
    frame = table.to_pandas(integer_object_nulls=True)
    assert_equal(MemoryTable(frame), table, True)
    assert_equal(MemoryTable({name: frame[name] for name in frame}), table, True)


@pytest.mark.parametrize("name", TABLES)
def test_any_rows_are_taken_in_any_order(name, tmp_path, monkeypatch):
    stage_everything(monkeypatch)
    read_in_small_pieces(monkeypatch)
    table = pa.table({"n": list(range(500)), "t": [f"größe {i}\n" * (i % 7) or "-" for i in range(500)]})
    TABLES[name](table, tmp_path / name)
    source = open_table(tmp_path / name, tmp_path / "staging")
    draws = np.random.default_rng(0)
    for _ in range(20):
        rows = draws.integers(-1, 500, draws.integers(0, 300))
        taken = source.take(["t", "n"], rows)
        assert taken.column_names == ["t", "n"]
        assert [None if n is None else int(n) for n in taken["n"].to_pylist()] == [r if r >= 0 else None for r in rows]
        assert taken["t"].to_pylist() == [table["t"][int(r)].as_py() if r >= 0 else None for r in rows]
        start, stop = sorted(draws.integers(0, 501, 2).tolist())
        assert source.take(["t"], slice(start, stop))["t"].to_pylist() == table["t"][start:stop].to_pylist()
    with pytest.raises(IndexError):
        source.take(["n"], np.asarray([500]))
    with pytest.raises(DataError, match=r"no column 'x'; it has n, t"):
        source.take(["x"], slice(0, 1))


def test_what_was_staged_may_be_deleted_while_the_table_is_used(tmp_path, monkeypatch):
    stage_everything(monkeypatch)
    write_parquet(pa.table({"n": list(range(100))}), tmp_path / "t.parquet")
    source = open_table(tmp_path / "t.parquet", tmp_path / "staging")
    kept = source.take(["n"], slice(10, 20))
    shutil.rmtree(tmp_path / "staging")
    assert source.take(["n"], np.asarray([99, 0]))["n"].to_pylist() == [99, 0]
    assert kept["n"].to_pylist() == list(range(10, 20))


def test_hive_partitions_are_columns_of_text(tmp_path):
    for key, value in {"007": 1, "a b%2Fc": 2, "__HIVE_DEFAULT_PARTITION__": 3}.items():
        folder = tmp_path / "hive" / "year=2024" / f"shop={key}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"n": [value]}), folder / "0.parquet")
    source = open_table(tmp_path / "hive", tmp_path)
    assert source.columns == ("n", "year", "shop")
    rows = source.take(source.columns, slice(None)).to_pylist()
    assert sorted(rows, key=lambda row: row["n"]) == [
        {"n": 1, "year": "2024", "shop": "007"},
        {"n": 2, "year": "2024", "shop": "a b/c"},
        {"n": 3, "year": "2024", "shop": None},
    ]


def test_a_hive_folder_written_by_arrow_comes_back(tmp_path):
    table = pa.table({"n": list(range(30)), "city": [f"c {i % 3}" for i in range(30)]})
    pq.write_to_dataset(table, tmp_path / "hive", partition_cols=["city"])
    read = open_table(tmp_path / "hive", tmp_path).take(["n", "city"], slice(None))
    assert sorted(map(tuple, (row.values() for row in read.to_pylist()))) == sorted(
        map(tuple, (row.values() for row in table.to_pylist()))
    )


def test_files_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(12):
        pq.write_table(pa.table({"n": [i]}), tmp_path / "f" / f"part-{i}.parquet")
    assert open_table(tmp_path / "f", tmp_path).take(["n"], slice(None))["n"].to_pylist() == list(range(12))


def test_files_of_a_folder_may_differ_in_the_width_of_numbers_but_not_in_kind(tmp_path):
    (tmp_path / "f").mkdir()
    pq.write_table(pa.table({"n": pa.array([1], pa.int32())}), tmp_path / "f" / "0.parquet")
    pq.write_table(pa.table({"n": [2.5]}), tmp_path / "f" / "1.parquet")
    assert open_table(tmp_path / "f", tmp_path).take(["n"], slice(None))["n"].to_pylist() == [1, 2.5]
    pq.write_table(pa.table({"n": ["x"]}), tmp_path / "f" / "2.parquet")
    with pytest.raises(DataError, match=r"column 'n' is double in one file and string in another"):
        open_table(tmp_path / "f", tmp_path)
    pq.write_table(pa.table({"m": [1]}), tmp_path / "f" / "2.parquet")
    with pytest.raises(DataError, match=r"f/2.parquet .* 'm' is in one and not in the other"):
        open_table(tmp_path / "f", tmp_path)


def test_only_the_columns_asked_for_are_read(tmp_path):
    frame = pd.DataFrame({"a": [1], "b": [2], "id": [3]})
    for name, write in TABLES.items():
        write(pa.Table.from_pandas(frame), tmp_path / name)
        assert open_table(tmp_path / name, tmp_path, ["b"], if_there=["id", "ID"]).columns == ("b", "id")
        with pytest.raises(DataError, match=r"no column 'c'; it has a, b, id"):
            open_table(tmp_path / name, tmp_path, ["c"])


def test_a_parquet_file_keeps_what_its_columns_are(tmp_path):
    frame = pd.DataFrame({"id": [7, 8], "f": [1.0, 2.5], "b": [True, None], "c": pd.Categorical(["x", None])})
    frame.to_parquet(tmp_path / "a.parquet")
    table = open_table(tmp_path / "a.parquet", tmp_path).take(["id", "f", "b", "c"], slice(None))
    assert as_text(table["id"]).tolist() == ["7", "8"]
    assert as_text(table["f"]).tolist() == ["1", "2.5"]
    assert as_text(table["c"]).tolist() == ["x", None]
    assert table["b"].to_pylist() == [True, None]


def test_lists_in_a_parquet_file_are_passed_over_unless_asked_for(tmp_path):
    pq.write_table(pa.table({"a": [1], "vec": [[1.0, 2.0]]}), tmp_path / "t.parquet")
    assert open_table(tmp_path / "t.parquet", tmp_path).columns == ("a",)
    with pytest.raises(DataError, match=r"t.parquet: column 'vec' holds list<.*give arrays in a file of arrays"):
        open_table(tmp_path / "t.parquet", tmp_path, ["vec"])


def test_columns_of_mixed_objects_in_memory_become_text():
    table = MemoryTable({"a": [1, "x", None, 2.5]})
    assert table.take(["a"], slice(None))["a"].to_pylist() == ["1", "x", None, "2.5"]
    with pytest.raises(DataError, match=r"column 'a' holds (list|dict) cells"):
        MemoryTable({"a": [[1], {"x": 2}, "z"]})
    with pytest.raises(DataError, match=r"columns of different lengths: a 1, b 2"):
        MemoryTable({"a": [1], "b": [1, 2]})
    with pytest.raises(DataError, match=r"two columns called a"):
        MemoryTable(pd.DataFrame([[1, 2]], columns=["a", "a"]))

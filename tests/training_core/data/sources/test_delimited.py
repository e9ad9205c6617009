import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_core.data.cells import as_text
from training_core.data.sources import delimited, open_table
from training_core.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path: Path, column: str) -> list[str | None]:
    return as_text(open_table(path, path.parent).take([column], slice(None)).column(column)).tolist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
def test_delimited_text_is_read_with_any_line_end_and_byte_order_mark(tmp_path, end, mark, name, separator):
    lines = [["id", "größe"], ["007", "x"], ["8", ""]]
    path = written(tmp_path, name, mark + end.join(separator.join(line) for line in lines) + end)
    assert open_table(path, tmp_path).columns == ("id", "größe")
    assert cells(path, "id") == ["007", "8"]
    assert cells(path, "größe") == ["x", None]


def test_only_empty_and_nan_cells_are_absent_from_text(tmp_path):
    path = written(tmp_path, "a.csv", 'label,n\nNone,1\nNA,2\n,3\n"",4\nnan,5\n"  ",6\nnull,7\n')
    assert cells(path, "label") == ["None", "NA", None, None, None, None, "null"]


def test_quotes_hold_separators_line_breaks_and_quotes(tmp_path):
    path = written(tmp_path, "a.csv", 'text,n\n"one, ""two""\nthree",1\n"🙂",2\n')
    assert cells(path, "text") == ['one, "two"\nthree', "🙂"]


def test_an_empty_line_in_a_file_of_one_column_is_an_absent_cell(tmp_path):
    assert cells(written(tmp_path, "a.csv", "label\nx\n\ny\n"), "label") == ["x", None, "y"]


def test_column_names_without_rows_are_a_table_of_no_rows(tmp_path):
    for text in ("a,b\n", "a,b"):
        table = open_table(written(tmp_path, "a.csv", text), tmp_path)
        assert (table.columns, table.num_rows) == (("a", "b"), 0)


def test_a_row_longer_than_a_block_is_read_in_larger_blocks(tmp_path):
    path = written(tmp_path, "a.csv", f'text,n\n"{"long text " * 600_000}",1\nshort,2\n')
    assert [len(cell or "") for cell in cells(path, "text")] == [6_000_000, 5]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.text('ab",\n\r é\t', max_size=9), min_size=2, max_size=2), min_size=1, max_size=40),
    block=st.integers(16, 90),
)
def test_rows_may_straddle_blocks_wherever_these_are_cut(tmp_path_factory, rows, block):
    folder = tmp_path_factory.mktemp("blocks")
    table = pa.table({"first": [row[0] for row in rows], "second": [row[1] for row in rows]})
    sink = io.BytesIO()
    pa.csv.write_csv(table, sink)
    path = written(folder, "a.csv", sink.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", (block, 4 * block, 1 << 20))
        read = open_table(path, folder).take(["first", "second"], slice(None))
    wanted = [{key: cell or None for key, cell in row.items()} for row in table.to_pylist()]
    assert read.to_pylist() == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1\n2,3\n", r"cannot be read as delimited text.*Row #2"),
        ("a,b\n1,2,3\n", r"cannot be read as delimited text"),
        ('a,b\n1,"never closed\n2,3\n', r"quotes of the last cell are never closed"),
        ('a,b\n1,"torn he', r"quotes of the last cell are never closed"),
        (b"a,b\nx,1\nK\xf6ln,2\n", r"not UTF-8 text in line 3; save it as UTF-8"),
        (b"a,b\n1,2\n3,K\xf6", r"not UTF-8 text in line 3"),
        (b"K\xf6ln,b\n1,2\n", r"not UTF-8"),
        (b"a,b\n1,2\n3,\0\n", r"line 3 holds a NUL character"),
        ("a,b\n1,2\n".encode("utf-16-le"), r"line 1 holds a NUL character|no column 'a'"),
        ("", r"is empty"),
        ("\n\n", r"is empty; expected a first line of column names"),
        ("a,a\n1,2\n", r"two columns called a"),
        ("b,c\n1,2\n", r"no column 'a'; it has b, c"),
        ("a;b\n1;2\n", r"no column 'a'; it has a;b"),
    ],
)
def test_a_broken_file_is_one_line_naming_it(tmp_path, content, message):
    path = written(tmp_path, "a.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        open_table(path, tmp_path, ["a"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quote_that_swallows_the_rest_of_a_long_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", (1 << 12, 1 << 14))
    path = written(tmp_path, "a.csv", 'a,b\n1,"never closed\n' + "1,2\n" * 50_000)
    with pytest.raises(DataError, match=r"a row is longer than .*; the quotes of a cell are never closed, it seems"):
        open_table(path, tmp_path)

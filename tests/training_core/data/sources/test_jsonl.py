import pyarrow as pa
import pytest

from training_core.data.cells import numeric_type, typed_numbers
from training_core.data.sources import jsonl, open_table
from training_core.errors import DataError


def read(folder, *lines: str, columns=None) -> pa.Table:
    path = folder / "a.jsonl"
    path.write_bytes(b"\n".join(line.encode() for line in lines))
    table = open_table(path, folder, columns)
    return table.take(table.columns, slice(None))


def test_missing_keys_and_null_are_absent_and_empty_lines_are_passed_over(tmp_path):
    table = read(tmp_path, '\ufeff{"a": 1}', "", '{"b": "x", "a": null}', "  ")
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


def test_every_column_has_the_narrowest_type_that_keeps_all_its_cells(tmp_path):
    table = read(
        tmp_path,
        '{"i": 9007199254740993, "f": 1, "b": true, "t": "007", "im": 9007199254740993, "bm": true, "h": 1, "n": null}',
        '{"i": -1, "f": 0.5, "b": false, "t": "", "im": 0.5, "bm": 3, "h": 123456789012345678901234567890}',
    )
    assert [str(kind) for kind in table.schema.types] == [
        *("int64", "double", "bool", "string"),
        *("string", "string", "string", "string"),
    ]
    assert table["t"].to_pylist() == ["007", ""]
    assert table["im"].to_pylist() == ["9007199254740993", "0.5"]
    assert typed_numbers(table["bm"], numeric_type(table["bm"]), "bm").to_pylist() == [1, 3]
    assert table["h"].to_pylist() == ["1", "123456789012345678901234567890"]


def test_types_are_those_of_the_whole_file_not_of_its_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_BATCH_BYTES", 20)
    table = read(tmp_path, *[f'{{"a": {i}}}' for i in range(50)], '{"a": "x"}', '{"a": 0.5}', '{"new": true}')
    assert table["a"].to_pylist() == [*map(str, range(50)), "x", "0.5", None]
    assert table["new"].to_pylist() == [None] * 52 + [True]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"a": 1}', '{"a": 1', '{"a": 2}'], r"line 2 is no JSON object: Expecting ',' delimiter"),
        (['{"a": 1}', '{"a": "torn'], r"line 2 is no JSON object: Unterminated string"),
        (['{"a": 1}', "", "[1, 2]"], r"line 3 is no JSON object but list"),
        (['{"a": 1}', '{"a": [1]}'], r"line 2: 'a' is a list, expected text, a number, true, false or null"),
        (['{"a": {"b": 1}}'], r"line 1: 'a' is an object"),
        (["[" * 100_000], r"line 1 is no JSON object"),
        (['{"a": "\\ud800"}'], r"half of a surrogate pair"),
        ([""], r"is empty"),
        (['{"b": 1}'], r"no column 'a'; it has b"),
    ],
)
def test_a_broken_line_is_named(tmp_path, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, *lines, columns=["a"])
    assert "a.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": "K\xf6ln"}\n')
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        open_table(tmp_path / "a.jsonl", tmp_path)


def test_a_list_in_a_column_that_nobody_asks_for_does_no_harm(tmp_path):
    assert read(tmp_path, '{"a": 1, "tags": ["x"]}', columns=["a"]).to_pylist() == [{"a": 1}]

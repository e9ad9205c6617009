import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training_core.data.cells import (
    CATEGORICAL_ADVICE,
    as_numbers,
    as_text,
    as_times,
    bad_numbers,
    is_absent,
    numeric_type,
    typed_numbers,
    wider_type,
)
from training_core.errors import DataError


def test_text_is_read_as_numbers_where_numbers_are_wanted():
    column = pd.Series(["1", " 2.5 ", "1e3", "-4", None, "NA", "n/a", "NaN", "null"])
    assert as_numbers(column, "age")[:4].tolist() == [1, 2.5, 1000, -4]
    assert is_absent(as_numbers(column, "age"))[4:].all()
    assert as_numbers(pd.Series(["True", "false", "1"]), "wet").tolist() == [1, 0, 1]
    assert as_numbers(pd.Series([Decimal("1.5"), None, True], dtype=object), "age")[[0, 2]].tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "abc"], r"age, row 1: 'abc' is not a number; correct the cell or leave it empty"),
        (["1", "x" * 100], r"row 1: 'x+…' is not a number"),
        (["1", "inf"], r"age is infinite in 1 row\(s\), first row 1"),
        ([1.0, -np.inf], r"age is infinite in 1 row\(s\), first row 1"),
        ([datetime.datetime(2026, 1, 1)], r"age holds dates, expected numbers"),
    ],
)
def test_what_is_not_a_number_is_refused_naming_the_row(values, message):
    with pytest.raises(DataError, match=message):
        as_numbers(pd.Series(values), "age")
    with pytest.raises(DataError, match=message):
        as_numbers(pa.array(values), "age")
    assert (
        bad_numbers(pd.Series(values)).tolist()
        == bad_numbers(pa.array(values)).tolist()
        == [False, True][-len(values) :]
    )


def test_the_advice_is_that_of_who_asks():
    with pytest.raises(DataError, match="row 0: 'x' is not a number; list the column under `categorical`"):
        as_numbers(pd.Series(["x"]), "age", CATEGORICAL_ADVICE)
    with pytest.raises(DataError, match="row 0: 'x' is not a number; ask Ann"):
        typed_numbers(pa.array(["x"]), pa.int64(), "age", "ask Ann")


def test_times_are_numbers_or_dates_in_one_time_zone():
    assert as_times(pd.Series(["3", "1.5"]), "ts").tolist() == [3, 1.5]
    assert as_times(pd.Series([3, 1]), "ts").dtype == np.float64
    dates = as_times(pd.Series(["2026-01-31", "2026-01-31T12:00:00+02:00", None]), "ts")
    assert (dates[:2] == np.asarray(["2026-01-31T00:00", "2026-01-31T10:00"], "datetime64[s]")).all()
    assert is_absent(dates).tolist() == [False, False, True]
    aware = pd.Series(pd.to_datetime(["2026-01-31T12:00:00+02:00"]))
    assert (as_times(aware, "ts") == np.datetime64("2026-01-31T10:00")).all()
    berlin = pa.array([datetime.datetime(2026, 1, 31, 11)], pa.timestamp("ms", "Europe/Berlin"))
    assert (as_times(berlin, "ts") == np.datetime64("2026-01-31T11:00")).all()  # the instant is what is stored
    assert (as_times(pa.array([datetime.date(2026, 1, 31)]), "ts") == np.datetime64("2026-01-31")).all()
    with pytest.raises(DataError, match=r"ts, row 1: 'yesterday' is neither a number nor a date"):
        as_times(pd.Series(["2026-01-31", "yesterday"]), "ts")


def test_text_says_what_was_written():
    assert as_text(pd.Series([1.0, 2.5, None])).tolist() == ["1", "2.5", None]
    assert as_text(pa.array([2**53 + 1, None])).tolist() == ["9007199254740993", None]
    assert as_text(pa.array([True, None])).tolist() == ["True", None]
    assert as_text(pa.array(["x", " ", "", None, "None"])).tolist() == ["x", None, None, None, "None"]
    assert as_text(pa.array(["größe".encode(), None])).tolist() == ["größe", None]
    assert as_text(pa.array([1, 2], pa.float16())).tolist() == ["1", "2"]
    assert as_text(pa.chunked_array([["a"], ["b"]]).dictionary_encode()).tolist() == ["a", "b"]
    with pytest.raises(DataError, match="name holds bytes that are not UTF-8"):
        as_text(pa.array([b"K\xf6ln"]), "name")


@pytest.mark.parametrize(
    ("cells", "kind", "numbers"),
    [
        (pa.array([1, None], pa.int8()), pa.int64(), [1, None]),
        (pa.array([2**64 - 1, 1], pa.uint64()), pa.float64(), [2.0**64, 1.0]),
        (pa.array([2**63 - 1, 1], pa.uint64()), pa.int64(), [2**63 - 1, 1]),
        (pa.array([1.0, None]), pa.float64(), [1.0, None]),
        (pa.array([1.0, float("nan")]), pa.float64(), [1.0, None]),
        (pa.array([1.0, 2.0], pa.float16()), pa.float64(), [1.0, 2.0]),
        (pa.array([True, None]), pa.bool_(), [True, None]),
        (
            pa.array(["9007199254740993", " -1 ", "+5", "", "NA", None]),
            pa.int64(),
            [2**53 + 1, -1, 5, None, None, None],
        ),
        (pa.array(["007", "true"]), pa.int64(), [7, 1]),
        (pa.array(["true", "False", "n/a"]), pa.bool_(), [True, False, None]),
        (pa.array(["1", "2.0"]), pa.float64(), [1.0, 2.0]),
        (pa.array(["9223372036854775808"]), pa.float64(), [2.0**63]),
        (pa.array(["1e3"]), pa.float64(), [1000.0]),
        (pa.array([Decimal("12"), None]), pa.int64(), [12, None]),
        (pa.array([Decimal("1.50"), None]), pa.float64(), [1.5, None]),
        (pa.array(["1", None]).dictionary_encode(), pa.int64(), [1, None]),
        (pa.chunked_array([["1"], ["x"], ["2"]]), pa.int64(), None),
    ],
)
def test_numbers_keep_the_narrowest_type_that_holds_them(cells, kind, numbers):
    assert numeric_type(cells) == kind
    if numbers is not None:
        typed = typed_numbers(cells, kind, "x")
        assert typed.type == kind
        assert typed.to_pylist() == numbers
        assert typed_numbers(cells, pa.float64(), "x").to_pylist() == [None if n is None else float(n) for n in numbers]


def test_a_column_without_any_number_is_null_and_kept_as_double():
    for cells in (
        pa.array([None, None]),
        pa.array(["", "NA"]),
        pa.array([], pa.string()),
        pa.chunked_array([], pa.int64()),
    ):
        assert numeric_type(cells) == pa.null()
        assert typed_numbers(cells, pa.null(), "x").type == pa.float64()
        assert typed_numbers(cells, pa.int64(), "x").to_pylist() == [None] * len(cells)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    cells=st.lists(
        st.none() | st.integers(-(2**63), 2**63 - 1).map(str) | st.booleans().map(str) | st.floats(-1e9, 1e9).map(str),
        min_size=1,
        max_size=8,
    ),
    cut=st.integers(0, 8),
)
def test_the_type_of_a_column_does_not_depend_on_how_it_is_cut(cells, cut):
    whole = numeric_type(pa.array(cells, pa.string()))
    parts = [numeric_type(pa.array(part, pa.string())) for part in (cells[:cut], cells[cut:])]
    assert wider_type(*parts) == whole
    exact = [None if c is None else {"True": 1, "False": 0}.get(c, c) for c in cells]
    if whole == pa.int64():
        assert typed_numbers(pa.array(cells, pa.string()), whole, "x").to_pylist() == [
            c if c is None else int(c) for c in exact
        ]

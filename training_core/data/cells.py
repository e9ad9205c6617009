"""What the cells of a column mean: numbers, text or times, with absent cells told apart from wrong ones.

Columns come as pandas Series or as Arrow arrays, of any type; those of csv and tsv files are text throughout. An
absent number is an empty cell, NA, N/A, NaN, null or None, in any case; an absent text is a null or one without words,
so that a class called `None` and an id `007` stay what they are.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CATEGORICAL_ADVICE = "list the column under `categorical` if it holds categories"
CELL_ADVICE = "correct the cell or leave it empty"

_ABSENT_NUMBERS = {"", "na", "n/a", "nan", "null", "none"}  # compared in lower case, without spaces around


def as_numbers(column: "pd.Series | pa.Array | pa.ChunkedArray", where: str, advice: str = CELL_ADVICE) -> np.ndarray:
    """A column as float64 [N], absent cells NaN; `where` names it in errors, which end with `advice`.

    Text is read as numbers, true and false as 1 and 0, and the empty cell, NA, N/A, NaN, null and None as absent.

    Raises:
        DataError: a cell is not a number, or is infinite; the first such row is named.
    """
    from pandas.api import types

    series = _series(column)
    if types.is_datetime64_any_dtype(series.dtype):
        raise DataError(f"{where} holds dates, expected numbers; convert them, or use the column as `time`")
    numbers, wrong = _parsed(series)
    if len(bad := np.flatnonzero(wrong)):
        raise DataError(f"{where}, row {bad[0]}: {_quoted(str(series.iloc[bad[0]]))} is not a number; {advice}")
    if len(bad := np.flatnonzero(np.isinf(numbers))):
        raise DataError(f"{where} is infinite in {len(bad)} row(s), first row {bad[0]}; replace it or leave it empty")
    return numbers


def bad_numbers(column: "pd.Series | pa.Array | pa.ChunkedArray") -> np.ndarray:
    """Which cells `as_numbers` would refuse: neither absent nor a finite number; bool [N]."""
    from pandas.api import types

    series = _series(column)
    if types.is_datetime64_any_dtype(series.dtype):
        return series.notna().to_numpy(bool)
    numbers, wrong = _parsed(series)
    return wrong | np.isinf(numbers)


def as_times(column: "pd.Series | pa.Array | pa.ChunkedArray", where: str) -> np.ndarray:
    """A column of numbers as float64 [N], or of dates (ISO 8601 when they are text) as datetime64 [N] in UTC.

    Absent cells are NaN or NaT.

    Raises:
        DataError: a cell is neither; the first such row is named.
    """
    import pandas as pd
    from pandas.api import types

    series = _series(column)
    if types.is_numeric_dtype(series.dtype):
        return as_numbers(series, where)
    if not types.is_datetime64_any_dtype(series.dtype):
        text = series.astype(str).where(series.notna())
        if pd.to_numeric(text, errors="coerce").notna().equals(text.notna()):
            return as_numbers(series, where)
        dates = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
        if len(bad := np.flatnonzero(dates.isna() & text.notna())):
            raise DataError(
                f"{where}, row {bad[0]}: {_quoted(text.iloc[bad[0]])} is neither a number nor a date such as "
                "2026-01-31 or 2026-01-31T12:00:00Z"
            )
        series = dates
    return series.dt.tz_convert(None).to_numpy(copy=True) if series.dt.tz else series.to_numpy(copy=True)


def as_text(column: "pd.Series | pa.Array | pa.ChunkedArray", where: str = "a column") -> np.ndarray:
    """A column as str objects [N], absent cells None; whole numbers without a decimal point, bytes decoded.

    Raises:
        DataError: there are bytes that are not UTF-8; `where` names the column.
    """
    from pandas.api import types

    series = _series(column)
    absent = series.isna().to_numpy(bool)
    if types.is_float_dtype(series.dtype):
        numbers = series.to_numpy(np.float64, na_value=np.nan)
        texts: list[str] = [str(int(v)) if np.isfinite(v) and v == int(v) else str(v) for v in numbers]
    else:
        try:
            texts = [value.decode() if isinstance(value, bytes) else str(value) for value in series.tolist()]
        except UnicodeDecodeError:
            raise DataError(f"{where} holds bytes that are not UTF-8 text; decode them first") from None
    out = np.empty(len(texts), object)
    out[:] = [None if gone or not text.strip() else text for text, gone in zip(texts, absent, strict=True)]
    return out


def is_absent(values: np.ndarray) -> np.ndarray:
    """Which entries of what `as_numbers`, `as_text` or `as_times` gave are absent: NaN, None or NaT; bool [N]."""
    import pandas as pd

    return np.asarray(pd.isna(values))


def numeric_type(column: "pa.Array | pa.ChunkedArray") -> "pa.DataType":
    """What a column of numbers is kept as: int64, bool, or else double; null when every cell is absent.

    Text counts as what is written there: `true` and `false` as bool, digits as int64 where they fit. Floating-point
    columns stay so even when every number in them is whole. Cells that are not numbers are passed over.
    """
    import pyarrow as pa

    found = pa.null()
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        found = wider_type(found, _numeric_type(chunk))
    return found


def wider_type(first: "pa.DataType", second: "pa.DataType") -> "pa.DataType":
    """The narrowest of null, bool, int64 and double that holds the cells of both."""
    import pyarrow as pa

    order = [pa.null(), pa.bool_(), pa.int64(), pa.float64()]
    return order[max(order.index(first), order.index(second))]


def typed_numbers(
    column: "pa.Array | pa.ChunkedArray", kept_as: "pa.DataType", where: str, advice: str = CELL_ADVICE
) -> "pa.Array":
    """A column, or a block of one, as the type that `numeric_type` found for the whole; absent cells are null.

    Raises:
        DataError: as for `as_numbers`.
    """
    import pyarrow as pa

    if pa.types.is_null(kept_as):
        kept_as = pa.float64()
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_null(whole.type):
        return pa.nulls(len(whole), kept_as)
    if whole.type == kept_as and not pa.types.is_floating(kept_as):
        return whole
    numbers = as_numbers(whole, where, advice)
    if pa.types.is_int64(kept_as):  # not by way of float64, which holds no whole numbers beyond 2^53
        return _whole_numbers(whole)
    return pa.array(numbers, pa.float64(), mask=np.isnan(numbers)).cast(kept_as)


def _series(column: Any) -> "pd.Series":
    """The column as pandas sees it, whole numbers next to absent cells kept exactly."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pd.Series):
        return column
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_float16(column.type):
        column = pc.cast(column, pa.float32())
    if pa.types.is_integer(column.type) and column.null_count:
        return pd.Series(column.to_pandas(integer_object_nulls=True), dtype=object)
    return column.to_pandas()


def _parsed(column: "pd.Series") -> tuple[np.ndarray, np.ndarray]:
    """A column as float64 [N], NaN where absent or not a number, and which cells are not numbers, bool [N]."""
    import pandas as pd
    from pandas.api import types

    if types.is_bool_dtype(column.dtype) or types.is_numeric_dtype(column.dtype):
        return column.to_numpy(np.float64, na_value=np.nan, copy=True), np.zeros(len(column), bool)
    text = _as_written(column)
    lower = text.str.lower()
    absent = (column.isna() | lower.isin(_ABSENT_NUMBERS)).to_numpy(bool)
    text = text.mask(lower == "true", "1").mask(lower == "false", "0")
    numbers = pd.to_numeric(text.where(~absent, "nan"), errors="coerce").to_numpy(np.float64, copy=True)
    return numbers, np.isnan(numbers) & ~absent


def _as_written(column: "pd.Series") -> "pd.Series":
    """The cells as text without spaces around; decimals and booleans as numbers."""
    from decimal import Decimal

    from pandas.api import types

    if types.is_object_dtype(column.dtype):  # booleans or decimals with absent cells among them
        column = column.map(
            lambda value: (
                str(int(value))
                if isinstance(value, bool)
                else format(value, "f")
                if isinstance(value, Decimal)
                else value.decode(errors="replace")
                if isinstance(value, bytes)
                else value
            )
        )
    return column.astype(str).str.strip()


def _numeric_type(chunk: "pa.Array") -> "pa.DataType":
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(chunk.type):
        chunk = pc.cast(chunk, chunk.type.value_type)
    if chunk.null_count == len(chunk):
        return pa.null()
    if pa.types.is_boolean(chunk.type) or pa.types.is_floating(chunk.type):
        return pa.bool_() if pa.types.is_boolean(chunk.type) else pa.float64()
    if pa.types.is_integer(chunk.type):
        fits = not pa.types.is_uint64(chunk.type) or chunk.drop_null().to_numpy().max() < 2**63
        return pa.int64() if fits else pa.float64()
    series = _series(chunk)
    lower = _as_written(series).str.lower()
    cells = lower[series.notna().to_numpy(bool) & ~lower.isin(_ABSENT_NUMBERS).to_numpy(bool)]
    if not len(cells):
        return pa.null()
    logical = cells.isin({"true", "false"}).to_numpy(bool)
    if logical.all():
        return pa.bool_()
    numbers = cells[~logical & ~bad_numbers(cells)]
    if not len(numbers):
        return pa.bool_() if logical.any() else pa.null()
    if not numbers.str.fullmatch(r"[+-]?[0-9]+").all():
        return pa.float64()
    try:
        pc.cast(pa.array(numbers.str.removeprefix("+").tolist(), pa.string()), pa.int64())
    except pa.ArrowInvalid:  # beyond 64 bits
        return pa.float64()
    return pa.int64()


def _whole_numbers(column: "pa.Array") -> "pa.Array":
    """Cells that are whole numbers, true, false or absent, as int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type) or pa.types.is_floating(column.type):
        return pc.cast(column, pa.int64())
    series = _series(column)
    text = _as_written(series)
    lower = text.str.lower()
    present = series.notna().to_numpy(bool) & ~lower.isin(_ABSENT_NUMBERS).to_numpy(bool)
    text = text.mask(lower == "true", "1").mask(lower == "false", "0").str.removeprefix("+")
    cells = [cell if here else None for cell, here in zip(text.tolist(), present, strict=True)]
    return pc.cast(pa.array(cells, pa.string()), pa.int64())


def _quoted(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:39] + "…")

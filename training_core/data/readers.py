"""Reading users' files: columns of tables and named arrays, or one clear line saying what is wrong with the file.

Nothing here runs what a file contains: pickled arrays are refused. CSV and TSV cells arrive as text, and only
the empty cell, `nan` and `NaN` are absent, so that a class called `None` or an id `007` stays what it is.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ABSENT_NUMBERS = {"", "na", "n/a", "nan", "null", "none"}  # compared in lower case, without spaces around


def read_table(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Some columns of a csv, tsv or parquet file.

    Raises:
        DataError: the file is not there, not readable as what its name says, empty, or lacks a column.
    """
    wanted = list(dict.fromkeys(columns))
    table = _read_delimited(path) if path.suffix.lower() in _SEPARATORS else _read_parquet(path, wanted)
    _require_columns(path, table.column_names, wanted)
    frame = table.select(wanted).to_pandas()
    if not len(frame):
        raise DataError(f"{path} has column names but 0 rows")
    return frame


def read_whole_table(path: Path) -> "pd.DataFrame":
    """Every column of a csv, tsv or parquet file.

    Raises:
        DataError: as for `read_table`.
    """
    return read_table(path, column_names(path))


def column_names(path: Path) -> list[str]:
    """The columns of a csv, tsv or parquet file.

    Raises:
        DataError: as for `read_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() in _SEPARATORS:
        return _header(path)
    _require_file(path)
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "a parquet file", error) from None


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """The array of an npy file, or the one called `key` (needed when there are several) of an npz file.

    Raises:
        DataError: the file is not there, torn, or pickled, has no such key, or does not hold numbers.
    """
    if path.suffix.lower() == ".npz":
        keys = array_names(path)
        if key is None and len(keys) != 1:
            raise DataError(f"{path} holds {len(keys)} arrays ({', '.join(keys)}); say which one with `key`")
        key = key or keys[0]
        array = read_arrays(path, [key])[key]
    else:
        with _loading(path) as loaded:
            array = np.asarray(loaded)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path} holds {array.dtype}, expected an array of numbers")
    return array


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an npz file.

    Raises:
        DataError: the file is not there or torn.
    """
    with _loading(path) as loaded:
        return list(loaded.files)


def read_arrays(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz file, of numbers or text.

    Raises:
        DataError: the file is not there, torn, or pickled, or has no such key.
    """
    with _loading(path) as loaded:
        if missing := [key for key in keys if key not in loaded.files]:
            raise DataError(f"{path} has no array '{missing[0]}'; it has {', '.join(loaded.files) or 'none'}")
        return {key: loaded[key] for key in keys}


def as_numbers(column: "pd.Series", where: str) -> np.ndarray:
    """A column as float64 [N], absent cells NaN; `where` names it in errors.

    Text is read as numbers, true and false as 1 and 0, and the empty cell, NA, N/A, NaN, null and None as absent.

    Raises:
        DataError: a cell is not a number, or is infinite; the first such row is named.
    """
    import pandas as pd
    from pandas.api import types

    if types.is_bool_dtype(column.dtype) or types.is_numeric_dtype(column.dtype):
        numbers = column.to_numpy(np.float64, na_value=np.nan, copy=True)
    elif types.is_datetime64_any_dtype(column.dtype):
        raise DataError(f"{where} holds dates, expected numbers; convert them, or use the column as `time`")
    else:
        if types.is_object_dtype(column.dtype):  # booleans or decimals with absent cells among them
            column = column.map(lambda value: float(value) if isinstance(value, (bool, Decimal)) else value)
        text = column.astype(str).str.strip()
        lower = text.str.lower()
        absent = (column.isna() | lower.isin(_ABSENT_NUMBERS)).to_numpy(bool)
        text = text.mask(lower == "true", "1").mask(lower == "false", "0")
        numbers = pd.to_numeric(text.where(~absent, "nan"), errors="coerce").to_numpy(np.float64, copy=True)
        if len(bad := np.flatnonzero(np.isnan(numbers) & ~absent)):
            raise DataError(
                f"{where}, row {bad[0]}: {_quoted(text.iloc[bad[0]])} is not a number; "
                "list the column under `categorical` if it holds categories"
            )
    if len(bad := np.flatnonzero(np.isinf(numbers))):
        raise DataError(f"{where} is infinite in {len(bad)} row(s), first row {bad[0]}; replace it or leave it empty")
    return numbers


def as_times(column: "pd.Series", where: str) -> np.ndarray:
    """A column of numbers as float64 [N], or of dates (ISO 8601 when they are text) as datetime64 [N] in UTC.

    Absent cells are NaN or NaT.

    Raises:
        DataError: a cell is neither; the first such row is named.
    """
    import pandas as pd
    from pandas.api import types

    if types.is_numeric_dtype(column.dtype):
        return as_numbers(column, where)
    if not types.is_datetime64_any_dtype(column.dtype):
        text = column.astype(str).where(column.notna())
        if pd.to_numeric(text, errors="coerce").notna().equals(text.notna()):
            return as_numbers(column, where)
        dates = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
        if len(bad := np.flatnonzero(dates.isna() & text.notna())):
            raise DataError(
                f"{where}, row {bad[0]}: {_quoted(text.iloc[bad[0]])} is neither a number nor a date such as "
                "2026-01-31 or 2026-01-31T12:00:00Z"
            )
        column = dates
    return column.dt.tz_convert(None).to_numpy(copy=True) if column.dt.tz else column.to_numpy(copy=True)


def as_text(column: "pd.Series") -> np.ndarray:
    """A column as str objects [N], absent cells None; whole numbers without a decimal point."""
    from pandas.api import types

    absent = column.isna().to_numpy(bool)
    if types.is_float_dtype(column.dtype):
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        texts: list[str] = [str(int(v)) if np.isfinite(v) and v == int(v) else str(v) for v in numbers]
    else:
        texts = [str(value) for value in column.tolist()]
    out = np.empty(len(texts), object)
    out[:] = [None if gone or not text.strip() else text for text, gone in zip(texts, absent, strict=True)]
    return out


def is_absent(values: np.ndarray) -> np.ndarray:
    """Which entries of what `as_numbers`, `as_text` or `as_times` gave are absent: NaN, None or NaT; bool [N]."""
    import pandas as pd

    return np.asarray(pd.isna(values))


def _read_delimited(path: Path) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    names = _header(path)
    try:
        table = csv.read_csv(
            path,
            # one block: a row that straddles two could not be read
            read_options=csv.ReadOptions(use_threads=False, block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=csv.ParseOptions(
                delimiter=_SEPARATORS[path.suffix.lower()],
                newlines_in_values=True,
                ignore_empty_lines=len(names) > 1,  # in a file of one column an empty line is an absent cell
            ),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                null_values=["", "nan", "NaN"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "delimited text in UTF-8", error) from None
    if table.num_rows and _ends_in_open_quote(path, table.columns[-1][-1].as_py() or ""):
        raise DataError(f"{path} cannot be read as delimited text: the quotes of the last cell are never closed")
    return table


def _ends_in_open_quote(path: Path, last_cell: str) -> bool:
    """Whether a file ends inside a quoted cell, whose opening quote has then swallowed all the rows after it."""
    cell = b'"' + last_cell.rstrip("\r\n").replace('"', '""').encode()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(cell) - 1000))  # room for line breaks after it
        return bool(last_cell) and file.read().rstrip(b"\r\n").endswith(cell)


def _header(path: Path) -> list[str]:
    """The column names of a delimited file."""
    import csv

    _require_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=_SEPARATORS[path.suffix.lower()]), [])
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise _unreadable(path, "delimited text", error) from None
    if not any(name.strip() for name in names):
        raise DataError(f"{path} is empty; expected a first line of column names")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has two columns called {', '.join(repeated)}; rename one")
    return names


def _read_parquet(path: Path, wanted: list[str]) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    _require_columns(path, column_names(path), wanted)
    try:
        return pq.ParquetFile(path).read(columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "a parquet file", error) from None


@contextmanager
def _loading(path: Path) -> Iterator[Any]:
    """What `np.load` makes of a file, without ever unpickling; all the ways it can fail are one DataError."""
    _require_file(path)
    kind = path.suffix.lower()
    try:
        loaded = np.load(path, allow_pickle=False)
        if (kind == ".npz") != isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is not an {kind} file inside; give it the ending of what it is")
        if kind == ".npz":
            with loaded:
                yield loaded
        else:
            yield loaded
    except DataError:
        raise
    except Exception as error:  # a torn file: ValueError, EOFError, zlib.error, BadZipFile, SyntaxError, MemoryError…
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds pickled Python objects, which are never loaded; save plain arrays") from None
        raise _unreadable(path, f"an {kind} file", error) from None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is not there; file names are relative to the folder of the SOURCE.yaml")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")


def _require_columns(path: Path, have: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in have]:
        raise DataError(f"{path} has no column '{missing[0]}'; it has {', '.join(have)}")


def _unreadable(path: Path, what: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as {what}: {reason[:200]}")


def _quoted(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:39] + "…")

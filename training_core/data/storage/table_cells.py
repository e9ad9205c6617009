"""From typed columns of a stored table to what samples and data frames hold."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.storage.content_digests import as_plain_numbers
from training_core.errors import StorageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_UNITS = ("s", "ms", "us", "ns")


def numbers(column: "pa.ChunkedArray") -> np.ndarray:
    """Numbers or truths as float64 [N], absent NaN."""
    values = as_plain_numbers(column).astype(np.float64)
    if column.null_count:
        values[column.is_null().to_numpy()] = np.nan
    return values


def truths(column: "pa.ChunkedArray") -> np.ndarray:
    """Truths as bool [N], absent False."""
    return as_plain_numbers(column).astype(bool)


def texts(column: "pa.ChunkedArray") -> np.ndarray:
    """Cells as str objects [N], absent None; whole numbers without a decimal point."""
    return _as_texts(column).to_numpy().astype(object)


def times(column: "pa.ChunkedArray") -> np.ndarray:
    """Times as float64, or datetime64 in UTC; [N], absent NaN or NaT."""
    import pyarrow.types as types

    if not types.is_timestamp(column.type):
        return numbers(column)
    values = as_plain_numbers(column).astype(f"datetime64[{column.type.unit}]")
    if column.null_count:
        values[column.is_null().to_numpy()] = np.datetime64("NaT")
    return values


def codes(column: "pa.ChunkedArray", names: tuple[str, ...]) -> np.ndarray:
    """Cells as positions in `names`, float64 [N]; NaN for an absent or unknown one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.call_function(
        "index_in", [_as_texts(column)], pc.SetLookupOptions(pa.array(names, pa.string()), skip_nulls=True)
    )
    return numbers(found)


def frame(columns: "Mapping[str, pa.ChunkedArray]", has_null: Collection[str]) -> "pd.DataFrame":
    """Columns as a data frame; of those in `has_null` whole numbers and truths get pandas' nullable types."""
    import pandas as pd
    import pyarrow.types as types

    def series(name: str, column: "pa.ChunkedArray") -> "pd.Series[Any]":
        nullable: Any = None
        if name in has_null and types.is_integer(column.type):
            nullable = getattr(pd, str(column.type).replace("i", "I").replace("uI", "UI") + "Dtype")()
        elif name in has_null and types.is_boolean(column.type):
            nullable = pd.BooleanDtype()
        return column.to_pandas(types_mapper=None if nullable is None else lambda _: nullable)

    return pd.DataFrame({name: series(name, column) for name, column in columns.items()})


def category_codes(values: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    """Categories [N] (str objects) as codes, float64: positions in `categories`; NaN for an absent or unknown one."""
    codes: Mapping[str | None, float] = {category: float(code) for code, category in enumerate(categories)}
    return np.asarray([codes.get(value, np.nan) for value in values], np.float64)


def join_text(columns: list[np.ndarray]) -> np.ndarray:
    """Text columns (str objects, absent None) joined by a space into one text per row, str objects [N]."""
    out = np.empty(len(columns[0]), object)
    out[:] = [" ".join(part for part in row if part and not part.isspace()) for row in zip(*columns, strict=True)]
    return out


def common_types(parts: "Sequence[Mapping[str, pa.DataType]]", names: Sequence[str]) -> "dict[str, pa.DataType]":
    """Per column the type that holds its cells of every part.

    Raises:
        StorageError: a column is not in every part, or there is no such type: texts here and numbers there.
    """
    return {name: _common_type(name, [part[name] for part in parts if name in part], len(parts)) for name in names}


def _common_type(name: str, types: "list[pa.DataType]", num_parts: int) -> "pa.DataType":
    import pyarrow as pa

    if len(types) < num_parts or not types:
        raise StorageError(f"column '{name}' is in {len(types)} of {num_parts} parts")
    if len(set(types)) == 1:
        return types[0]
    if all(pa.types.is_timestamp(t) for t in types) and len({t.tz is None for t in types}) == 1:
        return pa.timestamp(max((t.unit for t in types), key=_UNITS.index), types[0].tz)
    plain = [pa.int64() if pa.types.is_boolean(t) else t for t in types]
    try:
        return pa.unify_schemas([pa.schema([(name, t)]) for t in plain], promote_options="permissive").field(0).type
    except pa.ArrowException:
        raise StorageError(f"column '{name}' is {' here and '.join(sorted({str(t) for t in types}))} there") from None


def _as_texts(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return column
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    names = pa.array([_text(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([names.take(encoded.indices)])


def _text(value: Any) -> str | None:
    if isinstance(value, float):
        if np.isnan(value):
            return None
        return str(int(value)) if np.isfinite(value) and value == int(value) else str(value)
    return None if value is None else str(value)

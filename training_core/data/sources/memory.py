"""Tables and arrays that a program holds in memory, as sources."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.arrays import HeldArray
from training_core.data.sources.protocols import listed, require_numbers
from training_core.data.sources.tables import BatchedTable
from training_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class MemoryTable(BatchedTable):
    """A pandas data frame, an Arrow table, or columns by name.

    NaN of pandas is absent. Columns of mixed types become text.

    Raises:
        DataError: column names repeat, lengths differ, or a column holds neither numbers, text nor times.
    """

    def __init__(self, data: "pd.DataFrame | pa.Table | Mapping[str, Any]", name: str = "the table in memory") -> None:
        import pyarrow as pa

        given: Any = data
        table: pa.Table | None = given if isinstance(given, pa.Table) else None
        names = [str(column) for column in (given if table is None else table.column_names)]
        if repeated := sorted({column for column in names if names.count(column) > 1}):
            raise DataError(f"{name} has two columns called {listed(repeated)}; rename one")
        if table is None:
            columns = [_arrow(given[column], f"{name}, column '{column}'") for column in given]
            if len({len(column) for column in columns}) > 1:
                lengths = ", ".join(f"{key} {len(column)}" for key, column in zip(names, columns, strict=True))
                raise DataError(f"{name} has columns of different lengths: {lengths}")
            table = pa.table(columns, names)
        arrow: Any = table
        batches = arrow.to_batches()
        super().__init__(name, arrow.schema, [batch.num_rows for batch in batches], batches.__getitem__)


class MemoryArray(HeldArray):
    """An array [N, …] of numbers in memory; it is not copied.

    Raises:
        DataError: it holds anything but numbers, or has no axis.
    """

    def __init__(self, values: np.ndarray, name: str = "the array in memory") -> None:
        values = np.asarray(values)
        require_numbers(name, values.dtype)
        if not values.ndim:
            raise DataError(f"{name} is a single number; expected one row per sample")
        super().__init__(values)


def _arrow(values: Any, where: str) -> "pa.Array | pa.ChunkedArray":
    import pandas as pd
    import pyarrow as pa

    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.DatetimeTZDtype):
        # Arrow asks pandas for the values in a way that pandas is about to change: hand it UTC and name the zone.
        utc = pa.array(values.dt.tz_convert(None))
        zone: Any = pa.scalar(pd.Timestamp(0, tz=values.dtype.tz)).type
        return utc.cast(pa.timestamp(utc.type.unit, zone.tz))
    try:
        converted = pa.array(values, from_pandas=isinstance(values, pd.Series))
        return converted.cast(converted.type.value_type) if pa.types.is_dictionary(converted.type) else converted
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        pass
    series = pd.Series(values, dtype=object)
    if odd := [value for value in series if isinstance(value, list | tuple | dict | set | np.ndarray)]:
        raise DataError(f"{where} holds {type(odd[0]).__name__} cells, expected numbers, text or times")
    return pa.array(
        [None if gone else str(value) for value, gone in zip(series, series.isna(), strict=True)], pa.string()
    )

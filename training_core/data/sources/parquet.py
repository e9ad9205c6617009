"""Parquet: one file, or a folder of them, also one whose folders are named `column=value` (Hive partitions)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from training_core.data.sources.protocols import Place, chosen_columns, listed, unreadable
from training_core.data.sources.tables import BatchedTable, staged_table
from training_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_BYTES = 8 << 20
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def open_parquet(
    place: Place, staging: Path, columns: Sequence[str] | None = None, if_there: Sequence[str] = ()
) -> BatchedTable:
    """A parquet file, or all parquet files below a folder in the order of their names (`part-2` before `part-10`).

    Cells keep their types; the values of Hive partitions are text, so that `007` stays what it is.

    Raises:
        DataError: it is not there or damaged, files differ in columns or types, or lack one of `columns` (all by
            default).
    """
    import pyarrow as pa

    files = {path: _partition(path.relative_to(place.path)) for path in _files(place)}
    schemas = {path: _schema(_inside(place, path), path) for path in files}
    names = _names(place, files, schemas)
    if columns is None:  # lists and structures are of no use in a table
        fit = [name for name in names if not any(_is_nested(schema, name) for schema in schemas.values())]
        columns = fit or names
    wanted = chosen_columns(place, names, columns, if_there)
    fields: dict[str, pa.DataType] = {}
    for column in wanted:
        for path, schema in schemas.items():
            found = pa.string() if column in files[path] else _plain(schema.field(column).type)
            if pa.types.is_nested(found):
                raise DataError(
                    f"{_inside(place, path)}: column '{column}' holds {found}, expected text, numbers or times; "
                    "give arrays in a file of arrays"
                )
            fields[column] = _common(place, column, fields.get(column, found), found)
    schema = pa.schema(list(fields.items()))
    return staged_table(str(place), schema, _batches(place, files, schema), staging)


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files below a folder, in the order of their names; those that start with `.` or `_` do not count."""
    found = [path for path in folder.rglob("*.parquet") if path.is_file()]
    visible = [p for p in found if not any(part[0] in "._" for part in p.relative_to(folder).parts)]
    return sorted(visible, key=lambda path: natural_order(path.relative_to(folder).as_posix()))


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people do: the numbers in them by value."""
    pieces = re.split(r"([0-9]+)", name)
    return [(1, int(piece), piece) if i % 2 else (0, 0, piece) for i, piece in enumerate(pieces)]


def _files(place: Place) -> list[Path]:
    if not place.path.is_dir():
        place.require()
        return [place.path]
    if files := parquet_files(place.path):
        return files
    raise DataError(f"{place} is a folder without parquet files; expected files ending in .parquet")


def _inside(place: Place, path: Path) -> str:
    return str(place) if path == place.path else f"{place}/{path.relative_to(place.path).as_posix()}"


def _partition(inside: Path) -> dict[str, str | None]:
    pairs = [part.split("=", 1) for part in inside.parts[:-1] if "=" in part]
    return {unquote(key): None if value == _NO_VALUE else unquote(value) for key, value in pairs}


def _names(place: Place, files: dict[Path, dict[str, str | None]], schemas: "dict[Path, pa.Schema]") -> list[str]:
    """The columns of all files, which have to have the same ones."""
    first: list[str] | None = None
    for path, partition in files.items():
        own = [*(name for name in schemas[path].names if name not in partition), *partition]
        if repeated := sorted({name for name in own if own.count(name) > 1}):
            raise DataError(f"{_inside(place, path)} has two columns called {listed(repeated)}; rename one")
        if first is None:
            first = own
        elif odd := sorted(set(own) ^ set(first)):
            raise DataError(
                f"{_inside(place, path)} and the files before it do not have the same columns: "
                f"'{odd[0]}' is in one and not in the other"
            )
    return first or []


def _common(place: Place, column: str, first: "pa.DataType", second: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    try:
        pair = [pa.schema([(column, kind)]) for kind in (first, second)]
        return pa.unify_schemas(pair, promote_options="permissive").field(column).type
    except pa.ArrowException:
        raise DataError(
            f"{place}: column '{column}' is {first} in one file and {second} in another; write all of one type"
        ) from None


def _is_nested(schema: "pa.Schema", column: str) -> bool:
    import pyarrow as pa

    return column in schema.names and pa.types.is_nested(_plain(schema.field(column).type))


def _plain(kind: "pa.DataType") -> "pa.DataType":
    """The type that cells are kept as: dictionaries and extension types as what is in them."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    views = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return views.get(kind, kind)


def _batches(place: Place, files: dict[Path, dict[str, str | None]], schema: "pa.Schema") -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    for path, partition in files.items():
        name = _inside(place, path)
        stored = [column for column in schema.names if column not in partition]
        with _reading(name, path) as file:
            row_bytes = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
            row_bytes //= max(file.metadata.num_rows, 1)
            step = max(64, min(1 << 16, _BATCH_BYTES // max(row_bytes, 1)))
            for batch in file.iter_batches(step, columns=stored, use_threads=False):
                columns = [
                    pa.array([partition[field.name]] * batch.num_rows, field.type)
                    if field.name in partition
                    else batch.column(field.name).cast(field.type)
                    for field in schema
                ]
                yield pa.record_batch(columns, schema=schema)


def _schema(name: str, path: Path) -> "pa.Schema":
    with _reading(name, path) as file:
        return file.schema_arrow


@contextmanager
def _reading(name: str, path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:  # not whole row groups at a time
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(name, "a parquet file", error) from None

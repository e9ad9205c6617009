"""JSON Lines: one object per line, whose keys are the columns; types are found over the whole file."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training_core.data.sources.protocols import Place, chosen_columns
from training_core.data.sources.tables import BatchedTable, staged_table
from training_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_BYTES = 4 << 20
_INT64 = range(-(2**63), 2**63)
_EXACT = range(-(2**53), 2**53 + 1)  # whole numbers that a float holds exactly


def open_jsonl(
    place: Place, staging: Path, columns: Sequence[str] | None = None, if_there: Sequence[str] = ()
) -> BatchedTable:
    """A file of one JSON object per line; a key that a line lacks is null there.

    A column of whole numbers is int64, of numbers double, of true and false bool, and of text string; one that mixes
    them, or has whole numbers that fit neither type exactly, is text as it is written in JSON. The file is read
    twice: for the types, then for the cells.

    Raises:
        DataError: it is not there, a line is no JSON object, a column holds lists or objects, or one of `columns`
            (all by default) is in no line.
    """
    import pyarrow as pa

    kinds: dict[str, set[str]] = {}
    wanted = None if columns is None else {*columns, *if_there}
    for number, row, _ in _rows(place):
        for key, value in row.items():
            if wanted is None or key in wanted:
                kind = _kind(value)
                if not kind:
                    raise DataError(
                        f"{place}, line {number}: '{key}' is {'a list' if isinstance(value, list) else 'an object'}, "
                        "expected text, a number, true, false or null; give arrays in a file of arrays"
                    )
                kinds.setdefault(key, set()).add(kind)
            else:
                kinds.setdefault(key, set())
    chosen = chosen_columns(place, list(kinds) or columns or (), columns, if_there)  # no line, no column is missing
    types = {key: _type(kinds.get(key, set())) for key in chosen}
    readers = {key: _as_written if "string" in str(types[key]) else _as_is for key in chosen}
    return staged_table(str(place), pa.schema(list(types.items())), _batches(place, types, readers), staging)


def _rows(place: Place) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Line number (from 1), object and number of bytes of every line that is not empty."""
    place.require()
    with place.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                row = json.loads(text.decode())
            except UnicodeDecodeError:
                raise DataError(f"{place}, line {number} is not UTF-8 text; save it as UTF-8") from None
            except (ValueError, RecursionError) as error:
                reason = str(error).partition(": line")[0]
                raise DataError(
                    f"{place}, line {number} is no JSON object: {reason[:200]}; every line has to be a whole one"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{place}, line {number} is no JSON object but {type(row).__name__}; expected {{…}}")
            yield number, row, len(line)


def _batches(
    place: Place, types: "dict[str, pa.DataType]", readers: dict[str, Callable[[Any], Any]]
) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    schema = pa.schema(list(types.items()))
    cells: dict[str, list[Any]] = {key: [] for key in types}
    first, size = 1, 0

    def batch(last: int) -> pa.RecordBatch:
        try:
            return pa.record_batch([pa.array(cells[key], types[key]) for key in types], schema=schema)
        except UnicodeEncodeError:
            raise DataError(
                f"{place}, lines {first} to {last}: a text holds half of a surrogate pair, which is no character; "
                "write the file as UTF-8"
            ) from None

    number = 0
    for number, row, num_bytes in _rows(place):
        for key, column in cells.items():
            column.append(readers[key](row.get(key)))
        size += num_bytes
        if size > _BATCH_BYTES:
            yield batch(number)
            cells, first, size = {key: [] for key in types}, number + 1, 0
    yield batch(number)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if value in _EXACT else "long" if value in _INT64 else "huge"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else ""


def _type(kinds: set[str]) -> "pa.DataType":
    import pyarrow as pa

    kinds = kinds - {"null"}
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds and kinds <= {"int", "long"}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {"int", "float"} else pa.string()


def _as_is(value: Any) -> Any:
    return value


def _as_written(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)

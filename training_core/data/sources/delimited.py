"""CSV and TSV files, read as text block by block; what is not delimited text is refused, naming the line."""

import codecs
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training_core.data.sources.protocols import Place, chosen_columns, listed, unreadable
from training_core.data.sources.tables import BatchedTable, staged_table
from training_core.errors import DataError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_BLOCK_BYTES = (4 << 20, 32 << 20, 256 << 20)
"""A row has to fit into a block; the next size is tried when one does not."""


def open_delimited(
    place: Place,
    separator: str,
    staging: Path,
    columns: Sequence[str] | None = None,
    if_there: Sequence[str] = (),
) -> BatchedTable:
    """A csv or tsv file as columns of text; only the empty cell, `nan` and `NaN` are null.

    Raises:
        DataError: it is not there, not UTF-8, not delimited text, or lacks one of `columns` (all by default).
    """
    import pyarrow as pa

    names = delimited_header(place, separator)
    wanted = chosen_columns(place, names, columns, if_there)
    schema = pa.schema([(name, pa.string()) for name in wanted])
    reason = ""
    for block_bytes in _BLOCK_BYTES:
        try:
            return staged_table(str(place), schema, _batches(place, separator, names, wanted, block_bytes), staging)
        except UserError:
            raise
        except (pa.ArrowException, OSError) as error:
            reason = str(error)
            if "straddl" not in reason and "Empty CSV" not in reason:
                raise unreadable(place, "delimited text in UTF-8", error) from None
    if "Empty CSV" in reason:  # column names without a line end
        return staged_table(str(place), schema, [], staging)
    raise DataError(
        f"{place} cannot be read as delimited text: a row is longer than {_BLOCK_BYTES[-1] >> 20} MiB; "
        "the quotes of a cell are never closed, it seems"
    )


def delimited_header(place: Place, separator: str) -> list[str]:
    """The column names of a csv or tsv file.

    Raises:
        DataError: it is not there, not UTF-8, has no first line, or two columns of one name.
    """
    import csv

    place.require()
    try:
        with place.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            names = next(csv.reader(file, delimiter=separator), [])
        "".join(names).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place} is not UTF-8 text in line 1; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise unreadable(place, "delimited text", error) from None
    if not any(name.strip() for name in names):
        raise DataError(f"{place} is empty; expected a first line of column names")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{place} has two columns called {listed(repeated)}; rename one")
    return names


def _batches(
    place: Place, separator: str, names: list[str], wanted: list[str], block_bytes: int
) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa
    from pyarrow import csv

    read = list(dict.fromkeys([*wanted, names[-1]]))  # the last cell tells whether a quote was left open
    with place.path.open("rb") as file:
        reader = csv.open_csv(
            pa.PythonFile(_Checked(file, str(place)), mode="r"),
            read_options=csv.ReadOptions(use_threads=False, block_size=block_bytes),
            parse_options=csv.ParseOptions(
                delimiter=separator,
                newlines_in_values=True,
                ignore_empty_lines=len(names) > 1,  # in a file of one column an empty line is an absent cell
            ),
            convert_options=csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=read,
                null_values=["", "nan", "NaN"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        last = ""
        for batch in reader:
            if batch.num_rows:
                last = batch.column(names[-1])[-1].as_py() or ""
                yield batch.select(wanted)
    if _ends_in_open_quote(place.path, last):
        raise DataError(f"{place} cannot be read as delimited text: the quotes of the last cell are never closed")


def _ends_in_open_quote(path: Path, last_cell: str) -> bool:
    """Whether a file ends inside a quoted cell, whose opening quote has then swallowed all the rows after it."""
    cell = b'"' + last_cell.rstrip("\r\n").replace('"', '""').encode()
    closed = b'"' + last_cell.replace('"', '""').encode() + b'"'
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(cell) - 1000))  # room for line breaks after it
        end = file.read().rstrip(b"\r\n")
    return bool(last_cell) and end.endswith(cell) and not end.endswith(closed)


class _Checked(io.RawIOBase):
    """A file that has to be UTF-8 text without NUL characters all along."""

    def __init__(self, file: io.BufferedReader, name: str) -> None:
        self._file, self._name, self._line = file, name, 1
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        nul = data.find(b"\0")
        if nul >= 0:
            line = self._line + data.count(b"\n", 0, nul)
            raise DataError(f"{self._name} is not text: line {line} holds a NUL character; save it as UTF-8")
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line + data.count(b"\n", 0, error.start)
            raise DataError(f"{self._name} is not UTF-8 text in line {line}; save it as UTF-8") from None
        self._line += data.count(b"\n")
        return data

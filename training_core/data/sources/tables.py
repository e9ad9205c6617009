"""Tables as batches of rows, in memory or staged on disk as memory-mapped Arrow, of which any rows can be taken."""

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.protocols import HELD_BYTES, require_columns
from training_core.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE_BYTES = 16 << 20  # a batch on disk is no larger, so that taking rows of it maps no more at a time


class BatchedTable:
    """Rows in batches.

    Args:
        name: of the table, in messages.
        schema: of all batches.
        lengths: rows of each batch.
        batch: gives the batch of a number.
        release: gives back the memory of batches that were looked into.
    """

    def __init__(
        self,
        name: str,
        schema: "pa.Schema",
        lengths: Sequence[int],
        batch: "Callable[[int], pa.RecordBatch]",
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._schema, self._batch, self._release = name, schema, batch, release
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])
        self.num_rows = int(self._starts[-1])
        self.columns = tuple(schema.names)

    def take(self, columns: Sequence[str], rows: slice | np.ndarray) -> "pa.Table":
        """Some columns of any rows; see `TableSource.take`."""
        import pyarrow as pa

        names = list(columns)
        require_columns(self._name, self.columns, names)
        schema = pa.schema([self._schema.field(name) for name in names])
        self._release()
        if isinstance(rows, slice):
            pieces = list(self._consecutive(names, *rows.indices(self.num_rows)))
            return pa.Table.from_batches(pieces, schema)
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.max() >= self.num_rows or rows.min() < -1):
            raise IndexError(f"{self._name} has {self.num_rows} rows, rows {rows.min()} to {rows.max()} are wanted")
        wanted, places = np.unique(rows[rows >= 0], return_inverse=True)  # each batch is looked into once, in order
        found = pa.Table.from_batches(list(self._sorted(names, wanted)), schema)
        if not (len(wanted) or len(rows)) or (len(wanted) == len(rows) and (rows == wanted).all()):
            return found
        indices, absent = np.zeros(len(rows), np.int64), rows < 0
        indices[~absent] = places
        return found.take(pa.array(indices, mask=absent))

    def _consecutive(self, names: list[str], start: int, stop: int, step: int) -> "Iterable[pa.RecordBatch]":
        if step != 1:
            raise IndexError("only consecutive rows make a slice")
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        while start < stop:
            first_row, end = int(self._starts[first]), int(self._starts[first + 1])
            if end > start:
                yield self._batch(first).select(names).slice(start - first_row, min(stop, end) - start)
                start = end
            first += 1

    def _sorted(self, names: list[str], rows: np.ndarray) -> "Iterable[pa.RecordBatch]":
        import pyarrow as pa

        owners = np.searchsorted(self._starts, rows, "right") - 1
        cuts = np.flatnonzero(np.diff(owners)) + 1
        for piece in np.split(rows, cuts) if len(rows) else []:
            number = int(np.searchsorted(self._starts, piece[0], "right")) - 1
            yield self._batch(number).select(names).take(pa.array(piece - self._starts[number]))
            self._release()


def staged_table(name: str, schema: "pa.Schema", batches: "Iterable[pa.RecordBatch]", staging: Path) -> BatchedTable:
    """A table that arrives in batches: kept in memory while it is small, on disk (in `staging`) when it is not.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    import pyarrow as pa

    kept: list[pa.RecordBatch] = []
    size = 0
    incoming = iter(batches)
    for batch in incoming:
        if batch.num_rows:
            kept.append(batch)
            size += batch.nbytes
        if size > HELD_BYTES:
            return _staged(name, schema, kept, incoming, staging)
    return _held(name, schema, kept)


def _held(name: str, schema: "pa.Schema", batches: "list[pa.RecordBatch]") -> BatchedTable:
    import pyarrow as pa

    if len(batches) > 16 and sum(batch.nbytes for batch in batches) <= HELD_BYTES:  # many small ones are slow to take
        batches = pa.Table.from_batches(batches, schema).combine_chunks().to_batches()
    return BatchedTable(name, schema, [batch.num_rows for batch in batches], batches.__getitem__)


def _staged(
    name: str,
    schema: "pa.Schema",
    first: "list[pa.RecordBatch]",
    rest: "Iterable[pa.RecordBatch]",
    staging: Path,
) -> BatchedTable:
    import pyarrow as pa

    lengths: list[int] = []
    path = staged_path(staging, ".arrow")
    sink, writer = _writing(path, lambda: (out := pa.OSFile(str(path), "wb"), pa.ipc.new_file(out, schema)))
    with sink, writer:

        def write(batch: "pa.RecordBatch") -> None:
            step = max(1, batch.num_rows * _PIECE_BYTES // max(batch.nbytes, 1))
            for start in range(0, batch.num_rows, step):
                piece = batch.slice(start, step)
                _writing(path, lambda piece=piece: writer.write_batch(piece))
                lengths.append(piece.num_rows)

        while first:
            write(first.pop(0))
        for batch in rest:
            write(batch)
        _writing(path, writer.close)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # not pa.memory_map, whose pages cannot be given back
    reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
    return BatchedTable(name, schema, lengths, reader.get_batch, lambda: mapped.madvise(mmap.MADV_DONTNEED))


def staged_path(staging: Path, suffix: str) -> Path:
    """A new file in the staging folder.

    Raises:
        StorageError: the folder cannot be written.
    """

    def make() -> Path:
        staging.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(suffix, dir=staging)
        os.close(handle)
        return Path(path)

    return _writing(staging, make)


def _writing(path: Path, write: Callable[[], Any]) -> Any:
    try:
        return write()
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; is the disk full?") from None

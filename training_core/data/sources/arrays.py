"""Arrays of which any rows can be taken: in memory, or read from a file a run of rows at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from training_core.data.sources.protocols import HELD_BYTES
from training_core.data.sources.tables import staged_path
from training_core.errors import DataError, StorageError

BLOCK_BYTES = 32 << 20
"""No more is read at a time."""


class HeldArray:
    """An array in memory; with `present` bool [N] for rows that may be absent."""

    def __init__(self, values: np.ndarray, present: np.ndarray | None = None) -> None:
        self._values = values.astype(values.dtype.newbyteorder("="), copy=False)
        self.shape, self.dtype, self.present = values.shape, self._values.dtype, present

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any rows; see `ArraySource.take`."""
        if isinstance(rows, slice):
            return self._values[rows].copy()
        rows = _checked(rows, self.shape[0])
        if not self.shape[0]:
            return np.zeros((len(rows), *self.shape[1:]), self.dtype)
        taken = self._values[rows]
        taken[rows < 0] = 0
        return taken


class ReadArray:
    """An array that is read when rows are asked for.

    Args:
        shape: [N, …].
        dtype: of what `read` gives.
        read: rows [start, stop) as a new array, 0 <= start < stop <= N.
        gap: rows this near to each other are read in one go, with those between them (rows of a chunk, say).
        present: which rows are there; all by default.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        read: Callable[[int, int], np.ndarray],
        gap: int = 1,
        present: np.ndarray | None = None,
    ) -> None:
        self.shape, self.dtype, self.present = shape, dtype, present
        self._read, self._gap = read, gap
        self._most_rows = max(gap, rows_per_block(shape, dtype))

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any rows; see `ArraySource.take`."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step != 1:
                raise IndexError("only consecutive rows make a slice")
            return self._read(start, stop) if start < stop else np.zeros((0, *self.shape[1:]), self.dtype)
        rows = _checked(rows, self.shape[0])
        taken = np.zeros((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        order = order[np.searchsorted(rows[order], 0) :]
        wanted = rows[order]
        for first, last in self._runs(wanted):
            start = wanted[first]
            block = self._read(int(start), int(wanted[last - 1]) + 1)
            taken[order[first:last]] = block[wanted[first:last] - start]
        return taken

    def _runs(self, wanted: np.ndarray) -> Iterator[tuple[int, int]]:
        """Stretches of sorted rows that are read in one go, as positions [first, last)."""
        first = 0
        for cut in [*(np.flatnonzero(np.diff(wanted) > self._gap) + 1).tolist(), len(wanted)]:
            while first < cut:
                last = int(np.searchsorted(wanted[first:cut], wanted[first] + self._most_rows)) + first
                yield first, last
                first = last


def rows_per_block(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """How many rows make a block of at most `BLOCK_BYTES`, at least one."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    return max(1, BLOCK_BYTES // max(row_bytes, 1))


def staged_array(
    name: object, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[int, int], np.ndarray], staging: Path
) -> HeldArray | ReadArray:
    """An array that is slow to read at random: read once, kept in memory when small, else on disk in `staging`.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    step = rows_per_block(shape, dtype)
    blocks = (read(start, min(start + step, shape[0])) for start in range(0, shape[0], step))
    if int(np.prod(shape, dtype=np.int64)) * dtype.itemsize <= HELD_BYTES:
        return HeldArray(np.concatenate([np.zeros((0, *shape[1:]), dtype), *blocks]))
    path = staged_path(staging, ".npy")
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for block in blocks:
            try:
                np.ascontiguousarray(block, dtype).tofile(file)
            except OSError as error:
                raise StorageError(f"cannot write {path}: {error}; is the disk full?") from None
    return flat_array(name, path, path.stat().st_size - int(np.prod(shape)) * dtype.itemsize, shape, dtype)


def flat_array(name: object, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> ReadArray:
    """An array that lies row after row in a file from byte `offset` on; read, not mapped, so that memory stays flat."""
    row_items = int(np.prod(shape[1:], dtype=np.int64))
    own = dtype.newbyteorder("=")

    def read(start: int, stop: int) -> np.ndarray:
        count = (stop - start) * row_items
        values = np.fromfile(path, dtype, count, offset=offset + start * row_items * dtype.itemsize)
        if len(values) < count:
            raise DataError(f"{name} ends before its row {stop - 1}; it was shortened while it was read")
        return values.reshape(stop - start, *shape[1:]).astype(own, copy=False)

    return ReadArray(shape, own, read)


def _checked(rows: np.ndarray, num_rows: int) -> np.ndarray:
    rows = np.asarray(rows, np.int64)
    if len(rows) and (rows.max() >= num_rows or rows.min() < -1):
        raise IndexError(f"an array of {num_rows} rows is asked for rows {rows.min()} to {rows.max()}")
    return rows

"""Reading a published part: the columns and rows asked for, never more than a row group or a run of chunks at once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import CHECKSUMS, is_published, missing_files
from training_core.data.storage.parts import array_layout, is_array_name
from training_core.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE_READ = 0.25  # from this fraction of the rows on, reading a run of rows is faster than picking rows
_RUN_BYTES = 256 << 20  # of an array are read at once, at most

RowGroupCache = dict[tuple[str, ...], "tuple[Path, int, pa.Table]"]
"""Per set of columns the row group that was read last: what in-order reading in small pieces needs."""


class Part:
    """A published part.

    Attributes:
        path: its folder.
        digest: of its content.
        num_rows: n.
        columns: per column of the table its type, digest, size and number of nulls.
        arrays: per array its dtype, shape (of a row) and digest.

    Raises:
        StorageError: it is not whole, or is not the part that the manifest lists.
    """

    def __init__(self, path: Path, digest: str, num_rows: int) -> None:
        self.path = path
        self.digest = digest
        self.num_rows = num_rows
        if not is_published(path):
            raise StorageError(f"{path}: file '{CHECKSUMS}' is missing; prepare the dataset again")
        with reading(path):
            if gone := missing_files(path):
                raise StorageError(f"{path}: file '{gone[0]}' is missing; prepare the dataset again")
            described = json.loads((path / "part.json").read_text(encoding="utf-8"))
            if (described["digest"], described["num_rows"]) != (digest, num_rows):
                raise StorageError(f"{path} is not the part that the version lists; prepare the dataset again")
            self._describe(described)

    @classmethod
    def unpublished(cls, path: Path, described: Mapping[str, Any]) -> "Part":
        """A part that was written and is not published yet, by what its `part.json` says."""
        part = cls.__new__(cls)
        part.path, part.digest, part.num_rows = path, described["digest"], described["num_rows"]
        part._describe(described)
        return part

    def _describe(self, described: Mapping[str, Any]) -> None:
        self.columns: dict[str, dict[str, Any]] = dict(described["columns"])
        self.arrays: dict[str, dict[str, Any]] = dict(described["arrays"])
        if odd := [name for name in self.arrays if not is_array_name(name)]:
            raise StorageError(f"{self.path}: '{odd[0]}' cannot name an array; prepare the dataset again")
        self._metadata: Any = None
        self._starts = np.zeros(1, np.int64)

    def types(self) -> "dict[str, pa.DataType]":
        """Arrow type of every column."""
        return {field.name: field.type for field in self._footer().schema.to_arrow_schema()}

    def take(self, names: Sequence[str], rows: np.ndarray | None, cache: RowGroupCache | None = None) -> "pa.Table":
        """Columns `names` at `rows`: positions in the part, strictly increasing; all of them by default.

        Raises:
            StorageError: a column is not there, or the file does not read back.
        """
        import pyarrow as pa

        with reading(self.path):
            self._footer()
            if lacking := [name for name in names if name not in self.columns]:
                raise StorageError(f"{self.path} has no column '{lacking[0]}'; prepare the dataset again")
            bounds = self._starts if rows is None else np.searchsorted(rows, self._starts)
            pieces = []
            for group, (start, stop) in enumerate(pairwise(bounds)):
                if start == stop:
                    continue
                piece = self._row_group(group, names, cache)
                if stop - start < piece.num_rows and rows is not None:
                    piece = piece.take(pa.array(rows[start:stop] - self._starts[group]))
                pieces.append(piece)
            if not pieces:
                return self._footer().schema.to_arrow_schema().empty_table().select(list(names))
            return pa.concat_tables(pieces)

    def row_bytes(self, name: str) -> int:
        """Bytes of one row of an array."""
        stored = self.arrays[name]
        return int(np.dtype(stored["dtype"]).itemsize * np.prod(stored["shape"], dtype=np.int64))

    def array_path(self, name: str) -> Path:
        """Folder of a Zarr array.

        Raises:
            StorageError: there is no such array.
        """
        if name not in self.arrays:
            raise StorageError(f"{self.path} has no array '{name}'; prepare the dataset again")
        return self.path / "arrays.zarr" / name

    def read_array(self, name: str, rows: np.ndarray, out: np.ndarray, at: np.ndarray | slice) -> None:
        """Write rows of an array to `out[at]`, in the dtype of `out`.

        Args:
            name: of the array.
            rows: positions in the part, strictly increasing.
            out: where to.
            at: per row its position in `out`.

        Raises:
            StorageError: the array is not there or does not read back.
        """
        import zarr

        with reading(self.path):
            array: Any = zarr.open_array(self.array_path(name), mode="r")
            stored = np.dtype(array.dtype)
            if array.shape != (self.num_rows, *self.arrays[name]["shape"]):
                raise StorageError(f"{self.path}: array '{name}' has the shape {list(array.shape)}, not the one listed")
            for number in np.unique(rows // (array.shards or array.chunks)[0]):  # Zarr takes one that is gone for zeros
                (self.array_path(name) / "c" / "/".join([str(number), *("0" for _ in array.shape[1:])])).stat()
            shard = array_layout((2**62, *array.shape[1:]), stored)[1]
            run = max(1, _RUN_BYTES // max(1, self.row_bytes(name)))
            run = max(1, run // shard) * shard if run > shard else run
            first = 0
            while first < len(rows):
                base = int(rows[first]) // run * run
                last = int(np.searchsorted(rows, base + run))
                wanted = rows[first:last]
                low, high = int(wanted[0]), int(wanted[-1]) + 1
                place = slice(at.start + first, at.start + last) if isinstance(at, slice) else at[first:last]
                if high - low == len(wanted):
                    out[place] = array[low:high]
                elif len(wanted) >= _WHOLE_READ * (high - low):
                    out[place] = np.asarray(array[low:high])[wanted - low]
                else:
                    out[place] = array.oindex[wanted]
                first = last

    def _footer(self) -> Any:
        """What `table.parquet` says of itself, read once."""
        if self._metadata is None:
            import pyarrow.parquet as pq

            with reading(self.path):
                metadata = pq.read_metadata(self.path / "table.parquet")
                if metadata.num_rows != self.num_rows:
                    raise StorageError(
                        f"{self.path}: table.parquet has {metadata.num_rows} rows, the manifest says {self.num_rows}; "
                        "prepare the dataset again"
                    )
                sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
                self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
            self._metadata = metadata
        return self._metadata

    def _row_group(self, group: int, names: Sequence[str], cache: RowGroupCache | None) -> "pa.Table":
        import pyarrow.parquet as pq

        key = tuple(names)
        if cache is not None and key in cache and cache[key][:2] == (self.path, group):
            return cache[key][2]
        # Opened for each read: threads and forked processes share nothing but the footer.
        with pq.ParquetFile(self.path / "table.parquet", metadata=self._footer()) as file:
            table = file.read_row_group(group, columns=list(names), use_threads=False).select(list(names))
        if cache is not None:
            cache[key] = (self.path, group, table)
        return table


def read_rows(parts: Sequence[Part], name: str, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the rows of an array at positions `rows` (any order, repeats allowed) to `out`, and return it.

    Raises:
        StorageError: the array is not in every part or does not read back.
    """
    distinct, inverse = distinct_rows(rows)
    has_repeats = len(distinct) < len(rows)
    values = np.empty((len(distinct), *out.shape[1:]), out.dtype) if has_repeats else out
    places = None if inverse is None or has_repeats else np.argsort(inverse)
    for part, start, stop, inside in by_part(parts, distinct):
        part.read_array(name, inside, values, slice(start, stop) if places is None else places[start:stop])
    if has_repeats:
        out[:] = values[inverse]
    return out


def by_part(parts: Sequence[Part], rows: np.ndarray) -> Iterator[tuple[Part, int, int, np.ndarray]]:
    """Of increasing positions those in each part: the part, from where to where in `rows`, positions within it."""
    starts = np.cumsum([0, *(part.num_rows for part in parts)])
    for part, base, (start, stop) in zip(parts, starts, pairwise(np.searchsorted(rows, starts)), strict=False):
        if stop > start:
            yield part, int(start), int(stop), rows[start:stop] - base


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Strictly increasing positions, and where each of `rows` is among them; None when that is where it is."""
    if (np.diff(rows) > 0).all():
        return rows, None
    distinct, inverse = np.unique(rows, return_inverse=True)
    return distinct, inverse


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """A file below `place` that does not read back is a StorageError naming it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"{place} does not read back ({reason}); prepare the dataset again") from error

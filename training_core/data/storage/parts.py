"""Parts: consecutive rows on disk, written once as a stream and named by what is in them.

    table.parquet   a row per sample: `__id__`, `__group__`, `__time__`, `__target__.<column>`,
                    `__available__.<modality>` and `<modality>.<column>` of tables and texts
    arrays.zarr/    one Zarr v3 array per image, vector or sequence modality, in its own dtype
    part.json       number of rows, and type, size and digest of every column and array

A part knows nothing of splits, classes or versions. Its digest is a SHA-256 of the logical content: types, shapes and
values, where all NaN are equal, -0 equals 0, and a null, a NaN and an empty text differ. How the rows were cut into
blocks and whether they were compressed makes no difference.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from training_core.artifacts import file_sha256
from training_core.config import canonical_json
from training_core.data.storage.content_digests import ColumnDigest, update_digest
from training_core.errors import DataError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

Compression = Literal["none", "lz4"]
PART_FORMAT = 2
ROW_GROUP_ROWS = 4096
ROW_GROUP_BYTES = 16 << 20
_CHUNK_BYTES = 2 << 20
_CHUNK_ROWS = 1024
_SHARD_CHUNKS = 16
_SHARD_BYTES = 32 << 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER_DIGITS = 24


@dataclass(frozen=True)
class Block:
    """Consecutive samples on their way into a part; n rows, all in the same order."""

    table: "pa.Table"
    """Columns `__id__` (string), `__group__` (string), `__time__` (numbers or timestamps, the zone kept),
    `__target__.<column>` (raw cells: string for classification, else double; null when unknown),
    `__available__.<modality>` (bool) and `<modality>.<column>` of tables and texts: integers, double, bool or string.
    `__group__` and `__time__` may be left out."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[n, …] per array modality, in its own dtype; rows without it are NaN (floats) or 0."""


def part_folder(parent: Path, digest: str) -> Path:
    """Where the part of this digest is.

    Raises:
        StorageError: that is no digest; whoever wrote it may have wanted to lead out of `parent`.
    """
    if not _DIGEST.fullmatch(digest):
        raise StorageError(f"{digest[:100]!r} in a manifest below {parent.parent} is not the digest of a part")
    return parent / digest[:_FOLDER_DIGITS]


def is_array_name(name: str) -> bool:
    """Whether `name` can name an array of a part, and so a folder."""
    return _NAME.fullmatch(name) is not None


def array_layout(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int]:
    """Rows per chunk and rows per shard of an array [N, …].

    A chunk is a power of two rows of at most 2 MB together, at most 1024 and at least 1. A shard is 16 chunks, fewer
    when they would pass 32 MB or hold more rows than there are.
    """
    row_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
    chunk = min(_CHUNK_ROWS, _power_below(_CHUNK_BYTES // row_bytes))
    chunks = min(_SHARD_CHUNKS, _power_below(_SHARD_BYTES // (row_bytes * chunk)))
    if shape[0] < chunk * chunks:
        chunk = min(chunk, 2 * _power_below(shape[0] - 1)) if shape[0] > 1 else 1
        chunks = max(1, -(-shape[0] // chunk))
    return chunk, chunk * chunks


def part_digest(described: Mapping[str, Any]) -> str:
    """SHA-256 of what `part.json` says of the content."""
    content = {
        "num_rows": described["num_rows"],
        "columns": {name: [c["type"], c["digest"]] for name, c in described["columns"].items()},
        "arrays": {name: [a["dtype"], a["shape"], a["digest"]] for name, a in described["arrays"].items()},
    }
    return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()


class PartWriter:
    """Writes a part block by block, holding one shard per array and one row group of the table at most.

    Attributes:
        folder: where the part is being written.
        num_rows: written so far.
        digest: of the content, 64 hexadecimal digits; empty before `finish`.
        described: what `part.json` says; empty before `finish`.
        checksums: SHA-256 of files that are complete, by their path in the folder.
    """

    def __init__(self, folder: Path, compression: Compression = "none") -> None:
        self.folder = folder
        self.num_rows = 0
        self.digest = ""
        self.described: dict[str, Any] = {}
        self.checksums: dict[str, str] = {}
        self._compression: Compression = compression
        self._table: _TableWriter | None = None
        self._arrays: dict[str, _ArrayWriter] = {}
        self._is_failed = False

    def write(self, block: Block) -> None:
        """Append the rows of `block`.

        Raises:
            DataError: its columns or arrays are not those of the blocks before, or their lengths differ.
            StorageError: the disk is full or cannot be written.
        """
        self._check_open()
        num_rows = block.table.num_rows
        for name, values in block.arrays.items():
            if len(values) != num_rows:
                raise DataError(f"array '{name}' of a block has {len(values)} rows, its table {num_rows}")
        self._is_failed = True  # until it is all written
        with _disk_errors():
            if self._table is None:
                self._table = _TableWriter(self.folder / "table.parquet", block.table)
                for name, values in block.arrays.items():
                    self._arrays[name] = _ArrayWriter(self, name, values)
            if block.arrays.keys() != self._arrays.keys():
                raise DataError(f"a block has the arrays {sorted(block.arrays)}, those before {sorted(self._arrays)}")
            self._table.write(block.table)
            for name, values in block.arrays.items():
                self._arrays[name].write(values)
        self.num_rows += num_rows
        self._is_failed = False

    def finish(self) -> None:
        """Write what is still held and `part.json`; a second call does nothing.

        Raises:
            DataError: no block was written.
            StorageError: the disk is full or cannot be written.
        """
        if self.digest:
            return
        self._check_open()
        if self._table is None:
            raise DataError("a part was finished without a block; write one, which may have no rows")
        self._is_failed = True
        with _disk_errors():
            columns = self._table.finish()
            arrays = {name: array.finish() for name, array in self._arrays.items()}
            described = {"num_rows": self.num_rows, "columns": columns, "arrays": arrays}
            digest = part_digest(described)
            self.described = {"format": PART_FORMAT, "digest": digest, **described}
            text = json.dumps(self.described, indent=1, ensure_ascii=False)
            (self.folder / "part.json").write_text(text, encoding="utf-8")
        self._is_failed = False
        self.digest = digest

    def close(self) -> None:
        """Let go of files that are still open."""
        if self._table is not None:
            self._table.close()

    def _check_open(self) -> None:
        if self.digest or self._is_failed:
            raise DataError(f"the part {self.folder.name} is {'finished' if self.digest else 'broken'} already")


class _TableWriter:
    """Writes `table.parquet`, a row group at a time."""

    def __init__(self, path: Path, first: "pa.Table") -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if len(set(first.column_names)) < len(first.column_names):
            raise DataError(f"two columns of a block have the same name: {', '.join(sorted(first.column_names))}")
        self._schema = pa.schema([(column.name, _stored_type(column.name, column.type)) for column in first.schema])
        texts: Any = [column.name for column in self._schema if pa.types.is_string(column.type)]
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", use_dictionary=texts, write_statistics=False
        )
        self._columns = {column.name: ColumnDigest(column.type) for column in self._schema}
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0

    def write(self, table: "pa.Table") -> None:
        import pyarrow as pa

        if set(table.column_names) != set(self._schema.names):
            odd = sorted(set(table.column_names) ^ set(self._schema.names))
            raise DataError(f"a block has other columns than those before: {', '.join(odd)}")
        try:
            table = table.select(self._schema.names).cast(self._schema)
        except pa.ArrowException as error:
            raise DataError(f"a block's columns have other types than before: {' '.join(str(error).split())}") from None
        row_bytes = max(1, table.nbytes // max(1, table.num_rows))
        start = 0
        while start < table.num_rows:
            room = min(ROW_GROUP_ROWS - self._held_rows, (ROW_GROUP_BYTES - self._held_bytes) // row_bytes)
            piece = table.slice(start, max(room, 1))
            start += piece.num_rows
            self._held_rows += piece.num_rows
            self._held_bytes += row_bytes * piece.num_rows
            self._held.append(piece)
            if self._held_rows >= ROW_GROUP_ROWS or self._held_bytes + row_bytes > ROW_GROUP_BYTES:
                self._flush()
        if self._held and self._held[-1].num_rows < table.num_rows:  # not to keep all of a large block for its rest
            rest = self._held[-1]
            self._held[-1] = rest.take(pa.array(np.arange(rest.num_rows)))

    def finish(self) -> dict[str, Any]:
        if self._held:
            self._flush()
        self._writer.close()
        return {name: column.described() for name, column in self._columns.items()}

    def close(self) -> None:
        with suppress(Exception):  # after a failed write it fails once more; the first error counts
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._held).combine_chunks()
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        for name, column in self._columns.items():
            for chunk in table[name].chunks:
                column.update(chunk)
        self._writer.write_table(table, row_group_size=table.num_rows)


class _ArrayWriter:
    """Writes one array, each of its shards once and whole."""

    def __init__(self, part: PartWriter, name: str, first: np.ndarray) -> None:
        if not is_array_name(name):
            raise DataError(f"'{name}' cannot name an array; use up to 50 letters, digits, '_' and '-'")
        if first.dtype.kind not in "fiub":
            raise DataError(f"array '{name}' holds {first.dtype}; only numbers can be stored")
        if first.ndim < 2:
            raise DataError(f"array '{name}' has the shape {list(first.shape)}; expected [rows, …]")
        self._part, self._name = part, name
        self._dtype = first.dtype.newbyteorder("=")
        self._shape = first.shape[1:]
        self._shard_rows = array_layout((2**62, *self._shape), self._dtype)[1]
        self._buffer: np.ndarray | None = None
        self._held = self._written = 0
        self._digest = hashlib.sha256()
        self._array: Any = None

    def write(self, values: np.ndarray) -> None:
        if values.shape[1:] != self._shape or values.dtype.newbyteorder("=") != self._dtype:
            raise DataError(
                f"array '{self._name}': a block holds {values.dtype} {list(values.shape[1:])}, those before "
                f"{self._dtype} {list(self._shape)}"
            )
        while len(values):
            if not self._held and len(values) >= self._shard_rows:  # a whole shard needs no copy
                taken = self._shard_rows
                self._flush(values[:taken])
            else:
                if self._buffer is None:
                    self._buffer = np.empty((self._shard_rows, *self._shape), self._dtype)
                taken = min(len(values), self._shard_rows - self._held)
                self._buffer[self._held : self._held + taken] = values[:taken]
                self._held += taken
                if self._held == self._shard_rows:
                    self._flush(self._buffer)
                    self._held = 0
            values = values[taken:]

    def finish(self) -> dict[str, Any]:
        if self._held or self._array is None:
            self._flush(
                np.empty((0, *self._shape), self._dtype) if self._buffer is None else self._buffer[: self._held]
            )
        self._buffer = None
        return {"dtype": self._dtype.str.lstrip("<=|>"), "shape": list(self._shape), "digest": self._digest.hexdigest()}

    def _flush(self, values: np.ndarray) -> None:
        update_digest(self._digest, values)
        if self._array is None:
            whole = len(values) if len(values) < self._shard_rows else 2**62
            self._array = self._create((whole, *self._shape))
        if not len(values):
            return
        shard = self._written // self._shard_rows
        stop = self._written + len(values)
        self._array.resize((stop, *self._shape))
        # One shard, one file: after a failure no other thread is left writing into a folder that is being removed.
        self._array[self._written : stop] = values
        self._written = stop
        inside = "/".join(["arrays.zarr", self._name, "c", str(shard), *("0" for _ in self._shape)])
        self._part.checksums[inside] = file_sha256(self._part.folder / inside)

    def _create(self, shape: tuple[int, ...]) -> Any:
        import zarr
        from zarr.codecs import BloscCodec

        chunk, shard = array_layout(shape, self._dtype)
        codec = BloscCodec(cname="lz4", clevel=3, shuffle="bitshuffle", typesize=self._dtype.itemsize)
        return zarr.open_group(self._part.folder / "arrays.zarr", mode="a").create_array(
            self._name,
            shape=(0, *shape[1:]),
            dtype=self._dtype,
            chunks=(chunk, *shape[1:]),
            shards=(shard, *shape[1:]),
            compressors=None if self._part._compression == "none" else [codec],
            config={"write_empty_chunks": True},  # every shard has all its chunks, each in its place
        )


def _stored_type(name: str, type_: "pa.DataType") -> "pa.DataType":
    """The type a column is stored as: texts are all `string`.

    Raises:
        DataError: a column of that type cannot be stored.
    """
    import pyarrow.types as types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_large_string(type_) or types.is_string(type_) or types.is_string_view(type_):
        import pyarrow as pa

        return pa.string()
    if types.is_boolean(type_) or types.is_integer(type_) or types.is_floating(type_) or types.is_timestamp(type_):
        return type_
    raise DataError(f"column '{name}' is of type {type_}; numbers, texts, true/false and times can be stored")


def _power_below(number: int) -> int:
    """The largest power of two up to `number`, at least 1."""
    return 1 << max(0, int(number).bit_length() - 1)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Arrow and Zarr errors that stand for a failed write become the plain OSError beneath them, or StorageError."""
    import pyarrow as pa

    try:
        yield
    except OSError:
        raise
    except (pa.ArrowException, RuntimeError) as error:
        raise StorageError(f"the dataset could not be written: {' '.join(str(error).split())}") from error

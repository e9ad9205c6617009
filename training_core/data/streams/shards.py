"""Reads rows of a sharded Zarr array straight into memory the caller already has.

The Zarr library makes new arrays for every chunk it reads; for chunks of a megabyte or two that costs several times the
reading itself. Sharded arrays whose chunks hold whole rows, plain or in Blosc, are therefore read here: the
shard's index says where a chunk lies, and the kernel (or Blosc) puts it where it belongs. Every other layout is left to
the library.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training_core.data.streams.memory import Scratch
from training_core.errors import StorageError

_EMPTY = 2**64 - 1  # offset and size of a chunk that was never written: it holds the fill value
_SEPARATE_BYTES = 64 << 10  # a read of its own costs about as much as this many more bytes in another
_CRC_BYTES = 4


@dataclass(frozen=True)
class _Layout:
    """Where the rows of a sharded array lie."""

    chunk_rows: int
    shard_rows: int
    blosc: bool
    crc: bool
    fill: Any

    @property
    def chunks(self) -> int:
        """Chunks in a shard."""
        return self.shard_rows // self.chunk_rows


class RowReader:
    """One array of samples [row, …] in a Zarr store; reading is safe in several threads at once.

    Attributes:
        shape: of the array, rows first.
        dtype: of its numbers.
        chunk_rows: rows that are read together at no extra cost.
    """

    def __init__(self, path: Path, scratch: Scratch | None = None, *, whole: bool = False) -> None:
        """Look at the array in folder `path`.

        Args:
            path: of the array.
            scratch: memory to decode in, that others may use too.
            whole: every shard was written, as those of parts are: one that is not there is an error, not fill values.

        Raises:
            StorageError: there is no Zarr array.
        """
        self._path = path
        self._whole = whole
        self._scratch = Scratch() if scratch is None else scratch
        self._indices: dict[int, list[list[int]] | None] = {}
        self._array: Any = None
        with self._reading():
            meta = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            self.shape: tuple[int, ...] = tuple(meta["shape"])
            layout = _layout(meta)
            if layout is None:
                import zarr

                self._array = zarr.open_array(path, mode="r")
                self.dtype = np.dtype(self._array.dtype)
                self.chunk_rows: int = self._array.chunks[0]
            else:
                self.dtype = np.dtype(meta["data_type"])
                self.chunk_rows = layout.chunk_rows
                self._layout = layout
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._chunk_bytes = self.chunk_rows * self._row_bytes

    @property
    def direct(self) -> bool:
        """Whether it is read here, and not by the Zarr library."""
        return self._array is None

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the rows at positions `rows`, ascending and distinct, into `out` [rows, …]: C-contiguous, same dtype.

        Raises:
            StorageError: a file is missing, cut off or does not decode.
        """
        if not len(rows):
            return
        with self._reading():
            if self._array is not None:
                adjacent = rows[-1] - rows[0] + 1 == len(rows)
                out[:] = self._array[rows[0] : rows[-1] + 1] if adjacent else self._array.oindex[rows]
                return
            for shard, start, stop in _pieces(rows, self._layout.shard_rows):
                self._read_shard(shard, rows[start:stop], out[start:stop])

    def _read_shard(self, shard: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows of one shard."""
        layout = self._layout
        index = self._index(shard)
        if index is None:
            out[...] = layout.fill
            return
        file = os.open(self._file(shard), os.O_RDONLY)
        try:
            for chunk, start, stop in _pieces(rows, layout.chunk_rows):
                offset, size = index[chunk - shard * layout.chunks]
                wanted = rows[start:stop] - chunk * layout.chunk_rows
                if offset == _EMPTY:
                    out[start:stop] = layout.fill
                elif layout.blosc:
                    self._read_packed(file, offset, size, wanted, out[start:stop])
                else:
                    self._read_plain(file, offset, wanted, out[start:stop])
        finally:
            os.close(file)

    def _read_plain(self, file: int, offset: int, wanted: np.ndarray, out: np.ndarray) -> None:
        """Rows `wanted` of an uncompressed chunk at `offset`."""
        first, span, count = int(wanted[0]), int(wanted[-1] - wanted[0]) + 1, len(wanted)
        if span == count:
            _read_exactly(file, _bytes(out), offset + first * self._row_bytes)
            return
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
        if len(starts) * _SEPARATE_BYTES > span * self._row_bytes:
            with self._scratch.borrow(span * self._row_bytes) as scratch:
                _read_exactly(file, scratch.data, offset + first * self._row_bytes)
                np.take(self._as_rows(scratch), wanted - first, axis=0, out=out, mode="clip")
            return
        target = _bytes(out)
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), count], strict=True):
            piece = target[start * self._row_bytes : stop * self._row_bytes]
            _read_exactly(file, piece, offset + int(wanted[start]) * self._row_bytes)

    def _read_packed(self, file: int, offset: int, size: int, wanted: np.ndarray, out: np.ndarray) -> None:
        """Rows `wanted` of a Blosc chunk of `size` bytes at `offset`."""
        from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]

        with self._scratch.borrow(size) as packed:
            _read_exactly(file, packed.data, offset)
            if len(wanted) == self.chunk_rows:
                blosc.decompress(packed, _bytes(out))
                return
            with self._scratch.borrow(self._chunk_bytes) as scratch:
                blosc.decompress(packed, scratch)
                np.take(self._as_rows(scratch), wanted, axis=0, out=out, mode="clip")

    def _index(self, shard: int) -> list[list[int]] | None:
        """Offset and size of every chunk of a shard; None when nothing of it was written."""
        if shard in self._indices:
            return self._indices[shard]
        found = None
        if self._whole or os.path.exists(self._file(shard)):  # noqa: PTH110
            index = np.empty((self._layout.chunks, 2), "<u8")
            file = os.open(self._file(shard), os.O_RDONLY)
            try:
                length = os.fstat(file).st_size
                _read_exactly(file, _bytes(index), length - index.nbytes - _CRC_BYTES * self._layout.crc)
            finally:
                os.close(file)
            written = index[index[:, 0] != _EMPTY]
            if (written.sum(axis=1) > length).any():
                raise ValueError(f"the index of shard {shard} points beyond its end")
            if not self._layout.blosc and (written[:, 1] != self._chunk_bytes).any():
                raise ValueError(f"a chunk of shard {shard} has not {self._chunk_bytes} bytes")
            found = index.tolist()
        self._indices[shard] = found
        return found

    def _file(self, shard: int) -> str:
        return f"{self._path}/c/{shard}{'/0' * (len(self.shape) - 1)}"

    def _as_rows(self, scratch: np.ndarray) -> np.ndarray:
        return scratch.view(self.dtype).reshape(-1, *self.shape[1:])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever does not read back is a StorageError that names the array."""
        try:
            yield
        except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise StorageError(f"{self._path} does not read back ({reason}); prepare the dataset again") from error


def _layout(meta: Mapping[str, Any]) -> _Layout | None:
    """The layout an array's `zarr.json` describes; None when it is not one that is read here."""
    shape = meta["shape"]
    grid, keys, codecs = meta["chunk_grid"], meta["chunk_key_encoding"], meta["codecs"]
    plain_keys = keys["name"] == "default" and keys.get("configuration", {}).get("separator", "/") == "/"
    sharded = len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed" and grid["name"] == "regular"
    if not (plain_keys and sharded and isinstance(meta["data_type"], str)) or meta.get("storage_transformers"):
        return None
    inner = codecs[0]["configuration"]
    chunk, shard = inner["chunk_shape"], grid["configuration"]["chunk_shape"]
    names = [codec["name"] for codec in inner["codecs"]]
    index_names = [codec["name"] for codec in inner["index_codecs"]]
    ends = [
        codec.get("configuration", {}).get("endian", "little")
        for codec in (inner["codecs"][0], inner["index_codecs"][0])
    ]
    if (
        chunk[1:] != shape[1:]
        or shard[1:] != shape[1:]
        or names not in (["bytes"], ["bytes", "blosc"])
        or index_names not in (["bytes"], ["bytes", "crc32c"])
        or ends != ["little", "little"]
        or inner.get("index_location", "end") != "end"
    ):
        return None
    try:
        fill = np.array(meta["fill_value"], np.dtype(meta["data_type"]))
    except (TypeError, ValueError):
        return None
    return _Layout(chunk[0], shard[0], names[-1] == "blosc", index_names[-1] == "crc32c", fill)


def _pieces(rows: np.ndarray, size: int) -> list[tuple[int, int, int]]:
    """Ascending `rows` by the piece of `size` rows they are in: its number, and where its rows begin and end."""
    if rows[0] // size == rows[-1] // size:
        return [(int(rows[0]) // size, 0, len(rows))]
    piece = rows // size
    starts = np.flatnonzero(np.diff(piece, prepend=-1))
    return list(zip(piece[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True))


def _bytes(values: np.ndarray) -> memoryview:
    """The memory of a C-contiguous array."""
    return values.reshape(-1).view(np.uint8).data


def _read_exactly(file: int, out: memoryview, offset: int) -> None:
    """Fill `out` from `offset` on."""
    done = 0
    while done < len(out):
        read = os.preadv(file, [out[done:]], offset + done) if offset >= 0 else 0
        if not read:
            raise ValueError("a shard is cut off")
        done += read

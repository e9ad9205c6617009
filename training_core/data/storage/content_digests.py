"""Digests of values as they stream by, which depend on nothing but the values."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_DIGEST_BYTES = 4 << 20  # numbers are made canonical this many bytes at a time


class ColumnDigest:
    """The digest of a column as it streams by: of what is null, of the values, and of the lengths of texts."""

    def __init__(self, type_: "pa.DataType") -> None:
        self._type = type_
        self._present, self._values, self._lengths = (hashlib.sha256() for _ in range(3))
        self._num_bytes = self._num_null = 0

    def update(self, column: "pa.Array") -> None:
        """Take the next cells of the column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self._present.update(column.is_valid().cast(pa.uint8()).to_numpy(zero_copy_only=False))
        self._num_null += column.null_count
        if pa.types.is_string(self._type):
            if column.null_count:
                column = pc.fill_null(column, "")
            self._lengths.update(
                pc.call_function("binary_length", [column]).to_numpy(zero_copy_only=False).astype("<u4")
            )
            self._num_bytes += 4 * len(column)
            _, offsets, data = column.buffers()
            if len(column) and offsets is not None and data is not None:
                ends = np.frombuffer(offsets, np.int32)
                start, stop = int(ends[column.offset]), int(ends[column.offset + len(column)])
                self._values.update(memoryview(data)[start:stop])
                self._num_bytes += stop - start
            return
        numbers = as_plain_numbers(column)
        update_digest(self._values, numbers)
        self._num_bytes += numbers.nbytes

    def described(self) -> dict[str, Any]:
        """Type, digest, bytes and number of nulls of what went by."""
        digests = [self._present.hexdigest(), self._values.hexdigest(), self._lengths.hexdigest()]
        return {
            "type": str(self._type),
            "digest": hashlib.sha256("".join(digests).encode()).hexdigest(),
            "num_bytes": self._num_bytes,
            "num_null": self._num_null,
        }


def as_plain_numbers(column: "pa.Array | pa.ChunkedArray") -> np.ndarray:
    """Numbers, bools (as uint8) or timestamps (as int64 since 1970, UTC) in NumPy; what is null is 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if column.null_count:
        column = pc.fill_null(column, 0)
    return column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)


def update_digest(digest: "hashlib._Hash", values: np.ndarray) -> None:
    """Feed numbers to `digest`, little-endian, with one bit pattern for NaN and one for zero."""
    if not values.size:
        return
    rows = max(1, _DIGEST_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), rows):
        piece = values[start : start + rows]
        if piece.dtype.kind == "f":
            piece = piece + piece.dtype.type(0)
            if (absent := np.isnan(piece)).any():
                piece[absent] = np.nan
        piece = np.ascontiguousarray(piece, piece.dtype.newbyteorder("<"))
        digest.update(piece.reshape(-1).view(np.uint8).data)

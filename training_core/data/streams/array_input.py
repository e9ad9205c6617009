"""One image, vector or sequence modality of a chunk-shuffled stream: from chunks on disk to a learner's input.

The threads that read also encode, so that whoever trains only gathers rows. Numbers of one or two bytes, such as the
pixels of photographs, stay as they are until they are gathered: a ring holds two to four times as many of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training_core.data.preprocessing import MAX_STANDARDISED, ModalityState
from training_core.data.streams.memory import Scratch, reserve
from training_core.data.streams.shards import RowReader
from training_core.errors import StorageError
from training_core.schema import ModalitySpec

_KEPT_RAW = {
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.float16): torch.float16,
}
_PIECE_BYTES = 1 << 20  # read, then encoded while it is still in the processor's cache
_ONE_STEP = 8.0
"""x · scale - mean · scale loses what x and the mean have in common. Up to a mean of 8 standard deviations that is less
than 1e-6 of a deviation in float32; beyond, the mean is taken off first."""


class ArrayInput:
    """Where the rows of one modality are, and how a row becomes a learner's input.

    Attributes:
        name: of the modality.
        chunk_rows: rows that are best read together; the most of all parts.
        row_bytes: bytes of a row in the ring.
    """

    def __init__(
        self,
        stores: Sequence[tuple[Path, int]],
        modality: ModalitySpec,
        columns: tuple[int, ...] | None,
        state: ModalityState,
        rows: np.ndarray,
        absent: np.ndarray,
        scratch: Scratch,
    ) -> None:
        """Open the arrays.

        Args:
            stores: folder of the Zarr array and number of rows of every part of the data set, in order.
            modality: what one raw sample looks like, `columns` already chosen.
            columns: of a vector of which only some columns are used, those columns.
            state: its fitted encoding.
            rows: the stream's rows in the data set, int64 [N].
            absent: which of them lack the modality, bool [N].
            scratch: memory for rows on their way.

        Raises:
            StorageError: an array cannot be read or is not what the data set says.
        """
        self.name = modality.name
        self._columns = None if columns is None else np.asarray(columns)
        self._readers = [RowReader(path, scratch, whole=True) for path, _ in stores]
        self._starts = np.cumsum([0, *(num_rows for _, num_rows in stores)])
        for reader, (path, num_rows) in zip(self._readers, stores, strict=True):
            fits = columns is not None or reader.shape[1:] == modality.shape
            if reader.shape[0] != num_rows or not fits:
                raise StorageError(
                    f"{path} has shape {reader.shape}, its dataset says {num_rows} rows of {modality.shape}; "
                    "prepare the dataset again"
                )
        filled = [reader for reader in self._readers if reader.shape[0]] or self._readers
        self.chunk_rows = max(reader.chunk_rows for reader in filled)
        types = {reader.dtype for reader in filled}
        self._type = _KEPT_RAW.get(types.pop(), torch.float32) if len(types) == 1 else torch.float32
        self._shape = modality.shape
        self.row_bytes = self._type.itemsize * modality.num_features
        self._encoding = _Standardise(state, modality)
        self._absent: Tensor | None = None
        self._absent_rows: np.ndarray | None = None
        if absent.any():
            self._absent = torch.from_numpy(absent)
            self._absent_rows = np.zeros(int(self._starts[-1]), bool)
            self._absent_rows[rows] = absent
        self._scratch = scratch
        self._raw, self._mask = torch.empty(0), torch.empty(0)

    def room(self, num_rows: int, pinned: bool) -> Tensor:
        """Memory for so many rows."""
        return reserve((num_rows, *self._shape), self._type, pinned)

    def tasks(self, rows: np.ndarray, ring: Tensor, num_tasks: int) -> list[Callable[[], None]]:
        """What reads `rows` of the data set, ascending and distinct, into the first rows of `ring`, in pieces."""
        found: list[Callable[[], None]] = []
        cuts = np.searchsorted(rows, self._starts)
        for part, (start, stop) in enumerate(pairwise(cuts)):
            if start == stop:
                continue
            reader, own = self._readers[part], rows[start:stop] - self._starts[part]
            # A piece begins where a chunk does, so that none is decoded twice, and has several when they are small.
            edges = np.flatnonzero(np.diff(own // reader.chunk_rows, prepend=-1))
            edges = edges[np.diff(edges * self.row_bytes // _PIECE_BYTES, prepend=-1) > 0]
            pieces = [*(edges + start).tolist(), int(stop)]
            per_task = -(-len(edges) // num_tasks)
            for first in range(0, len(edges), per_task):
                task = partial(self._read, reader, int(self._starts[part]), rows, ring, pieces[first:][: per_task + 1])
                found.append(task)
        return found

    def write(self, ring: Tensor, slots: Tensor, positions: Tensor, out: Tensor) -> None:
        """Put the rows at `slots` of `ring`, the stream's `positions`, encoded into `out`, float32 [B, …]."""
        if self._type == torch.float32:
            torch.index_select(ring, 0, slots, out=out)
            return
        if len(self._raw) < len(slots):
            self._raw = reserve((len(slots), *self._shape), self._type)
        out.copy_(torch.index_select(ring, 0, slots, out=self._raw[: len(slots)]))
        self._encoding.apply(out)
        if self._absent is not None:
            if len(self._mask) < len(slots):
                self._mask = torch.empty(len(slots), dtype=torch.bool)
            absent = torch.index_select(self._absent, 0, positions, out=self._mask[: len(slots)])
            out.masked_fill_(absent.view(-1, *(1,) * (out.ndim - 1)), 0.0)

    def _read(self, reader: RowReader, first: int, rows: np.ndarray, ring: Tensor, edges: list[int]) -> None:
        """Read and encode the rows between each of `edges` and the next; `first` is the first row of their part."""
        for start, stop in pairwise(edges):
            own, out = rows[start:stop] - first, ring[start:stop]
            if self._columns is None and torch.from_numpy(np.empty(0, reader.dtype)).dtype == out.dtype:
                reader.read(own, out.numpy())
            else:
                shape = (len(own), *reader.shape[1:])
                with self._scratch.borrow(int(np.prod(shape)) * reader.dtype.itemsize) as scratch:
                    raw = scratch.view(reader.dtype).reshape(shape)
                    reader.read(own, raw)
                    chosen = raw if self._columns is None else raw[:, self._columns]
                    np.copyto(out.numpy(), chosen, casting="unsafe")
            if self._type != torch.float32:
                continue
            self._encoding.apply(out)
            if self._absent_rows is not None:
                absent = np.flatnonzero(self._absent_rows[rows[start:stop]])
                out.numpy()[absent] = 0.0


class _Standardise:
    """The encoding of an array, in place and in float32; within 1e-6 of `Preprocessor.encode`."""

    def __init__(self, state: ModalityState, modality: ModalitySpec) -> None:
        mean, scale = np.asarray(state.mean), np.asarray(state.scale)
        self._one_step = bool((np.abs(mean * scale) <= _ONE_STEP).all())
        along = (-1,) + (1,) * (len(modality.shape) - 1) if modality.kind == "image" else (-1,)
        rounded = mean.astype(np.float32)
        shift = -mean * scale if self._one_step else -(mean - rounded) * scale
        self._mean, self._scale, self._shift = (
            torch.from_numpy(values.astype(np.float32)).view(along) for values in (rounded, scale, shift)
        )

    def apply(self, values: Tensor) -> None:
        """(x - mean) · scale, held within the bounds of the encoding; NaN stays NaN."""
        if not self._one_step:
            # The mean as the sum of two floats: what the first leaves over is no more than a rounding error of it.
            values.sub_(self._mean)
        torch.addcmul(self._shift, values, self._scale, out=values)
        values.clamp_(-MAX_STANDARDISED, MAX_STANDARDISED)

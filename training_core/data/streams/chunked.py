"""The stream for data larger than memory: chunks read ahead from disk in random order, shuffled within a window.

Memory is a ring of three windows of raw rows, filled by threads, and one batch; it does not grow with the data.
"""

import tempfile
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training_core.artifacts import unfinished_directory
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.array_input import ArrayInput
from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.encoded import encode_to_disk, encode_to_memory, encoded_bytes, part_of
from training_core.data.streams.memory import BatchBuffers, Scratch
from training_core.data.streams.plan import ShufflePlan, ShuffleQuality, Window
from training_core.data.streams.ring import filled_ahead
from training_core.data.views import RowSource, View
from training_core.quantities import format_bytes
from training_core.schema import Batch

RING_BYTES = 256_000_000
_WINDOWS = 3  # one in use, two being filled: with two, reading would wait for the last batch of a window
_THREADS = 2  # enough to read while others decode; more only take the cores of whoever trains
_PIECES = 4  # reading tasks per window and thread
_SIDE_BYTES = 64 << 20  # tables and texts that take more are put into files
_MIN_BLOCKS = 16  # blocks in a window, at least, before blocks are made smaller than chunks

Ring = dict[str, Tensor]


class ChunkStream(EpochStream):
    """Batches of rows read from the chunks of a data set; each iteration is one epoch.

    Shuffling: blocks of neighbouring rows are put in a random order, as many as a window holds are read, and the
    window's rows are handed out in random order. Every row comes once per epoch. `quality` and `describe` say how far
    that is from an exact shuffle. Without shuffling the order is exactly that of the rows.

    With several ranks a shuffled epoch gives each rank its own blocks, so that no chunk is read by two of them; shares
    are as equal, and padded or cut, as `Batching` says. In order, ranks take turns row by row.

    Images, vectors and sequences stay on disk. Tables, texts and targets are encoded once: in memory, or from 64 MB on
    in memory-mapped temporary files that are gone when the stream is.
    """

    def __init__(
        self,
        source: RowSource,
        preprocessor: Preprocessor,
        batching: Batching,
        device: str | torch.device = "cpu",
        *,
        weight: np.ndarray | None = None,
        ring_bytes: int = RING_BYTES,
        block_rows: int | None = None,
        num_threads: int = _THREADS,
        place: str = "",
    ) -> None:
        """Open the arrays and encode what does not lie in arrays.

        Args:
            source: raw rows; a `View` of a data set, else all modalities are encoded up front.
            preprocessor: fitted; its modalities are those of the batches.
            batching: how rows are cut into batches.
            device: where batches are handed out.
            weight: weight of each row, float [N].
            ring_bytes: memory for raw rows read ahead; the window is a third of it.
            block_rows: rows that stay together until they are in a window. By default as many as the largest chunk
                has; fewer where a window would hold less than 16 blocks.
            num_threads: threads that read.
            place: where the rows are and why, in words, for `describe`.

        Raises:
            DataError: there would be no batch.
            StorageError: an array or a table cannot be read, or a temporary file not be written.
        """
        super().__init__(len(source), batching)
        self._place = place or "read from disk in chunks"
        self._num_threads = num_threads
        self._source = source  # as long as somebody has the data set, nobody removes its files
        view = source if isinstance(source, View) else None
        array_kinds = {"image", "vector", "sequence"}
        names = [m.name for m in preprocessor.spec.modalities if view is not None and m.kind in array_kinds]
        side = [name for name in preprocessor.spec.names if name not in names]
        self._side = _encode_side(source, part_of(preprocessor, side), weight)
        available = source.available()
        masks = np.stack([available[name] for name in preprocessor.spec.names], axis=1)
        self._available = torch.from_numpy(masks)
        scratch = Scratch()
        self._arrays = [
            ArrayInput(
                view.dataset.array_stores(name),
                preprocessor.input_spec[name],
                view.features.get(name),
                preprocessor.states[name],
                view.rows,
                ~available[name],
                scratch,
            )
            for name in names
            if view is not None
        ]
        row_bytes = max(1, sum(array.row_bytes for array in self._arrays))
        window_rows = min(self.num_rows, max(1, ring_bytes // (_WINDOWS * row_bytes)))
        self.block_rows = block_rows or _block_rows(self._arrays, window_rows)
        rows = np.arange(self.num_rows) if view is None else view.rows
        parts = [self.num_rows] if view is None or not names else [n for _, n in view.dataset.array_stores(names[0])]
        self._plan = ShufflePlan(rows, parts if names else [int(rows.max()) + 1], self.block_rows, window_rows)
        self._ring_bytes = _WINDOWS * window_rows * row_bytes
        self._ring: list[Ring] = []
        like = Batch(
            inputs={
                m.name: self._side.inputs[m.name] if m.name in self._side.inputs else torch.empty((0, *m.shape))
                for m in preprocessor.spec.modalities
            },
            available=self._available,
            target=self._side.target,
            weight=self._side.weight,
            present=self._available if batching.reads_presence else None,
        )
        self._pinned = torch.device(device).type == "cuda"
        self._buffers = BatchBuffers(like, min(batching.batch_size, self.num_rows), torch.device(device))
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None

    @property
    def quality(self) -> ShuffleQuality:
        """How good the shuffle of an epoch is."""
        return self._plan.quality(self.batching)

    def describe(self) -> str:
        """Where the rows come from, in what memory, and how well they are shuffled, as a sentence."""
        order = "in order"
        if self.batching.shuffle:
            order = f"shuffled in blocks of {self.block_rows:,} rows: {self.quality}"
        return f"{self.num_rows:,} rows {self._place}, {format_bytes(self._ring_bytes)} read ahead, {order}"

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        running = self._running() if self._running is not None else None
        if running is not None:
            running.close()  # an iteration that somebody left halfway still has threads that write into the ring
        if not self._ring:
            self._ring = [
                {array.name: array.room(self._plan.window_rows, self._pinned) for array in self._arrays}
                for _ in range(_WINDOWS)
            ]
        started = self._epoch_batches(epoch, first)
        self._running = weakref.ref(started)
        return started

    def _epoch_batches(self, epoch: int, first: int) -> Generator[Batch, None, None]:
        batching = self.batching
        share = batching.share(self.num_rows)
        shown = batching.shown(self._available, epoch)
        windows = self._plan.windows(batching, epoch, first * batching.batch_size)
        filled = filled_ahead(windows, self._ring, self._tasks, self._num_threads)
        try:
            present = self._available if batching.reads_presence else None
            small = [shown, self._side.target, self._side.weight, present]
            reading = _WindowRows(filled, [values.numpy() for values in small if values is not None])
            for number in range(first, len(self)):
                start = number * batching.batch_size
                stop = min(start + batching.batch_size, share)
                yield self._buffers.fill(stop - start, lambda out: self._write(out, start, reading))  # noqa: B023
        finally:
            filled.close()

    def _tasks(self, window: Window, ring: Ring) -> list[Callable[[], None]]:
        pieces = _PIECES * self._num_threads
        return [task for array in self._arrays for task in array.tasks(window.rows, ring[array.name], pieces)]

    def _write(self, out: Batch, start: int, reading: "_WindowRows") -> None:
        """Overwrite `out` with the rows from number `start` of the epoch on; they may lie in several windows."""
        done = 0
        places = (out.rows, out.available, out.target, out.weight, out.present)
        small = [tensor.numpy() for tensor in places if tensor is not None]
        while done < len(out):
            ring, slots, positions, values_of_rows = reading.take(start + done, len(out) - done)
            piece = slice(done, done + len(slots))
            for array in self._arrays:
                array.write(ring[array.name], slots, positions, out.inputs[array.name][piece])
            for name, values in self._side.inputs.items():
                torch.index_select(values, 0, positions, out=out.inputs[name][piece])
            for place, values in zip(small, values_of_rows, strict=True):
                place[piece] = values
            done += len(slots)


class _WindowRows:
    """The rows of one window after the other, by their number in the epoch.

    What is small is put in order once per window, in NumPy: a tensor operation per batch would let go of Python's lock
    and wait for the threads that read.
    """

    def __init__(self, filled: Iterator[tuple[Window, Ring]], values_of_rows: Sequence[np.ndarray]) -> None:
        self._filled = filled
        self._values = values_of_rows
        self._ring: Ring = {}
        self._start = self._stop = -1
        self._slots = self._positions = torch.empty(0, dtype=torch.int64)
        self._ordered: list[np.ndarray] = []

    def take(self, start: int, num_rows: int) -> tuple[Ring, Tensor, Tensor, list[np.ndarray]]:
        """At most `num_rows` rows from row number `start` on: their window, slots and positions, and small values.

        The first of the small values are the positions.
        """
        while not self._start <= start < self._stop:
            window, self._ring = next(self._filled)
            self._start, self._stop = window.start, window.start + len(window.slots)
            self._slots, self._positions = torch.from_numpy(window.slots), torch.from_numpy(window.positions)
            self._ordered = [window.positions, *(values[window.positions] for values in self._values)]
        piece = slice(start - self._start, start - self._start + num_rows)
        return self._ring, self._slots[piece], self._positions[piece], [values[piece] for values in self._ordered]


def _block_rows(arrays: Sequence[ArrayInput], window_rows: int) -> int:
    """Rows of a block: a power of two that costs little to read, and of which a window holds several."""
    if not arrays:
        return 1
    wanted = max(array.chunk_rows for array in arrays)
    most = max(1, window_rows // _MIN_BLOCKS)
    return 1 << (min(wanted, most).bit_length() - 1)


def _encode_side(source: RowSource, preprocessor: Preprocessor, weight: np.ndarray | None) -> Batch:
    """What does not lie in arrays, encoded, and the target; in memory when it is small, else in temporary files."""
    if encoded_bytes(preprocessor, len(source)) <= _SIDE_BYTES:
        return encode_to_memory(source, preprocessor, weight=weight)
    folder = source.dataset.path.parent if isinstance(source, View) else Path(tempfile.gettempdir())
    with unfinished_directory(folder, "encoded") as inside:
        # Mapped files live on without their names, and are gone with the process whatever ends it.
        return encode_to_disk(source, preprocessor, inside, weight)

"""Which rows a chunk-shuffled epoch reads when, and how good its shuffle is: arithmetic only, nothing is read here.

Rows lie on disk in blocks, which are cheap to read whole. The blocks are put in a random order, as many as fit are read
into memory as a *window*, and the window's rows are handed out in a random order. Any two rows can meet in a batch, but
a batch holds rows of few blocks; `ShuffleQuality` says how much that costs where neighbours are alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training_core.data.streams.batching import Batching

_FIRST_WINDOWS = (0.25, 0.5)  # of a window: reading each takes less time than handing out the rows before it


@dataclass(frozen=True)
class Window:
    """Rows that are in memory at the same time."""

    start: int
    """How many rows of the epoch come before it."""
    positions: np.ndarray
    """The stream's rows in the order they are handed out, int64 [k]."""
    rows: np.ndarray
    """The rows of the data set to read, ascending and distinct, int64 [m], m <= k."""
    slots: np.ndarray
    """Where in `rows` each of `positions` is, int64 [k]."""


@dataclass(frozen=True)
class ShuffleQuality:
    """How far a chunk-shuffled epoch is from an exactly shuffled one."""

    window_rows: float
    """Rows in memory at the same time, on average."""
    window_blocks: float
    """How many equal blocks would meet as often as those of a window: 1 / the chance that two rows of a window are of
    the same block."""
    batch_blocks: float
    """Expected number of different blocks in a batch; an exact shuffle has `exact_batch_blocks`."""
    exact_batch_blocks: float
    effective_batch: float
    """On data sorted so that a block holds one class, the shares of the classes in a batch spread as if it had this
    many independent rows: 1 / (1 / batch + (1 - 1 / batch) · s), where s = 1 / window_blocks - 1 / (blocks of all
    rows) is how much likelier two rows of a batch share a block than in an exact shuffle. On rows stored in random
    order it makes no difference."""
    batch_size: int

    def __str__(self) -> str:
        return (
            f"windows of {self.window_rows:,.0f} rows out of about {self.window_blocks:.0f} blocks; a batch of "
            f"{self.batch_size} meets {self.batch_blocks:.0f} blocks (exact shuffle: {self.exact_batch_blocks:.0f}) "
            f"and on rows stored sorted by class varies like one of {self.effective_batch:.0f} independent rows"
        )


class ShufflePlan:
    """The windows of every epoch over some rows of a data set."""

    def __init__(self, rows: np.ndarray, part_rows: Sequence[int], block_rows: int, window_rows: int) -> None:
        """Sort the rows by the blocks they lie in.

        Args:
            rows: of the data set, in the stream's order, int64 [N]; repeats allowed.
            part_rows: rows of each part of the data set; a block lies in one part.
            block_rows: rows of a block.
            window_rows: largest number of rows in a window.
        """
        self.window_rows = window_rows
        self._rows = rows
        starts = np.cumsum([0, *part_rows])
        first_blocks = np.cumsum([0, *(-(-size // block_rows) for size in part_rows)])
        self._sorted = np.argsort(rows, kind="stable")
        ascending = rows[self._sorted]
        part = np.searchsorted(starts, ascending, side="right") - 1
        block = first_blocks[part] + (ascending - starts[part]) // block_rows
        _, self._block_starts, self._block_sizes = np.unique(block, return_index=True, return_counts=True)

    @property
    def num_blocks(self) -> int:
        """Blocks that have rows of the stream."""
        return len(self._block_sizes)

    def windows(self, batching: Batching, epoch: int, first_row: int = 0) -> Iterator[Window]:
        """The windows of an epoch, from the one on that holds the row handed out as number `first_row`."""
        sequence, ends = self._sequence(batching, epoch)
        for number, (start, stop) in enumerate(self._cuts(len(sequence), ends)):
            if stop <= first_row:
                continue
            positions = sequence[start:stop]
            if batching.shuffle:
                order = torch.randperm(stop - start, generator=batching.generator("window", epoch, number))
                positions = positions[order.numpy()]
            rows, slots = np.unique(self._rows[positions], return_inverse=True)
            yield Window(start, positions, rows, slots)

    def quality(self, batching: Batching) -> ShuffleQuality:
        """How good the shuffle is, worked out from the windows of the first epoch."""
        sequence, ends = self._sequence(batching, 0)
        sizes, meets = [], []
        for start, stop in self._cuts(len(sequence), ends):
            counts = np.diff(np.concatenate([[start], ends[(ends > start) & (ends < stop)], [stop]])).astype(float)
            sizes.append(stop - start)
            meets.append(((counts / counts.sum()) ** 2).sum())
        same = float(np.average(meets, weights=sizes))  # a window is met in proportion to its rows
        exact_same = float(((self._block_sizes / self._block_sizes.sum()) ** 2).sum())
        blocks, exact_blocks, batch = 1 / same, 1 / exact_same, min(batching.batch_size, len(sequence))
        return ShuffleQuality(
            window_rows=float(np.mean(sizes)),
            window_blocks=blocks,
            batch_blocks=_distinct(batch, blocks),
            exact_batch_blocks=_distinct(batch, exact_blocks),
            effective_batch=1 / (1 / batch + (1 - 1 / batch) * max(0.0, 1 / blocks - 1 / exact_blocks)),
            batch_size=batching.batch_size,
        )

    def _sequence(self, batching: Batching, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's rows of an epoch in the order they are read, and where blocks end in it.

        Shuffled, the ranks cut the blocks in their random order into equal pieces, so that each block is read by one
        rank; in order, they take turns row by row like `torch.utils.data.DistributedSampler`.
        """
        num_rows = len(self._rows)
        share = batching.share(num_rows)
        if not batching.shuffle:
            return batching.order(num_rows, epoch).numpy(), np.zeros(0, np.int64)
        order = torch.randperm(self.num_blocks, generator=batching.generator("blocks", epoch)).numpy()
        sizes = self._block_sizes[order]
        ends = np.cumsum(sizes)
        sequence = self._sorted[np.repeat(self._block_starts[order] - (ends - sizes), sizes) + np.arange(num_rows)]
        if batching.world_size > 1:
            first = batching.rank * share
            sequence = batching.padded(torch.from_numpy(sequence)).numpy()[first : first + share]
            ends = np.concatenate([ends, ends + num_rows]) - first
            ends = ends[(ends > 0) & (ends <= share)]
        return sequence, ends

    def _cuts(self, num_rows: int, ends: np.ndarray) -> Iterator[tuple[int, int]]:
        """Pieces of at most `window_rows` rows, as equal as can be while they end where a block ends.

        An epoch of several windows starts with a quarter and a half of one, so that nobody waits for a whole one.
        """
        start, number = 0, 0 if len(ends) and num_rows > 2 * self.window_rows else len(_FIRST_WINDOWS)
        while start < num_rows:
            room = self.window_rows
            if number < len(_FIRST_WINDOWS):
                room = max(1, int(room * _FIRST_WINDOWS[number]))
                number += 1
            left = -(-(num_rows - start) // room)
            fair, most = start + -(-(num_rows - start) // left), min(num_rows, start + room)
            near = ends[np.searchsorted(ends, fair) :][:1]
            below = ends[: np.searchsorted(ends, most, side="right")][-1:]
            stop = most if left > 1 and not len(ends) else fair
            if len(near) and near[0] <= most:
                stop = int(near[0])
            elif len(below) and below[0] > start:
                stop = int(below[0])
            yield start, stop
            start = stop


def _distinct(batch: int, blocks: float) -> float:
    """Expected number of different blocks among `batch` rows of that many equal blocks."""
    return blocks * (1 - (1 - 1 / blocks) ** batch) if blocks > 1 else 1.0

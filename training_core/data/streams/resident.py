"""The fastest stream: all rows encoded, on the device, in memory or in memory-mapped files, and exactly shuffled.

A batch is one `index_select` per tensor into memory that is used again for the next: no worker process, no per-row
Python and, after the first batch, no new memory.
"""

from collections.abc import Iterator

import torch

from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.memory import BatchBuffers
from training_core.schema import Batch


class DeviceStream(EpochStream):
    """Batches of encoded rows that lie in one place; each iteration is one epoch, in an exactly shuffled order."""

    def __init__(
        self,
        data: Batch,
        batching: Batching,
        device: str | torch.device | None = None,
        place: str = "",
    ) -> None:
        """Serve `data`.

        Args:
            data: all rows, encoded: on the device, in memory, or memory-mapped.
            batching: how they are cut into batches.
            device: where batches are handed out; by default where the rows are.
            place: where the rows are and why, in words, for `describe`.

        Raises:
            DataError: there would be no batch.
        """
        super().__init__(len(data), batching)
        self._data = data
        self._place = place or f"in memory ({data.available.device})"
        self._buffers = BatchBuffers(
            data, min(batching.batch_size, self.num_rows), None if device is None else torch.device(device)
        )

    def describe(self) -> str:
        """Where the rows are and how they are shuffled, as a sentence."""
        how = "exactly shuffled" if self.batching.shuffle else "in order"
        return f"{self.num_rows:,} encoded rows {self._place}, {how}"

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        data, batching = self._data, self.batching
        device = data.available.device
        shown = batching.shown(data.available, epoch)
        rows = batching.order(self.num_rows, epoch).to(device).split(batching.batch_size)

        def write(batch: Batch) -> None:
            for name, values in data.inputs.items():
                torch.index_select(values, 0, chosen, out=batch.inputs[name])
            torch.index_select(shown, 0, chosen, out=batch.available)
            if data.target is not None and batch.target is not None:
                torch.index_select(data.target, 0, chosen, out=batch.target)
            if data.weight is not None and batch.weight is not None:
                torch.index_select(data.weight, 0, chosen, out=batch.weight)
            if batch.rows is not None:
                batch.rows.copy_(chosen)

        for chosen in rows[first : len(self)]:
            yield self._buffers.fill(len(chosen), write)

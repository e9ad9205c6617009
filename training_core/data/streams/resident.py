"""The fastest stream: all rows encoded, on the device, in memory or in memory-mapped files, and exactly shuffled.

A batch is one `index_select` per modality into memory that is used again for the next: no worker process, no per-row
Python and, within an epoch, no new memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

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
        data, batching, buffers = self._data, self.batching, self._buffers
        order = batching.order(self.num_rows, epoch).to(data.available.device)

        def ordered(values: Tensor) -> Tensor:
            return values.index_select(0, order)

        # What is small is put in order once per epoch: a batch of it is then a piece of that, and costs nothing.
        available = ordered(batching.shown(data.available, epoch))
        target = None if data.target is None else ordered(data.target)
        weight = None if data.weight is None else ordered(data.weight)

        def gather(batch: Batch) -> None:
            for name, values in data.inputs.items():
                torch.index_select(values, 0, chosen, out=batch.inputs[name])

        def gather_all(batch: Batch) -> None:
            gather(batch)
            own = [chosen_available, chosen_target, chosen_weight, chosen]
            places = [batch.available, batch.target, batch.weight, batch.rows]
            for place, values in zip(places, own, strict=True):
                if place is not None and values is not None:
                    place.copy_(values)

        size, write = batching.batch_size, gather_all if buffers.hands_over else gather
        for start in range(first * size, len(self) * size, size):
            chosen = order[start : start + size]
            chosen_available = available[start : start + size]
            chosen_target = None if target is None else target[start : start + size]
            chosen_weight = None if weight is None else weight[start : start + size]
            batch = buffers.fill(len(chosen), write)
            if not buffers.hands_over:
                batch = Batch(batch.inputs, chosen_available, chosen_target, chosen_weight, chosen)
            yield batch

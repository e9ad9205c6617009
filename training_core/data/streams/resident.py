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
        data = batching.noting_presence(data)
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
        small = [
            order,
            ordered(batching.shown(data.available, epoch)),
            None if data.target is None else ordered(data.target),
            None if data.weight is None else ordered(data.weight),
            None if data.present is None else ordered(data.present),
        ]

        def gather(batch: Batch) -> None:
            for name, values in data.inputs.items():
                torch.index_select(values, 0, own[0], out=batch.inputs[name])

        def gather_all(batch: Batch) -> None:
            gather(batch)
            places = [batch.rows, batch.available, batch.target, batch.weight, batch.present]
            for place, values in zip(places, own, strict=True):
                if place is not None and values is not None:
                    place.copy_(values)

        # All pieces are cut at once: cutting one takes as long as gathering some rows.
        nothing = [None] * len(self)
        pieces = [nothing if values is None else values.split(batching.batch_size) for values in small]
        write = gather_all if buffers.hands_over else gather
        for own in list(zip(*pieces, strict=False))[first : len(self)]:
            rows, available, target, weight, present = own
            batch = buffers.fill(len(rows), write)
            yield batch if buffers.hands_over else Batch(batch.inputs, available, target, weight, rows, present)

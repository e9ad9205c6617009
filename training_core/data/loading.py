"""Batches for training and inference: encoded samples on the device, gathered there, exactly shuffled.

All rows are copied to the device once. A batch is then one `index_select` per tensor: no worker process, no copy from
the host, no per-row Python.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training_core.errors import DataError
from training_core.schema import Batch, DataSpec, Samples
from training_core.seeding import torch_generator


def to_batch(
    samples: Samples, spec: DataSpec, device: str | torch.device = "cpu", weight: np.ndarray | None = None
) -> Batch:
    """All `samples`, encoded as `spec` says, as one batch on `device`. The tensors share no memory with the arrays."""
    inputs = {
        modality.name: _tensor(
            samples.inputs[modality.name], torch.int64 if modality.kind == "text" else torch.float32, device
        )
        for modality in spec.modalities
    }
    target_type = torch.int64 if spec.task.kind == "classification" else torch.float32
    return Batch(
        inputs=inputs,
        available=_tensor(samples.availability(spec.names), torch.bool, device),
        target=None if samples.target is None else _tensor(samples.target, target_type, device),
        weight=None if weight is None else _tensor(weight, torch.float32, device),
        rows=torch.arange(len(samples), device=device),
    )


class DeviceStream:
    """Batches of samples that live on a device; each iteration is one epoch.

    The order of an epoch, and what modality dropout hides in it, depend on the seed and the number of the epoch only,
    never on what was drawn before, and are the same on every device.
    `state_dict` counts the batches that were handed out, so loading it goes on with the first one that was not.
    """

    def __init__(
        self,
        samples: Samples,
        spec: DataSpec,
        device: str | torch.device = "cpu",
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        weight: np.ndarray | None = None,
        drop_last: bool = False,
        modality_dropout: float = 0.0,
    ) -> None:
        """Copy encoded `samples` to `device`.

        Args:
            samples: encoded rows.
            spec: their encoded spec.
            device: where the rows are kept and the batches made.
            batch_size: rows per batch.
            seed: root of the order of every epoch.
            shuffle: a new order for each epoch; else the order of the samples.
            weight: weight of each row, float [N].
            drop_last: leave out the last batch of an epoch when it is not full.
            modality_dropout: probability that an epoch does not show a modality that a sample has; see
                `drop_modalities`. Drawn anew for every epoch.

        Raises:
            DataError: there would be no batch.
        """
        self._data = to_batch(samples, spec, device, weight)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._modality_dropout = modality_dropout
        self._epoch = 0
        self._position = 0
        self._first = 0
        if not len(self):
            raise DataError(f"{len(samples)} rows make no batch of {batch_size}; give more rows or lower batch_size")

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self._data), self._batch_size)
        return whole if self._drop_last or not rest else whole + 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch, from its start or from the position that was loaded last."""
        first, self._first = self._first, 0
        available = self._shown()
        batches = self._order().split(self._batch_size)[: len(self)]
        for position in range(first, len(batches)):
            self._position = position + 1
            yield self._gather(batches[position], available)
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        if self._position == len(self):
            return {"seed": self._seed, "epoch": self._epoch + 1, "position": 0}
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where `state` was taken."""
        self._seed = int(state["seed"])
        self._epoch = int(state["epoch"])
        self._first = self._position = int(state["position"])

    def _order(self) -> Tensor:
        """Positions of all rows in the order of this epoch, int64 on the device."""
        if not self._shuffle:
            return torch.arange(len(self._data), device=self._data.available.device)
        order = torch.randperm(len(self._data), generator=self._generator("order"))
        return order.to(self._data.available.device)

    def _shown(self) -> Tensor:
        """What of its modalities each row shows in this epoch, bool [row, modality] on the device."""
        available = self._data.available
        if self._modality_dropout == 0:
            return available
        # For all rows at once: per batch, half a dozen tiny operations would cost more than the rest of the loading.
        draw = torch.rand(available.shape, generator=self._generator("modality dropout"))
        return drop_modalities(available, self._modality_dropout, draw.to(available.device))

    def _generator(self, name: str) -> torch.Generator:
        """This epoch's generator of that name. On the CPU whatever the device, so that all devices draw alike."""
        return torch_generator(self._seed, name, self._epoch)

    def _gather(self, rows: Tensor, available: Tensor) -> Batch:
        data = self._data
        return Batch(
            inputs={name: values.index_select(0, rows) for name, values in data.inputs.items()},
            available=available.index_select(0, rows),
            target=None if data.target is None else data.target.index_select(0, rows),
            weight=None if data.weight is None else data.weight.index_select(0, rows),
            rows=rows,
        )


def drop_modalities(available: Tensor, rate: float, draw: Tensor) -> Tensor:
    """Hide each available modality with probability `rate`, but never the last one of a sample.

    A sample whose modalities would all go keeps the available one with the highest draw, so each is as likely.

    Args:
        available: bool [row, modality].
        rate: probability in [0, 1).
        draw: uniform in [0, 1), [row, modality].

    Returns:
        bool [row, modality], a subset of `available`; a row is empty only where that was.
    """
    # Unavailable ones draw 0. The threshold falls to the highest draw of the row where that is below the rate.
    draw = draw * available
    threshold = draw.amax(dim=1, keepdim=True).clamp_(max=rate)
    return (draw >= threshold).logical_and_(available)


@dataclass(frozen=True)
class OneBatch:
    """The stream of a learner that is fitted in one go: all samples, still in NumPy, as the only batch."""

    samples: Samples

    def __iter__(self) -> Iterator[Samples]:
        yield self.samples


def _tensor(values: np.ndarray, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """A copy on `device`: what it is copied from may be read-only or about to change."""
    return torch.tensor(np.ascontiguousarray(values), dtype=dtype, device=device)

"""The batches of a cohort: for every learner exactly the rows its own stream would give, gathered for all in one go.

All learners' encoded rows lie behind one another in one tensor per modality, so that a step takes one `index_select`
per modality however many learners there are, into memory that is used again for the next step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching, EpochStream, perturbed_epoch
from training_core.data.streams.choice import total_memory
from training_core.data.streams.encoded import encode_to_memory, encoded_bytes
from training_core.data.streams.memory import BatchBuffers
from training_core.data.streams.perturbation import PerturbedEpoch
from training_core.data.views import RowSource
from training_core.engine.cohort.batches import CohortBatch
from training_core.errors import DataError
from training_core.quantities import format_bytes
from training_core.schema import Batch

_OF_DEVICE = 0.5
_OF_MEMORY = 0.25
_COPIES = 2  # of the rows, while they are being put behind one another


class CohortStream(EpochStream):
    """Batches [K, B, ...] of K learners with rows of their own; each iteration is one epoch of all of them.

    Learner k sees the rows, in the order and with the modalities hidden, that `DeviceStream(data[k], batchings[k])`
    would give it. An epoch lasts as long as the longest of them; learners with fewer batches sit out its end.
    """

    def __init__(
        self, data: Sequence[Batch], batchings: Sequence[Batching], device: str | torch.device | None = None
    ) -> None:
        """Serve `data`, which is copied.

        Args:
            data: all encoded rows of each learner, of the same modalities, in one place.
            batchings: how each learner's rows are cut into batches; they differ in seed, modality dropout, its
                schedule too, and perturbation only.
            device: where batches are handed out; by default where the rows are.

        Raises:
            DataError: a learner would have no batch, or the learners' batches are cut differently.
        """
        own: dict[str, Any] = {"seed": 0, "modality_dropout": 0.0, "dropout_schedule": "constant", "perturbation": None}
        if len({replace(batching, **own) for batching in batchings}) != 1:
            raise DataError("the learners of a cohort need batches of one size, all shuffled or none")
        if batchings[0].world_size != 1:
            raise DataError("a cohort's rows are not shared out over ranks; share out its learners instead")
        for part, batching in zip(data, batchings, strict=True):
            if not batching.num_batches(len(part)):
                raise DataError(
                    f"{len(part)} rows make no batch of {batching.batch_size}; give every learner more rows"
                )
        super().__init__(max(len(part) for part in data), batchings[0])
        self._sizes = [len(part) for part in data]
        self._starts = [0, *accumulate(self._sizes)][:-1]
        self._batchings = list(batchings)
        self._learners = list(range(len(data)))
        reading = next((batching for batching in batchings if batching.reads_presence), batchings[0])
        self._data = reading.noting_presence(_joined(data))
        self._device = None if device is None else torch.device(device)
        self._make_room()

    @property
    def num_learners(self) -> int:
        """Learners that are served now."""
        return len(self._learners)

    @property
    def batches_per_epoch(self) -> list[int]:
        """Batches each of the learners that are served gets in an epoch."""
        return [self.batching.num_batches(self._sizes[learner]) for learner in self._learners]

    def keep(self, rows: Sequence[int]) -> None:
        """Serve only the learners at positions `rows` of those served now, from the next epoch on."""
        self._learners = [self._learners[row] for row in rows]
        self.num_rows = max(self._sizes[learner] for learner in self._learners)
        self._make_room()

    def __iter__(self) -> Iterator[CohortBatch]:
        """The batches of one epoch, from its start or from the position that was loaded last."""
        return cast("Iterator[CohortBatch]", super().__iter__())

    def describe(self) -> str:
        """Where the rows are and how they are shuffled, as a sentence."""
        how = "exactly shuffled" if self.batching.shuffle else "in order"
        place = self._data.available.device
        return f"{sum(self._sizes):,} encoded rows of {len(self._sizes)} learners in memory ({place}), each's {how}"

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its batches were handed out, and which of the learners are served."""
        seeds = [batching.seed for batching in self._batchings]
        return {**super().state_dict(), "seeds": seeds, "learners": list(self._learners)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where `state` was taken."""
        super().load_state_dict(state)
        self._batchings = [replace(b, seed=seed) for b, seed in zip(self._batchings, state["seeds"], strict=True)]
        self._learners = list(range(len(self._sizes)))
        self.keep(state["learners"])

    def _make_room(self) -> None:
        self.rows_per_step: int = min(self.batching.batch_size, self.num_rows)
        """Rows of each learner in a batch, those that fill it up included."""
        self._buffers = BatchBuffers(self._data, self.num_learners * self.rows_per_step, self._device)

    def _batches(self, epoch: int, first: int) -> Iterator[CohortBatch]:
        data, buffers = self._data, self._buffers
        shape = (self.num_learners, self.rows_per_step)
        plan = self._plan(epoch)

        def write(batch: Batch) -> None:
            for name, values in data.inputs.items():
                torch.index_select(values, 0, index.view(-1), out=batch.inputs[name])
            if buffers.hands_over:
                pairs = [(batch.available, available), (batch.target, target), (batch.weight, weight)]
                for place, values in [*pairs, (batch.present, present)]:
                    if place is not None and values is not None:
                        place.copy_(values.flatten(0, 1))

        for step in range(first, len(self)):
            index, available, weight, counts = (
                plan.rows[step], plan.available[step], plan.weight[step], plan.counts[step]
            )  # fmt: skip
            target = None if plan.target is None else plan.target[step]
            present = None if plan.present is None else plan.present[step]
            batch = buffers.fill(shape[0] * shape[1], write)
            if buffers.hands_over:
                assert batch.weight is not None
                available, weight = batch.available.unflatten(0, shape), batch.weight.unflatten(0, shape)
                target = None if batch.target is None else batch.target.unflatten(0, shape)
                present = None if batch.present is None else batch.present.unflatten(0, shape)
            yield CohortBatch(
                inputs={name: values.unflatten(0, shape) for name, values in batch.inputs.items()},
                available=available,
                target=target,
                weight=weight,
                present=present,
                counts=counts,
            )

    def _perturbed(self, epoch: int) -> PerturbedEpoch | None:
        """Every learner's rows are changed as its own stream would change them."""
        sizes = [self._sizes[learner] for learner in self._learners]
        return perturbed_epoch([self._batchings[learner] for learner in self._learners], sizes, epoch)

    def _plan(self, epoch: int) -> "_Plan":
        """What is small, in the order of the epoch: a step of it is then a piece of that, and costs nothing."""
        data, place = self._data, self._data.available.device
        num_steps, per_step = len(self), self.rows_per_step
        shown = data.available.clone()
        index = torch.empty(self.num_learners, num_steps * per_step, dtype=torch.int64)
        real = torch.zeros(self.num_learners, num_steps * per_step, dtype=torch.bool)
        for row, learner in enumerate(self._learners):
            batching, size, start = self._batchings[learner], self._sizes[learner], self._starts[learner]
            order = batching.order(size, epoch)
            if batching.drop_last:
                order = order[: batching.num_batches(size) * per_step]
            index[row, : len(order)] = order + start
            index[row, len(order) :] = order[0] + start  # filled up with a row it has
            real[row, : len(order)] = True
            mine = slice(start, start + size)
            shown[mine] = batching.shown(data.available[mine], epoch)

        def by_step(values: Tensor) -> Tensor:
            """[K, steps · B] to [steps, K, B]."""
            return values.unflatten(1, (num_steps, per_step)).transpose(0, 1).contiguous()

        real, index = by_step(real), by_step(index).to(place)
        flat = index.view(-1)

        def ordered(values: Tensor) -> Tensor:
            return values.index_select(0, flat).unflatten(0, index.shape)

        assert data.weight is not None
        return _Plan(
            rows=index,
            available=ordered(shown),
            target=None if data.target is None else ordered(data.target),
            weight=ordered(data.weight) * real.to(place),
            present=None if data.present is None else ordered(data.present),
            counts=real.sum(dim=2),
        )


class _Plan(NamedTuple):
    """An epoch of a cohort, step by step: everything but the inputs."""

    rows: Tensor
    """Rows of the joined data, int64 [steps, K, B]."""
    available: Tensor
    target: Tensor | None
    weight: Tensor
    """0 for rows that only fill up."""
    present: Tensor | None
    counts: Tensor
    """int64 [steps, K], on the CPU."""


def memory_needed(preprocessors: Sequence[Preprocessor], num_rows: Sequence[int]) -> int:
    """Bytes it takes to put the encoded rows of these learners behind one another."""
    return _COPIES * sum(encoded_bytes(one, size) for one, size in zip(preprocessors, num_rows, strict=True))


def memory_budget(device: torch.device) -> int:
    """Bytes a cohort's rows may take there: shares as in `open_stream`, but of all the memory there is.

    What is free at the moment does not count: whether learners train together decides the last bits of what they
    learn, and a job that is repeated must decide alike.
    """
    if device.type == "cuda":
        return int(_OF_DEVICE * torch.cuda.get_device_properties(device).total_memory)
    return int(_OF_MEMORY * total_memory())


def open_cohort_stream(
    sources: Sequence[RowSource],
    preprocessors: Sequence[Preprocessor],
    batchings: Sequence[Batching],
    device: str | torch.device = "cpu",
    weights: Sequence[np.ndarray | None] | None = None,
) -> CohortStream | str:
    """The stream of all learners' rows, encoded, on `device` or in memory; the reason when they do not fit.

    Args:
        sources: raw rows of each learner.
        preprocessors: each learner's, fitted.
        batchings: how each learner's rows are cut.
        device: where batches are handed out.
        weights: for each learner the weight of each of its rows, float [N].

    Raises:
        DataError: a learner would have no batch, or the batches are cut differently.
        StorageError: rows cannot be read.
    """
    device = torch.device(device)
    needed = memory_needed(preprocessors, [len(source) for source in sources])
    places = [place for place in dict.fromkeys((device, torch.device("cpu"))) if needed <= memory_budget(place)]
    if not places:
        budget = format_bytes(memory_budget(torch.device("cpu")))
        return f"their rows take {format_bytes(needed)} of memory together, and {budget} may be used"
    data = [
        encode_to_memory(source, preprocessor, places[0], weight)
        for source, preprocessor, weight in zip(sources, preprocessors, weights or [None] * len(sources), strict=True)
    ]
    return CohortStream(data, batchings, device)


def _joined(data: Sequence[Batch]) -> Batch:
    """The rows of all learners behind one another, every row with a weight."""
    first = data[0]
    targets = [part.target for part in data if part.target is not None]
    weights = [
        torch.ones(len(part), device=part.available.device) if part.weight is None else part.weight for part in data
    ]
    return Batch(
        inputs={name: torch.cat([part.inputs[name] for part in data]) for name in first.inputs},
        available=torch.cat([part.available for part in data]),
        target=torch.cat(targets) if targets else None,
        weight=torch.cat(weights),
    )

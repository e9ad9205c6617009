"""Batches from anything that can be iterated over again, however long: files read line by line, a remote data set."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch

from training_core.data.streams.batching import Batching, drop_modalities
from training_core.data.streams.memory import map_batch
from training_core.errors import DataError
from training_core.schema import Batch

Item = TypeVar("Item")

BUFFER_ROWS = 8192


class IterableStream(Generic[Item]):
    """Batches of items, made by a collator; each iteration reads the items once from their start.

    Shuffling: a buffer of `buffer_rows` items is filled, then each item that comes takes the place of a random one,
    which goes out. So an item comes early or late by about a buffer's length: shuffle what is stored sorted.

    Item number i is the share of rank i modulo `world_size`. All ranks get equally many: the last round is filled up
    with the first items, or left out with `drop_last`.

    The order depends on the seed, the epoch and the rank only. Going on in the middle of an epoch reads, and throws
    away, the items before; items have to come in the same order every time.
    """

    def __init__(
        self,
        items: Iterable[Item] | Callable[[], Iterable[Item]],
        collate: Callable[[Sequence[Item]], Batch],
        batching: Batching,
        device: str | torch.device = "cpu",
        *,
        buffer_rows: int = BUFFER_ROWS,
    ) -> None:
        """Read nothing yet.

        Args:
            items: can be iterated over again (a list, a Hugging Face data set), or a function that starts anew.
            collate: makes a batch of a list of items; see `collate`.
            batching: how items are cut into batches.
            device: where batches are handed out.
            buffer_rows: items of the shuffle buffer.

        Raises:
            DataError: `items` can be read only once, or a perturbation is asked for.
        """
        if batching.perturbation is not None:
            raise DataError("items that are read in passing are not perturbed; give rows, or collate them changed")
        if not callable(items) and iter(items) is items:
            raise DataError(
                f"a {type(items).__name__} can be read only once, and every epoch reads from the start; "
                "give a function that makes a new one"
            )
        self.batching = batching
        self._items = items
        self._collate = collate
        self._device = torch.device(device)
        self._buffer_rows = buffer_rows
        self._epoch = 0
        self._position = 0
        self._first = 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch, from its start or from the position that was loaded last."""
        batching, epoch = self.batching, self._epoch
        first, self._first = self._first, 0
        self._position = first
        items = self._shuffled(self._share(), epoch) if batching.shuffle else self._share()
        for _ in itertools.islice(items, first * batching.batch_size):
            pass
        chosen = list(itertools.islice(items, batching.batch_size))
        for number in itertools.count(first):
            if not chosen or (batching.drop_last and len(chosen) < batching.batch_size):
                break
            following = list(itertools.islice(items, batching.batch_size))  # known first, so that an end is one
            is_last = len(following) < (batching.batch_size if batching.drop_last else 1)
            self._epoch, self._position = (epoch + 1, 0) if is_last else (epoch, number + 1)
            yield self._batch(chosen, epoch, number)
            chosen = following
        self._epoch, self._position = epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        return {"seed": self.batching.seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where `state` was taken."""
        self.batching = replace(self.batching, seed=int(state["seed"]))
        self._epoch = int(state["epoch"])
        self._first = self._position = int(state["position"])

    def describe(self) -> str:
        """How items are shuffled, as a sentence."""
        if not self.batching.shuffle:
            return "items in the order in which they come"
        return f"items as they come, shuffled in a buffer of {self._buffer_rows:,}"

    def _share(self) -> Iterator[Item]:
        """This rank's items."""
        rank, world = self.batching.rank, self.batching.world_size
        source = iter(self._items() if callable(self._items) else self._items)
        if world == 1:
            yield from source
            return
        start: list[Item] = []
        while turn := list(itertools.islice(source, world)):
            start = start or turn
            if len(turn) == world:
                yield turn[rank]
            elif not self.batching.drop_last:
                yield turn[rank] if rank < len(turn) else start[(rank - len(turn)) % len(start)]

    def _shuffled(self, items: Iterator[Item], epoch: int) -> Iterator[Item]:
        generator = self.batching.generator("buffer", epoch, self.batching.rank)
        buffer = list(itertools.islice(items, self._buffer_rows))
        places: list[int] = []
        for item in items:
            if not places:  # drawn many at a time: one by one they would cost more than the rest
                places = torch.randint(len(buffer), (1024,), generator=generator).tolist()
            place = places.pop()
            buffer[place], item = item, buffer[place]
            yield item
        for place in torch.randperm(len(buffer), generator=generator).tolist():
            yield buffer[place]

    def _batch(self, items: Sequence[Item], epoch: int, number: int) -> Batch:
        batch, rate = self._collate(items), self.batching.modality_dropout
        if rate > 0:
            numbers = (number, self.batching.rank)
            draw = torch.rand(
                batch.available.shape, generator=self.batching.generator("modality dropout", epoch, *numbers)
            )
            batch = replace(batch, available=drop_modalities(batch.available, rate, draw))
        if self._device.type == "cpu":
            return batch
        return map_batch(batch, lambda values: values.to(self._device))

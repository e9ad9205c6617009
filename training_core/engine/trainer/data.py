"""Whatever a user has as data, as streams of batches: encoded rows, arrays, raw rows, data sets, loaders, streams."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from training_core.data.preprocessing import Preprocessor
from training_core.data.splitting.row_draws import TIME_BLOCKS, units_of_rows
from training_core.data.streams.batching import Batching, EpochStream
from training_core.data.streams.choice import open_stream
from training_core.data.streams.iterable import IterableStream
from training_core.data.streams.memory import map_batch
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import RowSource
from training_core.engine.loop import Stream
from training_core.engine.trainer.streams import (
    Collate,
    ItemStream,
    LoaderStream,
    guess_collate,
    is_array_like,
    to_batch,
)
from training_core.errors import DataError
from training_core.schema import Batch, TaskSpec
from training_core.seeding import generator

_ACCEPTED = (
    "give an encoded Batch, (inputs, target) as tensors or arrays, raw rows, a torch Dataset, a list of items, "
    "a DataLoader, or any stream of batches"
)


class TrainerData(ABC):
    """Data in one of its forms."""

    preprocessor: Preprocessor | None = None
    """How raw rows are encoded; None where the data is encoded already."""

    @abstractmethod
    def stream(self, batching: Batching, device: str) -> Stream[Batch]:
        """The data in batches; each iteration is one epoch."""

    def split(self, fraction: float, seed: int) -> "tuple[TrainerData, TrainerData] | None":
        """A rest and a random share of the rows; None where they cannot be told apart or one would be empty."""
        return None

    def target(self) -> np.ndarray | None:
        """Raw targets of all rows; None where they cannot be had without an epoch."""
        return None


def as_data(
    data: Any, task: TaskSpec, collate: Collate | None = None, preprocessor: Preprocessor | None = None
) -> TrainerData:
    """`data` in a form that can be streamed.

    Args:
        data: what the user has; see `Trainer.train`.
        task: what is predicted.
        collate: makes a batch of a list of items; by default it is guessed from the first item.
        preprocessor: how raw rows were encoded before; None: it is learned from them.

    Raises:
        DataError: it is none of the forms that are known.
    """
    if isinstance(data, TrainerData):
        return data
    if isinstance(data, Batch):
        return EncodedRows(data)
    if is_array_like(data) or (isinstance(data, tuple) and data and is_array_like(data[0])):
        return EncodedRows(to_batch(data, task))
    if isinstance(data, _Rows):
        return RawRows(cast(RowSource, data), preprocessor)
    if isinstance(data, torch.utils.data.DataLoader):
        return Loader(data, task)
    if isinstance(data, torch.utils.data.IterableDataset):
        return EndlessItems(data, task, collate)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | Mapping):
        if len(data) == 0:
            raise DataError("there is nothing to train on: the data has 0 items")
        return Items(data, task, collate)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        if iter(data) is data:
            raise DataError(f"a {type(data).__name__} can be read only once, and every epoch reads from the start")
        return Batches(data)
    raise DataError(f"got {type(data).__name__} as data; {_ACCEPTED}")


@runtime_checkable
class _Rows(Protocol):
    """What tells raw rows from everything else."""

    def samples(self, positions: np.ndarray | None = None) -> Any: ...

    def blocks(self, num_rows: int) -> Iterator[Any]: ...


@dataclass
class EncodedRows(TrainerData):
    """Rows in memory, ready for a net."""

    batch: Batch

    def stream(self, batching: Batching, device: str) -> DeviceStream:
        """On the device, exactly shuffled."""
        return DeviceStream(map_batch(self.batch, lambda values: values.to(device)), batching)

    def split(self, fraction: float, seed: int) -> "tuple[EncodedRows, EncodedRows] | None":
        """By rows."""
        parts = _split_rows(len(self.batch), fraction, seed)
        if parts is None:
            return None
        rest, share = (torch.from_numpy(part).to(self.batch.available.device) for part in parts)
        return (
            EncodedRows(map_batch(self.batch, lambda values: values[rest])),
            EncodedRows(map_batch(self.batch, lambda values: values[share])),
        )

    def target(self) -> np.ndarray | None:
        """Of all rows."""
        return None if self.batch.target is None else self.batch.target.cpu().numpy()


@dataclass
class RawRows(TrainerData):
    """Raw rows of a data set; the encoding is learned from those that are trained on."""

    source: RowSource
    preprocessor: Preprocessor | None = None

    def stream(self, batching: Batching, device: str) -> EpochStream:
        """The fastest stream that memory allows."""
        if self.preprocessor is None:
            self.preprocessor = Preprocessor.fit(self.source, self.source.spec)
        return open_stream(self.source, self.preprocessor, batching, device)

    def split(self, fraction: float, seed: int) -> "tuple[RawRows, RawRows] | None":
        """By groups where rows have them, else by blocks of time where they have times, else by rows.

        Groups and blocks are of any size: as many are drawn as come nearest to the share of rows, never twice as much.
        Where every group is larger than that, None: groups are not split. Where every block is (rows of one time stay
        together), rows are drawn as if they had no times.
        """
        groups, times = self.source.groups(), self.source.times()
        finest = max(TIME_BLOCKS, math.ceil(1 / fraction)) if fraction > 0 else TIME_BLOCKS
        units, num_rows = units_of_rows(groups, times, finest), len(self.source)
        parts = None if units is None else _split_units(units, fraction, seed)
        if parts is None and groups is None:
            parts = _split_rows(num_rows, fraction, seed)
        if parts is None:
            return None
        rest, share = parts
        return (
            RawRows(self.source.subset(rows=rest), self.preprocessor),
            RawRows(self.source.subset(rows=share), self.preprocessor),
        )

    def target(self) -> np.ndarray | None:
        """Of all rows."""
        return self.source.target()


@dataclass
class Items(TrainerData):
    """A torch `Dataset` or a list: items by number."""

    items: Any
    task: TaskSpec
    collate: Collate | None = None

    def stream(self, batching: Batching, device: str) -> ItemStream:
        """Exactly shuffled; items are fetched when their batch is due."""
        collate = self.collate or guess_collate(self.items[0], self.task)
        return ItemStream(self.items, collate, batching, torch.device(device))

    def split(self, fraction: float, seed: int) -> "tuple[Items, Items] | None":
        """By items."""
        parts = _split_rows(len(self.items), fraction, seed)
        if parts is None:
            return None
        rest, share = (torch.utils.data.Subset(self.items, part.tolist()) for part in parts)
        return Items(rest, self.task, self.collate), Items(share, self.task, self.collate)


@dataclass
class EndlessItems(TrainerData):
    """A torch `IterableDataset`: items in the order in which they come."""

    items: Any
    task: TaskSpec
    collate: Collate | None = None

    def stream(self, batching: Batching, device: str) -> IterableStream[Any]:
        """Shuffled in a buffer."""
        collate = self.collate or guess_collate(next(iter(self.items)), self.task)
        return IterableStream(self.items, collate, batching, device)


@dataclass
class Batches(TrainerData):
    """A stream that somebody made: used as it is, in its own order and batch size."""

    batches: Any

    def stream(self, batching: Batching, device: str) -> Any:
        """The very stream."""
        return self.batches


@dataclass
class Loader(TrainerData):
    """A torch `DataLoader`, in its own order and batch size."""

    loader: Any
    task: TaskSpec

    def stream(self, batching: Batching, device: str) -> LoaderStream:
        """Its batches, as batches of ours on the device.

        Raises:
            DataError: nobody knows how many there are.
        """
        try:
            len(self.loader)
        except TypeError:
            raise DataError("this DataLoader has no length; give the data set that is in it instead") from None
        return LoaderStream(self.loader, self.task, device)


def _split_rows(num_rows: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of a rest and of a random share, both in order; None when one would be empty."""
    num_held = round(fraction * num_rows)
    if not 0 < num_held < num_rows:
        return None
    inside = np.zeros(num_rows, bool)
    inside[generator(seed, "validation").permutation(num_rows)[:num_held]] = True
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def _split_units(units: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of a rest and of a random share of whole `units` [N], both in order; None when one would be empty.

    Units are gone through in random order, and each is held that brings the rows held nearer to the share of all: one
    that would bring them past it by more than they lack is left to the rest, so that never twice the share is held.
    """
    _, of_row, sizes = np.unique(units.astype(str), return_inverse=True, return_counts=True)
    share, num_held, held = fraction * len(units), 0, []
    for unit in generator(seed, "validation").permutation(len(sizes)):
        if abs(num_held + sizes[unit] - share) < share - num_held and num_held + sizes[unit] < len(units):
            held.append(unit)
            num_held += int(sizes[unit])
    inside = np.isin(of_row, held)
    return (np.flatnonzero(~inside), np.flatnonzero(inside)) if held else None

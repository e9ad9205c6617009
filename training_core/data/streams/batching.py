"""How rows become batches, epoch after epoch: their order, their cut, and where a stream stands in them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from training_core.data.streams.perturbation import Perturbation, PerturbedEpoch
from training_core.errors import DataError
from training_core.schema import Batch
from training_core.seeding import torch_generator

DropoutSchedule = Literal["constant", "uniform", "linear"]
"""constant: one rate for all. uniform: a sample's rate is drawn evenly from 0 up to it, anew in every epoch, so that
every number of absences is met. linear: it grows from 0 over the first epochs (Neverova et al. 2015, arXiv:1501.00102,
whose nets meet absences gradually)."""
RAMP_EPOCHS = 10
"""Epochs over which the rate grows: long enough for encoders to find something in what they see, and over before early
stopping ends a usual training."""


@dataclass(frozen=True)
class Batching:
    """How rows are cut into batches."""

    batch_size: int
    """Rows per batch."""
    seed: int = 0
    """Root of the order of every epoch."""
    shuffle: bool = True
    """A new order for each epoch; else the order of the rows."""
    drop_last: bool = False
    """Leave out the last batch of an epoch when it is not full, and with several ranks the rows that do not divide."""
    modality_dropout: float = 0.0
    """Probability that an epoch does not show a modality that a sample has; drawn anew for every epoch."""
    dropout_schedule: DropoutSchedule = "constant"
    """How that probability depends on the sample and the epoch, of which it is the highest; see `DropoutSchedule`."""
    notes_presence: bool = False
    """Batches say in `present` what a sample has, beside what of it is shown."""
    perturbation: Perturbation | None = None
    """How the rows of a batch are changed; None: not at all."""
    rank: int = 0
    """Which of `world_size` processes this is; each gets its own share of the rows of every epoch."""
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise DataError(f"rank {self.rank} of {self.world_size}: ranks count from 0")
        if self.batch_size < 1:
            raise DataError(f"batches of {self.batch_size} rows: a batch has at least one")

    def share(self, num_rows: int) -> int:
        """How many of `num_rows` rows each rank gets: equally many, by repeating some or, with `drop_last`, cutting."""
        whole, rest = divmod(num_rows, self.world_size)
        return whole if self.drop_last or not rest else whole + 1

    def num_batches(self, num_rows: int) -> int:
        """Batches this rank gets out of `num_rows` rows in an epoch."""
        whole, rest = divmod(self.share(num_rows), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def padded(self, order: Tensor) -> Tensor:
        """An order of all rows made as long as the shares of all ranks: repeated from its start, or cut."""
        total = self.share(len(order)) * self.world_size
        if total <= len(order):
            return order[:total]
        repeats = -(-total // len(order))
        return order.repeat(repeats)[:total]

    def order(self, num_rows: int, epoch: int) -> Tensor:
        """This rank's rows of an epoch in their order, int64: every `world_size`-th of an order all ranks know.

        Which row is whose is as in `torch.utils.data.DistributedSampler`.
        """
        if self.shuffle:
            order = torch.randperm(num_rows, generator=self.generator("order", epoch))
        else:
            order = torch.arange(num_rows)
        return order if self.world_size == 1 else self.padded(order)[self.rank :: self.world_size].clone()

    def shown(self, available: Tensor, epoch: int) -> Tensor:
        """What of its modalities each row shows in an epoch, bool [row, modality] where `available` is."""
        if self.modality_dropout == 0:
            return available
        # For all rows at once: per batch, half a dozen tiny operations would cost more than the rest of the loading.
        source = self.generator("modality dropout", epoch)
        draw = torch.rand(available.shape, generator=source)
        rate: float | Tensor = self.modality_dropout
        if self.dropout_schedule == "linear":
            rate *= min(1.0, epoch / RAMP_EPOCHS)
        elif self.dropout_schedule == "uniform":
            rate = rate * torch.rand(len(available), 1, generator=source).to(available.device)
        return drop_modalities(available, rate, draw.to(available.device))

    @property
    def reads_presence(self) -> bool:
        """Whether a stream has to know what is really there: batches say so, or rows are mixed by it."""
        return self.notes_presence or (self.perturbation is not None and self.perturbation.mixes)

    def noting_presence(self, data: Batch) -> Batch:
        """The rows of a stream, with what is really there beside what may be hidden, where that is asked for."""
        return replace(data, present=data.available) if self.reads_presence else data

    def generator(self, name: str, epoch: int, *numbers: int) -> torch.Generator:
        """The generator of that name for an epoch. On the CPU whatever the device, so that all devices draw alike."""
        return torch_generator(self.seed, name, epoch, *numbers)


class EpochStream(ABC):
    """What streams of a known number of rows share: each iteration is one epoch, and the position can be kept.

    The order of an epoch, what modality dropout hides in it and how its rows are perturbed depend on the seed and the
    number of the epoch only, never on what was drawn before, and are the same on every device.
    `state_dict` counts the batches that were handed out, so loading it goes on with the first one that was not.
    The tensors of a batch are valid until the next batch is asked for; `Batch.clone` keeps them.
    """

    def __init__(self, num_rows: int, batching: Batching) -> None:
        """Stand at the start of the first epoch.

        Raises:
            DataError: there would be no batch.
        """
        self.num_rows = num_rows
        self.batching = batching
        self._epoch = 0
        self._position = 0
        self._first = 0
        if not len(self):
            whose = "" if batching.world_size == 1 else f" for each of {batching.world_size} ranks"
            raise DataError(
                f"{num_rows} rows make no batch of {batching.batch_size}{whose}; give more rows or lower batch_size"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batching.num_batches(self.num_rows)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of one epoch, from its start or from the position that was loaded last."""
        if self._position == len(self):  # the last batch was taken, but nobody asked whether there was another
            self._epoch, self._position = self._epoch + 1, 0
        first, self._first = self._first, 0
        self._position = first
        perturbed = self._perturbed(self._epoch)
        for batch in self._batches(self._epoch, first):
            number, self._position = self._position, self._position + 1
            yield batch if perturbed is None else perturbed(batch, number)
        self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        if self._position == len(self):
            return {"seed": self.batching.seed, "epoch": self._epoch + 1, "position": 0}
        return {"seed": self.batching.seed, "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next iteration, where `state` was taken."""
        self.batching = replace(self.batching, seed=int(state["seed"]))
        self._epoch = int(state["epoch"])
        self._first = self._position = int(state["position"])

    def _perturbed(self, epoch: int) -> PerturbedEpoch | None:
        """What changes the batches of an epoch; None where nothing does."""
        return perturbed_epoch([self.batching], [self.num_rows], epoch)

    @abstractmethod
    def describe(self) -> str:
        """Where the rows come from and how well they are shuffled, as a sentence."""

    @abstractmethod
    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from number `first` on."""


def perturbed_epoch(batchings: Sequence[Batching], num_rows: Sequence[int], epoch: int) -> PerturbedEpoch | None:
    """What changes the batches of an epoch of learners with so many rows each; None where nothing does.

    Either all of `batchings` have a perturbation, maybe one that changes nothing, or none.
    """
    found = [batching.perturbation for batching in batchings]
    perturbations = [perturbation for perturbation in found if perturbation is not None]
    if not perturbations:
        return None
    assert len(perturbations) == len(batchings), "learners of a stack all have a perturbation, or none has"
    drawn = [
        perturbation.drawn(batching.seed, batching.rank, epoch, batching.share(number), batching.batch_size)
        for perturbation, batching, number in zip(perturbations, batchings, num_rows, strict=True)
    ]
    return PerturbedEpoch(perturbations, drawn, batchings[0].notes_presence)


def drop_modalities(available: Tensor, rate: float | Tensor, draw: Tensor) -> Tensor:
    """Hide each available modality with probability `rate`, but never the last one of a sample.

    A sample whose modalities would all go keeps the available one with the highest draw, so each is as likely.

    Args:
        available: bool [row, modality].
        rate: probability in [0, 1), of all rows or of each, [row, 1].
        draw: uniform in [0, 1), [row, modality].

    Returns:
        bool [row, modality], a subset of `available`; a row is empty only where that was.
    """
    # Unavailable ones draw 0. The threshold falls to the highest draw of the row where that is below the rate.
    draw = draw * available
    threshold = draw.amax(dim=1, keepdim=True).clamp_(max=rate)  # pyright: ignore[reportArgumentType]
    return (draw >= threshold).logical_and_(available)

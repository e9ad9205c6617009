"""Who trains together: which of how many processes this is, and what all of them agree on.

Everything here that is called `all ranks together` must be called by every rank, in the same order. A process that is
alone may call it too: then nothing is sent. What is sent are tensors and text; no object is pickled.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training_core.data.streams.batching import Batching
from training_core.errors import ConfigError
from training_core.seeding import torch_seeded

_SHOWN = 300  # characters of what ranks disagree on


@dataclass(frozen=True)
class Ranks:
    """One of the processes that train one model together; by default the only one."""

    rank: int = 0
    """Which one, from 0."""
    world_size: int = 1
    """How many there are, on all machines."""
    local_rank: int = 0
    """Which one on this machine, from 0."""
    device: str = "cpu"
    """Where this one trains."""

    @property
    def alone(self) -> bool:
        """Whether this is the only one."""
        return self.world_size == 1

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes files, logs and progress: rank 0."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"

    def batching(self, batching: Batching) -> Batching:
        """This rank's share of batches that are meant for all ranks together.

        `batch_size` stays the size of the batches of all ranks together, so the same settings train alike on any
        number of ranks: batch k holds the same rows. Rows that do not divide among the ranks are made to, by repeating
        some; `unrepeated` takes the repeats out of the loss.

        Raises:
            ConfigError: the batch does not divide by the number of ranks.
        """
        each, rest = divmod(batching.batch_size, self.world_size)
        if rest:
            raise ConfigError(
                f"batches of {batching.batch_size} rows cannot be shared equally by {self.world_size} ranks; make "
                f"`training.batch_size` a multiple of {self.world_size}"
            )
        return replace(batching, batch_size=each, rank=self.rank, world_size=self.world_size)

    @contextmanager
    def seeded(self, root: int, *names: str | int) -> Iterator[None]:
        """`torch_seeded` with a generator per rank, so that ranks drop out differently; rank 0 has the lone one's."""
        with torch_seeded(root, *names, *(("rank", self.rank) if self.rank else ())):
            yield

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks, in place: the same bits on every rank. All ranks together."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def bytes_of_all(self, data: bytes) -> list[bytes]:
        """What every rank gave, in the order of ranks. All ranks together."""
        if self.alone:
            return [data]
        length = torch.tensor([len(data)])
        lengths = [torch.zeros_like(length) for _ in range(self.world_size)]
        dist.all_gather(lengths, length)
        longest = max(1, *(int(one) for one in lengths))
        mine = torch.zeros(longest, dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        every = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(every, mine)
        return [bytes(one[: int(size)].numpy()) for one, size in zip(every, lengths, strict=True)]

    def texts_of_all(self, text: str) -> list[str]:
        """What every rank said, in the order of ranks. All ranks together."""
        return [data.decode() for data in self.bytes_of_all(text.encode())]

    def states_of_all(self, state: Any) -> list[Any]:
        """What every rank gave, in the order of ranks: tensors and plain values. All ranks together."""
        if self.alone:
            return [state]
        kept = io.BytesIO()
        torch.save(state, kept)
        return [torch.load(io.BytesIO(data), weights_only=True) for data in self.bytes_of_all(kept.getvalue())]

    def agree(self, what: str, value: str, error: type[Exception] = ConfigError) -> None:
        """Make sure that `value`, a list joined by commas, is the same on every rank. All ranks together.

        Raises:
            error: it is not, on all ranks; it begins with `what` and says how the first rank that differs does.
        """
        if self.alone:
            return
        digests = self.texts_of_all(hashlib.sha256(value.encode()).hexdigest())
        if len(set(digests)) == 1:
            return
        values = self.texts_of_all(value)
        other = next(rank for rank, text in enumerate(values) if text != values[0])
        first, second = values[0].split(", "), values[other].split(", ")
        raise error(
            f"{what}: rank 0 has {_shown(first, second)}, rank {other} has {_shown(second, first)}; all ranks must be "
            "started with the same settings and the same data"
        )

    def first_of_all(self, text: str | None) -> str | None:
        """The text of the lowest rank that has one, else None: how all stop when one must. All ranks together."""
        if self.alone:
            return text
        said = torch.full((1,), self.world_size if text is None else self.rank)
        dist.all_reduce(said, op=dist.ReduceOp.MIN)
        if int(said) == self.world_size:
            return None
        return self.texts_of_all(text or "")[int(said)]

    def yes_of_first(self, claim: bool) -> bool:
        """What rank 0 says, whatever the others do. All ranks together."""
        if self.alone:
            return claim
        said = torch.tensor([int(claim)])
        dist.broadcast(said, src=0)
        return bool(said)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0, bit for bit. All ranks together."""
        if self.alone:
            return
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.copy_(whole)

    def wait(self) -> None:
        """Go on when every rank is here. All ranks together."""
        if not self.alone:
            self.sum(torch.zeros(1))


def _shown(items: list[str], others: list[str]) -> str:
    """Those of `items` that the others do not have, in words."""
    text = ", ".join(item for item in items if item not in others) or "nothing that the other has not"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

"""Small data in every form the trainer takes, and nets for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from training_core.data.streams.batching import Batching
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import HeldSamples
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.trainer.config import TrainerConfig
from training_core.engine.training import TrainingConfig
from training_core.schema import Batch, DataSpec, ModalitySpec, Samples, TaskSpec

TASK = TaskSpec.classification(3)


QUICK = TrainingConfig(epochs=8, lr=0.02, batch_size=16)


def blobs(num_rows: int = 120) -> tuple[Tensor, Tensor]:
    """Three clusters in four dimensions, hard to confuse."""
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(num_rows) % 3
    centres = 3 * torch.randn(3, 4, generator=source)
    return centres[labels] + 0.4 * torch.randn(num_rows, 4, generator=source), labels


def net(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(dropout), nn.ReLU(), nn.Linear(16, 3))


class Blobs(Dataset[Any]):
    def __init__(self, named: bool = False) -> None:
        self.x, self.y = blobs()
        self.named = named

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> Any:
        return {"x": self.x[row], "label": self.y[row]} if self.named else (self.x[row], self.y[row])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*blobs(), strict=True))


def raw_rows() -> HeldSamples:
    x, y = blobs()
    samples = Samples(
        inputs={"vec": x.numpy()},
        available={"vec": np.ones(len(y), bool)},
        ids=np.array([str(row) for row in range(len(y))], object),
        target=y.numpy(),
    )
    return HeldSamples(samples, DataSpec(modalities=(ModalitySpec(name="vec", kind="vector", shape=(4,)),), task=TASK))


def encoded() -> Batch:
    x, y = blobs()
    return Batch(inputs={"x": x}, available=torch.ones(len(y), 1, dtype=torch.bool), target=y)


FORMS = {
    "tensors": blobs,
    "arrays": lambda: tuple(part.numpy() for part in blobs()),
    "arrays by name": lambda: ({"x": blobs()[0]}, blobs()[1]),
    "a mapping": lambda: {"x": blobs()[0], "labels": blobs()[1]},
    "an encoded batch": encoded,
    "a stream": lambda: DeviceStream(encoded(), Batching(16, 3)),
    "a data set": Blobs,
    "a data set of mappings": lambda: Blobs(named=True),
    "a list": lambda: list(zip(*blobs(), strict=True)),
    "an iterable data set": Endless,
    "a loader": lambda: DataLoader(TensorDataset(*blobs()), batch_size=16, shuffle=True),
}


def kept(directory: Path, **changes: Any) -> TrainerConfig:
    training = QUICK.model_copy(update={"epochs": 6, "schedule": "one_cycle", "ema_decay": 0.9, **changes})
    return TrainerConfig.model_validate(
        {"training": training.model_dump(), "checkpoints": {"directory": str(directory)}, "seed": 5}
    )


class StopAfter(Hook):
    """Ends the process's training with an exception, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


class CountSteps(Hook):
    """In the place of `StopAfter`."""

    def __init__(self) -> None:
        self.num_steps = 0

    def on_batch_end(self, state: TrainingState, model: nn.Module) -> None:
        self.num_steps += 1

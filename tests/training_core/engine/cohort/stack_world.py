"""Small nets and rows for stacks of learners, and the same training one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.updates.gradient import GradientUpdate
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.objectives import Supervised
from training_core.schema import Batch, TaskSpec

TASK = TaskSpec.classification(("ash", "elm", "oak"))
NUM_FEATURES, NUM_ROWS = 6, 8


class SmallNet(nn.Module):
    def __init__(self, seed: int, dropout: float = 0.0, extra: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, 12), nn.LayerNorm(12), nn.Tanh(), nn.Dropout(dropout), *extra, nn.Linear(12, 3)
        )

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        return self.layers(inputs["x"])


def learner_rows(learner: int, step: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Eight rows whose class depends on their first features."""
    draws = torch.Generator().manual_seed(1000 * learner + step)
    x = torch.randn(NUM_ROWS, NUM_FEATURES, generator=draws, dtype=torch.float64).to(dtype)
    return Batch({"x": x}, torch.ones(NUM_ROWS, 1, dtype=torch.bool), x[:, :3].argmax(dim=1))


def first_rows(batch: Batch, count: int) -> Batch:
    target = None if batch.target is None else batch.target[:count]
    return Batch({name: values[:count] for name, values in batch.inputs.items()}, batch.available[:count], target)


def join(batches: Sequence[Batch], counts: Sequence[int] | None = None) -> CohortBatch:
    """One batch per learner as a stack, of which only the first `counts` rows are real."""
    counts = [len(batch) for batch in batches] if counts is None else counts
    floats = next((v.dtype for v in batches[0].inputs.values() if v.is_floating_point()), torch.float32)
    weight = torch.zeros(len(batches), len(batches[0]), dtype=floats)
    for row, count in enumerate(counts):
        weight[row, :count] = 1
    targets = [batch.target for batch in batches if batch.target is not None]
    return CohortBatch(
        {name: torch.stack([batch.inputs[name] for batch in batches]) for name in batches[0].inputs},
        torch.stack([batch.available for batch in batches]),
        torch.stack(targets),
        weight,
        counts=torch.tensor(counts),
    )


def cohort_rows(num_learners: int, step: int, dtype: torch.dtype = torch.float32) -> CohortBatch:
    return join([learner_rows(k, step, dtype) for k in range(num_learners)])


def train_alone(net: nn.Module, config: OptimizerConfig, batches: Sequence[Batch], **settings: Any) -> nn.Module:
    update = GradientUpdate(Supervised(TASK), config, **settings)
    update.start(net)
    for batch in batches:
        update.step(net, batch)
    return net


def weights(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])

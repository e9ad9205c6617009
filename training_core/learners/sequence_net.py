"""Net for one sequence: convolutions over time, or a recurrent cell, blind to padding at its end."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.learners.base import LearnerBase
from training_core.learners.encoders import ResidualBlock, blank, group_norm
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded

Cell = Literal["conv", "gru", "lstm"]
STEM_SIZE = 5
"""Time steps that the first convolution looks at."""


class SequenceNetConfig(LearnerBase):
    """One-dimensional residual convolutions, GRU or LSTM, summed up over time."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"sequence"})
    max_modalities: ClassVar[int | None] = 1
    quality_prior: ClassVar[float] = 0.75

    kind: Literal["sequence_net"] = "sequence_net"
    cell: Annotated[Cell, SearchChoices("conv", "gru", "lstm")] = "conv"
    """conv: residual convolutions, quickest, and trained together in a stack; gru, lstm: recurrent cells, trained one
    by one, for what depends on the order of distant steps."""
    width: Annotated[PositiveInt, SearchChoices(32, 64, 128)] = 64
    """Channels, or hidden units of the cell."""
    num_layers: Annotated[PositiveInt, SearchRange(1, 4)] = 2
    """Residual blocks (each but the first halves the time of a sequence of 16 steps or more), or layers of cells."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.2
    """Share of features left out before the last layer."""

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return SequenceNet(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """The weights of every layer at every step it sees, per row and epoch."""
        num_steps, num_features = spec.modalities[0].shape
        if self.cell == "conv":
            stem = 1.0 * STEM_SIZE * self.width * (num_features + 1)
            block = 2.0 * STEM_SIZE * self.width**2
            shortened = sum(0.5 ** min(i, 2) for i in range(self.num_layers))
            forward, weights = num_steps * (stem + block * shortened), stem + block * self.num_layers
        else:
            gates = 3 if self.cell == "gru" else 4
            inputs = num_features + 1 + self.width * (2 * self.num_layers - 1)
            weights = float(gates * self.width * inputs)
            # A recurrent step cannot wait for others: it takes several times as long as its multiplications.
            forward = 4.0 * num_steps * weights
        return training_cost(forward, weights, 0, num_steps * num_features, num_rows, epochs)


class SequenceNet(nn.Module):
    """Hidden values of every step, then their mean, maximum and last, and a linear head.

    Sequences are of one length; shorter ones come padded with a value that does not change any more. Steps of such a
    tail are told apart by a channel of their own and count in no summary; what they hold cannot change the answer.
    """

    def __init__(self, config: SequenceNetConfig, spec: DataSpec) -> None:
        super().__init__()
        (self.name,) = spec.names
        num_steps, num_features = spec.modalities[0].shape
        if config.cell == "conv":
            self.trunk: nn.Module = ConvolutionTrunk(num_steps, num_features + 1, config.width, config.num_layers)
        else:
            self.trunk = RecurrentTrunk(config.cell, num_features + 1, config.width, config.num_layers)
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(3 * config.width, spec.task.num_outputs))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs]; an absent sequence is answered as one that is nothing but padding."""
        values = blank(inputs[self.name], available[:, 0])
        real = real_steps(values) & available
        values = values * real.unsqueeze(-1).to(values.dtype)
        hidden, real = self.trunk(torch.cat([values, real.unsqueeze(-1).to(values.dtype)], dim=-1), real)
        return self.head(summary(hidden, real))


class ConvolutionTrunk(nn.Module):
    """Steps [B, T, F] through residual convolutions to [B, T', W]."""

    def __init__(self, num_steps: int, num_features: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(num_features, width, STEM_SIZE, padding=STEM_SIZE // 2)
        self.strides: list[int] = []
        for i in range(num_blocks):
            self.strides.append(2 if i and num_steps >= 16 else 1)
            num_steps = -(-num_steps // self.strides[-1])
        self.blocks = nn.ModuleList(ResidualBlock(width, width, stride, dimensions=1) for stride in self.strides)
        self.norm = group_norm(width)

    def forward(self, steps: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden values [B, T', W] and which of those steps are real, bool [B, T']."""
        maps = self.stem(steps.transpose(1, 2))
        for block, stride in zip(self.blocks, self.strides, strict=True):
            maps, real = block(maps), real[:, ::stride]
        return functional.gelu(self.norm(maps)).transpose(1, 2), real


class RecurrentTrunk(nn.Module):
    """Steps [B, T, F] through GRU (Cho et al. 2014, arXiv:1406.1078) or LSTM cells (Hochreiter & Schmidhuber 1997).

    They run forwards only, so that padding at the end is read after everything that counts.
    """

    def __init__(self, cell: Literal["gru", "lstm"], num_features: int, width: int, num_layers: int) -> None:
        super().__init__()
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.cells = kind(num_features, width, num_layers, batch_first=True)

    def forward(self, steps: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden values [B, T, W] and which steps are real, bool [B, T]."""
        hidden, _ = self.cells(steps)
        return hidden, real


def real_steps(values: Tensor) -> Tensor:
    """Which steps of [B, T, F] are not padding, bool [B, T]: all but a tail of steps equal to the one before them."""
    same = (values[:, 1:] == values[:, :-1]).all(dim=-1)
    tail = (~same).flip(1).to(torch.int64).cumsum(dim=1).flip(1) == 0  # whether nothing changes from there on
    return torch.cat([torch.ones_like(values[:, :1, 0], dtype=torch.bool), ~tail], dim=1)


def summary(hidden: Tensor, real: Tensor) -> Tensor:
    """Mean, maximum and last of the real steps of `hidden` [B, T, W]: [B, 3W]; zeros where no step is real."""
    weight = real.unsqueeze(-1).to(hidden.dtype)
    count = weight.sum(dim=1)
    mean = (hidden * weight).sum(dim=1) / count.clamp(min=1.0)
    # Far below every activation: a maximum over real steps only, and then 0 where there is none.
    highest = torch.where(real.unsqueeze(-1), hidden, torch.full_like(hidden, -1e30)).amax(dim=1)
    highest = torch.where(count > 0, highest, torch.zeros_like(highest))
    after = torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
    last = (hidden * (real & ~after).unsqueeze(-1).to(hidden.dtype)).sum(dim=1)
    return torch.cat([mean, highest, last], dim=1)

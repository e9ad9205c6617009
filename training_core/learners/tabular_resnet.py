"""Residual network on the features of vectors and tables side by side: deeper than a perceptron, as easy to train."""

from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from training_core.learners.base import LearnerBase
from training_core.learners.dense_net import DenseNet
from training_core.learners.encoders import flat_width
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class TabularResNetConfig(LearnerBase):
    """Residual blocks on numbers and embedded categories (Gorishniy et al. 2021, arXiv:2106.11959, section 3.2)."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular"})
    meets_missing: ClassVar[bool] = True
    method: ClassVar[str | None] = "dense nets"
    quality_prior: ClassVar[float] = 0.6

    kind: Literal["tabular_resnet"] = "tabular_resnet"
    width: Annotated[PositiveInt, SearchChoices(64, 128, 256)] = 128
    """Numbers that the blocks pass on."""
    num_blocks: Annotated[PositiveInt, SearchRange(1, 6)] = 3
    """Residual blocks."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.2
    """Share of hidden units left out within a block in each training step."""

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return TabularResNet(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """The layer in front, 4 · width² weights per block, and the head, per row and epoch."""
        features = sum(flat_width(modality) + 1 for modality in spec.modalities)
        dense = self.width * (features + 4.0 * self.width * self.num_blocks + spec.task.num_outputs)
        return training_cost(dense, dense, 0, features, num_rows, epochs)


class ResidualLayers(nn.Module):
    """Normalise, widen, activate, narrow, beside a shortcut: [B, W] to [B, W].

    Layer normalisation instead of the batch normalisation of the source: it keeps no statistics, so an answer does not
    depend on the other samples of the batch.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, values: Tensor) -> Tensor:
        """[B, W] to [B, W]."""
        return values + self.layers(values)


class TabularResNet(DenseNet):
    """Features of all modalities and which of them are there, through residual blocks."""

    def __init__(self, config: TabularResNetConfig, spec: DataSpec) -> None:
        width = config.width

        def make_layers(num_features: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(num_features, width),
                *(ResidualLayers(width, config.dropout) for _ in range(config.num_blocks)),
                nn.LayerNorm(width),
                nn.ReLU(),
                nn.Linear(width, spec.task.num_outputs),
            )

        super().__init__(spec, make_layers)

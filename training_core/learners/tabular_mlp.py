"""Multi-layer perceptron on the features of vectors, tables and texts side by side."""

from typing import Annotated, ClassVar, Literal

from torch import nn

from training_core.learners.base import LearnerBase
from training_core.learners.dense_net import DenseNet
from training_core.learners.encoders import embedding_parameters, flat_width, text_work
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class TabularMLPConfig(LearnerBase):
    """Two hidden layers; categories and text tokens are embedded."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "text"})
    text_input: ClassVar[Literal["strings", "tokens"]] = "tokens"
    meets_missing: ClassVar[bool] = True
    method: ClassVar[str | None] = "dense nets"
    quality_prior: ClassVar[float] = 0.6

    kind: Literal["tabular_mlp"] = "tabular_mlp"
    width: Annotated[PositiveInt, SearchChoices(64, 128, 256, 512)] = 256
    """Hidden units per layer."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.2
    """Share of hidden units left out in each training step."""

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return TabularMLP(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Two layers and the head, per row and epoch."""
        features = sum(flat_width(modality) + 1 for modality in spec.modalities)
        dense = self.width * (features + self.width + spec.task.num_outputs)
        forward = dense + sum(text_work(modality) for modality in spec.modalities)
        embedded = sum(embedding_parameters(modality) for modality in spec.modalities)
        return training_cost(forward, dense, embedded, features, num_rows, epochs)


class TabularMLP(DenseNet):
    """Features of all modalities and which of them are there, through two hidden layers."""

    def __init__(self, config: TabularMLPConfig, spec: DataSpec) -> None:
        width = config.width

        def make_layers(num_features: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(num_features, width),
                nn.LayerNorm(width),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(width, width),
                nn.LayerNorm(width),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(width, spec.task.num_outputs),
            )

        super().__init__(spec, make_layers)

"""Transformer over the columns of tables and vectors: each column is a token, and tokens attend to each other."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from training_core.learners.attention import AttentionBlock
from training_core.learners.base import LearnerBase, input_width
from training_core.learners.column_tokens import ColumnTokens, num_column_tokens
from training_core.learners.encoders import blank
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class TabularTransformerConfig(LearnerBase):
    """Feature tokenizer and transformer (Gorishniy et al. 2021, arXiv:2106.11959, section 3.3)."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular"})
    meets_missing: ClassVar[bool] = True
    quality_prior: ClassVar[float] = 0.65
    max_tokens: ClassVar[int] = 128
    """Columns it takes: what attention costs grows with their square."""

    kind: Literal["tabular_transformer"] = "tabular_transformer"
    width: Annotated[PositiveInt, SearchChoices(24, 48, 96)] = 48
    """Numbers per token."""
    num_blocks: Annotated[PositiveInt, SearchRange(1, 4)] = 2
    """Attention blocks."""
    num_heads: Annotated[PositiveInt, SearchChoices(2, 4, 8)] = 4
    """Attention heads; they share the width."""
    num_frequencies: Annotated[PositiveInt, SearchRange(2, 32, log=True)] = 8
    """Learned waves per column of numbers: more let it learn finer bends."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.1
    """Share of hidden units left out in each training step."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"`width` ({self.width}) must be a multiple of `num_heads` ({self.num_heads})")
        return self

    def supports(self, spec: DataSpec) -> str | None:
        """As `LearnerBase.supports`; too many columns is a reason as well."""
        reason = super().supports(spec)
        num_tokens = sum(num_column_tokens(modality) for modality in spec.modalities)
        if reason is None and num_tokens > self.max_tokens:
            reason = f"{num_tokens} columns are too many for it; it takes up to {self.max_tokens}"
        return reason

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return TabularTransformer(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """8 · width² weights per block and token, and attention among tokens, per row and epoch."""
        tokens = 1 + sum(num_column_tokens(modality) for modality in spec.modalities)
        embedding = tokens * self.width * 2.0 * (self.num_frequencies + 1)
        block_weights = 8.0 * self.width**2 * self.num_blocks
        forward = embedding + tokens * block_weights + 2.0 * self.num_blocks * self.width * tokens**2
        numbers = sum(input_width(modality) for modality in spec.modalities)
        return training_cost(forward, embedding + block_weights, 0, numbers, num_rows, epochs)


class TabularTransformer(nn.Module):
    """Tokens of all columns, attended to from a token of its own."""

    def __init__(self, config: TabularTransformerConfig, spec: DataSpec) -> None:
        super().__init__()
        self.names = spec.names
        width = config.width
        self.columns = nn.ModuleList(
            ColumnTokens(modality, width, config.num_frequencies) for modality in spec.modalities
        )
        # As large as the tokens it stands beside.
        self.question = nn.Parameter(0.3 * torch.randn(width))
        self.blocks = nn.ModuleList(
            AttentionBlock(width, config.num_heads, config.dropout) for _ in range(config.num_blocks)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(config.dropout), nn.Linear(width, spec.task.num_outputs)
        )

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of encoded inputs and their availability [B, M]."""
        found = [
            columns(blank(inputs[name], available[:, i]), available[:, i])
            for i, (name, columns) in enumerate(zip(self.names, self.columns, strict=True))
        ]
        tokens = torch.cat([self.question.expand(available.shape[0], 1, -1), *found], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])

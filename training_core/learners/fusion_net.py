"""Multimodal fusion: one encoder per modality, and attention over what they say and what is missing."""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from training_core.learners.base import LearnerBase, input_width
from training_core.learners.encoders import blank, embedding_parameters, encoder_work, make_encoder
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class FusionNetConfig(LearnerBase):
    """A latent token per modality, fused by a small transformer."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "text", "image", "sequence"})
    text_input: ClassVar[Literal["strings", "tokens"]] = "tokens"
    meets_missing: ClassVar[bool] = True
    quality_prior: ClassVar[float] = 0.7

    kind: Literal["fusion_net"] = "fusion_net"
    width: PositiveInt = 64
    """Numbers per latent token."""
    num_blocks: PositiveInt = 1
    """Attention blocks."""
    num_heads: PositiveInt = 4
    """Attention heads; they share the width."""
    dropout: Rate = 0.1
    """Share of hidden units left out in each training step."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"`width` ({self.width}) must be a multiple of `num_heads` ({self.num_heads})")
        return self

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return FusionNet(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """The encoders, then 8 · width² weights per block and token, per row and epoch."""
        encoders = sum(encoder_work(modality, self.width) for modality in spec.modalities)
        block_weights = 8.0 * self.width**2 * self.num_blocks
        forward = encoders + block_weights * (1 + len(spec.modalities))
        embedded = sum(embedding_parameters(modality) for modality in spec.modalities)
        numbers = sum(input_width(modality) for modality in spec.modalities)
        return training_cost(forward, encoders + block_weights, embedded, numbers, num_rows, epochs)


class FusionNet(nn.Module):
    """Tokens of the modalities, or learned tokens where they are missing, attended to from a token of its own."""

    def __init__(self, config: FusionNetConfig, spec: DataSpec) -> None:
        super().__init__()
        self.names = spec.names
        width = config.width
        self.encoders = nn.ModuleList(make_encoder(modality, width, config.dropout) for modality in spec.modalities)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in spec.modalities)
        # The scale of the normalised tokens they stand beside is 1; small enough to start as a hint.
        self.identity = nn.Parameter(0.1 * torch.randn(len(self.names), width))
        self.missing = nn.Parameter(0.1 * torch.randn(len(self.names), width))
        self.question = nn.Parameter(0.1 * torch.randn(width))
        self.blocks = nn.ModuleList(
            AttentionBlock(width, config.num_heads, config.dropout) for _ in range(config.num_blocks)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Dropout(config.dropout), nn.Linear(width, spec.task.num_outputs)
        )

    def tokens(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Latent tokens [B, M, W] of the modalities; the learned missing token where one is absent."""
        tokens = []
        for i, (name, encoder, norm) in enumerate(zip(self.names, self.encoders, self.norms, strict=True)):
            there = available[:, i]
            token = norm(encoder(blank(inputs[name], there))) + self.identity[i]
            tokens.append(torch.where(there.unsqueeze(-1), token, self.missing[i]))
        return torch.stack(tokens, dim=1)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of encoded inputs and their availability [B, M]."""
        tokens = self.tokens(inputs, available)
        question = self.question.expand(tokens.shape[0], 1, -1)
        tokens = torch.cat([question, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


class AttentionBlock(nn.Module):
    """Pre-norm attention and feed-forward layer (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

    Attention is spelled out as matrix products: the fused kernel for the CPU has no batching rule, so a stack of
    nets would run it in a loop.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width)
        self.forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        tokens = tokens + self.dropout(self.mix(self._attend(self.attention_norm(tokens))))
        return tokens + self.dropout(self.feed_forward(self.forward_norm(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        heads = self.query_key_value(tokens).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, W / heads]
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.num_heads)
        return (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, length, width)

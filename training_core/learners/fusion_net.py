"""Multimodal fusion: one encoder per modality, and attention over what they say and what is missing."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from training_core.learners.attention import AttentionBlock
from training_core.learners.base import LearnerBase, input_width
from training_core.learners.encoders import blank, embedding_parameters, encoder_work, make_encoder
from training_core.learners.foretelling import Foretelling
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchOn, SearchRange
from training_core.schema import DataSpec, ModalityKind
from training_core.seeding import torch_seeded


class FusionNetConfig(LearnerBase):
    """A latent token per modality, fused by a small transformer."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"vector", "tabular", "text", "image", "sequence"})
    text_input: ClassVar[Literal["strings", "tokens"]] = "tokens"
    meets_missing: ClassVar[bool] = True
    has_latents: ClassVar[bool] = True
    quality_prior: ClassVar[float] = 0.7

    kind: Literal["fusion_net"] = "fusion_net"
    width: Annotated[PositiveInt, SearchChoices(32, 64, 128)] = 64
    """Numbers per latent token."""
    num_blocks: Annotated[PositiveInt, SearchRange(1, 3)] = 1
    """Attention blocks."""
    num_heads: Annotated[PositiveInt, SearchChoices(2, 4, 8)] = 4
    """Attention heads; they share the width."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.1
    """Share of hidden units left out in each training step."""
    fill_missing: Annotated[bool, SearchChoices(False, True), SearchOn(several_modalities=True)] = False
    """Where a modality is missing, its token also says what those that are there foretell of it."""

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
        if self.fill_missing:
            forward += 2.0 * self.width**2 * len(spec.modalities) ** 2
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
        self.foretelling = Foretelling(len(self.names), width) if config.fill_missing else None

    def latents(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """What the encoders say of each modality, normalised, [B, M, W]; of one that is not `present`, anything."""
        return torch.stack(self._encode(inputs, present), dim=1)

    def answer(self, latents: Tensor, available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of latents [B, M, W], those that are not `available` [B, M] left unread."""
        return self._fuse(latents.unbind(dim=1), available)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of encoded inputs and their availability [B, M]."""
        return self._fuse(self._encode(inputs, available), available)

    def _encode(self, inputs: Mapping[str, Tensor], present: Tensor) -> list[Tensor]:
        parts = zip(self.names, self.encoders, self.norms, strict=True)
        return [norm(encoder(blank(inputs[name], present[:, i]))) for i, (name, encoder, norm) in enumerate(parts)]

    def _fuse(self, latents: Sequence[Tensor], available: Tensor) -> Tensor:
        missing: Sequence[Tensor] = self.missing.unbind()
        if self.foretelling is not None:
            missing = (self.missing + self.foretelling.fill(torch.stack(tuple(latents), dim=1), available)).unbind(
                dim=1
            )
        tokens = [
            torch.where(available[:, i].unsqueeze(-1), latent + self.identity[i], missing[i])
            for i, latent in enumerate(latents)
        ]
        question = self.question.expand(available.shape[0], 1, -1)
        tokens = torch.cat([question, torch.stack(tokens, dim=1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])

"""Net for texts, trained from scratch: embedded words and word pairs, pooled by learned attention or convolved."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.learners.base import TOKENS_PER_TEXT, LearnerBase, input_width, num_texts
from training_core.learners.encoders import blank, flat_features, flat_width
from training_core.learners.net_cost import training_cost
from training_core.quantities import PositiveInt, Rate, SearchChoices, SearchRange
from training_core.schema import DataSpec, ModalityKind, ModalitySpec
from training_core.seeding import torch_seeded

Pooling = Literal["attention", "convolution"]
NUM_HEADS = 4
"""Ways to weigh the tokens of a text."""
WINDOW = 3
"""Neighbouring tokens that a convolution looks at."""


class TextNetConfig(LearnerBase):
    """Hashed tokens with learned embeddings, beside the columns of any tables and vectors."""

    family: ClassVar[Literal["net", "estimator"]] = "net"
    modality_kinds: ClassVar[frozenset[ModalityKind]] = frozenset({"text", "vector", "tabular"})
    text_input: ClassVar[Literal["strings", "tokens"]] = "tokens"
    meets_missing: ClassVar[bool] = True
    quality_prior: ClassVar[float] = 0.65
    own_in_stack: ClassVar[frozenset[str]] = frozenset({"dropout", "token_dropout"})

    kind: Literal["text_net"] = "text_net"
    pooling: Annotated[Pooling, SearchChoices("attention", "convolution")] = "attention"
    """attention: a sum beside weighted means of the tokens, for texts whose words matter more than their order;
    convolution: the strongest response to neighbouring tokens."""
    embedding_width: Annotated[PositiveInt, SearchChoices(16, 32, 64)] = 32
    """Numbers per token; the optimiser passes over all of them in every step, so twice as many take twice as long."""
    width: Annotated[PositiveInt, SearchChoices(32, 64, 128)] = 64
    """Hidden units of the layer that joins the modalities."""
    token_dropout: Annotated[Rate, SearchRange(0.0, 0.6)] = 0.3
    """Share of a text's tokens that are left out in each training step: it cannot learn texts by heart."""
    dropout: Annotated[Rate, SearchRange(0.0, 0.5)] = 0.2
    """Share of hidden units left out in each training step."""

    def supports(self, spec: DataSpec) -> str | None:
        """As `LearnerBase.supports`; data without text is for tabular nets."""
        reason = super().supports(spec)
        return "it needs a text among the modalities" if reason is None and not num_texts(spec) else reason

    def build(self, spec: DataSpec, seed: int) -> nn.Module:
        """A fresh net for the encoded `spec`."""
        self.require(spec)
        with torch_seeded(seed, "weights"):
            return TextNet(self, spec)

    def estimate_cost(self, spec: DataSpec, num_rows: int, epochs: int) -> tuple[float, float]:
        """Pooling the tokens, then two layers, per row and epoch; most goes into updating the embeddings."""
        texts = [modality for modality in spec.modalities if modality.kind == "text"]
        per_token = self.embedding_width * (WINDOW * self.embedding_width + 4.0 * NUM_HEADS)
        forward = per_token * sum(modality.num_features or TOKENS_PER_TEXT for modality in texts)
        flat = sum(flat_width(modality) for modality in spec.modalities if modality.kind != "text")
        dense = self.width * (flat + 2.0 * self.embedding_width * len(texts) + self.width)
        embedded = sum((modality.vocabulary_size or 2**15) * self.embedding_width for modality in texts)
        numbers = sum(input_width(modality) + modality.num_features for modality in spec.modalities)
        return training_cost(forward + dense, dense, float(embedded), numbers, num_rows, epochs)


class TextNet(nn.Module):
    """Pooled texts and flat features side by side, through one hidden layer beside a straight path."""

    def __init__(self, config: TextNetConfig, spec: DataSpec) -> None:
        super().__init__()
        self.names = spec.names
        parts = [_part(config, modality) for modality in spec.modalities]
        self.parts = nn.ModuleList(part for part, _ in parts)
        total = sum(width + 1 for _, width in parts)
        self.hidden = nn.Sequential(
            nn.Linear(total, config.width), nn.LayerNorm(config.width), nn.GELU(), nn.Dropout(config.dropout)
        )
        # The straight path makes it a linear model of averaged embeddings at least (Joulin et al. 2017,
        # arXiv:1607.01759), which learns within a few passes over the rows.
        self.head = nn.Linear(total + config.width, spec.task.num_outputs)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of encoded inputs and their availability [B, M]."""
        features = [
            blank(part(blank(inputs[name], available[:, i])), available[:, i])
            for i, (name, part) in enumerate(zip(self.names, self.parts, strict=True))
        ]
        joined = torch.cat([*features, available.to(features[0].dtype)], dim=1)
        return self.head(torch.cat([joined, self.hidden(joined)], dim=1))


class TokenEmbedding(nn.Module):
    """Token ids [B, T], 0 for padding, to embeddings [B, T, E] and which of them count, [B, T] of 0 and 1.

    In training, tokens are left out at random (word dropout: Iyyer et al. 2015, doi:10.3115/v1/P15-1162).
    """

    def __init__(self, modality: ModalitySpec, config: TextNetConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(modality.vocabulary_size, config.embedding_width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.left_out = nn.Dropout(config.token_dropout)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        counts = (ids > 0).to(self.table.weight.dtype)
        # Dropout also scales what it keeps; here a token counts or does not.
        counts = counts * (self.left_out(torch.ones_like(counts)) > 0)
        return self.table(ids) * counts.unsqueeze(-1), counts


class AttentionPool(nn.Module):
    """A text's tokens [B, T] to [B, 2E]: their sum over the root of their number, and weighted means of slices.

    Weights are gated attention (Ilse et al. 2018, arXiv:1802.04712, eq. 9), one set for each of the slices that an
    embedding is cut into: `softmax_t(w · (tanh(V e_t) ⊙ sigmoid(U e_t)))`.
    """

    def __init__(self, modality: ModalitySpec, config: TextNetConfig) -> None:
        super().__init__()
        self.embed = TokenEmbedding(modality, config)
        embedding = config.embedding_width
        self.num_heads = NUM_HEADS if embedding % NUM_HEADS == 0 else 1
        self.gates = nn.Linear(embedding, 2 * embedding)
        self.scores = nn.Linear(embedding, self.num_heads, bias=False)
        self.width = 2 * embedding

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] int64 to [B, 2E]; a text without tokens is all zeros."""
        embedded, counts = self.embed(ids)
        batch, length, width = embedded.shape
        content, gate = self.gates(embedded).chunk(2, dim=-1)
        scores = self.scores(content.tanh() * gate.sigmoid())  # [B, T, heads]
        # Exponentials of scores, which are bounded by the gates, weighted by 0 where there is no token.
        grown = (scores - scores.amax(dim=1, keepdim=True)).exp() * counts.unsqueeze(-1)
        weights = grown / grown.sum(dim=1, keepdim=True).clamp(min=1e-6)
        slices = embedded.reshape(batch, length, self.num_heads, width // self.num_heads)
        mean = (slices * weights.unsqueeze(-1)).sum(dim=1).reshape(batch, width)
        total = embedded.sum(dim=1) / counts.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
        return torch.cat([total, mean], dim=1)


class ConvolutionPool(nn.Module):
    """A text's tokens [B, T] to [B, 2E]: the sum over the root of their number, and the strongest responses.

    The latter are those of learned filters to neighbouring tokens (Kim 2014, arXiv:1408.5882, eq. 2-4). Tokens are
    the distinct words in the order they first come in, then their pairs.
    """

    def __init__(self, modality: ModalitySpec, config: TextNetConfig) -> None:
        super().__init__()
        self.embed = TokenEmbedding(modality, config)
        embedding = config.embedding_width
        self.filters = nn.Conv1d(embedding, embedding, WINDOW, padding=WINDOW // 2)
        self.width = 2 * embedding

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] int64 to [B, 2E]; a text without tokens is all zeros."""
        embedded, counts = self.embed(ids)
        # 0 is the least a response can be, so places without a token, set to 0, are never the strongest.
        responses = functional.relu(self.filters(embedded.transpose(1, 2))) * counts.unsqueeze(1)
        total = embedded.sum(dim=1) / counts.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()
        return torch.cat([total, responses.amax(dim=2)], dim=1)


def _part(config: TextNetConfig, modality: ModalitySpec) -> tuple[nn.Module, int]:
    """What turns a modality into features, and how many."""
    if modality.kind != "text":
        features = flat_features(modality)
        return features, features.width
    pool = (AttentionPool if config.pooling == "attention" else ConvolutionPool)(modality, config)
    return pool, pool.width

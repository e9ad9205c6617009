"""Attention among tokens: the block that nets which compare parts of a sample are made of."""

import math

from torch import Tensor, nn


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

"""What denoising objectives look at: a batch as a net sees it, whole and with modalities hidden. The nouns they share.

B rows, M modalities, W numbers per latent, C outputs. Nothing here depends on values in tensors, so that all of it runs
under `torch.vmap`, a net per row of a stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """One batch, seen whole and seen in part."""

    inputs: Mapping[str, Tensor]
    """Encoded values of each modality that denoising is about, [B, …]; where it is absent they mean nothing."""
    latents: Tensor
    """What the net makes of each of them by itself, [B, M, W]; of what is absent, anything finite."""
    present: Tensor
    """What is there, bool [B, M]; False for rows that count for nothing."""
    shown: Tensor
    """What of it the net was let see, bool [B, M]."""
    counted: Tensor
    """Rows that are no mere filling, bool [B]."""
    raw: Tensor
    """The net's raw answer to what is shown, [B, C]."""
    full: Tensor
    """Its raw answer to all that is present, [B, C], without gradient; `raw` itself where nobody asked for it."""
    rest: Tensor | None = None
    """Its raw answer to what was hidden, [B, C], or to all where nothing was; None where nobody asked for it."""
    in_rest: Tensor | None = None
    """What it saw for that answer, bool [B, M]."""
    foretold: Tensor | None = None
    """What the net itself foretells of each modality from each, [B, source, target, W]; None for one that does not."""


class Judged(NamedTuple):
    """What an objective found in a batch: means over what counts in it, 0 where nothing does."""

    total: Tensor
    """What is descended, a scalar."""
    per_modality: Tensor
    """The share of each modality, [M]."""


def hidden_part(shown: Tensor, present: Tensor) -> Tensor:
    """What of a sample is not shown, bool [B, M]; all of it where nothing is hidden, as nobody answers from nothing."""
    hidden = present & ~shown
    return torch.where(hidden.any(dim=1, keepdim=True), hidden, present)


def masked_mean(values: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The mean of `values` where `mask`, over `dim` or everything; 0 where there is none. All values must be finite."""
    kept = mask.to(values.dtype)
    if dim is None:
        return (values * kept).sum() / kept.sum().clamp(min=1)
    return (values * kept).sum(dim) / kept.sum(dim).clamp(min=1)


def mean_over_modalities(losses: Tensor, mask: Tensor) -> Judged:
    """Losses [B, M] that count where `mask`: each modality's mean, and the mean of those that occur in the batch.

    Every modality counts alike, however many rows have it.
    """
    per_modality = masked_mean(losses, mask, dim=0)
    return Judged(masked_mean(per_modality, mask.any(dim=0)), per_modality)


def other_than_itself(num_modalities: int, device: torch.device) -> Tensor:
    """Bool [M, M], False on the diagonal: no modality is told by itself."""
    return ~torch.eye(num_modalities, dtype=torch.bool, device=device)


def per_modality_linear(latents: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer of its own for each modality: [B, M, W], [M, W, V] and [M, V] to [B, M, V]."""
    out = torch.einsum("bmw,mwv->bmv", latents, weight)
    return out if bias is None else out + bias


def normalised(values: Tensor) -> Tensor:
    """Values of length 1 along the last axis; smooth at 0, so that a gradient is always finite."""
    return values * torch.rsqrt(values.square().sum(dim=-1, keepdim=True) + 1e-8)


def linear_weights(*shape: int) -> torch.nn.Parameter:
    """Weights [..., in, out] of spread 1/√in, which keeps the spread of what they are multiplied with."""
    return torch.nn.Parameter(torch.randn(shape) * shape[-2] ** -0.5)

"""Reconstruction: the values of a modality, found again from the latents of the others.

A denoising autoencoder (Vincent et al. 2008, doi:10.1145/1390156.1390294) whose noise is the absence of modalities, as
in MultiMAE (Bachmann et al. 2022, arXiv:2204.01678): what a latent must hold for it is what modalities share.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.objectives.denoising.features import TargetFeatures
from training_core.objectives.denoising.views import (
    Judged,
    Views,
    linear_weights,
    mean_over_modalities,
    normalised,
    other_than_itself,
    per_modality_linear,
)
from training_core.schema import ModalitySpec

_NOT_ASKED = -1e9  # as good as -∞ for a softmax, and finite where all sources are absent


class Reconstruction(nn.Module):
    """Each modality that is present, from those of the others that are shown.

    A context per target: the values of the sources, weighted by how much the target attends to each of them
    (Vaswani et al. 2017, arXiv:1706.03762, eq. 1, with a learned query per target). From it one layer finds the
    target's features at every scale.
    """

    def __init__(self, modalities: Sequence[ModalitySpec], width: int) -> None:
        super().__init__()
        num = len(modalities)
        self.names = tuple(modality.name for modality in modalities)
        self.features = nn.ModuleList(TargetFeatures(modality) for modality in modalities)
        self.query = nn.Parameter(torch.randn(num, width))
        self.key = linear_weights(num, width, width)
        self.value = linear_weights(num, width, width)
        self.hidden = linear_weights(num, width, width)
        self.hidden_bias = nn.Parameter(torch.zeros(num, width))
        widths = [scale for features in self.features for scale in _widths(features)]
        self.decoders = nn.ModuleList(nn.Linear(width, scale) for scale in widths)

    def forward(self, views: Views) -> Judged:
        """Mean over scales of `distance`, per row and modality that has another one to be told by."""
        predicted = self.predict(views.latents, views.shown)
        losses: list[Tensor] = []
        for i, (name, features) in enumerate(zip(self.names, self.features, strict=True)):
            targets = features(views.inputs[name], views.present[:, i])
            pairs = zip(predicted[i], targets, strict=True)
            losses.append(torch.stack([distance(found, target) for found, target in pairs]).mean(dim=0))
        sources = views.shown.unsqueeze(1) & other_than_itself(len(self.names), views.shown.device)
        return mean_over_modalities(torch.stack(losses, dim=1), views.present & sources.any(dim=2))

    def predict(self, latents: Tensor, shown: Tensor) -> list[list[Tensor]]:
        """Features [B, D] of every modality at every scale, from the latents [B, M, W] of the others that are shown."""
        context = self._context(latents, shown)
        hidden = functional.gelu(per_modality_linear(context, self.hidden, self.hidden_bias))
        decoders = iter(self.decoders)
        return [[next(decoders)(hidden[:, i]) for _ in _widths(f)] for i, f in enumerate(self.features)]

    def _context(self, latents: Tensor, shown: Tensor) -> Tensor:
        """What each target is told, [B, M, W]."""
        keys = per_modality_linear(latents, self.key)
        values = per_modality_linear(latents, self.value)
        scores = torch.einsum("tw,bsw->bts", self.query, keys) / math.sqrt(latents.shape[-1])
        sources = shown.unsqueeze(1) & other_than_itself(shown.shape[1], shown.device)
        share = scores.masked_fill(~sources, _NOT_ASKED).softmax(dim=-1) * sources
        return torch.einsum("bts,bsw->btw", share, values)


def distance(found: Tensor, target: Tensor) -> Tensor:
    """Mean squared error plus 1 - cosine, [B], of features [B, D].

    The first is about size, the second about direction: the mean of all samples is a fair guess by the first alone
    (Hou et al. 2022, arXiv:2205.10803, eq. 2 with γ = 1).
    """
    error = (found - target).square().mean(dim=-1)
    return error + 1 - (normalised(found) * normalised(target)).sum(dim=-1)


def _widths(features: nn.Module) -> tuple[int, ...]:
    assert isinstance(features, TargetFeatures)
    return features.widths

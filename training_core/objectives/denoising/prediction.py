"""Prediction: the latent of each modality, foretold from that of every other one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.objectives.denoising.views import (
    Judged,
    Views,
    linear_weights,
    masked_mean,
    normalised,
    other_than_itself,
    per_modality_linear,
)
from training_core.schema import ModalitySpec


class Prediction(nn.Module):
    """1 - cosine of a latent and what another one foretells of it, for all ordered pairs of modalities.

    The foretold latent stands still for it, which keeps all latents from becoming one: Chen & He 2021,
    arXiv:2011.10566, eq. 1 to 3, with modalities in place of augmented views, as in Nezakati et al. 2024,
    arXiv:2410.03010. A pair's predictor is U_target · gelu(V_source · z): 2 M matrices instead of M².
    A net that foretells by itself, to fill what is missing, is trained in that instead.
    """

    def __init__(self, modalities: Sequence[ModalitySpec], width: int, net_foretells: bool = False) -> None:
        super().__init__()
        if net_foretells:
            return
        self.source = linear_weights(len(modalities), width, width)
        self.source_bias = nn.Parameter(torch.zeros(len(modalities), width))
        self.target = linear_weights(len(modalities), width, width)
        self.target_bias = nn.Parameter(torch.zeros(len(modalities), width))

    def forward(self, views: Views) -> Judged:
        """Mean over the pairs that occur; a modality's share is the mean over those that foretell it."""
        foretold = self.predict(views.latents) if views.foretold is None else views.foretold
        losses = cosine_distance(foretold, views.latents.detach().unsqueeze(1))  # [B, source, target]
        present = views.present
        pairs = present.unsqueeze(2) & present.unsqueeze(1) & other_than_itself(present.shape[1], present.device)
        per_pair, occurs = masked_mean(losses, pairs, dim=0), pairs.any(dim=0)
        return Judged(masked_mean(per_pair, occurs), masked_mean(per_pair, occurs, dim=0))

    def predict(self, latents: Tensor) -> Tensor:
        """What latents [B, M, W] foretell: [B, source, target, W]; what one foretells of itself is not to be used."""
        told = functional.gelu(per_modality_linear(latents, self.source, self.source_bias))
        return torch.einsum("bsw,twv->bstv", told, self.target) + self.target_bias


def cosine_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine along the last axis, in [0, 2]."""
    return 1 - (normalised(one) * normalised(other)).sum(dim=-1)

"""Alignment: the modalities of one sample lie closer together in a shared space than those of different samples."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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

MOST_SHARP = 100.0
"""Largest 1 / temperature that is learned; beyond it training is unstable (Radford et al. 2021, section 2.5)."""
_ABSENT = -1e9  # as good as -∞ in a sum of exponentials, and finite where nothing is there


class Alignment(nn.Module):
    """InfoNCE over all ordered pairs of modalities, on projections of the latents.

    Source: van den Oord et al. 2018, arXiv:1807.03748, eq. 4, of both directions of a pair as in Radford et al. 2021,
    arXiv:2103.00020. Rows that lack the other modality are nobody's candidates.
    """

    def __init__(
        self,
        modalities: Sequence[ModalitySpec],
        width: int,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        hardness: float = 0.0,
    ) -> None:
        super().__init__()
        self.projection = linear_weights(len(modalities), width, width)
        sharpness = torch.tensor(-math.log(temperature))
        self.log_sharpness: Tensor
        if learn_temperature:
            self.log_sharpness = nn.Parameter(sharpness)
        else:
            self.register_buffer("log_sharpness", sharpness, persistent=False)
        self.hardness = hardness

    def forward(self, views: Views) -> Judged:
        """Mean over pairs that occur; a modality's share is the mean of those that start from it."""
        projected = normalised(per_modality_linear(views.latents, self.projection))
        similarity = torch.einsum("bsw,ctw->stbc", projected, projected)
        sharpness = self.log_sharpness.exp().clamp(max=MOST_SHARP)
        present = views.present.T
        losses = info_nce(similarity, present.unsqueeze(0), sharpness, self.hardness)  # [M, M, B]
        different = other_than_itself(len(present), present.device)
        counts = present.unsqueeze(1) & present.unsqueeze(0) & different.unsqueeze(-1)
        per_pair, occurs = masked_mean(losses, counts, dim=-1), counts.any(dim=-1)
        return Judged(masked_mean(per_pair, occurs), masked_mean(per_pair, occurs, dim=-1))


def info_nce(similarity: Tensor, candidates: Tensor, sharpness: Tensor | float, hardness: float = 0.0) -> Tensor:
    """-log of the share that row b's own candidate has among all candidates, [..., B].

    With s the similarities over the temperature: log(exp s_bb + Σ_c w_bc exp s_bc) - s_bb over the other candidates c.
    The weights w are 1, or, with `hardness` β, exp(β·cosine) over its mean, so that they add up to the number of other
    candidates (Robinson et al. 2021, arXiv:2010.04592, section 3, with τ⁺ = 0).

    Args:
        similarity: cosines of row b and candidate c, [..., B, B].
        candidates: which of them are there, bool [..., B].
        sharpness: 1 / temperature.
        hardness: β; 0: all count alike.
    """
    own = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    others = candidates.unsqueeze(-2) & ~own
    scores = similarity * sharpness
    if hardness:
        tilted = (hardness * similarity).masked_fill(~others, _ABSENT)
        number = others.sum(dim=-1, keepdim=True).clamp(min=1).to(scores.dtype)
        weights = tilted - tilted.logsumexp(dim=-1, keepdim=True) + number.log()
        scores = torch.where(own, scores, scores + weights)
    scores = scores.masked_fill(~(others | own), _ABSENT)
    return scores.logsumexp(dim=-1) - scores.diagonal(dim1=-2, dim2=-1)

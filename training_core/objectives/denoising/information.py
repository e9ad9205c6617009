"""Information: latents say no more than they need to, and no two of their numbers say the same."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training_core.objectives.denoising.views import (
    Judged,
    Views,
    linear_weights,
    masked_mean,
    mean_over_modalities,
    per_modality_linear,
)
from training_core.schema import ModalitySpec

_FIRST_LOG_VARIANCE = -4.0  # noise of an eighth of a latent's spread: training begins almost as without it
_LOG_VARIANCES = (-10.0, 4.0)


class Information(nn.Module):
    """A variational bottleneck at every latent, and decorrelation of its numbers.

    The latent is the mean of a Gaussian whose variance is learned; in training a draw of it goes on to the answer, and
    its distance from the standard Gaussian is what the net pays for (Alemi et al. 2017, arXiv:1612.00410, eq. 17). What
    is said afterwards comes from the means, so that nothing of this is needed any more.
    """

    def __init__(self, modalities: Sequence[ModalitySpec], width: int) -> None:
        super().__init__()
        self.spread = nn.Parameter(0.1 * linear_weights(len(modalities), width, width).detach())
        self.spread_bias = nn.Parameter(torch.full((len(modalities), width), _FIRST_LOG_VARIANCE))

    def log_variance(self, latents: Tensor) -> Tensor:
        """Of each number of latents [B, M, W], held where an exponential is harmless."""
        return per_modality_linear(latents, self.spread, self.spread_bias).clamp(*_LOG_VARIANCES)

    def draw(self, latents: Tensor) -> Tensor:
        """Latents [B, M, W] as they go on to the answer: with noise in training, as they are afterwards."""
        if not self.training:
            return latents
        return latents + (0.5 * self.log_variance(latents)).exp() * torch.randn_like(latents)

    def forward(self, views: Views) -> Judged:
        """Bottleneck plus decorrelation, each a mean over the modalities that occur."""
        cost = gaussian_kl(views.latents, self.log_variance(views.latents))
        squeezed = mean_over_modalities(cost, views.present)
        repeated = redundancy(views.latents, views.present)
        occurs = views.present.any(dim=0)
        return Judged(squeezed.total + masked_mean(repeated, occurs), squeezed.per_modality + repeated)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, 1)), [..., W] to [...], averaged over the W numbers.

    ½ (μ² + σ² - log σ² - 1): Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean(dim=-1)


def redundancy(latents: Tensor, present: Tensor) -> Tensor:
    """The squared covariances of different numbers of a latent over the rows that have it, [M]; 0 for fewer than two.

    (1/W) Σ_{i≠j} C_ij², C with divisor n - 1: Bardes et al. 2022, arXiv:2105.04906, eq. 3 and 4.

    Args:
        latents: [B, M, W].
        present: bool [B, M].
    """
    mask = present.to(latents.dtype)
    number = mask.sum(dim=0)
    mean = (latents * mask.unsqueeze(-1)).sum(dim=0) / number.clamp(min=1).unsqueeze(-1)
    centred = (latents - mean) * mask.unsqueeze(-1)
    covariance = torch.einsum("bmv,bmw->mvw", centred, centred) / (number - 1).clamp(min=1).view(-1, 1, 1)
    width = latents.shape[-1]
    different = ~torch.eye(width, dtype=torch.bool, device=latents.device)
    return (covariance.square() * different).sum(dim=(1, 2)) / width

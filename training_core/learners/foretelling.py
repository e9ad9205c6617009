"""What the latent of one modality foretells of another's: to train by, and to stand in where a modality is missing."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Foretelling(nn.Module):
    """A predictor for every ordered pair of modalities, U_target · gelu(V_source · z): 2 M matrices instead of M².

    Projecting what is available onto what is missing: Nezakati et al. 2024, arXiv:2410.03010.
    """

    def __init__(self, num_modalities: int, width: int) -> None:
        super().__init__()
        spread = width**-0.5
        self.source = nn.Parameter(spread * torch.randn(num_modalities, width, width))
        self.source_bias = nn.Parameter(torch.zeros(num_modalities, width))
        self.target = nn.Parameter(spread * torch.randn(num_modalities, width, width))
        self.target_bias = nn.Parameter(torch.zeros(num_modalities, width))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents [B, M, W] to what they foretell, [B, source, target, W]."""
        told = functional.gelu(torch.einsum("bsw,swv->bsv", latents, self.source) + self.source_bias)
        return torch.einsum("bsw,twv->bstv", told, self.target) + self.target_bias

    def fill(self, latents: Tensor, available: Tensor) -> Tensor:
        """For every modality the mean of what the available others foretell of it, [B, M, W]; 0 where there is none.

        Args:
            latents: [B, M, W]; those that are not available change nothing.
            available: bool [B, M].
        """
        others = ~torch.eye(available.shape[1], dtype=torch.bool, device=available.device)
        counts = (available.unsqueeze(2) & others).to(latents.dtype)  # [B, source, target]
        known = torch.where(available.unsqueeze(-1), latents, torch.zeros_like(latents))
        share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bst,bstw->btw", share, self(known))

"""What dense nets share: the features of all modalities side by side, and which of them are there."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from training_core.learners.encoders import blank, flat_features
from training_core.schema import DataSpec


class DenseNet(nn.Module):
    """Features of vectors, tables and texts, zeros for what is absent, and a flag per modality, through layers."""

    def __init__(self, spec: DataSpec, make_layers: Callable[[int], nn.Module]) -> None:
        """`make_layers` is given the numbers per sample and makes what turns them into raw outputs."""
        super().__init__()
        self.names = spec.names
        parts = [flat_features(modality) for modality in spec.modalities]
        self.features = nn.ModuleList(parts)
        self.layers = make_layers(sum(part.width for part in parts) + len(parts))

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        """Raw outputs [B, num_outputs] of encoded inputs and their availability [B, M]."""
        parts = [
            blank(features(blank(inputs[name], available[:, i])), available[:, i])
            for i, (name, features) in enumerate(zip(self.names, self.features, strict=True))
        ]
        flags = available.to(parts[0].dtype)
        return self.layers(torch.cat([*parts, flags], dim=1))

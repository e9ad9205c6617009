"""What reconstruction is to find again of a modality: its values, in a form that can be compared, at several scales.

Nothing in here is learned: a target that is learned along could be made easy. B rows, D features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.schema import ModalitySpec

IMAGE_SIDES = (8, 4, 2)
"""Sides of the grids an image is averaged to: parts, halves, and the whole's layout."""
SEQUENCE_STEPS = (16, 4, 1)
"""Steps a sequence is averaged to."""
NUM_BUCKETS = 1024
"""Token ids that are told apart; few texts of a batch share one by chance."""
TEXT_WIDTH = 64
MOST_CATEGORIES = 32
"""Codes of a column that are told apart; those beyond share a place with earlier ones."""


class TargetFeatures(nn.Module):
    """Encoded values of one modality as features at one scale or several.

    - image [B, C, H, W]: averaged to grids of 8, 4 and 2 cells a side, as far as it has as many pixels;
    - sequence [B, T, F]: averaged to 16, 4 and 1 steps;
    - vector [B, D]: as it is; its numbers have no neighbours, so there is one scale;
    - tabular [B, D]: numbers as they are, categories as zeros and a one;
    - text [B, T], ids with 0 for padding: its bag of tokens, [B, 64], as the sum of a fixed random vector for each,
      over √(their number), which keeps angles between bags (Johnson & Lindenstrauss 1984).
    """

    def __init__(self, modality: ModalitySpec) -> None:
        super().__init__()
        self.kind = modality.kind
        self.num_numeric = modality.num_numeric
        self.categories = tuple(min(cardinality, MOST_CATEGORIES) for cardinality in modality.cardinalities)
        shape = modality.shape
        self.sides: tuple[tuple[int, int], ...] = ()
        self.steps: tuple[int, ...] = ()
        if modality.kind == "image":
            self.sides = tuple(dict.fromkeys((min(side, shape[1]), min(side, shape[2])) for side in IMAGE_SIDES))
            self.widths = tuple(shape[0] * height * width for height, width in self.sides)
        elif modality.kind == "sequence":
            self.steps = tuple(dict.fromkeys(min(step, shape[0]) for step in SEQUENCE_STEPS))
            self.widths = tuple(steps * shape[1] for steps in self.steps)
        elif modality.kind == "text":
            source = torch.Generator().manual_seed(0)  # the same for all nets: a target is no part of what differs
            self.register_buffer("signs", torch.randn(NUM_BUCKETS, TEXT_WIDTH, generator=source), persistent=False)
            self.widths = (TEXT_WIDTH,)
        else:
            self.widths = (self.num_numeric + sum(self.categories),)

    def forward(self, values: Tensor, present: Tensor) -> list[Tensor]:
        """Features [B, D] of each scale, in the order of `widths`; 0 in rows that are not `present` (bool [B])."""
        mask = present.reshape(present.shape + (1,) * (values.ndim - 1))
        values = torch.where(mask, values, torch.zeros_like(values))
        if self.kind == "image":
            return [functional.adaptive_avg_pool2d(values, side).flatten(1) for side in self.sides]
        if self.kind == "sequence":
            by_feature = values.transpose(1, 2)
            return [functional.adaptive_avg_pool1d(by_feature, steps).flatten(1) for steps in self.steps]
        if self.kind == "text":
            return [self._bag(values)]
        if self.kind == "tabular" and self.categories:
            return [self._table(values)]
        return [values]

    def _table(self, values: Tensor) -> Tensor:
        codes = values[:, self.num_numeric :].long()
        parts = [values[:, : self.num_numeric]]
        for i, size in enumerate(self.categories):
            known = torch.arange(size, device=values.device)
            parts.append((codes[:, i : i + 1] % size == known).to(values.dtype))
        return torch.cat(parts, dim=1)

    def _bag(self, ids: Tensor) -> Tensor:
        signs = self.get_buffer("signs")
        counts = (ids > 0).to(signs.dtype)
        embedded = functional.embedding(ids % NUM_BUCKETS, signs) * counts.unsqueeze(-1)
        return embedded.sum(dim=1) / counts.sum(dim=1, keepdim=True).clamp(min=1.0).sqrt()

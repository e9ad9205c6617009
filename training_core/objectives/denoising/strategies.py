"""How the weights of denoising's objectives change over training: fixed, adaptive, or by a curriculum.

Weights change between epochs only. Each is what an objective counts beside the loss of the target.
"""

import torch
from torch import Tensor

from training_core.objectives.denoising.config import DenoisingConfig, DenoisingStage, ObjectiveKind

SCALES: dict[ObjectiveKind, float] = {"consistency": 10.0}
"""What the weight of an objective is multiplied by, 1 for those not named: two answers of one net differ by about a
tenth of what the other objectives are, and ten times a weight of 0.1 is what helped (benchmarks/denoising.py)."""
LARGEST_RATIO = 4.0
"""How far an adaptive weight may be from the weight that was asked for, up or down."""
MEMORY = 0.5
"""What the magnitude of an objective keeps of what it was before the last epoch."""
_DEFAULT_STAGES = ((5, 0.1), (5, 0.5), (1, 1.0))  # epochs, and the share of the weight


def first_weights(config: DenoisingConfig) -> list[float]:
    """The weight of each objective in the first epoch, in the order of `config.objectives`."""
    return staged_weights(config, epoch=1) if config.strategy == "curriculum" else _even(config)


def staged_weights(config: DenoisingConfig, epoch: int) -> list[float]:
    """The weight of each objective in an epoch, from 1 on, as the stages say; 0 for one that a stage leaves out."""
    stages = config.stages or tuple(
        DenoisingStage(epochs=epochs, weight=share * config.weight) for epochs, share in _DEFAULT_STAGES
    )
    stage, left = stages[0], epoch
    for stage in stages:
        if left <= stage.epochs:
            break
        left -= stage.epochs
    weight = config.weight if stage.weight is None else stage.weight
    counting = stage.objectives or config.objectives
    return [weight * SCALES.get(kind, 1.0) if kind in counting else 0.0 for kind in config.objectives]


def adapted_weights(weights: Tensor, magnitudes: Tensor) -> Tensor:
    """Weights [..., objectives] in inverse proportion to the magnitudes m of the losses: w · clip(g / m, 1/4, 4).

    w, `weights` [objectives], is what they were to count in the first place (`first_weights`) and g the geometric mean
    of the magnitudes. So the objectives contribute in proportion to w, and the geometric mean of the weights is that of
    w, while none is at its bound; and a single objective counts w, as if its weight were fixed. One that found nothing,
    of magnitude 0, gets its w and is left out of g.
    """
    seen = magnitudes > 0
    logarithms = torch.where(seen, magnitudes, 1.0).log()
    mean = logarithms.sum(dim=-1, keepdim=True) / seen.sum(dim=-1, keepdim=True).clamp(min=1)
    ratio = torch.where(seen, (mean - logarithms).exp(), 1.0)
    return weights.to(ratio) * ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)


def remembered(magnitudes: Tensor, losses: Tensor) -> Tensor:
    """Running magnitudes after an epoch with these mean losses, both [..., objectives]; the first epoch's as they are.

    A loss that is not finite, or belongs to nobody, leaves its magnitude as it was.
    """
    losses = losses.abs()
    moved = torch.where(magnitudes > 0, MEMORY * magnitudes + (1 - MEMORY) * losses, losses)
    return torch.where(losses.isfinite(), moved, magnitudes)


def _even(config: DenoisingConfig) -> list[float]:
    return [config.weight * SCALES.get(kind, 1.0) for kind in config.objectives]

"""Cross-modal denoising: what a net learns, beside its target, of what the modalities of a sample tell of one another.

Five objectives, a file each. A `DenoisedNet` is a net with the parts they need; `SupervisedAndDenoising` is what it is
trained towards. Whether it helps is measured in docs/BENCHMARKS.md.
"""

from training_core.objectives.denoising.config import OBJECTIVES, DenoisingConfig, DenoisingStage, ObjectiveKind
from training_core.objectives.denoising.net import (
    Denoisable,
    Denoised,
    DenoisedNet,
    chosen_modalities,
    why_not_denoised,
)
from training_core.objectives.denoising.objective import SupervisedAndDenoising, ask_inner_net
from training_core.objectives.denoising.strategies import adapted_weights, first_weights, remembered, staged_weights

__all__ = [
    "OBJECTIVES",
    "Denoisable",
    "Denoised",
    "DenoisedNet",
    "DenoisingConfig",
    "DenoisingStage",
    "ObjectiveKind",
    "SupervisedAndDenoising",
    "adapted_weights",
    "ask_inner_net",
    "chosen_modalities",
    "first_weights",
    "remembered",
    "staged_weights",
    "why_not_denoised",
]

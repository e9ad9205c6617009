"""What nets are trained towards: an objective takes a model and a batch and gives a loss with named terms.

A loss strategy is what an objective like `Supervised` measures with: logits and labels in, a loss out. Those that
settings can name are in a registry.
"""

from training_core.objectives.adapted_losses import PEFTAwareLoss, QuantizationSafeLoss
from training_core.objectives.balance import balanced_class_weights
from training_core.objectives.class_losses import ClassificationLoss, FocalLoss, MultilabelFocalLoss, MultilabelLoss
from training_core.objectives.forward import forward_of
from training_core.objectives.losses import activate
from training_core.objectives.model_output import ModelOutput
from training_core.objectives.position_losses import LanguageModelingLoss, SegmentationLoss
from training_core.objectives.registry import LOSSES, LossStrategyRegistry, default_loss, get_loss_strategy
from training_core.objectives.strategy import ClassWeights, LossInputs, LossStrategy, PerSampleLoss
from training_core.objectives.supervised import (
    Forward,
    Loss,
    Objective,
    Supervised,
    WeightedSum,
    ask_net,
    resolve_loss,
)
from training_core.objectives.value_losses import GaussianNLLLoss, HuberLoss, QuantileLoss, RegressionLoss
from training_core.objectives.vision_loss import VisionLoss
from training_core.schema import IGNORED

__all__ = [
    "IGNORED",
    "LOSSES",
    "ClassWeights",
    "ClassificationLoss",
    "FocalLoss",
    "Forward",
    "GaussianNLLLoss",
    "HuberLoss",
    "LanguageModelingLoss",
    "Loss",
    "LossInputs",
    "LossStrategy",
    "LossStrategyRegistry",
    "ModelOutput",
    "MultilabelFocalLoss",
    "MultilabelLoss",
    "Objective",
    "PEFTAwareLoss",
    "PerSampleLoss",
    "QuantileLoss",
    "QuantizationSafeLoss",
    "RegressionLoss",
    "SegmentationLoss",
    "Supervised",
    "VisionLoss",
    "WeightedSum",
    "activate",
    "ask_net",
    "balanced_class_weights",
    "default_loss",
    "forward_of",
    "get_loss_strategy",
    "resolve_loss",
]

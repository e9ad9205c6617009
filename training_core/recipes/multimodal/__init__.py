"""One member of a multimodal ensemble: a learner on a bag of rows, modalities and features."""

from training_core.recipes.multimodal.config import MultimodalConfig
from training_core.recipes.multimodal.train import train_member

__all__ = ["MultimodalConfig", "train_member"]

"""One member of a multimodal ensemble: a learner on a bag of rows, modalities and features."""

from training_core.recipes.multimodal.config import MultimodalConfig
from training_core.recipes.multimodal.train import member_request

__all__ = ["MultimodalConfig", "member_request"]

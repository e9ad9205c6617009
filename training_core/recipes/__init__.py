"""Training modes: each folder fills the slots of the loop where it differs from the others, and is deletable whole."""

from training_core.recipes.multimodal import MultimodalConfig, member_request

RecipeConfig = MultimodalConfig
"""The recipe of a job. A second recipe turns this into a union told apart by `kind`."""

__all__ = ["MultimodalConfig", "RecipeConfig", "member_request"]

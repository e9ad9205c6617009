"""What to train on a bag, and how."""

from typing import Literal

from training_core.config import Config
from training_core.engine.training import TrainingConfig
from training_core.learners import LearnerConfig


class MultimodalConfig(Config):
    """A learner and the way it is trained."""

    kind: Literal["multimodal"] = "multimodal"
    learner: LearnerConfig
    training: TrainingConfig = TrainingConfig()

    @property
    def unread(self) -> set[str]:
        """Fields that cannot change the result: estimators read no training settings."""
        return {"training"} if self.learner.family == "estimator" else set()

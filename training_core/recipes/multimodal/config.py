"""What to train on a bag, and how."""

from typing import Any, Literal

from training_core.config import Config
from training_core.engine.training import TrainingConfig
from training_core.learners import LearnerConfig
from training_core.objectives.denoising import DenoisingConfig


class MultimodalConfig(Config):
    """A learner and the way it is trained."""

    kind: Literal["multimodal"] = "multimodal"
    learner: LearnerConfig
    training: TrainingConfig = TrainingConfig()
    denoising: DenoisingConfig = DenoisingConfig()

    @property
    def unread(self) -> dict[str, Any]:
        """What cannot change the result, as pydantic's `exclude`: estimators read no training settings at all."""
        if self.learner.family == "estimator":
            return {"training": True, "denoising": True}
        return {"training": {"checkpoint_seconds"}, **({} if self.denoising.enabled else {"denoising": True})}

    @property
    def extras(self) -> tuple[str, ...]:
        """Distributions that decide the result beside those that everything needs."""
        is_net = self.learner.family == "net"
        optimizer = ("pytorch-optimizer",) if is_net and self.training.optimizer in ("lion", "sophia") else ()
        return optimizer + ((self.learner.distribution,) if self.learner.distribution else ())

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether its training can be gone on with when it was interrupted."""
        return self.learner.family == "net" and self.training.checkpoint_seconds > 0

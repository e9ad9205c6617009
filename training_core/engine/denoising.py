"""Denoising in a training: the weights of its objectives follow their strategy, of one learner or of a whole stack."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.loop import Hook, TrainingState
from training_core.objectives.denoising import (
    DenoisingConfig,
    adapted_weights,
    first_weights,
    remembered,
    staged_weights,
)

_WEIGHTS, _MAGNITUDES = "weights", "magnitudes"


class DenoisingWeights(Hook):
    """Changes the weights of a denoised net's objectives between epochs.

    They are buffers of the net, a row per learner in a stack: programs read them in every step and need not be made
    anew, checkpoints have them, and each learner of a stack has its own. To be called before whoever takes learners out
    of a stack.
    """

    def __init__(self, config: DenoisingConfig) -> None:
        self._config = config

    def on_epoch_start(self, state: TrainingState, model: nn.Module | StackedModel) -> None:
        """A curriculum's weights of this epoch."""
        if self._config.strategy == "curriculum":
            weights = _buffers(model)[_WEIGHTS]
            staged = torch.tensor(staged_weights(self._config, state.epoch))
            weights.copy_(staged.expand(weights.shape))

    def on_epoch_end(self, state: TrainingState, model: nn.Module | StackedModel) -> None:
        """Adaptive weights, by what the objectives were in this epoch."""
        if self._config.strategy != "adaptive":
            return
        buffers = _buffers(model)
        magnitudes = buffers[_MAGNITUDES]
        losses = [state.values[f"denoising/{kind}"] for kind in self._config.objectives]
        magnitudes.copy_(remembered(magnitudes, torch.stack(losses, dim=-1).to(magnitudes)))
        buffers[_WEIGHTS].copy_(adapted_weights(torch.tensor(first_weights(self._config)), magnitudes))


def _buffers(model: nn.Module | StackedModel) -> Mapping[str, Tensor]:
    return model.buffers if isinstance(model, StackedModel) else dict(model.named_buffers())

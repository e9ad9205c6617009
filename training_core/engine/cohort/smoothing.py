"""Label smoothing in a stack: a share of its own for each learner, as a number that programs read in every step."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from training_core.objectives import Loss, Objective
from training_core.objectives.losses import smoothed_labels
from training_core.schema import Batch, TaskSpec

SMOOTHING = "label_smoothing"
"""The buffer of a stack's net that holds the learner's share."""


class OwnSmoothing:
    """An objective whose targets are moved, by the share of the learner that is asked, before it judges by them.

    The objective is one of the loss that `loss_of_shares` gives: then all is as with `label_smoothing` in the loss.
    """

    def __init__(self, objective: Objective, task: TaskSpec) -> None:
        self.objective = objective
        self.num_classes = task.num_outputs if task.kind == "classification" else None

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss on targets that were smoothed."""
        share, target = model.get_buffer(SMOOTHING), batch.target
        assert target is not None, "what is trained towards has a target"
        return self.objective(model, replace(batch, target=_moved(target, share, self.num_classes)))


def _moved(target: Tensor, share: Tensor, num_classes: int | None) -> Tensor:
    """Labels [B, L] moved towards one half; class codes [B], or shares of classes, as the share of each, [B, C]."""
    if num_classes is None:
        return smoothed_labels(target.to(share.dtype), share)
    if not target.is_floating_point():
        target = (target.unsqueeze(-1) == torch.arange(num_classes, device=target.device)).to(share.dtype)
    return (1 - share) * target + share / num_classes

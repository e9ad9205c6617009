"""Consistency: what a net says with modalities hidden is to be what it says with all of them.

The full view teaches the one in part and is not moved by it: self-distillation, whose teacher is the net itself.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_core.objectives.denoising.views import Judged, Views, masked_mean
from training_core.schema import TaskSpec


class Consistency(nn.Module):
    """The divergence of answers to a part of what is present from the answer to all of it.

    The part that is shown and, where the net is asked for it too, the rest.
    """

    def __init__(self, task: TaskSpec) -> None:
        super().__init__()
        self.task = task

    def forward(self, views: Views) -> Judged:
        """Mean over rows and parts; a modality's share is the mean over those in which it is hidden."""
        full = views.full.detach()
        losses = [divergence(self.task, full, views.raw)]
        hidden = [views.present & ~views.shown]
        if views.rest is not None and views.in_rest is not None:
            losses.append(divergence(self.task, full, views.rest))
            hidden.append(views.present & ~views.in_rest)
        joined = torch.cat(losses)
        counted = views.counted.repeat(len(losses))
        return Judged(masked_mean(joined, counted), masked_mean(joined.unsqueeze(1), torch.cat(hidden), dim=0))


def divergence(task: TaskSpec, full: Tensor, shown: Tensor) -> Tensor:
    """KL(full ‖ shown) of the predictions that raw outputs [B, C] stand for, [B].

    Classification: Σ_c p_c (log p_c - log q_c) (Kullback & Leibler 1951; as in Hinton et al. 2015,
    arXiv:1503.02531, section 2). Multilabel: of each label's two outcomes, averaged over the labels. Regression: of two
    Gaussians of variance 1, (μ - ν)² / 2, averaged over the columns.
    """
    if task.kind == "classification":
        known, told = full.log_softmax(dim=-1), shown.log_softmax(dim=-1)
        return (known.exp() * (known - told)).sum(dim=-1)
    if task.kind == "multilabel":
        on, off = functional.logsigmoid(full), functional.logsigmoid(-full)
        told_on, told_off = functional.logsigmoid(shown), functional.logsigmoid(-shown)
        return (on.exp() * (on - told_on) + off.exp() * (off - told_off)).mean(dim=-1)
    return 0.5 * (full - shown).square().mean(dim=-1)

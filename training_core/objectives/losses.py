"""Losses per sample, and what raw outputs mean, for every task. B samples, C outputs."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from training_core.schema import TaskSpec

if TYPE_CHECKING:
    import torch


def activate(task: TaskSpec, raw: Tensor) -> Tensor:
    """Raw outputs [B, C] as predictions: class probabilities (rows sum to 1), label probabilities, or values."""
    if task.kind == "classification":
        return raw.softmax(dim=-1)
    return raw.sigmoid() if task.kind == "multilabel" else raw


def cross_entropy(raw: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy [B] of logits [B, C] with class codes int64 [B].

    A share `label_smoothing` of the target is spread evenly over all classes (Szegedy et al. 2016,
    arXiv:1512.00567, section 7).
    """
    log_probabilities = raw.log_softmax(dim=-1)
    chosen = -log_probabilities.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return (1 - label_smoothing) * chosen - label_smoothing * log_probabilities.mean(dim=-1)


def binary_cross_entropy(raw: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy [B, L] of logits with labels 0/1 [B, L], smoothed towards one half."""
    smoothed = (1 - label_smoothing) * target + 0.5 * label_smoothing
    return functional.binary_cross_entropy_with_logits(raw, smoothed, reduction="none")


def squared_error(raw: Tensor, target: Tensor) -> Tensor:
    """Squared error [B], averaged over the target columns [B, K]."""
    return (raw - target).square().mean(dim=-1)


def weighted_mean(losses: Tensor, weight: "torch.Tensor | None") -> Tensor:
    """Mean of `losses` [B], each counting `weight` [B] (1 when None); 0 when all weights are 0."""
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp(min=1e-12)

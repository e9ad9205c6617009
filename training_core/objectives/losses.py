"""Losses per sample, and what raw outputs mean, for every task. B samples, C outputs.

All of them work under `torch.func.vmap`: nothing depends on the values in a tensor, nothing is read back.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training_core.schema import TaskSpec

_LEAST_LOG_VARIANCE = math.log(1e-6)


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
    return functional.cross_entropy(raw, target, reduction="none", label_smoothing=label_smoothing)


def focal_factor(losses: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma of losses that are -log p: what makes a sample count less the surer its answer is.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 4.
    """
    # Held above 0: where p rounds to 1, the slope of the power is infinite for gamma < 1.
    return (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny) ** gamma


def binary_cross_entropy(raw: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy [B, L] of logits with labels 0/1 [B, L], smoothed towards one half."""
    return functional.binary_cross_entropy_with_logits(raw, smoothed_labels(target, label_smoothing), reduction="none")


def smoothed_labels(target: Tensor, label_smoothing: float | Tensor) -> Tensor:
    """Labels 0/1 moved towards one half by a share `label_smoothing`; the very tensor when that is the number 0."""
    if isinstance(label_smoothing, Tensor) or label_smoothing:
        return (1 - label_smoothing) * target + 0.5 * label_smoothing
    return target


def squared_error(raw: Tensor, target: Tensor) -> Tensor:
    """Squared error [B], averaged over the target columns [B, K]."""
    return (raw - target).square().mean(dim=-1)


def huber(raw: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Huber loss [B], averaged over the target columns [B, K]: e²/2 up to |e| = delta, delta·(|e| - delta/2) beyond.

    Source: Huber 1964, doi:10.1214/aoms/1177703732.
    """
    return functional.huber_loss(raw, target, reduction="none", delta=delta).mean(dim=-1)


def pinball(raw: Tensor, target: Tensor, quantiles: Tensor) -> Tensor:
    """Pinball loss [B], averaged over columns and quantiles; its minimum is at the quantiles of the target.

    With e = target - raw it is q·e where e ≥ 0 and (q - 1)·e elsewhere (Koenker & Bassett 1978, doi:10.2307/1913643).

    Args:
        raw: [B, K, Q].
        target: [B, K].
        quantiles: in (0, 1), [Q].
    """
    error = target.unsqueeze(-1) - raw
    return torch.maximum(quantiles * error, (quantiles - 1) * error).mean(dim=(-2, -1))


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """-log N(target; mean, variance) [B] without its constant log(2π)/2, averaged over the target columns [B, K].

    Source: Nix & Weigend 1994, doi:10.1109/ICNN.1994.374138. Of the logarithm of the variance, so that it is positive
    by itself. It is held above 1e-6, as torch does, or a target met exactly would let it fall without end.
    """
    log_variance = log_variance.clamp(min=_LEAST_LOG_VARIANCE)
    return (0.5 * (log_variance + (target - mean).square() * torch.exp(-log_variance))).mean(dim=-1)

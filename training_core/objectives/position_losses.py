"""Losses with one class per position: the next token of a sequence, the class of a pixel.

B samples, T tokens, V ids of the vocabulary, C classes. Positions labelled -100 count for nothing. The loss of a sample
is the mean over its positions that count, and a sample counts as many times as it has such positions, so the loss of a
batch is the mean over all its positions, however long its samples are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from training_core.objectives.strategy import (
    ClassWeights,
    LossInputs,
    PerSampleLoss,
    checked_smoothing,
    class_factors,
    expect,
)
from training_core.schema import IGNORED, TaskKind, TaskUnit


@dataclass(frozen=True, eq=False)
class LanguageModelingLoss(PerSampleLoss):
    """Cross-entropy of each token with what was said of it before: logits [B, T, V] and labels int64 [B, T].

    Labels are the ids themselves, not shifted, as Hugging Face models expect: the logits at a position are held
    against the label of the next one. Padding does not count: labels of -100, of `pad_token_id`, or where
    `attention_mask` is 0.

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "next_token_cross_entropy"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification"})
    units: ClassVar[frozenset[TaskUnit]] = frozenset({"next_token"})

    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is spread evenly over the vocabulary."""

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Mean over the real tokens of each sequence but its first, [B]; 0 where there is none."""
        wanted = _next_tokens(labels, inputs)
        raw = logits[..., :-1, :].movedim(-1, 1)
        losses = functional.cross_entropy(
            raw, wanted, ignore_index=IGNORED, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses.sum(dim=-1) / (wanted != IGNORED).sum(dim=-1).clamp(min=1)

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The number of tokens to foretell in each sequence, times its own weight."""
        counts = (_next_tokens(labels, inputs) != IGNORED).sum(dim=-1)
        own = None if inputs is None else inputs.get("sample_weight")
        return counts if own is None else own * counts

    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities of the token after each position, [B, T, V]."""
        return logits.softmax(dim=-1)

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Logits [B, T, V] and ids int64 [B, T], T at least 2."""
        fits = logits.ndim == 3 and labels.shape == logits.shape[:2] and logits.is_floating_point()
        fits = fits and labels.dtype == torch.int64 and labels.shape[1] > 1
        expect(fits, self, logits, labels, "logits float [B, T, V] and token ids int64 [B, T], T at least 2")


@dataclass(frozen=True, eq=False)
class SegmentationLoss(PerSampleLoss):
    """Cross-entropy of every pixel: logits [B, C, H, W] and class codes int64 [B, H, W].

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "pixel_cross_entropy"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification"})
    units: ClassVar[frozenset[TaskUnit]] = frozenset({"pixel"})

    ignore_index: int = IGNORED
    """Label of pixels that do not count; many data sets use 255."""
    class_weights: ClassWeights | None = None
    """What a pixel of each class counts; the loss stays a weighted mean."""
    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)
        object.__setattr__(self, "class_weights", class_factors(self.class_weights))

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Mean over the pixels of each image that count, [B]; 0 where there is none."""
        per_pixel = functional.cross_entropy(
            logits, labels, ignore_index=self.ignore_index, reduction="none", label_smoothing=self.label_smoothing
        ).flatten(-2)
        counts = self._pixel_weights(labels, inputs).to(per_pixel.dtype)
        return (per_pixel * counts).sum(dim=-1) / counts.sum(dim=-1).clamp(min=1e-12)

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The pixels of each image, as far as they count, times its own weight."""
        counts = self._pixel_weights(labels, inputs).sum(dim=-1)
        own = None if inputs is None else inputs.get("sample_weight")
        return counts if own is None else own * counts.to(own.dtype)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities of every pixel, [B, C, H, W]."""
        return logits.softmax(dim=-3)

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Logits [B, C, H, W] and codes int64 [B, H, W]."""
        fits = logits.ndim == 4 and labels.shape == (logits.shape[0], *logits.shape[2:]) and logits.is_floating_point()
        fits = fits and labels.dtype == torch.int64
        expect(fits, self, logits, labels, "logits float [B, C, H, W] and class codes int64 [B, H, W]")

    def _pixel_weights(self, labels: Tensor, inputs: LossInputs | None) -> Tensor:
        """What each pixel counts, [B, H · W]."""
        counts = (labels != self.ignore_index).flatten(-2)
        given = None if inputs is None else inputs.get("class_weights")
        factors = self.class_weights if given is None else given
        if not isinstance(factors, Tensor):
            return counts
        # The code that is ignored is no class; any class will do in its place, since it counts nothing.
        return factors.to(labels.device)[labels.flatten(-2) * counts] * counts


def _next_tokens(labels: Tensor, inputs: LossInputs | None) -> Tensor:
    """The labels of all positions but the first, [B, T - 1], -100 where they do not count."""
    wanted = labels[..., 1:]
    if inputs is None:
        return wanted
    mask, pad_id = inputs.get("attention_mask"), inputs.get("pad_token_id")
    if mask is not None:
        wanted = wanted.masked_fill(mask[..., 1:] == 0, IGNORED)
    return wanted if pad_id is None else wanted.masked_fill(wanted == pad_id, IGNORED)

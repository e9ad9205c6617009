"""Losses of classes and labels. B samples, C classes, L labels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from training_core.errors import ConfigError
from training_core.objectives.losses import binary_cross_entropy, cross_entropy, focal_factor, smoothed_labels
from training_core.objectives.strategy import (
    ClassWeights,
    LossInputs,
    PerSampleLoss,
    checked_smoothing,
    class_factors,
    expect,
)
from training_core.schema import TaskKind


@dataclass(frozen=True, eq=False)
class ClassificationLoss(PerSampleLoss):
    """Cross-entropy of logits [B, C] with class codes int64 [B].

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "cross_entropy"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification"})

    class_weights: ClassWeights | None = None
    """What a sample of each class counts, beside its own weight; the loss stays a weighted mean."""
    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)
        object.__setattr__(self, "class_weights", class_factors(self.class_weights))

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Cross-entropy [B]; class weights are in `weights`."""
        return cross_entropy(logits, labels, self.label_smoothing)

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor | None:
        """The weight of each sample's class, times its own."""
        own = None if inputs is None else inputs.get("sample_weight")
        given = None if inputs is None else inputs.get("class_weights")
        factors = self.class_weights if given is None else given
        if not isinstance(factors, Tensor):
            return own
        chosen = factors.to(labels.device)[labels]
        return chosen if own is None else own * chosen.to(own.dtype)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In torch's one operation, a third of the time of its parts."""
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities [B, C]."""
        return logits.softmax(dim=-1)

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Logits [B, C] and codes int64 [B]."""
        fits = logits.ndim == 2 and labels.shape == logits.shape[:1] and logits.is_floating_point()
        whole = labels.dtype == torch.int64
        expect(fits and whole, self, logits, labels, "logits float [B, C] and class codes int64 [B]")
        _expect_class_weights(self, logits)


@dataclass(frozen=True, eq=False)
class ClassSharesLoss(PerSampleLoss):
    """Cross-entropy of logits [B, C] with how much of a sample is of each class, float [B, C], rows of sum 1.

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "cross_entropy"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification"})

    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is spread evenly over all classes."""

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Cross-entropy [B]."""
        return cross_entropy(logits, labels, self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities [B, C]."""
        return logits.softmax(dim=-1)

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Logits and shares [B, C]."""
        fits = logits.ndim == 2 and labels.shape == logits.shape
        floats = logits.is_floating_point() and labels.is_floating_point()
        expect(fits and floats, self, logits, labels, "logits and shares of classes, both float [B, C]")


@dataclass(frozen=True, eq=False)
class FocalLoss(ClassificationLoss):
    """Cross-entropy times (1 - p)^gamma, p the probability given to the right class: sure answers hardly count.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 5, for several classes; class weights are its alpha.
    """

    name: ClassVar[str] = "focal"

    gamma: float = 2.0
    """0 is plain cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gamma(self)

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Focal loss [B]."""
        losses = cross_entropy(logits, labels)
        return focal_factor(losses, self.gamma) * losses

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses`."""
        return self.losses(logits, labels).mean()


@dataclass(frozen=True, eq=False)
class MultilabelLoss(PerSampleLoss):
    """Binary cross-entropy of logits [B, L] with labels 0/1 [B, L], averaged over the labels.

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"multilabel"})

    class_weights: ClassWeights | None = None
    """What a positive of each label counts, a negative counting 1."""
    label_smoothing: float = 0.0
    """Share of the target, in [0, 1), that is moved to one half."""

    def __post_init__(self) -> None:
        checked_smoothing(self.label_smoothing)
        object.__setattr__(self, "class_weights", class_factors(self.class_weights))

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Binary cross-entropy [B]."""
        labels = labels.to(logits.dtype)
        per_label = self._per_label(logits, labels)
        given = None if inputs is None else inputs.get("class_weights")
        factors = self.class_weights if given is None else given
        if isinstance(factors, Tensor):
            per_label = per_label * (1 + labels * (factors.to(logits.device, logits.dtype) - 1))
        return per_label.mean(dim=-1)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """In torch's one operation where labels have no weights."""
        if self.class_weights is not None:
            return self.losses(logits, labels).mean()
        labels = smoothed_labels(labels.to(logits.dtype), self.label_smoothing)
        return functional.binary_cross_entropy_with_logits(logits, labels)

    def predict(self, logits: Tensor) -> Tensor:
        """Label probabilities [B, L]."""
        return logits.sigmoid()

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Logits and labels [B, L]."""
        fits = logits.ndim == 2 and labels.shape == logits.shape and logits.is_floating_point()
        expect(fits, self, logits, labels, "logits float [B, L] and labels 0/1 [B, L]")
        _expect_class_weights(self, logits)

    def _per_label(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, L], before label weights."""
        return binary_cross_entropy(logits, labels, self.label_smoothing)


@dataclass(frozen=True, eq=False)
class MultilabelFocalLoss(MultilabelLoss):
    """Binary cross-entropy times (1 - p)^gamma, p the probability given to what a label really is.

    Source: Lin et al. 2017, arXiv:1708.02002, eq. 4.
    """

    name: ClassVar[str] = "multilabel_focal"

    gamma: float = 2.0
    """0 is plain binary cross-entropy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gamma(self)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses`."""
        return self.losses(logits, labels).mean()

    def _per_label(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = binary_cross_entropy(logits, labels)
        return focal_factor(losses, self.gamma) * losses


def _check_gamma(loss: FocalLoss | MultilabelFocalLoss) -> None:
    if not 0 <= loss.gamma < float("inf"):
        raise ConfigError(f"gamma is {loss.gamma}; it must be a number from 0 on")
    if loss.label_smoothing:
        raise ConfigError(f"the loss {loss.name} takes no `label_smoothing`: the two pull in opposite directions")


def _expect_class_weights(loss: ClassificationLoss | MultilabelLoss, logits: Tensor) -> None:
    """As many class weights as outputs."""
    if isinstance(loss.class_weights, Tensor) and len(loss.class_weights) != logits.shape[-1]:
        got, expected = len(loss.class_weights), logits.shape[-1]
        raise ConfigError(f"{loss.name}: got {got} class weights for {expected} outputs; give one for each")

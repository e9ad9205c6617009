"""What a loss strategy is: logits and labels in, one scalar out, or one loss per sample."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NotRequired, Protocol, Self, TypedDict, runtime_checkable

import torch
from torch import Tensor

from training_core.errors import ConfigError, DataError
from training_core.schema import TaskKind, TaskSpec, TaskUnit

ClassWeights = Sequence[float] | Tensor
"""What each class counts, [C], positive. As a tensor on the device of the batches they are not copied in every step."""


class LossInputs(TypedDict):
    """What a loss may be told beside logits and labels; a strategy reads what concerns it."""

    sample_weight: NotRequired[Tensor | None]
    """What each sample counts, [B]; every per-sample loss reads it."""
    class_weights: NotRequired[Tensor | None]
    """What each class counts, [C]; stands over the strategy's own."""
    attention_mask: NotRequired[Tensor | None]
    """Language modelling: 0 at positions that are padding, [B, T]."""
    pad_token_id: NotRequired[int | None]
    """Language modelling: the id that is padding wherever it stands."""


@runtime_checkable
class LossStrategy(Protocol):
    """How far logits are from labels. The least a strategy can do; `PerSampleLoss` can do more."""

    def compute_loss(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The loss of a batch: a differentiable scalar, the mean over what counts in it."""
        ...

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Look at shapes and types, not at values.

        Raises:
            DataError: they do not fit; says what was got and what is expected.
        """
        ...


@dataclass(frozen=True, eq=False)
class PerSampleLoss(ABC):
    """A loss strategy with one loss per sample, so that samples can be weighted, accumulated and trained in cohorts.

    The loss of a batch is the mean of `losses`, weighted by `weights`. Subclasses are frozen dataclasses whose fields
    are the loss's settings. They work under `torch.func.vmap`.
    """

    name: ClassVar[str]
    """What the loss is called in metrics."""
    tasks: ClassVar[frozenset[TaskKind]]
    """The tasks it can be the loss of."""
    units: ClassVar[frozenset[TaskUnit]] = frozenset({"sample"})
    """What gets a class of its own."""
    outputs_per_target: ClassVar[int] = 1
    """Outputs of a model for each class, label or target column."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The loss of each sample, [B], before it is weighted."""

    @abstractmethod
    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """Look at shapes and types, not at values.

        Raises:
            DataError: they do not fit; says what was got and what is expected.
        """

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """What logits say: probabilities, or values."""

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor | None:
        """What each sample counts in the mean, [B]; None when all count 1."""
        return None if inputs is None else inputs.get("sample_weight")

    def compute_loss(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """The loss of a batch, a scalar; 0 when nothing in it counts."""
        return self.mean(logits, labels, inputs)[0]

    def mean(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch and the sum of the weights it is a mean over, both scalars; None where all count 1."""
        weights = self.weights(labels, inputs)
        if weights is None:
            return self.plain_mean(logits, labels), None
        losses = self.losses(logits, labels, inputs)
        weights = weights if weights.is_floating_point() else weights.to(losses.dtype)
        total = weights.sum()
        return (losses * weights).sum() / total.clamp(min=1e-12), total

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of `losses` where all samples count 1; to be overridden where torch has it in one operation."""
        return self.losses(logits, labels).mean()

    def for_task(self, task: TaskSpec) -> Self:
        """This loss for `task`.

        Raises:
            ConfigError: it is no loss for such a task.
        """
        if task.kind not in self.tasks:
            fitting = " and ".join(sorted(self.tasks))
            raise ConfigError(f"the loss {self.name} is for {fitting}; this task is {task.kind}")
        if task.unit not in self.units:
            fitting = " or ".join(sorted(self.units))
            raise ConfigError(f"the loss {self.name} is of each {fitting}; this task has a class for each {task.unit}")
        return self

    def with_options(self, label_smoothing: float = 0.0, class_weights: ClassWeights | None = None) -> Self:
        """This loss with other settings; those that are 0 or None stay as they are.

        Raises:
            ConfigError: it has no such setting.
        """
        given = {"label_smoothing": label_smoothing or None, "class_weights": class_weights}
        wanted = {name: value for name, value in given.items() if value is not None}
        if unknown := [name for name in wanted if name not in {field.name for field in fields(self)}]:
            raise ConfigError(f"the loss {self.name} takes no `{unknown[0]}`; leave it out or choose another loss")
        return replace(self, **wanted) if wanted else self


def expect(fits: bool, loss: PerSampleLoss, logits: Tensor, labels: Tensor, expected: str) -> None:
    """Raise a `DataError` that names what was got unless it `fits`."""
    if not fits:
        raise DataError(
            f"{loss.name}: got logits {logits.dtype} {list(logits.shape)} and labels {labels.dtype} "
            f"{list(labels.shape)}; expected {expected}".replace("torch.", "")
        )


def checked_smoothing(label_smoothing: float) -> None:
    """Raise a `ConfigError` unless it is in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"`label_smoothing` is {label_smoothing}; it must be in [0, 1)")


def class_factors(class_weights: ClassWeights | None) -> Tensor | None:
    """Class weights as a tensor; one that is given stays where it is.

    Raises:
        ConfigError: one is not a positive number.
    """
    if class_weights is None:
        return None
    factors = torch.as_tensor(class_weights, dtype=None if isinstance(class_weights, Tensor) else torch.float64)
    if factors.ndim != 1 or not bool(((factors > 0) & factors.isfinite()).all()):
        raise ConfigError(f"class weights are {factors.tolist()}; they must be positive numbers, one per class")
    return factors

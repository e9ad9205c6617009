"""Losses around another loss: for models of which only adapters are trained, and for those that will be quantised."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from training_core.errors import ConfigError
from training_core.objectives.strategy import ClassWeights, LossInputs, PerSampleLoss
from training_core.schema import TaskKind, TaskSpec


@dataclass(frozen=True, eq=False)
class WrappedLoss(PerSampleLoss):
    """A loss around another one, by default the task's own, to which it leaves everything it does not change."""

    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"classification", "multilabel", "regression"})

    loss: PerSampleLoss | None = None
    """What is wrapped; None: the loss of the task it is used for."""

    @property
    def outputs_per_target(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the wrapped loss."""
        return self.wrapped.outputs_per_target

    @property
    def wrapped(self) -> PerSampleLoss:
        """The loss inside.

        Raises:
            ConfigError: it is not known yet.
        """
        if self.loss is None:
            raise ConfigError(f"the loss {self.name} wraps another one: give it `loss`, or a task with `for_task`")
        return self.loss

    def for_task(self, task: TaskSpec) -> Self:
        """Around the loss it has, or else around the task's own."""
        from training_core.objectives.registry import default_loss

        return replace(self, loss=default_loss(task) if self.loss is None else self.loss.for_task(task))

    def with_options(self, label_smoothing: float = 0.0, class_weights: ClassWeights | None = None) -> Self:
        """Around a loss with other settings."""
        return replace(self, loss=self.wrapped.with_options(label_smoothing, class_weights))

    def losses(self, logits: Tensor, labels: Tensor, inputs: LossInputs | None = None) -> Tensor:
        """Those of the wrapped loss."""
        return self.wrapped.losses(self._logits(logits), labels, inputs)

    def weights(self, labels: Tensor, inputs: LossInputs | None = None) -> Tensor | None:
        """Those of the wrapped loss."""
        return self.wrapped.weights(labels, inputs)

    def plain_mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """That of the wrapped loss."""
        return self.wrapped.plain_mean(self._logits(logits), labels)

    def predict(self, logits: Tensor) -> Tensor:
        """What the wrapped loss makes of the logits it is shown."""
        return self.wrapped.predict(self._logits(logits))

    def validate_inputs(self, logits: Tensor, labels: Tensor) -> None:
        """As the wrapped loss."""
        self.wrapped.validate_inputs(logits, labels)

    def _logits(self, logits: Tensor) -> Tensor:
        """What the wrapped loss is shown."""
        return logits


@dataclass(frozen=True, eq=False)
class PEFTAwareLoss(WrappedLoss):
    """For parameter-efficient fine-tuning: makes sure that only adapters learn.

    Once it knows the model (`bound_to`), it refuses to go on when a parameter of the base would be trained, has got a
    gradient, or when nothing would be trained at all. Before, it is the wrapped loss and nothing more.
    """

    name: ClassVar[str] = "peft_aware"

    base: tuple[tuple[str, nn.Parameter], ...] = field(default=(), repr=False)
    """The parameters that stand still, with their names."""

    def bound_to(self, model: nn.Module, adapters: tuple[str, ...] = ()) -> Self:
        """This loss, watching over the base of `model`.

        Args:
            model: the model, its base frozen.
            adapters: texts of which one is in the name of every parameter that may learn, such as `lora_`. By default
                the base is what is frozen now.

        Raises:
            ConfigError: nothing can learn, nothing is frozen, or a parameter that is no adapter can.
        """
        named = tuple(model.named_parameters())
        if adapters:
            base = tuple((name, p) for name, p in named if not any(part in name for part in adapters))
        else:
            base = tuple((name, p) for name, p in named if not p.requires_grad)
        if not base or not any(p.requires_grad for _, p in named):
            raise ConfigError(
                f"{self.name}: {len(base)} of {len(named)} parameters are of the base and "
                f"{sum(p.requires_grad for _, p in named)} can learn; freeze the base and leave the adapters trainable"
            )
        bound = replace(self, base=base)
        bound.check()
        return bound

    def check(self) -> None:
        """Look at the base.

        Raises:
            ConfigError: one of its parameters would be trained or has a gradient.
        """
        wild = [name for name, parameter in self.base if parameter.requires_grad or parameter.grad is not None]
        if wild:
            raise ConfigError(
                f"{self.name}: {len(wild)} parameters of the base are trained, '{wild[0]}' first; "
                "only adapters may be: set their requires_grad to False and their grad to None"
            )

    def _logits(self, logits: Tensor) -> Tensor:
        self.check()
        return logits


@dataclass(frozen=True, eq=False)
class QuantizationSafeLoss(WrappedLoss):
    """Shows the wrapped loss logits as a quantised model would give them, and keeps gradients into them small.

    Each sample's logits are rounded to the levels of `bits` bits between the ends of their own range; the gradient
    passes as if they had not been (straight-through: Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018,
    arXiv:1712.05877, section 3). The gradient of the batch's loss by every logit is cut at `clip_gradient`.

    Raises:
        ConfigError: a setting is out of bounds.
    """

    name: ClassVar[str] = "quantization_safe"

    bits: int = 8
    """Of the integers the deployed model calculates with, 2 to 16."""
    symmetric: bool = True
    """Levels lie around 0, as far as the largest magnitude; else between the smallest and the largest value."""
    clip_gradient: float = 1.0
    """Largest magnitude of a gradient into a logit."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ConfigError(f"bits is {self.bits}; choose 2 to 16, usually 8 or 4")
        if not self.clip_gradient > 0:
            raise ConfigError(f"clip_gradient is {self.clip_gradient}; it must be positive, or infinity for no cutting")

    def _logits(self, logits: Tensor) -> Tensor:
        shown = _ClippedGradient.apply(logits, self.clip_gradient)
        assert isinstance(shown, Tensor)
        return shown + (quantised(logits.detach(), self.bits, self.symmetric) - logits.detach())


def quantised(values: Tensor, bits: int, symmetric: bool = True) -> Tensor:
    """`values` [B, …] rounded to the levels of integers of `bits` bits, with a range of its own for each row.

    Symmetric: multiples of max|x| / (2^(bits-1) - 1). Else 2^bits levels from the smallest value, or 0, to the
    largest, or 0, one of which is 0 exactly.
    """
    flat = values.flatten(1)
    smallest = torch.finfo(values.dtype).tiny
    if symmetric:
        levels = 2 ** (bits - 1) - 1
        scale = (flat.abs().amax(dim=1, keepdim=True) / levels).clamp(min=smallest)
        return ((flat / scale).round() * scale).view_as(values)
    low, high = flat.amin(dim=1, keepdim=True).clamp(max=0), flat.amax(dim=1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=smallest)
    zero = (-low / scale).round()
    codes = ((flat / scale).round() + zero).clamp(0, 2**bits - 1)
    return ((codes - zero) * scale).view_as(values)


class _ClippedGradient(torch.autograd.Function):
    """The identity, whose gradient is cut at ±limit."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, limit: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # pyright: ignore
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        return gradient.clamp(-ctx.limit, ctx.limit), None

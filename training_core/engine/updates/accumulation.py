"""Several batches, one update: the gradient of the mean over all their samples, however unequal the batches are.

A mean of the batches' means would weigh a sample by the size of its batch. Here a batch's loss, a mean over weight `w`,
is multiplied by `w` before it is differentiated, and the sum of the gradients is divided by the sum of the weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training_core.objectives import Loss
from training_core.schema import Batch

_SMALLEST_WEIGHT = 1e-12  # as in `weighted_mean`: samples that weigh nothing have no gradient, rather than NaN


@dataclass(frozen=True)
class AccumulationStats:
    """Where training by accumulated gradients stands. Tensors are on the model's device: reading one waits for it."""

    global_step: int
    """Batches differentiated."""
    effective_step: int
    """Updates made."""
    num_batches: int
    """Batches in the window that is open."""
    norm_before_clip: Tensor | None
    """Norm of all gradients together at the last update; None before the first, or when norms are not measured."""
    norm_after_clip: Tensor | None
    num_parameters: int
    """Numbers that can change."""


def weight_of(loss: Loss, batch: Batch) -> int | Tensor:
    """What `loss.total` is a mean over: the sum of the weights of the samples of `batch`, or their number."""
    if loss.weight is not None:
        return loss.weight.detach()
    return len(batch) if batch.weight is None else batch.weight.sum()


def merged(losses: Sequence[Loss], weights: Sequence[int | Tensor]) -> Loss:
    """The loss of the parts of a batch as that of the batch: the mean by their weights."""
    whole: Any = sum(weights)
    if isinstance(whole, Tensor):
        whole = whole.clamp(min=_SMALLEST_WEIGHT)
    pairs = list(zip(losses, weights, strict=True))
    total: Any = sum(loss.total * weight for loss, weight in pairs) / whole
    terms: dict[str, Any] = {
        name: sum(loss.terms[name] * weight for loss, weight in pairs) / whole for name in losses[0].terms
    }
    return Loss(total, terms)


class Window:
    """The batches since the last update: how many, and what they weigh together. Their gradients add up in `grad`."""

    def __init__(self, num_batches: int) -> None:
        """A window of `num_batches`, empty."""
        self._full = num_batches
        self.num_batches = 0
        self.weight: int | Tensor = 0
        self.is_weighed = False
        """Whether the gradients were multiplied by the weights; not needed where one batch in one piece is all."""

    @property
    def is_full(self) -> bool:
        """Whether an update is due."""
        return self.num_batches >= self._full

    @property
    def closes_next(self) -> bool:
        """Whether the next batch is the last."""
        return self.num_batches + 1 >= self._full

    def add(self, weight: int | Tensor, is_weighed: bool) -> None:
        """One more batch."""
        self.num_batches += 1
        self.is_weighed = is_weighed
        self.weight = self.weight + weight

    def clear(self) -> None:
        """After an update."""
        self.num_batches, self.weight = 0, 0

    def state_dict(self) -> dict[str, Any]:
        """How far the window is filled."""
        return {"num_batches": self.num_batches, "weight": self.weight, "is_weighed": self.is_weighed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.num_batches, self.weight, self.is_weighed = state["num_batches"], state["weight"], state["is_weighed"]


def divide(gradients: list[Tensor], by: float | Tensor) -> None:
    """Divide all of `gradients`, in place."""
    if isinstance(by, Tensor):
        by = by.clamp(min=_SMALLEST_WEIGHT)
    torch._foreach_div_(gradients, by)  # pyright: ignore[reportPrivateImportUsage, reportArgumentType, reportCallIssue]


def take_gradients(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Take the gradients off `parameters`, which have none afterwards."""
    gradients = []
    for parameter in parameters:
        gradients.append(parameter.grad)
        parameter.grad = None
    return gradients


def add_gradients(parameters: Sequence[Tensor], earlier: Sequence[Tensor | None]) -> None:
    """Add what was taken off `parameters` to the gradients they have now."""
    pairs = [(parameter, old) for parameter, old in zip(parameters, earlier, strict=True) if old is not None]
    both = [(old, parameter.grad) for parameter, old in pairs if parameter.grad is not None]
    if both:
        torch._foreach_add_([old for old, _ in both], [new for _, new in both])  # pyright: ignore[reportPrivateImportUsage]
    for parameter, old in pairs:
        parameter.grad = old


def joint_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all of `tensors` together, as a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))  # pyright: ignore[reportPrivateImportUsage]


class Clipping:
    """Bounds gradients: their joint norm first, each single number then; both bounds hold afterwards."""

    def __init__(self, norm: float, value: float) -> None:
        """`norm`: of all gradients together. `value`: magnitude of a single number. 0 sets no bound."""
        self._norm = norm
        self._value = value
        self._before: Tensor | None = None
        self._cut: Tensor | None = None

    @property
    def needs_norm(self) -> bool:
        """Whether the norm of the gradients must be known."""
        return self._norm > 0

    def __call__(self, gradients: list[Tensor], norm: Tensor | None) -> None:
        """Clip in place; `norm` is theirs.

        A gradient that is not finite is not hidden: the norm says so, and so does the model after the step.
        """
        self._before = norm
        if self._norm > 0:
            assert norm is not None, "whoever clips by the norm measures it"
            # Dividing by max(norm / bound, 1) leaves a short gradient exactly as it is and a zero one zero.
            excess = norm.clamp(min=self._norm)
            torch._foreach_div_(gradients, excess if self._norm == 1 else excess / self._norm)  # pyright: ignore[reportPrivateImportUsage]
        if self._value > 0:
            torch._foreach_clamp_min_(gradients, -self._value)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_clamp_max_(gradients, self._value)  # pyright: ignore[reportPrivateImportUsage]
            self._cut = None if norm is None else joint_norm(gradients)

    @property
    def norm_before(self) -> Tensor | None:
        """Of the gradients that were clipped last, before that; None when it was not measured."""
        return self._before

    @property
    def norm_after(self) -> Tensor | None:
        """The norm afterwards, computed when it is asked for where that is possible."""
        if self._value > 0 or self._before is None:
            return self._cut
        return self._before.clamp(max=self._norm) if self._norm > 0 else self._before

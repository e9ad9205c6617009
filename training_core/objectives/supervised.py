"""Objectives: what a net is trained towards. `Supervised` is the target itself; `WeightedSum` composes several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training_core.errors import ConfigError
from training_core.objectives.losses import binary_cross_entropy, cross_entropy, squared_error, weighted_mean
from training_core.schema import Batch, TaskSpec


@dataclass(frozen=True)
class Loss:
    """A scalar to descend, and the named scalars it is made of, before they were weighted."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(Protocol):
    """Judges a model on a batch. Losses are means over samples, weighted by `batch.weight`."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss of `model` on `batch`, differentiable by the model's parameters."""
        ...


class Supervised:
    """Cross-entropy, binary cross-entropy (mean over labels) or squared error (mean over columns) with the target.

    Args:
        task: What is predicted.
        label_smoothing: Share of the target, in [0, 1), that is spread evenly; not for regression.
        class_weights: Classification: what a sample of each class counts, beside its own weight; the loss stays a
            weighted mean. Multilabel: what a positive of each label counts, a negative counting 1. Not for regression.

    Raises:
        ConfigError: smoothing or weights do not fit the task.
    """

    def __init__(
        self, task: TaskSpec, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"`label_smoothing` is {label_smoothing}; it must be in [0, 1)")
        if task.kind == "regression" and (label_smoothing or class_weights is not None):
            raise ConfigError("`label_smoothing` and class weights are for classes; this task is regression")
        if class_weights is not None and (len(class_weights) != task.num_outputs or min(class_weights) <= 0):
            raise ConfigError(f"class weights must be {task.num_outputs} positive numbers, one per class")
        self.task = task
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """One forward pass, and one term named after the loss."""
        assert batch.target is not None, "a batch to learn from has a target"
        raw = model(batch.inputs, batch.available)
        weight, target = batch.weight, batch.target
        factors = None if self.class_weights is None else self.class_weights.to(raw.device, raw.dtype)
        if self.task.kind == "classification":
            if factors is not None:
                weight = factors[target] if weight is None else weight * factors[target]
            name, losses = "cross_entropy", cross_entropy(raw, target, self.label_smoothing)
        elif self.task.kind == "multilabel":
            name, per_label = "binary_cross_entropy", binary_cross_entropy(raw, target, self.label_smoothing)
            if factors is not None:
                per_label = per_label * (1 + target * (factors - 1))
            losses = per_label.mean(dim=-1)
        else:
            name, losses = "squared_error", squared_error(raw, target)
        total = weighted_mean(losses, weight)
        return Loss(total, {name: total})


class WeightedSum:
    """`Σ weight · objective`; the terms of objective `a` are called `a/…`, and are not multiplied by its weight."""

    def __init__(self, parts: Mapping[str, tuple[float, Objective]]) -> None:
        if not parts:
            raise ConfigError("a weighted sum needs at least one objective")
        self.parts = dict(parts)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Judge by every part in turn."""
        totals: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for name, (weight, objective) in self.parts.items():
            loss = objective(model, batch)
            totals.append(weight * loss.total)
            terms |= {f"{name}/{term}": value for term, value in loss.terms.items()}
        return Loss(torch.stack(totals).sum(), terms)

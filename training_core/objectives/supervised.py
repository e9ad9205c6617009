"""Objectives: what a net is trained towards. `Supervised` is the target itself; `WeightedSum` composes several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training_core.errors import ConfigError, DataError
from training_core.objectives.registry import LOSSES, default_loss
from training_core.objectives.strategy import ClassWeights, LossStrategy, PerSampleLoss
from training_core.schema import Batch, TaskSpec

_HALF = (torch.bfloat16, torch.float16)

Forward = Callable[[nn.Module, Batch], Tensor]
"""How a model is asked: its raw outputs for a batch."""


@dataclass(frozen=True)
class Loss:
    """A scalar to descend, and the named scalars it is made of, before they were weighted."""

    total: Tensor
    terms: dict[str, Tensor]
    weight: Tensor | None = None
    """The sum of the weights these means are over, a scalar; None: that of the batch's weights, or its rows."""


class Objective(Protocol):
    """Judges a model on a batch. Losses are means over samples, weighted by `batch.weight`."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss of `model` on `batch`, differentiable by the model's parameters."""
        ...


def ask_net(model: nn.Module, batch: Batch) -> Tensor:
    """The raw outputs of a net that takes inputs by modality and what of them is available."""
    return model(batch.inputs, batch.available)


class Supervised:
    """The distance to the target: by default cross-entropy, binary cross-entropy or squared error, by the task.

    Args:
        task: What is predicted.
        label_smoothing: Share of the target, in [0, 1), that is spread evenly; for losses that take it.
        class_weights: Classification: what a sample of each class counts, beside its own weight; the loss stays a
            weighted mean. Multilabel: what a positive of each label counts, a negative counting 1. Not for regression.
        loss: `default`, the name of a registered loss that needs one output per class, label or column, as nets have
            them; or a strategy, whatever it needs.
        forward: how the model is asked.

    Raises:
        ConfigError: the loss, smoothing or weights do not fit the task.
    """

    def __init__(
        self,
        task: TaskSpec,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights | None = None,
        loss: str | LossStrategy = "default",
        forward: Forward = ask_net,
    ) -> None:
        if class_weights is not None and task.kind != "regression" and len(class_weights) != task.num_outputs:
            raise ConfigError(
                f"got {len(class_weights)} class weights; give {task.num_outputs} positive numbers, one per class"
            )
        self.task = task
        self.loss = resolve_loss(task, loss, label_smoothing, class_weights)
        self._forward = forward
        self._name = getattr(self.loss, "name", loss if isinstance(loss, str) else type(self.loss).__name__)
        self._checked: tuple[torch.Size, torch.Size] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """One forward pass, and one term named after the loss.

        Raises:
            DataError: there is no target, or outputs and targets do not fit the loss.
        """
        return self.judge(self._forward(model, batch), batch)

    def judge(self, raw: Tensor, batch: Batch) -> Loss:
        """The loss of raw outputs that a model gave for `batch`; errors as when it is called."""
        if batch.target is None:
            raise DataError("a batch to learn from, or to judge by, has no target")
        target, weight = batch.target, batch.weight
        if raw.dtype in _HALF:
            raw = raw.float()  # mixed precision: what a model answers in few bits is not summed up in few bits
        shapes = (raw.shape[1:], target.shape[1:])
        if shapes != self._checked:
            self._refuse_other_outputs(raw)
            self.loss.validate_inputs(raw, target)
            self._checked = shapes
        if isinstance(self.loss, PerSampleLoss):
            total, over = self.loss.mean(raw, target, None if weight is None else {"sample_weight": weight})
            return Loss(total, {self._name: total}, over)
        if weight is not None:
            raise DataError(
                f"the loss {self._name} gives no loss per sample, so it cannot weigh samples (or train in a cohort); "
                "let it inherit PerSampleLoss, or give no weights"
            )
        total = self.loss.compute_loss(raw, target, None)
        return Loss(total, {self._name: total})

    def _refuse_other_outputs(self, raw: Tensor) -> None:
        """More outputs than there are classes would train, and never be asked for."""
        if self.task.unit != "sample" or not isinstance(self.loss, PerSampleLoss) or raw.ndim != 2:
            return
        expected = self.task.num_outputs * self.loss.outputs_per_target
        if raw.shape[1] != expected:
            raise DataError(
                f"the model gives {raw.shape[1]} outputs per sample, {list(raw.shape)} in all, and the loss "
                f"{self._name} wants {expected} for this {self.task.kind} task; give the model's last layer {expected} "
                "outputs, or describe the task as it is"
            )


def resolve_loss(
    task: TaskSpec,
    loss: str | LossStrategy = "default",
    label_smoothing: float = 0.0,
    class_weights: ClassWeights | None = None,
) -> LossStrategy:
    """The loss of `task` that is meant, with its settings; arguments as for `Supervised`.

    Raises:
        ConfigError: it does not fit the task, or needs more outputs than nets have.
    """
    if loss == "default":
        strategy: LossStrategy = default_loss(task)
    else:
        strategy = LOSSES.get(loss) if isinstance(loss, str) else loss
    if not isinstance(strategy, PerSampleLoss):
        if label_smoothing or class_weights is not None:
            raise ConfigError(f"the loss {loss} takes neither `label_smoothing` nor class weights; leave them out")
        return strategy
    strategy = strategy.for_task(task).with_options(label_smoothing, class_weights)
    if isinstance(loss, str) and strategy.outputs_per_target != 1:
        raise ConfigError(
            f"the loss '{loss}' needs {strategy.outputs_per_target} outputs for each of the {task.num_outputs} "
            "targets, and learners have one; train a model of your own with it, or choose another loss"
        )
    return strategy


class WeightedSum:
    """`Σ weight · objective`; the terms of objective `a` are called `a/…`, and are not multiplied by its weight.

    Weights may change between epochs (`set_weights`); a part of weight 0 is not computed, and has no terms.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Objective]]) -> None:
        """Compose `parts`, each a weight, from 0 on, and an objective, by name."""
        if not parts:
            raise ConfigError("a weighted sum needs at least one objective")
        self._objectives = {name: objective for name, (_, objective) in parts.items()}
        self._weights: dict[str, float] = dict.fromkeys(parts, 0.0)
        self.set_weights({name: weight for name, (weight, _) in parts.items()})

    @property
    def parts(self) -> dict[str, tuple[float, Objective]]:
        """Weight and objective of every part, by name."""
        return {name: (self._weights[name], objective) for name, objective in self._objectives.items()}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every part, by name."""
        return dict(self._weights)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Change the weights of some parts; 0 switches a part off.

        Raises:
            ConfigError: there is no such part, a weight is negative or not finite, or nothing would be left.
        """
        if unknown := [name for name in weights if name not in self._weights]:
            raise ConfigError(f"no part '{unknown[0]}' in this sum; it has {', '.join(self._weights)}")
        wild = {name: weight for name, weight in weights.items() if not 0 <= weight < float("inf")}
        if wild:
            raise ConfigError(f"weights of a sum are numbers from 0 on; got {wild}")
        changed = {**self._weights, **{name: float(weight) for name, weight in weights.items()}}
        if not any(changed.values()):
            raise ConfigError(f"every part of the sum would have weight 0: {', '.join(changed)}; leave one")
        self._weights = changed

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Judge by every part in turn."""
        totals: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        for name, objective in self._objectives.items():
            weight = self._weights[name]
            if weight == 0:
                continue
            loss = objective(model, batch)
            totals.append(weight * loss.total)
            terms |= {f"{name}/{term}": value for term, value in loss.terms.items()}
        return Loss(torch.stack(totals).sum(), terms)

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return {"weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.set_weights(state["weights"])

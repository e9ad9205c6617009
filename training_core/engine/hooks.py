"""Listeners that most trainings want: early stopping on validation rows, and progress with a say in going on."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Hook, TrainingState, divergence
from training_core.engine.updates.averaging import WeightAverage
from training_core.objectives import Objective
from training_core.schema import Batch


def mean_losses(model: nn.Module, objective: Objective, stream: Iterable[Batch]) -> dict[str, float]:
    """The loss of `model` over all rows of `stream`, in evaluation mode and without gradients.

    Returns:
        `loss` and, when it has several, its terms: means over what each batch's loss is a mean of (`Loss.weight`),
        else over rows, weighted by the batches' weights where given.
    """
    was_training = model.training
    model.eval()
    totals: dict[str, Tensor | float] = {}
    whole: Tensor | float = 0.0
    with torch.no_grad():
        for batch in stream:
            loss = objective(model, batch)
            rows = len(batch) if batch.weight is None else batch.weight.double().sum()
            weight = rows if loss.weight is None else loss.weight.double()
            whole = whole + weight
            terms = loss.terms if len(loss.terms) > 1 else {}
            for name, value in {"loss": loss.total, **terms}.items():
                totals[name] = totals.get(name, 0.0) + value.double() * weight
    model.train(was_training)
    return {name: float(total / whole) for name, total in totals.items()}


class BestWeights:
    """A place for the weights of a model's best epoch: parameters and buffers, bit for bit."""

    def __init__(self, model: nn.Module) -> None:
        """Make room; until `keep` is called the weights `model` has now are the best."""
        self._live: list[Tensor] = list(model.state_dict().values())
        self._kept = [tensor.clone() for tensor in self._live]

    def keep(self) -> None:
        """Keep the weights the model has now."""
        _copy(self._live, self._kept)

    def put_back(self) -> None:
        """Give the model the weights that were kept."""
        _copy(self._kept, self._live)

    def state_dict(self) -> dict[str, Any]:
        """The weights that were kept, as live tensors."""
        return {"weights": self._kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        _copy(state["weights"], self._kept)


class Validation(Hook):
    """Early stopping: watch the loss on validation rows, stop when it stays, and put the best weights back.

    After training the model holds, bit for bit, the parameters and buffers of the epoch with the lowest validation
    loss; among equals the earliest. Adds `validation/loss` (and terms) to the epoch's metrics. Where an average of the
    weights is given, it is the average that is validated and kept, and training goes on with the weights themselves.
    """

    def __init__(
        self,
        objective: Objective,
        stream: Iterable[Batch],
        patience: int,
        average: WeightAverage | None = None,
    ) -> None:
        """Stop after `patience` epochs in a row without a lower loss of `objective` on `stream`.

        `average` belongs to the update, which starts it, feeds it and saves it.
        """
        self._objective = objective
        self._stream = stream
        self._patience = patience
        self._average = average
        self._best_loss = float("inf")
        self._best_epoch: int | None = None

    def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
        """Make room for the best weights."""
        self._best_loss, self._best_epoch = float("inf"), None
        self._best = BestWeights(model)

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        """Validate; keep the weights when they are the best so far, stop when patience is used up.

        Raises:
            DivergenceError: the validation loss is not finite.
        """
        with nullcontext() if self._average is None else self._average.swapped(model):
            losses = mean_losses(model, self._objective, self._stream)
            loss = losses["loss"]
            if math.isfinite(loss) and loss < self._best_loss:
                self._best_loss = loss
                self._best_epoch = state.best_epoch = state.epoch
                self._best.keep()
        state.metrics.update({f"validation/{name}": value for name, value in losses.items()})
        if not math.isfinite(loss):
            raise divergence(state, f"the validation loss became {loss} after epoch {state.epoch}")
        if state.stop_reason is None and state.epoch - (self._best_epoch or 0) >= self._patience:
            state.stop_reason = f"no lower validation loss for {self._patience} epochs"

    def state_dict(self) -> dict[str, Any]:
        """The lowest loss, its epoch and its weights."""
        return {"best_loss": self._best_loss, "best_epoch": self._best_epoch, "best": self._best.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._best_loss, self._best_epoch = state["best_loss"], state["best_epoch"]
        self._best.load_state_dict(state["best"])

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        """Put the best weights back."""
        if self._best_epoch is not None:
            self._best.put_back()


OnEpoch = Callable[[int, dict[str, float]], str | None]
"""Called after each epoch with its number, from 1, and its metrics, among them `validation/best_loss`, the lowest
validation loss so far, where there is one. A text it returns stops the learner, for that reason."""


class ProgressHook(Hook):
    """Tells a callback of every epoch and stops when it says so. Place it after `Validation` to see its metrics."""

    def __init__(self, callback: OnEpoch) -> None:
        self._callback = callback

    def on_epoch_end(self, state: TrainingState, model: object) -> None:
        """Tell. What stopped training before stays the reason."""
        reason = self._callback(state.epoch, with_best_loss(state.history))
        state.stop_reason = state.stop_reason or reason or None


def with_best_loss(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of the last of these epochs, and the lowest validation loss of all of them where there is one."""
    losses = [epoch["validation/loss"] for epoch in epochs if "validation/loss" in epoch]
    return {**epochs[-1], **({"validation/best_loss": min(losses)} if losses else {})}


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    """Overwrite the tensors `target`, which stay where they are."""
    with torch.no_grad():
        for old, new in zip(target, source, strict=True):
            old.copy_(new)

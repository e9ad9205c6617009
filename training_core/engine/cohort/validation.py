"""Early stopping of a cohort: every learner stops on its own rows, by its own patience, as it would alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training_core.engine.cohort.evaluate import cohort_losses
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.cohort.stream import CohortStream
from training_core.engine.cohort.update import CohortUpdate
from training_core.engine.hooks import with_best_loss
from training_core.engine.loop import History, Hook, TrainingState, divergence
from training_core.engine.updates.schedules import LrSchedule
from training_core.errors import DivergenceError
from training_core.objectives import Objective

OnLearnerEpoch = Callable[[int, int, dict[str, float]], str | None]
"""Told, after each of its epochs, a learner's number in the cohort, and what `hooks.OnEpoch` is told of one learner;
may stop that one likewise."""

WORTH_REMAKING = 2e10
"""Multiply-adds that take about as long as making the programs of a smaller stack: two seconds on a CPU core."""


@dataclass
class _Record:
    """What is known of one learner of the cohort."""

    name: str
    patience: int
    num_batches: int
    """Per epoch."""
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_loss: float = float("inf")
    best_epoch: int | None = None
    stop_reason: str = ""
    """Why it stopped before all epochs were done; empty while it trains."""
    divergence: str = ""
    """What went wrong; empty when nothing did."""

    @property
    def trains(self) -> bool:
        return not self.stop_reason and not self.divergence


class CohortValidation(Hook):
    """Stops, keeps the best weights of, and tells the history of each learner of a cohort.

    What `Validation` and the loop do for one learner: the lowest validation loss decides, among equals the earliest;
    training stops after `patience` epochs without a lower one; a number that is not finite ends the learner, and the
    learner only. A learner that has ended is frozen at once, and taken out of the cohort when at most half are left and
    the cohort is large enough for that to pay.
    """

    def __init__(
        self,
        objective: Objective,
        stream: CohortStream | None,
        training_stream: CohortStream,
        update: CohortUpdate,
        names: Sequence[str],
        patience: Sequence[int],
        schedules: Sequence[LrSchedule] = (),
        on_epoch: OnLearnerEpoch | None = None,
    ) -> None:
        """Watch the loss of `objective` on `stream`.

        Args:
            objective: what is watched.
            stream: validation rows of every learner; None: all learners train for all epochs and keep the last weights.
            training_stream: what the cohort is trained on, cut down with it.
            update: what trains the cohort, cut down with it.
            names: of the learners, for messages.
            patience: of each learner, in epochs.
            schedules: of the learners' learning rates, told of each one's validation loss, or else training loss.
            on_epoch: told of each epoch of each learner, and asked whether it goes on.
        """
        self._objective = objective
        self._stream = stream
        self._training_stream = training_stream
        self._update = update
        self._schedules = list(schedules)
        self._on_epoch = on_epoch
        self._records = [
            _Record(name, most, num_batches)
            for name, most, num_batches in zip(names, patience, training_stream.batches_per_epoch, strict=True)
        ]
        self._learners = list(range(len(self._records)))
        self._kept = torch.empty(0)
        self._kept_buffers: dict[str, Tensor] = {}

    def on_training_start(self, state: TrainingState, model: StackedModel) -> None:
        """Make room for every learner's best weights."""
        self._kept = model.flat.detach().clone()
        self._kept_buffers = {name: buffer.clone() for name, buffer in model.buffers.items()}

    def on_epoch_end(self, state: TrainingState, model: StackedModel) -> None:
        """Judge every learner that still trains, and freeze those that end."""
        found = {f"training/{name}": value for name, value in state.values.items()}
        if self._stream is not None:
            with self._update.averaged(model):
                losses = cohort_losses(model, self._objective, self._stream)
            found |= {f"validation/{name}": value.cpu() for name, value in losses.items()}
        diverged = self._update.diverged.tolist()
        improved: list[int] = []
        ended: list[int] = []
        for row, learner in enumerate(self._learners):
            record = self._records[learner]
            if not record.trains:
                continue
            metrics = {name: float(values[row]) for name, values in found.items()}
            if self._judge(record, state.epoch, metrics, diverged[row]):
                improved.append(row)
            if record.divergence:
                ended.append(row)
                continue
            record.epochs.append(metrics)
            if self._schedules:
                self._schedules[learner].observe(metrics.get("validation/loss", metrics["training/loss"]))
            if self._on_epoch is not None:
                asked = self._on_epoch(learner, state.epoch, with_best_loss(record.epochs))
                record.stop_reason = record.stop_reason or asked or ""
            if record.stop_reason:
                ended.append(row)
        self._keep_weights(model, improved)
        if ended:
            self._update.freeze(ended)
            self._compact(state, model)

    def on_training_end(self, state: TrainingState, model: StackedModel) -> None:
        """Without validation the last weights are the ones to keep."""
        if self._stream is None:
            self._keep_weights(model, [r for r, learner in enumerate(self._learners) if self._records[learner].trains])

    def outcome(self, learner: int, epochs: int) -> History | DivergenceError:
        """How the training of one learner, by its number in the cohort, went.

        Args:
            learner: its number.
            epochs: how many there were to be at most.
        """
        record = self._records[learner]
        if record.divergence:
            return divergence(TrainingState(name=record.name, num_epochs=epochs), record.divergence)
        return History(
            epochs=tuple(record.epochs),
            num_steps=record.num_batches * len(record.epochs),
            stop_reason=record.stop_reason or f"all {epochs} epochs done",
            best_epoch=record.best_epoch,
        )

    def write_to(self, learner: int, stacked: StackedModel, net: nn.Module) -> None:
        """Give `net` the weights kept of a learner: those of its best epoch, or the last without validation."""
        kept = {name: values[learner] for name, values in stacked.parameters_of(self._kept).items()}
        kept |= {name: values[learner] for name, values in self._kept_buffers.items()}
        with torch.no_grad():
            for name, place in [*net.named_parameters(), *net.named_buffers()]:
                place.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        """What is known of every learner, which are left, and the weights kept."""
        return {
            "learners": list(self._learners),
            "kept": self._kept,
            "kept_buffers": dict(self._kept_buffers),
            "records": [
                {**vars(record), "epochs": [dict(epoch) for epoch in record.epochs]} for record in self._records
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._learners = list(state["learners"])
        self._kept.copy_(state["kept"])
        for name, buffer in self._kept_buffers.items():
            buffer.copy_(state["kept_buffers"][name])
        self._records = [_Record(**{**kept, "epochs": list(kept["epochs"])}) for kept in state["records"]]
        if self._stream is not None:
            self._stream.keep(self._learners)

    def _judge(self, record: _Record, epoch: int, metrics: Mapping[str, float], diverged: bool) -> bool:
        """Note what an epoch means for a learner; whether its weights are the best so far."""
        wild = [name for name, value in metrics.items() if not math.isfinite(value)]
        if wild or diverged:
            family, _, name = wild[0].partition("/") if wild else ("", "", "")
            what = "the validation loss" if family == "validation" else name
            record.divergence = (
                f"{what} became {metrics[wild[0]]} {'after' if family == 'validation' else 'at'} epoch {epoch}"
                if wild
                else f"its loss or its gradient was not finite at epoch {epoch}"
            )
            return False
        loss = metrics.get("validation/loss")
        if loss is None:
            return False
        if loss < record.best_loss:
            record.best_loss, record.best_epoch = loss, epoch
            return True
        if epoch - (record.best_epoch or 0) >= record.patience:
            record.stop_reason = f"no lower validation loss for {record.patience} epochs"
        return False

    def _keep_weights(self, model: StackedModel, rows: list[int]) -> None:
        """Keep what the learners at `rows` of the stack have now."""
        if not rows:
            return
        here = torch.tensor(rows, device=self._kept.device)
        there = torch.tensor([self._learners[row] for row in rows], device=self._kept.device)
        with torch.no_grad(), self._update.averaged(model):
            self._kept[there] = model.flat.detach()[here]
            for name, buffer in self._kept_buffers.items():
                buffer[there] = model.buffers[name][here]

    def _compact(self, state: TrainingState, model: StackedModel) -> None:
        """End training when nobody is left; take those that ended out when that saves more than it takes."""
        left = [row for row, learner in enumerate(self._learners) if self._records[learner].trains]
        if not left:
            state.stop_reason = "every learner has ended"
        elif self._is_worth_it(left, model.flat.shape[1]):
            model.keep(left)
            for part in (self._update, self._training_stream, self._stream):
                if part is not None:
                    part.keep(left)
            self._learners = [self._learners[row] for row in left]

    def _is_worth_it(self, left: Sequence[int], num_parameters: int) -> bool:
        """Whether at most half are left, and going on without the others saves more than making programs anew takes.

        It depends on counts only, never on a clock: whoever is in the stack decides the last bits of what is learned.
        """
        num_ended = len(self._learners) - len(left)
        records = [self._records[self._learners[row]] for row in left]
        steps = max(record.num_batches * record.patience for record in records)
        rows = self._training_stream.rows_per_step
        return num_ended >= len(left) and 3 * num_parameters * rows * num_ended * steps >= WORTH_REMAKING

"""The update of a cohort: one step of every learner of a stack, on its own rows and with its own settings."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training_core.engine.cohort.batches import CohortBatch
from training_core.engine.cohort.captured import CapturedStep
from training_core.engine.cohort.forms import Form, Judgement, StackedProgram, settings_of, shapes_of
from training_core.engine.cohort.row_optimizers import build_row_optimizer
from training_core.engine.cohort.stacked import StackedModel
from training_core.engine.loop import Update
from training_core.engine.training import Precision
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.schedules import LrSchedule
from training_core.errors import ConfigError
from training_core.objectives import Objective

_WEIGHT = "\0weight"
"""What the losses are means over, beside them under a name that no term has."""


class CohortUpdate(Update[StackedModel, CohortBatch]):
    """`GradientUpdate` for K learners at once; metrics are [K]: `loss`, its terms, `gradient_norm`.

    A learner without rows in a step, or one that is frozen, is left wholly untouched. So is, from then on, one whose
    loss or gradient is not finite: `diverged` says who; nothing is raised, because the others go on. On the CPU a step
    asks once whether all learners move; on a GPU nobody is waited for, and masks decide.

    What `nn.Dropout` drops, each learner draws by itself (see `cohort.dropout`); whatever else is random draws from
    torch's global generator, for all learners at once. The objective's plain settings may change between epochs, not
    within one.
    """

    def __init__(
        self,
        objective: Objective,
        optimizers: Sequence[OptimizerConfig],
        *,
        clip_norm: float | Sequence[float] = 1.0,
        clip_value: float = 0.0,
        schedules: Sequence[LrSchedule] | None = None,
        average_decays: Sequence[float] | None = None,
        form: Form = "stacked",
        precision: Precision = "float32",
    ) -> None:
        """Prepare nothing yet: `start` sees the stack.

        Args:
            objective: what each learner minimises.
            optimizers: of each learner; all of one kind.
            clip_norm: largest norm of a learner's gradient, of all learners or of each; 0 leaves it alone.
            clip_value: largest magnitude of a single gradient, after that; 0 leaves them alone.
            schedules: of each learner's learning rate, by its own number of updates.
            average_decays: of the average of each learner's weights (see `averaging.WeightAverage`); 0: it has none.
            form: how the step is run.
            precision: of the forward and backward pass.

        Raises:
            ConfigError: settings that a stack cannot follow.
        """
        if precision == "fp16":
            raise ConfigError(
                "fp16 needs a loss scale per learner, which a stack has not; use precision bf16 or stacking never"
            )
        self._objective = objective
        self._configs = list(optimizers)
        clips = [float(clip_norm)] * len(self._configs) if isinstance(clip_norm, int | float) else list(clip_norm)
        self._clips = [clip if clip > 0 else float("inf") for clip in clips]
        self._clip_value = clip_value
        self._schedules = None if schedules is None else list(schedules)
        self._decays = None if average_decays is None or not any(average_decays) else list(average_decays)
        self._average: Tensor | None = None
        self._form: Form = form
        self._precision: Precision = precision
        self.learners: list[int] = list(range(len(self._configs)))
        """Which of the learners it began with are left, in the order of the rows."""
        self.num_updates: list[int] = [0] * len(self._configs)
        """Optimiser steps each learner made."""
        self._programs: dict[Hashable, StackedProgram | CapturedStep] = {}
        self._settings: Hashable = None

    @property
    def how(self) -> str:
        """How the steps are really run: `traced`, `compiled`, `vectorised` or `captured`; empty before the first."""
        return next((program.how for program in self._programs.values()), "")

    @property
    def learning_rates(self) -> list[float]:
        """Of each learner, at its next step."""
        rates = [config.lr for config in self._configs]
        if self._schedules is None:
            return rates
        planned = zip(rates, self._schedules, self.num_updates, strict=True)
        return [lr * schedule.factor(count) for lr, schedule, count in planned]

    def start(self, model: StackedModel) -> None:
        """Make room for the optimiser's state and put the stack into training mode.

        Raises:
            ConfigError: there is not one optimiser (or limit, or schedule) per learner, or it has no form for rows.
        """
        own = {
            "optimisers": self._configs,
            "limits of the norm": self._clips,
            "schedules": self._schedules,
            "decays of averages": self._decays,
        }
        for what, given in own.items():
            if given is not None and len(given) != model.num_learners:
                raise ConfigError(f"{len(given)} {what} were given for {model.num_learners} learners; give one each")
        device = model.flat.device
        if self._form == "graphed" and device.type != "cuda":
            raise ConfigError(f"the form 'graphed' needs a CUDA device, the stack lies on {device}; use 'stacked'")
        self._optimizer = build_row_optimizer(self._configs, model.flat, model.num_decayed)
        self._clip_column = torch.tensor(self._clips, dtype=model.flat.dtype, device=device).view(-1, 1)
        self._average = None if self._decays is None else model.flat.detach().clone()
        self._frozen = torch.zeros(model.num_learners, dtype=torch.bool)
        self._present = torch.ones(model.num_learners, dtype=torch.bool)
        self._present_there = self._present.to(device)
        self.diverged: Tensor = torch.zeros(model.num_learners, dtype=torch.bool, device=device)
        """Learners whose loss or gradient was not finite, bool [K]: they no longer change."""
        self._reads_freely = device.type == "cpu"
        self._all_move = True
        self._programs.clear()
        model.train()

    def step(self, model: StackedModel, batch: CohortBatch) -> dict[str, Tensor]:
        """One step of every learner that has rows; returns detached tensors [K] on the stack's device, none read."""
        program = self._program(model, batch)
        if self._schedules is not None:
            self._optimizer.set_learning_rates(self.learning_rates)
        present = (batch.counts.cpu() > 0) & ~self._frozen
        if not torch.equal(present, self._present):
            self._present = present
            self._look()
            self._present_there.copy_(present)
        model.draw(self.num_updates)
        found = program(batch) if isinstance(program, CapturedStep) else self._advance(model, program(model, batch))
        self._weight = found.pop(_WEIGHT)
        self._take_in(model)
        self.num_updates = [count + moves for count, moves in zip(self.num_updates, present.tolist(), strict=True)]
        return found

    @contextmanager
    def averaged(self, model: StackedModel) -> Iterator[None]:
        """Within the block learners that average their weights have the average, those that do not have their own."""
        live = model.flat
        model.flat = live if self._average is None else self._average
        try:
            yield
        finally:
            model.flat = live

    def num_rows(self, batch: CohortBatch) -> Tensor:
        """What each learner's rows in the last step's batch weigh, [K]: their number when none has a weight."""
        return self._weight

    def end_epoch(self, model: StackedModel) -> Mapping[str, Tensor]:
        """Nothing is left open; the objective may be changed until the next step."""
        self._settings = None
        return {}

    def check(self, model: StackedModel) -> None:
        """Nothing to say: the learners are guarded one by one, see `diverged`."""

    def freeze(self, rows: Sequence[int]) -> None:
        """From now on the learners `rows` do not change."""
        self._frozen[list(rows)] = True

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the learners `rows` only, in that order; the stack must be cut down likewise."""
        rows = list(rows)
        self.learners = [self.learners[row] for row in rows]
        self.num_updates = [self.num_updates[row] for row in rows]
        self._configs = [self._configs[row] for row in rows]
        self._clips = [self._clips[row] for row in rows]
        if self._schedules is not None:
            self._schedules = [self._schedules[row] for row in rows]
        if self._decays is not None and self._average is not None:
            self._decays = [self._decays[row] for row in rows]
            self._average = self._average[rows]
        self._optimizer.keep(rows)
        self._clip_column, self._present_there, self.diverged, self._frozen, self._present = (
            values[rows]
            for values in (self._clip_column, self._present_there, self.diverged, self._frozen, self._present)
        )
        self._look()
        self._programs.clear()

    def state_dict(self) -> dict[str, Any]:
        """What decides the next steps, for the learners that are left."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "learners": list(self.learners),
            "num_updates": list(self.num_updates),
            "frozen": self._frozen,
            "diverged": self.diverged,
            "average": self._average,
            "schedules": None if self._schedules is None else [schedule.state_dict() for schedule in self._schedules],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the learners that were left then."""
        if state["learners"] != self.learners:
            self.keep([self.learners.index(learner) for learner in state["learners"]])
        self._optimizer.load_state_dict(state["optimizer"])
        self.num_updates = list(state["num_updates"])
        self._frozen.copy_(state["frozen"])
        self.diverged.copy_(state["diverged"])
        if self._average is not None:
            self._average.copy_(state["average"])
        self._look()
        for schedule, kept in zip(self._schedules or (), state["schedules"] or (), strict=True):
            schedule.load_state_dict(kept)

    def _program(self, model: StackedModel, batch: CohortBatch) -> StackedProgram | CapturedStep:
        """The program for batches of this shape; made anew when the objective's settings changed between epochs."""
        if self._settings is None:
            settings = settings_of(self._objective)
            if self._programs and settings != self._made_with:
                self._programs.clear()
            self._settings = self._made_with = settings
        key = (model.num_learners, shapes_of([*batch.inputs.values(), batch.available]))
        if key not in self._programs:
            program = StackedProgram(
                model,
                self._objective,
                batch,
                gradients=True,
                precision=self._precision,
                compiled=self._form == "compiled",
            )
            self._programs[key] = program if self._form != "graphed" else self._capture(model, program, batch)
            self._settings = self._made_with = settings_of(self._objective)  # it may note what its first batch was like
        return self._programs[key]

    def _capture(self, model: StackedModel, program: StackedProgram, batch: CohortBatch) -> CapturedStep:
        changed = [model.flat, *self._optimizer.state.values(), self.diverged]
        return CapturedStep(lambda static: self._advance(model, program(model, static)), batch, changed)

    def _advance(self, model: StackedModel, judged: Judgement) -> dict[str, Tensor]:
        """Clip and step by the gradients that were found."""
        gradients = judged.gradients
        assert gradients is not None, "the program was made with gradients"
        norm = torch.linalg.vector_norm(gradients, dim=1)
        self._clip(gradients, norm)
        if self._reads_freely:
            self._step_known(model, gradients, norm, judged.losses["loss"])
        else:
            healthy = torch.isfinite(norm) & torch.isfinite(judged.losses["loss"])
            moving = self._present_there & healthy & ~self.diverged
            self.diverged |= self._present_there & ~healthy
            self._optimizer.step_where(model.flat, gradients, moving)
        return {**judged.losses, "gradient_norm": norm, _WEIGHT: judged.weight}

    def _step_known(self, model: StackedModel, gradients: Tensor, norm: Tensor, loss: Tensor) -> None:
        """A step on the CPU, where numbers can be read for nothing; usually all learners move."""
        if self._all_move and math.isfinite(float(norm.sum() + loss.sum())):
            self._optimizer.step(model.flat, gradients)
            return
        healthy = torch.isfinite(norm) & torch.isfinite(loss)
        moving = self._present & healthy & ~self.diverged
        self.diverged |= self._present & ~healthy
        self._look()
        rows = moving.nonzero().view(-1)
        if len(rows):
            self._optimizer.step_rows(model.flat, gradients, rows)

    def _take_in(self, model: StackedModel) -> None:
        """Take the weights of those that moved into the average; without a decay it is the weights themselves."""
        if self._decays is None or self._average is None:
            return
        counts = zip(self._decays, self.num_updates, self._present.tolist(), strict=True)
        shares = [1 - min(decay, (1 + n) / (10 + n)) if moved else 0.0 for decay, n, moved in counts]
        column = torch.tensor(shares, dtype=model.flat.dtype).view(-1, 1).to(model.flat.device, non_blocking=True)
        self._average.lerp_(model.flat, column)

    def _look(self) -> None:
        """Note whether all learners move, as far as the CPU knows."""
        self._all_move = self._reads_freely and bool((self._present & ~self.diverged).all())

    def _clip(self, gradients: Tensor, norm: Tensor) -> None:
        """Scale each learner's gradient, of norm [K], to its limit, then cut single ones."""
        if min(self._clips) < float("inf"):
            # Dividing by max(norm / limit, 1) leaves a short gradient exactly as it is and a zero one zero.
            gradients.div_((norm.view(-1, 1) / self._clip_column).clamp(min=1))
        if self._clip_value > 0:
            gradients.clamp_(-self._clip_value, self._clip_value)

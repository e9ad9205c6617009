"""The usual update: gradients of one batch or of several, bounded, and one step of the optimiser."""

import copy
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from training_core.engine.loop import Update
from training_core.engine.training import Precision
from training_core.engine.updates.accumulation import (
    AccumulationStats,
    Clipping,
    Window,
    add_gradients,
    divide,
    joint_norm,
    merged,
    take_gradients,
    weight_of,
)
from training_core.engine.updates.compiled import Compiled
from training_core.engine.updates.curvature import differentiate_twice, step_with_curvature
from training_core.engine.updates.fused import FusedStep
from training_core.engine.updates.memory import RestorePoint, does_not_fit, is_out_of_memory, release_memory, split
from training_core.engine.updates.optimizers import OptimizerConfig
from training_core.engine.updates.precision import Autocast, LossScaler, first_wild_parameter
from training_core.engine.updates.recomputation import Recomputed
from training_core.errors import ConfigError
from training_core.objectives import Loss, Objective
from training_core.schema import Batch

if TYPE_CHECKING:
    from training_core.engine.updates.averaging import WeightAverage
    from training_core.engine.updates.schedules import LrSchedule
    from training_core.engine.watching.gradient_monitor import GradientMonitor

logger = logging.getLogger(__name__)

_NOTHING = nullcontext()
_COUNTERS = ("lr", "lr_multiplier", "num_updates", "micro_rows", "_num_batches", "_is_new_epoch", "_saw_finite_loss")


class GradientUpdate(Update[nn.Module, Batch]):
    """Backward, divide by what the samples weigh, unscale, measure the norm, clip, step.

    Metrics: `loss`; the loss's terms when it has several; in steps that end with an update also `gradient_norm`, before
    it was clipped, and in float16 `skipped`, 1 for an update that was left out because a gradient overflowed. No step
    waits for the device, but for float16, which must know of an overflow.

    A batch that does not fit into memory is cut into micro-batches, half as large until they fit, whose gradients make
    the same update; they stay that small. That needs an objective that is a mean over rows, judging each row alone.
    """

    recovers: bool = True
    """Whether running out of memory is answered by smaller micro-batches."""

    def __init__(
        self,
        objective: Objective,
        optimizer: OptimizerConfig,
        *,
        clip_norm: float = 1.0,
        clip_value: float = 0.0,
        accumulation: int = 1,
        precision: Precision = "float32",
        schedule: "LrSchedule | None" = None,
        average: "WeightAverage | None" = None,
        monitor: "GradientMonitor | None" = None,
        compile: bool = False,  # noqa: A002
        gradient_checkpointing: bool = False,
        measures_norm: bool = True,
    ) -> None:
        """Prepare nothing yet: `start` sees the model.

        Args:
            objective: what is minimised.
            optimizer: builds the optimiser of the model's parameters.
            clip_norm: largest norm of all gradients together; 0 leaves them alone.
            clip_value: largest magnitude of a single gradient, after that; 0 leaves them alone.
            accumulation: batches per update; those left over at the end of an epoch make one more.
            precision: of the forward and backward pass; weights stay as they are.
            schedule: multiplies the learning rate.
            average: takes in the weights after every update.
            monitor: looks at the gradients of every update before they are clipped.
            compile: compile forward pass, loss and backward pass, where that works.
            gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
            measures_norm: report `gradient_norm` even where nothing needs it.

        Raises:
            ConfigError: sophia, which differentiates twice, with fp16 or compiled.
        """
        if optimizer.curvature_period and (precision == "fp16" or compile):
            raise ConfigError(
                "the optimiser 'sophia' differentiates twice, which works neither with precision fp16 nor with "
                "`compile`; use bf16 or float32 without `compile`, or another optimiser"
            )
        self._objective = objective
        self._optimizer_config = optimizer
        self._clipping = Clipping(clip_norm, clip_value)
        self._precision: Precision = precision
        self._schedule = schedule
        self._average = average
        self._monitor = monitor
        self._compile = compile
        self._recomputes = gradient_checkpointing
        self._window = Window(accumulation)
        self._weighs = accumulation > 1
        self._scaler = LossScaler() if precision == "fp16" else None
        self._needs_norm = measures_norm or self._clipping.needs_norm or self._scaler is not None
        self.lr = optimizer.lr
        """Learning rate of the last update."""
        self.lr_multiplier = 1.0
        """What the scheduled learning rate is multiplied by."""
        self.num_updates = 0
        """Updates made; those left out do not count."""
        self.micro_rows: int | None = None
        """Rows that fit into memory at once; None: no batch was too large so far."""
        self._num_batches = 0
        self._batch_weight: int | Tensor = 0
        self._curvature: list[Tensor] | None = None
        self._is_new_epoch = True
        self._was_loaded = False
        self._saw_finite_loss = False

    def start(self, model: nn.Module) -> None:
        """Build the optimiser and put the model into training mode."""
        self._optimizer = self._build_optimizer(model)
        self._step = FusedStep(self._optimizer)
        self._base_lrs = [group["lr"] for group in self._optimizer.param_groups]
        self._factor = 1.0
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.is_floating_point()]
        self._device = self._parameters[0].device
        self._restore_point = RestorePoint(model)
        self._trainable = [parameter.requires_grad for parameter in self._parameters]
        self._called = self._module(model)
        self._judge = self._prepared_objective(model)
        if self._average is not None:
            self._average.start(model)
        model.train()

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One batch; returns detached scalars on the batch's device, none of them read.

        Raises:
            ConfigError: a single row does not fit into memory.
            DivergenceError: in fp16, gradients are not finite at any scale of the loss.
        """
        if self._is_new_epoch or self._was_loaded:
            self._follow_hooks(model)
        loss = self._differentiate(batch)
        self._num_batches += 1
        metrics = {"loss": loss.total}
        if len(loss.terms) > 1:
            metrics |= loss.terms
        if self._scaler is not None:
            if self._is_finite(loss.total):
                self._saw_finite_loss = True
            else:
                metrics = {}  # float16 overflowed on the way to the loss, so its update will be left out as well
        if self._window.is_full:
            metrics |= self._update(model)
        return metrics

    def num_rows(self, batch: Batch) -> int | Tensor:
        """What the samples of the last step's batch weigh: their number when none has a weight."""
        return self._batch_weight

    def end_epoch(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Make an update of the batches that are left over."""
        self._is_new_epoch = True
        return self._update(model) if self._window.num_batches else {}

    def check(self, model: nn.Module) -> str | None:
        """The first parameter that is not finite, in words; None when all are."""
        if self._scaler is not None and not self._saw_finite_loss:
            return "no loss of a batch was finite in fp16"
        return first_wild_parameter(model)

    @property
    def stats(self) -> AccumulationStats:
        """Where training stands; reads no value from the device."""
        trainable = (parameter.numel() for parameter in self._parameters if parameter.requires_grad)
        return AccumulationStats(
            self._num_batches,
            self.num_updates,
            self._window.num_batches,
            self._clipping.norm_before,
            self._clipping.norm_after,
            sum(trainable),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that decides the next steps, in the middle of a window too; tensors are the live ones."""
        return {
            "optimizer": self._optimizer_state(),
            "gradients": self._gradients_state() if self._window.num_batches else None,
            "curvature": self._curvature,
            **{name: None if part is None else part.state_dict() for name, part in self._parts().items()},
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, which is copied."""
        self._load_optimizer_state(state["optimizer"])
        self._factor = float("nan")  # equal to none: the learning rates are written anew
        take_gradients(self._parameters)
        if state["gradients"] is not None:
            self._load_gradients_state(state["gradients"])
        kept = state["curvature"]
        self._curvature = None if kept is None else [estimate.to(self._device, copy=True) for estimate in kept]
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        if isinstance(self._window.weight, Tensor):
            self._window.weight = self._window.weight.to(self._device)
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self._was_loaded = True

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, beside the optimiser."""
        return {
            "window": self._window,
            "scaler": self._scaler,
            "schedule": self._schedule,
            "average": self._average,
        }

    # What training on several devices does differently.

    def _build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of the parameters of `model`."""
        return self._optimizer_config.build(model)

    def _module(self, model: nn.Module) -> nn.Module:
        """What the objective is called with; asked anew when other parameters are trainable."""
        return model

    def _exchange(self, last: bool) -> AbstractContextManager[Any]:
        """Around each forward and backward pass; after the `last` one the gradients of the window are complete."""
        return _NOTHING

    def _complete(self, total: int | Tensor) -> int | Tensor:
        """What the gradients of a window are divided by, whose samples weigh `total` here."""
        return total

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients together."""
        return joint_norm(gradients)

    def _optimizer_state(self) -> dict[str, Any]:
        self._step.settle()
        return self._optimizer.state_dict()

    def _load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        self._step.forget()
        self._optimizer.load_state_dict(copy.deepcopy(dict(state)))

    def _gradients_state(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self._parameters]

    def _load_gradients_state(self, state: list[Tensor | None]) -> None:
        for parameter, gradient in zip(self._parameters, state, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)

    # The parts of a step.

    def _prepared_objective(self, model: nn.Module) -> Objective:
        """The objective as the settings want it judged."""
        judge = self._objective
        if self._precision != "float32":
            judge = Autocast(judge, self._precision, self._device.type)
        if self._compile:
            judge = Compiled(judge, model)
        return Recomputed(judge, model) if self._recomputes else judge

    def _follow_hooks(self, model: nn.Module) -> None:
        """Follow what hooks changed between epochs, or as they went on in the middle of one."""
        self._saw_finite_loss = self._saw_finite_loss and not self._is_new_epoch
        self._is_new_epoch = self._was_loaded = False
        trainable = [parameter.requires_grad for parameter in self._parameters]
        if trainable != self._trainable:
            self._trainable = trainable
            self._called = self._module(model)

    def _differentiate(self, batch: Batch) -> Loss:
        """Add the gradients of `batch` to those of the window, in as many pieces as memory asks for."""
        if not self.recovers:
            return self._backward(batch)
        earlier = take_gradients(self._parameters) if self._window.num_batches else None
        self._restore_point.take()
        began_with, curvature = self.micro_rows, self._curvature
        while True:
            try:
                loss = self._backward(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                break
            # Only out here, where the exception and with it all tensors of its traceback are gone, is memory free.
            self._halve(min(len(batch), self.micro_rows or len(batch)), curvature)
        if self.micro_rows != began_with:
            logger.warning(
                "a batch of %d rows does not fit into memory: from now on it is cut into micro-batches of %d, "
                "whose gradients make the same update",
                len(batch),
                self.micro_rows,
            )
        if earlier is not None:
            add_gradients(self._parameters, earlier)
        return loss

    def _backward(self, batch: Batch) -> Loss:
        """The gradients of `batch`, multiplied by its weight where updates have several parts; its loss, detached."""
        whole = self.micro_rows is None or len(batch) <= self.micro_rows
        pieces = [batch] if whole else list(split(batch, self.micro_rows or 1))
        losses: list[Loss] = []
        weights: list[int | Tensor] = []
        for number, piece in enumerate(pieces, start=1):
            with self._exchange(self._window.closes_next and number == len(pieces)):
                loss = self._judge(self._called, piece)
                weight = weight_of(loss, piece)
                factor: Any = weight if self._weighs or len(pieces) > 1 else None
                if self._scaler is not None:
                    factor = self._scaler.scale if factor is None else factor * self._scaler.scale
                if self._curvature_is_due():
                    self._curvature = differentiate_twice(loss.total, factor, self._parameters)
                else:
                    (loss.total if factor is None else loss.total * factor).backward()
            losses.append(Loss(loss.total.detach(), {name: term.detach() for name, term in loss.terms.items()}))
            weights.append(weight)
        self._batch_weight = sum(weights[1:], start=weights[0])
        self._window.add(self._batch_weight, self._weighs or len(pieces) > 1)
        return losses[0] if len(pieces) == 1 else merged(losses, weights)

    def _halve(self, num_rows: int, curvature: list[Tensor] | None) -> None:
        """Undo what a pass over micro-batches of `num_rows` rows did before it failed; make them half as large."""
        take_gradients(self._parameters)
        self._curvature = curvature
        self._restore_point.restore()
        release_memory()
        if num_rows <= 1:
            raise does_not_fit(num_rows)
        self.micro_rows = (num_rows + 1) // 2

    @torch.no_grad()
    def _update(self, model: nn.Module) -> dict[str, Tensor]:
        """One step of the optimiser with the gradients of the window, which is empty afterwards."""
        gradients: list[Tensor] = [gradient for p in self._parameters if (gradient := p.grad) is not None]
        if self._window.is_weighed:
            divide(gradients, self._complete(self._window.weight))
        self._window.clear()
        if self._scaler is not None:
            torch._foreach_mul_(gradients, 1 / self._scaler.scale)  # pyright: ignore[reportPrivateImportUsage]
        norm = self._norm(gradients) if self._needs_norm else None
        is_finite = self._scaler is None or self._is_finite(norm)
        metrics: dict[str, Tensor] = {}
        if is_finite:
            if norm is not None:
                metrics["gradient_norm"] = norm
            if self._monitor is not None:
                self._monitor.observe(model)
            self._clipping(gradients, norm)
            self._make_step()
        take_gradients(self._parameters)
        self._curvature = None
        if self._scaler is not None:
            metrics["skipped"] = torch.tensor(0.0 if is_finite else 1.0)
            self._scaler.update(is_finite)
        return metrics

    def _make_step(self) -> None:
        """Move the parameters, at the learning rate of this update."""
        factor = self.lr_multiplier
        if self._schedule is not None:
            factor *= self._schedule.factor(self.num_updates)
        if factor != self._factor:
            for group, base in zip(self._optimizer.param_groups, self._base_lrs, strict=True):
                group["lr"] = base * factor
            self._factor, self.lr = factor, self._base_lrs[0] * factor
        if self._curvature is None:
            self._step()
        else:
            step_with_curvature(self._optimizer, self._parameters, self._curvature)
        self.num_updates += 1
        if self._average is not None:
            self._average.update()

    def _curvature_is_due(self) -> bool:
        period = self._optimizer_config.curvature_period
        return period > 0 and self._curvature is None and self.num_updates % period == 0

    def _is_finite(self, value: Tensor | None) -> bool:
        """Reads the value, so it waits for the device."""
        return value is not None and bool(torch.isfinite(value))

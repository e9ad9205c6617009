"""Hooks that end a training: when a metric stays where it is, and when the time is used up."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

from torch import nn

from training_core.engine.hooks import BestWeights
from training_core.engine.loop import Hook, TrainingState
from training_core.engine.updates.averaging import WeightAverage
from training_core.errors import ConfigError
from training_core.quantities import format_seconds


class EarlyStopping(Hook):
    """Stops when a metric of the epochs no longer gets better, and puts the weights of its best epoch back.

    `Validation` does so for the validation loss; this is for any other metric. Place it after the hook that provides
    the metric; where `Validation` keeps weights too, those of this hook are the ones that stay.
    """

    def __init__(
        self,
        metric: str = "validation/loss",
        patience: int = 15,
        mode: Literal["min", "max"] = "min",
        min_delta: float = 0.0,
        restore_best: bool = True,
        average: WeightAverage | None = None,
    ) -> None:
        """Stop after `patience` epochs in a row without a better `metric`.

        Args:
            metric: its name among the epoch's metrics.
            patience: epochs, at least 1.
            mode: whether lower or higher is better.
            min_delta: by how much a value must be better to count; one that is just as good never does.
            restore_best: put the weights of the best epoch back after training; else the last ones stay.
            average: where the metric is that of averaged weights: these are what is kept.

        Raises:
            ConfigError: `patience` is below 1, or `min_delta` below 0.
        """
        if patience < 1 or not min_delta >= 0:
            raise ConfigError(f"`patience` is {patience} and `min_delta` {min_delta}; need at least 1 and at least 0")
        self._metric, self._patience, self._min_delta = metric, patience, min_delta
        self._sign = 1.0 if mode == "min" else -1.0
        self._restore_best = restore_best
        self._average = average
        self._best_value: float | None = None
        self._best_epoch = 0
        self._best: BestWeights | None = None

    def on_training_start(self, state: TrainingState, model: nn.Module) -> None:
        """Make room for the best weights."""
        self._best_value, self._best_epoch = None, 0
        self._best = BestWeights(model) if self._restore_best else None

    def on_epoch_end(self, state: TrainingState, model: nn.Module) -> None:
        """Compare; a value that is NaN is not better.

        Raises:
            ConfigError: the epoch has no such metric.
        """
        if self._metric not in state.metrics:
            raise ConfigError(
                f"{state.name}: no metric '{self._metric}' to stop by; epoch {state.epoch} has "
                f"{', '.join(sorted(state.metrics))}. Place the hook that provides it before this one"
            )
        value = state.metrics[self._metric]
        if self._is_better(value):
            self._best_value, self._best_epoch = value, state.epoch
            if self._best is not None:
                with nullcontext() if self._average is None else self._average.swapped(model):
                    self._best.keep()
        elif state.stop_reason is None and state.epoch - self._best_epoch >= self._patience:
            state.stop_reason = f"no better {self._metric} for {self._patience} epochs"

    def on_training_end(self, state: TrainingState, model: nn.Module) -> None:
        """Put the best weights back."""
        if self._best is not None and self._best_value is not None:
            self._best.put_back()
            state.best_epoch = self._best_epoch

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch and its weights."""
        weights = None if self._best is None else self._best.state_dict()
        return {"best_value": self._best_value, "best_epoch": self._best_epoch, "best": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._best_value, self._best_epoch = state["best_value"], state["best_epoch"]
        if self._best is not None and state["best"] is not None:
            self._best.load_state_dict(state["best"])

    def _is_better(self, value: float) -> bool:
        if self._best_value is None:
            return value == value  # not NaN
        return self._sign * value < self._sign * self._best_value - self._min_delta


class TimeBudget(Hook):
    """Ends training in time for it to be done within a number of seconds, with everything an ended training has.

    The epoch in which time runs out is cut short and closed as any other: it is validated, and the best weights are
    put back. How long closing takes is known from the epochs before, and kept free; only in the first epoch it comes on
    top. The clock is monotonic, starts when the update is prepared, and a resumed training has what the interrupted
    one left over. Place it after `Validation`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow `seconds` of training, on a `clock` in seconds.

        Raises:
            ConfigError: `seconds` is not above 0.
        """
        if not seconds > 0:
            raise ConfigError(f"the time budget is {seconds} seconds; it must be above 0")
        self._seconds = seconds
        self._clock = clock
        self._used_before = 0.0
        self._began = clock()
        self._last_step: float | None = None
        self._closing = 0.0

    @property
    def used_seconds(self) -> float:
        """Seconds of training so far, with those before it was interrupted."""
        return self._used_before + self._clock() - self._began

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """Start the clock."""
        self._used_before, self._began = 0.0, self._clock()
        self._last_step, self._closing = None, 0.0

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        """Note how long it took to close the epoch before, all hooks included."""
        self._note_closing()
        self._last_step = None

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """Stop when no more time is left than closing the epoch takes."""
        self._last_step = self._clock()
        self._stop_when_due(state)

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Stop when another epoch could not be closed in time."""
        self._note_closing()
        self._stop_when_due(state)

    def state_dict(self) -> dict[str, Any]:
        """The seconds used, and those that closing an epoch takes."""
        return {"used_seconds": self.used_seconds, "closing_seconds": self._closing}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, with the clock as it is now."""
        self._used_before, self._closing = state["used_seconds"], state["closing_seconds"]
        self._began, self._last_step = self._clock(), None

    def _note_closing(self) -> None:
        if self._last_step is not None:
            self._closing = max(self._closing, self._clock() - self._last_step)

    def _stop_when_due(self, state: TrainingState) -> None:
        if state.stop_reason is None and self.used_seconds + self._closing >= self._seconds:
            state.stop_reason = f"the budget of {format_seconds(self._seconds)} is used up"

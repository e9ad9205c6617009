"""Hooks that only look: at the learning rate, the speed, the memory and the progress of a training.

What they measure is told to a callable and kept in rows. It never enters the epoch's metrics: seconds and bytes differ
from run to run, and equal trainings have equal histories.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

import torch

from training_core.engine.loop import Hook, TrainingState
from training_core.engine.watching.speed import TimedStream
from training_core.engine.watching.training_metrics import Log
from training_core.errors import ConfigError
from training_core.quantities import format_seconds

_SHOWN = ("training/loss", "validation/loss")
_REDRAW_SECONDS = 0.2  # often enough to look alive


class HasLr(Protocol):
    """An update with one learning rate."""

    lr: float


class HasNumUpdates(Protocol):
    """An update that counts the optimiser's steps."""

    num_updates: int


class LearningRateMonitor(Hook):
    """Keeps the learning rate of every so many batches in `rows`, as (step, learning rate), and tells `log` of it."""

    def __init__(self, update: HasLr, log: Log | None = None, interval: int = 10) -> None:
        """Look after the first of every `interval` batches.

        Raises:
            ConfigError: `interval` is below 1.
        """
        if interval < 1:
            raise ConfigError(f"`interval` is {interval}; it must be at least 1 batch")
        self._update = update
        self._log = log
        self._interval = interval
        self.rows: list[tuple[int, float]] = []

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """Look, when it is time."""
        if (state.step - 1) % self._interval:
            return
        self.rows.append((state.step, self._update.lr))
        if self._log is not None:
            self._log({"learning_rate": self._update.lr}, state.step)

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.rows = [(step, lr) for step, lr in state["rows"]]


class ThroughputMonitor(Hook):
    """How fast each epoch was, its validation left out.

    Tells `log`, per epoch, and keeps in `rows`: `speed/samples_per_second`, `speed/updates_per_second` and, where the
    training stream is timed, `speed/data_wait_share`: the share of the time, 0 to 1, in which the loop waited for a
    batch. On a GPU these are times of the host: a queue of work may hide a wait. After a resume in the middle of an
    epoch, they are those of the rest.
    """

    def __init__(self, update: HasNumUpdates, log: Log | None = None, stream: TimedStream | None = None) -> None:
        """`stream` is the one that is trained on."""
        self._update = update
        self._log = log
        self._stream = stream
        self._num_updates, self._waited = 0, 0.0
        self.rows: list[dict[str, float]] = []

    def on_epoch_start(self, state: TrainingState, model: Any) -> None:
        """Begin to count."""
        self._begin()

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Tell of the epoch."""
        assert state.result is not None, "the loop gives every epoch a result"
        seconds = max(state.result.epoch_duration_seconds, 1e-9)  # no clock is finer
        row = {
            "speed/samples_per_second": state.result.num_samples / seconds,
            "speed/updates_per_second": (self._update.num_updates - self._num_updates) / seconds,
        }
        if self._stream is not None:
            row["speed/data_wait_share"] = min(1.0, (self._stream.wait_seconds - self._waited) / seconds)
        self.rows.append({"epoch": state.epoch, **row})
        if self._log is not None:
            self._log(row, state.epoch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin to count in the middle of an epoch."""
        self._begin()

    def _begin(self) -> None:
        self._num_updates = self._update.num_updates
        self._waited = 0.0 if self._stream is None else self._stream.wait_seconds


class MemoryMonitor(Hook):
    """Most memory held so far, after every epoch.

    Tells `log`, and keeps in `rows`: `memory/process_bytes`, the peak of what the process had in RAM, and with a GPU
    `memory/gpu_bytes`, the peak of what tensors held on the current one.
    """

    def __init__(self, log: Log | None = None) -> None:
        self._log = log
        self.rows: list[dict[str, float]] = []

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Look and tell."""
        row: dict[str, float] = {"memory/process_bytes": peak_process_bytes()}
        if torch.cuda.is_initialized():
            row["memory/gpu_bytes"] = torch.cuda.max_memory_allocated()
        self.rows.append({"epoch": state.epoch, **row})
        if self._log is not None:
            self._log(row, state.epoch)


class ProgressLine(Hook):
    """A line of text per epoch: its number, its losses, its time and how long the rest may take.

    On a terminal the line is also there during an epoch and counts batches; it is drawn five times a second at most.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `stream`, the standard error when None."""
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._drawn = self._began = self._clock()
        self._first_epoch: int | None = None

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """Look at the clock."""
        self._drawn = self._began = self._clock()
        self._first_epoch = None

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """Draw the line again, on a terminal."""
        if self._first_epoch is None:
            self._first_epoch = state.epoch
        if self._is_terminal and self._clock() - self._drawn >= _REDRAW_SECONDS:
            self._drawn = self._clock()
            self._write(f"\r{state.name}: epoch {state.epoch}/{state.num_epochs}, batch {state.batch}\x1b[K")

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Write what came out."""
        seconds = self._clock() - self._began
        losses = "".join(f"  {name} {state.metrics[name]:.4g}" for name in _SHOWN if name in state.metrics)
        done = state.epoch - (self._first_epoch or 1) + 1
        left = seconds / done * (state.num_epochs - state.epoch)
        rest = "" if state.stop_reason or left == 0 else f", at most {format_seconds(left)} left"
        start, end = ("\r", "\x1b[K\n") if self._is_terminal else ("", "\n")
        self._write(
            f"{start}{state.name}: epoch {state.epoch}/{state.num_epochs}{losses}  {format_seconds(seconds)}{rest}{end}"
        )

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def peak_process_bytes() -> int:
    """Most memory this process ever had in RAM."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes

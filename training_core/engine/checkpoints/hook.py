"""Checkpoints while training goes on."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from training_core.engine.checkpoints.manager import CheckpointManager
from training_core.engine.checkpoints.state import PlainState
from training_core.engine.loop import Hook, Snapshot, TrainingState


class CheckpointHook(Hook):
    """Saves a snapshot when one is due. Place it last: a snapshot holds what the hooks before it have done.

    Due is one after a step or an epoch when `seconds` have passed since the last, after every `every_steps`-th step,
    and at the end of every `every_epochs`-th epoch. It changes nothing about training and keeps no state of its own.

    The end of training is not saved by itself: what training was for is published by whoever trains, after which
    checkpoints are of no use. To go on for more epochs later, give `every_epochs`.
    """

    def __init__(
        self,
        manager: CheckpointManager,
        seconds: float = 60.0,
        every_epochs: int | None = None,
        every_steps: int | None = None,
        *,
        asynchronous: bool = False,
    ) -> None:
        """Save with `manager`.

        Args:
            manager: where to.
            seconds: between checkpoints; 0: time does not count.
            every_epochs: epochs between checkpoints; by default as `save_interval_epochs` of the manager says when
                `seconds` is 0, else epochs do not count.
            every_steps: steps between checkpoints; by default steps do not count.
            asynchronous: copy the snapshot and let a thread write it, so that training waits for the copy alone. It
                takes memory for one more snapshot, and a core that is free. An error in the thread is raised at the
                next save or at the end of training.
        """
        self._manager = manager
        self._seconds = seconds
        self._every_epochs = every_epochs
        self._every_steps = every_steps
        self._last_save = time.monotonic()
        self._copies = PlainState(own=True)
        self._asynchronous = asynchronous
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[Any] | None = None

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """The clock starts."""
        self._last_save = time.monotonic()

    def on_batch_end(self, state: TrainingState, model: Any) -> None:
        """Save when a checkpoint is due; without metrics, since those of the epoch are not known yet."""
        if (self._every_steps is not None and state.step % self._every_steps == 0) or self._time_is_up():
            self._save(state, {})

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Save when a checkpoint is due, with the epoch's metrics."""
        if self._every_epochs is not None:
            due = state.epoch % self._every_epochs == 0
        else:
            due = self._seconds <= 0 and self._manager.should_save(state.epoch)
        if due or self._time_is_up():
            self._save(state, state.metrics)

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        """Wait until everything is written, here and, for a while, at the mirror.

        Raises:
            StorageError: the last checkpoint could not be written.
        """
        self._finish_writing()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        self._manager.flush()

    def _time_is_up(self) -> bool:
        """Whether the seconds have passed, and the checkpoint before is written."""
        if self._seconds <= 0 or time.monotonic() - self._last_save < self._seconds:
            return False
        return self._writing is None or self._writing.done()

    def _save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        assert state.snapshot is not None
        self._finish_writing()
        snapshot, epoch, step = state.snapshot(), state.epoch, state.step
        if self._asynchronous:
            self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="polychoir-checkpoint")
            copy: Snapshot = self._copies.of(snapshot)
            self._writing = self._writer.submit(self._manager.save_checkpoint, copy, epoch, dict(metrics), step=step)
        else:
            self._manager.save_checkpoint(snapshot, epoch, metrics, step=step)
        self._last_save = time.monotonic()

    def _finish_writing(self) -> None:
        """Wait for the thread, and raise what it raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

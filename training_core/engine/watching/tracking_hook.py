"""A training told to trackers, epoch by epoch."""

from collections.abc import Mapping
from typing import Any

from training_core.engine.loop import Hook, TrainingState
from training_core.tracking import RunStatus, Tracker


class TrackingHook(Hook):
    """Opens a run when training starts, adds the metrics of every epoch and closes it. Place it after `Validation`."""

    def __init__(
        self, tracker: Tracker, name: str, params: Mapping[str, str], tags: Mapping[str, str] | None = None
    ) -> None:
        """Record with `tracker` a run called `name`, with its settings, flat, and tags."""
        self._tracker = tracker
        self._name = name
        self._params = params
        self._tags = tags
        self._run: str | None = None

    def on_training_start(self, state: TrainingState, model: Any) -> None:
        """Open the run."""
        self._run = self._tracker.start(self._name, params=self._params, tags=self._tags)

    def on_epoch_end(self, state: TrainingState, model: Any) -> None:
        """Add the epoch's metrics, at the number of the epoch, and how long it took."""
        if self._run is not None and state.result is not None:
            seconds = {"time/epoch_seconds": state.result.epoch_duration_seconds}
            self._tracker.log_metrics(self._run, {**state.metrics, **seconds}, step=state.epoch)

    def on_training_end(self, state: TrainingState, model: Any) -> None:
        """Close the run."""
        self.close("FINISHED")

    def close(self, status: RunStatus) -> None:
        """Close the run if it is open: whoever trains says so when training raised."""
        run, self._run = self._run, None
        if run is not None:
            self._tracker.finish(run, status)

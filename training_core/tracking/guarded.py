"""Tracking that cannot stop training: what a tracker fails to record goes to JSON lines instead."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from training_core.tracking.protocol import (
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    Tracker,
)

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class Guarded:
    """A tracker that never raises while recording.

    The first failure of `tracker` is logged as one warning and ends its use: a server that does not answer costs its
    timeout once, not once per metric. Only what closes a run (`finish`, `log_ensemble`) is tried once more, if the
    run was begun there, since a passing fault should cost neither the model's registration nor leave the run open.
    When `fallback` fails as well (the disk is full), the record is lost, with a second warning.
    """

    def __init__(self, tracker: Tracker, fallback: Tracker) -> None:
        self._tracker = tracker
        self._fallback = fallback
        self._lock = threading.Lock()
        self._begun: set[str] = set()
        self._failed = False
        self._lost = False

    @property
    def location(self) -> str:
        """Where new records go at present."""
        return (self._fallback if self._failed else self._tracker).location

    def connect(self) -> None:
        """Find out early whether the tracker works."""
        self._record(lambda tracker: tracker.connect(), None)

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
    ) -> str:
        """Begin a run, wherever that is possible."""
        run_id = self._record(lambda t: t.start(name, tags=tags, params=params, dataset=dataset), "untracked")
        if not self._failed:
            self._begun.add(run_id)
        return run_id

    def log_run(self, parent_id: str, record: RunRecord) -> str:
        """Record a finished child run."""
        return self._record(lambda tracker: tracker.log_run(parent_id, record), "untracked")

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values to a run."""
        self._record(lambda tracker: tracker.log_metrics(run_id, metrics, step), None)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text with a run."""
        self._record(lambda tracker: tracker.log_text(run_id, text, name), None)

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Keep a file or a directory with a run."""
        self._record(lambda tracker: tracker.log_artifact(run_id, path, folder), None)

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run; where records of it went to the fallback, in both places."""
        split = self._failed and run_id in self._begun
        self._record(lambda tracker: tracker.finish(run_id, status), None)
        if split:
            with contextlib.suppress(Exception):  # it was warned about when it failed first
                self._tracker.finish(run_id, status)

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """Register an ensemble; None when that was not possible, and its directory is the model."""
        return self._record(lambda t: t.log_ensemble(run_id, package), None, again=run_id in self._begun)

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Ask the tracker itself: a question has no fallback, so its errors are raised."""
        return self._tracker.resolve_model(uri)

    def _record(self, action: Callable[[Tracker], _Result], otherwise: _Result, again: bool = False) -> _Result:
        """What `action` gives on the tracker, else on the fallback, else `otherwise`."""
        if again or not self._failed:
            try:
                return action(self._tracker)
            except Exception as error:  # whatever it is, training is worth more than its record
                self._give_up_tracker(error)
        try:
            return action(self._fallback)
        except Exception as error:
            self._give_up_fallback(error)
        return otherwise

    def _give_up_tracker(self, error: Exception) -> None:
        with self._lock:
            known, self._failed = self._failed, True
        if not known:
            places = self._tracker.location, self._fallback.location
            _log.warning("tracking in %s failed, going on with JSON lines in %s: %s", *places, _line(error))

    def _give_up_fallback(self, error: Exception) -> None:
        with self._lock:
            known, self._lost = self._lost, True
        if not known:
            _log.warning("records cannot be written to %s and are lost: %s", self._fallback.location, _line(error))


def _line(error: Exception) -> str:
    """An error as one line short enough to read."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"

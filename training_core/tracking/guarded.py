"""Tracking that cannot stop or slow training: several trackers at once, and JSON lines for what one of them fails."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training_core.addresses import without_secrets
from training_core.errors import StorageError
from training_core.tracking.lane import Lane, Piece
from training_core.tracking.protocol import (
    Follower,
    Live,
    ModelPackage,
    ResolvedModel,
    RunRecord,
    RunStatus,
    TrackedDataset,
    Tracker,
    new_run_id,
)

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long a tracker may take over one record. Making MLflow's database on a busy machine takes a third of it."""
UPLOAD_SECONDS = 900.0
"""How long it may take over a file or a model."""


class Guarded:
    """Records in `leader`, whose run ids are used everywhere, and in `followers`; never raises while recording.

    Each tracker works in a thread of its own: only the leader's ids are waited for, and the end of a run for all of
    it to be written. A tracker fails when it raises, or when it takes longer over a record than its patience: a
    server that accepts and never answers is waited for once. Its failure is logged as one warning and ends its use;
    that record, those that wait behind it and all later ones go to `fallback`, once each. Only what closes a run
    (`finish`, `log_ensemble`) is tried once more, if the run was begun there, since a passing fault should cost
    neither the model's registration nor leave the run open. When the fallback fails as well (the disk is full), the
    records are lost, with a second warning.

    Args:
        leader: Who gives runs their ids, and keeps the models.
        fallback: Where records go that a tracker failed to write; None where one of the trackers is as good.
        followers: Further trackers.
        patience_seconds: How long a tracker may take over a record.
        upload_seconds: How long it may take over a file or a model.
    """

    def __init__(
        self,
        leader: Tracker,
        fallback: Follower | None,
        followers: Sequence[Follower] = (),
        patience_seconds: float = PATIENCE_SECONDS,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        self._leader = _Guard(leader, self)
        self._followers = [_Guard(tracker, self) for tracker in followers]
        self._fallback = fallback
        self._patience, self._upload_patience = patience_seconds, upload_seconds
        self._lock = threading.RLock()
        self._falls_back = self._lost = False

    @property
    def location(self) -> str:
        """Where new records go at present."""
        places = [guard.tracker.location for guard in self._guards if not guard.failed]
        if self._fallback is not None and (self._falls_back or not places):
            places.append(self._fallback.location)
        return ", ".join(places) or "nowhere"

    @property
    def home(self) -> str:
        """Where the ids of new runs are given at present, and so are good: with the leader, or whoever stands in."""
        if not self._leader.failed:
            return self._leader.tracker.location
        if self._fallback is not None:
            return self._fallback.location
        places = [guard.tracker.location for guard in self._followers if not guard.failed]
        return places[0] if places else "nowhere"

    def connect(self) -> None:
        """Find out early whether the leader works; the others get ready meanwhile."""
        self._post(_Record(lambda tracker: tracker.connect()), self._followers)
        self._ask(self._leader, lambda tracker: tracker.connect())

    def start(
        self,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        dataset: TrackedDataset | None = None,
    ) -> str:
        """Begin a run, wherever that is possible."""
        given: dict[str, Any] = {"tags": tags, "params": params, "dataset": dataset}
        run_id = self._ask(self._leader, lambda tracker: tracker.start(name, **given)) or new_run_id()
        self._post(_Record(lambda tracker: tracker.start(name, **given, run_id=run_id)), self._followers)
        for guard in self._guards:
            if not guard.failed:
                guard.begun.add(run_id)
        return run_id

    def log_run(self, parent_id: str, record: RunRecord) -> str:
        """Record a finished child run."""
        patience = self._upload_patience if record.artifacts else self._patience
        run_id = self._ask(self._leader, lambda tracker: tracker.log_run(parent_id, record), patience) or new_run_id()
        again = _Record(lambda tracker: tracker.log_run(parent_id, record, run_id=run_id))
        self._post(again, self._followers, patience)
        return run_id

    def log_progress(self, parent_id: str, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Show values of a child run that is not over, where that is possible; its record will have them all."""
        shown = [guard for guard in self._guards if isinstance(guard.tracker, Live)]
        self._post(_Record(lambda tracker: tracker.log_progress(parent_id, name, metrics, step), passing=True), shown)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values to a run."""
        values = dict(metrics)  # as they are now: they are written later
        self._post(_Record(lambda tracker: tracker.log_metrics(run_id, values, step)))

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text with a run."""
        self._post(_Record(lambda tracker: tracker.log_text(run_id, text, name)))

    def log_artifact(self, run_id: str, path: Path, folder: str = "") -> None:
        """Keep a file or a directory with a run. It is read later: leave it in place until `finish` returns."""
        self._post(_Record(lambda tracker: tracker.log_artifact(run_id, path, folder)), patience=self._upload_patience)

    def finish(self, run_id: str, status: RunStatus = "FINISHED") -> None:
        """End a run, and wait until all of it is written; where records went to the fallback, end it there too."""
        self._post(_Record(lambda tracker: tracker.finish(run_id, status)))
        self.flush()
        for guard in self._guards:
            if guard.failed and run_id in guard.begun and guard.lane.rests():
                with contextlib.suppress(Exception):  # it was warned about when it failed first
                    self._wait(guard, lambda tracker: tracker.finish(run_id, status), self._patience)
            guard.begun.discard(run_id)

    def log_ensemble(self, run_id: str, package: ModelPackage) -> str | None:
        """Register an ensemble with the leader; None when that was not possible, and its directory is the model."""
        self.flush()  # a failure on the way to it is none of its own
        again = run_id in self._leader.begun and self._leader.lane.rests()
        uri = self._ask(self._leader, lambda t: t.log_ensemble(run_id, package), self._upload_patience, again)
        self._post(_Record(lambda tracker: tracker.log_ensemble(run_id, package)), self._followers)
        return uri

    def resolve_model(self, uri: str) -> ResolvedModel:
        """Ask the leader: a question has no fallback, so its errors are raised.

        Raises:
            StorageError: it does not answer.
        """
        try:
            return self._wait(self._leader, lambda tracker: tracker.resolve_model(uri), self._upload_patience)
        except TimeoutError as error:
            raise StorageError(f"cannot look up '{uri}' in {self._leader.tracker.location}: {error}") from None

    def flush(self) -> None:
        """Wait until every record is written: by its tracker, or by the fallback."""
        for guard in self._guards:
            if not guard.failed and (problem := guard.lane.drain()) is not None:
                self._give_up(guard, problem)

    @property
    def _guards(self) -> "list[_Guard]":
        return [self._leader, *self._followers]

    def _ask(
        self, guard: "_Guard", action: Callable[[Any], Any], patience: float | None = None, again: bool = False
    ) -> Any:
        """What `action` gives; None when the tracker has failed, now or before."""
        if guard.failed and not again:
            return None
        try:
            return self._wait(guard, action, patience or self._patience)
        except Exception as error:  # whatever it is, training is worth more than its record
            self._give_up(guard, error)
        return None

    @staticmethod
    def _wait(guard: "_Guard", action: Callable[[Any], Any], patience: float) -> Any:
        return guard.lane.put(Piece(partial(action, guard.tracker), patience)).result()

    def _post(self, record: "_Record", guards: "Sequence[_Guard] | None" = None, patience: float | None = None) -> None:
        """Have `guards` (all) write a record, and the fallback, if one of the trackers has failed."""
        with self._lock:
            for guard in self._guards if guards is None else guards:
                if not guard.failed and (problem := guard.lane.problem()) is not None:
                    self._give_up(guard, problem)
                if not guard.failed:
                    guard.lane.put(Piece(partial(record.action, guard.tracker), patience or self._patience, record))
            if self._falls_back:
                self._write_down(record)

    def _give_up(self, guard: "_Guard", error: BaseException) -> None:
        """Use a tracker no more; what it has not written is written to the fallback."""
        with self._lock:
            if guard.failed:
                return
            guard.failed = self._falls_back = True
            instead = f"going on with JSON lines in {self._fallback.location}" if self._fallback else "going on without"
            _log.warning("tracking in %s failed, %s: %s", guard.tracker.location, instead, _line(error))
            for record in guard.lane.abandon(RuntimeError("the tracker has failed")):
                self._write_down(record)

    def _write_down(self, record: "_Record") -> None:
        if record.written or record.passing or self._fallback is None:
            return
        record.written = True
        try:
            record.action(self._fallback)
        except Exception as error:
            if not self._lost:
                self._lost = True
                _log.warning("records cannot be written to %s and are lost: %s", self._fallback.location, _line(error))


class _Guard:
    """A tracker, its thread, and what became of it."""

    def __init__(self, tracker: Tracker, owner: Guarded) -> None:
        self.tracker = tracker
        self.lane = Lane(lambda error: owner._give_up(self, error))
        self.begun: set[str] = set()
        self.failed = False


class _Record:
    """Something to be written by every tracker, or once by the fallback."""

    def __init__(self, action: Callable[[Any], object], passing: bool = False) -> None:
        self.action = action
        self.passing = passing
        """Only worth showing now: a later record has it too."""
        self.written = False


def _line(error: BaseException) -> str:
    """An error as one line short enough to read, without the password of an address in it."""
    text = " ".join(without_secrets(str(error)).split())
    return f"{type(error).__name__}: {text[:300]}"

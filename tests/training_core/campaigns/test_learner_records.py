"""A learner keeps the run under which it was trained, whatever fails on the way."""

import json
from pathlib import Path

import pytest

from training_core.artifacts import ArtifactRef
from training_core.campaigns import recording
from training_core.jobs import Job, JobReport
from training_core.tracking import Guarded, JsonLinesTracker, NullTracker, RunRecord


class Server(NullTracker):
    """Gives ids and counts what it is told; another process's connection to it may be broken."""

    location = "the server"

    def __init__(self, told: list[str], broken: bool = False) -> None:
        self.told, self.broken = told, broken

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        if self.broken:
            raise ConnectionError("nobody there")
        self.told.append(record.name)
        return f"{record.name} on the server"


class Board(NullTracker):
    """Takes the ids of others."""

    location = "the board"
    broken = False

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        if self.broken:
            raise OSError("no space left")
        return super().log_run(parent_id, record, run_id)


class Store:
    """Runs of two learners, each with a tracker of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.told = folder, []
        self.tracker: Guarded
        monkeypatch.setattr(recording, "tracker_at", lambda *_: self.tracker)
        monkeypatch.setattr(recording, "_learner_record", lambda job, report: RunRecord(name=report.name))

    def begin(self, broken: bool = False, board: Board | None = None) -> recording.RecordRef:
        lines = JsonLinesTracker(self.folder / "lines")
        self.tracker = Guarded(Server(self.told, broken), lines, [] if board is None else [board])
        return recording.RecordRef(
            trackers=("mlflow",),
            store=str(self.folder),
            run_id="1",
            home=self.tracker.home,
            location=self.tracker.location,
        )

    def report(self, record: recording.RecordRef, status: str, *names: str) -> None:
        jobs = [Job.model_construct(name=name) for name in names]
        reports = [
            JobReport.model_construct(
                name=name, status=status, artifact=ArtifactRef(uri=str(self.folder / "jobs" / name), sha256="a" * 64)
            )
            for name in names
        ]
        recording.record_reports(record, jobs, reports)
        self.tracker.flush()

    def lines(self) -> list[str]:
        path = self.folder / "lines" / "1" / "events.jsonl"
        events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [event["name"] for event in events if event["event"] == "child"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(tmp_path, monkeypatch)


def test_what_is_recorded_elsewhere_in_the_end_is_recorded_again_by_the_next_run(store: Store) -> None:
    store.report(store.begin(broken=True), "trained", "a")
    assert (store.told, store.lines()) == ([], ["a"])
    for _ in range(2):
        store.report(store.begin(), "reused", "a")
    assert (store.told, store.lines()) == (["a"], ["a"])


def test_a_learner_keeps_its_run_when_another_tracker_fails(store: Store) -> None:
    board = Board()
    record = store.begin(board=board)
    store.report(record, "trained", "a")
    board.broken = True
    store.report(record, "trained", "b")
    assert store.tracker.location == f"the server, {store.folder / 'lines'}"
    store.report(record, "reused", "a", "b")
    store.report(store.begin(board=Board()), "reused", "a", "b")
    store.report(store.begin(), "reused", "a", "b")
    assert store.told == ["a", "b"], "one record for each, whatever became of the board"


def test_a_run_without_the_server_takes_nothing_from_what_is_noted_of_it(store: Store) -> None:
    store.report(store.begin(), "trained", "a")
    alone = store.begin(broken=True)
    store.report(alone, "trained", "b")
    store.report(alone.model_copy(update={"home": store.tracker.home}), "reused", "a", "b")
    assert store.lines() == ["b", "a"], "which the files that stand in do not have yet"
    store.report(store.begin(), "reused", "a", "b")
    assert store.told == ["a", "b"], "and `a` is not told to the server again"


@pytest.mark.parametrize("place", ["the server", "the server, the board"])
def test_notes_of_one_line_for_all_places_are_understood(store: Store, place: str) -> None:
    note = store.folder / "tracking" / "learners" / "a.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"location": place, "run_id": "7"}))
    store.report(store.begin(), "reused", "a")
    assert store.told == []

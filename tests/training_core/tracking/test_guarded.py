import json
import logging
import socket
import sqlite3
import time
from pathlib import Path

import pandas as pd
import pytest

from training_core.tracking import Guarded, JsonLinesTracker, ModelPackage, NullTracker, RunRecord, open_tracker
from training_core.tracking.mlflow import MLflowTracker


class Flaky(NullTracker):
    """Works until `broken` is set."""

    location = "the flaky place"

    def __init__(self) -> None:
        self.broken = False
        self.calls: list[str] = []

    def start(self, name, *, tags=None, params=None, dataset=None, run_id=None):
        self._touch("start")
        return "flaky-run"

    def log_metrics(self, run_id, metrics, step=0):
        self._touch("log_metrics")

    def finish(self, run_id, status="FINISHED"):
        self._touch(f"finish {status}")

    def log_ensemble(self, run_id, package):
        self._touch("log_ensemble")
        return "models:/toy/1"

    def _touch(self, call):
        self.calls.append(call)
        if self.broken:
            raise ConnectionError("nobody there")


def events(root: Path, run_id: str) -> list[dict]:
    return [json.loads(line) for line in (root / run_id / "events.jsonl").read_text().splitlines()]


def toy_package(folder: Path) -> ModelPackage:
    return ModelPackage(folder, "a" * 64, "toy", Path("x.py"), pd.DataFrame({"a": [1.0]}), ("prediction",), ())


def use(tracker: Guarded) -> str:
    run_id = tracker.start("train", params={"seed": "0"})
    tracker.log_run(run_id, RunRecord(name="bag-01", metrics={"accuracy": 0.5}))
    tracker.log_metrics(run_id, {"test/accuracy": 0.9})
    tracker.finish(run_id)
    return run_id


def test_failure_is_warned_about_once_and_the_rest_goes_to_json_lines(tmp_path, caplog):
    flaky = Flaky()
    tracker = Guarded(flaky, JsonLinesTracker(tmp_path))
    run_id = tracker.start("train")
    flaky.broken = True
    with caplog.at_level(logging.WARNING):
        tracker.log_metrics(run_id, {"a": 1.0})
        tracker.log_metrics(run_id, {"a": 2.0})
        tracker.log_text(run_id, "hello", "hello.txt")
        tracker.finish(run_id, "FAILED")
    assert [record.getMessage() for record in caplog.records] == [
        f"tracking in the flaky place failed, going on with JSON lines in {tmp_path}: ConnectionError: nobody there"
    ]
    assert [event["event"] for event in events(tmp_path, run_id)] == ["metrics", "metrics", "artifact", "finish"]
    assert tracker.location == str(tmp_path)


def test_broken_tracker_is_asked_again_only_to_close_the_run(tmp_path):
    flaky = Flaky()
    tracker = Guarded(flaky, JsonLinesTracker(tmp_path))
    run_id = tracker.start("train")
    flaky.broken = True
    tracker.log_metrics(run_id, {"a": 1.0})
    tracker.log_metrics(run_id, {"a": 2.0})
    tracker.flush()
    flaky.broken = False
    assert tracker.log_ensemble(run_id, toy_package(tmp_path)) == "models:/toy/1"
    tracker.finish(run_id)
    assert flaky.calls == ["start", "log_metrics", "log_ensemble", "finish FINISHED"]


def test_ensemble_that_cannot_be_registered_is_noted_and_training_goes_on(tmp_path):
    flaky = Flaky()
    tracker = Guarded(flaky, JsonLinesTracker(tmp_path / "lines"))
    run_id = tracker.start("train")
    flaky.broken = True
    assert tracker.log_ensemble(run_id, toy_package(tmp_path)) is None
    assert events(tmp_path / "lines", run_id)[0]["sha256"] == "a" * 64


def test_full_disk_loses_the_record_and_not_the_training(caplog):
    flaky = Flaky()
    flaky.broken = True
    tracker = Guarded(flaky, JsonLinesTracker(Path("/dev/full/tracking")))
    with caplog.at_level(logging.WARNING):
        use(tracker)
        use(tracker)
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["tracking", "records"]


def test_interruption_is_not_swallowed(tmp_path):
    class Interrupted(NullTracker):
        def connect(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupted(), JsonLinesTracker(tmp_path)).connect()


def test_training_goes_on_where_the_database_cannot_be_made(tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").mkdir()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run_id = use(open_tracker(["mlflow"], tmp_path))
    assert time.monotonic() - began < 60  # MLflow's import is in it, its 100 seconds of retries are not
    assert len(caplog.records) == 1
    assert "unable to open database file" in caplog.records[0].getMessage()
    kinds = [event["event"] for event in events(tmp_path / "tracking", run_id)]
    assert kinds == ["start", "child", "metrics", "finish"]
    assert capfd.readouterr().out == ""


def test_training_goes_on_when_the_database_breaks_half_way(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = open_tracker(["mlflow"], tmp_path)
    run_id = tracker.start("train")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TABLE metrics")
    with caplog.at_level(logging.WARNING):
        tracker.log_run(run_id, RunRecord(name="bag-01", metrics={"accuracy": 0.5}))
        tracker.finish(run_id)
    assert len(caplog.records) == 1
    assert [event["event"] for event in events(tmp_path / "tracking", run_id)] == ["child", "finish"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert dict(database.execute("SELECT name, status FROM runs")) == {"train": "FINISHED", "bag-01": "FAILED"}


def test_server_that_is_not_there_costs_seconds_not_minutes(tmp_path, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    lines = JsonLinesTracker(tmp_path / "tracking")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run_id = use(Guarded(MLflowTracker(tmp_path, uri=uri), lines))
    assert time.monotonic() - began < 60
    assert len(caplog.records) == 1
    assert events(tmp_path / "tracking", run_id)[0]["params"] == {"seed": "0"}


def test_the_password_of_a_server_that_is_not_there_is_not_logged(tmp_path, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    tracker = MLflowTracker(tmp_path, uri=f"http://me:hun/ter2@127.0.0.1:{port}/mlflow?token=hunter2")
    assert tracker.location == f"http://127.0.0.1:{port}/mlflow"
    with caplog.at_level(logging.WARNING):
        use(Guarded(MLflowTracker(tmp_path, uri=f"http://me:hunter2@127.0.0.1:{port}"), JsonLinesTracker(tmp_path)))
    assert f"127.0.0.1:{port}" in caplog.records[0].getMessage()
    assert "hunter2" not in caplog.text


def test_ids_are_good_where_they_are_given_whatever_becomes_of_the_other_trackers(tmp_path):
    leader, follower, lines = Flaky(), Flaky(), JsonLinesTracker(tmp_path / "lines")
    follower.location, follower.broken = "the board", True
    tracker = Guarded(leader, lines, [follower])
    assert tracker.home == "the flaky place"
    tracker.start("train")
    tracker.flush()
    assert tracker.location == f"the flaky place, {lines.location}"
    assert tracker.home == "the flaky place"
    leader.broken = True
    tracker.log_metrics("flaky-run", {"a": 1.0})
    tracker.flush()
    assert tracker.home == lines.location


def test_without_a_fallback_the_next_tracker_says_where_ids_are_good(tmp_path):
    leader, lines = Flaky(), JsonLinesTracker(tmp_path / "lines")
    leader.broken = True
    tracker = Guarded(leader, None, [lines])
    tracker.start("train")
    assert tracker.home == lines.location


def test_a_record_with_files_is_given_as_long_as_an_upload(tmp_path):
    class Uploads(NullTracker):
        def log_run(self, parent_id, record, run_id=None):
            time.sleep(0.6 if record.artifacts else 0.0)
            return "uploaded"

    tracker = Guarded(Uploads(), JsonLinesTracker(tmp_path), patience_seconds=0.2, upload_seconds=60)
    assert tracker.log_run("parent", RunRecord(name="profiled", artifacts=("trace.json.gz",))) == "uploaded"
    assert tracker.log_run("parent", RunRecord(name="plain")) == "uploaded"

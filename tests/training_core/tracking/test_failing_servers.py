"""A real server on this machine that dies, hangs or dawdles: how long whoever records is held up, and what is lost."""

import json
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from training_core.errors import StorageError
from training_core.tracking import Guarded, JsonLinesTracker, NullTracker, RunRecord
from training_core.tracking.mlflow import MLflowTracker
from training_core.tracking.tensorboard import TensorBoardTracker

PATIENCE = 3.0
"""Whoever waits for a server that does not answer waits all of it; whoever does not, milliseconds."""
ROOT = Path(__file__).parents[3]
EXPERIMENT = {
    "experiment_id": "1",
    "name": "polychoir",
    "artifact_location": "file:///elsewhere",
    "lifecycle_stage": "active",
}
INFO = {"run_id": "abc123", "run_uuid": "abc123", "experiment_id": "1", "status": "RUNNING", "start_time": 0,
        "artifact_uri": "file:///elsewhere", "lifecycle_stage": "active", "run_name": "train"}  # fmt: skip


class Server(ThreadingHTTPServer):
    """As much of MLflow's REST interface as recording needs; `mode` says how it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode = "well"
        self.calls: list[str] = []
        self.released = threading.Event()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def die(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self) -> None:
        call = self.path.partition("?")[0].rpartition("mlflow/")[2]
        self.server.calls.append(call)
        if self.server.mode == "hang":
            self.server.released.wait(30)
            return
        if self.server.mode == "trickle":  # a byte a while: no read ever times out
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(1000):
                if self.server.released.wait(0.2):
                    return
                self.wfile.write(b" ")
                self.wfile.flush()
        if self.server.mode == "slow":
            time.sleep(0.15)
        run = {"info": INFO, "data": {}, "inputs": {}}
        known: dict[str, Any] = {"experiments/get-by-name": {"experiment": EXPERIMENT}, "runs/create": {"run": run},
                                 "runs/update": {"run_info": INFO}}  # fmt: skip
        body = json.dumps(known.get(call, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.released.set()
    server.die()


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """MLflow's and TensorBoard's imports take seconds of patience otherwise."""
    import mlflow.pyfunc  # noqa: F401
    from torch.utils import tensorboard  # noqa: F401


def guarded(server: Server, folder: Path, **more: Any) -> Guarded:
    return Guarded(MLflowTracker(folder, uri=server.uri), JsonLinesTracker(folder / "lines"),
                   patience_seconds=PATIENCE, **more)  # fmt: skip


def events(folder: Path, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "lines" / run_id / "events.jsonl").read_text().splitlines()]


def timed(call: Any, *args: Any) -> float:
    began = time.monotonic()
    call(*args)
    return time.monotonic() - began


def test_a_server_that_answers_gets_everything_in_order(server: Server, tmp_path: Path, caplog: Any) -> None:
    tracker = guarded(server, tmp_path)
    run_id = tracker.start("train", params={"seed": "0"})
    tracker.log_run(run_id, RunRecord(name="net", metrics={"accuracy": 0.5}))
    for step in range(5):
        tracker.log_metrics(run_id, {"loss": 1.0}, step)
    tracker.finish(run_id)
    assert run_id == "abc123"
    assert server.calls.count("runs/log-batch") == 7
    assert server.calls[-1] == "runs/update"
    assert not caplog.records
    assert not (tmp_path / "lines").exists()


@pytest.mark.parametrize("mode", ["hang", "trickle"])
def test_a_server_that_stops_answering_is_waited_for_once(
    server: Server, tmp_path: Path, caplog: Any, mode: str
) -> None:
    tracker = guarded(server, tmp_path)
    run_id = tracker.start("train")
    server.mode = mode
    with caplog.at_level(logging.WARNING):
        taken = [timed(tracker.log_metrics, run_id, {"loss": float(step)}, step) for step in range(200)]
        ending = timed(tracker.finish, run_id)
    assert max(taken) < PATIENCE, "whoever trains is not held up at all"
    assert ending < PATIENCE + 20
    assert len(caplog.records) == 1
    assert f"no answer in {PATIENCE:g} s" in caplog.records[0].getMessage()
    kept = events(tmp_path, run_id)
    assert [event["step"] for event in kept[:-1]] == list(range(200)), "each once, in order"
    assert kept[-1]["event"] == "finish"
    assert timed(tracker.log_metrics, run_id, {"late": 1.0}) < PATIENCE


def test_a_server_that_hangs_from_the_beginning_costs_one_patience(server: Server, tmp_path: Path, caplog: Any) -> None:
    server.mode = "hang"
    tracker = guarded(server, tmp_path)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run_id = tracker.start("train", params={"seed": "0"})
        for number in range(20):
            tracker.log_run(run_id, RunRecord(name=f"net {number}"))
        tracker.finish(run_id)
    assert time.monotonic() - began < PATIENCE + 20
    assert [event["event"] for event in events(tmp_path, run_id)] == ["start", *["child"] * 20, "finish"]
    assert len(caplog.records) == 1
    with pytest.raises(StorageError, match=r"cannot look up 'models:/a/1' in http://127\.0\.0\.1"):
        guarded(server, tmp_path, upload_seconds=PATIENCE).resolve_model("models:/a/1")


def test_a_server_that_dies_in_mid_run_loses_nothing(
    server: Server, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = guarded(server, tmp_path)
    run_id = tracker.start("train")
    tracker.log_metrics(run_id, {"loss": 9.0}, 0)
    tracker.flush()
    server.die()
    with caplog.at_level(logging.WARNING):
        taken = [timed(tracker.log_metrics, run_id, {"loss": float(step)}, step) for step in range(1, 50)]
        tracker.log_text(run_id, "hello", "hello.txt")
        tracker.finish(run_id)
    assert max(taken) < PATIENCE
    assert len(caplog.records) == 1
    assert [event["step"] for event in events(tmp_path, run_id) if event["event"] == "metrics"] == list(range(1, 50))
    assert (tmp_path / "lines" / run_id / "artifacts" / "hello.txt").read_text() == "hello"


def test_a_slow_server_slows_nobody_and_is_waited_for_in_the_end(server: Server, tmp_path: Path, caplog: Any) -> None:
    tracker = guarded(server, tmp_path)
    run_id = tracker.start("train")
    server.mode = "slow"
    taken = [timed(tracker.log_metrics, run_id, {"loss": 1.0}, step) for step in range(5)]
    assert sorted(taken)[2] < 0.1
    tracker.finish(run_id)
    assert server.calls.count("runs/log-batch") == 5
    assert not caplog.records


def test_other_trackers_go_on_when_one_hangs_and_json_lines_have_what_it_lacks(
    server: Server, tmp_path: Path, caplog: Any
) -> None:
    board = TensorBoardTracker(tmp_path / "board")
    tracker = guarded(server, tmp_path, followers=[board])
    run_id = tracker.start("train")
    server.mode = "hang"
    with caplog.at_level(logging.WARNING):
        tracker.log_metrics(run_id, {"loss": 1.0}, 1)
        child = tracker.log_run(run_id, RunRecord(name="net", curves={"loss": ((1, 0.5),)}))
        tracker.finish(run_id)
    assert len(caplog.records) == 1
    assert tracker.location == f"{board.location}, {tmp_path / 'lines'}"
    assert list((tmp_path / "board" / f"train-{run_id}" / "net").glob("events.*"))
    assert [event["event"] for event in events(tmp_path, run_id)] == ["metrics", "child", "finish"]
    assert events(tmp_path, run_id)[1]["run"] == child


def test_a_process_ends_although_a_tracker_hangs() -> None:
    code = f"""
        import sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from training_core.tracking.lane import Lane, Piece
        begun = threading.Event()
        def hang():
            begun.set()
            threading.Event().wait()
        Lane(print).put(Piece(hang, 0.1, record="x"))
        begun.wait()
        print("at work")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "at work\n"), ended.stderr


def test_two_trackers_that_fail_leave_each_record_once(tmp_path: Path, caplog: Any) -> None:
    class Broken(NullTracker):
        def __init__(self, name: str) -> None:
            self.location = name

        def log_metrics(self, run_id: str, metrics: Any, step: int = 0) -> None:
            raise ConnectionError("nobody there")

    lines = JsonLinesTracker(tmp_path / "lines")
    tracker = Guarded(Broken("one"), lines, [Broken("two"), Broken("three")])
    run_id = tracker.start("train")
    with caplog.at_level(logging.WARNING):
        for step in range(50):
            tracker.log_metrics(run_id, {"loss": 1.0}, step)
        tracker.finish(run_id)
    assert [event.get("step") for event in events(tmp_path, run_id)] == [*range(50), None]
    assert len(caplog.records) == 3


def test_where_json_lines_are_kept_anyway_a_failure_does_not_double_them(tmp_path: Path, caplog: Any) -> None:
    class Broken(NullTracker):
        def log_metrics(self, run_id: str, metrics: Any, step: int = 0) -> None:
            raise ConnectionError("nobody there")

    tracker = Guarded(Broken(), None, [JsonLinesTracker(tmp_path / "lines")])
    run_id = tracker.start("train")
    with caplog.at_level(logging.WARNING):
        tracker.log_metrics(run_id, {"loss": 1.0}, 3)
        tracker.finish(run_id)
    assert [event["event"] for event in events(tmp_path, run_id)] == ["start", "metrics", "finish"]
    assert "going on without" in caplog.records[0].getMessage()


def test_files_are_asked_for_with_the_password_of_the_address(tmp_path: Path) -> None:
    given: list[str | None] = []

    class Locked(Handler):
        def answer(self) -> None:
            given.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        tracker = MLflowTracker(tmp_path, uri=f"http://me:hunter2@127.0.0.1:{server.server_address[1]}")
        with pytest.raises(Exception, match="404"):
            tracker._fetch("mlflow-artifacts:/models/one")
        server.shutdown()
    assert set(given) == {"Basic bWU6aHVudGVyMg=="}

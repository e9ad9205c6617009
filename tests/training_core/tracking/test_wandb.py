"""What W&B itself would upload from the files we write; and that nothing is sent."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CODE = """
import socket, sys
from pathlib import Path
tried = []
real = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX:
        tried.append(address)
    return real(self, address)
socket.socket.connect = connect
from training_core.tracking import RunRecord, TrackedDataset
from training_core.tracking.wandb import WandbTracker
root = Path(sys.argv[1])
(root / "notes").mkdir(parents=True)
(root / "notes" / "a.txt").write_text("kept")
tracker = WandbTracker(root)
tracker.connect()
run = tracker.start("digits", params={"training.lr": "0.1"}, tags={"a": "b"}, run_id="run-1",
                    dataset=TrackedDataset(name="digits", version="1f", fingerprint="1f00", path="/d"))
tracker.log_run(run, RunRecord(name="bag-01/net", params={"width": "8"}, metrics={"accuracy": 0.9},
                               curves={"loss": ((1, 1.0), (2, 0.5)), "late": ((2, 7.0),)}), run_id="child-1")
tracker.log_metrics(run, {"test/accuracy": 0.95})
tracker.log_text(run, "<html>", "report.html")
tracker.log_artifact(run, root / "notes", "profiles")
tracker.finish(run)
assert [a for a in tried if a[0] not in {"127.0.0.1", "::1"}] == [], tried
"""


def records(path: Path) -> list[Any]:
    """The records of a run's file, as `wandb sync` reads them."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    found = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def history(path: Path) -> list[dict[str, Any]]:
    rows = [r.history for r in records(path) if r.WhichOneof("record_type") == "history"]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in rows]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process leaves that recorded one run, with the user's own settings asking for the network."""
    root = tmp_path_factory.mktemp("wandb")
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_API_KEY": "x" * 40, "HOME": str(root / "home")}
    command = [sys.executable, "-c", CODE, str(root / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return root / "store" / "wandb"


def test_a_run_and_its_learners_are_one_group(root: Path) -> None:
    runs = [r.run for path in root.glob("offline-run-*/*.wandb") for r in records(path) if r.HasField("run")]
    told = {(run.run_id, run.display_name, run.run_group, run.job_type, run.project) for run in runs}
    assert told == {
        ("run-1", "digits", "run-1", "run", "polychoir"),
        ("child-1", "bag-01/net", "run-1", "learner", "polychoir"),
    }
    settings = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    assert settings["training.lr"] == "0.1"
    assert settings["width"] == "8"
    assert settings["dataset"]["version"] == "1f"


def test_curves_have_every_epoch_once_and_final_values_are_in_the_summary(root: Path) -> None:
    (path,) = root.glob("offline-run-*-child-1/*.wandb")
    rows = [{key: row[key] for key in row if not key.startswith("_")} for row in history(path)]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "late": 7.0}]
    summaries = [r.summary for r in records(path) if r.WhichOneof("record_type") == "summary"]
    values = {item.key or item.nested_key[0]: json.loads(item.value_json) for s in summaries for item in s.update}
    assert values["accuracy"] == 0.9


def test_texts_and_folders_are_among_the_files(root: Path) -> None:
    (folder,) = root.glob("offline-run-*-run-1/files")
    assert (folder / "report.html").read_text() == "<html>"
    assert (folder / "profiles" / "notes" / "a.txt").read_text() == "kept"

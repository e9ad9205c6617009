"""A run recorded in four places at once and profiled, as a user asks for it; killed and gone on with."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, SMALL, answer, polychoir
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERYWHERE = ("--set=trackers=[mlflow, tensorboard, wandb, jsonl]", "--profile")


def curve(folder: Path, key: str) -> list[int]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(key)] if key in events.Tags()["scalars"] else []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("everywhere") / "store"


@pytest.fixture(scope="module")
def summary(place: Path, source: Path) -> dict[str, Any]:
    return answer(polychoir("train", source, *SMALL, *EVERYWHERE, "--store", place, "--json"))


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_has_the_same_id_and_children_everywhere(summary: dict[str, Any], place: Path) -> None:
    run_id, nets = summary["run_id"], sorted(summary["speed"])
    children = sorted(row["name"] for row in summary["leaderboard"])
    with sqlite3.connect(place / "mlflow.db") as database:
        query = "select r.name from runs r join tags t on t.run_uuid = r.run_uuid where t.key = ? and t.value = ?"
        assert sorted(name for (name,) in database.execute(query, ("mlflow.parentRunId", run_id))) == children
    events = [json.loads(line) for line in (place / "tracking" / run_id / "events.jsonl").read_text().splitlines()]
    assert sorted(event["name"] for event in events if event["event"] == "child") == children
    assert events[-1] | {"time": 0} == {"time": 0, "event": "finish", "status": "FINISHED"}
    assert len(list((place / "wandb").glob("offline-run-*"))) == 1 + len(children)
    (board,) = (place / "tensorboard").glob(f"*-{run_id}")
    for net in nets:
        steps = curve(board / net, "validation/loss")
        assert steps == list(range(1, len(steps) + 1)), "live points and the record of the whole make one curve"
        assert len(steps) > 2
    assert summary["tracking"].split(", ")[0].startswith("sqlite:")
    assert len(summary["tracking"].split(", ")) == 4


@pytest.mark.nightly
@pytest.mark.slow
def test_speed_and_profile_of_every_net_are_recorded_and_shown(
    summary: dict[str, Any], place: Path, source: Path
) -> None:
    assert summary["speed"].keys() == {row["name"] for row in summary["leaderboard"] if row["learner"] != "linear"}
    for speed in summary["speed"].values():
        assert speed["samples_per_second"] > 0
        assert 0 <= speed["data_wait_share"] <= 1
    for profiled in summary["profiles"].values():
        folder = Path(profiled["folder"])
        assert {path.name for path in folder.iterdir()} == {"trace.json.gz", "operators.txt", "operators.json"}
    page = Path(summary["report"]).read_text()
    assert "Speed of the nets" in page
    assert "aten::addmm" in page
    shown = polychoir("train", source, *SMALL, *EVERYWHERE, "--store", place)
    assert "aten::addmm" in shown.stdout
    assert "profile of" in shown.stdout
    assert "Traceback" not in shown.stdout + shown.stderr


@pytest.mark.nightly
@pytest.mark.slow
def test_a_run_that_is_killed_and_gone_on_with_has_every_epoch_once(source: Path, tmp_path: Path) -> None:
    settings = ("--preset=quick", "--set=learners.include=[tabular_mlp]", "--set=bags.num_bags=6",
                "--set=training.epochs=40", "--set=training.patience=40", "--set=training.checkpoint_seconds=0.2",
                "--set=training.stacking=never", "--set=tabular_mlp.width=16",
                "--set=trackers=[tensorboard]", "--set=budget.group_size=2", "--store", str(tmp_path))  # fmt: skip
    command = [sys.executable, "-m", "flows.cli", "train", str(source), *settings]
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        deadline = time.monotonic() + 200
        while not any(len(curve(path.parent, "training/loss")) > 5 for path in tmp_path.rglob("*/events.out.*")):
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    summary = answer(polychoir("train", source, *settings, "--json"))
    (board,) = (tmp_path / "tensorboard").glob(f"*-{summary['run_id']}")
    for net in summary["speed"]:
        steps = curve(board / net, "training/loss")
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == 40

"""The maintenance command, and the flows of preparing data and of maintenance, on a real Prefect server."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ROOT, answer, polychoir

from training_core.artifacts import publish_directory

_FLOWS = """
import sys
from flows.runtime import prefect_at
from pathlib import Path

source, store = sys.argv[1:]
with prefect_at(Path(store)):
    from flows.maintain import maintain_store
    from flows.prepare_data import prepare_data_flow
    from training_core.campaigns.maintenance import RetentionConfig

    dataset = prepare_data_flow(source, store)
    report = maintain_store(RetentionConfig(flow_run_days=1e-9), store)
    print(dataset.model_dump_json())
    print(report.model_dump_json())
"""


def test_a_store_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    result = polychoir("maintain", "--store", tmp_path / "nowhere")
    assert result.returncode == 2
    assert "there is no store in" in result.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_the_command_says_what_would_go_and_then_removes_it(tmp_path: Path) -> None:
    learner = tmp_path / "jobs" / "old"
    with publish_directory(learner) as folder:
        (folder / "weights").write_text("w" * 1000)
    then = time.time() - 31 * 86_400
    os.utime(learner, (then, then))
    said = answer(polychoir("maintain", "--dry-run", "--json", "--store", tmp_path))
    assert learner.exists()
    assert [(kind["kind"], kind["names"]) for kind in said["tidied"]] == [("learners", ["old"])]
    assert said["num_bytes"] > 1000
    result = polychoir("maintain", "--store", tmp_path)
    assert result.returncode == 0
    assert "freed" in result.stdout
    assert not learner.exists()


@pytest.mark.slow
def test_flow_runs_that_are_over_are_forgotten_and_their_tables_were_shown(source: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _FLOWS, str(source), str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr
    dataset, report = map(json.loads, ran.stdout.splitlines()[-2:])
    assert (tmp_path / "datasets" / dataset["name"]).is_dir()
    assert report["tidied"] == [{"kind": "flow runs", "names": [f"prepare {source}"], "num_bytes": 0}]
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        runs = database.execute("select name from flow_run").fetchall()
        keys = {key for (key,) in database.execute("select key from artifact")}
    assert runs == [(f"maintain {tmp_path}",)]
    assert {"maintenance", "quality"} <= keys

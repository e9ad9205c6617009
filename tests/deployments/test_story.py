"""A model's life on real processes: trained, watched on a schedule, trained again after a change, and set back."""

import json
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamed_world import WEEK, begin, frame, more, quick_run

from tests.deployments.test_up import Api, environment, polychoir, until
from training_core.campaigns.watching.monitor import MonitorReport
from training_core.campaigns.watching.state import WatchFolder

_RETRAIN = "retrain-model/retrain"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Life:
    """A store that is up, and its only model."""

    def __init__(self, place: Path, api: Api) -> None:
        self.place, self.store, self.api = place, place / "store", api

    def run(self, deployment: str, parameters: dict[str, Any]) -> None:
        """Start a run of a deployment, and see it through."""
        known = self.ask("GET", f"/deployments/name/{deployment}")["id"]
        given = {"parameters": {**parameters, "store": str(self.store)}}
        self.see_through(self.ask("POST", f"/deployments/{known}/create_flow_run", given)["id"])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """An answer of the server, which may ask to be asked again while its SQLite file is locked."""

        def answer() -> Any:
            try:
                return (self.api(method, path, body),)
            except TimeoutError:
                return None
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                return None

        return until(answer)[0]

    def see_through(self, run: str) -> None:
        until(lambda: self.ask("GET", f"/flow_runs/{run}")["state"]["type"] in FINAL)
        state = self.ask("GET", f"/flow_runs/{run}")["state"]
        assert state["type"] == "COMPLETED", state["message"]

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        known = self.ask("GET", f"/deployments/name/{deployment}")["id"]
        return self.ask("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [known]}}})

    def champion(self) -> int:
        (model,) = json.loads(polychoir("models", "--store", self.store, "--json").stdout)["models"]
        return model["champion"]

    def seen(self, rows: pd.DataFrame) -> MonitorReport:
        """What the schedule's next look finds of rows that have come in."""
        version = more(self.place, rows).version
        folder = WatchFolder(self.store, "stream")

        def number() -> int | None:
            return next((n for n, label in enumerate(folder.state().labels) if version[:8] in label), None)

        until(lambda: number() is not None)
        position = number()
        assert position is not None
        return MonitorReport.model_validate_json(folder.report_paths(position)[0].read_text())


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_change_is_seen_on_schedule_answered_promoted_and_taken_back(tmp_path: Path) -> None:
    first = begin(tmp_path)
    command = [sys.executable, "-m", "deployments.cli", "up", "--store", str(tmp_path / "store"), "--json"]
    command += ["--set", "monitor=* * * * *"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            live(Life(tmp_path, Api(f"{addresses['prefect']}/api", Path(addresses["login"]).read_text())), first.ref)
        finally:
            process.terminate()
            process.wait(90)


def live(life: Life, dataset: str) -> None:
    run = quick_run(dataset).model_dump(mode="json", include={"dataset", "preset", "bags", "learners"})
    life.run("train-ensemble/train", {"run": run})
    assert life.champion() == 1

    verdicts = [life.seen(frame((4 + week) * WEEK, WEEK, turned=True)) for week in range(2)]
    assert [found.retrain.retrain for found in verdicts] == [False, True]
    (started,) = until(lambda: life.runs_of(_RETRAIN))
    life.see_through(started["id"])
    assert life.champion() == 2

    verdicts = [life.seen(frame((6 + week) * WEEK, WEEK, turned=True, shift=3.0)) for week in range(2)]
    assert verdicts[-1].verdict == "drift"
    assert verdicts[-1].version == "models:/stream/2"
    assert not verdicts[-1].retrain.retrain
    assert "days" in verdicts[-1].retrain.reason
    assert len(life.runs_of(_RETRAIN)) == 1

    life.run("rollback-model/rollback", {"model": "stream", "why": "complaints"})
    assert life.champion() == 1

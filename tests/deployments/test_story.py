"""A model's life on real processes: trained, watched on a schedule, trained again after a change, and set back.

Of a stream that is made up, and, where `POLYCHOIR_ELEC2` names the folder of its `elec.csv`, of the electricity market
of New South Wales.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pytest
import streamed_world
from streamed_world import frame, more, quick_run

from tests.deployments.test_up import Api, environment, polychoir, until
from training_core.campaigns.watching.monitor import MonitorReport
from training_core.campaigns.watching.state import WatchFolder
from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import Dataset, DatasetStore

_RETRAIN = "retrain-model/retrain"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
MARKET = os.environ.get("POLYCHOIR_ELEC2")


class Stream(Protocol):
    """Rows that come in by weeks. Two weeks after the beginning a model of it has to be trained again, and two later
    it would have to be once more."""

    name: str

    def begin(self, place: Path) -> Dataset: ...

    def arrive(self, place: Path, week: int) -> Dataset: ...

    def run(self, dataset: str) -> dict[str, Any]: ...


class MadeUp:
    """What the rows mean turns round, and later on their numbers move."""

    name = "stream"

    def begin(self, place: Path) -> Dataset:
        return streamed_world.begin(place)

    def arrive(self, place: Path, week: int) -> Dataset:
        first, shift = (4 + week) * streamed_world.WEEK, 0.0 if week < 2 else 3.0
        return more(place, frame(first, streamed_world.WEEK, turned=True, shift=shift))

    def run(self, dataset: str) -> dict[str, Any]:
        return quick_run(dataset).model_dump(mode="json", include={"dataset", "preset", "bags", "learners"})


@dataclass(frozen=True)
class Market:
    """Half hours of the market from its 33rd week on: a stretch in which what is trained again is better."""

    folder: Path
    name: str = "elec2"

    def begin(self, place: Path) -> Dataset:
        return prepare_dataset(self._source(place, 0, 26), DatasetStore(place / "store" / "datasets"))

    def arrive(self, place: Path, week: int) -> Dataset:
        return append_to_dataset(self._source(place, 26 + week, 1), DatasetStore(place / "store" / "datasets"))

    def run(self, dataset: str) -> dict[str, Any]:
        return {"dataset": dataset, "preset": "tiny", "learners": {"include": ["linear", "lightgbm"]}}

    def _source(self, place: Path, first: int, num_weeks: int) -> Path:
        folder, half_hours = place / f"from-{first}", 336
        folder.mkdir()
        rows = pd.read_csv(self.folder / "elec.csv").iloc[(32 + first) * half_hours :][: num_weeks * half_hours]
        rows = rows.assign(row=[f"row-{i}" for i in rows.index], time=np.asarray(rows.index, dtype=float))
        rows.to_csv(folder / "rows.csv", index=False)
        (folder / "source.yaml").write_text(
            "name: elec2\n"
            "task: {kind: classification, target: {file: rows.csv, column: class}}\n"
            "id: {file: rows.csv, column: row}\n"
            "time: {file: rows.csv, column: time}\n"
            "split: {test: 0.2}\n"
            "quality: {accept: [label_leakage, duplicate_rows, constant]}\n"
            "modalities:\n"
            "  nsw: {kind: tabular, file: rows.csv, columns: [period, nswprice, nswdemand]}\n"
            "  vic: {kind: tabular, file: rows.csv, columns: [vicprice, vicdemand, transfer]}\n"
        )
        return folder / "source.yaml"


class Life:
    """A store that is up, and its only model."""

    def __init__(self, place: Path, api: Api, stream: Stream) -> None:
        self.place, self.store, self.api, self.stream = place, place / "store", api, stream

    def run(self, deployment: str, parameters: dict[str, Any]) -> None:
        """Start a run of a deployment, and see it through."""
        known = self.api("GET", f"/deployments/name/{deployment}")["id"]
        given = {"parameters": {**parameters, "store": str(self.store)}}
        self.see_through(self.api("POST", f"/deployments/{known}/create_flow_run", given)["id"])

    def see_through(self, run: str) -> None:
        until(lambda: self.api("GET", f"/flow_runs/{run}")["state"]["type"] in FINAL)
        state = self.api("GET", f"/flow_runs/{run}")["state"]
        assert state["type"] == "COMPLETED", state["message"]

    def runs_of(self, deployment: str) -> list[dict[str, Any]]:
        known = self.api("GET", f"/deployments/name/{deployment}")["id"]
        return self.api("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [known]}}})

    def champion(self) -> int:
        (model,) = json.loads(polychoir("models", "--store", self.store, "--json").stdout)["models"]
        return model["champion"]

    def seen(self, week: int) -> MonitorReport:
        """What the schedule's next look finds of a week that has come in."""
        version = self.stream.arrive(self.place, week).version
        folder = WatchFolder(self.store, self.stream.name)

        def number() -> int | None:
            return next((n for n, label in enumerate(folder.state().labels) if version[:8] in label), None)

        until(lambda: number() is not None)
        position = number()
        assert position is not None
        return MonitorReport.model_validate_json(folder.report_paths(position)[0].read_text())


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(MadeUp(), id="made-up"),
        pytest.param(
            Market(Path(MARKET or ".")),
            id="elec2",
            marks=pytest.mark.skipif(MARKET is None, reason="POLYCHOIR_ELEC2 names no folder with elec.csv"),
        ),
    ],
)
def test_a_change_is_seen_on_schedule_answered_promoted_and_taken_back(stream: Stream, tmp_path: Path) -> None:
    first = stream.begin(tmp_path)
    command = [sys.executable, "-m", "deployments.cli", "up", "--store", str(tmp_path / "store"), "--json"]
    command += ["--set", "monitor=* * * * *"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            api = Api(f"{addresses['prefect']}/api", Path(addresses["login"]).read_text())
            live(Life(tmp_path, api, stream), first.ref)
        finally:
            process.terminate()
            process.wait(90)
    log = (tmp_path / "store" / "prefect" / "server.log").read_text()
    assert "database is locked" not in log


def live(life: Life, dataset: str) -> None:
    name = life.stream.name
    life.run("train-ensemble/train", {"run": life.stream.run(dataset)})
    assert life.champion() == 1

    assert [life.seen(week).retrain.retrain for week in range(2)] == [False, True]
    (started,) = until(lambda: life.runs_of(_RETRAIN))
    life.see_through(started["id"])
    assert life.champion() == 2

    found = [life.seen(week) for week in range(2, 4)][-1]
    assert found.verdict == "drift"
    assert found.version == f"models:/{name}/2"
    assert not found.retrain.retrain
    assert "days" in found.retrain.reason
    assert len(life.runs_of(_RETRAIN)) == 1

    life.run("rollback-model/rollback", {"model": name, "why": "complaints"})
    assert life.champion() == 1

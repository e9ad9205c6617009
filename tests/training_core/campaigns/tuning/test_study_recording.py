"""A study in MLflow: one parent however often it is resumed, one child per trial, charts and settings with it."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from invented_study import FAILED, PRUNED, RUNNING, invented_study

from training_core.campaigns.recording import RecordRef, end_record
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning import recording
from training_core.campaigns.tuning.recording import begin_study_record, record_study
from training_core.campaigns.tuning.report import write_report
from training_core.campaigns.tuning.summary import StudySummary
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.errors import StorageError
from training_core.jobs import DatasetRef
from training_core.tracking import Guarded, JsonLinesTracker, NullTracker, RunRecord


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetRef]:
    store = tmp_path_factory.mktemp("store")
    vec = np.random.default_rng(0).normal(size=(60, 2))
    made = create_dataset_from_arrays("shoes", {"vec": vec}, ["a", "b"] * 30, task="classification", store=store)
    made.close()
    root = str(store / "datasets")
    return store, DatasetRef(root=root, name="shoes", version=made.version, fingerprint=made.fingerprint)


def test_a_study_is_one_parent_and_a_child_per_trial_that_ended(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    run, folder = RunConfig(dataset="shoes"), store / "studies" / "shoes-1f3a"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text("dataset: shoes\n")
    summary = invented_study(folder, ("loss", "seconds"), num_trials=10)
    half = summary.model_copy(update={"trials": summary.trials[:6]})

    first = begin_study_record(run, ref, folder, store, {"prefect.flow": "tune-ensemble"})
    write_report(half, folder)
    record_study(first, half)
    end_record(first, "FINISHED")
    again = begin_study_record(run, ref, folder, store, {})
    write_report(summary, folder)
    record_study(again, summary)
    end_record(again, "FINISHED")

    assert again.run_id == first.run_id
    client = mlflow.MlflowClient(first.location)
    parent = client.get_run(first.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["polychoir.study"] == "shoes-1f3a"
    assert parent.data.metrics["best/trial"] == summary.best
    assert parent.data.metrics["importance/ped_anova/training.lr"] == 0.9
    files = {item.path for item in client.list_artifacts(first.run_id)}
    assert {"report.html", "best.yaml", "study.json", "plots"} <= files
    plots = {item.path for item in client.list_artifacts(first.run_id, "plots")}
    assert "plots/front-seconds.svg" in plots

    experiment = [parent.info.experiment_id]
    children = client.search_runs(experiment, f"tags.`mlflow.parentRunId` = '{first.run_id}'", max_results=100)
    by_number = {int(child.data.tags["polychoir.trial"]): child for child in children}
    assert len(children) == len(by_number) == 9
    assert RUNNING not in by_number
    assert by_number[FAILED].info.status == "FAILED"
    assert "not finite" in by_number[FAILED].data.tags["polychoir.error"]
    assert by_number[PRUNED].info.status == "FINISHED"
    assert by_number[PRUNED].data.tags["polychoir.trial_state"] == "pruned"
    best = by_number[summary.trials[summary.best or 0].number]
    assert best.data.params["training.lr"] == str(summary.trials[summary.best or 0].params["training.lr"])
    assert best.data.metrics["objective/seconds"] == summary.trials[summary.best or 0].values[1]  # pyright: ignore
    curve = client.get_metric_history(best.info.run_id, "validation/best_loss")
    assert [point.step for point in curve] == list(range(1, 13))


def test_a_damaged_note_is_named_with_what_to_do(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    folder = store / "studies" / "torn"
    folder.mkdir(parents=True)
    (folder / "tracked.json").write_text('{"location": "sql')
    with pytest.raises(StorageError, match=r"tracked\.json is unreadable .* delete it"):
        begin_study_record(RunConfig(dataset="shoes"), ref, folder, store, {})


def test_without_trackers_nothing_is_recorded_and_nothing_fails(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    folder = store / "studies" / "untracked"
    folder.mkdir(parents=True)
    record = begin_study_record(RunConfig(dataset="shoes", trackers=()), ref, folder, store, {})
    record_study(record, invented_study(folder))
    end_record(record, "FINISHED")


class Server(NullTracker):
    """Gives ids and keeps what it is told; a process may lose it."""

    location = "the server"

    def __init__(self, kept: dict[str, list[str]]) -> None:
        self.kept, self.broken = kept, False

    def start(self, name: str, **given: Any) -> str:
        if self.broken:
            raise ConnectionError("nobody there")
        run_id = f"study-{len(self.kept)}"
        self.kept[run_id] = []
        return run_id

    def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
        if self.broken:
            raise ConnectionError("nobody there")
        self.kept[parent_id].append(record.name)
        return f"{parent_id} {record.name}"


class Process:
    """One of those that work on a study: with a tracker and a connection to the server of its own."""

    def __init__(self, store: Path, kept: dict[str, list[str]], board: NullTracker | None = None) -> None:
        self.server = Server(kept)
        lines = JsonLinesTracker(store / "lines")
        self.tracker = Guarded(self.server, lines, [] if board is None else [board])

    def begin(self, patch: pytest.MonkeyPatch, world: tuple[Path, DatasetRef], folder: Path) -> RecordRef:
        with patch.context() as patched:
            patched.setattr(recording, "tracker_at", lambda *_: self.tracker)
            return begin_study_record(RunConfig(dataset="shoes"), world[1], folder, world[0], {})

    def record(self, patch: pytest.MonkeyPatch, record: RecordRef, summary: StudySummary) -> None:
        with patch.context() as patched:
            patched.setattr(recording, "tracker_at", lambda *_: self.tracker)
            record_study(record, summary)
        self.tracker.flush()


def first_trials(summary: StudySummary, number: int) -> StudySummary:
    return summary.model_copy(update={"trials": summary.trials[:number]})


def children(lines: Path, run_id: str) -> list[str]:
    events = map(json.loads, (lines / run_id / "events.jsonl").read_text().splitlines())
    return [event["name"] for event in events if event["event"] == "child"]


def test_what_one_process_could_not_send_another_sends(
    world: tuple[Path, DatasetRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, list[str]] = {}
    summary = invented_study(tmp_path, num_trials=6)
    write_report(summary, tmp_path)
    one, other = Process(tmp_path, kept), Process(tmp_path, kept)
    begun = one.begin(monkeypatch, world, tmp_path)
    assert other.begin(monkeypatch, world, tmp_path) == begun

    one.record(monkeypatch, begun, first_trials(summary, 1))
    one.server.broken = True
    one.record(monkeypatch, begun, first_trials(summary, 3))
    assert kept == {"study-0": ["trial 0"]}
    assert children(tmp_path / "lines", "study-0") == ["trial 1", "trial 2"]

    other.record(monkeypatch, begun, first_trials(summary, 4))
    assert kept == {"study-0": ["trial 0", "trial 1", "trial 2", "trial 3"]}

    one.record(monkeypatch, begun, first_trials(summary, 5))
    assert children(tmp_path / "lines", "study-0") == ["trial 1", "trial 2", "trial 4"], "3 is where it belongs"
    later = Process(tmp_path, kept)
    again = later.begin(monkeypatch, world, tmp_path)
    assert again == begun
    for _ in range(2):
        later.record(monkeypatch, again, summary)
    assert kept == {"study-0": [f"trial {number}" for number in range(6)]}


def test_a_study_begun_without_the_server_is_recorded_whole_once_it_is_there(
    world: tuple[Path, DatasetRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, list[str]] = {}
    summary = invented_study(tmp_path, num_trials=3)
    write_report(summary, tmp_path)
    alone = Process(tmp_path, kept)
    alone.server.broken = True
    begun = alone.begin(monkeypatch, world, tmp_path)
    assert begun.home == begun.location == str(tmp_path / "lines")
    alone.record(monkeypatch, begun, summary)
    assert children(tmp_path / "lines", begun.run_id) == ["trial 0", "trial 1", "trial 2"]
    assert kept == {}
    later = Process(tmp_path, kept)
    later.record(monkeypatch, later.begin(monkeypatch, world, tmp_path), summary)
    assert kept == {"study-0": ["trial 0", "trial 1", "trial 2"]}


def test_trials_are_not_sent_again_when_another_tracker_fails(
    world: tuple[Path, DatasetRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(NullTracker):
        location = "the board"

        def log_run(self, parent_id: str, record: RunRecord, run_id: str | None = None) -> str:
            raise OSError("no space left")

    kept: dict[str, list[str]] = {}
    summary = invented_study(tmp_path, num_trials=4)
    write_report(summary, tmp_path)
    for number in (2, 4):
        process = Process(tmp_path, kept, Full())
        begun = process.begin(monkeypatch, world, tmp_path)
        process.record(monkeypatch, begun, first_trials(summary, number - 1))
        process.record(monkeypatch, begun, first_trials(summary, number))
        assert process.tracker.location == f"the server, {tmp_path / 'lines'}"
    assert kept == {"study-0": [f"trial {number}" for number in range(4)]}


@pytest.mark.parametrize("place", ["the server", "the server, the board"])
def test_a_note_of_one_line_for_all_places_is_understood(
    world: tuple[Path, DatasetRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    kept = {"study-7": ["trial 0"]}
    (tmp_path / "tracked.json").write_text(json.dumps({"location": place, "run_id": "study-7", "trials": {"0": "a"}}))
    summary = invented_study(tmp_path, num_trials=2)
    write_report(summary, tmp_path)
    process = Process(tmp_path, kept)
    process.record(monkeypatch, process.begin(monkeypatch, world, tmp_path), summary)
    assert kept == {"study-7": ["trial 0", "trial 1"]}

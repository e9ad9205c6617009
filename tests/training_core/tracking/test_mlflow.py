import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest

from training_core.errors import ConfigError, StorageError
from training_core.tracking import ModelPackage, RunRecord, TrackedDataset
from training_core.tracking.mlflow import MLflowTracker

SCRIPT = Path(__file__).with_name("toy_model.py")
DATASET = TrackedDataset(name="digits", version="1f3a", fingerprint="1f3a" * 16, path="/data/digits/1f3a")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    """One database for the whole module: making its schema takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)  # what the module itself has settled stays: it does so once per process
        tracker = MLflowTracker(tmp_path_factory.mktemp("store with space"))
        tracker.connect()
        yield tracker


@pytest.fixture
def client(tracker):
    return tracker._connected()[0]


def package(folder: Path, weight: float = 2.0, sha256: str = "a" * 64, name: str = "toy") -> ModelPackage:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.json").write_text(str(weight))
    return ModelPackage(
        folder=folder,
        sha256=sha256,
        name=name,
        script=SCRIPT,
        example=pd.DataFrame({"a": [1.0, 2.0], "b": ["x", None]}),
        outputs=("prediction",),
        requirements=("pandas",),
        tags={"metric": "accuracy"},
    )


def test_database_and_artifacts_are_absolute_and_under_the_store(tracker, client):
    assert tracker.location.startswith("sqlite:////")
    assert tracker.location.endswith("store with space0/mlflow.db")
    location = client.get_experiment_by_name("polychoir").artifact_location
    assert location.startswith("file:///")
    assert location.endswith("/mlartifacts")


def test_run_keeps_settings_tags_and_data(tracker, client):
    run_id = tracker.start("train", tags={"purpose": "test"}, params={"bags.num_bags": "6"}, dataset=DATASET)
    tracker.log_metrics(run_id, {"test/accuracy": 0.9, "pattern/pix+fou": 0.8})
    tracker.finish(run_id)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train"
    assert run.data.params == {"bags.num_bags": "6"}
    assert run.data.tags["purpose"] == "test"
    assert run.data.tags["polychoir.dataset"] == "digits@1f3a"
    assert run.data.tags["polychoir.dataset_fingerprint"] == DATASET.fingerprint
    assert run.data.metrics == {"test/accuracy": 0.9, "pattern/pix_fou": 0.8}
    assert [entry.dataset.digest for entry in run.inputs.dataset_inputs] == [DATASET.fingerprint[:36]]


def test_child_run_is_complete_and_closed_after_one_call(tracker, client, tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    parent = tracker.start("parent")
    record = RunRecord(
        name="bag-01/linear",
        params={f"p{i}": str(i) for i in range(150)},
        metrics={"accuracy": 0.75, "loss": 0.1},
        curves={"loss": tuple((epoch, 1.0 / (1 + epoch)) for epoch in range(300))},
        artifacts=(str(tmp_path / "notes.txt"),),
        start_time=1000.0,
        end_time=1060.5,
    )
    child = client.get_run(tracker.log_run(parent, record))
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.info.status == "FINISHED"
    assert (child.info.start_time, child.info.end_time) == (1_000_000, 1_060_500)
    assert len(child.data.params) == 150
    assert child.data.metrics == {"accuracy": 0.75, "loss": 0.1}
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in history][:2] == [(0, 1.0), (1, 0.5)]
    assert len(history) == 301
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["notes.txt"]
    tracker.finish(parent)


def test_long_curve_is_thinned_and_kept_whole_as_a_file(tracker, client):
    parent = tracker.start("parent")
    curve = tuple((step, float(step)) for step in range(5000))
    run_id = tracker.log_run(parent, RunRecord(name="long", curves={"loss": curve}))
    history = client.get_metric_history(run_id, "loss")
    assert len(history) == 500
    assert (history[0].step, history[-1].step) == (0, 4999)
    kept = Path(client.download_artifacts(run_id, "curves.json")).read_text()
    assert RunRecord.model_validate({"name": "x", **json.loads(kept)}).curves["loss"] == curve
    tracker.finish(parent)


def test_infinite_metric_is_recorded_as_not_a_number(tracker, client):
    parent = tracker.start("parent")
    run_id = tracker.log_run(parent, RunRecord(name="diverged", metrics={"loss": float("inf")}, status="FAILED"))
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.metrics["loss"] != run.data.metrics["loss"]
    tracker.finish(parent)


def test_run_that_cannot_be_recorded_whole_is_closed_as_failed(tracker, client):
    parent = tracker.start("parent")
    with pytest.raises(OSError, match=r"gone\.txt"):
        tracker.log_run(parent, RunRecord(name="half", artifacts=("/nowhere/gone.txt",)))
    children = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert [child.info.status for child in children] == ["FAILED"]
    tracker.finish(parent)


def test_run_id_in_the_environment_does_not_merge_runs(tracker, client, monkeypatch):
    outer = tracker.start("outer")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    inner = tracker.start("inner")
    child = tracker.log_run(inner, RunRecord(name="child"))
    assert len({outer, inner, child}) == 3
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == inner
    tracker.finish(inner)
    tracker.finish(outer)


def test_runs_of_ended_processes_are_killed_and_others_left_alone(tracker, client):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, abandoned, elsewhere, reused_pid = (tracker.start(name) for name in ("mine", "dead", "far", "reused"))
    client.set_tag(abandoned, "polychoir.pid", str(ended.pid))
    client.set_tag(elsewhere, "polychoir.host", "another-machine")
    client.set_tag(elsewhere, "polychoir.pid", str(ended.pid))
    client.set_tag(reused_pid, "polychoir.process_started", "1.00")
    assert tracker.close_orphans() == 2
    states = [client.get_run(run_id).info.status for run_id in (mine, abandoned, elsewhere, reused_pid)]
    assert states == ["RUNNING", "KILLED", "RUNNING", "KILLED"]
    tracker.finish(mine)
    tracker.finish(elsewhere)


def test_texts_and_folders_are_kept_with_the_run(tracker, client, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.txt").write_text("a")
    run_id = tracker.start("files")
    tracker.log_text(run_id, "<p>héllo</p>", "report/index.html")
    tracker.log_artifact(run_id, tmp_path / "plots", "extra")
    tracker.finish(run_id)
    assert Path(client.download_artifacts(run_id, "report/index.html")).read_text() == "<p>héllo</p>"
    assert Path(client.download_artifacts(run_id, "extra/plots/a.txt")).read_text() == "a"


def test_many_threads_can_log_at_once(tracker, client):
    parent = tracker.start("parent")
    ids: list[str] = []
    record = RunRecord(name="child", metrics={"loss": 1.0})
    threads = [threading.Thread(target=lambda: ids.append(tracker.log_run(parent, record))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 6
    assert {client.get_run(run_id).info.status for run_id in ids} == {"FINISHED"}
    tracker.finish(parent)


def test_logging_says_nothing_and_restores_levels_and_filters(tracker, tmp_path, capfd):
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic", "urllib3")}
    filters = list(warnings.filters)
    run_id = tracker.start("silent")
    tracker.log_ensemble(run_id, package(tmp_path / "quiet", name="silent"))
    tracker.finish(run_id)
    assert capfd.readouterr() == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert list(warnings.filters) == filters


def test_ensemble_is_registered_found_and_served(tracker, client, tmp_path, monkeypatch):
    import mlflow

    run_id = tracker.start("train")
    uri = tracker.log_ensemble(run_id, package(tmp_path / "v1"))
    assert uri == "models:/toy/1"
    found = tracker.resolve_model(uri)
    assert (found.uri, found.sha256) == (uri, "a" * 64)
    assert (found.path / "weights.json").read_text() == "2.0"
    version = client.get_model_version("toy", "1")
    assert version.run_id == run_id
    assert version.tags["metric"] == "accuracy"
    assert len(client.get_run(run_id).outputs.model_outputs) == 1

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.location)
    model = mlflow.pyfunc.load_model(uri)
    assert model.predict(pd.DataFrame({"a": [1, 2]}))["prediction"].tolist() == [3.0, 4.0]
    assert model.predict(pd.DataFrame({"b": ["x"]}))["prediction"].tolist() == [2.0]
    tracker.finish(run_id)


def test_same_ensemble_keeps_its_version_and_a_new_one_gets_the_next(tracker, client, tmp_path):
    run_id = tracker.start("train")
    first = tracker.log_ensemble(run_id, package(tmp_path / "a", name="versions"))
    again = tracker.log_ensemble(run_id, package(tmp_path / "a", name="versions"))
    other = tracker.log_ensemble(run_id, package(tmp_path / "b", weight=3.0, sha256="b" * 64, name="versions"))
    assert (first, again, other) == ("models:/versions/1", "models:/versions/1", "models:/versions/2")
    client.set_registered_model_alias("versions", "champion", "1")
    assert tracker.resolve_model("models:/versions@champion").uri == "models:/versions/1"
    assert tracker.resolve_model("models:/versions/latest").uri == "models:/versions/2"
    tracker.finish(run_id)


def test_version_whose_files_are_gone_is_said_so_and_registered_anew(tracker, tmp_path):
    run_id = tracker.start("train")
    uri = tracker.log_ensemble(run_id, package(tmp_path / "lost", name="lost"))
    shutil.rmtree(tracker.resolve_model(uri).path.parents[1])
    with pytest.raises(StorageError, match="files of models:/lost/1 are gone"):
        tracker.resolve_model(uri)
    assert tracker.log_ensemble(run_id, package(tmp_path / "lost", name="lost")) == "models:/lost/2"
    tracker.finish(run_id)


@pytest.mark.parametrize("uri", ["models:/none/1", "models:/none@champion", "models:/none/latest"])
def test_unknown_model_is_a_user_error(tracker, uri):
    with pytest.raises(ConfigError, match="there is no model 'models:/none"):
        tracker.resolve_model(uri)


def test_a_registry_that_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(
            StorageError, match=rf"registry {uri} cannot be asked for 'models:/toy/1' \(.*refused\)"
        ) as told:
            MLflowTracker(tmp_path, uri=uri).resolve_model("models:/toy/1")
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("uri", ["runs:/1/x", "models:/toy", "toy", "models:/a/b/c", "models:/toy/-1", "models:/x'y"])
def test_malformed_model_uri_is_a_user_error(tracker, uri):
    with pytest.raises(ConfigError, match="is not the URI of a model"):
        tracker.resolve_model(uri)


def test_second_tracker_on_the_same_store_sees_the_same_runs(tracker, client):
    other = MLflowTracker(Path(tracker.location.removeprefix("sqlite:///")).parent)
    run_id = other.start("from another tracker")
    other.finish(run_id)
    assert client.get_run(run_id).info.status == "FINISHED"


def test_unusable_database_is_reported_without_retries(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database" * 500)
    began = time.monotonic()
    with pytest.raises(StorageError, match="cannot write the tracking database"):
        MLflowTracker(tmp_path).connect()
    assert time.monotonic() - began < 20  # MLflow's own retries take 100 seconds


def test_logging_a_learner_is_one_batch_and_not_a_call_per_value(tracker):
    parent = tracker.start("parent")
    curves = {name: tuple((epoch, 0.5) for epoch in range(100)) for name in ("loss", "validation", "lr", "accuracy")}
    began = time.monotonic()
    tracker.log_run(parent, RunRecord(name="timed", curves=curves, params={f"p{i}": "v" for i in range(40)}))
    assert time.monotonic() - began < 8  # 0.1 s alone on a machine; value by value it takes 14 s
    tracker.finish(parent)

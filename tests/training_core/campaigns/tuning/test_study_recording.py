"""A study in MLflow: one parent however often it is resumed, one child per trial, charts and settings with it."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from invented_study import FAILED, PRUNED, RUNNING, invented_study

from training_core.campaigns.recording import end_record
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.recording import begin_study_record, record_study
from training_core.campaigns.tuning.report import write_report
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.errors import StorageError
from training_core.jobs import DatasetRef


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

"""A tracking database in a store: what was deleted is erased, what a registered version needs is known."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from deployments.up import Addresses, settings
from training_core.artifacts import ArtifactRef, open_published, publish_directory
from training_core.campaigns.maintenance import RetentionConfig, TidyReport, tidy
from training_core.campaigns.maintenance.tidying import needed_versions
from training_core.campaigns.prediction import find_ensemble
from training_core.campaigns.promotion.ledger import Ledger, LedgerEntry
from training_core.errors import StorageError
from training_core.tracking import ModelPackage
from training_core.tracking.mlflow import MLflowTracker
from training_core.tracking.registry import CHAMPION, ERASED, RETIRED, open_registry
from training_core.tracking.upkeep import close_orphans, deleted_runs, erase_run, has_own_tracking, unneeded_copies

DAY = 86_400


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a database, to be copied: making the schema takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        store = tmp_path_factory.mktemp("store")
        MLflowTracker(store).connect()
        return store


@pytest.fixture
def store(empty: Path, tmp_path: Path) -> Path:
    place = tmp_path / "store"
    place.mkdir()
    shutil.copy(empty / "mlflow.db", place / "mlflow.db")
    with closing(sqlite3.connect(place / "mlflow.db")) as database:
        database.execute("update experiments set artifact_location = ?", ((place / "mlartifacts").as_uri(),))
        database.commit()
    return place


def went(report: TidyReport) -> dict[str, tuple[str, ...]]:
    """What went, but for free pages: how many a new database has is MLflow's business."""
    return {kind.kind: kind.names for kind in report.tidied if kind.kind != "free pages of databases"}


def up_settings(store: Path) -> dict[str, str]:
    """The environment that `polychoir up` gives its worker."""
    return settings(store, Addresses(prefect="http://127.0.0.1:1", login="", mlflow="", pid=0), "me:secret")


@pytest.fixture
def under_up(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in up_settings(store).items():
        monkeypatch.setenv(name, value)


def test_a_store_that_is_tracked_in_its_own_database_is_told_by_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not has_own_tracking(tmp_path), "nothing is tracked yet"
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    own = ("", up_settings(tmp_path)["MLFLOW_TRACKING_URI"])
    for uri in (*own, "sqlite:///mlflow.db", f"sqlite:///{tmp_path}/link/mlflow.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert has_own_tracking(tmp_path), uri
    for uri in ("http://mlflow:5000", f"sqlite:///{tmp_path}/other.db", "postgresql://host/mlflow", str(tmp_path)):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert not has_own_tracking(tmp_path), uri


def deleted(store: Path, days: float) -> tuple[str, Path]:
    """A run with a file that was deleted so many days ago; its id and the folder of its files."""
    tracker = MLflowTracker(store)
    run_id = tracker.start("shoes")
    tracker.log_text(run_id, "much text", "report.html")
    tracker.finish(run_id)
    client, _ = tracker._connected()
    client.delete_run(run_id)
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        database.execute(
            "update runs set deleted_time = ? where run_uuid = ?", (int((time.time() - days * DAY) * 1000), run_id)
        )
        database.commit()
    (folder,) = store.glob(f"mlartifacts/**/{run_id}")
    return run_id, folder


@pytest.mark.slow
def test_runs_that_were_deleted_long_ago_are_erased_with_their_files(store: Path, under_up: None) -> None:
    assert has_own_tracking(store)
    (old, old_files), (young, young_files) = deleted(store, 31), deleted(store, 29)
    (found,) = deleted_runs(store, 30)
    assert found.run_id == old
    shutil.rmtree(old_files)  # as a killed maintenance leaves it
    erase_run(store, found)
    assert deleted_runs(store, 30) == ()
    assert [run.run_id for run in deleted_runs(store, 1)] == [young]
    assert young_files.exists()
    report = tidy(store, RetentionConfig(cache_days=10))
    assert went(report) == {"deleted tracked runs": (young,)}
    assert report.num_bytes >= len("much text")
    assert not young_files.exists()


@pytest.mark.slow
def test_files_outside_the_store_are_left_alone(store: Path, tmp_path: Path) -> None:
    run_id, _ = deleted(store, 31)
    elsewhere = tmp_path / "precious" / run_id / "artifacts"
    elsewhere.mkdir(parents=True)
    (found,) = deleted_runs(store, 30)
    erase_run(store, found.model_copy(update={"folder": str(elsewhere)}))
    assert elsewhere.exists()


@pytest.mark.slow
def test_the_run_of_a_dead_process_is_closed(store: Path) -> None:
    tracker = MLflowTracker(store)
    mine, dead = tracker.start("mine"), tracker.start("dead")
    tracker._connected()[0].set_tag(dead, "polychoir.pid", "999999999")
    assert close_orphans(store) == 1
    states = {run: tracker._connected()[0].get_run(run).info.status for run in (mine, dead)}
    assert states == {mine: "RUNNING", dead: "KILLED"}


def registered(store: Path, text: str) -> tuple[ArtifactRef, int]:
    """An ensemble's folder that is a version of a model, without the files that MLflow would keep of it."""
    with publish_directory(store / "ensembles" / text) as folder:
        (folder / "ensemble.json").write_text(text)
    ensemble = open_published(store / "ensembles" / text)
    tracker = MLflowTracker(store)
    client, _ = tracker._connected()
    run = tracker.start("shoes")
    if not client.search_registered_models():
        client.create_registered_model("shoes")
    tags = {"polychoir.ensemble_sha256": ensemble.sha256}
    version = client.create_model_version("shoes", ensemble.path.as_uri(), run, tags=tags)
    return ensemble, int(version.version)


@pytest.mark.slow
def test_the_ensemble_of_a_version_stays_until_it_is_retired(store: Path) -> None:
    (kept, first), (champion, second), (gone, third) = (registered(store, text) for text in ("a", "b", "c"))
    registry = open_registry(["mlflow"], store)
    registry.set_alias("shoes", CHAMPION, second)
    for version in (second, third):
        registry.tag("shoes", version, {RETIRED: "true"})
    assert {version.version for version in needed_versions(store)} == {first, second}
    later = time.time() + 31 * DAY
    assert went(tidy(store, RetentionConfig(), now=later)) == {"ensembles": ("c",)}
    assert kept.path.exists()
    assert champion.path.exists()
    assert not gone.path.exists()


@pytest.mark.slow
def test_a_registry_without_the_ledgers_champion_stops_everything(store: Path) -> None:
    ensemble, first = registered(store, "a")
    gone = LedgerEntry(stage="done", action="first", model="shoes", version=7, aliases={CHAMPION: 7})
    Ledger(store, "shoes").append(gone)
    with pytest.raises(StorageError, match=r"has no version 7 of 'shoes', .* promote another one"):
        tidy(store, RetentionConfig(), now=time.time() + 400 * DAY)
    assert ensemble.path.exists()
    Ledger(store, "shoes").append(gone.model_copy(update={"version": first, "aliases": {CHAMPION: first}}))
    assert went(tidy(store, RetentionConfig())) == {}


@pytest.mark.slow
def test_what_mlflow_keeps_of_a_retired_version_goes_and_is_remembered(
    store: Path, under_up: None, tmp_path: Path
) -> None:
    tracker, registry = MLflowTracker(store), open_registry(["mlflow"], store)
    run = tracker.start("shoes")
    for text in ("a", "b", "c", "used", "elsewhere"):
        with publish_directory(store / "ensembles" / text) as folder:
            (folder / "ensemble.json").write_text(text)
        ensemble = open_published(store / "ensembles" / text)
        script = Path(__file__).with_name("toy_model.py")
        example = pd.DataFrame({"a": [1.0]})
        tracker.log_ensemble(
            run,
            ModelPackage(
                folder=ensemble.path,
                sha256=ensemble.sha256,
                name="shoes",
                script=script,
                example=example,
                outputs=("prediction",),
                requirements=("pandas",),
            ),
        )
    tracker.finish(run)
    copies = {number: tracker.resolve_model(f"models:/shoes/{number}").path.parents[1] for number in range(1, 6)}
    assert all(copy.is_relative_to(store / "mlartifacts" / "models") for copy in copies.values())
    registry.set_alias("shoes", CHAMPION, 2)
    for number in range(2, 6):
        registry.tag("shoes", number, {RETIRED: "true"})
    precious = tmp_path / "precious" / "artifacts"
    precious.mkdir(parents=True)
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        place = "update model_versions set storage_location = ? where version = 5"
        database.execute(place, (precious.as_uri(),))
        database.commit()
    later = time.time() + 31 * DAY
    os.utime(copies[4] / "artifacts" / "used", (later, later))
    assert [copy.uri for copy in unneeded_copies(store, needed_versions(store))] == [
        "models:/shoes/4",
        "models:/shoes/3",
    ]
    report = tidy(store, RetentionConfig(), now=later)
    assert went(report)["copies of retired versions"] == ("models:/shoes/3",)
    assert report.problems == ()
    assert {number for number, copy in copies.items() if copy.exists()} == {1, 2, 4, 5} and precious.exists()
    assert registry.find("models:/shoes/3").retired, "its entry stays"
    with pytest.raises(StorageError, match=r"models:/shoes/3 were removed at 20.*, for it is retired"):
        tracker.resolve_model("models:/shoes/3")
    assert ERASED in tracker.client.get_model_version("shoes", "3").tags
    assert ERASED not in tracker.client.get_model_version("shoes", "4").tags
    assert tracker.resolve_model("models:/shoes@champion").path.is_dir()
    used = (store / "ensembles" / "a", copies[1] / "artifacts" / "a")
    for folder in used:
        os.utime(folder, (0, 0))
    find_ensemble("models:/shoes/1", store)
    assert all(folder.stat().st_mtime > time.time() - DAY for folder in used), "both have been used"
    assert "copies of retired versions" not in went(tidy(store, RetentionConfig(), now=later))

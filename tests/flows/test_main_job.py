"""The main job as a user runs it: prepare, train, train again, predict, serve; one store, real everything."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import SMALL, answer, polychoir
from factories import write_source


@pytest.fixture(scope="module")
def first(store: Path, source: Path) -> dict[str, Any]:
    return answer(polychoir("train", source_run(source), *SMALL, "--store", store, "--json"))


def source_run(source: Path) -> Path:
    """A RUN.yaml beside the source, naming it by a relative path."""
    run = source.with_name("run.yaml")
    run.write_text("dataset: source.yaml\nseed: 3\n")
    return run


def test_a_run_ends_in_a_usable_tracked_ensemble(first: dict[str, Any], store: Path) -> None:
    assert first["metric"] == "accuracy"
    assert first["score"] >= 0.9
    counts = dict(first["learners"])
    assert counts.pop("kept") > 0
    assert counts == {"planned": 6, "trained": 6, "reused": 0, "failed": 0, "skipped": 0, "pruned": 0}
    assert len(first["patterns"]) == 7, "every pattern of three modalities"
    assert abs(sum(row["weight"] for row in first["leaderboard"]) - 1) < 1e-9
    report = Path(first["report"]).read_text()
    assert "<svg" in report
    assert first["dataset"] in report
    assert first["model"] == "models:/world/1"
    assert (Path(first["ensemble"]) / "ensemble.json").exists()


def test_the_same_command_again_trains_nothing_and_says_the_same(
    first: dict[str, Any], store: Path, source: Path
) -> None:
    again = answer(polychoir("train", source_run(source), *SMALL, "--store", store, "--json"))
    assert again["learners"]["trained"] == 0
    assert again["learners"]["reused"] == 6
    assert again["predictions_sha256"] == first["predictions_sha256"]
    assert again["model"] == first["model"], "the same ensemble is not registered twice"


@pytest.mark.slow
def test_a_run_with_nothing_to_train_says_so(first: dict[str, Any], store: Path, source: Path) -> None:
    shown = polychoir("train", source_run(source), *SMALL, "--store", store)
    assert "Nothing to train: all 6 learners were trained before" in shown.stdout
    assert "Warning" not in shown.stdout + shown.stderr
    assert "Traceback" not in shown.stdout + shown.stderr


def test_the_tracker_has_a_parent_with_a_child_per_learner(first: dict[str, Any], store: Path) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        children = database.execute(
            "select r.status, count(*) from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'mlflow.parentRunId' and t.value = ? group by r.status",
            (first["run_id"],),
        ).fetchall()
        tags = dict(database.execute("select key, value from tags where run_uuid = ?", (first["run_id"],)).fetchall())
        inputs = database.execute("select count(*) from inputs where destination_id = ?", (first["run_id"],)).fetchone()
        curves = database.execute("select count(*) from metrics where key = 'validation/loss'").fetchone()
    assert children == [("FINISHED", 6)]
    assert tags["polychoir.dataset"] == first["dataset"]
    assert tags["prefect.flow_run_id"]
    assert inputs == (1,), "the dataset is an input of the run"
    assert curves[0] > 0


def test_prefect_remembers_every_task_run_after_the_process_is_gone(first: dict[str, Any], store: Path) -> None:
    with sqlite3.connect(store / "prefect" / "prefect.db") as database:
        states = dict(database.execute("select name, state_type from task_run").fetchall())
        flows = dict(database.execute("select state_type, count(*) from flow_run group by state_type").fetchall())
        artifacts = {key for (key,) in database.execute("select key from artifact").fetchall()}
        flow_id = str(database.execute("select id from flow_run order by created limit 1").fetchone()[0])
    assert {"prepare data", "make bags", "select learners", "train cohort 1/3", "combine learners"} <= states.keys()
    assert set(states.values()) == {"COMPLETED"}
    assert flows.keys() == {"COMPLETED"}
    assert {"leaderboard", "report"} <= artifacts
    assert flow_id


@pytest.mark.nightly
@pytest.mark.slow
def test_another_seed_gives_other_predictions(first: dict[str, Any], store: Path, source: Path) -> None:
    other = answer(polychoir("train", source_run(source), *SMALL, "--seed=4", "--store", store, "--json"))
    assert other["predictions_sha256"] != first["predictions_sha256"]
    assert other["seed"] == 4


@pytest.mark.nightly
def test_the_same_seed_in_a_fresh_store_gives_the_same_predictions(
    first: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    other = answer(polychoir("train", source_run(source), *SMALL, "--store", tmp_path / "fresh", "--json"))
    assert other["learners"]["trained"] == 6
    assert other["predictions_sha256"] == first["predictions_sha256"]


def write_inputs(folder: Path) -> dict[str, Path]:
    """New rows of the same world: a table with every modality, and one without any column of `right`."""
    source = write_source(folder / "new", num_rows=90)
    views = np.load(source.with_name("views.npz"))
    columns = {f"{n}_{i}": views[n][:, i] for n in ("left", "right") for i in range(views[n].shape[1])}
    table = pd.concat([pd.read_csv(source.with_name("table.csv")), pd.DataFrame(columns)], axis=1)
    paths = {"all": folder / "all.csv", "without": folder / "without.csv"}
    table.drop(columns="label").to_csv(paths["all"], index=False)
    table.drop(columns=["label", *(c for c in columns if c.startswith("right"))]).to_csv(paths["without"], index=False)
    return paths


@pytest.mark.slow
def test_confidence_is_lower_without_a_modality(first: dict[str, Any], store: Path, tmp_path: Path) -> None:
    paths = write_inputs(tmp_path)
    every, without = (
        answer(polychoir("predict", first["model"], paths[which], "--store", store, "--json"))
        for which in ("all", "without")
    )
    assert every["missing"] == []
    assert without["missing"] == ["right"]
    assert without["mean_confidence"] < every["mean_confidence"]
    assert len(without["rows"]) == 90
    assert {"id", "prediction", "confidence", "probability_red"} <= without["rows"][0].keys()


@pytest.mark.slow
def test_predictions_can_be_written_to_a_file(first: dict[str, Any], store: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    arguments = ("predict", "world", write_inputs(tmp_path)["all"], "--store", store, "--output", output)
    result = polychoir(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert len(pd.read_csv(output)) == 90


def test_the_library_predicts_what_the_command_did(first: dict[str, Any], store: Path) -> None:
    import training_core as pc
    from training_core.campaigns.judgement import predictions_sha256

    dataset = pc.open_dataset("world", store)
    samples = dataset.samples(dataset.rows("test"))
    ensemble = pc.Ensemble.load(Path(first["ensemble"]))
    assert predictions_sha256(samples.ids, ensemble.predict(samples).values) == first["predictions_sha256"]


def test_json_is_the_only_thing_on_stdout(first: dict[str, Any], store: Path, source: Path) -> None:
    result = polychoir("prepare", source, "--store", store, "--json")
    assert json.loads(result.stdout)["dataset"] == first["dataset"]

"""Tuned against default on test rows: found in the store by what was trained, and compared row by row."""

from pathlib import Path

import pytest
from factories import small_run, write_source

import training_core as pc
from training_core.artifacts import write_text_atomically
from training_core.campaigns.bagging import resolve_dataset
from training_core.campaigns.recording import settings_path
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import LearnerCounts, MeanScore, RunSummary, SingleScore
from training_core.campaigns.tuning.held_out import compare_held_out
from training_core.jobs import DatasetRef

FAST = {"learners": {"learners_per_bag": 1, "include": ("linear",)}, "bags": {"num_bags": 1, "num_row_draws": 1}}


def record(run: RunConfig, ref: DatasetRef, store: Path, run_id: str) -> str:
    """Train a run, and leave in the store what a run leaves there; the ensemble's directory."""
    ensemble = str(pc.fit_ensemble(run, store, processes=False).folder)
    summary = RunSummary(
        dataset=ref.label,
        run_id=run_id,
        model=ensemble,
        ensemble=ensemble,
        metric="accuracy",
        score=0.0,
        ece=None,
        test={},
        best_single=SingleScore(learner="", score=0.0),
        plain_mean=MeanScore(score=0.0),
        patterns=(),
        learners=LearnerCounts(planned=1, trained=1, reused=0, failed=0, kept=1),
        seconds=1.0,
        cpu_seconds=1.0,
        peak_mb=1.0,
        predictions_sha256="",
        report="",
        tracking="",
        seed=0,
        leaderboard=(),
        failures={},
    )
    settings = settings_path(store, run_id)
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(settings, run.model_dump_json())
    write_text_atomically(store / "reports" / f"{run_id}.json", summary.model_dump_json())
    return ensemble


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetRef]:
    store = tmp_path_factory.mktemp("store")
    return store, resolve_dataset(str(write_source(store / "world", noise=1.2)), store)


def test_where_a_run_trains_and_is_recorded_does_not_count() -> None:
    run = small_run("world@1f3a")
    elsewhere = run.model_copy(
        update={"executor": "dask", "cluster": "tcp://host:8786", "trackers": ("jsonl",), "profile": True, "tune": True}
    )
    assert elsewhere.what_counts() == run.what_counts()
    assert elsewhere.what_counts().content_hash() == run.what_counts().content_hash(), "what a version is tagged with"
    assert run.model_copy(update={"seed": 1}).what_counts() != run.what_counts()
    assert run.model_copy(update={"keep_learners_of": "models:/world/1"}).what_counts() != run.what_counts()


def test_the_better_of_two_runs_in_the_store_is_called_so(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    poor = small_run(ref.label, modalities=("right",), **FAST)
    good = small_run(ref.label, modalities=("left", "right", "facts"), **FAST)
    assert compare_held_out(poor, good, ref, store) is None, "neither is trained"
    poor_place = record(poor, ref, store, "one")
    assert compare_held_out(poor, good, ref, store) is None, "the tuned one is not trained"
    good_place = record(good, ref, store, "two")

    asked = poor.model_copy(update={"tune": True, "trackers": (), "dataset": "elsewhere.yaml"})
    found = compare_held_out(asked, good, ref, store)

    assert found is not None, "how a run was found and recorded does not make it another one"
    assert (found.tuned, found.default) == (good_place, poor_place)
    assert found.tuned_score > found.default_score
    assert found.difference.difference == pytest.approx(found.tuned_score - found.default_score)
    assert "is better" in found.sentence
    turned = compare_held_out(good, poor, ref, store)
    assert turned is not None
    assert "is worse" in turned.sentence


def test_a_run_is_not_compared_with_itself_nor_with_one_of_other_data(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    run = small_run(ref.label, **FAST)
    assert compare_held_out(run, run, ref, store) is None
    elsewhere = ref.model_copy(update={"version": "0" * 12})
    assert compare_held_out(run, run.model_copy(update={"seed": 1}), elsewhere, store) is None


def test_damaged_reports_are_passed_over(world: tuple[Path, DatasetRef]) -> None:
    store, ref = world
    (store / "reports").mkdir(exist_ok=True)
    (store / "reports" / "torn.json").write_text('{"dataset": ')
    run = small_run(ref.label, **FAST)
    assert compare_held_out(run, run.model_copy(update={"seed": 1}), ref, store) is None

"""What a run says of its bags holds from the plan to the ensemble: folds, chosen modalities, all modalities."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.artifacts import ArtifactRef
from training_core.campaigns import bagging
from training_core.campaigns.judgement import judge
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError, DataError
from training_core.jobs import DatasetRef, JobReport, read_out_of_bag, run_jobs
from training_core.selection.ensemble import Ensemble

LINEAR = {"learners_per_bag": 1, "include": ("linear",)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=240)


def fit(run: RunConfig, store: Path) -> tuple[DatasetRef, tuple[JobReport, ...], ArtifactRef]:
    """Everything of a run but the child processes."""
    ref = bagging.resolve_dataset(run.dataset, store)
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref))
    reports = tuple(sorted(run_jobs(plan.jobs, store, "cpu", lambda event: None), key=lambda report: report.name))
    return ref, reports, bagging.conclude_run(run, ref, reports, store)


def test_with_folds_every_learner_is_trained_in_every_fold(store: Path, source: Path) -> None:
    run = small_run(source, bags={"sampling": "folds", "num_bags": 24, "num_row_draws": 3}, learners={"include": ()})
    ref = bagging.resolve_dataset(run.dataset, store)
    bags = bagging.bags_of(run, ref)
    plan = bagging.plan_training(run, ref, bags)
    mask_of = {bag.name: bag.seed for bag in bags}
    kinds = Counter((mask_of[job.subset.name], job.recipe.learner.kind) for job in plan.jobs)
    assert set(kinds.values()) == {3}
    assert len({kind for _, kind in kinds}) > 1
    assert len({job.seed for job in plan.jobs}) == len(plan.jobs)


def test_with_folds_every_row_is_heard_for_every_mask(store: Path, source: Path) -> None:
    run = small_run(source, bags={"sampling": "folds", "num_bags": 12, "num_row_draws": 3}, learners=LINEAR)
    ref, reports, published = fit(run, store)
    train = bagging.open_dataset(ref).rows("train")
    heard: dict[tuple[str, ...], list[int]] = {}
    for report in reports:
        assert report.artifact is not None, report.error
        rows, _ = read_out_of_bag(report.artifact)
        heard.setdefault(report.modalities, []).extend(rows)
    assert len(heard) == 4
    for rows in heard.values():
        assert sorted(rows) == list(train)
    ensemble = Ensemble.load(published.path)
    assert ensemble.manifest.patterns[0].num_rows == len(train)
    assert judge(published, ref).score > 0.8


def test_copies_of_a_net_take_turns_with_the_folds(store: Path, source: Path) -> None:
    run = small_run(
        source,
        bags={"sampling": "folds", "num_bags": 12, "num_row_draws": 3},
        learners={"include": ("tabular_mlp",), "net_copies": 3},
    )
    ref = bagging.resolve_dataset(run.dataset, store)
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref))
    folds: dict[tuple[str, ...], Counter[int]] = {}
    for job in plan.jobs:
        folds.setdefault(job.subset.modalities, Counter())[job.subset.fold] += 1
    assert len(folds) == 4
    assert all(counts == {0: 3, 1: 3, 2: 3} for counts in folds.values())
    assert len({job.fingerprint("cpu") for job in plan.jobs}) == len(plan.jobs) == 36


def test_a_run_uses_only_the_modalities_it_names(store: Path, source: Path) -> None:
    run = small_run(source, modalities=("facts", "left"), learners=LINEAR)
    ref, reports, published = fit(run, store)
    assert {name for report in reports for name in report.modalities} == {"left", "facts"}
    assert any(report.modalities == ("left", "facts") for report in reports), "in the order of the data set"
    ensemble = Ensemble.load(published.path)
    assert ensemble.spec.names == ("left", "facts")
    judgement = judge(published, ref)
    assert {name for row in judgement.patterns for name in row.available} == {"left", "facts"}
    dataset = bagging.open_dataset(ref)
    whole = dataset.samples(dataset.rows("test"))
    alone = whole.select(("left", "facts"))
    assert (ensemble.predict(whole).values == ensemble.predict(alone).values).all()
    assert np.mean(ensemble.predict(alone).values.argmax(axis=1) == whole.target) == judgement.score


def test_a_modality_that_is_not_there_is_refused_with_those_that_are(store: Path, source: Path) -> None:
    run = small_run(source, modalities=("left", "smell"))
    ref = bagging.resolve_dataset(run.dataset, store)
    with pytest.raises(DataError, match="no modality 'smell'; this data has left, right, facts"):
        bagging.bags_of(run, ref)


def test_a_run_file_that_names_modalities_is_no_source(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("modalities: [left, facts]\n")
    assert RunConfig.load(path, dataset=str(source)).modalities == ("left", "facts")
    with pytest.raises(ConfigError, match="`dataset` is missing"):
        RunConfig.load(path)


def test_without_modality_bags_every_learner_has_all_modalities(store: Path, source: Path) -> None:
    run = small_run(source, bags={"num_bags": 3, "num_row_draws": 1, "modality_bags": False}, learners=LINEAR)
    ref = bagging.resolve_dataset(run.dataset, store)
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref))
    assert {job.subset.modalities for job in plan.jobs} == {("left", "right", "facts")}


@pytest.mark.parametrize("preset", ["tiny", "quick", "balanced", "best"])
def test_folds_go_with_every_preset(preset: str) -> None:
    run = RunConfig.load(dataset="world", preset=preset, bags={"sampling": "folds"})
    assert run.bags.num_row_draws == 5
    assert RunConfig.load(dataset="world", preset=preset, bags={"sampling": "folds", "num_row_draws": 3}).bags == (
        run.bags.model_copy(update={"num_row_draws": 3})
    )
    assert RunConfig.model_validate_json(run.model_dump_json()) == run
    with pytest.raises(ConfigError, match="set num_row_draws to 2 or more"):
        RunConfig.load(dataset="world", preset=preset, bags={"sampling": "folds", "num_row_draws": 1})


def test_rows_that_no_bag_can_have_are_refused_before_anything_is_trained(store: Path, source: Path) -> None:
    run = small_run(source, bags={"sampling": "folds", "num_row_draws": 200})
    ref = bagging.resolve_dataset(run.dataset, store)
    with pytest.raises(ConfigError, match=r"168 rows cannot make 200 folds; lower `bags.num_row_draws`"):
        bagging.plan_training(run, ref, bagging.bags_of(run, ref))


def test_another_choice_of_modalities_is_another_ensemble(store: Path, source: Path) -> None:
    _, _, first = fit(small_run(source, modalities=("left",), learners=LINEAR), store)
    _, _, second = fit(small_run(source, modalities=("right",), learners=LINEAR), store)
    assert first.path != second.path

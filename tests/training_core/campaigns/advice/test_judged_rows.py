"""Domain reports over a run: its ensemble, its test rows, every pattern, and columns from its tables."""

from pathlib import Path

import numpy as np
import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.campaigns.advice.judged_rows import judged_rows
from training_core.campaigns.advice.record import insight_path, record_insight
from training_core.campaigns.judgement import judge
from training_core.campaigns.recording import begin_record
from training_core.errors import DataError
from training_core.evaluation.domains.clinical import clinical_report
from training_core.evaluation.domains.recommendation import RecommendationConfig, recommendation_report
from training_core.evaluation.domains.safety import SafetyConfig, measure_speed, safety_report
from training_core.evaluation.gates import GateConfig
from training_core.jobs import run_jobs
from training_core.selection.ensemble import Ensemble


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_a_run_is_reported_on_in_every_domain_and_studied(store: Path) -> None:
    run = small_run(
        write_source(store / "source", num_rows=150), bags={"num_bags": 4, "num_row_draws": 1},
        learners={"learners_per_bag": 1, "include": ("linear",)}, trackers=("jsonl",),
    )  # fmt: skip
    ref = bagging.resolve_dataset(run.dataset, store)
    jobs = bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs
    reports = tuple(run_jobs(jobs, store, "cpu", lambda event: None))
    artifact = bagging.conclude_run(run, ref, reports, store)
    ensemble, dataset = Ensemble.load(artifact.path), bagging.open_dataset(ref)

    new = np.arange(len(dataset.rows("test"))) % 3 == 0
    rows = judged_rows(ensemble, dataset, table_columns=("facts.shop",), columns={"new": new})
    assert len(rows.patterns) == 6 and rows.modalities == ("left", "right", "facts")
    clinical = clinical_report(rows)
    assert {one.modality for one in clinical.relevance} == {"left", "right", "facts"}
    assert clinical.accuracy == judge(artifact, ref).score
    speed = measure_speed(ensemble.predict, dataset.samples(dataset.rows("test")), num_answers=3, batch_rows=10)
    safety = safety_report(rows, SafetyConfig(min_score=0.0, min_group_rows=1), ("facts.shop",), speed)
    assert safety.redundancy == 2 and safety.is_safe
    assert {group.name for group in safety.groups if group.kind == "group"} >= {"facts.shop=north"}
    lists = recommendation_report(rows, RecommendationConfig(k=2, cold="new"))
    assert lists.cold_start is not None and lists.cold_start.num_rows == new.sum()

    record = begin_record(run, ref, store, {})
    gated = run.model_copy(update={"gates": GateConfig(min_score=0.0)})
    insight = record_insight(record, gated, ref, reports, artifact, judge(artifact, ref))
    assert insight.is_good_enough and insight.report.num_learners == len(jobs)
    assert "Quality gates" in insight_path(record).read_text()

    with pytest.raises(DataError, match="no column 'town' in 'facts'; it has size, shop"):
        judged_rows(ensemble, dataset, table_columns=("facts.town",))
    with pytest.raises(DataError, match="no rows in its validation split"):
        judged_rows(ensemble, dataset, split="validation")

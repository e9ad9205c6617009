"""What a run with modalities that many rows lack teaches: nothing wrong, and where there is no evidence, nothing."""

from pathlib import Path

import numpy as np
import pytest

import training_core as pc
from training_core.campaigns.advice.gathering import gather_evidence, learner_importance
from training_core.campaigns.advice.insight import study_run
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.evaluation.diagnostics import diagnose
from training_core.jobs import DatasetRef, JobReport


def trained(
    store: Path, share: float, num_rows: int, test: float
) -> tuple[RunConfig, DatasetRef, tuple[JobReport, ...], pc.FittedEnsemble]:
    """A run on a strong modality that only a share of the rows has, and a weak one that all have."""
    draws = np.random.default_rng(0)
    target = draws.integers(0, 2, num_rows)
    strong = (draws.normal(size=(num_rows, 3)) + 3 * target[:, None]).astype(np.float32)
    weak = (draws.normal(size=(num_rows, 2)) + 0.3 * target[:, None]).astype(np.float32)
    strong[draws.random(num_rows) > share] = np.nan
    accepted = ("blank_rows", "modality_missing", "conflicting_targets", "dead_features")
    run = RunConfig.load(
        dataset="arrays", preset="tiny", bags={"num_bags": 3, "num_row_draws": 1}, learners={"include": ("linear",)}
    )
    fitted = pc.fit_ensemble(
        {"strong": strong, "weak": weak}, store, target=target, split={"test": test}, processes=False,
        source={"quality": {"accept": accepted}}, **run.model_dump(exclude={"dataset"}, exclude_unset=True),
    )  # fmt: skip
    data = pc.open_dataset("arrays", store)
    ref = DatasetRef(root=str(store / "datasets"), name=data.name, version=data.version, fingerprint=data.fingerprint)
    origin = fitted._trained_here
    return run, ref, origin.trained.reports, fitted


def test_a_modality_that_hardly_a_row_has_does_not_end_a_finished_run(tmp_path: Path) -> None:
    run, ref, reports, _ = trained(tmp_path, share=0.03, num_rows=600, test=0.2)
    insight = study_run(run, ref, reports)
    assert insight.report.num_learners == len(reports)
    only = next(report for report in reports if report.modalities == ("strong",))
    (found,) = learner_importance(open_dataset(ref), only, ("strong",))
    assert 2 <= found.num_rows < 20, "it is asked only of rows that it can answer for"


def test_rows_a_learner_cannot_answer_are_no_sign_of_poor_generalisation(tmp_path: Path) -> None:
    run, ref, reports, fitted = trained(tmp_path, share=0.6, num_rows=800, test=0.25)
    judgement = fitted.judgement
    assert judgement is not None
    single, answered = judgement.best_single, judgement.best_single.answered_score
    assert answered is not None and 0 < single.num_answered < judgement.num_rows
    assert answered > single.score + 0.1, "of the others it knows the prior"
    (found,) = gather_evidence(run, ref, reports, judgement).generalisation
    assert (found.test, found.test_rows) == (answered, single.num_answered)
    best = next(report for report in reports if report.name == single.learner)
    outside = 800 * 0.75 * (1 - run.bags.share_in_bag)
    assert best.score == found.out_of_bag and found.out_of_bag_rows == pytest.approx(0.6 * outside, rel=0.3)
    assert "poor_generalisation" not in {one.problem for one in diagnose(gather_evidence(run, ref, reports, judgement))}

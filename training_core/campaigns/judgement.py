"""Judging an ensemble on the test split, which nothing before has looked at, and summing up the run."""

import hashlib

import numpy as np

from training_core.artifacts import ArtifactRef, verify_published
from training_core.campaigns.advice.insight import RunInsight
from training_core.campaigns.bagging import Plan, open_dataset
from training_core.campaigns.budget_use import BudgetUse, CostScore
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import TrainingOutcome
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import (
    Judgement,
    LearnerCounts,
    MeanScore,
    ProfiledTraining,
    RunSummary,
    SingleScore,
)
from training_core.engine.watching.profiling import PROFILE_FOLDER, read_profile
from training_core.engine.watching.speed import SpeedReport
from training_core.errors import DataError
from training_core.evaluation.metrics import score
from training_core.evaluation.patterns import pattern_table
from training_core.evaluation.predictions import Predictions
from training_core.jobs import DatasetRef
from training_core.schema import TaskSpec
from training_core.selection.ensemble import Ensemble
from training_core.selection.leaderboard import leaderboard


def judge(ensemble_ref: ArtifactRef, ref: DatasetRef) -> Judgement:
    """Load an ensemble from its files and let it predict the test split under every availability pattern.

    Raises:
        StorageError: the ensemble's files are not what was published.
        DataError: the test split is empty.
    """
    verify_published(ensemble_ref)
    ensemble = Ensemble.load(ensemble_ref.path)
    dataset = open_dataset(ref)
    samples = dataset.samples(dataset.rows("test"), ensemble.spec.names)
    if not len(samples) or samples.target is None:
        raise DataError(f"{ref.label} has no test rows; set `split.test` in its SOURCE.yaml")
    task, names = ensemble.task, ensemble.spec.names
    under = ensemble.under_patterns(samples)
    patterns = pattern_table(task, under.predict, samples.target, names)
    full, best = patterns[0], ensemble.best_single
    return Judgement(
        metric=task.metric,
        score=full.score,
        ece=full.ece,
        confidence=full.confidence,
        test=dict(full.metrics) | ({} if full.ece is None else {"ece": full.ece}),
        num_rows=len(samples),
        best_single=_single_score(task, samples.target, best, under.predict_member(best)),
        plain_mean=MeanScore(score=score(task, samples.target, under.predict(weighting="mean").values)),
        patterns=tuple(patterns),
        predictions_sha256=predictions_sha256(samples.ids, under.predict().values),
    )


def _single_score(task: TaskSpec, target: np.ndarray, learner: str, said: Predictions) -> SingleScore:
    """How well one learner does, on all rows and on those that it answers."""
    answered = said.num_learners > 0
    own = score(task, target[answered], said.values[answered]) if answered.any() else None
    return SingleScore(
        learner=learner, score=score(task, target, said.values), answered_score=own, num_answered=int(answered.sum())
    )


def predictions_sha256(ids: np.ndarray, values: np.ndarray) -> str:
    """Hash of predictions [N, C] rounded to 1e-6 (as whole micro-units, little-endian int64), in id order."""
    micro = np.round(values[np.argsort(ids.astype(str), kind="stable")] * 1e6).astype("<i8")
    return hashlib.sha256(micro.tobytes()).hexdigest()


def sum_up(
    run: RunConfig,
    ref: DatasetRef,
    record: RecordRef,
    plan: Plan,
    trained: TrainingOutcome,
    ensemble_ref: ArtifactRef,
    judgement: Judgement,
    insight: RunInsight,
    model: str,
    report: str,
    clock: RunClock,
) -> RunSummary:
    """Everything a run has to say, in one value."""
    reports = trained.reports
    ensemble = Ensemble.load(ensemble_ref.path)
    board = leaderboard(reports, ensemble.weights())
    folders = {item.name: item.artifact.path for item in reports if item.artifact is not None}
    profiles = {
        name: ProfiledTraining(folder=str(folder / PROFILE_FOLDER), profile=profile)
        for name, folder in folders.items()
        if (profile := read_profile(folder)) is not None
    }
    return RunSummary(
        dataset=ref.label,
        run_id=record.run_id,
        model=model,
        ensemble=ensemble_ref.uri,
        metric=judgement.metric,
        score=judgement.score,
        ece=judgement.ece,
        test=judgement.test,
        best_single=judgement.best_single,
        plain_mean=judgement.plain_mean,
        patterns=judgement.patterns,
        learners=LearnerCounts.of(tuple(reports), kept=len(ensemble.kept)),
        seconds=clock.elapsed,
        cpu_seconds=sum(item.cpu_seconds for item in reports),
        peak_mb=max(item.peak_bytes for item in reports) / 1e6,
        predictions_sha256=judgement.predictions_sha256,
        report=report,
        tracking=record.location,
        seed=run.seed,
        leaderboard=tuple(sorted(board, key=lambda row: -row.weight)),
        failures={item.name: item.error for item in reports if item.status == "failed"},
        speed={name: speed for name, folder in folders.items() if (speed := SpeedReport.read(folder)) is not None},
        profiles=profiles,
        advice=insight.sentences,
        cost_model=CostScore.of(reports),
        budget=BudgetUse.of(run.budget, plan, trained, clock),
    )

"""What a finished run teaches: how its learners trained, what was wrong, what to change, and if it is good enough."""

from collections.abc import Sequence

from training_core.artifacts import ArtifactRef
from training_core.campaigns.advice.gathering import gather_evidence, opened
from training_core.campaigns.advice.remedies import Advice, advise, apply_changes
from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.evaluation.cost import row_milliseconds
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement
from training_core.config import Config
from training_core.data.storage.store import Dataset
from training_core.evaluation.analytics import TrainingReport, report_training
from training_core.evaluation.diagnostics import diagnose
from training_core.evaluation.evidence import RunEvidence
from training_core.evaluation.gates import GateConfig, GateResult, check_gates
from training_core.evaluation.impact import PairedDifference, paired_impact
from training_core.evaluation.importance import feature_importance, importance_shares, modality_importance
from training_core.jobs import DatasetRef, JobReport
from training_core.seeding import derive_seed
from training_core.selection.ensemble import Ensemble

_EXPLAINED_ROWS = 200
"""Rows that features are shuffled on: each costs a prediction of all of them."""
_TIMED_ROWS = 30
"""Rows an ensemble is asked one by one when it is timed; rows that lack something may be quicker than others."""


class RunInsight(Config):
    """What a finished run teaches."""

    report: TrainingReport
    advice: tuple[Advice, ...]
    """What was wrong, what cost most first; empty when all is well."""
    suggested: RunConfig | None
    """The run with everything changed that is advised; None when nothing is."""
    gates: tuple[GateResult, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was wrong, and what to set instead, a sentence each."""
        return tuple(
            f"{given.diagnosis.evidence}: {', '.join(change.spelled() for change in given.changes)}"
            if given.changes
            else given.diagnosis.evidence
            for given in self.advice
        )

    @property
    def is_good_enough(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)


def study_run(
    run: RunConfig,
    ref: DatasetRef,
    reports: Sequence[JobReport],
    judgement: Judgement | None = None,
    *,
    seconds: float | None = None,
    ensemble: ArtifactRef | None = None,
    without_denoising: Sequence[JobReport] = (),
    gates: GateConfig | None = None,
    num_explained: int = 3,
) -> RunInsight:
    """Look at a finished run from all sides. Test rows are not looked at again: `judgement` says what they said.

    Args:
        run: its settings.
        ref: its data set.
        reports: of all its learners.
        judgement: of its ensemble; without it, gates on scores are missed.
        seconds: what it took.
        ensemble: its ensemble, for the gate on its size.
        without_denoising: reports of the same jobs trained without denoising (`remedies.without_denoising`).
        gates: what it must reach.
        num_explained: the best so many learners are asked what their answers depend on.

    What there is no evidence of, such as what a modality tells that hardly a row has, is left out.
    """
    found = gather_evidence(run, ref, reports, judgement, seconds)
    dataset = open_dataset(ref)
    weights, features = explain_learners(dataset, reports, num_explained, run.seed)
    report = report_training(
        found.trainings,
        denoising_impact=denoising_impact(run, found, without_denoising),
        modality_weights=weights,
        top_features=features,
    )
    advice = advise(run, diagnose(found))
    changes = [change for given in advice for change in given.changes]
    return RunInsight(
        report=report,
        advice=advice,
        suggested=apply_changes(run, changes) if changes else None,
        gates=hold_gates(gates or GateConfig(), dataset, report, judgement, ensemble),
    )


def hold_gates(
    gates: GateConfig,
    dataset: Dataset,
    report: TrainingReport,
    judgement: Judgement | None,
    ensemble: ArtifactRef | None,
) -> tuple[GateResult, ...]:
    """The gates of a run held against what came of it; an ensemble is timed where a gate asks for it.

    Args:
        gates: what must be reached.
        dataset: what was trained on; some of its training rows are what the ensemble is timed on.
        report: how the learners trained.
        judgement: what the test rows said, if they were asked.
        ensemble: what came of it, if anything did.
    """
    taken = None
    if gates.max_row_milliseconds is not None and ensemble is not None:
        loaded = Ensemble.load(ensemble.path)
        taken = row_milliseconds(loaded, dataset.samples(dataset.rows("train")[:_TIMED_ROWS], loaded.spec.names))
    return check_gates(gates, gate_figures(report, judgement, ensemble, taken))


def gate_figures(
    report: TrainingReport,
    judgement: Judgement | None,
    ensemble: ArtifactRef | None = None,
    row_milliseconds: float | None = None,
) -> dict[str, float | None]:
    """What the gates of `GateConfig` are held against, by their names; those that do not apply are left out."""
    figures: dict[str, float | None] = {
        "score": judgement and judgement.score,
        "pattern_score": min(row.score for row in judgement.patterns) if judgement else None,
        "success_rate": report.success_rate,
        "size_mb": None,
        "row_milliseconds": row_milliseconds,
    }
    if ensemble is not None:
        files = (file for file in ensemble.path.rglob("*") if file.is_file())
        figures["size_mb"] = sum(file.stat().st_size for file in files) / 1e6
    if judgement is None or judgement.ece is not None:
        figures["calibration_error"] = judgement and judgement.ece
    if any(learner.epochs > 1 for learner in report.learners):
        figures |= {"stability": report.stability, "overfitting": report.overfitting}
    alone = [row.score for row in judgement.patterns if len(row.available) == 1 and row.missing] if judgement else []
    if judgement is None or alone:
        figures["cross_modal_gain"] = judgement.score - max(alone) if judgement else None
    return figures


def denoising_impact(run: RunConfig, found: RunEvidence, without: Sequence[JobReport]) -> PairedDifference | None:
    """What denoising added to the scores of the learners that had it, paired with those trained without it."""
    terms = "training/denoising/total"
    denoised = {
        t.name: t.score for t in found.trainings if t.history and any(terms in epoch for epoch in t.history.epochs)
    }
    share = run.bags.share_in_bag
    ratio = (1 - share) / share if 0 < share < 1 else 0.0
    return paired_impact(denoised, {report.name: report.score for report in without}, ratio)


def explain_learners(
    dataset: Dataset, reports: Sequence[JobReport], num_learners: int = 3, seed: int = 0, num_features: int = 10
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[str, ...]]]:
    """What the answers of the best learners depend on, measured on rows outside their bags.

    Returns:
        Per learner the share of each modality, and its most important columns, those within noise left out.
    """
    trained = [report for report in reports if report.artifact is not None and report.score is not None]
    best = sorted(trained, key=lambda report: (-(report.score or 0.0), report.name))[:num_learners]
    weights: dict[str, dict[str, float]] = {}
    features: dict[str, tuple[str, ...]] = {}
    for report in best:
        predict, samples = opened(dataset, report, seed, _EXPLAINED_ROWS)
        shuffling = derive_seed(seed, "explanation")
        spec = dataset.spec
        found = modality_importance(predict, samples, spec.task, report.modalities, shuffling)
        weights[report.name] = importance_shares(found)
        columns = feature_importance(predict, samples, spec, report.modalities, seed=shuffling)
        features[report.name] = tuple(one.subject for one in columns[:num_features] if one.is_beyond_noise)
    return weights, features

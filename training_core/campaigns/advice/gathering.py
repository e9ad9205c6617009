"""From the reports and files of a run to the evidence that its diagnoses are made from."""

from collections.abc import Callable, Sequence

import numpy as np

from training_core.campaigns.bagging import open_dataset
from training_core.campaigns.run_bags import run_spec
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import Judgement
from training_core.data.storage.store import Dataset
from training_core.engine.trained import TrainedLearner
from training_core.engine.watching.speed import SpeedReport
from training_core.errors import DataError
from training_core.evaluation.analytics import LearnerTraining
from training_core.evaluation.evidence import (
    CrossModalEvidence,
    GeneralisationEvidence,
    ModalityEvidence,
    RunEvidence,
    RunLimits,
)
from training_core.evaluation.importance import Association, Importance, association, modality_importance
from training_core.evaluation.row_gains import row_gain
from training_core.jobs import DatasetRef, JobReport, read_curves, read_out_of_bag
from training_core.schema import DataSpec, Samples, TaskSpec, pattern_key
from training_core.seeding import derive_seed, generator

_MAX_ROWS = 1000
"""Rows that importances are measured on: their standard errors are a thirtieth of the spread of a row then."""
_MAX_ASKED = 3
"""Learners asked per modality what shuffling it costs them: the better ones, who have learned most from it."""


def gather_evidence(
    run: RunConfig,
    ref: DatasetRef,
    reports: Sequence[JobReport],
    judgement: Judgement | None = None,
    seconds: float | None = None,
) -> RunEvidence:
    """All that is known of a run; looks at curves, predictions outside the bags, and learners, never at test rows.

    Args:
        run: its settings.
        ref: its data set.
        reports: of all its learners.
        judgement: what the test split said, if it was asked.
        seconds: what the run took.
    """
    dataset = open_dataset(ref)
    budget = run.budget
    limits = RunLimits(
        seconds=budget.seconds, memory_bytes=None if budget.memory_mb is None else budget.memory_mb * 1e6
    )
    return RunEvidence(
        trainings=gather_trainings(reports),
        modalities=gather_modalities(run_spec(run, dataset), dataset, reports, run.seed),
        cross_modal=gather_cross_modal(run_spec(run, dataset), dataset, reports),
        generalisation=_generalisation(dataset.spec.task, reports, judgement),
        limits=limits,
        seconds=seconds,
    )


def gather_trainings(reports: Sequence[JobReport]) -> tuple[LearnerTraining, ...]:
    """The training behind each report, with its curves and its speed where they were kept."""
    found = []
    for report in reports:
        history = None if report.artifact is None else read_curves(report.artifact)
        speed = None if report.artifact is None else SpeedReport.read(report.artifact.path)
        found.append(
            LearnerTraining(
                name=report.name,
                learner=report.learner,
                modalities=report.modalities,
                status=report.status,
                error=report.error,
                score=report.score,
                metrics=report.metrics,
                seconds=report.seconds,
                cpu_seconds=report.cpu_seconds,
                predicted_seconds=report.predicted_seconds,
                peak_bytes=report.peak_bytes,
                size_bytes=report.size_bytes,
                history=history if history is not None and history.epochs and history.epochs[0] else None,
                speed=speed,
            )
        )
    return tuple(found)


def gather_modalities(
    spec: DataSpec, dataset: Dataset, reports: Sequence[JobReport], seed: int = 0
) -> tuple[ModalityEvidence, ...]:
    """What each modality of a run tells of the answer, alone and beside the others; from rows outside the bags."""
    asked: dict[str, list[JobReport]] = {name: [] for name in spec.names}
    alone: dict[str, list[Association]] = {name: [] for name in spec.names}
    for report in _by_score(reports):
        if len(report.modalities) == 1:
            alone[report.modalities[0]] += _association(spec.task, dataset, report)
        for name in report.modalities if len(report.modalities) > 1 else ():
            if len(asked[name]) < _MAX_ASKED:
                asked[name].append(report)
    wanted: dict[str, list[str]] = {}
    for name, learners in asked.items():
        for report in learners:
            wanted.setdefault(report.name, []).append(name)
    named = {report.name: report for report in reports}
    measured = {
        learner: {one.subject: one for one in learner_importance(dataset, named[learner], names, seed)}
        for learner, names in wanted.items()
    }
    return tuple(
        ModalityEvidence(
            name=name,
            association=max(alone[name], key=lambda one: one.strength / one.std_error, default=None),
            importances=tuple(measured[r.name][name] for r in asked[name] if name in measured[r.name]),
        )
        for name in spec.names
    )


def learner_importance(dataset: Dataset, report: JobReport, names: Sequence[str], seed: int = 0) -> list[Importance]:
    """What shuffling each of the modalities `names` costs a learner, on rows outside its bag that it answers for.

    Those that too few of these rows have are left out.
    """
    predict, samples = opened(dataset, report, seed)
    return modality_importance(predict, samples, dataset.spec.task, names, derive_seed(seed, "importance"))


def opened(
    dataset: Dataset, report: JobReport, seed: int = 0, max_rows: int = _MAX_ROWS
) -> tuple[Callable[[Samples], np.ndarray], Samples]:
    """A trained learner's `predict`, and up to `max_rows` rows outside its bag that it has an answer for."""
    assert report.artifact is not None, "only learners that trained have files"
    rows = _rows_answered(report)
    if len(rows) > max_rows:
        rows = np.sort(generator(seed, "rows to look at", report.name).choice(rows, max_rows, replace=False))
    learner = TrainedLearner.load(report.artifact.path / "learner")
    return learner.predict, dataset.samples(rows)


def gather_cross_modal(
    spec: DataSpec, dataset: Dataset, reports: Sequence[JobReport]
) -> tuple[CrossModalEvidence, ...]:
    """Each learner of several modalities beside the best learner on one of them, on rows outside both bags.

    Once with all that it knows, against the best of its modalities; and once with each alone that it can do with.
    """
    best: dict[str, JobReport] = {}
    for report in _by_score(reports):
        if len(report.modalities) == 1:
            best.setdefault(report.modalities[0], report)
    found = []
    for report in _by_score(reports):
        rivals = [best[name] for name in report.modalities if name in best]
        if len(report.modalities) < 2 or not rivals:
            continue
        strongest = max(rivals, key=lambda rival: rival.score if rival.score is not None else -np.inf)
        for shown, rival in [(report.modalities, strongest), *((rival.modalities, rival) for rival in rivals)]:
            one = _beside(spec, dataset, report, shown, rival)
            if one is not None:
                found.append(one)
    return tuple(found)


def _beside(
    spec: DataSpec, dataset: Dataset, report: JobReport, shown: tuple[str, ...], rival: JobReport
) -> CrossModalEvidence | None:
    """A learner that is let see `shown` beside a rival on one modality; None where it cannot do with that."""
    assert report.artifact is not None and rival.artifact is not None, "only learners that trained have files"
    rows, answers = read_out_of_bag(report.artifact)
    rival_rows, rival_answers = read_out_of_bag(rival.artifact)
    key, rival_key = pattern_key(shown, spec.names), pattern_key(rival.modalities, spec.names)
    if key not in answers or rival_key not in rival_answers:
        return None
    both, own, theirs = np.intersect1d(rows, rival_rows, return_indices=True)
    one, other = answers[key][own], rival_answers[rival_key][theirs]
    voted = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1)
    if voted.sum() < 2:
        return None
    target = dataset.target(both[voted])
    lost = row_gain(spec.task, target, other[voted]) - row_gain(spec.task, target, one[voted])
    return CrossModalEvidence(
        learner=report.name,
        shown=shown,
        rival=rival.name,
        shortfall=float(lost.mean()),
        std_error=float(lost.std(ddof=1) / np.sqrt(len(lost))),
        num_rows=len(lost),
    )


def _association(task: TaskSpec, dataset: Dataset, report: JobReport) -> list[Association]:
    """How well a learner on a single modality ranks rows outside its bag; none where they all have one answer."""
    assert report.artifact is not None, "only learners that trained have files"
    rows, answers = read_out_of_bag(report.artifact)
    prediction = answers[report.modalities[0]]
    voted = np.isfinite(prediction).all(axis=1)
    try:
        return [association(task, dataset.target(rows[voted]), prediction[voted])]
    except DataError:
        return []


def _generalisation(
    task: TaskSpec, reports: Sequence[JobReport], judgement: Judgement | None
) -> tuple[GeneralisationEvidence, ...]:
    if judgement is None or task.kind != "classification":
        return ()
    single = judgement.best_single
    best = next((r for r in reports if r.name == single.learner), None)
    if best is None or best.score is None or best.artifact is None or single.answered_score is None:
        return ()
    return (
        GeneralisationEvidence(
            learner=best.name,
            out_of_bag=best.score,
            out_of_bag_rows=len(_rows_answered(best)),
            test=single.answered_score,
            test_rows=single.num_answered,
        ),
    )


def _rows_answered(report: JobReport) -> np.ndarray:
    """The rows outside its bag that a learner has an answer for: those its score is of."""
    assert report.artifact is not None, "only learners that trained have files"
    rows, answers = read_out_of_bag(report.artifact)
    return rows[np.isfinite(answers[pattern_key(report.modalities, report.modalities)]).all(axis=1)]


def _by_score(reports: Sequence[JobReport]) -> list[JobReport]:
    """The learners that trained, best first."""
    trained = [report for report in reports if report.artifact is not None]
    return sorted(trained, key=lambda r: (-(r.score if r.score is not None else -np.inf), r.name))

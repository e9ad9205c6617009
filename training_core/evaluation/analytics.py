"""What the trainings of a run were like: a line per learner, and the figures of all of them together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.engine.loop import History
from training_core.engine.watching.speed import SpeedReport
from training_core.evaluation.convergence import (
    convergence_epoch,
    convergence_rate,
    denoising_losses,
    denoising_shares,
    generalisation_loss,
    judged_losses,
    overfitting_score,
    stability,
    supervised_losses,
)
from training_core.evaluation.impact import PairedDifference


class LearnerTraining(Config):
    """What is known of the training of one learner."""

    name: str
    learner: str
    """Kind of learner."""
    modalities: tuple[str, ...]
    status: Literal["trained", "reused", "failed", "skipped", "pruned"] = "trained"
    """Skipped: there was no time for it. Pruned: it was given up."""
    error: str = ""
    """Why it failed."""
    score: float | None = None
    """The task's metric on rows it never saw; greater is better."""
    metrics: Mapping[str, float] = {}
    """All metrics on those rows."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    predicted_seconds: float | None = None
    peak_bytes: int = 0
    """Largest resident memory of the process that trained it."""
    size_bytes: int = 0
    history: History | None = None
    speed: SpeedReport | None = None


class LearnerAnalysis(Config):
    """How one learner trained; what its kind of training does not tell is None."""

    name: str
    learner: str
    modalities: tuple[str, ...]
    status: str
    score: float | None
    seconds: float
    epoch_seconds: float | None
    """Mean over its epochs."""
    memory_mb: float
    """Peak resident memory of its process, in MB (1e6 bytes)."""
    epochs: int
    kept_epoch: int | None
    """The epoch whose weights were kept."""
    stop_reason: str = ""
    final_loss: float | None
    """Of the last epoch: on validation rows, or training rows where nothing was validated."""
    best_loss: float | None
    convergence_epoch: int | None
    convergence_rate: float | None
    """See `convergence.convergence_rate`."""
    overfitting: float | None
    """0..1, at the epoch that was kept: see `convergence.overfitting_score`."""
    generalisation_loss: float | None
    """See `convergence.generalisation_loss`."""
    stability: float | None
    """0..1: see `convergence.stability`, of the loss on training rows."""
    samples_per_second: float | None
    updates_per_second: float | None
    denoising_share: float | None
    """Median over the epochs of the share of the training loss that is not the task's own."""
    denoising: Mapping[str, float] = {}
    """What is left of each denoising loss, by `objective` or `objective/modality`: last epoch over first epoch."""
    modality_weights: Mapping[str, float] = {}
    """How much of its loss depends on each modality, shares that add up to 1; empty when nobody looked."""
    top_features: tuple[str, ...] = ()
    """The columns its answers depend on most, first the most important; empty when nobody looked."""


class TrainingReport(Config):
    """The trainings of a run together."""

    num_learners: int
    num_failed: int
    num_skipped: int
    """Those there was no time for."""
    success_rate: float
    """Share of those that were begun that gave a learner, 0..1."""
    mean_score: float | None
    """Mean over the learners; each on rows of its own."""
    best_learner: str | None
    best_score: float | None
    final_loss: float | None
    """Of the best learner that has one: see `LearnerAnalysis.final_loss`."""
    total_seconds: float
    """Of all learners, those that were reused included; not the time a run takes, for learners train side by side."""
    cpu_seconds: float
    epoch_seconds: float | None
    """Mean over all epochs of all nets."""
    peak_mb: float
    gpu_utilization: float | None
    """Mean share of the time, 0..1, weighted by seconds; None without a GPU."""
    convergence_epoch: float | None
    """Median over the nets."""
    overfitting: float | None
    """Median over the nets, 0..1."""
    stability: float | None
    """Median over the nets, 0..1."""
    samples_per_second: float | None
    """Rows all nets learned from over the seconds they trained; of nets that trained together counted once."""
    updates_per_second: float | None
    predicted_ratio: float | None
    """Median over the learners of the seconds a training took over those predicted."""
    denoising_impact: PairedDifference | None
    """What denoising adds to the score of a learner, paired by bag and seed; None when it was not compared."""
    learners: tuple[LearnerAnalysis, ...]

    def seconds_by_learner(self) -> dict[str, float]:
        """How long each learner took."""
        return {learner.name: learner.seconds for learner in self.learners}


def analyse_learner(
    training: LearnerTraining,
    modality_weights: Mapping[str, float] | None = None,
    top_features: Sequence[str] = (),
) -> LearnerAnalysis:
    """How one learner trained. What its answers depend on is measured elsewhere (`evaluation.importance`)."""
    history, speed = training.history, training.speed
    losses = judged_losses(history) if history else ()
    own = supervised_losses(history) if history else ()
    validated = tuple(value for _, value in history.curve("validation/loss")) if history else ()
    epochs = len(history.epochs) if history else 0
    kept = (history.best_epoch or epochs or None) if history else None
    gap = (
        overfitting_score(own[kept - 1], validated[kept - 1])
        if kept and kept <= min(len(own), len(validated))
        else None
    )
    shares = denoising_shares(history) if history else ()
    return LearnerAnalysis(
        name=training.name,
        learner=training.learner,
        modalities=training.modalities,
        status=training.status,
        score=training.score,
        seconds=training.seconds,
        epoch_seconds=training.seconds / epochs if epochs else None,
        memory_mb=training.peak_bytes / 1e6,
        epochs=epochs,
        kept_epoch=kept,
        stop_reason=history.stop_reason if history else "",
        final_loss=losses[-1] if losses else None,
        best_loss=min(losses) if losses else None,
        convergence_epoch=convergence_epoch(losses),
        convergence_rate=convergence_rate(losses),
        overfitting=gap,
        generalisation_loss=generalisation_loss(validated),
        stability=stability(own),
        samples_per_second=speed.samples_per_second if speed else None,
        updates_per_second=speed.updates_per_second if speed else None,
        denoising_share=float(np.median(shares)) if shares else None,
        denoising=_left_over(history) if history else {},
        modality_weights=dict(modality_weights or {}),
        top_features=tuple(top_features),
    )


def report_training(
    trainings: Iterable[LearnerTraining],
    *,
    denoising_impact: PairedDifference | None = None,
    modality_weights: Mapping[str, Mapping[str, float]] | None = None,
    top_features: Mapping[str, Sequence[str]] | None = None,
) -> TrainingReport:
    """The figures of a run's trainings. An empty run gives a report of nothing, not an error.

    Args:
        trainings: all learners of the run, the failed ones too.
        denoising_impact: from `impact.paired_impact`.
        modality_weights: per learner, as far as measured.
        top_features: per learner, as far as measured.
    """
    trainings = tuple(trainings)
    weights, features = modality_weights or {}, top_features or {}
    learners = tuple(analyse_learner(t, weights.get(t.name), features.get(t.name, ())) for t in trainings)
    done = [learner for learner in learners if learner.status in ("trained", "reused")]
    num_failed = sum(learner.status == "failed" for learner in learners)
    scored = sorted((a for a in done if a.score is not None), key=lambda a: (-(a.score or 0.0), a.name))
    nets = [a for a in done if a.final_loss is not None]
    speeds = _distinct_speeds(trainings)
    watched = [s for s in speeds if s.gpu_utilization is not None]
    net_seconds = sum(s.seconds for s in speeds)
    ratios = [t.seconds / t.predicted_seconds for t in trainings if t.predicted_seconds and t.status == "trained"]
    num_epochs = sum(a.epochs for a in nets)
    return TrainingReport(
        num_learners=len(learners),
        num_failed=num_failed,
        num_skipped=sum(learner.status == "skipped" for learner in learners),
        success_rate=len(done) / (len(done) + num_failed) if done or num_failed else 0.0,
        mean_score=_mean([a.score for a in scored if a.score is not None]),
        best_learner=scored[0].name if scored else None,
        best_score=scored[0].score if scored else None,
        final_loss=next((a.final_loss for a in scored if a.final_loss is not None), None),
        total_seconds=sum(t.seconds for t in trainings),
        cpu_seconds=sum(t.cpu_seconds for t in trainings),
        epoch_seconds=sum(a.seconds for a in nets) / num_epochs if num_epochs else None,
        peak_mb=max((a.memory_mb for a in learners), default=0.0),
        gpu_utilization=_weighted_mean([s.gpu_utilization or 0.0 for s in watched], [s.seconds for s in watched]),
        convergence_epoch=_median([a.convergence_epoch for a in nets]),
        overfitting=_median([a.overfitting for a in nets]),
        stability=_median([a.stability for a in nets]),
        samples_per_second=sum(s.num_samples for s in speeds) / net_seconds if net_seconds else None,
        updates_per_second=sum(s.num_updates for s in speeds) / net_seconds if net_seconds else None,
        predicted_ratio=_median(ratios),
        denoising_impact=denoising_impact,
        learners=learners,
    )


def _distinct_speeds(trainings: Iterable[LearnerTraining]) -> list[SpeedReport]:
    """One report per training: the members of a stack carry the same one, of all of them together."""
    return list({t.speed.to_json(): t.speed for t in trainings if t.speed is not None}.values())


def _left_over(history: History) -> dict[str, float]:
    """Last over first value of every denoising loss and of its parts by modality."""
    names = set(denoising_losses(history))
    prefix = "training/denoising/"
    keys = {key.removeprefix(prefix) for epoch in history.epochs for key in epoch if key.startswith(prefix)}
    curves = {key: history.curve(prefix + key) for key in sorted(keys) if key.partition("/")[0] in names}
    return {key: curve[-1][1] / curve[0][1] for key, curve in curves.items() if curve[0][1] > 0}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float | None:
    return float(np.average(values, weights=weights)) if sum(weights) > 0 else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None

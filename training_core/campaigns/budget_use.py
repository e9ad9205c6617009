"""What became of a run's budget, and how well the cost of its learners was predicted."""

from collections.abc import Iterable, Mapping

import numpy as np

from training_core.campaigns.bagging import Plan
from training_core.campaigns.clock import RunClock
from training_core.campaigns.dispatch import TrainingOutcome
from training_core.campaigns.run_config import BudgetConfig
from training_core.config import Config
from training_core.jobs import JobReport


class CostScore(Config):
    """Predicted against actual cost, over the learners that were trained."""

    num_learners: int
    seconds_ratio: float
    """Median of actual over predicted seconds; early stopping makes nets quicker than predicted."""
    seconds_within_twofold: float
    """Share of the learners whose time was predicted within a factor of 2."""
    rank_correlation: float | None = None
    """Spearman's, of predicted and actual seconds; None for fewer than 3 learners, or where all are alike."""
    memory_ratio: float | None = None
    """Median of actual over predicted memory. What a process once had counts for all it trains later, so this is an
    upper bound."""

    @classmethod
    def of(cls, reports: Iterable[JobReport]) -> "CostScore | None":
        """Score the predictions for learners that have both figures; None when none has."""
        known = [r for r in reports if r.artifact is not None and r.predicted_seconds and r.seconds > 0]
        if not known:
            return None
        predicted = np.array([report.predicted_seconds for report in known], float)
        actual = np.array([report.seconds for report in known])
        memory = [r.peak_bytes / r.predicted_bytes for r in known if r.predicted_bytes and r.peak_bytes]
        ratio = actual / predicted
        return cls(
            num_learners=len(known),
            seconds_ratio=float(np.median(ratio)),
            seconds_within_twofold=float(np.mean((ratio >= 0.5) & (ratio <= 2))),
            rank_correlation=_spearman(predicted, actual),
            memory_ratio=float(np.median(memory)) if memory else None,
        )


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


class BudgetUse(Config):
    """What was set, and what became of it."""

    seconds: float | None
    used_seconds: float
    """From the start of the run until this was written; little comes after."""
    usable_seconds: float | None
    """When an ensemble that can answer under every pattern was there for the first time."""
    training_ended: float
    """In seconds since the epoch."""
    closing_seconds: float
    """What was expected to take place after training."""
    memory_mb: float | None
    learners: int | None
    num_skipped: int
    """Learners there was no time for."""
    left_out: Mapping[str, str]
    """Kinds and learners that were not planned, and why."""

    @classmethod
    def of(cls, budget: BudgetConfig, plan: Plan, trained: TrainingOutcome, clock: RunClock) -> "BudgetUse | None":
        """None when neither time, memory nor the number of learners was limited."""
        if budget.seconds is None and budget.memory_mb is None and budget.learners is None:
            return None
        return cls(
            seconds=budget.seconds,
            used_seconds=clock.elapsed,
            usable_seconds=trained.usable_seconds,
            training_ended=trained.ended,
            closing_seconds=trained.closing_seconds,
            memory_mb=budget.memory_mb,
            learners=budget.learners,
            num_skipped=sum(report.status == "skipped" for report in trained.reports),
            left_out=plan.left_out,
        )

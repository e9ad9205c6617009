"""How differently the learners of an ensemble err, and what their mean gains by it.

Shapes: L learners, N rows, C outputs. Answers hold NaN where a learner says nothing about a row; a pair is compared on
the rows both speak for.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import correctness
from training_core.schema import TaskSpec


class PairDiversity(Config):
    """Two learners, compared."""

    first: str
    second: str
    disagreement: float | None
    """Share of answers that one has right and the other wrong; None for regression."""
    q: float | None
    """Yule's Q in [-1, 1]: 0 for independent errors, 1 where both err on the same rows; None where undefined."""
    double_fault: float | None
    """Share of answers both have wrong; None for regression."""
    error_correlation: float | None
    """Of the errors (regression) or of the wrongs (else); None where one never or always errs."""
    num_rows: int


class Diversity(Config):
    """How differently some learners err."""

    num_learners: int
    disagreement: float | None
    """Mean over pairs, as are the next three; of pairs that define it."""
    q: float | None
    double_fault: float | None
    error_correlation: float | None
    learner_loss: float
    """Weighted mean squared error of the single learners (of probabilities: the Brier score)."""
    ambiguity: float
    """Weighted mean squared distance of the learners from their mean."""
    ensemble_loss: float
    """Squared error of the weighted mean: exactly `learner_loss` - `ambiguity`."""
    pairs: tuple[PairDiversity, ...]
    num_rows: int


def diversity(
    task: TaskSpec, target: np.ndarray, answers: np.ndarray, weights: np.ndarray, names: Sequence[str]
) -> Diversity:
    """Compare learners pair by pair and split the error of their weighted mean.

    Disagreement, Q and double fault after Kuncheva and Whitaker 2003, Machine Learning 51, §2.1 (eqs. 1, 5, 6), over
    rows (classification) or over rows and labels (multilabel). The split of the error is that of Krogh and Vedelsby
    1995, eq. 6, which holds for squared errors of values and of probabilities alike.

    Args:
        task: what is predicted.
        target: as in `metrics.score`.
        answers: float64 [L, N, C], NaN rows where a learner is silent; rows for which all are silent are left out.
        weights: [L], not negative, shared out per row over those that speak.
        names: of the learners.
    """
    speaks = np.asarray(np.isfinite(answers).all(axis=2))
    covered = np.any(speaks & (weights[:, None] > 0), axis=0)
    target, answers, speaks = target[covered], answers[:, covered], speaks[:, covered]
    truth = target.astype(np.float64)
    if task.kind == "classification":
        truth = np.eye(task.num_outputs)[target]
    share = np.where(speaks, weights[:, None], 0.0)
    share = share / share.sum(axis=0)
    known = np.where(speaks[:, :, None], answers, 0.0)
    mean = np.einsum("ln,lnc->nc", share, known)
    learner_loss = _mean_square(share, known - truth)
    ambiguity = _mean_square(share, known - mean)
    pairs = tuple(
        _pair(task, target, truth, answers, speaks, first, second, names)
        for first in range(len(names))
        for second in range(first + 1, len(names))
    )
    return Diversity(
        num_learners=len(names),
        disagreement=_mean(pair.disagreement for pair in pairs),
        q=_mean(pair.q for pair in pairs),
        double_fault=_mean(pair.double_fault for pair in pairs),
        error_correlation=_mean(pair.error_correlation for pair in pairs),
        learner_loss=learner_loss,
        ambiguity=ambiguity,
        ensemble_loss=float(np.mean(np.sum((mean - truth) ** 2, axis=1))) if len(truth) else 0.0,
        pairs=pairs,
        num_rows=int(covered.sum()),
    )


def yules_q(first: np.ndarray, second: np.ndarray) -> float | None:
    """Q of two learners that are right or wrong, bool [N] each; None where neither product of the table is above 0."""
    both, neither = np.sum(first & second), np.sum(~first & ~second)
    one, other = np.sum(first & ~second), np.sum(~first & second)
    same, different = float(both * neither), float(one * other)
    return (same - different) / (same + different) if same + different > 0 else None


def _pair(
    task: TaskSpec,
    target: np.ndarray,
    truth: np.ndarray,
    answers: np.ndarray,
    speaks: np.ndarray,
    first: int,
    second: int,
    names: Sequence[str],
) -> PairDiversity:
    rows = np.flatnonzero(speaks[first] & speaks[second])
    disagreement = q = double_fault = None
    if task.kind == "regression":
        errors = [(answers[place][rows] - truth[rows]).ravel() for place in (first, second)]
    else:
        right = [correctness(task, target[rows], answers[place][rows]).ravel() for place in (first, second)]
        errors = [(~side).astype(np.float64) for side in right]
        if len(rows):
            disagreement = float(np.mean(right[0] != right[1]))
            q = yules_q(right[0], right[1])
            double_fault = float(np.mean(~right[0] & ~right[1]))
    varied = len(rows) > 1 and all(np.ptp(error) > 0 for error in errors)
    return PairDiversity(
        first=names[first],
        second=names[second],
        disagreement=disagreement,
        q=q,
        double_fault=double_fault,
        error_correlation=float(np.corrcoef(errors[0], errors[1])[0, 1]) if varied else None,
        num_rows=len(rows),
    )


def _mean_square(share: np.ndarray, away: np.ndarray) -> float:
    """Σ_l share · ||away||², mean over rows; 0 without rows."""
    return float(np.mean(np.einsum("ln,lnc->n", share, away**2))) if share.shape[1] else 0.0


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

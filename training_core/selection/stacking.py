"""A linear correction of the weighted pool by what single learners say, where rows held out show that it helps.

With z the calibrated log-probabilities of the pool, z_l those of learner l, and ŵ_l its share of the weights among the
learners that speak for the row, the corrected answer is

    softmax(z + Σ_l ŵ_l k_l (z_l - z) + b)

(labels: the same with log-odds; regression: values in place of log-probabilities and no softmax). It is linear stacking
(Wolpert 1992; Ting & Witten 1999) written as a step away from the pool: with k = b = 0 it *is* the pool, a learner that
does not speak takes no part, and a mean rather than a sum over those that do keeps it right when other numbers of them
speak than out of bag. k may be negative, which convex weights cannot be. k and b minimise the loss of all rows plus
`strength` / 2 · (|k|² + |b|²), a convex problem.

Stacking on few rows learns their noise, and a stacker judged on the rows it was fitted to always looks better than the
pool. So it is judged on rows held out, and dropped unless it wins there by more than noise.
"""

from dataclasses import dataclass

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import LEAST_PROBABILITY
from training_core.evaluation.metrics import loss
from training_core.schema import TaskSpec
from training_core.selection.pooling import speaks
from training_core.selection.units import BEYOND_NOISE, dealt_folds, mean_error

_NUM_FOLDS = 5
_FEWEST_ROWS = 100
"""With fewer rows stacking is not tried."""
_MAX_STEPS = 200
_LEAST_LEFT = 0.05
"""Of the pool, beside the learners' own scores, for its factor to be told."""


class Stacker(Config):
    """What is added to a pattern's pool; see the module's formula."""

    coefficients: dict[str, float]
    """k per learner; one that is not listed has 0."""
    bias: tuple[float, ...]
    """b per class, label or target column (in the target's unit)."""
    gain: float
    """Mean loss saved on rows held out: nats, or for regression squared error in units of the target's variance."""


@dataclass(frozen=True)
class _Problem:
    """`offset` [N, C]: the pool, `steps` [L, N, C]: ŵ_l (z_l - z), 0 where a learner does not speak."""

    offset: np.ndarray
    steps: np.ndarray
    target: np.ndarray

    def take(self, rows: np.ndarray) -> "_Problem":
        return _Problem(self.offset[rows], self.steps[:, rows], self.target[rows])


def fit_stacker(
    task: TaskSpec,
    target: np.ndarray,
    pooled: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
    names: tuple[str, ...],
    strength: float,
    seed: int,
    rival: np.ndarray | None = None,
    units: np.ndarray | None = None,
) -> tuple[Stacker, np.ndarray] | None:
    """The stacker fitted on all rows if, fitted on four fifths, it beats the pool on the last fifth; else None.

    With it come the answers [N, C] to each row of the one that was fitted without it: those to the rows it was fitted
    on fit them too well to tell how large errors will be.

    All five fifths are held out in turn; the mean gain has to exceed two of its standard errors. The pool was itself
    fitted on all of the rows, which counts against the stacker.

    Args:
        task: what is predicted.
        target: [N, …], as in `Samples`.
        pooled: [N, C], the calibrated pool of `predictions`.
        predictions: [L, N, C], out of bag, each learner calibrated; NaN where it does not speak.
        weights: [L], those of the pool.
        names: of the L learners.
        strength: rows of evidence that the preference for the pool is worth.
        seed: of the draw of the fifths.
        rival: [N, C], the answers it has to beat; `pooled` when None.
        units: int64 [N], rows that belong together and are held out together; see `units.units_of`.
    """
    if len(target) < _FEWEST_ROWS or np.count_nonzero(weights) < 1:
        return None
    if units is not None and len(np.unique(units)) < _NUM_FOLDS:
        return None
    scale = np.maximum(target.std(axis=0), 1e-12) if task.kind == "regression" else 1.0
    whole = _Problem(
        _scores(task, pooled) / scale,
        _steps(task, pooled, predictions, weights) / scale,
        target / scale if task.kind == "regression" else target,
    )
    whole = _Problem(whole.offset, whole.steps[weights > 0], whole.target)
    fold = dealt_folds(len(target), _NUM_FOLDS, seed, "stacking", units)
    beaten = whole.offset if rival is None else _scores(task, rival) / scale
    gains, answers = np.empty(len(target)), np.empty_like(pooled, dtype=np.float64)
    for index in range(_NUM_FOLDS):
        held = np.flatnonzero(fold == index)
        found = _fit(task, whole.take(np.flatnonzero(fold != index)), strength)
        part = whole.take(held)
        before = loss(task, part.target, _answers(task, beaten[held]))
        answers[held] = _answers(task, _corrected(part, found))
        gains[held] = before - loss(task, part.target, answers[held])
    if gains.mean() <= BEYOND_NOISE * mean_error(gains, units):
        return None
    found = _fit(task, whole, strength)
    used = [name for name, weight in zip(names, weights, strict=True) if weight > 0]
    stacker = Stacker(
        coefficients={name: float(k) for name, k in zip(used, found, strict=False)},
        bias=tuple(float(b) for b in found[len(used) :] * scale),
        gain=float(gains.mean()),
    )
    return stacker, answers * scale


def stretch_beside(
    task: TaskSpec,
    target: np.ndarray,
    pooled: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
    strength: float,
) -> float:
    """By what the log-probabilities of the pool have to be multiplied to suit a correction best.

    A temperature is the best there is without a correction, and need not be with one: where half of the rows get the
    same answer, a little off the mark, and the others too faint a one, it leaves both as they are; and the mean of
    learners that know different things wants to be sharpened more than the correction towards their product does.

    With a factor 1 + s of its own, found together with k and b, the corrected scores are
    (1 + s - K) z + Σ_l ŵ_l k_l z_l + b, where K = Σ_l ŵ_l k_l; with a pool multiplied by f they are (1 - K) f z + …, so
    f = (1 + s - K) / (1 - K).

    1 for regression, and for a pool that says the same of every class. The arguments are those of `fit_stacker`.
    """
    if task.kind == "regression" or not len(target):
        return 1.0
    scores = _scores(task, pooled)
    steep = scores - scores.mean(axis=1, keepdims=True) if task.kind == "classification" else scores
    unit = float(np.sqrt(np.mean(steep**2)))
    if unit < 1e-9:
        return 1.0
    used = weights > 0
    steps = _steps(task, pooled, predictions, weights)[used]
    found = _fit(task, _Problem(scores, np.concatenate([steps, steep[None] / unit]), target), strength)
    scale = 1.0 + float(found[len(steps)]) / unit
    share = speaks(predictions[used]) * weights[used, None]
    pull = float(np.mean(found[: len(steps)] @ (share / share.sum(axis=0))))
    return (scale - pull) / (1.0 - pull) if pull < min(scale, 1.0) - _LEAST_LEFT else scale


def apply_stacker(
    task: TaskSpec,
    stacker: Stacker,
    pooled: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
    names: tuple[str, ...],
) -> np.ndarray:
    """The corrected answers [N, C] to the calibrated `pooled` [N, C]; the other arguments as in `fit_stacker`."""
    steps = _steps(task, pooled, predictions, weights)
    factors = np.array([stacker.coefficients.get(name, 0.0) for name in names])
    return _answers(task, _scores(task, pooled) + np.tensordot(factors, steps, 1) + np.array(stacker.bias))


def _scores(task: TaskSpec, values: np.ndarray) -> np.ndarray:
    """What is linear: values, log-probabilities or log-odds."""
    if task.kind == "regression":
        return values
    if task.kind == "classification":
        return np.log(np.clip(values, LEAST_PROBABILITY, 1.0))
    kept = np.clip(values, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return np.log(kept) - np.log1p(-kept)


def _answers(task: TaskSpec, scores: np.ndarray) -> np.ndarray:
    """The inverse of `_scores`, up to a constant per row."""
    if task.kind == "regression":
        return scores
    if task.kind == "multilabel":
        return 0.5 * (1.0 + np.tanh(0.5 * scores))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _steps(task: TaskSpec, pooled: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    spoken = speaks(predictions) * (weights[:, None] if weights.ndim == 1 else weights)
    total = spoken.sum(axis=0)
    share = spoken / np.where(total > 0, total, 1.0)
    away = _scores(task, np.where(np.isfinite(predictions), predictions, pooled)) - _scores(task, pooled)
    return share[..., None] * away


def _corrected(problem: _Problem, found: np.ndarray) -> np.ndarray:
    num = len(problem.steps)
    return problem.offset + np.tensordot(found[:num], problem.steps, 1) + found[num:]


def _fit(task: TaskSpec, problem: _Problem, strength: float) -> np.ndarray:
    """The coefficients k, then the bias b, [L + C]."""
    from scipy.optimize import minimize

    num_rows, width = problem.offset.shape
    num = len(problem.steps)
    if task.kind == "regression":
        truth = problem.target
    else:
        truth = problem.target > 0.5 if task.kind == "multilabel" else np.eye(width)[problem.target]
    flat = problem.steps.reshape(num, -1)
    per_row = 1.0 if task.kind == "classification" else 1.0 / width

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        scores = _corrected(problem, free)
        answers = _answers(task, scores)
        if task.kind == "regression":
            value = 0.5 * per_row * np.sum((scores - truth) ** 2)
        else:
            value = num_rows * np.mean(loss(task, problem.target, answers))
        by_scores = per_row * (answers - truth)
        gradient = np.concatenate([flat @ by_scores.ravel(), by_scores.sum(axis=0)]) + strength * free
        return float(value + 0.5 * strength * free @ free) / num_rows, gradient / num_rows

    start = np.zeros(num + width)
    return minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_STEPS}).x

"""Convex weights of learners by maximum likelihood, held towards equal weights as far as the evidence is thin.

Minimises over weights w on the simplex and a temperature T, jointly,

    mean over rows of loss(pool(w), T)  +  evenness / N · mean over learners of -log(L · w)

by L-BFGS on w = softmax(a). The pool is `selection.pooling.pool` and the penalty the divergence of w from equal weights
(a symmetric Dirichlet prior worth `evenness` rows). Weights chosen without the temperature favour a few overconfident
learners over many that are right on average but flat; with it both are judged by what calibration makes of them.
"""

import numpy as np

from training_core.evaluation.calibration import LEAST_PROBABILITY
from training_core.schema import TaskSpec
from training_core.selection.pooling import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE, speaks

_MAX_STEPS = 100


def likelihood_weights(
    task: TaskSpec, target: np.ndarray, predictions: np.ndarray, evenness: float, dropped_below: float
) -> np.ndarray:
    """Weights [L], sum 1, from out-of-bag `predictions` [L, N, C] (NaN: in the bag) and their `target`.

    Weights below `dropped_below` / L become 0, for such learners cost time and change nothing. Rows nobody speaks for
    are left out. Regression: squared error in units of the plain mean's own error, per target column.
    """
    from scipy.optimize import minimize

    num_learners = len(predictions)
    spoken = speaks(predictions)
    rows = spoken.any(axis=0)
    if num_learners == 1 or not rows.any():
        return np.full(num_learners, 1.0 / num_learners)
    cover = spoken[:, rows].astype(np.float64)
    values = np.where(spoken[:, rows, None], predictions[:, rows], 0.0)
    flat = values.reshape(num_learners, -1)
    target = target[rows]
    shape = values.shape[1:]
    scale = _error_scale(task, target, values, cover)
    strength = evenness / len(target)

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        raised = np.exp(free[:-1] - free[:-1].max())
        weights = np.maximum(raised / raised.sum(), 1e-12)
        total = weights @ cover
        pooled = (weights @ flat).reshape(shape) / total[:, None]
        inverse = np.exp(free[-1])
        value, by_pooled, by_inverse = _loss(task, target, pooled, inverse, scale)
        by_mixed = by_pooled / total[:, None]
        by_total = -(by_mixed * pooled).sum(axis=1)
        by_weight = flat @ by_mixed.ravel() + cover @ by_total - strength / num_learners / weights
        by_free = weights * (by_weight - weights @ by_weight)
        value -= strength * float(np.mean(np.log(num_learners * weights)))
        return value, np.append(by_free, by_inverse * inverse)

    edge = (-np.log(HIGHEST_TEMPERATURE), -np.log(LOWEST_TEMPERATURE))
    bounds = [(-12.0, 12.0)] * num_learners + [edge]
    start = np.zeros(num_learners + 1)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _MAX_STEPS}).x
    raised = np.exp(found[:-1] - found[:-1].max())
    weights = raised / raised.sum()
    weights = np.where(weights < dropped_below / num_learners, 0.0, weights)
    return weights / weights.sum()


def _loss(
    task: TaskSpec, target: np.ndarray, pooled: np.ndarray, inverse: float, scale: np.ndarray
) -> tuple[float, np.ndarray, float]:
    """Mean loss of a pool at an inverse temperature, its gradient in the pool [N, C], and in the temperature."""
    num_rows, width = pooled.shape
    if task.kind == "regression":
        error = pooled - target
        return float(np.mean(error**2 / (2 * scale))), error / (scale * num_rows * width), 0.0
    inside = (pooled > LEAST_PROBABILITY) & (pooled < 1.0)
    if task.kind == "multilabel":
        kept = np.clip(pooled, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        logit = np.log(kept) - np.log1p(-kept)
        truth = target > 0.5
        chance = 0.5 * (1.0 + np.tanh(0.5 * inverse * logit))
        value = np.mean(np.logaddexp(0.0, np.where(truth, -inverse, inverse) * logit))
        by_scaled = (chance - truth) / (num_rows * width)
        by_pooled = np.where(inside, by_scaled * inverse * (1 / kept + 1 / (1 - kept)), 0.0)
        return float(value), by_pooled, float(np.sum(by_scaled * logit))
    kept = np.clip(pooled, LEAST_PROBABILITY, 1.0)
    log_chance = np.log(kept)
    scaled = inverse * log_chance
    top = scaled.max(axis=1, keepdims=True)
    weight = np.exp(scaled - top)
    norm = weight.sum(axis=1, keepdims=True)
    rows = np.arange(num_rows)
    value = np.mean(np.log(norm[:, 0]) + top[:, 0] - scaled[rows, target])
    by_scaled = weight / norm
    by_scaled[rows, target] -= 1.0
    by_scaled /= num_rows
    return float(value), np.where(inside, by_scaled * inverse / kept, 0.0), float(np.sum(by_scaled * log_chance))


def _error_scale(task: TaskSpec, target: np.ndarray, values: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Regression: mean squared error of the plain mean, [K]; a squared error over twice this counts in nats."""
    if task.kind != "regression":
        return np.ones(1)
    plain = values.sum(axis=0) / cover.sum(axis=0)[:, None]
    return np.maximum(np.mean((plain - target) ** 2, axis=0), 1e-12 * np.maximum(target.var(axis=0), 1e-12))

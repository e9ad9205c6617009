"""The weighted mean of the learners that speak for a row, and how far it can be trusted when few of them do.

Shapes: L learners, N rows, C outputs. `predictions` [L, N, C] holds NaN where a learner has nothing to say about a row:
out of bag because the row was in its bag, at prediction time because a modality it needs is missing.
"""

from dataclasses import dataclass

import numpy as np

from training_core.evaluation.calibration import choices, fit_temperature
from training_core.schema import TaskSpec

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.25, 4.0
_STEEPEST = 4.0
_SHRINKAGE = 0.5
"""Weight of the squared slope against one row's log-likelihood: keeps the slope near 0 unless some rows ask for it."""


@dataclass(frozen=True)
class Pool:
    """The weighted mean over the learners that speak for each row.

    `values` float64 [N, C], NaN where nobody speaks. `concentration` [N]: Σw² / (Σw)² over the learners that speak, one
    over their effective number: 1 when a single one does, 1/k for k equal ones; NaN where nobody does. `num_learners`
    int64 [N]: speakers with a weight.
    """

    values: np.ndarray
    concentration: np.ndarray
    num_learners: np.ndarray

    @property
    def covered(self) -> np.ndarray:
        """Rows somebody speaks for, bool [N]."""
        return self.num_learners > 0

    def take(self, rows: np.ndarray) -> "Pool":
        """The same for some of the rows."""
        return Pool(self.values[rows], self.concentration[rows], self.num_learners[rows])


def pool(predictions: np.ndarray, weights: np.ndarray) -> Pool:
    """Mix predictions, each row's weights scaled to sum to 1 over the learners that speak for it.

    `weights` [L], or [L, N] where rows differ; not negative. Learners are added in their order and rows never meet, so
    the result does not depend on which other rows are present.
    """
    per_row = weights if weights.ndim == 2 else np.broadcast_to(weights[:, None], predictions.shape[:2])
    num_rows = predictions.shape[1]
    total, squares, speakers = np.zeros(num_rows), np.zeros(num_rows), np.zeros(num_rows, np.int64)
    mixed = np.zeros(predictions.shape[1:])
    for values, weight in zip(predictions, per_row, strict=True):
        here = np.isfinite(values).all(axis=1)
        weight = np.where(here, weight, 0.0)
        mixed += weight[:, None] * np.where(here[:, None], values, 0.0)
        total += weight
        squares += weight**2
        speakers += weight > 0
    safe = np.where(speakers > 0, total, np.nan)
    return Pool(mixed / safe[:, None], squares / safe**2, speakers)


def speaks(predictions: np.ndarray) -> np.ndarray:
    """Which learner says something about which row: bool [L, N] of `predictions` [L, N, C]."""
    return np.asarray(np.isfinite(predictions).all(axis=2))


def concentration_of(weights: np.ndarray) -> float:
    """`Pool.concentration` when every learner speaks: Σw² / (Σw)²."""
    return float(np.sum(weights**2) / np.sum(weights) ** 2)


@dataclass(frozen=True)
class TemperatureLine:
    """The temperature a pool needs, level · (1 + slope · concentration), within the usual bounds."""

    level: float
    slope: float = 0.0

    def at(self, concentration: float | np.ndarray) -> np.ndarray:
        """The temperature of pools of the given `concentration`, in its shape."""
        return np.clip(self.level * (1.0 + self.slope * concentration), LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)


def fit_temperature_line(task: TaskSpec, target: np.ndarray, mixed: Pool) -> TemperatureLine:
    """The temperature of a pool as a function of how many learners it is made of, from rows where that differs.

    A row out of bag is spoken for by the few learners that did not train on it, at prediction time by all of them. A
    mean over more learners is less noisy and, having been flattened, deserves a lower temperature: one fitted as if
    both were the same is systematically unsure. So the temperature is fitted as a line in the concentration,
    a · (1 + c · concentration), by maximum likelihood, to be read off where the pool is used. Measured on learners
    of which any number can be heard, the temperature is close to such a line from one learner to all, with c from 0.3
    (learners that agree) to 3.5 (that err independently); c is bounded to [0, `_STEEPEST`] and shrunk towards 0, for
    where few different concentrations were met it is hardly known. Regression: 1 everywhere.
    """
    from scipy.optimize import minimize

    if task.kind == "regression":
        return TemperatureLine(1.0)
    covered = mixed.covered
    values, target, spread = mixed.values[covered], target[covered], mixed.concentration[covered]
    if not len(values) or np.ptp(spread) < 1e-6:
        return TemperatureLine(fit_temperature(task, target, values, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    logits, hit = choices(task, values, target)
    spread = np.repeat(spread, len(logits) // len(values))
    num = len(logits)

    def objective(line: np.ndarray) -> tuple[float, np.ndarray]:
        steepness = 1.0 + line[1] * spread
        inverse = 1.0 / (line[0] * steepness)
        scaled = inverse[:, None] * logits
        top = scaled.max(axis=1)
        weight = np.exp(scaled - top[:, None])
        norm = weight.sum(axis=1)
        by_temperature = ((weight * logits).sum(axis=1) / norm - hit) * -(inverse**2) / num
        value = np.mean(np.log(norm) + top - inverse * hit) + _SHRINKAGE * line[1] ** 2 / num
        by_slope = line[0] * float(by_temperature @ spread) + 2 * _SHRINKAGE * line[1] / num
        return float(value), np.array([by_temperature @ steepness, by_slope])

    bounds = [(LOWEST_TEMPERATURE / 4, HIGHEST_TEMPERATURE), (0.0, _STEEPEST)]
    line = minimize(objective, np.array([0.8, 0.2]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return TemperatureLine(float(line[0]), float(line[1]))


def expected_square(error: np.ndarray, mixed: Pool, concentration: float | np.ndarray) -> np.ndarray:
    """Mean squared error to be expected of a pool of the given `concentration`; `error` [N, K] of covered rows.

    As in `fit_temperature_line`: a least-squares line in the concentration, read off where the pool will be used. Its
    slope counts only as far as it exceeds its standard error, and the result is never below half of what was seen.

    Returns:
        [K], or [n, K] for concentrations [n].
    """
    squares = error**2
    seen = squares.mean(axis=0)
    spread = mixed.concentration[mixed.covered]
    away = spread - spread.mean()
    leverage = float(away @ away)
    slope = np.zeros_like(seen)
    if leverage >= 1e-9:
        raw = away @ (squares - seen) / leverage
        doubt = np.sqrt(np.mean((squares - seen - away[:, None] * raw) ** 2, axis=0) / leverage)
        slope = np.maximum(raw - doubt, 0.0)
    further = np.asarray(concentration)[..., None] - spread.mean()
    return np.maximum(seen + slope * further, seen / 2)

"""How much each learner counts under one availability pattern, and how sure their mixture may be.

Everything is learned from out-of-bag predictions made under that very pattern: rows a learner did not train on, with
the modalities outside the pattern hidden.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import apply_temperature, fit_temperature
from training_core.evaluation.metrics import loss
from training_core.quantities import NonNegativeFloat, NonNegativeInt, PositiveInt, Seed, UnitInterval
from training_core.schema import Pattern, TaskSpec
from training_core.seeding import generator
from training_core.selection.greedy import greedy_weights
from training_core.selection.pooling import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    concentration_of,
    expected_square,
    fit_pool_temperature,
    pool,
    speaks,
)
from training_core.selection.weighting import likelihood_weights

_MAX_NUMBERS = 20_000_000
"""Learners × rows × outputs held at a time (160 MB): with very many classes fewer rows are looked at."""

_BEYOND_NOISE = 2.0
"""Standard errors by which a mixture must lose to a single learner before it is given up. Out of bag only a few members
speak for a row, so the mixture is judged below its worth as it is."""


class CombinationConfig(Config):
    """How learners are combined into one prediction."""

    method: Literal["likelihood", "greedy"] = "likelihood"
    """likelihood: weights and temperature fitted together, pulled towards equal weights where rows are few.
    greedy: Caruana's selection with replacement; fewer learners, less well calibrated."""
    evenness: NonNegativeFloat = 10.0
    """likelihood: how many rows of evidence the preference for equal weights is worth."""
    dropped_below: UnitInterval = 0.25
    """likelihood: learners with less than this fraction of an equal share are left out."""
    max_rounds: PositiveInt = 50
    """greedy: learners added, repeats included."""
    selection_bags: NonNegativeInt = 10
    """greedy: random halves of the learners the selection is repeated on and averaged over; 0 or 1: only once, on all
    of them."""
    max_rows: PositiveInt = 5000
    """Rows looked at per pattern; of more, a random part is drawn."""
    min_calibration_rows: PositiveInt = 50
    """With fewer rows than this a pattern inherits the temperature of the nearest one."""


class PatternWeights(Config):
    """What was learned for one availability pattern."""

    available: tuple[str, ...]
    """The modalities that are present, in the spec's order."""
    weights: dict[str, float]
    """Weight per learner, sum 1; learners without one are not listed. Empty when no learner can answer."""
    temperature: float = 1.0
    """What the mixture's probabilities are calibrated with; see `evaluation.calibration.apply_temperature`."""
    explained: float | None = None
    """Regression: share of the target's variance explained out of bag, the confidence under this pattern."""
    error_std: tuple[float, ...] | None = None
    """Regression: root mean squared error out of bag, per target column."""
    num_rows: int = 0
    """Out-of-bag rows this was learned from."""
    best_single: str | None = None
    """The learner that does best alone."""
    loss: float | None = None
    """Mean calibrated out-of-bag loss of the combination, on the rows `best_single` speaks for."""
    best_single_loss: float | None = None
    """That of `best_single` alone, on the same rows."""
    single_shipped: bool = False
    """The combination was worse than `best_single` beyond noise, so that learner answers alone."""

    @property
    def pattern(self) -> Pattern:
        """The modalities that are present, as a set."""
        return frozenset(self.available)


@dataclass(frozen=True)
class BestSingle:
    """The learner that does best alone: its position, the rows it speaks for, and its calibrated loss on each."""

    index: int
    rows: np.ndarray
    losses: np.ndarray


def drawn_rows(
    rows: np.ndarray, num_learners: int, num_outputs: int, config: CombinationConfig, seed: Seed
) -> np.ndarray:
    """`rows`, or a random part of them (sorted) when there are more than `max_rows` or than memory allows."""
    most = min(config.max_rows, max(500, _MAX_NUMBERS // max(1, num_learners * num_outputs)))
    if len(rows) <= most:
        return rows
    return np.sort(generator(seed, "combination", "rows").choice(rows, most, replace=False))


def best_single(task: TaskSpec, target: np.ndarray, predictions: np.ndarray) -> BestSingle:
    """The learner with the lowest calibrated loss relative to the plain mean of all learners on its own rows.

    Learners are out of bag on different rows, some of them harder than others; measuring each against the same
    reference on the same rows takes that out. `predictions` [L, N, C] with NaN in the bag.

    Raises:
        ValueError: no learner speaks for any row.
    """
    mean = pool(predictions, np.ones(len(predictions)))
    reference = np.full(len(target), np.nan)
    known = mean.covered
    reference[known] = _calibrated_losses(task, target[known], mean.values[known])
    best, best_gap = None, np.inf
    for index, values in enumerate(predictions):
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        if not len(rows):
            continue
        losses = _calibrated_losses(task, target[rows], values[rows])
        gap = float(np.mean(losses - reference[rows]))
        if gap < best_gap:
            best, best_gap = BestSingle(index, rows, losses), gap
    if best is None:
        raise ValueError("no learner speaks for any row")
    return best


def select_weights(
    task: TaskSpec, target: np.ndarray, predictions: np.ndarray, config: CombinationConfig, seed: Seed
) -> np.ndarray:
    """Weights [L], not negative, sum 1, by the configured method; see `weighting` and `greedy`."""
    if config.method == "greedy":
        return greedy_weights(task, target, predictions, config.max_rounds, config.selection_bags, seed)
    return likelihood_weights(task, target, predictions, config.evenness, config.dropped_below)


def combine_pattern(
    task: TaskSpec,
    target: np.ndarray,
    predictions: np.ndarray,
    names: tuple[str, ...],
    config: CombinationConfig,
    seed: Seed,
    available: tuple[str, ...] = (),
) -> PatternWeights:
    """Learn the weights and the calibration of one pattern.

    When the mixture is worse than the best single learner by more than two standard errors of the paired difference,
    that learner is shipped instead. Too few rows: `temperature` is 1 and to be inherited by the caller.

    Args:
        task: what is predicted.
        target: [N] | [N, L] | [N, K], as in `Samples`.
        predictions: [L, N, C] out of bag under this pattern; NaN where a learner may not or cannot speak.
        names: of the L learners.
        config: how.
        seed: root of the random draws (only `greedy` makes any).
        available: the modalities of the pattern, for the record.
    """
    spoken = speaks(predictions)
    speaking = np.flatnonzero(spoken.any(axis=1))
    if not len(speaking):
        return PatternWeights(available=available, weights={})
    heard = np.flatnonzero(spoken.any(axis=0))
    predictions, target = predictions[np.ix_(speaking, heard)], target[heard]
    names = tuple(names[i] for i in speaking)
    weights = select_weights(task, target, predictions, config, seed)
    alone = best_single(task, target, predictions)

    losses = _calibrated_losses(task, target[alone.rows], _with_fallback(predictions, weights)[alone.rows])
    gap = losses - alone.losses
    noise = float(gap.std() / np.sqrt(len(gap)))
    single_shipped = bool(gap.mean() > _BEYOND_NOISE * noise)
    if single_shipped:
        weights = np.zeros(len(names))
        weights[alone.index] = 1.0

    mixed = pool(predictions, weights)
    covered = mixed.covered
    concentration = concentration_of(weights)
    explained = error_std = None
    temperature = 1.0
    if task.kind == "regression":
        square = expected_square(target[covered] - mixed.values[covered], mixed, concentration)
        variance = np.maximum(target.var(axis=0), 1e-300)
        explained = float(np.clip(np.mean(1.0 - square / variance), 0.0, 1.0))
        error_std = tuple(float(s) for s in np.sqrt(square))
    elif covered.sum() >= config.min_calibration_rows:
        temperature = fit_pool_temperature(task, target, mixed, concentration)
    return PatternWeights(
        available=available,
        weights={name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0},
        temperature=temperature,
        explained=explained,
        error_std=error_std,
        num_rows=int(covered.sum()),
        best_single=names[alone.index],
        loss=float(alone.losses.mean() if single_shipped else losses.mean()),
        best_single_loss=float(alone.losses.mean()),
        single_shipped=single_shipped,
    )


def _with_fallback(predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mixture, or the plain mean where no learner with a weight speaks, so that every row is judged."""
    mixed = pool(predictions, weights)
    return np.where(mixed.covered[:, None], mixed.values, pool(predictions, np.ones(len(weights))).values)


def _calibrated_losses(task: TaskSpec, target: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Loss per row [N] after the temperature that suits these rows best.

    Regression: squared error in units of the target's variance, mean over target columns.
    """
    if task.kind == "regression":
        scale = np.maximum(target.std(axis=0), 1e-12)
        return loss(task, target / scale, values / scale)
    temperature = fit_temperature(task, target, values, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
    return loss(task, target, apply_temperature(task, values, temperature))

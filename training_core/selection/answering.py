"""From what learners say to an answer under one pattern: calibrated, corrected where that pays, with a promise.

The same steps serve out of bag, where the promise is learned, and at prediction time, where it is kept.
"""

import numpy as np

from training_core.evaluation.calibration import apply_temperature
from training_core.evaluation.metrics import loss
from training_core.schema import TaskSpec
from training_core.selection.combination import CombinationConfig, PatternWeights
from training_core.selection.conformal import fit_conformal
from training_core.selection.evidence import Evidence
from training_core.selection.pooling import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    Pool,
    TemperatureLine,
    concentration_of,
    expected_square,
    pool,
)
from training_core.selection.spread import disagreement, fit_spread
from training_core.selection.stacking import apply_stacker, fit_stacker, stretch_beside
from training_core.selection.units import of_rows

_WORTH_TRYING = np.log(1.1)
"""Temperatures less apart than by a tenth make no difference that could be seen."""
_MOST_STRETCHES = 4
"""Each is found beside a correction held back by the preference for the pool, so a few are needed."""


def temperature_line(learned: PatternWeights) -> TemperatureLine:
    """The pattern's temperature for pools of any concentration, as it was read off for its own."""
    own = concentration_of(np.array(list(learned.weights.values()))) if learned.weights else 1.0
    steepness = learned.temperature_slope
    return TemperatureLine(learned.temperature / (1.0 + steepness * own), steepness)


def calibrated_values(
    task: TaskSpec,
    learned: PatternWeights,
    mixed: Pool,
    predictions: np.ndarray,
    weights: np.ndarray,
    names: tuple[str, ...],
) -> np.ndarray:
    """The answers [N, C] to a pool: its temperature for as many learners as spoke, and the stacker's correction.

    `weights` [L] or [L, N]; `predictions` and `names` as in `Evidence`, every row spoken for.
    """
    values = apply_temperature(task, mixed.values, temperature_line(learned).at(mixed.concentration))
    if learned.stacker is None:
        return values
    return apply_stacker(task, learned.stacker, values, predictions, weights, names)


def error_factors(
    learned: PatternWeights, values: np.ndarray, predictions: np.ndarray, weights: np.ndarray, mixed: Pool
) -> np.ndarray:
    """Regression: by how much the error to be expected exceeds the pattern's usual one, [N, K]."""
    if learned.spread is None:
        return np.ones_like(values)
    return learned.spread.factors(values, disagreement(predictions, weights, mixed))


def row_losses(
    task: TaskSpec, learned: PatternWeights, evidence: Evidence, num_rows: int, scale: np.ndarray | None
) -> np.ndarray:
    """The ensemble's loss on each of `num_rows` training rows under the pattern, [num_rows]; NaN where it has none.

    `scale` [K]: regression, the unit of each target column.
    """
    weights = np.array([learned.weights.get(name, 0.0) for name in evidence.names])
    lost = np.full(num_rows, np.nan)
    if weights.any():
        mixed = pool(evidence.predictions, weights)
        rows = np.flatnonzero(mixed.covered)
        mixed, said = mixed.take(rows), evidence.predictions[:, rows]
        values = calibrated_values(task, learned, mixed, said, weights, evidence.names)
        unit = 1.0 if scale is None else scale
        lost[evidence.rows[rows]] = loss(
            task, evidence.target[rows] if scale is None else evidence.target[rows] / scale, values / unit
        )
    return lost


def with_promise(
    task: TaskSpec, learned: PatternWeights, evidence: Evidence, config: CombinationConfig, seed: int
) -> PatternWeights:
    """`learned` with everything that is learned once its weights and its temperature stand.

    The stacker, if it earns its place; for regression what makes errors large; and the thresholds of the promised
    coverage. Out of bag fewer learners speak than later: temperatures and expected errors are those for as many as
    spoke, so the scores compare, and what cannot be levelled out makes the promise a cautious one. Thresholds are
    learned from what a stacker says to rows that it was not fitted on.
    """
    weights = np.array([learned.weights.get(name, 0.0) for name in evidence.names])
    kept = weights > 0
    if not kept.any():
        return learned
    weights, names = weights[kept], tuple(n for n, used in zip(evidence.names, kept, strict=True) if used)
    predictions = evidence.predictions[kept]
    rows = np.isfinite(predictions).all(axis=2).any(axis=0)
    predictions, target = predictions[:, rows], evidence.target[rows]
    units = of_rows(evidence.units, rows)
    if not len(target):
        return learned
    mixed = pool(predictions, weights)
    enough = len(target) >= config.min_calibration_rows
    held_out = None
    if config.stacking and enough:
        learned, held_out = _with_stacker(
            task, learned, target, mixed, predictions, weights, names, config, seed, units
        )
    values = calibrated_values(task, learned, mixed, predictions, weights, names)
    std = None
    if task.kind == "regression":
        learned, std = _with_errors(learned, target, values, predictions, weights, mixed, config, enough, seed, units)
    judged = values if held_out is None else held_out
    rule = fit_conformal(task, target, judged, config.coverage, config.set_method, std)
    return learned.model_copy(update={"conformal": rule})


def _with_stacker(
    task: TaskSpec,
    learned: PatternWeights,
    target: np.ndarray,
    mixed: Pool,
    predictions: np.ndarray,
    weights: np.ndarray,
    names: tuple[str, ...],
    config: CombinationConfig,
    seed: int,
    units: np.ndarray | None,
) -> tuple[PatternWeights, np.ndarray | None]:
    """`learned` with the stacker that wins most on rows held out, if one does, and its answers to those, [N, C].

    Tried are one beside the temperature as it is, and one beside the temperature that suits a stacker best.
    """
    plain = values = calibrated_values(task, learned, mixed, predictions, weights, names)
    found = fit_stacker(task, target, plain, predictions, weights, names, config.evenness, seed, units=units)
    best = (learned, None) if found is None else (learned.model_copy(update={"stacker": found[0]}), found[1])
    temperature = learned.temperature
    for _ in range(_MOST_STRETCHES):
        factor = stretch_beside(task, target, values, predictions, weights, config.evenness)
        further = float(np.clip(temperature / max(factor, 1e-9), LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
        if abs(np.log(further / temperature)) < _WORTH_TRYING:
            break
        temperature = further
        other = learned.model_copy(update={"temperature": temperature})
        values = calibrated_values(task, other, mixed, predictions, weights, names)
    if temperature == learned.temperature:
        return best
    beside = fit_stacker(task, target, values, predictions, weights, names, config.evenness, seed, plain, units)
    if beside is None or (found is not None and beside[0].gain <= found[0].gain):
        return best
    return learned.model_copy(update={"temperature": temperature, "stacker": beside[0]}), beside[1]


def _with_errors(
    learned: PatternWeights,
    target: np.ndarray,
    values: np.ndarray,
    predictions: np.ndarray,
    weights: np.ndarray,
    mixed: Pool,
    config: CombinationConfig,
    enough: bool,
    seed: int,
    units: np.ndarray | None,
) -> tuple[PatternWeights, np.ndarray]:
    """`learned` with its expected errors, and those of the rows at hand for as many learners as spoke, [N, K]."""
    error = target - values
    whole = expected_square(error, mixed, concentration_of(weights))
    heard = expected_square(error, mixed, mixed.concentration)
    if enough:
        explained = np.clip(np.mean(1.0 - whole / np.maximum(target.var(axis=0), 1e-300)), 0.0, 1.0)
        spread = fit_spread(
            error / np.sqrt(np.maximum(heard, 1e-300)),
            values,
            disagreement(predictions, weights, mixed),
            config.evenness,
            seed,
            units,
        )
        learned = learned.model_copy(
            update={
                "explained": float(explained),
                "error_std": tuple(float(s) for s in np.sqrt(whole)),
                "spread": spread,
            }
        )
    usual = np.array(learned.error_std) * np.sqrt(heard / np.maximum(whole, 1e-300))
    std = usual * error_factors(learned, values, predictions, weights, mixed)
    return learned, np.maximum(std, 1e-12 * np.maximum(np.abs(target).max(), 1e-300))

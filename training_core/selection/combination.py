"""How much each learner counts under one availability pattern, and how sure their mixture may be.

Everything is learned from out-of-bag predictions made under that very pattern: rows a learner did not train on, with
the modalities outside the pattern hidden.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import apply_temperature, correctness, fit_temperature
from training_core.evaluation.metrics import loss
from training_core.quantities import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnit,
    PositiveInt,
    SearchChoices,
    SearchRange,
    SearchWhen,
    Seed,
    UnitInterval,
)
from training_core.schema import Pattern, TaskSpec
from training_core.seeding import generator
from training_core.selection.conformal import ConformalRule, SetMethod
from training_core.selection.greedy import greedy_weights
from training_core.selection.pooling import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    concentration_of,
    expected_square,
    fit_temperature_line,
    pool,
    speaks,
)
from training_core.selection.spread import SpreadModel
from training_core.selection.stacking import Stacker
from training_core.selection.teams import joined_predictions, member_weights, team_positions
from training_core.selection.units import BEYOND_NOISE, mean_error, of_rows
from training_core.selection.weighting import likelihood_weights

_MAX_NUMBERS = 20_000_000
"""Learners × rows × outputs held at a time (160 MB): with very many classes fewer rows are looked at."""

_SURELY = 3.0
"""Standard errors by which some learner, or their mixture, must beat an answer without any input under a pattern that
may be uninformed: with a dozen learners one is beyond two by chance."""


class CombinationConfig(Config):
    """How learners are combined into one prediction."""

    method: Annotated[Literal["likelihood", "greedy"], SearchChoices("likelihood", "greedy")] = "likelihood"
    """likelihood: weights and temperature fitted together, pulled towards equal weights where rows are few.
    greedy: Caruana's selection with replacement; fewer learners, less well calibrated."""
    evenness: Annotated[NonNegativeFloat, SearchRange(1.0, 300.0, log=True), SearchWhen("method", "likelihood")] = 10.0
    """likelihood: how many rows of evidence the preference for equal weights is worth."""
    dropped_below: Annotated[UnitInterval, SearchRange(0.0, 0.6), SearchWhen("method", "likelihood")] = 0.25
    """likelihood: learners with less than this fraction of an equal share are left out."""
    max_rounds: Annotated[PositiveInt, SearchRange(10, 100), SearchWhen("method", "greedy")] = 50
    """greedy: learners added, repeats included."""
    selection_bags: Annotated[NonNegativeInt, SearchRange(0, 20), SearchWhen("method", "greedy")] = 10
    """greedy: random halves of the learners the selection is repeated on and averaged over; 0 or 1: only once, on all
    of them."""
    learner_calibration: Annotated[NonNegativeFloat | None, SearchChoices(None, 1.0, 10.0, 100.0)] = 10.0
    """Calibrate every learner by itself before mixing, for each set of modalities it may be left with: how many rows
    of evidence it takes to believe a temperature other than its usual one. None: only the mixture is calibrated."""
    stacking: Annotated[bool, SearchChoices(False, True)] = True
    """Correct the mixture by a linear stacker under patterns where it wins on rows held out by more than noise."""
    coverage: OpenUnit = 0.9
    """How often the prediction sets and intervals are to hold the truth, under every pattern."""
    set_method: SetMethod = "lac"
    """lac: the smallest sets. aps: larger sets where the answer is hard, smaller where it is easy."""
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
    temperature_slope: float = 0.0
    """How much more a mixture of fewer learners needs; see `pooling.TemperatureLine`."""
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
    uninformed: bool = False
    """What is left tells nothing of the target, as far as can be seen: rows get what is known without any input."""
    stacker: Stacker | None = None
    """Corrects the mixture, where that won on rows held out."""
    spread: SpreadModel | None = None
    """Regression: which rows are harder than others."""
    conformal: ConformalRule | None = None
    """What the answers promise; None: nothing."""

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
    rows: np.ndarray, num_rows: int, num_learners: int, num_outputs: int, config: CombinationConfig, seed: Seed
) -> np.ndarray:
    """`rows`, or a random part of them (sorted) when there are more than `max_rows` or than memory allows.

    Each of all `num_rows` rows has one place in a random order, and the first of `rows` in it are taken: patterns whose
    rows are nearly the same are learned from nearly the same part, and can be compared row by row.
    """
    most = min(config.max_rows, max(500, _MAX_NUMBERS // max(1, num_learners * num_outputs)))
    if len(rows) <= most:
        return rows
    place = generator(seed, "combination", "rows").permutation(num_rows)[rows]
    return np.sort(rows[np.argpartition(place, most)[:most]])


def learner_losses(task: TaskSpec, target: np.ndarray, predictions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per learner the rows it speaks for and its calibrated loss on each; see `calibrated_losses`."""
    found = []
    for values in predictions:
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        found.append((rows, calibrated_losses(task, target[rows], values[rows], target) if len(rows) else np.zeros(0)))
    return found


def best_single(
    task: TaskSpec,
    target: np.ndarray,
    predictions: np.ndarray,
    found: list[tuple[np.ndarray, np.ndarray]] | None = None,
) -> BestSingle:
    """The learner with the lowest calibrated loss relative to the plain mean of all learners on its own rows.

    Learners are out of bag on different rows, some of them harder than others; measuring each against the same
    reference on the same rows takes that out. `predictions` [L, N, C] with NaN in the bag; `found` is what
    `learner_losses` makes of them, if it is known already.

    Raises:
        ValueError: no learner speaks for any row.
    """
    mean = pool(predictions, np.ones(len(predictions)))
    reference = np.full(len(target), np.nan)
    known = mean.covered
    reference[known] = calibrated_losses(task, target[known], mean.values[known], target)
    best, best_gap = None, np.inf
    for index, (rows, losses) in enumerate(found or learner_losses(task, target, predictions)):
        gap = float(np.mean(losses - reference[rows])) if len(rows) else np.inf
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
    may_be_uninformed: bool = False,
    teams: tuple[str, ...] | None = None,
    units: np.ndarray | None = None,
) -> PatternWeights:
    """Learn the weights and the calibration of one pattern.

    When the mixture is worse than the best single learner beyond noise, in losses and in mistakes, that learner is
    shipped instead. Learners that do no better alone than an answer without any input, beyond noise,
    get no weight; when none surely does, nor their mixture, the pattern may be `uninformed`. Too few rows:
    `temperature` is 1 and to be inherited by the caller.

    Args:
        task: what is predicted.
        target: [N] | [N, L] | [N, K], as in `Samples`.
        predictions: [L, N, C] out of bag under this pattern; NaN where a learner may not or cannot speak.
        names: of the L learners.
        config: how.
        seed: root of the random draws (only `greedy` makes any).
        available: the modalities of the pattern, for the record.
        may_be_uninformed: whether it may be left at what is known without any input.
        teams: of the L learners; those of one team were trained alike on different folds and share a weight
            (`selection.teams`). Every learner is its own team when None.
        units: int64 [N], rows that belong together; see `units.units_of`.
    """
    spoken = speaks(predictions)
    speaking = np.flatnonzero(spoken.any(axis=1))
    if not len(speaking):
        return PatternWeights(available=available, weights={})
    heard = np.flatnonzero(spoken.any(axis=0))
    predictions, target = predictions[np.ix_(speaking, heard)], target[heard]
    units = of_rows(units, heard)
    team_of = team_positions([(teams or names)[i] for i in speaking])
    names = tuple(names[i] for i in speaking)
    joined = joined_predictions(predictions, team_of)
    separate = learner_losses(task, target, joined)
    ignorant = ignorant_losses(task, target)
    known = np.array([_errors_less(losses, ignorant[rows], of_rows(units, rows)) for rows, losses in separate])
    skilled = np.flatnonzero(known > BEYOND_NOISE)
    # One that knows nothing cannot help, yet a little weight of it hardly hurts a mixture whose temperature makes up
    # for it, so it would be kept.
    heeded = skilled if len(skilled) else np.arange(len(joined))
    weights = np.zeros(len(joined))
    weights[heeded] = select_weights(task, target, joined[heeded], config, seed)
    alone = best_single(task, target, joined, separate)
    best_name = names[int(np.argmax(team_of == alone.index))]
    mixture, together = _mixture(task, target, joined, weights)
    surest = max(known.max(), _errors_less(together, ignorant, units))
    if may_be_uninformed and surest < _SURELY and len(target) >= config.min_calibration_rows:
        return PatternWeights(
            available=available,
            weights={},
            uninformed=True,
            num_rows=len(target),
            best_single=best_name,
            loss=float(ignorant[alone.rows].mean()),
            best_single_loss=float(alone.losses.mean()),
        )

    losses = together[alone.rows]
    single_shipped = _surely_better(
        task,
        target[alone.rows],
        alone.losses,
        losses,
        joined[alone.index, alone.rows],
        mixture[alone.rows],
        len(joined),
        of_rows(units, alone.rows),
    )
    if single_shipped:
        weights = np.zeros(len(joined))
        weights[alone.index] = 1.0
    weights = member_weights(weights, team_of)

    mixed = pool(predictions, weights)
    covered = mixed.covered
    concentration = concentration_of(weights)
    explained = error_std = None
    temperature, slope = 1.0, 0.0
    if task.kind == "regression":
        square = expected_square(target[covered] - mixed.values[covered], mixed, concentration)
        variance = np.maximum(target.var(axis=0), 1e-300)
        explained = float(np.clip(np.mean(1.0 - square / variance), 0.0, 1.0))
        error_std = tuple(float(s) for s in np.sqrt(square))
    elif covered.sum() >= config.min_calibration_rows:
        line = fit_temperature_line(task, target, mixed)
        temperature, slope = float(line.at(concentration)), line.slope
    return PatternWeights(
        available=available,
        weights={name: float(weight) for name, weight in zip(names, weights, strict=True) if weight > 0},
        temperature=temperature,
        temperature_slope=slope,
        explained=explained,
        error_std=error_std,
        num_rows=int(covered.sum()),
        best_single=best_name,
        loss=float(alone.losses.mean() if single_shipped else losses.mean()),
        best_single_loss=float(alone.losses.mean()),
        single_shipped=single_shipped,
    )


def ignorant_losses(task: TaskSpec, target: np.ndarray) -> np.ndarray:
    """Loss per row [N] of the answer without any input, the frequencies or the mean of these very targets."""
    if task.kind == "classification":
        rate = np.bincount(target, minlength=task.num_outputs) / len(target)
    else:
        rate = target.mean(axis=0)
    return calibrated_losses(task, target, np.tile(rate, (len(target), 1)))


def _errors_less(losses: np.ndarray, reference: np.ndarray, units: np.ndarray | None) -> float:
    """By how many standard errors the losses of the same rows are less than the others."""
    gain = reference - losses
    error = mean_error(gain, units)
    return float(gain.mean()) / error if error > 0 else float(np.sign(gain.mean())) * np.inf if gain.any() else 0.0


def _surely_better(
    task: TaskSpec,
    target: np.ndarray,
    losses: np.ndarray,
    mixture_losses: np.ndarray,
    answers: np.ndarray,
    mixture_answers: np.ndarray,
    num_learners: int,
    units: np.ndarray | None,
) -> bool:
    """Whether the best of `num_learners` learners beats their mixture on the same rows, in losses and in mistakes.

    Out of bag only a few members speak for a row, so the mixture is judged below its worth as it is. And the best of
    many looks better than it is: the losses have to differ by as many standard errors as make up for that
    (Bonferroni). A learner that happens to be right on all of some eighty rows looks infinitely surer than any
    mixture once it is calibrated on them, so it has to make fewer mistakes as well.
    """
    needed = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(BEYOND_NOISE)) / num_learners)
    if _errors_less(losses, mixture_losses, units) <= needed:
        return False
    if task.kind == "regression":
        return True
    mistakes = [1.0 - correctness(task, target, given).reshape(len(target), -1).mean(axis=1)
                for given in (answers, mixture_answers)]  # fmt: skip
    return _errors_less(mistakes[0], mistakes[1], units) > BEYOND_NOISE


def _mixture(
    task: TaskSpec, target: np.ndarray, predictions: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Answers [N, C] of the mixture and their calibrated losses [N]; of the plain mean where nobody weighted speaks."""
    mixed, plain = pool(predictions, weights), pool(predictions, np.ones(len(weights)))
    values = np.where(mixed.covered[:, None], mixed.values, plain.values)
    if task.kind == "regression":
        return values, calibrated_losses(task, target, values)
    spread = np.where(mixed.covered, mixed.concentration, plain.concentration)
    temperature = fit_temperature_line(task, target, mixed).at(spread)
    return values, loss(task, target, apply_temperature(task, values, temperature))


def calibrated_losses(
    task: TaskSpec, target: np.ndarray, values: np.ndarray, whole: np.ndarray | None = None
) -> np.ndarray:
    """Loss per row [N] after the temperature that suits these rows best.

    Regression: squared error in units of the variance of `whole` (the `target` itself when None), mean over columns.
    """
    if task.kind == "regression":
        scale = np.maximum((target if whole is None else whole).std(axis=0), 1e-12)
        return loss(task, target / scale, values / scale)
    temperature = fit_temperature(task, target, values, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)
    return loss(task, target, apply_temperature(task, values, temperature))

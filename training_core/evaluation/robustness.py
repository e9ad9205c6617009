"""How a score falls as more and more modalities are missing, cell by cell or in long outages."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.metrics import calibration_error, score
from training_core.evaluation.predictions import Predictions
from training_core.quantities import PositiveInt, Rate
from training_core.schema import Pattern, TaskSpec
from training_core.seeding import generator

Missingness = Literal["random", "block"]
RATES: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MAX_TABULATED = 6
"""Up to so many modalities every pattern (64 of them) is predicted once, and every mask is looked up in them."""

PredictShown = Callable[[np.ndarray], Predictions]
"""Predictions of all rows when only the cells `shown`, bool [N, M], may be looked at."""


class RatePoint(Config):
    """The score at one missing rate, mean over the repeats."""

    rate: float
    """Asked for."""
    hidden: float
    """Share of the cells that were there and then were hidden; less than `rate` because a row keeps one modality."""
    score: float
    std: float
    """Over the repeats."""
    ece: float | None
    """Expected calibration error; None for regression."""
    confidence: float


class MissingRateCurve(Config):
    """The score of one predictor at growing missing rates."""

    predictor: str
    missingness: Missingness
    points: tuple[RatePoint, ...]
    area: float
    """Mean score over the rates (trapezoids)."""
    relative_area: float | None
    """`area` over the score with nothing hidden: 1 is no loss at all; None where that score is not above 0."""
    num_rows: int
    repeats: PositiveInt


class AnswersByPattern:
    """Predictions for any mask, from predictions under every pattern: each pattern is asked for once."""

    def __init__(self, names: Sequence[str], predict: Callable[[Pattern], Predictions]) -> None:
        """`predict(pattern)` predicts all rows with every modality outside `pattern` hidden."""
        self._names = tuple(names)
        self._predict = predict
        self._answers: dict[int, Predictions] = {}

    def __call__(self, shown: np.ndarray) -> Predictions:
        """Predictions of all rows when only the cells `shown`, bool [N, M], may be looked at."""
        code = shown @ (1 << np.arange(len(self._names)))
        codes, place = np.unique(code, return_inverse=True)
        for one in codes:
            if int(one) not in self._answers:
                pattern = frozenset(name for i, name in enumerate(self._names) if int(one) >> i & 1)
                self._answers[int(one)] = self._predict(pattern)
        return picked([self._answers[int(one)] for one in codes], place.reshape(-1))


def hide_at_random(available: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    """What is left of `available`, bool [N, M], when every cell is hidden with probability `rate` by itself.

    A row that would lose all it has keeps one of its modalities, drawn at random: a row with nothing at all is not
    a question about modalities any more.
    """
    return _with_one_kept(available, available & (random.random(available.shape) >= rate), random)


def hide_in_blocks(available: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    """What is left of `available`, bool [N, M], after an outage of every modality.

    Each outage takes round(`rate` · N) successive rows from a random start on, round the end; a row keeps one of its
    modalities as in `hide_at_random`.
    """
    num_rows, num_modalities = available.shape
    length = round(rate * num_rows)
    away = (np.arange(num_rows)[:, None] - random.integers(0, num_rows, num_modalities)) % num_rows
    return _with_one_kept(available, available & (away >= length), random)


def missing_rate_curve(
    task: TaskSpec,
    target: np.ndarray,
    available: np.ndarray,
    predict: PredictShown,
    predictor: str,
    missingness: Missingness = "random",
    rates: Sequence[Rate] = RATES,
    repeats: int = 5,
    seed: int = 0,
    order: np.ndarray | None = None,
) -> MissingRateCurve:
    """Judge a predictor at every missing rate.

    The masks depend on `seed`, rate and repeat only, so that several predictors are compared on the same ones.

    Args:
        task: what is predicted.
        target: as in `metrics.score`.
        available: the cells that are really there, bool [N, M].
        predict: see `PredictShown`.
        predictor: its name in the result.
        missingness: "random" cells, or "block"s of successive rows.
        rates: in [0, 1); 0 is added where it is not among them.
        repeats: masks per rate.
        seed: root of the masks.
        order: positions of the rows in the order in which outages run through them, [N]; as they are by default.

    Raises:
        DataError: there are no rows.
    """
    if not len(target):
        raise DataError("there are no rows to judge; give at least one row with a known target")
    order = np.arange(len(target)) if order is None else order
    points = []
    for rate in sorted({0.0, *rates}):
        scores, errors, confidences, hidden = [], [], [], []
        for repeat in range(repeats if rate else 1):
            random = generator(seed, "missing", missingness, f"{rate:.6f}", repeat)
            shown = np.empty_like(available)
            hide = hide_at_random if missingness == "random" else hide_in_blocks
            shown[order] = hide(available[order], rate, random)
            found = predict(shown)
            scores.append(score(task, target, found.values))
            if task.kind != "regression":
                errors.append(calibration_error(task, target, found.values))
            confidences.append(float(np.mean(found.confidence)))
            hidden.append(1 - shown.sum() / max(int(available.sum()), 1))
        points.append(
            RatePoint(
                rate=rate,
                hidden=float(np.mean(hidden)),
                score=float(np.mean(scores)),
                std=float(np.std(scores)),
                ece=float(np.mean(errors)) if errors else None,
                confidence=float(np.mean(confidences)),
            )
        )
    area = _area([point.rate for point in points], [point.score for point in points])
    clean = points[0].score
    return MissingRateCurve(
        predictor=predictor,
        missingness=missingness,
        points=tuple(points),
        area=area,
        relative_area=area / clean if clean > 0 else None,
        num_rows=len(target),
        repeats=repeats,
    )


def _with_one_kept(available: np.ndarray, left: np.ndarray, random: np.random.Generator) -> np.ndarray:
    empty = np.flatnonzero(available.any(axis=1) & ~left.any(axis=1))
    draw = np.where(available[empty], random.random((len(empty), available.shape[1])), -1.0)
    left = left.copy()
    left[empty, draw.argmax(axis=1)] = True
    return left


def _area(rates: Sequence[float], scores: Sequence[float]) -> float:
    """Mean height of the line through the points; the score itself when there is one point only."""
    if len(rates) < 2:
        return scores[0]
    return float(np.trapezoid(scores, rates) / (rates[-1] - rates[0]))


def picked(answers: Sequence[Predictions], place: np.ndarray) -> Predictions:
    """Row n of `answers[place[n]]`, for every n in [0, N); what one of `answers` lacks, the result lacks."""
    rows = np.arange(len(place))
    parts = {}
    for field in fields(Predictions):
        columns = [getattr(answer, field.name) for answer in answers]
        parts[field.name] = None if any(c is None for c in columns) else np.stack(columns)[place, rows]
    return replace(answers[0], **parts)

"""Everything a report says about how far probabilities, sets and intervals can be believed."""

from statistics import NormalDist
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.evaluation.calibration import (
    confidence,
    correctness,
    expected_calibration_error,
    expected_error_if_calibrated,
    reliability,
)
from training_core.evaluation.metrics import loss
from training_core.evaluation.predictions import Predictions
from training_core.schema import TaskSpec

NUM_BINS = 15
GAUSSIAN_COVERAGE = 0.9
"""Of the intervals made from an expected error where a predictor gives no intervals of its own."""


class ReliabilityBin(Config):
    """Answers of about the same confidence."""

    confidence: float
    accuracy: float
    num_rows: int
    """Rows; of multilabel data labels of rows."""


class RegionQuality(Config):
    """Whether sets or intervals hold the truth as often as they should, and how much they leave open."""

    kind: Literal["sets", "intervals"]
    source: Literal["conformal", "expected error"]
    asked: float | None
    """How often the truth should be inside; None where the predictor does not say."""
    coverage: float
    """How often it is: mean over rows, for multilabel of the share of a row's true labels that is inside."""
    size: float
    """Mean number of classes or labels in a set, or width of an interval in standard deviations of the target."""
    worst_group: float | None
    """Least coverage of any class or label, of those with at least 20 rows; None where there is none such."""
    num_rows: int
    """Rows judged; of multilabel data those with at least one label."""


class CalibrationQuality(Config):
    """How far some predictions can be believed. None where a task does not define it."""

    num_rows: int
    accuracy: float | None
    """Share of right answers; of multilabel data, of right labels."""
    mean_confidence: float
    ece: float | None
    """Expected calibration error, bins of equal mass."""
    ece_if_calibrated: float | None = None
    """What it would be if every confidence were true: on so many rows it is not 0."""
    ece_width: float | None
    """The same with bins of equal width: what most papers print."""
    classwise_ece: float | None
    """Of the probability of each class or label, mean over them: Kull et al. 2019, arXiv:1910.12656, eq. 3."""
    worst_class_ece: float | None
    log_loss: float | None
    brier: float | None
    """Sum over classes (0..2), or mean over labels (0..1)."""
    bins: tuple[ReliabilityBin, ...] = ()
    """Of equal mass, for a reliability diagram."""
    regions: RegionQuality | None = None


def equal_width_error(sure: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error with bins of equal width over [0, 1]: Guo et al. 2017, arXiv:1706.04599, eq. 3.

    `sure` and `correct` [N] as in `calibration.expected_calibration_error`; a confidence on an edge counts below it.
    """
    place = np.clip(np.ceil(sure * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = np.bincount(place, np.asarray(correct, np.float64) - sure, num_bins)
    return float(np.abs(gap).sum() / len(sure))


def classwise_errors(task: TaskSpec, target: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Calibration error of each class's or label's probability by itself, [C], bins of equal mass."""
    truth = target[:, None] == np.arange(values.shape[1]) if task.kind == "classification" else target > 0.5
    return np.array([expected_calibration_error(values[:, c], truth[:, c], NUM_BINS) for c in range(values.shape[1])])


def calibration_quality(
    task: TaskSpec, target: np.ndarray, predictions: Predictions, asked: float | None = None
) -> CalibrationQuality:
    """Judge how far predictions can be believed; `asked` is how often sets or intervals were to hold the truth."""
    values = predictions.values
    mean_confidence = float(np.mean(predictions.confidence))
    regions = region_quality(task, target, predictions, asked)
    if task.kind == "regression":
        return CalibrationQuality(
            num_rows=len(target),
            accuracy=None,
            mean_confidence=mean_confidence,
            ece=None,
            ece_width=None,
            classwise_ece=None,
            worst_class_ece=None,
            log_loss=None,
            brier=None,
            regions=regions,
        )
    right = correctness(task, target, values).ravel()
    sure = np.maximum(values, 1 - values).ravel() if task.kind == "multilabel" else confidence(task, values)
    by_class = classwise_errors(task, target, values)
    bins = reliability(sure, right, NUM_BINS)
    return CalibrationQuality(
        num_rows=len(target),
        accuracy=float(right.mean()),
        mean_confidence=mean_confidence,
        ece=expected_calibration_error(sure, right, NUM_BINS),
        ece_if_calibrated=expected_error_if_calibrated(sure, NUM_BINS),
        ece_width=equal_width_error(sure, right),
        classwise_ece=float(by_class.mean()),
        worst_class_ece=float(by_class.max()),
        log_loss=float(np.mean(loss(task, target, values))),
        brier=_brier(task, target, values),
        bins=tuple(
            ReliabilityBin(confidence=float(c), accuracy=float(a), num_rows=int(n))
            for c, a, n in zip(bins.confidence, bins.accuracy, bins.num_rows, strict=True)
        ),
        regions=regions,
    )


def region_quality(
    task: TaskSpec, target: np.ndarray, predictions: Predictions, asked: float | None = None
) -> RegionQuality | None:
    """Coverage and size of the predictor's sets or intervals; None where it has none.

    A regressor without intervals of its own, but with an expected error, is given Gaussian ones of
    `GAUSSIAN_COVERAGE`: whether those hold shows what the expected error is worth.
    """
    if task.kind != "regression":
        sets = predictions.sets
        if sets is None:
            return None
        if task.kind == "classification":
            inside = sets[np.arange(len(target)), target]
            groups = [inside[target == c] for c in range(task.num_outputs)]
        else:
            truth = (target > 0.5)[(target > 0.5).any(axis=1)]
            found = sets[(target > 0.5).any(axis=1)] & truth
            inside = found.sum(axis=1) / truth.sum(axis=1)
            groups = [found[truth[:, c], c] for c in range(task.num_outputs)]
        enough = [float(group.mean()) for group in groups if len(group) >= 20]
        return RegionQuality(
            kind="sets",
            source="conformal",
            asked=asked,
            coverage=float(inside.mean()) if len(inside) else 1.0,
            size=float(sets.sum(axis=1).mean()),
            worst_group=min(enough, default=None),
            num_rows=len(inside),
        )
    low, high, source = predictions.lower, predictions.upper, "conformal"
    if low is None or high is None:
        if predictions.std is None:
            return None
        reach = NormalDist().inv_cdf((1 + GAUSSIAN_COVERAGE) / 2) * predictions.std
        low, high, source = predictions.values - reach, predictions.values + reach, "expected error"
        asked = GAUSSIAN_COVERAGE
    unit = target.std(axis=0)
    return RegionQuality(
        kind="intervals",
        source="conformal" if source == "conformal" else "expected error",
        asked=asked,
        coverage=float(np.mean((target >= low) & (target <= high))),
        size=float(np.mean((high - low) / np.where(unit > 0, unit, 1.0))),
        worst_group=None,
        num_rows=len(target),
    )


def _brier(task: TaskSpec, target: np.ndarray, values: np.ndarray) -> float:
    if task.kind == "multilabel":
        return float(np.mean((values - (target > 0.5)) ** 2))
    return float(np.mean(np.sum((values - np.eye(values.shape[1])[target]) ** 2, axis=1)))

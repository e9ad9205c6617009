"""What is gained by answering only where one is sure: risk against coverage, and how well confidence tells errors."""

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.metrics import auroc
from training_core.evaluation.predictions import Predictions
from training_core.schema import TaskSpec

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of rows that are answered at which the risk is listed."""
_POINTS = 60  # of the curve that a page draws


class CoveragePoint(Config):
    """The surest rows, and how often those are wrong."""

    coverage: float
    risk: float
    threshold: float
    """Confidence of the least sure row that is still answered."""
    num_rows: int


class SelectiveScore(Config):
    """How far a predictor knows what it does not know."""

    risk_name: str
    """"error rate", "share of wrong labels" or "mean squared error"."""
    risk: float
    """With every row answered."""
    area: float
    """Under the risk-coverage curve; less is better."""
    best_area: float
    """What the area would be had all wrong rows been the least sure."""
    error_auroc: float | None
    """The chance that a right row is surer than a wrong one; None for regression, and where all are right or wrong."""
    points: tuple[CoveragePoint, ...]
    """At `COVERAGES`."""
    curve: tuple[tuple[float, float], ...]
    """(coverage, risk) for drawing."""
    num_rows: int

    def at(self, coverage: float) -> CoveragePoint:
        """The listed point nearest to `coverage`."""
        return min(self.points, key=lambda point: abs(point.coverage - coverage))


def row_risk(task: TaskSpec, target: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What is lost by answering each row, [N]; less is better.

    Classification: 1 where the likeliest class is wrong. Multilabel: the share of labels that are wrong. Regression:
    squared error, mean over target columns.
    """
    if task.kind == "classification":
        return (np.argmax(values, axis=1) != target).astype(np.float64)
    if task.kind == "multilabel":
        return np.mean((values > 0.5) != (target > 0.5), axis=1)
    return np.mean((target - values) ** 2, axis=1)


def sureness(task: TaskSpec, predictions: Predictions) -> np.ndarray:
    """By what rows are put in order, [N]: confidence; for regression less of the expected error where it is known."""
    if task.kind == "regression" and predictions.std is not None:
        return -np.mean(predictions.std, axis=1)
    return predictions.confidence


def risk_coverage(risk: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Mean risk of the k surest rows for k = 1 … N, [N] (El-Yaniv and Wiener 2010, JMLR 11, §2).

    Rows that are equally sure come in any order: the curve is the mean over all of them.

    Raises:
        DataError: there are no rows.
    """
    if not len(risk):
        raise DataError("there are no rows to judge; give at least one row with a known target")
    order = np.argsort(-confidence, kind="stable")
    _, place, count = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    expected = (np.bincount(place.reshape(-1), risk[order]) / count)[place.reshape(-1)]
    return np.cumsum(expected) / np.arange(1, len(risk) + 1)


def area_under(curve: np.ndarray) -> float:
    """AURC: mean of a risk-coverage curve [N] over the numbers of rows answered (Geifman et al., arXiv:1805.08206)."""
    return float(np.mean(curve))


def selective_score(task: TaskSpec, target: np.ndarray, predictions: Predictions) -> SelectiveScore:
    """Judge how well the order of the rows by sureness keeps errors to the end.

    Raises:
        DataError: there are no rows.
    """
    risk, sure = row_risk(task, target, predictions.values), sureness(task, predictions)
    curve = risk_coverage(risk, sure)
    wrong = risk > 0
    mixed = task.kind != "regression" and wrong.any() and not wrong.all()
    ranked = np.sort(sure)[::-1]
    points = []
    for coverage in COVERAGES:
        last = max(round(coverage * len(risk)), 1) - 1
        points.append(
            CoveragePoint(coverage=coverage, risk=float(curve[last]), threshold=float(ranked[last]), num_rows=last + 1)
        )
    shown = np.unique(np.linspace(0, len(curve) - 1, _POINTS).astype(int))
    names = {"classification": "error rate", "multilabel": "share of wrong labels", "regression": "mean squared error"}
    return SelectiveScore(
        risk_name=names[task.kind],
        risk=float(curve[-1]),
        area=area_under(curve),
        best_area=area_under(risk_coverage(risk, -risk)),
        error_auroc=auroc(~wrong, sure) if mixed else None,
        points=tuple(points),
        curve=tuple(((place + 1) / len(curve), float(curve[place])) for place in shown),
        num_rows=len(risk),
    )

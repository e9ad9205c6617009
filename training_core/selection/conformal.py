"""Answers that hold the truth as often as promised: conformal prediction sets and intervals, per availability pattern.

Scores of rows that were not trained on (out of bag) say how strange the truth usually looks; whatever looks no stranger
than a share `coverage` of them belongs to the answer. Each pattern has a threshold of its own (Mondrian conformal
prediction, Vovk et al. 2005, §4.5), so that the promise holds when a modality is missing, too, and not only on
average. It holds for rows drawn like those it was learned from, on average over them and not for every kind of row.

Classification: sets of classes. LAC takes every class whose probability is high enough (least ambiguous sets, Sadinle
et al. 2019, arXiv:1609.00451); APS takes classes from the likeliest down until their sum is enough (Romano et al. 2020,
arXiv:2006.02544, without its randomisation), which makes larger sets where the answer is hard and smaller where it is
easy. Multilabel: the labels that cannot be ruled out, so many that of a row's true labels at most 1 - `coverage` are
missed on average (conformal risk control, Angelopoulos et al. 2022, arXiv:2208.02814). Regression: intervals as wide as
the error to be expected of the row (normalised residuals, Lei et al. 2018, arXiv:1604.04173, §5.2).
"""

import math
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.quantities import NonNegativeInt, OpenUnit
from training_core.schema import TaskSpec

SetMethod = Literal["lac", "aps"]
_ROUNDING = 1e-6
"""Slack when a score is compared with a threshold: what is said out of bag is kept in single precision, and where many
rows get the very same answer all of them would else fall out at the threshold."""
_LEAST = 1e-12
"""Slack of sums of a few fractions."""


class ConformalRule(Config):
    """How strange an answer may look before it is left out, under one availability pattern."""

    coverage: OpenUnit
    """The share of rows whose truth is to be inside."""
    method: SetMethod = "lac"
    """Classification: how classes are scored."""
    thresholds: tuple[float, ...]
    """The greatest score that is still inside: one, or for regression one per target column in units of `std`.
    Infinite when too few rows were there to promise anything: everything is inside."""
    num_rows: NonNegativeInt = 0
    """Rows it was learned from."""


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The ⌈(n + 1) · coverage⌉-th smallest of n scores; infinite where that is more than n.

    A new score drawn like these is at most this with a probability of at least `coverage`, and, without ties, of at
    most coverage + 1 / (n + 1): Lei et al. 2018, arXiv:1604.04173, theorem 2.2.
    """
    rank = math.ceil((len(scores) + 1) * coverage - _LEAST)
    return float(np.partition(scores, rank - 1)[rank - 1]) if 1 <= rank <= len(scores) else math.inf


def class_scores(probabilities: np.ndarray, method: SetMethod) -> np.ndarray:
    """How strange each class would be as the truth, [N, C] in [0, 1].

    lac: 1 - p. aps: the summed probability of all classes down to and including it, the likeliest first; classes of
    equal probability come in their order.
    """
    if method == "lac":
        return 1.0 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1), axis=1)
    return scores


def fit_conformal(
    task: TaskSpec,
    target: np.ndarray,
    values: np.ndarray,
    coverage: float,
    method: SetMethod = "lac",
    std: np.ndarray | None = None,
) -> ConformalRule:
    """Learn thresholds from predictions `values` [N, C] of rows that were not trained on, and their `target`.

    Regression: `std` [N, K] is the error to be expected of each value; all 1 when None.
    """
    if task.kind == "classification":
        scores = class_scores(values, method)[np.arange(len(target)), target]
        thresholds = (conformal_quantile(scores, coverage),)
    elif task.kind == "multilabel":
        rows = (target > 0.5).any(axis=1)
        target, values = target[rows], values[rows]
        thresholds = (_risk_threshold(target, values, coverage),)
    else:
        scores = np.abs(target - values) / (1.0 if std is None else std)
        thresholds = tuple(conformal_quantile(column, coverage) for column in scores.T)
    return ConformalRule(coverage=coverage, method=method, thresholds=thresholds, num_rows=len(target))


def prediction_sets(task: TaskSpec, values: np.ndarray, rule: ConformalRule) -> np.ndarray:
    """The classes or labels that cannot be ruled out, bool [N, C].

    Classification: the likeliest class is always in, so that no set is empty; where a classifier is right more often
    than `coverage` the sets then hold the truth more often than promised.
    """
    method = rule.method if task.kind == "classification" else "lac"
    inside = class_scores(values, method) <= rule.thresholds[0] + _ROUNDING
    if task.kind == "classification" and len(values):
        inside[np.arange(len(values)), values.argmax(axis=1)] = True
    return inside


def prediction_intervals(values: np.ndarray, std: np.ndarray, rule: ConformalRule) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of each value, [N, K] both; infinite where the rule promises nothing."""
    half = np.array(rule.thresholds) * std
    return values - half, values + half


def _risk_threshold(target: np.ndarray, values: np.ndarray, coverage: float) -> float:
    """The least threshold on 1 - p at which few enough of a row's true labels are missed; every row has one.

    The share of a row's true labels that is missed falls as the threshold rises and is at most 1. Conformal risk
    control (arXiv:2208.02814, eq. 4) asks for n / (n + 1) · (its mean over rows) + 1 / (n + 1) ≤ 1 - coverage.
    """
    num_rows = len(target)
    row, label = np.nonzero(target > 0.5)
    scores = 1.0 - values[row, label]
    share = 1.0 / (num_rows * (target > 0.5).sum(axis=1)[row]) if num_rows else np.zeros(0)
    allowed = (1.0 - coverage) * (num_rows + 1) / max(num_rows, 1) - 1.0 / max(num_rows, 1)
    if not num_rows or allowed < -_LEAST:
        return math.inf
    order = np.argsort(scores, kind="stable")
    scores, share = scores[order], share[order]
    missed = np.append(np.cumsum(share[::-1])[::-1][1:], 0.0)  # above each score, if the threshold is that score
    # Equal scores are in or out together: only the last of them leaves what comes after it out.
    last = np.append(np.diff(scores) > 0, True)
    return float(scores[last][np.argmax(missed[last] <= allowed + _LEAST)])

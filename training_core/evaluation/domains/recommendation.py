"""The recommendation report: are the right items among the first k, for new users too, and not always the same ones.

Items are the labels of a multilabel task, or the classes of a classification, of which exactly one is right.
"""

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.domains.judged import JudgedRows
from training_core.quantities import PositiveInt


class RecommendationConfig(Config):
    """How long the lists are, and who is new."""

    k: PositiveInt = 10
    """Items in a list; all of them when there are fewer."""
    cold: str = ""
    """Column that is true (or 1, or yes) for rows of users (or items) with no history: they are judged by themselves.
    Empty: no row is."""


class RankingScore(Config):
    """How good lists of k items are, means over the rows that have any right item."""

    precision: float
    """Share of the list that is right."""
    recall: float
    """Share of what is right that is in the list."""
    ndcg: float
    """Discounted gain of the list over that of the best one, 0..1 (Järvelin and Kekäläinen 2002)."""
    hit_rate: float
    """Share of rows with a right item in the list."""
    num_rows: int


class RecommendationReport(Config):
    """Lists of recommended items."""

    num_rows: int
    num_items: int
    k: int
    overall: RankingScore | None
    """None when no row has a right item."""
    cold_start: RankingScore | None
    """Of the rows without a history; None when there are none."""
    warm: RankingScore | None
    """Of the others, where cold ones are known."""
    coverage: float
    """Share of all items that are in any list."""
    evenness: float
    """Entropy of how often items are recommended over the greatest possible, 0..1; 1 when all equally often."""
    diversity: float | None
    """Mean over pairs of rows of how far their lists differ: 1 - shared items / k, 0..1; None for a single row."""
    popularity_lift: float | None
    """NDCG over that of recommending everybody the items right most often on these rows; above 1 it is personal. None
    when that is 0."""


def recommendation_report(rows: JudgedRows, config: RecommendationConfig | None = None) -> RecommendationReport:
    """Precision, recall and NDCG at k, cold start, coverage and diversity.

    Equal scores are ranked in the order of the items.

    Raises:
        DataError: the task is a regression, which ranks nothing, or a column is absent or neither true nor false.
    """
    config = config or RecommendationConfig()
    if rows.task.kind == "regression":
        raise DataError("a recommendation report ranks labels or classes; this task is a regression")
    scores = rows.predictions.values
    num_rows, num_items = scores.shape
    k = min(config.k, num_items)
    relevant = _relevant(rows)
    lists = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    cold = np.zeros(num_rows, bool)
    if config.cold:
        cold = rows.flags(config.cold, "who is new")
    overall = ranking_score(relevant, lists)
    popular = np.tile(np.argsort(-relevant.sum(axis=0), kind="stable")[:k], (num_rows, 1))
    plain = ranking_score(relevant, popular)
    counts = np.bincount(lists.ravel(), minlength=num_items)
    return RecommendationReport(
        num_rows=num_rows,
        num_items=num_items,
        k=k,
        overall=overall,
        cold_start=ranking_score(relevant[cold], lists[cold]),
        warm=ranking_score(relevant[~cold], lists[~cold]) if config.cold else None,
        coverage=float(np.mean(counts > 0)),
        evenness=_evenness(counts),
        diversity=_diversity(counts, num_rows, k),
        popularity_lift=overall.ndcg / plain.ndcg if overall and plain and plain.ndcg > 0 else None,
    )


def ranking_score(relevant: np.ndarray, lists: np.ndarray) -> RankingScore | None:
    """How good lists are.

    Args:
        relevant: bool [N, items].
        lists: int [N, k], items, the first recommended first.

    Returns:
        Means over the rows with any right item; None when there is none.
    """
    asked = relevant.any(axis=1)
    if not asked.any():
        return None
    hits = np.take_along_axis(relevant[asked], lists[asked], axis=1).astype(np.float64)
    k, num_right = hits.shape[1], relevant[asked].sum(axis=1)
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discount)[np.minimum(num_right, k) - 1]
    return RankingScore(
        precision=float(np.mean(hits.sum(axis=1) / k)),
        recall=float(np.mean(hits.sum(axis=1) / num_right)),
        ndcg=float(np.mean(hits @ discount / best)),
        hit_rate=float(np.mean(hits.any(axis=1))),
        num_rows=int(asked.sum()),
    )


def _relevant(rows: JudgedRows) -> np.ndarray:
    if rows.task.kind == "classification":
        return rows.target[:, None] == np.arange(rows.task.num_outputs)
    return rows.target > 0.5


def _evenness(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log(share)) / np.log(len(counts))) if len(counts) > 1 else 1.0


def _diversity(counts: np.ndarray, num_rows: int, k: int) -> float | None:
    """Pairs of rows that share an item number c (c - 1) / 2 for an item in c lists: no pair need be looked at."""
    if num_rows < 2:
        return None
    shared = float(np.sum(counts * (counts - 1.0)) / 2)
    return 1.0 - shared / (k * num_rows * (num_rows - 1) / 2)

"""Several ways of predicting, each judged on the same splits: who is ahead, by how much, and whether that is luck."""

from collections.abc import Mapping, Sequence

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.statistics import (
    LEVEL,
    Interval,
    corrected_resampled_t,
    corrected_standard_error,
    holm,
    wilcoxon,
)


class RankedMethod(Config):
    """One way of predicting among those it was compared with."""

    name: str
    mean: float
    standard_error: float
    """Of the mean, corrected for splits that share rows."""
    interval: Interval
    mean_rank: float
    """1 is best; equal scores share their ranks."""
    behind_best: float
    """How far its mean is below that of the best; 0 for the best itself."""
    p_value: float | None
    """Corrected resampled t-test against the best, adjusted for the number of methods; None for the best itself."""
    num_splits: int


class Comparison(Config):
    """Methods, the best first."""

    methods: tuple[RankedMethod, ...]
    friedman_p_value: float | None
    """Of the ranks being the same for all; None for fewer than three methods."""


def compare_on_splits(scores: Mapping[str, Sequence[float]], test_to_train: float) -> Comparison:
    """Compare methods on repeated random splits of one data set.

    Args:
        scores: per method its score on each split, greater is better, splits in the same order for all.
        test_to_train: rows of a test part over rows of a training part; see `statistics.corrected_resampled_t`.

    Raises:
        DataError: no method, fewer than two splits, or methods with different numbers of splits.
    """
    from scipy.stats import t as student

    names, table = _table(scores)
    num_splits = table.shape[1]
    means = table.mean(axis=1)
    best = int(np.argmax(means))
    others = [place for place in range(len(names)) if place != best]
    raw = [corrected_resampled_t(table[best] - table[place], test_to_train)[1] for place in others]
    p_values = dict(zip(others, holm(np.array(raw)), strict=True))
    ranks = mean_ranks(table)
    reach = float(student.ppf((1 + LEVEL) / 2, num_splits - 1))
    methods = []
    for place, name in enumerate(names):
        error = corrected_standard_error(table[place], test_to_train)
        mean = float(means[place])
        methods.append(
            RankedMethod(
                name=name,
                mean=mean,
                standard_error=error,
                interval=Interval(low=mean - reach * error, high=mean + reach * error),
                mean_rank=float(ranks[place]),
                behind_best=float(means[best] - means[place]),
                p_value=None if place == best else float(p_values[place]),
                num_splits=num_splits,
            )
        )
    return Comparison(
        methods=tuple(sorted(methods, key=lambda method: (-method.mean, method.name))),
        friedman_p_value=_friedman(table),
    )


def compare_on_datasets(scores: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """p-values of the other methods against `reference` over data sets that have nothing to do with each other.

    Wilcoxon's signed ranks, adjusted by Holm: Demšar 2006, JMLR 7, §3.2. `scores` as in `compare_on_splits`, one entry
    per data set.

    Raises:
        DataError: there is no such method, or methods have different numbers of data sets.
    """
    names, table = _table(scores)
    if reference not in names:
        raise DataError(f"no method '{reference}' among {', '.join(names)}")
    others = [place for place, name in enumerate(names) if name != reference]
    raw = np.array([wilcoxon(table[names.index(reference)] - table[place]) for place in others])
    return {names[place]: float(p) for place, p in zip(others, holm(raw), strict=True)}


def mean_ranks(table: np.ndarray) -> np.ndarray:
    """Rank of each method among all, 1 is best, mean over the columns of scores [methods, splits]; ties share ranks."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-table, axis=0)).mean(axis=1)


def _table(scores: Mapping[str, Sequence[float]]) -> tuple[list[str], np.ndarray]:
    """Names, and scores [methods, splits]."""
    lengths = {name: len(values) for name, values in scores.items()}
    if not lengths or len(set(lengths.values())) > 1 or min(lengths.values()) < 2:
        shown = ", ".join(f"{name}: {number}" for name, number in lengths.items()) or "none"
        raise DataError(f"methods are compared on the same splits, at least 2; scores per method are {shown}")
    return list(scores), np.array([list(values) for values in scores.values()], dtype=np.float64)


def _friedman(table: np.ndarray) -> float | None:
    """Friedman's test that all methods [methods, splits] rank alike; None for fewer than three."""
    from scipy.stats import friedmanchisquare

    if len(table) < 3:
        return None
    if np.all(table == table[0]):
        return 1.0
    return float(friedmanchisquare(*table).pvalue)

"""How sure a score is, and whether one way of predicting is better than another on the same rows.

A score of a few hundred rows is a draw of luck. Intervals come from resampling whole units, so that rows which belong
together (a group, a stretch of time) do not count as if each were evidence of its own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from training_core.config import Config
from training_core.errors import DataError
from training_core.evaluation.metrics import loss, score
from training_core.schema import TaskSpec
from training_core.seeding import generator

LEVEL = 0.95
"""Level of every interval unless another is asked for."""
_MOST_CELLS = 40_000_000  # resamples times rows that are held at a time: 80 MB of counts
_FEWEST_RESAMPLES = 200
_CHUNK = 64  # resamples that are scored at a time


class Interval(Config):
    """Where a number would likely lie on other rows of the same kind."""

    low: float
    high: float


class Difference(Config):
    """One way of predicting against another on the same rows; above 0 the first is better."""

    difference: float
    """Of their scores."""
    interval: Interval
    p_value: float
    """Two-sided, from the same resamples: how often the difference has the other sign."""
    wilcoxon_p_value: float
    """Two-sided, of the losses of the units: a difference in the middle of them, not in the mean."""
    num_rows: int
    num_units: int


@dataclass(frozen=True)
class Resamples:
    """Draws with replacement of N rows: how often each row is in each draw, uint16 [draws, N].

    `units` int64 [N] says which rows are drawn together, `num_units` how many such units there are, and `unit` what
    they are ("row", "group", or "block" of successive rows).
    """

    counts: np.ndarray
    units: np.ndarray
    unit: str

    @property
    def num_units(self) -> int:
        """How many things are drawn in each resample."""
        return int(self.units.max()) + 1


def resample(
    num_rows: int,
    num_resamples: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> Resamples:
    """Bootstrap draws of rows: whole groups where rows have groups, else blocks of time where they have times.

    Blocks have ceil(N^(1/3)) successive rows and may start anywhere, round the end (the circular block bootstrap,
    Politis and Romano 1992; the rate N^(1/3) is that of Hall, Horowitz and Jing 1995). Of very many rows fewer
    resamples are drawn, at least 200.

    Args:
        num_rows: N.
        num_resamples: draws.
        seed: root of the draws.
        groups: of each row, [N]; None when rows have none.
        times: of each row, [N]; None when rows have none.

    Raises:
        DataError: there are no rows.
    """
    if not num_rows:
        raise DataError("there are no rows to resample; give at least one row with a known target")
    random = generator(seed, "resamples")
    num_resamples = max(min(num_resamples, _MOST_CELLS // num_rows), min(num_resamples, _FEWEST_RESAMPLES))
    counts = np.zeros((num_resamples, num_rows), np.uint16)
    if groups is None and times is not None and num_rows > 1:
        order, length = np.argsort(times, kind="stable"), block_length(num_rows)
        offsets = np.arange(length)
        for row in counts:
            starts = random.integers(0, num_rows, -(-num_rows // length))
            drawn = (starts[:, None] + offsets).ravel()[:num_rows] % num_rows
            row[order] = np.bincount(drawn, minlength=num_rows)
        return Resamples(counts, time_blocks(times), "block")
    if groups is None:
        units, unit = np.arange(num_rows), "row"
    else:
        units, unit = np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64), "group"
    num_units = int(units.max()) + 1
    for row in counts:
        row[:] = np.bincount(random.integers(0, num_units, num_units), minlength=num_units)[units]
    return Resamples(counts, units, unit)


def block_length(num_rows: int) -> int:
    """Successive rows of a block of time, ceil(N^(1/3)); see `resample`."""
    return int(np.ceil(num_rows ** (1 / 3)))


def time_blocks(times: np.ndarray) -> np.ndarray:
    """The block of time each of N rows is in, int64 [N], from 0 on: `block_length` rows each, the last one the rest."""
    blocks = np.empty(len(times), np.int64)
    blocks[np.argsort(times, kind="stable")] = np.arange(len(times)) // block_length(len(times))
    return blocks


def resampled_scores(task: TaskSpec, target: np.ndarray, prediction: np.ndarray, drawn: Resamples) -> np.ndarray:
    """The headline score on every resample, float64 [draws]; `target` and `prediction` as in `metrics.score`."""
    if task.kind == "classification":
        return _means(np.argmax(prediction, axis=1) == target, drawn)
    if task.kind == "regression":
        return _r2(target, prediction, drawn)
    found = np.stack(
        [
            _average_precisions(target[:, label] > 0.5, prediction[:, label], drawn)
            for label in range(target.shape[1])
            if (target[:, label] > 0.5).any()
        ]
        or [np.zeros(len(drawn.counts))]
    )
    known = np.isfinite(found)
    return np.where(known, found, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def score_interval(
    task: TaskSpec, target: np.ndarray, prediction: np.ndarray, drawn: Resamples, level: float = LEVEL
) -> Interval:
    """A percentile bootstrap interval of the headline score (Efron and Tibshirani 1993, §13.3).

    When every row is right, or every row wrong, resampling cannot show doubt; then the exact binomial interval of as
    many trials as there are units is taken (Clopper and Pearson 1934).
    """
    if task.kind == "classification":
        right = np.argmax(prediction, axis=1) == target
        if right.all() or not right.any():
            least = ((1 - level) / 2) ** (1 / drawn.num_units)
            return Interval(low=least, high=1.0) if right.all() else Interval(low=0.0, high=1 - least)
    return percentile_interval(resampled_scores(task, target, prediction, drawn), level)


def percentile_interval(draws: np.ndarray, level: float = LEVEL) -> Interval:
    """The middle `level` of what was drawn, [draws]; draws that are not finite are left out."""
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), high=float(high))


def compare(
    task: TaskSpec,
    target: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    drawn: Resamples,
    level: float = LEVEL,
) -> Difference:
    """Whether `first` predicts better than `second` on the same rows, both as in `metrics.score`.

    The p-value is that of the paired bootstrap, 2 · min(P(d ≤ 0), P(d ≥ 0)), counting the data itself as one draw so
    that it is never 0 (Davison and Hinkley 1997, eq. 4.11).
    """
    draws = resampled_scores(task, target, first, drawn) - resampled_scores(task, target, second, drawn)
    low, high = np.sum(draws <= 0), np.sum(draws >= 0)
    losses = loss(task, target, first) - loss(task, target, second)
    by_unit = np.bincount(drawn.units, losses) / np.bincount(drawn.units)
    return Difference(
        difference=score(task, target, first) - score(task, target, second),
        interval=percentile_interval(draws, level),
        p_value=min(1.0, float(2 * (min(low, high) + 1) / (len(draws) + 1))),
        wilcoxon_p_value=wilcoxon(by_unit),
        num_rows=len(target),
        num_units=drawn.num_units,
    )


def compare_losses(
    task: TaskSpec,
    target: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    drawn: Resamples,
    level: float = LEVEL,
) -> Difference:
    """Whether `first` costs less than `second` on the same rows, in the mean of `metrics.loss`; above 0 it does.

    The loss of a row says more than whether its answer is right, so that fewer rows are needed than by scores. For few
    units a bootstrap is too sure of itself, and three things hold it back: its standard error is scaled by √(n/(n-1)),
    Student's t with n - 1 degrees of freedom says how far it may be off (Davison and Hinkley 1997, §2.4 and §5.2), and
    no p-value is below 2^(1-n), the least that a test of n signs can give. One unit proves nothing: 1, and an interval
    without ends.
    """
    from scipy.stats import t as student

    saved = loss(task, target, second) - loss(task, target, first)
    num_units, mean = drawn.num_units, float(saved.mean())
    p_value, interval = 1.0, Interval(low=-np.inf, high=np.inf)
    if num_units > 1:
        error = float(_means(saved, drawn).std(ddof=1)) * np.sqrt(num_units / (num_units - 1))
        reach = float(student.ppf((1 + level) / 2, num_units - 1)) * error
        interval = Interval(low=mean - reach, high=mean + reach)
        beyond = 2 * float(student.sf(abs(mean) / error, num_units - 1)) if error else float(mean == 0)
        p_value = max(beyond, 2.0 ** (1 - min(num_units, 60)))
    return Difference(
        difference=mean,
        interval=interval,
        p_value=p_value,
        wilcoxon_p_value=wilcoxon(np.bincount(drawn.units, saved) / np.bincount(drawn.units)),
        num_rows=len(target),
        num_units=num_units,
    )


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p-value of the signed-rank test that paired differences [n] are as often up as down; 1 if all are 0.

    Wilcoxon 1945; differences of 0 are shared out over both sides, as Demšar 2006 (JMLR 7, §3.1.3) does for
    comparisons of predictors over data sets.
    """
    from scipy.stats import wilcoxon as signed_ranks

    if not np.any(differences):
        return 1.0
    result: Any = signed_ranks(differences, zero_method="zsplit")
    return float(result.pvalue)


def corrected_resampled_t(differences: np.ndarray, test_to_train: float) -> tuple[float, float]:
    """The t statistic and two-sided p-value of score differences [J] on J random splits of the same data.

    Splits share rows, so the plain t-test finds differences where there are none; the variance is scaled by
    1/J + n_test/n_train in place of 1/J (Nadeau and Bengio 2003, Machine Learning 52, eq. 9). J - 1 degrees of freedom.

    Args:
        differences: of two predictors' scores, one per split.
        test_to_train: rows of the test part over rows of the training part, .43 for a 70/30 split.

    Raises:
        DataError: fewer than two splits.
    """
    from scipy.stats import t as student

    differences = np.asarray(differences, dtype=np.float64)
    if len(differences) < 2:
        raise DataError(f"a t-test needs at least 2 splits, got {len(differences)}; repeat with another seed")
    mean, error = differences.mean(), corrected_standard_error(differences, test_to_train)
    if error == 0:
        return (0.0, 1.0) if mean == 0 else (float(np.copysign(np.inf, mean)), 0.0)
    t = mean / error
    return float(t), float(2 * student.sf(abs(t), len(differences) - 1))


def corrected_standard_error(values: np.ndarray, test_to_train: float) -> float:
    """Standard error of the mean of values [J] seen on J splits of the same data; see `corrected_resampled_t`."""
    values = np.asarray(values, dtype=np.float64)
    return float(np.sqrt((1 / len(values) + test_to_train) * values.var(ddof=1)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values [k] of k tests that are looked at together, adjusted so that each may be read by itself (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _sums(values: np.ndarray, drawn: Resamples) -> np.ndarray:
    """Sum of values [N, K] over the rows of every draw, [draws, K]."""
    parts = [drawn.counts[s : s + _CHUNK].astype(np.float64) @ values for s in range(0, len(drawn.counts), _CHUNK)]
    return np.concatenate(parts)


def _means(values: np.ndarray, drawn: Resamples) -> np.ndarray:
    sums = _sums(np.column_stack([values, np.ones(len(values))]).astype(np.float64), drawn)
    return sums[:, 0] / sums[:, 1]


def _r2(target: np.ndarray, prediction: np.ndarray, drawn: Resamples) -> np.ndarray:
    away = target - target.mean(axis=0)  # so that the difference of squares below keeps its digits
    num = target.shape[1]
    sums = _sums(np.column_stack([(target - prediction) ** 2, away, away**2, np.ones(len(target))]), drawn)
    residual, first, second = sums[:, :num], sums[:, num : 2 * num], sums[:, 2 * num : 3 * num]
    total = np.maximum(second - first**2 / sums[:, -1:], 0.0)
    constant = np.where(residual == 0, 1.0, 0.0)
    floor = 1e-12 * np.maximum(second, 1e-300)
    return np.where(total > floor, 1.0 - residual / np.where(total > floor, total, 1.0), constant).mean(axis=1)


def _average_precisions(truth: np.ndarray, ranking: np.ndarray, drawn: Resamples) -> np.ndarray:
    """Average precision of one label on every draw; NaN where a draw has no positive."""
    order = np.argsort(-ranking, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(ranking[order]) != 0, True))
    found = []
    for start in range(0, len(drawn.counts), _CHUNK):
        weight = drawn.counts[start : start + _CHUNK][:, order].astype(np.float64)
        hits = np.cumsum(weight * truth[order], axis=1)[:, last_of_ties]
        seen = np.cumsum(weight, axis=1)[:, last_of_ties]
        precision = hits / np.maximum(seen, 1.0)
        positives = np.where(hits[:, -1] > 0, hits[:, -1], np.nan)
        found.append(np.sum(np.diff(hits, axis=1, prepend=0) * precision, axis=1) / positives)
    return np.concatenate(found)

"""How well a single feature alone predicts the target, judged on rows it was not fitted on."""

from dataclasses import dataclass

import numpy as np

from training_core.data.quality.hashing import mix
from training_core.schema import TaskKind

MIN_ROWS = 100
"""Below this, among many features one predicts well by chance."""
_MAX_BINS = 256
_ROWS_PER_BIN = 5  # on average, in the finest of the resolutions tried; the coarsest has 4 bins
_MAX_CLASSES = 50  # the most frequent ones; all others count as one class
_MAX_LABELS = 20
_MIN_LABEL_ROWS = 20  # with and without a label in either half: fewer are told apart by chance
_PRIOR_ROWS = 1.0  # every bin starts with one row of the overall mean, so that a single row does not decide alone


@dataclass(frozen=True)
class Power:
    """Share of what there is to predict that a feature predicts, 0..1, and the output it predicts best."""

    value: float
    output: int


class PowerJudge:
    """Judges features on the same rows: fitted on one half, judged on the other.

    A feature is cut into bins of equal counts, or into its categories, each predicting its own mean or commonest
    class. Classification and labels: the smaller of (accuracy − majority) / (1 − majority) and the same of the mean
    recall, so that neither a rare class nor a common one alone decides. Regression: R² of the values or of their
    ranks, whichever is greater; values with a long tail are judged by rank. Several outputs: the best one.

    Args:
        kind: of task.
        target: as in `Samples`, of m rows, known in all.
        first: the rows to fit on, bool [m].
    """

    def __init__(self, kind: TaskKind, target: np.ndarray, first: np.ndarray) -> None:
        self._rows = np.flatnonzero(first), np.flatnonzero(~first)
        self._classes = kind == "classification"
        if kind == "classification":
            codes, self._num_classes = _frequent_classes(target)
            self._halves = [(rows, codes[rows]) for rows in self._rows]
        else:
            outputs = target.reshape(len(target), -1).astype(np.float64)
            self._labels = kind == "multilabel"
            self._names = _balanced_labels(outputs, first) if self._labels else np.arange(outputs.shape[1])
            outputs = outputs[:, self._names]
            if not self._labels:
                outputs = np.hstack([outputs, _ranks(outputs)])
                outputs = outputs - outputs[first].mean(axis=0)  # or large targets would lose all their digits
            self._halves = [(rows, np.ascontiguousarray(outputs[rows].T)) for rows in self._rows]
            self._total = np.maximum((self._halves[1][1] ** 2).sum(axis=1), 1e-300)
        num_first = len(self._rows[0])
        self._num_bins = 1 << int(np.clip(np.log2(max(num_first // _ROWS_PER_BIN, 1)), 3, np.log2(_MAX_BINS)))

    def of_numbers(self, values: np.ndarray) -> Power:
        """The power of numbers [m]; NaN is a bin of its own."""
        first = np.sort(values[self._rows[0]])  # NaN last
        first = first[: np.searchsorted(first, np.inf)]
        if not len(first):
            return Power(0.0, 0)
        edges = first[np.arange(1, self._num_bins) * len(first) // self._num_bins]
        bins = np.searchsorted(edges, values, side="right")
        bins[np.isnan(values)] = self._num_bins
        fitted, judged = self._tables(bins, self._num_bins + 1)
        best = self._power(fitted, judged)
        merged = self._num_bins
        while merged > 4:
            merged //= 4
            best = max(best, self._power(_merge(fitted, merged), _merge(judged, merged)), key=lambda p: p.value)
        return best

    def of_categories(self, hashes: np.ndarray) -> Power:
        """The power of categories [m], given by their hashes; absence is a category."""
        bins = np.unique(hashes, return_inverse=True)[1]
        return self._power(*self._tables(bins, int(bins.max()) + 1))

    def _tables(self, bins: np.ndarray, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Per half: counts per bin and class [B, C], or rows and sums per bin [B, 1 + outputs]."""
        tables = []
        for rows, outputs in self._halves:
            own = bins[rows]
            if self._classes:
                counts = np.bincount(own * self._num_classes + outputs, minlength=num_bins * self._num_classes)
                tables.append(counts.reshape(num_bins, self._num_classes).astype(np.float64))
            else:
                sums = [np.bincount(own, column, num_bins) for column in outputs]
                tables.append(np.column_stack([np.bincount(own, minlength=num_bins), *sums]).astype(np.float64))
        return tables[0], tables[1]

    def _power(self, fitted: np.ndarray, judged: np.ndarray) -> Power:
        if self._classes:
            return Power(_skill(fitted, judged), 0)
        if not len(self._names):
            return Power(0.0, 0)
        if self._labels:
            skills = [_skill(_two_classes(fitted, k), _two_classes(judged, k)) for k in range(1, fitted.shape[1])]
        else:
            skills = (_explained(fitted, judged) / self._total).tolist()
        best = int(np.argmax(skills))
        return Power(float(np.clip(skills[best], 0, 1)), int(self._names[best % len(self._names)]))


def halves_of(keys: np.ndarray) -> np.ndarray:
    """The rows to fit on, bool [m]: half of the distinct keys (groups, or row numbers), whole."""
    return mix(keys) & np.uint64(1) == 0


def _skill(fitted: np.ndarray, judged: np.ndarray) -> float:
    """Of counts per bin and class [B, C]: how much better than always the commonest class, 0..1."""
    prior = fitted.sum(axis=0) / max(fitted.sum(), 1)
    truth = judged.sum(axis=0)
    present = truth > 0
    if present.sum() < 2 or not fitted.any():
        return 0.0
    smooth = fitted + _PRIOR_ROWS * prior
    majority = truth.max() / truth.sum()
    bins = np.arange(len(fitted))
    accuracy = judged[bins, smooth.argmax(axis=1)].sum() / truth.sum()
    likely = (smooth / np.maximum(prior, 1e-12) * (prior > 0)).argmax(axis=1)
    recalls = np.bincount(likely, judged[bins, likely], len(truth))[present] / truth[present]
    chance = 1 / present.sum()
    skill = min((accuracy - majority) / (1 - majority), (recalls.mean() - chance) / (1 - chance))
    return float(np.clip(skill, 0, 1))


def _two_classes(table: np.ndarray, output: int) -> np.ndarray:
    return np.column_stack([table[:, 0] - table[:, output], table[:, output]])


def _explained(fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Squares per output that guessing the mean of a bin saves; outputs have mean 0 where they were fitted."""
    guess = fitted[:, 1:] / (fitted[:, :1] + _PRIOR_ROWS)
    return (2 * guess * judged[:, 1:] - judged[:, :1] * guess**2).sum(axis=0)


def _merge(table: np.ndarray, num_bins: int) -> np.ndarray:
    """Neighbouring bins added up, the last one (absent values) left alone."""
    body = table[:-1].reshape(num_bins, -1, table.shape[1]).sum(axis=1)
    return np.vstack([body, table[-1:]])


def _frequent_classes(codes: np.ndarray) -> tuple[np.ndarray, int]:
    names, dense, counts = np.unique(codes, return_inverse=True, return_counts=True)
    if len(names) <= _MAX_CLASSES:
        return dense, len(names)
    place = np.full(len(names), _MAX_CLASSES - 1)
    place[np.argsort(-counts, kind="stable")[: _MAX_CLASSES - 1]] = np.arange(_MAX_CLASSES - 1)
    return place[dense], _MAX_CLASSES


def _balanced_labels(outputs: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The labels that are on and off often enough in both halves, the most balanced ones."""
    rarer = np.minimum.reduce(
        [values.sum(axis=0) for half in (first, ~first) for values in (outputs[half], 1 - outputs[half])]
    )
    order = np.argsort(-rarer, kind="stable")[:_MAX_LABELS]
    return np.sort(order[rarer[order] >= _MIN_LABEL_ROWS])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks per column."""
    from scipy.stats import rankdata

    return rankdata(values, axis=0)

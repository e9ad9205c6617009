"""Statistics of a stream of rows in bounded memory; the same however the rows are cut into blocks."""

from collections.abc import Mapping

import numpy as np

from training_core.data.quality.hashing import row_keys

EXACT_DISTINCT = 4096
"""Up to so many distinct values are counted exactly; beyond, the estimate's relative error is about 1.6 %."""
_PIECE_NUMBERS = 1 << 17  # numbers handled at a time: one MB as float64 stays in the processor's cache
_MOST_NUMBERS = 1 << 22  # and never more, however long a row is: 32 MB
_FEWEST_ROWS = 16  # rows at a time where rows are long, so that merging costs little next to adding up


class Moments:
    """Count, mean, spread, least and greatest of each of D features, in one pass.

    Pieces are merged by Chan, Golub and LeVeque 1979 (eqs. 2.1), which stays accurate when the mean is large next to
    the spread. Non-finite numbers are counted and left out of everything else.

    Attributes:
        count, mean, squares, least, greatest: float64 [D]; `squares` is the sum of squared deviations.
        num_non_finite: over all features.
    """

    def __init__(self, num_features: int) -> None:
        self.count = np.zeros(num_features)
        self.mean = np.zeros(num_features)
        self.squares = np.zeros(num_features)
        self.least = np.full(num_features, np.inf)
        self.greatest = np.full(num_features, -np.inf)
        self.num_non_finite = 0

    def update(self, values: np.ndarray) -> None:
        """Add rows [n, D]."""
        for start, stop in pieces(len(values), values.shape[1]):
            self._add(values[start:stop])

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation [D]; NaN without a number."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(self.squares / self.count)

    def overall(self) -> tuple[int, float, float, float, float]:
        """Count, mean, population std, least and greatest over all features together."""
        count = self.count.sum()
        if not count:
            return 0, float("nan"), float("nan"), float("nan"), float("nan")
        mean = float((self.count * self.mean).sum() / count)
        squares = float(self.squares.sum() + (self.count * (self.mean - mean) ** 2).sum())
        return int(count), mean, (squares / count) ** 0.5, float(self.least.min()), float(self.greatest.max())

    def _add(self, piece: np.ndarray) -> None:
        numbers = piece.astype(np.float64)  # a copy: changed below
        total = numbers.sum(axis=0)
        finite: np.ndarray | None = None
        if np.isfinite(total).all() or np.isfinite(numbers).all():
            count = np.full(len(total), float(len(numbers)))
            least, greatest = piece.min(axis=0), piece.max(axis=0)
        else:
            finite = np.isfinite(numbers)
            self.num_non_finite += int(finite.size - finite.sum())
            count = finite.sum(axis=0).astype(np.float64)
            least = np.where(finite, numbers, np.inf).min(axis=0)
            greatest = np.where(finite, numbers, -np.inf).max(axis=0)
            numbers[~finite] = 0.0
            total = numbers.sum(axis=0)
        mean = total / np.maximum(count, 1)
        numbers -= mean
        if finite is not None:
            numbers[~finite] = 0.0
        with np.errstate(over="ignore"):
            squares = np.einsum("nd,nd->d", numbers, numbers)
            merged = self.count + count
            share = count / np.maximum(merged, 1)
            shift = mean - self.mean
            self.squares += squares + shift**2 * self.count * share
        self.mean += np.where(count > 0, shift * share, 0.0)
        self.count = merged
        np.minimum(self.least, least, out=self.least)
        np.maximum(self.greatest, greatest, out=self.greatest)


class DistinctCount:
    """How many different values there are, from their hashes: the k smallest tell (Bar-Yossef et al. 2002)."""

    def __init__(self) -> None:
        self._smallest = np.empty(0, np.uint64)

    def update(self, hashes: np.ndarray) -> None:
        """Add values by their hashes [n]."""
        if len(self._smallest) == EXACT_DISTINCT:
            hashes = hashes[hashes < self._smallest[-1]]
        if len(hashes):
            self._smallest = np.union1d(self._smallest, hashes)[:EXACT_DISTINCT]

    @property
    def value(self) -> int:
        """The count: exact below `EXACT_DISTINCT`, else an estimate."""
        if len(self._smallest) < EXACT_DISTINCT:
            return len(self._smallest)
        return round((EXACT_DISTINCT - 1) / (float(self._smallest[-1]) / 2.0**64))


class RowSample:
    """A sample of up to `size` rows that depends on the row numbers alone: those with the smallest hashed number.

    Args:
        size: rows kept at most.
        columns: per column the shape of a row and its dtype.
    """

    def __init__(self, size: int, columns: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
        self._size = size
        self._columns = {name: np.empty((size, *shape), dtype) for name, (shape, dtype) in columns.items()}
        self._keys = np.full(size, np.iinfo(np.uint64).max, np.uint64)
        self._rows = np.full(size, -1, np.int64)
        self._num_rows = 0

    def choose(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of the next `num_rows` rows to keep, and the slots they go to; both int64 [m]."""
        start = self._num_rows
        self._num_rows += num_rows
        keys = row_keys(start, self._num_rows)
        candidates = np.flatnonzero(keys < self._keys.max())
        together = np.concatenate([self._keys, keys[candidates]])
        kept = np.argpartition(together, self._size - 1)[: self._size]
        staying = np.zeros(self._size, bool)
        staying[kept[kept < self._size]] = True
        slots = np.flatnonzero(~staying)
        chosen = candidates[np.sort(kept[kept >= self._size]) - self._size]
        self._keys[slots] = keys[chosen]
        self._rows[slots] = start + chosen
        return chosen, slots

    def put(self, name: str, slots: np.ndarray, values: np.ndarray) -> None:
        """Set the chosen rows of a column."""
        self._columns[name][slots] = values

    @property
    def rows(self) -> np.ndarray:
        """Row numbers of the sample, ascending, int64 [m]."""
        return np.sort(self._rows[self._rows >= 0])

    def column(self, name: str) -> np.ndarray:
        """A column of the sample, in the order of `rows`; a view, true until more rows are put."""
        order = np.argsort(np.where(self._rows < 0, np.iinfo(np.int64).max, self._rows), kind="stable")
        if (np.diff(order) < 0).any():  # arranged in place: a sorted copy of the sample would be as large again
            self._keys, self._rows = self._keys[order], self._rows[order]
            for values in self._columns.values():
                values[:] = values[order]
        return self._columns[name][: int((self._rows >= 0).sum())]


def pieces(num_rows: int, row_numbers: int) -> list[tuple[int, int]]:
    """Bounds of consecutive runs of rows small enough to stay in cache, or at least in memory when rows are long."""
    row_numbers = max(row_numbers, 1)
    step = max(1, min(max(_FEWEST_ROWS, _PIECE_NUMBERS // row_numbers), _MOST_NUMBERS // row_numbers))
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]

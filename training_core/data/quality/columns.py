"""Statistics of one column of a table as its cells stream by: numbers, categories or texts."""

from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.quality.hashing import ABSENT, hash_numbers, hash_texts, row_keys
from training_core.data.quality.languages import languages_of
from training_core.data.quality.streaming import DistinctCount, Moments
from training_core.data.quality.summary import QUANTILES, Bins, CategorySummary, NumericSummary, TextSummary

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CATEGORIES = 10_000
"""Categories counted per column: the first that come; whoever has more has no categories but texts or ids."""
CATEGORIES_KEPT = 1000
"""Categories named in the summary of a version, the most frequent ones: about 30 kB per column."""
TEXTS_SAMPLED = 2000
"""Texts whose language is guessed; a share of 5 % is then known to about 1 %."""
TEXT_CHARACTERS = 1000
"""Characters looked at of each of them."""
_NUM_BINS = 24
_MAX_ATOMS = 24  # so few distinct values get a bar each
_LONGEST_NAME = 200  # characters kept of a category


class NumericColumn:
    """A column of int64, double or bool cells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = ""
        self.missing = 0
        self._zeros = 0
        self._moments = Moments(1)
        self._distinct = DistinctCount()
        self._last = -np.inf
        self._increasing = True

    def update(self, cells: "pa.Array") -> tuple[np.ndarray, np.ndarray]:
        """Add cells [n].

        Returns:
            The cells as float64 [n], absent ones NaN, and their hashes [n].
        """
        values = as_float64(cells)
        self.dtype = str(cells.type)
        present = values[~np.isnan(values)]
        self.missing += len(values) - len(present)
        self._zeros += int((present == 0).sum())
        self._moments.update(present[:, None])
        hashes = _hash_whole_numbers(cells, values)
        self._distinct.update(hashes[~np.isnan(values)])
        if self._increasing and len(present):
            self._increasing = bool(present[0] > self._last and (np.diff(present) > 0).all())
            self._last = float(present[-1])
        return values, hashes

    def summary(self, sample: np.ndarray) -> NumericSummary:
        """What is known by now; `sample` float64 [m], absent cells NaN."""
        count, mean, std, least, greatest = self._moments.overall()
        known = {"name": self.name, "dtype": self.dtype, "missing": self.missing, "count": count}
        if not count:
            return NumericSummary(**known, distinct=0, zeros=0)
        sample = sample[np.isfinite(sample)]
        return NumericSummary(
            **known,
            distinct=self._distinct.value,
            zeros=self._zeros,
            min=least,
            max=greatest,
            mean=mean,
            std=std,
            quantiles=_quantiles(sample, least, greatest),
            bins=bins_of(sample),
            increasing=self._increasing and count > 1,
        )


class CategoryColumn:
    """A column of string cells that are categories."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.missing = 0
        self._counts: dict[str, int] = {}
        self._count = 0
        self._distinct = DistinctCount()

    def update(self, cells: "pa.Array") -> np.ndarray:
        """Add cells [n]; their hashes [n]."""
        names, codes, distinct_hashes = _encoded(cells)
        self.missing += cells.null_count
        self._count += len(cells) - cells.null_count
        self._distinct.update(distinct_hashes)
        for name, count in zip(names, np.bincount(codes[codes >= 0], minlength=len(names)).tolist(), strict=True):
            short = name[:_LONGEST_NAME]
            if short in self._counts or len(self._counts) < MAX_CATEGORIES:
                self._counts[short] = self._counts.get(short, 0) + count
        return _taken(distinct_hashes, codes)

    def summary(self) -> CategorySummary:
        """What is known by now."""
        ranked = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return CategorySummary(
            name=self.name,
            missing=self.missing,
            count=self._count,
            distinct=self._distinct.value,
            top=tuple(ranked[:CATEGORIES_KEPT]),
            complete=len(ranked) <= CATEGORIES_KEPT,
        )


class TextColumn:
    """A column of string cells that are texts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.missing = 0
        self._count = 0
        self._blank = 0
        self._words = Moments(1)
        self._characters = Moments(1)
        self._distinct = DistinctCount()
        self._texts: list[tuple[int, str]] = []
        self._num_rows = 0

    def update(self, cells: "pa.Array") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add cells [n].

        Returns:
            Their hashes, and their lengths in characters and in words as float64, NaN where absent; all [n].
        """
        import pyarrow.compute as pc

        names, codes, distinct_hashes = _encoded(cells)
        hashes = _taken(distinct_hashes, codes)
        characters = as_float64(pc.utf8_length(cells))  # pyright: ignore[reportAttributeAccessIssue]
        words = count_words(cells)
        present = codes >= 0
        self.missing += cells.null_count
        self._count += int(present.sum())
        self._blank += int((words == 0).sum())
        self._words.update(words[present][:, None])
        self._characters.update(characters[present][:, None])
        self._distinct.update(distinct_hashes)
        keys = row_keys(self._num_rows, self._num_rows + len(cells))
        self._num_rows += len(cells)
        rows = np.flatnonzero((words > 0) & (keys <= self._largest_key()))
        if len(rows) > TEXTS_SAMPLED:
            rows = rows[np.argsort(keys[rows])[:TEXTS_SAMPLED]]
        self._texts += [(int(keys[row]), names[codes[row]][:TEXT_CHARACTERS]) for row in rows]
        self._texts = sorted(self._texts)[:TEXTS_SAMPLED]
        return hashes, characters, words

    def _largest_key(self) -> int:
        return self._texts[-1][0] if len(self._texts) == TEXTS_SAMPLED else np.iinfo(np.uint64).max

    def summary(self, characters: np.ndarray, words: np.ndarray) -> TextSummary:
        """What is known by now; lengths of the sample float64 [m], NaN where absent."""
        languages, non_latin = languages_of([text for _, text in self._texts])
        known = {"name": self.name, "missing": self.missing, "count": self._count, "blank": self._blank}
        if not self._count:
            return TextSummary(**known, distinct=0)
        _, mean_words, _, fewest, most = self._words.overall()
        _, _, _, shortest, longest = self._characters.overall()
        words = words[np.isfinite(words)]
        return TextSummary(
            **known,
            distinct=self._distinct.value,
            characters=_quantiles(characters[np.isfinite(characters)], shortest, longest),
            words=_quantiles(words, fewest, most),
            mean_words=mean_words,
            bins=bins_of(words),
            languages=tuple(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
            non_latin=non_latin,
        )


def as_float64(cells: "pa.Array") -> np.ndarray:
    """Cells as float64 [n], absent ones NaN; whole numbers beyond 2^53 are rounded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(cells.type):
        cells = pc.cast(cells, pa.uint8())
    return np.array(pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def count_words(cells: "pa.Array") -> np.ndarray:
    """Words of each text, float64 [n]; NaN where it is absent."""
    import pyarrow.compute as pc

    compute: Any = pc  # its functions are made at run time
    return as_float64(compute.list_value_length(compute.utf8_split_whitespace(compute.utf8_trim_whitespace(cells)))) - (
        as_float64(compute.equal(compute.utf8_length(compute.utf8_trim_whitespace(cells)), 0))
    )


def bins_of(sample: np.ndarray) -> Bins:
    """Bins of finite numbers [m]: one per value when there are few, else equal widths between the outer percentiles.

    The outermost half percent on either side does not widen the bins, or one wild value would leave a single bar.
    """
    if not len(sample):
        return Bins()
    values, counts = np.unique(sample, return_counts=True)
    if len(values) <= _MAX_ATOMS:
        return Bins(values=tuple(values.tolist()), counts=tuple(counts.tolist()))
    low, high = np.quantile(sample, [0.005, 0.995])
    if low == high or not np.isfinite(high - low):
        low, high = values[0], values[-1]
    edges = np.linspace(low, high, _NUM_BINS + 1)
    counts = np.histogram(np.clip(sample, low, high), edges)[0]
    return Bins(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _quantiles(sample: np.ndarray, least: float, greatest: float) -> tuple[float, ...]:
    inner = np.quantile(sample, QUANTILES[1:-1]).tolist() if len(sample) else []
    return (least, *inner, greatest) if inner else ()


def _hash_whole_numbers(cells: "pa.Array", values: np.ndarray) -> np.ndarray:
    """Hashes of numbers; of large whole ones all digits count, although float64 would round them."""
    import pyarrow as pa

    hashes = hash_numbers(values)
    if pa.types.is_integer(cells.type):
        large = np.flatnonzero(np.abs(values) >= 2**53)
        if len(large):
            hashes[large] = hash_texts(map(str, cells.take(pa.array(large)).to_pylist()))
    return hashes


def _encoded(cells: "pa.Array") -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct texts in order of appearance, the code of each cell (−1 absent) [n], and their hashes."""
    encoded: Any = cells.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    return names, codes, hash_texts(names)


def _taken(hashes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.append(hashes, ABSENT)[codes]

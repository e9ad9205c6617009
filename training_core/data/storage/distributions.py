"""How values are distributed in two versions of a data set, and how far apart that is, in bounded memory.

Every part is summarised on its own, so what two versions share is read once. Of a part with very many rows, runs of
rows spread evenly over it stand for all of them.

The divergence is the population stability index over bins b with shares p (before) and q (after),

    PSI = Σ_b (q_b − p_b) · ln(q_b / p_b),

half a row added to every bin. Numbers are binned at the deciles of what was before, an absent cell is a bin of its
own; of an array the mean of each row is binned. Without a change PSI / (1/n + 1/m) is about χ² with one degree of
freedom per bin but one (Yurdakul 2018, Statistical Properties of Population Stability Index), so a PSI counts as a
change when it is at least 0.2, the usual threshold, and beyond the 99.9 % quantile of that.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from training_core.data.storage import table_cells
from training_core.data.storage.part_reading import Part, RowGroupCache
from training_core.data.storage.parts import ROW_GROUP_ROWS
from training_core.schema import ModalitySpec

LARGE_PSI = 0.2
_CONFIDENCE = 0.999
_MAX_BLOCKS = 64  # of a part are read
_BLOCK_BYTES = 16 << 20
_KEPT_VALUES = 128  # of a block, for the deciles: 8192 per part
_MAX_CATEGORIES = 10_000  # are told apart; what comes later is counted together
_OTHERS = "\x00others"
_ABSENT = "\x00absent"


@dataclass
class Summary:
    """What is known of the values of one column, or of the row means of one array.

    Attributes:
        num_rows: that have the modality, absent cells included.
        num_present: values seen.
        weight: how many rows each row seen stands for.
        mean, spread: of the values seen; `spread` is their number times their variance.
        values: some of them, evenly spread.
        weights: for how many rows each of `values` stands.
        counts: rows per category, `_ABSENT` for those without.
    """

    num_rows: float = 0.0
    num_present: float = 0.0
    num_absent: float = 0.0
    mean: float = 0.0
    spread: float = 0.0
    values: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def std(self) -> float:
        """Standard deviation of the values."""
        return float(np.sqrt(self.spread / self.num_present)) if self.num_present else float("nan")

    def add_moments(self, count: float, mean: float, spread: float) -> None:
        """Join the moments of more values (Chan et al. 1983)."""
        if count:
            total = self.num_present + count
            delta = mean - self.mean
            self.spread += spread + delta * delta * self.num_present * count / total
            self.mean += delta * count / total
            self.num_present = total

    def scaled(self, factor: float) -> "Summary":
        """The same values, each standing for `factor` times as many rows."""
        return Summary(
            num_rows=self.num_rows * factor,
            num_present=self.num_present * factor,
            num_absent=self.num_absent * factor,
            mean=self.mean,
            spread=self.spread * factor,
            values=self.values,
            weights=[weight * factor for weight in self.weights],
            counts=Counter({key: count * factor for key, count in self.counts.items()}),  # pyright: ignore[reportArgumentType]
        )


def joined(summaries: Iterable[Summary]) -> Summary:
    """What is known of the rows of several summaries together."""
    whole = Summary()
    for part in summaries:
        whole.num_rows += part.num_rows
        whole.num_absent += part.num_absent
        whole.add_moments(part.num_present, part.mean, part.spread)
        whole.values += part.values
        whole.weights += part.weights
        whole.counts.update(part.counts)
    return whole


def summarise(part: Part, served: np.ndarray, modality: ModalitySpec) -> dict[str, Summary]:
    """Per column of a table or text (a text by its number of characters), or for the array, its summary.

    Args:
        part: where to read.
        served: bool [n], the rows of the part that count.
        modality: what to read.
    """
    columns = [column.name for column in modality.columns] if modality.kind in {"tabular", "text"} else []
    names = {f"{modality.name}.{column}" for column in columns} or {modality.name}
    found = {name: Summary() for name in sorted(names)}
    has = table_cells.truths(part.take([f"__available__.{modality.name}"], None)[0]) & served
    seen = 0
    cache: RowGroupCache = {}
    for rows in _blocks(part, modality.name if not columns else None):
        wanted = rows[has[rows]]
        seen += len(wanted)
        if not len(wanted):
            continue
        if not columns:
            _add_array(found[modality.name], part, modality.name, wanted)
            continue
        table = part.take(sorted(names), wanted, cache)
        for column in modality.columns:
            name = f"{modality.name}.{column.name}"
            if column.categories is not None:
                _add_categories(found[name], table_cells.texts(table[name]))
            elif modality.kind == "text":
                lengths = [np.nan if cell is None else len(cell) for cell in table_cells.texts(table[name])]
                add_numbers(found[name], np.asarray(lengths, np.float64))
            else:
                add_numbers(found[name], table_cells.numbers(table[name]))
    factor = float(has.sum()) / seen if seen else 1.0
    return {name: summary.scaled(factor) for name, summary in found.items()}


def add_numbers(summary: Summary, values: np.ndarray) -> None:
    """Take numbers, float64 [n]; what is not finite counts as absent."""
    finite = values[np.isfinite(values)]
    summary.num_rows += len(values)
    summary.num_absent += len(values) - len(finite)
    if len(finite):
        mean = float(finite.mean())
        summary.add_moments(len(finite), mean, float(((finite - mean) ** 2).sum()))
        kept = finite[np.linspace(0, len(finite) - 1, min(_KEPT_VALUES, len(finite))).astype(np.int64)]
        summary.values.append(kept)
        summary.weights.append(np.full(len(kept), len(finite) / len(kept)))


def category_divergence(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, bool]:
    """PSI of two counts per category, and whether it is a change; rare categories are one bin."""
    names = sorted(before.keys() | after.keys())
    p, q = (np.asarray([counts.get(name, 0) for name in names], np.float64) for counts in (before, after))
    rare = p + q < max(5.0, 0.001 * (p.sum() + q.sum()))
    if rare.sum() > 1:
        p, q = (np.append(v[~rare], v[rare].sum()) for v in (p, q))
    return _psi(p, q, p.sum(), q.sum())


def number_divergence(before: Summary, after: Summary) -> tuple[float, bool]:
    """PSI of two distributions of numbers at the deciles of the first, and whether it is a change."""
    if not before.values or not after.values:
        return _psi(np.asarray([before.num_present, before.num_absent]),
                    np.asarray([after.num_present, after.num_absent]), before.num_rows, after.num_rows)  # fmt: skip
    old, new = np.concatenate(before.values), np.concatenate(after.values)
    edges = np.unique(np.quantile(old, np.linspace(0.1, 0.9, 9), weights=np.concatenate(before.weights),
                                  method="inverted_cdf"))  # fmt: skip

    def counts(summary: Summary, values: np.ndarray) -> np.ndarray:
        # a value that equals an edge is in a bin of its own: whole numbers have many
        bins = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
        found = np.bincount(bins, np.concatenate(summary.weights), minlength=2 * len(edges) + 1)
        return np.append(found, summary.num_absent)

    # the divergence is as sure as the values that were kept are many, not as the rows they stand for
    seen = [len(old) * before.num_rows / before.num_present, len(new) * after.num_rows / after.num_present]
    return _psi(counts(before, old), counts(after, new), *seen)


def _psi(before: np.ndarray, after: np.ndarray, num_before: float, num_after: float) -> tuple[float, bool]:
    """PSI of two histograms that stand for so many independent values, and whether it is a change."""
    from scipy.stats import chi2

    used = (before > 0) | (after > 0)
    if not before.sum() or not after.sum() or used.sum() < 2:
        return 0.0, False
    p, q = (
        (v[used] / v.sum() * n + 0.5) / (n + 0.5 * used.sum()) for v, n in ((before, num_before), (after, num_after))
    )
    divergence = float(((q - p) * np.log(q / p)).sum())
    chance = float(chi2.ppf(_CONFIDENCE, int(used.sum()) - 1)) * (1 / num_before + 1 / num_after)
    return divergence, divergence >= max(LARGE_PSI, chance)


def _blocks(part: Part, array: str | None) -> Iterator[np.ndarray]:
    """Runs of rows: all of them, or `_MAX_BLOCKS` that are spread evenly."""
    size = ROW_GROUP_ROWS if array is None else max(1, min(ROW_GROUP_ROWS, _BLOCK_BYTES // part.row_bytes(array)))
    count = -(-part.num_rows // size)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MAX_BLOCKS)).astype(np.int64)) if count else ()
    for block in chosen:
        yield np.arange(block * size, min((block + 1) * size, part.num_rows))


def _add_array(summary: Summary, part: Part, name: str, rows: np.ndarray) -> None:
    values = np.empty((len(rows), *part.arrays[name]["shape"]), np.dtype(part.arrays[name]["dtype"]))
    part.read_array(name, rows, values, slice(0, len(rows)))
    add_numbers(summary, values.reshape(len(rows), -1).mean(axis=1, dtype=np.float64))


def _add_categories(summary: Summary, cells: np.ndarray) -> None:
    summary.num_rows += len(cells)
    for cell, count in Counter(cells.tolist()).items():
        name = _ABSENT if cell is None else cell
        if name not in summary.counts and len(summary.counts) >= _MAX_CATEGORIES:
            name = _OTHERS
        summary.counts[name] += count

"""A profile of the data: what one pass over the rows, in bounded memory, tells about every column and modality."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.quality.arrays import ArrayProfile
from training_core.data.quality.columns import CategoryColumn, NumericColumn, TextColumn, as_float64
from training_core.data.quality.hashing import ABSENT, combine
from training_core.data.quality.streaming import RowSample
from training_core.data.quality.summary import ModalitySummary, ProfileSummary
from training_core.schema import DataSpec, ModalitySpec

if TYPE_CHECKING:
    import pyarrow as pa

    from training_core.data.storage.parts import Block

MAX_SAMPLED_ROWS = 20_000
"""Enough for 1 % quantiles, and for telling an R² of .95 from one of .9 by a wide margin."""
MIN_SAMPLED_ROWS = 2_000
"""Rows are given up for features only down to here; then the last features of the widest vectors are left out."""
SAMPLE_BYTES = 64_000_000
TELLING_CHARACTERS = 40
"""A text of fewer characters ("a great dress, it fits well") is repeated by chance and says nothing about copies."""
_MIN_ID_MATCHES = 0.5  # below this share of cells equal to the row's id a column is not compared any further


@dataclass(frozen=True)
class Sample:
    """A sample of the rows, the same for the same rows however they were cut into blocks.

    `rows` int64 [m]: their numbers, ascending. `numbers`: per table column float64 [m], absent cells NaN.
    `hashes`: per column of categories or texts uint64 [m], `ABSENT` where absent. `vectors`: per vector modality
    float32 [m, features], NaN where absent; the last features are left out when they do not fit.
    """

    rows: np.ndarray
    numbers: Mapping[str, np.ndarray]
    hashes: Mapping[str, np.ndarray]
    vectors: Mapping[str, np.ndarray]


class Profile:
    """Statistics of blocks of consecutive rows, in one pass; of a row that lacks a modality nothing of it counts.

    Memory: about 120 MB for the sample and the statistics whatever the number of rows and features, and besides
    9 bytes per row and modality for the hashes by which equal rows are found.

    Args:
        spec: of the raw rows. Categories need not be known yet: a table column of strings holds categories.
    """

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.num_rows = 0
        self.arrays = {m.name: ArrayProfile(m.shape) for m in spec.modalities if m.kind not in {"tabular", "text"}}
        self.available = dict.fromkeys(spec.names, 0)
        self.id_matches: dict[str, int] = {}
        """Per table column how many cells equal the id of their row, as long as most do."""
        self._columns: dict[str, NumericColumn | CategoryColumn | TextColumn] = {}
        self._sample: RowSample | None = None
        self._features: dict[str, int] = {}
        self._hashes: dict[str, list[np.ndarray]] = {name: [] for name in spec.names}
        self._telling: dict[str, list[np.ndarray]] = {name: [] for name in spec.names}

    def update(self, block: "Block") -> None:
        """Add the rows of a block, which follow those of the block before."""
        if not block.table.num_rows:
            return
        if self._sample is None:
            self._sample = self._start(block)
        chosen, slots = self._sample.choose(block.table.num_rows)
        for modality in self.spec.modalities:
            available = as_float64(_column(block.table, f"__available__.{modality.name}")) == 1
            self.available[modality.name] += int(available.sum())
            if modality.name in self.arrays:
                values = block.arrays[modality.name]
                hashes, tells, means = self.arrays[modality.name].update(values, available)
                self._sample.put(f"mean {modality.name}", slots, means[chosen])
                if modality.kind == "vector":
                    rows = values[chosen, : self._features[modality.name]].astype(np.float32)
                    rows[~available[chosen]] = np.nan
                    self._sample.put(modality.name, slots, rows)
            else:
                hashes, tells = self._update_columns(modality, block.table, available, chosen, slots)
                hashes[~available] = ABSENT
            self._telling[modality.name].append(tells & available)
            self._hashes[modality.name].append(hashes)
        self.num_rows += block.table.num_rows

    def summary(self) -> ProfileSummary:
        """Everything that is kept with a version."""
        return ProfileSummary(
            num_rows=self.num_rows,
            sampled_rows=0 if self._sample is None else len(self._sample.rows),
            modalities=tuple(self._summarise(modality) for modality in self.spec.modalities),
        )

    def sample(self) -> Sample:
        """The sampled rows, with their table cells and vectors."""
        kept = self._sample
        if kept is None:
            return Sample(np.empty(0, np.int64), {}, {}, {})
        numeric = [name for name, column in self._columns.items() if isinstance(column, NumericColumn)]
        return Sample(
            rows=kept.rows,
            numbers={name: kept.column(name) for name in numeric},
            hashes={name: kept.column(name) for name in self._columns if name not in numeric},
            vectors={name: kept.column(name) for name in self._features},
        )

    def hashes(self, modality: str) -> np.ndarray:
        """A 64-bit hash of the content of every row of a modality, uint64 [N]; `ABSENT` where it is not available."""
        return np.concatenate([*self._hashes[modality], np.empty(0, np.uint64)])

    def row_hashes(self) -> np.ndarray:
        """A 64-bit hash of all modalities of every row, uint64 [N]."""
        return combine([self.hashes(name) for name in self.spec.names])

    def telling(self, modality: str) -> np.ndarray:
        """Which rows have content of a modality that is not equal by chance, bool [N].

        An array that is not constant or a text of some length; never the cells of a table, of which few or many
        values may be possible.
        """
        return np.concatenate([*self._telling[modality], np.empty(0, bool)])

    def _start(self, block: "Block") -> RowSample:
        """Accumulators for the columns, and an empty sample that fits in memory."""
        for modality in self.spec.modalities:
            for column in modality.columns:
                key = f"{modality.name}.{column.name}"
                if modality.kind == "text":
                    self._columns[key] = TextColumn(column.name)
                elif column.categories is not None or _is_text(block.table.schema.field(key).type):
                    self._columns[key] = CategoryColumn(column.name)
                else:
                    self._columns[key] = NumericColumn(column.name)
                if modality.kind == "tabular":
                    self.id_matches[key] = 0
        wide = {m.name: m.num_features for m in self.spec.modalities if m.kind == "vector"}
        size, self._features = _sample_size(len(self._columns), wide)
        layout: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for key, column in self._columns.items():
            layout[key] = (), np.dtype(np.float64 if isinstance(column, NumericColumn) else np.uint64)
            if isinstance(column, TextColumn):
                layout[f"characters {key}"] = layout[f"words {key}"] = (), np.dtype(np.float64)
        for name in self.arrays:
            layout[f"mean {name}"] = (), np.dtype(np.float32)
        for name, width in self._features.items():
            layout[name] = (width,), np.dtype(np.float32)
        return RowSample(size, layout)

    def _update_columns(
        self, modality: ModalitySpec, table: "pa.Table", available: np.ndarray, chosen: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hashes [n] of the rows of a table or text modality, and which of them cannot be equal by chance, bool [n]."""
        assert self._sample is not None
        parts: list[np.ndarray] = []
        length = np.zeros(table.num_rows)
        for spec in modality.columns:
            key = f"{modality.name}.{spec.name}"
            column, cells = self._columns[key], _where(available, _column(table, key))
            if isinstance(column, NumericColumn):
                values, hashes = column.update(cells)
                self._sample.put(key, slots, values[chosen])
            else:
                cells = _as_text(cells)
                if isinstance(column, TextColumn):
                    hashes, characters, words = column.update(cells)
                    length += np.nan_to_num(characters)
                    self._sample.put(f"characters {key}", slots, characters[chosen])
                    self._sample.put(f"words {key}", slots, words[chosen])
                else:
                    hashes = column.update(cells)
                self._sample.put(key, slots, hashes[chosen])
            parts.append(hashes)
            self._match_ids(key, cells, table)
        return combine(parts), length >= TELLING_CHARACTERS  # of texts: the cells of a table have no length

    def _match_ids(self, key: str, cells: "pa.Array", table: "pa.Table") -> None:
        """Count cells that are the id of their row; columns of fractions hold none."""
        import pyarrow as pa

        if key not in self.id_matches:
            return
        if not (pa.types.is_integer(cells.type) or _is_text(cells.type)):
            del self.id_matches[key]
            return
        ids = np.asarray(_as_text(_column(table, "__id__")).to_pylist(), object)
        self.id_matches[key] += int((np.asarray(_as_text(cells).to_pylist(), object) == ids).sum())
        if self.id_matches[key] < _MIN_ID_MATCHES * (self.num_rows + len(cells)):
            del self.id_matches[key]

    def _summarise(self, modality: ModalitySpec) -> ModalitySummary:
        hashes = self.hashes(modality.name)
        present = hashes[hashes != ABSENT]
        known = {
            "name": modality.name,
            "kind": modality.kind,
            "shape": modality.shape,
            "available": self.available[modality.name],
            "repeated": len(present) - len(np.unique(present)),
        }
        kept = self._sample
        if kept is None:
            return ModalitySummary(**known)
        if modality.name in self.arrays:
            array = self.arrays[modality.name].summary(kept.column(f"mean {modality.name}"))
            return ModalitySummary(**known, array=array)
        columns = []
        for spec in modality.columns:
            key = f"{modality.name}.{spec.name}"
            column = self._columns[key]
            if isinstance(column, NumericColumn):
                columns.append(column.summary(kept.column(key)))
            elif isinstance(column, CategoryColumn):
                columns.append(column.summary())
            else:
                columns.append(column.summary(kept.column(f"characters {key}"), kept.column(f"words {key}")))
        return ModalitySummary(**known, columns=tuple(columns))


def _sample_size(num_columns: int, wide: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Rows to sample, and features of each vector modality, so that all fit in `SAMPLE_BYTES`.

    As many rows as fit, between `MIN_SAMPLED_ROWS` and `MAX_SAMPLED_ROWS`. Where even the fewest do not fit, every
    vector modality is cut to the same number of leading features.
    """
    column_bytes = 24 * num_columns + 4  # texts have a hash and two lengths
    size = SAMPLE_BYTES // (column_bytes + 4 * sum(wide.values()))
    if size >= MIN_SAMPLED_ROWS:
        return min(size, MAX_SAMPLED_ROWS), dict(wide)
    left = max(SAMPLE_BYTES // MIN_SAMPLED_ROWS - column_bytes, 0) // 4
    features: dict[str, int] = {}
    for position, (name, width) in enumerate(sorted(wide.items(), key=lambda item: item[1])):
        features[name] = min(width, max(left // (len(wide) - position), 1))  # what narrow ones leave goes to wide ones
        left -= features[name]
    return MIN_SAMPLED_ROWS, {name: features[name] for name in wide}


def _column(table: "pa.Table", name: str) -> "pa.Array":
    import pyarrow as pa

    cells = table.column(name).combine_chunks()
    return pa.concat_arrays(cells.chunks) if isinstance(cells, pa.ChunkedArray) else cells


def _where(available: np.ndarray, cells: "pa.Array") -> "pa.Array":
    """The cells, absent where their modality is: what is not available counts nowhere."""
    import pyarrow as pa
    import pyarrow.compute as pc

    compute: Any = pc  # its functions are made at run time
    return cells if available.all() else compute.if_else(pa.array(available), cells, pa.scalar(None, cells.type))


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _as_text(cells: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    return cells if pa.types.is_string(cells.type) else pc.cast(cells, pa.string())

"""One published version of a data set, and the samples in it, wherever its parts are.

Columns of small tables are read once and kept; large ones, and arrays, are read for the rows asked for.
"""

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.artifacts import hold_shared, is_published, missing_files
from training_core.data.splitting.splits import SET_ASIDE, SPLITS
from training_core.data.storage import table_cells
from training_core.data.storage.collection import stored_bytes
from training_core.data.storage.part_reading import Part, RowGroupCache, by_part, distinct_rows, read_rows, reading
from training_core.data.storage.parts import is_array_name, part_folder
from training_core.data.storage.table_cells import category_codes as category_codes
from training_core.data.storage.table_cells import join_text as join_text
from training_core.errors import ConfigError, DataError, StorageError
from training_core.schema import DataSpec, ModalitySpec, Samples

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from training_core.data.views import View

FORMAT_VERSION = 2
SPLIT_CODES = (*SPLITS, SET_ASIDE)
"""What the codes of `split.npy` stand for."""
_KEPT_BYTES = 256 << 20  # of tables are kept in memory, per data set
_BLOCK_ROWS = 1 << 16  # rows of a table that is read whole, at a time


class Dataset:
    """A published version of a data set. While it is in use, nobody removes its files.

    Attributes:
        path: its folder.
        manifest: what `manifest.json` says.
        name: of the data set.
        version: the first digits of the fingerprint.
        fingerprint: SHA-256 of the content, in hexadecimal.
        spec: of its samples.
        num_rows: N, those that were set aside included.
        parts: where its rows are, in order.

    Raises:
        StorageError: the folder is not a whole version, was removed, or was written by another release.
    """

    def __init__(self, path: Path) -> None:
        if not is_published(path):
            raise StorageError(f"{path} is not a complete dataset version; prepare it again")
        self.path = path
        with reading(path):
            held = hold_shared(path / "manifest.json")
            if held is None and not (path.exists() and missing_files(path)):
                raise StorageError(f"{path} was removed meanwhile; open the latest version")
            self._release = weakref.finalize(self, _close, held)
            if gone := missing_files(path):
                raise StorageError(f"{path}: file '{gone[0]}' is missing; prepare the dataset again")
            self.manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            if self.manifest.get("format") != FORMAT_VERSION:
                raise StorageError(
                    f"{path} has format {self.manifest.get('format')}, this release reads {FORMAT_VERSION}; "
                    "prepare the dataset again"
                )
            self.name: str = self.manifest["name"]
            self.version: str = self.manifest["version"]
            self.fingerprint: str = self.manifest["fingerprint"]
            self.num_rows: int = self.manifest["num_rows"]
            self.spec = DataSpec.model_validate(self.manifest["spec"])
            if odd := [name for name in self.spec.names if not is_array_name(name)]:
                raise StorageError(f"{path}: '{odd[0]}' cannot name a modality; prepare the dataset again")
            self.parts = tuple(
                Part(part_folder(path.parent / "parts", listed["digest"]), listed["digest"], listed["num_rows"])
                for listed in self.manifest["parts"]
            )
            self._split: np.ndarray = np.load(path / "split.npy", allow_pickle=False)
        if not sum(part.num_rows for part in self.parts) == self.num_rows == len(self._split):
            raise StorageError(f"{path}: its parts, split and manifest disagree on how many rows there are")
        if self._split.dtype != np.uint8 or (self._split >= len(SPLIT_CODES)).any():
            raise StorageError(f"{path}: split.npy names a split that there is not; prepare the dataset again")
        self._kept: dict[str, Any] = {}
        self._kept_bytes = 0
        self._types: dict[str, pa.DataType] = {}

    def __repr__(self) -> str:
        return f"Dataset({self.ref!r}, {self.num_rows} rows)"

    def __len__(self) -> int:
        return self.num_rows

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def parent(self) -> str | None:
        """The version this one was made from; None when it was prepared anew."""
        return self.manifest["lineage"].get("parent")

    def quality(self) -> dict[str, Any] | None:
        """The quality report of the version; None when it has none."""
        path = self.path / "quality.json"
        with reading(self.path):
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def num_bytes(self) -> int:
        """Bytes on the disk, those of parts that other versions have as well included."""
        return sum(stored_bytes(folder) for folder in (self.path, *(part.path for part in self.parts)))

    def dtype(self, modality: str) -> str:
        """How a modality is stored: the dtype of an array, the types of a table's columns."""
        spec = self.spec[modality]
        if spec.kind not in {"tabular", "text"}:
            return str(np.result_type(*(np.dtype(part.arrays[modality]["dtype"]) for part in self.parts)))
        names = [f"{modality}.{column.name}" for column in spec.columns]
        return ", ".join(sorted({part.columns[name]["type"] for part in self.parts for name in names}))

    def close(self) -> None:
        """Let others remove the version; done by itself when nobody has the data set any more."""
        self._release()

    def rows(self, split: str) -> np.ndarray:
        """Positions of the rows of "train", "validation" (may be none) or "test", sorted, int64.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in SPLITS:
            raise ConfigError(f"no split '{split}'; choose one of {', '.join(SPLITS)}")
        return np.flatnonzero(self._split == SPLITS.index(split))

    def quarantined(self) -> np.ndarray:
        """Positions of the rows that were set aside and are in no split, sorted, int64."""
        return np.flatnonzero(self._split == SPLIT_CODES.index(SET_ASIDE))

    def split(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Per row (all by default) "train", "validation", "test" or "quarantined", str objects."""
        codes = self._split if rows is None else self._split[self._positions(rows)]
        return np.asarray(SPLIT_CODES, object)[codes]

    def ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Ids of the samples at `rows` (all by default), str objects."""
        return self._text("__id__", rows)

    def groups(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Groups of the samples at `rows` (all by default), str objects; None when there are none."""
        return self._text("__group__", rows) if self.manifest["has_groups"] else None

    def times(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Times of the samples at `rows` (all by default), float64 or datetime64 (UTC); None when there are none."""
        if not self.manifest["has_times"]:
            return None
        return table_cells.times(self._cells(["__time__"], rows)["__time__"])

    def target(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Targets of the samples at `rows` (all by default), as in `Samples`.

        Of a row that was set aside it may be unknown: -1 for a class, NaN for a number.
        """
        return self._target(rows, None)

    def available(self, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Per modality whether the samples at `rows` (all by default) have it, bool."""
        return self._available(self.spec.names, rows, None)

    def samples(self, rows: np.ndarray | None = None, modalities: Iterable[str] | None = None) -> Samples:
        """The samples at `rows` (all by default; repeats allowed), raw; only of `modalities` (all by default).

        Raises:
            DataError: there is no such row or modality.
            StorageError: a file does not read back.
        """
        return self._samples(rows, modalities, None)

    def blocks(self, rows: np.ndarray, num_rows: int, modalities: Iterable[str] | None = None) -> Iterator[Samples]:
        """The samples at `rows` in pieces of `num_rows` (the last of what is left), none of them kept.

        Rows in increasing order are read as a stream, and of tables, too, nothing is kept.

        Raises:
            DataError: there is no such row or modality.
            StorageError: a file does not read back.
        """
        positions = self._positions(rows)
        names = None if modalities is None else tuple(modalities)
        cache: RowGroupCache | None = {} if (np.diff(positions) > 0).all() else None
        for start in range(0, len(positions), num_rows):
            yield self._samples(positions[start : start + num_rows], names, cache)

    def frame(self, modality: str | None = None, rows: np.ndarray | None = None) -> "pd.DataFrame":
        """The raw cells of a table or text at `rows` (all by default), exactly as given, each column in its type.

        Whole numbers and truths of which some are absent come as pandas' nullable types. Without a `modality`: `id`,
        `group`, `time` (in the zone given), `target` (`target.<column>` when there are several) and `split`.

        Raises:
            DataError: the modality has no columns.
            StorageError: a file does not read back.
        """
        if modality is None:
            names = {"__id__": "id"}
            names |= {"__group__": "group"} if self.manifest["has_groups"] else {}
            names |= {"__time__": "time"} if self.manifest["has_times"] else {}
            targets = self.manifest["target_names"]
            names |= {f"__target__.{t}": "target" if len(targets) == 1 else f"target.{t}" for t in targets}
        else:
            if self.spec[modality].kind not in {"tabular", "text"}:
                raise DataError(f"'{modality}' is an array; read it with `array`")
            names = {f"{modality}.{column.name}": column.name for column in self.spec[modality].columns}
        has_null = {new for old, new in names.items() if any(part.columns[old]["num_null"] for part in self.parts)}
        frame = table_cells.frame({names[n]: cells for n, cells in self._cells(list(names), rows).items()}, has_null)
        if modality is None:
            frame["split"] = self.split(rows)
        return frame

    def array(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """The array of a modality at `rows` (all by default), exactly as given, in its own dtype.

        Raises:
            DataError: the modality has columns.
            StorageError: a file does not read back.
        """
        return self._array(name, rows, None)

    def array_stores(self, name: str) -> list[tuple[Path, int]]:
        """Per part the folder of the Zarr array of a modality, and its rows.

        Raises:
            DataError: the modality has columns.
        """
        self._check_array(name)
        return [(part.array_path(name), part.num_rows) for part in self.parts]

    def subset(
        self,
        rows: np.ndarray | None = None,
        modalities: Iterable[str] | None = None,
        features: Mapping[str, Sequence[int | str]] | None = None,
    ) -> "View":
        """Some rows (positions, repeats allowed), modalities and feature columns; nothing is copied."""
        from training_core.data.views import View

        return View(self, rows, modalities, features)

    def _samples(
        self, rows: np.ndarray | None, modalities: Iterable[str] | None, cache: RowGroupCache | None
    ) -> Samples:
        wanted = None if modalities is None else set(modalities)
        if unknown := (wanted or set()) - set(self.spec.names):
            self.spec[min(unknown)]
        specs = [modality for modality in self.spec.modalities if wanted is None or modality.name in wanted]
        positions = None if rows is None else self._positions(rows)
        return Samples(
            inputs={modality.name: self._input(modality, positions, cache) for modality in specs},
            available=self._available([modality.name for modality in specs], positions, cache),
            ids=self._text("__id__", positions, cache),
            target=self._target(positions, cache),
            groups=self._text("__group__", positions, cache) if self.manifest["has_groups"] else None,
        )

    def _input(self, modality: ModalitySpec, rows: np.ndarray | None, cache: RowGroupCache | None) -> np.ndarray:
        if modality.kind == "tabular":
            return self._tabular(modality, rows, cache)
        if modality.kind == "text":
            names = [f"{modality.name}.{column.name}" for column in modality.columns]
            return join_text([table_cells.texts(cells) for cells in self._cells(names, rows, cache).values()])
        return self._array(modality.name, rows, np.dtype(np.float32))

    def _tabular(self, modality: ModalitySpec, rows: np.ndarray | None, cache: RowGroupCache | None) -> np.ndarray:
        """A table as numbers [rows, columns], kept when it is small."""
        names = [f"{modality.name}.{column.name}" for column in modality.columns]

        def read(rows: np.ndarray | None, cache: RowGroupCache | None) -> np.ndarray:
            cells = self._read(names, rows, cache)
            out = np.empty((self.num_rows if rows is None else len(rows), len(names)))
            for i, (column, name) in enumerate(zip(modality.columns, names, strict=True)):
                if column.categories is None:
                    out[:, i] = table_cells.numbers(cells[name])
                else:
                    out[:, i] = table_cells.codes(cells[name], column.categories)
            return out

        key = f"input {modality.name}"
        if cache is None and key not in self._kept and self._keeps(self.num_rows * len(names) * 8):
            whole = np.empty((self.num_rows, len(names)))
            once: RowGroupCache = {}
            for start in range(0, self.num_rows, _BLOCK_ROWS):
                block = np.arange(start, min(start + _BLOCK_ROWS, self.num_rows))
                whole[block] = read(block, once)
            self._kept[key] = whole
        if key in self._kept:
            return self._kept[key].copy() if rows is None else self._kept[key][rows]
        return read(rows, cache)

    def _target(self, rows: np.ndarray | None, cache: RowGroupCache | None) -> np.ndarray:
        task = self.spec.task
        names = [f"__target__.{name}" for name in self.manifest["target_names"]]
        cells = self._cells(names, rows, cache)
        if task.kind == "classification":
            codes = table_cells.codes(cells[names[0]], task.classes)
            return np.where(np.isnan(codes), -1, codes).astype(np.int64)
        values = np.column_stack([table_cells.numbers(cells[name]) for name in names])
        return values.astype(np.float32 if task.kind == "multilabel" else np.float64)

    def _available(
        self, names: Sequence[str], rows: np.ndarray | None, cache: RowGroupCache | None
    ) -> dict[str, np.ndarray]:
        cells = self._cells([f"__available__.{name}" for name in names], rows, cache)
        return {name: table_cells.truths(cells[f"__available__.{name}"]) for name in names}

    def _text(self, name: str, rows: np.ndarray | None, cache: RowGroupCache | None = None) -> np.ndarray:
        return table_cells.texts(self._cells([name], rows, cache)[name])

    def _array(self, name: str, rows: np.ndarray | None, dtype: np.dtype | None) -> np.ndarray:
        """Rows of an array as `dtype`, its own by default (of parts that differ, one that holds them all)."""
        self._check_array(name)
        dtype = np.dtype(self.dtype(name)) if dtype is None else dtype
        positions = np.arange(self.num_rows) if rows is None else self._positions(rows)
        return read_rows(self.parts, name, positions, np.empty((len(positions), *self.spec[name].shape), dtype))

    def _check_array(self, name: str) -> None:
        if self.spec[name].kind in {"tabular", "text"}:
            raise DataError(f"'{name}' is no array; read its columns with `frame`")

    def _cells(
        self, names: Sequence[str], rows: np.ndarray | None, cache: RowGroupCache | None = None
    ) -> "dict[str, pa.ChunkedArray]":
        """Columns at `rows` in their own types; small ones are kept, unless a stream (with a cache) reads them."""
        import pyarrow as pa

        if rows is not None:
            rows = self._positions(rows)
        if cache is None:
            fresh = []
            for name in names:
                size = sum(part.columns[name]["num_bytes"] for part in self.parts if name in part.columns)
                if name not in self._kept and self._keeps(size):
                    fresh.append(name)
            for name, column in self._read(fresh, None, None).items():
                self._kept[name] = pa.chunked_array([column.combine_chunks()], column.type)
        found = self._read([name for name in names if name not in self._kept], rows, cache)
        for name in names:
            if name in self._kept:
                column = self._kept[name]
                found[name] = column if rows is None else column.take(pa.array(rows))
        return {name: found[name] for name in names}

    def _read(
        self, names: Sequence[str], rows: np.ndarray | None, cache: RowGroupCache | None
    ) -> "dict[str, pa.ChunkedArray]":
        """Columns at `rows` from the disk."""
        import pyarrow as pa

        if not names:
            return {}
        with reading(self.path):
            if new := [name for name in names if name not in self._types]:
                self._types |= table_cells.common_types([part.types() for part in self.parts], new)
            schema = pa.schema([(name, self._types[name]) for name in names])
            distinct, inverse = (None, None) if rows is None else distinct_rows(rows)
            if distinct is None:
                pieces = [part.take(names, None, cache) for part in self.parts]
            else:
                pieces = [part.take(names, inside, cache) for part, _, _, inside in by_part(self.parts, distinct)]
            table = pa.concat_tables([piece.cast(schema, safe=False) for piece in pieces] or [schema.empty_table()])
            if inverse is not None:
                table = table.take(pa.array(inverse))
            return {name: table[name] for name in names}

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        positions = np.asarray(rows)
        positions = np.flatnonzero(positions) if positions.dtype == bool else positions.astype(np.int64, copy=False)
        if len(positions) and (positions.min() < 0 or positions.max() >= self.num_rows):
            odd = positions[(positions < 0) | (positions >= self.num_rows)][0]
            raise DataError(f"{self.ref} has no row {odd}; its {self.num_rows} rows count from 0")
        return positions

    def _keeps(self, num_bytes: int) -> bool:
        """Whether so much more may be kept; then it is reckoned as kept."""
        if self._kept_bytes + num_bytes > _KEPT_BYTES:
            return False
        self._kept_bytes += num_bytes
        return True


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)

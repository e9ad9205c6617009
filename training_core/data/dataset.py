"""One published version of a data set, and the samples in it.

What is cheap (table columns, target, groups) is read once and kept; arrays are read for the rows asked for.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from training_core.artifacts import is_published
from training_core.data.splits import SPLITS
from training_core.errors import ConfigError, StorageError
from training_core.schema import DataSpec, ModalitySpec, Samples

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
_WHOLE_READ = 0.25  # from this fraction of the rows on, reading an array whole is faster than picking rows


class Dataset:
    """A published version of a data set.

    Attributes:
        path: its folder.
        manifest: what `manifest.json` says.
        name: of the data set.
        version: the first digits of the fingerprint.
        fingerprint: SHA-256 of the content, in hexadecimal.
        spec: of its samples.
        num_rows: N.

    Raises:
        StorageError: the folder is not a whole version, or was written by another release.
    """

    def __init__(self, path: Path) -> None:
        if not is_published(path):
            raise StorageError(f"{path} is not a complete dataset version; prepare it again")
        self.path = path
        with self._reading():
            listed = json.loads((path / "checksums.json").read_text(encoding="utf-8"))
            self.manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            if gone := [file for file in listed if not (path / file).is_file()]:
                raise StorageError(f"{path}: file '{gone[0]}' is missing; prepare the dataset again")
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
        self._kept: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Dataset({self.ref!r}, {self.num_rows} rows)"

    def __len__(self) -> int:
        return self.num_rows

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    def rows(self, split: str) -> np.ndarray:
        """Positions of the rows of "train", "validation" (may be none) or "test", sorted, int64.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in SPLITS:
            raise ConfigError(f"no split '{split}'; choose one of {', '.join(SPLITS)}")
        return np.flatnonzero(self._strings("__split__") == split)

    def ids(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Ids of the samples at `rows` (all by default), str objects."""
        return _at(self._strings("__id__"), rows)

    def groups(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Groups of the samples at `rows` (all by default), str objects; None when there are none."""
        return _at(self._strings("__group__"), rows) if self.manifest["has_groups"] else None

    def times(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Times of the samples at `rows` (all by default), float64 or datetime64; None when there are none."""
        return _at(self._table["__time__"].to_numpy(), rows) if self.manifest["has_times"] else None

    def target(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Targets of the samples at `rows` (all by default), as in `Samples`."""
        return _at(self._keep("target", self._read_target), rows)

    def available(self, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Per modality whether the samples at `rows` (all by default) have it, bool."""
        return {name: _at(self._table[f"__available__.{name}"].to_numpy(bool), rows) for name in self.spec.names}

    def samples(self, rows: np.ndarray | None = None) -> Samples:
        """The samples at `rows` (all by default; repeats allowed), raw.

        Raises:
            StorageError: a file does not read back.
        """
        positions = np.arange(self.num_rows) if rows is None else np.asarray(rows, np.int64)
        return Samples(
            inputs={modality.name: self._input(modality, positions) for modality in self.spec.modalities},
            available=self.available(positions),
            ids=self.ids(positions),
            target=self.target(positions),
            groups=self.groups(positions),
        )

    @property
    def _table(self) -> "pd.DataFrame":
        return self._keep("table", self._read_table)

    def _read_table(self) -> "pd.DataFrame":
        import pyarrow.parquet as pq

        with self._reading():
            frame = pq.ParquetFile(self.path / "table.parquet").read(use_threads=False).to_pandas()
        if len(frame) != self.num_rows:
            raise StorageError(f"{self.path}: table.parquet has {len(frame)} rows, the manifest says {self.num_rows}")
        return frame

    def _strings(self, column: str) -> np.ndarray:
        """A text column as str objects, absent cells None."""

        def read() -> np.ndarray:
            values = self._table[column]
            return values.astype(object).where(values.notna(), None).to_numpy(object)

        return self._keep(column, read)

    def _read_target(self) -> np.ndarray:
        task = self.spec.task
        names = [f"__target__.{name}" for name in self.manifest["target_names"]]
        if task.kind == "classification":
            codes = {label: code for code, label in enumerate(task.classes)}
            return np.asarray([codes[label] for label in self._strings(names[0])], np.int64)
        return self._table[names].to_numpy(np.float32 if task.kind == "multilabel" else np.float64)

    def _input(self, modality: ModalitySpec, rows: np.ndarray) -> np.ndarray:
        if modality.kind == "tabular":
            return self._keep(f"input {modality.name}", lambda: self._read_tabular(modality))[rows]
        if modality.kind == "text":
            return self._keep(f"input {modality.name}", lambda: self._read_text(modality))[rows]
        return self._read_array(modality.name, rows)

    def _read_tabular(self, modality: ModalitySpec) -> np.ndarray:
        columns = []
        for column in modality.columns:
            name = f"{modality.name}.{column.name}"
            if column.categories is None:
                columns.append(self._table[name].to_numpy(np.float64))
            else:
                columns.append(category_codes(self._strings(name), column.categories))
        return np.column_stack(columns)

    def _read_text(self, modality: ModalitySpec) -> np.ndarray:
        return join_text([self._strings(f"{modality.name}.{column.name}") for column in modality.columns])

    def _read_array(self, name: str, rows: np.ndarray) -> np.ndarray:
        import zarr

        with self._reading():
            array: Any = zarr.open_group(self.path / "arrays.zarr", mode="r")[name]
            distinct, position = np.unique(rows, return_inverse=True)
            if len(distinct) >= _WHOLE_READ * self.num_rows:
                values = np.asarray(array[:])[rows]
            else:
                values = np.asarray(array.oindex[distinct])[position]
        return values.astype(np.float32, copy=False)

    def _keep(self, key: str, read: Callable[[], Any]) -> Any:
        """What `read` gives, read once."""
        if key not in self._kept:
            self._kept[key] = read()
        return self._kept[key]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A file of the version that does not read back is a StorageError naming the version."""
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise StorageError(f"{self.path} does not read back ({reason}); prepare the dataset again") from error


def category_codes(values: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    """Categories [N] (str objects) as codes, float64: positions in `categories`; NaN for an absent or unknown one."""
    codes: Mapping[str | None, float] = {category: float(code) for code, category in enumerate(categories)}
    return np.asarray([codes.get(value, np.nan) for value in values], np.float64)


def join_text(columns: list[np.ndarray]) -> np.ndarray:
    """Text columns (str objects, absent None) joined by a space into one text per row, str objects [N]."""
    out = np.empty(len(columns[0]), object)
    out[:] = [" ".join(part for part in row if part) for row in zip(*columns, strict=True)]
    return out


def _at(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    return values.copy() if rows is None else values[rows]

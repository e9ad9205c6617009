"""The files of a source, lined up: every column and array comes back with one entry per sample, in sample order."""

from pathlib import Path

import numpy as np

from training_core.data.readers import (
    array_names,
    as_numbers,
    as_text,
    as_times,
    column_names,
    read_array,
    read_arrays,
    read_table,
)
from training_core.data.source import TABLE_SUFFIXES, SourceConfig
from training_core.errors import DataError


class AlignedFiles:
    """Reads the files of a source, each once, and aligns them by id or by row.

    With `id` in the source, its column names and orders the samples; a table with a column of that name (or an npz
    file with an array of that name) is aligned by it, and a sample it does not list is absent from it. All other
    files are aligned by row and have to be as long as there are samples.

    Attributes:
        ids: of the samples, str objects [N]; row numbers when the source has no `id`.
        unmatched: per file aligned by id, how many of its rows belong to no sample and were left out.

    Raises:
        DataError: an id is absent or occurs twice, or a file cannot be read.
    """

    def __init__(self, config: SourceConfig, folder: Path) -> None:
        self._folder = folder
        self._id_file = config.id.file if config.id else None
        self._id_column = config.id.column if config.id else None
        wanted: dict[str, list[str]] = {}
        target = config.task.target
        references = [(ref.file, (ref.column,)) for ref in (config.id, config.group, config.time) if ref]
        if config.split.file and config.split.column:
            references.append((config.split.file, (config.split.column,)))
        inputs = [(modality.file, modality.columns) for modality in config.modalities.values() if modality.columns]
        for file, columns in [(target.file, target.names), *references, *inputs]:
            wanted.setdefault(file, []).extend(columns)
        self._tables = {}
        for file, columns in wanted.items():
            own_ids = [self._id_column] if self._id_column in column_names(folder / file) else []
            self._tables[file] = read_table(folder / file, [*own_ids, *columns])
        self._reference = self._id_file or target.file
        if self._id_file and self._id_column:
            where = f"{self._id_file}, id column '{self._id_column}'"
            self.ids = _unique_ids(as_text(self._tables[self._id_file][self._id_column]), where)
        else:
            self.ids = np.asarray([str(row) for row in range(len(self._tables[self._reference]))], object)
        self.unmatched: dict[str, int] = {}
        self._positions: dict[str, np.ndarray | None] = {}

    def numbers(self, file: str, column: str) -> np.ndarray:
        """A column as float64 [N], absent cells NaN.

        Raises:
            DataError: a cell is not a finite number, or the file cannot be aligned.
        """
        values = as_numbers(self._tables[file][column], f"{file}, column '{column}'")
        return _take(values, self._position(file, len(values)), np.nan)

    def text(self, file: str, column: str) -> np.ndarray:
        """A column as str objects [N], absent cells None.

        Raises:
            DataError: the file cannot be aligned.
        """
        values = as_text(self._tables[file][column])
        return _take(values, self._position(file, len(values)), None)

    def times(self, file: str, column: str) -> np.ndarray:
        """A column of numbers (float64) or dates (datetime64, UTC) [N]; absent cells NaN or NaT.

        Raises:
            DataError: a cell is neither, or the file cannot be aligned.
        """
        values = as_times(self._tables[file][column], f"{file}, column '{column}'")
        absent = np.nan if values.dtype.kind == "f" else np.datetime64("NaT")
        return _take(values, self._position(file, len(values)), absent)

    def array(self, file: str, key: str | None) -> tuple[np.ndarray, np.ndarray]:
        """An array [N, …] of an npy or npz file, and whether the file has each sample, bool [N].

        Rows of samples that the file does not have are 0.

        Raises:
            DataError: the file cannot be read or aligned.
        """
        values = read_array(self._folder / file, key)
        if not values.ndim or not values.size:
            raise DataError(
                f"{file} holds an array of shape {values.shape}; expected one row per sample and no empty axis"
            )
        positions = self._position(file, len(values))
        if positions is None:
            return values, np.ones(len(values), bool)
        return _take(values, positions, 0), positions >= 0

    def _position(self, file: str, length: int) -> np.ndarray | None:
        """Where each sample stands in `file`, int64 [N], -1 where it does not; None when row i is sample i."""
        if file not in self._positions:
            self._positions[file] = self._find_positions(file)
        positions = self._positions[file]
        if positions is None and length != len(self.ids):
            by = f"has no '{self._id_column}' to be aligned by" if self._id_column else "is aligned by row"
            raise DataError(
                f"{file} has {length} rows, {self._reference} has {len(self.ids)}, and {file} {by}; "
                "give both equally many rows, or both an id column"
            )
        return positions

    def _find_positions(self, file: str) -> np.ndarray | None:
        if self._id_column is None or file == self._id_file:
            return None
        suffix = Path(file).suffix.lower()
        if suffix in TABLE_SUFFIXES and self._id_column in self._tables[file].columns:
            keys = as_text(self._tables[file][self._id_column])
        elif suffix == ".npz" and self._id_column in array_names(self._folder / file):
            keys = read_arrays(self._folder / file, [self._id_column])[self._id_column].astype(str).astype(object)
        else:
            return None
        row_of_id = {key: row for row, key in enumerate(_unique_ids(keys, f"{file}, id column '{self._id_column}'"))}
        positions = np.asarray([row_of_id.get(key, -1) for key in self.ids], np.int64)
        self.unmatched[file] = len(keys) - int((positions >= 0).sum())
        return positions


def name_some(ids: np.ndarray, limit: int = 3) -> str:
    """A few ids for an error message: `id a, b, c and 4 more`."""
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return f"id {', '.join(str(i) for i in ids[:limit])}{more}"


def _take(values: np.ndarray, positions: np.ndarray | None, absent: object) -> np.ndarray:
    if positions is None:
        return values
    taken = values[positions]
    taken[positions < 0] = absent
    return taken


def _unique_ids(ids: np.ndarray, where: str) -> np.ndarray:
    absent = [row for row, value in enumerate(ids) if value is None]
    if absent:
        raise DataError(f"{where}: row {absent[0]} has no id ({len(absent)} such row(s)); every row needs one")
    names, counts = np.unique(ids.astype(str), return_counts=True)
    if len(repeated := names[counts > 1]):
        raise DataError(f"{where}: {name_some(repeated)} occur(s) more than once; every id has to be unique")
    return ids

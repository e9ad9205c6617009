"""The files of a source, lined up: every column and array comes with one entry per sample, in sample order."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from training_core.data.cells import (
    CELL_ADVICE,
    as_numbers,
    as_text,
    as_times,
    numeric_type,
    wider_type,
)
from training_core.data.ingestion.identifiers import check_unique, name_some, positions_of, refuse_strangers
from training_core.data.source import SourceConfig, is_url, suffix_of
from training_core.data.sources.images import ImageFolder, ImageTable
from training_core.data.sources.opening import chosen_key, open_array_file, open_table
from training_core.data.sources.protocols import ArrayFile, ArraySource, TableSource, require_columns
from training_core.data.sources.remote import locate
from training_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AlignedFiles", "name_some"]

_BLOCK_ROWS = 1 << 16


class AlignedFiles:
    """Opens the files of a source, each once, and aligns them by id or by row.

    With `id` in the source, its column names and orders the samples. A table with a column of that name, a file of
    arrays with an array of that name, and a folder of images (by `id`, `file` or the name without its ending) are
    aligned by it, and a sample that such a file does not list is absent from it. All other files are aligned by row
    and have to be as long as there are samples.

    Args:
        config: the source.
        folder: what its file names are relative to.
        staging: folder for what has to be kept while the files are read.
        given: tables and arrays in memory that take the place of files, by file name.

    Attributes:
        ids: of the samples, str objects [N]; row numbers when the source has no `id`.
        unmatched: per file aligned by id, how many of its rows belong to no sample and were left out.
        matched: per file aligned by id, how many samples it has.

    Raises:
        DataError: an id is absent or occurs twice, or a file cannot be read, or lacks a column.
    """

    def __init__(
        self,
        config: SourceConfig,
        folder: Path,
        staging: Path,
        given: "Mapping[str, TableSource | ArraySource] | None" = None,
    ) -> None:
        self._config, self._folder, self._staging, self._given = config, folder, staging, given or {}
        self._id_file = config.id.file if config.id else None
        self._id_column = config.id.column if config.id else None
        self._tables = {file: self._open_table(file, columns) for file, columns in self._wanted_columns().items()}
        self._files: dict[tuple[str, tuple[int, int] | None], ArrayFile] = {}
        self._arrays: dict[tuple[str, str | None, tuple[int, int] | None], ArraySource] = {}
        self._positions: dict[str, np.ndarray | None] = {}
        self.unmatched: dict[str, int] = {}
        self.matched: dict[str, int] = {}
        self._reference = self._id_file or config.task.target.file
        table = self._tables[self._reference]
        if self._id_file and self._id_column:
            self.ids = self._ids_of_table(self._id_file, self._id_column)
            check_unique(self.ids, f"{self._id_file}, id column '{self._id_column}'", self._are_alike(self._id_file))
        else:
            self.ids = np.asarray([str(row) for row in range(table.num_rows)], object)

    def column(self, file: str, column: str) -> "pa.ChunkedArray":
        """A whole column of N cells, typed as in the file, null where absent.

        Raises:
            DataError: the file cannot be aligned.
        """
        import pyarrow as pa

        steps = range(0, len(self.ids), _BLOCK_ROWS)
        tables = [self.table(file, [column], start, min(start + _BLOCK_ROWS, len(self.ids))) for start in steps]
        return pa.concat_tables(tables or [self.table(file, [column], 0, 0)]).column(column)

    def numbers(self, file: str, column: str, advice: str = CELL_ADVICE) -> np.ndarray:
        """A column as float64 [N], absent cells NaN.

        Raises:
            DataError: a cell is not a finite number (the message ends with `advice`), or the file cannot be aligned.
        """
        values = as_numbers(self._whole(file, column), f"{file}, column '{column}'", advice)
        return _take(values, self._position(file, len(values)), np.nan)

    def text(self, file: str, column: str) -> np.ndarray:
        """A column as str objects [N], absent cells None.

        Raises:
            DataError: the file cannot be aligned.
        """
        values = as_text(self._whole(file, column), f"{file}, column '{column}'")
        return _take(values, self._position(file, len(values)), None)

    def times(self, file: str, column: str) -> np.ndarray:
        """A column of numbers (float64) or dates (datetime64, UTC) [N]; absent cells NaN or NaT.

        Raises:
            DataError: a cell is neither, or the file cannot be aligned.
        """
        values = as_times(self._whole(file, column), f"{file}, column '{column}'")
        absent = np.nan if values.dtype.kind == "f" else np.datetime64("NaT")
        return _take(values, self._position(file, len(values)), absent)

    def numeric_type(self, file: str, column: str) -> "pa.DataType":
        """What a column of numbers is kept as; see `cells.numeric_type`. Cells that are no numbers are passed over."""
        import pyarrow as pa

        table, found = self._tables[file], pa.null()
        for start in range(0, table.num_rows, _BLOCK_ROWS):
            found = wider_type(
                found, numeric_type(table.take([column], slice(start, start + _BLOCK_ROWS)).column(column))
            )
        return pa.float64() if pa.types.is_null(found) else found

    def table(self, file: str, columns: Sequence[str], start: int, stop: int) -> "pa.Table":
        """Columns of samples [start, stop), cells typed as in the file, null where absent.

        Raises:
            DataError: the file cannot be aligned.
        """
        table = self._tables[file]
        positions = self._position(file, table.num_rows)
        rows = slice(start, stop) if positions is None else positions[start:stop]
        return table.take(list(columns), rows)

    def array(
        self, file: str, key: str | None, start: int, stop: int, size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """An array of samples [start, stop), and which of them the file has, bool [n]; the others are 0.

        Raises:
            DataError: the file cannot be read or aligned.
        """
        source = self._array(file, key, size)
        positions = self._position(file, source.shape[0])
        if positions is None:
            present = np.ones(stop - start, bool) if source.present is None else source.present[start:stop]
            return source.take(slice(start, stop)), present
        rows = positions[start:stop]
        present = rows >= 0
        if source.present is not None and len(source.present):
            present &= source.present[rows]
        return source.take(rows), present

    def array_shape(
        self, file: str, key: str | None, size: tuple[int, int] | None = None
    ) -> tuple[tuple[int, ...], np.dtype]:
        """The shape [N, …] and the dtype of an array once it is aligned.

        Raises:
            DataError: the file cannot be read or aligned, or the array has an empty axis.
        """
        source = self._array(file, key, size)
        self._position(file, source.shape[0])
        return (len(self.ids), *source.shape[1:]), source.dtype

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of every file that is not in memory; of a folder, that of its files' names and contents."""
        return {
            file: _sha256(locate(self._location(file), self._staging).path)
            for file in self._config.files()
            if file not in self._given
        }

    def _location(self, file: str) -> str:
        return file if is_url(file) else str(self._folder / file)

    def _wanted_columns(self) -> dict[str, list[str]]:
        config, target = self._config, self._config.task.target
        wanted: dict[str, list[str]] = {}
        references = [(ref.file, (ref.column,)) for ref in (config.id, config.group, config.time) if ref]
        if config.split.file and config.split.column:
            references.append((config.split.file, (config.split.column,)))
        inputs = [(modality.file, modality.columns) for modality in config.modalities.values() if modality.columns]
        for file, columns in [(target.file, target.names), *references, *inputs]:
            wanted.setdefault(file, []).extend(columns)
        return wanted

    def _open_table(self, file: str, columns: list[str]) -> TableSource:
        if file in self._given:
            table = self._given[file]
            if not hasattr(table, "columns"):
                raise DataError(f"{file} is an array in memory, and columns of it are asked for")
            table = cast("TableSource", table)
            require_columns(file, table.columns, columns)
            return table
        return open_table(self._location(file), self._staging, columns, [self._id_column] if self._id_column else ())

    def _array_file(self, file: str, size: tuple[int, int] | None) -> ArrayFile:
        if (file, size) not in self._files:
            self._files[file, size] = open_array_file(self._location(file), self._staging, size)
        return self._files[file, size]

    def _array(self, file: str, key: str | None, size: tuple[int, int] | None) -> ArraySource:
        if (file, key, size) not in self._arrays:
            if file in self._given:
                source = self._given[file]
                if hasattr(source, "columns"):
                    raise DataError(f"{file} is a table in memory, and an array is asked for")
                source = cast("ArraySource", source)
            else:
                opened = self._array_file(file, size)
                source = opened.array(chosen_key(file, opened, key, but=self._id_column))
            if not source.shape or 0 in source.shape[1:]:
                raise DataError(
                    f"{file} holds an array of shape {source.shape}; expected one row per sample and no empty axis"
                )
            self._arrays[file, key, size] = source
        return self._arrays[file, key, size]

    def _whole(self, file: str, column: str) -> "pa.ChunkedArray":
        return self._tables[file].take([column], slice(None)).column(column)

    def _ids_of_table(self, file: str, column: str) -> np.ndarray:
        return as_text(self._whole(file, column), f"{file}, id column '{column}'")

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
        keys, what = self._keys(file)
        if keys is None:
            return None
        where = f"{file}, {what}"
        check_unique(keys, where, self._are_alike(file))
        positions = positions_of(self.ids, keys)
        self.matched[file] = int((positions >= 0).sum())
        self.unmatched[file] = len(keys) - self.matched[file]
        if not self.matched[file]:
            refuse_strangers(self.ids, f"{self._id_file}, column '{self._id_column}'", keys, where)
        return positions

    def _keys(self, file: str) -> tuple[np.ndarray | None, str]:
        """The ids in a file in row order, and what they are called; None when it has none."""
        column = self._id_column or ""
        what = f"id column '{column}'"
        table = self._tables.get(file)
        if file in self._given and not (table and column in table.columns):
            return None, what
        if isinstance(table, ImageTable) or (table is None and not suffix_of(file)):
            images = table or self._array_file(file, self._image_size(file))
            names = _image_names(cast("ImageTable | ImageFolder", images).files)
            found = {kind: int((positions_of(self.ids, keys) >= 0).sum()) for kind, keys in names.items()}
            best = max(found, key=lambda kind: found[kind])
            return names[best], best
        if table is not None:
            return (self._ids_of_table(file, column) if column in table.columns else None), what
        opened = self._array_file(file, None)
        if column not in opened.keys:
            return None, what
        labels = opened.labels(column)
        if labels.ndim != 1:
            raise DataError(f"{file}, {what} is an array of shape {list(labels.shape)}; expected one id per row")
        import pandas as pd

        cells = labels if labels.dtype.kind in "biuf" else labels.astype(object)
        return as_text(pd.Series(cells), f"{file}, {what}"), what

    def _image_size(self, file: str) -> tuple[int, int] | None:
        return next((each.size for each in self._config.modalities.values() if each.file == file and each.size), None)

    def _are_alike(self, file: str) -> Callable[[int, int], bool]:
        """Tells whether two rows of a file say the same, as far as they are used."""

        def compare(first: int, second: int) -> bool:
            rows = np.asarray([first, second])
            if file in self._tables:
                one, other = self._tables[file].take(self._tables[file].columns, rows).to_pylist()
                return str(one) == str(other)  # NaN is NaN here
            used = [each for each in self._config.modalities.values() if each.file == file]
            pairs = [self._array(file, each.key, each.size).take(rows) for each in used]
            return all(np.array_equal(pair[0], pair[1], equal_nan=pair.dtype.kind == "f") for pair in pairs)

        return compare


def _image_names(files: Sequence[str]) -> dict[str, np.ndarray]:
    """What the images of a folder may be called by."""
    paths = [Path(file) for file in files]
    names = {
        "paths without ending": [path.with_suffix("").as_posix() for path in paths],
        "paths": list(files),
        "names without ending": [path.stem for path in paths],
        "names": [path.name for path in paths],
    }
    # What two images have in common names neither.
    return {kind: np.asarray(values, object) for kind, values in names.items() if len(set(values)) == len(values)}


def _take(values: np.ndarray, positions: np.ndarray | None, absent: object) -> np.ndarray:
    if positions is None:
        return values
    if not len(values):
        return np.full(len(positions), absent, values.dtype)
    taken = values[positions]
    taken[positions < 0] = absent
    return taken


def _sha256(path: Path) -> str:
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for each in sorted(each for each in path.rglob("*") if each.is_file()):
        digest.update(f"{each.relative_to(path).as_posix()}\0{_sha256(each)}\n".encode())
    return digest.hexdigest()

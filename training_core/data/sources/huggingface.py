"""Hugging Face data sets as sources: a table of the columns of text and numbers, and an array per column of arrays.

Rows are read in blocks from the Arrow files beneath the data set, which it maps into memory.
"""

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.images import image_size, is_grey, opened_image, pixels
from training_core.data.sources.protocols import ArraySource, TableSource, require_columns, require_numbers
from training_core.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

TABLE = "table"
_BLOCK_ROWS = 128
_KIND_OF_NDIM = {1: "vector", 2: "sequence", 3: "image"}


def huggingface_sources(dataset: "datasets.Dataset") -> dict[str, TableSource | ArraySource]:
    """The columns of a data set: those of text, numbers, times and class labels as the table "table", each other alone.

    Class labels go by their names. Arrays (lists of numbers, `Array2D` to `Array5D`) and images are under the names of
    their columns; lists have to be of one length, images of one size. Columns of other kinds are left out.

    Raises:
        DataError: it is not one split held on this machine, or a column of arrays or images is not as said above.
    """
    import datasets

    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"a {type(dataset).__name__} is no datasets.Dataset; pick one split, such as data['train'], "
            "loaded without streaming"
        )
    sources: dict[str, TableSource | ArraySource] = {TABLE: _Rows(dataset)}
    for column in dataset.column_names:
        dtype = _array_dtype(dataset.features[column])
        if isinstance(dataset.features[column], datasets.Image):
            source: ArraySource = _Images(dataset, column)
        elif dtype is not None:
            source = _Arrays(dataset, column, dtype)
        else:
            continue
        if column == TABLE:
            raise DataError(f"an array column is called '{TABLE}', which stands for all the others; rename it")
        sources[column] = source
    return sources


def huggingface_modalities(dataset: "datasets.Dataset", without: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Modalities as in a SOURCE.yaml: each column of images, arrays or text alone, the other columns as `columns`.

    `file` is the name that `huggingface_sources` uses. Left out are the columns in `without`, and times.
    """
    import datasets

    modalities: dict[str, dict[str, Any]] = {}
    table: list[str] = []
    categorical: list[str] = []
    for column in dataset.column_names:
        feature = dataset.features[column]
        if column in without:
            continue
        if isinstance(feature, datasets.Image):
            modalities[column] = {"kind": "image", "file": column}
        elif _array_dtype(feature) is not None:
            if kind := _KIND_OF_NDIM.get(_ndim(feature)):
                modalities[column] = {"kind": kind, "file": column}
        elif isinstance(feature, datasets.ClassLabel) or _is_value(feature, "bool"):
            table.append(column)
            categorical.append(column)
        elif _is_value(feature, "string", "large_string"):
            modalities[column] = {"kind": "text", "file": TABLE, "columns": [column]}
        elif _is_value(feature, "int", "uint", "float", "decimal"):
            table.append(column)
    if table:
        modalities["columns"] = {"kind": "tabular", "file": TABLE, "columns": table, "categorical": categorical}
    return modalities


class _Rows:
    """The columns that make up a table."""

    def __init__(self, dataset: "datasets.Dataset") -> None:
        import datasets

        self._names: dict[str, Sequence[str]] = {}
        kept: list[str] = []
        for column in dataset.column_names:
            feature = dataset.features[column]
            if isinstance(feature, datasets.ClassLabel):
                self._names[column] = feature.names
            if isinstance(feature, datasets.ClassLabel) or (
                isinstance(feature, datasets.Value) and "binary" not in feature.dtype
            ):
                kept.append(column)
        self._dataset = dataset.with_format("arrow")
        self.columns, self.num_rows = tuple(kept), len(dataset)

    def take(self, columns: Sequence[str], rows: slice | np.ndarray) -> "pa.Table":
        """Some columns of any rows; see `TableSource.take`."""
        import pyarrow as pa

        names = list(columns)
        require_columns("the data set", self.columns, names)
        found = _block(self._dataset.select_columns(names), rows)
        return pa.table({name: self._cells(name, found.column(name)) for name in names})

    def _cells(self, name: str, cells: "pa.ChunkedArray") -> "pa.ChunkedArray":
        import pyarrow as pa

        if name not in self._names:
            return cells
        codes = cells.fill_null(-1).to_numpy()
        labels = pa.array([*self._names[name]], pa.string())
        return pa.chunked_array([labels.take(pa.array(np.maximum(codes, 0), mask=codes < 0))])  # -1: not labelled


class _Arrays:
    """A column of lists of numbers, all of one shape; of rows that are null, `present` is false."""

    def __init__(self, dataset: "datasets.Dataset", column: str, dtype: np.dtype) -> None:
        self._column, self._dataset = column, dataset.select_columns([column]).with_format("arrow")
        self.dtype = require_numbers(f"column '{column}'", dtype)
        present = [_column(self._dataset, slice(i, i + _BLOCK_ROWS)).is_valid().to_numpy() for i in _starts(dataset)]
        there = np.concatenate([np.zeros(0, bool), *present])
        self.present = None if there.all() else there
        first = np.flatnonzero(there)[:1]
        row = _column(self._dataset, first).to_pylist() if len(first) else [[]]
        self.shape = (len(dataset), *np.shape(row)[1:])

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any rows; see `ArraySource.take`."""
        import pyarrow as pa

        cells = _column(self._dataset, rows)
        storage = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in cells.chunks]
        taken = np.zeros((len(cells), *self.shape[1:]), self.dtype)
        start = 0
        for chunk in storage:
            there = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False)) + start
            taken[there] = self._numbers(chunk.drop_null())
            start += len(chunk)
        return taken

    def _numbers(self, cells: Any) -> np.ndarray:
        import pyarrow.compute as pc

        num_rows = len(cells)
        for length in self.shape[1:]:
            found = pc.call_function("list_value_length", [cells])
            if len(cells) and (found.null_count or not (found.to_numpy() == length).all()):
                raise DataError(
                    f"column '{self._column}' holds lists of different lengths, "
                    f"expected {list(self.shape[1:])} in every row; pad them, or cut them to one length"
                )
            cells = cells.flatten()
        if cells.null_count and self.dtype.kind != "f":
            raise DataError(f"column '{self._column}' holds lists with absent whole numbers; fill them in")
        return cells.to_numpy(zero_copy_only=False).astype(self.dtype).reshape(num_rows, *self.shape[1:])


class _Images:
    """A column of images of one size, decoded as `images.ImageFolder` does; null where there is none."""

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: "datasets.Dataset", column: str) -> None:
        self._column, self._dataset = column, dataset.select_columns([column]).with_format("arrow")
        there = np.zeros(len(dataset), bool)
        grey, first = True, None
        for start in _starts(dataset):
            for row, cell in enumerate(self._cells(slice(start, start + _BLOCK_ROWS)), start):
                if cell is None:
                    continue
                there[row] = True
                with opened_image(f"column '{column}', row {row}", cell) as image:
                    grey, found = grey and is_grey(image), image_size(image)
                first = first or found
                if found != first:
                    raise DataError(
                        f"column '{column}', row {row} is {found[0]} × {found[1]} pixels (height × width), the first "
                        f"image is {first[0]} × {first[1]}; resize them with `map`"
                    )
        self._mode = "L" if grey else "RGB"
        self.present = None if there.all() else there
        self.shape = (len(dataset), 1 if grey else 3, *(first or (0, 0)))

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        """Any rows; see `ArraySource.take`."""
        wanted = np.arange(self.shape[0])[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        taken = np.zeros((len(wanted), *self.shape[1:]), np.uint8)
        for start in range(0, len(wanted), _BLOCK_ROWS):
            for i, cell in enumerate(self._cells(wanted[start : start + _BLOCK_ROWS]), start):
                if cell is not None:
                    with opened_image(f"column '{self._column}', row {wanted[i]}", cell) as image:
                        taken[i] = pixels(image, self._mode, None)
        return taken

    def _cells(self, rows: slice | np.ndarray) -> list[io.BytesIO | Path | None]:
        cells = _column(self._dataset, rows).to_pylist()
        return [None if cell is None else _encoded(cell, self._column) for cell in cells]


def _encoded(cell: dict[str, Any], column: str) -> io.BytesIO | Path:
    if cell.get("bytes"):
        return io.BytesIO(cell["bytes"])
    path = Path(cell.get("path") or "")
    if not path.is_file():
        raise DataError(
            f"column '{column}': image {str(path)!r} is not on this machine; load the data set with its images"
        )
    return path


def _starts(dataset: "datasets.Dataset") -> range:
    return range(0, len(dataset), _BLOCK_ROWS)


def _column(dataset: "datasets.Dataset", rows: slice | np.ndarray) -> "pa.ChunkedArray":
    return _block(dataset, rows).column(0)


def _block(dataset: "datasets.Dataset", rows: slice | np.ndarray) -> "pa.Table":
    """Rows of a data set in Arrow format; -1 is a row of nulls."""
    import pyarrow as pa

    if isinstance(rows, slice):
        start, stop, _ = rows.indices(len(dataset))
        return dataset[start : max(start, stop)]
    rows = np.asarray(rows, np.int64)
    if len(rows) and (rows.max() >= len(dataset) or rows.min() < -1):
        raise IndexError(f"the data set has {len(dataset)} rows, rows {rows.min()} to {rows.max()} are wanted")
    wanted, places = np.unique(rows[rows >= 0], return_inverse=True)
    found: Any = dataset[wanted.tolist()] if len(wanted) else dataset[0:0]
    indices, absent = np.zeros(len(rows), np.int64), rows < 0
    indices[~absent] = places
    return found.take(pa.array(indices, mask=absent))


def _array_dtype(feature: Any) -> np.dtype | None:
    """Of the numbers in a column of arrays; None when it is none."""
    import datasets

    if isinstance(feature, datasets.Array2D | datasets.Array3D | datasets.Array4D | datasets.Array5D):
        return _numpy_type(feature.dtype)
    if not isinstance(feature, datasets.List | datasets.LargeList):
        return None
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    return _numpy_type(feature.dtype) if isinstance(feature, datasets.Value) else None


def _numpy_type(name: str) -> np.dtype | None:
    try:
        found = np.dtype(name)
    except TypeError:
        return None
    return found if found.kind in "biuf" else None


def _ndim(feature: Any) -> int:
    shape = getattr(feature, "shape", None)
    if shape is not None:
        return len(shape)
    return 1 + _ndim(feature.feature) if hasattr(feature, "feature") else 0


def _is_value(feature: Any, *names: str) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype.startswith(names)

"""The modalities of a source, read block by block: what is stored of them, and which samples have them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from training_core.data.cells import CATEGORICAL_ADVICE, as_text, bad_numbers, typed_numbers
from training_core.data.ingestion.alignment import AlignedFiles, name_some
from training_core.data.ingestion.row_index import Rejected, not_numbers, sorted_names
from training_core.data.source import ModalitySource
from training_core.errors import DataError
from training_core.schema import ColumnSpec, ModalitySpec

if TYPE_CHECKING:
    import pyarrow as pa

_DIMENSIONS = {"image": "[N, C, H, W] or [N, H, W]", "vector": "[N, D]", "sequence": "[N, T, F]"}
_NDIM = {"image": (3, 4), "vector": (2,), "sequence": (3,)}
_LARGEST = float(np.finfo(np.float32).max)  # learners work in float32


@dataclass(frozen=True)
class ModalityBlock:
    """Consecutive samples of one modality: table columns or one array [n, …], and who has it, bool [n]."""

    available: np.ndarray
    columns: Mapping[str, "pa.Array"] = field(default_factory=dict)
    array: np.ndarray | None = None


class ModalityReader(Protocol):
    """One modality of a source."""

    @property
    def spec(self) -> ModalitySpec:
        """What is known of it by now: categories are those of the blocks that were read."""
        ...

    @property
    def row_bytes(self) -> int:
        """About how large one sample is in memory."""
        ...

    def read(self, start: int, stop: int) -> ModalityBlock:
        """Samples [start, stop).

        Raises:
            DataError: a cell or number is not what it has to be, and such rows are not to be set aside.
        """
        ...


def open_modality(name: str, source: ModalitySource, files: AlignedFiles, rejected: Rejected) -> ModalityReader:
    """The reader of a modality; rows it cannot use go to `rejected`.

    Raises:
        DataError: the file cannot be read, or does not hold what the kind of modality asks for.
    """
    if source.kind in {"tabular", "text"}:
        return _Columns(name, source, files, rejected)
    if source.columns:
        return _VectorOfColumns(name, source, files, rejected)
    return _Array(name, source, files, rejected)


class _Columns:
    """A tabular or text modality: its columns, as typed as they are."""

    def __init__(self, name: str, source: ModalitySource, files: AlignedFiles, rejected: Rejected) -> None:
        self._name, self._source, self._files, self._rejected = name, source, files, rejected
        texts = source.columns if source.kind == "text" else source.categorical
        self._numeric = {c: files.numeric_type(source.file, c) for c in source.columns if c not in texts}
        self._seen: dict[str, set[str]] = {column: set() for column in source.categorical}

    @property
    def row_bytes(self) -> int:
        return 64 * len(self._source.columns) * (8 if self._source.kind == "text" else 1)

    @property
    def spec(self) -> ModalitySpec:
        columns = tuple(
            ColumnSpec(
                name=column,
                categories=sorted_names(np.asarray([*self._seen[column]], object)) if column in self._seen else None,
            )
            for column in self._source.columns
        )
        shape = (len(columns),) if self._source.kind == "tabular" else ()
        return ModalitySpec(name=self._name, kind=self._source.kind, shape=shape, columns=columns)

    def read(self, start: int, stop: int) -> ModalityBlock:
        table = self._files.table(self._source.file, self._source.columns, start, stop)
        available = np.zeros(stop - start, bool)
        columns: dict[str, pa.Array] = {}
        for column in self._source.columns:
            if column in self._numeric:
                where = f"{self._source.file}, column '{column}'"
                cells = _numbers(table.column(column), self._numeric[column], where, start, self._rejected)
                present = cells.is_valid().to_numpy(zero_copy_only=False)
            else:
                cells, present = _texts(table.column(column))
                if column in self._seen:
                    self._seen[column] |= set(cells.filter(present).unique().to_pylist())
            columns[column] = cells
            available |= present
        return ModalityBlock(available, columns=columns)


class _VectorOfColumns:
    """A vector whose features are columns of a table; an absent cell is NaN."""

    row_bytes: int

    def __init__(self, name: str, source: ModalitySource, files: AlignedFiles, rejected: Rejected) -> None:
        import pyarrow as pa

        self._name, self._source, self._files, self._rejected = name, source, files, rejected
        self._type = pa.float64()
        self.row_bytes = 64 * len(source.columns)
        self.spec = ModalitySpec(name=name, kind="vector", shape=(len(source.columns),))

    def read(self, start: int, stop: int) -> ModalityBlock:
        table = self._files.table(self._source.file, self._source.columns, start, stop)
        values = np.empty((stop - start, len(self._source.columns)))
        for i, column in enumerate(self._source.columns):
            where = f"{self._source.file}, column '{column}'"
            cells = _numbers(table.column(column), self._type, where, start, self._rejected)
            values[:, i] = cells.to_numpy(zero_copy_only=False)
        available = _check_finite(self._name, values, np.ones(len(values), bool), start, self._rejected)
        return ModalityBlock(available, array=values)


class _Array:
    """An array of a file, in its own type; where a sample has none, NaN or 0."""

    def __init__(self, name: str, source: ModalitySource, files: AlignedFiles, rejected: Rejected) -> None:
        self._name, self._source, self._files, self._rejected = name, source, files, rejected
        shape, dtype = files.array_shape(source.file, source.key, source.size)
        if len(shape) not in _NDIM[source.kind]:
            raise DataError(
                f"modality '{name}': {source.file} holds an array of shape {list(shape)}; "
                f"expected {_DIMENSIONS[source.kind]} for kind {source.kind}"
            )
        if 0 in shape[1:]:
            raise DataError(f"{source.file} holds an array of shape {list(shape)}; expected no empty axis")
        shape = (1, *shape[1:]) if source.kind == "image" and len(shape) == 3 else shape[1:]
        self.spec = ModalitySpec(name=name, kind=source.kind, shape=shape)
        self.row_bytes = int(np.prod(shape)) * dtype.itemsize

    def read(self, start: int, stop: int) -> ModalityBlock:
        values, available = self._files.array(self._source.file, self._source.key, start, stop, self._source.size)
        values = values.reshape(len(values), *self.spec.shape)
        if values.dtype.kind == "f":
            available = _check_finite(self._name, values, available, start, self._rejected)
            values[~available & ~self._rejected.mask[start:stop]] = np.nan
        return ModalityBlock(available, array=values)


def _numbers(column: "pa.ChunkedArray", type_: "pa.DataType", where: str, start: int, rejected: Rejected) -> "pa.Array":
    """A block of a numeric column as `type_`; cells that are not numbers are null and their rows rejected."""
    import pyarrow as pa

    types = pa.types
    plain = types.is_integer(column.type) or types.is_boolean(column.type) or types.is_null(column.type)
    # dates are not looked at cell by cell: the whole column is wrong, see `typed_numbers`
    if not (plain or types.is_temporal(column.type)) and (bad := np.flatnonzero(bad_numbers(column))).size:
        problem = not_numbers(column.to_pandas(), bad, where, start)
        advice = "correct the cell" if "is infinite" in problem else f"{CATEGORICAL_ADVICE}, correct the cell"
        rejected.add("not_a_number", start + bad, problem, advice)
        cells = column.to_pylist()
        for cell in bad:
            cells[cell] = None
        column = pa.chunked_array([pa.array(cells, column.type)])
    return typed_numbers(column, type_, where)


def _texts(column: "pa.ChunkedArray") -> tuple["pa.Array", np.ndarray]:
    """A block of text or categories as strings, and which of them say anything, bool [n]."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        cells = column.cast(pa.string()).combine_chunks()
    else:
        cells = pa.array(as_text(column).tolist(), pa.string())
    cells = cells if isinstance(cells, pa.Array) else cells.chunk(0)
    said = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(cells)), 0)
    return cells, pc.fill_null(said, False).to_numpy(zero_copy_only=False)


def _check_finite(name: str, values: np.ndarray, available: np.ndarray, start: int, rejected: Rejected) -> np.ndarray:
    """Who has the modality: rows that are not all NaN. Rows that are partly NaN or infinite are rejected."""
    flat = values.reshape(len(values), -1)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.abs(flat).max(axis=1, initial=0) if flat.size else np.zeros(len(flat))
        sums = sums.astype(np.float64, copy=False)  # the largest float32 is infinite as a float16
    suspect = np.flatnonzero(~(sums <= _LARGEST) & available)  # NaN or beyond float32: looked at closely
    if not len(suspect):
        return available
    missing = np.isnan(flat[suspect]).sum(axis=1)
    absent = suspect[missing == flat.shape[1]]
    available = available.copy()
    available[absent] = False
    ids = rejected.ids[start : start + len(values)]
    with np.errstate(invalid="ignore"):
        infinite = suspect[(np.abs(flat[suspect].astype(np.float64)) > _LARGEST).any(axis=1)]
    rejected.add(
        "infinite",
        start + infinite,
        f"modality '{name}' is infinite (or beyond float32) for {name_some(ids[infinite])}",
        "replace the values, or make the whole row NaN to have the modality missing there",
    )
    partly = suspect[(missing > 0) & (missing < flat.shape[1])]
    first = int(missing[(missing > 0) & (missing < flat.shape[1])][0]) if len(partly) else 0
    rejected.add(
        "partly_nan",
        start + partly,
        f"modality '{name}' is partly NaN for {name_some(ids[partly])} "
        f"({first} of {flat.shape[1]} numbers in the first)",
        "fill the values in, or make the whole row NaN to have the modality missing there",
    )
    return available

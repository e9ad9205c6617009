"""What a source says of every sample besides its modalities: id, target, group, time and given split, read whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from training_core.data.cells import as_numbers, bad_numbers, is_absent
from training_core.data.ingestion.alignment import AlignedFiles, name_some
from training_core.data.quality.problems import RowProblem
from training_core.data.source import SourceConfig, TaskSource
from training_core.errors import DataError
from training_core.schema import TaskSpec

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Rejected:
    """Rows that cannot be used as they are: set aside and remembered, or refused on the spot.

    Attributes:
        mask: which rows, bool [N].
        problems: what is wrong with them, in the order it was found.
    """

    def __init__(self, ids: np.ndarray, set_aside: bool) -> None:
        self.ids = ids
        self.mask = np.zeros(len(ids), bool)
        self.problems: list[RowProblem] = []
        self._set_aside = set_aside

    def add(self, code: str, rows: np.ndarray, problem: str, advice: str) -> None:
        """Rows at positions `rows` (none is fine) have a `problem`; `advice` says how to mend it.

        Raises:
            DataError: there are such rows and they are not to be set aside.
        """
        if not len(rows):
            return
        if not self._set_aside:
            raise DataError(f"{problem}; {advice}, or set quality.quarantine=true to set such rows aside")
        self.mask[rows] = True
        self.problems.append(RowProblem(code=code, rows=rows, message=problem))

    def counts(self) -> dict[str, int]:
        """How many rows were set aside for each reason; a row may have several."""
        found: dict[str, int] = {}
        for problem in self.problems:
            found[problem.code] = found.get(problem.code, 0) + len(problem.rows)
        return found


@dataclass(frozen=True)
class RowIndex:
    """One entry per sample, N in all.

    `cells` are the columns of the stored table, each of N cells. `target`: str objects [N] (None where absent) for
    classification, float64 [N, K] (NaN where absent) for other tasks. `groups`: str objects [N]. `times`: float64 or
    datetime64 [N] in UTC. `split`: as given, str objects [N].
    """

    ids: np.ndarray
    target_names: tuple[str, ...]
    target: np.ndarray
    cells: Mapping[str, "pa.Array | pa.ChunkedArray"] = field(repr=False)
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    split: np.ndarray | None = None


def read_index(config: SourceConfig, files: AlignedFiles, rejected: Rejected) -> RowIndex:
    """Read what stands beside the modalities; rows without a usable target, group or time go to `rejected`.

    Raises:
        DataError: a cell is not what it has to be; the file, column and row are named.
    """
    import pyarrow as pa

    cells: dict[str, pa.Array | pa.ChunkedArray] = {"__id__": pa.array(files.ids.tolist(), pa.string())}
    groups = times = split = None
    if config.group:
        where = f"{config.group.file}, group column '{config.group.column}'"
        groups = files.text(config.group.file, config.group.column)
        _reject_absent(groups, "group_missing", where, rejected)
        cells["__group__"] = pa.array(groups.tolist(), pa.string())
    if config.time:
        where = f"{config.time.file}, time column '{config.time.column}'"
        times = files.times(config.time.file, config.time.column)
        _reject_absent(times, "time_missing", where, rejected)
        cells["__time__"] = _time_cells(config.time.file, config.time.column, files, times)
    if config.split.file and config.split.column:
        split = files.text(config.split.file, config.split.column)
    target = _read_target(config.task, files, rejected)
    names = config.task.target.names
    if config.task.kind == "classification":
        cells[f"__target__.{names[0]}"] = pa.array(target.tolist(), pa.string())
    else:
        cells |= {f"__target__.{name}": pa.array(target[:, i], from_pandas=True) for i, name in enumerate(names)}
    return RowIndex(files.ids, names, target, cells, groups, times, split)


def task_spec(
    source: TaskSource, index: RowIndex, known: TaskSpec | None = None, kept: np.ndarray | None = None
) -> TaskSpec:
    """The task, with the classes of the samples; those of the version that is extended (`known`) keep their places.

    `kept`: which rows count, bool [N]; all by default.

    Raises:
        DataError: there is only one class.
    """
    names = source.target.names
    if source.kind == "multilabel":
        return TaskSpec.multilabel(names)
    if source.kind == "regression":
        return TaskSpec.regression(names)
    found = sorted_names(index.target if kept is None else index.target[kept])
    before = known.classes if known else ()
    classes = (*before, *(name for name in found if name not in before))
    if len(classes) < 2:
        only = f"every '{names[0]}' is '{classes[0]}'" if classes else f"no sample has a '{names[0]}'"
        raise DataError(f"{source.target.file}: {only}; classification needs at least 2 classes")
    return TaskSpec.classification(classes)


def target_codes(task: TaskSpec, target: np.ndarray) -> np.ndarray:
    """Targets of a `RowIndex` as in `Samples`; the code of an absent class is -1."""
    if task.kind == "classification":
        code_of = {label: code for code, label in enumerate(task.classes)}
        return np.asarray([code_of.get(label, -1) for label in target], np.int64)
    return target.astype(np.float32) if task.kind == "multilabel" else target


def not_numbers(column: "pd.Series", bad: np.ndarray, where: str, start: int = 0) -> str:
    """What is wrong with the cells at positions `bad` of a column whose first cell is of row `start`."""
    cell = str(column.iloc[bad[0]])
    if cell.strip().lower().lstrip("+-") in {"inf", "infinity"}:
        return f"{where} is infinite in {len(bad)} row(s), first row {start + bad[0]}"
    quoted = repr(cell if len(cell) <= 40 else cell[:39] + "…")
    return f"{where}, row {start + bad[0]}: {quoted} is not a number"


def sorted_names(values: np.ndarray) -> tuple[str, ...]:
    """The distinct values that are not absent: by number when all of them are numbers, else by name."""
    names = sorted({value for value in values if value is not None})
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return tuple(names)
    if not np.isfinite(numbers).all():
        return tuple(names)
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))


def _read_target(source: TaskSource, files: AlignedFiles, rejected: Rejected) -> np.ndarray:
    file, names = source.target.file, source.target.names
    if source.kind == "classification":
        labels = files.text(file, names[0])
        _reject_absent(labels, "target_missing", f"{file}, target column '{names[0]}'", rejected)
        return labels
    values = np.full((len(files.ids), len(names)), np.nan)
    for i, name in enumerate(names):
        where = f"{file}, target column '{name}'"
        column = files.column(file, name).to_pandas()
        bad = np.flatnonzero(bad_numbers(column))
        if len(bad):
            problem = not_numbers(column, bad, where)
            rejected.add("target_invalid", bad, problem, "correct the cell")
            column = column.mask(np.isin(np.arange(len(column)), bad))
        values[:, i] = as_numbers(column, where)
        absent = is_absent(values[:, i])
        absent[bad] = False
        _reject(absent, "target_missing", where, rejected)
        if source.kind == "multilabel":
            odd = np.flatnonzero(~np.isin(values[:, i], (0, 1)) & ~is_absent(values[:, i]))
            if len(odd):
                problem = f"{where}: {name_some(files.ids[odd])} is {values[odd[0], i]:g}; a label is 0 or 1"
                rejected.add("target_invalid", odd, problem, "correct the cell")
    return values


def _time_cells(file: str, column: str, files: AlignedFiles, times: np.ndarray) -> "pa.Array | pa.ChunkedArray":
    """Times as they are stored: those that are dates in the file keep their time zone, dates in text are in UTC."""
    import pyarrow as pa

    given = files.column(file, column)
    if pa.types.is_timestamp(given.type):
        return given
    if times.dtype.kind == "f":
        return pa.array(times, from_pandas=True)
    stored = pa.array(times)
    return stored.cast(pa.timestamp(stored.type.unit, "UTC"))


def _reject_absent(values: np.ndarray, code: str, where: str, rejected: Rejected) -> None:
    _reject(is_absent(values), code, where, rejected)


def _reject(absent: np.ndarray, code: str, where: str, rejected: Rejected) -> None:
    if absent.any():
        problem = f"{where} is empty for {name_some(rejected.ids[absent])}; every sample needs a value"
        rejected.add(code, np.flatnonzero(absent), problem, "fill it in")

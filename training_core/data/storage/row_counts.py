"""What a manifest says of the rows of all parts, counted row group by row group, and whether they fit together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.storage import table_cells
from training_core.data.storage.part_reading import Part
from training_core.errors import DataError, StorageError
from training_core.schema import DataSpec

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1 << 16  # read at a time


def count_rows(
    parts: Sequence[Part], spec: DataSpec, target_names: Sequence[str], split: np.ndarray, split_names: Sequence[str]
) -> dict[str, Any]:
    """`splits`, `available`, `class_counts` (classification), `has_groups` and `has_times` of a version.

    Rows that were set aside (the last of `split_names`) count in `splits` only.

    Raises:
        DataError: a part lacks a modality or holds it in another form, parts differ in having groups or times, or a
            row that is served is of an unknown class.
    """
    types = check_parts(parts, spec, target_names)
    has = {name: [_has(part, name) for part in parts if part.num_rows] for name in ("__group__", "__time__")}
    for name, found in has.items():
        if any(found) != all(found):
            raise DataError(f"some parts have {name.strip('_')}s and others have none; describe all rows alike")
    served = split < len(split_names) - 1
    available = dict.fromkeys(spec.names, 0)
    classes = spec.task.classes if spec.task.kind == "classification" else ()
    class_counts = np.zeros(len(classes), np.int64)
    target = [f"__target__.{target_names[0]}"] if classes else []
    names = [*target, *(f"__available__.{name}" for name in spec.names)]
    first = 0
    for part in parts:
        for start in range(0, part.num_rows, _ROWS):
            rows = np.arange(start, min(start + _ROWS, part.num_rows))
            table = part.take(names, rows)
            counts = served[first + start : first + start + len(rows)]
            for name in spec.names:
                available[name] += int((table_cells.truths(table[f"__available__.{name}"]) & counts).sum())
            if classes:
                codes = table_cells.codes(table[target[0]].cast(types[target[0]]), classes)[counts]
                if (odd := np.isnan(codes)).any():
                    row = first + start + int(np.flatnonzero(counts)[np.flatnonzero(odd)[0]])
                    raise DataError(f"row {row} is of no class of the schema ({', '.join(classes[:10])}); set it aside")
                class_counts += np.bincount(codes.astype(np.int64), minlength=len(classes))
        first += part.num_rows
    codes, sizes = np.unique(split, return_counts=True)
    counted = {
        "splits": {split_names[code]: int(size) for code, size in zip(codes, sizes, strict=True)},
        "available": available,
        "has_groups": any(has["__group__"]),
        "has_times": any(has["__time__"]),
    }
    if classes:
        counted["class_counts"] = {c: int(n) for c, n in zip(classes, class_counts, strict=True)}
    return counted


def check_parts(parts: Sequence[Part], spec: DataSpec, target_names: Sequence[str]) -> "dict[str, pa.DataType]":
    """Every part has what the schema promises; the type of each column that holds its cells of all parts.

    Raises:
        DataError: a part lacks a column or an array, or holds it in another form than another part or the schema.
    """
    columns = ["__id__", *(f"__target__.{name}" for name in target_names)]
    columns += [f"__available__.{name}" for name in spec.names]
    for modality in spec.modalities:
        if modality.kind in {"tabular", "text"}:
            columns += [f"{modality.name}.{column.name}" for column in modality.columns]
            continue
        for part in parts:
            stored = part.arrays.get(modality.name)
            if stored is None or tuple(stored["shape"]) != modality.shape:
                got = "is not there" if stored is None else f"has rows of {stored['shape']}"
                raise DataError(f"array '{modality.name}' of new rows {got}; expected rows of {list(modality.shape)}")
    both = [name for name in ("__group__", "__time__") if all(name in part.columns for part in parts)]
    try:
        return table_cells.common_types([part.types() for part in parts], columns + both)
    except StorageError as error:
        raise DataError(f"the parts of a data set do not fit together: {error}") from None


def _has(part: Part, name: str) -> bool:
    return name in part.columns and part.columns[name]["num_null"] < part.num_rows

"""Samples as one flat table, the form in which predictions are asked for: in a file, or from a served model.

Columns of tables and texts keep their own names (`<modality>.<column>` when that name occurs twice), and an array is
`<modality>_0`, `<modality>_1`, … in C order. A modality whose columns are all left out, or all empty in a row, is
missing there.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.cells import as_numbers, as_text, is_absent
from training_core.data.source import TABLE_SUFFIXES
from training_core.data.sources import open_table
from training_core.data.sources.numpy_files import array_names, read_arrays
from training_core.data.storage.dataset import category_codes, join_text
from training_core.errors import DataError
from training_core.schema import DataSpec, ModalitySpec, Samples

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_ARRAY_KINDS = {"image", "vector", "sequence"}


def frame_columns(spec: DataSpec) -> list[str]:
    """The columns of the flat table, modality by modality in the order of `spec`."""
    return [column for columns in columns_by_modality(spec).values() for column in columns]


def columns_by_modality(spec: DataSpec) -> dict[str, list[str]]:
    """The columns of the flat table that make up each modality."""
    own = {
        m.name: [f"{m.name}_{i}" for i in range(m.num_features)]
        if m.kind in _ARRAY_KINDS
        else [c.name for c in m.columns]
        for m in spec.modalities
    }
    uses = Counter(column for columns in own.values() for column in columns)
    return {
        name: [c if uses[c] == 1 or spec[name].kind in _ARRAY_KINDS else f"{name}.{c}" for c in columns]
        for name, columns in own.items()
    }


def samples_from_frame(frame: "pd.DataFrame", spec: DataSpec, ids: np.ndarray | None = None) -> Samples:
    """The samples in a flat table, raw and without a target.

    Other columns are left alone. A category that `spec` does not know counts as an absent cell.

    Args:
        frame: the table.
        spec: of the samples (a data set's, not an encoded one).
        ids: str objects [N]; row numbers by default.

    Raises:
        DataError: there are no rows, no column of any modality, some but not all columns of an array, a row of an
            array that is partly empty, a cell that is not a number where one is needed, or an infinite number.
    """
    if not len(frame):
        raise DataError("the input has 0 rows")
    names = columns_by_modality(spec)
    if not any(column in frame.columns for columns in names.values() for column in columns):
        raise DataError(
            f"the input has none of the columns of this data; it has {_listed(frame.columns)}, "
            f"expected some of {_listed(frame_columns(spec))}"
        )
    _refuse_misspelt(names, frame.columns)
    inputs: dict[str, np.ndarray] = {}
    available: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        read = _array_from_frame if modality.kind in _ARRAY_KINDS else _columns_from_frame
        inputs[modality.name], available[modality.name] = read(frame, modality, names[modality.name])
    return Samples(inputs=inputs, available=available, ids=_row_numbers(len(frame)) if ids is None else ids)


def _refuse_misspelt(names: Mapping[str, list[str]], given: Iterable[str]) -> None:
    """A column that is absent but for the case of its letters or a space is a slip, not a missing modality."""
    expected = [column for columns in names.values() for column in columns]
    have = set(map(str, given))
    others = {column.strip().casefold(): column for column in have.difference(expected)}
    for column in expected:
        if column not in have and (near := others.get(column.strip().casefold())):
            raise DataError(f"the input has a column '{near}', expected '{column}'; rename it")


def frame_from_samples(samples: Samples, spec: DataSpec) -> "pd.DataFrame":
    """Raw samples as a flat table, for examples; `samples_from_frame` gives them back.

    A text made of several columns stands whole in the first of them, the others are empty.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for modality in spec.modalities:
        names = columns_by_modality(spec)[modality.name]
        values, mask = samples.inputs[modality.name], samples.available[modality.name]
        if modality.kind == "text":
            columns |= {name: np.full(len(mask), None, object) for name in names}
            columns[names[0]] = _with_none(values, ~mask)
        elif modality.kind == "tabular":
            for i, (name, column) in enumerate(zip(names, modality.columns, strict=True)):
                cells = np.where(mask, values[:, i], np.nan)
                columns[name] = cells if column.categories is None else _category_names(cells, column.categories)
        else:
            flat = values.reshape(len(mask), -1).astype(np.float64)
            flat[~mask] = np.nan
            columns |= {name: flat[:, i] for i, name in enumerate(names)}
    return pd.DataFrame(columns)


def read_samples(path: Path, spec: DataSpec, id_column: str | None = None) -> Samples:
    """The samples in a user's file, which may lack modalities.

    A csv, tsv, jsonl or parquet file holds the flat table. An npz file holds an array per modality (a table as its
    columns of numbers, or of text when it has categories; a text as strings); one it does not hold is missing.

    Args:
        path: the file.
        spec: of the samples.
        id_column: column (array) of the ids; by default `id` where there is one that is no input, else row numbers.

    Raises:
        DataError: the file cannot be read, or is not in that form (see `samples_from_frame`).
    """
    suffix = path.suffix.lower()
    wanted = id_column or "id"
    if suffix in TABLE_SUFFIXES:
        frame, cells = _read_frame(path)
        if id_column and id_column not in frame.columns:
            raise DataError(f"{path} has no column '{id_column}' of ids; it has {_listed(frame.columns)}")
        usable = wanted in frame.columns and (id_column or wanted not in frame_columns(spec))
        ids = as_text(cells.column(wanted), f"{path}, column '{wanted}'") if usable else None
        try:
            samples = samples_from_frame(frame, spec, _filled_ids(ids))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    elif suffix == ".npz":
        samples = _samples_from_arrays(path, spec, wanted)
    else:
        raise DataError(f"{path}: predictions are made for {', '.join((*TABLE_SUFFIXES, '.npz'))} files")
    if id_column and len(set(samples.ids)) < len(samples):
        raise DataError(f"{path}: ids in '{id_column}' occur more than once")
    return samples


def _read_frame(path: Path) -> "tuple[pd.DataFrame, pa.Table]":
    """A whole table as pandas and as Arrow, which alone has whole numbers beyond 2^53 beside absent cells."""
    with tempfile.TemporaryDirectory() as staging:
        table = open_table(path, Path(staging))
        if not table.num_rows:
            raise DataError(f"{path} has column names but 0 rows")
        cells = table.take(table.columns, slice(None))
        return cells.to_pandas(), cells


def _array_from_frame(frame: "pd.DataFrame", modality: ModalitySpec, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    have = [name for name in names if name in frame.columns]
    if not have:
        return np.zeros((len(frame), *modality.shape), np.float32), np.zeros(len(frame), bool)
    if len(have) < len(names):
        lacking = next(name for name in names if name not in frame.columns)
        raise DataError(
            f"modality '{modality.name}' has {len(have)} of its {len(names)} columns ('{lacking}' is absent); "
            "give all of them, or none to have the modality missing"
        )
    block = frame[names]
    if all(dtype.kind in "biuf" for dtype in block.dtypes):
        numbers = block.to_numpy(np.float64)
    else:
        numbers = np.column_stack([as_numbers(block[name], f"column '{name}'") for name in names])
    return _array(numbers.reshape(len(frame), *modality.shape), modality)


def _array(values: np.ndarray, modality: ModalitySpec) -> tuple[np.ndarray, np.ndarray]:
    """Values [N, …] as float32 and the rows that are there; absent rows are 0.

    Raises:
        DataError: a number is infinite, or a row is partly NaN.
    """
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    flat = numbers.reshape(len(numbers), -1)
    if len(bad := np.flatnonzero(np.isinf(flat).any(axis=1))):
        raise DataError(f"modality '{modality.name}' is infinite (or beyond float32) in row {bad[0]}")
    absent = np.isnan(flat)
    if len(bad := np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1))):
        raise DataError(
            f"modality '{modality.name}' is partly empty in row {bad[0]}; "
            "fill it in, or empty the whole row to have the modality missing"
        )
    available = np.asarray(~absent.all(axis=1))
    numbers[~available] = 0.0
    return numbers, available


def _columns_from_frame(
    frame: "pd.DataFrame", modality: ModalitySpec, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """A tabular or text modality; a column that is not there is absent in every row."""
    available = np.zeros(len(frame), bool)
    columns: list[np.ndarray] = []
    for name, column in zip(names, modality.columns, strict=True):
        if modality.kind == "tabular" and column.categories is None:
            values = as_numbers(frame[name], f"column '{name}'") if name in frame else np.full(len(frame), np.nan)
            present = ~is_absent(values)
        else:
            values = as_text(frame[name]) if name in frame else np.full(len(frame), None, object)
            present = ~is_absent(values)
            if modality.kind == "tabular":
                values = category_codes(values, column.categories or ())
        available |= present
        columns.append(values)
    return (np.column_stack(columns) if modality.kind == "tabular" else join_text(columns)), available


def samples_from_arrays(
    arrays: "Mapping[str, np.ndarray | pd.DataFrame | Sequence[Any] | None]",
    spec: DataSpec,
    ids: Any = None,
    num_rows: int = 0,
) -> Samples:
    """Samples from an array, data frame or list of texts per modality; what is None or not given is missing.

    Args:
        arrays: by modality: numbers [N, …] as in `spec` for arrays, a data frame or [N, columns] for a table, strings
            [N] for a text. Rows of NaN, None and empty strings are missing.
        spec: of the samples (a data set's, not an encoded one).
        ids: of the samples [N]; row numbers by default.
        num_rows: N where it is known, so that samples may lack every modality.

    Raises:
        DataError: a name is no modality, lengths differ, there are no rows, or a shape is not what `spec` says.
    """
    import pandas as pd

    given = {name: _as_array(values) for name, values in arrays.items() if values is not None}
    if unknown := [name for name in given if name not in spec.names]:
        raise DataError(f"'{unknown[0]}' is no modality; expected some of {', '.join(spec.names)}")
    lengths = {name: len(values) for name, values in given.items()} | ({} if ids is None else {"ids": len(ids)})
    if (not given and not num_rows) or min(lengths.values(), default=num_rows) == 0:
        raise DataError(f"there are no rows of any modality; expected some of {', '.join(spec.names)}")
    if len(set(lengths.values())) > 1:
        raise DataError(f"arrays differ in length: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    num_rows = next(iter(lengths.values()), num_rows)
    inputs: dict[str, np.ndarray] = {}
    available: dict[str, np.ndarray] = {}
    for modality in spec.modalities:
        name, values = modality.name, given.get(modality.name)
        if modality.kind in _ARRAY_KINDS:
            values = np.full((num_rows, *modality.shape), np.nan, np.float32) if values is None else np.asarray(values)
            if values.dtype.kind not in "biuf" or values.shape[1:] not in _shapes(modality):
                raise DataError(
                    f"array '{name}' is {values.dtype} {list(values.shape)}, "
                    f"expected numbers [N, {', '.join(map(str, modality.shape))}]"
                )
            inputs[name], available[name] = _array(values.reshape(num_rows, *modality.shape), modality)
            continue
        if values is None:
            values = pd.DataFrame(index=range(num_rows))
        frame = values if isinstance(values, pd.DataFrame) else _table_from_array(values, modality)
        if isinstance(arrays.get(name), pd.DataFrame) and not any(c.name in frame.columns for c in modality.columns):
            expected = _listed(column.name for column in modality.columns)
            raise DataError(f"table '{name}' has columns {_listed(frame.columns)}, expected {expected}")
        names = [column.name for column in modality.columns]
        inputs[name], available[name] = _columns_from_frame(frame, modality, names)
    labels = _filled_ids(None if ids is None else as_text(pd.Series(ids)))
    return Samples(inputs=inputs, available=available, ids=_row_numbers(num_rows) if labels is None else labels)


def _as_array(values: Any) -> "np.ndarray | pd.DataFrame":
    """A modality as an array or a data frame; a list of texts as objects."""
    import pandas as pd

    if isinstance(values, np.ndarray | pd.DataFrame):
        return values
    if isinstance(values, pd.Series):
        return values.to_numpy()
    made = np.asarray(values)
    return made if made.dtype.kind in "biuf" else np.asarray(values, dtype=object)


def _shapes(modality: ModalitySpec) -> list[tuple[int, ...]]:
    """Shapes a sample may have: an image of one channel may come without it."""
    shape = modality.shape
    return [shape, shape[1:]] if modality.kind == "image" and shape[0] == 1 else [shape]


def _samples_from_arrays(path: Path, spec: DataSpec, id_key: str) -> Samples:
    keys = array_names(path)
    if unknown := [key for key in keys if key not in {*spec.names, id_key}]:
        raise DataError(f"{path}: array '{unknown[0]}' is no modality; expected some of {', '.join(spec.names)}")
    arrays = read_arrays(path, keys)
    ids = arrays.pop(id_key, None) if id_key not in spec.names else None
    arrays = {key: values for key, values in arrays.items() if values.ndim}
    try:
        return samples_from_arrays(arrays, spec, ids)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _table_from_array(values: np.ndarray, modality: ModalitySpec) -> "pd.DataFrame":
    """The array [N, columns] of a tabular modality, or [N] (or [N, columns]) of a text, as a table."""
    import pandas as pd

    columns = [column.name for column in modality.columns]
    if values.ndim == 1:
        values = values[:, None]
        columns = columns[:1] if modality.kind == "text" else columns
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise DataError(
            f"array '{modality.name}' has shape {list(values.shape)}, expected [N, {len(modality.columns)}]"
        )
    return pd.DataFrame({column: values[:, i] for i, column in enumerate(columns)})


def _category_names(codes: np.ndarray, categories: tuple[str, ...]) -> np.ndarray:
    out = np.empty(len(codes), object)
    out[:] = [None if np.isnan(code) else categories[int(code)] for code in codes]
    return out


def _with_none(values: np.ndarray, absent: np.ndarray) -> np.ndarray:
    out = values.astype(object)
    out[absent] = None
    return out


def _filled_ids(ids: np.ndarray | None) -> np.ndarray | None:
    """Ids with the row number where one is absent."""
    return None if ids is None else np.where(is_absent(ids), _row_numbers(len(ids)), ids)


def _row_numbers(num_rows: int) -> np.ndarray:
    return np.asarray([str(row) for row in range(num_rows)], object)


def _listed(names: Any, limit: int = 8) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")

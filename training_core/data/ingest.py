"""From a SOURCE.yaml to a published data set version: read, align, check, split, publish.

What is missing stays missing: an absent id, an all-NaN row, a text without words or a table row without cells means
that the modality is not available for that sample. What is ambiguous is refused, naming the rows.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training_core.data.alignment import AlignedFiles, name_some
from training_core.data.dataset import Dataset
from training_core.data.readers import is_absent
from training_core.data.source import ModalitySource, SourceConfig, TaskSource, load_source
from training_core.data.splits import check_given_split, draw_split
from training_core.data.store import Contents, DatasetStore
from training_core.errors import DataError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

_DIMENSIONS = {"image": "[N, C, H, W] or [N, H, W]", "vector": "[N, D]", "sequence": "[N, T, F]"}
_NDIM = {"image": (3, 4), "vector": (2,), "sequence": (3,)}


def prepare_dataset(source_yaml: Path, store: DatasetStore, overrides: Mapping[str, Any] | None = None) -> Dataset:
    """Read what a SOURCE.yaml describes, check it, and publish it as a version.

    Args:
        source_yaml: the description.
        store: where to publish.
        overrides: values that stand over those of the description, nested like it.

    Raises:
        ConfigError: the description is wrong; the key is named.
        DataError: the data are not as described; the file, column, rows or ids are named.
        StorageError: the disk is full or cannot be written. Nothing is published on any error.
    """
    config, folder = load_source(source_yaml, overrides)
    files = AlignedFiles(config, folder)
    contents = read_contents(config, files)
    lineage = {
        "source": config.model_dump(mode="json"),
        "files": {file: _file_sha256(folder / file) for file in config.files()},
        "rows_without_sample": dict(files.unmatched),
    }
    return store.publish(config.name, contents, lineage)


def read_contents(config: SourceConfig, files: AlignedFiles) -> Contents:
    """Everything of a source in memory, checked and split.

    Raises:
        DataError: the data are not as described; the file, column, rows or ids are named.
    """
    task, target = _read_target(config.task, files)
    specs: list[ModalitySpec] = []
    columns: dict[str, dict[str, np.ndarray]] = {}
    arrays: dict[str, np.ndarray] = {}
    available: dict[str, np.ndarray] = {}
    for name, source in config.modalities.items():
        if source.kind in {"tabular", "text"}:
            spec, columns[name], available[name] = _read_columns(name, source, files)
        else:
            spec, arrays[name], available[name] = _read_array(name, source, files)
        specs.append(spec)
    _check_available(available, np.ones(len(files.ids), bool), "any sample", files.ids)

    groups = times = None
    if config.group:
        groups = files.text(config.group.file, config.group.column)
        _refuse_absent(groups, files.ids, f"{config.group.file}, group column '{config.group.column}'")
    if config.time:
        times = files.times(config.time.file, config.time.column)
        _refuse_absent(times, files.ids, f"{config.time.file}, time column '{config.time.column}'")
    split = _split(config, files, target, groups, times)
    training = split == "train"
    _check_available(available, training, "any training row", files.ids)
    if task.kind == "classification" and len(present := np.unique(target[training])) < 2:
        only = task.classes[present[0]]
        raise DataError(f"all training rows are of class '{only}'; a classifier needs at least 2 classes to train on")
    return Contents(
        spec=DataSpec(modalities=tuple(specs), task=task),
        target_names=config.task.target.names,
        ids=files.ids,
        split=split,
        target=target,
        available=available,
        columns=columns,
        arrays=arrays,
        groups=groups,
        times=times,
    )


def _read_target(source: TaskSource, files: AlignedFiles) -> tuple[TaskSpec, np.ndarray]:
    """The task and the target of every sample, as in `Samples`."""
    file, names = source.target.file, source.target.names
    if source.kind == "classification":
        labels = files.text(file, names[0])
        _refuse_absent(labels, files.ids, f"{file}, target column '{names[0]}'")
        classes = _sorted_names(labels)
        if len(classes) < 2:
            raise DataError(f"{file}: every '{names[0]}' is '{labels[0]}'; classification needs at least 2 classes")
        code_of = {label: code for code, label in enumerate(classes)}
        return TaskSpec.classification(classes), np.asarray([code_of[label] for label in labels], np.int64)
    values = np.column_stack([files.numbers(file, name) for name in names])
    for i, name in enumerate(names):
        where = f"{file}, target column '{name}'"
        _refuse_absent(values[:, i], files.ids, where)
        if source.kind == "multilabel" and len(odd := np.flatnonzero(~np.isin(values[:, i], (0, 1)))):
            raise DataError(f"{where}: {name_some(files.ids[odd])} is {values[odd[0], i]:g}; a label is 0 or 1")
        if values[:, i].min() == values[:, i].max():
            raise DataError(f"{where} is {values[0, i]:g} in every row; there is nothing to learn, remove it")
    if source.kind == "multilabel":
        return TaskSpec.multilabel(names), values.astype(np.float32)
    return TaskSpec.regression(names), values


def _read_columns(
    name: str, source: ModalitySource, files: AlignedFiles
) -> tuple[ModalitySpec, dict[str, np.ndarray], np.ndarray]:
    """A tabular or text modality: its spec, its columns as they are, and which samples have any cell of it."""
    columns: dict[str, np.ndarray] = {}
    specs: list[ColumnSpec] = []
    available = np.zeros(len(files.ids), bool)
    for column in source.columns:
        if source.kind == "text" or column in source.categorical:
            values = files.text(source.file, column)
            available |= ~is_absent(values)
            categories = _sorted_names(values) if source.kind == "tabular" else None
            specs.append(ColumnSpec(name=column, categories=categories))
        else:
            values = files.numbers(source.file, column)
            available |= ~is_absent(values)
            specs.append(ColumnSpec(name=column))
        columns[column] = values
    shape = (len(specs),) if source.kind == "tabular" else ()
    return ModalitySpec(name=name, kind=source.kind, shape=shape, columns=tuple(specs)), columns, available


def _read_array(name: str, source: ModalitySource, files: AlignedFiles) -> tuple[ModalitySpec, np.ndarray, np.ndarray]:
    """An image, vector or sequence modality: its spec, its values (NaN where absent), and which samples have it."""
    if source.columns:
        values = np.column_stack([files.numbers(source.file, column) for column in source.columns])
        available = np.ones(len(values), bool)
    else:
        values, available = files.array(source.file, source.key)
    if values.ndim not in _NDIM[source.kind]:
        raise DataError(
            f"modality '{name}': {source.file} holds an array of shape {list(values.shape)}; "
            f"expected {_DIMENSIONS[source.kind]} for kind {source.kind}"
        )
    if source.kind == "image" and values.ndim == 3:
        values = values[:, None]
    if values.dtype.kind == "f" or values.dtype.itemsize > 1:
        values, available = _finite(name, values, available, files.ids)
    elif values.dtype == bool:
        values = values.astype(np.uint8)
    return ModalitySpec(name=name, kind=source.kind, shape=values.shape[1:]), values, available


def _finite(name: str, values: np.ndarray, available: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values as float32 with absent rows NaN, and the availability after all-NaN rows count as absent."""
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    flat = numbers.reshape(len(numbers), -1)
    if len(bad := np.flatnonzero(np.isinf(flat).any(axis=1) & available)):
        raise DataError(
            f"modality '{name}' is infinite (or beyond float32) for {name_some(ids[bad])}; "
            "replace the values, or make the whole row NaN to have the modality missing there"
        )
    num_nan = np.isnan(flat).sum(axis=1)
    if len(bad := np.flatnonzero((num_nan > 0) & (num_nan < flat.shape[1]) & available)):
        raise DataError(
            f"modality '{name}' is partly NaN for {name_some(ids[bad])} ({num_nan[bad[0]]} of {flat.shape[1]} numbers "
            "in the first); fill the values in, or make the whole row NaN to have the modality missing there"
        )
    available = available & (num_nan == 0)
    numbers[~available] = np.nan
    return numbers, available


def _split(
    config: SourceConfig,
    files: AlignedFiles,
    target: np.ndarray,
    groups: np.ndarray | None,
    times: np.ndarray | None,
) -> np.ndarray:
    """The given split, checked, or one that is drawn."""
    given = config.split
    if given.file and given.column:
        where = f"{given.file}, split column '{given.column}'"
        return check_given_split(files.text(given.file, given.column), groups, where)
    codes = target if config.task.kind == "classification" else None
    if codes is not None and groups is None and times is None:
        counts = np.bincount(codes)
        if len(single := np.flatnonzero(counts == 1)):
            row = int(np.flatnonzero(codes == single[0])[0])
            raise DataError(
                f"{len(single)} class(es) have a single row (the first: {name_some(files.ids[row : row + 1])}), which "
                "cannot be split by class into training and test rows; remove or merge them, or give the split"
            )
    return draw_split(
        test=given.test,
        validation=given.validation,
        seed=given.seed,
        num_rows=len(files.ids),
        codes=codes,
        groups=groups,
        times=times,
    )


def _check_available(available: Mapping[str, np.ndarray], rows: np.ndarray, which: str, ids: np.ndarray) -> None:
    """Every modality is there somewhere in `rows`, and every sample has at least one.

    Raises:
        DataError: one is not.
    """
    for name, mask in available.items():
        if not mask[rows].any():
            raise DataError(f"modality '{name}' is not available for {which}; fill it in or remove it from the source")
    nothing = ~np.logical_or.reduce(list(available.values()))
    if nothing.any():
        raise DataError(f"every modality is missing for {name_some(ids[nothing])}; remove such samples from the source")


def _refuse_absent(values: np.ndarray, ids: np.ndarray, where: str) -> None:
    if (absent := is_absent(values)).any():
        raise DataError(f"{where} is empty for {name_some(ids[absent])}; every sample needs a value")


def _sorted_names(values: np.ndarray) -> tuple[str, ...]:
    """The distinct values that are not absent: by number when all of them are numbers, else by name."""
    names = sorted({value for value in values if value is not None})
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return tuple(names)
    if not np.isfinite(numbers).all():
        return tuple(names)
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Data sets out of what a program holds already: arrays, data frames, texts, or a Hugging Face data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.ingestion.ingest import ingest
from training_core.data.source import ModalitySource, SourceConfig
from training_core.data.sources.memory import MemoryArray, MemoryTable
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.store import DatasetStore
from training_core.errors import DataError
from training_core.schema import ModalityKind, TaskKind

if TYPE_CHECKING:
    import datasets
    import pandas as pd

_ROWS = "rows.parquet"  # the name under which ids, target, group, time and split are looked up
_KIND_OF_NDIM: dict[int, ModalityKind] = {2: "vector", 4: "image"}


def create_dataset_from_arrays(
    name: str,
    modalities: "Mapping[str, np.ndarray | pd.DataFrame | Sequence[str | None]]",
    target: "np.ndarray | Sequence[Any] | pd.DataFrame",
    *,
    task: TaskKind,
    store: str | Path = ".polychoir",
    kinds: Mapping[str, ModalityKind] | None = None,
    ids: Sequence[Any] | np.ndarray | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    times: Sequence[Any] | np.ndarray | None = None,
    split: Sequence[str] | np.ndarray | Mapping[str, Any] | None = None,
    **settings: Any,
) -> Dataset:
    """Publish arrays and data frames as a version of the data set `name`, as if they had been read from files.

    Args:
        name: of the data set.
        modalities: by name, row i being sample i: an array [N, D] is a vector, [N, C, H, W] an image; a data frame is
            a table, whose text, bool and category columns hold categories; a sequence of str is a text. NaN rows, None
            and empty strings mean that the sample lacks the modality.
        target: classes [N], 0/1 labels [N, L] or numbers [N] or [N, K]; a data frame names its columns.
        task: what is to be predicted.
        store: folder that keeps the data sets.
        kinds: of modalities for which the rule above is not right, such as {"clicks": "sequence"} for [N, T, F] or
            {"photo": "image"} for [N, H, W].
        ids: of the samples; row numbers by default.
        groups: rows of one group are never split.
        times: numbers or dates; the last rows are tested on.
        split: train, test or validation for each row, or settings such as {"test": 0.2, "seed": 1}.
        settings: further keys of a SOURCE.yaml, such as `quality={"quarantine": True}`.

    Raises:
        ConfigError: a setting is unknown or wrong.
        DataError: lengths differ, a modality is of no known form, or as for `prepare_dataset`.
        StorageError: the disk is full or cannot be written. Nothing is published on any error.
    """
    import pandas as pd

    given: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for modality, values in modalities.items():
        kind = (kinds or {}).get(modality)
        described[modality], source = _described(modality, values, kind)
        given[described[modality]["file"]] = source
    columns, names = _target_columns(target, task)
    rows: dict[str, Any] = dict(columns)
    config: dict[str, Any] = {"name": name, "modalities": described, **settings}
    config["task"] = _task(task, _ROWS, names)
    for key, values in (("id", ids), ("group", groups), ("time", times)):
        if values is not None:
            rows[f"__{key}__"] = _column(values)
            config[key] = {"file": _ROWS, "column": f"__{key}__"}
    if isinstance(split, Mapping):
        config["split"] = dict(split)
    elif split is not None:
        rows["__split__"] = _column(split)
        config["split"] = {"file": _ROWS, "column": "__split__"}
    lengths = {key.strip("_"): len(values) for key, values in rows.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"lengths differ: {', '.join(f'{key} {length}' for key, length in lengths.items())}")
    given[_ROWS] = MemoryTable(pd.DataFrame(rows))
    source = SourceConfig.parse(config, f"data set '{name}'")
    return ingest(source, Path(), DatasetStore(Path(store).resolve() / "datasets"), given=given)


def create_dataset_from_huggingface(
    name: str,
    data: "datasets.Dataset",
    target: str | Sequence[str],
    *,
    task: TaskKind,
    store: str | Path = ".polychoir",
    modalities: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Dataset:
    """Publish a Hugging Face data set as a version of the data set `name`.

    Args:
        name: of the data set.
        data: one split; its columns are read in blocks from the Arrow files beneath it.
        target: column, or columns, to predict; class labels go by their names.
        task: what is to be predicted.
        store: folder that keeps the data sets.
        modalities: as in a SOURCE.yaml, where `file: table` stands for all columns of text and numbers and
            `file: <column>` for one of images or arrays. By default every image or array column is a modality, every
            text column another, and the columns of numbers and class labels are the table `columns`.
        settings: further keys of a SOURCE.yaml; `id`, `group` and `time` name columns of `file: table`.

    Raises:
        ConfigError: a setting is unknown or wrong.
        DataError: a column is not there or of a type that is not read, or as for `prepare_dataset`.
    """
    from training_core.data.sources.huggingface import huggingface_modalities, huggingface_sources

    names = [target] if isinstance(target, str) else list(target)
    sources = huggingface_sources(data)
    used = {reference.get("column") for reference in settings.values() if isinstance(reference, Mapping)}
    described = modalities or huggingface_modalities(data, without={*names, *(c for c in used if c)})
    files = {source: f"{source}.parquet" if source == "table" else f"{source}.npy" for source in sources}

    def renamed(reference: Mapping[str, Any]) -> dict[str, Any]:
        return (
            {**reference, "file": files.get(reference["file"], reference["file"])}
            if "file" in reference
            else {**reference}
        )

    config = {
        "name": name,
        "task": _task(task, files["table"], names),
        "modalities": {key: renamed(value) for key, value in described.items()},
        **{key: renamed(value) if isinstance(value, Mapping) else value for key, value in settings.items()},
    }
    source = SourceConfig.parse(config, f"data set '{name}'")
    given = {files[key]: value for key, value in sources.items()}
    return ingest(source, Path(), DatasetStore(Path(store).resolve() / "datasets"), given=given)


def _described(
    name: str, values: "np.ndarray | pd.DataFrame | Sequence[str | None]", kind: ModalityKind | None
) -> tuple[dict[str, Any], Any]:
    """One modality as a SOURCE.yaml would say it, and its source."""
    import pandas as pd
    from pandas.api import types

    if isinstance(values, pd.DataFrame):
        if kind in {"text", "vector"}:
            described: dict[str, Any] = {"kind": kind, "columns": list(values.columns)}
        else:
            numeric = [c for c in values if types.is_numeric_dtype(values[c]) and not types.is_bool_dtype(values[c])]
            times = [column for column in values if types.is_datetime64_any_dtype(values[column])]  # refused by name
            categorical = [column for column in values.columns if column not in {*numeric, *times}]
            described = {"kind": "tabular", "columns": list(values.columns), "categorical": categorical}
        return {**described, "file": _table_of(name)}, MemoryTable(values)
    array = values if isinstance(values, np.ndarray) else None
    if array is None or array.dtype.kind in "OUS" or kind == "text":
        source = MemoryTable(pd.DataFrame({"text": _column(values)}))
        return {"kind": "text", "columns": ["text"], "file": _table_of(name)}, source
    found = kind or _KIND_OF_NDIM.get(array.ndim)
    if found is None:
        raise DataError(
            f"modality '{name}' is an array of shape {list(array.shape)}; say with `kinds` whether it is a sequence "
            "[N, T, F], an image [N, H, W] or [N, C, H, W], or a vector [N, D]"
        )
    return ModalitySource(kind=found, file=f"{name}.npy").model_dump(exclude_defaults=True), MemoryArray(array)


def _table_of(modality: str) -> str:
    """Under which name the table of a modality is looked up: one called `rows` must not take the place of `_ROWS`."""
    file = f"{modality}.parquet"
    return f"modalities/{file}" if file == _ROWS else file


def _task(kind: TaskKind, file: str, columns: list[str]) -> dict[str, Any]:
    """What a SOURCE.yaml says of a target in some columns of a file."""
    place = {"columns": columns} if kind == "multilabel" or len(columns) > 1 else {"column": columns[0]}
    return {"kind": kind, "target": {"file": file, **place}}


def _target_columns(target: Any, task: TaskKind) -> tuple[dict[str, Any], list[str]]:
    """The target by column; what has no name is called `target`, or `target_0`, `target_1` and so on."""
    import pandas as pd

    if isinstance(target, pd.DataFrame):
        return {str(c): target[c].to_numpy() for c in target}, [str(c) for c in target]
    values = np.asarray(target)
    if values.ndim == 2 and (task == "multilabel" or values.shape[1] > 1):
        names = [f"target_{i}" for i in range(values.shape[1])]
        return {name: values[:, i] for i, name in enumerate(names)}, names
    if values.ndim == 2:
        return {"target": values[:, 0]}, ["target"]
    if values.ndim != 1:
        raise DataError(f"the target is an array of shape {list(values.shape)}; expected [N] or [N, columns]")
    return {"target": _column(target if values.dtype.kind in "OUS" else values)}, ["target"]


def _column(values: Any) -> Any:
    import pandas as pd

    return (
        values.reset_index(drop=True)  # rows go by their place: pandas would put them in the order of the index
        if isinstance(values, pd.Series)
        else pd.Series(list(values) if not isinstance(values, np.ndarray) else values)
    )

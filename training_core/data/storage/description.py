"""What is in a data set version, at a glance: schema, sizes, who has what, findings, samples, lineage."""

from collections import Counter
from typing import Any

import numpy as np

from training_core.config import Config
from training_core.data.quality import Finding
from training_core.data.splitting.splits import SET_ASIDE, SPLITS
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.history import lineage
from training_core.data.storage.store import DatasetStore
from training_core.schema import ModalitySpec, TaskSpec

MAX_PATTERNS = 16
_CELL_LETTERS = 60
_NUMBERS = 3  # of an array in a sample row


class ModalityLine(Config):
    """One modality of a data set."""

    name: str
    kind: str
    form: str
    """What one sample looks like: a shape, or columns."""
    dtype: str
    """How it is stored."""
    available: dict[str, float]
    """Share of the rows of each split that have it."""


class PatternLine(Config):
    """One combination of modalities that samples have."""

    present: tuple[str, ...]
    num_rows: int


class DatasetDescription(Config):
    """A data set version for a person, or a program, that does not know it."""

    dataset: str
    created: str
    num_rows: int
    splits: dict[str, int]
    task: TaskSpec
    class_counts: dict[str, int]
    modalities: tuple[ModalityLine, ...]
    patterns: tuple[PatternLine, ...]
    """The most frequent first; at most 16."""
    findings: tuple[Finding, ...]
    report: str
    """Path of the quality report."""
    samples: tuple[dict[str, Any], ...]
    """A few rows of the table of ids, targets, table and text columns."""
    num_parts: int
    num_bytes: int
    """On disk, parts shared with other versions included."""
    judged: str
    """Which rows the findings are about."""
    set_aside: dict[str, int]
    """How many rows are served by no split, for each reason, over all parts."""
    lineage: tuple[dict[str, Any], ...]
    """This version and those it was made from, the newest first."""


def describe(store: DatasetStore, dataset: Dataset, num_samples: int = 5) -> DatasetDescription:
    """The description of a version; reads its table, and of its arrays the sample rows."""
    available = dataset.available()
    masks = np.stack([available[name] for name in dataset.spec.names], axis=1)
    split = dataset.split()
    parts = {part: split == part for part in SPLITS if (split == part).any()}
    patterns = Counter(map(tuple, masks[split != SET_ASIDE].tolist()))
    quality, made_from = dataset.quality(), dataset.manifest["lineage"]
    return DatasetDescription(
        dataset=dataset.ref,
        created=dataset.manifest["created"],
        num_rows=dataset.num_rows,
        splits={name: int(count) for name, count in dataset.manifest["splits"].items()},
        task=dataset.spec.task,
        class_counts=dataset.manifest.get("class_counts", {}),
        modalities=tuple(
            ModalityLine(
                name=modality.name,
                kind=modality.kind,
                form=_form(modality),
                dtype=dataset.dtype(modality.name),
                available={part: float(available[modality.name][rows].mean()) for part, rows in parts.items()},
            )
            for modality in dataset.spec.modalities
        ),
        patterns=tuple(
            PatternLine(
                present=tuple(n for n, has in zip(dataset.spec.names, pattern, strict=True) if has), num_rows=count
            )
            for pattern, count in patterns.most_common(MAX_PATTERNS)
        ),
        findings=tuple(Finding.model_validate(finding) for finding in (quality or {}).get("findings", ())),
        report=str(dataset.path / "quality.html") if quality else "",
        samples=tuple(_samples(dataset, num_samples)),
        num_parts=len(dataset.manifest["parts"]),
        num_bytes=dataset.num_bytes(),
        judged=f"the {made_from['rows']:,} rows added last" if made_from.get("action") == "append" else "all rows",
        set_aside=made_from.get("set_aside", {}),
        lineage=tuple(lineage(store, dataset.ref)),
    )


def _form(modality: ModalitySpec) -> str:
    if modality.columns:
        categorical = sum(column.categories is not None for column in modality.columns)
        names = ", ".join(column.name for column in modality.columns)
        return f"{names}{f' ({categorical} categorical)' if categorical else ''}"
    return " × ".join(map(str, modality.shape))


def _samples(dataset: Dataset, num_samples: int) -> list[dict[str, Any]]:
    """The first rows as a person wants to see them: cells as text, arrays as what they are."""
    rows = np.arange(min(num_samples, dataset.num_rows))
    if not len(rows):
        return []
    own = dataset.frame(None, rows)
    available = dataset.available(rows)
    lines: list[dict[str, Any]] = [{str(c): _cell(own[c].iloc[i]) for c in own} for i in range(len(rows))]
    for modality in dataset.spec.modalities:
        cells = dataset.frame(modality.name, rows) if modality.columns else None
        values = None if modality.columns else dataset.array(modality.name, rows).reshape(len(rows), -1)
        for i, line in enumerate(lines):
            if cells is not None:
                line |= {f"{modality.name}.{c}": _cell(cells[c].iloc[i]) for c in cells}
            elif values is not None and available[modality.name][i]:
                more = ", …" if values.shape[1] > _NUMBERS else ""
                line[modality.name] = ", ".join(f"{value:.3g}" for value in values[i, :_NUMBERS]) + more
            else:
                line[modality.name] = None
    return lines


def _cell(value: Any) -> Any:
    import pandas as pd

    if value is None or pd.isna(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    text = str(value)
    return text if len(text) <= _CELL_LETTERS else text[: _CELL_LETTERS - 1] + "…"

"""Small data sets with a known flaw, or none, for the tests of data quality."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from training_core.data.quality import Finding, Known, Profile, QualityReport, check_quality
from training_core.data.storage.parts import Block
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

SENTENCE = "the dress is very nice and it fits me well but that blue one was not so good for my taste"


@dataclass(frozen=True)
class World:
    """Rows in memory: table cells by modality and column (None is absent), arrays by modality, and what is known."""

    task: TaskSpec
    target: np.ndarray
    tables: Mapping[str, Mapping[str, Sequence[Any] | np.ndarray]] = field(default_factory=dict)
    texts: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    absent: Mapping[str, np.ndarray] = field(default_factory=dict)
    known: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    @property
    def ids(self) -> np.ndarray:
        return np.asarray([f"id-{i}" for i in range(len(self))], object)

    @property
    def spec(self) -> DataSpec:
        kinds = {2: "vector", 3: "sequence", 4: "image"}
        modalities = [
            ModalitySpec.model_validate({"name": name, "kind": kinds[values.ndim], "shape": values.shape[1:]})
            for name, values in self.arrays.items()
        ]
        for kind, given in (("tabular", self.tables), ("text", self.texts)):
            for name, columns in given.items():
                listed = tuple(ColumnSpec(name=column) for column in columns)
                shape = (len(listed),) if kind == "tabular" else ()
                about = {"name": name, "kind": kind, "shape": shape, "columns": listed}
                modalities.append(ModalitySpec.model_validate(about))
        return DataSpec(modalities=tuple(modalities), task=self.task)

    def blocks(self, num_rows: int) -> Iterator[Block]:
        cells: dict[str, Any] = {"__id__": pa.array(self.ids.tolist(), pa.string())}
        for name in self.spec.names:
            columns = self.tables.get(name) or self.texts.get(name) or {}
            arrays = {f"{name}.{column}": pa.array(values) for column, values in columns.items()}
            cells |= arrays
            there = ~self.absent.get(name, np.zeros(len(self), bool))
            if arrays:
                there &= ~np.logical_and.reduce([np.asarray(cells.is_null()) for cells in arrays.values()])
            cells[f"__available__.{name}"] = pa.array(there)
        table = pa.table(cells)
        for start in range(0, len(self), num_rows):
            stop = start + num_rows
            yield Block(table.slice(start, num_rows), {n: values[start:stop] for n, values in self.arrays.items()})

    def profile(self, num_rows: int = 128) -> Profile:
        profile = Profile(self.spec)
        for block in self.blocks(num_rows):
            profile.update(block)
        return profile

    def report(self, num_rows: int = 128, **changes: Any) -> QualityReport:
        split = np.where(np.arange(len(self)) % 4 == 3, "test", "train").astype(object)
        values = {"spec": self.spec, "target_names": ("y",), "target": self.target, "split": split, "ids": self.ids}
        return check_quality(self.profile(num_rows), Known(**{**values, **self.known, **changes}))

    def having(self, **changes: Any) -> "World":
        return replace(self, **changes)

    def with_column(self, name: str, cells: Sequence[Any] | np.ndarray) -> "World":
        """The same with one more column of the table `facts`."""
        return replace(self, tables={**self.tables, "facts": {**self.tables["facts"], name: cells}})


def a_clean_world(kind: str = "classification", num_rows: int = 600, seed: int = 0) -> World:
    """A table, a vector, images and a text that honestly tell something about the target, and nothing wrong."""
    draws = np.random.default_rng(seed)
    hidden = draws.normal(size=num_rows)
    noisy = hidden + 0.8 * draws.normal(size=num_rows)
    if kind == "classification":
        task, target = TaskSpec.classification(("low", "mid", "high")), np.digitize(noisy, (-0.5, 0.5))
    elif kind == "multilabel":
        task = TaskSpec.multilabel(("warm", "wet"))
        target = np.column_stack([noisy > 0, draws.random(num_rows) < 0.3]).astype(np.float32)
    else:
        task, target = TaskSpec.regression(), noisy[:, None]
    words = np.asarray(SENTENCE.split())
    facts = {
        "size": hidden + draws.normal(size=num_rows),
        "weight": 0.7 * hidden + draws.normal(size=num_rows),
        "age": draws.integers(18, 80, num_rows),
        "price": np.exp(draws.normal(size=num_rows)),
        "shop": np.asarray(["north", "south", "east"])[draws.integers(0, 3, num_rows)].tolist(),
    }
    facts["weight"][::17] = np.nan
    return World(
        task=task,
        target=target,
        tables={"facts": {name: without_nan(cells) for name, cells in facts.items()}},
        texts={"review": {"text": [" ".join(words[draws.integers(0, len(words), 12)]) for _ in range(num_rows)]}},
        arrays={
            "sensor": (0.5 * hidden[:, None] + draws.normal(size=(num_rows, 20))).astype(np.float32),
            "photo": draws.integers(0, 256, (num_rows, 1, 6, 6)).astype(np.uint8),
        },
    )


def without_nan(cells: Any) -> Any:
    """Cells as they stand in a part: absent ones null."""
    values = np.asarray(cells)
    return [None if value != value else value for value in values.tolist()]


def found(report: QualityReport, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def codes(report: QualityReport) -> set[str]:
    return {finding.code for finding in report.findings}

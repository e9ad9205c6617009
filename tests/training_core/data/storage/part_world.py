"""A small data set in memory, and how it gets into a store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block, Compression
from training_core.data.storage.store import DatasetStore, Described
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec


@dataclass(frozen=True)
class Contents:
    """N samples; `columns` hold float64 or str objects, `target` is as in `Samples`."""

    spec: DataSpec
    target_names: tuple[str, ...]
    ids: np.ndarray
    split: np.ndarray
    target: np.ndarray
    available: Mapping[str, np.ndarray]
    columns: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: np.ndarray | None = None
    times: Any = None

    def block(self, rows: slice = slice(None)) -> Block:
        import pyarrow as pa

        columns: dict[str, Any] = {"__id__": pa.array(self.ids.tolist(), pa.string())}
        if self.groups is not None:
            columns["__group__"] = pa.array(self.groups.tolist(), pa.string())
        if self.times is not None:
            columns["__time__"] = pa.array(self.times)
        if self.spec.task.kind == "classification":
            labels = np.asarray(self.spec.task.classes, object)[self.target]
            columns[f"__target__.{self.target_names[0]}"] = pa.array(labels.tolist(), pa.string())
        else:
            for i, name in enumerate(self.target_names):
                columns[f"__target__.{name}"] = pa.array(self.target[:, i].astype(np.float64))
        columns |= {f"__available__.{name}": pa.array(mask) for name, mask in self.available.items()}
        for name, cells in self.columns.items():
            for column, values in cells.items():
                as_text = values.dtype == object
                columns[f"{name}.{column}"] = pa.array(values.tolist(), pa.string()) if as_text else pa.array(values)
        return Block(pa.table(columns)[rows], {name: values[rows] for name, values in self.arrays.items()})


def some_contents(num_rows: int = 60, seed: int = 0, first: int = 0) -> Contents:
    """Rows `first`, `first + 1`, …, the values drawn by `seed`."""
    draws = np.random.default_rng(seed)
    spec = DataSpec(
        modalities=(
            ModalitySpec(name="vec", kind="vector", shape=(300,)),
            ModalitySpec(
                name="meta",
                kind="tabular",
                shape=(2,),
                columns=(ColumnSpec(name="age"), ColumnSpec(name="city", categories=("Köln", "Ulm"))),
            ),
        ),
        task=TaskSpec.classification(("cat", "dog")),
    )
    ages = draws.normal(size=num_rows)
    ages[::7] = np.nan
    return Contents(
        spec=spec,
        target_names=("label",),
        ids=np.asarray([f"id {first + i}" for i in range(num_rows)], object),
        split=np.asarray([("train", "train", "test")[i % 3] for i in range(num_rows)], object),
        target=np.arange(num_rows) % 2,
        available={"vec": np.arange(num_rows) % 5 > 0, "meta": np.ones(num_rows, bool)},
        columns={
            "meta": {"age": ages, "city": np.asarray([("Köln", "Ulm", None)[i % 3] for i in range(num_rows)], object)}
        },
        arrays={"vec": draws.normal(size=(num_rows, 300)).astype(np.float32)},
    )


def publish(
    store: DatasetStore,
    name: str,
    contents: Contents,
    *,
    base: Dataset | None = None,
    block_rows: int = 1000,
    compression: Compression = "none",
    lineage: Mapping[str, Any] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    spec: DataSpec | None = None,
) -> Dataset:
    """Write `contents` block by block as a version, after the rows of `base`."""
    with store.new_part(name, compression) as part:
        for start in range(0, max(1, len(contents.ids)), block_rows):
            part.write(contents.block(slice(start, start + block_rows)))
        split = contents.split if base is None else np.concatenate([base.split(), contents.split])
        described = Described(spec or contents.spec, contents.target_names, split, lineage or {}, files or {})
        return store.publish(name, part, described, base=base)

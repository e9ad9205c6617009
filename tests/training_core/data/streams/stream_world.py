"""A small data set of every kind of modality, in parts on disk, and what its batches have to be."""

from pathlib import Path

import numpy as np
import torch

from training_core.data.preprocessing import Preprocessor
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block, Compression
from training_core.data.storage.store import DatasetStore, Described
from training_core.data.views import RowSource
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="vec", kind="vector", shape=(2000,)),
        ModalitySpec(name="photo", kind="image", shape=(2, 3, 4)),
        ModalitySpec(name="series", kind="sequence", shape=(5, 3)),
        ModalitySpec(
            name="facts",
            kind="tabular",
            shape=(2,),
            columns=(ColumnSpec(name="size"), ColumnSpec(name="shop", categories=("north", "south"))),
        ),
        ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="body"),)),
    ),
    task=TaskSpec.classification(("a", "b", "c")),
)


def some_dataset(
    folder: Path, part_rows: tuple[int, ...] = (600, 300), compression: Compression = "none", missing: float = 0.1
) -> Dataset:
    """Parts of so many rows, sorted by class: a vector of 8 kB per row, a photo of bytes, a series of float64, …"""
    store, dataset, total = DatasetStore(folder), None, sum(part_rows)
    for number, num_rows in enumerate(part_rows):
        first = sum(part_rows[:number])
        with store.new_part("world", compression) as part:
            part.write(some_block(first, num_rows, total, missing))
            split = np.full(first + num_rows, "train", object)
            dataset = store.publish("world", part, Described(SPEC, ("label",), split, {}), base=dataset)
    assert dataset is not None
    return dataset


def some_block(first: int, num_rows: int, total: int, missing: float) -> Block:
    """Rows `first`, `first + 1`, … of `total`."""
    import pyarrow as pa

    draws = np.random.default_rng(first)
    rows = np.arange(first, first + num_rows)
    shown = {name: draws.random(num_rows) >= missing for name in SPEC.names}
    arrays = {
        "vec": (draws.normal(size=(num_rows, 2000)) + np.arange(2000) % 7).astype(np.float32),
        "photo": draws.integers(0, 256, (num_rows, 2, 3, 4), dtype=np.uint8),
        "series": draws.normal(size=(num_rows, 5, 3)) * 100 + 5000,
    }
    for name, values in arrays.items():
        values[~shown[name]] = 0 if values.dtype == np.uint8 else np.nan
    labels = np.array(["a", "b", "c"])[rows * 3 // total]
    sizes = np.where(rows % 11 == 0, np.nan, draws.normal(size=num_rows))
    columns = {
        "__id__": pa.array([f"row {row}" for row in rows]),
        "__target__.label": pa.array(labels.tolist()),
        **{f"__available__.{name}": pa.array(mask) for name, mask in shown.items()},
        "facts.size": pa.array(sizes, from_pandas=True),
        "facts.shop": pa.array([("north", "south", None)[row % 3] for row in rows], pa.string()),
        "note.body": pa.array([f"row number {row} of many" for row in rows]),
    }
    return Block(pa.table(columns), arrays)


def encoding(source: RowSource) -> Preprocessor:
    return Preprocessor.fit(source, source.spec)


def assert_rows_are_encoded(batch: Batch, source: RowSource, preprocessor: Preprocessor) -> None:
    """Every row of `batch` is what `Preprocessor.encode` makes of that row, but for rounding."""
    assert batch.rows is not None
    assert batch.target is not None
    rows = batch.rows.numpy()
    expected = preprocessor.encode(source.samples(rows))
    for name in preprocessor.spec.names:
        torch.testing.assert_close(batch.inputs[name].double(), torch.tensor(expected.inputs[name]).double(), **NEAR)
    assert batch.available.tolist() == expected.availability(preprocessor.spec.names).tolist()
    assert expected.target is not None
    assert batch.target.tolist() == expected.target.tolist()


NEAR = {"atol": 2e-6, "rtol": 1e-6}


def row_numbers(batch: Batch) -> list[int]:
    assert batch.rows is not None
    return batch.rows.tolist()

"""What a data set gives back: cells in their own types, any rows, tables that are too large to keep."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from part_world import publish, some_contents

from training_core.data.storage import dataset as dataset_module
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.parts import Block
from training_core.data.storage.store import DatasetStore, Described
from training_core.errors import DataError, StorageError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(
            name="t",
            kind="tabular",
            shape=(4,),
            columns=(
                ColumnSpec(name="big"),
                ColumnSpec(name="truth"),
                ColumnSpec(name="x"),
                ColumnSpec(name="level", categories=("1", "2", "10")),
            ),
        ),
        ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="head"), ColumnSpec(name="body"))),
        ModalitySpec(name="pix", kind="image", shape=(1, 2, 2)),
    ),
    task=TaskSpec.regression(("y",)),
)
BIG = 2**60 + 1


def typed_dataset(root: Path, *, unit: str = "us", base: Dataset | None = None, first: int = 0) -> Dataset:
    table = pa.table(
        {
            "__id__": [f"r{first + i}" for i in range(4)],
            "__group__": ["a", "a", "b", None],
            "__time__": pa.array([0, 3600, 7200, None], pa.timestamp("s", "Europe/Berlin")).cast(
                pa.timestamp(unit, "Europe/Berlin")
            ),
            "__target__.y": [1.5, 2.0, None, -1.0],
            "__available__.t": [True, True, True, False],
            "__available__.note": [True] * 4,
            "__available__.pix": [True] * 4,
            "t.big": pa.array([BIG, None, 3, 4]),
            "t.truth": pa.array([True, None, False, True]),
            "t.x": pa.array([1.0, np.nan, None, 4.0]),
            "t.level": pa.array([1, 2, 10, None]),
            "note.head": ["one", "", None, " "],
            "note.body": ["two", "three", None, "four"],
        }
    )
    store = DatasetStore(root)
    with store.new_part("typed") as part:
        part.write(Block(table, {"pix": np.arange(16, dtype=np.uint8).reshape(4, 1, 2, 2)}))
        split = np.asarray(["train", "test", "quarantined", "train"], object)
        split = split if base is None else np.concatenate([base.split(), split])
        return store.publish("typed", part, Described(SPEC, ("y",), split, {}), base=base)


def test_cells_come_back_exactly_as_given(tmp_path):
    dataset = typed_dataset(tmp_path)
    frame = dataset.frame("t")
    assert frame.dtypes.astype(str).to_dict() == {
        "big": "Int64", "truth": "boolean", "x": "float64", "level": "Int64",
    }  # fmt: skip
    assert frame["big"].tolist()[0] == BIG
    assert dataset.frame("t", np.asarray([0])).dtypes.equals(frame.dtypes)
    assert dataset.frame("note")["head"].isna().tolist() == [False, False, True, False]
    assert dataset.array("pix").dtype == np.uint8
    assert dataset.dtype("pix") == "uint8"
    assert dataset.dtype("t") == "bool, double, int64"
    own = dataset.frame()
    assert list(own) == ["id", "group", "time", "target", "split"]
    assert own["time"].iloc[1] == pd.Timestamp("1970-01-01 02:00", tz="Europe/Berlin")
    assert own["split"].tolist() == ["train", "test", "quarantined", "train"]
    times = dataset.times()
    assert times is not None
    assert times[1] == np.datetime64("1970-01-01T01:00")
    assert np.isnat(times[3])
    with pytest.raises(DataError, match="'pix' is an array"):
        dataset.frame("pix")
    with pytest.raises(DataError, match="'t' is no array"):
        dataset.array("t")


def test_samples_hold_numbers_codes_and_joined_texts(tmp_path):
    samples = typed_dataset(tmp_path).samples()
    table = np.asarray([[BIG, 1, 1, 0], [np.nan, np.nan, np.nan, 1], [3, 0, np.nan, 2], [4, 1, 4, np.nan]], np.float64)
    assert np.array_equal(samples.inputs["t"], table, equal_nan=True)
    assert samples.inputs["note"].tolist() == ["one two", "three", "", "four"]
    assert samples.inputs["pix"].dtype == np.float32
    assert samples.target is not None
    assert np.array_equal(samples.target[:, 0], [1.5, 2, np.nan, -1], equal_nan=True)
    assert samples.groups is not None
    assert samples.groups.tolist() == ["a", "a", "b", None]


def test_parts_with_times_of_another_unit_are_read_as_one(tmp_path):
    first = typed_dataset(tmp_path, unit="s")
    both = typed_dataset(tmp_path, unit="ns", base=first, first=10)
    times = both.times()
    assert times is not None
    assert (times[:3] == times[4:7]).all()
    assert both.frame()["time"].dt.tz is not None
    assert [rows for _, rows in both.array_stores("pix")] == [4, 4]
    assert (both.array("pix", np.asarray([7, 0, 7])) == np.arange(16).reshape(4, 1, 2, 2)[[3, 0, 3]]).all()


def test_only_the_modalities_asked_for_are_read(tmp_path):
    dataset = typed_dataset(tmp_path)
    samples = dataset.samples(np.asarray([1]), modalities=["note"])
    assert (list(samples.inputs), list(samples.available)) == (["note"], ["note"])
    with pytest.raises(DataError, match="no modality 'nose'; this data has t, note, pix"):
        dataset.samples(modalities=["nose"])
    with pytest.raises(DataError, match="has no row 4; its 4 rows count from 0"):
        dataset.samples(np.asarray([0, 4]))


def equal(one: Samples, other: Samples) -> bool:
    names = one.inputs.keys()
    return (
        one.ids.tolist() == other.ids.tolist()
        and all(np.array_equal(one.inputs[n], other.inputs[n], equal_nan=True) for n in names)
        and all((one.available[n] == other.available[n]).all() for n in names)
        and np.array_equal(one.target, other.target)  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("kept_bytes", [0, 100_000, 1 << 30])
def test_large_tables_read_on_demand_give_what_small_ones_kept_give(tmp_path, monkeypatch, kept_bytes):
    store = DatasetStore(tmp_path)
    base = publish(store, "shoes", some_contents(9000))
    dataset = publish(store, "shoes", some_contents(5000, seed=1, first=9000), base=base)
    expected = dataset.samples()
    monkeypatch.setattr(dataset_module, "_KEPT_BYTES", kept_bytes)
    draws = np.random.default_rng(0)
    for rows in (
        np.arange(14_000),
        np.arange(8000, 10_000),
        draws.permutation(14_000)[:700],
        draws.integers(0, 14_000, 900),
    ):
        dataset = store.open("shoes")
        assert equal(dataset.samples(rows), expected.take(rows))
        blocks = list(dataset.blocks(rows, 333))
        assert [len(block) for block in blocks[:-1]] == [333] * (len(blocks) - 1)
        start = 0
        for block in blocks:
            assert equal(block, expected.take(rows[start : start + len(block)]))
            start += len(block)
        assert start == len(rows)
        assert dataset._kept_bytes <= kept_bytes


def test_a_stream_in_order_keeps_nothing_and_reads_each_row_group_once_per_column_set(tmp_path, monkeypatch):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents(9000))
    import pyarrow.parquet as pq

    read: list[tuple] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns, **more: (read.append((group, *columns)), original(self, group, columns, **more))[
            1
        ],
    )
    assert sum(len(block) for block in dataset.blocks(np.arange(9000), 100)) == 9000
    assert len(read) == len(set(read)) == 3 * 4  # row groups × (table, availability, ids, target)
    assert dataset._kept == {}


def test_nothing_stays_open_when_nobody_has_the_data_set(tmp_path):
    contents = some_contents()
    path = publish(DatasetStore(tmp_path), "shoes", replace(contents, groups=contents.ids)).path
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        Dataset(path).samples(np.asarray([3, 1]))
    held = Dataset(path)
    held.close()
    held.close()
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert held.subset(rows=held.rows("test"), modalities=["meta"]).samples().inputs["meta"].shape == (20, 2)


def test_a_shard_that_vanishes_is_an_error_and_not_zeros(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    (dataset.parts[0].array_path("vec") / "c" / "0" / "0").unlink()
    with pytest.raises(StorageError, match=r"does not read back .*vec/c/0/0"):
        dataset.array("vec", np.arange(3))


def test_a_split_that_there_is_not_is_refused_on_opening(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    np.save(dataset.path / "split.npy", np.full(len(dataset), 99, np.uint8))
    with pytest.raises(StorageError, match=r"split\.npy names a split that there is not"):
        Dataset(dataset.path)

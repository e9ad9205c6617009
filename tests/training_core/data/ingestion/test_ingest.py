"""What a source becomes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from source_world import IDS, NUM_ROWS, World, column

from training_core.data.ingestion.ingest import prepare_dataset
from training_core.errors import ConfigError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_kind_of_modality_comes_back_as_it_was_given(world):
    dataset = world.prepare()
    samples = dataset.samples()
    assert dataset.spec.names == ("photo", "review", "clicks", "vec", "table")
    assert dataset.spec["photo"].shape == (1, 6, 6)
    assert (samples.inputs["photo"][:, 0] == world.photo).all()
    assert (samples.inputs["clicks"] == world.clicks.astype(np.float32)).all()
    assert (samples.inputs["vec"] == world.vec).all()
    assert samples.inputs["review"][3] == "title 3 schöner Text 3"
    assert samples.inputs["table"][:, 0].tolist() == world.meta["age"].tolist()
    assert dataset.spec["table"].columns[1].categories == ("Bonn", "Köln", "Ulm")
    assert samples.inputs["table"][:3, 1].tolist() == [1, 2, 0]
    assert dataset.spec.task.classes == ("cat", "dog")
    assert samples.target is not None
    assert samples.target.tolist() == [0, 1] * 20
    assert samples.target.dtype == np.int64
    assert all(mask.all() for mask in samples.available.values())
    assert samples.ids.tolist() == [str(i) for i in range(NUM_ROWS)]


def test_numeric_labels_are_sorted_by_number(world):
    world.meta["label"] = [(10, 9, 2)[i % 3] for i in range(NUM_ROWS)]
    assert world.prepare().spec.task.classes == ("2", "9", "10")


def test_whole_number_labels_of_any_file_type_are_the_same_classes(world):
    world.meta["label"] = [float(i % 2) for i in range(NUM_ROWS)]
    world.meta.astype({"age": int}).to_parquet(world.folder / "labels.parquet")
    world.source["task"]["target"]["file"] = "labels.parquet"
    assert world.prepare().spec.task.classes == ("0", "1")


def test_multilabel_and_regression_targets(world):
    world.source["task"] = {"kind": "multilabel", "target": {"file": "meta.csv", "columns": ["wet", "red"]}}
    dataset = world.prepare()
    assert dataset.spec.task.classes == ("wet", "red")
    assert dataset.target().dtype == np.float32
    assert (dataset.target() == world.meta[["wet", "red"]].to_numpy()).all()
    world.source["task"] = {"kind": "regression", "target": column("price")}
    dataset = world.prepare()
    assert dataset.spec.task.targets == ("price",)
    assert dataset.target().dtype == np.float64
    assert (dataset.target()[:, 0] == world.meta["price"]).all()


def test_missing_cells_rows_and_texts_are_masked_never_filled_in(world):
    world.photo[3] = np.nan
    world.vec[4] = np.nan
    world.meta.loc[5, ["title", "body"]] = ["", "  "]
    world.meta.loc[6, "title"] = None
    world.meta.loc[7, ["age", "city"]] = [None, None]
    world.meta.loc[8, "age"] = None
    world.meta.loc[9, "city"] = None
    dataset = world.prepare()
    samples = dataset.samples()
    absent = {name: np.flatnonzero(~mask).tolist() for name, mask in samples.available.items()}
    assert absent == {"photo": [3], "review": [5], "clicks": [], "vec": [4], "table": [7]}
    assert dataset.manifest["available"]["table"] == NUM_ROWS - 1
    assert np.isnan(samples.inputs["photo"][3]).all()
    assert samples.inputs["review"][6] == "schöner Text 6"
    assert np.isnan(samples.inputs["table"][8, 0])
    assert np.isnan(samples.inputs["table"][9, 1])
    assert not np.isnan(samples.inputs["table"][9, 0])


def test_files_with_the_id_column_are_aligned_by_it_and_absent_ids_are_masked(world):
    shuffled = world.meta[["sample_id", "age", "city"]].drop(index=[2, 5]).sample(frac=1, random_state=0)
    stranger = pd.DataFrame({"sample_id": ["nobody"], "age": [1], "city": ["Rom"]})
    pd.concat([shuffled, stranger]).astype({"age": float}).to_parquet(world.folder / "table.parquet")
    order = np.random.default_rng(0).permutation(NUM_ROWS)[:-1]
    np.savez(world.folder / "by_id.npz", sample_id=np.asarray(IDS)[order], x=world.vec[order])
    world.source["id"] = column("sample_id")
    world.source["modalities"]["table"]["file"] = "table.parquet"
    world.source["modalities"]["vec"] = {"kind": "vector", "file": "by_id.npz", "key": "x"}
    dataset = world.prepare()
    samples = dataset.samples()
    assert samples.ids.tolist() == IDS
    assert np.flatnonzero(~samples.available["table"]).tolist() == [2, 5]
    last = int(np.random.default_rng(0).permutation(NUM_ROWS)[-1])
    assert np.flatnonzero(~samples.available["vec"]).tolist() == [last]
    kept = np.delete(np.arange(NUM_ROWS), last)
    assert (samples.inputs["vec"][kept] == world.vec[kept]).all()
    ages = world.meta["age"].drop(index=[2, 5])
    assert samples.inputs["table"][ages.index, 0].tolist() == ages.tolist()
    assert (samples.inputs["photo"][:, 0] == world.photo).all()  # no ids of its own: aligned by row
    assert dataset.manifest["lineage"]["rows_without_sample"] == {"table.parquet": 1, "by_id.npz": 0}
    assert "Rom" not in (dataset.spec["table"].columns[1].categories or ())


def test_the_given_split_group_and_time_are_kept(world):
    world.source |= {"split": column("split"), "time": column("ts")}
    dataset = world.prepare()
    assert dataset.rows("test").tolist() == list(range(0, NUM_ROWS, 4))
    assert len(dataset.rows("validation")) == 0
    times = dataset.times()
    assert times is not None
    assert times[2] == np.datetime64("2026-01-02")
    del world.source["split"], world.source["time"]
    world.source["group"] = column("user")
    dataset = world.prepare()
    groups = dataset.groups()
    assert groups is not None
    assert groups.tolist() == world.meta["user"].tolist()
    assert not set(groups[dataset.rows("train")]) & set(groups[dataset.rows("test")])


def test_with_times_the_last_rows_are_tested_on(world):
    world.source["time"] = column("ts")
    assert world.prepare().rows("test").tolist() == list(range(28, 40))


def test_the_version_depends_on_the_content_alone(world, tmp_path):
    first = world.prepare()
    world.meta.astype({"age": int}).to_parquet(world.folder / "meta.parquet")  # another file, the same values
    for part in (world.source["task"]["target"], *world.source["modalities"].values()):
        part["file"] = part["file"].replace("meta.csv", "meta.parquet")
    assert world.prepare().fingerprint == first.fingerprint
    world.photo[0, 0, 0] += 1
    changed = world.prepare()
    assert changed.fingerprint != first.fingerprint
    assert world.store.versions("shoes") == (first.version, changed.version)
    world.source["split"] = {"seed": 1}
    assert world.prepare().fingerprint not in {first.fingerprint, changed.fingerprint}


def test_vectors_may_stand_in_columns_and_small_integers_keep_their_type(world):
    world.source["modalities"]["vec"] = {"kind": "vector", "file": "meta.csv", "columns": ["price", "wet"]}
    world.photo = (world.photo * 255).astype(np.uint8)
    samples = world.prepare().samples()
    assert (samples.inputs["vec"] == world.meta[["price", "wet"]].to_numpy(np.float32)).all()
    assert samples.inputs["photo"].dtype == np.float32
    assert (samples.inputs["photo"][:, 0] == world.photo).all()


def test_an_unknown_override_is_refused_by_name(world):
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        prepare_dataset(world.write(), world.store, {"colour": "red"})


def test_an_override_can_rename_the_dataset_and_change_its_split(world):
    dataset = prepare_dataset(world.write(), world.store, {"name": "boots", "split": {"test": 0.5}})
    assert dataset.name == "boots"
    assert len(dataset.rows("test")) == 20

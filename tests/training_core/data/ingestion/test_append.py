"""Rows added to a data set: a new version that shares the old files, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from source_world import NUM_ROWS, World, column

from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.errors import DataError

HALF = NUM_ROWS // 2


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.source["id"] = column("sample_id")
    world.source["modalities"].pop("photo")
    return world


def cut(world: World, rows: slice) -> Path:
    """The source with only these rows, in a folder of its own."""
    part = World(world.folder / f"rows-{rows.start}-{rows.stop}")
    part.folder.mkdir(exist_ok=True)
    part.source, part.meta = world.source, world.meta[rows]
    part.clicks, part.vec, part.photo = world.clicks[rows], world.vec[rows], world.photo[rows]
    return part.write()


def test_appended_rows_come_after_the_old_ones_and_the_old_files_are_shared(world):
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert new.version != old.version
    assert world.store.open("shoes").version == new.version
    assert new.ids().tolist() == world.meta["sample_id"].tolist()
    assert new.manifest["parts"][0] == old.manifest["parts"][0]
    assert (new.samples().inputs["vec"] == world.vec).all()
    assert new.samples().inputs["review"][-1] == f"title {NUM_ROWS - 1} schöner Text {NUM_ROWS - 1}"
    assert new.manifest["lineage"]["action"] == "append"
    assert new.manifest["lineage"]["parent"] == old.version
    assert len(old.samples()) == HALF  # the old version is as it was
    world.store.verify(new)


def test_rows_keep_the_split_they_had(world):
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert new.split()[:HALF].tolist() == old.split().tolist()
    assert set(new.split()[HALF:]) == {"train", "test"}


def test_a_known_group_stays_on_its_side(world):
    world.source["group"] = column("user")
    world.meta["user"] = [f"u{i % 10}" for i in range(NUM_ROWS)]  # every group in both halves
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    groups = new.groups()
    assert groups is not None
    assert not set(groups[new.rows("train")]) & set(groups[new.rows("test")])


def test_new_classes_and_categories_come_after_the_known_ones_whose_codes_stay(world):
    world.meta.loc[HALF:, "label"] = [("ant", "cat", "dog")[i % 3] for i in range(HALF)]
    world.meta.loc[HALF:, "city"] = [("Aachen", "Köln")[i % 2] for i in range(HALF)]
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert old.spec.task.classes == ("cat", "dog")
    assert new.spec.task.classes == ("cat", "dog", "ant")
    assert new.spec["table"].columns[1].categories == ("Bonn", "Köln", "Ulm", "Aachen")
    assert new.target()[:HALF].tolist() == old.target().tolist()
    assert new.frame("table")["city"].tolist() == world.meta["city"].tolist()


def test_appending_the_same_rows_again_changes_nothing(world):
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    source = cut(world, slice(HALF, NUM_ROWS))
    first, second = (append_to_dataset(source, world.store) for _ in range(2))
    assert first.version == second.version
    assert len(world.store.versions("shoes")) == 2


def test_appending_no_rows_changes_nothing(world):
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    assert append_to_dataset(cut(world, slice(0, 0)), world.store).version == old.version


def test_what_does_not_fit_is_refused_and_the_data_set_stays_as_it_is(world):
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    with pytest.raises(DataError, match="has id s10, s11, s12 and 7 more already; append only new rows"):
        append_to_dataset(cut(world, slice(10, NUM_ROWS)), world.store)
    fewer = dict(world.source["modalities"])
    world.source["modalities"] = {name: fewer[name] for name in ("vec", "table")}
    with pytest.raises(DataError, match=r"has the modalities .* the rows to append have vec, table"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    world.source["modalities"] = fewer
    world.vec = world.vec[:, :3]
    with pytest.raises(DataError, match=r"'vec' is vector \[4\] in the data set and vector \[3\] in the rows"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    world.vec = np.ones((NUM_ROWS, 4), np.float32)
    world.source["task"] = {"kind": "regression", "target": column("price")}
    with pytest.raises(DataError, match=r"predicts label \(classification\), the rows to append have price"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert world.store.versions("shoes") == (old.version,)


def test_without_ids_nothing_can_be_appended(world):
    del world.source["id"]
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    with pytest.raises(DataError, match="by their ids; name their column with `id`"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)


def test_appending_to_what_is_not_there_says_so(world):
    with pytest.raises(DataError, match="no dataset 'shoes'"):
        append_to_dataset(cut(world, slice(0, HALF)), world.store)


def test_a_given_split_does_not_move_a_known_group(world):
    world.source["group"] = column("user")
    world.source["split"] = column("split")
    world.meta["user"] = [f"u{i % 10}" for i in range(NUM_ROWS)]  # every group in both halves
    world.meta["split"] = ["test" if (i % 10 < 3) == (i < HALF) else "train" for i in range(NUM_ROWS)]
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    with pytest.raises(DataError, match="group 'u0' is in both 'test' and 'train'"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert world.store.versions("shoes") == (old.version,)


def test_modalities_keep_their_order_whatever_the_order_of_the_source(world):
    old = prepare_dataset(cut(world, slice(0, HALF)), world.store)
    world.source["modalities"] = dict(reversed(world.source["modalities"].items()))
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    assert new.spec.names == old.spec.names
    assert (new.samples().inputs["vec"] == world.vec).all()


def test_added_rows_may_all_lack_a_modality(world):
    world.vec[HALF:] = np.nan
    world.meta.loc[HALF:, ["title", "body"]] = ""
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    new = append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)
    for name in ("vec", "review"):
        assert new.available()[name].tolist() == [True] * HALF + [False] * HALF


def test_a_vector_of_columns_keeps_their_order(world):
    world.meta["weight"] = np.random.default_rng(1).normal(size=NUM_ROWS)
    world.source["modalities"]["facts"] = {"kind": "vector", "file": "meta.csv", "columns": ["price", "weight"]}
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    world.source["modalities"]["facts"] = {"kind": "vector", "file": "meta.csv", "columns": ["weight", "price"]}
    with pytest.raises(DataError, match=r"'facts' is made of price, weight in .* and of weight, price in the rows"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)


def test_another_task_is_refused_as_such_whatever_its_values(world):
    world.source["task"] = {"kind": "regression", "target": column("price")}
    prepare_dataset(cut(world, slice(0, HALF)), world.store)
    world.source["task"] = {"kind": "classification", "target": column("label")}
    world.meta["label"] = "cat"
    with pytest.raises(DataError, match=r"predicts price \(regression\), the rows to append have label"):
        append_to_dataset(cut(world, slice(HALF, NUM_ROWS)), world.store)

"""What is refused: one clear line, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_world import IDS, NUM_ROWS, World, column

from training_core.data.ingestion.ingest import prepare_dataset
from training_core.errors import DataError, UserError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Every way a source can be wrong that we know of: what is done to the world, and the line it gives.


def set_cell(row: int | slice, name: str, value: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.meta[name] = world.meta[name].astype(object)
        world.meta.loc[row, name] = value

    return change


def set_source(**changes: Any) -> Callable[[World], None]:
    return lambda world: world.source.update(changes)


def set_array(name: str, rows: Any, value: float) -> Callable[[World], None]:
    def change(world: World) -> None:
        getattr(world, name)[rows] = value

    return change


def set_modality(name: str, **changes: Any) -> Callable[[World], None]:
    return lambda world: world.source["modalities"][name].update(changes)


def both(*changes: Callable[[World], None]) -> Callable[[World], None]:
    def change(world: World) -> None:
        for one in changes:
            one(world)

    return change


def shorten_meta(world: World) -> None:
    world.meta = world.meta[:30]


def drop_photo_rows(world: World) -> None:
    world.photo = world.photo[:35]


def flatten_clicks(world: World) -> None:
    world.clicks = world.clicks.reshape(NUM_ROWS, -1)


def empty_vec(world: World) -> None:
    world.vec = world.vec[:, :0]


def no_rows(world: World) -> None:
    world.meta, world.photo, world.clicks, world.vec = (
        values[:0] for values in (world.meta, world.photo, world.clicks, world.vec)
    )


def one_row(world: World) -> None:
    world.meta, world.photo, world.clicks, world.vec = (
        values[:1] for values in (world.meta, world.photo, world.clicks, world.vec)
    )


def repeat_npz_id(world: World) -> None:
    world.extra["sample_id"] = np.asarray([*IDS[:-1], IDS[0]])


def lose_everything_of_row_9(world: World) -> None:
    world.keep_only("photo", "table")
    world.photo[9] = np.nan
    set_cell(9, "age", None)(world)
    set_cell(9, "city", None)(world)


def lose_photos_of_training_rows(world: World) -> None:
    world.source["split"] = column("split")
    world.photo[np.arange(NUM_ROWS) % 4 != 0] = np.nan


def lose_target_rows(world: World) -> None:
    world.source["id"] = {"file": "ids.csv", "column": "sample_id"}
    (world.folder / "ids.csv").write_text("sample_id\n" + "\n".join([*IDS, "late"]) + "\n")


REGRESSION = set_source(task={"kind": "regression", "target": column("price")})
MULTILABEL = set_source(task={"kind": "multilabel", "target": {"file": "meta.csv", "columns": ["wet"]}})
BY_ID = set_source(id=column("sample_id"))

BAD_DATA = {
    "a missing file": (set_modality("photo", file="gone.npy"), r"gone.npy is not there"),
    "a missing key": (set_modality("vec", key="emb"), r"no array 'emb'; it has clicks, vec"),
    "no key for several": (lambda w: w.source["modalities"]["vec"].pop("key"), r"holds 2 arrays \(clicks, vec\)"),
    "a missing column": (
        set_modality("table", columns=["age", "city", "income"]),
        r"no column 'income'; it has sample_id",
    ),
    "a missing target column": (
        set_source(task={"kind": "regression", "target": column("cost")}),
        r"meta.csv has no column 'cost'; it has",
    ),
    "a duplicate id": (both(BY_ID, set_cell(7, "sample_id", "s01")), r"id s01 occur\(s\) more than once"),
    "an empty id": (both(BY_ID, set_cell(7, "sample_id", "")), r"row 7 has no id"),
    "a duplicate id in another file": (both(BY_ID, repeat_npz_id), r"arrays.npz, id column 'sample_id': id s00 occur"),
    "a missing label": (
        set_cell(slice(3, 7), "label", None),
        r"target column 'label' is empty for id 3, 4, 5 and 2 more",
    ),
    "an id without a label": (both(lose_target_rows, lambda w: w.keep_only("table")), r"is empty for id late"),
    "one class": (set_cell(slice(None), "label", "cat"), r"every 'label' is 'cat'; classification needs at least 2"),
    "a class of one row": (set_cell(11, "label", "emu"), r"1 class\(es\) have a single row \(the first: id 11\)"),
    "one class to train on": (
        both(set_source(split=column("split")), lambda w: w.meta.update({"label": w.meta["split"]})),
        r"all training rows are of class 'train'",
    ),
    "a label that is not 0 or 1": (both(MULTILABEL, set_cell(4, "wet", 2)), r"'wet': id 4 is 2; a label is 0 or 1"),
    "a constant label": (both(MULTILABEL, set_cell(slice(None), "wet", 1)), r"'wet' is 1 in every row"),
    "a constant real target": (both(REGRESSION, set_cell(slice(None), "price", 3)), r"'price' is 3 in every row"),
    "a missing real target": (both(REGRESSION, set_cell(2, "price", None)), r"'price' is empty for id 2"),
    "an infinite target": (both(REGRESSION, set_cell(2, "price", "inf")), r"'price' is infinite .* first row 2"),
    "a target that is no number": (both(REGRESSION, set_cell(2, "price", "much")), r"row 2: 'much' is not a number"),
    "partly NaN": (set_array("vec", (5, 1), np.nan), r"'vec' is partly NaN for id 5 \(1 of 4 numbers"),
    "partly NaN image": (set_array("photo", (5, 1), np.nan), r"'photo' is partly NaN for id 5 \(6 of 36"),
    "an infinite feature": (set_array("vec", (5, 1), np.inf), r"'vec' is infinite \(or beyond float32\) for id 5"),
    "a feature beyond float32": (
        set_array("clicks", (5, 1), 1e40),
        r"'clicks' is infinite \(or beyond float32\) for id 5",
    ),
    "an infinite cell": (set_cell(5, "age", "-Infinity"), r"column 'age' is infinite in 1 row\(s\), first row 5"),
    "text for a number": (set_cell(5, "age", "old"), r"'age', row 5: 'old' is not a number; list .* `categorical`"),
    "an absent modality": (set_array("photo", slice(None), np.nan), r"'photo' is not available for any sample"),
    "an absent text": (
        both(set_cell(slice(None), "title", ""), set_cell(slice(None), "body", None)),
        r"'review' is not available for any sample",
    ),
    "a modality absent from training": (lose_photos_of_training_rows, r"'photo' is not available for any training row"),
    "a sample without anything": (lose_everything_of_row_9, r"every modality is missing for id 9"),
    "a short table": (shorten_meta, r"photo.npy has 40 rows, meta.csv has 30"),
    "a short array": (drop_photo_rows, r"photo.npy has 35 rows, meta.csv has 40, and photo.npy is aligned by row"),
    "a short array beside ids": (both(BY_ID, drop_photo_rows), r"photo.npy has no 'sample_id' to be aligned by"),
    "a flat sequence": (flatten_clicks, r"shape \[40, 10\]; expected \[N, T, F\] for kind sequence"),
    "an image for a vector": (set_modality("photo", kind="vector"), r"shape \[40, 6, 6\]; expected \[N, D\]"),
    "an empty axis": (empty_vec, r"shape \(40, 0\); expected one row per sample and no empty axis"),
    "no rows": (no_rows, r"0 rows"),
    "one row": (both(one_row, REGRESSION), r"'price' is .* in every row|cannot draw"),
    "an unknown split": (
        both(set_source(split=column("split")), set_cell(3, "split", "dev")),
        r"row 3: the split is 'dev'; expected one of train, validation, test",
    ),
    "a split group": (
        set_source(split=column("split"), group=column("user")),
        r"group 'u0' is in both 'test' and 'train'",
    ),
    "a missing group": (both(set_source(group=column("user")), set_cell(3, "user", "")), r"'user' is empty for id 3"),
    "one group": (both(set_source(group=column("user")), set_cell(slice(None), "user", "u")), r"1 group\(s\) cannot"),
    "a missing time": (
        both(set_source(time=column("ts")), set_cell(3, "ts", "")),
        r"time column 'ts' is empty for id 3",
    ),
    "a time that is none": (
        both(set_source(time=column("ts")), set_cell(3, "ts", "monday")),
        r"'ts', row 3: 'monday' is neither a number nor a date",
    ),
    "one time": (both(set_source(time=column("ts")), set_cell(slice(None), "ts", "2026")), r"too few distinct times"),
    "too few rows for their classes": (
        both(lambda w: w.meta.update({"label": [f"c{i // 2}" for i in range(NUM_ROWS)]}), lambda w: None),
        r"cannot draw 30% of 40 rows for the test with each of 20 classes",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_clear_line_and_nothing_is_written(world, case):
    change, message = BAD_DATA[case]
    change(world)
    source = world.write()
    before = sorted(world.folder.rglob("*"))
    with pytest.raises(DataError, match=message) as caught:
        prepare_dataset(source, world.store)
    assert "\n" not in str(caught.value)
    assert sorted(world.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["meta.csv", "photo.npy", "arrays.npz"])
@pytest.mark.parametrize("kept", [0.0, 0.4])
def test_a_torn_file_is_refused_and_nothing_is_written(world, name, kept):
    source = world.write()
    whole = (world.folder / name).read_bytes()
    (world.folder / name).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=name) as caught:
        prepare_dataset(source, world.store)
    assert "\n" not in str(caught.value)
    assert not world.store.root.exists()


def test_a_bad_source_leaves_the_versions_before_it_alone(world):
    first = world.prepare()
    world.photo[3, 2] = np.nan
    with pytest.raises(UserError):
        world.prepare()
    assert world.store.open("shoes").version == first.version
    assert world.store.versions("shoes") == (first.version,)

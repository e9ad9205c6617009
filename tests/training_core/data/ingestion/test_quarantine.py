"""Rows that cannot be used: refused by default, set aside on request, never dropped in silence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import write_source
from source_world import NUM_ROWS, World, column

from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.errors import DataError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.source["quality"] = {"quarantine": True}
    return world


def aside(dataset) -> list[int]:
    return np.flatnonzero(dataset.split() == "quarantined").tolist()


def test_rows_are_set_aside_for_every_reason_and_counted(world):
    world.meta["label"] = world.meta["label"].astype(object)
    world.meta.loc[3, "label"] = None
    world.meta.loc[5, "age"] = "old"
    world.vec[7, 1] = np.nan
    world.clicks[9, 2] = np.inf
    dataset = world.prepare()
    assert aside(dataset) == [3, 5, 7, 9]
    assert dataset.manifest["lineage"]["set_aside"] == {
        "target_missing": 1,
        "not_a_number": 1,
        "partly_nan": 1,
        "infinite": 1,
    }
    served = np.concatenate([dataset.rows(part) for part in ("train", "validation", "test")])
    assert not set(served) & {3, 5, 7, 9}
    assert len(served) == NUM_ROWS - 4


def test_what_is_set_aside_is_kept_as_it_was(world):
    world.vec[7, 1] = np.nan
    dataset = world.prepare()
    assert np.isnan(dataset.array("vec")[7]).tolist() == [False, True, False, False]
    assert (dataset.array("vec")[7][[0, 2, 3]] == world.vec[7][[0, 2, 3]]).all()


def test_the_report_names_what_was_set_aside(world):
    world.vec[7, 1] = np.nan
    quality = world.prepare().quality()
    assert quality is not None
    messages = " ".join(finding["message"] for finding in quality["findings"])
    assert "'vec' is partly NaN for id 7" in messages


def test_a_label_that_is_not_0_or_1_and_a_target_that_is_no_number_are_set_aside(world):
    world.source["task"] = {"kind": "multilabel", "target": {"file": "meta.csv", "columns": ["wet", "red"]}}
    world.meta["wet"] = world.meta["wet"].astype(object)
    world.meta.loc[4, "wet"] = 2
    assert aside(world.prepare()) == [4]
    world.source["task"] = {"kind": "regression", "target": column("price")}
    world.meta["price"] = world.meta["price"].astype(object)
    world.meta.loc[6, "price"] = "much"
    assert aside(world.prepare()) == [6]


def test_a_sample_without_any_modality_is_set_aside(world):
    world.keep_only("photo", "vec")
    world.photo[9] = world.vec[9] = np.nan
    assert aside(world.prepare()) == [9]


def test_without_the_setting_the_first_problem_is_an_error_that_names_it(world):
    world.source["quality"] = {}
    world.vec[7, 1] = np.nan
    with pytest.raises(DataError, match=r"partly NaN for id 7 .* or set quality.quarantine=true"):
        world.prepare()


def test_nothing_but_bad_rows_is_refused(world):
    world.vec[:, 1] = np.nan
    with pytest.raises(DataError, match=r"all 40 rows were set aside \(partly_nan 40\)"):
        world.prepare()


def test_the_gate_refuses_a_leak_writes_the_report_and_lets_it_pass_when_accepted(tmp_path):
    source, store = write_source(tmp_path), DatasetStore(tmp_path / "store")
    table = pd.read_csv(tmp_path / "table.csv")
    table["answer"] = table["label"].map({"red": 0.25, "green": 0.5, "blue": 0.75})
    table.to_csv(tmp_path / "table.csv", index=False)
    source.write_text(source.read_text().replace("columns: [size,", "columns: [answer, size,"))
    with pytest.raises(DataError, match=r"the quality gate refuses 'world': label_leakage facts.answer") as caught:
        prepare_dataset(source, store)
    report = Path(str(caught.value).rsplit("all findings are in ", 1)[1])
    assert "facts.answer" in report.read_text(encoding="utf-8")
    assert store.versions("world") == ()
    dataset = prepare_dataset(source, store, {"quality": {"accept": ["label_leakage:facts.answer"]}})
    quality = dataset.quality()
    assert quality is not None
    leak = next(finding for finding in quality["findings"] if finding["code"] == "label_leakage")
    assert leak["accepted"]


def test_a_class_that_only_set_aside_rows_have_is_no_class(world):
    world.meta.loc[[7, 9], "label"] = "emu"
    world.vec[[7, 9], 1] = np.nan
    dataset = world.prepare()
    assert dataset.spec.task.classes == ("cat", "dog")
    assert dataset.target()[[7, 9]].tolist() == [-1, -1]


def test_rows_within_the_embargo_are_counted_and_named_as_such(world):
    world.source |= {"time": {"file": "meta.csv", "column": "ts"}, "split": {"test": 0.3, "embargo": "2d"}}
    dataset = world.prepare()
    assert dataset.manifest["lineage"]["set_aside"]["embargo"] == len(aside(dataset)) > 0
    assert "than the embargo allows" in str(dataset.quality())


def test_strict_refuses_warnings_too(world):
    world.meta["constant"] = 1.5
    world.source["modalities"]["table"]["columns"] = ["age", "city", "constant"]
    world.prepare()
    with pytest.raises(DataError, match="the quality gate refuses"):
        prepare_dataset(world.write(), world.store, {"quality": {"strict": True}})


def test_numbers_in_long_strings_of_parquet_are_set_aside_too(world):
    import pyarrow as pa
    import pyarrow.parquet as pq

    age = [str(value) for value in world.meta["age"]]
    age[35] = "old"
    table = pa.table({"sample_id": world.meta["sample_id"].tolist(), "age": pa.array(age, pa.large_string())})
    pq.write_table(table, world.folder / "ages.parquet")
    world.source["modalities"]["table"] = {"kind": "tabular", "file": "ages.parquet", "columns": ["age"]}
    assert aside(world.prepare()) == [35]


def test_an_infinite_half_precision_number_is_set_aside(world):
    world.vec = world.vec.astype(np.float16)
    world.vec[7, 1] = np.inf
    assert aside(world.prepare()) == [7]

"""Lineage, and what is said of two versions of a data set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from part_world import Contents, publish, some_contents

from training_core.data.storage import history
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.history import DatasetDiff, Shift, diff, lineage
from training_core.data.storage.part_reading import Part
from training_core.data.storage.store import DatasetStore, Described
from training_core.errors import DataError
from training_core.schema import ColumnSpec, ModalitySpec, TaskSpec


def changed(contents: Contents, **columns: np.ndarray) -> Contents:
    return replace(contents, columns={"meta": {**contents.columns["meta"], **columns}})


def shift_of(found: DatasetDiff, subject: str) -> Shift:
    return next(shift for shift in found.shifts if shift.subject == subject)


def resplit(store: DatasetStore, base: Dataset, split: np.ndarray) -> Dataset:
    return store.publish("shoes", None, Described(base.spec, ("label",), split, {"action": "resplit"}), base=base)


def test_the_lineage_goes_back_to_the_first_version(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents(), lineage={"action": "prepare", "files": {"a.csv": "12"}})
    second = publish(store, "shoes", some_contents(first=100), base=first, lineage={"action": "append"})
    third = resplit(store, second, np.roll(second.split(), 1))
    steps = lineage(store, "shoes")
    assert [step["version"] for step in steps] == [third.version, second.version, first.version]
    assert [step["action"] for step in steps] == ["resplit", "append", "prepare"]
    assert [step["parent"] for step in steps] == [second.version, first.version, None]
    assert [step["num_rows"] for step in steps] == [120, 120, 60]
    assert steps[2]["files"] == {"a.csv": "12"}
    assert lineage(store, f"shoes@{first.version}") == steps[2:]
    for dataset in (first, second, third):
        dataset.close()
    store.gc("shoes", keep=1)
    assert [step["version"] for step in lineage(store, "shoes")] == [third.version]
    with pytest.raises(DataError, match="no dataset 'boots'"):
        lineage(store, "boots")


def test_a_version_and_itself_differ_in_nothing(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents(500))
    found = diff(dataset, dataset)
    assert (found.added.count, found.removed.count, found.moved, found.schema_changes) == (0, 0, {}, ())
    assert {shift.divergence for shift in found.shifts} == {0.0}
    assert found.sentences() == ["Nothing that matters changed."]
    assert DatasetDiff.model_validate(json.loads(found.to_json())) == found


def test_rows_appended_are_told_and_shared_parts_are_read_once(tmp_path, monkeypatch):
    store = DatasetStore(tmp_path)
    old = publish(store, "shoes", some_contents(500))
    new = publish(store, "shoes", some_contents(300, seed=1, first=1000), base=old)
    read: list[str] = []
    summarise = history.summarise

    def counted(part: Part, served: np.ndarray, modality: ModalitySpec):
        read.append(f"{part.digest} {modality.name}")
        return summarise(part, served, modality)

    monkeypatch.setattr(history, "summarise", counted)
    found = diff(old, new)
    assert len(read) == len(set(read)) == 4
    assert (found.rows_before, found.rows_after) == (500, 800)
    assert found.added.count == 300
    assert found.added.examples == tuple(f"id {1000 + i}" for i in range(10))
    assert found.removed.count == 0
    assert found.sentences() == ["300 rows were added (id 1000, id 1001, id 1002 …)."]
    assert diff(new, old).removed.examples == found.added.examples


def test_rows_are_known_by_their_ids_when_no_part_is_shared(tmp_path):
    store = DatasetStore(tmp_path)
    old = publish(store, "shoes", some_contents(60))
    contents = some_contents(60, first=10)
    contents.arrays["vec"][0] = 3
    new = publish(store, "shoes", replace(contents, split=np.full(60, "train", object)))
    found = diff(old, new)
    assert (found.added.count, found.removed.count) == (10, 10)
    assert found.removed.examples == tuple(f"id {i}" for i in range(10))
    assert found.moved.keys() == {"test → train"}
    assert found.moved["test → train"].count == len([i for i in range(10, 60) if i % 3 == 2])


def test_rows_that_moved_are_named_by_where_they_went(tmp_path):
    store = DatasetStore(tmp_path)
    old = publish(store, "shoes", some_contents(60))
    split = old.split()
    split[:2], split[2] = "quarantined", "validation"
    found = diff(old, resplit(store, old, split))
    assert {way: (rows.count, rows.examples) for way, rows in found.moved.items()} == {
        "train → quarantined": (2, ("id 0", "id 1")),
        "test → validation": (1, ("id 2",)),
    }
    assert "2 rows moved train → quarantined (id 0, id 1)." in found.sentences()


def test_a_change_of_schema_is_a_sentence_each(tmp_path):
    store = DatasetStore(tmp_path)
    contents = some_contents(60)
    old = publish(store, "shoes", contents)
    columns = (ColumnSpec(name="age"), ColumnSpec(name="city", categories=("Köln", "Ulm", "Bonn")))
    spec = contents.spec.model_copy(
        update={
            "modalities": (
                ModalitySpec(name="vec", kind="vector", shape=(200,)),
                ModalitySpec(name="meta", kind="tabular", shape=(2,), columns=columns),
                ModalitySpec(name="more", kind="vector", shape=(2,)),
            ),
            "task": TaskSpec.classification(("cat", "dog", "eel")),
        }
    )
    arrays = {"vec": contents.arrays["vec"][:, :200].astype(np.float64), "more": np.ones((60, 2), np.uint8)}
    available = {**contents.available, "more": np.ones(60, bool)}
    new = publish(store, "shoes", replace(contents, spec=spec, arrays=arrays, available=available))
    assert list(diff(old, new).schema_changes) == [
        "New modality: more.",
        "Modality 'vec' was vector of float32 and is vector of float64.",
        "Modality 'vec' had the shape [300] and has [200].",
        "New category of 'meta.city': Bonn.",
        "New class: eel.",
    ]


def test_chance_is_no_change_and_a_shift_is_one(tmp_path):
    draws = np.random.default_rng(7)
    store = DatasetStore(tmp_path)
    for num_rows in (40, 2000):
        old = publish(store, "shoes", some_contents(num_rows, seed=1))
        new = publish(store, "shoes", some_contents(num_rows, seed=2))
        assert [shift.subject for shift in diff(old, new).shifts if shift.flagged] == [], num_rows
    contents = some_contents(2000, seed=2)
    ages = contents.columns["meta"]["age"] * 2 + 1
    cities = np.asarray([("Ulm", None)[draws.random() < 0.05] for _ in range(2000)], object)
    worse = replace(
        changed(contents, age=ages, city=cities),
        arrays={"vec": contents.arrays["vec"] + 1},
        available={**contents.available, "vec": np.arange(2000) % 5 > 2},
        target=(np.arange(2000) % 10 == 0).astype(np.int64),
    )
    found = diff(publish(store, "shoes", some_contents(2000, seed=1)), publish(store, "shoes", worse))
    assert {shift.subject for shift in found.shifts if shift.flagged} == {
        "label", "availability of vec", "vec (row means)", "meta.age", "meta.city",
    }  # fmt: skip
    age = shift_of(found, "meta.age")
    assert age.before == pytest.approx(0, abs=0.2)
    assert age.after == pytest.approx(1, abs=0.2)
    assert "standard deviations), standard deviation" in age.message
    assert shift_of(found, "label").message == "share of 'cat' 50.0% → 90.0%"
    assert shift_of(found, "availability of vec").message == "80.0% of the rows have it → 40.0%"
    assert any(sentence.startswith("meta.city: share of") for sentence in found.sentences())


def test_the_divergence_is_the_stability_index_by_hand(tmp_path):
    store = DatasetStore(tmp_path)
    contents = some_contents(400)
    old = publish(store, "shoes", changed(contents, age=np.repeat([0.0, 1.0], [200, 200])))
    new = publish(store, "shoes", changed(contents, age=np.repeat([0.0, 1.0], [300, 100])))
    p, q = np.asarray([200.5, 200.5]) / 401, np.asarray([300.5, 100.5]) / 401
    found = shift_of(diff(old, new), "meta.age")
    assert found.divergence == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=0.02)
    assert found.flagged
    assert (found.before, found.after) == (0.5, 0.25)


def test_what_was_constant_and_is_not_any_more_is_a_change(tmp_path):
    store = DatasetStore(tmp_path)
    contents = some_contents(400)
    old = publish(store, "shoes", changed(contents, age=np.full(400, 7.0)))
    new = publish(store, "shoes", changed(contents, age=np.random.default_rng(0).normal(7, 1e-3, 400)))
    gone = publish(store, "shoes", changed(contents, age=np.full(400, np.nan)))
    assert shift_of(diff(old, new), "meta.age").flagged
    assert shift_of(diff(old, gone), "meta.age").flagged
    assert shift_of(diff(gone, old), "meta.age").flagged
    assert not shift_of(diff(gone, gone), "meta.age").flagged
    json.loads(diff(gone, old).to_json())

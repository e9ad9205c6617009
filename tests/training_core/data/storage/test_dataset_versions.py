"""Versions that share parts: appended rows, another split, what is collected, and manifests that lie."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from part_world import publish, some_contents

from training_core.data.splitting.splits import SPLITS
from training_core.data.storage.collection import Collected
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.store import DatasetStore, Described
from training_core.errors import ConfigError, DataError, StorageError
from training_core.schema import ColumnSpec, TaskSpec


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def edit_manifest(dataset: Dataset, change: Callable[[dict], object]) -> None:
    path = dataset.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["parts"][0].update(digest="../../../etc"),
        lambda m: m["parts"][0].update(digest="0" * 64),
        lambda m: m["parts"][0].update(num_rows=61),
        lambda m: m["spec"]["modalities"][0].update(name="../../vec"),
        lambda m: m.update(num_rows=10),
        lambda m: m.update(parts=None),
        lambda m: m.update(spec={}),
    ],
)
def test_a_manifest_that_lies_is_refused_in_one_line(tmp_path, change):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    edit_manifest(dataset, change)
    with pytest.raises(StorageError) as caught:
        Dataset(dataset.path)
    assert "\n" not in str(caught.value)


def test_collecting_goes_no_further_when_a_version_does_not_read_back(tmp_path):
    store = DatasetStore(tmp_path)
    dataset = publish(store, "shoes", some_contents())
    publish(store, "shoes", some_contents(seed=1))
    edit_manifest(dataset, lambda m: m["parts"][0].update(digest="../../../etc"))
    before = files_below(tmp_path)
    with pytest.raises(StorageError, match="nothing was removed; remove that folder first"):
        store.gc("shoes")
    assert files_below(tmp_path) == before


def test_rows_are_appended_in_a_part_of_their_own(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents())
    before = {path: path.stat().st_mtime_ns for path in files_below(first.parts[0].path)}
    more = some_contents(25, seed=1, first=100)
    second = publish(store, "shoes", more, base=first, block_rows=7)
    assert second.num_rows == 85
    assert second.parent == first.version
    assert [part.digest for part in second.parts] == [first.parts[0].digest, second.parts[1].digest]
    assert {path: path.stat().st_mtime_ns for path in files_below(first.parts[0].path)} == before
    rows = np.asarray([84, 3, 60, 59, 3, 61])
    samples = second.samples(rows)
    everything = np.concatenate([first.samples().inputs["vec"], more.arrays["vec"]])
    assert (samples.inputs["vec"] == everything[rows]).all()
    assert samples.ids.tolist() == ["id 124", "id 3", "id 100", "id 59", "id 3", "id 101"]
    assert store.open("shoes").version == second.version
    assert publish(store, "shoes", more, base=second).version == second.version, "appended twice"
    assert publish(store, "shoes", some_contents(0), base=second).version == second.version, "nothing appended"
    assert second.manifest["available"]["vec"] == first.manifest["available"]["vec"] + more.available["vec"].sum()


def test_another_split_of_the_same_rows_shares_their_part(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents())
    split = first.split()
    split[:6] = "quarantined"
    second = store.publish("shoes", None, Described(first.spec, ("label",), split, {}), base=first)
    assert second.parts[0].path == first.parts[0].path
    assert second.quarantined().tolist() == list(range(6))
    assert second.manifest["splits"] == {"train": 36, "test": 18, "quarantined": 6}
    assert sum(second.manifest["class_counts"].values()) == 54
    assert not np.isin(np.arange(6), np.concatenate([second.rows(name) for name in SPLITS])).any()
    with pytest.raises(ConfigError, match="no split 'quarantined'"):
        second.rows("quarantined")


def test_codes_follow_the_versions_schema_also_in_older_parts(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents())
    old = first.spec
    columns = (ColumnSpec(name="age"), ColumnSpec(name="city", categories=("Bonn", "Ulm", "Köln")))
    spec = old.model_copy(
        update={
            "modalities": (old["vec"], old["meta"].model_copy(update={"columns": columns})),
            "task": TaskSpec.classification(("ape", "dog", "cat")),
        }
    )
    second = publish(store, "shoes", some_contents(9, first=100, seed=1), base=first, spec=spec)
    assert second.samples(np.asarray([0, 1, 60])).inputs["meta"][:, 1].tolist() == [2, 1, 2]
    assert second.target(np.asarray([0, 1, 60])).tolist() == [2, 1, 2]
    assert first.target(np.asarray([0, 1])).tolist() == [0, 1]


def test_new_rows_of_another_form_are_refused(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents())
    more = some_contents(9, first=100)
    for change, message in (
        ({"arrays": {"vec": more.arrays["vec"][:, :7]}}, r"array 'vec' of new rows has rows of \[7\]"),
        ({"arrays": {}}, "array 'vec' of new rows is not there"),
        ({"groups": more.ids}, "some parts have groups and others have none"),
        ({"columns": {"meta": {"age": more.ids, "city": more.ids}}}, "column 'meta.age' is double here and string"),
        ({"spec": more.spec.model_copy(update={"task": TaskSpec.classification(("cat", "eel"))})}, "is of no class"),
        ({"split": more.split[:3]}, "the split has 63 rows, the data set 69"),
        ({"split": np.full(9, "tset", object)}, "row 60 is in split 'tset'"),
    ):
        with pytest.raises(DataError, match=message):
            publish(store, "shoes", replace(more, **change), base=first, spec=first.spec)
    assert store.versions("shoes") == (first.version,)
    assert len(list((tmp_path / "shoes" / "parts").iterdir())) == 1


def test_a_damaged_part_or_version_is_replaced_when_it_is_prepared_again(tmp_path):
    store = DatasetStore(tmp_path)
    first = publish(store, "shoes", some_contents())
    for folder in (first.parts[0].path, first.path):
        for file in [path for path in files_below(folder) if path.name != "checksums.json"]:
            whole = file.read_bytes()
            file.write_bytes(whole[:-1] + b"?")
            store.verify(publish(store, "shoes", some_contents()))
            assert file.name == "manifest.json" or file.read_bytes() == whole  # which tells when it was made
    assert list(tmp_path.rglob(".unfinished*")) == []


def test_what_is_collected_is_what_nobody_needs(tmp_path):
    store = DatasetStore(tmp_path)
    versions = [publish(store, "shoes", some_contents(seed=seed)).version for seed in range(4)]
    (tmp_path / "shoes" / "parts" / ("a" * 24)).mkdir()
    (tmp_path / "shoes" / ".unfinished-staging-4000000.1-0a1b2c3d").mkdir()
    (tmp_path / "shoes" / ".unfinished-latest-4000000.1-0a1b2c3d").write_text("half")
    planned = store.gc("shoes", keep=2, dry_run=True)
    assert store.versions("shoes") == tuple(versions)
    collected = store.gc("shoes", keep=2)
    assert collected == planned
    assert collected.versions == tuple(versions[:2])
    assert len(collected.parts) == 3
    assert collected.leftovers == 2
    assert store.versions("shoes") == tuple(versions[2:])
    assert store.gc("shoes") == Collected()
    store.verify(store.open("shoes"))
    with pytest.raises(ConfigError, match="keep is 0"):
        store.gc("shoes", keep=0)
    with pytest.raises(DataError, match="no dataset 'boots'"):
        store.gc("boots")


def test_the_latest_version_stays_also_when_it_is_old_and_the_one_in_use_too(tmp_path):
    store = DatasetStore(tmp_path)
    held = publish(store, "shoes", some_contents(seed=1))
    first = publish(store, "shoes", some_contents())
    second = publish(store, "shoes", some_contents(seed=2)).version
    version = publish(store, "shoes", some_contents()).version
    assert version == first.version
    first.close()
    assert store.gc("shoes", keep=1).spared == (held.version,)
    assert store.versions("shoes") == (held.version, first.version, second)
    assert held.samples().inputs["vec"].any()
    del held
    assert len(store.gc("shoes", keep=1).versions) == 1


def test_files_come_with_a_version_and_change_nothing(tmp_path):
    store = DatasetStore(tmp_path)
    bare = publish(store, "boots", some_contents())
    assert bare.quality() is None
    dataset = publish(
        store, "shoes", some_contents(), files={"quality.json": '{"findings": []}', "quality.html": b"<p>"}
    )
    assert dataset.fingerprint == bare.fingerprint
    assert dataset.quality() == {"findings": []}
    assert (dataset.path / "quality.html").read_bytes() == b"<p>"
    assert dataset.num_bytes() == sum(
        p.stat().st_size for p in files_below(dataset.path) + files_below(dataset.parts[0].path)
    )
    for name in ("../up.html", "manifest.json", ".hidden"):
        with pytest.raises(ConfigError, match="cannot name a file of a version"):
            publish(store, "shoes", some_contents(seed=1), files={name: ""})

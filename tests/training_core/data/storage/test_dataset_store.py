import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from part_world import publish, some_contents

from training_core.data.storage.dataset import Dataset
from training_core.data.storage.store import DatasetStore
from training_core.errors import ConfigError, DataError, StorageError
from training_core.schema import TaskSpec

ROOT = Path(__file__).parents[4]


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_published_is_read_back(tmp_path):
    contents = some_contents()
    dataset = publish(DatasetStore(tmp_path), "shoes", contents, lineage={"source": "somewhere"})
    assert dataset.ref == f"shoes@{dataset.fingerprint[:12]}"
    assert dataset.spec == contents.spec
    assert dataset.num_rows == len(dataset) == 60
    assert dataset.manifest["splits"] == {"test": 20, "train": 40}
    assert dataset.manifest["class_counts"] == {"cat": 30, "dog": 30}
    assert dataset.manifest["lineage"] == {"parent": None, "source": "somewhere"}
    samples = dataset.samples()
    assert (samples.inputs["vec"] == contents.arrays["vec"]).all()
    assert np.array_equal(samples.inputs["meta"][:, 0], contents.columns["meta"]["age"], equal_nan=True)
    assert samples.inputs["meta"][:3, 1][:2].tolist() == [0, 1]
    assert np.isnan(samples.inputs["meta"][2, 1])
    assert samples.ids.tolist() == contents.ids.tolist()
    assert (samples.available["vec"] == contents.available["vec"]).all()


@pytest.mark.parametrize("rows", [[5], [3, 1, 3, 59, 0, 0], [], list(range(60)) * 2])
def test_any_rows_in_any_order_with_repeats(tmp_path, rows):
    contents = some_contents()
    dataset = publish(DatasetStore(tmp_path), "shoes", contents)
    positions = np.asarray(rows, np.int64)
    samples = dataset.samples(positions)
    assert len(samples) == len(rows)
    assert (samples.inputs["vec"] == contents.arrays["vec"][positions]).all()
    assert samples.ids.tolist() == contents.ids[positions].tolist()
    assert (dataset.target(positions) == contents.target[positions]).all()
    assert dataset.groups(positions) is None
    assert dataset.times(positions) is None


def test_rows_of_a_split_are_sorted_positions(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    assert dataset.rows("test").tolist() == list(range(2, 60, 3))
    assert dataset.rows("train").dtype == np.int64
    assert len(dataset.rows("validation")) == 0
    with pytest.raises(ConfigError, match="no split 'tset'; choose one of train, validation, test"):
        dataset.rows("tset")


def test_what_a_reader_does_to_its_arrays_changes_nobody_elses(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    for values in (dataset.target(), dataset.ids(), dataset.samples().inputs["meta"], dataset.available()["vec"]):
        values[:] = 0
    again = dataset.samples()
    assert again.target is not None
    assert again.target.sum() == 30
    assert again.ids[1] == "id 1"
    assert again.inputs["meta"].any()
    assert again.available["vec"].any()


def test_the_same_content_is_the_same_version_under_any_root_and_written_once(tmp_path):
    first = publish(DatasetStore(tmp_path / "a"), "shoes", some_contents())
    before = {path: path.stat().st_mtime_ns for path in files_below(first.path)}
    again = publish(DatasetStore(tmp_path / "a"), "shoes", some_contents(), lineage={"other": "lineage"})
    assert {path: path.stat().st_mtime_ns for path in files_below(again.path)} == before
    assert publish(DatasetStore(tmp_path / "b"), "boots", some_contents()).fingerprint == first.fingerprint


@pytest.mark.parametrize("part", ["ids", "split", "target", "available", "columns", "arrays", "groups", "spec"])
def test_a_change_anywhere_is_another_version(tmp_path, part):
    store = DatasetStore(tmp_path)
    contents = some_contents()
    changes = {
        "ids": contents.ids[::-1],
        "split": np.roll(contents.split, 1),
        "target": 1 - contents.target,
        "available": {**contents.available, "meta": np.arange(60) > 0},
        "columns": {"meta": {**contents.columns["meta"], "age": np.zeros(60)}},
        "arrays": {"vec": contents.arrays["vec"] * np.float32(1.0001)},
        "groups": contents.ids,
        "spec": contents.spec.model_copy(update={"task": TaskSpec.classification(("cat", "hog"))}),
    }
    first = publish(store, "shoes", contents)
    assert publish(store, "shoes", replace(contents, **{part: changes[part]})).version != first.version


def test_nan_is_nan_and_zero_is_zero_whatever_their_bits(tmp_path):
    store = DatasetStore(tmp_path)
    contents = some_contents()
    contents.arrays["vec"][0, :3] = [0.0, np.nan, np.nan]
    first = publish(store, "shoes", contents)
    contents.arrays["vec"][0, :3] = [-0.0, -np.nan, np.frombuffer(b"\x01\x00\xc0\x7f", np.float32)[0]]
    assert publish(store, "shoes", contents).version == first.version


def test_a_version_is_found_by_name_latest_or_first_digits(tmp_path):
    store = DatasetStore(tmp_path)
    first, second = (publish(store, "shoes", some_contents(seed=seed)) for seed in (0, 1))
    assert store.names() == ("shoes",)
    assert store.versions("shoes") == (first.version, second.version)
    assert store.open("shoes").version == store.open("shoes@latest").version == second.version
    assert store.open(f"shoes@{first.version[:5]}").version == first.version
    publish(store, "shoes", some_contents(seed=0))
    assert store.open("shoes").version == first.version  # published again: the latest once more


def test_without_the_latest_file_the_newest_version_is_the_latest(tmp_path):
    store = DatasetStore(tmp_path)
    _, second = (publish(store, "shoes", some_contents(seed=seed)) for seed in (0, 1))
    (tmp_path / "shoes" / "latest").unlink()
    assert store.open("shoes").version == second.version


def test_an_unknown_dataset_or_version_is_refused_listing_what_there_is(tmp_path):
    store = DatasetStore(tmp_path)
    with pytest.raises(DataError, match=r"no dataset 'shoes' .*\(there: none yet\); prepare it first"):
        store.open("shoes")
    version = publish(store, "shoes", some_contents()).version
    with pytest.raises(DataError, match=r"no dataset 'boots' .*\(there: shoes\)"):
        store.open("boots@latest")
    with pytest.raises(DataError, match=rf"'xyz' fits none of the versions {version}"):
        store.open("shoes@xyz")
    with pytest.raises(DataError, match=r"no dataset '\.\./shoes'"):
        store.open("../shoes")
    with pytest.raises(ConfigError, match="cannot name a dataset"):
        publish(store, "../shoes", some_contents())


def test_digits_that_fit_several_versions_are_refused(tmp_path):
    store = DatasetStore(tmp_path)
    versions = [publish(store, "shoes", some_contents(num_rows=4, seed=seed)).version for seed in range(17)]
    digit = next(v[0] for v in versions if sum(other[0] == v[0] for other in versions) > 1)
    with pytest.raises(DataError, match=f"'{digit}' fits several of the versions"):
        store.open(f"shoes@{digit}")


def test_a_changed_file_is_found_by_verify_and_a_missing_one_on_opening(tmp_path):
    store = DatasetStore(tmp_path)
    dataset = publish(store, "shoes", some_contents())
    store.verify(dataset)
    chunk = next(path for path in files_below(dataset.parts[0].path / "arrays.zarr") if "/c/" in path.as_posix())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + b"?")
    with pytest.raises(StorageError, match="is changed since it was published"):
        store.verify(dataset)
    chunk.unlink()
    with pytest.raises(StorageError, match=r"file 'arrays.zarr/vec/c/0/0' is missing; prepare the dataset again"):
        store.open("shoes")


@pytest.mark.parametrize("file", ["table.parquet", "part.json", "manifest.json", "split.npy"])
def test_a_torn_file_of_a_version_or_part_is_one_line(tmp_path, file):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    torn = next(path for path in files_below(tmp_path) if path.name == file)
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match="prepare the dataset again") as caught:
        Dataset(dataset.path).samples()
    assert "\n" not in str(caught.value)


def test_a_torn_chunk_of_a_version_is_one_line(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    chunk = dataset.parts[0].path / "arrays.zarr" / "vec" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"does not read back .* prepare the dataset again"):
        dataset.samples()


def test_a_version_of_another_format_is_refused(tmp_path):
    dataset = publish(DatasetStore(tmp_path), "shoes", some_contents())
    manifest = dataset.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(StorageError, match="has format 99, this release reads 2"):
        Dataset(dataset.path)


def run_publishing(root: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Publish `some_contents` in a process of its own, after `before` has made its life hard."""
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        from part_world import publish, some_contents
        from training_core.data.storage.store import DatasetStore
        {before}
        try:
            publish(DatasetStore(Path({str(root)!r})), "shoes", some_contents(num_rows=5000))
        except Exception as error:
            print(type(error).__name__, error)
    """
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("limit", [10, 30_000, 500_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, limit):
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    ended = run_publishing(tmp_path / "store", before)
    assert ended.stdout.startswith("StorageError no space left to write"), ended.stdout + ended.stderr
    assert ended.stdout.count("\n") == 1
    assert files_below(tmp_path / "store") == []
    assert list(tmp_path.rglob("*unfinished*")) == []


def test_a_writer_killed_half_way_leaves_no_version_and_the_next_one_sweeps_up(tmp_path):
    before = (
        "import os, signal; from training_core.data.storage.parts import PartWriter; "
        "PartWriter.finish = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_publishing(tmp_path, before).returncode == -9
    store = DatasetStore(tmp_path)
    assert store.versions("shoes") == ()
    assert list((tmp_path / "shoes" / "parts").glob(".unfinished-*"))
    publish(store, "shoes", some_contents())
    assert not list((tmp_path / "shoes" / "parts").glob(".unfinished-*"))

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.io
import zarr
from PIL import Image

from training_core.data.ingestion import alignment
from training_core.data.ingestion.alignment import AlignedFiles
from training_core.data.source import SourceConfig
from training_core.data.sources.memory import MemoryArray, MemoryTable
from training_core.errors import DataError

IDS = ["a", "b", "c", "d"]
VALUES = np.arange(12.0).reshape(4, 3)


def config(by_id: bool = True, **modalities: dict[str, Any]) -> SourceConfig:
    described: dict[str, Any] = {
        "name": "x",
        "task": {"kind": "classification", "target": {"file": "meta.csv", "column": "label"}},
        "modalities": modalities or {"vec": {"kind": "vector", "file": "vec.npz"}},
    }
    if by_id:
        described["id"] = {"file": "meta.csv", "column": "sku"}
    return SourceConfig.parse(described, "test")


def write_meta(folder: Path, ids: list[Any] = IDS) -> None:
    pd.DataFrame({"sku": ids, "label": list("xyxy")[: len(ids)], "n": range(len(ids))}).to_csv(
        folder / "meta.csv", index=False
    )


def aligned(folder: Path, source: SourceConfig, **settings: Any) -> AlignedFiles:
    return AlignedFiles(source, folder, folder / "staging", **settings)


def write_vec(folder: Path, name: str, ids: Any, values: np.ndarray) -> None:
    if name == "vec.npz":
        np.savez(folder / name, x=values, sku=ids)
    elif name == "vec.h5":
        with h5py.File(folder / name, "w") as file:
            file["x"] = values
            file["sku"] = [str(each) for each in ids] if np.asarray(ids).dtype.kind == "U" else ids
    elif name == "vec.mat":
        cells = np.asarray(ids, object) if np.asarray(ids).dtype.kind == "U" else ids
        scipy.io.savemat(folder / name, {"x": values, "sku": cells})
    else:
        group = zarr.open_group(folder / name, mode="w", zarr_format=2)
        group.create_array("x", data=values)
        group.create_array("sku", data=np.asarray(ids))


@pytest.mark.parametrize("name", ["vec.npz", "vec.h5", "vec.mat", "vec.zarr"])
def test_files_of_arrays_are_aligned_by_an_array_of_ids(tmp_path, name):
    write_meta(tmp_path)
    write_vec(tmp_path, name, np.asarray(["d", "late", "b", "a"]), VALUES)
    files = aligned(tmp_path, config(vec={"kind": "vector", "file": name}))
    values, present = files.array(name, None, 0, 4)
    assert present.tolist() == [True, True, False, True]
    assert values.tolist() == [VALUES[3].tolist(), VALUES[2].tolist(), [0, 0, 0], VALUES[0].tolist()]
    assert files.array(name, "x", 1, 3)[0].tolist() == [VALUES[2].tolist(), [0, 0, 0]]
    assert files.array_shape(name, None) == ((4, 3), np.float64)
    assert (files.matched, files.unmatched) == ({name: 3}, {name: 1})


@pytest.mark.parametrize("ids", [np.asarray([1.0, 2, 3, 4]), np.asarray([b"1", b"2", b"3", b"4"]), np.arange(1, 5)])
@pytest.mark.parametrize("name", ["vec.npz", "vec.h5", "vec.zarr"])
def test_ids_are_the_same_however_they_are_kept(tmp_path, name, ids):
    write_meta(tmp_path, [4, 3, 2, 1])
    write_vec(tmp_path, name, ids, VALUES)
    files = aligned(tmp_path, config(vec={"kind": "vector", "file": name}))
    assert files.ids.tolist() == ["4", "3", "2", "1"]
    assert (files.array(name, None, 0, 4)[0] == VALUES[::-1]).all()


@pytest.mark.parametrize("write", [pd.DataFrame.to_csv, pd.DataFrame.to_parquet])
def test_tables_are_aligned_by_a_column_of_ids(tmp_path, write, monkeypatch):
    monkeypatch.setattr(alignment, "_BLOCK_ROWS", 3)
    write_meta(tmp_path)
    name = f"more.{write.__name__.removeprefix('to_')}"
    more = pd.DataFrame({"sku": ["c", "a", "e"], "n": [2**53 + 1, 7, 9], "ts": ["2026-01-01", None, "2026-01-03"]})
    write(more, tmp_path / name, index=False)
    files = aligned(tmp_path, config(m={"kind": "tabular", "file": name, "columns": ["n", "ts"]}))
    assert files.text(name, "n").tolist() == ["7", None, str(2**53 + 1), None]
    assert files.numbers(name, "n")[[0, 2]].tolist() == [7, 2**53]
    assert files.times(name, "ts")[2] == np.datetime64("2026-01-01")
    assert str(files.numeric_type(name, "n")) == "int64"
    column = files.column(name, "n")
    assert [None if n is None else int(n) for n in column.to_pylist()] == [7, None, 2**53 + 1, None]
    table = files.table(name, ["n"], 2, 4)
    assert [None if n is None else int(n) for n in table["n"].to_pylist()] == [2**53 + 1, None]
    assert (files.matched, files.unmatched) == ({name: 2}, {name: 1})


def images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2), i, np.uint8)).save(folder / name)


@pytest.mark.parametrize(
    "ids",
    [
        ["b/2", "a/1", "none", "3"],
        ["b/2.png", "a/1.png", "x", "3.png"],
        ["2", "1", "x", "3"],
        ["2.png", "1.png", "x", "3.png"],
    ],
)
def test_images_are_aligned_by_what_they_are_called(tmp_path, ids):
    write_meta(tmp_path, ids)
    images(tmp_path / "photos", "a/1.png", "b/2.png", "3.png", "4.png")
    files = aligned(tmp_path, config(photo={"kind": "image", "file": "photos"}))
    values, present = files.array("photos", None, 0, 4)
    assert present.tolist() == [True, True, False, True]
    assert values[[1, 0, 3], 0, 0, 0].tolist() == [0, 1, 2]
    assert files.unmatched == {"photos": 1}


def test_a_folder_of_images_may_name_the_samples_and_their_classes(tmp_path):
    images(tmp_path / "photos", "cat/1.png", "dog/2.png", "cat/3.png")
    np.savez(tmp_path / "vec.npz", x=VALUES[:2], id=["dog/2", "cat/1"])
    source = SourceConfig.parse(
        {
            "name": "x",
            "task": {"kind": "classification", "target": {"file": "photos", "column": "folder"}},
            "id": {"file": "photos/", "column": "id"},
            "modalities": {"photo": {"kind": "image", "file": "photos"}, "vec": {"kind": "vector", "file": "vec.npz"}},
        },
        "test",
    )
    files = aligned(tmp_path, source)
    assert files.ids.tolist() == ["cat/1", "cat/3", "dog/2"]
    assert files.text("photos", "folder").tolist() == ["cat", "cat", "dog"]
    assert files.array("photos", None, 0, 3)[0][:, 0, 0, 0].tolist() == [0, 2, 1]
    assert files.array("vec.npz", None, 0, 3)[1].tolist() == [True, False, True]


def test_without_ids_row_i_is_sample_i(tmp_path):
    write_meta(tmp_path)
    np.savez(tmp_path / "vec.npz", x=VALUES)
    files = aligned(tmp_path, config(by_id=False))
    assert files.ids.tolist() == ["0", "1", "2", "3"]
    assert (files.array("vec.npz", "x", 1, 3)[0] == VALUES[1:3]).all()
    assert files.array_shape("vec.npz", "x") == ((4, 3), np.float64)
    assert (files.matched, files.unmatched) == ({}, {})
    np.savez(tmp_path / "vec.npz", x=VALUES[:3])
    with pytest.raises(DataError, match=r"vec.npz has 3 rows, meta.csv has 4, and vec.npz is aligned by row"):
        aligned(tmp_path, config(by_id=False)).array_shape("vec.npz", "x")
    np.savez(tmp_path / "vec.npz", x=VALUES[:, :0])
    with pytest.raises(DataError, match=r"shape \(4, 0\); expected one row per sample and no empty axis"):
        aligned(tmp_path, config(by_id=False)).array_shape("vec.npz", "x")


@pytest.mark.parametrize(
    ("ids", "advice"),
    [
        (["a ", " b", "e", "f"], r"without the spaces around them 2 of them would; write them the same way"),
        (["A", "B", "C", "E"], r"in lower case 3 of them would"),
        (["e", "f", "g", "h"], r"name the column that holds the same ids, or give the file no ids"),
    ],
)
def test_ids_of_which_none_is_known_are_refused_with_a_guess(tmp_path, ids, advice):
    write_meta(tmp_path)
    np.savez(tmp_path / "vec.npz", x=VALUES, sku=np.asarray(ids))
    with pytest.raises(DataError, match=advice) as caught:
        aligned(tmp_path, config()).array("vec.npz", None, 0, 4)
    assert f"vec.npz, id column 'sku' (such as {ids[0]!r})" in str(caught.value)
    assert "meta.csv, column 'sku' (such as 'a')" in str(caught.value)


def test_leading_zeros_that_got_lost_are_guessed(tmp_path):
    write_meta(tmp_path, ["001", "002", "003", "004"])
    np.savez(tmp_path / "vec.npz", x=VALUES, sku=np.arange(1, 5))
    with pytest.raises(DataError, match=r"without leading zeros and `.0` 4 of them would"):
        aligned(tmp_path, config()).array_shape("vec.npz", None)


def test_an_id_that_occurs_twice_is_named_and_the_rows_compared(tmp_path):
    write_meta(tmp_path)
    same = pd.DataFrame({"sku": ["a", "b", "a"], "n": [1, 2, 1]})
    same.to_csv(tmp_path / "m.csv", index=False)
    table = {"kind": "tabular", "file": "m.csv", "columns": ["n"]}
    with pytest.raises(
        DataError,
        match=r"m.csv, .*: id a occur\(s\) more than once \(rows 0 and 2 are alike in all columns that are read",
    ):
        aligned(tmp_path, config(m=table)).numbers("m.csv", "n")
    same.loc[2, "n"] = 9
    same.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(DataError, match=r"rows 0 and 2 contradict each other: keep the right one"):
        aligned(tmp_path, config(m=table)).numbers("m.csv", "n")
    for last, how in ((VALUES[0], "are alike in all columns"), (VALUES[1], "contradict")):
        values = np.stack([VALUES[0], VALUES[2], last])
        np.savez(tmp_path / "vec.npz", x=values, sku=["a", "b", "a"])
        with pytest.raises(DataError, match=f"vec.npz, id column 'sku': id a occur.* {how}"):
            aligned(tmp_path, config()).array("vec.npz", None, 0, 4)
    write_meta(tmp_path, ["a", "b", "b", "c"])
    with pytest.raises(DataError, match=r"meta.csv, id column 'sku': id b occur\(s\) more than once .* contradict"):
        aligned(tmp_path, config())
    write_meta(tmp_path, ["a", None, "b", "c"])
    with pytest.raises(DataError, match=r"row 1 has no id \(1 such row\(s\)\)"):
        aligned(tmp_path, config())


def test_what_is_in_memory_takes_the_place_of_files(tmp_path):
    frame = pd.DataFrame({"sku": IDS, "label": list("xyxy"), "n": [1, 2, None, 4]})
    given = {"meta.csv": MemoryTable(frame), "vec.npz": MemoryArray(VALUES)}
    files = aligned(tmp_path, config(), given=given)
    assert files.ids.tolist() == IDS
    assert (files.array("vec.npz", None, 0, 4)[0] == VALUES).all()
    assert files.fingerprints() == {}
    with pytest.raises(DataError, match=r"vec.npz is a table in memory"):
        aligned(tmp_path, config(), given={**given, "vec.npz": MemoryTable(frame[["n"]])}).array_shape("vec.npz", None)
    with pytest.raises(DataError, match=r"meta.csv has no column 'label'"):
        aligned(tmp_path, config(), given={"meta.csv": MemoryTable(frame[["sku"]])})


def test_rows_that_a_source_says_are_absent_are_so(tmp_path):
    write_meta(tmp_path)
    source = MemoryArray(VALUES)
    source.present = np.asarray([True, False, True, True])
    files = aligned(tmp_path, config(by_id=False), given={"vec.npz": source})
    assert files.array("vec.npz", None, 1, 3)[1].tolist() == [False, True]


def test_fingerprints_tell_whether_a_file_or_a_folder_has_changed(tmp_path):
    write_meta(tmp_path)
    images(tmp_path / "photos", "a.png", "b.png", "c.png", "d.png")
    files = aligned(tmp_path, config(photo={"kind": "image", "file": "photos"}))
    first = files.fingerprints()
    assert set(first) == {"meta.csv", "photos"}
    assert first == files.fingerprints()
    shutil.move(tmp_path / "photos" / "a.png", tmp_path / "photos" / "e.png")
    second = files.fingerprints()
    assert second["photos"] != first["photos"]
    assert second["meta.csv"] == first["meta.csv"]


def test_no_samples_are_no_error_here(tmp_path):
    write_meta(tmp_path, [])
    np.savez(tmp_path / "vec.npz", x=VALUES, sku=IDS)
    files = aligned(tmp_path, config())
    assert len(files.ids) == 0
    assert files.column("meta.csv", "label").to_pylist() == []
    assert files.array_shape("vec.npz", None)[0] == (0, 3)
    assert str(files.table("meta.csv", ["label"], 0, 0).schema.field("label").type) == "string"
    assert pa.types.is_float64(files.numeric_type("meta.csv", "label"))

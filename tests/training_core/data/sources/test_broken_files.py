"""Damaged and hostile files: one line that names the file, and nothing of what they contain is run."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import zarr
from source_formats import ARRAYS, TABLES

from training_core.data.sources import open_array, open_array_file, open_table
from training_core.errors import DataError, PolychoirError


@pytest.mark.parametrize("name", [*TABLES, *ARRAYS])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name} is not there"):
        if name in TABLES:
            open_table(tmp_path / name, tmp_path)
        else:
            open_array(tmp_path / name, None, tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.npy", "a.npz", "a.h5", "a.mat"])
def test_an_empty_file_is_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{name} is empty"):
        open_table(tmp_path / name, tmp_path) if name in {"a.csv", "a.jsonl", "a.parquet"} else open_array(
            tmp_path / name, None, tmp_path
        )


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.05])
def test_a_torn_parquet_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": np.arange(5000.0)}).to_parquet(path)
    tear(path, kept)
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        open_table(path, tmp_path)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("name", ["a.npy", "fortran.npy", "a.npz", "compressed.npz", "a.h5", "a.mat", "v73.mat"])
def test_a_torn_array_is_refused(tmp_path, name, kept):
    key, write = ARRAYS[name]
    write(np.random.default_rng(0).normal(size=(500, 10)), tmp_path / name)
    tear(tmp_path / name, kept)
    with pytest.raises(DataError, match=rf"{name}(, array 'x')? cannot be read as|is not an \.np") as caught:
        open_array(tmp_path / name, key, tmp_path).take(slice(None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["array.zarr", "v2.zarr", "v3.zarr"])
def test_a_damaged_zarr_is_refused(tmp_path, name):
    key, write = ARRAYS[name]
    write(np.random.default_rng(0).normal(size=(50, 10)), tmp_path / name)
    files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=name):
            open_array(tmp_path / name, key, tmp_path).take(slice(None))
        path.write_bytes(whole)
    assert open_array(tmp_path / name, key, tmp_path).shape == (50, 10)


def test_a_damaged_member_of_an_npz_file_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(500, 10)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        open_array(path, None, tmp_path)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("name", [*ARRAYS, "t.parquet", "t.csv"])
def test_noise_in_a_file_never_gives_anything_but_our_errors(tmp_path, name, seed):
    draws = np.random.default_rng(seed)
    if name in ARRAYS:
        ARRAYS[name][1](draws.normal(size=(20, 3)), tmp_path / name)
    else:
        frame = pd.DataFrame({"a": draws.normal(size=20), "b": ["text"] * 20})
        frame.to_parquet(tmp_path / name) if name == "t.parquet" else frame.to_csv(tmp_path / name)
    files = [p for p in sorted((tmp_path / name).rglob("*")) if p.is_file()] or [tmp_path / name]
    victim = files[seed % len(files)]
    data = bytearray(victim.read_bytes())
    for place in draws.integers(0, len(data), 8):
        data[place] = draws.integers(0, 256)
    victim.write_bytes(bytes(data))
    try:
        if name in ARRAYS:
            open_array(tmp_path / name, ARRAYS[name][0], tmp_path).take(slice(None))
        else:
            table = open_table(tmp_path / name, tmp_path)
            table.take(table.columns, slice(None))
    except PolychoirError as error:
        assert "\n" not in str(error)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_never_loaded(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (np.savez if name == "a.npz" else np.save)(tmp_path / name, np.asarray([Bomb()], object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
        open_array(tmp_path / name, None, tmp_path)
    with pytest.raises(DataError, match="pickled Python objects, which are never loaded"):
        file = open_array_file(tmp_path / name, tmp_path)
        file.labels((*file.keys, "")[0])
    assert not (tmp_path / "exploded").exists()


def test_a_zarr_whose_chunks_are_pickles_is_never_loaded(tmp_path, monkeypatch):
    from numcodecs import Pickle

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    for dtype in ("|O", "<f8"):
        codec = {"id": "pickle", "protocol": 5}
        document = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": dtype, "compressor": None}
        (folder / ".zarray").write_text(json.dumps({**document, "fill_value": 0, "order": "C", "filters": [codec]}))
        (folder / "0").write_bytes(Pickle().encode(np.asarray([Bomb()], object)))
        with pytest.raises(DataError, match="pickle"):
            open_array(folder, None, tmp_path).take(slice(None))
        with pytest.raises(DataError, match="pickle"):
            open_array_file(folder, tmp_path).labels("")
    assert not (tmp_path / "exploded").exists()


def test_an_hdf5_file_cannot_make_us_read_another_one(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((3, 2))
    (tmp_path / "raw.bin").write_bytes(np.ones((3, 2)).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["own"] = np.zeros((3, 2))
        file["link"] = h5py.ExternalLink(str(secret), "x")
        file["soft"] = h5py.SoftLink("/link")
        file.create_dataset("external", (3, 2), "f8", external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout((3, 2), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "x", (3, 2))
        file.create_virtual_dataset("virtual", layout)
    for key, message in {
        "link": "is a link",
        "soft": "is a link",
        "external": "another file",
        "virtual": "another",
    }.items():
        with pytest.raises(DataError, match=message):
            open_array(tmp_path / "a.h5", key, tmp_path)
        with pytest.raises(DataError, match=message):
            open_array_file(tmp_path / "a.h5", tmp_path).labels(key)
    assert open_array(tmp_path / "a.h5", "own", tmp_path).shape == (3, 2)


def test_a_link_in_the_middle_of_a_path_is_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g/x"] = np.ones(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g"] = h5py.ExternalLink("other.h5", "/g")
    with pytest.raises(DataError, match=r"no array 'g/x'"):
        open_array(tmp_path / "a.h5", "g/x", tmp_path)


def test_a_file_of_another_kind_than_its_name_says_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    np.savez(tmp_path / "x.npz", np.ones(3))
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.ones(3)})
    zarr.create_array(store=tmp_path / "x.zarr", shape=(3,), dtype="f4")
    for suffix in (".npy", ".npz", ".mat", ".h5"):
        for other in {".npy", ".npz", ".mat"} - {suffix}:
            path = tmp_path / f"as{other[1:]}{suffix}"
            path.write_bytes((tmp_path / f"x{other}").read_bytes())
            with pytest.raises(DataError, match=rf"{path.name} (cannot be read as|is not an)"):
                open_array(path, None, tmp_path)
    (tmp_path / "file.zarr").write_text("x")
    with pytest.raises(DataError, match=r"file.zarr is not a folder"):
        open_array(tmp_path / "file.zarr", None, tmp_path)


def test_an_npz_that_promises_more_than_it_holds_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    header = (tmp_path / "x.npy").read_bytes()[:128].replace(b"(4, 4), }", b"(1 << 9)}")
    lying = (tmp_path / "x.npy").read_bytes()[:128].replace(b"(4, 4), }      ", b"(90000000, 4), }")[:128]
    for start in (header, lying):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", start + bytes(16))
        with pytest.raises(DataError, match=r"cannot be read as an .npz file"):
            open_array(tmp_path / "a.npz", None, tmp_path)


def tear(path: Path, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])

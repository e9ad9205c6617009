import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from source_formats import ARRAYS, read_in_small_pieces, stage_everything

from training_core.data.sources import ArraySource, open_array, open_array_file
from training_core.data.sources.memory import MemoryArray
from training_core.errors import DataError

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint64", "bool"]


@st.composite
def arrays_and_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = (draw(st.integers(0, 6)), *draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    array = draw(hnp.arrays(np.dtype(draw(st.sampled_from(DTYPES))), shape))  # NaN and infinity among the floats
    rows = draw(st.lists(st.integers(-1, shape[0] - 1), max_size=10))
    return array, np.asarray(rows, np.int64)


def assert_equal(source: ArraySource, array: np.ndarray, rows: np.ndarray) -> None:
    assert source.shape == array.shape
    assert source.dtype == array.dtype
    whole = source.take(slice(None))
    assert whole.dtype == array.dtype
    assert whole.dtype.isnative
    np.testing.assert_array_equal(whole, array)
    wanted = np.zeros((len(rows), *array.shape[1:]), array.dtype)
    wanted[rows >= 0] = array[rows[rows >= 0]]
    taken = source.take(rows)
    assert taken.dtype == array.dtype
    np.testing.assert_array_equal(taken, wanted)
    taken[...] = 1  # the caller's own
    np.testing.assert_array_equal(source.take(slice(None)), array)


def written(name: str, array: np.ndarray, folder: Path) -> ArraySource:
    key, write = ARRAYS[name]
    write(array, folder / name)
    return open_array(folder / name, "x" if name == "v73.mat" else key, folder / "staging")


def can_hold(name: str, array: np.ndarray) -> bool:
    if "mat" in name and array.dtype == np.float16:
        return False  # MATLAB has no such numbers
    if name == "a.mat" and not array.size:
        return False  # and scipy keeps no shape of what is empty
    # axes of length 1 at the end are dropped by MATLAB; shards of no rows by zarr
    return not (name.endswith(".zarr") and not array.size)


@pytest.mark.parametrize("name", ARRAYS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=arrays_and_rows())
def test_an_array_comes_back_as_it_was_written(name: str, case: tuple[np.ndarray, np.ndarray]) -> None:
    array, rows = case
    if can_hold(name, array):
        with tempfile.TemporaryDirectory() as folder:
            assert_equal(written(name, array, Path(folder)), array, rows)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(case=arrays_and_rows())
def test_an_array_in_memory_comes_back_as_it_is(case: tuple[np.ndarray, np.ndarray]) -> None:
    assert_equal(MemoryArray(case[0]), *case)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_too_large_for_memory_is_read_in_pieces(name, tmp_path, monkeypatch):
    stage_everything(monkeypatch)
    read_in_small_pieces(monkeypatch)
    draws = np.random.default_rng(0)
    array = draws.normal(size=(123, 3, 2)).astype(np.float32)
    source = written(name, array, tmp_path)
    for _ in range(5):
        assert_equal(source, array, draws.integers(-1, 123, 60))
    with pytest.raises(IndexError):
        source.take(np.asarray([123]))


def test_zarr_arrays_without_rows_are_read(tmp_path):
    zarr.create_array(store=tmp_path / "a.zarr", shape=(0, 3), chunks=(1, 3), dtype="f4")
    source = open_array(tmp_path / "a.zarr", None, tmp_path)
    assert source.take(slice(None)).shape == (0, 3)
    assert source.take(np.asarray([-1, -1])).tolist() == [[0, 0, 0]] * 2


def test_an_array_is_found_by_its_key(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.zeros((2, 2)))
    assert open_array(tmp_path / "a.npz", "y", tmp_path).shape == (2, 2)
    with pytest.raises(DataError, match=r"no array 'z'; it has x, y"):
        open_array(tmp_path / "a.npz", "z", tmp_path)
    with pytest.raises(DataError, match=r"holds 2 arrays \(x, y\); say which one with `key`"):
        open_array(tmp_path / "a.npz", None, tmp_path)
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(DataError, match="a single array without a name; remove `key`"):
        open_array(tmp_path / "a.npy", "x", tmp_path)


def test_logical_arrays_of_matlab_are_bool(tmp_path):
    values = np.random.default_rng(0).random((5, 3)) > 0.5
    for name in ("a.mat", "v73.mat"):
        assert written(name, values, tmp_path).dtype == np.bool_


def test_names_are_read_from_every_file_of_arrays(tmp_path):
    names = ["ä", "long name", ""]
    np.savez(tmp_path / "a.npz", n=np.asarray(names))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["n"] = names
        file["fixed"] = np.asarray([name.encode() for name in names])
    scipy.io.savemat(tmp_path / "a.mat", {"n": np.asarray(names, object), "chars": np.asarray(["ab", "c"])})
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3).create_array("n", data=np.asarray(names, "U12"))
    for name in ("a.npz", "a.h5", "a.mat", "a.zarr"):
        labels = open_array_file(tmp_path / name, tmp_path).labels("n")
        assert [each.decode() if isinstance(each, bytes) else str(each) for each in labels] == names, name
    assert open_array_file(tmp_path / "a.mat", tmp_path).labels("chars").tolist() == ["ab", "c"]
    assert [each.decode() for each in open_array_file(tmp_path / "a.h5", tmp_path).labels("fixed")] == names


def test_cells_of_text_are_read_from_matlab_7_3(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        cells = [
            file.create_dataset(f"#refs#/{i}", data=np.asarray([[ord(c)] for c in text], np.uint16))
            for i, text in enumerate(["ab", "ö"])
        ]
        data = file.create_dataset("ids", data=np.asarray([[cell.ref for cell in cells]], h5py.ref_dtype))
        data.attrs["MATLAB_class"] = np.bytes_("cell")
        file["x"] = np.ones((3, 2))
    opened = open_array_file(tmp_path / "a.mat", tmp_path)
    assert set(opened.keys) == {"ids", "x"}
    assert opened.labels("ids").tolist() == ["ab", "ö"]
    assert opened.array("x").shape == (2, 3)


@pytest.mark.parametrize(
    "values",
    [np.asarray(["a"]), np.asarray([1j]), np.asarray(["2026"], "datetime64[Y]"), np.asarray([1], np.longdouble)],
)
def test_an_array_of_anything_but_numbers_is_refused(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="expected an array of numbers"):
            open_array(tmp_path / name, None, tmp_path)
    with pytest.raises(DataError, match="expected an array of numbers"):
        MemoryArray(values)

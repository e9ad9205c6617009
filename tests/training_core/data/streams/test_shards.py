import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from training_core.data.storage.parts import array_layout
from training_core.data.streams.shards import RowReader
from training_core.errors import StorageError

NUM_ROWS = 1000


def values_of(dtype: str, shape: tuple[int, ...] = (5, 3)) -> np.ndarray:
    draws = np.random.default_rng(0)
    whole = draws.integers(0, 100, (NUM_ROWS, *shape))
    return (whole % 2 == 0) if dtype == "bool" else (whole + (0.5 if "float" in dtype else 0)).astype(dtype)


def write(path: Path, values: np.ndarray, chunk: int = 16, shard: int | None = 64, codec: str = "none", **extra: Any):
    compressors = {"none": None, "lz4": BloscCodec(cname="lz4", clevel=3, shuffle="bitshuffle"), "zstd": "auto"}[codec]
    trailing = values.shape[1:]
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *trailing),
        shards=None if shard is None else (shard, *trailing),
        compressors=compressors,
        **extra,
    )
    array[:] = values
    return array


def rows_to_try() -> list[np.ndarray]:
    draws = np.random.default_rng(1)
    return [
        np.arange(NUM_ROWS),
        np.arange(13, 14),
        np.arange(60, 200),
        np.arange(990, NUM_ROWS),
        np.flatnonzero(draws.random(NUM_ROWS) < 0.8),
        np.flatnonzero(draws.random(NUM_ROWS) < 0.05),
        np.array([0, 1, 2, 500, 501, 999]),
        np.arange(0),
    ]


def read(reader: RowReader, rows: np.ndarray) -> np.ndarray:
    out = np.full((len(rows), *reader.shape[1:]), 7, reader.dtype)
    reader.read(rows, out)
    return out


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_rows_are_those_the_zarr_library_reads(tmp_path: Path, dtype: str, codec: str) -> None:
    array = write(tmp_path / "x", values_of(dtype), codec=codec)
    reader = RowReader(tmp_path / "x")
    assert reader.direct
    assert reader.dtype == np.dtype(dtype)
    assert reader.chunk_rows == 16
    for rows in rows_to_try():
        assert np.array_equal(read(reader, rows), np.asarray(array.oindex[rows]))


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_the_layout_of_parts_is_read_directly(tmp_path: Path, codec: str) -> None:
    values = np.random.default_rng(0).normal(size=(NUM_ROWS, 2000)).astype(np.float32)
    chunk, shard = array_layout(values.shape, values.dtype)
    write(tmp_path / "x", values, chunk, shard, codec)
    reader = RowReader(tmp_path / "x")
    assert reader.direct
    for rows in rows_to_try():
        assert np.array_equal(read(reader, rows), values[rows])


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        ({"shard": None}, "not sharded"),
        ({"codec": "zstd"}, "another codec"),
        ({"filters": [zarr.codecs.TransposeCodec(order=(0, 2, 1))]}, "a filter"),
        ({"chunk_key_encoding": {"name": "v2", "separator": "."}}, "other names"),
    ],
)
def test_other_layouts_are_left_to_the_zarr_library(tmp_path: Path, layout: dict[str, Any], why: str) -> None:
    values = values_of("float32")
    write(tmp_path / "x", values, **layout)
    reader = RowReader(tmp_path / "x")
    assert not reader.direct, why
    for rows in rows_to_try():
        assert np.array_equal(read(reader, rows), values[rows])


@pytest.mark.parametrize("fill", [0.0, 3.5, float("nan")])
def test_chunks_and_shards_that_were_not_written_hold_the_fill_value(tmp_path: Path, fill: float) -> None:
    array = zarr.create_array(
        tmp_path / "x", shape=(200, 4), dtype="f4", chunks=(8, 4), shards=(64, 4), compressors=None, fill_value=fill
    )
    array[70:75] = 1.0
    reader = RowReader(tmp_path / "x")
    assert reader.direct
    rows = np.arange(200)
    assert np.array_equal(read(reader, rows), np.asarray(array[:]), equal_nan=True)


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_several_threads_read_at_once(tmp_path: Path, codec: str) -> None:
    values = values_of("float32", (200,))
    write(tmp_path / "x", values, codec=codec)
    reader, barrier = RowReader(tmp_path / "x"), threading.Barrier(4)

    def work(seed: int) -> bool:
        draws = np.random.default_rng(seed)
        barrier.wait()
        choices = [np.flatnonzero(draws.random(NUM_ROWS) < 0.5) for _ in range(20)]
        return all(np.array_equal(read(reader, rows), values[rows]) for rows in choices)

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(work, range(4)))


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.99])
def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path, codec: str, keep: float) -> None:
    write(tmp_path / "x", values_of("float32"), codec=codec)
    path = tmp_path / "x" / "c" / "2" / "0" / "0"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 or not keep else keep * len(whole))])
    reader = RowReader(tmp_path / "x")
    with pytest.raises(StorageError, match=r"x does not read back .*; prepare the dataset again"):
        read(reader, np.arange(NUM_ROWS))


def test_a_packed_chunk_that_does_not_decode_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x", values_of("float32"), codec="lz4")
    path = tmp_path / "x" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[:16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(StorageError, match="does not read back"):
        read(RowReader(tmp_path / "x"), np.arange(16))


def test_a_folder_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not read back"):
        RowReader(tmp_path / "absent")
    (tmp_path / "zarr.json").write_text("[1, 2]")
    with pytest.raises(StorageError, match="does not read back"):
        RowReader(tmp_path)

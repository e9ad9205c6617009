"""Writers of one table or array in every format that is read, and what has to come back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import scipy.io
import zarr

from training_core.data.sources import arrays, numpy_files, tables


def stage_everything(monkeypatch: Any) -> None:
    """As if every table and array were too large for memory."""
    for module in (tables, arrays, numpy_files):
        monkeypatch.setattr(module, "HELD_BYTES", 0)


def read_in_small_pieces(monkeypatch: Any) -> None:
    """As if a few rows were all that may be read at a time."""
    monkeypatch.setattr(tables, "_PIECE_BYTES", 64)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 64)


def write_delimited(table: pa.Table, path: Path) -> None:
    options = pa.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",", quoting_style="needed")
    pa.csv.write_csv(table, path, options)


def write_jsonl(table: pa.Table, path: Path) -> None:
    rows = [{key: _plain(value) for key, value in row.items() if value is not None} for row in table.to_pylist()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=3)


def write_parquet_folder(table: pa.Table, path: Path) -> None:
    path.mkdir()
    half = table.num_rows // 2
    pq.write_table(table.slice(0, half), path / "part-2.parquet")
    pq.write_table(table.slice(half), path / "part-10.snappy.parquet")
    (path / "_SUCCESS").touch()


TABLES: dict[str, Callable[[pa.Table, Path], None]] = {
    "t.csv": write_delimited,
    "t.tsv": write_delimited,
    "t.jsonl": write_jsonl,
    "t.parquet": write_parquet,
    "folder": write_parquet_folder,
    "spark.parquet": write_parquet_folder,
}


def write_h5(array: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["group/x"] = array


def write_chunked_h5(array: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        chunks = (2, *array.shape[1:]) if array.shape[0] > 1 else None
        file.create_dataset("group/x", data=array, chunks=chunks, compression="gzip" if chunks else None)


def write_mat(array: np.ndarray, path: Path) -> None:
    scipy.io.savemat(path, {"group": 1.0, "x": array}, do_compression=True)


def write_mat_73(array: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        values = array.astype(np.uint8) if array.dtype == bool else array
        data = file.create_dataset("x", data=values.T)
        data.attrs["MATLAB_class"] = np.bytes_("logical" if array.dtype == bool else "double")


def write_zarr(version: Any) -> Callable[[np.ndarray, Path], None]:
    def write(array: np.ndarray, path: Path) -> None:
        chunks = (2, *array.shape[1:])
        group = zarr.open_group(path, mode="w", zarr_format=version)
        group.create_array("group/x", data=array, chunks=chunks)

    return write


def write_zarr_array(array: np.ndarray, path: Path) -> None:
    zarr.create_array(store=path, data=array, chunks=(2, *array.shape[1:]), shards=(4, *array.shape[1:]))


ARRAYS: dict[str, tuple[str | None, Callable[[np.ndarray, Path], None]]] = {
    "a.npy": (None, lambda array, path: np.save(path, array)),
    "fortran.npy": (None, lambda array, path: np.save(path, np.asfortranarray(array))),
    "big-endian.npy": (None, lambda array, path: np.save(path, array.astype(array.dtype.newbyteorder(">")))),
    "a.npz": ("x", lambda array, path: np.savez(path, x=array, y=np.ones(2))),
    "compressed.npz": (None, lambda array, path: np.savez_compressed(path, x=array)),
    "a.h5": ("group/x", write_h5),
    "chunked.hdf5": (None, write_chunked_h5),
    "a.mat": ("x", write_mat),
    "v73.mat": (None, write_mat_73),
    "v2.zarr": ("group/x", write_zarr(2)),
    "v3.zarr": (None, write_zarr(3)),
    "array.zarr": (None, write_zarr_array),
}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, pd.Timestamp) or hasattr(value, "isoformat") else value

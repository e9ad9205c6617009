"""Opening a table or an array by what its name and content say it is."""

from collections.abc import Sequence
from pathlib import Path

from training_core.data.source import ARRAY_SUFFIXES, TABLE_SUFFIXES, suffix_of
from training_core.data.sources.delimited import SEPARATORS, open_delimited
from training_core.data.sources.hdf5 import HDF5File
from training_core.data.sources.images import ImageFolder, ImageTable
from training_core.data.sources.jsonl import open_jsonl
from training_core.data.sources.matlab import open_matlab
from training_core.data.sources.numpy_files import NpyFile, NpzFile
from training_core.data.sources.parquet import open_parquet, parquet_files
from training_core.data.sources.protocols import ArrayFile, ArraySource, Place, TableSource, listed, require_columns
from training_core.data.sources.remote import locate
from training_core.data.sources.zarr_files import ZarrFile
from training_core.errors import DataError


def open_table(
    location: str | Path, staging: Path, columns: Sequence[str] | None = None, if_there: Sequence[str] = ()
) -> TableSource:
    """A csv, tsv, jsonl or parquet file, a folder of parquet files, or a folder of images (see `ImageTable`).

    What gives no access to single rows is read through once and staged; memory stays bounded whatever its size.

    Args:
        location: a path or a URL.
        staging: folder for what has to be kept meanwhile; it may be deleted when the table is no longer used.
        columns: the only ones that will be asked for; all by default.
        if_there: more of them, which the table may lack.

    Raises:
        DataError: it is not there, not what its name says, damaged, or lacks one of `columns`.
        TransientError: a URL did not answer.
        StorageError: the staging folder is full or cannot be written.
    """
    place = locate(location, staging)
    suffix = suffix_of(str(location))
    if suffix in SEPARATORS:
        return open_delimited(place, SEPARATORS[suffix], staging, columns, if_there)
    if suffix == ".jsonl":
        return open_jsonl(place, staging, columns, if_there)
    if suffix == ".parquet" or (place.path.is_dir() and parquet_files(place.path)):
        return open_parquet(place, staging, columns, if_there)
    _require_folder(place, suffix, TABLE_SUFFIXES)
    table = ImageTable(place)
    require_columns(place, table.columns, list(columns or ()))
    return table


def open_array(
    location: str | Path, key: str | None, staging: Path, size: tuple[int, int] | None = None
) -> ArraySource:
    """An array of an npy, npz, h5, hdf5, mat or zarr file, or the images of a folder.

    Args:
        location: a path or a URL.
        key: name of the array, needed when there are several.
        staging: folder for what has to be kept meanwhile.
        size: height and width to which images are resized.

    Raises:
        DataError: it is not there, not what its name says, damaged, or holds no such array of numbers.
        TransientError: a URL did not answer.
        StorageError: the staging folder is full or cannot be written.
    """
    file = open_array_file(location, staging, size)
    return file.array(chosen_key(str(location), file, key))


def open_array_file(location: str | Path, staging: Path, size: tuple[int, int] | None = None) -> ArrayFile:
    """All arrays of a file; see `open_array`."""
    place = locate(location, staging)
    suffix = suffix_of(str(location))
    if suffix == ".npy":
        return NpyFile(place, staging)
    if suffix == ".npz":
        return NpzFile(place, staging)
    if suffix in {".h5", ".hdf5"}:
        return HDF5File(place)
    if suffix == ".mat":
        return open_matlab(place, staging)
    if suffix == ".zarr":
        return ZarrFile(place)
    _require_folder(place, suffix, ARRAY_SUFFIXES)
    return ImageFolder(place, size)


def chosen_key(name: str, file: ArrayFile, key: str | None, but: str | None = None) -> str:
    """The array that is meant: the one called `key`, or the only one (that called `but` does not count).

    Raises:
        DataError: there is no such array, or there are several.
    """
    keys = file.keys
    if not keys:
        if key is not None:
            raise DataError(f"{name} is a single array without a name; remove `key`")
        return ""
    if key is None:
        candidates = [each for each in keys if each != but] or list(keys)
        if len(candidates) != 1:
            raise DataError(f"{name} holds {len(keys)} arrays ({listed(keys)}); say which one with `key`")
        return candidates[0]
    if key not in keys:
        raise DataError(f"{name} has no array '{key}'; it has {listed(keys)}")
    return key


def _require_folder(place: Place, suffix: str, suffixes: tuple[str, ...]) -> None:
    if place.path.is_dir():
        return
    if place.path.exists() or suffix:
        raise DataError(f"{place} is no folder; a file has to end in one of {', '.join(suffixes)}")
    raise DataError(f"{place} is not there; file names are relative to the folder of the SOURCE.yaml")

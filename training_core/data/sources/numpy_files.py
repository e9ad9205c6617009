"""npy and npz files: arrays of numbers, and of text for ids; pickled objects are never loaded."""

import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from training_core.data.sources.arrays import HeldArray, flat_array, staged_array
from training_core.data.sources.protocols import HELD_BYTES, ArraySource, Place, listed, require_numbers, unreadable
from training_core.data.sources.tables import staged_path
from training_core.errors import DataError, StorageError

_PICKLED = "holds pickled Python objects, which are never loaded; save plain arrays"


class NpyFile:
    """One array, read where it lies; one in Fortran order is rearranged once.

    Raises:
        DataError: the file is not there, torn, pickled, or not what its ending says.
    """

    keys = ()

    def __init__(self, place: Place, staging: Path) -> None:
        place.require()
        with _loading(place, ".npy"), place.path.open("rb") as file:
            self._shape, self._fortran, self._dtype = _header(place, file)
            self._offset = file.tell()
            size = int(np.prod(self._shape, dtype=np.int64)) * self._dtype.itemsize
            if place.path.stat().st_size < self._offset + size:
                raise DataError(f"{place} cannot be read as an .npy file: it is shorter than its header says")
        self._place, self._staging = place, staging

    def array(self, key: str) -> ArraySource:
        """The array; see `ArrayFile.array`."""
        dtype = require_numbers(self._place, self._dtype)
        if not self._shape:
            raise DataError(f"{self._place} holds a single number; expected one row per sample")
        if int(np.prod(self._shape, dtype=np.int64)) * dtype.itemsize <= HELD_BYTES:
            return HeldArray(self._whole())
        if not self._fortran:
            return flat_array(self._place, self._place.path, self._offset, self._shape, self._dtype)

        def read(start: int, stop: int) -> np.ndarray:
            mapped = np.load(self._place.path, mmap_mode="r", allow_pickle=False)  # anew, so that pages are given back
            return np.array(mapped[start:stop], dtype)

        return staged_array(self._place, self._shape, dtype, read, self._staging)

    def labels(self, key: str) -> np.ndarray:
        """The array, of numbers or text; see `ArrayFile.labels`."""
        return self._whole()

    def _whole(self) -> np.ndarray:
        with _loading(self._place, ".npy"):
            return np.asarray(np.load(self._place.path, allow_pickle=False))


class NpzFile:
    """Several arrays by name; each is taken out of the file when it is asked for, and checked against its checksum.

    Raises:
        DataError: the file is not there, torn, or not what its ending says.
    """

    def __init__(self, place: Place, staging: Path) -> None:
        self._place, self._staging = place, staging
        with self._members() as archive:
            self._names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        self.keys = tuple(self._names)

    def array(self, key: str) -> ArraySource:
        """The array of that name; see `ArrayFile.array`."""
        where = f"{self._place}, array '{key}'"
        with self._members() as archive:
            info = archive.getinfo(self._names[key])
            if info.file_size <= HELD_BYTES:
                values = self._read(archive, info)
                require_numbers(where, values.dtype)
                if not values.ndim:
                    raise DataError(f"{where} is a single number; expected one row per sample")
                return HeldArray(values)
            with archive.open(info) as member:  # says what it is before all of it is copied
                _, _, dtype = _header(self._place, member)
                require_numbers(where, dtype)
            path = staged_path(self._staging, ".npy")
            with archive.open(info) as member, path.open("wb") as out:
                _copy(member, out, path)
        return NpyFile(Place(path, where), self._staging).array("")

    def labels(self, key: str) -> np.ndarray:
        """The array of that name, of numbers or text; see `ArrayFile.labels`."""
        with self._members() as archive:
            return self._read(archive, archive.getinfo(self._names[key]))

    def _read(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
        with archive.open(info) as member:
            _header(self._place, member)
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    @contextmanager
    def _members(self) -> Iterator[zipfile.ZipFile]:
        self._place.require()
        with _loading(self._place, ".npz"), self._place.path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{self._place} is not an .npz file inside; give it the ending of what it is")
            with zipfile.ZipFile(file) as archive:
                yield archive


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an npz file.

    Raises:
        DataError: the file is not there or torn.
    """
    return list(NpzFile(Place(path, str(path)), path.parent).keys)


def read_arrays(path: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz file, of numbers or text, whole.

    Raises:
        DataError: the file is not there, torn, or pickled, or has no such key.
    """
    file = NpzFile(Place(path, str(path)), path.parent)
    wanted = list(keys)
    if missing := [key for key in wanted if key not in file.keys]:
        raise DataError(f"{path} has no array '{missing[0]}'; it has {listed(file.keys) or 'none'}")
    return {key: file.labels(key) for key in wanted}


def _header(place: Place, file) -> tuple[tuple[int, ...], bool, np.dtype]:
    start = file.read(6)
    if start[:2] == b"PK":
        raise DataError(f"{place} is not an .npy file inside; give it the ending of what it is")
    if start != b"\x93NUMPY":
        raise DataError(f"{place} cannot be read as an .npy file: it does not start like one")
    version = tuple(file.read(2))
    if version not in {(1, 0), (2, 0)}:
        raise DataError(f"{place} cannot be read as an .npy file: it is of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{place} {_PICKLED}")
    return shape, fortran and len(shape) > 1, dtype


def _copy(member, out, path: Path) -> None:
    class _Out:
        def write(self, data: bytes) -> int:
            try:
                return out.write(data)
            except OSError as error:
                raise StorageError(f"cannot write {path}: {error.strerror}; is the disk full?") from None

    shutil.copyfileobj(member, _Out(), 1 << 20)


@contextmanager
def _loading(place: Place, kind: str) -> Iterator[None]:
    """All the ways in which a file can fail to be read are one DataError."""
    try:
        yield
    except (DataError, StorageError):
        raise
    except Exception as error:  # a torn file: ValueError, EOFError, zlib.error, BadZipFile, SyntaxError, MemoryError…
        raise unreadable(place, f"an {kind} file", error) from None

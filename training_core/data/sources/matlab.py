"""MATLAB files (mat): versions 4 to 7.2 by scipy, 7.3, which is HDF5 with its axes turned around, by h5py."""

from pathlib import Path
from typing import Any

import numpy as np

from training_core.data.sources.arrays import HeldArray, ReadArray, staged_array
from training_core.data.sources.hdf5 import HDF5File
from training_core.data.sources.protocols import ArrayFile, ArraySource, Place, require_numbers, unreadable
from training_core.errors import DataError


def open_matlab(place: Place, staging: Path) -> ArrayFile:
    """The variables of a mat file of any version.

    A vector of MATLAB has two axes, [N, 1] or [1, N], and trailing axes of length 1 are not kept there.

    Raises:
        DataError: the file is not there, damaged, or not of MATLAB.
    """
    place.require()
    with place.path.open("rb") as file:
        start = file.read(520)
    is_hdf5 = b"\x89HDF\r\n\x1a\n" in {start[:8], start[512:520]}
    return _MatlabHDF5(place, staging) if is_hdf5 else _MatlabFile(place, staging)


class _MatlabFile:
    """Versions up to 7.2. A variable is unpacked whole (they hold 2 GB at most), then kept on disk if it is large."""

    def __init__(self, place: Place, staging: Path) -> None:
        from scipy.io import whosmat

        self._place, self._staging = place, staging
        try:
            self._kinds = {name: kind for name, _, kind in whosmat(place.path)}
        except Exception as error:  # whatever a damaged file makes the reader raise
            raise unreadable(place, "a MATLAB file", error) from None
        self.keys = tuple(name for name in self._kinds if not name.startswith("__"))

    def array(self, key: str) -> HeldArray | ReadArray:
        values = self._load(key)
        dtype = require_numbers(f"{self._place}, array '{key}'", values.dtype)
        if self._kinds[key] == "logical":
            values, dtype = values.astype(bool), np.dtype(bool)
        return staged_array(self._place, values.shape, dtype, lambda start, stop: values[start:stop], self._staging)

    def labels(self, key: str) -> np.ndarray:
        values = self._load(key)
        if values.dtype == object:  # a cell array, of text or numbers
            cells = [np.asarray(cell).ravel() for cell in values.ravel()]
            return np.asarray([cell[0].item() if len(cell) else "" for cell in cells], object)
        padded = values.dtype.kind == "U"  # a matrix of characters has rows of one length
        return np.char.rstrip(values.ravel()) if padded else values.ravel()

    def _load(self, key: str) -> np.ndarray:
        from scipy.io import loadmat

        try:
            return np.asarray(loadmat(self._place.path, variable_names=[key])[key])
        except Exception as error:
            raise unreadable(self._place, "a MATLAB file", error) from None


class _MatlabHDF5:
    """Version 7.3: MATLAB's first axis is the last one in the file, so rows are gathered once."""

    def __init__(self, place: Place, staging: Path) -> None:
        self._place, self._staging = place, staging
        self._file = HDF5File(place)
        self.keys = self._file.keys

    def array(self, key: str) -> ArraySource:
        with self._file.dataset(key) as data:
            logical = _class(data) == "logical"
            dtype = require_numbers(f"{self._place}, array '{key}'", np.dtype(bool) if logical else data.dtype)
            shape, empty = data.shape[::-1], "MATLAB_empty" in data.attrs
        if empty or not shape:
            raise DataError(f"{self._place}, array '{key}' is empty")

        def read(start: int, stop: int) -> np.ndarray:
            with self._file.dataset(key) as data:
                return np.asarray(data[..., start:stop], dtype).transpose()

        return staged_array(self._place, shape, dtype, read, self._staging)

    def labels(self, key: str) -> np.ndarray:
        with self._file.dataset(key) as data:
            kind, values = _class(data), np.asarray(data[()])
            if kind == "cell":
                file: Any = data.file
                return np.asarray([_text(np.asarray(file[cell][()])) for cell in values.transpose().ravel()], object)
        if kind == "char":
            rows = values.transpose()
            return np.asarray([_text(row).rstrip() for row in rows], object)
        return values.transpose().ravel()


def _class(data: Any) -> str:
    kind = data.attrs.get("MATLAB_class", b"")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def _text(codes: np.ndarray) -> str:
    """Characters, which MATLAB keeps as UTF-16 numbers, or one number."""
    if codes.dtype != np.uint16:
        return str(codes.ravel()[0].item())
    return codes.transpose().astype("<u2").tobytes().decode("utf-16-le", errors="replace")

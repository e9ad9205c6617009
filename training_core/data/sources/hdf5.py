"""HDF5 files (h5, hdf5): arrays inside one file, and nothing that a link or an external storage would lead to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.arrays import ReadArray
from training_core.data.sources.protocols import ArraySource, Place, require_numbers, unreadable
from training_core.errors import DataError

if TYPE_CHECKING:
    import h5py

_CACHE_BYTES = 32 << 20  # chunks that rows of the next take may share


class HDF5File:
    """The arrays of an HDF5 file, each named by its path in it (`train/x`).

    Raises:
        DataError: the file is not there, damaged, or not HDF5.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._file: h5py.File | None = None  # opened once: a take may be many reads
        place.require()
        with self.reading() as file:
            self.keys = tuple(_array_names(file))

    def array(self, key: str) -> ArraySource:
        """The array of that name; see `ArrayFile.array`."""
        with self.dataset(key) as data:
            dtype = require_numbers(f"{self._place}, array '{key}'", data.dtype)
            shape, gap = data.shape, data.chunks[0] if data.chunks else 1
            if not shape:
                raise DataError(f"{self._place}, array '{key}' is a single number; expected one row per sample")

        def read(start: int, stop: int) -> np.ndarray:
            with self.reading():
                return np.asarray(data[start:stop], dtype)

        return ReadArray(shape, dtype, read, gap)

    def labels(self, key: str) -> np.ndarray:
        """The array of that name, of numbers or text; see `ArrayFile.labels`."""
        with self.dataset(key) as data:
            return np.asarray(data[()])

    @contextmanager
    def dataset(self, key: str) -> "Iterator[h5py.Dataset]":
        """The array of that name, opened.

        Raises:
            DataError: it is behind a link, its numbers are in another file, or it is damaged.
        """
        import h5py

        with self.reading() as file:
            found: Any = file
            for step in key.split("/"):
                if not isinstance(found.get(step, getlink=True), h5py.HardLink):
                    raise DataError(f"{self._place}: '{key}' is a link, which is not followed; save the array itself")
                found = found[step]
            if found.is_virtual or found.external:
                raise DataError(
                    f"{self._place}: the numbers of '{key}' are in another file, which is not read; "
                    "save them in this one"
                )
            yield found

    @contextmanager
    def reading(self) -> "Iterator[h5py.File]":
        """The file, opened; whatever fails in it is one DataError."""
        import h5py

        try:
            if self._file is None:
                self._file = h5py.File(self._place.path, "r", rdcc_nbytes=_CACHE_BYTES, locking=False)
            yield self._file
        except DataError:
            raise
        except Exception as error:  # OSError, KeyError, RuntimeError, ValueError: all of them mean damage
            raise unreadable(self._place, "an HDF5 file", error) from None


def _array_names(file: "h5py.File") -> list[str]:
    """Paths of what can be read, and of links at the top, so that a message can say what is wrong with them."""
    import h5py

    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("#"):  # where MATLAB keeps the cells of cell arrays
            found.append(name)

    file.visititems(visit)
    links = [str(name) for name in file if not isinstance(file.get(name, getlink=True), h5py.HardLink)]
    return [*found, *links]

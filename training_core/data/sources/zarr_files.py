"""Zarr: an array, or a group of them by name, in versions 2 and 3 of the format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training_core.data.sources.arrays import ReadArray
from training_core.data.sources.protocols import Place, require_numbers, unreadable
from training_core.errors import DataError

if TYPE_CHECKING:
    import zarr


class ZarrFile:
    """The folder of a Zarr array or group; arrays of a group are named by their path in it.

    Raises:
        DataError: the folder is not there, or is neither.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        if not place.path.is_dir():
            missing = "is not a folder" if place.path.exists() else "is not there"
            raise DataError(f"{place} {missing}; file names are relative to the folder of the SOURCE.yaml")
        with self._reading() as root:
            names = [name for name, _ in _arrays(root)] if _is_group(root) else []
            if _is_group(root) and not names:
                raise DataError(f"{place} is a Zarr group without arrays")
        self.keys = tuple(sorted(names))

    def array(self, key: str) -> ReadArray:
        """The array of that name; see `ArrayFile.array`."""
        with self._opened(key) as data:
            where = f"{self._place}, array '{key}'" if key else str(self._place)
            dtype = require_numbers(where, np.dtype(data.dtype))
            shape = tuple(data.shape)
            if not shape:
                raise DataError(f"{where} is a single number; expected one row per sample")
            gap = data.chunks[0]
            _check_blosc_chunks(where, self._place.path / key, data)

        def read(start: int, stop: int) -> np.ndarray:
            with self._guarded():
                return np.asarray(data[start:stop], dtype)

        return ReadArray(shape, dtype, read, gap)

    def labels(self, key: str) -> np.ndarray:
        """The array of that name, of numbers or text; see `ArrayFile.labels`."""
        with self._opened(key) as data:
            return np.asarray(data[...])

    @contextmanager
    def _opened(self, key: str) -> "Iterator[zarr.Array]":
        with self._reading() as root:
            data: Any = root[key] if key else root
            _refuse_pickles(self._place, data.metadata.to_dict())
            yield data

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        import zarr

        with self._guarded():
            yield zarr.open(store=self._place.path, mode="r", use_consolidated=False)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever fails inside is one DataError."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # metadata that is no JSON, a codec that is unknown, a chunk that is torn
            raise unreadable(self._place, "Zarr", error) from None


def _is_group(root: Any) -> bool:
    import zarr

    return isinstance(root, zarr.Group)


def _arrays(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in group.members():
        if _is_group(item):
            yield from _arrays(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def _check_blosc_chunks(where: str, folder: Path, data: Any) -> None:
    """Raise a DataError when a chunk is shorter than it says: Blosc reads what lies beyond it in memory, unnoticed."""
    codecs = [getattr(codec, "codec_id", type(codec).__name__).lower() for codec in data.compressors]
    if data.shards or not codecs or "blosc" not in codecs[-1]:
        return
    for path in folder.rglob("*"):
        if path.name.startswith((".z", "zarr.json")) or not path.is_file():
            continue
        with path.open("rb") as file:
            header = file.read(16)
        if len(header) < 16 or int.from_bytes(header[12:16], "little") != path.stat().st_size:
            raise DataError(f"{where} is torn: chunk {path.relative_to(folder).as_posix()} is not as long as it says")


def _refuse_pickles(place: Place, metadata: Any) -> None:
    """Raise a DataError when a codec would run what the chunks contain."""
    if isinstance(metadata, str) and "pickle" in metadata.lower():
        raise DataError(f"{place} holds pickled Python objects, which are never loaded; save plain arrays")
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            if key != "attributes":
                _refuse_pickles(place, value)
    elif isinstance(metadata, list | tuple):
        for value in metadata:
            _refuse_pickles(place, value)

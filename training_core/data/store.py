"""Versioned data sets on disk: published once, named by their content, never changed.

    <root>/<name>/latest                 the newest version
    <root>/<name>/<version>/manifest.json   schema, sizes, digests, lineage
                            table.parquet   ids, split, groups, times, target, availability, table and text columns
                            arrays.zarr/    one array per image, vector or sequence modality

Columns of the table are called `__id__`, `__split__`, `__group__`, `__time__`, `__target__.<name>`,
`__available__.<modality>` and `<modality>.<column>`. A version is the first 12 hexadecimal digits of a SHA-256 of the
logical content (schema, split, values), so the same data give the same version wherever and however it is written.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from training_core.artifacts import (
    is_published,
    open_published,
    publish_directory,
    sweep_unfinished,
    verify_published,
    write_text_atomically,
)
from training_core.config import canonical_json
from training_core.data.dataset import FORMAT_VERSION, Dataset
from training_core.data.source import is_dataset_name
from training_core.errors import ConfigError, DataError, StorageError
from training_core.schema import DataSpec

_CHUNK_BYTES = 1 << 20
_VERSION_DIGITS = 12


@dataclass(frozen=True)
class Contents:
    """A data set in memory, ready to be published; N samples, every array in the same order.

    `columns` per table modality (tabular, text) and column: float64 [N] (absent NaN) or str objects [N] (absent
    None). `arrays` per array modality: [N, …]. `target`: as in `Samples`.
    """

    spec: DataSpec
    target_names: tuple[str, ...]
    ids: np.ndarray
    split: np.ndarray
    target: np.ndarray
    available: Mapping[str, np.ndarray]
    columns: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: np.ndarray | None = None
    times: np.ndarray | None = None


class DatasetStore:
    """The data sets below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> tuple[str, ...]:
        """Data sets that have a version, sorted."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return tuple(sorted(f.name for f in folders if is_dataset_name(f.name) and self.versions(f.name)))

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of a data set, oldest first; none when it is unknown."""
        folder = self.root / name
        if not is_dataset_name(name) or not folder.is_dir():
            return ()
        published = [f for f in folder.iterdir() if not f.name.startswith(".") and is_published(f)]
        return tuple(f.name for f in sorted(published, key=lambda f: (_created(f), f.name)))

    def open(self, ref: str) -> Dataset:
        """The data set `name`, `name@latest` or `name@<first digits of a version>`.

        Raises:
            DataError: there is no such data set or version, or the digits fit several; what there is, is listed.
            StorageError: the version is incomplete or was written by another release.
        """
        name, _, wanted = ref.partition("@")
        versions = self.versions(name)
        if not versions:
            have = ", ".join(self.names()) or "none yet"
            raise DataError(f"no dataset '{name}' in {self.root} (there: {have}); prepare it first")
        if wanted in {"", "latest"}:
            version = self._latest(name, versions)
        else:
            fitting = [v for v in versions if v.startswith(wanted)]
            if len(fitting) != 1:
                problem = "fits several" if fitting else "fits none"
                raise DataError(f"{ref}: '{wanted}' {problem} of the versions {', '.join(fitting or versions)}")
            version = fitting[0]
        return Dataset(self.root / name / version)

    def publish(self, name: str, contents: Contents, lineage: Mapping[str, Any] | None = None) -> Dataset:
        """Write `contents` as a version of `name`, in one step, and make it the latest.

        Content that is there already is not written again; its first lineage is kept.

        Args:
            name: of the data set.
            contents: what to write.
            lineage: where it came from, as JSON-able values; recorded, not part of the version.

        Raises:
            ConfigError: `name` cannot be a data set's name.
            StorageError: the disk is full or cannot be written; nothing was published.
        """
        if not is_dataset_name(name):
            raise ConfigError(f"'{name}' cannot name a dataset; use letters, digits, '.', '_' and '-'")
        digests = _digests(contents)
        described = {"format": FORMAT_VERSION, "spec": contents.spec.model_dump(mode="json"), "values": digests}
        fingerprint = hashlib.sha256(canonical_json(described).encode()).hexdigest()
        version = fingerprint[:_VERSION_DIGITS]
        folder = self.root / name / version
        sweep_unfinished(folder.parent)
        if not is_published(folder):
            manifest = _manifest(name, version, fingerprint, contents, digests, lineage or {})
            with publish_directory(folder) as unfinished:
                _write_table(unfinished / "table.parquet", contents)
                _write_arrays(unfinished / "arrays.zarr", contents.arrays)
                (unfinished / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
        write_text_atomically(folder.parent / "latest", version + "\n")
        return Dataset(folder)

    def verify(self, dataset: Dataset) -> None:
        """Read every file of `dataset` and compare it with its checksum.

        Raises:
            StorageError: a file is missing, changed, or was added.
        """
        verify_published(open_published(dataset.path))

    def _latest(self, name: str, versions: tuple[str, ...]) -> str:
        """What `latest` says; the newest version when a crash came before it was written."""
        try:
            version = (self.root / name / "latest").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            version = ""
        return version if version in versions else versions[-1]


def _created(folder: Path) -> str:
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("created", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _manifest(
    name: str,
    version: str,
    fingerprint: str,
    contents: Contents,
    digests: Mapping[str, str],
    lineage: Mapping[str, Any],
) -> dict[str, Any]:
    """What `manifest.json` says."""
    spec = contents.spec
    parts, sizes = np.unique(contents.split.astype(str), return_counts=True)
    manifest = {
        "format": FORMAT_VERSION,
        "name": name,
        "version": version,
        "fingerprint": fingerprint,
        "created": datetime.now(UTC).isoformat(),
        "num_rows": len(contents.ids),
        "splits": {str(part): int(size) for part, size in zip(parts, sizes, strict=True)},
        "available": {n: int(mask.sum()) for n, mask in contents.available.items()},
        "has_groups": contents.groups is not None,
        "has_times": contents.times is not None,
        "spec": spec.model_dump(mode="json"),
        "target_names": list(contents.target_names),
        "digests": dict(digests),
        "lineage": dict(lineage),
    }
    if spec.task.kind == "classification":
        counts = np.bincount(contents.target, minlength=len(spec.task.classes))
        manifest["class_counts"] = {c: int(n) for c, n in zip(spec.task.classes, counts, strict=True)}
    return manifest


def _table_columns(contents: Contents) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every column of the table."""
    yield "__id__", contents.ids
    yield "__split__", contents.split
    if contents.groups is not None:
        yield "__group__", contents.groups
    if contents.times is not None:
        yield "__time__", contents.times
    if contents.spec.task.kind == "classification":
        yield f"__target__.{contents.target_names[0]}", np.asarray(contents.spec.task.classes, object)[contents.target]
    else:
        for i, name in enumerate(contents.target_names):
            yield f"__target__.{name}", contents.target[:, i]
    for name, mask in contents.available.items():
        yield f"__available__.{name}", mask
    for name, columns in contents.columns.items():
        for column, values in columns.items():
            yield f"{name}.{column}", values


def _digests(contents: Contents) -> dict[str, str]:
    """SHA-256 of every column and array."""
    found = {name: _digest(values) for name, values in _table_columns(contents)}
    return found | {f"{name}[]": _digest(values) for name, values in contents.arrays.items()}


def _digest(values: np.ndarray) -> str:
    """SHA-256 of values, type and shape; all NaN are equal, and so are 0 and -0."""
    digest = hashlib.sha256()
    if values.dtype == object:
        digest.update(canonical_json(values.tolist()).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
    digest.update(f"{values.dtype.newbyteorder('<').str}{values.shape}".encode())
    rows = _rows_per_chunk(values) * 16
    for start in range(0, len(values), rows):
        block = np.ascontiguousarray(values[start : start + rows])
        if block.dtype.kind == "f":
            block = np.where(np.isnan(block), np.asarray(np.nan, block.dtype), block + 0)
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _write_table(path: Path, contents: Contents) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        name: pa.array(values.tolist(), pa.string()) if values.dtype == object else pa.array(values)
        for name, values in _table_columns(contents)
    }
    with _disk_errors():
        pq.write_table(pa.table(columns), path, compression="zstd")


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import zarr

    with _disk_errors():
        group = zarr.open_group(path, mode="w")
        for name, values in arrays.items():
            rows = min(_rows_per_chunk(values), len(values))
            array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(rows, *values.shape[1:]))
            # Chunk by chunk: after a failure no other thread is left writing into the directory that is being removed.
            for start in range(0, len(values), rows):
                array[start : start + rows] = values[start : start + rows]


def _rows_per_chunk(values: np.ndarray) -> int:
    """Rows that make about one megabyte."""
    return max(1, _CHUNK_BYTES // max(1, values.nbytes // max(1, len(values))))


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Arrow and Zarr errors that stand for a failed write become the plain OSError beneath them, or StorageError."""
    import pyarrow as pa

    try:
        yield
    except OSError:
        raise
    except (pa.ArrowException, RuntimeError) as error:
        raise StorageError(f"the dataset could not be written: {' '.join(str(error).split())}") from error

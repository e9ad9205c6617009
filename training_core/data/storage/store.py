"""Versioned data sets on disk: published once, named by their content, never changed.

    <root>/<name>/latest                    the newest version
    <root>/<name>/<version>/manifest.json   its parts in order, schema, sizes, lineage
                            split.npy       per row the code of its split
                            quality.json …  files that came with it
    <root>/<name>/parts/<digest>/           rows, see `parts`; several versions may list the same part
    <root>/<name>/.lock                     held by the one process that publishes or collects

A version is the first 12 hexadecimal digits of a SHA-256 of the logical content (schema, split, digests of the parts),
so the same data give the same version wherever and however they are written. Parts become visible before the version
that lists them, the version before `latest` names it: whenever a writer is killed, what can be seen is whole. Readers
never wait; the version that somebody has open is not removed.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from training_core.artifacts import (
    exclusive,
    finish_directory,
    is_published,
    open_published,
    publish_directory,
    remove_directory,
    sweep_unfinished,
    unfinished_directory,
    verify_published,
    write_text_atomically,
)
from training_core.config import canonical_json
from training_core.data.source import is_dataset_name
from training_core.data.storage import collection
from training_core.data.storage.collection import Collected
from training_core.data.storage.dataset import FORMAT_VERSION, SPLIT_CODES, Dataset
from training_core.data.storage.part_reading import Part
from training_core.data.storage.parts import Compression, PartWriter, part_folder
from training_core.data.storage.row_counts import count_rows
from training_core.errors import ConfigError, DataError, StorageError, TransientError
from training_core.schema import DataSpec

_VERSION_DIGITS = 12
_OPEN_TRIES = 20  # a version may be collected between being listed and being opened
_RESERVED = {"manifest.json", "split.npy", "checksums.json"}


class StaleBaseError(TransientError):
    """The version that was to be extended is no longer the latest: describe the rows anew, against the latest."""


@dataclass(frozen=True)
class Described:
    """What a version says about its rows."""

    spec: DataSpec
    target_names: tuple[str, ...]
    split: np.ndarray
    """[N] "train", "validation", "test" or "quarantined" (str objects), those of the base's rows first."""
    lineage: Mapping[str, Any]
    """Where it came from, as JSON-able values: `action`, `source`, `files`; recorded, not part of the version."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """More files of the version's folder; not part of the version."""


class DatasetStore:
    """The data sets below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> tuple[str, ...]:
        """Data sets that have a version, sorted."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return tuple(sorted(f.name for f in folders if is_dataset_name(f.name) and self.versions(f.name)))

    def homes(self) -> tuple[str, ...]:
        """Data sets that have a folder, sorted: those that have a version, and what killed writers left of others."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return tuple(sorted(f.name for f in folders if is_dataset_name(f.name) and f.is_dir()))

    def versions(self, name: str) -> tuple[str, ...]:
        """Versions of a data set, oldest first; none when it is unknown."""
        folder = self.root / name
        if not is_dataset_name(name) or not folder.is_dir():
            return ()
        for _ in range(_OPEN_TRIES):
            listed = [f for f in folder.iterdir() if is_version(f.name)]
            published = [f for f in listed if is_published(f)]
            if published or not listed:  # else those listed were collected meanwhile, and newer ones are there
                return tuple(f.name for f in sorted(published, key=lambda f: (_created(f), f.name)))
        return ()

    def open(self, ref: str) -> Dataset:
        """The data set `name`, `name@latest` or `name@<first digits of a version>`.

        Raises:
            DataError: there is no such data set or version, or the digits fit several; what there is, is listed.
            StorageError: the version is incomplete or was written by another release.
        """
        for left in reversed(range(_OPEN_TRIES)):
            folder = self._find(ref)
            try:
                return Dataset(folder)
            except StorageError:
                if not left or folder.exists():
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def new_part(self, name: str, compression: Compression = "none") -> Iterator[PartWriter]:
        """A part of `name` to fill and, before the block is left, to publish; else nothing of it stays.

        Raises:
            ConfigError: `name` cannot be a data set's name.
            StorageError: the disk is full or cannot be written.
        """
        if not is_dataset_name(name):
            raise ConfigError(f"'{name}' cannot name a dataset; use letters, digits, '.', '_' and '-'")
        parts = self.root / name / "parts"
        sweep_unfinished(parts)
        with unfinished_directory(parts, "part") as folder:
            writer = PartWriter(folder, compression)
            try:
                yield writer
            finally:
                writer.close()

    def publish(
        self,
        name: str,
        part: PartWriter | None,
        described: Described,
        *,
        base: Dataset | None = None,
        make_latest: bool = True,
    ) -> Dataset:
        """Make a version of the rows of `base` and of `part`, in one step, and make it the latest.

        A part or version that is there already is not written again; the version's first lineage is kept. When the
        base has the part already, it is what is returned, unchanged.

        Args:
            name: of the data set.
            part: new rows, in the block of its `new_part`; None for the base's rows with another split or schema.
            described: the version.
            base: the version that is extended; None for a data set of the new rows only.
            make_latest: False for a version on the side, such as the base's rows split otherwise for one training: it
                is opened by its own name, and later rows are appended to what was the latest before.

        Raises:
            ConfigError: `name` cannot be a data set's name.
            DataError: `described` does not fit the rows, or the new rows do not fit those of the base.
            StaleBaseError: `base` is not the latest version any more. `part` can be published again.
            StorageError: the disk is full or cannot be written; nothing was published.
        """
        if not is_dataset_name(name):
            raise ConfigError(f"'{name}' cannot name a dataset; use letters, digits, '.', '_' and '-'")
        listed = list(base.manifest["parts"]) if base is not None else []
        parts = list(base.parts) if base is not None else []
        if part is not None:
            part.finish()
            if any(entry["digest"] == part.digest for entry in listed) or (base is not None and not part.num_rows):
                assert base is not None
                return base
            listed.append({"digest": part.digest, "num_rows": part.num_rows})
            parts.append(Part.unpublished(part.folder, part.described))
        split = _split_codes(described.split, sum(entry["num_rows"] for entry in listed))
        content = {
            "format": FORMAT_VERSION,
            "spec": described.spec.model_dump(mode="json"),
            "target_names": list(described.target_names),
            "parts": [entry["digest"] for entry in listed],
            "split": hashlib.sha256(split.tobytes()).hexdigest(),
        }
        fingerprint = hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()
        manifest = {
            **{key: content[key] for key in ("format", "spec", "target_names")},
            "name": name,
            "version": fingerprint[:_VERSION_DIGITS],
            "fingerprint": fingerprint,
            "num_rows": len(split),
            "parts": listed,
            **count_rows(parts, described.spec, described.target_names, split, SPLIT_CODES),
            "lineage": {"parent": base.version if base is not None else None, **described.lineage},
        }
        files = {file: described.files[file] for file in described.files}
        if odd := [file for file in files if file in _RESERVED or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", file)]:
            raise ConfigError(f"'{odd[0]}' cannot name a file of a version")
        return self._publish(name, part, manifest, split, files, base, make_latest)

    def verify(self, dataset: Dataset) -> None:
        """Read every file of `dataset`, those of its parts too, and compare it with its checksum.

        Raises:
            StorageError: a file is missing, changed, or was added.
        """
        for folder in (dataset.path, *(part.path for part in dataset.parts)):
            verify_published(open_published(folder))

    def gc(self, name: str, keep: int | None = None, dry_run: bool = False) -> Collected:
        """Remove what nobody needs: parts that no version lists, what killed writers left, and old versions.

        Args:
            name: of the data set.
            keep: how many versions to keep, the newest; the latest always stays. None: all.
            dry_run: only say what would go.

        Returns:
            What was removed. Versions that somebody has open are spared.

        Raises:
            ConfigError: `keep` is less than 1.
            DataError: there is no such data set.
            StorageError: a version does not read back, so that nobody knows which parts it needs.
        """
        if keep is not None and keep < 1:
            raise ConfigError(f"keep is {keep}; at least the latest version is kept, 1")
        if not is_dataset_name(name) or not (self.root / name).is_dir():
            raise DataError(f"no dataset '{name}' in {self.root} (there: {', '.join(self.names()) or 'none yet'})")
        with exclusive(self.root / name / ".lock"):
            versions = self.versions(name)
            latest = self._latest(name, versions) if versions else ""
            old = () if keep is None else tuple(v for v in versions[: max(0, len(versions) - keep)] if v != latest)
            return collection.collect(self.root / name, versions, old, dry_run=dry_run)

    def _find(self, ref: str) -> Path:
        """The folder of the version that `ref` means."""
        name, _, wanted = ref.partition("@")
        versions = self.versions(name)
        if not versions:
            have = ", ".join(self.names()) or "none yet"
            raise DataError(f"no dataset '{name}' in {self.root} (there: {have}); prepare it first")
        if wanted in {"", "latest"}:
            return self.root / name / self._latest(name, versions)
        fitting = [v for v in versions if v.startswith(wanted)]
        if len(fitting) != 1:
            problem = "fits several" if fitting else "fits none"
            raise DataError(f"{ref}: '{wanted}' {problem} of the versions {', '.join(fitting or versions)}")
        return self.root / name / fitting[0]

    def _publish(
        self,
        name: str,
        part: PartWriter | None,
        manifest: dict[str, Any],
        split: np.ndarray,
        files: Mapping[str, str | bytes],
        base: Dataset | None,
        make_latest: bool,
    ) -> Dataset:
        home = self.root / name
        final = None if part is None else part_folder(home / "parts", part.digest)
        is_damaged = final is not None and _is_damaged(final)
        with exclusive(home / ".lock"):
            sweep_unfinished(home)
            sweep_unfinished(home / "parts")
            versions = self.versions(name)
            latest = self._latest(name, versions) if versions else "none"
            if make_latest and base is not None and latest != base.version:
                raise StaleBaseError(
                    f"{base.ref} was to be extended, but the latest version is now {latest}; try again"
                )
            is_new = False
            if part is not None and final is not None and part.folder != final:
                if is_damaged and _is_damaged(final):
                    remove_directory(final)
                is_new = finish_directory(part.folder, final, part.checksums)
                part.folder = final
            folder = home / manifest["version"]
            try:
                if _is_damaged(folder):
                    remove_directory(folder)
                if not is_published(folder):
                    manifest["created"] = _after(home / versions[-1] if versions else None)
                    _write_version(folder, manifest, split, files)
            except BaseException:
                if final is not None and is_new:  # no version lists it
                    remove_directory(final)
                raise
            if make_latest:
                write_text_atomically(home / "latest", manifest["version"] + "\n")
            return Dataset(folder)

    def _latest(self, name: str, versions: tuple[str, ...]) -> str:
        """What `latest` says; the newest version when a crash came before it was written."""
        try:
            version = (self.root / name / "latest").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            version = ""
        return version if version in versions else versions[-1]


def is_version(name: str) -> bool:
    """Whether a folder's name is that of a version."""
    return re.fullmatch(rf"[0-9a-f]{{{_VERSION_DIGITS}}}", name) is not None


def _write_version(
    folder: Path, manifest: Mapping[str, Any], split: np.ndarray, files: Mapping[str, str | bytes]
) -> None:
    with publish_directory(folder) as unfinished:
        np.save(unfinished / "split.npy", split, allow_pickle=False)
        for file, text in files.items():
            (unfinished / file).write_bytes(text.encode() if isinstance(text, str) else text)
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (unfinished / "manifest.json").write_text(text, encoding="utf-8")


def _created(folder: Path) -> str:
    try:
        return str(json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("created", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _after(newest: Path | None) -> str:
    """Now; later than the newest version also when the clock was set back."""
    now = datetime.now(UTC)
    if newest is not None:
        with suppress(ValueError, TypeError):
            now = max(now, datetime.fromisoformat(_created(newest)) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds")


def _is_damaged(folder: Path) -> bool:
    """Whether a published directory is there and does not hold what was published."""
    if not folder.exists():
        return False
    try:
        verify_published(open_published(folder))
    except (StorageError, OSError, ValueError):
        return True
    return False


def _split_codes(split: np.ndarray, num_rows: int) -> np.ndarray:
    """The split as codes, uint8 [N].

    Raises:
        DataError: it is of another length, or holds something else than splits.
    """
    if len(split) != num_rows:
        raise DataError(f"the split has {len(split)} rows, the data set {num_rows}")
    codes = np.full(num_rows, 255, np.uint8)
    for code, name in enumerate(SPLIT_CODES):
        codes[split == name] = code
    if (odd := codes == 255).any():
        raise DataError(f"row {np.flatnonzero(odd)[0]} is in split {split[odd][0]!r}; use {', '.join(SPLIT_CODES)}")
    return codes

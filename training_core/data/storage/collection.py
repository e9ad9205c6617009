"""What nobody needs any more in a data set's folder is removed: old versions, parts no version lists, leftovers."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from training_core.artifacts import find_unfinished, remove_directory, sweep_unfinished, unshared
from training_core.config import Config
from training_core.data.storage.parts import part_folder
from training_core.errors import StorageError


class Collected(Config):
    """What was removed from a data set's folder, or would be."""

    versions: tuple[str, ...] = ()
    """Removed, oldest first."""
    parts: tuple[str, ...] = ()
    """First digits of the digests of the parts that no version listed."""
    leftovers: int = 0
    """Files and folders of writers that were killed."""
    num_bytes: int = 0
    """Freed on the disk."""
    spared: tuple[str, ...] = ()
    """Versions that were to go and are in use."""


def collect(home: Path, versions: Sequence[str], old: Sequence[str], *, dry_run: bool) -> Collected:
    """Remove the versions `old`, parts that no other version lists, and leftovers; the caller holds the lock.

    Args:
        home: the data set's folder.
        versions: all that are published.
        old: those of them that are to go.
        dry_run: only say what would go.

    Raises:
        StorageError: a version that stays does not read back, so that nobody knows which parts it needs.
    """
    listed = {version: _listed_parts(home / version) for version in versions if version not in old}
    removed, spared, num_bytes = [], [], 0
    for version in old:
        with unshared(home / version / "manifest.json") as is_free:
            if is_free:
                num_bytes += stored_bytes(home / version)
                removed.append(version)
                if not dry_run:
                    remove_directory(home / version)
            else:
                spared.append(version)
                listed[version] = _listed_parts(home / version)
    needed = set().union(*listed.values()) if listed else set()
    folders = (home / "parts").iterdir() if (home / "parts").is_dir() else ()
    orphans = sorted(f for f in folders if not f.name.startswith(".") and f.name not in needed)
    leftovers = find_unfinished(home) + find_unfinished(home / "parts")
    num_bytes += sum(stored_bytes(path) for path in (*orphans, *leftovers))
    if not dry_run:
        for orphan in orphans:
            remove_directory(orphan)
        sweep_unfinished(home)
        sweep_unfinished(home / "parts")
    return Collected(
        versions=tuple(removed),
        parts=tuple(orphan.name for orphan in orphans),
        leftovers=len(leftovers),
        num_bytes=num_bytes,
        spared=tuple(spared),
    )


def _listed_parts(version: Path) -> set[str]:
    """Folder names of the parts a version lists; versions of other releases have none."""
    try:
        manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
        return {part_folder(version.parent / "parts", part["digest"]).name for part in manifest.get("parts", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StorageError) as error:
        raise StorageError(
            f"{version} does not read back ({' '.join(str(error).split())}), so the parts it needs are unknown and "
            "nothing was removed; remove that folder first"
        ) from error


def stored_bytes(path: Path) -> int:
    """Bytes of the files in a folder, or of a file; what goes away meanwhile counts nothing."""
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total

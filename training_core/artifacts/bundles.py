"""Several directories that belong together, published as one: either all of them will be seen, or none.

A bundle is a published directory with a folder for each of them, under the name each will have. It is unpacked one
directory at a time; whoever is killed on the way leaves a bundle from which the rest can still be had.
"""

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from training_core.artifacts.checksums import file_sha256
from training_core.artifacts.directories import (
    CHECKSUMS,
    finish_directory,
    is_published,
    remove_directory,
    unfinished_directory,
)

_log = logging.getLogger(__name__)


def unpack(bundles: Path, final: Path) -> bool:
    """Publish `final` out of one of the bundles in the folder `bundles`, with the checksums it has there.

    A part that is not what was packed is removed from its bundle, with a warning, and is not published; the other parts
    are as good as they were. The caller holds a lock on `final`: nobody else unpacks or packs it now.

    Returns:
        Whether one of them has it.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing was published.
    """
    return any(is_published(part.parent) and _unpack(part, final) for part in bundles.glob(f"[!.]*/{final.name}"))


def _unpack(part: Path, final: Path) -> bool:
    """Publish a part of a bundle; False, and the part is gone, when it is damaged."""
    with unfinished_directory(final.parent, final.name) as folder:
        packed, copied = _packed_checksums(part), dict[str, str]()
        for file in part.rglob("*"):
            if file.is_file():
                copy = folder / file.relative_to(part)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                copied[file.relative_to(part).as_posix()] = file_sha256(copy)
        if copied and copied == packed:
            finish_directory(folder, final, packed)
            return True
    _log.warning("%s in %s is damaged, so it is made again", part.name, part.parent)
    with suppress(OSError):  # it is refused again, then
        remove_directory(part)
    return False


def _packed_checksums(part: Path) -> dict[str, str]:
    """SHA-256 of the files of a part as its bundle was published; empty when nobody can say."""
    try:
        listed = json.loads((part.parent / CHECKSUMS).read_text(encoding="utf-8"))
        within = f"{part.name}/"
        return {name.removeprefix(within): listed[name] for name in listed if name.startswith(within)}
    except (ValueError, TypeError, AttributeError):
        return {}


def drop_unpacked(bundles: Path, finals: Path) -> int:
    """Remove the bundles of which every directory is published in the folder `finals`; returns how many went."""
    dropped = 0
    for bundle in bundles.glob("[!.]*"):
        with suppress(FileNotFoundError):  # another process had the same thought
            parts = [part.name for part in bundle.iterdir() if part.is_dir() and not part.name.startswith(".")]
            if is_published(bundle) and all(is_published(finals / name) for name in parts):
                remove_directory(bundle)
                dropped += 1
    return dropped

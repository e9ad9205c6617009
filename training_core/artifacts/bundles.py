"""Several directories that belong together, published as one: either all of them will be seen, or none.

A bundle is a published directory with a folder for each of them, under the name each will have. It is unpacked one
directory at a time; whoever is killed on the way leaves a bundle from which the rest can still be had.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from training_core.artifacts.directories import is_published, publish_directory, remove_directory


def unpack(bundles: Path, final: Path) -> bool:
    """Publish `final` out of one of the bundles in the folder `bundles`.

    Returns:
        Whether one of them has it.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing was published.
    """
    packed = next((folder for folder in bundles.glob(f"[!.]*/{final.name}") if is_published(folder.parent)), None)
    if packed is None:
        return False
    with publish_directory(final) as folder:
        shutil.copytree(packed, folder, dirs_exist_ok=True)
    return True


def drop_unpacked(bundles: Path, finals: Path) -> int:
    """Remove the bundles of which every directory is published in the folder `finals`; returns how many went."""
    dropped = 0
    for bundle in bundles.glob("[!.]*"):
        with suppress(FileNotFoundError):  # another process had the same thought
            parts = [part.name for part in bundle.iterdir() if part.is_dir()]
            if is_published(bundle) and all(is_published(finals / name) for name in parts):
                remove_directory(bundle)
                dropped += 1
    return dropped

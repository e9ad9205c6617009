"""Things in a store that may go: files, folders and locks, with what they take and how they are removed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training_core.artifacts import drop_lock, exclusive, is_published, remove_directory
from training_core.errors import TransientError


@dataclass(frozen=True)
class Thing:
    """Something that may go."""

    name: str
    num_bytes: int
    remove: Callable[[], object]
    """Raises a FileNotFoundError when it is not there or is needed after all, and other OSErrors when it fails."""


def path_thing(path: Path) -> Thing:
    """A file, or a folder, which goes from sight in one step."""
    return Thing(path.name, size_of(path), lambda: remove_directory(path) if path.is_dir() else path.unlink())


def leftover_thing(path: Path) -> Thing:
    """What a killed writer left: nobody looks at it, so it goes piece by piece."""
    is_folder = path.is_dir() and not path.is_symlink()
    return Thing(path.name, size_of(path), lambda: shutil.rmtree(path) if is_folder else path.unlink())


def lock_thing(path: Path) -> Thing:
    """A lock file that goes when nobody holds it."""

    def remove() -> None:
        if not drop_lock(path):
            raise FileNotFoundError(f"{path} is held")

    return Thing(path.name, 0, remove)


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock."""
    if not lock.exists():
        return True
    try:
        with exclusive(lock, wait=False):
            return True
    except TransientError:
        return False


def last_change(path: Path) -> float:
    """When a file, a folder, or anything in a folder was last changed, in seconds since the epoch.

    What is in a published directory never changes; its own time says when it was last used.

    Raises:
        FileNotFoundError: it is gone.
    """
    latest = path.lstat().st_mtime
    if path.is_dir() and not path.is_symlink() and not is_published(path):
        latest = max([latest, *(inner.lstat().st_mtime for inner in path.rglob("*"))])
    return latest


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed, and 0 where there is nothing."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_symlink() or not inner.is_dir())
    except FileNotFoundError:  # somebody else removes it right now
        return 0

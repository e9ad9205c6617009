"""Atomic, checksummed publishing of directories: a reader sees a whole version or none, whatever is killed when.

A directory is filled beside its final place under a temporary name, every file is flushed to the disk, a
`checksums.json` with the SHA-256 of each file is written last, and one rename makes it visible.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training_core.config import Config, canonical_json
from training_core.errors import StorageError, TransientError

CHECKSUMS = "checksums.json"
_UNFINISHED = ".unfinished-"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ArtifactRef(Config):
    """Where a published directory is and what it must contain: small enough to pass between tasks."""

    uri: str
    """Absolute path of the directory."""
    sha256: str
    """SHA-256 of its `checksums.json`, which pins every file in it."""

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.uri)


@contextmanager
def publish_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; on leaving the block it becomes `final` in one step.

    When `final` is already there (another process was faster) the new copy is dropped: published directories are
    named by their content or their inputs, so both are the same. On an exception nothing is left behind.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing was published.
    """
    unfinished = final.parent / f"{_UNFINISHED}{final.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        _write_checksums(unfinished)
        if final.exists() and not is_published(final):  # damaged from outside: out of the way, to be swept
            final.rename(unfinished.with_name(f"{_UNFINISHED}damaged-0-{uuid.uuid4().hex[:8]}"))
        try:
            unfinished.rename(final)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
        _sync_directory(final.parent)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageError(f"no space left to write {final}; free some space or choose another --store") from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
            raise StorageError(f"cannot write {final}: {error.strerror}; choose another --store") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_published(directory: Path) -> bool:
    """Whether `directory` was published whole."""
    return (directory / CHECKSUMS).is_file()


def open_published(directory: Path) -> ArtifactRef:
    """A reference to a published directory.

    Raises:
        StorageError: it is not there, or was never published.
    """
    if not is_published(directory):
        raise StorageError(f"{directory} is not there or incomplete; make it again")
    return ArtifactRef(uri=str(directory.resolve()), sha256=_file_sha256(directory / CHECKSUMS))


def verify_published(ref: ArtifactRef) -> None:
    """Read every file of `ref` and compare it with its checksum.

    Raises:
        StorageError: a file is missing, changed, or was added; the message names it.
    """
    if not is_published(ref.path) or _file_sha256(ref.path / CHECKSUMS) != ref.sha256:
        raise StorageError(f"{ref.uri} is not the directory that was published; make it again")
    expected: dict[str, str] = json.loads((ref.path / CHECKSUMS).read_text())
    found = _checksums(ref.path)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = "missing" if name not in found else "unexpected" if name not in expected else "changed"
            raise StorageError(f"{ref.uri}: file '{name}' is {state} since it was published; make the directory again")


def sweep_unfinished(parent: Path) -> int:
    """Remove what killed writers left behind in `parent`; returns how many directories went.

    A directory whose writer still runs on this machine is kept.
    """
    swept = 0
    for leftover in parent.glob(f"{_UNFINISHED}*"):
        pid = int(leftover.name.rsplit("-", 2)[1])
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(leftover, ignore_errors=True)
            swept += 1
    return swept


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never half of either.

    Raises:
        StorageError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageError(f"no space left to write {path}; free some space") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(lock: Path, wait: bool = True) -> Iterator[None]:
    """Hold the advisory lock file `lock`; the kernel frees it when the holder ends, however it ends.

    Raises:
        TransientError: `wait` is False and another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise TransientError(f"{lock} is held by another process") from None
        yield


def _write_checksums(directory: Path) -> None:
    for file in _files(directory):
        _sync_file(file)
    path = directory / CHECKSUMS
    path.write_text(canonical_json(_checksums(directory)))
    _sync_file(path)
    for folder in [p for p in directory.rglob("*") if p.is_dir()] + [directory]:
        _sync_directory(folder)


def _checksums(directory: Path) -> dict[str, str]:
    return {file.relative_to(directory).as_posix(): _file_sha256(file) for file in _files(directory)}


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / CHECKSUMS)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

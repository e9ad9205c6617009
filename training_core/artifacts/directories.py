"""Atomic, checksummed publishing of directories: a reader sees a whole version or none, whatever is killed when.

A directory is filled beside its final place under a temporary name, every file is flushed to the disk, a
`checksums.json` with the SHA-256 of each file (the CRC-32 of those that are large and short-lived) is written last, and
one rename makes it visible. The temporary name says which process writes, and the writer holds a lock on the directory:
what a killed writer left is known by both.
"""

import errno
import fcntl
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from training_core.artifacts.checksums import CRC32, crc32_text, file_sha256
from training_core.artifacts.shared_locks import unshared
from training_core.config import Config, canonical_json
from training_core.errors import StorageError, TransientError

CHECKSUMS = "checksums.json"
_PIECE_BYTES = 1 << 20
_UNFINISHED = ".unfinished-"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


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


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there; a new one is open to its owner alone.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)


@contextmanager
def unfinished_directory(parent: Path, label: str) -> Iterator[Path]:
    """Yield an empty directory in `parent` to fill; what was not renamed when the block is left is removed.

    Args:
        parent: created when it is not there.
        label: a word in the temporary name.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    unfinished = _unfinished(parent, label)
    handle = None
    try:
        with storage_errors(parent / label):
            unfinished.mkdir(parents=True)
            handle = os.open(unfinished, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: the process id has to do
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with storage_errors(parent / label, unfinished):
            yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def finish_directory(unfinished: Path, final: Path, known: Mapping[str, str] | None = None) -> bool:
    """Make the filled directory `unfinished` visible as `final`, flushed to the disk and with its checksums.

    When `final` is already there (another process was faster) the new copy is dropped: published directories are
    named by their content or their inputs, so both are the same. One that lacks files is replaced.

    Args:
        unfinished: a directory of `unfinished_directory`, beside `final`.
        final: its name from now on.
        known: checksums of files that need not be read again, by their path within the directory: their SHA-256, or
            their CRC-32 as `crc32_text` writes it.

    Returns:
        Whether this call made it visible.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing was published.
    """
    with storage_errors(final):
        if is_whole(final):
            shutil.rmtree(unfinished, ignore_errors=True)
            return False
        _write_checksums(unfinished, known or {})
        while True:
            try:
                unfinished.rename(final)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                    raise
                if is_whole(final):  # by another process, while the checksums were written
                    return False
                with suppress(FileNotFoundError):
                    remove_directory(final)  # damaged from outside: out of the way
                continue
            sync_directory(final.parent)
            return True


@contextmanager
def publish_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; on leaving the block it becomes `final` in one step.

    When `final` is already there the new copy is dropped, see `finish_directory`. On an exception nothing is left
    behind.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing was published.
    """
    with unfinished_directory(final.parent, final.name) as unfinished:
        yield unfinished
        finish_directory(unfinished, final)


def remove_directory(directory: Path) -> None:
    """Remove a published directory: in one step from sight, then from the disk.

    Whoever has files of it open can go on reading them.

    Raises:
        OSError: it is not there or cannot be renamed.
    """
    hidden = _unfinished(directory.parent, "removed")
    directory.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def is_published(directory: Path) -> bool:
    """Whether `directory` was published whole."""
    return (directory / CHECKSUMS).is_file()


def is_whole(directory: Path) -> bool:
    """Whether `directory` was published and every file of it is still there; their contents are not read."""
    return is_published(directory) and not missing_files(directory)


def missing_files(directory: Path) -> list[str]:
    """Files of a published directory that are gone (also when its checksums do not read back), sorted.

    Raises:
        OSError: it cannot be read at this moment, which says nothing about it.
    """
    try:
        listed = json.loads((directory / CHECKSUMS).read_text(encoding="utf-8"))
        return sorted(file for file in listed if not (directory / file).is_file())
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return [CHECKSUMS]


def open_published(directory: Path) -> ArtifactRef:
    """A reference to a published directory.

    Raises:
        StorageError: it is not there, or was never published.
    """
    if not is_published(directory):
        raise StorageError(f"{directory} is not there or incomplete; make it again")
    return ArtifactRef(uri=str(directory.resolve()), sha256=file_sha256(directory / CHECKSUMS))


def verify_published(ref: ArtifactRef) -> None:
    """Read every file of `ref` and compare it with its checksum.

    Raises:
        StorageError: a file is missing, changed, or was added; the message names it.
    """
    if not is_published(ref.path) or file_sha256(ref.path / CHECKSUMS) != ref.sha256:
        raise StorageError(f"{ref.uri} is not the directory that was published; make it again")
    expected: dict[str, str] = json.loads((ref.path / CHECKSUMS).read_text())
    found = {name: _checksum_like(expected.get(name, ""), file) for name, file in _files(ref.path).items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = "missing" if name not in found else "unexpected" if name not in expected else "changed"
            raise StorageError(
                f"{ref.uri}: file '{name}' is {state} since it was published, so nothing in the directory is used"
            )


def find_unfinished(parent: Path) -> list[Path]:
    """What killed writers left behind in `parent`; what a writer that still runs is filling is not among it."""
    return sorted(path for path in parent.glob(f"{_UNFINISHED}*") if not _is_alive(path))


def sweep_unfinished(parent: Path) -> int:
    """Remove what killed writers left behind in `parent`; returns how many directories and files went."""
    leftovers = find_unfinished(parent)
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return len(leftovers)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never half of either.

    Raises:
        StorageError: the disk is full or the place cannot be written.
    """
    temporary = _unfinished(path.parent, path.name)
    try:
        with storage_errors(path):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def machine_cache() -> Path:
    """The folder of what this machine has learned and can learn again: `polychoir` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "polychoir"


@contextmanager
def exclusive(lock: Path, wait: bool = True) -> Iterator[None]:
    """Hold the advisory lock file `lock`; the kernel frees it when the holder ends, however it ends.

    Raises:
        TransientError: `wait` is False and another process holds it.
        StorageError: the lock file cannot be written.
    """
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, wait)
    with file:
        yield


def drop_lock(lock: Path) -> bool:
    """Remove a lock file that nobody holds; who waits for it at this moment makes a new one. Whether it went."""
    try:
        with exclusive(lock, wait=False):
            lock.unlink(missing_ok=True)
    except TransientError:
        return False
    return True


def mark_used(directory: Path) -> None:
    """Note that a published directory is used now, for whoever removes what nobody has used for long."""
    with suppress(OSError):  # somebody else's, or on its way out
        os.utime(directory)


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Files by when they were written, those that somebody removes meanwhile left out."""
    found: list[tuple[float, Path]] = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((-path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


@contextmanager
def storage_errors(place: Path, inside: Path | None = None) -> Iterator[None]:
    """A full disk and a place that cannot be written become a StorageError naming `place`; other errors pass.

    With `inside` an error about a file that is not in that directory passes, too: it is not the place's fault.
    """
    try:
        yield
    except OSError as error:
        if inside is not None and not _is_within(error, inside):
            raise
        if error.errno in _DISK_FULL:
            raise StorageError(f"no space left to write {place}; free some space or choose another --store") from error
        if error.errno in _FORBIDDEN:
            raise StorageError(f"cannot write {place}: {error.strerror}; choose another --store") from error
        raise


def _is_within(error: OSError, folder: Path) -> bool:
    """Whether an error may be about a file in `folder`: it names one, or none at all."""
    named = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    paths = [Path(os.path.realpath(os.fsdecode(name))) for name in named]
    return not paths or any(path.is_relative_to(os.path.realpath(folder)) for path in paths)


def _locked(lock: Path, wait: bool) -> IO[str]:
    """The lock file, open and locked."""
    while True:
        file = lock.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    return file
        except BlockingIOError:
            file.close()
            raise TransientError(f"{lock} is held by another process") from None
        except BaseException:
            file.close()
            raise
        file.close()  # it was removed meanwhile: others lock another file by this name


def _unfinished(parent: Path, label: str) -> Path:
    """A name for something in `parent` on its way in or out, telling which process is at it."""
    pid = os.getpid()
    return parent / f"{_UNFINISHED}{label}-{pid}.{_started(pid)}-{uuid.uuid4().hex[:8]}"


def _started(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since the machine did; None when there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _is_alive(leftover: Path) -> bool:
    """Whether the process that made `leftover` still runs: by its id and start, or, for a directory, by its lock."""
    try:
        pid, _, started = leftover.name.rsplit("-", 2)[1].partition(".")
        now = _started(int(pid))
        if now is not None and started in {"", str(now)}:
            return True
        if not leftover.is_dir():
            return False
        with unshared(leftover) as free:
            return not free
    except (IndexError, ValueError):
        return False


def _write_checksums(directory: Path, known: Mapping[str, str]) -> None:
    for file in _files(directory).values():
        _sync_file(file)
    path = directory / CHECKSUMS
    checksums = {name: known.get(name) or file_sha256(file) for name, file in _files(directory).items()}
    path.write_text(canonical_json(checksums), encoding="utf-8")
    _sync_file(path)
    for folder in [p for p in directory.rglob("*") if p.is_dir()] + [directory]:
        sync_directory(folder)


def _files(directory: Path) -> dict[str, Path]:
    """All files but the checksums, by their path within the directory."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / CHECKSUMS)
    return {file.relative_to(directory).as_posix(): file for file in files}


def _checksum_like(listed: object, path: Path) -> str:
    """The checksum of a file, of the kind that is listed."""
    if not str(listed).startswith(CRC32):
        return file_sha256(path)
    crc, buffer = 0, memoryview(bytearray(_PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            crc = zlib.crc32(buffer[:size], crc)
    return crc32_text(crc)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Flush the names in a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

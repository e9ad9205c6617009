"""Where a study is kept: a journal in the store that survives its writers, a database, or a server of Optuna's.

The journal is a file of one JSON object per line, only ever appended to. Optuna's own locks on it are files that a
killed process leaves behind for half a minute; this one is the kernel's, which frees it. What a killed writer left of
a line is cut off by the next one, for it never took effect.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from training_core.artifacts import storage_errors
from training_core.errors import ConfigError, StorageError

JOURNAL = "journal.log"
_GRPC_PORT = 13000
_SERVER_SECONDS = 20
_BLOCK_BYTES = 1 << 16


def open_storage(place: str | None, folder: Path) -> BaseStorage:
    """The storage of a study.

    Args:
        place: a database URL, `grpc://host:port`, or None for a journal in `folder`.
        folder: of the study; made when it is not there.

    Raises:
        ConfigError: `place` is neither, or nobody answers there.
        StorageError: the journal cannot be written or is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if place is None:
        return _open_journal(folder / JOURNAL)
    if "://" not in place:
        raise ConfigError(
            f"`tuning.storage` is '{place}': it must be a database URL, such as postgresql://user@host/name, or "
            "grpc://host:port; leave it out for a file in the store"
        )
    try:
        url = urlsplit(place)
        if url.scheme != "grpc":
            return optuna.storages.RDBStorage(place)
        server = optuna.storages.GrpcStorageProxy(host=url.hostname or "localhost", port=url.port or _GRPC_PORT)
        server.wait_server_ready(timeout=_SERVER_SECONDS)
        return server
    except Exception as error:  # whatever a driver or a server raises, or an import of either
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"`tuning.storage`: {shown_storage(place, folder)} cannot be opened ({why})") from error


def shown_storage(place: str | None, folder: Path) -> str:
    """The storage as a person is told of it."""
    return str(folder / JOURNAL) if place is None else place


def _open_journal(path: Path) -> BaseStorage:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _KernelLock(path)
        lock.acquire()
        try:
            _require_journal(path)
        finally:
            lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is no journal of a study ({type(error).__name__}: {error}); {_MEND}") from error


_MEND = "move it away, or name another study by `tuning.name`"


def _require_journal(path: Path) -> None:
    """Find out here that a line is damaged; what follows it would be read as if nothing were missing.

    Raises:
        StorageError: names the line.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                operation = json.loads(line)
            except ValueError:
                operation = None
            if not isinstance(operation, dict) or "op_code" not in operation:
                raise StorageError(f"{path} is damaged in line {number}; {_MEND}")


class _KernelLock(BaseJournalFileLock):
    """Holds the journal for one writer, and cuts off what a killed one left of a line."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, path.with_suffix(".lock")
        self._held: list[IO[str]] = []

    def acquire(self) -> bool:
        """Wait for the lock."""
        with storage_errors(self._lock):
            file = self._lock.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                _cut_torn_line(self._path)
            except BaseException:
                file.close()
                raise
        self._held.append(file)
        return True

    def release(self) -> None:
        """Let go of it."""
        self._held.pop().close()


def _cut_torn_line(path: Path) -> None:
    """End the file at its last line break."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        while whole > 0:
            start = max(0, whole - _BLOCK_BYTES)
            file.seek(start)
            found = file.read(whole - start).rfind(b"\n")
            if found >= 0:
                whole = start + found + 1
                break
            whole = start
        if whole < end:
            file.truncate(whole)

"""The local SQLite file of a tracker: made whole or not at all, and known to be writable before it is used."""

import fcntl
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from training_core.errors import StorageError

_WAIT_SECONDS = 10.0
"""How long another process may hold the database before it counts as unusable."""


def prepare_database(path: Path, create: Callable[[Path], None]) -> None:
    """Make sure that `path` is a SQLite file that can be written; `create(other path)` makes a new one.

    MLflow itself waits 100 seconds before it reports a file it cannot open, and leaves a half-made schema behind when
    it is killed: a new database is therefore made under another name, by one process of this machine at a time, and
    renamed when it is complete.

    Raises:
        StorageError: the file cannot be created or written, is locked, or is no SQLite database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with path.with_name(f".{path.name}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    _create(path, create)
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA user_version").fetchone()
            connection.rollback()
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"cannot write the tracking database {path}: {error}; mend its permissions or move it away"
        ) from error


def _create(path: Path, create: Callable[[Path], None]) -> None:
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.unlink(missing_ok=True)  # of a killed process: the lock is ours
    try:
        create(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

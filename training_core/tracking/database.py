"""Where MLflow tracks; and local SQLite files: made whole or not at all, writable, made smaller."""

import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from training_core.errors import StorageError

DATABASE = "mlflow.db"
"""The tracking database in a store."""
_WAIT_SECONDS = 10.0
"""How long another process may hold the database before it counts as unusable."""


def tracking_uri(store: Path) -> str:
    """Where a store is tracked with MLflow: `MLFLOW_TRACKING_URI`, else the database in it, which may not be there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.absolute() / DATABASE}"


def is_tracked_elsewhere(store: Path) -> bool:
    """Whether a store is tracked by a server, or in a database that is not its own."""
    place, own = tracking_uri(store), store / DATABASE
    return not place.startswith("sqlite:///") or Path(place.removeprefix("sqlite:///")).resolve() != own.resolve()


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


def spare_bytes(path: Path) -> int:
    """What a SQLite file holds in pages that are free, and what `compact` would give back; 0 where there is no file.

    Raises:
        StorageError: it cannot be read.
    """
    if not path.is_file():
        return 0
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_WAIT_SECONDS)
        ) as connection:
            (free,), (size,) = (
                connection.execute(f"PRAGMA {what}").fetchone() for what in ("freelist_count", "page_size")
            )
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return free * size


def compact(path: Path) -> None:
    """Give the free pages of a SQLite file back to the disk. Others may have it open, but not write meanwhile.

    A process that is killed leaves the file as it was.

    Raises:
        StorageError: somebody writes to it all the time, or there is no room for the copy that SQLite makes.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StorageError(f"{path} was not made smaller: {error}; it is as it was") from error


def _create(path: Path, create: Callable[[Path], None]) -> None:
    unfinished = path.with_name(f".unfinished-{path.name}")
    unfinished.unlink(missing_ok=True)  # of a killed process: the lock is ours
    try:
        create(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

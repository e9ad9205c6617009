"""A store that is up, for `week.py`: rows that come into it, what it keeps for how long, and what all of it takes."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
from running_store import small_rows, write_source

from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.tracking.database import spare_bytes

NEW_ROWS = 120
"""That arrive at a time."""
DATABASES = {"prefect.db": "prefect/prefect.db", "mlflow.db": "mlflow.db"}
TABLES = ("flow_run", "task_run", "log", "artifact", "events", "event_resources")
"""Of Prefect's database: those that grow with every run."""
SERVICES = {"server": "server start --host", "worker": "prefect worker start", "MLflow": "mlflow server"}
"""What `up` starts, and how their commands are known."""


class Data:
    """Two data sets into which rows come: `stream`, which is appended to, and `sales`, whose source is read anew."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.datasets = DatasetStore(store / "datasets")
        self.num_rows = 4 * NEW_ROWS
        self.sales = write_source(folder / "sales", "sales", small_rows(0, self.num_rows))
        first = write_source(folder / "first", "stream", small_rows(0, self.num_rows))
        self.first = prepare_dataset(first, self.datasets).ref

    def arrive(self) -> None:
        """More rows of both; those of `sales` are for the next `prepare` to find."""
        rows = small_rows(self.num_rows, NEW_ROWS)
        append_to_dataset(write_source(self.folder / f"from-{self.num_rows}", "stream", rows), self.datasets)
        self.num_rows += NEW_ROWS
        write_source(self.folder / "sales", "sales", small_rows(0, self.num_rows))


def retention(keep_seconds: float) -> dict[str, str]:
    """Settings that shorten the server's own retention too: 7 days for events, looked at every hour or day."""
    return {
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{round(keep_seconds)}S",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS": "60",
    }


def memory(owner: psutil.Process) -> dict[str, tuple[int, int]]:
    """Process id and resident bytes of each service that `up` runs; what is below the worker are runs, and left out."""
    found: dict[str, tuple[int, int]] = {"up": (owner.pid, owner.memory_info().rss)}
    for child in owner.children():
        with suppress(psutil.Error):
            command = " ".join(child.cmdline())
            for name, begins in SERVICES.items():
                if begins in command:
                    below = [] if name == "worker" else child.children(recursive=True)
                    found[name] = (child.pid, sum(one.memory_info().rss for one in (child, *below)))
    return found


def sizes(store: Path) -> dict[str, int]:
    """Bytes on the disk of each database, its write-ahead log included."""
    found = {}
    for name, place in DATABASES.items():
        files = [store / place, store / f"{place}-wal"]
        found[name] = sum(path.stat().st_size for path in files if path.exists())
    return found


def spare(store: Path) -> dict[str, int]:
    """Bytes of each database that hold nothing."""
    return {name: spare_bytes(store / place) for name, place in DATABASES.items()}


def rows(store: Path) -> dict[str, int]:
    """Rows of the tables of Prefect's database."""
    place = store / DATABASES["prefect.db"]
    with closing(sqlite3.connect(f"file:{quote(str(place))}?mode=ro", uri=True, timeout=30)) as connection:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


def files(store: Path) -> tuple[int, int]:
    """Number and bytes of all files of the store but the databases."""
    databases = {place for name in DATABASES.values() for place in (name, f"{name}-wal", f"{name}-shm")}
    number, num_bytes = 0, 0
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder, name)
            if str(path.relative_to(store)) not in databases:
                with suppress(OSError):  # it goes right now
                    num_bytes += path.lstat().st_size
                    number += 1
    return number, num_bytes

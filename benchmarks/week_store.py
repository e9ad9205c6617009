"""A store that is up, for `week.py`: its data, its `polychoir up`, its REST API, and what all of it takes."""

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import psutil

from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.tracking.database import spare_bytes

ROOT = Path(__file__).parents[1]
NEW_ROWS = 120
"""That arrive at a time."""
STOP_SECONDS = 30
DATABASES = {"prefect.db": "prefect/prefect.db", "mlflow.db": "mlflow.db"}
TABLES = ("flow_run", "task_run", "log", "artifact", "events", "event_resources")
"""Of Prefect's database: those that grow with every run."""
SERVICES = {"server": "prefect server start", "worker": "prefect worker start", "MLflow": "mlflow server"}
"""What `up` starts, and how their commands are known."""


class Data:
    """Two data sets into which rows come: `stream`, which is appended to, and `sales`, whose source is read anew."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.datasets = DatasetStore(store / "datasets")
        self.num_rows = 4 * NEW_ROWS
        self.sales = _write(folder / "sales", "sales", _rows(0, self.num_rows))
        first = _write(folder / "first", "stream", _rows(0, self.num_rows))
        self.first = prepare_dataset(first, self.datasets).ref

    def arrive(self) -> None:
        """More rows of both; those of `sales` are for the next `prepare` to find."""
        rows = _rows(self.num_rows, NEW_ROWS)
        append_to_dataset(_write(self.folder / f"from-{self.num_rows}", "stream", rows), self.datasets)
        self.num_rows += NEW_ROWS
        _write(self.folder / "sales", "sales", _rows(0, self.num_rows))


def _rows(first: int, num_rows: int) -> pd.DataFrame:
    """Rows `first`, `first` + 1, …: two numbers and a category, the answer of which is mostly the sign of their sum."""
    here, there, noise = np.random.default_rng(0).normal(size=(first + num_rows, 3))[first:].T
    return pd.DataFrame(
        {
            "sample": [f"row-{i}" for i in range(first, first + num_rows)],
            "day": np.arange(first, first + num_rows, dtype=float),
            "label": np.where(here + there + 0.3 * noise > 0, "up", "down"),
            "here": here,
            "there": there,
            "shop": np.where(np.arange(first, first + num_rows) % 3 == 0, "north", "south"),
        }
    )


def _write(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """A source of these rows; a reader never finds half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "rows.csv.new", index=False)
    (folder / "rows.csv.new").replace(folder / "rows.csv")
    (folder / "source.yaml").write_text(
        f"name: {name}\n"
        "task: {kind: classification, target: {file: rows.csv, column: label}}\n"
        "id: {file: rows.csv, column: sample}\n"
        "time: {file: rows.csv, column: day}\n"
        "split: {test: 0.25}\n"
        "modalities:\n"
        "  first:  {kind: tabular, file: rows.csv, columns: [here, shop], categorical: [shop]}\n"
        "  second: {kind: tabular, file: rows.csv, columns: [there]}\n"
    )
    return folder / "source.yaml"


class Api:
    """Prefect's REST API with password and CSRF token."""

    def __init__(self, url: str, login: str) -> None:
        self.url = url
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        self._client = str(uuid.uuid4())
        self._token, self._until = "", 0.0
        self.refused = 0
        """Requests that the server asked to be sent again."""

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """What a request is answered with."""
        if time.monotonic() > self._until:
            self._token = self._ask("GET", f"/csrf-token?client={self._client}")["token"]
            self._until = time.monotonic() + 600  # it holds for an hour
        return self._ask(method, path, body)

    def all_runs(self, chosen: dict[str, Any]) -> list[dict[str, Any]]:
        """Every flow run that a filter chooses."""
        found: list[dict[str, Any]] = []
        while True:
            page = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": 200, "offset": len(found)}
            found += (more := self("POST", "/flow_runs/filter", page))
            if len(more) < 200:
                return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {
            "Content-Type": "application/json",
            "Authorization": self._login,
            "Prefect-Csrf-Client": self._client,
            "Prefect-Csrf-Token": self._token,
        }
        data = None if body is None else json.dumps(body).encode()
        for pause in (1, 2, 4, 8, 16, 0):
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or not pause:
                    raise
                self.refused += 1  # its database is locked: nothing was done, as Prefect's own client takes it
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


@contextmanager
def store_up(store: Path, runs_at_a_time: int, keep_seconds: float) -> Iterator[tuple[Api, psutil.Process]]:
    """`polychoir up` on a store, with the server's own retentions shortened as well; stopped by SIGTERM at the end.

    Raises:
        RuntimeError: it did not start, did not stop, or left a process behind.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        # By default events are kept for 7 days and looked at every hour, and orphaned logs every day.
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{round(keep_seconds)}S",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ORPHAN_CLEANUP_LOOP_SECONDS": "60",
    }
    command = [sys.executable, "-m", "deployments.cli", "up", "--store", str(store), "--json"]
    command += ["--runs", str(runs_at_a_time)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"`polychoir up` ended with {process.wait()}")
            addresses = json.loads(line)
            api = Api(f"{addresses['prefect']}/api", Path(addresses["login"]).read_text())
            yield api, psutil.Process(process.pid)
            process.send_signal(signal.SIGTERM)
            if (status := process.wait(STOP_SECONDS)) != 0:
                raise RuntimeError(f"`polychoir up` ended with {status}")
        finally:
            process.kill()  # its guardian ends the rest
    deadline = time.monotonic() + STOP_SECONDS
    while left := of_store(store):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes are left: {[' '.join(one.cmdline()) for one in left]}")
        time.sleep(0.5)


def of_store(store: Path) -> list[psutil.Process]:
    """The processes whose environment names this store."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("PREFECT_HOME") == str(store / "prefect"):
                found.append(process)
    return found


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

"""What benchmarks of production share: a small source, `polychoir up` on a store, and Prefect's REST API."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import psutil

ROOT = Path(__file__).parents[1]
STOP_SECONDS = 60
_POLL_SECONDS = 0.2
Found = TypeVar("Found")


class TooLate(TimeoutError):  # noqa: N818  (what happened, not what is wrong with the program)
    """Something that was waited for did not happen."""


def until(found: Callable[[], Found], seconds: float, what: str) -> Found:
    """What `found` gives once that is true.

    Raises:
        TooLate: it was not in so many seconds; says `what` was waited for.
    """
    deadline = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > deadline:
            raise TooLate(f"{what} took more than {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return result


def small_rows(first: int, num_rows: int) -> pd.DataFrame:
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


def write_source(folder: Path, name: str, rows: pd.DataFrame) -> Path:
    """A SOURCE.yaml of these rows as two tables; a reader never finds half a file."""
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
    """Prefect's REST API with password and CSRF token; a server that is away or busy is asked again."""

    def __init__(self, url: str, login: str) -> None:
        self.url = url
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        self._client, self._token = str(uuid.uuid4()), ""
        self.refused = 0
        """Requests that the server asked to be sent again, since its database was locked."""

    def __call__(self, method: str, path: str, body: Any = None, patience: float = 180) -> Any:
        """The answer, asked for again as long as nobody answers.

        Raises:
            HTTPError: the server turns the request down.
            TooLate: nobody answered within `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                if not self._token and not path.startswith("/csrf"):
                    self._token = self("GET", f"/csrf-token?client={self._client}", patience=patience)["token"]
                return self._ask(method, path, body)
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.FORBIDDEN and self._token:  # a token lasts for an hour
                    self._token = ""
                elif error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                    self.refused += 1
                elif error.code != HTTPStatus.INTERNAL_SERVER_ERROR:  # it is on its way down, or up
                    raise
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise TooLate(f"{method} {path}: the server took more than {patience:g} s to answer")
            time.sleep(_POLL_SECONDS)

    def all_runs(self, chosen: dict[str, Any]) -> list[dict[str, Any]]:
        """Every flow run that a filter chooses."""
        found: list[dict[str, Any]] = []
        while True:
            page = {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": 200, "offset": len(found)}
            found += (more := self("POST", "/flow_runs/filter", page))
            if len(more) < 200:
                return found

    def _ask(self, method: str, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": self._login}
        headers |= {"Prefect-Csrf-Client": self._client, "Prefect-Csrf-Token": self._token} if self._token else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")


def user_environment() -> dict[str, str]:
    """That of a user who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120", "DO_NOT_TRACK": "1"}


@contextmanager
def up(store: Path, *options: str, settings: Mapping[str, str] | None = None) -> Iterator[tuple[psutil.Process, Api]]:
    """`polychoir up` on a store within the block, and its API; what it says is kept beside the store.

    Args:
        store: its folder.
        options: of the command.
        settings: environment variables, beside those of a user who has set nothing.

    Raises:
        TooLate: it did not come up, did not stop, or left a process behind.
    """
    command = [sys.executable, "-m", "deployments.cli", "up", "--store", str(store), "--json", *options]
    environment = {**user_environment(), **(settings or {})}
    with (
        store.with_name(f"{store.name}.up.log").open("w") as said,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise TooLate(f"`polychoir up` did not come up: {Path(said.name).read_text()[-2000:]}")
            addresses = json.loads(line)
            yield psutil.Process(process.pid), Api(f"{addresses['prefect']}/api", Path(addresses["login"]).read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()  # its guardian ends the rest
    if process.returncode != 0:
        raise TooLate(f"`polychoir up` ended with {process.returncode}")
    until(lambda: not of_store(store), STOP_SECONDS, "the end of what `polychoir up` had started")


def of_store(store: Path) -> list[psutil.Process]:
    """The processes whose environment names this store."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("PREFECT_HOME") == str(store / "prefect"):
                found.append(process)
    return found

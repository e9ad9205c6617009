"""A store that is up, as a program from outside sees it: REST calls, processes, and what a run has left behind."""

import contextlib
import json
import signal
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import psutil
from running_store import Api, TooLate, until

from deployments.catalogue import LEARNERS_LIMIT

Found = TypeVar("Found")
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
CALM_SECONDS = 61
"""A child of `up` that has run for a minute is started again after one second; before that the pause doubles."""
_POLL_SECONDS = 0.2


class RunningStore:
    """One `polychoir up`, its API and its processes."""

    def __init__(self, path: Path, process: psutil.Process, api: Api) -> None:
        self.path, self.api, self._process = path, api, process
        self._deployments: dict[str, str] = {}

    def ask_for(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """The id of a new flow run of `flow/deployment`; asked for once, however often the server has to be asked."""
        if deployment not in self._deployments:
            self._deployments[deployment] = self.api("GET", f"/deployments/name/{deployment}")["id"]
        body = {"parameters": parameters, "idempotency_key": str(uuid.uuid4())}
        return self.api("POST", f"/deployments/{self._deployments[deployment]}/create_flow_run", body)["id"]

    def state(self, run: str) -> tuple[str, str]:
        """Type of a flow run's state, and what is said about it."""
        state = self.api("GET", f"/flow_runs/{run}")["state"]
        return state["type"], state["message"] or ""

    def artifacts(self, run: str, key: str) -> list[str]:
        """The texts that a flow run shows under a key."""
        asked = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
        return [found["data"] for found in self.api("POST", "/artifacts/filter", {"artifacts": asked})]

    def end_of(self, run: str, seconds: float) -> str:
        """Type of the state that a flow run ends in.

        Raises:
            TooLate: it has not ended.
        """
        until(lambda: self.state(run)[0] in FINAL, seconds, f"the end of flow run {run}")
        return self.state(run)[0]

    def is_over(self, run: str) -> bool:
        """Whether a flow run has ended, or has no process any more, whatever the server says of it yet."""
        kind = self.state(run)[0]
        return kind in FINAL or (kind == "RUNNING" and not self.processes_of(run))

    def summary(self, run: str) -> dict[str, Any]:
        """What the training of a completed flow run came to: its `RunSummary`."""
        asked = "select run_uuid from tags where key = 'prefect.flow_run_id' and value = ?"
        for (recorded,) in self._tracking(asked, run):
            report = self.path / "reports" / f"{recorded}.json"
            if report.exists():
                return json.loads(report.read_text())
        raise TooLate(f"flow run {run} is completed and has no report")

    def child(self, name: str) -> psutil.Process:
        """The server, the worker or MLflow's pages, started by `up` itself."""

        def found() -> psutil.Process | None:
            for process in self._process.children():
                with contextlib.suppress(psutil.Error):
                    if {name, "start"} <= set(process.cmdline()) or {"mlflow", name} <= set(process.cmdline()):
                        return process
            return None

        process = until(found, 120, f"a process of the {name}")
        assert process is not None
        return process

    def kill_child(self, name: str, how: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
        """End a child of `up`; gives what waits until another one of it works.

        One that was started less than a minute ago is left to it first, as something that dies every few seconds is
        started again ever later.
        """
        victim = self.child(name)
        victim.send_signal(how)

        def wait() -> None:
            until(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE, 60, f"the {name}'s end")
            until(lambda: self.child(name).pid != victim.pid, 60, f"another {name}")
            until(self.is_healthy, 180, "a server that answers")
            if name == "worker":
                born = self.child(name).create_time()
                until(lambda: self._worker_seen() > born, 180, "a worker that is heard of")

        return wait

    def calm_down(self, name: str) -> None:
        """Wait until a child of `up` has run for a minute."""
        born = self.child(name).create_time()
        until(lambda: time.time() - born > CALM_SECONDS, CALM_SECONDS + 5, f"a minute of the {name}")

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self.api("GET", "/health", patience=0))
        except (TooLate, urllib.error.HTTPError):
            return False

    def _worker_seen(self) -> float:
        """When a worker was last heard of, in seconds since 1970."""
        from datetime import datetime

        workers = self.api("POST", "/work_pools/polychoir/workers/filter", {})
        return max((datetime.fromisoformat(one["last_heartbeat_time"]).timestamp() for one in workers), default=0.0)

    def set_limit(self, slots: int) -> None:
        """Let so many groups of learners train at a time, over all runs."""
        body = {"name": LEARNERS_LIMIT, "limit": slots, "active": True}
        try:
            self.api("PATCH", f"/v2/concurrency_limits/{LEARNERS_LIMIT}", body)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            self.api("POST", "/v2/concurrency_limits/", body)

    def slots_taken(self) -> int:
        """Slots of `LEARNERS_LIMIT` that somebody holds."""
        return self.api("GET", f"/v2/concurrency_limits/{LEARNERS_LIMIT}")["active_slots"]

    def processes_of(self, run: str) -> list[psutil.Process]:
        """The processes of a flow run: its own, and those that descend from it."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def learners_of(self, run: str) -> list[psutil.Process]:
        """Those of them that train: forked from the one that has loaded the libraries."""
        found: list[psutil.Process] = []
        for process in self.processes_of(run):
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if parent is not None and "training_core.isolation" in parent.cmdline():
                    found.append(process)
        return found

    def published(self) -> dict[str, tuple[int, int]]:
        """Every published learner, with what would be another if it were trained again: inode and time of its seal."""
        found: dict[str, tuple[int, int]] = {}
        for folder in (self.path / "jobs").glob("[!.]*"):
            with contextlib.suppress(OSError):
                seal = (folder / "checksums.json").stat()
                found[folder.name] = (seal.st_ino, seal.st_mtime_ns)
        return found

    def left_behind(self, *runs: str) -> list[str]:
        """What nobody but a person would clear away, as sentences: processes, slots, folders, open records."""
        found = [
            f"process {process.pid} of flow run {run} is left" for run in runs for process in self.processes_of(run)
        ]
        if taken := self.slots_taken():
            found.append(f"{taken} slots are held by nobody")
        found += [f"{path} is left" for path in unfinished(self.path)]
        under_way = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
        found += [f"{one['name']} is {one['state_type']}" for one in self.api("POST", "/flow_runs/filter", under_way)]
        open_runs = self._tracking("select run_uuid from runs where status = 'RUNNING'")
        return found + [f"MLflow's run {run} is RUNNING" for (run,) in open_runs]

    def _tracking(self, query: str, *values: str) -> list[Any]:
        """Rows of the tracking database."""
        with closing(sqlite3.connect(f"file:{self.path / 'mlflow.db'}?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(query, values).fetchall()


def unfinished(folder: Path) -> list[Path]:
    """What was begun in a folder, at any depth, and neither published nor cleared away."""
    return list(folder.rglob(".unfinished-*"))

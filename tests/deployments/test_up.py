"""A store that works by itself: real server, worker, MLflow and automations, from start to stop."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.up import PREFECT_PORT

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 600


class Api:
    """Prefect's REST API with password and CSRF token, as a program of somebody else would use it."""

    def __init__(self, url: str, login: str) -> None:
        self.url = url
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        self._client = str(uuid.uuid4())
        self._token = self("GET", f"/csrf-token?client={self._client}", token=False)["token"]

    def __call__(self, method: str, path: str, body: Any = None, token: bool = True, login: bool = True) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": self._login} if login else {})
        if token:
            headers |= {"Prefect-Csrf-Client": self._client, "Prefect-Csrf-Token": self._token}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


def environment() -> dict[str, str]:
    """As behind a proxy for the rest of the world, which knows nothing of servers of this machine."""
    unwanted = ("PREFECT_", "MLFLOW_", "NO_PROXY", "no_proxy")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "http_proxy": "http://127.0.0.1:1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def polychoir(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.5)
    raise AssertionError("it did not happen in time")


def of_store(store: Path, argument: str = "") -> list[psutil.Process]:
    """The living processes whose environment names this store and, if one is given, with ``argument`` in their
    command."""
    found = []
    for process in psutil.process_iter():
        try:
            is_of = process.environ().get("PREFECT_HOME") == str(store / "prefect")
            if is_of and (not argument or argument in process.cmdline()):
                found.append(process)
        except (psutil.Error, OSError):  # it ended while it was looked at
            continue
    return found


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Within the block somebody listens at a port, as another program may."""
    with socket.socket() as listener:
        with suppress(OSError):  # somebody does already
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_store_that_is_up_works_by_itself(tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "deployments.cli", "up", "--store", str(store), "--json"]
    with (
        taken(PREFECT_PORT),
        subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            api = Api(f"{addresses['prefect']}/api", Path(addresses["login"]).read_text())
            works_by_itself(store, addresses, api)
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0
        finally:
            process.kill()
    until(lambda: not of_store(store))
    assert not (store / "prefect" / "server.json").exists()


def works_by_itself(store: Path, addresses: dict[str, Any], api: Api) -> None:
    with urllib.request.urlopen(f"{addresses['mlflow']}/health", timeout=30) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{addresses['prefect']}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["api_url"] == api.url, "or its pages would ask another server"

    again = polychoir("up", "--store", store)
    assert again.returncode == 2
    assert addresses["prefect"] in again.stderr

    applied = json.loads(polychoir("deploy", "--store", store, "--prune", "--json").stdout)
    assert applied["server"].rstrip("/") == api.url  # the one that is up, not an embedded one
    assert {change["action"] for change in applied["changes"]} == {"unchanged"}

    changed = ("deploy", "--store", store, "--json", "--set", "stale_hours=30")
    actions = [json.loads(polychoir(*changed).stdout)["changes"] for _ in range(2)]
    assert {one["name"] for one in actions[0] if one["action"] == "updated"} == {
        "polychoir: monitoring stands still",
        "polychoir: maintain stands still",
    }
    assert {one["action"] for one in actions[1]} == {"unchanged"}

    maintain = api("GET", "/deployments/name/maintain-store/maintain")["id"]
    due = {"deployments": {"id": {"any_": [maintain]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert until(lambda: api("POST", "/flow_runs/filter", due))  # its nights to come

    with pytest.raises(urllib.error.HTTPError, match="403"):
        api("POST", "/flow_runs/filter", {}, token=False)  # as a page from elsewhere would

    with pytest.raises(urllib.error.HTTPError, match="401"):
        api("POST", "/flow_runs/filter", {}, login=False)  # as another user of the machine would
    assert not polychoir("models", "--store", store).returncode  # the store's own commands know it

    if shutil.which("curl"):  # the document asks for it
        follow_the_document(addresses, api)

    event = {
        "event": "polychoir.drift.detected",
        "resource": {"prefect.resource.id": "polychoir.model.nobody"},
        "payload": {"model": "nobody", "retrain": {"model": "nobody", "window": "week 1", "reason": "drift"}},
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
    }
    api("POST", "/events", [event])
    retrain = api("GET", "/deployments/name/retrain-model/retrain")["id"]
    chosen = {"deployments": {"id": {"any_": [retrain]}}}
    (run,) = until(lambda: api("POST", "/flow_runs/filter", chosen))
    assert run["parameters"]["request"] == {"model": "nobody", "window": "week 1", "reason": "drift"}
    assert run["parameters"]["store"] == str(store)
    # There is no such model, so it fails; that is told.
    told = {"flows": {"name": {"any_": ["notify"]}}, "flow_runs": {"name": {"like_": "retrain-model"}}}
    assert until(lambda: api("POST", "/flow_runs/filter", told))

    known = of_store(store, "worker-of-up")  # also what it forks, until that is another program
    min(known, key=psutil.Process.create_time).kill()
    until(lambda: set(of_store(store, "worker-of-up")) - set(known))


def follow_the_document(addresses: dict[str, Any], api: Api) -> None:
    """Run the script of the document, which starts a run through the REST API, with another run in it."""
    document = (ROOT / "docs" / "OPERATING.md").read_text()
    script = re.findall(r"```bash\n(.*?)```", document, re.DOTALL)[0]
    script = re.sub(r"API=.*", f"API={api.url}", script, count=1)
    script = re.sub(r"LOGIN=\S+", f"LOGIN={addresses['login']}", script, count=1)
    script = script.replace("train-ensemble/train", "notify/notify")
    script = re.sub(r"PARAMETERS='.*'", """PARAMETERS='{"subject": "hello", "body": "from curl"}'""", script)
    followed = subprocess.run(
        ["bash", "-euc", script], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert followed.stdout.splitlines()[-1] == "COMPLETED", followed
    logged = {"sort": "TIMESTAMP_DESC", "limit": 50}  # on a busy machine they arrive later still
    assert "hello: from curl" in followed.stdout or until(
        lambda: "hello: from curl" in json.dumps(api("POST", "/logs/filter", logged))
    )

"""Everything a store needs to work by itself on one machine: a Prefect server, a worker, and MLflow's pages.

They listen on this machine only, keep all they know in the store, and stop with the command that started them. A
command that runs on the same store meanwhile uses this server in place of an embedded one.
"""

import base64
import errno
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deployments.catalogue import POOL, RUN_SETTINGS
from deployments.processes import MARK, Child, aside, end_in_turn, guarded
from flows.embedded_server import (
    RECORDER_SETTINGS,
    in_place_of_embedded_server,
    keep_login,
    login_of,
    open_directly,
    past_proxies,
)
from flows.server_database import lay_out_database
from training_core.artifacts import exclusive, machine_cache, private_folder, write_text_atomically
from training_core.config import Config
from training_core.errors import ConfigError, StorageError, TransientError
from training_core.quantities import PositiveInt
from training_core.tracking.database import tracking_uri

HOST = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000
"""Taken when they are free; what the documents of both speak of."""
START_SECONDS = 600
"""A cold start makes a database: 10-20 s on an idle machine, minutes on a very busy one."""
_SERVERS = ("http://", "https://", "databricks")
"""How a tracking URI begins that names a server, which has pages of its own."""
_WATCH_SECONDS = 0.5
_WORKER = "worker-of-up"


class UpConfig(Config):
    """What is brought up."""

    port: PositiveInt | None = None
    """Port of the Prefect server; by default 4200, or any free one when that is taken."""
    mlflow_port: PositiveInt | None = None
    """Port of MLflow's pages; by default 5000, or any free one when that is taken."""
    runs: PositiveInt = 4
    """Flow runs at a time. One that waits for an approval counts, and each trains as many learners at a time as there
    are GPUs, or CPU cores."""


class Addresses(Config):
    """Where everything is found."""

    prefect: str
    login: str
    """File with the `user:password` that Prefect asks for."""
    mlflow: str
    """MLflow's pages, or the server that is used in their place; without credentials."""
    pid: int


def up(
    store: Path,
    config: UpConfig,
    say: Callable[[str], None],
    ready: Callable[[Addresses], None],
    deployed: Mapping[str, Any] | None = None,
) -> None:
    """Bring everything up, keep it up, and stop it on SIGINT or SIGTERM; returns when all of it is gone.

    Args:
        store: the folder of everything.
        config: ports, and how many runs at a time.
        say: told what happens, a line at a time.
        ready: told where everything is, once all of it answers.
        deployed: values over those of the local environment.

    Raises:
        ConfigError: it is up already, a port is taken, a run of the store has a server of its own, or
            `PREFECT_API_URL` names another server.
        TransientError: something did not start; its log is named.
    """
    if named := os.environ.get("PREFECT_API_URL"):
        raise ConfigError(f"PREFECT_API_URL names the server {named}; unset it to bring up one of the store's own")
    private_folder(store)
    home = store / "prefect"
    with _alone(home), _asked_to_stop() as stop, ExitStack() as held:
        pages = tracking_server(store)
        addresses = Addresses(
            prefect=f"http://{HOST}:{_port(config.port, PREFECT_PORT, 'port', held)}",
            login=str(home.absolute() / "login"),
            mlflow=pages or f"http://{HOST}:{_port(config.mlflow_port, MLFLOW_PORT, 'mlflow-port', held)}",
            pid=os.getpid(),
        )
        mark = uuid.uuid4().hex
        environment = settings(store, addresses, keep_login(home)) | {MARK: mark}
        os.environ.update({name: value for name, value in environment.items() if name != MARK})
        with guarded(mark):
            children = _children(store, addresses, config, environment)
            try:
                _start(store, addresses, children, say, stop, deployed or {})
                if not stop.is_set():
                    write_text_atomically(home / "up.json", addresses.model_dump_json())
                    ready(addresses)
                _watch(children, say, stop)
            finally:
                (home / "server.json").unlink(missing_ok=True)
                (home / "up.json").unlink(missing_ok=True)
                end_in_turn(children)


def tracking_server(store: Path) -> str | None:
    """The address of the MLflow server that `MLFLOW_TRACKING_URI` names, as it may be shown; None: it names none."""
    from training_core.tracking.mlflow import MLflowTracker

    return MLflowTracker(store).location if tracking_uri(store).startswith(_SERVERS) else None


def settings(store: Path, addresses: Addresses, login: str) -> dict[str, str]:
    """The environment of everything that is brought up; what the user set himself stays unless it must not."""
    return {
        **os.environ,
        **past_proxies(),
        "MLFLOW_TRACKING_URI": tracking_uri(store),
        "PREFECT_HOME": str(store.absolute() / "prefect"),
        "PREFECT_API_URL": f"{addresses.prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{addresses.prefect}/api",  # its pages would ask port 4200, whatever its own is
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_API_AUTH_STRING": login,
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # A page from elsewhere in the browser of somebody who is at this machine must not start runs.
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(
            (addresses.prefect, addresses.prefect.replace(HOST, "localhost"))
        ),
        # In memory, leases of slots that are held when the server stops are never given back.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Logs and artefacts of runs that tidying up has removed go with them; `flow_runs` would overrule its rules.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",
        **RECORDER_SETTINGS,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        **RUN_SETTINGS,
    }


def _children(store: Path, addresses: Addresses, config: UpConfig, environment: Mapping[str, str]) -> list[Child]:
    """The server, MLflow's pages unless a server of its own has them, and the worker, in the order of their start."""
    folder = store.absolute() / "prefect"  # nothing in it shadows a package, as a checkout might
    python = [sys.executable, "-P", "-m"]
    without_server = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
    server = [*python, "flows.server_database", "server", "start"]
    server += ["--host", HOST, "--port", _port_of(addresses.prefect)]
    mlflow = [*python, "mlflow", "server", "--host", HOST, "--port", _port_of(addresses.mlflow), "--workers", "1"]
    mlflow += ["--no-serve-artifacts", "--default-artifact-root", (store.absolute() / "mlartifacts").as_uri()]
    # On the command line every user of the machine could read the password of a database.
    of_mlflow = {**environment, "MLFLOW_BACKEND_STORE_URI": environment["MLFLOW_TRACKING_URI"]}
    worker = [*python, "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", _WORKER]
    worker += ["--limit", str(config.runs), "--install-policy", "never", "--no-create-pool-if-not-found"]
    pages = [] if tracking_server(store) else [Child("mlflow", mlflow, of_mlflow, folder)]
    return [
        Child("server", server, without_server, folder),
        *pages,
        Child("worker", worker, environment, folder),
    ]


def _start(
    store: Path,
    addresses: Addresses,
    children: list[Child],
    say: Callable[[str], None],
    stop: threading.Event,
    deployed: Mapping[str, Any],
) -> None:
    """Start one after another, each once what it needs answers."""
    server, *pages, worker = children
    api = f"{addresses.prefect}/api"
    with aside() as call:
        with in_place_of_embedded_server(store / "prefect") as announce:
            say(f"starting the Prefect server; its log is {server.log}")
            lay_out_database(store / "prefect")
            server.start()
            call(_make_tracking_database, store)  # of a new store, while the server starts
            login = login_of(store / "prefect")  # no other server knows it, should one have taken the port meanwhile
            _wait(server, lambda: _answers(f"{api}/admin/version", login), stop)
            if not stop.is_set():
                announce(api)
        if stop.is_set():
            return
        for mlflow in pages:
            mlflow.start()
        say("deploying")
        call(_deploy, store, deployed)
        worker.start()
        for mlflow in pages:
            _wait(mlflow, lambda: _answers(f"{addresses.mlflow}/health"), stop)
        _wait(worker, lambda: call(_worker_is_online), stop)


def _make_tracking_database(store: Path) -> None:
    from training_core.tracking.mlflow import MLflowTracker

    MLflowTracker(store).connect()


def _deploy(store: Path, deployed: Mapping[str, Any]) -> None:
    """What `polychoir deploy` does for this machine; runs that an earlier `up` left behind are closed first."""
    from deployments.apply import apply
    from deployments.environments import Environment

    close_left_behind()
    apply(Environment.named("local", deployed), store)


def close_left_behind() -> int:
    """Mark runs of the pool that are under way as crashed; how many. To be called while no worker runs.

    A run that waits for an approval is one of them: the process that waited is gone, and would not hear the answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    under_way = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
    state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    closed = 0
    with get_client(sync_client=True) as client:
        while found := client.read_flow_runs(flow_run_filter=state, work_pool_filter=pool, limit=200):
            for run in found:
                client.set_flow_run_state(run.id, Crashed(message="`polychoir up` was stopped meanwhile"), force=True)
            closed += len(found)
    return closed


def _worker_is_online() -> bool:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkerStatus

    with get_client(sync_client=True) as client:
        found = client.read_workers_for_work_pool(POOL)
    return any(worker.name == _WORKER and worker.status == WorkerStatus.ONLINE for worker in found)


def _wait(child: Child, answers: Callable[[], bool], stop: threading.Event) -> None:
    """Until it answers, or somebody wants to stop.

    Raises:
        TransientError: it ended, or did not answer in `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while not stop.is_set() and not answers():
        if child.exit_status is not None or time.monotonic() > deadline:
            raise TransientError(f"{child.name} did not start; see {child.log}")
        stop.wait(0.2)


def _watch(children: list[Child], say: Callable[[str], None], stop: threading.Event) -> None:
    """Keep everything running until somebody wants to stop."""
    while not stop.wait(_WATCH_SECONDS):
        for child in children:
            if said := child.keep_up():
                say(said)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Within the block nobody else brings up the same store."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(home / "up.lock", wait=False))
        except TransientError:
            try:
                known = Addresses.model_validate_json((home / "up.json").read_text())
                where = f"Prefect at {known.prefect}, MLflow at {known.mlflow}, process {known.pid}"
            except (OSError, ValueError):
                where = "still starting"
            raise ConfigError(f"{home.parent} is up already ({where}); use that one, or stop it first") from None
        yield


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set when the process is asked to end, by Ctrl-C or SIGTERM or with its terminal."""
    asked = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in signals}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(wanted: int | None, usual: int, option: str, held: ExitStack) -> int:
    """The port that was asked for, else the usual one, else a free one; no other `up` is given it while it is `held`.

    Raises:
        ConfigError: the port that was asked for is taken.
    """
    for port in (wanted or usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                found = probe.getsockname()[1]
                _hold(found, held)
                return found
            except OSError as error:
                if wanted:
                    raise ConfigError(
                        f"--{option} {wanted}: {os.strerror(error.errno or 0).lower()}; choose another one"
                    ) from None
    raise TransientError(f"no port is free on {HOST}")


def _hold(port: int, held: ExitStack) -> None:
    """Keep a port from every other `up` of this user: what is to listen there begins to seconds after it was chosen.

    Raises:
        OSError: another one holds it.
    """
    try:
        held.enter_context(exclusive(machine_cache() / "ports" / f"{port}.lock", wait=False))
    except TransientError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    except StorageError:
        pass  # without a cache folder the second of two that start together says that its server did not start


def _port_of(address: str) -> str:
    return address.rpartition(":")[2]


def _answers(url: str, login: str = "") -> bool:
    """Whether something is there that lets one in, with this `user:password` where one is given."""
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    try:
        with open_directly(urllib.request.Request(url, headers=headers), 5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False

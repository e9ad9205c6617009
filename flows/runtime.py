"""Where a flow runs: which Prefect and MLflow it talks to, and what is tidied up around it.

Nothing needs to be running. With `PREFECT_API_URL` in the environment the flow runs against that server; otherwise
against an embedded one that keeps its database in the store. `MLFLOW_TRACKING_URI` does the same for MLflow. This
module must be entered before Prefect is imported, because Prefect reads its settings then.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psutil

from flows.console import terminated_shown
from flows.embedded_server import embedded_server, login_of, past_proxies
from training_core.artifacts import private_folder
from training_core.tracking.processes import is_abandoned, process_tags

if TYPE_CHECKING:
    from training_core.jobs import Event
    from training_core.tracking import TrackerKind

DRAIN_SECONDS = 30
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_COLORS": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


@contextmanager
def prefect_at(store: Path, verbose: bool = False, meanwhile: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within the block flows run, with or without a server of the user's own; the screen belongs to the caller.

    Args:
        store: where an embedded server keeps its database.
        verbose: leave library logs on the screen.
        meanwhile: something slow to do while the server starts; done, or failed in silence, before the block begins.

    Raises:
        TransientError: the embedded server did not start.
        StorageError: the store cannot be written.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        with _quiet_screen(verbose):
            yield
        return
    home = store / "prefect"
    os.environ["PREFECT_HOME"] = str(home)
    with ThreadPoolExecutor(1) as helper, embedded_server(home, lambda: helper.submit(meanwhile)) as url:
        helper.shutdown(wait=True)
        own = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": login_of(home), **past_proxies()}
        before = {name: os.environ[name] for name in own if name in os.environ}
        os.environ.update(own)
        try:
            with _quiet_screen(verbose):
                mark_crashed_runs()
                yield
        finally:
            for name in own:
                del os.environ[name]
            os.environ.update(before)


def run_flow(
    start: Callable[[], Any],
    view: "Callable[[Event], None]",
    store: Path,
    trackers: "Sequence[TrackerKind]",
    verbose: bool,
) -> Any:
    """Bring Prefect up, run a flow there with its progress shown, and wait until the server knows how it ended.

    SIGTERM ends the flow meanwhile as an interruption does.

    Args:
        start: runs the flow and gives its final state; only within it may Prefect and the flow be imported.
        view: told what happens.
        store: where an embedded server keeps its database.
        trackers: which one to connect to while the server starts.
        verbose: leave library logs on the screen.

    Returns:
        What the flow returned.

    Raises:
        TransientError: the embedded server did not start.
        StorageError: the store cannot be written.
    """
    from training_core.campaigns.recording import tracker_at

    def get_ready() -> None:
        import sklearn.model_selection  # noqa: F401  (seconds to import, and every flow needs it)

        tracker_at(trackers, str(store)).connect()

    private_folder(store)
    view({"event": "stage", "text": "starting Prefect"})
    with terminated_shown(), prefect_at(store, verbose, meanwhile=get_ready):
        from prefect import tags

        from tasks.progress import listening

        with listening(view), tags(*owner_tags()):
            state = start()
        if state.state_details.flow_run_id:
            drain(state.state_details.flow_run_id)
        return state.result()


def began() -> float:
    """When this process began, in seconds since the epoch: what a budget of time counts from."""
    return psutil.Process().create_time()


def owner_tags() -> list[str]:
    """Tags by which a later run finds out whether the process of this one still lives."""
    return [f"{key}={value}" for key, value in process_tags().items()]


def mark_crashed_runs() -> None:
    """Flow runs still marked as running whose process on this machine is gone become Crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=running):
            if is_abandoned(dict(tag.split("=", 1) for tag in run.tags if "=" in tag)):
                client.set_flow_run_state(run.id, Crashed(message="the process was killed"), force=True)


def drain(flow_run_id: UUID) -> None:
    """Wait until the server has recorded a final state for every task run of a flow run.

    Task states travel as events that are written behind the run's back; a process that exits at once loses them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    page = 200
    deadline = time.monotonic() + DRAIN_SECONDS
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    seen = -1
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs: list[Any] = []
            while len(batch := client.read_task_runs(flow_run_filter=this_run, limit=page, offset=len(runs))) == page:
                runs += batch
            runs += batch
            final = sum(run.state is not None and run.state.is_final() for run in runs)
            if final == len(runs) == seen:
                return
            seen = len(runs)
            time.sleep(0.3)


@contextmanager
def _quiet_screen(verbose: bool) -> Iterator[None]:
    """Keep library logs and warnings off the screen; they still reach the Prefect API."""
    if verbose:
        yield
        return
    import prefect.main  # noqa: F401  (sets up the loggers that are muted below)

    muted = [
        (logging.getLogger(name), handler)
        for name in ["", *logging.root.manager.loggerDict]
        if name.startswith("prefect") or name == ""
        for handler in list(logging.getLogger(name).handlers)
        if type(handler).__name__ == "PrefectConsoleHandler"
    ]
    for logger, handler in muted:
        logger.removeHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, handler in muted:
            logger.addHandler(handler)

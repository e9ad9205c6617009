"""Where groups of learners train: child processes of this machine, or the workers of a Dask or a Ray cluster.

It is the same task whoever runs it, and each group trains in a child process there, too. A worker that dies takes its
group with it; the cluster gives the group to another one, which finds in the store what had been published. Before the
first group every worker is asked whether it shares the store, see `campaigns.workers.check_workers`.

Tasks and their results travel by the cluster's own means, which is cloudpickle: whoever may talk to a Dask scheduler or
a Ray head may run code on its workers.
"""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ThreadPoolTaskRunner

from training_core.campaigns.bagging import num_workers
from training_core.campaigns.run_config import Executor, RunConfig
from training_core.campaigns.workers import Sight, check_workers, look
from training_core.errors import ConfigError
from training_core.isolation import device_kind, ended_together

Submit = Callable[[Task[..., Any], Mapping[str, Any]], PrefectFuture[Any]]
"""Begins a task with these arguments, and returns at once."""


@dataclass(frozen=True)
class Workers:
    """Those that train groups."""

    submit: Submit
    device: str
    """Kind that all of them have: `cuda` or `cpu`."""


_log = logging.getLogger(__name__)
_REACH_SECONDS = 10.0
_RESTART_TIME = "10 minutes"
"""A worker that died is waited for; after its usual 15 seconds a temporary cluster goes on without, down to nobody."""
_ASK_SECONDS = 120.0


def is_remote(run: RunConfig) -> bool:
    """Whether groups train in processes that this one is not told of while they do."""
    return run.executor != "processes"


@contextmanager
def executor_of(run: RunConfig, store: Path) -> Iterator[Workers]:
    """Within the block tasks can be begun where `run.executor` says.

    When the block raises, what still trains on this machine is ended, and no other group is begun on a cluster; a group
    that is under way there goes on to its end, and its learners are kept for the next run.

    Raises:
        ConfigError: the executor is not installed, the cluster does not answer, or its workers cannot train for this
            run, see `check_workers`.
    """
    if run.cluster and run.executor == "processes":
        raise ConfigError(f"`cluster` is '{run.cluster}', and `executor` is processes; set `executor` to dask or ray")
    with _begin[run.executor](run, store) as workers:
        yield workers


@contextmanager
def _in_processes(run: RunConfig, store: Path) -> Iterator[Workers]:
    runner: Any = ThreadPoolTaskRunner(max_workers=num_workers(run))
    with runner, _stopped_on_error(lambda: None):
        yield Workers(lambda task, arguments: runner.submit(task, dict(arguments)), device_kind())


@contextmanager
def _on_dask(run: RunConfig, store: Path) -> Iterator[Workers]:
    """Groups on the workers of a Dask cluster, of which those with a resource GPU take one group each."""
    _require("prefect_dask", "dask")
    import dask.config
    from dask.base import annotate
    from prefect_dask.task_runners import DaskTaskRunner

    local: dict[str, Any] = {"n_workers": num_workers(run), "threads_per_worker": 1, "memory_limit": None}
    local["dashboard_address"] = "127.0.0.1:0"  # its usual port may be another run's
    runner: Any = DaskTaskRunner(address=run.cluster or None, cluster_kwargs=None if run.cluster else local)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": _RESTART_TIME}), started(runner):
        client = _connected(lambda: runner.client, run)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        gpus = [name for name, about in workers.items() if about.get("resources", {}).get("GPU")]

        def ask(mark: str, token: str) -> dict[str, Sight | BaseException]:
            return client.run(see, mark, token, PREFECT_API_URL.value(), workers=gpus or None, on_error="return")

        device = check_workers(ask, store)
        begun: list[Any] = []

        def submit(task: Task[..., Any], arguments: Mapping[str, Any]) -> PrefectFuture[Any]:
            with annotate(resources={"GPU": 1}) if gpus else nullcontext():
                future = runner.submit(task, dict(arguments))
            begun.append(future.wrapped_future)
            return future

        with _stopped_on_error(lambda: client.cancel(begun)):
            yield Workers(submit, device)


@contextmanager
def _on_ray(run: RunConfig, store: Path) -> Iterator[Workers]:
    """Groups on the nodes of a Ray cluster, a GPU for each where there are some."""
    _require("prefect_ray", "ray")
    import ray
    from prefect_ray.context import remote_options
    from prefect_ray.task_runners import RayTaskRunner
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    local = {"num_cpus": num_workers(run), "include_dashboard": False, "log_to_driver": False}
    runner: Any = RayTaskRunner(run.cluster or None, None if run.cluster else local)
    with ExitStack() as open_runner:
        _connected(lambda: open_runner.enter_context(started(runner)), run)
        on_gpus = bool(ray.cluster_resources().get("GPU"))
        nodes = [node for node in ray.nodes() if node["Alive"] and (node["Resources"].get("GPU") or not on_gpus)]

        def ask(mark: str, token: str) -> dict[str, Sight | BaseException]:
            asked = {
                node["NodeID"]: ray.remote(see)
                .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
                .remote(mark, token, PREFECT_API_URL.value())
                for node in nodes
            }
            return {name: _answer(ray, ref) for name, ref in asked.items()}

        device = check_workers(ask, store)
        begun: list[Any] = []

        def submit(task: Task[..., Any], arguments: Mapping[str, Any]) -> PrefectFuture[Any]:
            with remote_options(num_gpus=1) if on_gpus else nullcontext():
                future = runner.submit(task, dict(arguments))
            begun.append(future.wrapped_future)
            return future

        with _stopped_on_error(lambda: [ray.cancel(ref, force=True) for ref in begun]):
            yield Workers(submit, device)


_begin: Mapping[Executor, Callable[[RunConfig, Path], AbstractContextManager[Workers]]] = {
    "processes": _in_processes,
    "dask": _on_dask,
    "ray": _on_ray,
}


def see(mark: str, token: str, api: str | None) -> Sight:
    """To be called on a worker: what it sees of the store, see `campaigns.workers.look`, and of the Prefect server."""
    sight = look(mark, token)
    if sight.problem or api is None:
        return sight
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=_REACH_SECONDS) as answer:
            json.load(answer)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"it does not reach the Prefect server at {api} ({error}); set PREFECT_API_URL to one that all machines "
            "reach before the run begins"
        ) from None
    return sight


@contextmanager
def started(runner: AbstractContextManager[object]) -> Iterator[None]:
    """Within the block a task runner is up. That it does not end in order is logged, and costs nothing."""
    stack = ExitStack()
    stack.enter_context(runner)
    try:
        yield
    finally:
        try:
            stack.close()
        except Exception as error:  # processes of a busy machine that take longer to end than their manager waits
            _log.warning("the cluster did not end in order (%s: %s)", type(error).__name__, error)


@contextmanager
def _stopped_on_error(cancel: Callable[[], object]) -> Iterator[None]:
    """End the children of this process, and call `cancel`, when the block raises: the runner would wait for them."""
    with ended_together():
        try:
            yield
        except BaseException:
            cancel()
            raise


def _connected(connect: Callable[[], Any], run: RunConfig) -> Any:
    """What `connect` gives.

    Raises:
        ConfigError: it fails.
    """
    try:
        return connect()
    except Exception as error:  # whatever the library, its transport or its start-up raises
        where = f"at {run.cluster}" if run.cluster else "of this machine"
        raise ConfigError(
            f"the {run.executor} cluster {where} does not answer ({type(error).__name__}: {error}); see that it runs "
            "and that `cluster` is its address"
        ) from error


def _answer(ray: Any, ref: Any) -> Sight | BaseException:
    """What a node said, or what went wrong."""
    try:
        return ray.get(ref, timeout=_ASK_SECONDS)
    except Exception as error:
        return error


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"the executor '{extra}' is not installed: pip install 'polychoir[{extra}]'")
